"""utils/data.py: what it refuses and in which words, joining LLMs by name; splits and targets; the released data."""

import collections
import json
import re
import tracemalloc
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LLMS, make_rows

from utils.config import DataConfig, parse_config
from utils.data import DataError, count_training_questions, cut, gains, load, load_all, reading, reading_of
from utils.losses import sample_llm_loss
from utils.tasks import TASKS, TRAIN_ORDER, kind_of, task_of
from utils.training_set import load_training_files, shrink, split_validation, targets, training_rows

FLAGS = ("--data_paths", "--data_type")
ROWS = [
    {"question": "one?", "scores": {"a": 1.0, "b": 0}, "cluster_id": 0},
    {"question": "two?", "scores": {"a": 0.5, "b": 0.25}, "cluster_id": 3},
    {"question": "three?", "scores": {"b": 0.1, "a": 0}, "cluster_id": 0},  # keys in another order
]


@pytest.fixture
def write(tmp_path):
    """Writes a data file, by default ROWS with the value at `keys` replaced: write("gsm8k", (1, "scores", "a"),
    "high").
    """

    def write(name: str, keys=(), value=None, rows=ROWS):
        rows = json.loads(json.dumps(rows))
        place = rows
        for key in keys[:-1]:
            place = place[key]
        if keys and value is ...:
            del place[keys[-1]]
        elif keys:
            place[keys[-1]] = value
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(rows))
        return path

    return write


def message(path, *arguments, **options) -> str:
    with pytest.raises(DataError) as error:
        load(path, *arguments, **options)
    return str(error.value)


def test_a_good_file(write):
    data = load(write("gsm8k-train"))
    assert (data.task, data.kind, data.llms, len(data)) == ("gsm8k", "multi_attempt", ("a", "b"), 3)
    assert data.questions == ["one?", "two?", "three?"]
    np.testing.assert_array_equal(data.scores, np.float32([[1, 0], [0.5, 0.25], [0, 0.1]]))
    np.testing.assert_array_equal(data.clusters, [0, 3, 0])


def test_a_missing_file_names_the_download(tmp_path):
    text = message(tmp_path / "gsm8k.json")
    assert f"{tmp_path / 'gsm8k.json'}: no such file" in text and "python -m utils.download" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"question": "one?", "scores": {"a": 1.0', "not valid JSON"),  # truncated
        (b"", "not valid JSON (the file is empty)"),
        (b"\xff\xfe[", "not a text in UTF-8"),
        (b"[]", "expected a list of at least one row, found an empty list"),
        (b'{"question": "one?"}', "expected a list of at least one row, found dict"),
    ],
)
def test_files_that_are_no_list_of_rows(tmp_path, content, words):
    path = tmp_path / "mmlu_test.json"
    path.write_bytes(content)
    assert message(path).startswith(str(path)) and words in message(path)


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        ((1,), "two?", "expected an object, found str"),
        ((1, "scores"), ..., "'scores' must map each LLM to its score, found None"),
        ((1, "scores"), {}, "'scores' must map each LLM to its score, found {}"),
        ((1, "scores"), [1, 0], "'scores' must map each LLM to its score, found [1, 0]"),
        ((1, "scores", "a"), float("nan"), "the score of a must be a number in [0, 1], found nan"),
        ((1, "scores", "a"), float("inf"), "the score of a must be a number in [0, 1], found inf"),
        ((1, "scores", "b"), 1.01, "the score of b must be a number in [0, 1], found 1.01"),
        ((1, "scores", "b"), -0.01, "the score of b must be a number in [0, 1], found -0.01"),
        ((1, "scores", "b"), True, "the score of b must be a number in [0, 1], found True"),
        ((1, "scores", "b"), "0.5", "the score of b must be a number in [0, 1], found '0.5'"),
        ((1, "scores", "b"), None, "the score of b must be a number in [0, 1], found None"),
        ((1, "scores", "b"), ..., "scores are for other LLMs than in row 0; missing: b"),
        ((1, "scores", "c"), 1, "scores are for other LLMs than in row 0; unexpected: c"),
        ((1, "question"), "", "'question' must be a non-empty string, found ''"),
        ((1, "question"), " \n", "'question' must be a non-empty string"),
        ((1, "question"), 7, "'question' must be a non-empty string, found 7"),
        ((1, "question"), ..., "'question' must be a non-empty string, found None"),
    ],
)
def test_bad_rows_are_named(write, keys, value, words):
    path = write("mmlu_test", keys, value)
    assert message(path).startswith(f"{path}, row 1: ") and words in message(path)


