"""utils/cluster_files.py: which files a folder stands for, every format read and written, all files or none."""

import csv
import io
import itertools
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
from conftest import make_rows
from test_clustering import cache, command, inputs, made, read  # noqa: F401 (fixtures)

from utils import cluster_files, clustering
from utils.cluster_files import (
    TRAINING_FILES,
    given_ids,
    load_files,
    training_files,
    unique_queries,
    write_clustered,
)
from utils.clustering import main
from utils.data import DataError, load, load_all


def table_rows(count: int = 12) -> list[dict]:
    """Rows with characters that every format must keep: quotes, commas, line ends, Chinese."""
    rows = make_rows(count, "multi_attempt", 4, clusters=False)
    for row, text in zip(rows, ('say "yes", or no', "two\nlines", "唐代诗人 是谁")):
        row["question"] = f"{text} {row['question']}"
    return rows


def write_rows(path: Path, rows: list[dict], ids: list[int] | None = None) -> Path:
    """Write rows in the format of the file's name, with cluster ids in front of the last column if there are any."""
    ids_of = [{"cluster_id": number} for number in ids] if ids else [{}] * len(rows)
    if path.suffix in (".json", ".jsonl"):
        entries = [
            {"question": row["question"], **number, "scores": row["scores"]} for row, number in zip(rows, ids_of)
        ]
        lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{', '.join(lines)}]", encoding="utf-8")
        return path
    if path.suffix == ".npz":
        arrays = {
            "embeddings": np.random.default_rng(1).random((len(rows), 6), dtype=np.float32),
            "scores": np.array([list(row["scores"].values()) for row in rows]),
            "llms": np.array(list(rows[0]["scores"])),
        }
        np.savez(path, **arrays, **({"cluster_id": np.array(ids)} if ids else {}))
        return path
    frame = pandas.DataFrame(
        [{"question": row["question"], **number, **row["scores"]} for row, number in zip(rows, ids_of)]
    )
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def cluster_pairs(path: Path, folder: Path) -> np.ndarray:
    """Give the rows of a file the ids 0, 0, 1, 1, ... in the order of their questions, written into `folder`."""
    files = load_files([str(path)])
    texts, places = unique_queries(files)
    ids = np.arange(len(texts)) // 2
    assert write_clustered(files, places, ids, folder) == [folder / path.name]
    return ids[places[0]]


# Folders


def test_a_folder_stands_for_its_training_files(inputs, capsys):  # noqa: F811
    folder = inputs[0].parent
    names = ("gsm8k-train.json", "arc_challenge_train.json", "mmlu_train.json")
    assert training_files([str(folder)]) == [str(folder / name) for name in names]
    assert f"{folder}: left out: gsm8k-test.json (no training file by its name)" in capsys.readouterr().err
    assert training_files(["a.json", "b.json"]) == ["a.json", "b.json"]


def test_the_released_files_come_in_the_released_order():
    assert [Path(path).name for path in TRAINING_FILES] == [
        "gsm8k-train.json",
        "humaneval_train.json",
        "arc_challenge_train.json",
        "cmmlu_train.json",
        "mmlu_train.json",
    ]
    assert {str(Path(path).parent) for path in TRAINING_FILES} == {"datasets/split2_model7"}


def test_a_folder_stands_for_files_of_every_format_and_names_what_it_leaves_out(tmp_path, capsys):
    names = ("b_songs.csv", "c_tales.parquet", "d_poems.jsonl", "e_jokes.json")
    for name in (*names, "poems_test.csv"):
        write_rows(tmp_path / name, table_rows())
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "sub").mkdir()
    assert training_files([str(tmp_path)]) == [str(tmp_path / name) for name in names]
    error = capsys.readouterr().err
    assert "README.md (no data file), poems_test.csv (no training file by its name), sub (no data file)" in error
    write_rows(tmp_path / "d_poems_train.CSV".lower(), table_rows())
    assert [Path(path).name for path in training_files([str(tmp_path)])] == ["d_poems_train.csv"]
    assert "b_songs.csv (no training file by its name)" in capsys.readouterr().err


