"""From picks to figures, for one test file: gains and intervals, the ceiling, the learning curve, what repeats."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..report.statistics import RESAMPLES, bootstrap, interval
from .crossval import BEST
from .learners import Constant
from .repeats import answers_of, halves


def _figures(mean: float, draws: np.ndarray) -> dict[str, float]:
    """Mean and 95 % interval, all in %; draws (B,) are in [0, 1]."""
    low, high = interval(draws)
    return {"mean": round(100 * float(mean), 4), "low": round(100 * float(low), 4), "high": round(100 * float(high), 4)}


def gain_of(y: np.ndarray, picks: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> np.ndarray:
    """What picks earn beyond others on each query, mean over seeds: both (seeds, N) columns of y (N, T) -> (N,)."""
    rows = np.arange(len(y))
    gains = []
    for of_seed, others_of_seed in zip(picks, others):
        gains.append(y[rows, np.array(of_seed)] - y[rows, np.array(others_of_seed)])
    return np.mean(gains, axis=0)


def best_of_all_rows(y: np.ndarray, seeds: int) -> list[list[int]]:
    """Picks of the LLM that is best on all rows of y (N, T), (seeds, N)."""
    return [[int(y.mean(axis=0).argmax())] * len(y)] * seeds


def two_gains(
    y: np.ndarray,
    picks: Sequence[Sequence[int]],
    fair: Sequence[Sequence[int]],
    resamples: int,
) -> dict[str, Any]:
    """The gain over `fair`, the picks of the best LLM of the same labels, and over the best LLM of all rows, in points.

    All picks are (seeds, N).
    """
    best = best_of_all_rows(y, len(picks))
    values = np.stack([gain_of(y, picks, fair), gain_of(y, picks, best)], axis=1)  # (N, 2)
    draws = bootstrap([values], resamples)[:, 0]  # (B, 2)
    over_best = _figures(values[:, 1].mean(), draws[:, 1])
    return {**_figures(values[:, 0].mean(), draws[:, 0]), "against_best_of_all_rows": over_best}


def gains_of(y: np.ndarray, runs: Sequence[Mapping[str, Any]], resamples: int = RESAMPLES) -> dict[str, dict[str, Any]]:
    """For each learner in the runs of all seeds: its gain over the best LLM of the same folds, and of all rows.

    The first is the fair one. The second is compared with an LLM that was chosen with the labels of the rows that it
    is scored on. Also the gain of each seed, and which settings were chosen, how often. In points.
    """
    fair = [run["picks"][Constant.name] for run in runs]
    gained = {}
    for name in runs[0]["picks"]:
        picks = [run["picks"][name] for run in runs]
        by_seed = [100 * float(gain_of(y, [mine], [other]).mean()) for mine, other in zip(picks, fair)]
        settings = [setting for run in runs for setting in run["chosen"][name]]
        gained[name] = {
            **two_gains(y, picks, fair, resamples),
            "by_seed": [round(gain, 4) for gain in by_seed],
            "chosen": {setting: settings.count(setting) for setting in sorted(set(settings))},
        }
    return gained


def curve_of(y: np.ndarray, curves: Sequence[Mapping[str, Any]], resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """The gain at each point of the curve: over the best LLM of the same labels, and over the best LLM of all rows.

    curves: of all seeds, what `learning_curve` returns.
    """
    points = []
    for labelled in curves[0]:
        picks = [curve[labelled][BEST] for curve in curves]
        fair = [curve[labelled][Constant.name] for curve in curves]
        points.append({"labelled": labelled, **two_gains(y, picks, fair, resamples)})
    return points


def repeats_of(scores: np.ndarray, resamples: int = RESAMPLES) -> dict[str, Any] | None:
    """What of the oracle's head-room repeats in other answers; None without several answers per query.

    In points over the task's best LLM, and as a share in %: "share" is of the head-room in sample with half of the
    answers, "share_of_oracle" of that with all answers, which is the one that tables quote.
    """
    answers = answers_of(scores)
    if answers is None:
        return None
    expected = halves(scores, answers)
    scores = scores.astype(np.float64)
    best = scores[:, scores.mean(axis=0).argmax()]
    earned = {
        "in_sample": expected.in_sample,
        "repeats": expected.repeats,
        "repeats_ranked": expected.ranked,
        "oracle": scores.max(axis=1),
    }
    values = np.stack(list(earned.values()), axis=1) - best[:, None]  # (N, 4)
    means = dict(zip(earned, values.mean(axis=0)))
    draws = dict(zip(earned, bootstrap([values], resamples)[:, 0].T))  # (B,) of each
    result: dict[str, Any] = {"answers": answers}
    result |= {name: _figures(means[name], draws[name]) for name in earned}
    for share, whole in (("share", "in_sample"), ("share_of_oracle", "oracle")):
        if means[whole] > 0:
            shares = draws["repeats_ranked"] / np.maximum(draws[whole], 1e-12)
            result[share] = _figures(means["repeats_ranked"] / means[whole], shares)
    return result


def summary(y: np.ndarray, llms: Sequence[str], gained: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The task's best LLM, the oracle, the ceiling, and the share of the head-room that is learnable, all in %.

    The ceiling is what the cross-validated picks of the best learner earn: the accuracy of the LLM that is best on
    all rows, plus the gain over that LLM. The gain over the LLM of the same folds must not be added to it: it is the
    gain over a lower figure. The interval is the gain's. A gain below 0 is kept: to cut it off would make the
    estimate too high on average.
    """
    means = 100 * y.mean(axis=0)
    best = int(means.argmax())
    best_accuracy = float(means[best])
    oracle = 100 * float(y.max(axis=1).mean())
    room = oracle - best_accuracy
    gain = gained[BEST]["against_best_of_all_rows"]
    result = {
        "best_llm": llms[best],
        "best_accuracy": round(best_accuracy, 4),
        "oracle": round(oracle, 4),
        "headroom": round(room, 4),
        "ceiling": {
            "accuracy": round(best_accuracy + gain["mean"], 4),
            "low": round(best_accuracy + gain["low"], 4),
            "high": round(best_accuracy + gain["high"], 4),
        },
    }
    if room > 0:
        result["learnable_share"] = {end: round(100 * gain[end] / room, 4) for end in ("mean", "low", "high")}
    return result
