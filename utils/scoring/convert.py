"""From the answers of LLMs to routing data: logs of lm-evaluation-harness become files of questions and scores.

    bash eval_scripts/score.sh                    # writes eval_outputs/<org__name>/<group>/
    python -m utils.scoring.convert --logs eval_outputs --output datasets/mine    # the paper's tasks that have logs
    python -m utils.scoring.convert --logs eval_outputs --output datasets/mine --spec my_tasks.json --tasks sums

Which leaf tasks make a file, how they are scored, what the question's text is and how it is split, is a table of
`Conversion` records: PAPER below, and one's own with --spec, a JSON list of objects with the same fields, such as

    [{"task": "sums", "leaves": ["mini_sums"], "rule": "number", "question": "{question}",
      "train": "sums_train.json", "test": "sums_test.json", "test_fraction": 0.3}]

Programs judged by eval_scripts/bigcode.sh are converted with the rule "verdicts"; datasets/README.md has an example.

A log that is cut off, limited, incomplete or about other documents than another LLM's is refused, and then nothing is
written.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data import RoutingData, load
from ..files import atomic_folder, replaceable_folder, write_json
from ..meters import bar
from ..metrics import references
from ..tables import markdown
from ..tasks import LLMS, short, task_of
from .harness import (
    FIELD_ERRORS,
    Log,
    LogError,
    Sample,
    doc_hash,
    find_llms,
    find_logs,
    find_verdicts,
    parsed,
    run_of,
    samples,
    sampling,
)
from .rules import (
    CODE,
    KIND_OF_RULE,
    Judging,
    Outcome,
    choice,
    key_of,
    metric,
    number,
    programs,
    share,
    texts,
    verdicts,
)
from .sandbox import Program


@dataclass(frozen=True)
class Conversion:
    """How the logs of some leaf tasks become one file, or a training and a test file.

    task: its name; the files' names must give it (`utils.tasks.task_of`).
    leaves: the harness's leaf tasks; each LLM must have a log of each. A pattern such as "mini_*" stands for those
        that any LLM has.
    rule: "choice", "number", "metric", "python", "javascript" or "verdicts", see utils/scoring/rules.py.
    question: the query's text, with fields of the document in braces, `{choices[0]}` for the first of a list.
    train, test: file names. With both, `test_fraction` of the rows are drawn for the test file, by --seed; equal
        questions stay together.
    train_rows: the training file keeps so many of its rows, the first; 0 keeps all.
    filter: which of the harness's filters to take, where a log has several.
    metric: for the rule "metric", its name.
    group: look for logs in this folder of an LLM only.
    documents: for the rule "verdicts", the data set in its order, a file of JSON lines; bigcode-evaluation-harness
        saves no questions.
    """

    task: str
    leaves: tuple[str, ...]
    rule: str
    question: str
    train: str | None = None
    test: str | None = None
    test_fraction: float = 0.0
    train_rows: int = 0
    filter: str | None = None
    metric: str = "exact_match"
    group: str | None = None
    documents: str | None = None

    def __post_init__(self):
        def fail(what: str) -> None:
            raise ValueError(f"conversion of {self.task!r}: {what}")

        if not isinstance(self.task, str) or not self.leaves or not all(isinstance(leaf, str) for leaf in self.leaves):
            fail("'task' must be a name and 'leaves' a list of the harness's task names")
        texts_of = ("question", "filter", "metric", "group", "documents")
        if wrong := [name for name in texts_of if not isinstance(getattr(self, name), str | None)]:
            fail(f"{wrong[0]!r} is {getattr(self, wrong[0])!r}; it must be text")
        if type(self.train_rows) is not int or self.train_rows < 0:
            fail(f"'train_rows' is {self.train_rows!r}; it must be a number of rows, 0 for all")
        if self.task != self.task.lower():
            fail("'task' must be lower case; the names of files and of leaf tasks need not be")
        if self.rule not in KIND_OF_RULE:
            fail(f"'rule' is {self.rule!r}; it must be one of {', '.join(KIND_OF_RULE)}")
        if (self.rule == "verdicts") != bool(self.documents):
            fail("'documents' names the file with the data set for the rule \"verdicts\", and is for that rule only")
        if not self.files:
            fail("give 'train', 'test' or both: names of the files to write")
        for name in self.files:
            if Path(name).name != name or not name.endswith(".json") or task_of(name) != self.task:
                fail(
                    f"the file name {name!r} must be {self.task}.json, {self.task}_train.json or {self.task}_test.json"
                )
        if kept := {"convert.json", "answers.json"}.intersection(self.files):
            fail(f"the name {', '.join(kept)} is taken, by what tells how files came about; choose another task name")
        if bool(self.train and self.test) != (0 < self.test_fraction < 1):
            fail(
                f"'test_fraction' is {self.test_fraction}; it must be between 0 and 1 with both files, "
                "and left out with one"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files that are written."""
        return tuple(name for name in (self.train, self.test) if name)

    @property
    def kind(self) -> str:
        """The score kind of the files."""
        return KIND_OF_RULE[self.rule]


