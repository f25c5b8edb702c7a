"""`python -m utils.report --summary`: mean and deviation over seeds of any runs, with tasks and LLMs of their own."""

import json
import statistics

import pytest

from utils.report import __main__ as report

TASKS = ("poems", "sums", "riddles")  # the first two are trained on
LLMS = ("org-a/x", "org-b/x", "lab/y")  # two of them have one short name
SINGLE = {"org-a/x": 41.0, "org-b/x": 52.0, "lab/y": 63.0}


@pytest.fixture
def write(tmp_path):
    """Writes a finished run on own data: write(router, label, seed, accuracies by task, further entries)."""

    def write(router, label, seed, tasks, references=SINGLE, encoder="minilm", fidelity="paper"):
        test = {
            "tasks": dict(zip(TASKS, tasks)),
            "id_avg": statistics.mean(tasks[:2]),
            "ood_avg": tasks[2],
            "in_distribution": list(TASKS[:2]),
            "llms": list(LLMS),
            "references": {row: dict.fromkeys(TASKS, value) for row, value in references.items()},
        }
        settings = {"encoder": encoder, "fidelity": fidelity, "seed": seed}
        folder = tmp_path / "runs" / router / label / fidelity / encoder / f"seed_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        run = {"router": router, "recipe": label, "settings": settings, "test": test}
        (folder / "results.json").write_text(json.dumps(run))
        return folder

    return write


@pytest.fixture
def summary(tmp_path, capsys):
    """Runs the command on all runs; returns what it prints, after a check that it wrote nothing."""

    def summary():
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        results = tmp_path / "results"
        assert report.main(["--summary", str(tmp_path / "runs"), "--results", str(results)]) == 0
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert not results.exists()
        return capsys.readouterr().out

    return summary


def rows_of(text, title):
    """The rows of the table below a title, by their first cell."""
    table = text.split(f"{title}\n\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def spread(*values):
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def test_one_table_a_side_with_mean_and_deviation(write, summary):
    write("RouterDC", "mine", 1, (50.0, 60.0, 70.0))
    write("RouterDC", "mine", 2, (53.0, 62.0, 75.0))
    write("RouterDC", "other", 1, (51.0, 61.0, 71.0))
    write("kNN", "mine", 1, (40.0, 45.0, 50.0))
    text = summary()
    inside = rows_of(text, "In-distribution testing accuracy (%)")
    assert inside[""] == ["poems", "sums", "Avg", "seeds"]
    assert inside["RouterDC, mine"] == [spread(50, 53), spread(60, 62), spread(55, 57.5), "2"]
    assert inside["RouterDC, other"] == ["51.00", "61.00", "56.00", "1"]
    assert inside["kNN, mine"] == ["40.00", "45.00", "42.50", "1"]
    outside = rows_of(text, "Out-of-distribution testing accuracy (%)")
    assert outside[""] == ["riddles", "Avg", "seeds"]
    assert outside["RouterDC, mine"] == [spread(70, 75), spread(70, 75), "2"]


def test_llms_with_one_short_name_are_told_apart(write, summary):
    write("RouterDC", "mine", 1, (50.0, 60.0, 70.0))
    rows = rows_of(summary(), "In-distribution testing accuracy (%)")
    assert rows["org-a/x"][:2] == ["41.00", "41.00"]
    assert rows["org-b/x"][:2] == ["52.00", "52.00"]
    assert rows["y"] == ["63.00", "63.00", "63.00", ""]


def test_fidelity_and_encoder_are_named_where_they_tell_rows_apart(write, summary):
    write("RouterDC", "mine", 1, (50.0, 60.0, 70.0))
    write("RouterDC", "mine", 1, (51.0, 61.0, 71.0), fidelity="upstream")
    write("kNN", "mine", 1, (40.0, 45.0, 50.0))
    write("kNN", "mine", 1, (41.0, 46.0, 51.0), encoder="large")
    rows = rows_of(summary(), "In-distribution testing accuracy (%)")
    assert rows["RouterDC, mine"][0] == "50.00"
    assert rows["RouterDC, mine, fidelity upstream"][0] == "51.00"
    assert rows["kNN, minilm, mine"][0] == "40.00"
    assert rows["kNN, large, mine"][0] == "41.00"


def test_runs_on_other_data_have_tables_of_their_own(write, summary):
    write("RouterDC", "mine", 1, (50.0, 60.0, 70.0))
    write("RouterDC", "other", 1, (51.0, 61.0, 71.0), references={**SINGLE, "lab/y": 64.0})
    first, second = summary().split("## Data 2: poems, sums, riddles; 3 LLMs")
    assert first.startswith("## Data 1: poems, sums, riddles; 3 LLMs")
    assert "RouterDC, mine" in first and "RouterDC, other" not in first
    assert rows_of(second, "In-distribution testing accuracy (%)")["y"][0] == "64.00"


def test_runs_that_cannot_be_summed_up(write, tmp_path, capsys):
    folder = write("RouterDC", "mine", 1, (50.0, 60.0, 70.0))
    (folder.parent / "again").mkdir()
    content = (folder / "results.json").read_text()
    (folder.parent / "again" / "results.json").write_text(content)
    assert report.main(["--summary", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "two runs of RouterDC, minilm, mine, paper with the same seed" in error and str(folder) in error
    untested = json.loads(content) | {"test": {}}
    (folder.parent / "again" / "results.json").write_text(json.dumps(untested))
    assert report.main(["--summary", str(tmp_path / "runs")]) == 0
    assert "left out: 1 runs that were not tested" in capsys.readouterr().err
    (folder / "results.json").write_text(json.dumps(untested))
    assert report.main(["--summary", str(tmp_path / "runs")]) == 2
    assert "none of the runs was tested" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert report.main(["--summary", str(tmp_path / "empty")]) == 2
    assert f"{tmp_path / 'empty'}: no finished run there" in capsys.readouterr().err
