"""utils/clustering.py: known groups found again, the same ids in a second process, files that differ by the ids alone, its numbers and errors."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from conftest import REPO, make_rows
from transformers import AutoModel, AutoTokenizer

from utils import clustering, plots
from utils.clustering import (
    TRAINING_FILES,
    describe,
    kmeans,
    load_files,
    main,
    training_files,
    tsne_map,
    unique_queries,
    write_clustered,
)
from utils.data import DataError, load, load_all
from utils.plots import query_map

TASKS = ("gsm8k", "arc_challenge", "mmlu")


def naive_ari(a, b) -> float:
    """Adjusted Rand index by counting pairs one by one."""
    both = only_a = only_b = neither = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        in_a, in_b = a[i] == a[j], b[i] == b[j]
        both, only_a, only_b, neither = (
            both + (in_a and in_b),
            only_a + (in_a and not in_b),
            only_b + (in_b and not in_a),
            neither + (not in_a and not in_b),
        )
    pairs = both + only_a + only_b + neither
    chance = (both + only_a) * (both + only_b) / pairs
    return (both - chance) / ((2 * both + only_a + only_b) / 2 - chance)


def naive_silhouette(points, ids) -> float:
    """Mean over all points of (b - a) / max(a, b), by its definition; 0 for a point alone in its cluster."""
    values = []
    for i, own in enumerate(ids):
        means = {}
        for other in set(ids):
            members = [j for j in range(len(ids)) if ids[j] == other and j != i]
            means[other] = np.mean([np.linalg.norm(points[i] - points[j]) for j in members]) if members else None
        a = means.pop(own)
        b = min(means.values())
        values.append(0.0 if a is None else (b - a) / max(a, b))
    return float(np.mean(values))


def groups(sizes, dimensions=16, seed=0):
    """Points far apart by group, shuffled, and the group of each."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (
        30 * rng.standard_normal((len(sizes), dimensions))[truth] + rng.standard_normal((len(truth), dimensions))
    ).astype(np.float32), truth


