"""Accuracy against cost on RouterBench: table, curve and AIQ of finished runs, kNN, MLP, controls and single LLMs.

    python -m utils.report.routerbench runs/minilm_routerbench        write results/routerbench.md, .json and .png

The runs are RouterDC's, one for each cost rate and seed (train_scripts/router_train_routerbench.sh). The baselines are
fitted here, on the same training rows and pre-trained embeddings, to the same score - cost_rate * cost, and choose
their settings on the same validation rows. Any runs whose test files have costs will do.
"""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from ..baselines.base import Router, Rows, choose, unit
from ..baselines.controls import BestPerTask, BestSingle
from ..baselines.knn import KNN
from ..baselines.mlp import MLP
from ..ceiling.known import known_ceilings
from ..config import HardwareConfig, parse_arguments
from ..data import RoutingData
from ..encoders import GIVEN, EncoderError, Queries, load_encoder
from ..experiment import Hardware, choose_hardware
from ..files import read_json, writable_folder, write_json, write_text
from ..meters import bar
from ..metrics import ORACLE, utility
from ..plots import cost_curve
from ..training_set import split_validation, targets
from .cost_points import Point, areas_of, oracle, point
from .routerbench_page import page
from .runs import Run, reopen_files, runs_below

PROGRAM = "python -m utils.report.routerbench"
RESULTS = Path("results")
BASELINES: tuple[type[Router], ...] = (KNN, MLP)
VARIES = ("seed", "cost_rate")  # settings in which the runs may differ
NAMED = (  # settings that results name
    "freeze_encoder", "train_layers", "top_k", "last_k", "ties", "training_steps", "learning_rate", "max_characters",
    "keep_characters", "validation_fraction",
)  # fmt: skip
ALIKE = (  # what two results to compare must have in common
    "tasks", "training_queries", "test_queries", "seeds", "cost_rates", "encoder", "llms",
)  # fmt: skip
BEFORE = {"keep_characters": "last"}  # what runs did that were made before this was a setting


