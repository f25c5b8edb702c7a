"""Ridge: a linear regression from the embedding to what every LLM is worth."""

import numpy as np
from sklearn import linear_model

from .base import Router, Rows


class Ridge(Router):
    """Least squares with an intercept and a penalty alpha on the squared weights, all LLMs at once."""

    name = "Ridge"
    grid = {"alpha": (0.1, 1.0, 3.0, 10.0, 30.0, 100.0)}

    def fit(self, rows: Rows) -> "Ridge":
        self.model = linear_model.Ridge(self.setting["alpha"]).fit(rows.x, rows.y)
        return self

    def values(self, x: np.ndarray) -> np.ndarray:
        return self.model.predict(x)
