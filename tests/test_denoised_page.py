"""The page of what runs with --target_pooling have estimated: means over the seeds, and runs that are refused."""

import json

import pytest

from utils.report.denoised import main


@pytest.fixture
def write(tmp_path):
    """Writes the results.json of a finished run: write(seed, label, ...)."""

    def write(seed, label="mine", **more):
        folder = tmp_path / label / f"seed_{seed}"
        folder.mkdir(parents=True)
        results = {"router": "RouterDC", "recipe": label, "settings": {"seed": seed}, **more}
        (folder / "results.json").write_text(json.dumps(results))

    return write


def test_the_page_has_the_mean_estimate_of_each_label(write, tmp_path):
    for seed, row in ((1, 0.1), (2, 0.3)):
        neighbours = {"1": 0.2, "2": 0.5 - row}
        part = {"row": row, "neighbours": neighbours, "cluster": 0.05, "task": 0.25, "error": 0.2, "noise": 0.02 * seed}
        write(seed, target_pooling={"gsm8k": {"differences": part}})
    assert main([str(tmp_path / "mine"), "--output", str(tmp_path / "page.md")]) == 0
    text = (tmp_path / "page.md").read_text()
    assert f"`python -m utils.report.denoised {tmp_path / 'mine'} --output FILE`" in text
    cells = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert cells == ["mine", "GSM8K", "differences", "20.0", "50.0", "5.0", "25.0", "0.2000", "0.0300", "2"]


def test_runs_that_have_estimated_nothing_are_named(write, tmp_path, capsys):
    write(1, "plain")
    assert main([str(tmp_path / "plain")]) == 2
    assert "seed_1: its targets were not pooled" in capsys.readouterr().err
    assert main([]) == 2
    assert "no runs were named" in capsys.readouterr().err
