"""LoraRetriever (clustering), as the paper compares with it: the best LLM of the nearest cluster of queries."""

import numpy as np

from ..denoise import group_means
from .base import Router, Rows, unit


class LoraRetriever(Router):
    """Clusters are those of the paper's sample-sample loss (`cluster_id`: t-SNE, then k-means).

    A query goes to the cluster with the most similar (cosine) mean embedding and takes that cluster's best LLM. There
    is nothing to choose. `KMeans` clusters the embeddings themselves and chooses how many clusters. As released it
    routes with a trained encoder: with `--encoder_ckpt` the clusters, as many, are those of k-means in the space of
    that encoder.
    Raises: ValueError where training rows have no clusters.
    """

    name = "LoraRetriever"

    def fit(self, rows: Rows) -> "LoraRetriever":
        if rows.clusters is None:
            raise ValueError(
                "LoraRetriever needs the cluster of every training row: `cluster_id` in each --data_paths file, as in "
                "datasets/split2_model7_cluster"
            )
        _, groups = np.unique(rows.clusters, return_inverse=True)
        self.centres = unit(group_means(rows.x, groups))  # (clusters, p)
        self.means = group_means(rows.y, groups)  # (clusters, T)
        return self

    def values(self, x: np.ndarray) -> np.ndarray:
        return self.means[(x @ self.centres.T).argmax(axis=1)]
