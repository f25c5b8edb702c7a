"""Routing data: read and check the score files, join LLMs by name, hold out a validation split, choose the training rows."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.tasks import KINDS, kind_of, task_of


class DataError(ValueError):
    """A data file is missing or wrong; the message names the file, the row, what was found and what to do."""


@dataclass
class RoutingData:
    """Queries of one task and the score of every LLM on each.

    questions: N strings. scores: (N, T) float32 in [0, 1], columns in the order of `llms`. clusters: (N,) int64, or None
    where the file has none. kind: "probability" or "multi_attempt". sha256: of the file, as read.
    """

    task: str
    kind: str
    questions: list[str]
    scores: np.ndarray
    llms: tuple[str, ...]
    clusters: np.ndarray | None = None
    path: str = ""
    sha256: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.questions)

    def rows(self, index: np.ndarray) -> "RoutingData":
        """The rows of `index` (n,), repeats allowed, as a new object."""
        clusters = None if self.clusters is None else self.clusters[index]
        questions = [self.questions[i] for i in index]
        return RoutingData(self.task, self.kind, questions, self.scores[index], self.llms, clusters, self.path, self.sha256)

    def for_llms(self, llms: Sequence[str]) -> "RoutingData":
        """The same queries with the score columns of `llms`, by name, in their order.

        Raises: DataError for a name that the file has no scores for.
        """
        missing = [name for name in llms if name not in self.llms]
        if missing:
            raise DataError(f"{self.path}: no scores for {', '.join(missing)}; it has {', '.join(self.llms)}")
        columns = [self.llms.index(name) for name in llms]
        return RoutingData(self.task, self.kind, self.questions, self.scores[:, columns], tuple(llms), self.clusters, self.path, self.sha256)


def gains(scores: np.ndarray, kind: str) -> np.ndarray:
    """What a pick earns, in [0, 1]: scores (N, T) -> (N, T). Right or wrong (score > 0) for "probability", else the score."""
    return (scores > 0).astype(np.float32) if kind == "probability" else scores


def load(path: str | Path, kind: str | None = None, need_clusters: bool = False, flag: str = "--test_data_type") -> RoutingData:
    """Read one JSON file of `{"question", "scores", "cluster_id"}` rows and check every row.

    Args:
        path: the file; its name gives the task (`utils.tasks.task_of`).
        kind: score kind; by default what the task has in the paper, else an error.
        need_clusters: every row must have an integer cluster_id.
        flag: the flag that gives the kind, for errors.
    Raises: DataError that names file and row.
    """
    path, fail = Path(path), None
    if not path.is_file():
        raise DataError(f"{path}: no such file. `python -m utils.download` fetches the released data; --data_paths and --test_data_paths name your own")
    raw = path.read_bytes()
    try:
        rows = json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}). Is it truncated? `python -m utils.download --check` verifies released files") from None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: expected a list of at least one row, found {'an empty list' if rows == [] else type(rows).__name__}")
    task = task_of(path)
    kind = kind or kind_of(task)
    if kind not in KINDS:
        found = f"{path}: the task {task!r} is none of the paper's" if kind is None else f"{path}: {kind!r} is no score kind"
        raise DataError(f"{found}; give its kind with {flag}: {' or '.join(KINDS)}")

    llms: tuple[str, ...] = ()
    scores = np.empty((len(rows), 0), dtype=np.float32)
    for number, row in enumerate(rows):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object, found {type(row).__name__}")
        question, found = row.get("question"), row.get("scores")
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"{where}: 'question' must be a non-empty string, found {question!r}")
        if not isinstance(found, dict) or not found:
            raise DataError(f"{where}: 'scores' must map each LLM to its score, found {found!r}")
        if number == 0:
            llms = tuple(found)
            scores = np.empty((len(rows), len(llms)), dtype=np.float32)
        if found.keys() != set(llms):
            raise DataError(f"{where}: scores are for other LLMs than in row 0{_difference(llms, found)}")
        for column, llm in enumerate(llms):
            value = found[llm]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
                raise DataError(f"{where}: the score of {llm} must be a number in [0, 1], found {value!r}")
            scores[number, column] = value
        if need_clusters and (isinstance(row.get("cluster_id"), bool) or not isinstance(row.get("cluster_id"), int)):
            raise DataError(
                f"{where}: 'cluster_id' must be an integer, found {row.get('cluster_id')!r}. The sample-sample loss needs it: "
                "use the files of split2_model7_cluster, or --cluster_loss_weight 0 (and --target_groups task)"
            )
    clusters = None
    if all(isinstance(row.get("cluster_id"), int) for row in rows):
        clusters = np.array([row["cluster_id"] for row in rows], dtype=np.int64)
    return RoutingData(task, kind, [row["question"] for row in rows], scores, llms, clusters, str(path), hashlib.sha256(raw).hexdigest())


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    missing, extra = [n for n in expected if n not in found], [n for n in found if n not in expected]
    return (f"; missing: {', '.join(missing)}" if missing else "") + (f"; unexpected: {', '.join(extra)}" if extra else "")


def load_all(paths: Sequence[str], kinds: Sequence[str] | None, names: tuple[str, str], need_clusters: bool = False) -> list[RoutingData]:
    """Read several files that must have scores for the same LLMs; columns are brought to the order of the first file.

    `names` are the two flags that gave `paths` and `kinds`, for errors.
    Raises: DataError, also for lists of different lengths or a task that occurs twice.
    """
    if kinds and len(kinds) != len(paths):
        raise DataError(f"{names[0]} names {len(paths)} files and {names[1]} {len(kinds)} kinds; give one kind for each file")
    loaded = [load(path, kind, need_clusters, names[1]) for path, kind in zip(paths, kinds or [None] * len(paths))]
    for data in loaded[1:]:
        if set(data.llms) != set(loaded[0].llms):
            raise DataError(f"{data.path}: scores are for other LLMs than in {loaded[0].path}{_difference(loaded[0].llms, data.llms)}")
    tasks = [data.task for data in loaded]
    for task in tasks:
        if tasks.count(task) > 1:
            raise DataError(f"{names[0]}: two files are for the task {task!r}; give each task's file once")
    return [data.for_llms(loaded[0].llms) for data in loaded]


def split_validation(data: RoutingData, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (indices) for training and for validation, in file order; equal questions stay on one side.

    Args:
        fraction: share of the distinct questions that is held out, 0 <= fraction < 1; above 0 at least one.
        seed: of the draw. It does not depend on the other files.
    Raises: ValueError if fraction is out of range or would leave nothing to train on.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"--validation_fraction is {fraction}; it must be at least 0 and below 1")
    first: dict[str, int] = {}
    group = np.array([first.setdefault(question, len(first)) for question in data.questions])
    held = max(1, round(fraction * len(first))) if fraction else 0
    if held >= len(first):
        raise ValueError(f"{data.path}: {len(first)} distinct questions cannot be split with --validation_fraction {fraction}")
    chosen = np.isin(group, np.random.default_rng(seed).permutation(len(first))[:held])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def training_rows(index: np.ndarray, count: int) -> np.ndarray:
    """The first `count` rows of `index`, repeated from its start where there are fewer (as in the paper); 0 takes each row once."""
    return np.resize(index, count) if count else index


def targets(data: RoutingData, kind: str = "score") -> np.ndarray:
    """What the losses learn from, (N, T): the scores of the paper ("score"), or what a pick earns ("gain")."""
    return gains(data.scores, data.kind) if kind == "gain" else data.scores


def shrink(values: np.ndarray, groups: np.ndarray, amount: float) -> np.ndarray:
    """Move each row of values (N, T) towards the mean of its group (N,): (1 - amount) * row + amount * mean.

    Averages the chance out of single scores (ten samples, four options); 0 is the paper, 1 leaves the group's mean alone.
    Raises: ValueError if amount is outside [0, 1].
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"--target_shrinkage is {amount}; it must be from 0 to 1")
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((group.max() + 1, values.shape[1]))
    np.add.at(sums, group, values)
    means = sums / np.bincount(group)[:, None]
    return ((1 - amount) * values + amount * means[group]).astype(np.float32)
