"""utils/importers: made-up files in each published layout become data files that `load` reads, or a clear error.

After an error nothing is written.
"""

import csv
import json
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import REPO
from safetensors.torch import load_file

from utils.config import HardwareConfig
from utils.data import load
from utils.files import atomic_folder
from utils.importers import __main__ as importers
from utils.importers.common import Pairs
from utils.report import figures, lost_llms

LLMS = ["lab/one", "two-7b"]


class Bomb:
    """What a malicious pickle does: opening it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def make(tmp_path, capsys):
    """Runs the command: make(format, source, ...) -> (exit status, stdout, stderr).

    The output folder is tmp_path / "out".
    """

    def run(*arguments):
        status = importers.main([*map(str, arguments), "--output", str(tmp_path / "out")])
        text = capsys.readouterr()
        return status, text.out, text.err

    return run


def written(tmp_path) -> dict:
    return {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}


def refused(result, tmp_path) -> str:
    """The error of a command that must leave nothing behind."""
    status, _, error = result
    assert status == 2 and error.splitlines()[-1].startswith("error: ") and "Traceback" not in error
    assert not (tmp_path / "out").exists() and not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]
    return error


def frame(count=10, missing=()) -> pd.DataFrame:
    """RouterBench's layout: two tasks and two subjects of MMLU, two LLMs. `missing`: (row, column) that are empty."""
    names = ["mbpp", "mmlu-law", "mmlu-art", "arc-challenge"]
    columns = {
        "sample_id": [f"x.{i}" for i in range(count)],
        "prompt": [str([f'Say "{i}",\nplease: it\'s é']) for i in range(count)],
        "eval_name": [names[i % 4] for i in range(count)],
    }
    for number, llm in enumerate(LLMS):
        columns[llm] = [float((i + number) % 3 == 0) for i in range(count)]
    for llm in LLMS:
        columns[f"{llm}|model_response"] = ["['well,\n\"this\"']"] * count
    for number, llm in enumerate(LLMS):
        columns[f"{llm}|total_cost"] = [0.001 * (number + 1) + i * 1e-5 for i in range(count)]
    columns["oracle_model_to_route_to"] = ["no_model_correct"] * count
    table = pd.DataFrame(columns)
    for row, column in missing:
        table.loc[row, column] = np.nan
    return table


def save(table, path):
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".pkl":
        table.to_pickle(path)
    else:
        table.to_csv(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".pkl"])
def test_routerbench_by_task(make, tmp_path, suffix):
    more = ["--allow_pickle"] if suffix == ".pkl" else []
    status, text, error = make("routerbench", save(frame(), tmp_path / f"routerbench_0shot{suffix}"), *more)
    assert status == 0, error
    files = written(tmp_path)
    assert set(files) == {"mbpp.json", "mmlu.json", "arc_challenge.json"} and [
        len(files[name]) for name in sorted(files)
    ] == [2, 3, 5]
    assert "mmlu.json: 5 rows" in text
    row = files["mmlu.json"][2]  # row 5 of the table: 5 % 4 == 1
    assert row == {
        "question": 'Say "5",\nplease: it\'s é',
        "scores": {"lab/one": 0.0, "two-7b": 1.0},
        "costs": {"lab/one": pytest.approx(0.00105), "two-7b": pytest.approx(0.00205)},
    }
    data = load(tmp_path / "out" / "mmlu.json", "multi_attempt")
    assert data.llms == tuple(LLMS) and data.costs.shape == (5, 2)


def test_a_split_is_by_question_and_seed(make, tmp_path):
    table = frame(40)
    table["prompt"] = [str([f"question {i // 8}"]) for i in range(40)]  # each task has every question twice
    status, _, error = make("routerbench", save(table, tmp_path / "r.parquet"), "--test_fraction", "0.4", "--seed", "3")
    assert status == 0, error
    files = written(tmp_path)
    for task in ("mbpp", "mmlu", "arc_challenge"):
        train, test = ({row["question"] for row in files[f"{task}_{side}.json"]} for side in ("train", "test"))
        assert len(test) == 2 and len(train) == 3 and not train & test
    assert sum(map(len, files.values())) == 40