MMLU = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security
conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts
high_school_biology high_school_chemistry high_school_computer_science high_school_european_history
high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_mathematics
high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes
moral_scenarios nutrition philosophy prehistory professional_accounting professional_law professional_medicine
professional_psychology public_relations security_studies sociology us_foreign_policy virology world_religions
""".split()  # 57
CMMLU = """
agronomy anatomy ancient_chinese arts astronomy business_ethics chinese_civil_service_exam
chinese_driving_rule chinese_food_culture chinese_foreign_policy chinese_history chinese_literature
chinese_teacher_qualification clinical_knowledge college_actuarial_science college_education
college_engineering_hydrology college_law college_mathematics college_medical_statistics college_medicine
computer_science computer_security conceptual_physics construction_project_management economics education
electrical_engineering elementary_chinese elementary_commonsense elementary_information_and_technology
elementary_mathematics ethnology food_science genetics global_facts high_school_biology high_school_chemistry
high_school_geography high_school_mathematics high_school_physics high_school_politics human_sexuality
international_law journalism jurisprudence legal_and_moral_basis logical machine_learning management marketing
marxist_theory modern_chinese nutrition philosophy professional_accounting professional_law
professional_medicine professional_psychology public_relations security_study sociology sports_science
traditional_chinese_medicine virology world_history world_religions
""".split()  # 67
CEVAL = """
accountant advanced_mathematics art_studies basic_medicine business_administration
chinese_language_and_literature civil_servant clinical_medicine college_chemistry college_economics
college_physics college_programming computer_architecture computer_network discrete_mathematics
education_science electrical_engineer environmental_impact_assessment_engineer fire_engineer
high_school_biology high_school_chemistry high_school_chinese high_school_geography high_school_history
high_school_mathematics high_school_physics high_school_politics ideological_and_moral_cultivation law
legal_professional logic mao_zedong_thought marxism metrology_engineer middle_school_biology
middle_school_chemistry middle_school_geography middle_school_history middle_school_mathematics
middle_school_physics middle_school_politics modern_chinese_history operating_system physician
plant_protection probability_and_statistics professional_tour_guide sports_science tax_accountant
teacher_qualification urban_and_rural_planner veterinary_medicine
""".split()  # 52

FEW_QUERIES = 100  # with fewer, t-SNE has too little to go by at its default perplexity of 30
_ABCD = "\nA. {A}\nB. {B}\nC. {C}\nD. {D}"
_ARC = "Question:{question}\nAnswer:"
PAPER = (  # files, question texts and splits of the released data
    Conversion(
        "mmlu",
        tuple(f"mmlu_{name}" for name in MMLU),
        "choice",
        "{question}\nA. {choices[0]}\nB. {choices[1]}\nC. {choices[2]}\nD. {choices[3]}",
        "mmlu_train.json",
        "mmlu_test.json",
        0.3,
        train_rows=2000,
    ),
    Conversion(
        "gsm8k",
        ("gsm8k_train",),
        "number",
        "{question}",
        train="gsm8k-train.json",
        train_rows=1000,
        filter="strict-match",
    ),
    Conversion("gsm8k", ("gsm8k_test",), "number", "{question}", test="gsm8k-test.json", filter="strict-match"),
    Conversion(
        "cmmlu",
        tuple(f"cmmlu_{name}" for name in CMMLU),
        "choice",
        "{Question}" + _ABCD + "\n答案：",
        "cmmlu_train.json",
        "cmmlu_test.json",
        0.3,
        train_rows=2000,
    ),
    Conversion(
        "arc_challenge", ("arc_challenge",), "choice", _ARC, "arc_challenge_train.json", "arc_challenge_test.json", 0.3
    ),
    Conversion(
        "humaneval", ("humaneval_generate",), "python", "{prompt}", "humaneval_train.json", "humaneval_test.json", 0.3
    ),
    Conversion("math_prealgebra", ("minerva_math_prealgebra",), "metric", "{problem}", test="MATH_prealgebra.json"),
    Conversion("mbpp", ("mbpp_generate",), "python", '"""\n{text}\n{test_list[0]}\n"""\n', test="mbpp.json"),
    Conversion(
        "ceval",
        tuple(f"ceval-valid_{name}" for name in CEVAL),
        "choice",
        "{question}" + _ABCD + "答案：",
        test="ceval.json",
    ),
    Conversion("javascript", ("humaneval_js_generate",), "javascript", "{prompt}", test="javascript.json"),
    Conversion("arc_easy", ("arc_easy",), "choice", _ARC, "arc_easy_train.json", "arc_easy_test.json", 0.3),
    Conversion("hellaswag", ("hellaswag",), "choice", "{query}", "hellaswag_train.json", "hellaswag_test.json", 0.3),
)


def read_spec(path: Path) -> list[Conversion]:
    """The records of a --spec file. Raises: ValueError naming the file, the record and the field."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"--spec {path}: cannot be read as JSON ({error})") from None
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"--spec {path}: expected a list of objects, one for each task")
    table = [conversion_of(record, f"--spec {path}, record {number}") for number, record in enumerate(records)]
    names = [name for record in table for name in record.files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--spec {path}: two records write {', '.join(twice)}")
    return table


def conversion_of(record: Mapping[str, Any], name: str) -> Conversion:
    """One record of a --spec file. Raises: ValueError naming it by `name`, and the field."""
    known = {field.name for field in fields(Conversion)}
    if unknown := record.keys() - known:
        raise ValueError(
            f"{name}: unknown field {', '.join(sorted(unknown))}; the fields are {', '.join(sorted(known))}"
        )
    if lacking := {"task", "leaves", "rule", "question"} - record.keys():
        raise ValueError(f"{name}: lacks {', '.join(sorted(lacking))}")
    if not isinstance(record["leaves"], list):
        raise ValueError(f"{name}: 'leaves' must be a list of names, found {record['leaves']!r}")
    values = {field: value for field, value in record.items() if value is not None}
    values["leaves"] = tuple(record["leaves"])
    try:
        return Conversion(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None


class Texts(Formatter):
    """Fills a template with texts and numbers. Raises: TypeError for any other value."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """The text of one field."""
        if not isinstance(value, (str, int, float)):
            raise TypeError(f"a field is {type(value).__name__}, not text")
        return format(value, format_spec)


def question_of(sample: Sample, template: str) -> str:
    """The query's text. Raises: LogError if the document lacks a field of the template, or the text is empty."""
    try:
        text = Texts().vformat(template, (), sample.doc)
        text.encode("utf-8")
    except FIELD_ERRORS as error:
        what = f"does not fit the document ({type(error).__name__}: {error}), whose fields are {', '.join(sample.doc)}"
        raise LogError(f"{sample.where}: the question text {template!r} {what}") from None
    if not text.strip():
        raise LogError(f"{sample.where}: the question's text is empty")
    return text


@dataclass
class Entry:
    """One document of a leaf as one LLM answered it.

    tests: for the rule "verdicts", SHA-256 of the file with the tests that judged it.
    """

    doc_hash: str
    question: str
    outcome: Outcome
    tests: str = ""


def score(log: Log, record: Conversion, args: argparse.Namespace, warnings: list[str]) -> dict[int, Entry]:
    """Read one log and score it, {doc_id: entry}. Adds to `warnings` if (nearly) all documents have M equal answers.

    Raises: LogError for a log that cannot be trusted, or documents with different numbers of answers.
    """
    rules = {
        "choice": choice,
        "number": partial(number, numeric=args.numeric_answers),
        "metric": partial(metric, name=record.metric),
    }
    documents: dict[int, tuple[str, str]] = {}  # hash and question
    outcomes: dict[int, Outcome] = {}
    programs_of: dict[int, list[Program]] = {}
    answers, equal, settings = 0, 0, {}
    for sample in samples(log, record.filter, args.allow_limit):
        count = len(sample.responses[0])
        if answers and count != answers:
            raise LogError(
                f"{sample.where}: {count} answers, and {answers} to the document before; score this task again"
            )
        answers, settings = count, settings or sampling(sample)
        try:
            if record.rule != "choice" and len(set(texts(sample))) == 1:
                equal += 1
            documents[sample.doc_id] = (sample.doc_hash, question_of(sample, record.question))
            if record.rule in rules:
                outcomes[sample.doc_id] = rules[record.rule](sample)
            else:
                programs_of[sample.doc_id] = programs(sample, record.rule)
        except LogError:
            raise
        except FIELD_ERRORS as error:
            cause = f"{type(error).__name__}: {error}"
            raise LogError(f"{sample.where}: not what the rule {record.rule!r} reads ({cause})") from None
    if programs_of:
        outcomes = run_programs(programs_of, log, record, args)
    if answers > 1 and equal >= 0.95 * len(documents):
        warnings.append(
            f"{log}: all {answers} answers are equal for {equal} of {len(documents)} documents: {_cause(settings)}. "
            "Its scores rest on one answer"
        )
    return {doc_id: Entry(*documents[doc_id], outcomes[doc_id]) for doc_id in sorted(documents)}


def run_programs(
    programs_of: Mapping[int, Sequence[Program]], log: Log, record: Conversion, args: argparse.Namespace
) -> dict[int, Outcome]:
    """Run the programs of every document, or read from beside the log what was found before: {doc_id: outcome}.

    Raises: LogError if programs must be run and --run_code is not given.
    """
    how = Judging(args.run_code, args.workers, args.time_limit, args.memory_limit)
    every = [program for of_document in programs_of.values() for program in of_document]
    passed = verdicts(every, log.path.with_suffix(".verdicts.jsonl"), how, f"{record.task} of {short(log.llm)}")
    outcomes = {}
    for doc_id, of_document in programs_of.items():
        keys = [key_of(program) for program in of_document]
        outcomes[doc_id] = share([key[:12] for key in keys], [passed[key] for key in keys])
    return outcomes


def _cause(settings: dict[str, Any]) -> str:
    """Why M sampled answers may be equal, from the generation settings in the log."""
    temperature = settings.get("temperature")
    if settings.get("do_sample") is False or temperature == 0:
        return (
            f"greedy decoding (do_sample {settings.get('do_sample')}, temperature {temperature}); "
            "give both do_sample=true and a temperature above 0"
        )
    return (
        f"a fixed seed, or greedy decoding in spite of temperature {temperature}. "
        "Give no seed (local-completions sends one by itself unless told --gen_kwargs seed=None), "
        "and both do_sample=true and temperature"
    )


def score_verdicts(log: Log, record: Conversion) -> dict[int, Entry]:
    """The scores that utils/scoring/bigcode.py wrote, {number of the problem: entry}.

    The questions come from `record.documents`.
    Raises: LogError if a file is missing or broken, if the documents are not as many, or if the verdicts are on other
    generations or by other references than those beside them.
    """
    raw = log.path.read_bytes()
    saved = parsed(raw, f"{log}: not valid JSON", "judge the programs again")
    documents = documents_of(Path(record.documents))
    try:
        passed = saved["passed"]
        generations, references = saved["generations_sha256"], saved["references_sha256"]
        if not all(of_problem and all(type(right) is bool for right in of_problem) for of_problem in passed):
            raise TypeError("passed must have true or false for each program of each problem")
        if not isinstance(generations, str) or not isinstance(references, str):
            raise TypeError("generations_sha256 and references_sha256 must be text")
    except (KeyError, TypeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise LogError(f"{log}: not what utils.scoring.bigcode writes ({cause}); judge the programs again") from None
    log.sha256 = hashlib.sha256(raw).hexdigest()
    if len(documents) != len(passed):
        raise LogError(
            f"{log}: verdicts on {len(passed)} problems, and {record.documents} has {len(documents)} documents; "
            "give the data set that was used, whole and in its order"
        )
    check_made_from(log, "generations", generations, "on other programs than those")
    check_made_from(log, "references", references, "by other tests than those")
    entries = {}
    for n, (document, of_problem) in enumerate(zip(documents, passed)):
        name = f"{record.documents}, document {n}"
        try:
            digest = doc_hash(document)
        except FIELD_ERRORS as error:
            raise LogError(f"{name}: cannot be read ({type(error).__name__}: {error})") from None
        sample = Sample(name, n, digest, document, "", [], [[]], {})
        question = question_of(sample, record.question)
        entries[n] = Entry(digest, question, share(of_problem, of_problem), references)
    return entries


def documents_of(path: Path) -> list[dict[str, Any]]:
    """The documents of a file of JSON lines. Raises: LogError naming the file and the line."""
    remedy = "'documents' in the --spec names the data set, a file with one object a line"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"{path}: the documents cannot be read ({error}); {remedy}") from None
    documents = []
    for row, line in enumerate(lines, 1):
        if line.strip():
            documents.append(parsed(line, f"{path}, line {row}: not valid JSON", remedy))
            if not isinstance(documents[-1], dict):
                raise LogError(f"{path}, line {row}: expected an object, found {documents[-1]!r:.60}; {remedy}")
    return documents


def check_made_from(log: Log, what: str, sha256: str, words: str) -> None:
    """Raise LogError if the generations or references beside the verdicts are not those that were judged."""
    file = log.path.with_name(f"{what}_{log.leaf}.json")
    if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise LogError(f"{log}: verdicts {words} of {file.name}; run eval_scripts/bigcode.sh with RUN_CODE=1 again")


def check_same_documents(leaf: str, sheets: Mapping[str, Mapping[int, Entry]]) -> None:
    """Check that all LLMs answered the same documents of a leaf.

    Each must have the same doc ids, and each document the same hash, the same tests and as many answers.
    Raises: LogError naming the LLMs, the leaf and the doc id.
    """
    (first, expected), *others = sheets.items()
    for llm, entries in others:
        if entries.keys() != expected.keys():
            raise LogError(
                f"{leaf}: {first} has {len(expected)} documents and {llm} {len(entries)}; "
                f"doc_id {min(entries.keys() ^ expected.keys())} is in one log only. "
                "Score both on the same data, without --limit"
            )
        for doc_id, entry in entries.items():
            check_same_document(f"{leaf}, doc_id {doc_id}", leaf, (first, llm), (expected[doc_id], entry))


def check_same_document(name: str, leaf: str, llms: tuple[str, str], entries: tuple[Entry, Entry]) -> None:
    """Raise LogError unless two LLMs were asked the same document, judged by the same tests, and answered as often."""
    (one, other), (first, second) = llms, entries
    if first.doc_hash != second.doc_hash:
        raise LogError(
            f"{name}: {one} and {other} answered different documents "
            f"(doc_hash {first.doc_hash[:12]} and {second.doc_hash[:12]}): "
            "another version or order of the data set, or of the task. Score both with the same"
        )
    if first.tests != second.tests:
        raise LogError(
            f"{leaf}: the programs of {one} and {other} were judged by different tests "
            f"(references_sha256 {first.tests[:12]} and {second.tests[:12]}): "
            "another version or order of the data set. Generate and judge both with the same"
        )
    counts = [len(entry.outcome.answers) for entry in entries]
    if counts[0] != counts[1]:
        raise LogError(
            f"{name}: {one} gave {counts[0]} answers and {other} {counts[1]}; score both with the same `repeats`"
        )


def split(questions: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows for training and for testing, both in drawn order; round(fraction * N) rows are for testing.

    Equal questions stay together. The draw depends on the number of distinct questions and the seed alone.
    Raises: ValueError if one side would be empty.
    """
    members: dict[str, list[int]] = {}
    for row, question in enumerate(questions):
        members.setdefault(question, []).append(row)
    groups, wanted = list(members.values()), round(fraction * len(questions))
    train: list[int] = []
    test: list[int] = []
    for drawn in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[drawn]
        if len(test) + len(group) <= wanted:
            test.extend(group)
        else:
            train.extend(group)
    if not train or not test:
        raise ValueError(f"{len(questions)} documents cannot be split with test_fraction {fraction}")
    return train, test


@dataclass
class Job:
    """A record with the logs it is made of, {leaf: {llm: log}}."""

    record: Conversion
    logs: dict[str, dict[str, Log]]


def plan(args: argparse.Namespace) -> tuple[list[str], list[Job]]:
    """The LLMs, and what is to be converted.

    Raises: ValueError for a name that is unknown, or a leaf that an LLM lacks.
    """
    table = conversions_of(args)
    folders = find_llms(args.logs)
    llms = chosen_llms(args, folders)
    jobs = []
    for record in table:
        if args.tasks and record.task not in args.tasks:
            continue
        logs = logs_of(record, llms, folders)
        if logs:
            jobs.append(Job(record, logs))
    for name in args.tasks or ():
        if name not in [job.record.task for job in jobs]:
            leaves = [leaf for record in table if record.task == name for leaf in record.leaves]
            raise LogError(f"--tasks {name}: no logs of {_first_few(leaves)} below {args.logs}")
    if not jobs:
        names = ", ".join(dict.fromkeys(record.task for record in table))
        raise LogError(f"{args.logs}: no logs of any task in the table ({names}); --spec adds your own")
    return llms, jobs


def conversions_of(args: argparse.Namespace) -> list[Conversion]:
    """The conversions of --spec, and those of the paper's tasks whose files it does not write.

    Raises: ValueError for a task in --tasks that has none.
    """
    own = read_spec(args.spec) if args.spec else []
    taken = {name for record in own for name in record.files}
    table = [*own, *(record for record in PAPER if taken.isdisjoint(record.files))]
    known = list(dict.fromkeys(record.task for record in table))
    if unknown := [name for name in args.tasks or () if name not in known]:
        raise ValueError(
            f"--tasks: no conversion for {', '.join(unknown)}; known: {', '.join(known)}; --spec adds others"
        )
    return table


def chosen_llms(args: argparse.Namespace, folders: Mapping[str, Path]) -> list[str]:
    """The LLMs of --llms, by default all that have logs: the paper's first, in its order.

    Raises: ValueError for one without logs, or named twice.
    """
    if unknown := [llm for llm in args.llms or () if llm not in folders]:
        raise ValueError(f"--llms: {args.logs} has no logs of {', '.join(unknown)}; it has {', '.join(folders)}")
    if args.llms:
        if twice := [llm for llm in folders if args.llms.count(llm) > 1]:
            raise ValueError(f"--llms names {', '.join(twice)} twice")
        return args.llms
    return sorted(folders, key=lambda llm: (LLMS.index(llm) if llm in LLMS else len(LLMS), llm))


def logs_of(record: Conversion, llms: Sequence[str], folders: Mapping[str, Path]) -> dict[str, dict[str, Log]]:
    """The log of each leaf task and LLM, {leaf: {llm: log}}; {} where no LLM has any.

    Raises: LogError for a leaf that some LLMs have and one lacks, or a pattern that fits none.
    """
    find = find_verdicts if record.rule == "verdicts" else find_logs
    by_llm = {llm: find(llm, folders[llm] / (record.group or ""), record.leaves) for llm in llms}
    if not any(by_llm.values()):
        return {}
    named = [leaf for leaf in record.leaves if not any(mark in leaf for mark in "*?[")]
    matched = sorted({leaf for logs in by_llm.values() for leaf in logs})
    for pattern in set(record.leaves).difference(named):
        if not any(fnmatchcase(leaf, pattern) for leaf in matched):
            raise LogError(
                f"--spec: 'leaves' of {record.task!r} has {pattern!r}, which no leaf task with a log matches"
            )
    leaves = list(dict.fromkeys([*named, *matched]))
    for llm, logs in by_llm.items():
        if missing := [leaf for leaf in leaves if leaf not in logs]:
            raise LogError(
                f"{record.task}: {llm} has no log of {len(missing)} of its {len(leaves)} leaf tasks: "
                f"{_first_few(missing)} (below {folders[llm]}). Run eval_scripts/score.sh for it, or leave out the LLM "
                "(--llms) or the task (--tasks)"
            )
    return {leaf: {llm: by_llm[llm][leaf] for llm in llms} for leaf in leaves}


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def convert_job(
    job: Job, args: argparse.Namespace, warnings: list[str]
) -> tuple[dict[str, list[dict]], dict[str, list[dict]], dict[str, Any]]:
    """Read, check, join and split one record. Returns: rows of each file, answers of each file, where they came from.

    Raises: LogError for logs that cannot be trusted, do not fit each other, or have too few documents to split.
    """
    rows, answers, sources = [], [], {}
    with bar(sum(map(len, job.logs.values())), f"read {job.record.files[0]}", "log") as progress:
        for leaf, logs in job.logs.items():
            sheets = read_leaf(leaf, logs, job.record, args, warnings, sources, progress)
            check_same_documents(leaf, sheets)
            add_rows(leaf, sheets, rows, answers)
    index = rows_of_files(job.record, rows, args.seed)

    def chosen(values: list[dict]) -> dict[str, list[dict]]:
        """The values of each file's rows."""
        return {name: [values[row] for row in places] for name, places in index.items()}

    conversion = asdict(job.record) | {"leaves": list(job.logs)}
    return chosen(rows), chosen(answers), {"conversion": conversion, "logs": sources}


def read_leaf(
    leaf: str,
    logs: Mapping[str, Log],
    record: Conversion,
    args: argparse.Namespace,
    warnings: list[str],
    sources: dict[str, dict[str, Any]],
    progress: tqdm,
) -> dict[str, dict[int, Entry]]:
    """Score the logs of one leaf task: {llm: {document: entry}}. What was read is added to `sources`.

    A different number of worked examples for some LLM is added to `warnings`.
    """
    sheets, shots = {}, {}
    for llm, log in logs.items():
        if record.rule == "verdicts":
            sheets[llm] = score_verdicts(log, record)
        else:
            sheets[llm] = score(log, record, args, warnings)
        run, _ = run_of(log, args.allow_limit)
        shots[llm] = run.get("n-shot", {}).get(leaf)
        first_entry = next(iter(sheets[llm].values()))
        sources.setdefault(llm, {})[leaf] = {
            "path": log.path.relative_to(args.logs).as_posix(),
            "sha256": log.sha256,
            "lm_eval": run.get("lm_eval_version") or run.get("git_hash") or "unknown",
            "documents": len(sheets[llm]),
            "answers": len(first_entry.outcome.answers),
        }
        progress.update()
    if len({count for count in shots.values() if count is not None}) > 1:
        shown = ", ".join(f"{llm} {count}" for llm, count in shots.items())
        warnings.append(f"{leaf}: the LLMs were shown different numbers of worked examples: {shown}")
    return sheets


def add_rows(leaf: str, sheets: Mapping[str, Mapping[int, Entry]], rows: list[dict], answers: list[dict]) -> None:
    """Add one row, and its answers, for each document that all LLMs were asked."""
    for doc_id, entry in next(iter(sheets.values())).items():
        outcomes = {llm: sheet[doc_id].outcome for llm, sheet in sheets.items()}
        scores = {llm: outcome.score for llm, outcome in outcomes.items()}
        rows.append({"question": entry.question, "scores": scores})
        answers.append(
            {
                "leaf": leaf,
                "doc_id": doc_id,
                "gold": entry.outcome.gold,
                "answers": {llm: outcome.answers for llm, outcome in outcomes.items()},
                "right": {llm: outcome.right for llm, outcome in outcomes.items()},
            }
        )


def rows_of_files(record: Conversion, rows: Sequence[dict], seed: int) -> dict[str, list[int]]:
    """Which rows go to which file. Raises: LogError for too few documents to split."""
    if record.train and record.test:
        try:
            train, test = split([row["question"] for row in rows], record.test_fraction, seed)
        except ValueError as error:
            raise LogError(f"{record.task}: {error}") from None
        index = {record.train: train, record.test: test}
    else:
        index = {record.files[0]: list(range(len(rows)))}
    if record.train and record.train_rows:
        index[record.train] = index[record.train][: record.train_rows]
    return index


def check_folder(flag: str, folder: Path, note: str, files: Collection[str]) -> None:
    """Check that a folder may be replaced as a whole.

    It must hold no files of others, which `note` does not list, and no more of ours than `files`, which are to come.
    Raises: ValueError naming them.
    """
    try:
        ours = {note, *json.loads((folder / note).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    replaceable_folder(folder, flag, ours, "no conversion")
    if lost := sorted(name for name in ours.difference(files, [note]) if (folder / name).exists()):
        raise ValueError(
            f"{flag} {folder}: the folder is replaced as a whole, and {_first_few(lost)} there would be lost, which "
            "this conversion does not write; convert those tasks too (--tasks, --spec), give another folder, or "
            "remove this one"
        )


@dataclass
class Converted:
    """The files of a conversion as they are read again, {name: data}, and which of them are for training."""

    folder: Path
    data: dict[str, RoutingData]
    train: list[str]


def check_options(args: argparse.Namespace, files: Collection[str]) -> None:
    """Raise ValueError for a number that makes no sense, or a folder that cannot be replaced by these files."""
    for name, least in {"workers": 1, "time_limit": 0.1, "memory_limit": 16, "seed": 0}.items():
        if not least <= getattr(args, name) < float("inf"):
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be at least {least}")
    check_folder("--output", args.output, "convert.json", files)
    if args.answers:
        here, there = args.answers.resolve(), args.output.resolve()
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise ValueError(
                f"--answers {args.answers}: give a folder outside --output, and not one that has it in it; "
                "both are replaced as a whole"
            )
        check_folder("--answers", args.answers, "answers.json", files)


def convert(args: argparse.Namespace) -> Converted:
    """Convert all logs, write the folder at once and read it again; prints warnings to stderr.

    Raises: ValueError (LogError, DataError) for bad input; nothing is written then.
    """
    llms, jobs = plan(args)
    names = [name for job in jobs for name in job.record.files]
    check_options(args, names)
    warnings: list[str] = []
    files: dict[str, dict[str, Any]] = {}
    data: dict[str, RoutingData] = {}
    conversions, answers = [], {}
    with contextlib.ExitStack() as held:
        folder = held.enter_context(atomic_folder(args.output))
        answers_folder = held.enter_context(atomic_folder(args.answers)) if args.answers else None
        check_options(args, names)  # again: another conversion may have written there since
        for job in sorted(jobs, key=lambda job: job.record.rule in CODE):  # programs run when other logs are known good
            rows_by_file, answers_by_file, sources = convert_job(job, args, warnings)
            conversions.append(sources)
            answers |= answers_by_file
            for name, rows in rows_by_file.items():
                write_json(folder / name, rows)
                loaded = load(folder / name, job.record.kind)
                data[name] = replace(loaded, path=str(args.output / name))
                files[name] = {"kind": job.record.kind, "rows": len(rows), "sha256": loaded.sha256}
        options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        write_json(
            folder / "convert.json",
            {"llms": llms, "options": options, "warnings": warnings, "files": files, "conversions": conversions},
        )
        if answers_folder:
            for name, of_file in answers.items():
                write_json(answers_folder / name, of_file)
            digests = {name: files[name]["sha256"] for name in answers}
            write_json(answers_folder / "answers.json", {"llms": llms, "output": str(args.output), "files": digests})
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return Converted(args.output, data, [job.record.train for job in jobs if job.record.train])


def summary(data: dict[str, RoutingData]) -> str:
    """Accuracy in % of each LLM and of the per-query oracle on each file, and its queries, as a Markdown table."""
    columns = []  # of each file: the accuracy of every row of the table
    for file in data.values():
        columns.append({row: by_task[file.task] for row, by_task in references([file]).items()})
    llms = next(iter(data.values())).llms
    rows = [[short(row), *[f"{column[row]:.2f}" for column in columns]] for row in [*llms, "per-query oracle"]]
    rows.append(["queries", *[str(len(file)) for file in data.values()]])
    return markdown(["", *(Path(name).stem for name in data)], rows)


def next_commands(made: Converted) -> str:
    """The commands that cluster, train and evaluate with these files, ready to be run."""
    train = made.train
    test = [name for name in made.data if name not in train]
    clustered = made.folder.with_name(f"{made.folder.name}_cluster")
    run = shlex.quote(f"runs/{made.folder.name}")
    lines = []
    if train:
        files = paths_of(made.folder, train)
        rows = sum(len(made.data[name]) for name in train)
        space = " --space embedding" if rows < FEW_QUERIES else ""
        output = shlex.quote(str(clustered))
        lines += [
            f"python -m utils.clustering --encoder minilm --data_paths {files} --output {output}{space}",
            f"python train_router_mdeberta.py --recipe tuned --save_path {run} \\",
            f"  --data_paths {paths_of(clustered, train)} --data_type {kinds_of(made, train)} \\",
        ]
        tests = f"--test_data_paths {paths_of(made.folder, test)} --test_data_type {kinds_of(made, test)}"
        lines.append(f"  {tests} --final_eval_data_paths" if test else "  --no_final_eval")
    if test:
        ckpt = run if train else "FOLDER"
        lines += [
            f"python evaluation_router.py --ckpt {ckpt} \\",
            f"  --test_data_paths {paths_of(made.folder, test)} --test_data_type {kinds_of(made, test)}",
        ]
    return "\n".join(lines)


def paths_of(folder: Path, names: Sequence[str]) -> str:
    """Files as words of a command line."""
    return shlex.join(str(folder / name) for name in names)


def kinds_of(made: Converted, names: Sequence[str]) -> str:
    """Score kinds as words of a command line: one for all files, or one each."""
    kinds = [made.data[name].kind for name in names]
    return kinds[0] if len(set(kinds)) == 1 else " ".join(kinds)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m utils.scoring.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--logs", type=Path, default=Path("eval_outputs"), help="folder with one folder of logs for each LLM"
    )
    p.add_argument("--output", type=Path, required=True, help="folder to write, as a whole")
    p.add_argument(
        "--llms", nargs="+", metavar="ORG/NAME", help="these LLMs, in this order; default: all that have logs"
    )
    p.add_argument("--tasks", nargs="+", help="these tasks; default: all that have logs")
    p.add_argument("--spec", type=Path, help="JSON file with conversions of your own tasks")
    p.add_argument(
        "--numeric_answers",
        action="store_true",
        help="rule number: compare values (1,000 and 1000.0 are equal), not text as the paper does",
    )
    p.add_argument("--seed", type=int, default=1, help="of the splits")
    p.add_argument("--allow_limit", action="store_true", help="take runs with --limit, for trials")
    p.add_argument(
        "--answers", type=Path, help="folder for what each LLM answered, row by row (for voting); written as a whole"
    )
    code = p.add_argument_group("code tasks")
    code.add_argument(
        "--run_code", action="store_true", help="allow running the programs that LLMs wrote; best in a container"
    )
    code.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="programs at a time")
    code.add_argument("--time_limit", type=float, default=10.0, help="seconds for each program")
    code.add_argument("--memory_limit", type=int, default=4096, help="MB for each program")
    return p


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    args = parser().parse_args(argv)
    try:
        made = convert(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written but verdicts of programs, and the same command goes on", file=sys.stderr)
        return 130
    print(f"{summary(made.data)}\n\n{len(made.data)} files in {args.output}. Next:\n{next_commands(made)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
