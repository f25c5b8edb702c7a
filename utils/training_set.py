"""The training set: which rows of each file train, which validate, and which targets the router learns from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .config import GIVEN, DataConfig, EncoderConfig, Fidelity, TrainingSetConfig
from .data import DataError, RoutingData, check_choice, embedding_size, gains, load_all, net, reading_of
from .denoise import group_means, pool_targets
from .texts import joined, question_numbers


def split_validation(data: RoutingData, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (indices) for training and for validation, in file order.

    Equal questions are all on one side. Questions that were cut (--max_characters) are compared as a whole.

    Args:
        fraction: share of the distinct questions that is held out, 0 <= fraction < 1; above 0 at least one.
        seed: of the draw, which does not depend on the other files.
    Returns: two arrays of row numbers.
    Raises: ValueError if fraction is out of range or would leave nothing to train on.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"--validation_fraction is {fraction}; it must be at least 0 and below 1")
    group = question_numbers(data.identity)
    count = int(group.max()) + 1
    held = max(1, round(fraction * count)) if fraction else 0
    if held >= count:
        raise ValueError(
            f"{data.path}: {count} distinct questions cannot be split with --validation_fraction {fraction}; "
            "take a file with more, or --validation_fraction 0 --selection last"
        )
    chosen = np.isin(group, np.random.default_rng(seed).permutation(count)[:held])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def training_rows(index: np.ndarray, count: int) -> np.ndarray:
    """The first `count` rows of `index`, repeated from its start where it has fewer, as in the paper.

    A count of 0 takes each row once.
    """
    return np.resize(index, count) if count else index


def targets(data: RoutingData, kind: str = "score", cost_rate: float = 0.0) -> np.ndarray:
    """What the losses learn from, (N, T), less cost_rate * cost.

    kind: "score", the scores, as in the paper; or "gain", what a pick earns, see `utils.data.gains`.
    Raises: DataError if there is a cost rate and the file has no costs.
    """
    values = gains(data.scores, data.kind) if kind == "gain" else data.scores
    return net(values, data, cost_rate)


def shrink(values: np.ndarray, groups: np.ndarray, amount: float) -> np.ndarray:
    """Move each row of values (N, T) towards the mean of its group (N,): (1 - amount) * row + amount * mean.

    A single score has much chance in it (ten sampled answers, or a guess among four options); a mean has less.
    amount: 0 leaves the rows as they are, as in the paper; 1 gives every row the mean of its group.
    Raises: ValueError if amount is outside [0, 1].
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"--target_shrinkage is {amount}; it must be from 0 to 1")
    _, group = np.unique(groups, return_inverse=True)
    return ((1 - amount) * values + amount * group_means(values, group)[group]).astype(np.float32)


@dataclass(frozen=True)
class TaskRows:
    """The rows of one training file.

    data: the file, N rows. train: (n,), the rows that train. held: (m,), the rows that validate. targets: (N, T)
    float32, what the losses learn from; only those of `train` are moved to a mean or pooled.
    """

    data: RoutingData
    train: np.ndarray
    held: np.ndarray
    targets: np.ndarray

    def pooled(self, embedded: np.ndarray, pooling: str) -> tuple["TaskRows", dict[str, Any]]:
        """Pool the targets of the rows that train as far as `utils.denoise.pool_targets` estimates.

        embedded: (N, p), all rows by the pre-trained encoder. pooling: one of `utils.denoise.POOLINGS`.
        Returns: the rows with pooled targets, and what was estimated.
        """
        values = self.targets.copy()
        values[self.train], estimated = pool_targets(
            self.data.rows(self.train), values[self.train], embedded[self.train], pooling
        )
        return replace(self, targets=values), estimated


def load_training_files(data: DataConfig, need_clusters: bool = False, cache: Path | None = None) -> list[RoutingData]:
    """The training files with the columns of --llms. Raises: DataError for bad files, or one LLM alone.

    cache: as for `utils.data.load`.
    """
    options = {**reading_of(data), "cache": cache}
    files = load_all(data.data_paths, data.data_type, ("--data_paths", "--data_type"), need_clusters, **options)
    files = [file.for_llms(data.llms) for file in files] if data.llms else files
    check_choice(files[0])
    return files


def check_encoder_reads(encoder: EncoderConfig, files: Sequence[RoutingData]) -> None:
    """Raise ValueError if the files have embeddings and the encoder reads text, or the other way about."""
    has_embeddings = embedding_size(files) is not None
    if has_embeddings == (encoder.encoder == GIVEN):
        return
    found = "embeddings and no text; use --encoder given" if has_embeddings else "text; name an encoder that reads it"
    raise ValueError(f"--encoder {encoder.encoder}: {files[0].path} has {found}")


def task_rows(
    data: RoutingData, config: TrainingSetConfig, seed: int, validate_on_training: bool = False, refit: bool = False
) -> TaskRows:
    """Split one file and make its targets.

    Args:
        seed: of the split.
        validate_on_training: fidelity train_as_validation: all rows train, and all rows validate.
        refit: all rows train, and those of the split still validate: for a router that was chosen on the split.
    """
    train, held = split_validation(data, config.validation_fraction, seed)
    if validate_on_training:
        train = held = np.arange(len(data))
    if refit:
        train = np.arange(len(data))
    values = targets(data, config.targets, config.cost_rate)
    if config.target_shrinkage:
        values = values.copy()
        groups = data.clusters[train] if config.target_groups == "cluster" else np.zeros(len(train), dtype=np.int64)
        values[train] = shrink(values[train], groups, config.target_shrinkage)  # means of training rows only
    return TaskRows(data, train, held, values)


