"""TaskClassifier, a control: predict which task a query came from and take that task's best LLM."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from utils.baselines.base import Router, Rows, group_means


class TaskClassifier(Router):
    """Logistic regression from the embedding to the training task; an LLM is worth its mean on the training rows of that task.

    It knows nothing of a query beyond its task: what a router earns above it was learned about the query itself. `c` is the
    inverse of the penalty, and tasks count alike however many rows they have.
    """

    name = "TaskClassifier"
    grid = {"c": (1.0, 10.0, 100.0)}

    def fit(self, rows: Rows) -> "TaskClassifier":
        names, groups = np.unique(rows.tasks, return_inverse=True)
        self.means = group_means(rows.y, groups, len(names))  # (tasks, T)
        self.model = None
        if len(names) > 1:
            self.model = LogisticRegression(C=self.setting["c"], class_weight="balanced", max_iter=1000).fit(
                rows.x, groups
            )
        return self

    def values(self, x: np.ndarray) -> np.ndarray:
        return self.means[self.model.predict(x)] if self.model else np.repeat(self.means, len(x), axis=0)