def test_a_folder_without_data_says_what_is_in_it(tmp_path):
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(
        ValueError, match=r"no training file there \(.json, .jsonl, .*\), only README.md; name the files"
    ):
        training_files([str(tmp_path)])


# Formats


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet", ".npz"])
def test_every_format_is_written_as_it_was_but_for_the_ids(tmp_path, suffix, with_ids):
    """Read by the project's own reader before and after: the same questions, scores and LLMs."""
    rows = table_rows()
    path = write_rows(tmp_path / f"poems_train{suffix}", rows, [9] * len(rows) if with_ids else None)
    ids = cluster_pairs(path, tmp_path / "new")
    old = load(path, "multi_attempt")
    new = load(tmp_path / "new" / path.name, "multi_attempt", need_clusters=True)
    assert new.clusters.tolist() == ids.tolist() and len(set(ids)) > 1
    assert new.questions == old.questions and new.llms == old.llms
    np.testing.assert_array_equal(new.scores, old.scores)
    if suffix == ".npz":
        np.testing.assert_array_equal(new.embeddings, old.embeddings)


def test_cells_and_line_ends_of_a_csv_file_stay_as_they_are(tmp_path):
    """Numbers are text there: 0.50 must not become 0.5, nor an empty cell 0; an existing column keeps its place."""
    path = tmp_path / "poems_train.csv"
    text = 'question,cluster_id,org/a,org/b\r\n"first, or ""last""",7,0.50,1\r\nsecond,7,,0\r\n第三,8,1e-1,0\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    cluster_pairs(path, tmp_path / "new")
    content = (tmp_path / "new" / path.name).read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    assert content.decode("utf-8-sig") == text.replace(",7,", ",0,").replace(",8,", ",1,")
    path.write_text("question,org/a,org/b\nfirst,0.50,1\n\nsecond,0,0\n")
    cluster_pairs(path, tmp_path / "newer")
    written = list(csv.reader(io.StringIO((tmp_path / "newer" / path.name).read_text(), newline="")))
    assert written[0] == ["question", "org/a", "org/b", "cluster_id"]
    assert written[1:] == [["first", "0.50", "1", "0"], ["second", "0", "0", "0"]]


def test_cells_with_a_bare_carriage_return_stay_one_cell(tmp_path):
    """Python's writer quotes a cell for the line end of the file alone."""
    path = tmp_path / "poems_train.csv"
    path.write_bytes(b'question,org/a\n"first\rsecond",1\n"third\r\nfourth",0\n')
    cluster_pairs(path, tmp_path / "new")
    written = (tmp_path / "new" / path.name).read_bytes().decode()
    assert list(csv.reader(io.StringIO(written, newline=""), strict=True)) == [
        ["question", "org/a", "cluster_id"],
        ["first\rsecond", "1", "0"],
        ["third\r\nfourth", "0", "0"],
    ]


def test_an_array_of_any_name_is_written_again(tmp_path):
    path = tmp_path / "poems_train.npz"
    arrays = {"scores": np.eye(2), "embeddings": np.ones((2, 3), np.float32), "llms": np.array(["a", "b"])}
    with zipfile.ZipFile(path, "w") as members:
        for name, values in {**arrays, "file": np.arange(3)}.items():
            with members.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, values)
    cluster_pairs(path, tmp_path / "new")
    with np.load(tmp_path / "new" / path.name) as written:
        assert written["file"].tolist() == [0, 1, 2] and written["cluster_id"].tolist() == [0, 0]


