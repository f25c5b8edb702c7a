"""Routing data: read and check the score files, join LLMs by name, hold out a validation split, choose the training rows."""

import argparse
import hashlib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.config import DataConfig
from utils.formats import DataError, read_rows
from utils.tasks import BY_NAME, DATASETS, KINDS, TASKS, TRAIN_ORDER, kind_of, task_of

MISSING = ("error", "drop")  # what to do with a row that lacks a score or a cost
ENDS = ("last", "first")  # which characters of a query are kept


@dataclass
class RoutingData:
    """Queries of one task and the score of every LLM on each.

    questions: N strings. scores: (N, T) float32 in [0, 1], columns in the order of `llms`. clusters: (N,) int64, or None
    where the file has none. kind: "probability" or "multi_attempt". sha256: of the file, as read. costs: (N, T) float64, what
    each LLM's answer costs in US dollars, or None. left_out: rows of the file that are not here, see `load`.
    embeddings: (N, p) float32 where the file (.npz) has them in place of text; `questions` then names each by its content.
    whole: N strings, the questions before they were cut; None where they are whole.
    """

    task: str
    kind: str
    questions: list[str]
    scores: np.ndarray
    llms: tuple[str, ...]
    clusters: np.ndarray | None = None
    path: str = ""
    sha256: str = field(default="", compare=False)
    costs: np.ndarray | None = None
    left_out: int = 0
    embeddings: np.ndarray | None = None
    whole: list[str] | None = None

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def inputs(self) -> list[str] | np.ndarray:
        """What an encoder gets: the questions, or the embeddings where there is no text."""
        return self.questions if self.embeddings is None else self.embeddings

    @property
    def identity(self) -> list[str]:
        """What tells two queries apart: the whole questions, since those of a task may begin alike."""
        return self.questions if self.whole is None else self.whole

    def rows(self, index: np.ndarray) -> "RoutingData":
        """The rows of `index` (n,), repeats allowed, as a new object."""
        part = {
            name: None if (values := getattr(self, name)) is None else values[index]
            for name in ("scores", "costs", "clusters", "embeddings")
        }
        whole = None if self.whole is None else [self.whole[i] for i in index]
        return replace(self, questions=[self.questions[i] for i in index], whole=whole, **part)

    def for_llms(self, llms: Sequence[str]) -> "RoutingData":
        """The same queries with the columns of `llms`, by name, in their order.

        Raises: DataError for a name that the file has no scores for.
        """
        missing = [name for name in llms if name not in self.llms]
        if missing:
            raise DataError(f"{self.path}: no scores for {', '.join(missing)}; it has {', '.join(self.llms)}")
        columns = [self.llms.index(name) for name in llms]
        costs = None if self.costs is None else self.costs[:, columns]
        return replace(self, scores=self.scores[:, columns], llms=tuple(llms), costs=costs)


def gains(scores: np.ndarray, kind: str) -> np.ndarray:
    """What a pick earns, in [0, 1]: scores (N, T) -> (N, T). Right or wrong (score > 0) for "probability", else the score."""
    return (scores > 0).astype(np.float32) if kind == "probability" else scores


def net(values: np.ndarray, data: RoutingData, cost_rate: float) -> np.ndarray:
    """values - cost_rate * cost, (N, T): the one place where a cost is charged. cost_rate is in score points per US dollar.

    Raises: DataError if there is a rate and the file has no costs.
    """
    if not cost_rate:
        return values
    if data.costs is None:
        raise DataError(
            f"{data.path}: --cost_rate {cost_rate:g} needs the cost of every answer, and the file has none; add costs (datasets/README.md), or --cost_rate 0"
        )
    return (values - cost_rate * data.costs).astype(np.float32)


