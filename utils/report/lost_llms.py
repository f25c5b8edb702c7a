"""Finished routers without one of their LLMs: no training, the arg-max is among those left."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import HardwareConfig
from ..data import RoutingData
from ..files import read_json, write_json
from ..metrics import ORACLE, PER_TASK, accuracy, averages, best_single, references
from ..tasks import task_of
from .results import line_of
from .runs import RESULTS, reopen_router

LOST = "lost_LLM"  # the setting of such lines in ablations.jsonl
SIDES = ("id_avg", "ood_avg")
LIMITS = ("best single LLM", "best LLM per task", "per-query oracle")  # of the LLMs left, all picked on test


def limits_of(tests: Sequence[RoutingData], sides: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """What the LLMs of the test data could do at best, picked on these data: {one of LIMITS: {side: %}}.

    sides: the tasks of each side.
    """
    table, llms = references(tests), tests[0].llms
    limits: dict[str, dict[str, float]] = {limit: {} for limit in LIMITS}
    for side, tasks in sides.items():
        for limit, row in zip(LIMITS, (best_single(table, llms, tasks), PER_TASK, ORACLE)):
            limits[limit][side] = round(float(np.mean([table[row][task] for task in tasks])), 4)
    return limits


@torch.no_grad()
def lose_llms(folder: Path, hardware: HardwareConfig) -> list[dict[str, Any]]:
    """Test the router of a finished run without each of its LLMs in turn, and with all ("none").

    Every query is encoded once. Returns: lines of ablations.jsonl with a further entry "limits", see `limits_of`.
    Raises: ValueError for a router with fewer than two LLMs; CheckpointError or DataError for files that are damaged,
    changed or gone.
    """
    router = reopen_router(folder, hardware)
    model, tests = router.model, router.tests
    llms = [name for name in model.llms if name in tests[0].llms]
    if len(llms) < 2:
        raise ValueError(f"{folder}: its router has {len(llms)} of the LLMs of its test files; to lose one takes two")
    training_tasks = [task_of(path) for path in router.run.settings["data_paths"]]
    tasks = [data.task for data in tests]
    sides = {
        "id_avg": [task for task in tasks if task in training_tasks],
        "ood_avg": [task for task in tasks if task not in training_tasks],
    }
    similarity = {data.task: model(router.embed(data))[1].cpu().numpy() for data in tests}  # (N, T) each
    lines = []
    for lost in (None, *llms):
        left = [name for name in llms if name != lost]
        columns = model.columns(left)
        metrics, with_left = {}, [data.for_llms(left) for data in tests]
        for data in with_left:
            metrics[data.task] = accuracy(similarity[data.task][:, columns].argmax(axis=1), data)
        line = line_of(router.run.results) | {
            "setting": LOST,
            "value": lost or "none",
            "validation": None,
            "metrics": {task: round(value, 4) for task, value in metrics.items()},
            "limits": limits_of(with_left, sides),
            "device": router.hardware.describe(),
            "command": f"python -m utils.report.ablations {folder} --lose_llms",
        }
        lines.append(line | {side: round(value, 4) for side, value in averages(metrics, training_tasks).items()})
    return lines


def lost_lines(folder: Path, hardware: HardwareConfig) -> list[dict[str, Any]]:
    """`lose_llms`, kept in the run's folder until the run is trained again."""
    path, sha256 = folder / "lost_llms.json", hashlib.sha256((folder / RESULTS).read_bytes()).hexdigest()
    if path.is_file():
        kept = read_json(path, "remove it, and it is made again", ["of", "lines"])
        if kept["of"] == sha256:
            return kept["lines"]
    lines = lose_llms(folder, hardware)
    write_json(path, {"of": sha256, "lines": lines})
    return lines
