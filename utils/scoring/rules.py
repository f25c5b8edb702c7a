"""From what an LLM answered to its score in [0, 1], one rule per family of tasks.

    choice       multiple choice: softmax over the options' log-likelihoods; the right option's probability if it is
                 the arg-max, else 0
    number       the number after "####" (GSM8K): share of the M answers that give the reference
    metric       what the harness found for its one answer, 0 to 1 (MATH: exact_match or math_verify)
    python       HumanEval and MBPP: share of the M programs that pass the tests of the document
    javascript   HumanEval-JavaScript, likewise
    verdicts     what utils/scoring/bigcode.py found for the programs of bigcode-evaluation-harness

Shares are means over all M answers in the log, never the harness's own metric, which with `take_first` counts the first
alone.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from ..meters import bar
from .harness import LogError, Sample, parsed
from .sandbox import Program, Verdict, judge, warn

KIND_OF_RULE = {"choice": "probability", "metric": "probability"} | dict.fromkeys(
    ("number", "python", "javascript", "verdicts"), "multi_attempt"
)
CODE = ("python", "javascript")


@dataclass(frozen=True)
class Outcome:
    """The score of one LLM on one document, and what it rests on.

    answers: each of the M answers in short (number of the option, number, hash of a program). right: whether it is so.
    """

    score: float
    answers: list[Any]
    right: list[bool]
    gold: Any = None


def share(answers: list[Any], right: list[bool], gold: Any = None) -> Outcome:
    """The outcome whose score is the share of right answers."""
    return Outcome(sum(right) / len(right), answers, right, gold)


def choice(sample: Sample) -> Outcome:
    """Probability of the right option among the options, 0 unless it is the arg-max (the first of equals).

    Paper, section 3.1.
    Raises: LogError if the log-likelihoods or the right option are not what they should be.
    """
    pairs = [answers[0] for answers in sample.responses]  # of each option [log-likelihood, is greedy]
    try:
        values = np.array([float(value) for value, _ in pairs])
        if {*map(type, pairs)} != {list} or bool in [type(value) for value, _ in pairs]:
            raise TypeError("no log-likelihoods")
    except (TypeError, ValueError, OverflowError):
        raise LogError(
            f"{sample.where}: not the log-likelihoods of a multiple choice: {str(sample.responses)[:80]}; "
            "is the rule of this task right?"
        ) from None
    highest = values.max()
    if np.isnan(values).any() or not np.isfinite(highest):
        raise LogError(
            f"{sample.where}: log-likelihoods {values.tolist()}: the LLM's arithmetic overflowed "
            "(try another dtype); score it again"
        )
    options = [str(request[-1]).strip() for request in sample.arguments]
    if len(options) != len(values):
        raise LogError(f"{sample.where}: log-likelihoods of {len(values)} options, and {len(options)} were asked for")
    gold = str(sample.target).strip()
    if re.fullmatch(r"\d{1,9}", gold):
        right = int(gold)
    else:
        right = options.index(gold) if gold in options else -1
    if not isinstance(sample.target, (str, int)) or not 0 <= right < len(values):
        raise LogError(
            f"{sample.where}: the right option is {sample.target!r}, "
            f"which is none of the {len(values)} options {options}"
        )
    probabilities = np.exp(values - highest)
    probabilities /= probabilities.sum()
    best = int(values.argmax())
    score = float(probabilities[right]) if best == right else 0
    return Outcome(score, [best], [best == right], right)


def texts(sample: Sample) -> list[str]:
    """The M generated answers. Raises: LogError for a line that has something else."""
    if len(sample.responses) != 1 or not all(isinstance(answer, str) for answer in sample.responses[0]):
        raise LogError(
            f"{sample.where}: not generated answers: {str(sample.responses)[:80]}; is the rule of this task right?"
        )
    return sample.responses[0]


RAW_NUMBER = re.compile(r"#### (-?[0-9.,]+)")
ANY_NUMBER = re.compile(r"####\s*([-$\s]*[0-9.,]+)")


def value_of(text: str) -> Decimal | None:
    """The number that a text such as "$1,000.", "72.00" or "-5" writes, None if it writes none."""
    text = re.sub(r"[$,\s]", "", text).rstrip(".")
    return Decimal(text) if re.fullmatch(r"-?(\d+\.?\d*|\.\d+)", text) else None


def number(sample: Sample, numeric: bool = False) -> Outcome:
    """Share of answers whose first "#### x" gives the reference: what follows "####" in the target, or all of it.

    Compares the text as it stands, as the paper's scores do: 1000 is then not 1,000, nor 72. or $72 the same as 72.
    `numeric` compares values. Raises: LogError for `numeric` where the reference is no number.
    """
    if not isinstance(sample.target, (str, int, float)):
        raise LogError(f"{sample.where}: the reference answer must be text or a number, found {sample.target!r:.60}")
    gold = str(sample.target).rsplit("####", 1)[-1].strip()
    if numeric and value_of(gold) is None:
        raise LogError(f"{sample.where}: the reference answer {gold!r} is no number, as --numeric_answers needs")
    pattern = ANY_NUMBER if numeric else RAW_NUMBER
    matches = [pattern.search(text) for text in texts(sample)]
    answers = [match[1].strip() if match else None for match in matches]
    if not numeric:
        return share(answers, [answer == gold for answer in answers], gold)
    values = [None if answer is None else value_of(answer) for answer in answers]
    shown = [None if value is None else f"{value.normalize():f}" for value in values]
    return share(shown, [value == value_of(gold) for value in values], gold)


def metric(sample: Sample, name: str) -> Outcome:
    """The harness's own metric of the document, which judges one answer.

    Raises: LogError if there are more answers, or if the metric is not there.
    """
    if len(texts(sample)) > 1:
        raise LogError(
            f"{sample.where}: {len(texts(sample))} answers, and the harness's {name} judged the first alone; "
            "score it with `repeats: 1`"
        )
    value = sample.line.get(name)
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        known = ", ".join(map(str, sample.line.get("metrics", []))) or "unknown"
        raise LogError(
            f"{sample.where}: the metric {name} is {value!r:.60}, not a number in [0, 1]; its metrics: {known}"
        )
    filtered = sample.line.get("filtered_resps") or [None]
    score = int(value) if float(value).is_integer() else float(value)
    return Outcome(score, [_end_of(filtered[0])], [value > 0], _end_of(sample.target))


def _end_of(value: Any) -> str:
    """The last characters of a value, as text that can be written."""
    return str(value)[-200:].encode("utf-8", "replace").decode("utf-8")


# Where a completion ends: at the first line that begins something else, as in bigcode-evaluation-harness.
HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")
MBPP_STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop words."""
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends, default=len(text))]


