"""utils/clustering.py: known groups found again, the same ids in a second process, its numbers, map and errors.

What it reads and writes, utils/cluster_files.py, is in test_cluster_files.py.
"""

import concurrent.futures
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from conftest import REPO, make_rows
from sklearn.metrics import silhouette_samples, silhouette_score
from transformers import AutoModel, AutoTokenizer

from utils import clustering, plots
from utils.cluster_files import TRAINING_FILES, load_files, unique_queries
from utils.clustering import describe, kmeans, main, silhouette, table, tsne_map
from utils.data import load
from utils.files import locked
from utils.plots import query_map

TASKS = ("gsm8k", "arc_challenge", "mmlu")


def naive_ari(a: Sequence, b: Sequence) -> float:
    """Adjusted Rand index by counting pairs one by one."""
    both = only_a = only_b = neither = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        in_a, in_b = a[i] == a[j], b[i] == b[j]
        both += in_a and in_b
        only_a += in_a and not in_b
        only_b += in_b and not in_a
        neither += not in_a and not in_b
    pairs = both + only_a + only_b + neither
    chance = (both + only_a) * (both + only_b) / pairs
    return (both - chance) / ((2 * both + only_a + only_b) / 2 - chance)


def naive_silhouette(points: np.ndarray, ids: Sequence[int]) -> float:
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