@pytest.mark.parametrize("value", [..., None, 1.0, "1", True])
def test_cluster_ids_are_asked_for_only_where_needed(write, value):
    path = write("mmlu_train", (2, "cluster_id"), value)
    text = message(path, need_clusters=True)
    assert text.startswith(f"{path}, row 2: 'cluster_id' must be an integer")
    assert "python -m utils.clustering" in text
    assert "--cluster_loss_weight 0 --sample_loss_weight 1" in text
    assert len(load(path)) == 3


def test_a_task_that_nobody_knows_needs_a_kind(write):
    path = write("riddles_test")
    text = message(path)
    assert text.startswith(f"{path}: ")
    assert "'riddles'" in text
    assert "--test_data_type" in text
    assert "probability or multi_attempt" in text
    assert load(path, "probability").kind == "probability"
    assert "'exact' is no score kind" in message(path, "exact")


def test_file_names_stand_for_tasks():
    for name, task in (
        ("gsm8k-train", "gsm8k"),
        ("MATH_prealgebra", "math_prealgebra"),
        ("arc_challenge_test", "arc_challenge"),
        ("train_test", "train"),
    ):
        assert task_of(f"some_train/folder-test/{name}.json") == task
    for task in TASKS:
        assert task_of(task.test) == task.name and kind_of(task.name) == task.kind
        assert task.train is None or task_of(task.train) == task.name


def test_llms_are_joined_by_name(write):
    """The same scores with the keys of every row, and of a whole file, in another order give the same matrix."""
    rows = make_rows(20, "multi_attempt", 0)
    turned = [{**row, "scores": dict(reversed(row["scores"].items()))} for row in rows]
    first, second = load_all([str(write("gsm8k", rows=rows)), str(write("mmlu", rows=turned))], None, FLAGS)
    assert first.llms == second.llms == LLMS
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(second.scores[:, 2], np.float32([row["scores"]["lab/gamma-8b"] for row in rows]))
    part = second.for_llms([LLMS[3], LLMS[1]])
    np.testing.assert_array_equal(part.scores, first.scores[:, [3, 1]])
    with pytest.raises(DataError, match="no scores for lab/omega; it has org/alpha-7b"):
        second.for_llms(["lab/omega"])


def test_files_for_other_llms_are_refused(write):
    first, second = write("gsm8k-train"), write("mmlu_train", rows=[{"question": "one?", "scores": {"a": 1, "c": 0}}])
    with pytest.raises(DataError) as error:
        load_all([str(first), str(second)], None, FLAGS)
    assert str(error.value) == f"{second}: scores are for other LLMs than in {first}; missing: b; unexpected: c"


def test_lists_of_different_lengths_are_refused(write):
    with pytest.raises(
        DataError, match="--data_paths names 1 files and --data_type 2 kinds; give one kind for each file"
    ):
        load_all([str(write("gsm8k"))], ["probability", "probability"], FLAGS)


def test_two_files_of_one_task_are_refused(write):
    with pytest.raises(DataError, match="--data_paths: two files are for the task 'gsm8k'"):
        load_all([str(write("gsm8k-train")), str(write("mmlu")), str(write("gsm8k-test"))], None, FLAGS)


def test_the_given_kind_wins(write):
    paths = [str(write("gsm8k")), str(write("mmlu"))]
    assert [data.kind for data in load_all(paths, None, FLAGS)] == ["multi_attempt", "probability"]
    assert [data.kind for data in load_all(paths, ["probability", "multi_attempt"], FLAGS)] == [
        "probability",
        "multi_attempt",
    ]


# What changed results without a word, or ended in an error from the depths

GOOD_ROW = '{"question": "one?", "scores": {"a": 1, "b": 0}}'
MANY = "0" * 400  # more than a float holds
ARRAYS = {
    "scores": np.array([[0.5, 1], [0, 0.25]]),
    "embeddings": np.ones((2, 3), np.float32),
    "llms": np.array(["a", "b"]),
}


