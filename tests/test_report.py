"""results/: lines collected from runs, and tables made from them."""

import json
import statistics

import pytest

from utils import report
from utils.tasks import LLMS, TASKS


def results(seed, value, recipe="frozen", fidelity="paper"):
    """A results.json as training writes it; every task has accuracy `value`."""
    tasks = {task.name: value for task in TASKS}
    return {
        "router": "RouterDC", "recipe": recipe, "seconds": 10.0, "device": "cpu", "command": "python x",
        "settings": {"encoder": "minilm", "fidelity": fidelity, "seed": seed},
        "selection": {"rule": "best", "step": 5, "validation": value},
        "test": {"tasks": tasks, "id_avg": value, "ood_avg": value + 1, "llms": list(LLMS), "references": {"per-query oracle": {**tasks}}},
    }  # fmt: skip


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
    assert [(line["seed"], line["id_avg"], line["metrics"]["mmlu"]) for line in lines] == [(1, 51.0, 51.0), (2, 52.0, 52.0)]
    names = {"router", "encoder", "recipe", "fidelity", "seed", "selection", "metrics", "id_avg", "ood_avg", "seconds", "device", "command"}
    assert all(set(line) == names for line in lines)


def test_tables_have_mean_and_deviation_and_paired_differences(folder, tmp_path, capsys):
    base, other = [50.0, 53.0, 51.5], [49.0, 53.5, 50.0]
    runs = [results(s, v) for s, v in enumerate(base)] + [results(s, v, fidelity="upstream") for s, v in enumerate(other)]
    runs += [results(s, v + 1, recipe="frozen-lambda0") for s, v in enumerate(base)]
    assert report.main([folder(*runs), "--results", str(tmp_path / "results")]) == 0
    text = (tmp_path / "results" / "tables.md").read_text()
    assert f"{statistics.mean(base):.2f} ± {statistics.stdev(base):.2f}" in text
    gaps = [b - a for a, b in zip(base, other)]
    row = next(line for line in text.splitlines() if "fidelity upstream" in line and "minilm, frozen " in line)
    assert f"{statistics.mean(gaps):+.2f} ± {statistics.stdev(gaps):.2f}" in row
    row = next(line for line in text.splitlines() if "lambda = 0" in line)
    assert "+1.00 ± 0.00" in row and row.rstrip("| ").endswith("3")


def test_the_search_is_ordered_by_validation_and_reads_no_test(folder, tmp_path, capsys):
    runs = [results(1, 40.0, "a"), results(2, 44.0, "a"), results(1, 50.0, "b")]
    for run in runs:
        run["test"] = {}
    assert report.main(["--search", folder(*runs), "--results", str(tmp_path)]) == 0
    rows = [line for line in (tmp_path / "search.md").read_text().splitlines() if line.startswith("| ") and "validation" not in line]
    assert [row.split("|")[1].strip() for row in rows] == ["b", "a"] and "42.00 ± 2.83" in rows[1]


def test_runs_on_other_tasks_are_named_and_left_out(folder, tmp_path, capsys):
    part = results(2, 90.0)
    del part["test"]["tasks"]["mmlu"]
    assert report.main([folder(results(1, 50.0), part), "--results", str(tmp_path / "results")]) == 0
    assert "left out: 1 runs" in capsys.readouterr().err
    assert len((tmp_path / "results" / "runs.jsonl").read_text().splitlines()) == 1


def test_a_folder_without_runs_is_an_error(tmp_path, capsys):
    assert report.main([str(tmp_path), "--results", str(tmp_path / "r")]) == 2
    assert str(tmp_path) in capsys.readouterr().err