def test_a_fraction_does_not_cut_what_has_a_split(make, tmp_path, routereval):
    records = [(i, f"question {i}?", 1.0, 0.01) for i in range(6)]
    for llm in LLMS:
        bench(tmp_path / "bench", "aime", "test", llm, records)
    error = refused(make("llmrouterbench", tmp_path / "bench", "--test_fraction", "0.5"), tmp_path)
    words = "the source has splits, which stay as they are: aime (test); leave --test_fraction out"
    assert f"--test_fraction 0.5: {words}" in error
    for source in (routereval[:1], (routereval[0], "--prompts", routereval[1])):
        assert "mmlu_weak (train), mmlu_weak (val); leave" in refused(
            make("routereval", *source, "--test_fraction", "0.5"), tmp_path
        )
    for llm in LLMS:
        bench(tmp_path / "bench", "arena", "hybrid", llm, records)  # no split
    status, text, error = make("llmrouterbench", tmp_path / "bench", "--test_fraction", "0.5")
    assert status == 0 and "--test_fraction 0.5 does not cut what the source splits: aime (test)" in text, error
    assert {name: len(rows) for name, rows in written(tmp_path).items()} == {
        "aime_test.json": 6,
        "arena_train.json": 3,
        "arena_test.json": 3,
    }


@pytest.mark.parametrize(
    "missing", [[(3, "lab/one")], [(3, "two-7b|total_cost")], [(3, "lab/one"), (7, "two-7b|total_cost")]]
)
def test_gaps_are_an_error_or_counted(make, tmp_path, missing):
    source = save(frame(missing=missing), tmp_path / "r.csv")
    error = refused(make("routerbench", source), tmp_path)
    assert f"{len(missing)} of 10 queries lack a score or a cost" in error
    assert "--missing_cells drop" in error
    assert f"{missing[0][1].split('|')[0]} 1" in error
    if len(missing) == 2:  # both rows of arc-challenge
        status, text, _ = make("routerbench", source, "--missing_cells", "drop")
        assert status == 0 and "2 queries left out" in text and set(written(tmp_path)) == {"mbpp.json", "mmlu.json"}


def test_the_largest_score_of_a_repeated_pair_counts_with_its_cost():
    pairs = Pairs()
    for score, cost in ((0.5, 1.0), (1.0, 2.0), (0.7, 3.0), (1.0, 4.0)):
        pairs.add("Some Task/1", "test", 1, "why?", "a", score, cost)
    (rows,) = pairs.rows.values()
    assert [*pairs.rows] == [("some_task_1", "test")]
    assert [*rows.values()] == [{"question": "why?", "scores": {"a": 1.0}, "costs": {"a": 2.0}}]
    assert pairs.repeated == 3


@pytest.mark.parametrize("format", ["routerbench", "routereval"])
def test_a_pickle_is_not_opened_without_the_flag(make, tmp_path, format):
    mark = tmp_path / "it-ran"
    source = tmp_path / "evil.pkl"
    source.write_bytes(pickle.dumps(Bomb(mark)))
    error = refused(make(format, source), tmp_path)
    assert "--allow_pickle" in error and not mark.exists()
    make(format, source, "--allow_pickle")
    assert mark.exists()  # the bomb works, so the test above can fail


def test_a_pickle_inside_an_npz_is_not_opened(make, tmp_path):
    mark = tmp_path / "it-ran"
    bomb = np.empty((1, 1), dtype=object)
    bomb[0, 0] = Bomb(mark)
    np.savez(tmp_path / "evil.npz", train_score=bomb)
    error = refused(make("routereval", tmp_path / "evil.npz"), tmp_path)
    assert "--allow_pickle" in error and not mark.exists()
    make("routereval", tmp_path / "evil.npz", "--allow_pickle")
    assert mark.exists()


def test_a_data_file_is_never_a_pickle(tmp_path):
    mark, source = tmp_path / "it-ran", tmp_path / "gsm8k.pkl"
    source.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ValueError, match="a pickle can run any code"):
        load(source)
    assert not mark.exists()