def load(
    path: str | Path,
    kind: str | None = None,
    need_clusters: bool = False,
    flag: str = "--test_data_type",
    missing: str = "error",
    characters: int | None = None,
    keep: str = "last",
) -> RoutingData:
    """Read one file of `{"question", "scores", "costs", "cluster_id"}` rows and check every row. Its suffix gives the format.

    Args:
        path: the file, .json, .jsonl, .csv, .parquet or .npz (datasets/README.md); its name gives the task (`utils.tasks.task_of`).
        kind: score kind; by default what the task has in the paper, else an error.
        need_clusters: every row must have an integer cluster_id.
        flag: the flag that gives the kind, for errors.
        missing: what an empty score, or an empty cost in a file with costs, is: an "error", or a reason to "drop" its row. What
            is dropped is counted on stderr.
        characters: keep that many of each question; None keeps all.
        keep: one of ENDS. RouterBench's prompts begin with examples that may be the same for a whole task, and the
            question comes last. The released code keeps the first characters.
    Raises: DataError that names file and row.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file. `python -m utils.download` fetches the released data (RouterBench: --datasets routerbench); --data_paths and --test_data_paths name your own"
        )
    raw = path.read_bytes()
    rows = read_rows(path, raw)
    if not isinstance(rows, list) or not rows:
        raise DataError(
            f"{path}: expected a list of at least one row, found {'an empty list' if rows == [] else type(rows).__name__}"
        )
    task = task_of(path)
    kind = kind or kind_of(task)
    if kind not in KINDS:
        found = (
            f"{path}: the task {task!r} is none of the paper's"
            if kind is None
            else f"{path}: {kind!r} is no score kind"
        )
        raise DataError(f"{found}; give its kind with {flag}: {' or '.join(KINDS)}")

    llms: tuple[str, ...] = ()
    scores = costs = np.empty((len(rows), 0))
    priced = any(isinstance(row, dict) and row.get("costs") is not None for row in rows)
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
            scores, costs = (np.empty((len(rows), len(llms)), dtype=dtype) for dtype in (np.float32, np.float64))
        if found.keys() != set(llms):
            raise DataError(f"{where}: scores are for other LLMs than in row 0{_difference(llms, found)}")
        scores[number] = _numbers(found, llms, "score", 1, where, missing)
        if priced:
            prices = row.get("costs") or dict.fromkeys(llms)
            if not isinstance(prices, dict) or prices.keys() != set(llms):
                raise DataError(
                    f"{where}: 'costs' must map each LLM with a score to its cost in US dollars, found {prices!r}"
                )
            costs[number] = _numbers(prices, llms, "cost", math.inf, where, missing)
        if need_clusters and (isinstance(row.get("cluster_id"), bool) or not isinstance(row.get("cluster_id"), int)):
            raise DataError(
                f"{where}: 'cluster_id' must be an integer, found {row.get('cluster_id')!r}. The sample-sample loss needs it: "
                "make ids with `python -m utils.clustering`, or contrast by task: --cluster_loss_weight 0 --sample_loss_weight 1 (with --target_groups task)"
            )
    clusters = None
    if all(isinstance(row.get("cluster_id"), int) for row in rows):
        clusters = np.array([row["cluster_id"] for row in rows], dtype=np.int64)
    whole = [row["question"] for row in rows]
    questions = [cut(question, characters, keep) for question in whole]
    sha256 = hashlib.sha256(raw).hexdigest()
    data = RoutingData(task, kind, questions, scores, llms, clusters, str(path), sha256, costs if priced else None)
    data.whole = whole if characters else None
    if all(isinstance(row.get("embedding"), np.ndarray) for row in rows):
        data.embeddings = np.stack([row["embedding"] for row in rows])
    return _whole(data)


def _numbers(
    found: Mapping[str, Any], llms: Sequence[str], what: str, most: float, where: str, missing: str
) -> list[float]:
    """The values of `llms`, from 0 to `most`; NaN for None where rows with a gap will be dropped."""
    for llm in llms:
        value = found[llm]
        if value is None and missing == "drop":
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
            or not 0 <= value <= most
        ):
            expected = "a number in [0, 1]" if what == "score" else "a number of US dollars, at least 0"
            remedy = ". --missing_cells drop leaves such rows out and counts them" if value is None else ""
            raise DataError(f"{where}: the {what} of {llm} must be {expected}, found {value!r}{remedy}")
    return [math.nan if found[llm] is None else found[llm] for llm in llms]


def _whole(data: RoutingData) -> RoutingData:
    """The rows without gaps (NaN); what is left out is counted on stderr.

    Raises: DataError if nothing is left.
    """
    gaps = {"scores": np.isnan(data.scores)} | ({} if data.costs is None else {"costs": np.isnan(data.costs)})
    kept = np.flatnonzero(~np.concatenate(list(gaps.values()), axis=1).any(axis=1))
    if len(kept) == len(data):
        return data
    counts = (
        f"{data.path}: {len(data) - len(kept)} of {len(data)} rows left out (--missing_cells drop), empty cells: "
        + ", ".join(f"{gap.sum()} {name} in {gap.any(axis=1).sum()} rows" for name, gap in gaps.items())
    )
    if not len(kept):
        raise DataError(f"{counts}; no row is left")
    print(counts, file=sys.stderr)
    return replace(data.rows(kept), left_out=len(data) - len(kept))


def cut(question: str, characters: int | None, keep: str = "last") -> str:
    """The `characters` of a question at one of its ENDS; None or 0 keeps all."""
    if not characters:
        return question
    return question[:characters] if keep == "first" else question[-characters:]


def reading(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `load` that a run's settings hold; where a run is older than an option, its default."""
    return {
        "missing": settings.get("missing_cells", "error"),
        "characters": settings.get("max_characters"),
        "keep": settings.get("keep_characters", "last"),
    }


