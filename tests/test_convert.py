"""Logs to scores: made-up logs in both forms against naive recomputation from the raw answers, and every refusal."""

import copy
import functools
import hashlib
import itertools
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from tests.conftest import REPO, tiny_documents
from utils.data import load
from utils.files import atomic_folder
from utils.metrics import disagreement, right_counts
from utils.scoring import convert, rules
from utils.scoring.bigcode import main as bigcode_main
from utils.scoring.convert import CEVAL, CMMLU, MMLU, PAPER, Conversion, check_options, main, question_of, split
from utils.scoring.harness import LogError, Sample, find_llms, find_logs, samples
from utils.scoring.rules import Judging, cut_balanced, key_of, number, programs, value_of, verdicts
from utils.scoring.sandbox import Program, Verdict

A, B = "org/alpha-7b", "lab/beta__x"  # the second has a name that its folder cannot tell from lab/beta/x
TIME = "2026-11-22T10-07-10.453226"
SAMPLING = {"do_sample": True, "temperature": 0.2, "until": ["\n\n"]}


def as_text(value):
    return [as_text(item) for item in value] if isinstance(value, list) else str(value)


def write_log(
    logs, llm, leaf, entries, year=2026, group="g", time=TIME, filters=("none",), limit=None, results=True, count=None
):
    """One log of made-up entries, as the harness writes it today or wrote it in 2024. Returns its path.

    An entry has doc, target, arguments [[context, continuation or settings], ...], resps with numbers, and metrics.
    """
    folder = logs / llm.replace("/", "__") / group / f"run-of-{llm.replace('/', '__')}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, (doc_id, entry) in itertools.product(filters, enumerate(entries)):
        line = {"doc_id": entry.get("doc_id", doc_id), "doc": entry["doc"], "target": entry["target"]}
        if year == 2024:
            line |= {
                "arguments": entry["arguments"],
                "resps": entry["resps"],
                "filtered_resps": [answers[0] for answers in entry["resps"]],
            }
        else:
            given = {
                f"gen_args_{n}": {f"arg_{m}": value for m, value in enumerate(request)}
                for n, request in enumerate(entry["arguments"])
            }
            line |= {"target": str(entry["target"]), "arguments": given, "resps": as_text(entry["resps"])}
            line |= {
                "filtered_resps": [answers[0] for answers in line["resps"]],
                "filter": name,
                "metrics": list(entry["metrics"]),
            }
            line["doc_hash"] = hashlib.sha256(
                json.dumps(entry["doc"], indent=2, ensure_ascii=False).encode()
            ).hexdigest()
        lines.append(line | entry["metrics"])
    if year == 2024:
        path = folder / f"pretrained__{llm.replace('/', '__')},dtype__auto_{leaf}.jsonl"
        path.write_text(json.dumps(lines, indent=2, ensure_ascii=False), encoding="utf-8")
        (folder / "results.json").write_text(json.dumps({"config": {"limit": limit}, "git_hash": "abc123"}))
    else:
        path = folder / f"samples_{leaf}_{time}.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        effective = len(entries) if count is None else count
        samples_ = {leaf: {"original": effective if limit is None else 999, "effective": effective}}
        if results:
            known = folder / f"results_{time}.json"
            value = (
                json.loads(known.read_text())
                if known.is_file()
                else {"lm_eval_version": "0.4.13", "config": {"limit": limit}, "n-samples": {}}
            )
            value["n-samples"] |= samples_
            known.write_text(json.dumps(value))
    return path


def choices(count, llm, options=4):
    """Multiple-choice entries; the documents do not depend on the LLM. The last two documents are the same question."""
    rng, entries = random.Random(f"answers of {llm}"), []
    for n in range(count):
        text = f" Which {min(n, count - 2)}? "
        doc = {
            "question": text,
            "choices": [f"{text}{k}" for k in range(options)],
            "answer": n % options,
            "A": "a1",
            "B": "b{1}",
            "C": "c",
            "D": "d",
        }
        values = [round(rng.uniform(-9, -0.1), 3) for _ in range(options)]
        entries.append(
            {
                "doc": doc,
                "target": n % options,
                "arguments": [["Q: ...", f" {'ABCDEFGH'[k]}"] for k in range(options)],
                "resps": [[[v, False]] for v in values],
                "metrics": {"acc": 0.5},
            }
        )
    return entries


NUMBERS = [
    "so #### {}",
    "#### {}.",
    "#### {}.00",
    "#### ${}",
    "it is {}",
    "####{}",
    "#### {} and #### 7",
    "#### 7, not #### {}",
    "#### -{}",
    "#### {}\n",
]


def sums(count, llm, gold="{}"):
    """Entries with ten sampled answers each; most answers of the metric-giving first one are wrong, so that it cannot
    pass for the mean.
    """
    rng, entries = random.Random(f"sums of {llm}"), []
    for n in range(count):
        value = gold.format(1200 + n)
        answers = [rng.choice(NUMBERS).format(rng.choice([value, value, 1200 + n, n])) for _ in range(10)]
        doc = {"question": f"How much is {n} + 1200?", "answer": f"It is {value}.\n#### {value}"}
        entries.append(
            {
                "doc": doc,
                "target": doc["answer"],
                "arguments": [[f"Question: {doc['question']}\nAnswer:", SAMPLING]],
                "resps": [answers],
                "metrics": {"exact_match": 1.0},
            }
        )
    return entries


def naive_choice(entry):
    values = [answers[0][0] for answers in entry["resps"]]
    right = entry["target"]
    return float(softmax(values)[right]) if all(values[right] >= value for value in values) else 0


def naive_extract(text):
    """The number after the first "#### " that has one, character by character."""
    for place in range(len(text)):
        if text.startswith("#### ", place):
            rest, sign = text[place + 5 :], ""
            if rest.startswith("-"):
                rest, sign = rest[1:], "-"
            digits = "".join(itertools.takewhile("0123456789.,".__contains__, rest))
            if digits:
                return sign + digits
    return None


def naive_number(entry):
    gold, right = entry["doc"]["answer"].split("#### ")[1], 0
    for text in entry["resps"][0]:
        right += naive_extract(text) == gold
    return right / 10