def embedllm(folder, lines, name="train"):
    """One of EmbedLLM's files. lines: (prompt_id, prompt, model, category, label)."""
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["prompt_id", "model_id", "category_id", "model_name", "category", "prompt", "label"])
        for prompt_id, prompt, model, category, label in lines:
            out.writerow([prompt_id, LLMS.index(model), 0, model, category, prompt, label])
    return folder


def test_embedllm(make, tmp_path):
    questions = ['what\nis "it", 1?', "二?", "three?"]
    lines = [
        (i, q, llm, "mmlu" if i < 2 else "gsm8k", (i + t) % 2)
        for t, llm in enumerate(LLMS)
        for i, q in enumerate(questions)
    ]
    lines += [
        (0, questions[0], LLMS[0], "mmlu", 1),
        (1, questions[1], LLMS[0], "mmlu", 0),
    ]  # labels were 0 and 1: the maximum is 1 for both
    embedllm(tmp_path / "e", lines)
    embedllm(tmp_path / "e", [(9, "nine?", llm, "mmlu", 1) for llm in LLMS], "test")
    status, text, error = make("embedllm", tmp_path / "e")
    assert status == 0, error
    assert "2 repeated pairs" in text
    files = written(tmp_path)
    assert set(files) == {"mmlu_train.json", "gsm8k_train.json", "mmlu_test.json"}
    frame = (
        pd.DataFrame(lines, columns=["id", "q", "llm", "task", "label"]).groupby(["task", "id", "llm"])["label"].max()
    )
    for row, prompt_id in zip(files["mmlu_train.json"], (0, 1)):
        assert row["question"] == questions[prompt_id] and "costs" not in row
        assert row["scores"] == {llm: frame["mmlu", prompt_id, llm] for llm in LLMS}
    assert load(tmp_path / "out" / "gsm8k_train.json").questions == ["three?"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ((0, "one?", LLMS[1], "mmlu", "maybe"), "line 3: the label must be 0 or 1, found 'maybe'"),
        ((0, "another?", LLMS[1], "mmlu", 1), "line 3: query 0 of mmlu is 'another?' here and 'one?' for another LLM"),
        ((0, " ", LLMS[1], "mmlu", 1), "line 3: the text of the query must be a non-empty string"),
        ((1, "two?", LLMS[1], "mmlu", 1), "2 of 2 queries lack a score of some LLM"),
    ],
)
def test_embedllm_errors(make, tmp_path, line, words):
    folder = embedllm(tmp_path / "e", [(0, "one?", LLMS[0], "mmlu", 1), line])
    assert words in refused(make("embedllm", folder), tmp_path)


def test_fewer_llms_can_be_chosen(make, tmp_path):
    folder = embedllm(
        tmp_path / "e",
        [(0, "one?", LLMS[0], "mmlu", 1), (0, "one?", LLMS[1], "mmlu", 0), (1, "two?", LLMS[0], "mmlu", 1)],
    )
    assert "no records of lab/three; it has lab/one, two-7b" in refused(
        make("embedllm", folder, "--llms", "lab/three"), tmp_path
    )
    status, _, error = make("embedllm", folder, "--llms", LLMS[0])
    assert status == 0 and [row["scores"] for row in written(tmp_path)["mmlu_train.json"]] == [{LLMS[0]: 1.0}] * 2, (
        error
    )


def bench(folder, task, split, llm, records, **more):
    """One result file of LLMRouterBench. records: (index, query, score, cost)."""
    path = folder / task / split / llm.replace("/", "_") / "run.json"
    path.parent.mkdir(parents=True)
    rows = [
        {
            "index": i,
            "origin_query": q,
            "prompt": f"Q: {q}",
            "prediction": "x",
            "ground_truth": "y",
            "score": s,
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "cost": c,
            "raw_output": "z",
        }
        for i, q, s, c in records
    ]
    path.write_text(
        json.dumps(
            {
                "dataset_name": task,
                "split": split,
                "model_name": llm,
                "demo": False,
                "performance": 0.5,
                "cost": 1.0,
                "records": rows,
            }
            | more
        )
    )
    return path