def reading_of(config: DataConfig) -> dict[str, Any]:
    """The options of `load` that a configuration holds."""
    return reading({name: getattr(config, name) for name in ("missing_cells", "max_characters", "keep_characters")})


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    missing, extra = [n for n in expected if n not in found], [n for n in found if n not in expected]
    return (f"; missing: {', '.join(missing)}" if missing else "") + (
        f"; unexpected: {', '.join(extra)}" if extra else ""
    )


def load_all(
    paths: Sequence[str],
    kinds: Sequence[str] | None,
    names: tuple[str, str],
    need_clusters: bool = False,
    **options: Any,
) -> list[RoutingData]:
    """Read several files that must have scores for the same LLMs; columns are brought to the order of the first file.

    `names` are the two flags that gave `paths` and `kinds`, for errors; `options` go to `load`.
    Raises: DataError, also for lists of different lengths or a task that occurs twice.
    """
    kinds = list(kinds or [None] * len(paths))
    kinds = kinds * len(paths) if len(kinds) == 1 else kinds
    if len(kinds) != len(paths):
        raise DataError(
            f"{names[0]} names {len(paths)} files and {names[1]} {len(kinds)} kinds; give one kind for each file"
        )
    loaded = [load(path, kind, need_clusters, names[1], **options) for path, kind in zip(paths, kinds)]
    for data in loaded[1:]:
        if set(data.llms) != set(loaded[0].llms):
            raise DataError(
                f"{data.path}: scores are for other LLMs than in {loaded[0].path}{_difference(loaded[0].llms, data.llms)}"
            )
    tasks = [data.task for data in loaded]
    for task in tasks:
        if tasks.count(task) > 1:
            raise DataError(f"{names[0]}: two files are for the task {task!r}; give each task's file once")
    return [data.for_llms(loaded[0].llms) for data in loaded]


def embedding_size(files: Sequence[RoutingData]) -> int | None:
    """Dimension of the embeddings that the files have in place of text; None where they have text.

    Raises: DataError that names the first file unlike the others before it.
    """
    sizes = [None if data.embeddings is None else data.embeddings.shape[1] for data in files]
    found = [
        f"{data.path} has {'text' if size is None else f'embeddings of {size} dimensions'}"
        for data, size in zip(files, sizes)
    ]
    for size, what in zip(sizes, found):
        if size != sizes[0]:
            raise DataError(f"{what}, and {found[0]}; all files of a run must be alike")
    return sizes[0]


def add_data_arguments(group: argparse._ArgumentGroup) -> None:
    """The arguments of a command line that name training and test files, and say how to read them."""
    group.add_argument(
        "--dataset",
        choices=DATASETS,
        default="paper",
        help="routerbench: its files, K+ = K- = 4, prompts of 1400 characters, rows with empty cells left out",
    )
    group.add_argument(
        "--data_paths",
        nargs="+",
        default=[BY_NAME[name].train for name in TRAIN_ORDER],
        help="training files, one per task",
    )
    group.add_argument(
        "--data_type",
        nargs="+",
        choices=KINDS,
        help="score kind of each training file; needed for tasks that the paper has not",
    )
    group.add_argument(
        "--test_data_paths",
        nargs="+",
        default=[t.test for t in TASKS if t.in_distribution],
        help="test files, scored once at the end",
    )
    group.add_argument("--test_data_type", nargs="+", choices=KINDS, help="score kind of each test file")
    group.add_argument(
        "--final_eval_data_paths",
        nargs="*",
        default=[t.test for t in TASKS if not t.in_distribution],
        help="more test files (out of distribution)",
    )
    group.add_argument("--final_eval_data_type", nargs="+", choices=KINDS, help="score kind of each of these")
    group.add_argument(
        "--llms",
        nargs="+",
        metavar="LLM",
        help="choose among these LLMs only; default: all that the training files have scores for",
    )
    add_reading_arguments(group)


