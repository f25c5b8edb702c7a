"""Score a router on data sets and print the tables of the paper; training and `evaluation_router.py` share this code."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from utils.ceiling.known import known_ceilings
from utils.data import RoutingData
from utils.encoders import Queries, Trained
from utils.experiment import Hardware
from utils.meters import bar
from utils.metrics import accuracy, averages, mean_cost, references, shares, utility
from utils.model import RouterDC
from utils.tasks import TRAIN_ORDER


@torch.no_grad()
def route(
    model: RouterDC, queries: Queries, llms: Sequence[str], rows: np.ndarray | None = None, progress: tqdm | None = None
) -> np.ndarray:
    """The column of `llms` that each query is routed to: arg-max of the similarity among the LLMs present. Returns (N,).

    Leaves the training mode and every random state as they were.
    """
    was_training = model.training
    model.eval()
    try:
        similarity = model(queries.embed(rows, progress))[1]  # (N, T)
        return similarity[:, model.columns(llms)].argmax(dim=1).cpu().numpy()
    finally:
        model.train(was_training)


def evaluate(
    model: RouterDC,
    tests: Sequence[RoutingData],
    hardware: Hardware,
    trained: Trained,
    cache: Path | None = None,
    inside: Collection[str] = TRAIN_ORDER,
    cost_rate: float = 0.0,
) -> dict[str, Any]:
    """Route every query of `tests` and report accuracies, averages, reference rows and routing shares, all in %.

    `trained` says which layers the training changed: what lies below them is looked up in, or added to, `cache`. Files are encoded one by one, so a task's figures do not depend on which other files are evaluated.
    Returns: what `measure` returns.
    """
    picks = {}
    for data in tests:
        queries = Queries(model.encoder, data.inputs, hardware, trained, cache, data.task)
        with bar(len(data), f"test {data.task}", "query") as progress:
            picks[data.task] = route(model, queries, data.llms, progress=progress)
    return measure(picks, tests, inside, cost_rate)


def measure(
    picks: Mapping[str, np.ndarray],
    tests: Sequence[RoutingData],
    inside: Collection[str] = TRAIN_ORDER,
    cost_rate: float = 0.0,
) -> dict[str, Any]:
    """What any router's picks are worth. picks: for each task the column of `llms` per query, (N,).

    Returns: {"tasks": {task: accuracy}, "id_avg", "ood_avg", "in_distribution", "queries": {task: N}, "llms", "shares": {task: {llm: %}},
    "references": {row: {task: %}}, "picks": {task: [column of "llms" per query]}}. For the tasks whose files have costs also "costs": {row: {task: US dollars per query}} and
    "utilities": {row: {task: %}}, rows being "router" and each LLM, "cost_rate", and "left_out": {task: rows with empty cells}.
    """
    llms = tests[0].llms
    tasks = {data.task: accuracy(picks[data.task], data) for data in tests}
    routed = {task: dict(zip(llms, map(float, shares(chosen, len(llms))))) for task, chosen in picks.items()}
    priced = [data for data in tests if data.costs is not None]
    rows = {"router": picks} | {
        llm: {data.task: np.full(len(data), t) for data in priced} for t, llm in enumerate(llms)
    }
    charged = {
        "costs": {
            row: {data.task: mean_cost(chosen[data.task], data) for data in priced} for row, chosen in rows.items()
        },
        "utilities": {
            row: {data.task: utility(chosen[data.task], data, cost_rate) for data in priced}
            for row, chosen in rows.items()
        },
        "cost_rate": cost_rate,
        "left_out": {data.task: data.left_out for data in tests},
    }
    return {
        "tasks": tasks,
        **averages(tasks, inside),
        "in_distribution": [task for task in tasks if task in inside],
        "queries": {data.task: len(data) for data in tests},
        "llms": list(llms),
        "shares": routed,
        "references": references(tests, known_ceilings(tests)),
        "picks": {task: chosen.tolist() for task, chosen in picks.items()},
        **(charged if priced else {}),
    }
