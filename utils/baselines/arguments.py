"""The command line of `python -m utils.baselines`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from ..config import (
    Config,
    DataConfig,
    EncoderConfig,
    HardwareConfig,
    TrainingSetConfig,
    check_config,
    parse_arguments,
    settings_of,
)
from .registry import BOUNDED, CONTROLS, KNOWN, ROUTERS, TRAINED, VOTING

ROUTERS_HELP = (
    f"of {', '.join(KNOWN)}; default: all but {VOTING}, which needs --answers, and with --cost_rate all but "
    f"{' and '.join(BOUNDED)}, which cannot learn a cost"
)
NO_COST = "predict the probability of a right answer and cannot learn score - cost_rate * cost"
NOT_SETTINGS = ("routers", "seeds", "device", "answers")  # change no result, or, the answers, voting's alone


@dataclass(frozen=True)
class OptionalEncoderConfig(EncoderConfig):
    """encoder; --encoder_ckpt takes its place"""

    encoder: str | None = None
    """hub name, local folder, minilm (a PyPI package), or given (data files of embeddings); default: mDeBERTaV3-base"""
    pooling: Literal["first", "mean"] | None = None
    """default: first token; mean for minilm"""
    max_length: int | None = None
    """tokens kept of a query, the last ones; default: 512"""


@dataclass(frozen=True)
class Arguments:
    """what is fitted"""

    routers: Annotated[tuple[str, ...] | None, tyro.conf.arg(help=ROUTERS_HELP)] = None
    seeds: tuple[int, ...] = (1,)
    """of the validation split and of whatever is drawn"""
    data: DataConfig = field(default_factory=DataConfig)
    training_set: TrainingSetConfig = field(default_factory=lambda: TrainingSetConfig(targets="gain"))
    answers: str | None = None
    """for voting: what each LLM answered to each test query, from `python -m utils.scoring.convert --answers DIR`"""
    refit: bool = False
    """fit the chosen setting again on training and validation rows"""
    encoder: OptionalEncoderConfig = field(default_factory=OptionalEncoderConfig)
    encoder_ckpt: str | None = None
    """finished run of train_router_mdeberta.py whose query embeddings to take in place of --encoder, --pooling and
    --max_length, {seed} in it standing for the seed; training files and split must be those of the baseline"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    label: str = "frozen"
    """name of the settings in results"""
    save_path: str = "runs/baselines/frozen"
    """folder of the runs; finished ones there are skipped"""

    def settings(self) -> dict:
        """The arguments that decide a result, flat: "settings" in results.json."""
        return {name: value for name, value in settings_of(self).items() if name not in NOT_SETTINGS}


def parse(arguments: Sequence[str], description: str = "") -> Arguments:
    """Parse and check a command line.

    Raises: SystemExit(2) for an unknown flag; ValueError, naming the flag, for a value that makes no sense whatever
    the data are.
    """
    args = parse_arguments(Arguments, arguments, "python -m utils.baselines", description)
    if not args.encoder_ckpt:
        args = replace(args, encoder=with_defaults(args.encoder))
    if args.routers is None:
        args = replace(args, routers=default_routers(args.training_set.cost_rate))
    check_routers(args)
    check_values(args)
    return args


def with_defaults(encoder: OptionalEncoderConfig) -> OptionalEncoderConfig:
    """The encoder with the values of `EncoderConfig` for what was not given."""
    given = {name: value for name, value in vars(encoder).items() if value is not None}
    return replace(encoder, **(vars(EncoderConfig()) | given))


def default_routers(cost_rate: float) -> tuple[str, ...]:
    """All routers and controls; with a cost rate those that can learn a cost, and stderr says which cannot."""
    if not cost_rate:
        return (*ROUTERS, *CONTROLS)
    print(f"left out: {', '.join(BOUNDED)}, which {NO_COST}", file=sys.stderr)
    return tuple(name for name in (*ROUTERS, *CONTROLS) if name not in BOUNDED)


def check_routers(args: Arguments) -> None:
    """Raise ValueError for a router that is unknown or belongs elsewhere, or that these arguments cannot have."""
    bounded = [name for name in args.routers if name in BOUNDED]
    if args.training_set.cost_rate and bounded:
        raise ValueError(f"--routers {' '.join(bounded)}: they {NO_COST}; leave them out, or --cost_rate 0")
    for name in args.routers:
        if name in TRAINED:
            raise ValueError(
                f"--routers {name} is fitted by the training loop: python train_router_mdeberta.py --freeze_encoder "
                f"--loss {name}, or bash train_scripts/baselines.sh"
            )
        if name not in KNOWN:
            raise ValueError(f"--routers {name}: no such router; it must be one of {', '.join(KNOWN)}")
    if VOTING in args.routers and not args.answers:
        raise ValueError(
            "--routers voting needs --answers DIR, the answers of all LLMs. The released files have scores alone, "
            "which do not tell which wrong answers agree: voting cannot be computed from them"
        )


def check_values(args: Arguments) -> None:
    """Raise ValueError for values that exclude each other, stand twice, or are out of their range."""
    check_config(Config(data=args.data, training_set=args.training_set))
    for name, values in (("routers", args.routers), ("seeds", args.seeds)):
        if len(set(values)) < len(values):
            raise ValueError(f"--{name} names something twice: {' '.join(map(str, values))}")
    if min(args.seeds) < 0:
        raise ValueError(f"--seeds {min(args.seeds)}: a seed is at least 0")