QUIZ = {
    "task": "quiz",
    "leaves": ["mini_quiz"],
    "rule": "choice",
    "question": "{question}",
    "train": "quiz_train.json",
    "test": "quiz_test.json",
    "test_fraction": 0.3,
}
SUMS = {"task": "sums", "leaves": ["mini_sums"], "rule": "number", "question": "{question}", "test": "sums_test.json"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spec_file(place, *records):
    path = place / "spec.json"
    path.write_text(json.dumps(records))
    return path


def run(place, *flags, records=(QUIZ, SUMS), output="mine"):
    """The command, in this process; returns its exit status."""
    spec = ["--spec", str(spec_file(place, *records))] if records else []
    return main(["--logs", str(place / "logs"), "--output", str(place / output), *spec, *map(str, flags)])


def rows(place, name, output="mine"):
    return json.loads((place / output / name).read_text(encoding="utf-8"))


def write_both(place, year=2026, count=10):
    for llm in (A, B):
        write_log(place / "logs", llm, "mini_quiz", choices(count, llm), year)
        write_log(place / "logs", llm, "mini_sums", sums(count, llm), year)


# Scores


@pytest.mark.parametrize("year", [2024, 2026])
def test_scores_are_those_of_a_naive_recomputation(place, capsys, year):
    write_both(place, year)
    assert run(place) == 0
    found = {row["question"]: row["scores"] for row in rows(place, "sums_test.json")}
    made, quiz = ({llm: entries(10, llm) for llm in (A, B)} for entries in (sums, choices))
    for n in range(10):
        expected = {A: naive_number(made[A][n]), "lab/beta/x": naive_number(made[B][n])}
        assert found[made[A][n]["doc"]["question"]] == expected
    mean = np.mean([list(scores.values()) for scores in found.values()])
    assert 0.15 < mean < 0.85  # neither the metric's 1.0 nor all wrong
    both = rows(place, "quiz_train.json") + rows(place, "quiz_test.json")
    expected = sorted(
        (quiz[A][n]["doc"]["question"], naive_choice(quiz[A][n]), naive_choice(quiz[B][n])) for n in range(10)
    )
    for row, (question, alpha, beta) in zip(
        sorted((row["question"], row["scores"][A], row["scores"]["lab/beta/x"]) for row in both), expected, strict=True
    ):
        assert row[0] == question and row[1:] == pytest.approx((alpha, beta), abs=1e-12)
    assert 0 < sum(value > 0 for row in both for value in row["scores"].values()) < 20
    assert "quiz_train" in capsys.readouterr().out


def test_both_years_give_the_same_files(place):
    write_both(place, 2026)
    assert run(place, output="today") == 0
    shutil.rmtree(place / "logs")
    write_both(place, 2024)
    assert run(place, output="then") == 0
    for name in ("quiz_train.json", "quiz_test.json", "sums_test.json"):
        assert (place / "today" / name).read_bytes() == (place / "then" / name).read_bytes()


def test_a_log_of_2024_and_one_of_today_join(place):
    write_log(place / "logs", A, "mini_sums", sums(4, A), 2024)
    write_log(place / "logs", B, "mini_sums", sums(4, B), 2026)
    assert run(place) == 0
    assert [row["scores"][A] for row in rows(place, "sums_test.json")] == [naive_number(entry) for entry in sums(4, A)]


def test_rows_join_by_doc_id_not_by_position(place):
    entries = sums(6, B)
    write_log(place / "logs", A, "mini_sums", sums(6, A))
    write_log(place / "logs", B, "mini_sums", [entry | {"doc_id": n} for n, entry in enumerate(entries)][::-1])
    assert run(place) == 0
    assert [row["scores"]["lab/beta/x"] for row in rows(place, "sums_test.json")] == [
        naive_number(entry) for entry in entries
    ]


def sample(resps, target="", doc=None, arguments=None, **line):
    return Sample("here, line 1", 0, "", doc or {}, target, arguments or [["context", SAMPLING]], resps, line)


def test_choice_takes_the_first_of_equals_and_labels_as_targets():
    options = [["context", f" {letter}"] for letter in "ABC"]
    equals = sample([[["-1", "False"]], [["-1", "False"]], [["-3", "False"]]], "1", arguments=options)
    assert rules.choice(equals).score == 0
    outcome = rules.choice(sample([[["-9", "False"]], [["-1", "False"]], [["-inf", "False"]]], "B", arguments=options))
    assert outcome.score == pytest.approx(1 / (1 + np.exp(-8))) and outcome.answers == [1] and outcome.right == [True]
    for target in ("3", "D", "-1", "[0, 1]"):
        with pytest.raises(LogError, match="none of the 3 options"):
            rules.choice(sample([[["-1", "False"]]] * 3, target, arguments=options))
    with pytest.raises(LogError, match="overflowed"):
        rules.choice(sample([[["nan", "False"]]] * 3, "0", arguments=options))
    with pytest.raises(LogError, match="log-likelihoods"):
        rules.choice(sample([["some text"]], "0", arguments=options))


@pytest.mark.parametrize(
    "answer, gold, raw, numeric",
    [
        ("#### 72", "72", True, True),
        ("#### 72.", "72", False, True),
        ("#### 72.00", "72", False, True),
        ("#### $72", "72", False, True),
        ("#### 1000", "1,000", False, True),
        ("#### 1,000", "1,000", True, True),
        ("#### 1,000.50", "1000.5", False, True),
        ("#### -5", "-5", True, True),
        ("#### -$5", "-5", False, True),
        ("#### 5", "-5", False, False),
        ("72", "72", False, False),
        ("#### 72 dollars", "72", True, True),
        ("#### 1.2.3", "1", False, False),
        ("#### ...", "0", False, False),
        ("#### x #### 3", "3", True, True),
        ("#### 7 #### 3", "3", False, False),
        ("#### 072", "72", False, True),
    ],
)
def test_numbers_raw_and_by_value(answer, gold, raw, numeric):
    line = sample([[answer] * 4 + ["none"]], f"because #### {gold}")
    assert number(line).score == (0.8 if raw else 0) and number(line, numeric=True).score == (0.8 if numeric else 0)


def test_values_of_numbers():
    assert value_of("1,234,567.00") == 1234567
    assert value_of("$ 3") == 3
    assert value_of("-.5") == value_of("-0.50")
    assert value_of("x") is None
    assert value_of("") is None
    with pytest.raises(LogError, match="reference answer 'ten' is no number"):
        number(sample([["#### 10"]], "#### ten"), numeric=True)


def test_numeric_answers_flag(place):
    for llm in (A, B):
        write_log(place / "logs", llm, "mini_sums", sums(8, llm, gold="{:,}"))
    assert run(place, output="raw") == 0 and run(place, "--numeric_answers", output="value") == 0
    raw, value = (
        [list(row["scores"].values()) for row in rows(place, "sums_test.json", name)] for name in ("raw", "value")
    )
    assert np.mean(value) > np.mean(raw) + 0.2
    assert json.loads((place / "value" / "convert.json").read_text())["options"]["numeric_answers"] is True


def metric_entries(values):
    return [
        {
            "doc": {"problem": f"Solve {n}", "solution": "$1$", "answer": "1"},
            "target": "1",
            "arguments": [["Problem:", {"do_sample": False, "temperature": 0, "until": []}]],
            "resps": [["The final answer is $1$"]],
            "metrics": {"exact_match": value, "math_verify": 1 - value},
        }
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize("year", [2024, 2026])
def test_math_takes_the_harness_metric(place, year):
    write_log(place / "logs", A, "minerva_math_prealgebra", metric_entries([1, 0, 1]), year)
    write_log(place / "logs", B, "minerva_math_prealgebra", metric_entries([0, 0, 1]), year)
    assert run(place, records=()) == 0
    assert rows(place, "MATH_prealgebra.json") == [
        {"question": f"Solve {n}", "scores": {A: a, "lab/beta/x": b}}
        for n, (a, b) in enumerate([(1, 0), (0, 0), (1, 1)])
    ]
    record = {
        "task": "math",
        "leaves": ["minerva_math_prealgebra"],
        "rule": "metric",
        "question": "{problem}",
        "test": "math_test.json",
        "metric": "math_verify",
    }
    assert run(place, "--tasks", "math", records=[record], output="verify") == 0
    assert [row["scores"][A] for row in rows(place, "math_test.json", "verify")] == [0, 1, 0]


def test_a_metric_of_ten_answers_is_refused():
    with pytest.raises(LogError, match="judged the first alone"):
        rules.metric(sample([["a", "b"]], exact_match=1), "exact_match")
    with pytest.raises(LogError, match="its metrics: acc"):
        rules.metric(sample([["a"]], metrics=["acc"]), "exact_match")


# Code


PROMPT = '\ndef add(a, b):\n    """ Add. """\n'
HUMANEVAL = {
    "prompt": PROMPT,
    "entry_point": "add",
    "test": "\ndef check(candidate):\n    assert candidate(2, 3) == 5\n",
}
MBPP = {"text": "Add two.", "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]}
JAVASCRIPT = {
    "prompt": "/* Add { two. */\nconst add = (a, b) => {\n",
    "declaration": "const add = (a, b) => {\n",
    "test": "const check = () => { console.assert(add(2, 3) === 5) }\ncheck()\n",
}


def test_programs_of_humaneval():
    right, tail = "\n    return a + b", "\n    x = 1\nprint(add)\ndef other():\n    pass"
    stripped, whole = [[PROMPT.strip(), SAMPLING]], [[PROMPT, SAMPLING]]
    for arguments, answer in ((stripped, right + tail), (whole, right[1:] + tail)):
        (program,) = programs(sample([[answer]], doc=HUMANEVAL, arguments=arguments), "python")
        assert program.language == "python"
        assert program.source == f"{PROMPT.rstrip()}{right}\n    x = 1\n{HUMANEVAL['test']}\ncheck(add)\n"
        exec(program.source, {})


def test_programs_of_mbpp():
    context = f'"""\n{MBPP["text"]}\n{MBPP["test_list"][0]}\n"""\n'
    answer = "def helper():\n    return 0\ndef add(a, b):\n    return a + b + helper()\nassert add(1, 2) == 4"
    (program,) = programs(sample([[answer]], doc=MBPP, arguments=[[context, SAMPLING]]), "python")
    assert program.source == answer[: answer.index("\nassert")] + "\nassert add(1, 2) == 3\nassert add(0, 0) == 0\n"
    with pytest.raises(LogError, match="needs the field 'prompt'.*it has text"):
        programs(sample([["x"]], doc={"text": ""}), "python")


@pytest.mark.parametrize(
    "answer, kept",
    [
        ("  return a + b\n}\nconst x = {", "  return a + b\n}"),
        ("  if (a) { return b }\n  return { a }.a\n}}}", "  if (a) { return b }\n  return { a }.a\n}"),
        (
            '  // }\n  /* } */ return \'}\' + "\\"}" + `}${a}`\n} tail',
            '  // }\n  /* } */ return \'}\' + "\\"}" + `}${a}`\n}',
        ),
        ("  return a", "  return a"),
    ],
)
def test_javascript_ends_where_brackets_balance(answer, kept):
    assert cut_balanced("/* { */ const add = (a, b) => {\n", answer) == kept
    (program,) = programs(
        sample([[answer]], doc=JAVASCRIPT, arguments=[[JAVASCRIPT["prompt"].strip(), SAMPLING]]), "javascript"
    )
    assert program.source == f"{JAVASCRIPT['prompt'].rstrip()}{kept}\n\n{JAVASCRIPT['test']}\n"


def code_entries(doc, right, wrong, share_of_right):
    prompt = doc.get("prompt", "").strip()
    answers = [right] * round(10 * share_of_right) + [wrong] * round(10 - 10 * share_of_right)
    return [{"doc": doc, "target": "", "arguments": [[prompt, SAMPLING]], "resps": [answers], "metrics": {"bypass": 0}}]


@pytest.mark.parametrize(
    "leaf, doc, name, right, wrong",
    [
        ("humaneval_generate", HUMANEVAL, "humaneval", "\n    return a + b\n\ndef x", "\n    return a - b"),
        ("mbpp_generate", MBPP, "mbpp", "def add(a, b): return a + b", "def add(a, b): return 3"),
        ("humaneval_js_generate", JAVASCRIPT, "javascript", "\n  return a + b\n}\n}", "\n  return a * b\n}\n"),
    ],
)
def test_code_is_run_in_the_sandbox_and_scored(place, capsys, leaf, doc, name, right, wrong):
    if name == "javascript" and not shutil.which("node"):
        pytest.skip("node is not installed")
    shares = {A: 0.7, B: 0.0}
    for llm, share in shares.items():
        path = write_log(place / "logs", llm, leaf, code_entries(doc, right, wrong, share))
    record = {
        "task": "code",
        "leaves": [leaf],
        "rule": "javascript" if name == "javascript" else "python",
        "question": "about {text}" if name == "mbpp" else "{prompt}",
        "test": "code_test.json",
    }
    assert run(place, "--tasks", "code", records=[record]) == 2
    assert "1 programs that LLMs wrote must be run" in (error := capsys.readouterr().err)
    assert "--run_code" in error
    assert not (place / "mine").exists()
    assert run(place, "--tasks", "code", "--run_code", "--workers", 2, records=[record]) == 0
    (row,) = rows(place, "code_test.json")
    assert row["scores"] == {A: 0.7, "lab/beta/x": 0.0}
    kept = path.with_suffix(".verdicts.jsonl")
    assert [json.loads(line)["passed"] for line in kept.read_text().splitlines()] == [False]
    # All verdicts are known: nothing is run.
    assert run(place, "--tasks", "code", records=[record], output="again") == 0
    assert rows(place, "code_test.json", "again") == [row]


def test_running_programs_can_be_stopped_and_goes_on(place, monkeypatch):
    wanted, path = [Program("python", f"assert {n} % 3") for n in range(40)], place / "log.verdicts.jsonl"
    ran = Counter()

    def judge(some, workers, seconds, megabytes, progress):
        for place_, program in enumerate(some):
            if len(ran) == stop:
                raise KeyboardInterrupt
            ran[program.source] += 1
            progress(place_, Verdict(int(program.source.split()[1]) % 3 != 0, "passed"))

    monkeypatch.setattr(rules, "judge", judge)
    stop = 24
    with pytest.raises(KeyboardInterrupt):
        verdicts(wanted * 2, path, Judging(True, workers=1), "x")
    with path.open("a") as file:
        file.write('{"program": "cut off')  # a kill in the middle of a write
    ran_before, ran, stop = ran, Counter(), None
    assert len(ran_before) == 24
    found = verdicts(wanted * 2, path, Judging(True, workers=3), "x")
    assert found == {key_of(program): n % 3 != 0 for n, program in enumerate(wanted)}
    assert set(ran) == {program.source for program in wanted} - set(ran_before) and set(ran.values()) == {1}
    assert all(json.loads(line) for line in path.read_text().splitlines())
    ran.clear()
    assert verdicts(wanted, path, Judging(False), "x") == found and not ran  # consent is for running, and nothing runs
    with pytest.raises(LogError, match="40 programs"):
        verdicts(wanted, path, Judging(False, seconds=3), "x")  # other limits, other verdicts


RIGHT_PROGRAMS = {A: [10, 3, 0, 7], B: [1, 0, 10, 5]}  # of the ten to each of four problems
VERDICTS_RECORD = {
    "task": "humaneval",
    "leaves": ["humaneval"],
    "rule": "verdicts",
    "documents": "humaneval.jsonl",
    "question": "{prompt}",
    "test": "humaneval_test.json",
}


def judge_with_bigcode(folder, llm):
    """Run utils.scoring.bigcode on the generations and references in a folder."""
    files = []
    for name in ("generations", "references"):
        files += [f"--{name}", str(folder / f"{name}_humaneval.json")]
    about = ["--language", "python", "--task", "humaneval", "--llm", llm]
    assert bigcode_main([*files, *about, "--output", str(folder / "verdicts.json"), "--run_code"]) == 0


@pytest.fixture
def judged(place):
    """Four problems, and ten judged programs of two LLMs on each. Returns the documents and the second LLM's folder."""
    documents = [HUMANEVAL | {"prompt": PROMPT.replace("Add.", f"Add, {n}.")} for n in range(4)]
    # Line ends to str.splitlines, but not to JSON lines.
    documents[2]["prompt"] = documents[2]["prompt"].replace("Add, 2.", "Add\u2028\u0085 them.")
    lines = [json.dumps(document, ensure_ascii=False) + "\n" for document in documents]
    (place / "humaneval.jsonl").write_text("".join(lines), encoding="utf-8")
    for llm, counts in RIGHT_PROGRAMS.items():
        folder = place / "logs" / llm.replace("/", "__") / "humaneval"
        folder.mkdir(parents=True)
        generations = []
        for document, count in zip(documents, counts):
            signs = "+" * count + "-" * (10 - count)
            generations.append([document["prompt"].strip() + f"\n    return a {sign} b" for sign in signs])
        references = [document["test"] + "\ncheck(add)" for document in documents]
        (folder / "generations_humaneval.json").write_text(json.dumps(generations))
        (folder / "references_humaneval.json").write_text(json.dumps(references))
        judge_with_bigcode(folder, llm)
    return documents, folder


def test_the_bigcode_route(place, judged):
    documents, _ = judged
    assert run(place, records=[VERDICTS_RECORD]) == 0
    written = rows(place, "humaneval_test.json")
    expected = [[b / 10, a / 10] for a, b in zip(*RIGHT_PROGRAMS.values())]
    assert [list(row["scores"].values()) for row in written] == expected
    assert [row["question"] for row in written] == [document["prompt"] for document in documents]


def test_verdicts_by_other_tests_are_refused(place, judged, capsys):
    _, folder = judged
    scores = json.loads((folder / "verdicts.json").read_text())["scores"]
    references = folder / "references_humaneval.json"
    # The other test changes no program's verdict.
    edit(references, lambda text: text.replace("candidate(2, 3) == 5", "candidate(4, 3) == 7"))
    assert run(place, records=[VERDICTS_RECORD]) == 2
    assert "verdicts by other tests than those of references_humaneval.json" in capsys.readouterr().err
    judge_with_bigcode(folder, B)
    assert json.loads((folder / "verdicts.json").read_text())["scores"] == scores
    assert run(place, records=[VERDICTS_RECORD]) == 2
    assert f"the programs of lab/beta/x and {A} were judged by different tests" in capsys.readouterr().err


def test_verdicts_on_other_programs_or_documents_are_refused(place, judged, capsys):
    _, folder = judged
    edit(folder / "generations_humaneval.json", lambda text: text.replace("+", "*", 1))
    assert run(place, records=[VERDICTS_RECORD]) == 2
    assert "verdicts on other programs" in capsys.readouterr().err
    edit(place / "humaneval.jsonl", lambda text: text + text)
    assert run(place, records=[VERDICTS_RECORD]) == 2
    assert "4 problems, and humaneval.jsonl has 8 documents" in capsys.readouterr().err
    without_documents = {name: value for name, value in VERDICTS_RECORD.items() if name != "documents"}
    assert run(place, records=[without_documents]) == 2


# Refusals


def edit(path, change):
    text = path.read_text(encoding="utf-8")
    path.write_text(change(text), encoding="utf-8")


def other_document(line):
    value = json.loads(line)
    value["doc"]["question"] += " Really?"
    value["doc_hash"] = hashlib.sha256(json.dumps(value["doc"], indent=2, ensure_ascii=False).encode()).hexdigest()
    return json.dumps(value) + "\n"


def change_line(n, change):
    return lambda text: "".join(
        change(line) if k == n else line for k, line in enumerate(text.splitlines(keepends=True))
    )


BROKEN = {  # what is done to B's log of today, and what the error says
    "another document": (
        change_line(3, other_document),
        ["mini_sums, doc_id 3", A, "lab/beta/x", "different documents", "Score both with the same"],
    ),
    "cut in the middle of a line": (lambda text: text[:-40], ["line 6", "cut off or broken", "copy it again"]),
    "cut at the last line end": (lambda text: text[:-1], ["line 6", "cut off or broken (no line end)"]),
    "cut between lines": (change_line(5, lambda line: ""), ["5 documents", "says 6", "truncated"]),
    "twice in one file": (lambda text: text * 2, ["line 7", "doc_id 0 was there before", "line 1", "two runs"]),
    "empty": (lambda text: "", ["empty", "score it again"]),
    "not a log": (lambda text: '{"a": 1}\n', ["line 1", "not a sample of lm-evaluation-harness", "--log_samples"]),
    "fewer answers to one": (
        change_line(2, lambda line: json.dumps((v := json.loads(line)) | {"resps": [v["resps"][0][:9]]}) + "\n"),
        ["line 3", "9 answers, and 10"],
    ),
    "no field": (
        change_line(0, lambda line: line.replace('"question"', '"query"')),
        ["line 1", "'{question}'", "query, answer"],
    ),
    "no text": (
        change_line(1, lambda line: json.dumps((v := json.loads(line)) | {"doc": v["doc"] | {"question": " "}}) + "\n"),
        ["line 2", "text is empty"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_log_is_refused_and_nothing_is_written(place, capsys, name):
    change, words = BROKEN[name]
    write_log(place / "logs", A, "mini_sums", sums(6, A))
    edit(write_log(place / "logs", B, "mini_sums", sums(6, B)), change)
    assert run(place) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and not [word for word in words if word not in error], error
    assert not (place / "mine").exists() and not list(place.glob(".mine*"))


def with_fields(**fields):
    return lambda line: json.dumps(json.loads(line) | fields) + "\n"


OTHER_TYPES = {  # what B's second line has in a field, and what the error says
    "doc_id is a text": (with_fields(doc_id="1"), "doc_id"),
    "doc_id is true": (with_fields(doc_id=True), "doc_id"),
    "doc_hash is a number": (with_fields(doc_hash=5), "doc_hash"),
    "the filter is a list": (with_fields(filter=[1]), "filter"),
    "arguments are a number": (with_fields(arguments=3), "arguments"),
    "a request is a text": (with_fields(arguments=["ab"]), "arguments"),
    "a line is a list": (lambda line: "[1]\n", "not a sample"),
    "the target is null": (with_fields(target=None), "reference answer must be text or a number, found None"),
    "an answer is a number": (with_fields(resps=[[5] * 10]), "not generated answers: [[5, 5"),
    "the question is null": (with_fields(doc={"question": None}), "a field is NoneType, not text"),
    "the question is a list": (with_fields(doc={"question": ["a"]}), "a field is list, not text"),
    "half a character": (with_fields(doc={"question": "\ud800", "answer": "1"}), "surrogates not allowed"),
    "deep": (lambda line: line[:-2] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}\n", "recursion"),
    "a long number": (lambda line: line[:-2] + ', "x": ' + "9" * 5000 + "}\n", "4300 digits"),
}


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_fields_of_other_types_are_refused_by_file_and_line(place, capsys, name):
    change, words = OTHER_TYPES[name]
    write_log(place / "logs", A, "mini_sums", sums(4, A))
    log = write_log(place / "logs", B, "mini_sums", sums(4, B))
    edit(log, change_line(1, change))
    assert run(place) == 2
    error = capsys.readouterr().err
    assert f"{log.relative_to(place)}, line 2: " in error and words in error
    assert not (place / "mine").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"n-samples": []},
        {"n-samples": {"mini_sums": [4]}},
        {"n-samples": {"mini_sums": {"original": "4", "effective": "4"}}},
        {"config": "limit"},
        {"n-shot": 5},
        {"lm_eval_version": "\ud800"},
        {"lm_eval_version": 0.4},
        {"n-shot": {"mini_sums": [5]}},
    ],
)
def test_a_results_file_of_other_types_is_refused(place, capsys, fields):
    log = write_log(place / "logs", A, "mini_sums", sums(4, A))
    results = log.with_name(f"results_{TIME}.json")
    results.write_text(json.dumps(json.loads(results.read_text()) | fields))
    assert run(place) == 2
    assert f"{results.relative_to(place)}: not a results file of the harness" in capsys.readouterr().err


def test_a_choice_needs_two_values_and_one_request_for_each_option():
    options = [["context", f" {letter}"] for letter in "ABC"]
    for answer in ("7 apples", ["-1"], ["-1", "False", "0"], [True, False], {"0": -1, "1": 0}, [10**400, False]):
        with pytest.raises(LogError, match="not the log-likelihoods of a multiple choice"):
            rules.choice(sample([[answer]] * 3, "0", arguments=options))
    with pytest.raises(LogError, match="of 2 options, and 3 were asked for"):
        rules.choice(sample([[["-1", "False"]]] * 2, "0", arguments=options))
    for target in (None, [0], {"a": 1}, "9" * 5000):
        with pytest.raises(LogError, match="none of the 3 options"):
            rules.choice(sample([[["-1", "False"]]] * 3, target, arguments=options))


@pytest.mark.parametrize("value", [[1], {"a": 1}, 10**400, float("nan"), "1", None, -0.1])
def test_a_metric_that_is_no_share_is_refused(value):
    with pytest.raises(LogError, match=r"here, line 1: the metric exact_match is .*, not a number in \[0, 1\]"):
        rules.metric(sample([["a"]], exact_match=value), "exact_match")


@pytest.mark.parametrize(
    "rule, doc, words",
    [
        ("python", HUMANEVAL | {"prompt": 5}, "'prompt' of the document must be text, found 5"),
        ("python", HUMANEVAL | {"entry_point": None}, "'entry_point'"),
        ("python", HUMANEVAL | {"test": ["x"]}, "'test'"),
        ("javascript", JAVASCRIPT | {"test": " "}, "'test'"),
        ("python", MBPP | {"test_list": "assert add(1, 2) == 3"}, "test_list must be a list of texts, found 'assert"),
        ("python", MBPP | {"test_list": []}, "test_list must be a list of texts"),
        ("python", MBPP | {"test_list": [1]}, "test_list must be a list of texts"),
    ],
)
def test_documents_of_programs_have_texts(rule, doc, words):
    with pytest.raises(LogError, match=re.escape(words)):
        programs(sample([["return 1"]], doc=doc), rule)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"program": "x", "passed": true}', '{"program": 1, "passed": 1, "seconds": 10, "megabytes": 4}'],
)
def test_a_broken_file_of_verdicts_is_named_with_its_line(tmp_path, line):
    store = tmp_path / "x.verdicts.jsonl"
    store.write_text(f'{{"program": "a", "passed": true, "seconds": 10.0, "megabytes": 4096}}\n{line}\n')
    with pytest.raises(LogError, match=r"x.verdicts.jsonl, line 2: .*delete that line"):
        rules.read_verdicts(store, Judging())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"passed": 5}, "not what utils.scoring.bigcode writes"),
        ({"passed": [[], []]}, "true or false for each program"),
        ({"passed": [["true"], [1]]}, "true or false for each program"),
        ({"documents": "[1]\n"}, "documents.jsonl, line 1: expected an object, found [1]"),
        ({"documents": "{}\n{\n"}, "documents.jsonl, line 2: not valid JSON"),
        ({"documents": '{"question": "a"}\n{"question": "\\ud800"}\n'}, "documents.jsonl, document 1: cannot be read"),
        ({"references_sha256": 1.5}, "generations_sha256 and references_sha256 must be text"),
    ],
)
def test_verdicts_of_other_types_are_refused(place, capsys, change, words):
    folder = place / "logs" / A.replace("/", "__") / "sums"
    folder.mkdir(parents=True)
    saved = {"passed": [[True], [False]], "generations_sha256": "a", "references_sha256": "b"}
    (folder / "verdicts.json").write_text(json.dumps(saved | change))
    (place / "documents.jsonl").write_text(change.get("documents", '{"question": "a"}\n{"question": "b"}\n'))
    record = SUMS | {"leaves": ["sums"], "rule": "verdicts", "documents": str(place / "documents.jsonl")}
    assert run(place, records=[record]) == 2 and words in capsys.readouterr().err


