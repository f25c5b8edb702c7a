"""How much of the oracle's head-room can be learned from the queries, task by task, with the task's own labels.

    python -m utils.ceiling                          the paper's test files: results/ceiling.json and ceiling.md
    python -m utils.ceiling --dataset routerbench    RouterBench's
    python -m utils.ceiling --test_data_paths my_test.json --test_data_type multi_attempt --results results/mine
    bash train_scripts/ceiling.sh                    the first two, a fine-tuned encoder, and the figures

Within each test file: five-fold cross-validation of routing against always taking the LLM that is best on the
training folds, with settings and learner chosen by another cross-validation inside them; learning curves; and of
files with several answers per query, the part of the oracle's head-room that repeats. A figure is kept for the
content of a file and its LLMs; all tables that have those show it beside the oracle, when it lies in results/ or in a
folder there. Picks of each (file, seed) stay in --save_path: a stopped run goes on.
"""

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from utils.baselines.base import unit
from utils.ceiling.crossval import EXCHANGED, FOLDS, INNER, canonical, cross_validated, learning_curve
from utils.ceiling.features import FEATURES, surface
from utils.ceiling.fine_tuned import FineTuned
from utils.ceiling.known import FILE, RESULTS, read_records
from utils.ceiling.learners import LEARNERS, Constant, Labelled, Learner
from utils.ceiling.page import PAGE, page, table
from utils.ceiling.record import curve_of, gains_of, repeats_of, summary
from utils.data import DataError, RoutingData, add_reading_arguments, gains, load, reading
from utils.encoders import GIVEN, POOLINGS, EncoderError, Queries, load_encoder
from utils.experiment import Hardware, choose_hardware
from utils.files import locked, writable_folder, write_json, write_text
from utils.meters import bar
from utils.report.statistics import RESAMPLES
from utils.tasks import DATASETS, KINDS, TASKS, fill_kinds

NAMES = [name for name in LEARNERS if name != Constant.name]
# released, in no table of the paper; read where they are there
EXTRA = ("datasets/split2_model7/arc_easy_test.json", "datasets/split2_model7/javascript.json")
PAPER_TESTS = [task.test for task in TASKS]
LEAST = 4 * FOLDS  # distinct questions


