"""utils/importers/lookahead.py: a made-up folder in the published layout, its errors, and the released files."""

import gzip
import json

import numpy as np
import pytest
from conftest import REPO

from utils.baselines.voting import voting
from utils.data import load
from utils.importers import __main__ as importers
from utils.importers.lookahead import COMPLETE, STEP_BY_STEP, SUBMIT, final_answer

LLMS = ("alpha-7b", "beta-9b", "gamma-2")
RELEASED = REPO / "datasets" / "lookahead" / "test"
SIZES = {"GSM8k": 6, "MATH": 8, "HumanEval": 5, "MBPP": 4}


def pack(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(value).encode()))


def unpack(path):
    return json.loads(gzip.decompress(path.read_bytes()))


def is_right(task, llm, number):
    """Every LLM is right on another share of the questions."""
    return (number + LLMS.index(llm) * len(task)) % (2 + LLMS.index(llm)) == 0


def message(text):
    return [{"role": "HUMAN", "prompt": text}]


def question(task, number):
    return f"{task}: what is\nquestion {number}?"


@pytest.fixture
def folder(tmp_path):
    """The four tasks of three LLMs."""
    root = tmp_path / "test"
    for task, size in SIZES.items():
        for llm in LLMS:
            right = {str(number): is_right(task, llm, number) for number in range(size)}
            accuracy = 100 * sum(right.values()) / size
            if task in ("GSM8k", "MATH"):
                details = {}
                for key, verdict in right.items():
                    answer = f"\\frac{{{key}}}{{7}}" if verdict else f"wrong {llm}"
                    prompt = message(question(task, key) + STEP_BY_STEP)
                    details[key] = {"prompt": prompt, "predictions": answer, "correct": verdict}
                    details[key]["references"] = f"{key}/7"
                pack(root / task / f"{llm}.json.gz", {"accuracy": accuracy, "details": details})
                continue
            before, after = (COMPLETE, "\n") if task == "HumanEval" else ("", SUBMIT)
            predictions, verdicts = {}, {}
            for key, verdict in right.items():
                prompt = message(before + question(task, key) + after)
                predictions[key] = {"origin_prompt": prompt, "prediction": f"def {llm}{key}", "gold": f"{task}/{key}"}
                verdicts[key] = {"task_id": f"{task}/{key}", "origin": f"def {llm}{key}", "is_correct": verdict}
            figure = "humaneval_pass@1" if task == "HumanEval" else "score"
            pack(root / task / "predictions" / f"{llm}.json.gz", predictions)
            pack(root / task / "results" / f"{llm}.json.gz", {figure: accuracy, "details": verdicts})
    return root


@pytest.fixture
def make(tmp_path, capsys):
    """Runs the import of a folder into tmp_path: make(folder, ...) -> (exit status, stdout, stderr)."""

    def run(source, *flags):
        places = ["--output", str(tmp_path / "out"), "--answers", str(tmp_path / "answers")]
        status = importers.main(["lookahead", str(source), *places, *flags])
        text = capsys.readouterr()
        return status, text.out, text.err

    return run


def test_rows_scores_and_answers(make, folder, tmp_path):
    status, text, error = make(folder)
    assert status == 0, error
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    expected = {f"{task.lower()}.json": size for task, size in SIZES.items()}
    assert {name: len(rows) for name, rows in written.items()} == expected
    for task in SIZES:
        for number, row in enumerate(written[f"{task.lower()}.json"]):
            expected = {llm: float(is_right(task, llm, number)) for llm in LLMS}
            assert row == {"question": question(task, number), "scores": expected}
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == ["gsm8k.json", "math.json"]
    row = json.loads((tmp_path / "answers" / "math.json").read_text())[0]
    assert row["right"] == {llm: [is_right("MATH", llm, 0)] for llm in LLMS} and row["gold"] == "0/7"
    assert row["answers"]["alpha-7b"] == ["\\frac{0}{7}"]


