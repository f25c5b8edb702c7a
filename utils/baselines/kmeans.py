"""KMeans: the best LLM of the nearest k-means cluster of training queries (cluster routing, Avengers)."""

import numpy as np
from sklearn import cluster

from ..denoise import group_means
from .base import Router, Rows


class KMeans(Router):
    """An LLM is worth its mean on the training queries of the query's cluster."""

    name = "KMeans"
    grid = {"clusters": (2, 4, 8, 16, 32, 64)}

    @classmethod
    def possible(cls, setting, rows):
        return setting["clusters"] <= len(np.unique(rows.x, axis=0))

    def fit(self, rows: Rows) -> "KMeans":
        count = self.setting["clusters"]
        self.model = cluster.KMeans(count, n_init=4, random_state=self.seed).fit(rows.x)
        self.means = group_means(rows.y, self.model.labels_)  # (clusters, T)
        return self

    def values(self, x: np.ndarray) -> np.ndarray:
        return self.means[self.model.predict(x)]
