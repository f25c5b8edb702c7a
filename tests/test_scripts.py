"""The shell scripts that a person runs, on made-up data and a tiny encoder: nothing is downloaded, nothing is installed."""

import json
import os
import re
import subprocess

import pytest

from tests.conftest import REPO, arguments


@pytest.fixture
def bash(mirror, tiny_bert, tmp_path):
    """Runs a script with the tiny encoder in the current environment; settings go in by environment variables."""

    def run(name, flags, **settings):
        environment = os.environ | {"ROUTERDC_NO_VENV": "1", "ROUTERDC_MIRROR": str(mirror), "ENCODER": str(tiny_bert), "DEVICE": "cpu", "PRECISION": "fp32"}
        command = ["bash", str(REPO / "train_scripts" / name), *flags]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600, env=environment | settings)

    return run


@pytest.fixture
def flags(fake, tiny_bert, tmp_path):
    """Settings of a short run on the made-up data, without those that a script sets by itself."""
    values = arguments(fake, tiny_bert, tmp_path / "unused", last_k=3, device=None, precision=None)
    for name in ("--encoder", "--save_path"):
        del values[values.index(name) : values.index(name) + 2]
    return values


def rows_of(text):
    return re.findall(r"^\| RouterDC \(this run\).*$", text, re.MULTILINE)


def test_quickstart_prints_the_tables_and_the_checkpoint_gives_them_again(bash, flags, tmp_path):
    run = bash("quickstart.sh", flags, SAVE_PATH=str(tmp_path / "quick"), SEED="7")
    assert run.returncode == 0, run.stderr
    rows = rows_of(run.stdout)
    assert len(rows) == 4 and rows[:2] == rows[2:]
    assert json.loads((tmp_path / "quick" / "seed_7" / "results.json").read_text())["settings"]["seed"] == 7
    again = bash("quickstart.sh", flags, SAVE_PATH=str(tmp_path / "quick"), SEED="7")
    assert again.returncode == 0 and "already done" in again.stdout and rows_of(again.stdout) == rows


@pytest.mark.parametrize("recipe", ["frozen", "layers", "paper", "tuned-layers"])
def test_every_minilm_recipe_runs(bash, flags, tmp_path, recipe):
    run = bash("router_train_minilm.sh", flags, RECIPE=recipe, SEEDS="1 2", RUNS=str(tmp_path / "runs"), COLLECT="0")
    assert run.returncode == 0, run.stderr
    results = [json.loads((tmp_path / "runs" / f"seed_{seed}" / "results.json").read_text()) for seed in (1, 2)]
    assert [result["settings"]["seed"] for result in results] == [1, 2]
    assert all(result["recipe"] == recipe for result in results)
    trained = (results[0]["settings"]["freeze_encoder"], results[0]["settings"]["train_layers"])
    assert trained == {"frozen": (True, None), "layers": (False, 2), "paper": (False, None), "tuned-layers": (False, 2)}[recipe]


def test_an_unknown_recipe_is_refused(bash):
    run = bash("router_train_minilm.sh", [], RECIPE="best")
    assert run.returncode == 2 and "RECIPE is 'best'" in run.stderr and "tuned" in run.stderr


def test_the_main_script_has_the_settings_of_the_paper():
    text = (REPO / "train_scripts" / "router_train.sh").read_text()
    defaults = dict(re.findall(r'^([A-Z_]+)="\$\{\1:-(.*)\}"$', text, re.MULTILINE))
    expected = {
        "ENCODER": "microsoft/mdeberta-v3-base", "SEEDS": "1 2 3 4 5", "BATCH_SIZE": "64", "TRAINING_STEPS": "1000", "EVAL_STEPS": "50",
        "LEARNING_RATE": "5e-5", "WEIGHT_DECAY": "0.01", "TOP_K": "3", "LAST_K": "3", "H": "3", "TEMPERATURE": "1", "CLUSTER_LOSS_WEIGHT": "1",
    }  # fmt: skip
    assert {name: defaults[name] for name in expected} == expected
