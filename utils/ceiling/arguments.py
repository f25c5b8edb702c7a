"""The command line of `python -m utils.ceiling`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..config import DataConfig, EncoderConfig, HardwareConfig, bounded, parse_arguments
from ..report.statistics import RESAMPLES
from ..tasks import TASKS
from .crossval import FOLDS
from .known import RESULTS
from .learners import LEARNERS, Constant

NAMES = tuple(name for name in LEARNERS if name != Constant.name)
PAPER_TESTS = tuple(task.test for task in TASKS)
# released, in no table of the paper; read where they are there
EXTRA = ("datasets/split2_model7/arc_easy_test.json", "datasets/split2_model7/javascript.json")
LEAST_QUESTIONS = 4 * FOLDS  # distinct ones


@dataclass(frozen=True)
class Arguments:
    """what is fitted"""

    data: DataConfig = field(default_factory=lambda: DataConfig(test_data_paths=PAPER_TESTS, final_eval_data_paths=()))
    """--test_data_paths are the files, each looked at alone; training files are not read"""
    learners: tuple[Literal[NAMES], ...] = NAMES
    seeds: tuple[int, ...] = (1, 2, 3)
    """of the folds, and of whatever is drawn"""
    curve_learners: tuple[Literal[NAMES], ...] = ("ridge", "kNN")
    """of the learning curve"""
    curve_seeds: tuple[int, ...] = (1, 2)
    """nothing behind it: no curve"""
    sizes: tuple[int, ...] = (100, 200, 400, 800, 1600)
    """labelled queries in the curve"""
    fine_tuned: tuple[str, ...] = ()
    """fine-tune an encoder for these tasks"""
    fine_tuned_seeds: tuple[int, ...] = (1,)
    train_layers: int = bounded(1, at_least=1)
    """last layers of the fine-tuned encoder that train"""
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(encoder="minilm"))
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    resamples: int = bounded(RESAMPLES, at_least=100)
    """bootstrap samples of an interval"""
    save_path: Path = Path("runs/ceiling")
    """folder of finished (file, seed)"""
    results: Path = RESULTS
    """folder of ceiling.json and ceiling.md; other files' figures there stay"""


def parse(arguments: Sequence[str], description: str = "") -> Arguments:
    """Parse and check a command line.

    Raises: SystemExit(2) for an unknown flag; ValueError, naming the flag, for a value that makes no sense whatever
    the data are.
    """
    args = parse_arguments(Arguments, arguments, "python -m utils.ceiling", description)
    data = args.data
    if data.test_data_paths == PAPER_TESTS and not data.test_data_type:
        there = tuple(path for path in EXTRA if Path(path).is_file())
        args = replace(args, data=replace(data, test_data_paths=PAPER_TESTS + there))
    check_values(args)
    return replace(args, sizes=tuple(sorted(args.sizes)))


def check_values(args: Arguments) -> None:
    """Raise ValueError, naming the flag, for values that stand twice, are too small, or do not fit each other."""
    lists = {name: getattr(args, name) for name in ("seeds", "curve_seeds", "fine_tuned_seeds", "sizes")}
    for name, values in (lists | {"test_data_paths": args.data.test_data_paths, "llms": args.data.llms or ()}).items():
        if len(set(values)) < len(values):
            raise ValueError(f"--{name} names something twice: {' '.join(map(str, values))}")
    for name, values in lists.items():
        least = LEAST_QUESTIONS if name == "sizes" else 0
        if min(values, default=least) < least:
            raise ValueError(f"--{name} {min(values)}: it must be at least {least}")
    files, kinds = args.data.test_data_paths, args.data.test_data_type
    if kinds and len(kinds) != len(files):
        raise ValueError(
            f"--test_data_paths names {len(files)} files and --test_data_type {len(kinds)} kinds; "
            "give one kind for each file"
        )