def json_row(scores: str = '{"a": 1, "b": 0}', question: str = "one?", more: str = "") -> str:
    return f'[{{"question": "{question}", "scores": {scores}{more}}}]'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json_row('{"a": 1, "a": 0, "b": 1}'), "row 0: not valid JSON ('a' occurs twice in one object)"),
        (json_row(more=', "question": "two?"'), "row 0: not valid JSON ('question' occurs twice"),
        (json_row('{"a": 1%s, "b": 0}' % MANY), "row 0: the score of a must be a number in [0, 1], found 1000"),
        (json_row(more=', "costs": {"a": 1%s, "b": 0}' % MANY), "row 0: the cost of a must be a number of US dollars"),
        (json_row('{"a": 1%s, "b": 0}' % ("0" * 5000)), "row 0: not valid JSON (Exceeds the limit"),
        (json_row(more=', "cluster_id": 9223372036854775808'), "row 0: 'cluster_id' must be an integer of 64 bits"),
        (json_row(more=', "x": ' + "[" * 100000), "row 0: not valid JSON (maximum recursion depth"),
        (json_row("[" * 800 + "]" * 800), "row 0: 'scores' must map each LLM to its score, found [[[[[[[...]]]]]]]"),
        (json_row(question="\\ud800"), "row 0: not valid JSON ('utf-8' codec can't encode character"),
        (json_row('{"\\udfff": 1}'), "row 0: not valid JSON ('utf-8' codec can't encode character"),
        (json_row('{"": 1, "b": 0}'), "row 0: an LLM has an empty name; the names are '', 'b'"),
        (json_row('{"a": 1, " ": 0}'), "row 0: an LLM has an empty name; the names are 'a', ' '"),
        (f"{GOOD_ROW}\n{GOOD_ROW}\n", "an object a line; such a file is called mmlu_train.jsonl"),
        (f"[{GOOD_ROW}] [", "not valid JSON ('[' stands behind the list)"),
        (f"[{GOOD_ROW} {GOOD_ROW}]", "row 0: not valid JSON (no comma and no ] behind it)"),
        (f"[{GOOD_ROW},]", "row 1: not valid JSON"),
        (" \n", "not valid JSON (the file is empty)"),
    ],
)
def test_hostile_json_is_refused_by_row(tmp_path, text, words):
    path = tmp_path / "mmlu_train.json"
    path.write_text(text)
    found = message(path, need_clusters="cluster_id" in text)
    assert found.startswith(str(path)) and words in found
    assert len(found) < 500 + len(str(path))


def test_pairs_of_surrogates_are_one_character(tmp_path):
    path = tmp_path / "mmlu_train.json"
    path.write_text(json_row(question="\\ud83d\\ude42"))
    assert load(path).questions == ["🙂"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_other_encodings_are_refused_and_a_byte_order_mark_is_not(tmp_path, suffix, encoding):
    path = tmp_path / f"gsm8k{suffix}"
    rows = [{"question": "où?", "scores": {"a": 1.0, "b": 0.5}}]
    text = json.dumps(rows if suffix == ".json" else rows[0], ensure_ascii=False)
    if suffix == ".csv":
        text = "question,a,b\noù?,1.0,0.5\n"
    path.write_bytes(text.encode(encoding))
    assert message(path).startswith(f"{path}: not a text in UTF-8") and "save it as UTF-8" in message(path)
    path.write_bytes(text.encode("utf-8-sig"))
    data = load(path)
    assert (data.questions, data.llms, data.scores.tolist()) == (["où?"], ("a", "b"), [[1.0, 0.5]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question;a;b\none?;1;0\n", "a single column, 'question;a;b'; columns must be separated by commas"),
        ("question\ta\none?\t1\n", "columns must be separated by commas"),
        ("question,a,b,difficulty\none?,1,0,0.5\n", "the column 'difficulty' would be an LLM"),
        ("question,a,Level\none?,1,0.5\n", "the column 'Level' would be an LLM"),
        ("question,a, \none?,1,0\n", "row 0: an LLM has an empty name"),
        ("question,a\none?,0_1\n", "row 0: the score of a must be a number in [0, 1], found '0_1'"),
        ("question,a\none?,１\n", "row 0: the score of a must be a number in [0, 1], found '１'"),
    ],
)
def test_tables_that_are_not_what_they_seem(tmp_path, text, words):
    path = tmp_path / "gsm8k.csv"
    path.write_text(text, encoding="utf-8")
    assert message(path).startswith(str(path)) and words in message(path)


def test_cost_columns_say_that_a_column_is_an_llm(tmp_path):
    path = tmp_path / "gsm8k.csv"
    path.write_text("question,year,year|total_cost\none?,1,0.5\n")
    assert load(path).llms == ("year",)


def test_cluster_ids_of_a_table_keep_all_digits(tmp_path):
    ids = [2**53 + 1, -(2**63), 7]
    path = tmp_path / "gsm8k.csv"
    path.write_text("question,a,cluster_id\n" + "".join(f"{place}?,1,{value}\n" for place, value in enumerate(ids)))
    assert load(path).clusters.tolist() == ids
    pd.DataFrame({"question": ["x", "y", "z"], "a": [1, 0, 1], "cluster_id": ids}).to_parquet(tmp_path / "mmlu.parquet")
    assert load(tmp_path / "mmlu.parquet").clusters.tolist() == ids


def test_numbers_that_overflow_are_no_cluster_ids_where_none_are_needed(write):
    assert load(write("mmlu_train", (1, "cluster_id"), 2**63)).clusters is None
    assert load(write("mmlu_train", (1, "cluster_id"), True)).clusters is None
    assert load(write("mmlu_train", (1, "cluster_id"), 2**63 - 1)).clusters.tolist() == [0, 2**63 - 1, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"llms": np.array(["a", "a"])}, "an LLM is named twice: a, a"),
        ({"llms": np.array([1, 2])}, "llms must be an array of strings"),
        ({"llms": np.array("ab")}, "and ()"),
        ({"llms": np.array(["\ud800", "b"])}, "llms must be names"),
        ({"llms": np.array(["a", " "])}, "row 0: an LLM has an empty name"),
        ({"scores": np.array([["0.5", "1"], ["0", "0"]])}, "scores must be an array of numbers"),
        ({"scores": np.ones((2, 2), complex)}, "scores must be an array of numbers"),
        ({"scores": np.ones((2, 2), "M8[s]")}, "scores must be an array of numbers"),
        ({"costs": np.ones((2, 2), bool)}, "costs must be an array of numbers"),
        ({"embeddings": np.full((2, 3), 1e300)}, "finite embeddings"),
        ({"cluster_id": np.array(3)}, "cluster_id () do not fit scores (2, 2)"),
        ({"cluster_id": np.array([2**63, 1], np.uint64)}, "row 0: 'cluster_id' must be an integer of 64 bits"),
    ],
)
def test_hostile_arrays_are_refused(tmp_path, change, words):
    path = tmp_path / "gsm8k.npz"
    np.savez(path, **{**ARRAYS, **change})
    text = message(path, need_clusters="cluster_id" in change)
    assert text.startswith(str(path)) and words in text


