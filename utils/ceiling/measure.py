"""Measure the learnable ceiling of every file: cross-validation, learning curves, what repeats."""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..baselines.base import unit
from ..config import GIVEN
from ..data import DataError, RoutingData, gains, load, reading_of
from ..encoders import Encoder, Queries, load_encoder
from ..experiment import Hardware, choose_hardware
from ..files import locked, read_json, writable_folder, write_json, write_text
from ..meters import bar
from ..tasks import DATASETS, TASKS
from ..training_set import check_encoder_reads
from .arguments import LEAST_QUESTIONS, NAMES, Arguments
from .crossval import EXCHANGED, FOLDS, INNER, canonical, cross_validated, learning_curve
from .features import FEATURES, surface
from .fine_tuned import FineTuned
from .known import FILE, read_records
from .learners import LEARNERS, Labelled, Learner
from .page import PAGE, page
from .record import curve_of, gains_of, repeats_of, summary


def read_files(args: Arguments) -> list[RoutingData]:
    """The files, in the order that they are named.

    Raises: DataError for a bad file, or one with too few questions or LLMs; ValueError for a task of --fine_tuned that
        no file is for.
    """
    paths = args.data.test_data_paths
    kinds = args.data.test_data_type or [None] * len(paths)
    files = []
    for path, kind in zip(paths, kinds):
        data = load(path, kind, **reading_of(args.data))
        if args.data.llms:
            data = data.for_llms(args.data.llms)
        check_size(data)
        files.append(data)
    tasks = [data.task for data in files]
    unknown = sorted(set(args.fine_tuned).difference(tasks))
    if unknown:
        raise ValueError(f"--fine_tuned {' '.join(unknown)}: no file is for that task; they are for {', '.join(tasks)}")
    return files


def check_size(data: RoutingData) -> None:
    """Raise DataError if a file has too few questions for the folds, or a single LLM."""
    questions = len(set(data.questions))
    if questions < LEAST_QUESTIONS:
        raise DataError(
            f"{data.path}: {questions} distinct questions are too few for {FOLDS} folds; it takes {LEAST_QUESTIONS} "
            "at least"
        )
    if len(data.llms) < 2:
        raise DataError(f"{data.path}: {data.llms[0]} alone; to route takes two LLMs")


def embed(data: RoutingData, args: Arguments, hardware: Hardware) -> np.ndarray:
    """Embeddings (N, p) of one file, in the order of the file, as other commands ask for them: so the cache has them.

    Raises: ValueError if the encoder reads text and the file has embeddings, or the reverse.
    """
    check_encoder_reads(args.encoder, [data])
    if args.encoder.encoder == GIVEN:
        return data.embeddings
    encoder = new_encoder(args, hardware).eval()
    queries = Queries(encoder, data.questions, hardware, "none", args.hardware.cache_dir, data.task)
    return queries.embed().float().cpu().numpy()


def new_encoder(args: Arguments, hardware: Hardware) -> Encoder:
    """The pre-trained encoder, on the device."""
    encoder = load_encoder(args.encoder.encoder, args.encoder.pooling, args.encoder.max_length)
    encoder.place(hardware)
    return encoder