# Comments and strings are tokens, so that their brackets do not count.
JAVASCRIPT_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`|[{}]""", re.DOTALL
)
DEPTH = {"{": 1, "}": -1}  # what a token adds to the number of open brackets


def cut_balanced(start: str, text: str) -> str:
    """The text up to the bracket that closes the last one that `start` left open.

    It is all of the text if no bracket does; the program then fails.
    """
    depth = sum(DEPTH.get(token[0], 0) for token in JAVASCRIPT_TOKEN.finditer(start))
    for token in JAVASCRIPT_TOKEN.finditer(text):
        depth += DEPTH.get(token[0], 0)
        if depth == 0 and token[0] == "}":
            return text[: token.end()]
    return text


def _after(prompt: str, sample: Sample) -> str:
    """The prompt as the LLM saw it.

    The harness may have cut the white space at its end, and the answer then begins with its own.
    """
    context = str(sample.arguments[0][0]) if sample.arguments and sample.arguments[0] else ""
    if not context.rstrip().endswith(prompt.strip()):
        return prompt
    return prompt.rstrip() + context[len(context.rstrip()) :]


def programs(sample: Sample, rule: str) -> list[Program]:
    """The M programs of a document: its prompt, the answer cut where it ends, its tests.

    Fields: HumanEval has prompt, test, entry_point; MBPP has test_list; HumanEval-JavaScript has prompt (comment and
    declaration) and test.
    Raises: LogError for a document without them.
    """
    doc, answers = sample.doc, texts(sample)
    try:
        if rule == "javascript":
            prompt, test = _text(sample, "prompt"), _text(sample, "test")
            start = _after(prompt, sample)
            return [Program(rule, f"{start}{cut_balanced(start, text)}\n\n{test}\n") for text in answers]
        if "test_list" in doc:
            tests = doc["test_list"]
            if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
                raise LogError(f"{sample.where}: test_list must be a list of texts, found {tests!r:.60}")
            tests = "\n".join(tests)
            return [Program(rule, f"{cut(text, MBPP_STOPS)}\n{tests}\n") for text in answers]
        prompt, test, entry_point = (_text(sample, name) for name in ("prompt", "test", "entry_point"))
        start, end = _after(prompt, sample), f"{test}\ncheck({entry_point})\n"
        return [Program(rule, f"{start}{cut(text, HUMANEVAL_STOPS)}\n{end}") for text in answers]
    except KeyError as error:
        raise LogError(
            f"{sample.where}: rule {rule!r} needs the field {error} of the document, or test_list; "
            f"it has {', '.join(doc)}"
        ) from None


def _text(sample: Sample, name: str) -> str:
    """A field of the document. Raises: KeyError if it is not there, LogError if it is no text."""
    value = sample.doc[name]
    if not isinstance(value, str) or not value.strip():
        raise LogError(f"{sample.where}: the field {name!r} of the document must be text, found {value!r:.60}")
    return value


def key_of(program: Program) -> str:
    """What a program is called in files of verdicts: SHA-256 of its language and source."""
    return hashlib.sha256(f"{program.language}\0{program.source}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Judging:
    """How to run programs.

    run: the user's consent to run what LLMs wrote. workers: programs at a time. seconds, megabytes: for each program.
    """

    run: bool = False
    workers: int = 1
    seconds: float = 10.0
    megabytes: int = 4096


def read_verdicts(path: Path, how: Judging) -> dict[str, bool]:
    """The verdicts of a file that were reached within the same limits, {key: passed}.

    A last line that was cut off is not one.
    Raises: LogError naming the file and the line.
    """
    if not path.is_file():
        return {}
    passed = {}
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        remedy = "delete that line, and its program runs again"
        verdict = parsed(line, f"{path}, line {number}: not valid JSON", remedy)
        try:
            key, is_right, limits = verdict["program"], verdict["passed"], (verdict["seconds"], verdict["megabytes"])
            if not isinstance(key, str) or not isinstance(is_right, bool):
                raise TypeError("program or passed")
        except (KeyError, TypeError) as error:
            raise LogError(f"{path}, line {number}: not a verdict on a program ({error}); {remedy}") from None
        if limits == (how.seconds, how.megabytes):
            passed[key] = is_right
    return passed


def drop_half_line(path: Path) -> None:
    """Take away the last line of a file if a killed run left it half-written."""
    raw = path.read_bytes() if path.is_file() else b""
    if raw and not raw.endswith(b"\n"):
        os.truncate(path, raw.rfind(b"\n") + 1)


def verdicts(wanted: Sequence[Program], path: Path, how: Judging, title: str) -> dict[str, bool]:
    """Whether each program passes, {key: passed}.

    Verdicts are kept in `path`, so that a stopped run goes on where it was. Equal programs run once.
    Raises: LogError if a verdict is missing and how.run is False.
    """
    passed = read_verdicts(path, how)
    missing = {key: program for program in wanted if (key := key_of(program)) not in passed}
    if not missing:
        return passed
    if not how.run:
        raise LogError(
            f"{title}: {len(missing)} programs that LLMs wrote must be run to score them. --run_code allows it "
            "(each in its own process, with limits of time and memory; best in a container or on a machine that "
            "holds nothing of value); --tasks leaves this task out"
        )
    warn()
    drop_half_line(path)
    keys = list(missing)
    limits = {"seconds": how.seconds, "megabytes": how.megabytes}
    with bar(len(missing), f"run {title}", "program") as progress, path.open("a", encoding="utf-8") as file:

        def keep(number: int, verdict: Verdict) -> None:
            """Write the verdict on one program."""
            passed[keys[number]] = verdict.passed
            line = {"program": keys[number], "passed": verdict.passed, "status": verdict.status} | limits
            file.write(json.dumps(line) + "\n")
            file.flush()
            progress.update()

        judge(list(missing.values()), how.workers, how.seconds, how.megabytes, keep)
    return passed