def rewritten(path, change) -> None:
    """Write an .npz file again with the members, as pairs of name and content, that `change` makes of its own."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for name, content in change(members):
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda members: [*members, members[0]], "an array occurs twice"),
        (lambda members: [*members[1:], ("scores.npy", b"no array")], "scores must be an array of numbers"),
        (lambda members: [*members[1:], (members[0][0], members[0][1][:-8])], "not a valid .npz file of plain arrays"),
        (lambda members: members[1:], "no array scores; it has embeddings, llms"),
    ],
)
def test_broken_members_are_refused(tmp_path, change, words):
    path = tmp_path / "gsm8k.npz"
    np.savez(path, **ARRAYS)
    rewritten(path, change)
    assert message(path).startswith(f"{path}: ") and words in message(path)


def test_a_changed_byte_of_an_array_is_found(tmp_path):
    """Also where numpy would not read on to the end, where the check sum is compared: a type of half the size."""
    path = tmp_path / "gsm8k.npz"
    np.savez(path, **{**ARRAYS, "scores": np.zeros((2, 2))})
    path.write_bytes(path.read_bytes().replace(b"<f8", b"<f4"))
    assert "scores.npy is damaged" in message(path)
    np.save(tmp_path / "one.npy", ARRAYS["scores"])
    path.write_bytes((tmp_path / "one.npy").read_bytes())
    assert "not a valid .npz file of plain arrays" in message(path)


def test_a_folder_is_called_one(tmp_path):
    assert message(tmp_path) == f"{tmp_path}: a folder; name the files in it"


def test_one_question_with_other_scores_is_noted(write, capsys):
    again = {"question": "one?", "scores": {"a": 1.0, "b": 0.5}}
    load_all([str(write("gsm8k", rows=[*ROWS, ROWS[0]])), str(write("mbpp"))], None, FLAGS)
    assert capsys.readouterr().err == ""
    path = write("mmlu", rows=[*ROWS, again, again])
    assert len(load_all([str(path)], None, FLAGS)[0]) == 5
    note = f"note: {path}: 1 of its questions stand in several rows with different scores; each row counts\n"
    assert capsys.readouterr().err == note


def test_one_llm_is_no_choice(write):
    rows = [{"question": f"{number}?", "scores": {"a": 1}} for number in range(4)]
    path = write("gsm8k", rows=rows)
    with pytest.raises(DataError, match=re.escape(f"{path}: one LLM alone, a; a router chooses among two or more")):
        load_training_files(DataConfig(data_paths=(str(path),)))
    with pytest.raises(DataError, match="one LLM alone, b"):
        load_training_files(DataConfig(data_paths=(str(write("gsm8k")),), llms=("b",)))


def test_rows_are_not_kept_while_a_file_is_read(tmp_path):
    """Ten times the rows may take ten times the table and the text, but not the objects of JSON: 60 bytes a score."""
    row = json.dumps({"question": "q", "scores": {f"org/{number}": 0.123456 for number in range(100)}})
    path = tmp_path / "gsm8k.json"
    path.write_text(f"[{','.join([row] * 5000)}]")
    tracemalloc.start()
    data = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.scores.shape == (5000, 100)
    assert peak < 2.2 * path.stat().st_size + 3 * data.scores.nbytes


# Formats, costs, gaps

PRICED = [
    {
        "question": 'one, "two"\nthree?',
        "scores": {"a": 1.0, "b|x": 0.25},
        "costs": {"a": 0.001, "b|x": 2},
        "cluster_id": 1,
    },
    {"question": "四?", "scores": {"a": 0, "b|x": 0.1}, "costs": {"b|x": 0, "a": 1e-7}, "cluster_id": 0},
]


def save(path, rows):
    """Rows in the format of the suffix, tables by pandas."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    else:
        flat = [
            {"question": row["question"], **row["scores"]}
            | {f"{llm}|total_cost": cost for llm, cost in row.get("costs", {}).items()}
            for row in rows
        ]
        flat = [
            cells | ({"cluster_id": row["cluster_id"]} if "cluster_id" in row else {}) for cells, row in zip(flat, rows)
        ]
        table = pd.DataFrame(flat)
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("priced", [True, False])
def test_the_same_rows_in_every_format(tmp_path, suffix, priced):
    rows = PRICED if priced else [{name: value for name, value in row.items() if name != "costs"} for row in PRICED]
    data = load(save(tmp_path / f"gsm8k_train{suffix}", rows), need_clusters=True)
    assert (data.task, data.llms, data.questions) == ("gsm8k", ("a", "b|x"), ['one, "two"\nthree?', "四?"])
    assert data.scores.dtype == np.float32 and data.clusters.tolist() == [1, 0]
    np.testing.assert_array_equal(data.scores, np.float32([[1, 0.25], [0, 0.1]]))
    if priced:
        np.testing.assert_array_equal(data.costs, [[0.001, 2], [1e-7, 0]])
        np.testing.assert_array_equal(data.for_llms(["b|x"]).rows(np.array([1, 0, 1])).costs, [[0], [2], [0]])
    else:
        assert data.costs is None


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("scores", "the score of b|x must be a number in [0, 1], found None"),
        ("costs", "the cost of b|x must be a number of US dollars, at least 0, found None"),
    ],
)
def test_gaps_are_an_error_or_counted(tmp_path, capsys, suffix, what, words):
    rows = json.loads(json.dumps([*PRICED, PRICED[0]]))
    rows[1][what]["b|x"] = None
    path = save(tmp_path / f"gsm8k{suffix}", rows)
    text = message(path)
    assert text.startswith(f"{path}, row 1: {words}") and "--missing_cells drop" in text
    assert capsys.readouterr().err == ""
    data = load(path, missing="drop")
    assert data.questions == [PRICED[0]["question"]] * 2
    assert data.left_out == 1
    assert not np.isnan(data.scores).any()
    assert not np.isnan(data.costs).any()
    assert f"{path}: 1 of 3 rows left out" in capsys.readouterr().err
    for row in rows:
        row[what]["b|x"] = None if what == "scores" else row[what]["b|x"]
    if what == "scores":
        assert "no row is left" in message(save(path, rows), missing="drop")


