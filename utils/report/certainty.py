"""How sure routers are, and how true that is; and whether edits that change no question change their picks.

    python -m utils.report.certainty runs/minilm_tuned/paper runs/minilm_frozen/paper runs/new_llms/held_out

Writes certainty.md, certainty.json and two figures. Temperatures, P(right) and thresholds come from the validation
rows of each run alone; a run without any has the part on edits alone. Takes runs with a frozen encoder: each edited
text is encoded once for all of them, and kept in --cache_dir.
"""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from torch import Tensor

from .. import calibration
from ..calibration import best_label, best_single_llm, calibration_error, distribution, held_out_rows, reliability
from ..checkpoint_files import CheckpointError
from ..config import HardwareConfig, bounded, parse_arguments
from ..data import RoutingData, gains
from ..files import write_json, write_text
from ..meters import bar
from ..metrics import averages
from ..plots import save
from ..tasks import task_of
from ..training_set import TrainingSet, reopen_training_set
from .certainty_page import coverage_figure, page, reliability_figure
from .edits import EDITS
from .frozen_routers import FrozenEncoder, FrozenRouter, open_frozen
from .runs import runs_below

PROGRAM = "python -m utils.report.certainty"
COVERAGES = tuple(range(100, -1, -10))  # in %, of the validation rows
SIDES = ("ID", "OOD")


