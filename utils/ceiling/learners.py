"""Learners that estimate what every LLM is worth on a query of one task. Each tries all of its settings in one fit.

A learner sees rows by their numbers and reads labels of the training rows alone. What it returns is (settings,
queries, LLMs); the router takes the LLM of the best estimate, the first of equals.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

INPUTS = ("embedding", "embedding and surface")


def named(text: str, *values: Sequence) -> tuple[str, ...]:
    """Names of all combinations of values, the last one changing fastest.

    text: a format with a gap for each value.
    """
    return tuple(text.format(*setting) for setting in itertools.product(*values))


@dataclass(frozen=True)
class Labelled:
    """The queries of one task with their labels.

    questions: N strings. y: (N, T) float64, what each LLM earns on each query. x: (N, p) float64, embeddings of
    length 1. surface: (N, q) float64, q may be 0.
    """

    questions: Sequence[str]
    y: np.ndarray
    x: np.ndarray
    surface: np.ndarray

    def standardised(self, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Surface features of `rows` with mean 0 and, all of them together, variance 1 on the rows of `train`.

        So they weigh as much as the embeddings.
        """
        known = self.surface[train]
        deviation = known.std(axis=0)
        scaled = (self.surface[rows] - known.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)
        return np.clip(scaled, -5, 5) / np.sqrt(max(1, scaled.shape[1]))

    def features(self, train: np.ndarray, rows: np.ndarray, with_surface: bool) -> np.ndarray:
        """Embeddings of `rows` (n, p), or embeddings and surface features (n, p + q)."""
        if not with_surface:
            return self.x[rows]
        return np.concatenate([self.x[rows], self.standardised(train, rows)], axis=1)


class Learner(ABC):
    """Fits all of its settings at once; `settings` names them in the order of the estimates."""

    name: ClassVar[str]
    settings: tuple[str, ...]
    inner: ClassVar[int] = 4  # how many of the inner folds choose its setting

    @abstractmethod
    def estimates(self, data: Labelled, train: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
        """Estimates for the rows `new` (n,) from the labels of the rows `train` (m,) alone -> (settings, n, T)."""


class Constant(Learner):
    """Looks at no query: the mean of every LLM, so always the best LLM of the training rows."""

    name = "always the best LLM"
    settings = ("",)

    def estimates(self, data, train, new, seed):
        return np.broadcast_to(data.y[train].mean(axis=0), (1, len(new), data.y.shape[1]))


class Ridge(Learner):
    """Least squares with a penalty on the squared weights; a large penalty leaves the means."""

    name = "ridge"
    penalties = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    settings = named("{}, penalty {:g}", INPUTS, penalties)

    def estimates(self, data, train, new, seed):
        mean = data.y[train].mean(axis=0)
        estimates = []
        for with_surface in (False, True):
            x = data.features(train, train, with_surface)
            centre = x.mean(axis=0)
            x = x - centre
            values, vectors = np.linalg.eigh(x.T @ x)
            rotated = vectors.T @ (x.T @ (data.y[train] - mean))  # (p, T)
            asked = (data.features(train, new, with_surface) - centre) @ vectors  # (n, p)
            for penalty in self.penalties:
                weights = rotated / (np.maximum(values, 0) + penalty)[:, None]  # (p, T)
                estimates.append(asked @ weights + mean)
        return np.stack(estimates)


class Neighbours(Learner):
    """The mean of the k nearest training queries, moved towards the task's mean.

    The task's mean counts as `weight` more queries.
    """

    name = "kNN"
    counts = (10, 20, 40, 80, 160)
    weights = (0, 40, 160)
    settings = named("{}, k {}, weight {}", INPUTS, counts, weights)

    def estimates(self, data, train, new, seed):
        mean = data.y[train].mean(axis=0)
        most = min(max(self.counts), len(train))
        estimates = []
        for with_surface in (False, True):
            known = data.features(train, train, with_surface)
            asked = data.features(train, new, with_surface)
            distance = (known**2).sum(axis=1) - 2 * asked @ known.T  # (n, m), squared, less a constant of each row
            near = np.argpartition(distance, most - 1, axis=1)[:, :most]
            order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
            near = np.take_along_axis(near, order, axis=1)
            sums = np.cumsum(data.y[train][near], axis=1)  # (n, most, T)
            for count in self.counts:
                k = min(count, most)
                estimates += [(sums[:, k - 1] + weight * mean) / (k + weight) for weight in self.weights]
        return np.stack(estimates)


class Boosting(Learner):
    """Gradient boosting of small trees on surface features and the embedding's main directions, a model for each LLM.

    It predicts how much better an LLM is than the mean of all on that query: what all LLMs share, such as the query's
    difficulty, is no matter of routing. The settings are numbers of trees and how far the estimate moves from the
    task's mean.
    """

    name = "boosting"
    directions = 24
    trees = (10, 20, 40)
    weights = (0.3, 1.0)
    settings = named("{} trees, weight {:g}", trees, weights)

    def inputs(self, data: Labelled, train: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the trees see of the training rows and of the new ones; the directions are those of the former."""
        x = data.x[train]
        centre = x.mean(axis=0)
        _, vectors = np.linalg.eigh((x - centre).T @ (x - centre))
        main = vectors[:, ::-1][:, : self.directions]

        def seen(rows: np.ndarray) -> np.ndarray:
            return np.concatenate([(data.x[rows] - centre) @ main, data.surface[rows]], axis=1)

        return seen(train), seen(new)

    def estimates(self, data, train, new, seed):
        known, asked = self.inputs(data, train, new)
        targets = data.y[train] - data.y[train].mean(axis=1, keepdims=True)  # (m, T)
        estimates = np.empty((len(self.settings), len(new), targets.shape[1]))
        for llm in range(targets.shape[1]):
            mean = targets[:, llm].mean()
            model = HistGradientBoostingRegressor(
                max_iter=max(self.trees),
                learning_rate=0.1,
                max_leaf_nodes=6,
                min_samples_leaf=min(40, max(5, len(train) // 20)),
                max_bins=63,
                early_stopping=False,
                random_state=seed,
            ).fit(known, targets[:, llm])
            stages = [values for count, values in enumerate(model.staged_predict(asked), 1) if count in self.trees]
            estimates[:, :, llm] = [mean + weight * (values - mean) for values in stages for weight in self.weights]
        return estimates


LEARNERS: dict[str, type[Learner]] = {learner.name: learner for learner in (Constant, Ridge, Neighbours, Boosting)}