def test_a_row_without_costs_where_others_have_them(write):
    path = write("gsm8k", (0, "costs"), {"a": 1, "b": 2}, rows=ROWS)
    assert message(path).startswith(f"{path}, row 1: the cost of a must be")
    assert len(load(path, missing="drop")) == 1


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        (".csv", "question,a\none?,high\n", "row 0: the score of a must be a number in [0, 1], found 'high'"),
        (".csv", "question,a\none?,1\ntwo?,1.5\n", "row 1: the score of a must be a number in [0, 1], found 1.5"),
        (".csv", "question,a\none?,1\ntwo?\n", "row 1: 1 cells under 2 columns"),
        (".csv", "question,a,a\none?,1,0\n", "the column 'a' occurs twice"),
        (".csv", 'question,a\n"one?,1\n', "not a valid CSV file"),
        (".csv", "text,a\none?,1\n", "no column `question` (or `prompt`); it has 'text', 'a'"),
        (".csv", "question,a,b,a|total_cost\none?,1,1,0.5\n", "'b': a score without its cost column"),
        (
            ".csv",
            "question,a,a|total_cost\none?,1,-1\n",
            "row 0: the cost of a must be a number of US dollars, at least 0, found -1.0",
        ),
        (".csv", "question\none?\n", "'scores' must map each LLM to its score, found {}"),
        (".csv", "question,a\n", "found an empty list"),
        (".csv", "", "no column `question`"),
        (".jsonl", '{"question": "one?", "scores": {"a": 1}}\n{"question"', "line 2: not valid JSON"),
        (".parquet", "PAR1 is not all of it", "not a valid parquet file"),
        (".txt", "[]", "a data file ends in .json, .jsonl, .csv, .parquet, .npz"),
    ],
)
def test_bad_tables_are_named(tmp_path, suffix, content, words):
    path = tmp_path / f"gsm8k{suffix}"
    path.write_text(content)
    assert message(path).startswith(f"{path}") and words in message(path)


