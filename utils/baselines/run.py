"""Fit, test and write every (router, seed) as a run of its own; finished ones are skipped."""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..ceiling.known import known_ceilings
from ..config import changed_settings
from ..data import RoutingData
from ..evaluate import measure, picks_text
from ..experiment import Hardware, choose_hardware
from ..files import read_json, writable_folder, write_json, write_text
from ..meters import bar
from ..metrics import averages, references, utility
from ..tables import tables
from . import trained_encoder
from .arguments import Arguments
from .base import Choice, choose, settings_in
from .embeddings import Embeddings
from .problem import Problem
from .registry import CONTROLS, ROUTERS, VOTING
from .voting import answers_of, voting

NOTHING_CHOSEN = {"rule": "none", "step": None, "validation": None}


@dataclass(frozen=True)
class Run:
    """A router, control or voting, by its name on the command line, with one seed. settings: see `settings_of`."""

    key: str
    seed: int
    folder: Path
    settings: dict[str, Any]

    @property
    def fits(self) -> int:
        """How many settings of the router's grid are fitted."""
        return len(settings_in(ROUTERS[self.key])) if self.key in ROUTERS else 1


def name_of(args: Arguments, key: str) -> str:
    """What results call a router, control or voting."""
    if key == VOTING:
        return "Voting"
    if key in CONTROLS:
        return CONTROLS[key].name
    return ROUTERS[key].name + (trained_encoder.SUFFIX if args.encoder_ckpt else "")


