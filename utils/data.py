"""Routing data: read and check the score files, and join LLMs by name."""

import math
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .columns import Folder, Memory, Numbers
from .config import DataConfig
from .files import locked
from .formats import Block, DataError, check_question, is_id, is_large, open_data, read_parts, sha256_of, shown
from .reading import cut, reading
from .tasks import KINDS, kind_of, task_of
from .texts import Texts, digests_of, numbers, question_numbers, take


@dataclass
class RoutingData:
    """Queries of one task and the score of every LLM on each.

    kind: "probability" or "multi_attempt".
    questions: N strings; a list, or `Texts` of a large file.
    scores: (N, T) float32 in [0, 1], columns in the order of `llms`.
    clusters: (N,) int64, or None where the file has none.
    sha256: of the file, as read.
    costs: (N, T) float64, what each LLM's answer costs in US dollars, or None.
    left_out: how many rows of the file are not here, see `load`.
    embeddings: (N, p) float32 where the file (.npz) has them in place of text; `questions` then names each by its
        content.
    whole: N strings, the questions before they were cut; None where they are whole.
    """

    task: str
    kind: str
    questions: Sequence[str]
    scores: np.ndarray
    llms: tuple[str, ...]
    clusters: np.ndarray | None = None
    path: str = ""
    sha256: str = field(default="", compare=False)
    costs: np.ndarray | None = None
    left_out: int = 0
    embeddings: np.ndarray | None = None
    whole: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def inputs(self) -> Sequence[str] | np.ndarray:
        """What an encoder gets: the questions, or the embeddings where there is no text."""
        return self.questions if self.embeddings is None else self.embeddings

    @property
    def identity(self) -> Sequence[str]:
        """What tells two queries apart: the whole questions, since those of a task may begin alike."""
        return self.questions if self.whole is None else self.whole

    def rows(self, index: np.ndarray) -> "RoutingData":
        """The rows of `index` (n,), repeats allowed, as a new object."""
        chosen = {}
        for name in ("scores", "costs", "clusters", "embeddings"):
            values = getattr(self, name)
            chosen[name] = None if values is None else values[index]
        whole = None if self.whole is None else take(self.whole, index)
        return replace(self, questions=take(self.questions, index), whole=whole, **chosen)

    def for_llms(self, llms: Sequence[str]) -> "RoutingData":
        """The same queries with the columns of `llms`, by name, in their order.

        Raises: DataError for a name that the file has no scores for.
        """
        if tuple(llms) == self.llms:
            return self
        missing = [name for name in llms if name not in self.llms]
        if missing:
            raise DataError(f"{self.path}: no scores for {', '.join(missing)}; it has {', '.join(self.llms)}")
        columns = [self.llms.index(name) for name in llms]
        costs = None if self.costs is None else self.costs[:, columns]
        return replace(self, scores=self.scores[:, columns], llms=tuple(llms), costs=costs)


def gains(scores: np.ndarray, kind: str) -> np.ndarray:
    """What a pick earns, in [0, 1]: scores (N, T) -> (N, T).

    For "probability" it is right or wrong (score > 0), else the score.
    """
    return (scores > 0).astype(np.float32) if kind == "probability" else scores


def net(values: np.ndarray, data: RoutingData, cost_rate: float) -> np.ndarray:
    """values - cost_rate * cost, (N, T): the one place where a cost is charged.

    cost_rate is in score points per US dollar.
    Raises: DataError if there is a rate and the file has no costs.
    """
    if not cost_rate:
        return values
    if data.costs is None:
        raise DataError(
            f"{data.path}: --cost_rate {cost_rate:g} needs the cost of every answer, and the file has none; "
            "add costs (datasets/README.md), or --cost_rate 0"
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
    cache: Path | None = None,
) -> RoutingData:
    """Read one file of `{"question", "scores", "costs", "cluster_id"}` rows and check every row.

    Args:
        path: the file, .json, .jsonl, .csv, .parquet or .npz (datasets/README.md): its suffix gives the format, its
            name the task (`utils.tasks.task_of`).
        kind: score kind; by default what the task has in the paper, else an error.
        need_clusters: every row must have an integer cluster_id.
        flag: the flag that gives the kind, for errors.
        missing: what an empty score, or an empty cost in a file with costs, is: an "error", or a reason to "drop" its
            row. What is dropped is counted on stderr.
        characters: keep that many of each question; None keeps all.
        keep: one of ENDS. RouterBench's prompts begin with examples that may be the same for a whole task, and the
            question comes last. The released code keeps the first characters.
        cache: folder in which the columns of a large file (`utils.formats.is_large`) are kept, to be mapped into
            memory; or None: they are in memory.
    Raises: DataError that names file and row.
    """
    path = Path(path)
    with open_data(path) as file:
        task = task_of(path)
        kind = _checked_kind(path, task, kind or kind_of(task), flag)
        sha256 = sha256_of(file)
        if cache is not None and is_large(path, file):
            columns = _kept_columns(path, file, sha256, need_clusters, missing, Path(cache))
        else:
            columns = _Columns(path, need_clusters, missing)
            columns.read(file)
    whole = columns.questions.all()
    data = RoutingData(
        task=task,
        kind=kind,
        questions=_cut_all(whole, characters, keep),
        scores=columns.table(columns.scores),
        llms=columns.llms,
        clusters=None if columns.clusters is None else columns.clusters.table(None),
        path=str(path),
        sha256=sha256,
        costs=None if columns.costs is None else columns.table(columns.costs),
        embeddings=None if columns.embeddings is None else columns.embeddings.table(columns.dimensions),
        whole=whole if characters else None,
    )
    return _without_gaps(data)


