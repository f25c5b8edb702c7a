"""Train many runs: every variant of a plan with every seed, a few at a time.

Finished runs are skipped, and stopped ones go on.

    python -m utils.plan --plan train_scripts/plans/ablations.yaml --seeds 1 2 --only lambda H --dry_run
    python -m utils.plan --recipe tuned --seeds 1 2 3              one recipe, in runs/minilm_tuned/paper/seed_N

Flags that are not those of this command go to train_router_mdeberta.py, for every run: `--device cuda`.

A plan is a YAML file:

    runs: runs/ablations/minilm_frozen     folder of the runs: DIR/NAME/seed_N
    seeds: [1, 2, 3, 4, 5]
    settings: {recipe: frozen}             of all runs: a recipe, and flags that change it
    label: minilm_frozen                   name in results; a variant of an axis appends " axis=value"
    axes:                                  one setting changed at a time; a value that the settings have is left out
      H: {H: [1, 2, 5]}                    a flag and its values
      sample_sample:                       or values by name, each with its settings
        none: {cluster_loss_weight: 0}
      N:                                   or values and a template, with a command that is run before
        values: [2, 3]
        settings: {data_paths: ["{runs}/clusters/{value}/mmlu_train.json"]}
        before: python -m utils.clustering --clusters {value} --output {runs}/clusters/{value}
        creates: "{runs}/clusters/{value}"
    variants:                              or whole variants by name, which may have seeds and a label of their own;
      paper: {temperature: 0.2}            without a label and a recipe, the name is the label

Entries that begin with "x-" are for YAML anchors.
"""

import argparse
import json
import multiprocessing
import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import yaml

from utils.config import CUSTOM, PROGRAM, Config, flags_of, has_settings_of, leaves, parse_config, settings_of
from utils.meters import bar
from utils.report.__main__ import main as report

TRAINER = Path(__file__).parents[1] / "train_router_mdeberta.py"
DEFAULT_RESULTS = "results"  # what the recipes of the repository are collected into
SETTINGS = {name for name, _ in leaves(Config())} | {"recipe", "config"}
BASE = "base"  # the variant of an ablation that changes nothing
KEYS = {"runs", "seeds", "settings", "label", "axes", "variants"}


@dataclass(frozen=True)
class Variant:
    """Settings that are trained with several seeds.

    name: of its folder, and what --only finds, with its axis. label: in results; None leaves it to the trainer.
    """

    name: str
    settings: Mapping[str, Any]
    label: str | None = None
    axis: str = ""
    seeds: tuple[int, ...] | None = None
    before: str | None = None
    creates: str | None = None


@dataclass(frozen=True)
class Run:
    """One run: its folder, and the arguments of the trainer."""

    folder: Path
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """The run as a line for a shell."""
        return f"{PROGRAM} {shlex.join(self.arguments)}"

    def is_finished(self) -> bool:
        """Whether its results are there, made by this very command. The trainer judges all others."""
        path = self.folder / "results.json"
        return path.is_file() and json.loads(path.read_text())["command"] == self.command


def read_plan(path: Path) -> dict[str, Any]:
    """A plan as its file has it. Raises: ValueError naming the file for what is no plan."""
    if not path.is_file():
        raise ValueError(f"{path}: no such plan; train_scripts/plans/ has some")
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(plan, dict) or not {"runs", "seeds"} <= plan.keys():
        raise ValueError(f"{path}: a plan is a mapping with at least runs and seeds (`python -m utils.plan --help`)")
    unknown = sorted(key for key in plan if key not in KEYS and not str(key).startswith("x-"))
    if unknown:
        raise ValueError(f"{path}: {', '.join(unknown)} is no part of a plan; they are {', '.join(sorted(KEYS))}")
    return plan