def test_halves_keep_answers_and_rows_together(make, folder, tmp_path):
    status, _, error = make(folder, "--test_fraction", "0.5", "--seed", "3")
    assert status == 0, error
    for task, size in (("gsm8k", 6), ("math", 8)):
        train, test = (load(tmp_path / "out" / f"{task}_{side}.json", "multi_attempt") for side in ("train", "test"))
        assert len(train) == len(test) == size // 2 and not {*train.questions} & {*test.questions}
        for data in (train, test):  # voting refuses verdicts that are not those of the scores
            earned = voting(data, tmp_path / "answers")
            right = data.scores.sum(axis=1)
            assert (earned[right >= 2] == 1).all() and (earned[right == 0] == 0).all()
            np.testing.assert_allclose(earned[right == 1], 1 / 3)  # three different answers


@pytest.mark.parametrize("llm", LLMS)
def test_the_order_of_the_files_and_of_the_records_does_not_matter(make, folder, tmp_path, llm):
    assert make(folder)[0] == 0
    first = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    path = folder / "MATH" / f"{llm}.json.gz"
    found = unpack(path)
    pack(path, found | {"details": dict(reversed(found["details"].items()))})
    for name in ("out", "answers"):
        (tmp_path / name).rename(tmp_path / f"{name}_before")
    assert make(folder)[0] == 0
    second = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    key = lambda row: row["question"]  # noqa: E731
    assert {name: sorted(rows, key=key) for name, rows in second.items()} == {
        name: sorted(rows, key=key) for name, rows in first.items()
    }


def change(path, key, **fields):
    """Change one record, in place; a field of None is taken out."""
    found = unpack(path)
    record = found.get("details", found)[key]
    record |= fields
    for name in [name for name, value in fields.items() if value is None]:
        del record[name]
    pack(path, found)


