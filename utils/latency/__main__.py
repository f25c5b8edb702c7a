"""Measure a router on a CPU in torch and in ONNX: how fast it answers, and whether it picks the same LLMs.

    python -m utils.onnx_export --ckpt DIR --int8 avx512_vnni
    python -m utils.latency --ckpt DIR

writes results/latency.json and results/latency.md. Parts are measured alone with --parts; the file keeps the others.
Give several checkpoints for the agreement; the times are of the first.
"""

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ..checkpoint_files import CheckpointError, find
from ..config import bounded, parse_arguments
from ..data import DataError
from ..encoders import EncoderError
from ..files import read_json, writable_folder, write_json, write_text
from .agreement import compare
from .page import page
from .quantisation import compare_quantisations
from .speed import measure_start, measure_ways
from .ways import BF16, FP32, IN_INT8, sample, test_files, ways_of

Part = Literal["speed", "start", "agreement", "quantisation"]
LIBRARIES = ("torch", "transformers", "onnxruntime", "tokenizers", "numpy")


@dataclass(frozen=True)
class Arguments:
    """options"""

    ckpt: tuple[str, ...]
    """checkpoint folders, or --save_paths of training runs, with graphs in them"""
    parts: tuple[Part, ...] = ("speed", "start", "agreement", "quantisation")
    """what to measure"""
    threads: tuple[int, ...] = (1, 2)
    """the speed is measured with each number of threads"""
    queries: int = bounded(1000, at_least=64)
    """test queries whose time is measured, drawn from all test files"""
    rounds: int = bounded(3, at_least=1)
    """how often"""
    singles: int = bounded(200, at_least=1)
    """how many of them are routed one by one in each round, others in each"""
    starts: int = bounded(7, at_least=1)
    """fresh processes of each way"""
    agreement_queries: int = bounded(0, at_least=0)
    """test queries whose picks are compared, drawn from all test files; 0: all"""
    training_queries: int = bounded(1000, at_least=1)
    """training queries on which ways to make 8-bit numbers are compared"""
    seed: int = bounded(1, at_least=0)
    """of the queries"""
    cache_dir: Path = Path(".cache/latency")
    """similarities that were computed for the agreement"""
    output: Path = Path("results/latency.json")
    """file for the figures; the page is written beside it"""


def measure_speed(args: Arguments) -> dict[str, Any]:
    """Times by number of threads."""
    questions = [question for data in test_files(args.ckpt[0]) for question in data.questions]
    drawn = sample(questions, args.queries, args.seed)
    folder = find(args.ckpt[0])
    timings = {}
    for threads in args.threads:
        timings[str(threads)] = measure_ways(folder, drawn, threads, args.rounds, args.singles)
    return {"threads": timings, "queries": len(drawn), "rounds": args.rounds, "singles": args.rounds * args.singles}


def measure_starts(args: Arguments) -> dict[str, Any]:
    """Times of fresh processes."""
    return {"ways": measure_start(args.ckpt[0], find(args.ckpt[0]), "What is 17 * 23?", args.starts)}


def measure_agreement(args: Arguments) -> dict[str, Any]:
    """Picks of each checkpoint."""
    cores = max(args.threads)
    options = {"cache": args.cache_dir, "count": args.agreement_queries, "seed": args.seed}
    found = {ckpt: compare(ckpt, (BF16, FP32, IN_INT8), cores, **options) for ckpt in args.ckpt}
    return {"checkpoints": found}


def measure_quantisation(args: Arguments) -> dict[str, Any]:
    """Ways to make 8-bit numbers."""
    found = compare_quantisations(args.ckpt[0], args.training_queries, args.seed)
    return {"ways": found, "count": args.training_queries}


PARTS: Mapping[str, Callable[[Arguments], dict[str, Any]]] = {
    "quantisation": measure_quantisation,
    "speed": measure_speed,
    "start": measure_starts,
    "agreement": measure_agreement,
}


def cpu_name() -> str:
    """The processor, as the system calls it, and its instructions that matter here."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor() or platform.machine()
    about = dict(line.split(":", 1) for line in path.read_text().split("\n\n")[0].splitlines() if ":" in line)
    about = {name.strip(): value.strip() for name, value in about.items()}
    flags = about.get("flags", "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags]
    return f"{about.get('model name', platform.machine())} ({', '.join(known)})"


def measured(args: Arguments, arguments: Sequence[str]) -> dict[str, Any]:
    """The figures: those of the file, with the parts of `args` measured anew."""
    for ckpt in args.ckpt:
        ways_of(find(ckpt))  # graphs are there
    writable_folder(args.output.absolute().parent, "--output")
    remedy = "remove it, or give another --output"
    result = read_json(args.output, remedy, ("parts",)) if args.output.is_file() else {"parts": {}}
    result |= {"cpu": cpu_name(), "versions": {name: version(name) for name in LIBRARIES}}
    for name in PARTS:
        if name not in args.parts:
            continue
        begun = time.monotonic()
        found = PARTS[name](args)
        command = shlex.join(["python", "-m", "utils.latency", *arguments])
        about = {"ckpt": list(args.ckpt), "seed": args.seed, "command": command}
        seconds, load = round(time.monotonic() - begun, 1), round(os.getloadavg()[1], 1)
        result["parts"][name] = {**found, **about, "seconds": seconds, "load": load}
        write_json(args.output, result)
        write_text(args.output.with_suffix(".md"), page(result))
    return result


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        args = parse_arguments(Arguments, arguments, "python -m utils.latency", __doc__)
        print(page(measured(args, arguments)))
        print(f"Written: {args.output}, {args.output.with_suffix('.md')}")
    except (CheckpointError, DataError, EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