@dataclass(frozen=True)
class Arguments:
    """options"""

    runs: tyro.conf.Positional[str]
    """folder of finished runs: every cost rate with every seed"""
    output: Path = RESULTS
    """folder for routerbench.md, .json and .png"""
    against: Path | None = None
    """routerbench.json of other runs on these data"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)


# The runs


def cost_rate_of(run: Run) -> float:
    """What a US dollar costs in score points, in training."""
    return run.settings.get("cost_rate", 0.0)


def check_alike(runs: Sequence[Run], folder: str) -> None:
    """Raise ValueError if the test files of a run have no costs, or runs differ in more than VARIES."""
    first: dict[str, Any] = {}
    for run in runs:
        test = run.results["test"]
        if not test.get("costs") or set(test["costs"]["router"]) != set(test["tasks"]):
            raise ValueError(
                f"{folder}: the run `{run.results['command']}` has test files without costs; "
                "only runs on data with costs belong here"
            )
        same = {"router": run.results["router"]} | BEFORE
        same |= {name: value for name, value in run.settings.items() if name not in VARIES}
        first = first or same
        changed = [name for name in {**first, **same} if first.get(name) != same.get(name)]
        if changed:
            raise ValueError(f"{folder}: its runs differ in {', '.join(changed)}; only {' and '.join(VARIES)} may")


def rates_and_seeds(runs: Sequence[Run], folder: str) -> tuple[list[float], list[int]]:
    """The cost rates and the seeds of the runs.

    Raises: ValueError as `check_alike`; if two runs have the same rate and seed, or a rate lacks a seed of another.
    """
    check_alike(runs, folder)
    pairs = [(cost_rate_of(run), run.seed) for run in runs]
    for rate, seed in pairs:
        if pairs.count((rate, seed)) > 1:
            raise ValueError(f"{folder}: two runs with cost rate {rate:g} and seed {seed}; name a folder that has one")
    rates, seeds = sorted({rate for rate, _ in pairs}), sorted({seed for _, seed in pairs})
    absent = []
    for rate in rates:
        for seed in seeds:
            if (rate, seed) not in pairs:
                absent.append(f"{runs[0].results['router']} at {rate:g} with seed {seed}")
    if absent:
        raise ValueError(
            f"{folder}: no finished run of {'; '.join(absent)}. Run the script again, it goes on where it stopped"
        )
    return rates, seeds


def reopen_data(run: Run) -> tuple[list[RoutingData], list[RoutingData]]:
    """The training and the test files of a run, with the LLMs that it chose among.

    Raises: DataError for files that have changed.
    """
    settings, tests = run.settings, run.results["tests"]
    train = reopen_files(settings["data_paths"], settings["data_type"], run)
    test = reopen_files([entry["path"] for entry in tests], [entry["kind"] for entry in tests], run)
    llms = settings.get("llms") or train[0].llms
    return [data.for_llms(llms) for data in train], [data.for_llms(llms) for data in test]


def point_of(run: Run) -> dict[str, Any]:
    """The point of a finished run, with its cost rate and seed."""
    test = run.results["test"]
    return {
        "cost_rate": test["cost_rate"],
        "seed": run.seed,
        "accuracy": test["tasks"],
        "cost": test["costs"]["router"],
        "utility": test["utilities"]["router"],
    }


def mean_validation(runs: Sequence[Run], seeds: Sequence[int]) -> list[float] | None:
    """Mean over the cost rates of the utility on validation rows, for each seed; None without validation rows."""
    means = []
    for seed in seeds:
        values = [run.results["selection"]["validation"] for run in runs if run.seed == seed]
        if None in values:
            return None
        means.append(float(np.mean(values)))
    return means


# The baselines


def embeddings(
    train: Sequence[RoutingData],
    tests: Sequence[RoutingData],
    settings: Mapping[str, Any],
    hardware: Hardware,
    cache: Path,
) -> dict[str, np.ndarray]:
    """Embeddings (n, p) of length 1 from the pre-trained encoder of a run, by path.

    The training files are embedded as one, as in training: what a run with a frozen encoder left in the cache is found
    there.
    """
    if settings["encoder"] == GIVEN:
        return {data.path: unit(data.inputs) for data in [*train, *tests]}
    encoder = load_encoder(settings["encoder"], settings["pooling"], settings["max_length"])
    encoder.place(hardware)

    def embed(questions: Sequence[str], title: str) -> np.ndarray:
        return unit(Queries(encoder, questions, hardware, "none", cache, title).embed().float().cpu().numpy())

    questions = [question for data in train for question in data.questions]
    ends = np.cumsum([len(data) for data in train])
    of_files = np.split(embed(questions, "training queries"), ends[:-1])
    embedded_files = {data.path: embedded for data, embedded in zip(train, of_files)}
    for data in tests:
        embedded_files[data.path] = embed(data.questions, data.task)
    return embedded_files


def fitted(
    train: Sequence[RoutingData],
    tests: Sequence[RoutingData],
    x: Mapping[str, np.ndarray],
    rate: float,
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, Point]:
    """The points of the baselines and controls for one cost rate and one seed, by name. x: of `embeddings`."""
    first = slice(settings["training_samples_per_dataset"] or None)  # as in training, but no row repeated
    inputs, goals, tasks, validation = [], [], [], []
    for data in train:
        rows, held_out = split_validation(data, settings["validation_fraction"], seed)
        rows = rows[first]
        inputs.append(x[data.path][rows])
        goals.append(targets(data, settings["targets"], rate)[rows])
        tasks.append([data.task] * len(rows))
        validation.append((x[data.path][held_out], data.rows(held_out)))
    training = Rows(np.concatenate(inputs), np.concatenate(goals), np.concatenate(tasks))
    points, columns = {}, range(training.y.shape[1])
    for kind in BASELINES:
        router = choose(kind, training, validation, seed, worth=lambda picks, data: utility(picks, data, rate)).router
        points[kind.name] = point({data.task: router.pick(x[data.path], columns) for data in tests}, tests, rate)
    for kind in (BestSingle, BestPerTask):
        control = kind(seed).fit(training)
        points[kind.name] = point({data.task: control.pick(data, columns) for data in tests}, tests, rate)
    return points


# The comparison


def compare(folder: str, hardware: Hardware, cache: Path) -> dict[str, Any]:
    """All points and AIQs of the runs in `folder` and of the baselines: the content of routerbench.json.

    Raises: ValueError as `rates_and_seeds`; DataError for data files that are not those of the runs.
    """
    runs = runs_below([folder])
    rates, seeds = rates_and_seeds(runs, folder)
    settings = runs[0].settings
    train, tests = reopen_data(runs[0])
    x = embeddings(train, tests, settings, hardware, cache)

    points: dict[str, list[dict]] = {}
    for run in sorted(runs, key=lambda run: (cost_rate_of(run), run.seed)):
        points.setdefault(run.results["router"], []).append(point_of(run))
    with bar(len(rates) * len(seeds), "baselines", "setting") as progress:
        for rate in rates:
            for seed in seeds:
                others = fitted(train, tests, x, rate, seed, settings) | {ORACLE: oracle(tests, rate)}
                for name, router_point in others.items():
                    points.setdefault(name, []).append({"cost_rate": rate, "seed": seed, **router_point})
                progress.update()
    tasks = [data.task for data in tests]
    llms = {}
    for column, llm in enumerate(tests[0].llms):
        llms[llm] = point({data.task: np.full(len(data), column) for data in tests}, tests, 0.0)
    return {
        "tasks": tasks,
        "validation": mean_validation(runs, seeds),
        "training_queries": {data.task: len(data) for data in train},
        "test_queries": {data.task: len(data) for data in tests},
        "left_out": {data.path: data.left_out for data in [*train, *tests]},
        "encoder": settings["encoder"],
        "recipe": runs[0].label,
        "settings": BEFORE | {name: settings[name] for name in NAMED if name in settings},
        "cost_rates": rates,
        "seeds": seeds,
        "ceilings": known_ceilings(tests),
        "llms": {llm: {name: llm_point[name] for name in ("accuracy", "cost")} for llm, llm_point in llms.items()},
        "routers": points,
        "aiq": areas_of(points, llms, tasks, seeds),
        "training_seconds": round(sum(run.results["seconds"] for run in runs), 1),
        "device": hardware.describe(),
    }


def paired(result: Mapping[str, Any], other: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What the trained router gains over that of `other`, the content of another routerbench.json, by seed.

    Returns: {"path", "settings": {name: [here, there]} where they differ, "validation": points of utility by seed,
        "aiq": points by seed}.
    Raises: ValueError if the two have other data, seeds or cost rates, or no validation rows.
    """
    changed = [name for name in ALIKE if result[name] != other.get(name)]
    if changed:
        raise ValueError(
            f"--against {path}: it differs in {', '.join(changed)}; seeds are paired on the same data only"
        )
    if not result["validation"] or not other.get("validation"):
        raise ValueError(f"--against {path}: runs without validation rows cannot be compared on them")
    names = sorted({*result["settings"], *other["settings"]})
    pairs = {name: [result["settings"].get(name), other["settings"].get(name)] for name in names}
    router = next(iter(result["routers"]))
    gains = {"validation": np.subtract(result["validation"], other["validation"])}
    gains["aiq"] = np.subtract(result["aiq"][router]["average"], other["aiq"][router]["average"])
    return {
        "path": str(path),
        "settings": {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        **{name: values.round(4).tolist() for name, values in gains.items()},
    }


# The command


def command_of(args: Arguments) -> str:
    """The command line, without what is as always and without the hardware."""
    words = [args.runs]
    if args.output != RESULTS:
        words += ["--output", str(args.output)]
    if args.against:
        words += ["--against", str(args.against)]
    return f"{PROGRAM} {shlex.join(words)}"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    begun = time.monotonic()
    try:
        args = parse_arguments(Arguments, sys.argv[1:] if argv is None else argv, PROGRAM, __doc__)
        flags = args.hardware
        hardware = choose_hardware(flags.device, flags.precision, flags.threads, flags.tokens)
        writable_folder(args.output, "--output")
        result = compare(args.runs, hardware, args.hardware.cache_dir)
        if args.against:
            other = read_json(args.against, "make it again")
            result["against"] = paired(result, other, args.against)
        result["command"] = command_of(args)
        result["seconds"] = round(time.monotonic() - begun, 1)
        text = page(result)
        cost_curve(result, args.output / "routerbench.png")
        write_json(args.output / "routerbench.json", result)
        write_text(args.output / "routerbench.md", text)
        print(f"{text}\nWritten: {args.output / 'routerbench.md'}, .json and .png")
    except (EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
