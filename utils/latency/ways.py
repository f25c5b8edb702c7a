"""The ways to compute one router that are compared: torch and ONNX, in several precisions."""

from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint_files import CheckpointError, find, read_config
from ..data import RoutingData, load_all
from ..onnx_files import FOLDER, INT8, MODEL
from ..reading import reading

REFERENCE, BF16, FP32, IN_INT8 = "torch fp32", "torch bf16", "ONNX fp32", "ONNX int8"


def ways_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Options of `Router.from_pretrained` for each way. folder: of a checkpoint.

    Raises: CheckpointError if it has no graph in 8-bit numbers.
    """
    graphs = [f"{FOLDER}/{name}" for name in INT8.values() if (folder / FOLDER / name).is_file()]
    if not graphs:
        command = f"python -m utils.onnx_export --ckpt {folder} --int8 {next(iter(INT8))}"
        raise CheckpointError(f"{folder / FOLDER}: no graph in 8-bit numbers; write it: {command}")
    return {
        REFERENCE: {"backend": "torch", "device": "cpu", "precision": "fp32"},
        BF16: {"backend": "torch", "device": "cpu", "precision": "bf16"},
        FP32: {"backend": "onnx", "file": f"{FOLDER}/{MODEL}"},
        IN_INT8: {"backend": "onnx", "file": graphs[0]},
    }


def test_files(ckpt: str, count: int = 0, seed: int = 1) -> list[RoutingData]:
    """The test files of a checkpoint's training run, or `count` rows of them all, drawn by the seed.

    Raises: DataError for bad files.
    """
    config = read_config(find(ckpt))
    paths, kinds = ([test[key] for test in config["tests"]] for key in ("path", "kind"))
    tests = load_all(paths, kinds, ("tests", "kinds"), **reading(config["settings"]))
    total = sum(map(len, tests))
    if not count or count >= total:
        return tests
    drawn = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    ends = np.cumsum([len(data) for data in tests])
    rows = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    starts = ends - [len(data) for data in tests]
    return [data.rows(chosen - start) for data, chosen, start in zip(tests, rows, starts) if len(chosen)]


def sample(questions: list[str], count: int, seed: int) -> list[str]:
    """`count` of the questions, drawn by the seed; all of them if there are fewer."""
    rows = np.random.default_rng(seed).permutation(len(questions))[:count]
    return [questions[row] for row in rows]
