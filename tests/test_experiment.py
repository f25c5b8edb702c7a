"""utils/experiment.py: batches, random streams, devices, and files that are whole or not there."""

import json
import os
import platform
import re
import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import torch
from conftest import REPO

from utils.experiment import batch_rows, choose_hardware, hardware_like, stream_seed
from utils.files import atomic_folder, writable_folder, write_json


def test_batches_pass_over_the_pool_again_and_again():
    """Every row once an epoch, also across batches that straddle two epochs; each epoch in another order."""
    pool = np.arange(100, 145)
    drawn = np.concatenate([batch_rows(pool, 8, number, seed=3) for number in range(45)])  # 8 epochs of 45 rows
    epochs = drawn.reshape(8, 45)
    for epoch in epochs:
        assert sorted(epoch) == list(pool)
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_a_pool_with_repeats_keeps_them():
    pool = np.array([4, 4, 9])
    assert sorted(batch_rows(pool, 6, 0, seed=1)) == [4, 4, 4, 4, 9, 9]
    assert len(batch_rows(pool, 64, 2, seed=1)) == 64


def test_a_batch_depends_on_its_number_the_seed_and_the_stream_alone():
    pool = np.arange(50)
    alone = batch_rows(pool, 8, 9, seed=3)
    for number in (0, 4, 9):
        last = batch_rows(pool, 8, number, seed=3)
    np.random.seed(0)
    np.testing.assert_array_equal(alone, last)
    assert not np.array_equal(alone, batch_rows(pool, 8, 9, seed=4)) and not np.array_equal(
        alone, batch_rows(pool, 8, 9, seed=3, stream=1)
    )


def test_two_small_batches_are_one_large_batch():
    """What makes gradient accumulation the same as a larger batch."""
    pool = np.arange(50)
    for number in range(10):
        small = [batch_rows(pool, 8, 2 * number + part, seed=3) for part in (0, 1)]
        np.testing.assert_array_equal(np.concatenate(small), batch_rows(pool, 16, number, seed=3))


def test_streams_do_not_meet():
    seeds = {stream_seed(*parts) for parts in np.ndindex(4, 3, 20, 3)}
    assert len(seeds) == 4 * 3 * 20 * 3 and all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(1, 2, 3) == stream_seed(1, 2, 3)


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"a": "Grüße", "b": [1, 2.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "Grüße", "b": [1, 2.5, None]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["a"] == "Grüße"
    written, write = [], Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda self, *rest, **options: written.append(self) or write(self, *rest, **options)
    )
    write_json(path, [1])
    assert path.read_text() == "[\n 1\n]\n" and written and path not in written  # it is only ever renamed to
    assert os.listdir(tmp_path) == ["results.json"]


def test_an_atomic_folder_is_the_old_or_the_new_one(tmp_path):
    path = tmp_path / "state"
    for text in ("one", "two"):
        with atomic_folder(path) as part:
            (part / "file").write_text(text)
            assert not path.exists() or (path / "file").read_text() == "one"
        assert (path / "file").read_text() == text
    with pytest.raises(RuntimeError):
        with atomic_folder(path) as part:
            (part / "file").write_text("three")
            raise RuntimeError
    assert (path / "file").read_text() == "two" and os.listdir(tmp_path) == ["state"]


def test_folders_that_cannot_be_written_name_the_flag(tmp_path):
    writable_folder(tmp_path / "a" / "b", "--save_path")
    assert (tmp_path / "a" / "b").is_dir() and os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"--save_path {path}: cannot write there"):
            writable_folder(path, "--save_path")


def test_setup_on_a_cpu():
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        found = choose_hardware("cpu", precision)
        assert (found.device.type, found.precision, found.tokens) == ("cpu", precision, 512)
        assert found.describe().endswith(precision) and found.describe().startswith("cpu (")
        with found.autocast():
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == found.dtype == dtype
    assert choose_hardware("cpu", tokens=96).tokens == 96
    assert choose_hardware().device.type in ("cpu", "cuda", "mps")
    for arguments, words in (
        (("gpu",), "--device is 'gpu'"),
        (("cuda:99",), "--device cuda:99: PyTorch sees"),
        (("cpu", "fp8"), "--precision is 'fp8'; it must be auto, bf16, fp16, tf32 or fp32"),
        (("cpu", "tf32"), "--precision tf32: cpu .* has none; use fp32"),
    ):
        with pytest.raises(ValueError, match=words):
            choose_hardware(*arguments)