def parser() -> argparse.ArgumentParser:
    """The arguments; those of the data and the encoder are named as in train_router_mdeberta.py."""
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="python -m utils.ceiling", description=__doc__, formatter_class=raw)
    data = p.add_argument_group("data")
    data.add_argument(
        "--dataset", choices=DATASETS, default="paper", help="routerbench: its files, prompts cut, gaps left out"
    )
    data.add_argument("--test_data_paths", nargs="+", default=list(PAPER_TESTS), help="files, each looked at alone")
    data.add_argument("--test_data_type", nargs="+", choices=KINDS, help="of each file, for tasks of your own")
    data.add_argument("--llms", nargs="+", metavar="LLM", help="choose among these LLMs only; default: all of the file")
    add_reading_arguments(data)

    what = p.add_argument_group("what is fitted")
    what.add_argument("--learners", nargs="+", choices=NAMES, default=NAMES)
    what.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of the folds, and of whatever is drawn")
    what.add_argument(
        "--curve_learners", nargs="+", choices=NAMES, default=["ridge", "kNN"], help="of the learning curve"
    )
    what.add_argument("--curve_seeds", nargs="*", type=int, default=[1, 2], help="nothing behind it: no curve")
    what.add_argument(
        "--sizes", nargs="+", type=int, default=[100, 200, 400, 800, 1600], help="labelled queries in the curve"
    )
    what.add_argument("--fine_tuned", nargs="+", default=[], metavar="TASK", help="fine-tune an encoder for these")
    what.add_argument("--fine_tuned_seeds", nargs="+", type=int, default=[1])
    what.add_argument("--train_layers", type=int, default=1, help="last layers of the fine-tuned encoder that train")

    encoder = p.add_argument_group("encoder")
    encoder.add_argument("--encoder", default="minilm", help="hub name, local folder, minilm, or given (.npz files)")
    encoder.add_argument("--pooling", choices=POOLINGS, help="default: first token; mean for minilm")
    encoder.add_argument("--max_length", type=int, default=512, help="tokens kept of a query, the last ones")
    encoder.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps; of the encoder")
    encoder.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    encoder.add_argument("--cache_dir", type=Path, default=Path(".cache/queries"), help="embeddings")

    p.add_argument("--resamples", type=int, default=RESAMPLES, help="bootstrap samples of an interval")
    p.add_argument("--save_path", type=Path, default=Path("runs/ceiling"), help="folder of finished (file, seed)")
    p.add_argument(
        "--results", type=Path, default=RESULTS, help=f"folder of {FILE} and {PAGE}; other files' figures there stay"
    )
    return p


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments with the defaults of their --dataset.

    Raises: ValueError, naming the flag, for a value that makes no sense whatever the data are.
    """
    p = parser()
    known = vars(p.parse_args([])).keys()
    p.set_defaults(
        **{name: value for name, value in DATASETS[p.parse_args(arguments).dataset].items() if name in known}
    )
    args = p.parse_args(arguments)
    if args.test_data_paths == PAPER_TESTS and not args.test_data_type:
        args.test_data_paths = [*args.test_data_paths, *[path for path in EXTRA if Path(path).is_file()]]
    fill_kinds(args)
    for name in ("seeds", "curve_seeds", "fine_tuned_seeds", "sizes", "test_data_paths", "llms"):
        values = getattr(args, name) or []
        if len(set(values)) < len(values):
            raise ValueError(f"--{name} names something twice: {' '.join(map(str, values))}")
    for name, least in (("seeds", 0), ("curve_seeds", 0), ("fine_tuned_seeds", 0), ("sizes", LEAST)):
        if min(getattr(args, name), default=least) < least:
            raise ValueError(f"--{name} {min(getattr(args, name))}: it must be at least {least}")
    if args.resamples < 100:
        raise ValueError(f"--resamples is {args.resamples}; a 95 % interval needs at least 100")
    files, kinds = len(args.test_data_paths), len(args.test_data_type or args.test_data_paths)
    if kinds != files:
        raise ValueError(
            f"--test_data_paths names {files} files and --test_data_type {kinds} kinds; give one kind for each file"
        )
    args.sizes = sorted(args.sizes)
    return args


def read_files(args: argparse.Namespace) -> list[RoutingData]:
    """The files, in the order that they are named. Raises: DataError for a bad file, or one with too few questions or
    LLMs."""
    files = []
    for path, kind in zip(args.test_data_paths, args.test_data_type or [None] * len(args.test_data_paths)):
        data = load(path, kind, **reading(vars(args)))
        data = data.for_llms(args.llms) if args.llms else data
        if len(set(data.questions)) < LEAST:
            found = len(set(data.questions))
            raise DataError(
                f"{path}: {found} distinct questions are too few for {FOLDS} folds; it takes {LEAST} at least"
            )
        if len(data.llms) < 2:
            raise DataError(f"{path}: {data.llms[0]} alone; to route takes two LLMs")
        files.append(data)
    if unknown := set(args.fine_tuned) - {data.task for data in files}:
        tasks = ", ".join(data.task for data in files)
        raise ValueError(f"--fine_tuned {' '.join(sorted(unknown))}: no file is for that task; they are for {tasks}")
    return files


def labelled(data: RoutingData, args: argparse.Namespace, where: Hardware) -> tuple[Labelled, RoutingData]:
    """What learners read of one file, and the file itself, in the order that `canonical` gives.

    The queries are embedded in the order of the file, as by the other commands, so that each is found in the cache.
    """
    if args.encoder == GIVEN or data.embeddings is not None:
        if args.encoder != GIVEN or data.embeddings is None:
            what = "text" if data.embeddings is None else "embeddings and no text; use --encoder given"
            raise ValueError(f"--encoder {args.encoder}: {data.path} has {what}")
        x = data.embeddings
    else:
        encoder = load_encoder(args.encoder, args.pooling, args.max_length).eval()
        encoder.place(where)
        x = Queries(encoder, data.questions, where, "none", args.cache_dir, data.task).embed().float().cpu().numpy()
    data, order = canonical(data)
    counted = np.zeros((len(data), 0)) if data.embeddings is not None else surface(data.questions)
    y = gains(data.scores, data.kind).astype(np.float64)
    return Labelled(data.questions, y, unit(x[order].astype(np.float64)), counted), data


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, with its "seconds"; read from the file where it is there, and written to it where not."""
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    begun = time.monotonic()
    made = make()
    made["seconds"] = round(time.monotonic() - begun, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, made)
    return made


def folder_of(args: argparse.Namespace, data: RoutingData, learners: Sequence[Learner]) -> Path:
    """Where picks for this file are kept: one folder for each content, set of LLMs, encoder and method."""
    file = [data.sha256, data.kind, data.llms, len(data), args.max_characters]
    encoder = [args.encoder, args.pooling, args.max_length, args.precision]
    method = [sorted(FEATURES), FOLDS, INNER, *[[learner.name, *learner.settings] for learner in learners]]
    digest = hashlib.sha256(json.dumps([*file, *encoder, *method]).encode()).hexdigest()[:12]
    return args.save_path / f"{data.task}_{digest}"


