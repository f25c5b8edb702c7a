"""kNN: an LLM is worth its mean on the nearest training queries (RouterBench; cosine similarity of the embeddings)."""

import numpy as np
from sklearn.neighbors import KNeighborsRegressor

from utils.baselines.base import Router, Rows


class KNN(Router):
    """Mean targets of the k training queries nearest to a query.

    Embeddings have length 1, so the order by Euclidean distance is that by cosine.
    """

    name = "kNN"
    grid = {"k": (5, 10, 20, 40, 80, 160)}

    @classmethod
    def possible(cls, setting, rows):
        return setting["k"] <= len(rows.x)

    def fit(self, rows: Rows) -> "KNN":
        self.model = KNeighborsRegressor(self.setting["k"], algorithm="brute").fit(rows.x, rows.y)
        return self

    def values(self, x: np.ndarray) -> np.ndarray:
        return self.model.predict(x)