BETA, RESULTS = f"{LLMS[1]}.json.gz", f"results/{LLMS[1]}.json.gz"
BROKEN = {  # a way to break the folder: (what is done to it, words of the error, the file and record that it names)
    "another prompt": (
        lambda root: change(root / "MATH" / BETA, "2", prompt=message("other" + STEP_BY_STEP)),
        "query 2 of math is 'other' here",
        f"MATH/{BETA}, record 2",
    ),
    "another instruction": (
        lambda root: change(root / "GSM8k" / BETA, "0", prompt=message("GSM8k: bare")),
        "must begin with '' and end with",
        f"GSM8k/{BETA}, record 0",
    ),
    "no verdict": (
        lambda root: change(root / "MATH" / BETA, "1", correct=None),
        "'correct' must be of type bool, found None",
        f"MATH/{BETA}, record 1",
    ),
    "no verdict on a program": (
        lambda root: change(root / "MBPP" / RESULTS, "1", is_correct=None),
        "'is_correct' must be of type bool",
        f"MBPP/{RESULTS}, record 1",
    ),
    "a verdict on another program": (
        lambda root: change(root / "MBPP" / RESULTS, "1", origin="def other"),
        "'origin' is not the prediction's 'prediction'",
        f"MBPP/{RESULTS}, record 1",
    ),
    "another problem": (
        lambda root: change(root / "HumanEval" / RESULTS, "3", task_id="HumanEval/4"),
        "'task_id' is not the prediction's 'gold'",
        f"HumanEval/{RESULTS}, record 3",
    ),
    "another reference": (
        lambda root: change(root / "MATH" / BETA, "3", references="9"),
        "another id or reference",
        f"MATH/{BETA}, record 3",
    ),
    "an LLM without a task": (
        lambda root: (root / "MATH" / BETA).unlink(),
        "no such file, and that LLM has others",
        f"MATH/{BETA}",
    ),
    "an LLM without predictions": (
        lambda root: (root / "MBPP" / "predictions" / BETA).unlink(),
        "no such file",
        f"MBPP/predictions/{BETA}",
    ),
    "a damaged file": (
        lambda root: (root / "MATH" / BETA).write_bytes((root / "MATH" / BETA).read_bytes()[:60]),
        "cannot be read (EOFError",
        f"MATH/{BETA}",
    ),
    "not a gzip file": (
        lambda root: (root / "MATH" / BETA).write_bytes(b"{}"),
        "cannot be read (BadGzipFile",
        f"MATH/{BETA}",
    ),
    "not JSON": (
        lambda root: (root / "MATH" / BETA).write_bytes(gzip.compress(b"{")),
        "JSONDecodeError",
        f"MATH/{BETA}",
    ),
    "a deep one": (
        lambda root: (root / "MATH" / BETA).write_bytes(gzip.compress(b"[" * 100_000)),
        "cannot be read (RecursionError",
        f"MATH/{BETA}",
    ),
    "half a character": (
        lambda root: change(root / "MATH" / BETA, "0", predictions="\ud800"),
        "'predictions' is no text that can be written",
        f"MATH/{BETA}, record 0",
    ),
    "an accuracy that is no number": (
        lambda root: pack(root / "GSM8k" / BETA, unpack(root / "GSM8k" / BETA) | {"accuracy": "99"}),
        "'accuracy' must be of type float, found '99'",
        f"GSM8k/{BETA}",
    ),
    "an accuracy that is NaN": (
        lambda root: pack(root / "GSM8k" / BETA, unpack(root / "GSM8k" / BETA) | {"accuracy": float("nan")}),
        "'accuracy' is nan",
        f"GSM8k/{BETA}",
    ),
    "a huge accuracy": (
        lambda root: pack(root / "GSM8k" / BETA, unpack(root / "GSM8k" / BETA) | {"accuracy": 10**400}),
        "2 of 6 verdicts are right, and 'accuracy' is 1000",
        f"GSM8k/{BETA}",
    ),
    "one that does not add up": (
        lambda root: pack(root / "GSM8k" / BETA, unpack(root / "GSM8k" / BETA) | {"accuracy": 99.0}),
        "2 of 6 verdicts are right, and 'accuracy' is 99.0",
        f"GSM8k/{BETA}",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_name_file_and_record_and_leave_nothing(make, folder, tmp_path, name):
    damage, words, named = BROKEN[name]
    damage(folder)
    status, _, error = make(folder)
    assert status == 2 and error.splitlines()[-1].startswith("error: ") and "Traceback" not in error
    assert words in error and f"{folder}/{named}" in error
    assert not (tmp_path / "out").exists() and not (tmp_path / "answers").exists()


def test_other_mistakes(make, folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "none of GSM8k, MATH, HumanEval, MBPP is there" in make(tmp_path / "empty")[2]
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "mine").touch()
    assert "not an empty folder" in make(folder)[2] and not (tmp_path / "out").exists()
    assert importers.main(["embedllm", str(folder), "--output", str(tmp_path / "out"), "--answers", "x"]) == 2
    assert "--answers is for lookahead" in capsys.readouterr().err


def test_equal_answers_with_different_verdicts_count_as_they_stand(make, folder, tmp_path):
    """The judge of the files is stricter here and there: 0.5 was wrong where \\frac{1}{2} was right."""
    for llm, answer, verdict in zip(LLMS, ("\\frac{1}{2}", "0.5", "0.5"), (True, False, False)):
        path = folder / "MATH" / f"{llm}.json.gz"
        change(path, "0", predictions=answer, correct=verdict)
        details = unpack(path)["details"]
        pack(path, {"accuracy": 100 * sum(entry["correct"] for entry in details.values()) / 8, "details": details})
    assert final_answer("0.5") == final_answer("\\frac{1}{2}")
    status, _, error = make(folder)
    assert status == 0, error
    row = json.loads((tmp_path / "answers" / "math.json").read_text())[0]
    assert list(row["answers"].values()) == [["\\frac{1}{2}"], ["0.5"], ["0.5"]]
    change(folder / "MATH" / f"{LLMS[1]}.json.gz", "0", predictions="\\frac{1}{2}")
    for name in ("out", "answers"):
        (tmp_path / name).rename(tmp_path / f"{name}_before")
    assert "is right for one LLM and wrong for another" in make(folder)[2]


@pytest.mark.parametrize(
    ("forms", "value"),
    [
        (("72", "72.0", "$72", "\\$72.00", " 72 "), "72"),
        (("1,000", "1000", "\\$1,000"), "1000"),
        (("\\frac{1}{2}", "\\dfrac{1}{2}", "\\tfrac12", "\\frac12", "1/2", "0.5"), "\\frac{1}{2}"),
        (("(1, 2)", "(1,2)", "\\left(1, 2\\right)"), "(1,2)"),
        (("x = 5", "5"), "5"),
        (("", "  "), None),
        (("\\text{", "\\text{"), "\\text{"),
    ],
)
def test_forms_of_one_answer(forms, value):
    assert {final_answer(form) for form in forms} == {value}


APART = [("0.25", "1/4"), ("Sunday", "\\text{Sunday}"), ("160 minutes", "160"), ("1, 2", "2, 1")]


@pytest.mark.parametrize("pair", APART)
def test_what_the_normal_form_leaves_apart(pair):
    assert final_answer(pair[0]) != final_answer(pair[1])


ACCURACIES = {  # as the authors' files state them, in %
    "gsm8k": (81.65, 89.08, 85.75, 88.40, 88.25, 89.84),
    "math": (44.66, 44.50, 61.24, 51.90, 46.74, 62.22),
    "humaneval": (62.20, 74.39, 87.20, 69.51, 59.15, 72.56),
    "mbpp": (68.09, 68.87, 82.88, 70.82, 66.54, 68.87),
}
NAMES = ("Llama-3.1-8B-Instruct", "Phi-3-medium-4k-instruct", "Qwen2.5-Coder-7B-Instruct", "Yi-1.5-34B-Chat")
NAMES += ("gemma-2-9b-it", "internlm2_5-20b-chat")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The released files, imported whole."""
    if not RELEASED.is_dir():
        pytest.skip("the released files are not there: python -m utils.download --datasets lookahead")
    place = tmp_path_factory.mktemp("released")
    flags = ["--output", str(place / "data"), "--answers", str(place / "answers")]
    assert importers.main(["lookahead", str(RELEASED), *flags]) == 0
    return place


def test_the_released_accuracies(imported):
    for task, expected in ACCURACIES.items():
        data = load(imported / "data" / f"{task}.json", "multi_attempt")
        assert data.llms == NAMES
        np.testing.assert_allclose(100 * data.scores.mean(axis=0, dtype=float), expected, atol=0.005)
        assert len(set(data.questions)) == len(data)
        assert not any("step by step, and put" in text for text in data.questions)


def test_prealgebra_is_all_there(imported):
    path = REPO / "datasets" / "split2_model7" / "MATH_prealgebra.json"
    if not path.is_file():
        pytest.skip("the paper's PreAlgebra file is not there: python -m utils.download")
    assert {*load(path).questions} <= {*load(imported / "data" / "math.json", "multi_attempt").questions}


def test_forms_that_stay_apart_cost_voting_little(imported):
    """Voting against an upper bound: all right answers to a question count as one, as only the judge can know."""
    for task, expected, most in (("gsm8k", 93.88, 0.06), ("math", 65.88, 0.14)):
        data = load(imported / "data" / f"{task}.json", "multi_attempt")
        earned = 100 * voting(data, imported / "answers").mean()
        rows = json.loads((imported / "answers" / f"{task}.json").read_text())
        pooled = []
        for row in rows:
            votes = {}
            for llm in data.llms:
                if (answer := row["answers"][llm][0]) is not None:
                    answer = "right" if row["right"][llm][0] else answer
                    votes[answer] = votes.get(answer, 0) + 1
            winners = [answer for answer, count in votes.items() if count == max(votes.values())]
            pooled.append(winners.count("right") / len(winners) if winners else 0)
        assert earned == pytest.approx(expected, abs=0.01) and 0 <= 100 * np.mean(pooled) - earned < most
