"""results/: lines collected from runs, and tables made from them."""

import json
import statistics
import subprocess
import sys

import pytest
from conftest import REPO

from utils.files import locked
from utils.report import __main__ as report
from utils.tasks import LLMS, TASKS


def results(seed, value, label="frozen", fidelity="paper"):
    """A results.json as training writes it; every task has accuracy `value`."""
    tasks = {task.name: value for task in TASKS}
    return {
        "router": "RouterDC",
        "recipe": label,
        "seconds": 10.0,
        "device": "cpu",
        "command": "python x",
        "settings": {"encoder": "minilm", "fidelity": fidelity, "seed": seed},
        "selection": {"rule": "best", "step": 5, "validation": value},
        "test": {
            "tasks": tasks,
            "id_avg": value,
            "ood_avg": (value or 0) + 1,
            "llms": list(LLMS),
            "references": {"per-query oracle": {**tasks}},
        },
    }


@pytest.fixture
def folder(tmp_path):
    def write(*runs):
        for number, run in enumerate(runs):
            path = tmp_path / "runs" / str(number) / "results.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(run))
        return str(tmp_path / "runs")

    return write


def test_runs_become_lines_and_are_replaced_not_repeated(folder, tmp_path, capsys):
    target = ["--results", str(tmp_path / "results")]
    assert report.main([folder(results(1, 50.0), results(2, 52.0)), *target]) == 0
    assert report.main([folder(results(1, 51.0)), *target]) == 0
    lines = [json.loads(line) for line in (tmp_path / "results" / "runs.jsonl").read_text().splitlines()]
    figures = [(line["seed"], line["id_avg"], line["metrics"]["mmlu"]) for line in lines]
    assert figures == [(1, 51.0, 51.0), (2, 52.0, 52.0)]
    names = "router encoder recipe fidelity seed selection metrics id_avg ood_avg seconds device command"
    assert all(set(line) == set(names.split()) for line in lines)


def test_tables_have_mean_and_deviation_and_paired_differences(folder, tmp_path, capsys):
    base, other = [50.0, 53.0, 51.5], [49.0, 53.5, 50.0]
    runs = [results(seed, value) for seed, value in enumerate(base)]
    runs += [results(seed, value, fidelity="upstream") for seed, value in enumerate(other)]
    runs += [results(seed, value + 1, "frozen-lambda0") for seed, value in enumerate(base)]
    assert report.main([folder(*runs), "--results", str(tmp_path / "results")]) == 0
    text = (tmp_path / "results" / "tables.md").read_text()
    assert f"{statistics.mean(base):.2f} ± {statistics.stdev(base):.2f}" in text
    gaps = [upstream - paper for paper, upstream in zip(base, other)]
    row = next(line for line in text.splitlines() if "fidelity upstream" in line and "minilm, frozen " in line)
    assert f"{statistics.mean(gaps):+.2f} ± {statistics.stdev(gaps):.2f}" in row
    row = next(line for line in text.splitlines() if "lambda = 0" in line)
    assert "+1.00 ± 0.00" in row and row.rstrip("| ").endswith("3")


def test_tables_say_what_a_recipe_sets(folder, tmp_path, capsys):
    command = "python t.py --encoder x --label frozen --top_k 3 --seed 1 --save_path a --refit --llms b c --top_k 4"
    run = results(1, 50.0) | {"command": command}
    assert report.main([folder(run, results(2, 50.0, "other")), "--results", str(tmp_path / "results")]) == 0
    text = (tmp_path / "results" / "tables.md").read_text()
    assert "\n- frozen (RouterDC): `--top_k 4 --refit --llms b c`\n- other (RouterDC): the defaults\n" in text


def test_a_line_made_with_other_arguments_is_not_replaced_in_silence(folder, tmp_path, capsys):
    first = results(1, 50.0) | {"command": "python t.py --label frozen --save_path a --top_k 3"}
    note = "RouterDC, minilm, frozen, paper, seed 1, replaces a run made with other arguments (`--top_k 3`)"
    for command, expected in (
        ("python t.py --label frozen --save_path b --top_k 3", False),
        ("python t.py --label frozen --save_path a --top_k 1", True),
    ):
        for run in (first, first | {"command": command}):
            assert report.main([folder(run), "--results", str(tmp_path / "results")]) == 0
            err = capsys.readouterr().err
        assert (note in err) == expected


def test_two_reports_at_once_lose_no_line(folder, tmp_path):
    """The second waits while the folder is held, and then adds to what has been written meanwhile."""
    target, runs = tmp_path / "results", folder(results(1, 50.0))
    assert report.main([runs, "--results", str(target)]) == 0
    line = json.loads((target / "runs.jsonl").read_text())
    (tmp_path / "runs" / "0" / "results.json").write_text(json.dumps(results(3, 51.0)))
    command = [sys.executable, "-m", "utils.report", runs, "--results", str(target)]
    with locked(target):
        other = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=5)
        (target / "runs.jsonl").write_text("".join(json.dumps(line | {"seed": seed}) + "\n" for seed in (1, 2)))
    assert other.wait(timeout=60) == 0
    assert [json.loads(text)["seed"] for text in (target / "runs.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_the_search_is_ordered_by_validation_and_reads_no_test(folder, tmp_path, capsys):
    runs = [results(1, 40.0, "a"), results(2, 44.0, "a"), results(1, 50.0, "b")]
    for run in runs:
        run["test"] = {}
    assert report.main(["--search", folder(*runs), "--results", str(tmp_path)]) == 0
    lines = (tmp_path / "search.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "validation" not in line]
    assert [row.split("|")[1].strip() for row in rows] == ["b", "a"] and "42.00 ± 2.83" in rows[1]


def test_a_search_needs_validation_rows(folder, tmp_path, capsys):
    assert report.main(["--search", folder(results(4, None)), "--results", str(tmp_path)]) == 2
    expected = "--search: seed 4 of frozen had no validation rows; train it with --validation_fraction above 0"
    assert expected in capsys.readouterr().err


def test_runs_on_other_tasks_are_named_and_left_out(folder, tmp_path, capsys):
    part = results(2, 90.0)
    del part["test"]["tasks"]["mmlu"]
    assert report.main([folder(results(1, 50.0), part), "--results", str(tmp_path / "results")]) == 0
    assert "left out: 1 runs" in capsys.readouterr().err
    assert len((tmp_path / "results" / "runs.jsonl").read_text().splitlines()) == 1


def test_runs_of_which_none_belongs_there_are_no_error(folder, tmp_path, capsys):
    """Own data: baselines.sh goes on to the comparison."""
    own = results(1, 50.0)
    own["test"]["tasks"] = {"poems": 50.0}
    assert report.main([folder(own), "--results", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr()
    assert "left out: 1 runs" in printed.err and "no run of these belongs there" in printed.out
    assert not list((tmp_path / "results").iterdir())
    assert report.main(["--results", str(tmp_path / "results")]) == 2 and "no runs yet" in capsys.readouterr().err


def test_a_folder_without_runs_is_an_error(tmp_path, capsys):
    assert report.main([str(tmp_path), "--results", str(tmp_path / "r")]) == 2
    assert str(tmp_path) in capsys.readouterr().err