def variants_of(plan: Mapping[str, Any], runs: str) -> Iterator[Variant]:
    """All variants of a plan; for a plan with axes the unchanged settings first. runs: the folder of the runs.

    Raises: ValueError, naming the variant, for what is no setting or has a value out of its bounds.
    """
    settings, label = plan.get("settings", {}), plan.get("label")
    for name, changes in plan.get("variants", {}).items():
        own = settings | (changes or {})
        seeds = own.pop("seeds", None)
        own_label = own.pop("label", None if "recipe" in own else name)
        config_of(name, own)
        yield Variant(name, own, own_label, seeds=tuple(seeds) if seeds else None)
    if "axes" not in plan:
        return
    yield Variant(BASE, settings, label)
    base = settings_of(config_of(BASE, settings))
    for axis, values in plan["axes"].items():
        for value, changes, before, creates in values_of(values, runs):
            changed = settings | changes
            name = f"{axis}={value}".replace("/", "_")
            if settings_of(config_of(name, changed)) == base:
                continue
            yield Variant(name, changed, f"{label} {name}", axis, before=before, creates=creates)


def config_of(name: str, settings: Mapping[str, Any]) -> Config:
    """The settings of a variant, checked; ValueError has its name."""
    if unknown := sorted(str(setting) for setting in settings if setting not in SETTINGS):
        raise ValueError(f"{name}: no setting is called {', '.join(unknown)}; `{PROGRAM} --help` lists them all")
    try:
        return parse_config(flags_of(settings))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def values_of(axis: Mapping[str, Any], runs: str) -> Iterator[tuple[str, dict, str | None, str | None]]:
    """The values of an axis: name, settings, command to run before, and what that makes."""
    if "values" in axis:
        for value in axis["values"]:
            fill = {"value": value, "runs": runs}
            settings = {
                name: [text.format(**fill) for text in given] if isinstance(given, list) else str(given).format(**fill)
                for name, given in axis["settings"].items()
            }
            before = axis["before"].format(**fill) if "before" in axis else None
            yield str(value), settings, before, axis["creates"].format(**fill) if "creates" in axis else None
        return
    for name, given in axis.items():
        if isinstance(given, list):
            for value in given:
                yield str(value), {name: value}, None, None
        else:
            yield str(name), given, None, None


def runs_of(variants: Sequence[Variant], seeds: Sequence[int], folder: Path, extra: Sequence[str]) -> list[Run]:
    """One run for each variant and seed: all variants of one seed before the next seed."""
    runs = []
    for seed in seeds:
        for variant in variants:
            if variant.seeds and seed not in variant.seeds:
                continue
            save_path = folder / variant.name / f"seed_{seed}"
            words = flags_of(variant.settings)
            words += ["--label", variant.label] if variant.label else []
            words += ["--seed", str(seed), "--save_path", str(save_path), *extra]
            runs.append(Run(save_path, tuple(words)))
    return runs


def train(run: Run, threads: int) -> None:
    """Train one run in this process, a child; what it prints goes to log.txt in the run's folder."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    run.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(run.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [str(TRAINER), *run.arguments]
    runpy.run_path(str(TRAINER), run_name="__main__")


def train_all(runs: Sequence[Run], jobs: int, threads: int) -> None:
    """Train the runs, `jobs` at a time, each in a process of its own.

    Libraries are imported once: on Linux a child is a copy of this process. The first run is alone, since it computes
    what the others find in the cache.
    Raises: ValueError with the end of the log for the first run that fails; the others stop and can go on later.
    """
    import utils.training  # noqa: F401, for the children

    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting, active = list(runs), {}
    with bar(len(runs), "runs", "run") as progress:
        try:
            while waiting or active:
                limit = 1 if progress.n == 0 else jobs
                while waiting and len(active) < limit:
                    run = waiting.pop(0)
                    child = context.Process(target=train, args=(run, threads))
                    child.start()
                    active[child.sentinel] = child, run
                for sentinel in wait(list(active)):
                    child, run = active.pop(sentinel)
                    child.join()
                    if child.exitcode:
                        raise ValueError(f"this command failed: {run.command}\n{end_of_log(run)}")
                    progress.update()
        finally:
            for child, _ in active.values():
                child.terminate()
            for child, _ in active.values():
                child.join()


def end_of_log(run: Run, lines: int = 5) -> str:
    """The last lines that a run printed."""
    log = run.folder / "log.txt"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else ""


def make_inputs(variants: Sequence[Variant], dry_run: bool) -> None:
    """Run the commands that variants need before, where what they make is not there; print them with `dry_run`."""
    for variant in variants:
        if variant.before is None or Path(variant.creates).exists():
            continue
        if dry_run:
            print(variant.before)
        else:
            subprocess.run(shlex.split(variant.before), check=True)


def plan_of_recipe(arguments: Sequence[str], name: str | None) -> dict[str, Any]:
    """A plan of one variant for the trainer's arguments; without a name its folder is ENCODER_LABEL/FIDELITY."""
    config = parse_config(arguments)
    name = name or f"{Path(config.encoder.encoder).name}_{config.run.label}/{config.loss.fidelity}"
    unnamed = {"label": None}  # the trainer names it: --label, or the recipe
    return {"runs": "runs", "seeds": [1, 2, 3, 4, 5], "variants": {name: unnamed}}


