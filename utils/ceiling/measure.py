"""Measure the learnable ceiling of every file: cross-validation, learning curves, what repeats."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from utils.baselines.base import unit
from utils.ceiling.arguments import LEAST_QUESTIONS, NAMES, Arguments
from utils.ceiling.crossval import EXCHANGED, FOLDS, INNER, canonical, cross_validated, learning_curve
from utils.ceiling.features import FEATURES, surface
from utils.ceiling.fine_tuned import FineTuned
from utils.ceiling.known import FILE, read_records
from utils.ceiling.learners import LEARNERS, Labelled, Learner
from utils.ceiling.page import PAGE, page
from utils.ceiling.record import curve_of, gains_of, repeats_of, summary
from utils.config import GIVEN
from utils.data import DataError, RoutingData, gains, load, reading_of
from utils.encoders import Queries, load_encoder
from utils.experiment import Hardware, choose_hardware
from utils.files import locked, writable_folder, write_json, write_text
from utils.meters import bar
from utils.tasks import DATASETS, TASKS


def read_files(args: Arguments) -> list[RoutingData]:
    """The files, in the order that they are named. Raises: DataError for a bad file, or one with too few questions or
    LLMs."""
    files = []
    for path, kind in zip(
        args.data.test_data_paths, args.data.test_data_type or [None] * len(args.data.test_data_paths)
    ):
        data = load(path, kind, **reading_of(args.data))
        data = data.for_llms(args.data.llms) if args.data.llms else data
        if len(set(data.questions)) < LEAST_QUESTIONS:
            found = len(set(data.questions))
            raise DataError(
                f"{path}: {found} distinct questions are too few for {FOLDS} folds; it takes {LEAST_QUESTIONS} at least"
            )
        if len(data.llms) < 2:
            raise DataError(f"{path}: {data.llms[0]} alone; to route takes two LLMs")
        files.append(data)
    if unknown := set(args.fine_tuned) - {data.task for data in files}:
        tasks = ", ".join(data.task for data in files)
        raise ValueError(f"--fine_tuned {' '.join(sorted(unknown))}: no file is for that task; they are for {tasks}")
    return files


def labelled(data: RoutingData, args: Arguments, hardware: Hardware) -> tuple[Labelled, RoutingData]:
    """What learners read of one file, and the file itself, in the order that `canonical` gives.

    The queries are embedded in the order of the file, as by the other commands, so that each is found in the cache.
    """
    if args.encoder.encoder == GIVEN or data.embeddings is not None:
        if args.encoder.encoder != GIVEN or data.embeddings is None:
            what = "text" if data.embeddings is None else "embeddings and no text; use --encoder given"
            raise ValueError(f"--encoder {args.encoder.encoder}: {data.path} has {what}")
        x = data.embeddings
    else:
        encoder = load_encoder(args.encoder.encoder, args.encoder.pooling, args.encoder.max_length).eval()
        encoder.place(hardware)
        x = (
            Queries(encoder, data.questions, hardware, "none", args.hardware.cache_dir, data.task)
            .embed()
            .float()
            .cpu()
            .numpy()
        )
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


def folder_of(args: Arguments, data: RoutingData, learners: Sequence[Learner]) -> Path:
    """Where picks for this file are kept: one folder for each content, set of LLMs, encoder and method."""
    file = [data.sha256, data.kind, data.llms, len(data), args.data.max_characters]
    encoder = [args.encoder.encoder, args.encoder.pooling, args.encoder.max_length, args.hardware.precision]
    method = [sorted(FEATURES), FOLDS, INNER, *[[learner.name, *learner.settings] for learner in learners]]
    digest = hashlib.sha256(json.dumps([*file, *encoder, *method]).encode()).hexdigest()[:12]
    return args.save_path / f"{data.task}_{digest}"


def fine_tuned_runs(problem: Labelled, data: RoutingData, args: Arguments, hardware: Hardware) -> list[dict[str, Any]]:
    """The runs of the fine-tuned encoder, one for each seed; none for a task that was not asked for."""
    if data.task not in args.fine_tuned:
        return []
    if args.encoder.encoder == GIVEN:
        raise ValueError(f"--fine_tuned {data.task}: {data.path} has embeddings and no text to train an encoder on")
    folder = folder_of(args, data, [])
    detail = f"{args.train_layers}_{FineTuned.passes}_{FineTuned.batch}_{FineTuned.learning_rate:g}"
    paths = {seed: folder / f"fine_tuned_{detail}_seed_{seed}.json" for seed in args.fine_tuned_seeds}
    if all(path.is_file() for path in paths.values()):
        return [kept(path, dict) for path in paths.values()]
    encoder = load_encoder(args.encoder.encoder, args.encoder.pooling, args.encoder.max_length)
    encoder.place(hardware)
    encoder.train_last(args.train_layers)
    fitted = (
        len(problem.y) * (FOLDS - 1) / FOLDS * (2 - 1 / INNER)
    )  # queries of each fold's two fits: one within, one on all
    total = int(FOLDS * FineTuned.passes * fitted)
    runs = []
    with bar(total * len(paths), f"fine-tune {data.task}", "query") as progress:
        learner = FineTuned(encoder, problem.questions, hardware, progress)
        for seed, path in paths.items():
            runs.append(kept(path, partial(cross_validated, problem, [learner], seed)))
    return runs


def curve_name(args: Arguments, seed: int) -> str:
    """The file of one learning curve."""
    return f"curve_{'_'.join(map(str, args.sizes))}_seed_{seed}.json"


def curve_with_seed(*arguments: Any) -> dict[str, Any]:
    """A learning curve as it is kept; the arguments are those of `learning_curve`."""
    return {"curve": learning_curve(*arguments)}


def record_of(data: RoutingData, args: Arguments, command: str, hardware: Hardware, progress: tqdm) -> dict[str, Any]:
    """Everything about one file: what ceiling.json holds for it."""
    problem, data = labelled(data, args, hardware)
    learners, quick = (
        [LEARNERS[name]() for name in NAMES if name in names] for names in (args.learners, args.curve_learners)
    )
    runs, curves = [], []
    for seed in args.seeds:
        path = folder_of(args, data, learners) / f"seed_{seed}.json"
        runs.append(kept(path, partial(cross_validated, problem, learners, seed, progress)))
    for seed in args.curve_seeds:
        path = folder_of(args, data, quick) / curve_name(args, seed)
        curves.append(kept(path, partial(curve_with_seed, problem, quick, args.sizes, seed, progress)))
    tuned = fine_tuned_runs(problem, data, args, hardware)
    gained = gains_of(problem.y, runs, args.resamples)
    curve = curve_of(problem.y, [run["curve"] for run in curves], args.resamples) if curves else []
    if tuned:
        gained[FineTuned.name] = gains_of(problem.y, tuned, args.resamples)[FineTuned.name] | {
            "seeds": list(args.fine_tuned_seeds)
        }
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
        "curve": [point for point in curve if point["labelled"] != EXCHANGED],
        "exchanged": next((point for point in curve if point["labelled"] == EXCHANGED), None),
        "curve_learners": list(args.curve_learners),
        "repeats": repeats_of(data.scores, args.resamples) if data.kind == "multi_attempt" else None,
        "seeds": list(args.seeds),
        "curve_seeds": list(args.curve_seeds),
        "seconds": round(sum(run["seconds"] for run in (*runs, *curves, *tuned)), 1),
        "command": command,
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


def run_all(args: Arguments, command: str) -> list[dict[str, Any]]:
    """Measure every file, write the results, and return the records of these files."""
    writable_folder(args.save_path, "--save_path")
    writable_folder(args.results, "--results")
    hardware = choose_hardware(args.hardware.device, args.hardware.precision)
    files = read_files(args)
    records = []
    with bar(FOLDS * len(files) * (len(args.seeds) + len(args.curve_seeds)), "ceiling", "fold") as progress:
        for number, data in enumerate(files, 1):
            records.append(record_of(data, args, command, hardware, progress))
            progress.update(number * progress.total // len(files) - progress.n)  # what was read and not made
    with locked(args.results):
        everything = joined(read_records(args.results / FILE), records)
        write_json(args.results / FILE, {"tasks": everything})
        write_text(args.results / PAGE, page(everything))
    return records