def groups(sizes: Sequence[int], dimensions: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points far apart by group, shuffled, and the group of each."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = 30 * rng.standard_normal((len(sizes), dimensions))
    points = centres[truth] + rng.standard_normal((len(truth), dimensions))
    return points.astype(np.float32), truth


@pytest.fixture(scope="module")
def inputs(fake, tmp_path_factory) -> list[Path]:
    """The training files of the fake data.

    With a further key in some rows, ids in the middle of a row, questions that two tasks share, and a test file beside.
    """
    folder = tmp_path_factory.mktemp("inputs")
    rows = {task: json.loads(fake.train[task].read_text(encoding="utf-8")) for task in TASKS}
    cluster = rows["gsm8k"][2]["cluster_id"]
    rows["gsm8k"][2] = {"id": 7, "cluster_id": cluster, **rows["gsm8k"][2], "source": {"b": [1, 2.50], "a": None}}
    for place in range(3):
        rows["mmlu"][5 + place]["question"] = rows["gsm8k"][10 + place]["question"]
    for task in TASKS:
        (folder / fake.train[task].name).write_text(json.dumps(rows[task]), encoding="utf-8")
    (folder / "gsm8k-test.json").write_text(json.dumps(make_rows(3, "multi_attempt", 9)), encoding="utf-8")
    return [folder / fake.train[task].name for task in TASKS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """The folder of the embeddings."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def command(inputs, tiny_bert, cache) -> Callable[..., list[str]]:
    """The command line on `inputs`: command(output, "--clusters", 4)."""
    settings = {
        "--encoder": tiny_bert,
        "--max_length": 64,
        "--device": "cpu",
        "--precision": "fp32",
        "--perplexity": 12,
        "--cache_dir": cache,
    }
    flags = [word for pair in settings.items() for word in pair]

    def build(output: Path, *more: object) -> list[str]:
        return list(map(str, ["--data_paths", *inputs, "--output", output, *flags, *more]))

    return build


@pytest.fixture(scope="module")
def made(command, tmp_path_factory) -> Path:
    """A folder with data/, figures/map.png and report.json, made by the command with its defaults."""
    folder = tmp_path_factory.mktemp("made")
    files = ["--figure", folder / "figures" / "map.png", "--report", folder / "report.json"]
    assert main(command(folder / "data", *files)) == 0
    return folder


def read(folder: Path, inputs: Sequence[Path]) -> list[list[dict]]:
    """The rows of the files in `folder` that have the names of the inputs."""
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
    message = "--clusters is 4, but the 9 queries are only 3 different points; give at most 3"
    with pytest.raises(ValueError, match=message):
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


def test_a_second_process_gives_the_same_ids_on_more_threads(made, command, inputs, cache, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    run = subprocess.run(
        [sys.executable, "-m", "utils.clustering", *command(tmp_path / "again")],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert before and {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before
    for path in inputs:
        assert (tmp_path / "again" / path.name).read_bytes() == (made / "data" / path.name).read_bytes()


# Report and figure


def test_the_report_is_what_the_files_say(made, inputs, tiny_bert):
    report = json.loads((made / "report.json").read_text())
    new, old = read(made / "data", inputs), read(inputs[0].parent, inputs)
    sizes = {task: Counter(row["cluster_id"] for row in rows) for task, rows in zip(TASKS, new)}
    assert report["sizes"] == {task: [sizes[task][number] for number in range(5)] for task in TASKS}
    assert (report["rows"], report["unique_queries"]) == (60 + 48 + 40, 54 + 48 + 40 - 3)
    assert (report["clusters"], report["seed"]) == (5, 1)
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
    assert report["command"].startswith("python -m utils.clustering --data_paths")
    assert report["pooling"] == "first" and report["given"] == "inputs"


def test_the_silhouette_of_many_points_is_that_of_some_drawn(monkeypatch):
    """Its work would grow with the square of their number: 300 of 2,000 give it within their own standard error."""
    points, ids = groups([700, 800, 500])
    points = points + np.random.default_rng(1).normal(scale=20, size=points.shape)
    assert silhouette(points, ids) == round(float(silhouette_score(points, ids)), 4)
    of_all = silhouette_samples(points, ids)
    monkeypatch.setattr(clustering, "SILHOUETTE_POINTS", 300)
    drawn = silhouette(points, ids)
    assert drawn == silhouette(points, ids)  # the same draw every time
    assert drawn != round(float(of_all.mean()), 4)
    assert drawn == pytest.approx(of_all.mean(), abs=4 * of_all.std() / np.sqrt(300))
    report = {"unique_queries": 2000, "sizes": {"a": [1, 2]}, "silhouette": {"tsne": drawn}, "adjusted_rand_index": {}}
    assert f"- silhouette, tsne (300 queries drawn): {drawn:.3f}" in table(report)


def test_describe_against_naive_loops(inputs):
    files = load_files(list(map(str, inputs)))
    places = unique_queries(files)[1]
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 4, max(map(np.max, places)) + 1)
    ids[ids == 3] = 0
    ids[-1] = 3  # alone in its cluster
    spaces = {"flat": rng.random((len(ids), 2)), "deep": rng.random((len(ids), 7))}
    result = describe(files, places, ids, spaces, None)
    for name, points in spaces.items():
        assert result["silhouette"][name] == pytest.approx(naive_silhouette(points, ids), abs=1e-4)
    assert list(result["adjusted_rand_index"]) == ["new_and_tasks"]  # no ids from before: nothing to compare with
    expected = np.bincount(ids[np.concatenate(places)]).tolist()
    assert np.sum(list(result["sizes"].values()), axis=0).tolist() == expected
    assert "drawn" not in table(result)
    one = describe(files, places, ids * 0, spaces, None)
    assert one["silhouette"] == {"flat": None, "deep": None}
    assert one["sizes"] == {"gsm8k": [60], "arc_challenge": [48], "mmlu": [40]}


def test_one_cluster_in_the_embedding_space_needs_no_map(command, inputs, tmp_path, capsys):
    """Compared with files in another folder; a perplexity that t-SNE could not take does not matter."""
    flags = {
        "--clusters": 1,
        "--space": "embedding",
        "--perplexity": 1e6,
        "--compare": inputs[0].parent,
        "--report": tmp_path / "report.json",
    }
    assert main(command(tmp_path / "data", *[word for pair in flags.items() for word in pair])) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["silhouette"] == {"embedding": None} and report["perplexity"] is None
    assert report["adjusted_rand_index"]["new_and_tasks"] == 0
    assert report["adjusted_rand_index"]["given_and_tasks"] != 0 and report["given"] == str(inputs[0].parent)
    text = capsys.readouterr().out
    assert "| GSM8K " in text and "| all " in text
    assert "silhouette, embedding: -" in text and f"3 files in {tmp_path / 'data'}" in text


def test_the_map_is_a_picture_with_a_panel_per_grouping(made):
    height, width, _ = matplotlib.image.imread(made / "figures" / "map.png").shape
    assert width > 2 * height  # clusters, tasks, and the ids given before
    assert sorted(path.name for path in (made / "figures").iterdir()) == ["map.pdf", "map.png"]


def test_groups_differ_in_marker_and_colour_and_the_legend_counts_them(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots.plt, "close", drawn.append)
    sizes, names = (10, 9, 8, 7, 6, 5, 4, 3), list("abcdefgh")  # the paper has eight tasks
    points, labels = groups(sizes, dimensions=2)
    panels = {"left": (names, labels), "right": (["all"], labels * 0)}
    query_map(points, panels, "a title", tmp_path / "map.svg")
    left, right = drawn[0].axes
    assert (left.get_title(), right.get_title(), drawn[0].get_suptitle()) == ("left", "right", "a title")
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == [f"{name} ({size})" for name, size in zip(names, sizes)]
    assert {text.get_text() for text in left.texts} == set(names)
    colours = {tuple(marks.get_facecolor()[0]) for marks in left.collections}
    shapes = {marks.get_paths()[0].vertices.tobytes() for marks in left.collections}
    assert len(colours) == len(shapes) == 8
    for marks, group in zip(left.collections, range(8)):  # largest first, so that small groups lie on top
        np.testing.assert_allclose(marks.get_offsets(), points[labels == group])
    assert len(left.get_xticks()) == len(left.get_yticks()) == 0
    assert "neither unit nor direction" in drawn[0].get_supxlabel()
    assert (tmp_path / "map.svg").read_text().startswith("<?xml")


# Errors

BAD_FLAGS = [
    (["--clusters", 0], "--clusters is 0; it must be at least 1"),
    (["--clusters", 140], "--clusters is 140, but there are only 139 unique queries; give at most 139"),
    (["--perplexity", 139], "--perplexity is 139; it must be at least 1 and below the number of unique queries, 139"),
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
    (["--data_paths", "{empty}"], "--data_paths {empty}: no training file there"),
    (["--compare", "{empty}"], "{empty}/gsm8k-train.json: no such file"),
    (["--encoder", "{empty}"], "--encoder {empty}: cannot be loaded"),
    (["--encoder", "given"], "gsm8k-train.json: it has text, which --encoder given cannot read"),
    (["--pooling", "mean", "--max_length", 65], "--max_length is 65"),
    (["--device", "cuda:99"], "--device cuda:99"),
]


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS)
def test_bad_settings_are_named_and_nothing_is_written(command, inputs, made, tmp_path, capsys, flags, words):
    places = {"new": tmp_path / "new", "empty": tmp_path / "empty", "inputs": inputs[0].parent, "made": made / "data"}
    places["empty"].mkdir()

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for name in ("inputs", "made") for path in places[name].iterdir()}

    before = contents()
    assert main(command(places["new"], *[str(flag).format(**places) for flag in flags])) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and words.format(**places) in error
    assert not [path for path in places["new"].rglob("*") if path.is_file()] and not list(places["empty"].iterdir())
    assert contents() == before


# The released data


def test_two_clusterings_into_one_folder_do_not_mix(command, inputs, tmp_path, monkeypatch, capsys):
    """The second waits until the first has written all of its files, and then refuses to replace them."""
    asked, output = threading.Event(), tmp_path / "out"
    output.mkdir()

    def ask(folder):
        asked.set()
        return locked(folder)

    monkeypatch.setattr(clustering, "locked", ask)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with locked(output):
            second = pool.submit(main, command(output, "--clusters", "1", "--space", "embedding"))
            assert asked.wait(120)
            (output / inputs[0].name).write_text("[]")
        assert second.result() == 2
    assert "is already there" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == [inputs[0].name]


def pairs_within(counts: Sequence[int]) -> int:
    """How many pairs lie within groups of these sizes."""
    return sum(int(count) * (int(count) - 1) // 2 for count in counts)


def ari_of_counts(cells: Sequence[int], rows: Sequence[int], columns: Sequence[int]) -> float:
    """Adjusted Rand index from the cells of a contingency table and its margins."""
    both, in_rows, in_columns = pairs_within(cells), pairs_within(rows), pairs_within(columns)
    chance = in_rows * in_columns / pairs_within([sum(rows)])
    return (both - chance) / ((in_rows + in_columns) / 2 - chance)


def test_the_numbers_in_results_are_those_of_the_released_ids(mirror):
    """The figures of results/clustering/ that need no encoder, recomputed from the released files."""
    path = REPO / "results" / "clustering" / "minilm_5_seed_1.json"
    report = json.loads(path.read_text())
    old = [load(mirror / "split2_model7_cluster" / Path(name).name).clusters for name in TRAINING_FILES]
    rows = [len(ids) for ids in old]
    assert [sum(row) for row in report["sizes"].values()] == rows == [1000, 115, 820, 2000, 2000]
    given_cells = Counter((task, number) for task, ids in enumerate(old) for number in ids)
    given = ari_of_counts(list(given_cells.values()), rows, np.bincount(np.concatenate(old)))
    assert report["adjusted_rand_index"]["given_and_tasks"] == pytest.approx(given, abs=1e-4)
    new_cells = [count for row in report["sizes"].values() for count in row]
    new = ari_of_counts(new_cells, rows, np.sum(list(report["sizes"].values()), axis=0))
    assert report["adjusted_rand_index"]["new_and_tasks"] == pytest.approx(new, abs=1e-4)