def test_types_of_a_parquet_file_stay_as_they_are(tmp_path):
    path = tmp_path / "poems_train.parquet"
    frame = pandas.DataFrame({"question": ["a", "b", "c"], "org/a": np.float32([0, 0.5, 1]), "org/b": [0.0, None, 1.0]})
    frame.to_parquet(path)
    ids = cluster_pairs(path, tmp_path / "new")
    written = pandas.read_parquet(tmp_path / "new" / path.name)
    assert written["cluster_id"].tolist() == ids.tolist()
    pandas.testing.assert_frame_equal(written.drop(columns="cluster_id"), frame)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_the_command_takes_every_format_and_gives_the_ids_of_the_json_file(tmp_path, command, suffix):  # noqa: F811
    rows = table_rows(40)
    ids = []
    for path in (tmp_path / "json" / "poems_train.json", tmp_path / suffix[1:] / f"poems_train{suffix}"):
        path.parent.mkdir()
        write_rows(path, rows)
        assert main(command(tmp_path / "new", "--data_paths", path.parent)) == 0
        ids.append(load(tmp_path / "new" / path.name, "multi_attempt", need_clusters=True).clusters.tolist())
    assert ids[0] == ids[1] and len(set(ids[0])) == 5


def test_embeddings_in_place_of_text_are_clustered_as_they_are(tmp_path, command, capsys):  # noqa: F811
    path = write_rows(tmp_path / "poems_train.npz", table_rows(30))
    flags = ["--data_paths", path, "--space", "embedding", "--clusters", 3]
    assert main(command(tmp_path / "new", *flags)) == 2
    assert "embeddings without text" in capsys.readouterr().err
    assert main(command(tmp_path / "new", *flags, "--encoder", "given")) == 0
    data = load(tmp_path / "new" / path.name, "multi_attempt", need_clusters=True)
    assert data.clusters.tolist() == clustering.kmeans(data.embeddings, 3, seed=1).tolist()


# What is written


def test_files_differ_from_the_inputs_by_cluster_id_alone(made, inputs):  # noqa: F811
    def entries(path: Path) -> list[list[tuple]]:
        """The rows as lists of pairs: the order counts."""
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)

    for path in inputs:
        old, new = entries(path), entries(made / "data" / path.name)
        assert [[key for key, _ in row] for row in new] == [[key for key, _ in row] for row in old]  # all had an id
        for old_row, new_row in zip(old, new):
            assert [pair for pair in new_row if pair[0] != "cluster_id"] == [
                pair for pair in old_row if pair[0] != "cluster_id"
            ]
    assert sorted(path.name for path in (made / "data").iterdir()) == sorted(path.name for path in inputs)
    paths = [str(made / "data" / path.name) for path in inputs]
    files = load_all(paths, None, ("--data_paths", "--data_type"), need_clusters=True)
    assert sorted(set(np.concatenate([data.clusters for data in files]))) == [0, 1, 2, 3, 4]