def parser() -> argparse.ArgumentParser:
    """The arguments of this command; all others are the trainer's."""
    p = argparse.ArgumentParser(
        prog="python -m utils.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--plan", type=Path, help="YAML file; without one, --recipe is trained with several seeds")
    p.add_argument("--seeds", nargs="+", type=int, help="default: those of the plan")
    p.add_argument("--only", nargs="+", metavar="NAME", help="axes or variants; default: all")
    p.add_argument("--name", help="without --plan: folder below that of the runs; default: ENCODER_LABEL/FIDELITY")
    p.add_argument("--runs", help="folder of the runs; default: that of the plan")
    p.add_argument("--jobs", type=int, default=2, help="runs at a time")
    p.add_argument(
        "--threads", type=int, default=1, help="of each run, 0: as many as cores; it can change the last digits"
    )
    p.add_argument("--dry_run", action="store_true", help="print the commands that are left to do")
    p.add_argument("--collect", metavar="DIR", help="add the runs to DIR/runs.jsonl and make its tables (utils.report)")
    return p


def check_labels(variants: Sequence[Variant], extra: Sequence[str]) -> None:
    """Raise ValueError if further flags make other settings of a variant, whose row in results would keep its name."""
    for variant in variants:
        settings = flags_of(variant.settings)
        config = parse_config([*settings, *extra])
        renamed = variant.label and not has_settings_of(config, parse_config(settings))
        if renamed or (variant.label is None and config.run.label == CUSTOM):
            by_label = "name its row with --label, or " if len(variants) == 1 and variant.label is None else ""
            raise ValueError(
                f"with other settings ({' '.join(extra)}) this is not what {DEFAULT_RESULTS}/ has a row of: "
                f"{by_label}--collect into another folder"
            )


def planned(args: argparse.Namespace, extra: Sequence[str]) -> tuple[list[Variant], list[Run]]:
    """The variants and runs of a command line, finished or not. extra: arguments for the trainer.

    Raises: ValueError for what is no plan, or a name in --only that it has not.
    """
    plan = read_plan(args.plan) if args.plan else plan_of_recipe(extra, args.name)
    folder = args.runs or plan["runs"]
    try:
        variants = list(variants_of(plan, folder))
    except ValueError as error:
        raise ValueError(f"{args.plan}: {error}" if args.plan else str(error)) from None
    if args.only:
        names = {variant.name for variant in variants} | {variant.axis for variant in variants}
        if unknown := sorted(set(args.only) - names):
            raise ValueError(f"--only names {', '.join(unknown)}; this plan has {', '.join(sorted(names - {''}))}")
        variants = [variant for variant in variants if {variant.name, variant.axis} & {*args.only, BASE}]
    if args.collect == DEFAULT_RESULTS:
        check_labels(variants, extra)
    return variants, runs_of(variants, args.seeds or plan["seeds"], Path(folder), extra)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input or a run that failed, 130 when interrupted."""
    args, extra = parser().parse_known_args(argv)
    try:
        variants, runs = planned(args, extra)
        pending = [run for run in runs if not run.is_finished()]
        make_inputs(variants, args.dry_run)
        if args.dry_run:
            for run in pending:
                print(run.command)
            return 0
        train_all(pending, args.jobs, args.threads)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130
    if args.collect:
        folders = sorted({str(run.folder.parent) for run in runs})
        return report([*folders, "--results", args.collect])
    return 0


if __name__ == "__main__":
    sys.exit(main())