@pytest.fixture(scope="module")
def inputs(fake, tmp_path_factory) -> list[Path]:
    """The training files of the fake data, with a further key in some rows, ids in the middle of a row, and questions that two tasks share."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = {task: json.loads(fake.train[task].read_text(encoding="utf-8")) for task in TASKS}
    rows["gsm8k"][2] = {
        "id": 7,
        "cluster_id": rows["gsm8k"][2]["cluster_id"],
        **rows["gsm8k"][2],
        "source": {"b": [1, 2.50], "a": None},
    }
    rows["mmlu"][5:8] = [
        {**row, "question": other["question"]} for row, other in zip(rows["mmlu"][5:8], rows["gsm8k"][10:13])
    ]
    for task in TASKS:
        (folder / fake.train[task].name).write_text(json.dumps(rows[task]), encoding="utf-8")
    (folder / "gsm8k-test.json").write_text(
        json.dumps(make_rows(3, "multi_attempt", 9)), encoding="utf-8"
    )  # not a training file
    return [folder / fake.train[task].name for task in TASKS]


@pytest.fixture(scope="module")
def command(inputs, tiny_bert, tmp_path_factory):
    """The command line on `inputs`: command(output, "--clusters", 4)."""
    cache = tmp_path_factory.mktemp("cache")

    def build(output: Path, *more) -> list[str]:
        flags = [
            "--encoder",
            tiny_bert,
            "--max_length",
            64,
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--perplexity",
            12,
            "--cache_dir",
            cache,
        ]
        return list(map(str, ["--data_paths", *inputs, "--output", output, *flags, *more]))

    return build


@pytest.fixture(scope="module")
def made(command, tmp_path_factory) -> Path:
    """A folder with data/, map.png and report.json, made by the command with its defaults."""
    folder = tmp_path_factory.mktemp("made")
    assert (
        main(command(folder / "data", "--figure", folder / "figures" / "map.png", "--report", folder / "report.json"))
        == 0
    )
    return folder


def read(folder: Path, inputs) -> list[list[dict]]:
    return [json.loads((folder / path.name).read_text(encoding="utf-8")) for path in inputs]


# Groups


@pytest.mark.parametrize("sizes", [(40, 30), (20, 25, 30, 35, 40), (12, 14, 16, 18, 20, 22, 24, 26)])
def test_separate_groups_are_found_again_and_numbered_by_size(sizes):
    embeddings, truth = groups(sizes)
    for points in (tsne_map(embeddings, seed=1, perplexity=10), embeddings):
        ids = kmeans(points, len(sizes), seed=1)
        assert naive_ari(ids, truth) == 1
        assert np.bincount(ids).tolist() == sorted(sizes, reverse=True)
    assert naive_ari(kmeans(embeddings, len(sizes) - 1, seed=1), truth) < 1  # the test can fail


def test_equal_clusters_are_numbered_by_their_first_query():
    points = np.repeat([[9.0, 9.0], [0.0, 0.0], [5.0, 0.0]], 4, axis=0)
    assert kmeans(points, 3, seed=3).tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_the_seed_decides():
    points = np.random.default_rng(0).random((200, 2))
    first, again, other = kmeans(points, 20, 1), kmeans(points, 20, 1), kmeans(points, 20, 2)
    assert (first == again).all() and (first != other).any()


def test_any_number_of_clusters():
    points = np.random.default_rng(0).random((9, 3))
    assert kmeans(points, 1, seed=1).tolist() == [0] * 9
    assert sorted(kmeans(points, 9, seed=1)) == list(range(9))
    with pytest.raises(
        ValueError, match="--clusters is 4, but the 9 queries are only 3 different points; give at most 3"
    ):
        kmeans(np.repeat(points[:3], 3, axis=0), 4, seed=1)


def test_the_bar_of_tsne_moves_and_nothing_is_printed(monkeypatch, capsys):
    """scikit-learn prints its iterations; the bar reads them."""
    seen = []

    class Bar:
        n = 0

        def update(self, count):
            self.n += count
            seen.append(self.n)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(clustering, "bar", lambda total, *_: Bar())
    tsne_map(groups((20, 20))[0], seed=1, perplexity=5)
    assert seen[:3] == [50, 100, 150] and seen == sorted(seen) and seen[-1] == 1000
    assert capsys.readouterr().out == ""


# Files


def test_files_differ_from_the_inputs_by_cluster_id_alone(made, inputs):
    def pairs(path):
        return json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=list
        )  # objects as lists of pairs: the order counts

    for path in inputs:
        old, new = pairs(path), pairs(made / "data" / path.name)
        assert [[key for key, _ in row] for row in new] == [
            [key for key, _ in row] for row in old
        ]  # here every row had an id
        assert [[pair for pair in row if pair[0] != "cluster_id"] for row in new] == [
            [pair for pair in row if pair[0] != "cluster_id"] for row in old
        ]
    assert sorted(path.name for path in (made / "data").iterdir()) == sorted(path.name for path in inputs)
    files = load_all(
        [str(made / "data" / path.name) for path in inputs], None, ("--data_paths", "--data_type"), need_clusters=True
    )
    assert sorted(set(np.concatenate([data.clusters for data in files]))) == [0, 1, 2, 3, 4]


def test_an_id_is_added_last_where_there_was_none(tmp_path):
    rows = make_rows(8, "probability", 4, clusters=False)
    rows[3]["question"] = "唐代诗人?"
    path = tmp_path / "poems_train.json"  # a task that the paper has not: no kind is needed
    path.write_text(json.dumps(rows))
    files = load_files([str(path)])
    write_clustered(files, unique_queries(files)[1], np.arange(8) // 2, tmp_path / "new")
    written = (tmp_path / "new" / path.name).read_text(encoding="utf-8")
    assert json.loads(written) == [{**row, "cluster_id": number // 2} for number, row in enumerate(rows)]
    assert all(list(row) == ["question", "scores", "cluster_id"] for row in json.loads(written))
    assert (
        "唐代诗人?" in written and len(written.splitlines()) == 8 + 2
    )  # to be read by people: a row a line, no escapes


def test_equal_questions_get_one_id_within_and_across_files(made, inputs):
    ids = {}
    for row in itertools.chain(*read(made / "data", inputs)):
        ids.setdefault(row["question"], []).append(row["cluster_id"])
    assert sum(len(found) > 1 for found in ids.values()) == 6 + 3 and all(
        len(set(found)) == 1 for found in ids.values()
    )


def test_a_second_process_gives_the_same_ids_on_more_threads(made, command, inputs, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "utils.clustering", *command(tmp_path / "again")],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert "encode" not in run.stderr  # the embeddings came from the cache
    for path in inputs:
        assert (tmp_path / "again" / path.name).read_bytes() == (made / "data" / path.name).read_bytes()


def test_overwriting_the_inputs_leaves_other_files_alone(command, inputs, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for path in inputs[0].parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    test = (folder / "gsm8k-test.json").read_bytes()
    arguments = command(folder, "--clusters", 3, "--space", "embedding", "--data_paths", folder)
    assert main(arguments) == 2  # not unasked
    assert [(folder / path.name).read_bytes() for path in inputs] == [path.read_bytes() for path in inputs]
    assert main([*arguments, "--overwrite"]) == 0
    assert {row["cluster_id"] for rows in read(folder, inputs) for row in rows} == {0, 1, 2}
    assert (folder / "gsm8k-test.json").read_bytes() == test and len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_all_files_or_none(inputs, tmp_path, monkeypatch, failure, overwrite):
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

    monkeypatch.setattr(clustering.os, "replace", fail)
    with pytest.raises(type(failure)):
        write_clustered(files, places, ids, tmp_path, overwrite)
    assert len(done) >= 3 and {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_input_that_changed_meanwhile_is_refused(tmp_path):
    path = tmp_path / "mmlu_train.json"
    path.write_text(json.dumps(make_rows(4, "probability", 1)))
    files = load_files([str(path)])
    path.write_text(json.dumps(make_rows(4, "probability", 2)))
    with pytest.raises(DataError, match="mmlu_train.json: it changed while"):
        write_clustered(files, unique_queries(files)[1], np.arange(4), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_stands_for_its_training_files(inputs, tmp_path):
    assert training_files([str(inputs[0].parent)]) == [
        str(inputs[0].parent / name) for name in ("gsm8k-train.json", "arc_challenge_train.json", "mmlu_train.json")
    ]
    assert training_files(["a.json", "b.json"]) == ["a.json", "b.json"]
    assert [Path(path).name for path in TRAINING_FILES] == [
        "gsm8k-train.json",
        "humaneval_train.json",
        "arc_challenge_train.json",
        "cmmlu_train.json",
        "mmlu_train.json",
    ]
    assert {str(Path(path).parent) for path in TRAINING_FILES} == {"datasets/split2_model7"}


# Report and figure


def test_the_report_is_what_the_files_say(made, inputs, tiny_bert):
    report = json.loads((made / "report.json").read_text())
    new, old = read(made / "data", inputs), read(inputs[0].parent, inputs)
    sizes = {task: Counter(row["cluster_id"] for row in rows) for task, rows in zip(TASKS, new)}
    assert report["sizes"] == {task: [sizes[task][number] for number in range(5)] for task in TASKS}
    assert (report["rows"], report["unique_queries"], report["clusters"], report["seed"]) == (
        60 + 48 + 40,
        54 + 48 + 40 - 3,
        5,
        1,
    )
    labels = {
        "new": [row["cluster_id"] for rows in new for row in rows],
        "given": [row["cluster_id"] for rows in old for row in rows],
        "tasks": [task for task, rows in zip(TASKS, new) for _ in rows],
    }
    assert set(report["adjusted_rand_index"]) == {"new_and_given", "new_and_tasks", "given_and_tasks"}
    for name, value in report["adjusted_rand_index"].items():
        assert value == pytest.approx(naive_ari(*(labels[side] for side in name.split("_and_"))), abs=1e-4)

    ids = {row["question"]: row["cluster_id"] for rows in new for row in rows}  # unique, in order of appearance
    batch = AutoTokenizer.from_pretrained(tiny_bert)(list(ids), padding=True, return_tensors="pt")
    first = AutoModel.from_pretrained(tiny_bert).eval()(**batch).last_hidden_state[:, 0].detach().numpy()
    assert report["silhouette"]["embedding"] == pytest.approx(naive_silhouette(first, list(ids.values())), abs=2e-3)
    assert (
        report["command"].startswith("python -m utils.clustering --data_paths")
        and report["pooling"] == "first"
        and report["given"] == "inputs"
    )


def test_describe_against_naive_loops(inputs):
    files = load_files(list(map(str, inputs)))
    places = unique_queries(files)[1]
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 4, max(map(np.max, places)) + 1)
    ids[ids == 3] = 0
    ids[-1] = 3  # alone in its cluster
    spaces = {"flat": rng.random((len(ids), 2)), "deep": rng.random((len(ids), 7))}
    result = describe(files, places, ids, spaces, None)
    assert result["silhouette"] == {
        name: pytest.approx(naive_silhouette(points, ids), abs=1e-4) for name, points in spaces.items()
    }
    assert list(result["adjusted_rand_index"]) == ["new_and_tasks"]  # no ids from before: nothing to compare with
    assert np.sum(list(result["sizes"].values()), axis=0).tolist() == np.bincount(ids[np.concatenate(places)]).tolist()
    one = describe(files, places, ids * 0, spaces, None)
    assert one["silhouette"] == {"flat": None, "deep": None} and one["sizes"] == {
        "gsm8k": [60],
        "arc_challenge": [48],
        "mmlu": [40],
    }


def test_one_cluster_in_the_embedding_space_needs_no_map(command, inputs, tmp_path, capsys):
    """Compared with files in another folder; a perplexity that t-SNE could not take does not matter."""
    arguments = command(
        tmp_path / "data",
        "--clusters",
        1,
        "--space",
        "embedding",
        "--perplexity",
        1e6,
        "--compare",
        inputs[0].parent,
        "--report",
        tmp_path / "report.json",
    )
    assert main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (
        report["silhouette"] == {"embedding": None}
        and report["perplexity"] is None
        and report["adjusted_rand_index"]["new_and_tasks"] == 0
    )
    assert report["adjusted_rand_index"]["given_and_tasks"] != 0 and report["given"] == str(inputs[0].parent)
    text = capsys.readouterr().out
    assert (
        "| GSM8K " in text
        and "| all " in text
        and "silhouette, embedding: -" in text
        and f"3 files in {tmp_path / 'data'}" in text
    )


def test_the_map_is_a_picture_with_a_panel_per_grouping(made):
    height, width, _ = matplotlib.image.imread(made / "figures" / "map.png").shape
    assert width > 2 * height  # clusters, tasks, and the ids given before
    assert [path.name for path in (made / "figures").iterdir()] == ["map.png"]


def test_groups_differ_in_marker_and_colour_and_the_legend_counts_them(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots.plt, "close", drawn.append)
    points, labels = groups((9, 8, 7, 6, 5, 4), dimensions=2)
    query_map(
        points, {"left": (list("abcdef"), labels), "right": (["all"], labels * 0)}, "a title", tmp_path / "map.svg"
    )
    left, right = drawn[0].axes
    assert (left.get_title(), right.get_title(), drawn[0].get_suptitle()) == ("left", "right", "a title")
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "a (9)",
        "b (8)",
        "c (7)",
        "d (6)",
        "e (5)",
        "f (4)",
    ]
    assert {text.get_text() for text in left.texts} == set("abcdef")
    assert (
        len({tuple(part.get_facecolor()[0]) for part in left.collections})
        == len({part.get_paths()[0].vertices.tobytes() for part in left.collections})
        == 6
    )
    for part, group in zip(left.collections, range(6)):  # largest first, so that small groups lie on top
        np.testing.assert_allclose(part.get_offsets(), points[labels == group])
    assert (
        len(left.get_xticks()) == len(left.get_yticks()) == 0
        and "neither unit nor direction" in drawn[0].get_supxlabel()
    )
    assert (tmp_path / "map.svg").read_text().startswith("<?xml")


# Errors


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clusters", 0], "--clusters is 0; it must be at least 1"),
        (["--clusters", 140], "--clusters is 140, but there are only 139 unique queries; give at most 139"),
        (
            ["--perplexity", 139],
            "--perplexity is 139; it must be at least 1 and below the number of unique queries, 139",
        ),
        (["--perplexity", 0.5], "--perplexity is 0.5; it must be at least 1"),
        (
            ["--space", "embedding", "--figure", "{new}/map.png", "--perplexity", 500],
            "below the number of unique queries, 139",
        ),
        (["--seed", -1], "--seed is -1; it must be from 0 to 4294967295"),
        (["--figure", "{new}/map.bmp"], "map.bmp: its name must end in .png, .pdf, .svg"),
        (
            ["--output", "{inputs}"],
            "--output {inputs}: this is the folder of the input {inputs}/gsm8k-train.json; choose another, or --overwrite",
        ),
        (
            ["--output", "{made}"],
            "--output {made}: gsm8k-train.json is already there; choose another folder, or --overwrite",
        ),
        (
            ["--data_paths", "{inputs}", "{made}"],
            "--data_paths: two files are for the task 'gsm8k'; give each task's file once",
        ),
        (["--data_paths", "{new}"], "{new}: no such file"),
        (["--data_paths", "{empty}"], "--data_paths {empty}: no file there ends in train.json"),
        (["--compare", "{empty}"], "{empty}/gsm8k-train.json: no such file"),
        (["--encoder", "{empty}"], "--encoder {empty}: cannot be loaded"),
        (["--pooling", "mean", "--max_length", 65], "--max_length is 65"),
        (["--device", "cuda:99"], "--device cuda:99"),
    ],
)
def test_bad_settings_are_named_and_nothing_is_written(command, inputs, made, tmp_path, capsys, flags, words):
    places = {"new": tmp_path / "new", "empty": tmp_path / "empty", "inputs": inputs[0].parent, "made": made / "data"}
    places["empty"].mkdir()
    before = {path: path.read_bytes() for name in ("inputs", "made") for path in places[name].iterdir()}
    assert main(command(places["new"], *[str(flag).format(**places) for flag in flags])) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and words.format(**places) in error
    assert not [path for path in places["new"].rglob("*") if path.is_file()] and not list(places["empty"].iterdir())
    assert {path: path.read_bytes() for name in ("inputs", "made") for path in places[name].iterdir()} == before


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_only_json_is_written_again_and_that_is_said_first(tmp_path, capsys, monkeypatch, suffix):
    path, rows = tmp_path / f"poems_train{suffix}", make_rows(8, "multi_attempt", 4, clusters=False)
    lines = (
        [json.dumps(row) for row in rows]
        if suffix == ".jsonl"
        else ["question,a,b", *[f"{row['question']},0.5,1" for row in rows]]
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr(clustering, "load_encoder", None)
    assert main(["--data_paths", str(path), "--output", str(tmp_path / "new"), "--device", "cpu"]) == 2
    assert (
        f"error: {path}: cluster ids are written into .json files alone" in capsys.readouterr().err
        and not (tmp_path / "new").exists()
    )


def test_files_to_compare_with_must_hold_the_same_questions_and_ids(command, inputs, tmp_path, capsys):
    for path in inputs:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = json.loads(inputs[2].read_text(encoding="utf-8"))

    def message(changed) -> str:
        (tmp_path / inputs[2].name).write_text(json.dumps(changed), encoding="utf-8")
        assert main(command(tmp_path / "data", "--compare", tmp_path)) == 2
        assert not (tmp_path / "data").exists()
        return capsys.readouterr().err

    assert f"{tmp_path / 'mmlu_train.json'}, row 3: not the question of that row in {inputs[2]}" in message(
        [*rows[:3], rows[4], rows[3], *rows[5:]]
    )
    assert "row 39: not the question" in message(rows[:39])
    assert "row 1: 'cluster_id' must be an integer" in message(
        [rows[0], {"question": rows[1]["question"], "scores": rows[1]["scores"]}, *rows[2:]]
    )


# The released data


def test_the_numbers_in_results_are_those_of_the_released_ids(mirror):
    """The figures of results/clustering/ that need no encoder, recomputed from the released files by counting pairs in a table."""
    path = REPO / "results" / "clustering" / "minilm_5_seed_1.json"
    report = json.loads(path.read_text())
    old = [load(mirror / "split2_model7_cluster" / Path(name).name).clusters for name in TRAINING_FILES]
    assert [sum(row) for row in report["sizes"].values()] == [len(part) for part in old] == [1000, 115, 820, 2000, 2000]

    def pairs(counts) -> int:
        return sum(int(count) * (int(count) - 1) // 2 for count in counts)

    cells = Counter((task, number) for task, part in enumerate(old) for number in part)
    both, tasks, given = pairs(cells.values()), pairs(map(len, old)), pairs(np.bincount(np.concatenate(old)))
    chance = tasks * given / pairs([5935])
    assert report["adjusted_rand_index"]["given_and_tasks"] == pytest.approx(
        (both - chance) / ((tasks + given) / 2 - chance), abs=1e-4
    )
    cells, sizes = (
        [count for row in report["sizes"].values() for count in row],
        np.sum(list(report["sizes"].values()), axis=0),
    )
    both, new = pairs(cells), pairs(sizes)
    chance = tasks * new / pairs([5935])
    assert report["adjusted_rand_index"]["new_and_tasks"] == pytest.approx(
        (both - chance) / ((tasks + new) / 2 - chance), abs=1e-4
    )