def test_an_id_is_added_last_where_there_was_none(tmp_path):
    rows = make_rows(8, "probability", 4, clusters=False)
    rows[3]["question"] = "唐代诗人?"
    path = tmp_path / "poems_train.json"  # a task that the paper has not: no kind is needed
    path.write_text(json.dumps(rows))
    cluster_pairs(path, tmp_path / "new")
    text = (tmp_path / "new" / path.name).read_text(encoding="utf-8")
    assert json.loads(text) == [{**row, "cluster_id": number // 2} for number, row in enumerate(rows)]
    assert all(list(row) == ["question", "scores", "cluster_id"] for row in json.loads(text))
    assert "唐代诗人?" in text and len(text.splitlines()) == 8 + 2  # for people: a row a line, no escapes


def test_equal_questions_get_one_id_within_and_across_files(made, inputs):  # noqa: F811
    ids = {}
    for row in itertools.chain(*read(made / "data", inputs)):
        ids.setdefault(row["question"], []).append(row["cluster_id"])
    assert sum(len(of_question) > 1 for of_question in ids.values()) == 6 + 3
    assert all(len(set(of_question)) == 1 for of_question in ids.values())


def test_overwriting_the_inputs_leaves_other_files_alone(command, inputs, tmp_path):  # noqa: F811
    folder = tmp_path / "own"
    folder.mkdir()
    for path in inputs[0].parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    test = (folder / "gsm8k-test.json").read_bytes()
    words = command(folder, "--clusters", 3, "--space", "embedding", "--data_paths", folder)
    assert main(words) == 2  # not unasked
    assert [(folder / path.name).read_bytes() for path in inputs] == [path.read_bytes() for path in inputs]
    assert main([*words, "--overwrite"]) == 0
    assert {row["cluster_id"] for rows in read(folder, inputs) for row in rows} == {0, 1, 2}
    assert (folder / "gsm8k-test.json").read_bytes() == test and len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_all_files_or_none(inputs, tmp_path, monkeypatch, failure, overwrite):  # noqa: F811
    files = load_files(list(map(str, inputs)))
    places = unique_queries(files)[1]
    ids = np.arange(max(map(np.max, places)) + 1) % 3
    if overwrite:
        write_clustered(files, places, ids * 0, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace, done = os.replace, []

    def fail(source, target):
        done.append(target)
        if len(done) == 3:
            raise failure
        replace(source, target)

    monkeypatch.setattr(cluster_files.os, "replace", fail)
    with pytest.raises(type(failure)):
        write_clustered(files, places, ids, tmp_path, overwrite)
    assert len(done) >= 3 and {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# Errors


def test_an_input_that_changed_meanwhile_is_refused(tmp_path):
    path = tmp_path / "mmlu_train.json"
    path.write_text(json.dumps(make_rows(4, "probability", 1)))
    files = load_files([str(path)])
    path.write_text(json.dumps(make_rows(4, "probability", 2)))
    with pytest.raises(DataError, match="mmlu_train.json: it changed while"):
        write_clustered(files, unique_queries(files)[1], np.arange(4), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "expected a list of at least one row, found dict"),
        ("[]", "expected a list of at least one row, found an empty list"),
        ("[3]", "row 0: expected an object, found int"),
        ('[{"question": "a"}, {"question": " "}]', "row 1: 'question' must be a non-empty string, found ' '"),
        ("[", "not valid JSON"),
        ("[" * 100000, "not valid JSON"),
        ('[{"question": "\\udc00"}]', "row 0: not valid JSON"),
        ('[{"question": "a", "question": "b"}]', "row 0: not valid JSON ('question' occurs twice in one object)"),
    ],
)
def test_rows_without_a_question_are_named(tmp_path, text, words):
    path = tmp_path / "poems_train.json"
    path.write_text(text)
    with pytest.raises(DataError, match="poems_train.json") as error:
        load_files([str(path)])
    assert words in str(error.value)


def test_ids_that_64_bits_do_not_hold_are_none(tmp_path):
    path = tmp_path / "poems_train.json"
    path.write_text(json.dumps([{"question": "a", "cluster_id": 2**63}, {"question": "b", "cluster_id": 1}]))
    files = load_files([str(path)])
    assert files[0].clusters is None
    with pytest.raises(DataError, match="row 0: 'cluster_id' must be an integer, found 9223372036854775808"):
        given_ids(files, tmp_path)


def test_files_to_compare_with_must_hold_the_same_questions_and_ids(command, inputs, tmp_path, capsys):  # noqa: F811
    for path in inputs:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = json.loads(inputs[2].read_text(encoding="utf-8"))

    def message(changed: list[dict]) -> str:
        (tmp_path / inputs[2].name).write_text(json.dumps(changed), encoding="utf-8")
        assert main(command(tmp_path / "data", "--compare", tmp_path)) == 2
        assert not (tmp_path / "data").exists()
        return capsys.readouterr().err

    swapped = [*rows[:3], rows[4], rows[3], *rows[5:]]
    expected = f"{tmp_path / 'mmlu_train.json'}, row 3: not the question of that row in {inputs[2]}"
    assert expected in message(swapped)
    assert "row 39: not the question" in message(rows[:39])
    without_id = {"question": rows[1]["question"], "scores": rows[1]["scores"]}
    assert "row 1: 'cluster_id' must be an integer" in message([rows[0], without_id, *rows[2:]])
