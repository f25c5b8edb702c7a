"""Denoised targets: how far a training row is pooled with its neighbours, cluster and task is estimated from the rows.

The scores y (N, T) of one task are noisy: one answer, or ten samples. Two parts of y are estimated apart: the level of
a row (its mean over the LLMs) and its differences between LLMs. The differences alone decide a pick. Two steps each:

1. Stacking (Wolpert 1992; Breiman 1996). The sources j are means of other questions: of the 1, 2, 4, 8, ... nearest by
   the cosine of their embeddings, of those in the cluster, and of those in the task.

       apart_i = sum over j of weight_j * mean of source j without row i
       error   = mean over i and the LLMs of (y_i - apart_i)^2

   The weights minimise this leave-one-out error for all LLMs at once. None is negative, and their sum is 1.
2. Empirical Bayes (Efron and Morris 1975). Of the error, `noise` is chance. What is left is variance between questions
   that the sources do not explain, and it speaks for the row itself:

       own      = max(0, 1 - noise / error)
       target_i = (1 - own) * (sum over j of weight_j * mean of source j with row i) + own * y_i

   A mean with row i in it holds the row already. That share (1 / N in the mean of N rows) is counted in `own`, and the
   row never has less.

What is chance depends on what the target is to be (POOLINGS):

    question  the expected score of this very question. A score that is a share of n >= 2 answers varies by
              p (1 - p) / n, estimated by y (1 - y) / (n - 1): binomial, answers independent. One answer alone tells no
              variance, so such a task is treated as in "alike".
    alike     the expected score of questions that look alike to the encoder: all that a router can learn. Chance is
              half the mean squared difference of nearest questions (Rice 1984). It is never too little on average,
              because nearest questions differ in their expected scores, too: it errs to pooling.

One `noise` and one `own` hold for a whole task: its rows are taken to be equally precise. Equal questions are one
question. No number is set by hand. Nothing depends on the order of rows or of LLMs. Give training rows alone.

Example: data are the training rows of one file, x their embeddings (N, p) by the pre-trained encoder:
    y, estimated = pool_targets(data, targets(data, "gain"), x, "alike")
    print(describe(estimated))

`python -m utils.report.denoised RUNS` shows what finished runs with --target_pooling have estimated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from .data import RoutingData

POOLINGS = ("question", "alike")  # what a pooled target is an estimate of
UNKNOWN_NOISE: dict[str, float | None] = {"level": None, "differences": None}
ROWS = 256  # whose neighbours are sorted at once: bounds memory, changes nothing
MOST_ATTEMPTS = 100  # scores that are shares of no smaller number have no known number of answers


def attempts(scores: np.ndarray) -> int | None:
    """The least number of answers of which all scores (N, T), float32, are shares; None if above MOST_ATTEMPTS."""
    for count in range(1, MOST_ATTEMPTS + 1):
        right = scores * np.float64(count)
        if np.abs(right - right.round()).max() <= count * np.finfo(np.float32).eps:
            return count
    return None


def sampling_variance(scores: np.ndarray, kind: str) -> np.ndarray | None:
    """Unbiased estimate (N, T) of the variance of each score, a share of n >= 2 answers; None where it cannot be told.

    That is so for one deterministic answer (`kind` "probability", or scores of 0 and 1 alone).
    """
    count = attempts(scores) if kind == "multi_attempt" else None
    if count is None or count < 2:
        return None
    share = scores.astype(np.float64)
    return share * (1 - share) / (count - 1)


def neighbour_means(x: np.ndarray, y: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Mean y of the k other rows nearest to each row by cosine, for each k of `counts`, 1 <= k < N.

    x: (N, p). y: (N, T). Of equally near rows the first are taken. Returns: (len(counts), N, T).
    """
    x = x.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = x / np.where(length > 0, length, 1)
    means = np.empty((len(counts), *y.shape))
    for start in range(0, len(x), ROWS):
        rows = np.arange(start, min(start + ROWS, len(x)))
        similarity = x[rows] @ x.T  # (n, N)
        similarity[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : max(counts)]  # (n, K)
        sums = y[nearest].cumsum(axis=1)  # (n, K, T)
        for number, count in enumerate(counts):
            means[number, rows] = sums[:, count - 1] / count
    return means