def test_routerbenchs_columns(tmp_path):
    """Its CSV as released: an index, a literal in `prompt`, answers with line breaks, columns of LLMs by name."""
    table = pd.DataFrame(
        {
            "sample_id": ["x.1", "x.1"],
            "prompt": ["['one,\\n\"two\"?']", "['[three]?']"],
            "eval_name": ["mbpp", "mbpp"],
            "org/z": [1.0, 0.0],
            "a": [0.0, 1.0],
            "a|model_response": ["['x\ny']", "z"],
            "org/z|model_response": ["", "nan"],
            "a|total_cost": [3e-5, 0.5],
            "org/z|total_cost": [0.25, 1.0],
            "oracle_model_to_route_to": ["org/z", "a"],
            "cluster_id": [7, 2],
        }
    )
    table.to_csv(tmp_path / "mbpp_train.csv")
    first = load(tmp_path / "mbpp_train.csv", characters=6, keep="first")
    assert first.questions == ['one,\n"', "[three"] and first.whole == ['one,\n"two"?', "[three]?"]
    data = load(tmp_path / "mbpp_train.csv", need_clusters=True, characters=6)
    assert data.llms == ("org/z", "a") and data.questions == ['"two"?', "hree]?"] and data.clusters.tolist() == [7, 2]
    np.testing.assert_array_equal(data.costs, [[0.25, 3e-5], [1, 0.5]])


def test_the_penalty_is_charged_once(tmp_path):
    data = load(save(tmp_path / "gsm8k.json", PRICED))
    for kind in ("score", "gain"):
        expected = [[row["scores"][llm] - 0.5 * row["costs"][llm] for llm in ("a", "b|x")] for row in PRICED]
        np.testing.assert_allclose(targets(data, kind, cost_rate=0.5), expected, rtol=1e-6)
    data.kind = "probability"
    np.testing.assert_allclose(targets(data, "gain", cost_rate=10), [[1 - 0.01, 1 - 20], [0 - 1e-6, 1]], rtol=1e-6)
    np.testing.assert_array_equal(data.scores, np.float32([[1, 0.25], [0, 0.1]]))  # the scores stay
    data.costs = None
    with pytest.raises(DataError, match="--cost_rate 2 needs the cost of every answer"):
        targets(data, cost_rate=2)


FILES = ["--data_paths", "a", "b", "--test_data_paths", "c", "--final_eval_data_paths"]


@pytest.mark.parametrize(
    ("flags", "kinds", "test_kinds"),
    [
        (["--dataset", "routerbench"], ("multi_attempt",) * 2, ("multi_attempt",)),
        (
            ["--dataset", "routerbench", "--data_type", "probability", "probability"],
            ("probability",) * 2,
            ("multi_attempt",),
        ),
        (["--data_type", "probability"], ("probability",) * 2, ("probability",)),
        (
            ["--data_type", "probability", "--test_data_type", "multi_attempt"],
            ("probability",) * 2,
            ("multi_attempt",),
        ),
        ([], None, None),
    ],
)
def test_a_single_kind_serves_all_files(flags, kinds, test_kinds):
    data = parse_config([*flags, *FILES]).data
    assert (data.data_type, data.test_data_type) == (kinds, test_kinds)


def test_the_options_of_reading_are_those_of_the_configuration():
    assert reading_of(DataConfig()) == reading({}) == {"missing": "error", "characters": None, "keep": "last"}
    config = DataConfig(missing_cells="drop", max_characters=9, keep_characters="first")
    settings = {"missing_cells": "drop", "max_characters": 9, "keep_characters": "first"}
    assert reading_of(config) == reading(settings) == {"missing": "drop", "characters": 9, "keep": "first"}


# Splits, rows, targets


