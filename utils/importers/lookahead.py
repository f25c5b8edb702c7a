"""Lookahead Routing (arXiv 2510.19506): what six LLMs answered on GSM8K, MATH, HumanEval and MBPP, with verdicts.

From github.com/huangcb01/lookahead-routing, MIT. `python -m utils.download --datasets lookahead` brings it to
datasets/lookahead/test, which is the folder to name. GSM8k/ and MATH/ have LLM.json.gz; HumanEval/ and MBPP/ have
predictions/LLM.json.gz and results/LLM.json.gz. Records are joined by id and by the text of the prompt.

A question is the user's text without the instruction that is the same for the whole task: it asks for a form of answer
and says nothing about the question. A score is 0 or 1, the verdict on the one answer. It is read as `multi_attempt`, a
share of right answers, here of one, as in the paper's GSM8K, HumanEval and MBPP; `probability` gives the same figures.

The files name no subject and no level of the MATH questions.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..formats import DataError
from ..meters import bar
from ..scoring.rules import value_of
from .common import Pairs, check_writable

SUFFIX = ".json.gz"
STEP_BY_STEP = "\nPlease reason step by step, and put your final answer within \\boxed{}.\n"
COMPLETE = (
    "Read the following function signature and docstring, and fully implement the function described. "
    "Your response should only contain the code for this function.\n"
)
SUBMIT = "\n You should submit your final solution in the following format: ```python\n\n```\n"


@dataclass(frozen=True)
class Layout:
    """Where the files have one task.

    before, after: the instruction around every question. accuracy: the field of the file's own figure, in %.
    linked: for programs, the fields of a prediction and of its verdict that must be equal; else None, as both are one.
    """

    task: str
    folder: str
    before: str
    after: str
    accuracy: str
    linked: tuple[str, str] | None = None


LAYOUTS = (
    Layout("gsm8k", "GSM8k", "", STEP_BY_STEP, "accuracy"),
    Layout("math", "MATH", "", STEP_BY_STEP, "accuracy"),
    Layout("humaneval", "HumanEval", COMPLETE, "\n", "humaneval_pass@1", ("gold", "task_id")),
    Layout("mbpp", "MBPP", "", SUBMIT, "score", ("prediction", "origin")),
)


@dataclass(frozen=True)
class Record:
    """What one LLM did with one question. answer, gold: the final answer and the reference; None for a program."""

    key: str
    question: str
    right: bool
    answer: str | None
    gold: str | None
    where: str


def content(path: Path) -> dict:
    """The JSON object in a .json.gz file. Raises: DataError that names the file."""
    try:
        with gzip.open(path, "rb") as file:
            found = json.loads(file.read())
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file, and that LLM has others. Every LLM must have all tasks; "
            "`python -m utils.download --datasets lookahead` completes the folder"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}: {error}). Is it truncated? "
            "`python -m utils.download --datasets lookahead` brings it again"
        ) from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """record[name], an int for a float. Raises: DataError, naming `where`, if it is not there or not of that type."""
    value = record.get(name) if isinstance(record, dict) else None
    if type(value) is not kind and (type(value), kind) != (int, float):
        raise DataError(f"{where}: {name!r} must be of type {kind.__name__}, found {value!r:.60}")
    if kind is str:
        check_writable(value, f"{name!r}", where)
    return value


def question_of(messages: Any, layout: Layout, where: str) -> str:
    """The question in a prompt: its one message, without the task's instruction.

    Raises: DataError for another prompt.
    """
    if not isinstance(messages, list) or len(messages) != 1:
        raise DataError(f"{where}: the prompt must be a list with one message, found {messages!r:.60}")
    text = field(messages[0], "prompt", str, where)
    if not (text.startswith(layout.before) and text.endswith(layout.after)):
        raise DataError(
            f"{where}: the prompt must begin with {layout.before!r} and end with {layout.after!r}; "
            f"found {text[:40]!r} ... {text[-40:]!r}"
        )
    return text.removeprefix(layout.before).removesuffix(layout.after)


def records(source: Path, layout: Layout, llm: str) -> Iterator[Record]:
    """The records of one LLM on one task, in the order of the file.

    Raises: DataError for a missing or damaged file, a missing verdict, predictions and verdicts that do not belong
    together, or verdicts that do not add up to the file's own accuracy.
    """
    folder = source / layout.folder
    path = folder / ("results" if layout.linked else "") / f"{llm}{SUFFIX}"
    verdicts = content(path)
    details = field(verdicts, "details", dict, str(path))
    predictions, prompt, verdict = details, "prompt", "correct"
    if layout.linked:
        predictions, prompt, verdict = content(folder / "predictions" / path.name), "origin_prompt", "is_correct"
    if not details or predictions.keys() != details.keys():
        raise DataError(f"{path}: {len(details)} verdicts on {len(predictions)} predictions; every id must have both")
    right = 0
    for key, detail in details.items():
        where = f"{path}, record {key}"
        record = predictions[key]
        right += field(detail, verdict, bool, where)
        answer = gold = None
        if layout.linked is None:
            answer, gold = (field(record, name, str, where) for name in ("predictions", "references"))
        elif field(record, layout.linked[0], str, where) != field(detail, layout.linked[1], str, where):
            raise DataError(
                f"{where}: {layout.linked[1]!r} is not the prediction's {layout.linked[0]!r}; "
                "the two files do not belong together"
            )
        yield Record(key, question_of(record.get(prompt), layout, where), detail[verdict], answer, gold, where)
    stated, found = field(verdicts, layout.accuracy, float, str(path)), 100 * right / len(details)
    if not found - 1e-6 <= stated <= found + 1e-6:
        raise DataError(f"{path}: {right} of {len(details)} verdicts are right, and {layout.accuracy!r} is {stated}")


def llms_of(source: Path, layouts: Sequence[Layout]) -> list[str]:
    """The LLMs of all tasks, in alphabetical order: `records` misses the file of one that a task lacks."""
    names = set()
    for layout in layouts:
        names |= {path.name.removesuffix(SUFFIX) for path in (source / layout.folder).rglob(f"*{SUFFIX}")}
    return sorted(names)


def final_answer(text: str) -> str | None:
    """What an answer counts as in a vote; None if there is none.

    A number is its value: "$1,000.00" is "1000". Else the normal form of the MATH data set's authors counts, from
    lm-evaluation-harness: \\dfrac12, 1/2 and \\frac{1}{2} are one, spaces and \\left do not matter. It leaves apart
    what is equal by arithmetic (0.25, 1/4), words with \\text or without, units after a number, lists in another order.
    """
    from lm_eval.tasks.hendrycks_math.utils import strip_string  # seconds to import

    text = text.strip()
    try:
        text = strip_string(text)
    except (AssertionError, IndexError, ValueError):  # odd LaTeX counts as it stands, as for those authors
        pass
    value = value_of(text)
    return (text or None) if value is None else f"{value.normalize():f}"


def clash(answers: dict[str, str | None], said: dict[str, Record]) -> str | None:
    """An answer that is right for one LLM and wrong for another; None if there is none."""
    verdicts: dict[str, bool] = {}
    for llm, answer in answers.items():
        if answer is not None and verdicts.setdefault(answer, said[llm].right) != said[llm].right:
            return answer
    return None


def ballot(said: dict[str, Record]) -> dict[str, Any]:
    """The answers of all LLMs to one question as `utils.baselines.voting` reads them. said: {llm: record}.

    Where answers that `final_answer` holds equal have different verdicts, all of the question's count as they stand.
    Raises: DataError if equal texts have different verdicts.
    """
    first = next(iter(said.values()))
    answers = {llm: final_answer(record.answer) for llm, record in said.items()}
    if clash(answers, said):
        answers = {llm: record.answer.strip() or None for llm, record in said.items()}
    if answer := clash(answers, said):
        raise DataError(f"{first.where}: the answer {answer!r} is right for one LLM and wrong for another")
    return {
        "gold": first.gold,
        "answers": {llm: [answer] for llm, answer in answers.items()},
        "right": {llm: [record.right] for llm, record in said.items()},
    }


def read(source: Path) -> tuple[Pairs, dict[str, dict[str, dict[str, Any]]]]:
    """All pairs of the folder `source`, and {task: {question: ballot}} of the tasks that have final answers.

    Raises: DataError that names file and record, also for one question with two ids or two references.
    """
    layouts = [layout for layout in LAYOUTS if (source / layout.folder).is_dir()]
    if not layouts:
        names = ", ".join(layout.folder for layout in LAYOUTS)
        raise DataError(f"{source}: none of {names} is there; name the folder that has them, test/")
    llms = llms_of(source, layouts)
    if not llms:
        raise DataError(f"{source}: no file there ends in {SUFFIX}")
    pairs, ballots = Pairs(), {}
    with bar(len(layouts) * len(llms), "files", "file") as progress:
        for layout in layouts:
            said: dict[str, dict[str, Record]] = {}
            for llm in llms:
                for record in records(source, layout, llm):
                    score = float(record.right)
                    pairs.add(layout.task, "", record.key, record.question, llm, score, where=record.where)
                    others = said.setdefault(record.question, {llm: record})
                    first = next(iter(others.values()))
                    if (record.key, record.gold) != (first.key, first.gold):
                        raise DataError(
                            f"{record.where}: its question is that of {first.where}, which has another id or reference"
                        )
                    others[llm] = record
                progress.update()
            if layout.linked is None:
                ballots[layout.task] = {question: ballot(others) for question, others in said.items()}
    return pairs, ballots
