"""TaskClassifier, a control: predict which task a query came from and take that task's best LLM."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from ..denoise import group_means
from .base import Router, Rows


class TaskClassifier(Router):
    """Logistic regression from the embedding to the training task, whose best LLM is taken.

    An LLM is worth its mean on the training rows of the task. So nothing is known of a query beyond its task: what a
    router earns above this was learned about the query itself. `c` is the inverse of the penalty, and tasks count alike
    however many rows they have.
    """

    name = "TaskClassifier"
    grid = {"c": (1.0, 10.0, 100.0)}

    def fit(self, rows: Rows) -> "TaskClassifier":
        names, groups = np.unique(rows.tasks, return_inverse=True)
        self.means = group_means(rows.y, groups)  # (tasks, T)
        self.model = None
        if len(names) > 1:
            model = LogisticRegression(C=self.setting["c"], class_weight="balanced", max_iter=1000)
            self.model = model.fit(rows.x, groups)
        return self

    def values(self, x: np.ndarray) -> np.ndarray:
        if self.model is None:  # a single task
            return np.repeat(self.means, len(x), axis=0)
        return self.means[self.model.predict(x)]
