"""Cross-validated routing inside one task: the picks of learners that never saw the labels of the query.

What is held out is held out of everything: a fold's labels decide neither the learner's fit, nor its setting, nor
which learner, nor which LLM is the task's best that its picks are compared with. So neither what the picks earn nor
what they earn beyond that LLM is optimistic: both are what this learner gets with four fifths of the labels.

Where two LLMs are nearly equal on a task, four folds prefer the one that happens to be worse on the fifth, so the LLM
of the same folds earns less than either, and a learner that mixes the two seems to gain. Over draws of the queries
that evens out; within one file it need not. So the gain over the LLM that is best on all rows is given, too. That LLM
was chosen with the labels it is scored on, so this second gain is too low, if anything.

The order of rows and columns changes nothing: rows are sorted by question and scores, columns by name, and folds come
from a hash of the question and the seed, so that equal questions stay on one side.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..data import RoutingData
from .learners import Constant, Labelled, Learner

FOLDS, INNER = 5, Learner.inner
BEST = "best of the learners"
ALL, EXCHANGED = "all", "texts exchanged"  # points of a learning curve, besides numbers of queries


def canonical(data: RoutingData) -> tuple[RoutingData, np.ndarray]:
    """The same data with columns in the order of their names and rows in the order of questions and scores.

    Returns: the data, and where each of its rows was before, (N,).
    """
    data = data.for_llms(sorted(data.llms))
    keys = [(question, *scores) for question, scores in zip(data.questions, data.scores.tolist())]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    return data.rows(order), order


def ranks(questions: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    """The rank (N,) of each question among the distinct ones, in an order drawn by seed and purpose.

    Equal questions have the same rank.
    """

    def drawn(question: str) -> str:
        return hashlib.sha256(f"{seed} {purpose} {question}".encode("utf-8", "surrogatepass")).hexdigest()

    rank_of = {question: rank for rank, question in enumerate(sorted(set(questions), key=drawn))}
    return np.array([rank_of[question] for question in questions])


def folds(questions: Sequence[str], seed: int, purpose: str, count: int) -> np.ndarray:
    """The fold (N,), 0 to count - 1, of each question. Folds differ by at most one distinct question."""
    return ranks(questions, seed, purpose) % count


def earned(y: np.ndarray, rows: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """What picks by the best estimate earn on the rows (n,), estimates (settings, n, T) -> sums (settings,)."""
    picks = estimates.argmax(axis=2)
    return y[rows][np.arange(len(rows)), picks].sum(axis=1)


@dataclass(frozen=True)
class InnerGain:
    """What each setting of a learner earns beyond `Constant` on held-out queries.

    total: (settings,), summed over the queries. queries: how many.
    """

    total: np.ndarray
    queries: int


def inner_gain(data: Labelled, learner: Learner, train: np.ndarray, seed: int) -> InnerGain:
    """Cross-validate a learner within the rows `train`, on as many of the INNER folds as it asks for."""
    fold_of = folds([data.questions[row] for row in train], seed, "inner", INNER)
    total, queries = np.zeros(len(learner.settings)), 0
    for fold in range(learner.inner):
        inside, held = train[fold_of != fold], train[fold_of == fold]
        constant = earned(data.y, held, Constant().estimates(data, inside, held, seed))
        total += earned(data.y, held, learner.estimates(data, inside, held, seed)) - constant
        queries += len(held)
    return InnerGain(total, queries)


def nested(
    data: Labelled, learners: Sequence[Learner], train: np.ndarray, new: np.ndarray, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Picks for the rows `new` from the labels of the rows `train` alone.

    Each learner's setting is the one that earns most in a cross-validation within `train`; so is the learner of BEST,
    with always taking the best LLM among the candidates. Of equals the first counts, and the learners come in order
    of simplicity.
    Returns: {learner or BEST: picks (n,)}, {learner or BEST: the setting that was chosen}.
    """
    picks, chosen, scores = {}, {}, {}
    for learner in (Constant(), *learners):
        gain = inner_gain(data, learner, train, seed)
        best = int(np.argmax(gain.total.round(9)))
        picks[learner.name] = learner.estimates(data, train, new, seed)[best].argmax(axis=1)
        chosen[learner.name] = learner.settings[best]
        scores[learner.name] = round(float(gain.total[best] / gain.queries), 9)
    winner = max(scores, key=scores.__getitem__)  # the first of equals
    return picks | {BEST: picks[winner]}, chosen | {BEST: winner}


def cross_validated(
    data: Labelled, learners: Sequence[Learner], seed: int, progress: tqdm | None = None
) -> dict[str, Any]:
    """Picks for every query by learners that were fitted on the other folds.

    Returns: {"picks": {learner: [column per query]}, "chosen": {learner: [setting per fold]}}.
    """
    fold_of = folds(data.questions, seed, "outer", FOLDS)
    picks: dict[str, np.ndarray] = {}
    chosen: dict[str, list[str]] = {}
    for fold in range(FOLDS):
        train, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        picks_of_fold, settings = nested(data, learners, train, held, seed)
        for name, columns in picks_of_fold.items():
            picks.setdefault(name, np.zeros(len(fold_of), dtype=int))[held] = columns
            chosen.setdefault(name, []).append(settings[name])
        if progress is not None:
            progress.update()
    return {"picks": {name: columns.tolist() for name, columns in picks.items()}, "chosen": chosen}


def exchanged(data: Labelled, seed: int) -> Labelled:
    """The same queries with the features of others among them: nothing can be learned from these."""
    order = np.argsort(ranks(data.questions, seed, "exchange"), kind="stable")
    return replace(data, x=data.x[order], surface=data.surface[order])


def learning_curve(
    data: Labelled, learners: Sequence[Learner], sizes: Sequence[int], seed: int, progress: tqdm | None = None
) -> dict[str, dict[str, list[int]]]:
    """The picks of BEST and of `Constant` by the number of labelled queries.

    The rows of a smaller size are among those of a larger one. Sizes that the folds do not have are left out.
    Returns: {point: {name: [column per query]}}. A point is a size as text; ALL rows of the other folds; or EXCHANGED,
        which is ALL once more with the features of other queries: the gain that the method finds where there is none.
    """
    fold_of = folds(data.questions, seed, "outer", FOLDS)
    order = ranks(data.questions, seed, "subset")
    least = min(int((fold_of != fold).sum()) for fold in range(FOLDS))
    counts = {str(size): size for size in sizes if size < least} | {ALL: None, EXCHANGED: None}
    picks: dict[str, dict[str, np.ndarray]] = {}
    for point in counts:
        picks[point] = {name: np.zeros(len(fold_of), dtype=int) for name in (BEST, Constant.name)}
    without_information = exchanged(data, seed)
    for fold in range(FOLDS):
        train, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        drawn = train[np.argsort(order[train], kind="stable")]
        for point, count in counts.items():
            seen = without_information if point == EXCHANGED else data
            picks_of_fold, _ = nested(seen, learners, np.sort(drawn[:count]), held, seed)
            for name, columns in picks[point].items():
                columns[held] = picks_of_fold[name]
        if progress is not None:
            progress.update()
    return {
        point: {name: columns.tolist() for name, columns in picks_of_point.items()}
        for point, picks_of_point in picks.items()
    }
