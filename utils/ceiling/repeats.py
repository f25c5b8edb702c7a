"""The part of the oracle's head-room that repeats, from tasks with several sampled answers per query.

The released score of an LLM on a query is k of M right answers. Answers are drawn alike, so any M / 2 of them are as
good a half as any other: given k, the right answers in a half are hypergeometric. That is exact, with no model of the
answers. All expectations below are over all halves, computed, not drawn.

- in sample: the best LLM of each query in a half, scored on that half. This is an oracle; part of it is luck.
- repeats: the LLM that is best in one half, scored on the other half. Luck does not repeat.

An LLM's expected score p on a query is not known. The mean of max p over queries lies above what repeats, since that
picks from M / 2 answers, and below the oracle in sample, since the maximum of noisy shares is too high.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

MOST_ANSWERS = 100


def answers_of(scores: np.ndarray) -> int | None:
    """How many answers the scores (N, T) are shares of: the smallest even number up to MOST_ANSWERS that fits, or None.

    Scores of 0 and 1 alone are one answer each, which cannot be split.
    """
    if np.isin(scores, (0, 1)).all():
        return None
    for count in range(2, MOST_ANSWERS + 1, 2):
        times = scores.astype(np.float64) * count
        if np.abs(times - times.round()).max() < 1e-3:
            return count
    return None


@dataclass(frozen=True)
class Halves:
    """Expected scores in [0, 1] of each query, (N,): see the module.

    ranked: as `repeats`, but equals in one half go to the LLM that is better on the task.
    """

    in_sample: np.ndarray
    repeats: np.ndarray
    ranked: np.ndarray


def without_each(parts: np.ndarray) -> np.ndarray:
    """The product over the other columns, for each column: (N, T) -> (N, T)."""
    ones = np.ones((len(parts), 1))
    before = np.cumprod(np.concatenate([ones, parts[:, :-1]], axis=1), axis=1)
    after = np.cumprod(np.concatenate([ones, parts[:, :0:-1]], axis=1), axis=1)[:, ::-1]
    return before * after


def halves(scores: np.ndarray, answers: int) -> Halves:
    """Expectations over all ways to split the answers of each LLM into two halves; LLMs are split independently.

    scores: (N, T), shares of `answers`. Equals go to each of them with the same chance: for an LLM at m right answers
    the chance to be taken is the mean of 1 / (1 + C), C of the others being at m and none above. That is the integral
    over z from 0 to 1 of the product over the others of P(below m) + z P(at m), a polynomial, which Gauss-Legendre
    nodes integrate exactly.
    """
    right = np.rint(scores.astype(np.float64) * answers).astype(int)  # (N, T)
    half = answers // 2
    order = np.argsort(-right.mean(axis=0), kind="stable")  # better LLMs first
    right = right[:, order]
    nodes, weights = np.polynomial.legendre.leggauss(right.shape[1] // 2 + 1)
    nodes, weights = (nodes + 1) / 2, weights / 2  # from [-1, 1] to [0, 1]
    ones = np.ones((len(right), 1))
    in_sample, repeats, ranked = np.zeros(len(right)), np.zeros(len(right)), np.zeros(len(right))
    for most in range(half + 1):
        at = hypergeom.pmf(most, answers, right, half)  # (N, T), exactly `most` right answers in the half
        below = hypergeom.cdf(most - 1, answers, right, half)
        other = (right - most) / half  # the score of the other half, given that
        in_sample += most / half * (np.prod(below + at, axis=1) - np.prod(below, axis=1))
        taken = sum(weight * without_each(below + node * at) for node, weight in zip(nodes, weights))
        repeats += (at * taken * other).sum(axis=1)
        better_below = np.cumprod(np.concatenate([ones, below[:, :-1]], axis=1), axis=1)
        not_above = (below + at)[:, :0:-1]  # from the last LLM to the second
        others_not_above = np.cumprod(np.concatenate([ones, not_above], axis=1), axis=1)[:, ::-1]
        ranked += (at * better_below * others_not_above * other).sum(axis=1)
    return Halves(in_sample, repeats, ranked)