@pytest.fixture
def data(fake):
    return load(fake.train["gsm8k"])


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_the_split_is_a_partition_by_question(data, fraction):
    train, held = split_validation(data, fraction, 1)
    assert sorted([*train, *held]) == list(range(len(data)))
    sides = [{data.questions[i] for i in side} for side in (train, held)]
    assert not sides[0] & sides[1] and len(set(data.questions)) < len(
        data
    )  # there are repeated questions to keep together
    assert len(sides[1]) == round(fraction * 54)
    assert list(train) == sorted(train) and list(held) == sorted(held)


def test_where_questions_are_cut_decides_no_split(fake):
    """Cut to one character many of the made-up questions are alike, as RouterBench's of one task may be."""
    whole = load(fake.train["gsm8k"])
    for keep, kept in (("last", lambda text: text[-1:]), ("first", lambda text: text[:1])):
        short = load(fake.train["gsm8k"], characters=1, keep=keep)
        assert short.questions == [kept(question) for question in whole.questions]
        assert len(set(short.questions)) < len(set(whole.questions)) and short.identity == whole.questions
        for seed in range(3):
            for side, other in zip(split_validation(short, 0.2, seed), split_validation(whole, 0.2, seed)):
                assert side.tolist() == other.tolist()
                assert short.rows(side).identity == [whole.questions[i] for i in side]
        test = load(fake.test["gsm8k"], characters=1, keep=keep)
        assert count_training_questions([test], [short]) == {}  # whole questions count
    assert count_training_questions([short], [whole]) == {short.path: 54}


def test_a_run_made_before_an_option_means_its_default():
    assert reading({}) == {"missing": "error", "characters": None, "keep": "last"}
    newer = {"missing_cells": "drop", "max_characters": 7, "keep_characters": "first"}
    assert reading(newer) == {"missing": "drop", "characters": 7, "keep": "first"}
    ways = ((None, "first"), (2, "first"), (2, "last"), (9, "last"))
    assert [cut("abcdef", *how) for how in ways] == ["abcdef", "ab", "ef", "abcdef"]


def test_repeated_questions_stay_together_for_every_seed(data):
    repeated = [question for question, count in collections.Counter(data.questions).items() if count > 1]
    assert len(repeated) == 6
    split = [split_validation(data, 0.3, seed)[1] for seed in range(20)]
    held = [sum(question in {data.questions[i] for i in side} for question in repeated) for side in split]
    assert 0 < sum(held) < 120  # they are on either side, and then wholly
    for side in split:
        assert all([data.questions[i] for i in side].count(question) in (0, 2) for question in repeated)


def test_the_split_depends_on_the_seed_alone(data, fake):
    first = split_validation(data, 0.2, 1)
    np.random.seed(9)
    torch.manual_seed(9)
    other = load(fake.train["gsm8k"]).for_llms(LLMS[::-1])
    other.scores = other.scores[::-1] * 0.5
    for a, b in zip(first, split_validation(other, 0.2, 1)):
        np.testing.assert_array_equal(a, b)
    assert len({tuple(split_validation(data, 0.2, seed)[1]) for seed in range(10)}) == 10


def test_fractions_that_leave_nothing_are_refused(data):
    train, held = split_validation(data, 0, 1)
    assert list(train) == list(range(len(data))) and len(held) == 0
    assert len(split_validation(data, 1e-6, 1)[1]) in (1, 2)  # above 0: at least one question
    for fraction in (1, 1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"--validation_fraction is {fraction}"):
            split_validation(data, fraction, 1)
    remedy = (
        "1 distinct questions cannot be split .*; take a file with more, or --validation_fraction 0 --selection last"
    )
    with pytest.raises(ValueError, match=remedy):
        split_validation(data.rows(np.array([4, 4])), 0.1, 1)


def test_training_rows_repeat_from_the_start():
    rows = training_rows(np.arange(115) * 2, 1000)
    assert len(rows) == 1000 and rows.tolist() == [2 * (i % 115) for i in range(1000)]
    assert training_rows(np.arange(2000), 1000).tolist() == list(range(1000))
    assert training_rows(np.arange(7), 0).tolist() == list(range(7))


@pytest.mark.parametrize("amount", [0, 0.3, 1])
def test_shrink_is_a_pandas_group_mean(amount):
    rng = np.random.default_rng(0)
    values, groups = rng.random((50, 3)).astype(np.float32), rng.choice([-4, 2, 7, 100], 50)
    means = pd.DataFrame(values.astype(np.float64)).groupby(groups).transform("mean").to_numpy()
    np.testing.assert_allclose(shrink(values, groups, amount), (1 - amount) * values + amount * means, rtol=1e-6)


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_shrink_refuses_amounts_outside(amount):
    with pytest.raises(ValueError, match=f"--target_shrinkage is {amount}; it must be from 0 to 1"):
        shrink(np.zeros((2, 2)), np.zeros(2), amount)


