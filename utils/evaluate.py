"""Route the queries of test files and score what was picked; training and `evaluation_router.py` share this code."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .ceiling.known import known_ceilings
from .choice import check_finite
from .data import DataError, RoutingData, gains, net
from .encoders import Queries, TrainedLayers
from .experiment import Hardware
from .meters import bar
from .metrics import accuracy, averages, earned, references, shares
from .model import RouterDC
from .tasks import TRAIN_ORDER

MANY = 65_536  # queries; more are routed in blocks, whose similarities alone are in memory
BLOCK = 8192


def check_kinds(tests: Sequence[RoutingData], kinds: Mapping[str, str]) -> None:
    """Raise DataError if a test file is read with another score kind than its task has in training.

    kinds: of the tasks in training.
    """
    for data in tests:
        kind = kinds.get(data.task, data.kind)
        if kind != data.kind:
            raise DataError(
                f"{data.path}: the scores of {data.task!r} are read as {data.kind}, and in training as {kind}; give "
                "both the same kind (--data_type, --test_data_type)"
            )


@torch.no_grad()
def route(
    model: RouterDC, queries: Queries, llms: Sequence[str], rows: np.ndarray | None = None, progress: tqdm | None = None
) -> np.ndarray:
    """The column of `llms` that each query is routed to: arg-max of the similarity among the LLMs present.

    Leaves the training mode and every random state as they were.

    Args:
        rows: (N,) which of the queries; None: all.
        progress: advanced by the number of queries.
    Returns: (N,) integers.
    Raises: ValueError as `check_finite`.
    """
    was_training = model.training
    model.eval()
    rows = np.arange(len(queries)) if rows is None else rows
    size = BLOCK if len(rows) > MANY else max(1, len(rows))
    columns = model.columns(llms)
    picks = np.empty(len(rows), dtype=np.int64)
    try:
        for start in range(0, len(rows), size):
            similarity = model(queries.embed(rows[start : start + size], progress))[1]  # (n, T)
            check_finite(similarity.cpu().numpy())
            picks[start : start + size] = similarity[:, columns].argmax(dim=1).cpu().numpy()
    finally:
        model.train(was_training)
    return picks


def evaluate(
    model: RouterDC,
    tests: Sequence[RoutingData],
    hardware: Hardware,
    trained_layers: TrainedLayers,
    cache: Path | None = None,
    inside: Collection[str] = TRAIN_ORDER,
    cost_rate: float = 0.0,
) -> dict[str, Any]:
    """Route every query of `tests` and report accuracies, averages, reference rows and routing shares, all in %.

    Files are encoded one by one, so a task's figures do not depend on which other files are evaluated.

    Args:
        trained_layers: which layers of the encoder the training changed; what lies below them is looked up in, or added
            to, `cache`.
        inside: the tasks in distribution.
        cost_rate: what a US dollar costs in score points, for the utilities.
    Returns: what `measure` returns.
    """
    picks = {}
    for data in tests:
        queries = Queries(model.encoder, data.inputs, hardware, trained_layers, cache, data.task)
        with bar(len(data), f"test {data.task}", "query") as progress:
            picks[data.task] = route(model, queries, data.llms, progress=progress)
    return measure(picks, tests, inside, cost_rate)


def measure(
    picks: Mapping[str, np.ndarray],
    tests: Sequence[RoutingData],
    inside: Collection[str] = TRAIN_ORDER,
    cost_rate: float = 0.0,
) -> dict[str, Any]:
    """What any router's picks are worth.

    Args:
        picks: for each task the column of `llms` per query, (N,).
    Returns: {"tasks": {task: accuracy}, "id_avg", "ood_avg", "in_distribution", "queries": {task: N}, "llms",
        "shares": {task: {llm: %}}, "references": {row: {task: %}}, "picks": {task: [column of "llms" per query]}}, and
        where files have costs what `charge` returns.
    """
    llms = list(tests[0].llms)
    tasks = {data.task: accuracy(picks[data.task], data) for data in tests}
    routed = {}
    for task, chosen in picks.items():
        routed[task] = dict(zip(llms, shares(chosen, len(llms)).tolist()))
    result = {
        "tasks": tasks,
        **averages(tasks, inside),
        "in_distribution": [task for task in tasks if task in inside],
        "queries": {data.task: len(data) for data in tests},
        "llms": llms,
        "shares": routed,
        "references": references(tests, known_ceilings(tests)),
        "picks": {task: chosen.tolist() for task, chosen in picks.items()},
    }
    priced = [data for data in tests if data.costs is not None]
    if priced:
        left_out = {data.task: data.left_out for data in tests}
        result |= {**charge(picks, priced, cost_rate), "cost_rate": cost_rate, "left_out": left_out}
    return result


def picks_text(test: Mapping[str, Any]) -> str:
    """picks.json of what `measure` returned: {"LLMs": names, task: [column of the names per query]}.

    A task has small letters, so none is called "LLMs".
    """
    return json.dumps({"LLMs": test["llms"], **test["picks"]}) + "\n"


def charge(picks: Mapping[str, np.ndarray], tests: Sequence[RoutingData], cost_rate: float) -> dict[str, Any]:
    """What picks and single LLMs cost on test files with costs, and their utility.

    Returns: {"costs": {row: {task: US dollars per query}}, "utilities": {row: {task: %}}}, the rows being "router" and
        each LLM.
    """
    rows = {"router": picks}
    for column, llm in enumerate(tests[0].llms):
        rows[llm] = {data.task: np.broadcast_to(column, len(data)) for data in tests}
    costs: dict[str, dict[str, float]] = {row: {} for row in rows}
    utilities: dict[str, dict[str, float]] = {row: {} for row in rows}
    for data in tests:
        worth = net(gains(data.scores, data.kind), data, cost_rate)  # (N, T), made once
        for row, chosen in rows.items():
            costs[row][data.task] = earned(data.costs, chosen[data.task])
            utilities[row][data.task] = 100 * earned(worth, chosen[data.task])
    return {"costs": costs, "utilities": utilities}