def fine_tuned_runs(
    problem: Labelled, data: RoutingData, args: argparse.Namespace, where: Hardware
) -> list[dict[str, Any]]:
    """The runs of the fine-tuned encoder, one for each seed; none for a task that was not asked for."""
    if data.task not in args.fine_tuned:
        return []
    if args.encoder == GIVEN:
        raise ValueError(f"--fine_tuned {data.task}: {data.path} has embeddings and no text to train an encoder on")
    folder = folder_of(args, data, [])
    detail = f"{args.train_layers}_{FineTuned.passes}_{FineTuned.batch}_{FineTuned.learning_rate:g}"
    paths = {seed: folder / f"fine_tuned_{detail}_seed_{seed}.json" for seed in args.fine_tuned_seeds}
    if all(path.is_file() for path in paths.values()):
        return [kept(path, dict) for path in paths.values()]
    encoder = load_encoder(args.encoder, args.pooling, args.max_length)
    encoder.place(where)
    encoder.train_last(args.train_layers)
    fitted = (
        len(problem.y) * (FOLDS - 1) / FOLDS * (2 - 1 / INNER)
    )  # queries of each fold's two fits: one within, one on all
    total = int(FOLDS * FineTuned.passes * fitted)
    runs = []
    with bar(total * len(paths), f"fine-tune {data.task}", "query") as progress:
        learner = FineTuned(encoder, problem.questions, where, progress)
        for seed, path in paths.items():
            runs.append(kept(path, lambda: cross_validated(problem, [learner], seed)))
    return runs


def curve_name(args: argparse.Namespace, seed: int) -> str:
    """The file of one learning curve."""
    return f"curve_{'_'.join(map(str, args.sizes))}_seed_{seed}.json"


def record_of(data: RoutingData, args: argparse.Namespace, where: Hardware, progress: tqdm) -> dict[str, Any]:
    """Everything about one file: what ceiling.json holds for it."""
    problem, data = labelled(data, args, where)
    learners, quick = (
        [LEARNERS[name]() for name in NAMES if name in names] for names in (args.learners, args.curve_learners)
    )
    runs, curves = [], []
    for seed in args.seeds:
        path = folder_of(args, data, learners) / f"seed_{seed}.json"
        runs.append(kept(path, lambda: cross_validated(problem, learners, seed, progress)))
    for seed in args.curve_seeds:
        path = folder_of(args, data, quick) / curve_name(args, seed)
        curves.append(kept(path, lambda: {"curve": learning_curve(problem, quick, args.sizes, seed, progress)}))
    tuned = fine_tuned_runs(problem, data, args, where)
    gained = gains_of(problem.y, runs, args.resamples)
    curve = curve_of(problem.y, [run["curve"] for run in curves], args.resamples) if curves else []
    if tuned:
        gained[FineTuned.name] = gains_of(problem.y, tuned, args.resamples)[FineTuned.name] | {
            "seeds": args.fine_tuned_seeds
        }
    return {
        "task": data.task,
        "dataset": args.dataset,
        "path": data.path,
        "sha256": data.sha256,
        "kind": data.kind,
        "llms": list(data.llms),
        "queries": len(data),
        "left_out": data.left_out,
        "max_characters": args.max_characters,
        "encoder": args.encoder,
        **summary(problem.y, data.llms, gained),
        "gain": gained,
        "curve": [point for point in curve if point["labelled"] != EXCHANGED],
        "exchanged": next((point for point in curve if point["labelled"] == EXCHANGED), None),
        "curve_learners": args.curve_learners,
        "repeats": repeats_of(data.scores, args.resamples) if data.kind == "multi_attempt" else None,
        "seeds": args.seeds,
        "curve_seeds": args.curve_seeds,
        "seconds": round(sum(run["seconds"] for run in (*runs, *curves, *tuned)), 1),
        "command": args.command,
    }


def place_of(record: dict[str, Any]) -> tuple:
    """The order of records: the paper's tasks as in its tables, then RouterBench's, then others by name."""
    names = [task.name for task in TASKS]
    known = record["task"] in names
    place = names.index(record["task"]) if known else len(names)
    return list(DATASETS).index(record["dataset"]), place, record["task"], record["path"], sorted(record["llms"])


def joined(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with new ones in place of those of the same file, LLMs and rows."""

    def key(record: dict[str, Any]) -> tuple:
        return record["sha256"], frozenset(record["llms"]), record["queries"]

    return sorted({key(record): record for record in (*old, *new)}.values(), key=place_of)


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every file, write the results, and return the records of these files."""
    writable_folder(args.save_path, "--save_path")
    writable_folder(args.results, "--results")
    where = choose_hardware(args.device, args.precision)
    files = read_files(args)
    records = []
    with bar(FOLDS * len(files) * (len(args.seeds) + len(args.curve_seeds)), "ceiling", "fold") as progress:
        for number, data in enumerate(files, 1):
            records.append(record_of(data, args, where, progress))
            progress.update(number * progress.total // len(files) - progress.n)  # what was read and not made
    with locked(args.results):
        everything = joined(read_records(args.results / FILE), records)
        write_json(args.results / FILE, {"tasks": everything})
        write_text(args.results / PAGE, page(everything))
    return records


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted (resumable)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        args = parse(arguments)
        args.command = shlex.join(["python", "-m", "utils.ceiling", *arguments])
        print(table(run_all(args)))
        print(f"\nwritten to {args.results / PAGE} and {FILE}")
    except (EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with what is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
