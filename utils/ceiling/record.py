"""From picks to figures: gains with their intervals, the ceiling, the learning curve and what repeats, for one test
file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.ceiling.crossval import BEST
from utils.ceiling.learners import Constant
from utils.ceiling.repeats import answers_of, halves
from utils.report.statistics import RESAMPLES, bootstrap, interval


def _figures(mean: float, draws: np.ndarray) -> dict[str, float]:
    """Mean and 95 % interval, all in %; draws (B,) are in [0, 1]."""
    low, high = interval(draws)
    return {"mean": round(100 * float(mean), 4), "low": round(100 * float(low), 4), "high": round(100 * float(high), 4)}


def gain_of(y: np.ndarray, picks: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> np.ndarray:
    """What picks earn beyond others on each query, mean over seeds: both (seeds, N) columns of y (N, T) -> (N,)."""
    rows = np.arange(len(y))
    return np.mean([y[rows, np.array(mine)] - y[rows, np.array(other)] for mine, other in zip(picks, others)], axis=0)


def gains_of(y: np.ndarray, runs: Sequence[Mapping[str, Any]], resamples: int = RESAMPLES) -> dict[str, dict[str, Any]]:
    """For each learner in the runs of all seeds: its gain over the best LLM of the same training folds, and over the
    best LLM of all rows.

    The first is the fair one. The second is compared with an LLM that was chosen with the labels of the rows that it
    is scored on. Also which settings were chosen, how often. In points.
    """
    best = [[int(y.mean(axis=0).argmax())] * len(y)] * len(runs)
    fair = [run["picks"][Constant.name] for run in runs]
    found = {}
    for name in runs[0]["picks"]:
        picks = [run["picks"][name] for run in runs]
        values = np.stack([gain_of(y, picks, fair), gain_of(y, picks, best)], axis=1)  # (N, 2)
        draws = bootstrap([values], resamples)[:, 0]  # (B, 2)
        settings = [setting for run in runs for setting in run["chosen"][name]]
        found[name] = {
            **_figures(values[:, 0].mean(), draws[:, 0]),
            "against_best_of_all_rows": _figures(values[:, 1].mean(), draws[:, 1]),
            "by_seed": [round(100 * float(gain_of(y, [mine], [other]).mean()), 4) for mine, other in zip(picks, fair)],
            "chosen": {setting: settings.count(setting) for setting in sorted(set(settings))},
        }
    return found


def curve_of(y: np.ndarray, curves: Sequence[Mapping[str, Any]], resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """The gain at each place of the curve: over the best LLM of the same labels, and over the best LLM of all rows.
    In points."""
    best = [[int(y.mean(axis=0).argmax())] * len(y)] * len(curves)
    found = []
    for place in curves[0]:
        picks, fair = ([curve[place][name] for curve in curves] for name in (BEST, Constant.name))
        values = np.stack([gain_of(y, picks, fair), gain_of(y, picks, best)], axis=1)
        draws = bootstrap([values], resamples)[:, 0]
        against = _figures(values[:, 1].mean(), draws[:, 1])
        found.append(
            {"labelled": place, **_figures(values[:, 0].mean(), draws[:, 0]), "against_best_of_all_rows": against}
        )
    return found


def repeats_of(scores: np.ndarray, resamples: int = RESAMPLES) -> dict[str, Any] | None:
    """What of the oracle's head-room repeats in other answers, in points over the task's best LLM, and as a share in
    %; None without several answers.

    "share" is of the head-room in sample with half of the answers, "share_of_oracle" of that with all answers, which
    is the one that tables quote.
    """
    answers = answers_of(scores)
    if answers is None:
        return None
    parts = halves(scores, answers)
    scores = scores.astype(np.float64)
    best = scores[:, scores.mean(axis=0).argmax()]
    columns = (parts.in_sample, parts.repeats, parts.ranked, scores.max(axis=1))
    values = np.stack(columns, axis=1) - best[:, None]  # (N, 4)
    draws = bootstrap([values], resamples)[:, 0]
    means = values.mean(axis=0)
    names = ("in_sample", "repeats", "repeats_ranked", "oracle")
    found: dict[str, Any] = {"answers": answers}
    found |= {name: _figures(means[c], draws[:, c]) for c, name in enumerate(names)}
    for share, of in (("share", 0), ("share_of_oracle", 3)):
        if means[of] > 0:
            found[share] = _figures(means[2] / means[of], draws[:, 2] / np.maximum(draws[:, of], 1e-12))
    return found


def summary(y: np.ndarray, llms: Sequence[str], gained: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The task's best LLM, the oracle, the ceiling with its interval, and the share of the head-room that is
    learnable. In %.

    The ceiling is what the cross-validated picks of the best learner earn: the accuracy of the LLM that is best on
    all rows, plus the gain over that LLM. The gain over the LLM of the same folds must not be added to it: it is the
    gain over a lower figure. The interval is the gain's. A gain below 0 is kept: to cut it off would make the
    estimate too high on average.
    """
    means = 100 * y.mean(axis=0)
    best, oracle = int(means.argmax()), 100 * float(y.max(axis=1).mean())
    gain, room = gained[BEST]["against_best_of_all_rows"], oracle - float(means[best])
    ceiling = {
        end: round(float(means[best]) + gain[name], 4)
        for end, name in (("accuracy", "mean"), ("low", "low"), ("high", "high"))
    }
    found = {
        "best_llm": llms[best],
        "best_accuracy": round(float(means[best]), 4),
        "oracle": round(oracle, 4),
        "headroom": round(room, 4),
        "ceiling": ceiling,
    }
    if room > 0:
        found["learnable_share"] = {end: round(100 * gain[end] / room, 4) for end in ("mean", "low", "high")}
    return found
