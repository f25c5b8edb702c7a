"""tests/gpu.sh: it says why it does nothing without a GPU, and its checks run on a CPU, in small."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPO

sys.path.insert(0, str(REPO / "tests" / "gpu"))

import checks
import run


def test_without_a_gpu_it_says_so_and_ends_well(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    environment = os.environ | {"ROUTERDC_NO_VENV": "1", "OUTPUT": str(tmp_path / "gpu.json"), "DEVICE": "cuda"}
    said = subprocess.run(["bash", "tests/gpu.sh"], cwd=REPO, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("not run: no GPU") and not list(tmp_path.iterdir())


QUICK = ("losses and gradients", "no step waits", "training")  # the others begin processes


def test_the_checks_run_on_a_cpu(tmp_path, signals):
    assert run.main(["--device", "cpu", "--output", str(tmp_path / "gpu.json"), "--only", *QUICK]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert set(result["checks"]) == set(QUICK) and result["device"].startswith("cpu (")
    assert result["checks"]["training"]["figures"]["weights"] == "0.0e+00"
    assert "| no step waits        | passed |" in (tmp_path / "gpu.md").read_text()


def test_a_check_that_fails_is_told_and_the_next_one_runs(tmp_path, monkeypatch, capsys):
    def fails(_):
        raise AssertionError("weights differ")

    def skips(_):
        raise checks.Skipped("two GPUs are needed")

    monkeypatch.setattr(run, "CHECKS", {"one": fails, "two": skips, "three": lambda _: {"loss": 1}})
    assert run.main(["--device", "cpu", "--output", str(tmp_path / "gpu.json")]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert [found[name]["status"] for name in ("one", "two", "three")] == ["failed", "skipped", "passed"]
    assert "AssertionError: weights differ" in found["one"]["reason"]
    assert "two GPUs are needed" in capsys.readouterr().out


@pytest.mark.parametrize("read", ["item", "mask"])
def test_a_step_that_reads_from_the_device_is_found(read):
    values = torch.arange(5.0)
    with checks.no_waiting(torch.device("cpu")) as seen:
        (values * 2).sum()
        assert not seen
        float(values.sum()) if read == "item" else values[values > 2]
    assert seen