def other_means(y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean y (N, T) of the other rows of each row's group (N,), and their number (N,); of all others if it is alone."""
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((group.max() + 1, y.shape[1]))
    np.add.at(sums, group, y)
    others = np.bincount(group)[group] - 1
    alone = others == 0
    total = np.where(alone[:, None], y.sum(axis=0), sums[group])
    others = np.where(alone, len(y) - 1, others)
    return (total - y) / others[:, None], others


def stack(sources: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights (J,), none negative, with sum 1, of the least mean squared error of sum_j weight_j * sources[j] from y.

    sources: (J, N, T). y: (N, T). Let R have the errors as columns. The minimum of |R u|^2 + (1 - sum u)^2 over u >= 0
    is that of |R w|^2 with sum w = 1 up to scale, by the conditions of Kuhn and Tucker. So w = u / sum u is exact.
    """
    errors = (sources - y).reshape(len(sources), -1).T / np.sqrt(y.size)  # (N * T, J)
    triangle = np.linalg.qr(errors, mode="r")  # the same lengths in at most J rows
    system = np.vstack([triangle, np.ones(len(sources))])
    goal = np.zeros(len(system))
    goal[-1] = 1
    weights, _ = nnls(system, goal)
    return weights / weights.sum()


@dataclass(frozen=True)
class Sources:
    """Means of other questions, which N questions may be pooled with.

    names: of J sources, the number of neighbours ("1", "2", "4", ...), "cluster" where there are ids, and "task".
    means: (J, N, T), each without the question itself. sizes: (J, N), of how many questions each mean is.
    """

    names: list[str]
    means: np.ndarray
    sizes: np.ndarray


def sources_of(y: np.ndarray, x: np.ndarray, clusters: np.ndarray | None = None) -> Sources:
    """The sources for N different questions of one task: y (N, T) float64, x (N, p) embeddings, clusters (N,) ids."""
    count = len(y)
    if count == 1:
        return Sources([], np.empty((0, *y.shape)), np.empty((0, 1)))
    counts = [2**power for power in range((count - 1).bit_length())]  # below N
    names = [str(neighbours) for neighbours in counts]
    means = list(neighbour_means(x, y, counts))
    sizes = [np.full(count, neighbours) for neighbours in counts]
    groups = {} if clusters is None else {"cluster": clusters}
    groups["task"] = np.zeros(count, dtype=np.int64)
    for name, ids in groups.items():
        own_means, others = other_means(y, ids)
        names.append(name)
        means.append(own_means)
        sizes.append(others)
    return Sources(names, np.stack(means), np.stack(sizes))


def pool(y: np.ndarray, sources: Sources, noise: float | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Pool the rows of one part of the scores of different questions, with the two steps of this module.

    Args:
        y: (N, T), float64.
        sources: of these rows; the first is the nearest question.
        noise: variance of y by chance, a mean over its cells; None: half the mean squared difference of nearest rows.
    Returns: the pooled rows (N, T), and what was estimated: the mean weights "row", "cluster", "task" and "neighbours"
        (by their number), which add to 1, the leave-one-out "error" and the "noise".
    """
    if not sources.names:
        return y, {"row": 1.0, "neighbours": {}, "cluster": 0.0, "task": 0.0, "error": None, "noise": noise}
    weights = stack(sources.means, y)
    error = float(((y - np.tensordot(weights, sources.means, axes=1)) ** 2).mean())
    if noise is None:
        noise = float(((y - sources.means[0]) ** 2).mean() / 2)
    own = max(0.0, 1 - noise / error) if error else 0.0
    share_in_mean = 1 / (sources.sizes + 1)  # (J, N), the row's share in a mean that it is in
    within = weights @ share_in_mean  # (N,), the row's share in the weighted means
    more = np.maximum(0, (own - within) / (1 - within))  # (N,), what brings the row's share up to `own`
    means_with_row = sources.means + (y - sources.means) * share_in_mean[:, :, None]
    smooth = np.tensordot(weights, means_with_row, axes=1)  # (N, T)
    pooled = (1 - more[:, None]) * smooth + more[:, None] * y

    shares = (weights[:, None] * (1 - share_in_mean) * (1 - more)).mean(axis=1)  # (J,)
    by_source = dict(zip(sources.names, shares.tolist()))
    groups = {name: by_source.pop(name, 0.0) for name in ("cluster", "task")}
    estimated = {
        "row": float(1 - shares.sum()),
        "neighbours": by_source,
        **groups,
        "error": error,
        "noise": float(noise),
    }
    return pooled, estimated


def pool_targets(
    data: RoutingData, values: np.ndarray, x: np.ndarray, pooling: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """Targets of the training rows of one task, pooled as far as these rows say.

    Args:
        data: the N training rows alone; its questions, clusters, scores and kind are used.
        values: (N, T) what the losses would learn from without pooling, of `utils.training_set.targets`.
        x: (N, p) their embeddings by the pre-trained encoder.
        pooling: one of POOLINGS.
    Returns: (N, T) float32, kept in the range of `values`, and {"level": ..., "differences": ...}, see `pool`.
    Raises: ValueError for another pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"--target_pooling is {pooling!r}; it must be none, {' or '.join(POOLINGS)}")
    number_of = {question: number for number, question in enumerate(sorted(set(data.questions)))}
    question = np.array([number_of[text] for text in data.questions])  # (N,) number among the M different questions
    once = group_means(values, question)  # (M, T)
    sources = sources_of(once, group_means(x, question), _clusters_of_questions(data, question))
    noise = _sampling_noise(data, question) if pooling == "question" else UNKNOWN_NOISE

    # (M, 1) and (J, M, 1): means over the LLMs.
    level, level_sources = once.mean(axis=-1, keepdims=True), sources.means.mean(axis=-1, keepdims=True)
    parts = {
        "level": (level, level_sources),
        "differences": (once - level, sources.means - level_sources),
    }
    total, estimated = np.zeros_like(once), {}
    for name, (part, means) in parts.items():
        pooled, estimated[name] = pool(part, replace(sources, means=means), noise[name])
        total += pooled
    targets = total[question]
    return targets.clip(values.min(), values.max()).astype(np.float32), estimated


def _clusters_of_questions(data: RoutingData, question: np.ndarray) -> np.ndarray | None:
    """The cluster of each of M questions; of equal questions with several ids the least. None without clusters.

    question: (N,) the number of each row's question.
    """
    if data.clusters is None:
        return None
    clusters = np.full(question.max() + 1, data.clusters.max())
    np.minimum.at(clusters, question, data.clusters)
    return clusters


def _sampling_noise(data: RoutingData, question: np.ndarray) -> dict[str, float | None]:
    """How much the level and the differences vary by chance if all that is chance is the sampling of answers.

    Of T independent scores: the variance of their mean, and the rest.
    """
    variance = sampling_variance(data.scores, data.kind)
    if variance is None:
        return UNKNOWN_NOISE
    cell, llms = float(group_means(variance, question).mean()), variance.shape[1]
    return {"level": cell / llms, "differences": cell * (1 - 1 / llms)}


def group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Means of the rows of values (N, d) by group (N,), whose ids are 0 to M - 1 -> (M, d) float64."""
    sums = np.zeros((groups.max() + 1, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums / np.bincount(groups)[:, None]


def describe(estimated: dict[str, Any]) -> str:
    """One task's estimate in a line: the weights of each part in %, those of neighbours by their number, too."""
    parts = []
    for name, weights in estimated.items():
        row, cluster, task = (100 * weights[source] for source in ("row", "cluster", "task"))
        by_count = {count: 100 * share for count, share in weights["neighbours"].items()}
        named = ", ".join(f"{share:.0f} of {count}" for count, share in by_count.items() if share >= 0.5)
        neighbours = f"{sum(by_count.values()):.0f} %" + (f" ({named})" if named else "")
        parts.append(f"{name}: row {row:.0f} %, neighbours {neighbours}, cluster {cluster:.0f} %, task {task:.0f} %")
    return "; ".join(parts)
