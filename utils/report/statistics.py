"""How sure a routing result is: bootstrap intervals over queries and seeds, and paired comparisons of routers on the same queries.

Everything works on what routers earned per query, one array per task: (N, C), a column for each router, or for each of its seeds. An
average is over tasks, each of which is a mean over its queries; queries are drawn anew within each task, and every column
sees the same draws, so that differences of columns are paired.

Example (two routers, two tasks):
    draws = bootstrap([np.random.rand(50, 2), np.random.rand(49, 2)])      # (B, tasks, 2)
    low, high = interval(draws.mean(axis=1))                               # of the average of each router
    low, high = interval((draws[..., 0] - draws[..., 1]).mean(axis=1))     # of the difference
"""

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

RESAMPLES = 10_000
CELLS = 2_000_000  # numbers held at once


def bootstrap(
    values: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0, progress: tqdm | None = None
) -> np.ndarray:
    """Means of `resamples` bootstrap samples of the queries of each task (Efron and Tibshirani, chapter 6).

    Args:
        values: for each task (N, C), what C columns earned on its N queries.
        seed: of the draws; a task's draws do not depend on the other tasks.
        progress: advanced by the number of samples of each task.
    Returns: (resamples, tasks, C) float64.
    """
    means = np.empty((resamples, len(values), values[0].shape[1]))
    for place, part in enumerate(values):
        rng, size = np.random.default_rng((seed, place)), len(part)
        step = max(1, CELLS // size)
        for first in range(0, resamples, step):
            count = min(step, resamples - first)
            drawn = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * size).reshape(
                count, size
            )  # how often each query was drawn
            means[first : first + count, place] = times.astype(np.float64) @ part / size
            if progress is not None:
                progress.update(count)
    return means


def seed_weights(seeds: Sequence[int], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Weights of the runs with these seeds in bootstrap samples of the runs, (resamples, seeds), each row with sum 1.

    Equal seeds get equal weights, so that differences between routers are paired; other seeds are drawn independently. Few runs show too little of their spread: with S of them the variance is (S - 1) / S of what it should be.
    """
    return np.random.default_rng((seed, *seeds)).multinomial(
        len(seeds), np.full(len(seeds), 1 / len(seeds)), size=resamples
    ) / len(seeds)


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of bootstrap draws (B, ...): lower and upper ends (...)."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def sign_flip(differences: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Two-sided p-values of paired differences: how often flipping their signs at random moves the average at least as far from 0.

    If two routers are equally good, which of them earned which of a query's two values is a toss-up.

    Args:
        differences: for each task (N, C), what a column earned more than the reference on each query.
    Returns: (C,) p-values, at least 1 / (resamples + 1).
    """
    observed = np.mean([part.mean(axis=0) for part in differences], axis=0)  # (C,)
    moved = np.zeros((resamples, len(observed)))
    for place, part in enumerate(differences):
        rng, size = np.random.default_rng((seed, place)), len(part)
        step = max(1, CELLS // size)
        for first in range(0, resamples, step):
            signs = rng.integers(2, size=(min(step, resamples - first), size), dtype=np.int8) * 2.0 - 1
            moved[first : first + len(signs)] += signs @ part / size / len(differences)
    far = np.abs(moved) >= np.abs(observed) * (1 - 1e-9)  # equal sums in another order are as far
    return (far.sum(axis=0) + 1) / (resamples + 1)


def right_when_possible(gains: np.ndarray, possible: np.ndarray) -> float:
    """How often, in %, the routed LLM is right among the queries that some LLM gets right; of sampled tasks, the mean share of right answers there.

    gains: (N,) or (S, N), what the picks earned. possible: (N,), the best that any LLM earns. NaN if no LLM is ever right.
    """
    answerable = possible > 0
    return 100 * float(gains[..., answerable].mean()) if answerable.any() else float("nan")


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and sample standard deviation, as text."""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.2f}{deviation}"
