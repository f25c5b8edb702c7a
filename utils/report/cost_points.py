"""Points of accuracy and cost, and the AIQ of routers that have several of them.

A point is {"accuracy": {task: %}, "cost": {task: US dollars per query}, "utility": {task: %}}.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..baselines.controls import Oracle
from ..data import RoutingData
from ..metrics import accuracy, aiq, mean_cost, utility

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


def mean_of(router_point: Mapping[str, Mapping[str, float]], what: str, task: str | None) -> float:
    """Accuracy, cost or utility of a point on one task, or the mean over tasks."""
    values = router_point[what]
    return float(np.mean(list(values.values()))) if task is None else values[task]


def improvement(points: Iterable[Mapping], llms: Mapping[str, Mapping], task: str | None) -> float | None:
    """AIQ in % of a router with these points over the range of the single LLMs' costs; None where all cost the same.

    The cheapest single LLM is one of every router's points: it is what an endless cost rate picks.

    Args:
        llms: the point of each LLM.
        task: one task, or None for the means over tasks.
    """

    def cost_and_accuracy(router_point: Mapping) -> tuple[float, float]:
        return mean_of(router_point, "cost", task), mean_of(router_point, "accuracy", task)

    single = [cost_and_accuracy(llm_point) for llm_point in llms.values()]
    cheapest, dearest = min(single, key=lambda pair: (pair[0], -pair[1])), max(single)
    if cheapest[0] == dearest[0]:
        return None
    costs, qualities = zip(cheapest, *map(cost_and_accuracy, points))
    return aiq(costs, qualities, cheapest[0], dearest[0])


def areas_of(
    points: Mapping[str, Sequence[Mapping]], llms: Mapping[str, Mapping], tasks: Sequence[str], seeds: Sequence[int]
) -> dict[str, dict[str, list[float | None]]]:
    """AIQ of each router and of ZERO, {name: {task or "average": one for each seed}}.

    points: of each router, with the seed of each. llms: the point of each LLM.
    """
    areas: dict[str, dict[str, list[float | None]]] = {name: {} for name in (*points, ZERO)}
    for column in ("average", *tasks):
        task = None if column == "average" else column
        for name, router_points in points.items():
            areas[name][column] = []
            for seed in seeds:
                of_seed = [each for each in router_points if each["seed"] == seed]
                areas[name][column].append(improvement(of_seed, llms, task))
        areas[ZERO][column] = [improvement(llms.values(), llms, task)] * len(seeds)
    return areas
