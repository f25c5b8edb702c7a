"""What every baseline router shares: the interface, the choice of its setting on validation rows, gradient descent."""

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data import RoutingData
from ..metrics import accuracy


@dataclass(frozen=True)
class Rows:
    """Training rows of all tasks end to end.

    x: (N, p) float32, query embeddings of length 1. y: (N, T) float32, what each LLM is worth on each query. tasks:
    (N,) names. clusters: (N,) int64, or None where a file has none.
    """

    x: np.ndarray
    y: np.ndarray
    tasks: np.ndarray
    clusters: np.ndarray | None = None


class Router(ABC):
    """A router that estimates what every LLM is worth on a query; the pick is the best estimate among the LLMs present.

    A subclass has a `name`, which results call it, a `grid`, the candidates of each hyper-parameter, and `fit` and
    `values`. Where a number of rows is too small for a setting, it has `possible`, too.

    Args:
        seed: of whatever is drawn.
        setting: one value of `grid` for each hyper-parameter.
    Raises: TypeError for a hyper-parameter that is not in the grid, or one that is missing.
    """

    name: ClassVar[str]
    grid: ClassVar[dict[str, tuple]] = {}

    def __init__(self, seed: int = 0, **setting: Any):
        if setting.keys() != self.grid.keys():
            expected, found = ", ".join(self.grid) or "no setting", ", ".join(setting) or "none"
            raise TypeError(f"{self.name} takes {expected}, found {found}")
        self.seed = seed
        self.setting = setting

    @classmethod
    def possible(cls, setting: Mapping[str, Any], rows: Rows) -> bool:
        """Whether these rows are enough for the setting."""
        return True

    @abstractmethod
    def fit(self, rows: Rows) -> "Router":
        """Learn from training rows; returns itself."""

    @classmethod
    def fit_each(cls, seed: int, settings: Sequence[Mapping[str, Any]], rows: Rows) -> Iterator["Router"]:
        """A router of each setting, fitted on the same rows; a subclass may share what does not depend on it."""
        for setting in settings:
            yield cls(seed, **setting).fit(rows)

    @abstractmethod
    def values(self, x: np.ndarray) -> np.ndarray:
        """What each LLM is expected to be worth on queries x (n, p), from the embedding alone -> (n, T)."""

    def pick(self, x: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """The LLM of the best estimate for each query of x (n, p) -> (n,).

        columns: the LLMs present, among those of training. A pick is a position in them; of equals the first is taken.
        """
        return self.values(x)[:, list(columns)].argmax(axis=1)


@dataclass(frozen=True)
class Choice:
    """A fitted router, its setting, and its validation accuracy in % (None where there was nothing to choose on)."""

    router: Router
    setting: dict[str, Any]
    validation: float | None


def settings_in(router_class: type[Router]) -> list[dict[str, Any]]:
    """All settings in the grid of a router, the last hyper-parameter changing fastest."""
    combinations = itertools.product(*router_class.grid.values())
    return [dict(zip(router_class.grid, values)) for values in combinations]


def choose(
    router_class: type[Router],
    rows: Rows,
    validation: Sequence[tuple[np.ndarray, RoutingData]],
    seed: int,
    everything: Rows | None = None,
    worth: Callable[[np.ndarray, RoutingData], float] = accuracy,
    progress: tqdm | None = None,
) -> Choice:
    """Fit every setting of the grid on `rows` and keep the one whose picks earn most on the validation rows.

    Of equally good settings the first is taken.

    Args:
        validation: for each task (embeddings (n, p), data with the LLMs of `rows.y` in their order); the mean over
            tasks counts.
        seed: of whatever a router draws.
        everything: if given, the chosen setting is fitted again on these rows (training and validation together).
        worth: what picks earn on one task's data.
        progress: advanced by one for each setting.
    Raises: ValueError if there is more than one setting and no validation row, or no setting fits the number of rows.
    """
    settings = settings_in(router_class)
    candidates = [setting for setting in settings if router_class.possible(setting, rows)]
    if not candidates:
        raise ValueError(
            f"{router_class.name}: {len(rows.x)} training rows are too few for any of its settings ({settings})"
        )
    held = [(x, data) for x, data in validation if len(x)]
    if len(candidates) > 1 and not held:
        raise ValueError(
            f"{router_class.name}: --validation_fraction must be above 0, since its settings are chosen on validation "
            "rows"
        )
    best: Choice | None = None
    for router in router_class.fit_each(seed, candidates, rows):
        scores = [worth(router.pick(x, range(data.scores.shape[1])), data) for x, data in held]
        score = float(np.mean(scores)) if scores else None
        if best is None or score > best.validation:
            best = Choice(router, router.setting, score)
        if progress is not None:
            progress.update()
    if everything is not None:
        best = replace(best, router=router_class(seed, **best.setting).fit(everything))
    return best


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of x (N, p) scaled to length 1; a row of zeros stays."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def fixed_passes(fit: Callable[[], Any]) -> Any:
    """Call `fit` without scikit-learn's warning that it may not have converged.

    The number of passes is a hyper-parameter here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit()


class Gradient(Router):
    """A router whose logits are a small torch module, fitted by AdamW to predict right or wrong of every (query, LLM).

    The loss is the binary cross-entropy, with targets y in [0, 1] that may be shares of right answers; other targets
    are refused. The setting has `passes`, the number of passes over the rows, and `weight_decay`. A subclass has
    `build`.
    """

    batch_size = 256
    learning_rate = 1e-2

    @abstractmethod
    def build(self, dimension: int, llms: int) -> nn.Module:
        """A module that maps (n, p) embeddings to (n, T) logits, initialised from torch's random state."""

    def fit(self, rows: Rows) -> "Gradient":
        """Learn from training rows; returns itself. Raises: ValueError for targets outside [0, 1]."""
        least, most = rows.y.min(), rows.y.max()
        if least < 0 or most > 1:
            raise ValueError(
                f"{self.name} predicts the probability of a right answer: its targets must be in [0, 1], found "
                f"{least:g} to {most:g}"
            )
        x = torch.from_numpy(rows.x.astype(np.float32))
        y = torch.from_numpy(rows.y.astype(np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.module = self.build(x.shape[1], y.shape[1])
            optimizer = torch.optim.AdamW(
                self.module.parameters(), lr=self.learning_rate, weight_decay=self.setting["weight_decay"]
            )
            for _ in range(self.setting["passes"]):
                for batch in torch.randperm(len(x)).split(self.batch_size):
                    optimizer.zero_grad(set_to_none=True)
                    self.loss(x[batch], y[batch]).backward()
                    optimizer.step()
        return self

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean binary cross-entropy over the pairs of x (n, p) and y (n, T)."""
        return nn.functional.binary_cross_entropy_with_logits(self.module(x), y)

    @torch.no_grad()
    def values(self, x: np.ndarray) -> np.ndarray:
        return torch.sigmoid(self.module(torch.from_numpy(x.astype(np.float32)))).numpy()
