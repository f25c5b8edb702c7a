"""kNN: an LLM is worth its mean on the nearest training queries (RouterBench; cosine similarity of the embeddings)."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from .base import Router, Rows

CELLS = 2**24  # targets of neighbours that are held at once


class Neighbours:
    """The `most` training queries nearest to others, exactly; each array of queries is searched once.

    Embeddings have length 1, so the order by Euclidean distance is that by cosine. The search takes the time of
    training queries times queries, and less memory than either.
    """

    def __init__(self, x: np.ndarray, most: int):
        self.index = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(x)
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def of(self, x: np.ndarray) -> np.ndarray:
        """Row numbers (n, most) of the training queries nearest to x (n, p), the nearest first."""
        for queries, nearest in self.found:
            if queries is x:
                return nearest
        nearest = self.index.kneighbors(x, return_distance=False)
        self.found.append((x, nearest))
        return nearest


class KNN(Router):
    """Mean targets of the k training queries nearest to a query."""

    name = "kNN"
    grid = {"k": (5, 10, 20, 40, 80, 160)}

    @classmethod
    def possible(cls, setting, rows):
        return setting["k"] <= len(rows.x)

    @classmethod
    def fit_each(cls, seed, settings, rows):
        neighbours = Neighbours(rows.x, max(setting["k"] for setting in settings))
        for setting in settings:
            yield cls(seed, **setting).fit(rows, neighbours)

    def fit(self, rows: Rows, neighbours: Neighbours | None = None) -> "KNN":
        self.neighbours = neighbours or Neighbours(rows.x, self.setting["k"])
        self.targets = rows.y
        return self

    def values(self, x: np.ndarray) -> np.ndarray:
        k, llms = self.setting["k"], self.targets.shape[1]
        nearest = self.neighbours.of(x)[:, :k]  # (n, k)
        pieces = np.array_split(nearest, -(-nearest.size * llms // CELLS) or 1)
        return np.concatenate([self.targets[piece].mean(axis=1) for piece in pieces])