def test_llmrouterbench_joins_by_index(make, tmp_path):
    folder = tmp_path / "bench"
    bench(folder, "aime", "test", LLMS[0], [(1, "one?", 1.0, 0.01), (2, "two?", 0.0, 0.02), (3, "three?", 0.25, 0.03)])
    bench(
        folder, "aime", "test", LLMS[1], [(3, "three?", 0.75, 0.3), (1, "one?", 0.0, 0.1), (2, "two?", 1.0, 0.2)]
    )  # another order
    bench(folder, "toy", "test", "nobody/demo", [(1, "one?", 1.0, 0.0)], demo=True)
    status, text, error = make("llmrouterbench", folder)
    assert status == 0, error
    assert "1 of 3 files are demos: skipped" in text
    data = load(tmp_path / "out" / "aime_test.json", "multi_attempt")
    assert data.questions == ["one?", "two?", "three?"] and data.llms == tuple(LLMS)
    np.testing.assert_allclose(data.scores, [[1, 0], [0, 1], [0.25, 0.75]])
    np.testing.assert_allclose(data.costs, [[0.01, 0.1], [0.02, 0.2], [0.03, 0.3]])


def test_llmrouterbench_refuses_other_questions_and_bad_records(make, tmp_path):
    first, folder = [(1, "one?", 1.0, 0.01)], tmp_path / "bench"
    bench(folder, "aime", "test", LLMS[0], first)
    cases = [
        ([(1, "eins?", 1.0, 0.01)], "query 1 of aime is 'eins?' here and 'one?' for another LLM"),
        ([(1, "one?", 1.5, 0.01)], "record 0: the score of two-7b must be a number from 0 to 1, found 1.5"),
        ([(1, "one?", 1.0, -0.01)], "record 0: the cost of two-7b"),
    ]
    for number, (records, words) in enumerate(cases):
        path = bench(folder, "aime", "test", LLMS[1], records)
        error = refused(make("llmrouterbench", folder), tmp_path)
        assert words in error and str(path) in error, number
        path.unlink()
        path.parent.rmdir()
    (folder / "aime" / "broken.json").write_text("{")
    assert "broken.json: not valid JSON" in refused(make("llmrouterbench", folder), tmp_path)


@pytest.mark.parametrize("text", ["one?", "{split}?"])
def test_llmrouterbench_does_not_join_other_splits_of_a_data_set(make, tmp_path, text):
    """Index 1 of the split "hard" is another query than index 1 of "easy", even where both have one text."""
    folder = tmp_path / "bench"
    for split, scores in {"hard": (0.0, 0.25), "easy": (1.0, 0.5)}.items():
        for llm, score in zip(LLMS, scores):
            bench(folder, "aime", split, llm, [(1, text.format(split=split), score, 0.01)])
    status, out, error = make("llmrouterbench", folder)
    assert status == 0 and "repeated" not in out, error
    found = written(tmp_path)["aime.json"]
    assert sorted(tuple(row["scores"].values()) for row in found) == [(0.0, 0.25), (1.0, 0.5)]


def test_data_sets_whose_files_have_one_name_are_not_joined(make, tmp_path):
    folder = tmp_path / "bench"
    for task, score in {"a-b": 0.0, "a_b": 1.0}.items():
        for llm in LLMS:
            bench(folder, task, "test", llm, [(1, "one?", score, 0.01)])
    status, out, error = make("llmrouterbench", folder)
    assert status == 0 and "repeated" not in out, error
    assert [row["scores"][LLMS[0]] for row in written(tmp_path)["a_b_test.json"]] == [0.0, 1.0]


RECORD = {"index": 1, "origin_query": "one?", "score": 1.0, "cost": 0.01}


