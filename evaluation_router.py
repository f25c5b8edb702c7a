"""Evaluate a trained router: print the tables of its training run again, or those of other test files.

python evaluation_router.py --ckpt runs/minilm/seed_1
python evaluation_router.py --ckpt runs/minilm/seed_1 --test_data_paths mine_test.json --test_data_type multi_attempt
python evaluation_router.py --ckpt runs/minilm/seed_1 --query "What is 17 * 23?"        which LLM should answer it
"""

import utils  # noqa: F401  # isort: skip  # before torch, which takes from it how its threads wait
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from utils import checkpoint
from utils.config import HardwareConfig, Kind, parse_arguments
from utils.data import DataError, RoutingData, cut, load_all, reading
from utils.encoders import Queries
from utils.evaluate import check_finite, check_kinds, evaluate
from utils.experiment import Hardware, choose_hardware
from utils.files import writable_folder, write_json
from utils.model import RouterDC, trained_layers_of
from utils.tables import tables
from utils.tasks import kind_of, short, task_of


@dataclass(frozen=True)
class Arguments:
    """options"""

    ckpt: str
    """checkpoint folder, or the --save_path of a training run"""
    test_data_paths: tuple[str, ...] | None = None
    """default: the test files of the training run"""
    test_data_type: tuple[Kind, ...] | None = None
    """score kind of each file, needed for tasks that the paper has not; a single kind serves all files"""
    query: tuple[str, ...] | None = None
    """route these queries (texts, not files) instead, or each line of standard input with --query -"""
    llms: tuple[str, ...] | None = None
    """with --query: the LLMs to choose from; default: all that the router knows"""
    output: Path | None = None
    """write the figures, and the LLM picked for each query, as JSON"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """--precision auto: that of the training run"""


def check_arguments(args: Arguments) -> None:
    """Raise ValueError, naming the flags, for arguments that exclude each other."""
    if args.llms and not args.query:
        raise ValueError("--llms needs --query")
    if args.query and args.test_data_paths:
        raise ValueError("--query and --test_data_paths exclude each other; give one")
    if args.test_data_type and not args.test_data_paths:
        raise ValueError("--test_data_type needs --test_data_paths")
    if args.output:
        writable_folder(args.output.absolute().parent, "--output")


@torch.no_grad()
def choose(
    model: RouterDC,
    queries: Sequence[str],
    llms: Sequence[str],
    hardware: Hardware,
    characters: int | None = None,
    keep: str = "last",
) -> list[dict[str, Any]]:
    """Route queries: for each {"query", "llm": the one picked, "similarity": {llm: cosine or inner product}}.

    The pick is the arg-max over `llms` alone. Of each query `characters` are read, all by default, from the end `keep`.
    Raises: ValueError for no query, an empty one, one that is not UTF-8, or an LLM that the router does not know.
    """
    columns = model.columns(llms)
    if not queries:
        raise ValueError("--query -: standard input is empty; give one query a line")
    for number, query in enumerate(queries):
        if not query.strip():
            raise ValueError(f"--query: number {number} is empty; give the text that an LLM would get")
        if query != query.encode(errors="ignore").decode():
            raise ValueError(f"--query: number {number} is not valid UTF-8: {query[:80]!r}")
    texts = [cut(query, characters, keep) for query in queries]
    embedded = Queries(model.encoder, texts, hardware, "all").embed()
    similarity = model(embedded)[1][:, columns]  # (N, T)
    check_finite(similarity, "--query")
    routed = []
    for query, row in zip(queries, similarity.tolist()):
        best = max(range(len(llms)), key=row.__getitem__)
        routed.append({"query": query, "llm": llms[best], "similarity": dict(zip(llms, row))})
    return routed


def read_queries(given: Sequence[str]) -> list[str]:
    """The queries of --query: its values, or each line of standard input for "-"; only a line feed ends a line.

    A value that names a file is routed as any text, with a note on stderr.
    Raises: ValueError for standard input that is not UTF-8, or a line with a JSON object, of which a text is meant.
    """
    if list(given) != ["-"]:
        for file in filter(os.path.isfile, given):
            note = f"note: --query takes texts, and {file!r}, a file, is routed as one; its lines: --query - < FILE"
            print(note, file=sys.stderr)
        return list(given)
    try:
        lines = [line.removesuffix("\n") for line in sys.stdin]
    except UnicodeDecodeError as error:
        raise ValueError(f"--query -: standard input is not UTF-8 ({error})") from None
    for number, line in enumerate(lines, 1):
        if _is_json_object(line):
            raise ValueError(
                f"--query -: line {number} is a JSON object; give the text alone, one query a line. A data file is "
                "routed by --test_data_paths"
            )
    return lines


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def route_queries(args: Arguments, model: RouterDC, config: dict[str, Any], hardware: Hardware) -> None:
    """--query: print which LLM should answer each query."""
    queries = read_queries(args.query)
    options = reading(config["settings"])
    routed = choose(model, queries, args.llms or model.llms, hardware, options["characters"], options["keep"])
    for pick in routed:
        nearest_first = sorted(pick["similarity"].items(), key=lambda item: -item[1])
        similarities = ", ".join(f"{short(llm)} {value:.3f}" for llm, value in nearest_first)
        print(f"{pick['llm']}\t{pick['query']}\n    similarity: {similarities}")
    if args.output:
        write_json(args.output, {"checkpoint": args.ckpt, "device": hardware.describe(), "queries": routed})


def kinds_of_run(config: Mapping[str, Any]) -> dict[str, str | None]:
    """The score kind of each task that a training run read, for training or for tests."""
    settings = config["settings"]
    tasks = [task_of(path) for path in settings["data_paths"]]
    given = settings.get("data_type") or [None]
    given = given * len(tasks) if len(given) == 1 else given
    kinds = {task: kind or kind_of(task) for task, kind in zip(tasks, given)}
    return kinds | {task_of(test["path"]): test["kind"] for test in config["tests"]}


def note_changed_files(tests: Sequence[RoutingData], digests: Mapping[str, str]) -> None:
    """Say on stderr which test files are no longer those of the training run. digests: SHA-256 there, by path."""
    for data in tests:
        if digests.get(data.path, data.sha256) != data.sha256:
            print(
                f"note: {data.path} has changed since the training run (SHA-256 was {digests[data.path][:12]}, is "
                f"{data.sha256[:12]}); its figures are of the file as it is now",
                file=sys.stderr,
            )


def load_test_files(args: Arguments, model: RouterDC, config: dict[str, Any]) -> list[RoutingData]:
    """The test files, by default those of the training run, with their LLMs in the order of training.

    Raises: DataError for bad files, or a score kind unlike that of training; ValueError for an LLM that the router does
        not know.
    """
    paths, kinds = args.test_data_paths, args.test_data_type
    if paths is None:
        paths, kinds = [test["path"] for test in config["tests"]], [test["kind"] for test in config["tests"]]
    if not paths:
        raise ValueError(f"--ckpt {args.ckpt}: its training run read no test files; name them with --test_data_paths")
    options = {**reading(config["settings"]), "cache": args.hardware.cache_dir}
    tests = load_all(paths, kinds, ("--test_data_paths", "--test_data_type"), **options)
    if args.test_data_paths is None and config["settings"].get("llms"):  # the run read these columns alone
        tests = [data.for_llms([name for name in data.llms if name in model.llms]) for data in tests]
    model.check_knows(tests[0].llms)
    check_kinds(tests, kinds_of_run(config))
    note_changed_files(tests, config["settings"].get("data", {}))
    return [data.for_llms([name for name in model.llms if name in data.llms]) for data in tests]


def evaluate_files(args: Arguments, model: RouterDC, config: dict[str, Any], hardware: Hardware) -> None:
    """Print the tables of the test files."""
    settings = config["settings"]
    tests = load_test_files(args, model, config)
    inside = [task_of(path) for path in settings["data_paths"]]
    cost_rate = settings.get("cost_rate", 0.0)
    test = evaluate(model, tests, hardware, trained_layers_of(settings), args.hardware.cache_dir, inside, cost_rate)
    test["dataset"] = settings.get("dataset", "paper")
    print(tables(test, f"{config['router']} (this run)"))
    if args.output:
        write_json(args.output, {"checkpoint": args.ckpt, "device": hardware.describe(), **test})
        print(f"\nWritten: {args.output}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    try:
        args = parse_arguments(
            Arguments, sys.argv[1:] if argv is None else argv, "python evaluation_router.py", __doc__
        )
        model, config = checkpoint.load(args.ckpt)
        precision = config["precision"] if args.hardware.precision == "auto" else args.hardware.precision
        hardware = choose_hardware(args.hardware.device, precision, args.hardware.threads)
        model.place(hardware, trained_layers_of(config["settings"]), config["settings"]["train_layers"])
        check_arguments(args)
        if args.query:
            route_queries(args, model, config, hardware)
        else:
            evaluate_files(args, model, config, hardware)
    except (DataError, checkpoint.CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