@dataclass(frozen=True)
class Arguments:
    """options"""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """folders of finished runs with a frozen encoder, or folders above them"""
    edited_queries: int = bounded(0, at_least=0)
    """edit this many of the first queries of each test file; 0: all"""
    results: Path = Path("results")
    """folder of certainty.md and certainty.json; the figures go into figures/ there"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)


@dataclass(frozen=True)
class Routed:
    """Queries of one file, and what a router makes of them.

    similarities: (N, T). right: (N, T), what each LLM earns.
    """

    similarities: np.ndarray
    right: np.ndarray

    @property
    def picks(self) -> np.ndarray:
        """The LLM picked, (N,)."""
        return self.similarities.argmax(axis=1)

    def picked(self, values: np.ndarray) -> np.ndarray:
        """The values (N, T) of the picks, (N,)."""
        return values[np.arange(len(values)), self.picks]


def routed(router: FrozenRouter, data: RoutingData, encoded: Tensor) -> Routed:
    """A file by a router whose LLMs are all in it."""
    return Routed(router.similarities(encoded), gains(data.for_llms(router.llms).scores, data.kind))


# Calibration


def estimates_of(fitted: Mapping[str, Any], llms: Sequence[str], means: np.ndarray) -> dict[str, Callable]:
    """What may stand for P(the pick is right): title to a function of similarities (N, T) -> (N, T).

    means: (T,), how often each LLM is right on the validation rows.
    """
    return {
        "R(x)": distribution,
        "R(x), fitted temperature": lambda values: distribution(values, fitted["temperature"]),
        "the LLM's mean": lambda values: np.broadcast_to(means, values.shape),
        "P(right)": lambda values: calibration.probabilities(values, fitted, llms),
    }


def errors(tests: Mapping[str, Routed], estimate: Callable) -> dict[str, float]:
    """Calibration errors of an estimate for the picks of some files, in points: of bins of equal mass and width."""
    predicted = np.concatenate([file.picked(estimate(file.similarities)) for file in tests.values()])
    right = np.concatenate([file.picked(file.right) for file in tests.values()])
    return {equal: 100 * calibration_error(predicted, right, equal=equal) for equal in ("mass", "width")}


def best_errors(tests: Mapping[str, Routed], temperature: float) -> dict[str, float]:
    """The same of R(x) for what it stands for in training: that the pick is the best LLM (`best_label`)."""
    labels = {task: best_label(file.right) for task, file in tests.items()}
    kept = {task: label.sum(axis=1) > 0 for task, label in labels.items()}
    of_best = {task: Routed(file.similarities[kept[task]], labels[task][kept[task]]) for task, file in tests.items()}
    return errors(of_best, lambda values: distribution(values, temperature))


def coverage_points(
    held: Mapping[str, Routed],
    sides: Mapping[str, Mapping[str, Routed]],
    fitted: Mapping[str, Any],
    llms: Sequence[str],
    best: int,
) -> list[dict[str, Any]]:
    """Accuracy when the router abstains below a threshold of P(right), and the LLM `best` answers.

    Thresholds are quantiles of the validation rows: at coverage c the router routes about c % of these. Returns: for
    each of COVERAGES the threshold, the validation accuracy, and for each side {"coverage", "accuracy", "kept",
    "router", "fallback"} in %: over all queries, of the router where it routes, and of both where it abstains.
    """

    def sure_of(file: Routed) -> np.ndarray:
        return file.picked(calibration.probabilities(file.similarities, fitted, llms))

    certainty = np.concatenate([sure_of(file) for file in held.values()])
    points = []
    for coverage in COVERAGES:
        ends = {100: 0.0, 0: 1.0}  # P(right) is between them
        threshold = ends.get(coverage, float(np.quantile(certainty, 1 - coverage / 100)))
        point: dict[str, Any] = {"coverage": coverage, "threshold": threshold}
        point["validation"] = with_fallback(held, sure_of, threshold, best)["accuracy"]
        for side, tests in sides.items():
            point[side] = with_fallback(tests, sure_of, threshold, best)
        points.append(point)
    return points


def with_fallback(
    tests: Mapping[str, Routed], sure_of: Callable, threshold: float, best: int
) -> dict[str, float | None]:
    """One point of `coverage_points`: means over the tasks; of parts of the queries over these, None for no query."""
    accuracy, covered = [], []
    parts: dict[str, list[np.ndarray]] = {"kept": [], "router": [], "fallback": []}
    for file in tests.values():
        routes = sure_of(file) >= threshold
        by_router, by_best = file.picked(file.right), file.right[:, best]
        accuracy.append(np.where(routes, by_router, by_best).mean())
        covered.append(routes.mean())
        for name, values in (
            ("kept", by_router[routes]),
            ("router", by_router[~routes]),
            ("fallback", by_best[~routes]),
        ):
            parts[name].append(values)
    found = {"accuracy": 100 * float(np.mean(accuracy)), "coverage": 100 * float(np.mean(covered))}
    for name, values in parts.items():
        joined = np.concatenate(values)
        found[name] = 100 * float(joined.mean()) if len(joined) else None
    return found


def calibrated(
    router: FrozenRouter, training: TrainingSet, encoded: Tensor, tests: Mapping[str, Routed], inside: Sequence[str]
) -> dict[str, Any]:
    """All of a router with validation rows that is not about edits. encoded: (N, p), all training rows."""
    held = {}
    for data, rows in training.validation:
        held[data.task] = routed(router, data, encoded[rows])
    similarities = np.concatenate([file.similarities for file in held.values()])
    right = np.concatenate([file.right for file in held.values()])
    fitted = calibration.fit(similarities, right, router.llms)
    estimates = estimates_of(fitted, router.llms, right.mean(axis=0))
    sides = {side: {task: file for task, file in tests.items() if (task in inside) == (side == "ID")} for side in SIDES}
    found: dict[str, Any] = {"rows": len(right), "temperature": fitted["temperature"]}
    found["errors"] = {
        title: {side: errors(files, estimate) for side, files in sides.items()} for title, estimate in estimates.items()
    }
    found["best"] = {}
    for title, temperature in (("R(x)", 1.0), ("R(x), fitted temperature", fitted["temperature"])):
        found["best"][title] = {side: best_errors(files, temperature) for side, files in sides.items()}
    found["tasks"] = {}
    for task, file in tests.items():
        sure = file.picked(estimates["P(right)"](file.similarities))
        accuracy = file.picked(file.right).mean()
        of_task = {"P(right)": 100 * float(sure.mean()), "accuracy": 100 * float(accuracy)}
        found["tasks"][task] = of_task | {"error": errors({task: file}, estimates["P(right)"])["mass"]}
    best = router.llms.index(best_single_llm(training, router.llms))
    found["best_llm"] = router.llms[best]
    found["points"] = coverage_points(held, sides, fitted, router.llms, best)
    found["diagram"] = {}
    for side, files in sides.items():
        outcome = np.concatenate([file.picked(file.right) for file in files.values()])
        found["diagram"][side] = {}
        for title in ("R(x)", "R(x), fitted temperature", "P(right)"):
            predicted = np.concatenate([file.picked(estimates[title](file.similarities)) for file in files.values()])
            found["diagram"][side][title] = reliability(predicted, outcome, bins=10).tolist()
    return found


# Edits


def edited(
    router: FrozenRouter,
    tests: Sequence[RoutingData],
    encoded: Mapping[str, Mapping[str, Tensor]],
    inside: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Of each edit, per task in %, and as averages: how many picks change, and the accuracy after it, less before.

    encoded: task to {"": the queries as they are, edit: edited}. Scores are those of the LLMs on the plain question.
    """
    found = {}
    for edit in EDITS:
        changed, difference = {}, {}
        for data in tests:
            plain = routed(router, data, encoded[data.task][""])
            after = routed(router, data, encoded[data.task][edit])
            changed[data.task] = 100 * float((plain.picks != after.picks).mean())
            gap = after.picked(after.right).mean() - plain.picked(plain.right).mean()
            difference[data.task] = 100 * float(gap)
        found[edit] = {
            "changed": changed | averages(changed, inside),
            "difference": difference | averages(difference, inside),
        }
    return found