def labelled(data: RoutingData, args: Arguments, hardware: Hardware) -> tuple[Labelled, RoutingData]:
    """What learners read of one file, and the file itself, in the order that `canonical` gives."""
    x = embed(data, args, hardware)
    data, order = canonical(data)
    counted = np.zeros((len(data), 0)) if data.embeddings is not None else surface(data.questions)
    y = gains(data.scores, data.kind).astype(np.float64)
    return Labelled(data.questions, y, unit(x[order].astype(np.float64)), counted), data


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, with its "seconds"; read from the file where it is there, and written to it where not."""
    if path.is_file():
        return read_json(path, "remove it, and it is made again")
    begun = time.monotonic()
    made = make()
    made["seconds"] = round(time.monotonic() - begun, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, made)
    return made


def folder_of(args: Arguments, data: RoutingData, learners: Sequence[Learner]) -> Path:
    """Where picks for this file are kept: one folder for each content, set of LLMs, encoder and method."""
    file = [data.sha256, data.kind, data.llms, len(data), args.data.max_characters]
    encoder = [args.encoder.encoder, args.encoder.pooling, args.encoder.max_length, args.hardware.precision]
    settings = [[learner.name, *learner.settings] for learner in learners]
    method = [sorted(FEATURES), FOLDS, INNER, *settings]
    digest = hashlib.sha256(json.dumps([*file, *encoder, *method]).encode()).hexdigest()[:12]
    return args.save_path / f"{data.task}_{digest}"


def learners_named(names: Collection[str]) -> list[Learner]:
    """The learners with these names, in order of simplicity."""
    return [LEARNERS[name]() for name in NAMES if name in names]


def cross_validated_runs(problem: Labelled, data: RoutingData, args: Arguments, progress: tqdm) -> list[dict[str, Any]]:
    """The picks of all learners, for each seed of --seeds; see `cross_validated`."""
    learners = learners_named(args.learners)
    folder = folder_of(args, data, learners)
    runs = []
    for seed in args.seeds:
        run = partial(cross_validated, problem, learners, seed, progress)
        runs.append(kept(folder / f"seed_{seed}.json", run))
    return runs


def curve_runs(problem: Labelled, data: RoutingData, args: Arguments, progress: tqdm) -> list[dict[str, Any]]:
    """The learning curve for each seed of --curve_seeds, as {"curve": see `learning_curve`}."""
    learners = learners_named(args.curve_learners)
    folder = folder_of(args, data, learners)
    sizes = "_".join(map(str, args.sizes))

    def curve(seed: int) -> dict[str, Any]:
        return {"curve": learning_curve(problem, learners, args.sizes, seed, progress)}

    return [kept(folder / f"curve_{sizes}_seed_{seed}.json", partial(curve, seed)) for seed in args.curve_seeds]


def fine_tuned_runs(problem: Labelled, data: RoutingData, args: Arguments, hardware: Hardware) -> list[dict[str, Any]]:
    """The picks of the fine-tuned encoder, for each seed; none for a task that was not asked for.

    Raises: ValueError for a file without text.
    """
    if data.task not in args.fine_tuned:
        return []
    if args.encoder.encoder == GIVEN:
        raise ValueError(f"--fine_tuned {data.task}: {data.path} has embeddings and no text to train an encoder on")
    folder = folder_of(args, data, [])
    detail = f"{args.train_layers}_{FineTuned.passes}_{FineTuned.batch}_{FineTuned.learning_rate:g}"
    paths = {seed: folder / f"fine_tuned_{detail}_seed_{seed}.json" for seed in args.fine_tuned_seeds}
    if all(path.is_file() for path in paths.values()):
        return [kept(path, dict) for path in paths.values()]
    encoder = new_encoder(args, hardware)
    encoder.train_last(args.train_layers)
    # Each fold has two fits: one within its training rows to choose the setting, and one on all of them.
    queries_of_fold = len(problem.y) * (FOLDS - 1) / FOLDS * (2 - 1 / INNER)
    total = int(FOLDS * FineTuned.passes * queries_of_fold)
    runs = []
    with bar(total * len(paths), f"fine-tune {data.task}", "query") as progress:
        learner = FineTuned(encoder, problem.questions, hardware, progress)
        for seed, path in paths.items():
            runs.append(kept(path, partial(cross_validated, problem, [learner], seed)))
    return runs


def record_of(data: RoutingData, args: Arguments, command: str, hardware: Hardware, progress: tqdm) -> dict[str, Any]:
    """Everything about one file: what ceiling.json holds for it."""
    problem, data = labelled(data, args, hardware)
    runs = cross_validated_runs(problem, data, args, progress)
    curves = curve_runs(problem, data, args, progress)
    fine_tuned = fine_tuned_runs(problem, data, args, hardware)

    gained = gains_of(problem.y, runs, args.resamples)
    if fine_tuned:
        of_encoder = gains_of(problem.y, fine_tuned, args.resamples)[FineTuned.name]
        gained[FineTuned.name] = of_encoder | {"seeds": list(args.fine_tuned_seeds)}
    curve = curve_of(problem.y, [run["curve"] for run in curves], args.resamples) if curves else []
    exchanged = [point for point in curve if point["labelled"] == EXCHANGED]
    return {
        "task": data.task,
        "dataset": args.data.dataset,
        "path": data.path,
        "sha256": data.sha256,
        "kind": data.kind,
        "llms": list(data.llms),
        "queries": len(data),
        "left_out": data.left_out,
        "max_characters": args.data.max_characters,
        "encoder": args.encoder.encoder,
        **summary(problem.y, data.llms, gained),
        "gain": gained,
        "curve": [point for point in curve if point not in exchanged],
        "exchanged": exchanged[0] if exchanged else None,
        "curve_learners": list(args.curve_learners),
        "repeats": repeats_of(data.scores, args.resamples) if data.kind == "multi_attempt" else None,
        "seeds": list(args.seeds),
        "curve_seeds": list(args.curve_seeds),
        "seconds": round(sum(run["seconds"] for run in (*runs, *curves, *fine_tuned)), 1),
        "command": command,
    }


def position_of(record: dict[str, Any]) -> tuple:
    """What records are sorted by: the paper's tasks as in its tables, then RouterBench's, then others by name."""
    names = [task.name for task in TASKS]
    position = names.index(record["task"]) if record["task"] in names else len(names)
    dataset = list(DATASETS).index(record["dataset"])
    return dataset, position, record["task"], record["path"], sorted(record["llms"])


def joined(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with new ones in place of those of the same file, LLMs and rows."""
    records = {}
    for record in (*old, *new):
        records[record["sha256"], frozenset(record["llms"]), record["queries"]] = record
    return sorted(records.values(), key=position_of)


def run_all(args: Arguments, command: str) -> list[dict[str, Any]]:
    """Measure every file, write the results, and return the records of these files."""
    writable_folder(args.save_path, "--save_path")
    writable_folder(args.results, "--results")
    flags = args.hardware
    hardware = choose_hardware(flags.device, flags.precision, flags.threads, flags.tokens)
    files = read_files(args)
    folds_of_file = FOLDS * (len(args.seeds) + len(args.curve_seeds))
    records = []
    with bar(folds_of_file * len(files), "ceiling", "fold") as progress:
        for number, data in enumerate(files, 1):
            records.append(record_of(data, args, command, hardware, progress))
            progress.update(number * folds_of_file - progress.n)  # those that were kept
    with locked(args.results):
        everything = joined(read_records(args.results / FILE), records)
        write_json(args.results / FILE, {"tasks": everything})
        write_text(args.results / PAGE, page(everything))
    return records