@pytest.mark.parametrize(
    ("fields", "record", "words"),
    [
        ({}, {"index": [1]}, "record 0: the index must be a number, found [1]"),
        ({}, {"index": True}, "the index must be a number, found True"),
        ({}, {"index": 1.0}, "the index must be a number, found 1.0"),
        ({}, {"score": 10**400}, "record 0: the score of lab/one must be a number from 0 to 1"),
        ({}, {"cost": 10**400}, "record 0: the cost of lab/one must be a number"),
        ({}, {"score": float("nan")}, "record 0: the score of lab/one must be a number from 0 to 1"),
        ({}, {"origin_query": ["one?"]}, "record 0: the text of the query must be a non-empty string"),
        ({}, {"origin_query": "\ud83d"}, "record 0: the text of the query is no text that can be written"),
        ({"model_name": None}, {}, "run.json: 'model_name' must be a non-empty string, found None"),
        ({"model_name": " "}, {}, "run.json: 'model_name' must be a non-empty string, found ' '"),
        ({"dataset_name": {"a": 1}}, {}, "run.json: 'dataset_name' must be a non-empty string"),
        ({"split": 3}, {}, "run.json: 'split' must be a non-empty string, found 3"),
        ({"demo": "false"}, {}, "run.json: 'demo' must be true or false, found 'false'"),
    ],
)
def test_llmrouterbench_refuses_fields_of_other_types(make, tmp_path, fields, record, words):
    path = bench(tmp_path / "bench", "aime", "test", LLMS[0], [])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"records": [RECORD | record]} | fields))
    assert words in refused(make("llmrouterbench", tmp_path / "bench"), tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "\ufeff\ufeff{}"])
def test_json_that_a_reader_cannot_take_is_named(make, tmp_path, routereval, text):
    path = bench(tmp_path / "bench", "aime", "test", LLMS[0], [])
    path.write_text(text)
    assert f"{path}: not valid JSON" in refused(make("llmrouterbench", tmp_path / "bench"), tmp_path)
    source, texts, _ = routereval
    texts.write_text(text)
    assert f"{texts}: not valid JSON" in refused(make("routereval", source, "--prompts", texts), tmp_path)


@pytest.fixture
def routereval(tmp_path):
    rng = np.random.default_rng(0)
    parts = {"train": 8, "val": 3, "test": 4}
    found = {f"{name}_score": rng.integers(0, 2, (n, 3)).astype(float) for name, n in parts.items()}
    found |= {f"{name}_embed": rng.normal(size=(n, 5)) for name, n in parts.items()}
    np.savez(tmp_path / "mmlu_weak.npz", **found)
    texts = {name: [f"{name} {i}?" for i in range(n)] for name, n in parts.items()}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    return tmp_path / "mmlu_weak.npz", tmp_path / "texts.json", found


def test_routereval_with_text(make, tmp_path, routereval):
    source, texts, found = routereval
    status, _, error = make("routereval", source, "--prompts", texts, "--llms", "a", "b", "c")
    assert status == 0, error
    for name in ("train", "val", "test"):
        data = load(tmp_path / "out" / f"mmlu_weak_{name}.json", "multi_attempt")
        assert data.llms == ("a", "b", "c") and data.questions[1] == f"{name} 1?"
        np.testing.assert_array_equal(data.scores, found[f"{name}_score"])


def test_routereval_errors(make, tmp_path, routereval):
    source, texts, _ = routereval
    assert "3 columns and there are 2 LLMs" in refused(
        make("routereval", source, "--prompts", texts, "--llms", "a", "b"), tmp_path
    )
    texts.write_text(json.dumps({"train": ["one?"]}))
    assert "1 texts for train" in refused(make("routereval", source, "--prompts", texts), tmp_path)
    source.write_bytes(source.read_bytes()[:100])
    assert "cannot be read" in refused(make("routereval", source), tmp_path)


