"""The quick part of tests/faults/logs.py: a few hostile files for every program; does the runner tell faults?"""

import json
import sys
import time

import logs
import pytest


@pytest.mark.parametrize("loader", logs.LOADERS, ids=lambda loader: loader.name)
def test_hostile_files_are_refused_by_name_or_read_as_they_are(loader, capsys):
    row = logs.row_of(loader, 40, 0, shown=True)
    assert row["bad"] == 0, capsys.readouterr().err
    assert row["right"] + row["refused"] == 40 and min(row["right"], row["refused"]) >= 2


@pytest.mark.parametrize("name", logs.PAIRS)
def test_two_programs_that_write_one_folder_do_not_mix(name):
    assert logs.pair_row(name, 5, 0)["bad"] == 0


@pytest.mark.parametrize("loader", logs.LOADERS, ids=lambda loader: loader.name)
def test_the_independent_reader_finds_what_good_files_hold(loader, tmp_path):
    loader.make(logs.random.Random(7), tmp_path)
    assert logs.judge(loader, tmp_path) == ("right", "")


def refuse(text):
    def run(root):
        print(text.format(root=root), file=sys.stderr)
        return 2

    return run


def leave_something(root):
    (root / ".out.part").mkdir()
    return refuse("error: {root}/source: no")(root)


def run_forever(root):
    while True:
        time.sleep(0.01)


def stumble(root):
    raise KeyError("test")


def load_another_score(root):
    logs.LOADERS[5].run(root)
    (path, *_) = sorted((root / "out").iterdir())
    rows = json.loads(path.read_text())
    rows[0]["scores"]["org/a"] = 0.123
    path.write_text(json.dumps(rows))
    return 0


def load_one_file_less(root):
    logs.LOADERS[5].run(root)
    (root / "out" / "task_1_test.json").unlink()
    return 0


@pytest.mark.parametrize(
    ("run", "outcome"),
    [
        (refuse("error: {root}/source/train.csv, line 2: no"), "refused"),
        (refuse("error: 'test'"), "unnamed"),
        (refuse("{root}/source/train.csv: no"), "unnamed"),
        (leave_something, "left behind"),
        (run_forever, "hang"),
        (stumble, "raw"),
        (load_another_score, "silent"),
        (load_one_file_less, "silent"),
    ],
)
def test_the_runner_tells_faults(run, outcome, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "SECONDS", 1)
    embedllm = logs.LOADERS[5]
    embedllm.make(logs.random.Random(7), tmp_path)
    loader = logs.Loader(embedllm.name, embedllm.make, run, embedllm.expect)
    assert logs.judge(loader, tmp_path)[0] == outcome


def test_the_runner_tells_a_mixture(monkeypatch):
    def write_slowly(root, seed):
        for name in ("ab", "ba")[seed - 1]:
            (root / "out").mkdir(exist_ok=True)
            (root / "out" / name).write_text(str(seed))
            time.sleep(0.05)
        return 0

    monkeypatch.setitem(logs.PAIRS, "mixed", (lambda root: None, write_slowly))
    assert logs.pair_row("mixed", 8, 0)["bad"] > 0


def test_the_counts_are_written(tmp_path, capsys):
    assert logs.main(["--only", "generations", "--count", "3", "--output", str(tmp_path / "counts.json")]) == 0
    written = json.loads((tmp_path / "counts.json").read_text())
    (row,) = written["rows"]
    assert (row["name"], row["tried"], row["bad"]) == ("generations of bigcode", 3, 0)
    assert row["right"] + row["refused"] == 3 and written["seed"] == 0 and "--count 3" in written["command"]
