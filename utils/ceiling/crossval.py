"""Cross-validated routing inside one task: who is picked for each query by a learner that never saw that query's
labels.

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
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from utils.ceiling.learners import Constant, Labelled, Learner
from utils.data import RoutingData

FOLDS, INNER = 5, Learner.inner
BEST = "best of the learners"
ALL, EXCHANGED = "all", "texts exchanged"  # places of a learning curve, besides numbers of queries


def canonical(data: RoutingData) -> tuple[RoutingData, np.ndarray]:
    """The same data with columns in the order of their names and rows in the order of questions and scores; and each
    row's place before, (N,)."""
    data = data.for_llms(sorted(data.llms))
    keys = [(question, *scores) for question, scores in zip(data.questions, data.scores.tolist())]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    return data.rows(order), order


def ranks(questions: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    """The place (N,) of each question among the distinct ones, in an order drawn by seed and purpose; equal questions
    have one place."""

    def drawn(question: str) -> str:
        return hashlib.sha256(f"{seed} {purpose} {question}".encode("utf-8", "surrogatepass")).hexdigest()

    places = {question: place for place, question in enumerate(sorted(set(questions), key=drawn))}
    return np.array([places[question] for question in questions])


def folds(questions: Sequence[str], seed: int, purpose: str, count: int) -> np.ndarray:
    """The fold (N,), 0 to count - 1, of each question. Folds differ by at most one distinct question."""
    return ranks(questions, seed, purpose) % count


def earned(y: np.ndarray, rows: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """What picks by the best estimate earn on the rows (n,), estimates (settings, n, T) -> sums (settings,)."""
    return y[rows][np.arange(len(rows)), estimates.argmax(axis=2)].sum(axis=1)


def nested(
    data: Labelled, learners: Sequence[Learner], train: np.ndarray, new: np.ndarray, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Picks for the rows `new` from the labels of the rows `train` alone.

    Each learner's setting is the one that earns most in a cross-validation within `train`; so is the learner of BEST,
    with always taking the best LLM among the candidates. Of equals the first counts, and the learners come in order
    of simplicity.
    Returns: {learner or BEST: picks (n,)}, {learner or BEST: the setting that was chosen}.
    """
    questions = [data.questions[row] for row in train]
    part = folds(questions, seed, "inner", INNER)
    picks, chosen, scores = {}, {}, {}
    for learner in (Constant(), *learners):
        total, rows = np.zeros(len(learner.settings)), 0
        for fold in range(learner.inner):
            inside, held = train[part != fold], train[part == fold]
            fixed = earned(data.y, held, Constant().estimates(data, inside, held, seed))
            total += earned(data.y, held, learner.estimates(data, inside, held, seed)) - fixed
            rows += len(held)
        best = int(np.argmax(total.round(9)))
        picks[learner.name] = learner.estimates(data, train, new, seed)[best].argmax(axis=1)
        chosen[learner.name], scores[learner.name] = learner.settings[best], round(float(total[best] / rows), 9)
    winner = max(scores, key=scores.__getitem__)  # the first of equals
    return picks | {BEST: picks[winner]}, chosen | {BEST: winner}


def cross_validated(
    data: Labelled, learners: Sequence[Learner], seed: int, progress: tqdm | None = None
) -> dict[str, Any]:
    """Picks for every query by learners that were fitted on the other folds.

    Returns: {"picks": {learner: [column per query]}, "chosen": {learner: [setting per fold]}}.
    """
    fold = folds(data.questions, seed, "outer", FOLDS)
    picks: dict[str, np.ndarray] = {}
    chosen: dict[str, list[str]] = {}
    for number in range(FOLDS):
        train, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        found, settings = nested(data, learners, train, held, seed)
        for name, columns in found.items():
            picks.setdefault(name, np.zeros(len(fold), dtype=int))[held] = columns
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
    """The picks of BEST and of `Constant`, {place: {name: [column per query]}}: with so many labelled queries, and
    with ALL of the other folds.

    The rows of a smaller size are among those of a larger one. Sizes that the folds have not are left out. EXCHANGED
    is ALL once more with the features of other queries: the gain that the method finds where there is none.
    """
    fold = folds(data.questions, seed, "outer", FOLDS)
    order = ranks(data.questions, seed, "subset")
    least = min(int((fold != number).sum()) for number in range(FOLDS))
    counts = {str(size): size for size in sizes if size < least} | {ALL: None, EXCHANGED: None}
    picks = {place: {name: np.zeros(len(fold), dtype=int) for name in (BEST, Constant.name)} for place in counts}
    empty = exchanged(data, seed)
    for number in range(FOLDS):
        train, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        drawn = train[np.argsort(order[train], kind="stable")]
        for place, count in counts.items():
            found, _ = nested(empty if place == EXCHANGED else data, learners, np.sort(drawn[:count]), held, seed)
            for name, columns in picks[place].items():
                columns[held] = found[name]
        if progress is not None:
            progress.update()
    return {place: {name: columns.tolist() for name, columns in rows.items()} for place, rows in picks.items()}