def test_a_persons_files_are_not_overwritten(make, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    status, _, error = make("routerbench", save(frame(), tmp_path / "r.csv"))
    assert status == 2
    assert "not an empty folder" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"train_score": np.array([["1"]])}, "train_score must hold numbers, found the type <U1"),
        ({"train_score": np.array([[1 + 1j]])}, "train_score must hold numbers, found the type complex128"),
        ({"train_score": np.array([["2020-01-01"]], "datetime64[D]")}, "must hold numbers, found the type datetime64"),
        ({"train_score": np.ones((1, 1)), "train_embed": np.full((1, 2), 1e300)}, "train_embed must be finite"),
        ({"train_score": np.ones((1, 1)), "train_embed": np.ones((1, 0))}, "train_embed must be finite"),
    ],
)
def test_routereval_refuses_arrays_of_other_types(make, tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    assert words in refused(make("routereval", tmp_path / "x.npz"), tmp_path)


def test_routereval_refuses_a_broken_zip(make, tmp_path, routereval):
    source, _, found = routereval
    whole = source.read_bytes()
    place = whole.index(b"train_embed.npy") + 200
    for broken in (whole[:place] + b"?" * 50 + whole[place + 50 :], b"not a zip", b"", whole[:-30]):
        source.write_bytes(broken)
        assert f"{source}: cannot be read" in refused(make("routereval", source), tmp_path)
    np.save(tmp_path / "one.npy", found["train_score"])
    with zipfile.ZipFile(source, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            file.write(tmp_path / "one.npy", "train_score.npy")
    assert "train_score.npy occurs twice" in refused(make("routereval", source), tmp_path)


def test_an_llm_is_named_once(make, tmp_path, routereval):
    source, texts, _ = routereval
    error = refused(make("routereval", source, "--llms", "a", "b", "a"), tmp_path)
    assert "--llms names a twice" in error
    assert "--llms: the name of an LLM must be" in refused(
        make("routereval", source, "--llms", "a", " ", "b"), tmp_path
    )
    folder = embedllm(tmp_path / "e", [(0, "one?", LLMS[0], "mmlu", 1)])
    assert "names lab/one twice" in refused(make("embedllm", folder, "--llms", LLMS[0], LLMS[0]), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt_id,prompt,model_name,category\n1,one?,a,x\n", "line 2: no column label; it has 'prompt_id'"),
        ("prompt_id,prompt,model_name,category,label\n1,one?,a,x\n", "line 2: 4 cells under 5 columns"),
        ("prompt_id,prompt,model_name,category,label\n1,one?,a,x,1,1\n", "line 2: 6 cells under 5 columns"),
        ("prompt_id,prompt,model_name,category,label,label\n1,one?,a,x,1,0\n", "the column 'label' occurs twice"),
        ("prompt_id,prompt,model_name,category,label\n1,one?, ,x,1\n", "line 2: the name of the LLM must be"),
        ("prompt_id,prompt,model_name,category,label\n1,one?,a,,1\n", "line 2: the category must be"),
        (
            'prompt_id,prompt,model_name,category,label\n1,one?,"a\nb",x,1\n',
            "line 3: the name of the LLM must be one line",
        ),
        ('prompt_id,prompt,model_name,category,label\n1,"one?,a,x,1\n', "line 2: not a valid CSV file"),
    ],
)
def test_embedllm_refuses_lines_that_do_not_fit(make, tmp_path, text, words):
    (tmp_path / "train.csv").write_text(text)
    assert f"train.csv{': ' if words.startswith('the column') else ', '}{words}" in refused(
        make("embedllm", tmp_path / "train.csv"), tmp_path
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt,eval_name,a,a\none?,x,1,0\n", "the column 'a' occurs twice"),
        ("prompt,eval_name,a,b\none?,x,1\n", "line 2: 3 cells under 4 columns"),
        ("prompt,eval_name,a,b\none?,x,1,0,0\n", "line 2: 5 cells under 4 columns"),
        ("prompt,eval_name,a,b\none?, ,1,0\n", "row 0: eval_name, the task, must be"),
        ("prompt,a,b\none?,1,0\n", "no column eval_name"),
        ("", "no column eval_name"),
        ("prompt,eval_name,a,\none?,x,1,0,\n", "line 2: 5 cells under 4 columns"),
    ],
)
def test_routerbench_refuses_lines_that_do_not_fit(make, tmp_path, text, words):
    (tmp_path / "r.csv").write_text(text)
    error = refused(make("routerbench", tmp_path / "r.csv"), tmp_path)
    assert words in error and str(tmp_path / "r.csv") in error


def test_routerbench_refuses_columns_without_a_name_of_their_own(make, tmp_path):
    for columns in (["prompt", "eval_name", "a", "a"], ["prompt", "eval_name", 0, 1]):
        pd.DataFrame([["one?", "x", 1.0, 0.0]], columns=columns).to_pickle(tmp_path / "r.pkl")
        error = refused(make("routerbench", tmp_path / "r.pkl", "--allow_pickle"), tmp_path)
        assert "r.pkl: its columns must have names" in error