def add_reading_arguments(group: argparse._ArgumentGroup) -> None:
    """The arguments of a command line that say how to read a file; `reading` hands them to `load`."""
    group.add_argument(
        "--missing_cells",
        choices=MISSING,
        default="error",
        help="a row with an empty score or cost: an error, or left out and counted",
    )
    group.add_argument("--max_characters", type=int, help="keep N characters of a query; default: all")
    group.add_argument("--keep_characters", choices=ENDS, default="last", help="which ones; the released code: first")


def load_tests(args: argparse.Namespace, llms: Sequence[str]) -> list[RoutingData]:
    """The test files that a command line names (its parsed `args`), for a router of these LLMs, checked before hours are spent on training.

    Raises: DataError for bad files, a task that occurs twice, or LLMs that training or another test file has not.
    """
    tests = load_all(
        args.test_data_paths, args.test_data_type, ("--test_data_paths", "--test_data_type"), **reading_of(args)
    )
    if args.final_eval_data_paths:
        tests += load_all(
            args.final_eval_data_paths,
            args.final_eval_data_type,
            ("--final_eval_data_paths", "--final_eval_data_type"),
            **reading_of(args),
        )
    if args.llms:
        tests = [data.for_llms([name for name in args.llms if name in data.llms] or args.llms) for data in tests]
    for number, data in enumerate(tests):
        if data.task in [other.task for other in tests[:number]]:
            raise DataError(f"{data.path}: a second test file for the task {data.task!r}; give each task's file once")
        unknown = [name for name in data.llms if name not in llms]
        if unknown:
            raise DataError(
                f"{data.path}: no training file has scores for {', '.join(unknown)}; they have {', '.join(llms)}. "
                "Name your own test files: --test_data_paths, and --final_eval_data_paths with nothing behind it for no others"
            )
        if set(data.llms) != set(tests[0].llms):
            raise DataError(
                f"{data.path}: its LLMs are {', '.join(data.llms)}, those of {tests[0].path} {', '.join(tests[0].llms)}; all test files of a run must have the same"
            )
    return [data.for_llms([name for name in llms if name in data.llms]) for data in tests]


def trained_on(tests: Sequence[RoutingData], files: Iterable[RoutingData]) -> dict[str, int]:
    """How many questions of each test file, by its path, are in the training `files`. Says so on stderr.

    Whole questions count. Test files with none are left out.
    """
    known: set[str] = set()
    for data in files:
        known.update(data.identity)
    found = {data.path: count for data in tests if (count := len(known.intersection(data.identity)))}
    for path, count in found.items():
        print(f"note: {path}: {count} of its questions stand in the training files, too", file=sys.stderr)
    return found


def split_validation(data: RoutingData, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (indices) for training and for validation, in file order; equal questions (whole ones) stay on one side.

    Args:
        fraction: share of the distinct questions that is held out, 0 <= fraction < 1; above 0 at least one.
        seed: of the draw. It does not depend on the other files.
    Raises: ValueError if fraction is out of range or would leave nothing to train on.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"--validation_fraction is {fraction}; it must be at least 0 and below 1")
    first: dict[str, int] = {}
    group = np.array([first.setdefault(question, len(first)) for question in data.identity])
    held = max(1, round(fraction * len(first))) if fraction else 0
    if held >= len(first):
        raise ValueError(
            f"{data.path}: {len(first)} distinct questions cannot be split with --validation_fraction {fraction}"
        )
    chosen = np.isin(group, np.random.default_rng(seed).permutation(len(first))[:held])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def training_rows(index: np.ndarray, count: int) -> np.ndarray:
    """The first `count` rows of `index`, repeated from its start where there are fewer (as in the paper); 0 takes each row once."""
    return np.resize(index, count) if count else index


def targets(data: RoutingData, kind: str = "score", cost_rate: float = 0.0) -> np.ndarray:
    """What the losses learn from, (N, T): the scores of the paper ("score"), or what a pick earns ("gain"), less the cost's charge."""
    return net(gains(data.scores, data.kind) if kind == "gain" else data.scores, data, cost_rate)


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
