"""Points of accuracy and cost, and the AIQ of routers that have several of them.

A point is {"accuracy": {task: %}, "cost": {task: US dollars per query}, "utility": {task: %}}.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from utils.baselines.controls import Oracle
from utils.data import RoutingData
from utils.metrics import accuracy, aiq, mean_cost, utility

ZERO = "single LLMs, mixed"  # RouterBench's zero router: the hull of the single LLMs
Point = dict[str, dict[str, float]]


def point(picks: Mapping[str, np.ndarray], tests: Sequence[RoutingData], rate: float) -> Point:
    """What picks earn and cost on each task. picks: for each task the column of each query, (N,)."""
    return {
        "accuracy": {data.task: accuracy(picks[data.task], data) for data in tests},
        "cost": {data.task: mean_cost(picks[data.task], data) for data in tests},
        "utility": {data.task: utility(picks[data.task], data, rate) for data in tests},
    }


def oracle(tests: Sequence[RoutingData], rate: float) -> Point:
    """The best pick of each query with its test scores known; of equally good ones the cheapest."""
    best = Oracle(cost_rate=rate)
    return point({data.task: best.pick(data, range(len(data.llms))) for data in tests}, tests, rate)


def mean_of(found: Mapping[str, Mapping[str, float]], what: str, task: str | None) -> float:
    """Accuracy, cost or utility of a point on one task, or the mean over tasks."""
    return float(np.mean(list(found[what].values()))) if task is None else found[what][task]


def improvement(points: Sequence[Mapping], llms: Mapping[str, Mapping], task: str | None) -> float | None:
    """AIQ in % of a router with these points over the range of the single LLMs' costs; None where all cost the same.

    The cheapest single LLM is one of every router's points: it is what an endless cost rate picks.

    Args:
        llms: the point of each LLM. task: one task, or None for the means over tasks.
    """
    single = [(mean_of(found, "cost", task), mean_of(found, "accuracy", task)) for found in llms.values()]
    cheapest, dearest = min(single, key=lambda pair: (pair[0], -pair[1])), max(single)
    if cheapest[0] == dearest[0]:
        return None
    own = [(mean_of(found, "cost", task), mean_of(found, "accuracy", task)) for found in points]
    costs, qualities = zip(cheapest, *own)
    return aiq(costs, qualities, cheapest[0], dearest[0])


def areas_of(
    points: Mapping[str, Sequence[Mapping]], llms: Mapping[str, Mapping], tasks: Sequence[str], seeds: Sequence[int]
) -> dict[str, dict[str, list[float | None]]]:
    """AIQ of each router and of ZERO, {name: {task or "average": one for each seed}}."""
    columns = {"average": None, **{task: task for task in tasks}}
    areas: dict[str, dict[str, list[float | None]]] = {}
    for name, found in points.items():
        by_seed = [[point for point in found if point["seed"] == seed] for seed in seeds]
        areas[name] = {column: [improvement(own, llms, task) for own in by_seed] for column, task in columns.items()}
    areas[ZERO] = {}
    for column, task in columns.items():
        areas[ZERO][column] = [improvement(list(llms.values()), llms, task)] * len(seeds)
    return areas