def test_two_imports_into_one_folder_do_not_mix(make, tmp_path):
    source = save(frame(), tmp_path / "r.csv")
    with atomic_folder(tmp_path / "out") as part:
        (part / "theirs").write_text("whole")
        status, _, error = make("routerbench", source)
        assert status == 2 and "another process is writing this folder" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_an_import_that_ended_meanwhile_is_not_overwritten(make, tmp_path, monkeypatch):
    source, read = save(frame(), tmp_path / "r.csv"), importers.routerbench.read

    def read_then_written(*arguments):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("whole")
        return read(*arguments)

    monkeypatch.setattr(importers.routerbench, "read", read_then_written)
    status, _, error = make("routerbench", source)
    assert status == 2 and "not an empty folder" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_the_command_of_the_readme(script, tmp_path):
    import subprocess
    import sys

    source = save(frame(), tmp_path / "r.parquet")
    command = [
        sys.executable,
        "-m",
        "utils.importers",
        "routerbench",
        str(source),
        "--output",
        str(tmp_path / "out"),
        "--test_fraction",
        "0.5",
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=120)
    assert run.returncode == 0 and "mbpp_train.json: 1 rows" in run.stdout, run.stderr


def test_routereval_without_text_trains_the_frozen_recipe_only(make, script, tmp_path, routereval):
    source, _, found = routereval
    status, text, error = make("routereval", source)
    assert status == 0 and "no encoder can be trained" in text, error
    names = [f"mmlu_weak_{name}.npz" for name in ("train", "val", "test")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    data = load(tmp_path / "out" / names[0], "multi_attempt")
    assert data.llms == ("llm-1", "llm-2", "llm-3") and len(set(data.questions)) == 8
    np.testing.assert_array_equal(data.scores, found["train_score"])
    np.testing.assert_array_equal(data.embeddings, found["train_embed"].astype(np.float32))
    paths = [str(tmp_path / "out" / name) for name in names]
    flags = ["--data_paths", paths[0], "--test_data_paths", paths[2], "--final_eval_data_paths"]
    flags += (
        "--data_type multi_attempt --cluster_loss_weight 0 --training_steps 5 --eval_steps 5 --batch_size 4".split()
    )
    flags += ["--device", "cpu", "--save_path", tmp_path / "run", "--cache_dir", tmp_path / "c"]
    run = script("train_router_mdeberta.py", *flags, "--encoder", "given")
    assert run.returncode == 2 and "add --freeze_encoder" in run.stderr
    run = script("train_router_mdeberta.py", *flags, "--encoder", "given", "--freeze_encoder")
    assert run.returncode == 0, run.stderr
    again = script(
        "evaluation_router.py",
        "--ckpt",
        tmp_path / "run",
        "--cache_dir",
        tmp_path / "c",
        "--output",
        tmp_path / "picks.json",
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.split("\n\nWritten")[0] == (tmp_path / "run" / "tables.md").read_text().strip(), again.stderr
    picks = json.loads((tmp_path / "picks.json").read_text())["picks"]["mmlu_weak"]
    earned = 100 * found["test_score"][np.arange(4), picks].mean()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test"]["tasks"]["mmlu_weak"] == pytest.approx(
        earned
    )


def test_what_is_drawn_and_lost_after_training_reads_the_embeddings_too(make, script, tmp_path, routereval):
    """An LLM lost at test time, and the map of the test queries, of a router that has no text to read."""
    assert make("routereval", routereval[0])[0] == 0
    train, test, other = (tmp_path / "out" / f"mmlu_weak_{name}.npz" for name in ("train", "test", "val"))
    other = other.rename(tmp_path / "strange_test.npz")
    files = ["--data_paths", train, "--test_data_paths", test, "--final_eval_data_paths", other]
    flags = [*files, *"--data_type multi_attempt --cluster_loss_weight 0 --training_steps 5 --batch_size 4".split()]
    flags += ["--device", "cpu", "--save_path", tmp_path / "run", "--cache_dir", tmp_path / "c"]
    flags += ["--encoder", "given", "--freeze_encoder"]
    run = script("train_router_mdeberta.py", *flags)
    assert run.returncode == 0, run.stderr
    result, picks = (json.loads((tmp_path / "run" / name).read_text()) for name in ("results.json", "picks.json"))
    hardware = HardwareConfig(device="cpu", cache_dir=tmp_path / "c")
    lines = {line["value"]: line for line in lost_llms.lose_llms(tmp_path / "run", hardware)}
    assert set(lines) == {"none", "llm-1", "llm-2", "llm-3"} and lines["none"]["metrics"] == pytest.approx(
        result["test"]["tasks"], abs=1e-3
    )
    queries = figures.query_embeddings(tmp_path / "run", 100, 1, hardware)
    llms = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")["llm_embeddings.weight"].numpy()
    nearest = (queries.embeddings @ (llms / np.linalg.norm(llms, axis=1, keepdims=True)).T).argmax(axis=1)
    assert picks.pop("LLMs") == ["llm-1", "llm-2", "llm-3"]
    assert {task: nearest[queries.places == number].tolist() for number, task in enumerate(queries.tasks)} == picks


def test_text_and_embeddings_do_not_mix(script, make, tmp_path, routereval, fake):
    source, _, _ = routereval
    assert make("routereval", source)[0] == 0
    embedded = str(tmp_path / "out" / "mmlu_weak_train.npz")
    text, narrow = tmp_path / "poems_test.json", tmp_path / "poems_test.npz"
    text.write_text(json.dumps([{"question": "one?", "scores": {f"llm-{t}": 1 for t in (1, 2, 3)}}]))
    np.savez(narrow, scores=np.ones((2, 3)), embeddings=np.ones((2, 4)), llms=np.array(["llm-1", "llm-2", "llm-3"]))
    tested = ["--data_paths", embedded, "--data_type", "multi_attempt", "--encoder", "given", "--final_eval"]
    tested += ["--test_data_type", "multi_attempt", "--final_eval_data_paths"]
    flags = ["--no-final_eval", "--freeze_encoder", "--cluster_loss_weight", "0", "--device", "cpu"]
    flags += ["--save_path", tmp_path / "run", "--cache_dir", tmp_path / "c"]
    for more, words in (
        (
            ["--data_paths", embedded, "--data_type", "multi_attempt", "--encoder", "minilm"],
            "has embeddings and no text; use --encoder given",
        ),
        (["--data_paths", fake.train["gsm8k"], "--encoder", "given"], "has text; name an encoder that reads it"),
        ([*tested, "--test_data_paths", text], f"{text} has text, and {embedded} has embeddings of 5 dimensions"),
        (
            [*tested, "--test_data_paths", narrow],
            f"{narrow} has embeddings of 4 dimensions, and {embedded} has embeddings of 5 dimensions",
        ),
    ):
        run = script("train_router_mdeberta.py", *flags, "--top_k", "1", "--last_k", "1", *more)
        assert run.returncode == 2 and words in run.stderr and "Traceback" not in run.stderr
        assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embeddings": np.ones((3, 2))}, "expected scores (N, T), finite embeddings (N, p) and T llms"),
        ({"embeddings": np.full((2, 2), np.nan)}, "expected scores (N, T), finite embeddings"),
        ({"embeddings": np.array([["a", "b"], ["c", "d"]])}, "embeddings must be an array of floating-point"),
        ({"llms": np.array(["a"])}, "expected scores (N, T)"),
        ({"llms": None}, "no array llms"),
        ({"scores": np.array([[0, 1.5], [0, 0]])}, "row 0: the score of b must be a number in [0, 1], found 1.5"),
        ({"scores": np.array([[0, 1], [np.nan, 0]])}, "row 1: the score of a must be a number in [0, 1], found None"),
        ({"costs": np.array([[0, 1.0]])}, "do not fit scores"),
        ({"costs": np.array([[0, 1.0], [0, -1]])}, "row 1: the cost of b must be"),
    ],
)
def test_bad_embedding_files(tmp_path, change, words):
    arrays = {"scores": np.array([[0, 1.0], [0.5, 0]]), "embeddings": np.eye(2), "llms": np.array(["a", "b"])} | change
    path = tmp_path / "gsm8k.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(ValueError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}") and words in str(error.value)
