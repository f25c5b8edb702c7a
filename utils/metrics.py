"""What a routing decision earns: accuracy per task, averages, reference routers and routing shares."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from .data import RoutingData, gains, net
from .tasks import TRAIN_ORDER

PER_TASK, ORACLE = "best LLM per task (picked on test)", "per-query oracle"
BLOCK = 8192  # queries that are looked at once
CEILING = "learnable ceiling (cross-validated estimate)"


def earned(values: np.ndarray, picks: np.ndarray) -> float:
    """Mean value of the picks: values (N, T), picks (N,) columns of it."""
    return float(values[np.arange(len(picks)), picks].mean(dtype=np.float64))


def accuracy(picks: np.ndarray, data: RoutingData) -> float:
    """Mean gain in % of picking LLM picks[i] (a column of data.scores) for query i. picks: (N,) integers."""
    chosen = data.scores[np.arange(len(picks)), picks]
    return 100 * float(gains(chosen, data.kind).mean(dtype=np.float64))


def single_accuracies(data: RoutingData) -> list[float]:
    """Mean gain in % of each LLM alone, T of them, in the order of the columns."""
    accuracies = []
    for column in range(len(data.llms)):
        gain = gains(np.ascontiguousarray(data.scores[:, column]), data.kind)  # (N,), no table of all at once
        accuracies.append(100 * float(gain.mean(dtype=np.float64)))
    return accuracies


def mean_cost(picks: np.ndarray, data: RoutingData) -> float:
    """Mean cost in US dollars per query of picking LLM picks[i] for query i. picks: (N,) integers.

    `data` must have costs.
    """
    return earned(data.costs, picks)


def utility(picks: np.ndarray, data: RoutingData, cost_rate: float) -> float:
    """Mean of gain - cost_rate * cost in % of picking LLM picks[i] for query i.

    It is at most 100, and below 0 where answers cost more than they earn.
    """
    return 100 * earned(net(gains(data.scores, data.kind), data, cost_rate), picks)


def hull(costs: Sequence[float], qualities: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The non-decreasing convex hull of (cost, quality) points: the most that mixing their routers at random gets.

    Corners from the cheapest point (the best of them) to the cheapest one of the best quality; slopes fall from corner
    to corner. Returns: costs (k,), qualities (k,).
    """
    corners: list[tuple[float, float]] = []
    for cost, quality in sorted(zip(costs, qualities), key=lambda point: (point[0], -point[1])):
        if corners and quality <= corners[-1][1]:
            continue  # no better than a cheaper one
        while len(corners) > 1 and _on_or_below(corners[-1], corners[-2], (cost, quality)):
            corners.pop()
        corners.append((cost, quality))
    return np.array([cost for cost, _ in corners]), np.array([quality for _, quality in corners])


def _on_or_below(corner: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether a corner lies on or below the line from the one to its left to the one to its right."""
    rise_to_right, rise_to_corner = right[1] - corner[1], corner[1] - left[1]
    return rise_to_right * (corner[0] - left[0]) >= rise_to_corner * (right[0] - corner[0])


def aiq(costs: Sequence[float], qualities: Sequence[float], low: float, high: float) -> float:
    """Average improvement in quality of RouterBench: the mean of the hull over costs from `low` to `high`.

    It is in the unit of `qualities`. RouterBench takes the cheapest and the dearest single LLM for `low` and `high`.
    Past its last corner the hull is level.
    Raises: ValueError if the range is empty, or no point is as cheap as `low` (the hull would not be known there).
    """
    x, y = hull(costs, qualities)
    if not low < high:
        raise ValueError(f"AIQ is a mean over a range of costs; from {low} to {high} is none")
    if x[0] > low:
        raise ValueError(
            f"AIQ begins at the cost {low}, and the router's cheapest point is at {x[0]}; "
            "add the cheapest single LLM, which an endless cost rate picks"
        )
    at = np.unique([low, *x[(x > low) & (x < high)], high])
    return float(np.trapezoid(np.interp(at, x, y), at) / (high - low))


def averages(by_task: Mapping[str, float], trained: Collection[str] = TRAIN_ORDER) -> dict[str, float]:
    """Mean over tasks, not queries: "id_avg" over the tasks in `trained`, by default the paper's, "ood_avg" elsewhere.

    An average over no task is left out.
    """
    sides = {
        "id_avg": [value for name, value in by_task.items() if name in trained],
        "ood_avg": [value for name, value in by_task.items() if name not in trained],
    }
    return {name: float(np.mean(values)) for name, values in sides.items() if values}


def references(
    tests: Sequence[RoutingData], ceilings: Mapping[str, float] | None = None
) -> dict[str, dict[str, float]]:
    """Rows that need no router, {row: {task: %}}: every LLM, the best one per task, the learnable ceiling, the oracle.

    PER_TASK is picked on the test sets themselves: it is what knowing the task would give, not a fair router.

    Args:
        ceilings: {task: %} as `utils.ceiling.known.known_ceilings` finds them. CEILING has these tasks alone; with none
            there is no such row.
    """
    table: dict[str, dict[str, float]] = {llm: {} for llm in tests[0].llms}
    for data in tests:
        for llm, value in zip(table, single_accuracies(data)):
            table[llm][data.task] = value
    table[PER_TASK] = {data.task: max(row[data.task] for row in table.values()) for data in tests}
    known = {data.task: ceilings[data.task] for data in tests if data.task in (ceilings or {})}
    if known:
        table[CEILING] = known
    table[ORACLE] = {data.task: accuracy(oracle(data), data) for data in tests}
    return table


def oracle(data: RoutingData) -> np.ndarray:
    """The column of the best LLM for each query, the first of equal ones, (N,)."""
    best = []
    for start in range(0, len(data), BLOCK):
        best.append(gains(data.scores[start : start + BLOCK], data.kind).argmax(axis=1))
    return np.concatenate(best)


def best_single(table: Mapping[str, Mapping[str, float]], llms: Sequence[str], tasks: Sequence[str]) -> str:
    """The LLM with the best mean over `tasks`, from rows {llm: {task: %}}."""
    return max(llms, key=lambda llm: float(np.mean([table[llm][task] for task in tasks])))


def shares(picks: np.ndarray, count: int) -> np.ndarray:
    """Share of the queries routed to each of `count` LLMs, in %: (N,) -> (count,)."""
    return 100 * np.bincount(picks, minlength=count) / len(picks)


def right_counts(data: RoutingData) -> np.ndarray:
    """Share of the queries, in %, for which 0, 1, ..., T LLMs are right, (T + 1,).

    An LLM is right if its gain is at least one half.
    """
    right = (gains(data.scores, data.kind) >= 0.5).sum(axis=1)
    return 100 * np.bincount(right, minlength=len(data.llms) + 1) / len(data)


def disagreement(data: RoutingData) -> np.ndarray:
    """Mean difference of the gains of each two LLMs, in %, (T, T).

    For right or wrong it is the share of queries where only one of them is right.
    """
    gain = gains(data.scores, data.kind).astype(np.float64)
    return 100 * np.abs(gain[:, :, None] - gain[:, None, :]).mean(axis=0)
