"""Controls: routers that look at no query, know what no router can know, or both.

What a router earns is read against them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ..data import RoutingData, gains, net
from ..denoise import group_means
from .base import Rows


class Control(ABC):
    """Picks from the training rows and, unlike a router, from whatever it likes of the test data.

    Args:
        seed: of whatever is drawn.
        cost_rate: score points per US dollar, charged to test scores; training rows come with it charged.
    """

    name: ClassVar[str]  # in results
    drawn: ClassVar[bool] = False  # whether the seed matters

    def __init__(self, seed: int = 0, cost_rate: float = 0.0):
        self.seed, self.cost_rate = seed, cost_rate

    def fit(self, rows: Rows) -> "Control":
        """Learn from training rows; returns itself."""
        names, groups = np.unique(rows.tasks, return_inverse=True)
        self.tasks = list(names)
        self.means = group_means(rows.y, groups)  # (tasks, T)
        return self

    @abstractmethod
    def pick(self, data: RoutingData, columns: Sequence[int]) -> np.ndarray:
        """The LLM for each query of `data` -> (n,).

        columns: the LLMs present, among those of training. A pick is a position in them.
        """


class Random(Control):
    """Any LLM present, each as likely; its expected accuracy is the mean over the single LLMs."""

    name = "Random"
    drawn = True

    def pick(self, data, columns):
        key = int.from_bytes(data.task.encode()) % 2**63  # so picks do not depend on which other tasks are tested
        return np.random.default_rng((self.seed, key)).integers(len(columns), size=len(data))


class BestSingle(Control):
    """The LLM with the best mean over the training tasks, for every query."""

    name = "BestSingle"

    def pick(self, data, columns):
        return np.full(len(data), self.means[:, list(columns)].mean(axis=0).argmax())


class BestPerTask(Control):
    """Knows which task a query came from: the LLM that is best on that task's training rows.

    Where a task has no training rows, it is BestSingle.
    """

    name = "BestPerTask"

    def pick(self, data, columns):
        means = self.means[:, list(columns)]
        of_task = means[self.tasks.index(data.task)] if data.task in self.tasks else means.mean(axis=0)
        return np.full(len(data), of_task.argmax())


class Oracle(Control):
    """Knows the test scores: an LLM that earns most on each query, less its cost's charge; of equals the cheapest.

    No router can do better.
    """

    name = "Oracle"

    def pick(self, data, columns):
        earned = net(gains(data.scores, data.kind), data, self.cost_rate)
        if data.costs is None:
            return earned.argmax(axis=1)
        costs_of_best = np.where(earned == earned.max(axis=1, keepdims=True), data.costs, np.inf)
        return costs_of_best.argmin(axis=1)