def _cut_all(questions: Sequence[str], characters: int | None, keep: str) -> Sequence[str]:
    """The `characters` of every question, see `cut`; what is whole is given back as it is."""
    if not characters:
        return questions
    if isinstance(questions, Texts):
        return questions.cut(characters, keep)
    return [cut(question, characters, keep) for question in questions]


def _kept_columns(
    path: Path, file: BinaryIO, sha256: str, need_clusters: bool, missing: str, cache: Path
) -> "_Columns":
    """The columns of a large file, mapped from a folder of the cache that is named by its content.

    They are read from the file if they are not there, or if clusters are needed and not there: that is the error.
    Another process that wants the same file waits.
    """
    folder = cache / f"data-{sha256[:32]}-{path.suffix.lower()[1:]}-{missing}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        columns = _Columns(path, need_clusters, missing, Folder(folder))
        if columns.restore() and not (need_clusters and columns.clusters is None):
            return columns
        columns = _Columns(path, need_clusters, missing, Folder(folder))
        try:
            columns.read(file)
            columns.save()
        except BaseException:
            shutil.rmtree(folder)
            raise
    return columns


class _Columns:
    """The rows of a file as columns: each row is checked, added and left behind.

    scores: as many numbers as LLMs for each row, end to end. costs: likewise, NaN where a row has none; None while no
    row has any. clusters: the id of each row; None as soon as one has none. NaN is a gap, see `_without_gaps`.
    embeddings: `dimensions` numbers for each row, or None for text. place: where columns are made.
    """

    def __init__(self, path: Path, need_clusters: bool, missing: str, place: Memory | None = None):
        self.path, self.need_clusters, self.missing = path, need_clusters, missing
        self.place = place or Memory()
        self.number = 0  # of the row that is read
        self.llms: tuple[str, ...] = ()
        self.names: set[str] = set()  # of the LLMs
        self.questions = self.scores = self.clusters = self.costs = self.embeddings = None
        self.dimensions = 0

    def read(self, file: BinaryIO) -> None:
        """Read all rows. Raises: DataError that names the file and the row."""
        self.questions, self.scores = self.place.texts(), self.place.numbers("scores", "f")
        self.clusters = self.place.numbers("clusters", "q")
        for part in read_parts(self.path, file):
            if isinstance(part, Block):
                self.add_block(part)
            else:
                check_question(self.path, self.number, part)
                self.add(part)

    def add_block(self, block: Block) -> None:
        """Add some rows at once if they are as they must be; else one by one, so that the bad one is named."""
        if not self._is_good(block):
            for row in block.rows(True):
                check_question(self.path, self.number, row)
                self.add(row)
            return
        if not self.llms:
            self._check_llms(dict.fromkeys(block.llms))
        if block.costs is not None and self.costs is None:
            self.costs = self.place.numbers("costs", "d")
        self.scores.add_array(block.scores)
        if block.costs is not None:
            self.costs.add_array(block.costs)
        if block.clusters is None:
            self.clusters = None
        elif self.clusters is not None:
            self.clusters.add_array(block.clusters)
        if block.embeddings is not None:
            self._add_embeddings(block.embeddings)
        self.questions.add(block.questions)
        self.number += len(block.questions)

    def _is_good(self, block: Block) -> bool:
        """Whether all rows of a block would be added without an error or a gap."""
        have_costs = block.costs is not None
        if block.scores is None or not block.llms or (self.number and have_costs != (self.costs is not None)):
            return False
        if self.need_clusters and block.clusters is None:
            return False
        if not all(isinstance(question, str) and question.strip() for question in block.questions):
            return False
        costs_are_good = not have_costs or bool(((block.costs >= 0) & (block.costs <= sys.float_info.max)).all())
        return costs_are_good and bool(((block.scores >= 0) & (block.scores <= 1)).all())

    def _add_embeddings(self, vectors: np.ndarray) -> None:
        """Add embeddings (n, p)."""
        if self.embeddings is None:
            self.embeddings, self.dimensions = self.place.numbers("embeddings", "f"), vectors.shape[1]
        self.embeddings.add_array(vectors)

    def save(self) -> None:
        """Keep the columns, which are those of a `Folder`, for the next run."""
        names = [name for name in ("clusters", "costs", "embeddings") if getattr(self, name) is not None]
        self.place.save({"llms": self.llms, "dimensions": self.dimensions, "columns": names})

    def restore(self) -> bool:
        """Take the columns that an earlier run kept; whether they were there."""
        noted = self.place.read()
        if noted is None:
            return False
        about = noted["about"]
        self.llms, self.dimensions = tuple(about["llms"]), about["dimensions"]
        self.questions, self.scores = self.place.kept_texts(noted), self.place.kept_numbers(noted, "scores")
        for name in about["columns"]:
            setattr(self, name, self.place.kept_numbers(noted, name))
        return True

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row. Raises: DataError that names it, for what it lacks or what is wrong."""
        scores = row.get("scores")
        in_known_order = scores and isinstance(scores, dict) and tuple(scores) == self.llms
        if not in_known_order:
            self._check_llms(scores)
        self.scores.add(self._numbers(scores, "score", 1))
        if self.costs is not None or row.get("costs") is not None:
            self._add_costs(row)
        cluster = row.get("cluster_id")
        if self.need_clusters and not is_id(cluster):
            raise self._no_cluster(cluster)
        if self.clusters is not None and is_id(cluster):
            self.clusters.add([cluster])
        else:
            self.clusters = None
        if isinstance(row.get("embedding"), np.ndarray):  # all rows of a file have one, or none
            self._add_embeddings(row["embedding"][None])
        self.questions.add([row["question"]])
        self.number += 1

    def table(self, values: Numbers) -> np.ndarray:
        """The values as (N, T)."""
        return values.table(len(self.llms))

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self.path}, row {self.number}: {problem}")

    def _check_llms(self, scores: Any) -> None:
        """Raise DataError unless a row has scores for the LLMs of row 0, which all have names."""
        if not isinstance(scores, dict) or not scores:
            raise self._error(f"'scores' must map each LLM to its score, found {shown(scores)}")
        if not self.llms:
            self.llms, self.names = tuple(scores), set(scores)
            if not all(map(str.strip, scores)):
                raise self._error(f"an LLM has an empty name; the names are {', '.join(map(repr, scores))}")
        if scores.keys() != self.names:
            raise self._error(f"scores are for other LLMs than in row 0{_difference(self.llms, scores)}")

    def _add_costs(self, row: Mapping[str, Any]) -> None:
        """Add the costs of a row, a gap for every LLM where it has none; so have all rows before the first costs."""
        if self.costs is None:
            self.costs = self.place.numbers("costs", "d")
            number = self.number
            for self.number in range(number):
                self._add_costs({})
            self.number = number
        prices = row.get("costs") or dict.fromkeys(self.llms)
        if not isinstance(prices, dict) or prices.keys() != self.names:
            raise self._error(
                f"'costs' must map each LLM with a score to its cost in US dollars, found {shown(prices)}"
            )
        self.costs.add(self._numbers(prices, "cost", sys.float_info.max))

    def _numbers(self, values: Mapping[str, Any], what: str, most: float) -> list[float]:
        """The values of all LLMs, from 0 to `most`; NaN for None where rows with a gap will be dropped."""
        numbers = list(map(values.__getitem__, self.llms))
        for place, value in enumerate(numbers):
            if type(value) in (float, int) and 0 <= value <= most:
                continue
            if value is not None or self.missing != "drop":
                expected = "a number in [0, 1]" if what == "score" else "a number of US dollars, at least 0"
                remedy = ". --missing_cells drop leaves such rows out and counts them" if value is None else ""
                raise self._error(f"the {what} of {self.llms[place]} must be {expected}, found {shown(value)}{remedy}")
            numbers[place] = math.nan
        return numbers

    def _no_cluster(self, cluster: Any) -> DataError:
        size = " of 64 bits" if isinstance(cluster, int) else ""
        return self._error(
            f"'cluster_id' must be an integer{size}, found {shown(cluster)}. The sample-sample loss needs it: make "
            "ids with `python -m utils.clustering`, or contrast by task: --missing_clusters task, "
            "or --cluster_loss_weight 0 --sample_loss_weight 1 (with --target_groups task)"
        )


def _checked_kind(path: Path, task: str, kind: str | None, flag: str) -> str:
    """The score kind. Raises: DataError if there is none, or it is none."""
    if kind in KINDS:
        return kind
    problem = f"the task {task!r} is none of the paper's" if kind is None else f"{kind!r} is no score kind"
    raise DataError(f"{path}: {problem}; give its kind with {flag}: {' or '.join(KINDS)}")


def _without_gaps(data: RoutingData) -> RoutingData:
    """The rows without gaps (NaN); what is left out is counted on stderr.

    Raises: DataError if nothing is left.
    """
    has_gap = np.isnan(data.scores.sum(axis=1))  # without a table of its own for each cell
    if data.costs is not None:
        with np.errstate(over="ignore"):
            has_gap |= np.isnan(data.costs.sum(axis=1))
    if not has_gap.any():
        return data
    gaps = {"scores": np.isnan(data.scores)}
    if data.costs is not None:
        gaps["costs"] = np.isnan(data.costs)
    counts = [f"{gap.sum()} {name} in {gap.any(axis=1).sum()} rows" for name, gap in gaps.items()]
    summary = (
        f"{data.path}: {has_gap.sum()} of {len(data)} rows left out (--missing_cells drop), empty cells: "
        f"{', '.join(counts)}"
    )
    if has_gap.all():
        raise DataError(f"{summary}; no row is left")
    print(summary, file=sys.stderr)
    return replace(data.rows(np.flatnonzero(~has_gap)), left_out=int(has_gap.sum()))


def reading_of(config: DataConfig) -> dict[str, Any]:
    """The options of `load` that a configuration holds."""
    return reading({name: getattr(config, name) for name in ("missing_cells", "max_characters", "keep_characters")})


def _difference(expected: Sequence[str], names: Sequence[str]) -> str:
    """Which names are missing and which are unexpected, to be put behind an error."""
    missing = [name for name in expected if name not in names]
    unexpected = [name for name in names if name not in expected]
    words = f"; missing: {', '.join(missing)}" if missing else ""
    return words + (f"; unexpected: {', '.join(unexpected)}" if unexpected else "")


def load_all(
    paths: Sequence[str],
    kinds: Sequence[str] | None,
    names: tuple[str, str],
    need_clusters: bool = False,
    **options: Any,
) -> list[RoutingData]:
    """Read several files that must have scores for the same LLMs; columns are brought to the order of the first file.

    Args:
        kinds: the score kind of each file, or one for all; None: that of each file's task.
        names: the two flags that gave `paths` and `kinds`, for errors.
        need_clusters, options: as for `load`.
    Raises: DataError, also for lists of different lengths or a task that occurs twice.
    """
    kinds = list(kinds or [None])
    kinds = kinds * len(paths) if len(kinds) == 1 else kinds
    if len(kinds) != len(paths):
        raise DataError(
            f"{names[0]} names {len(paths)} files and {names[1]} {len(kinds)} kinds; give one kind for each file"
        )
    loaded = [load(path, kind, need_clusters, names[1], **options) for path, kind in zip(paths, kinds)]
    for data in loaded[1:]:
        if set(data.llms) != set(loaded[0].llms):
            difference = _difference(loaded[0].llms, data.llms)
            raise DataError(f"{data.path}: scores are for other LLMs than in {loaded[0].path}{difference}")
    for data in loaded:
        _note_contradictions(data)
    tasks = [data.task for data in loaded]
    for task in tasks:
        if tasks.count(task) > 1:
            raise DataError(f"{names[0]}: two files are for the task {task!r}; give each task's file once")
    return [data.for_llms(loaded[0].llms) for data in loaded]


def check_choice(data: RoutingData) -> None:
    """Raise DataError if there is one LLM alone."""
    if len(data.llms) == 1:
        raise DataError(f"{data.path}: one LLM alone, {data.llms[0]}; a router chooses among two or more")


def _note_contradictions(data: RoutingData) -> None:
    """Say on stderr how many questions have several rows with different scores. All their rows count."""
    number = question_numbers(data.identity)
    count = number.max() + 1
    if count == len(data):
        return
    first = np.full(count, len(data))
    np.minimum.at(first, number, np.arange(len(data)))
    repeats = np.flatnonzero(first[number] != np.arange(len(data)))
    is_other = (data.scores[repeats] != data.scores[first[number[repeats]]]).any(axis=1)
    contradicted = np.unique(number[repeats[is_other]])
    if len(contradicted):
        print(
            f"note: {data.path}: {len(contradicted)} of its questions stand in several rows with different scores; "
            "each row counts",
            file=sys.stderr,
        )


def embedding_size(files: Sequence[RoutingData]) -> int | None:
    """Dimension of the embeddings that the files have in place of text; None where they have text.

    Raises: DataError that names the first file unlike the others before it.
    """
    sizes = [None if data.embeddings is None else data.embeddings.shape[1] for data in files]
    contents = []
    for data, size in zip(files, sizes):
        content = "text" if size is None else f"embeddings of {size} dimensions"
        contents.append(f"{data.path} has {content}")
    for size, content in zip(sizes, contents):
        if size != sizes[0]:
            raise DataError(f"{content}, and {contents[0]}; all files of a run must be alike")
    return sizes[0]


def check_alike(files: Sequence[RoutingData]) -> None:
    """Raise DataError if some files have text and some embeddings, or embeddings of another size."""
    embedding_size(files)


def load_tests(config: DataConfig, llms: Sequence[str], cache: Path | None = None) -> list[RoutingData]:
    """The test files of a run, for a router of these LLMs, checked before hours are spent on training.

    cache: as for `load`.
    Raises: DataError for bad files, a task that occurs twice, or LLMs that training or another test file has not.
    """
    options = {**reading_of(config), "cache": cache}
    names = ("--test_data_paths", "--test_data_type")
    tests = load_all(config.test_data_paths, config.test_data_type, names, **options)
    if config.final_eval_data_paths:
        names = ("--final_eval_data_paths", "--final_eval_data_type")
        tests += load_all(config.final_eval_data_paths, config.final_eval_data_type, names, **options)
    if config.llms:
        tests = [_with_llms_of(data, config.llms) for data in tests]
    for number, data in enumerate(tests):
        _check_test(data, tests[:number], llms)
    return [data.for_llms([name for name in llms if name in data.llms]) for data in tests]


def _with_llms_of(data: RoutingData, llms: Sequence[str]) -> RoutingData:
    """The file with those of the LLMs that it has. Raises: DataError if it has none of them."""
    return data.for_llms([name for name in llms if name in data.llms] or llms)


def _check_test(data: RoutingData, before: Sequence[RoutingData], llms: Sequence[str]) -> None:
    """Raise DataError unless a test file fits the router's LLMs and the test files before it."""
    if data.task in [other.task for other in before]:
        raise DataError(f"{data.path}: a second test file for the task {data.task!r}; give each task's file once")
    unknown = [name for name in data.llms if name not in llms]
    if unknown:
        raise DataError(
            f"{data.path}: no training file has scores for {', '.join(unknown)}; they have {', '.join(llms)}. "
            "Name your own test files: --test_data_paths, and --final_eval_data_paths with nothing behind it for "
            "no others"
        )
    if before and set(data.llms) != set(before[0].llms):
        raise DataError(
            f"{data.path}: its LLMs are {', '.join(data.llms)}, "
            f"those of {before[0].path} {', '.join(before[0].llms)}; all test files of a run must have the same"
        )


def count_training_questions(tests: Sequence[RoutingData], files: Iterable[RoutingData]) -> dict[str, int]:
    """How many questions of each test file, by its path, stand in the training files. Says so on stderr.

    Whole questions count. Test files with none are left out.
    """
    known = [digests_of(data.identity) for data in files]
    counts = {}
    for data in tests:
        group = numbers(np.concatenate([*known, digests_of(data.identity)]))
        count = len(np.intersect1d(group[: -len(data)], group[-len(data) :]))
        if count:
            counts[data.path] = count
            print(f"note: {data.path}: {count} of its questions stand in the training files, too", file=sys.stderr)
    return counts
