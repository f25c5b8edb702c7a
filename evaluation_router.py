"""Evaluate a trained router: print the tables of its training run again, or those of other test files.

python evaluation_router.py --ckpt runs/minilm/seed_1
python evaluation_router.py --ckpt runs/minilm/seed_1 --test_data_paths mine_test.json --test_data_type multi_attempt
python evaluation_router.py --ckpt runs/minilm/seed_1 --query "What is 17 * 23?"        which LLM should answer it
"""

import utils  # noqa: F401  # isort: skip  # before torch, which takes from it how its threads wait
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils import checkpoint
from utils.checkpoint_files import CheckpointError
from utils.choice import check_queries, columns_of
from utils.config import HardwareConfig, Kind, parse_arguments
from utils.data import RoutingData, load_all, reading
from utils.distributed import is_main, processes, world_size
from utils.evaluate import check_kinds, evaluate
from utils.experiment import hardware_like
from utils.files import writable_folder, write_json
from utils.lines import arriving, drop_output, leave_closed_pipe
from utils.model import RouterDC, trained_layers_of
from utils.router import BATCH, Router, locate
from utils.tables import tables
from utils.tasks import kind_of, short, task_of


@dataclass(frozen=True)
class Arguments:
    """options"""

    ckpt: str
    """checkpoint folder, the --save_path of a training run, or a name on the model hub"""
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
    """--precision auto: that of the training run where the device has it"""


def check_arguments(args: Arguments) -> None:
    """Raise ValueError, naming the flags, for arguments that exclude each other."""
    if args.llms and not args.query:
        raise ValueError("--llms needs --query")
    if args.query and world_size() > 1:
        raise ValueError("--query is for one process; start it without torchrun or accelerate launch")
    if args.query and args.test_data_paths:
        raise ValueError("--query and --test_data_paths exclude each other; give one")
    if args.test_data_type and not args.test_data_paths:
        raise ValueError("--test_data_type needs --test_data_paths")
    if args.output:
        writable_folder(args.output.absolute().parent, "--output")


def read_queries(given: Sequence[str]) -> Iterator[list[str]]:
    """The queries of --query in lists: its values, or for "-" the lines of standard input as they arrive.

    Only a line feed ends a line. A value that names a file is routed as any text, with a note on stderr.
    Raises: ValueError for standard input that is empty or not UTF-8, or a line with a JSON object, of which a text is
        meant.
    """
    if list(given) != ["-"]:
        for file in filter(os.path.isfile, given):
            note = f"note: --query takes texts, and {file!r}, a file, is routed as one; its lines: --query - < FILE"
            print(note, file=sys.stderr)
        yield list(given)
        return
    count = 0
    for lines in arriving(sys.stdin.buffer, BATCH):
        yield [_text_of(line, number) for number, line in enumerate(lines, count + 1)]
        count += len(lines)
    if not count:
        raise ValueError("--query -: standard input is empty; give one query a line")


def _text_of(line: bytes, number: int) -> str:
    """A line of standard input as text. Raises: ValueError as `read_queries`."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"--query -: standard input is not UTF-8 (line {number}: {error})") from None
    if _is_json_object(text):
        raise ValueError(
            f"--query -: line {number} is a JSON object; give the text alone, one query a line. A data file is "
            "routed by --test_data_paths"
        )
    return text


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def route_queries(args: Arguments) -> None:
    """--query: print which LLM should answer each query.

    Raises: ValueError as `read_queries` and `Router.route`, for a query at its place.
    """
    hardware = args.hardware
    router = Router.from_pretrained(
        locate(args.ckpt, "--ckpt"), "torch", hardware.device, hardware.precision, hardware.threads
    )
    llms = args.llms or router.llms
    columns_of(llms, router.llms)
    routed: list[dict[str, Any]] = []
    count = 0
    for queries in read_queries(args.query):
        check_queries(queries, "--query", count)
        similarities = router.similarities(queries, llms, "--query")
        for query, llm, row in zip(queries, router.choose(similarities, llms), similarities.tolist()):
            pick = {"query": query, "llm": llm, "similarity": dict(zip(llms, row))}
            nearest_first = sorted(pick["similarity"].items(), key=lambda item: -item[1])
            words = ", ".join(f"{short(name)} {value:.3f}" for name, value in nearest_first)
            print(f"{llm}\t{query}\n    similarity: {words}")
            if args.output:
                routed.append(pick)
        sys.stdout.flush()
        count += len(queries)
    if args.output:
        write_json(args.output, {"checkpoint": args.ckpt, "device": router.describe(), "queries": routed})


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
    chose_llms = config["settings"].get("llms") or config.get("changes")
    if args.test_data_paths is None and chose_llms:  # not the router of all LLMs that the files have
        tests = [data.for_llms([name for name in data.llms if name in model.llms]) for data in tests]
    model.check_knows(tests[0].llms)
    check_kinds(tests, kinds_of_run(config))
    note_changed_files(tests, config["settings"].get("data", {}))
    return [data.for_llms([name for name in model.llms if name in data.llms]) for data in tests]


def evaluate_files(args: Arguments) -> None:
    """Print the tables of the test files."""
    model, config = checkpoint.load(locate(args.ckpt, "--ckpt"))
    settings = config["settings"]
    flags = args.hardware
    hardware = hardware_like(config["precision"], flags.device, flags.precision, flags.threads, flags.tokens)
    model.place(hardware, trained_layers_of(settings), settings["train_layers"])
    tests = load_test_files(args, model, config)
    inside = [task_of(path) for path in settings["data_paths"]]
    cost_rate = settings.get("cost_rate", 0.0)
    test = evaluate(model, tests, hardware, trained_layers_of(settings), args.hardware.cache_dir, inside, cost_rate)
    test["dataset"] = settings.get("dataset", "paper")
    print(tables(test, f"{config['router']} (this run)"))
    if args.output and is_main():
        write_json(args.output, {"checkpoint": args.ckpt, "device": hardware.describe(), **test})
        print(f"\nWritten: {args.output}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    try:
        with processes():
            args = parse_arguments(
                Arguments, sys.argv[1:] if argv is None else argv, "python evaluation_router.py", __doc__
            )
            check_arguments(args)
            if args.query:
                route_queries(args)
            else:
                evaluate_files(args)
            sys.stdout.flush()
    except BrokenPipeError:
        return leave_closed_pipe()
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        drop_output()
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
