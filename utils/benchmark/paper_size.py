"""A router of mDeBERTa's real size on this machine: a step, a save, a load, an evaluation, a state; seconds and memory.

    python -m utils.benchmark.paper_size --precisions bf16 fp32 --output results/mdeberta_size.json

Each precision has a process of its own, for its peak memory. The weights are random: nothing is learned here.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch

from .. import checkpoint
from ..config import HardwareConfig, bounded, parse_arguments
from ..data import DataError
from ..encoders import EncoderError, Queries
from ..evaluate import route
from ..files import write_json, write_text
from ..memory import fitted
from ..run import Progress, RunFolder, host_copy, trainable
from ..tables import markdown
from . import compare
from .sized import SIZED

SETTINGS = {"data_paths": ["training files"], "freeze_encoder": False, "train_layers": None}
ABOUT = {"router": "RouterDC", "tests": [], "settings": SETTINGS}  # what a run adds to a checkpoint
LONG = "word " * 600  # more than any encoder reads


@dataclass(frozen=True)
class Arguments:
    """options"""

    encoder: str = SIZED
    """mdeberta-size (random weights), or what --encoder of training takes"""
    precisions: tuple[Literal["bf16", "fp16", "tf32", "fp32"], ...] = ("bf16", "fp32")
    """measured one after the other, each in a process of its own"""
    data_paths: tuple[str, ...] = compare.Arguments.data_paths
    """training files, one per task"""
    test_data_paths: tuple[str, ...] = compare.Arguments.test_data_paths
    """test files, for their questions"""
    batch_size: int = bounded(64, at_least=2)
    """training queries of a step, drawn as in training"""
    full_length: bool = False
    """all of them fill the encoder: 512 tokens each"""
    eval_queries: int = bounded(64, at_least=1)
    """test queries that are routed"""
    state: bool = True
    """save the state of a run, too, which needs its size in memory a second time"""
    seed: int = bounded(1, at_least=0)
    """of the batch and the test queries"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """--precision is that of --here"""
    output: Path = Path("results/mdeberta_size.json")
    """file for the figures; the table goes beside it, as .md"""
    here: bool = False
    """measure --precision in this process and print it; the command starts such processes itself"""


class Phases:
    """Seconds and peak memory of one job after another."""

    def __init__(self, device: torch.device):
        self.device, self.found = device, {}

    def do(self, name: str, job: Callable[[], Any]) -> Any:
        """Do a job, and note what it cost; returns what it returned."""
        wait = compare.waiting(self.device)
        compare.forget_peak(self.device)
        wait()
        begun = perf_counter()
        made = job()
        wait()
        seconds = round(perf_counter() - begun, 2)
        self.found[name] = {"seconds": seconds, "peak_mb": round(compare.peak_mb(self.device))}
        return made


def measure(args: Arguments) -> dict[str, Any]:
    """All phases in --precision, in this process."""
    names = ("encoder", "data_paths", "test_data_paths", "batch_size", "eval_queries", "seed", "hardware")
    options = compare.Arguments(steps=1, released_steps=1, **{name: getattr(args, name) for name in names})
    hardware = compare.hardware_of(options)
    work = compare.load_work(options, hardware.device)
    if args.full_length:
        work = replace(work, questions=[LONG] * len(work.questions))
    phases = Phases(hardware.device)
    way = phases.do("make it", lambda: compare.Way("ours", options, work, hardware))
    way.queries.hardware = fitted(hardware, way.encoder.backbone, way.queries.longest)
    phases.do("training step", partial(way.train, 0))
    lengths = way.queries.inputs.lengths[work.batches[0]]
    about = {
        "device": hardware.describe(),
        "millions_of_values": round(sum(value.numel() for value in way.model.parameters()) / 1e6, 1),
        "mean_tokens": round(float(lengths.mean()), 1),
        "tokens_a_chunk": way.queries.hardware.tokens,
        "computed_twice": bool(lengths.sum() > way.queries.hardware.kept),
    }
    with tempfile.TemporaryDirectory() as folder:
        if args.state:
            save_states(way, Path(folder), phases)
        way.optimizer = None
        saved = Path(folder) / "checkpoint"
        phases.do("save", lambda: checkpoint.save(way.model, saved, ABOUT | {"precision": hardware.precision}))
        about["checkpoint_mb"] = round((saved / checkpoint.WEIGHTS).stat().st_size / 2**20)
        way.model = way.encoder = way.queries = None
        model, _ = phases.do("load", lambda: checkpoint.load(saved))
    model.place(hardware, "all")

    def evaluate() -> np.ndarray:
        return route(model, Queries(model.encoder, work.tests, hardware, "all"), model.llms)

    phases.do(f"route {len(work.tests)} queries", evaluate)
    return about | {"phases": phases.found}


def save_states(way: compare.Way, folder: Path, phases: Phases) -> None:
    """How long a training loop stands still while a state is saved: as a whole, and with the writing behind it."""
    run, best = RunFolder(folder, {}), host_copy(trainable(way.model))
    save = partial(run.save_state, way.model, way.optimizer, best, Progress(step=1))
    phases.do("save the state, all of it waited for", save)
    with run.saving():
        phases.do("save the state, written in the background", save)


def in_processes(args: Arguments, arguments: Sequence[str]) -> dict[str, Any]:
    """`measure` for each of --precisions. Raises: ValueError with the last words of a process that failed."""
    found = {}
    for precision in args.precisions:
        command = [sys.executable, "-m", "utils.benchmark.paper_size", *arguments, "--precision", precision, "--here"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            last = (run.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
            raise ValueError(f"{precision}: not measured (exit status {run.returncode}: {last})")
        found[precision] = json.loads(run.stdout.splitlines()[-1])
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table, a column for each precision."""
    rows = []
    for phase in next(iter(found.values()))["phases"]:
        costs = [result["phases"][phase] for result in found.values()]
        rows.append([phase, *(f"{cost['seconds']:.1f} s, {cost['peak_mb']} MB" for cost in costs)])
    for name in ("millions_of_values", "mean_tokens", "tokens_a_chunk", "computed_twice", "checkpoint_mb"):
        rows.append([name.replace("_", " "), *(str(result[name]) for result in found.values())])
    return markdown(["time, peak memory", *found], rows)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    program = "python -m utils.benchmark.paper_size"
    try:
        args = parse_arguments(Arguments, arguments, program, __doc__)
        if args.here:
            print(json.dumps(measure(args)))
            return 0
        found = in_processes(args, arguments)
        command = shlex.join([*program.split(), *arguments])
        write_json(args.output, {"encoder": args.encoder, "precisions": found, "command": command})
        device = next(iter(found.values()))["device"].rpartition(",")[0]
        text = f"{args.encoder} on {device}, batch {args.batch_size}\n\n{table(found)}\n\n    {command}\n"
        write_text(args.output.with_suffix(".md"), text)
        print(text)
    except (DataError, EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
