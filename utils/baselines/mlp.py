"""MLP: a regression with one hidden layer from the embedding to what every LLM is worth (RouterBench)."""

import numpy as np
from sklearn.neural_network import MLPRegressor

from .base import Router, Rows, fixed_passes


class MLP(Router):
    """One hidden layer of rectified units, squared error, Adam; `alpha` is the penalty on the squared weights."""

    name = "MLP"
    grid = {"units": (64, 256), "alpha": (1e-3, 1e-1), "passes": (10, 40)}

    def fit(self, rows: Rows) -> "MLP":
        units, alpha, passes = (self.setting[name] for name in ("units", "alpha", "passes"))
        model = MLPRegressor(
            hidden_layer_sizes=(units,),
            alpha=alpha,
            max_iter=passes,
            batch_size=min(128, len(rows.x)),
            random_state=self.seed,
        )
        self.model = fixed_passes(lambda: model.fit(rows.x, rows.y))
        return self

    def values(self, x: np.ndarray) -> np.ndarray:
        return self.model.predict(x)