def settings_of(problem: Problem, seed: int, key: str) -> dict[str, Any]:
    """What decides the result of a run. Controls and voting have no encoder; voting alone has answers, which are data.

    Raises: DataError if a file of answers is not there; CheckpointError or ValueError for a checkpoint that is no use.
    """
    args = problem.args
    settings = args.settings()
    files = {data.path: data.sha256 for data in [*problem.files, *problem.tests]}
    if key not in ROUTERS:
        settings |= {name: None for name in trained_encoder.OF_ENCODER}
        settings |= {"encoder": "none", "precision": None, "encoder_ckpt": None}
    elif args.encoder_ckpt:
        settings |= trained_encoder.settings_of(args, seed, problem.files)
    if key == VOTING:
        settings["answers"] = args.answers
        paths = [answers_of(data, args.answers) for data in problem.tests]
        files |= {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return settings | {"fidelity": "paper", "seed": seed, "data": files}


def is_finished(run: Run) -> bool:
    """Whether the run is there, with these settings. A setting that an older run does not know counts as its default.

    Raises: ValueError if it is there with other settings.
    """
    path = run.folder / "results.json"
    if not path.is_file():
        return False
    old = read_json(path, "remove that folder to run it again", ["settings"])["settings"]
    changed = changed_settings(old, run.settings, Arguments().settings())
    if changed:
        raise ValueError(
            f"{run.folder} holds a run with other settings ({'; '.join(changed)}). "
            "Choose another --save_path, or remove that folder"
        )
    return True


def planned(problem: Problem) -> list[Run]:
    """All runs of a command. What draws nothing is the same for every seed, and is run with the first one."""
    args, runs = problem.args, []
    for key in args.routers:
        draws = key in ROUTERS or (key in CONTROLS and CONTROLS[key].drawn)
        folder = name_of(args, key).replace(", ", "_").replace(" ", "_")
        for seed in args.seeds if draws else args.seeds[:1]:
            path = Path(args.save_path) / folder / f"seed_{seed}"
            runs.append(Run(key, seed, path, settings_of(problem, seed, key)))
    return runs


def fitted(problem: Problem, embeddings: Embeddings, run: Run, progress: tqdm) -> Choice:
    """The router of a run, its setting chosen on the validation rows of the seed.

    With the embeddings of a checkpoint, clusters are made anew in their space.
    """
    args, config = problem.args, problem.args.training_set
    embedded, _ = embeddings.of(run.seed)

    def worth(picks: np.ndarray, data: RoutingData) -> float:  # without a cost rate this is the accuracy
        return utility(picks, data, config.cost_rate)

    rows, validation = problem.rows(embedded, run.seed, everything=False, pooling=config.target_pooling)
    everything = None
    if args.refit:
        everything, _ = problem.rows(embedded, run.seed, everything=True, pooling=config.target_pooling)
    if args.encoder_ckpt:
        rows = trained_encoder.clustered(rows, run.seed)
        if everything is not None:
            everything = trained_encoder.clustered(everything, run.seed)
    return choose(ROUTERS[run.key], rows, validation, run.seed, everything, worth, progress)


def test_router(problem: Problem, embeddings: Embeddings, run: Run, progress: tqdm) -> tuple[dict, dict]:
    """Fit a router and test it: its selection, and what `utils.evaluate.measure` returns."""
    choice = fitted(problem, embeddings, run, progress)
    selection = {"rule": "best", "step": None, "validation": choice.validation, "setting": choice.setting}
    _, of_tests = embeddings.of(run.seed)
    picks = {}
    for x, data in zip(of_tests, problem.tests):
        picks[data.task] = choice.router.pick(x, problem.columns)
    return selection, measure(picks, problem.tests, problem.inside, problem.args.training_set.cost_rate)


def test_control(problem: Problem, run: Run) -> dict[str, Any]:
    """Test a control, which sees scores and tasks alone."""
    cost_rate = problem.args.training_set.cost_rate
    no_embeddings = [np.zeros((len(data), 1)) for data in problem.files]
    rows, _ = problem.rows(no_embeddings, run.seed, everything=True)
    control = CONTROLS[run.key](run.seed, cost_rate).fit(rows)
    picks = {data.task: control.pick(data, problem.columns) for data in problem.tests}
    return measure(picks, problem.tests, problem.inside, cost_rate)


def test_voting(problem: Problem) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Test voting: its accuracies, and what it earns on each query of a task, (N,)."""
    earned = {data.task: voting(data, problem.args.answers) for data in problem.tests}
    accuracies = {task: 100 * float(values.mean()) for task, values in earned.items()}
    return {
        "tasks": accuracies,
        **averages(accuracies, problem.inside),
        "in_distribution": [task for task in accuracies if task in problem.inside],
        "queries": {data.task: len(data) for data in problem.tests},
        "llms": list(problem.tests[0].llms),
        "references": references(problem.tests, known_ceilings(problem.tests)),
    }, earned


def write_run(run: Run, results: dict[str, Any], test: dict[str, Any], earned: dict[str, np.ndarray] | None) -> None:
    """Write tables.md, the picks (of voting, what each query earned), and at last results.json: then a run is finished.

    test: what `utils.evaluate.measure` returns. earned: of voting, by task, see `test_voting`.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    if earned is None:
        write_text(run.folder / "picks.json", picks_text(test))
        write_text(run.folder / "tables.md", tables(test, f"{results['router']} (this run)") + "\n")
    else:
        gains = {task: values.round(6).tolist() for task, values in earned.items()}
        write_text(run.folder / "gains.json", json.dumps(gains) + "\n")
    without_picks = {name: value for name, value in test.items() if name != "picks"}
    write_json(run.folder / "results.json", results | {"test": without_picks})


def run_one(
    problem: Problem, embeddings: Embeddings, run: Run, command: str, hardware: Hardware, progress: tqdm
) -> None:
    """Fit, test and write one run."""
    args, begun = problem.args, time.monotonic()
    selection, earned, label = NOTHING_CHOSEN, None, VOTING
    if run.key == VOTING:
        test, earned = test_voting(problem)
    elif run.key in CONTROLS:
        test, label = test_control(problem, run), "control"
    else:
        selection, test = test_router(problem, embeddings, run, progress)
        label = args.label
    results = {
        "router": name_of(args, run.key),
        "recipe": label,
        "settings": run.settings,
        "selection": selection,
        "tests": [{"path": data.path, "kind": data.kind} for data in problem.tests],
        "questions_in_training_files": problem.overlap,
        "seconds": round(time.monotonic() - begun, 1),
        "device": hardware.describe(),
        "precision": hardware.precision,
        "command": command,
    }
    write_run(run, results, test | {"dataset": args.data.dataset}, earned)


def run_all(args: Arguments, command: str) -> list[Path]:
    """Fit, test and write every (router, seed) that is not finished; returns the folders of all of them."""
    flags = args.hardware
    hardware = choose_hardware(flags.device, flags.precision, flags.threads, flags.tokens)
    root = Path(args.save_path)
    writable_folder(root, "--save_path")
    writable_folder(args.hardware.cache_dir, "--cache_dir")
    problem = Problem(args)
    runs = planned(problem)
    pending = [run for run in runs if not is_finished(run)]
    if len(pending) < len(runs):
        print(f"{root}: {len(runs) - len(pending)} of {len(runs)} runs are already done")

    embeddings = Embeddings(problem, hardware)
    for seed in dict.fromkeys(run.seed for run in pending if run.key in ROUTERS):
        embeddings.of(seed)  # with progress bars of their own
    with bar(sum(run.fits for run in pending), "baselines", "fit") as progress:
        done = 0
        for run in pending:
            progress.set_postfix_str(f"{name_of(args, run.key)}, seed {run.seed}", refresh=False)
            run_one(problem, embeddings, run, command, hardware, progress)
            done += run.fits
            progress.update(done - progress.n)  # settings that were not possible, and runs that fit nothing
    return [run.folder for run in runs]