def test_targets_and_gains():
    scores = np.float32([[0, 0.3, 1]])
    assert gains(scores, "probability").tolist() == [[0, 1, 1]] and gains(scores, "multi_attempt") is scores
    for path_kind, expected in (("probability", [[0, 1, 1]]), ("multi_attempt", scores.tolist())):
        data = type("Data", (), {"scores": scores, "kind": path_kind})
        assert targets(data).tolist() == scores.tolist() and targets(data, "gain").tolist() == expected


# The released data: sizes and facts that the documentation states

SIZES = {
    "mmlu_train": 2000,
    "mmlu_test": 4213,
    "gsm8k-train": 1000,
    "gsm8k-test": 1319,
    "cmmlu_train": 2000,
    "cmmlu_test": 3475,
    "arc_challenge_train": 820,
    "arc_challenge_test": 352,
    "humaneval_train": 115,
    "humaneval_test": 49,
    "MATH_prealgebra": 871,
    "mbpp": 500,
    "ceval": 1346,
}
CLUSTERS = {
    "arc_challenge": (771, 29, 6, 1, 13),
    "cmmlu": (0, 0, 4, 1991, 5),
    "gsm8k": (14, 890, 11, 0, 85),
    "humaneval": (0, 5, 37, 0, 73),
    "mmlu": (136, 71, 1124, 9, 660),
}


@pytest.fixture(scope="module")
def released(mirror):
    """The five training files with cluster ids, in the released order."""
    by_name = {task.name: task for task in TASKS}
    return [load(mirror / by_name[name].train.removeprefix("datasets/"), need_clusters=True) for name in TRAIN_ORDER]


def test_released_sizes_and_repeated_questions(mirror):
    repeated = {}
    for name, size in SIZES.items():
        data = load(mirror / "split2_model7" / f"{name}.json")
        assert len(data) == size and len(data.llms) == 7
        repeated[name] = size - len(set(data.questions))
    assert {name: count for name, count in repeated.items() if count} == {"mmlu_test": 8, "ceval": 1, "mbpp": 1}


def test_released_clusters(released, mirror):
    for data in released:
        assert tuple(np.bincount(data.clusters, minlength=5)) == CLUSTERS[data.task]
        plain = load(mirror / "split2_model7" / data.path.rsplit("/", 1)[-1])
        assert plain.questions == data.questions
        np.testing.assert_array_equal(plain.for_llms(data.llms).scores, data.scores)


def test_released_facts_about_the_losses(released):
    """FIDELITY rows 1 and 9, counted on the scores and seen in the loss."""
    scores = np.concatenate([data.scores for data in released])
    assert scores.shape == (5935, 7)
    assert 100 * (np.sort(scores, axis=1)[:, -3] == 0).mean() == pytest.approx(35.3, abs=0.05)
    assert 100 * (scores > 0.5).all(axis=1).mean() == pytest.approx(18.6, abs=0.05)
    similarity = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    silent = (sample_llm_loss(similarity, torch.from_numpy(scores)) == 0).numpy()
    expected = (scores >= 0.5).all(axis=1) | (scores == 0).all(axis=1)
    np.testing.assert_array_equal(silent, expected)


def test_released_training_rows_are_1000_a_task(released):
    for data in released:
        rows = training_rows(np.arange(len(data)), 1000)
        assert len(rows) == 1000 and set(rows) == set(range(min(1000, len(data))))


def test_released_routerbench(mirror, capsys):
    """The gaps that datasets/README.md states, and scores and costs as pandas reads them."""
    for name, (rows, left, cells) in {
        "arc_challenge_train": (1039, 20, 92),
        "arc_challenge_test": (445, 8, 62),
        "mbpp_train": (299, 0, 0),
        "winograde_test": (380, 0, 0),
    }.items():
        path = mirror / "routerbench_zs" / f"{name}.csv"
        data = load(path, "multi_attempt", missing="drop")
        assert len(data) == rows - left and data.left_out == left and len(data.llms) == 11
        assert (f"{cells} scores in {left} rows" in capsys.readouterr().err) == bool(left)
        table = pd.read_csv(path)
        table = table[table[list(data.llms)].notna().all(axis=1)]
        np.testing.assert_array_equal(data.scores, table[list(data.llms)].to_numpy(np.float32))
        np.testing.assert_allclose(data.costs, table[[f"{llm}|total_cost" for llm in data.llms]].to_numpy(), rtol=1e-12)
        assert not any(question.startswith("['") for question in data.questions)
        if left:
            assert ", row " in message(path, "multi_attempt") and "--missing_cells drop" in message(
                path, "multi_attempt"
            )
