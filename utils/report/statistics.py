"""How sure a routing result is: bootstrap intervals over queries and seeds, and paired comparisons on the same queries.

Everything works on what routers earned per query, one array for each task: (N, C), with a column for each router, or
for each of its seeds. An average is over tasks, each of which is a mean over its queries. Queries are drawn anew within
each task, and every column sees the same draws, so that differences of columns are paired.

Example (two routers, two tasks):
    draws = bootstrap([np.random.rand(50, 2), np.random.rand(49, 2)])      # (B, tasks, 2)
    low, high = interval(draws.mean(axis=1))                               # of the average of each router
    low, high = interval((draws[..., 0] - draws[..., 1]).mean(axis=1))     # of the difference
"""

from collections.abc import Iterator, Sequence

import numpy as np
from tqdm.auto import tqdm

RESAMPLES = 10_000
CELLS = 2_000_000  # numbers held at once
LEAST_RESAMPLES = 100


def check_resamples(resamples: int) -> None:
    """Raise ValueError, naming the flag --resamples, for too few bootstrap samples."""
    if resamples < LEAST_RESAMPLES:
        raise ValueError(f"--resamples is {resamples}; a 95 % interval needs at least {LEAST_RESAMPLES}")


def chunks(resamples: int, size: int) -> Iterator[slice]:
    """Slices of `resamples` samples of `size` queries each, as many samples at once as CELLS allows."""
    step = max(1, CELLS // size)
    for first in range(0, resamples, step):
        yield slice(first, min(first + step, resamples))


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
    for task, earned in enumerate(values):
        rng, size = np.random.default_rng((seed, task)), len(earned)
        for samples in chunks(resamples, size):
            count = samples.stop - samples.start
            drawn = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * size)  # how often each query was drawn
            means[samples, task] = times.reshape(count, size).astype(np.float64) @ earned / size
            if progress is not None:
                progress.update(count)
    return means


def seed_weights(seeds: Sequence[int], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Weights of the runs with these seeds in bootstrap samples of the runs: (resamples, seeds), each row with sum 1.

    Equal seeds get equal weights, so that differences between routers are paired; other seeds are drawn independently.
    Few runs show too little of their spread: with S of them the variance is (S - 1) / S of what it should be.
    """
    count = len(seeds)
    rng = np.random.default_rng((seed, *seeds))
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of bootstrap draws (B, ...): lower and upper ends (...)."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def sign_flip(differences: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Two-sided p-values of paired differences, by flipping their signs at random.

    A p-value is how often that moves the average at least as far from 0 as it is. If two routers are equally good,
    which of them earned which of a query's two values is a toss-up.

    Args:
        differences: for each task (N, C), what a column earned more than the reference on each query.
    Returns: (C,) p-values, at least 1 / (resamples + 1).
    """
    observed = np.mean([gaps.mean(axis=0) for gaps in differences], axis=0)  # (C,)
    moved = np.zeros((resamples, len(observed)))
    for task, gaps in enumerate(differences):
        rng, size = np.random.default_rng((seed, task)), len(gaps)
        for samples in chunks(resamples, size):
            count = samples.stop - samples.start
            signs = rng.integers(2, size=(count, size), dtype=np.int8) * 2.0 - 1
            moved[samples] += signs @ gaps / size / len(differences)
    far = np.abs(moved) >= np.abs(observed) * (1 - 1e-9)  # equal sums in another order are as far
    return (far.sum(axis=0) + 1) / (resamples + 1)


def right_when_possible(gains: np.ndarray, possible: np.ndarray) -> float:
    """How often, in %, the routed LLM is right among the queries that some LLM gets right.

    Of sampled tasks, it is the mean share of right answers there.

    Args:
        gains: (N,) or (S, N), what the picks earned.
        possible: (N,), the best that any LLM earns.
    Returns: NaN if no LLM is ever right.
    """
    answerable = possible > 0
    return 100 * float(gains[..., answerable].mean()) if answerable.any() else float("nan")
