"""Finished runs: find them, name and group them, keep a line of each in a file, open their router and data again.

A finished run is a folder with a results.json. Runs of one router, encoder, label and fidelity differ in the seed
alone; they are one row of a table. The label is the name of the settings (`--label`); results.json has it as "recipe".
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from .. import checkpoint
from ..config import HardwareConfig
from ..data import DataError, RoutingData, load, reading
from ..encoders import Queries, TrainedLayers
from ..experiment import Hardware, hardware_like
from ..files import parse_json, read_json, write_text
from ..model import RouterDC, trained_layers_of

RESULTS = "results.json"
GROUP = ("router", "encoder", "recipe", "fidelity")  # what runs that differ in the seed alone have in common
Entry = TypeVar("Entry")
Key = TypeVar("Key", bound=Hashable)


class Run(NamedTuple):
    """A finished run: its folder and the content of its results.json."""

    folder: Path
    results: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run, flat."""
        return self.results["settings"]

    @property
    def label(self) -> str:
        """The name of the settings in results."""
        return self.results["recipe"]

    @property
    def seed(self) -> int:
        """The seed of split, batches and initial values."""
        return self.settings["seed"]

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Router, encoder, label and fidelity, as GROUP names them."""
        return self.results["router"], encoder_name(self.settings), self.label, self.settings["fidelity"]


def runs_below(folders: Iterable[str | Path], remedy: str = "") -> list[Run]:
    """Every finished run at or below the folders, folder by folder, in the order of the paths.

    Raises: ValueError for a folder without one; the remedy ends the message.
    """
    runs = []
    for folder in folders:
        paths = sorted(Path(folder).rglob(RESULTS))
        if not paths:
            raise ValueError(f"{folder}: no finished run there ({RESULTS}){remedy}")
        runs += [read_run(path.parent) for path in paths]
    return runs


def read_run(folder: Path) -> Run:
    """A finished run. Raises: ValueError that names its results.json if that is damaged."""
    return Run(folder, read_json(folder / RESULTS, "train or copy the run again", ["router", "recipe", "settings"]))


def encoder_name(settings: Mapping[str, Any]) -> str:
    """The encoder as tables name it: of a local folder given by its full path, the last part."""
    path = Path(settings["encoder"])
    return path.name if path.is_absolute() else settings["encoder"]


def row_label(*names: str, fidelity: str = "paper") -> str:
    """The label of a row: router, encoder, label or what of these tells rows apart, and the fidelity if not "paper"."""
    return ", ".join(names if fidelity == "paper" else [*names, f"fidelity {fidelity}"])


def grouped(entries: Iterable[Entry], key: Callable[[Entry], Key]) -> dict[Key, list[Entry]]:
    """The entries by their key, keys and entries in the order in which they come."""
    groups: dict[Key, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups


def by_seed(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Lines of runs that differ in the seed alone, by GROUP."""
    return grouped(lines, lambda line: tuple(line[name] for name in GROUP))


def seed_groups(runs: Iterable[Run]) -> dict[tuple[str, str, str, str], list[Run]]:
    """Runs that differ in the seed alone, by `Run.group`, in the order of their seeds.

    Raises: ValueError that names the folders of two runs of a group with the same seed.
    """
    groups = {
        group: sorted(members, key=lambda run: run.seed)
        for group, members in grouped(runs, lambda run: run.group).items()
    }
    for group, members in groups.items():
        if len({run.seed for run in members}) < len(members):
            folders = ", ".join(str(run.folder) for run in members)
            raise ValueError(
                f"two runs of {', '.join(group)} with the same seed: {folders}; name the folders of one of them"
            )
    return groups


# Files with one run a line


def line_key(line: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    """The values under these names, as text."""
    return tuple(str(line[name]) for name in names)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of runs (.jsonl), none if it is not there yet. Raises: ValueError for a damaged line."""
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines()
    return [parse_json(line, f"{path}, line {number}", "remove that line") for number, line in enumerate(lines, 1)]


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of runs as a whole."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def replace_lines(
    lines: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The lines, each `new` one in place of that with the same values under `names`, or at the end."""
    return list({line_key(line, names): line for line in [*lines, *new]}.values())


# What a run read, and its router


def reopen_files(paths: Sequence[str], kinds: Sequence[str] | None, run: Run) -> list[RoutingData]:
    """Data files of a run, read as the run read them.

    Args:
        kinds: the score kind of each file; None: that of its task.
    Raises: DataError if a file is gone, damaged, or not the one that the run read.
    """
    files = []
    for path, kind in zip(paths, kinds or [None] * len(paths), strict=True):
        data = load(path, kind, **reading(run.settings))
        if data.sha256 != run.settings["data"].get(path):
            raise DataError(
                f"{path} is not the file that the run {run.folder} read (its SHA-256 differs); "
                "bring that file back, or run again"
            )
        files.append(data)
    return files


def reopen_tests(run: Run) -> list[RoutingData]:
    """The test files of a run, with the LLMs of its picks in their order. Raises: DataError as `reopen_files`."""
    entries = run.results["tests"]
    files = reopen_files([entry["path"] for entry in entries], [entry["kind"] for entry in entries], run)
    return [data.for_llms(run.results["test"]["llms"]) for data in files]


@dataclass(frozen=True)
class ReopenedRouter:
    """The router of a finished run on this machine, with its test files. cache: folder of embeddings."""

    run: Run
    model: RouterDC
    hardware: Hardware
    trained_layers: TrainedLayers
    tests: list[RoutingData]
    cache: Path

    def embed(self, data: RoutingData, rows: np.ndarray | None = None) -> Tensor:
        """Encoder output (N, p) of the queries of `data`, or of some of its rows."""
        queries = Queries(self.model.encoder, data.inputs, self.hardware, self.trained_layers, self.cache, data.task)
        return queries.embed(rows)


def reopen_router(folder: Path, config: HardwareConfig) -> ReopenedRouter:
    """Load the router of a finished run, in the precision of its training whatever `config` says, and its test files.

    Raises: CheckpointError or DataError for files that are damaged, changed or gone; ValueError for a device that is
    not there, or a folder without results.json.
    """
    if not (folder / RESULTS).is_file():
        raise ValueError(f"{folder}: no finished run there ({RESULTS})")
    run = read_run(folder)
    model, trained = checkpoint.load(folder)
    hardware = hardware_like(trained["precision"], config.device, "auto", config.threads, config.tokens)
    trained_layers = trained_layers_of(trained["settings"])
    model.place(hardware, trained_layers, trained["settings"]["train_layers"])
    return ReopenedRouter(run, model, hardware, trained_layers, reopen_tests(run), config.cache_dir)