def encode_edited(
    encoder: FrozenEncoder, tests: Sequence[RoutingData], plain: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Encoder output of the queries of each file as they are ("", the first rows of `plain`) and after each edit."""
    encoded: dict[str, dict[str, Tensor]] = {}
    with bar(sum(map(len, tests)) * len(EDITS), "edited queries", "query") as progress:
        for data in tests:
            encoded[data.task] = {"": plain[data.task][: len(data)]}
            for edit, change in EDITS.items():
                texts = [change(question) for question in data.questions]
                encoded[data.task][edit] = encoder.encode(texts, f"{data.task}, {edit}")
                progress.update(len(texts))
    return encoded


def measure_all(args: Arguments) -> tuple[list[dict[str, Any]], str]:
    """What the page shows of each run, and the device.

    Raises: ValueError for runs that do not go together; DataError or CheckpointError for damaged or changed files.
    """
    runs = runs_below(args.runs)
    routers = [open_frozen(run) for run in runs]
    encoder = FrozenEncoder(runs, args.hardware)
    if encoder.tests[0].embeddings is not None:
        raise ValueError(f"{runs[0].folder}: its data are embeddings, and only text can be edited")
    most = args.edited_queries
    some = [data.rows(np.arange(min(len(data), most))) if most else data for data in encoder.tests]
    encoded = {data.task: encoder.encode(data.inputs, data.task) for data in encoder.tests}
    of_edits = encode_edited(encoder, some, encoded)
    found = []
    for router in routers:
        inside = [task_of(path) for path in router.run.settings["data_paths"]]
        entry = {"label": router.run.label, "seed": router.run.seed}
        entry["edits"] = edited(router, some, of_edits, inside)
        training = reopen_training_set(router.run.settings, router.run.folder)
        if held_out_rows(training, router.run.settings) is not None:
            tests = {data.task: routed(router, data, encoded[data.task]) for data in encoder.tests}
            rows = encoder.encode(training.inputs, "training queries")
            entry["certainty"] = calibrated(router, training, rows, tests, inside)
        found.append(entry)
    return found, encoder.router.hardware.describe()


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted (what is encoded is kept)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        args = parse_arguments(Arguments, words, PROGRAM, __doc__)
        begun = time.monotonic()
        entries, device = measure_all(args)
        about = {"command": f"{PROGRAM} {shlex.join(words)}", "device": device}
        about |= {"seconds": round(time.monotonic() - begun), "edited_queries": args.edited_queries}
        text = page(entries, about)
        (args.results / "figures").mkdir(parents=True, exist_ok=True)
        write_json(args.results / "certainty.json", about | {"runs": entries})
        write_text(args.results / "certainty.md", text)
        if any("certainty" in entry for entry in entries):
            save(reliability_figure(entries), args.results / "figures" / "reliability.png")
            save(coverage_figure(entries), args.results / "figures" / "coverage.png")
        print(f"{text}\nwritten to {args.results / 'certainty.md'}, certainty.json and figures/")
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with what is not yet encoded", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