def test_an_llm_without_logs_is_noted(place, capsys):
    write_log(place / "logs", A, "mini_sums", sums(4, A))
    (place / "logs" / "lab__empty" / ".g.part").mkdir(parents=True)
    assert run(place) == 0
    assert f"note: {place}/logs/lab__empty holds no logs, so that it is left out" in capsys.readouterr().err


def test_a_cut_list_of_2024_is_refused(place, capsys):
    write_log(place / "logs", A, "mini_sums", sums(6, A), 2024)
    edit(write_log(place / "logs", B, "mini_sums", sums(6, B), 2024), lambda text: text[: len(text) // 2])
    assert run(place) == 2 and "cut off or broken" in capsys.readouterr().err


@pytest.mark.parametrize("year", [2024, 2026])
def test_different_counts_are_refused(place, capsys, year):
    write_log(place / "logs", A, "mini_sums", sums(6, A), year)
    write_log(place / "logs", B, "mini_sums", sums(5, B), year)
    assert run(place) == 2
    error = capsys.readouterr().err
    assert f"mini_sums: lab/beta/x has 5 documents and {A} 6; doc_id 5" in error and "without --limit" in error


def test_different_numbers_of_answers_are_refused(place, capsys):
    write_log(place / "logs", A, "mini_sums", sums(6, A))
    write_log(place / "logs", B, "mini_sums", [entry | {"resps": [entry["resps"][0][:1]]} for entry in sums(6, B)])
    assert run(place) == 2 and f"lab/beta/x gave 1 answers and {A} 10" in capsys.readouterr().err


@pytest.mark.parametrize("year", [2024, 2026])
def test_a_run_with_a_limit_is_refused_unless_allowed(place, capsys, year):
    for llm in (A, B):
        write_log(place / "logs", llm, "mini_sums", sums(6, llm), year, limit=6.0 if llm == B else None)
    assert run(place) == 2
    assert "lab/beta/x with --limit 6" in (error := capsys.readouterr().err) and "--allow_limit" in error
    assert run(place, "--allow_limit") == 0 and len(rows(place, "sums_test.json")) == 6


def test_chosen_samples_are_refused(place, capsys):
    path = write_log(place / "logs", A, "mini_sums", sums(6, A))
    edit(path.with_name(f"results_{TIME}.json"), lambda text: text.replace('"original": 6', '"original": 60'))
    assert run(place) == 2 and "with --samples: 6 of 60 documents" in capsys.readouterr().err


def test_a_log_without_its_results_is_refused(place, capsys):
    write_log(place / "logs", A, "mini_sums", sums(6, A), results=False)
    assert run(place) == 2 and f"results_{TIME}.json is missing" in capsys.readouterr().err


@pytest.mark.parametrize("task, leaves", [("mmlu", MMLU), ("cmmlu", CMMLU), ("ceval", CEVAL)])
def test_a_missing_subject_is_refused(place, capsys, task, leaves):
    prefix = {"mmlu": "mmlu_", "cmmlu": "cmmlu_", "ceval": "ceval-valid_"}[task]
    for leaf in leaves:
        entries = choices(2, A)
        for n, entry in enumerate(entries):
            entry["doc"] |= dict.fromkeys(("question", "Question"), f"{leaf} {n}")
        for llm in (A, B):
            write_log(place / "logs", llm, prefix + leaf, entries, group=task)
    assert run(place, records=()) == 0
    assert len(
        [
            row
            for name in (f"{task}_train.json", f"{task}_test.json", f"{task}.json")
            if (place / "mine" / name).exists()
            for row in rows(place, name)
        ]
    ) == 2 * len(leaves)
    capsys.readouterr()
    next((place / "logs").glob(f"lab__beta__x/**/samples_{prefix}{leaves[7]}_*")).unlink()
    assert run(place, records=(), output="other") == 2
    words = f"{task}: lab/beta/x has no log of 1 of its {len(leaves)} leaf tasks: {prefix}{leaves[7]}"
    assert words in capsys.readouterr().err
    assert run(place, "--llms", A, records=(), output="other") == 0


def test_leaf_lists_are_those_of_the_harness():
    lm_eval = pytest.importorskip("lm_eval")
    tasks = Path(lm_eval.__file__).parent / "tasks"
    for folder, prefix, names in (
        ("mmlu/default", "mmlu_", MMLU),
        ("cmmlu", "cmmlu_", CMMLU),
        ("ceval", "ceval-valid_", CEVAL),
    ):
        assert {path.stem.removeprefix(prefix) for path in (tasks / folder).glob(f"{prefix}*.yaml")} == set(names)
    assert [len(names) for names in (MMLU, CMMLU, CEVAL)] == [57, 67, 52]


def test_the_paper_table_fits_the_scripts():
    """Each leaf is a task of ours in eval_scripts/tasks, or one that the installed harness has."""
    lm_eval = pytest.importorskip("lm_eval")
    ours = {path.stem for path in (REPO / "eval_scripts" / "tasks").glob("*.yaml")}
    texts = [path.read_text(encoding="utf-8") for path in (Path(lm_eval.__file__).parent / "tasks").rglob("*.yaml")]
    theirs = {
        line.split(":", 1)[1].strip().strip("\"'")
        for text in texts
        for line in text.splitlines()
        if line.lstrip().startswith(("task:", '"task":'))
    }
    for record in PAPER:
        assert set(record.leaves) <= ours | theirs, record.task


def test_filters(place, capsys):
    write_log(place / "logs", A, "mini_sums", sums(6, A), filters=("strict-match", "flexible-extract"))
    assert run(place) == 2
    assert "strict-match, flexible-extract" in capsys.readouterr().err
    assert run(place, records=[SUMS | {"filter": "strict"}]) == 2
    assert "no line has the filter 'strict'" in capsys.readouterr().err
    assert run(place, records=[SUMS | {"filter": "flexible-extract"}]) == 0
    assert [row["scores"][A] for row in rows(place, "sums_test.json")] == [naive_number(entry) for entry in sums(6, A)]


def test_a_line_without_a_filter_among_others_is_refused(place, capsys):
    log = write_log(place / "logs", A, "mini_sums", sums(4, A), filters=("strict",))
    edit(log, change_line(2, lambda line: line.replace('"filter": "strict"', '"other": "strict"')))
    for record in (SUMS, SUMS | {"filter": "strict"}):
        assert run(place, records=[record]) == 2
        assert "once per filter (strict, None)" in capsys.readouterr().err


def test_repeats_of_2024_that_differ_are_refused(place, capsys):
    path = write_log(place / "logs", A, "mini_sums", sums(3, A), 2024, filters=("strict-match", "flexible-extract"))
    assert run(place) == 0 and len(rows(place, "sums_test.json")) == 3
    lines = json.loads(path.read_text())
    lines[4]["resps"][0][0] = "other"
    path.write_text(json.dumps(lines))
    assert run(place, output="other") == 2 and "doc_id 1 was there before" in capsys.readouterr().err


def test_the_newest_run_of_a_leaf_counts(place):
    old = [entry | {"resps": [["none"] * 10]} for entry in sums(6, A)]
    write_log(place / "logs", A, "mini_sums", old, time="2026-11-21T10-07-10.453226")
    write_log(place / "logs", A, "mini_sums", sums(6, A), time="2026-11-22T10-07-10", group="later")
    write_log(place / "logs", A, "mini_sums", old, time="2026-11-21T23-07-10.1", group="between")
    write_log(place / "logs", A, "mini_sums", old, time="2026-12-22T10-07-10.1", group=".g.part")  # stopped
    assert run(place) == 0
    assert [row["scores"][A] for row in rows(place, "sums_test.json")] == [naive_number(entry) for entry in sums(6, A)]


def test_two_logs_of_2024_are_refused(place, capsys):
    write_log(place / "logs", A, "mini_sums", sums(6, A), 2024)
    write_log(place / "logs", A, "mini_sums", sums(6, A), 2024, group="other")
    assert run(place) == 2 and "nothing tells which is newer" in capsys.readouterr().err
    assert run(place, records=[SUMS | {"group": "other"}]) == 0


@pytest.mark.parametrize(
    "settings, cause",
    [
        ({"do_sample": False, "temperature": 0.2}, "greedy decoding (do_sample False, temperature 0.2)"),
        (SAMPLING, "a fixed seed"),
        ({"temperature": 0.2}, "a fixed seed"),
    ],
)
def test_ten_equal_answers_are_warned_of(place, capsys, settings, cause):
    def entries(llm, different):
        made = sums(40, llm)
        return [
            entry
            | {
                "resps": [entry["resps"][0][:1] * 10 if n >= different else entry["resps"][0]],
                "arguments": [["context", settings]],
            }
            for n, entry in enumerate(made)
        ]

    write_log(place / "logs", A, "mini_sums", entries(A, 1))  # one that differs does not hide it
    write_log(place / "logs", B, "mini_sums", entries(B, 20))
    assert run(place) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "all 10 answers are equal for" in warnings[0]
    assert cause in warnings[0]
    assert "org__alpha" in warnings[0]
    assert json.loads((place / "mine" / "convert.json").read_text())["warnings"] == [
        warnings[0].removeprefix("warning: ")
    ]


def test_different_numbers_of_worked_examples_are_warned_of(place, capsys):
    for llm, shots in ((A, 5), (B, 0)):
        path = write_log(place / "logs", llm, "mini_sums", sums(6, llm)).with_name(f"results_{TIME}.json")
        edit(path, lambda text, shots=shots: json.dumps(json.loads(text) | {"n-shot": {"mini_sums": shots}}))
    assert run(place) == 0 and f"worked examples: lab/beta/x 0, {A} 5" in capsys.readouterr().err


def test_names_that_are_not_there(place, capsys):
    write_both(place)
    for flags, words in (
        (["--llms", A, "org/none"], "no logs of org/none; it has"),
        (["--llms", A, A], f"--llms names {A} twice"),
        (["--tasks", "nothing"], "no conversion for nothing; known: quiz, sums, mmlu"),
        (["--tasks", "mmlu"], "--tasks mmlu: no logs of mmlu_abstract_algebra"),
        (["--workers", 0], "--workers is 0"),
        (["--time_limit", "nan"], "--time_limit is nan"),
        (["--time_limit", "inf"], "--time_limit is inf"),
    ):
        assert run(place, *flags) == 2 and words in capsys.readouterr().err
    assert main(["--logs", str(place / "no"), "--output", str(place / "x")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (place / "none").mkdir()
    assert main(["--logs", str(place / "none"), "--output", str(place / "x")]) == 2
    assert "no folder in it holds logs" in capsys.readouterr().err
    assert main(["--logs", str(place / "logs"), "--output", str(place / "x")]) == 2
    assert "no logs of any task in the table" in capsys.readouterr().err


@pytest.mark.parametrize(
    "record, words",
    [
        ([], "a list of objects"),
        ([SUMS | {"rules": "x"}], "record 0: unknown field rules"),
        ([QUIZ, {"task": "x"}], "record 1: lacks leaves, question, rule"),
        ([SUMS | {"rule": "guess"}], "'rule' is 'guess'"),
        ([SUMS | {"test": "other_test.json"}], "'other_test.json' must be sums.json"),
        ([SUMS | {"test": "../sums_test.json"}], "must be sums.json"),
        ([QUIZ | {"test_fraction": 0}], "'test_fraction' is 0"),
        ([SUMS | {"test_fraction": 0.5}], "left out with one"),
        ([SUMS | {"task": "Sums"}], "'task' must be lower case"),
        ([SUMS | {"task": "convert", "test": "convert.json"}], "the name convert.json is taken"),
        ([SUMS | {"test": None}], "give 'train', 'test' or both"),
        ([SUMS, SUMS], "two records write sums_test.json"),
        ([SUMS | {"leaves": "mini_sums"}], "must be a list"),
        ([SUMS | {"leaves": 5}], "must be a list"),
        ([SUMS | {"question": ["{question}"]}], "'question' is ['{question}']; it must be text"),
        ([SUMS | {"group": 5}], "'group' is 5; it must be text"),
        ([QUIZ | {"train_rows": -1}], "'train_rows' is -1"),
        ([QUIZ | {"train_rows": "9"}], "'train_rows' is '9'"),
        ([QUIZ | {"test_fraction": "x"}], "record 0"),
    ],
)
def test_a_bad_spec_is_refused(place, capsys, record, words):
    write_both(place)
    assert run(place, records=record or [[]]) == 2
    assert words in (error := capsys.readouterr().err) and "spec.json" in error


def test_a_spec_may_replace_a_task_of_the_paper_and_use_patterns(place, capsys):
    write_log(place / "logs", A, "mmlu_toys", choices(8, A))
    write_log(place / "logs", A, "mmlu_games", choices(6, A))
    record = QUIZ | {"task": "mmlu", "leaves": ["mmlu_*"], "train": "mmlu_train.json", "test": "mmlu_test.json"}
    assert run(place, records=[record]) == 0
    assert len(rows(place, "mmlu_train.json") + rows(place, "mmlu_test.json")) == 14
    about = json.loads((place / "mine" / "convert.json").read_text())
    assert about["conversions"][0]["conversion"]["leaves"] == ["mmlu_games", "mmlu_toys"]
    assert run(place, records=[record | {"leaves": ["mmlu_*", "mmlu_x*"]}]) == 2
    assert "--spec: 'leaves' of 'mmlu' has 'mmlu_x*', which no leaf task with a log matches" in capsys.readouterr().err


def test_a_folder_with_files_of_others_is_left_alone(place, capsys):
    write_both(place)
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    assert run(place) == 2 and "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in (place / "mine").iterdir()] == ["thesis.txt"]
    (place / "mine" / "thesis.txt").unlink()
    # one's own folder is replaced, by as many files or more
    assert run(place, "--tasks", "sums") == 0
    assert run(place) == 0
    files = {path.name: path.read_bytes() for path in (place / "mine").iterdir()}
    assert sorted(files) == ["convert.json", "quiz_test.json", "quiz_train.json", "sums_test.json"]
    capsys.readouterr()
    assert run(place, "--tasks", "sums") == 2
    assert "quiz_test.json, quiz_train.json there would be lost" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (place / "mine").iterdir()} == files
    edit(next((place / "logs").rglob("*beta__x/samples_mini_sums*")), lambda text: text[:-9])
    assert run(place) == 2 and (place / "mine" / "sums_test.json").read_bytes() == files["sums_test.json"]


def test_two_conversions_into_one_folder_do_not_mix(place, capsys):
    write_both(place)
    for flags, folder in (([], "mine"), (["--answers", place / "said"], "said")):
        with atomic_folder(place / folder) as part:  # as another conversion does
            (part / "theirs").write_text("whole")
            assert run(place, *flags) == 2
            assert f"{folder}: another process is writing this folder" in capsys.readouterr().err
            assert (part / "theirs").read_text() == "whole"
        assert [path.name for path in (place / folder).iterdir()] == ["theirs"]
        (place / folder / "theirs").unlink()
    assert not list(place.glob(".*")) and not list((place / "mine").iterdir())


def test_what_another_conversion_wrote_meanwhile_is_not_lost(place, capsys, monkeypatch):
    write_both(place)

    def checked_then_written(args, files):
        check_options(args, files)
        monkeypatch.setattr(convert, "check_options", check_options)
        assert run(place, "--tasks", "quiz") == 0

    monkeypatch.setattr(convert, "check_options", checked_then_written)
    assert run(place, "--tasks", "sums") == 2
    assert "quiz_test.json, quiz_train.json there would be lost" in capsys.readouterr().err
    assert sorted(path.name for path in (place / "mine").iterdir())[1:] == ["quiz_test.json", "quiz_train.json"]


@pytest.mark.parametrize("there", [True, False])
def test_an_output_that_is_a_symbolic_link_is_followed(place, there):
    write_both(place)
    (place / "far").mkdir()
    if there:
        (place / "far" / "data").mkdir()
    (place / "mine").symlink_to(place / "far" / "data")
    assert run(place) == 0 and run(place) == 0
    assert (place / "mine").is_symlink() and (place / "far" / "data" / "convert.json").is_file()
    assert sorted(path.name for path in place.iterdir()) == ["far", "logs", "mine", "spec.json"]
    assert [path.name for path in (place / "far").iterdir()] == ["data"]


def test_what_a_killed_conversion_left_is_removed(place):
    write_both(place)
    assert run(place) == 0
    (place / "mine").rename(place / ".mine.old")
    (place / ".mine.part" / "deep").mkdir(parents=True)
    (place / ".mine.part" / "quiz_train.json").write_text("[")
    assert run(place) == 0
    assert not list(place.glob(".*"))
    assert sorted(path.name for path in (place / "mine").iterdir())[0] == "convert.json"


# Questions, splits, files


DOCS = {
    "mmlu": (
        {"question": " Which? ", "choices": ["w", "x{0}", "y", "z"], "answer": 1},
        " Which? \nA. w\nB. x{0}\nC. y\nD. z",
    ),
    "gsm8k": ({"question": "How many?", "answer": "#### 1"}, "How many?"),
    "cmmlu": (
        {"Question": "何处？", "A": "一", "B": "二", "C": "三", "D": "四", "Answer": "A"},
        "何处？\nA. 一\nB. 二\nC. 三\nD. 四\n答案：",
    ),
    "ceval": (
        {"question": "何处____", "A": "一", "B": "二", "C": "三", "D": "四", "answer": "A"},
        "何处____\nA. 一\nB. 二\nC. 三\nD. 四答案：",
    ),
    "arc_challenge": (
        {"question": "Why is it so?", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"},
        "Question:Why is it so?\nAnswer:",
    ),
    "arc_easy": ({"question": "Why?", "choices": {}, "answerKey": "A"}, "Question:Why?\nAnswer:"),
    "hellaswag": ({"query": "Baking: She", "choices": [], "gold": 0}, "Baking: She"),
    "math_prealgebra": (
        {"problem": "What is $\\frac{1}{2}$?", "solution": "", "answer": ""},
        "What is $\\frac{1}{2}$?",
    ),
    "humaneval": (HUMANEVAL, PROMPT),
    "mbpp": (MBPP, '"""\nAdd two.\nassert add(1, 2) == 3\n"""\n'),
    "javascript": (JAVASCRIPT, JAVASCRIPT["prompt"]),
}


@pytest.mark.parametrize("task", DOCS)
def test_question_texts(task):
    doc, text = DOCS[task]
    found = [question_of(sample([["x"]], doc=doc), record.question) for record in PAPER if record.task == task]
    assert found and set(found) == {text}


def test_question_texts_have_the_form_of_the_released_files(mirror):
    """The beginning, the end and the option lines of every released question."""
    option = lambda end: re.compile(r".+\nA\. .*\nB\. .*\nC\. .*\nD\. .*" + end, re.DOTALL)  # noqa: E731
    forms = {
        "mmlu_test": option(""),
        "cmmlu_train": option("\n答案："),
        "ceval": option("(?<!\n)答案："),
        "arc_challenge_test": re.compile(r"Question:\S.*\nAnswer:", re.DOTALL),
        "mbpp": re.compile(r'"""\n.*\nassert.*\n"""\n', re.DOTALL),
    }
    for name, form in forms.items():
        released = load(mirror / "split2_model7" / f"{name}.json").questions
        assert all(form.fullmatch(question) for question in released), name
        task = name.removesuffix("_test").removesuffix("_train")
        assert form.fullmatch(DOCS[task][1]), name


def test_the_paper_split_sizes():
    for count, test in ((14042, 4213), (11582, 3475), (1172, 352), (164, 49)):
        train, held = split([str(n) for n in range(count)], 0.3, 1)
        assert len(held) == test and sorted(train + held) == list(range(count))
    sizes = {
        name: (record.train_rows, record.test_fraction)
        for record in PAPER
        for name in record.files
        if name.endswith("train.json")
    }
    assert sizes["mmlu_train.json"] == sizes["cmmlu_train.json"] == (2000, 0.3) and sizes["gsm8k-train.json"] == (
        1000,
        0.0,
    )


def test_files_of_the_paper_are_those_that_training_expects():
    from utils.tasks import TASKS

    expected = {Path(name).name: task.kind for task in TASKS for name in (task.test, task.train) if name}
    made = {name: record.kind for record in PAPER for name in record.files}
    assert {name: made.get(name) for name in expected} == expected


def test_equal_questions_stay_on_one_side_and_seeds_matter():
    questions = [f"q{n // 3}" if n < 30 else f"r{n}" for n in range(200)]
    splits = [split(questions, 0.3, seed) for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]
    for train, test in splits:
        assert {questions[n] for n in train}.isdisjoint(questions[n] for n in test)
        assert sorted(train + test) == list(range(200))
        assert len(test) == 60
    assert splits[0][0] != sorted(splits[0][0])  # drawn order: the first rows are a sample of all leaves
    with pytest.raises(ValueError, match="cannot be split"):
        split(["same"] * 5, 0.3, 1)


def test_the_split_is_the_same_in_another_process_and_for_other_llms(place):
    write_both(place)
    assert run(place, output="both") == 0 and run(place, "--llms", A, output="one") == 0
    code = (
        "from utils.scoring.convert import split; import json; print(json.dumps(split([str(n) for n in range(50)], "
        "0.3, 7)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, env=os.environ | {"PYTHONHASHSEED": "5"}
    )
    assert json.loads(other.stdout) == list(split([str(n) for n in range(50)], 0.3, 7))
    assert [row["question"] for row in rows(place, "quiz_test.json", "both")] == [
        row["question"] for row in rows(place, "quiz_test.json", "one")
    ]
    train, test = ({row["question"] for row in rows(place, f"quiz_{side}.json", "both")} for side in ("train", "test"))
    assert train.isdisjoint(test)


def test_training_rows_are_capped(place):
    write_log(place / "logs", A, "mini_quiz", choices(20, A))
    assert run(place, output="all") == 0 and run(place, records=[QUIZ | {"train_rows": 5}], output="five") == 0
    assert rows(place, "quiz_train.json", "five") == rows(place, "quiz_train.json", "all")[:5]
    assert rows(place, "quiz_test.json", "five") == rows(place, "quiz_test.json", "all")


def test_answers_give_a_majority_vote(place):
    write_both(place)
    assert run(place, "--answers", place / "sides") == 0
    for name, naive in (("quiz_test.json", None), ("sums_test.json", naive_extract)):
        sides, written = json.loads((place / "sides" / name).read_text()), rows(place, name)
        assert len(sides) == len(written)
        for side, row in zip(sides, written):
            leaf_entries = {llm: (choices if naive is None else sums)(10, llm)[side["doc_id"]] for llm in (A, B)}
            assert leaf_entries[A]["doc"]["question"] == row["question"]
            for llm, name_ in ((A, A), (B, "lab/beta/x")):
                if naive is None:
                    values = [answers[0][0] for answers in leaf_entries[llm]["resps"]]
                    assert side["answers"][name_] == [values.index(max(values))]
                    assert side["gold"] == leaf_entries[llm]["target"]
                else:
                    assert side["answers"][name_] == [naive(text) for text in leaf_entries[llm]["resps"][0]]
                    assert np.mean(side["right"][name_]) == row["scores"][name_]
    assert run(place, "--answers", place / "mine" / "sides") == 2 and run(place, "--answers", place) == 2


def test_answers_do_not_replace_files_of_others(place, capsys):
    write_both(place)
    assert run(place, output="data") == 0
    before = (place / "data" / "sums_test.json").read_bytes()
    assert run(place, "--answers", place / "data") == 2 and not (place / "mine").exists()
    assert "--answers" in (error := capsys.readouterr().err)
    assert "no conversion wrote convert.json, quiz_test.json" in error
    assert (place / "data" / "sums_test.json").read_bytes() == before
    assert run(place, "--answers", place / "sides", "--tasks", "sums") == 0
    about = json.loads((place / "sides" / "answers.json").read_text())
    assert about["files"] == {
        "sums_test.json": hashlib.sha256((place / "mine" / "sums_test.json").read_bytes()).hexdigest()
    }
    assert run(place, "--answers", place / "sides") == 0  # one's own is replaced
    assert run(place, "--answers", place / "sides", "--tasks", "sums", output="sums") == 2 and "--answers" in (
        error := capsys.readouterr().err
    )
    assert "quiz_test.json, quiz_train.json there would be lost" in error
    assert len(list((place / "sides").iterdir())) == 4


def test_a_task_of_which_only_one_split_was_scored(place, capsys):
    write_log(place / "logs", A, "gsm8k_test", sums(4, A), filters=("strict-match", "flexible-extract"))
    assert run(place, "--tasks", "gsm8k", records=()) == 0
    assert sorted(path.name for path in (place / "mine").iterdir()) == ["convert.json", "gsm8k-test.json"]
    assert run(place, "--tasks", "gsm8k", "mbpp", records=()) == 2
    assert "--tasks mbpp: no logs of mbpp_generate below" in capsys.readouterr().err


def test_provenance(place):
    write_both(place)
    assert run(place, "--seed", 3) == 0
    about = json.loads((place / "mine" / "convert.json").read_text())
    assert about["options"]["seed"] == 3 and about["llms"] == ["lab/beta/x", A]
    for name, file in about["files"].items():
        assert file["sha256"] == hashlib.sha256((place / "mine" / name).read_bytes()).hexdigest() and file[
            "rows"
        ] == len(rows(place, name))
    logs = [
        log for conversion in about["conversions"] for of_llm in conversion["logs"].values() for log in of_llm.values()
    ]
    assert len(logs) == 4
    for log in logs:
        assert log["sha256"] == hashlib.sha256((place / "logs" / log["path"]).read_bytes()).hexdigest()
        assert log["lm_eval"] == "0.4.13"
        assert log["documents"] == 10


def test_llms_in_the_order_of_the_paper_or_as_told(place):
    from utils.tasks import LLMS

    for llm in (LLMS[3], A, LLMS[0]):
        write_log(place / "logs", llm, "mini_sums", sums(3, llm))
    assert run(place, output="x") == 0 and list(rows(place, "sums_test.json", "x")[0]["scores"]) == [
        LLMS[0],
        LLMS[3],
        A,
    ]
    assert run(place, "--llms", A, LLMS[0], output="y") == 0 and list(
        rows(place, "sums_test.json", "y")[0]["scores"]
    ) == [A, LLMS[0]]


def run_in(folder, *command):
    """A command line of the repository, run in a folder of its own; returns what it prints."""
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    made = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, encoding="utf-8", cwd=folder, env=environment
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.fixture
def converted(place):
    """What the conversion of a training file and two test files prints; there are more queries than the map needs."""
    write_both(place, count=60)
    flags = ["--logs", "logs", "--output", "mine", "--spec", spec_file(place, QUIZ, SUMS)]
    return run_in(place, sys.executable, "-m", "utils.scoring.convert", *flags)


def test_the_command_prints_the_table(place, converted):
    names = [cell.strip() for cell in converted.splitlines()[0].split("|")[1:-1]]
    (cells,) = [line.split("|")[1:-1] for line in converted.splitlines() if line.startswith("| alpha-7b")]
    accuracy = dict(zip(names, cells))
    assert len(load(place / "mine" / "sums_test.json", "multi_attempt")) == 60
    expected = 100 * np.mean([naive_number(entry) for entry in sums(60, A)])
    assert float(accuracy["sums_test"]) == pytest.approx(expected, abs=0.006)
    right = [naive_choice(entry) > 0 for entry in choices(60, A)]
    shown = (42 * float(accuracy["quiz_train"]) + 18 * float(accuracy["quiz_test"])) / 60
    assert shown == pytest.approx(100 * np.mean(right), abs=0.01)


SMALL = {  # what keeps each printed command short
    "utils.clustering": "--device cpu --precision fp32 --max_length 32",
    "train_router_mdeberta.py": "--training_steps 2 --batch_size 8 --device cpu --precision fp32 --max_length 32",
    "evaluation_router.py": "--device cpu",
}


def test_the_commands_that_are_printed_run_as_they_stand(place, converted, tiny_bert):
    """All of them, one after the other. Only the encoder is a tiny one, and flags are added that make them short."""
    text = converted[converted.index("Next:\n") + len("Next:\n") :].replace("\\\n", " ")
    printed = [shlex.split(line) for line in text.splitlines()]
    assert [words[0] for words in printed] == ["python"] * 3
    outputs = {}
    for words in printed:
        program = words[2] if words[1] == "-m" else words[1]
        start = ["-m", program] if words[1] == "-m" else [REPO / program]
        flags = words[words.index(program) + 1 :]
        if "--encoder" in flags:
            flags[flags.index("--encoder") + 1] = str(tiny_bert)
        elif program == "train_router_mdeberta.py":
            flags += ["--encoder", str(tiny_bert)]
        outputs[program] = run_in(place, sys.executable, *start, *flags, *SMALL[program].split())
    assert list(outputs) == list(SMALL)
    results = json.loads((place / "runs" / "mine" / "results.json").read_text())
    assert set(results["test"]["tasks"]) == {"quiz", "sums"}
    assert "quiz" in outputs["evaluation_router.py"] and "sums" in outputs["evaluation_router.py"]


def test_disagreement_against_loops():
    from utils.data import RoutingData

    scores = np.random.default_rng(0).choice([0, 0.3, 0.5, 1], (50, 3)).astype(np.float32)
    for kind in ("probability", "multi_attempt"):
        data = RoutingData("x", kind, ["q"] * 50, scores, ("a", "b", "c"))
        counts, pairs = [0] * 4, np.zeros((3, 3))
        for row in scores:
            gain = [float(v > 0) if kind == "probability" else float(v) for v in row]
            counts[sum(g >= 0.5 for g in gain)] += 2
            for a, b in itertools.product(range(3), repeat=2):
                pairs[a, b] += 2 * abs(gain[a] - gain[b])
        assert right_counts(data).tolist() == counts and disagreement(data) == pytest.approx(pairs)


def test_records_check_themselves():
    with pytest.raises(ValueError, match="conversion of 'x'"):
        Conversion("x", ("leaf",), "number", "{question}", test="y.json")
    assert copy.copy(PAPER[0]).kind == "probability"
    assert Conversion("x", ("leaf",), "number", "{question}", test="x_test.json").kind == "multi_attempt"


def test_find_logs_by_name(place):
    for name in (
        "pretrained__org__m_gsm8k.jsonl",
        "my_gsm8k_train.jsonl",
        "gsm8k_test.json",
        "x.verdicts.jsonl",
        "other.jsonl",
    ):
        path = place / "logs" / "org__m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]")
    assert list(find_llms(place / "logs")) == ["org/m"]
    found = find_logs("org/m", place / "logs" / "org__m", ["gsm8k", "gsm8k_train", "gsm8k_test", "other_task"])
    assert {leaf: log.path.name for leaf, log in found.items()} == {
        "gsm8k": "pretrained__org__m_gsm8k.jsonl",
        "gsm8k_train": "my_gsm8k_train.jsonl",
        "gsm8k_test": "gsm8k_test.json",
    }
    with pytest.raises(LogError, match="empty"):
        list(samples(found["gsm8k"]))


# Logs that lm-evaluation-harness wrote


TINY = [
    {
        "task": "choice",
        "leaves": ["tiny_choice"],
        "rule": "choice",
        "question": "{question}",
        "train": "choice_train.json",
        "test": "choice_test.json",
        "test_fraction": 0.3,
    },
    {
        "task": "sums",
        "leaves": ["tiny_sums"],
        "rule": "number",
        "question": "{question}",
        "test": "sums_test.json",
        "filter": "strict-match",
    },
    {
        "task": "humaneval",
        "leaves": ["tiny_humaneval"],
        "rule": "python",
        "question": "{prompt}",
        "test": "humaneval_test.json",
    },
    {
        "task": "mbpp",
        "leaves": ["tiny_mbpp"],
        "rule": "python",
        "question": '"""\n{text}\n{test_list[0]}\n"""\n',
        "test": "mbpp.json",
    },
    {
        "task": "javascript",
        "leaves": ["tiny_js"],
        "rule": "javascript",
        "question": "{prompt}",
        "test": "javascript.json",
    },
]


@functools.cache
def ran_well(program, javascript):
    """Whether a program runs to its end without a word on stderr, in a plain process."""
    command = ["node", "-e", program] if javascript else [sys.executable, "-I", "-c", program]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return made.returncode == 0 and not made.stderr and (not javascript or not made.stdout)


def naive_body(text, doc, javascript):
    """A program's text up to where it ends."""
    if not javascript:
        stops = ["\nclass", "\n#", "\n@", "\nprint", "\nif", "\n```", "\nassert", '\n"""']
        if "prompt" in doc:
            stops.append("\ndef")
        for stop in stops:
            text = text.split(stop)[0]
        return text
    depth = 1
    for n, character in enumerate(text):  # none of these answers has a bracket in a string
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[: n + 1]
    return text


def naive_program_score(line, javascript):
    """Share of the ten programs of a line that run well with the tests of its document."""
    doc = line["doc"]
    if "test_list" in doc:
        tests = "\n".join(doc["test_list"])
    else:
        tests = doc["test"] + (f"\ncheck({doc['entry_point']})" if "entry_point" in doc else "")
    start = line["arguments"]["gen_args_0"]["arg_0"] if "prompt" in doc else ""
    right = 0
    for text in line["resps"][0]:
        right += ran_well(f"{start}{naive_body(text, doc, javascript)}\n{tests}", javascript)
    return right / 10


def naive_question_and_score(line, rule):
    """The question and the score of one line of a real log."""
    doc = line["doc"]
    if rule == "choice":
        values = [float(answers[0][0]) for answers in line["resps"]]
        is_right = max(values) == values[doc["answer"]]
        return doc["question"], softmax(values)[doc["answer"]] if is_right else 0
    if rule == "number":
        gold = doc["answer"].split("#### ")[1]
        return doc["question"], sum(naive_extract(text) == gold for text in line["resps"][0]) / 10
    question = doc["prompt"] if "prompt" in doc else f'"""\n{doc["text"]}\n{doc["test_list"][0]}\n"""\n'
    return question, naive_program_score(line, rule == "javascript")


def lines_of_log(folder, leaf, filter):
    """The lines of a leaf's log below a folder that have this filter, or none."""
    (path,) = folder.rglob(f"samples_{leaf}_*.jsonl")
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["doc_id"]: line for line in lines if line["filter"] in (filter, "none", "generations")}.values()


def test_logs_of_the_real_harness(harness_logs, place, capsys):
    """Every score from real logs, recomputed from the raw answers by naive means."""
    code = ["--run_code", "--workers", "2"] if shutil.which("node") else ["--tasks", "choice", "sums"]
    records = TINY if shutil.which("node") else TINY[:2]
    shutil.copytree(harness_logs, place / "logs")
    assert run(place, *code, records=TINY) == 0, capsys.readouterr().err
    llms = list(find_llms(place / "logs"))
    assert sorted(llms) == ["tiny/code", "tiny/words"]
    scores = {}
    for record in records:
        (leaf,) = record["leaves"]
        files = [name for name in (record.get("train"), record["test"]) if name]
        written = {row["question"]: row["scores"] for name in files for row in rows(place, name)}
        for llm in llms:
            # From the harness's own folder: the copy has verdicts beside the logs.
            lines = lines_of_log(harness_logs / llm.replace("/", "__"), leaf, record.get("filter"))
            assert len(lines) == len(written)
            for line in lines:
                question, score = naive_question_and_score(line, record["rule"])
                assert written[question][llm] == pytest.approx(score, abs=1e-12), (leaf, llm, line["doc_id"])
                scores.setdefault(record["rule"], []).append(score)
    documents = sum(len(tiny_documents()[leaf]) for record in records for leaf in record["leaves"])
    assert sum(map(len, scores.values())) == 2 * documents
    assert all(min(of_rule) < max(of_rule) for of_rule in scores.values())


def test_doc_hash_is_the_harness_own(harness_logs):
    from utils.scoring.harness import doc_hash

    lines = [
        json.loads(line)
        for path in harness_logs.rglob("samples_*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) > 50 and all(doc_hash(line["doc"]) == line["doc_hash"] for line in lines)


def test_real_logs_rewritten_as_in_2024_give_the_same_scores(harness_logs, place):
    """The real answers, in the form of 2024: one list a file, numbers instead of strings, neither filter nor hashes."""

    def numbers(value):
        return (
            [numbers(item) for item in value]
            if isinstance(value, list)
            else value == "True"
            if value in ("True", "False")
            else float(value)
        )

    for path in harness_logs.rglob("samples_*.jsonl"):
        leaf = find_leaf(path)
        if leaf not in ("tiny_choice", "tiny_sums"):
            continue
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            line["arguments"] = [list(request.values()) for request in line["arguments"].values()]
            line["resps"] = numbers(line["resps"]) if leaf == "tiny_choice" else line["resps"]
            line["target"] = int(line["target"]) if leaf == "tiny_choice" else line["target"]
            for name in ("filter", "doc_hash", "prompt_hash", "target_hash", "metrics"):
                del line[name]
        folder = place / "logs" / path.relative_to(harness_logs).parts[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"pretrained__x_{leaf}.jsonl").write_text(json.dumps(lines, indent=2))
    records = TINY[:2]
    assert run(place, records=records, output="then") == 0
    shutil.rmtree(place / "logs")
    shutil.copytree(harness_logs, place / "logs")
    assert run(place, "--tasks", "choice", "sums", records=records, output="today") == 0
    for name in ("choice_train.json", "choice_test.json", "sums_test.json"):
        assert rows(place, name, "then") == rows(place, name, "today")


def find_leaf(path):
    return path.name.removeprefix("samples_").rsplit("_", 1)[0]
