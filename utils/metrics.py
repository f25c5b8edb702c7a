"""What a routing decision earns: accuracy per task, averages, reference routers and routing shares."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from utils.data import RoutingData, gains
from utils.tasks import TRAIN_ORDER


def accuracy(picks: np.ndarray, data: RoutingData) -> float:
    """Mean gain in % of picking LLM picks[i] (a column of data.scores) for query i. picks: (N,) integers."""
    return 100 * float(gains(data.scores, data.kind)[np.arange(len(picks)), picks].mean(dtype=np.float64))


def averages(by_task: Mapping[str, float], trained: Collection[str] = TRAIN_ORDER) -> dict[str, float]:
    """Mean over tasks, not queries: "id_avg" over the tasks in `trained`, by default the paper's, "ood_avg" over the others.

    An average over no task is left out.
    """
    inside = [value for name, value in by_task.items() if name in trained]
    outside = [value for name, value in by_task.items() if name not in trained]
    return {name: float(np.mean(values)) for name, values in (("id_avg", inside), ("ood_avg", outside)) if values}


def references(tests: Sequence[RoutingData]) -> dict[str, dict[str, float]]:
    """Rows that need no router, {row: {task: %}}: every single LLM, the best one per task, the per-query oracle.

    "best LLM per task" is picked on the test sets themselves: it is what knowing the task would give, not a fair router.
    """
    table = {llm: {data.task: accuracy(np.full(len(data), t), data) for data in tests} for t, llm in enumerate(tests[0].llms)}
    table["best LLM per task (picked on test)"] = {data.task: max(row[data.task] for row in table.values()) for data in tests}
    table["per-query oracle"] = {data.task: accuracy(gains(data.scores, data.kind).argmax(axis=1), data) for data in tests}
    return table


def best_single(table: Mapping[str, Mapping[str, float]], llms: Sequence[str], tasks: Sequence[str]) -> str:
    """The LLM with the best mean over `tasks`, from rows {llm: {task: %}}."""
    return max(llms, key=lambda llm: float(np.mean([table[llm][task] for task in tasks])))


def shares(picks: np.ndarray, count: int) -> np.ndarray:
    """Share of the queries routed to each of `count` LLMs, in %: (N,) -> (count,)."""
    return 100 * np.bincount(picks, minlength=count) / len(picks)