class FakeGpu:
    """What torch would say on a machine with another GPU."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, bf16: bool, capability: tuple[int, int]):
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda _: name)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        patch.setattr(torch.cuda, "get_device_capability", lambda _: capability)


def test_precision_on_gpus_with_and_without_bf16(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        FakeGpu(patch, "Tesla T4", False, (7, 5))
        found = choose_hardware()
        assert found.describe() == "Tesla T4, fp16" and found.multiple == 16
        assert capsys.readouterr().err.startswith("note: Tesla T4 has no bf16: fp16 with loss scaling")
        assert hardware_like("bf16").precision == "fp16"
        assert "trained in bf16, which Tesla T4 does not have; computed in fp16" in capsys.readouterr().err
        with pytest.raises(ValueError, match="--precision tf32: Tesla T4 has none; use fp32"):
            choose_hardware("cuda", "tf32")
    with monkeypatch.context() as patch:
        FakeGpu(patch, "NVIDIA A100", True, (8, 0))
        assert choose_hardware().describe() == "NVIDIA A100, bf16"
        assert hardware_like("fp16").precision == "fp16" and hardware_like("fp32", precision="bf16").precision == "bf16"
        try:
            assert choose_hardware("cuda", "tf32").dtype == torch.float32
            assert torch.get_float32_matmul_precision() == "high"
        finally:
            choose_hardware("cpu", "fp32")
        assert torch.get_float32_matmul_precision() == "highest" and capsys.readouterr().err == ""


def test_an_evaluation_on_a_cpu_takes_what_that_has(monkeypatch, capsys):
    assert hardware_like("fp32", "cpu").precision == "fp32" and capsys.readouterr().err == ""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for trained in ("bf16", "fp16", "tf32"):
        assert hardware_like(trained, "cpu").precision == "fp32"
        assert f"trained in {trained}, which cpu (" in capsys.readouterr().err
    assert hardware_like("fp32", "cpu", "bf16").precision == "bf16"
    assert "has no bf16 and imitates it slowly" in capsys.readouterr().err


@pytest.mark.parametrize(
    "program", [["train_router_mdeberta.py"], ["evaluation_router.py"], ["-m", "utils.clustering"]]
)
def test_threads_that_wait_leave_the_cpu_to_others(program):
    """What OpenMP itself says that it was told."""
    without = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = without | {"OMP_DISPLAY_ENV": "verbose"}
    said = run([sys.executable, *program, "--help"], cwd=REPO, env=environment, capture_output=True, text=True)
    assert said.returncode == 0
    spins = set(re.findall(r"GOMP_SPINCOUNT = '(\w+)'", said.stderr))
    if not spins:
        pytest.skip("torch has another OpenMP here, which knows no GOMP_SPINCOUNT")
    assert spins == {"1000"}


@pytest.mark.parametrize("told", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_how_threads_wait_is_the_users_to_say(told):
    without = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    show = "import utils, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    said = run([sys.executable, "-c", show], cwd=REPO, env=without | told, capture_output=True, text=True)
    assert said.stdout.strip() == told.get("GOMP_SPINCOUNT", "None")


def test_threads_are_those_that_were_asked_for():
    before = torch.get_num_threads()
    try:
        assert choose_hardware("cpu", "fp32", threads=2).describe() == f"cpu ({platform.machine()}, 2 threads), fp32"
        assert torch.get_num_threads() == 2
        choose_hardware("cpu", "fp32")
        assert torch.get_num_threads() == 2  # 0 leaves the number as it is
    finally:
        torch.set_num_threads(before)


def test_a_folder_killed_in_the_exchange_comes_back(tmp_path):
    from utils.files import atomic_folder, recover

    with atomic_folder(tmp_path / "state") as part:
        (part / "a").write_text("first")
    (tmp_path / "state").rename(tmp_path / ".state.old")  # killed after the old folder moved away,
    (tmp_path / ".state.part").mkdir()  # and before the new one took its place
    recover(tmp_path / "state")
    assert (tmp_path / "state" / "a").read_text() == "first"
    with atomic_folder(tmp_path / "state") as part:
        (part / "a").write_text("second")
    assert (tmp_path / "state" / "a").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