def _end_to_end(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of all arrays; of a single one the array itself, since it may be large."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def offsets_of(parts: Sequence[TaskRows]) -> np.ndarray:
    """Where each file begins when their rows stand end to end, (number of files,)."""
    return np.cumsum([0, *(len(part.data) for part in parts[:-1])])


@dataclass
class TrainingSet:
    """The rows of all training files end to end, N in all, for the training loop.

    parts: the rows of each file. pool: (M,), the rows of one epoch, repeats included, as numbers among the N.
    clusters: (N,) cluster ids; None where they are not needed, or missing with --missing_clusters task.
    """

    parts: list[TaskRows]
    pool: np.ndarray
    clusters: np.ndarray | None

    @property
    def files(self) -> list[RoutingData]:
        """The training files."""
        return [part.data for part in self.parts]

    @property
    def llms(self) -> tuple[str, ...]:
        """The LLMs to choose among, in the order of the columns."""
        return self.parts[0].data.llms

    @property
    def offsets(self) -> np.ndarray:
        """Where each file begins among the N rows."""
        return offsets_of(self.parts)

    @property
    def inputs(self) -> Sequence[str] | np.ndarray:
        """What the encoder gets for each row: N texts, or embeddings (N, p). Those of a single file are no copy."""
        if self.parts[0].data.embeddings is not None:
            return _end_to_end([part.data.embeddings for part in self.parts])
        return joined([part.data.questions for part in self.parts])

    @property
    def targets(self) -> np.ndarray:
        """What the losses learn from, (N, T) float32."""
        return _end_to_end([part.targets for part in self.parts])

    @property
    def tasks(self) -> np.ndarray:
        """The number of each row's file, (N,)."""
        return np.repeat(np.arange(len(self.parts)), [len(part.data) for part in self.parts])

    @cached_property
    def validation(self) -> list[tuple[RoutingData, np.ndarray]]:
        """For each file its validation rows: as data, and (m,) as numbers among the N rows."""
        return [(part.data.rows(part.held), offset + part.held) for part, offset in zip(self.parts, self.offsets)]

    def pool_targets(self, embedded: np.ndarray, pooling: str) -> dict[str, dict[str, Any]]:
        """Pool the targets of every file, see `TaskRows.pooled`; returns what was estimated, by task.

        embedded: (N, p), all rows by the pre-trained encoder.
        """
        estimated = {}
        for number, (part, offset) in enumerate(zip(self.parts, self.offsets)):
            own = embedded[offset : offset + len(part.data)]
            self.parts[number], estimated[part.data.task] = part.pooled(own, pooling)
        return estimated


def load_training_set(
    data: DataConfig,
    encoder: EncoderConfig,
    config: TrainingSetConfig,
    seed: int,
    need_clusters: bool = False,
    missing_clusters: str = "error",
    validate_on_training: bool = False,
    cache: Path | None = None,
) -> TrainingSet:
    """Read the training files and choose the rows.

    Args:
        seed: of the validation split.
        need_clusters: the sample-sample loss is by cluster.
        missing_clusters: what that loss does where a row has no cluster_id: "error", or "task" (`clusters` is None).
        validate_on_training: see `task_rows`.
        cache: as for `utils.data.load`.
    Raises: DataError for bad files; ValueError, naming the flag, for a setting that these files do not allow.
    """
    shrink_by_cluster = config.target_shrinkage > 0 and config.target_groups == "cluster"
    required = shrink_by_cluster or (need_clusters and missing_clusters == "error")
    files = load_training_files(data, required, cache)
    check_encoder_reads(encoder, files)
    parts = [task_rows(file, config, seed, validate_on_training) for file in files]
    clusters = None
    if (need_clusters or shrink_by_cluster) and all(file.clusters is not None for file in files):
        clusters = np.concatenate([file.clusters for file in files])
    pool = []
    for part, offset in zip(parts, offsets_of(parts)):
        pool.append(offset + training_rows(part.train, config.training_samples_per_dataset))
    return TrainingSet(parts, np.concatenate(pool), clusters)


def reopen_training_set(settings: Mapping[str, Any], folder: Path) -> TrainingSet:
    """The training set of a finished run once more: the same files, rows, split and targets (before any pooling).

    Args:
        settings: of the run, as its results.json and its checkpoint have them.
        folder: of the run or its checkpoint, for errors.
    Raises: DataError if a file is gone, damaged, or not the one that the run read.
    """
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    parts = []
    for part in (DataConfig, EncoderConfig, TrainingSetConfig):
        names = [field.name for field in fields(part) if field.name in known]
        parts.append(part(**{name: known[name] for name in names}))
    held_out = not Fidelity.parse(settings.get("fidelity", "paper")).train_as_validation
    data = load_training_set(*parts, settings["seed"], validate_on_training=not held_out)
    digests = settings.get("data", {})
    for file in data.files:
        if file.sha256 != digests.get(file.path, file.sha256):
            raise DataError(
                f"{file.path} is not the file that the run {folder} read (its SHA-256 differs); "
                "bring that file back, or train again"
            )
    return data
