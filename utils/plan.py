"""Train many runs: every variant of a plan with every seed, a few at a time.

Finished runs are skipped, and stopped ones go on.

    python -m utils.plan --plan train_scripts/plans/ablations.yaml --seeds 1 2 --only lambda H --dry_run
    python -m utils.plan --recipe tuned --seeds 1 2 3              one recipe, in runs/minilm_tuned/paper/seed_N

All other flags, such as `--device cuda`, go to train_router_mdeberta.py for every run. They change the settings that
all variants share, but not what a variant sets itself.

A plan is a YAML file:

    runs: runs/ablations/minilm_frozen     folder of the runs: DIR/NAME/seed_N
    seeds: [1, 2, 3, 4, 5]
    settings: {recipe: frozen}             of all runs: a recipe, and flags that change it
    label: minilm_frozen                   for axes: name in results, a variant's is "LABEL AXIS=VALUE"
    axes:                                  one setting changed at a time; a value that the settings have is left out
      H: {H: [1, 2, 5]}                    a flag and its values
      sample_sample:                       or values by name, each with its settings
        none: {cluster_loss_weight: 0}
      N:                                   or values and a template: {value}, {runs}, and in `before` every setting
        values: [2, 3]
        settings: {data_paths: ["{runs}/clusters/{value}/mmlu_train.json"]}
        before: python -m utils.clustering --encoder {encoder} --clusters {value} --output {runs}/clusters/{value}
        creates: "{runs}/clusters/{value}"
    variants:                              or whole variants by name, which may have seeds and a label of their own;
      paper: {temperature: 0.2}            without a label and a recipe, the name is the label

The command `before` runs before all training, where the file or folder that `creates` names is not there yet. Entries
that begin with "x-" are for YAML anchors.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from .config import CUSTOM, PROGRAM, Config, flags_of, leaves, parse_config, recipes, settings_of
from .jobs import Run, stoppable, train_all

RUNS, SEEDS = "runs", (1, 2, 3, 4, 5)  # of a recipe without a plan
DEFAULT_RESULTS = "results"  # what the recipes of the repository are collected into
SETTINGS = {name for name, _ in leaves(Config())} | {"recipe", "config"}
BASE = "base"  # the variant of an ablation that changes nothing
KINDS = {"runs": str, "seeds": list, "settings": dict, "label": str, "axes": dict, "variants": dict}  # parts of a plan
TEMPLATE = {"values", "settings", "before", "creates"}  # parts of an axis that is a template
HARDWARE = {"device", "precision", "threads"}  # settings with which a run is still what a plan says


@dataclass(frozen=True)
class Variant:
    """Settings that are trained with several seeds.

    name: of its folder, and what --only finds, with its axis. words: its arguments for the trainer, but seed and
    folder; config: these, parsed. before: the words of a command that makes its input, the folder or file `creates`.
    """

    name: str
    words: tuple[str, ...]
    config: Config
    axis: str = ""
    seeds: tuple[int, ...] | None = None
    before: tuple[str, ...] = ()
    creates: str = ""


# Reading a plan


def read_plan(path: Path) -> dict[str, Any]:
    """A plan as its file has it.

    Raises: ValueError, naming the file, for what is no plan.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such plan; train_scripts/plans/ has some")
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    try:
        check_plan(plan)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return plan


def check_plan(plan: Any) -> None:
    """Raise ValueError for what lacks a part of a plan or has another kind of value; `variant_of` checks settings."""
    if not isinstance(plan, dict) or not {"runs", "seeds"} <= plan.keys():
        raise ValueError("a plan is a mapping with at least runs and seeds (`python -m utils.plan --help`)")
    plan = {str(key): value for key, value in plan.items() if not str(key).startswith("x-")}
    if unknown := sorted(plan.keys() - KINDS.keys()):
        raise ValueError(f"{', '.join(unknown)} is no part of a plan; they are {', '.join(sorted(KINDS))}")
    for key, value in plan.items():
        if not isinstance(value, KINDS[key]):
            raise ValueError(f"{key} is {value!r}; it must be a {KINDS[key].__name__}")
    check_seeds(plan["seeds"], "seeds")
    if not plan.get("axes") and not plan.get("variants"):
        raise ValueError("nothing to train; a plan has axes or variants")
    if plan.get("axes") and "label" not in plan:
        raise ValueError("a plan with axes needs a label, the name of its rows in results")
    for name, changes in plan.get("variants", {}).items():
        if not isinstance(changes, dict | None):
            raise ValueError(f"{name}: expected settings, found {changes!r}")
        check_seeds((changes or {}).get("seeds", [1]), f"seeds of {name}")


def check_seeds(seeds: Any, title: str) -> None:
    """Raise ValueError, with what they are called, for what are no seeds."""
    is_list = isinstance(seeds, list) and seeds
    if not is_list or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError(f"{title}: expected a list of whole numbers from 0, found {seeds!r}")


def variants_of(plan: Mapping[str, Any], folder: str, extra: Sequence[str], label: str | None) -> list[Variant]:
    """All variants of a plan; for a plan with axes the unchanged settings first.

    Args:
        folder: of the runs.
        extra: arguments for the trainer that change the plan's settings.
        label: in place of the plan's.
    Raises: ValueError, naming the variant, for what is no setting or has a value out of its bounds.
    """
    settings, variants = plan.get("settings", {}), []
    for name, changes in plan.get("variants", {}).items():
        own = dict(changes or {})
        seeds = own.pop("seeds", None)
        own_label = own.pop("label", None if "recipe" in settings | own else str(name))
        variant = variant_of(str(name), settings, extra, own, own_label)
        variants.append(replace(variant, seeds=tuple(seeds) if seeds else None))
    if plan.get("axes"):
        variants += variants_of_axes(plan["axes"], settings, folder, extra, label or plan["label"])
    return variants


def variants_of_axes(
    axes: Mapping[str, Any], settings: Mapping[str, Any], folder: str, extra: Sequence[str], label: str
) -> list[Variant]:
    """The settings unchanged, and with each value of each axis that they do not have."""
    base = variant_of(BASE, settings, extra, {}, label)
    variants = [base]
    for axis, values in axes.items():
        for value, changes in values_of(str(axis), values, folder):
            name = f"{axis}={value}".replace("/", "_")
            variant = variant_of(name, settings, extra, changes, f"{label} {name}")
            if settings_of(variant.config) == settings_of(base.config):
                continue
            if "before" in values:
                fields = dict(leaves(variant.config)) | {"value": value, "runs": folder}
                before = tuple(filled(word, fields, name) for word in shlex.split(values["before"]))
                variant = replace(variant, before=before, creates=filled(values["creates"], fields, name))
            variants.append(replace(variant, axis=str(axis)))
    return variants


def values_of(axis: str, values: Any, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The values of an axis by name, each with its settings.

    Raises: ValueError, naming the axis, for what is none of its three forms.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{axis}: expected a flag with a list of values, or settings by name; found {values!r}")
    if "values" in values:
        if not {"values", "settings"} <= values.keys() <= TEMPLATE or ("before" in values) != ("creates" in values):
            raise ValueError(f"{axis}: a template has values and settings, and both or none of before and creates")
        for value in values["values"]:
            fields, changes = {"value": value, "runs": folder}, {}
            for name, template in values["settings"].items():
                is_list = isinstance(template, list)
                texts = [filled(str(text), fields, axis) for text in (template if is_list else [template])]
                changes[name] = texts if is_list else texts[0]
            yield str(value), changes
        return
    for name, given in values.items():
        if isinstance(given, list):
            for value in given:
                yield str(value), {name: value}
        elif isinstance(given, dict):
            yield str(name), given
        else:
            raise ValueError(f"{axis}: {name} is {given!r}; it must be a list of values, or settings")


def filled(template: str, fields: Mapping[str, Any], name: str) -> str:
    """A template with its fields filled.

    Raises: ValueError with the name of what it belongs to, for a field that is not there.
    """
    try:
        return template.format(**fields)
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"{name}: {template!r} names a field in braces that is not there") from None


def variant_of(
    name: str, settings: Mapping[str, Any], extra: Sequence[str], changes: Mapping[str, Any], label: str | None
) -> Variant:
    """A variant by what all have, what the command line adds, and what is its own, which has the last word.

    label: in results; None leaves it to the trainer.
    Raises: ValueError, with its name, for what is no setting or has a value that it cannot have.
    """
    shared = {setting: value for setting, value in settings.items() if setting not in changes}
    if unknown := sorted(str(setting) for setting in {*shared, *changes} if setting not in SETTINGS):
        raise ValueError(f"{name}: no setting is called {', '.join(unknown)}; `{PROGRAM} --help` lists them all")
    words = [*flags_of(shared), *extra, *flags_of(changes)]
    if label is not None:
        words += ["--label", label]
    try:
        return Variant(name, tuple(words), parse_config(words))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    except SystemExit:  # the parser has said on stderr which flag it is
        raise ValueError(f"{name}: the trainer does not take these settings, see above") from None


# What a command line trains


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
    p.add_argument("--label", help="name in results; with --plan: of its axes, in place of the plan's")
    p.add_argument("--name", help="without --plan: folder below that of the runs; default: ENCODER_LABEL/FIDELITY")
    p.add_argument("--runs", help="folder of the runs; default: that of the plan")
    p.add_argument("--jobs", type=int, default=2, help="runs at a time")
    threads = "of each run, 0: as many as cores; it can change the last digits"
    p.add_argument("--threads", type=int, default=1, help=threads)
    p.add_argument("--processes", type=int, default=1, help="of each run, such as one for each GPU (torchrun)")
    p.add_argument("--accelerate_config", type=Path, metavar="FILE", help="start each run by accelerate launch")
    p.add_argument("--dry_run", action="store_true", help="print the commands that are left to do")
    p.add_argument("--collect", metavar="DIR", help="add the runs to DIR/runs.jsonl and make its tables (utils.report)")
    return p


def planned(args: argparse.Namespace, extra: Sequence[str]) -> tuple[list[Variant], list[Run]]:
    """The variants and runs of a command line, finished or not. extra: arguments for the trainer.

    Raises: ValueError for what is no plan, a name in --only that the plan lacks, or a flag that does not go with it.
    """
    check_flags(args, extra)
    if args.plan is None:
        variants, seeds, folder = [variant_of_recipe(args, extra)], SEEDS, args.runs or RUNS
        if args.collect and Path(args.collect) == Path(DEFAULT_RESULTS):
            check_label(args.label, extra)
    else:
        plan = read_plan(args.plan)
        seeds, folder = plan["seeds"], args.runs or plan["runs"]
        try:
            if args.label and not plan.get("axes"):
                raise ValueError("--label is for a recipe or a plan with axes; these variants have labels of their own")
            variants = variants_of(plan, folder, extra, args.label)
        except ValueError as error:
            raise ValueError(f"{args.plan}: {error}") from None
        if extra:
            check_settings(args, plan, variants, extra)
    if args.only:
        names = {variant.name for variant in variants} | {variant.axis for variant in variants}
        if unknown := sorted(set(args.only) - names):
            raise ValueError(f"--only names {', '.join(unknown)}; this plan has {', '.join(sorted(names - {''}))}")
        chosen = {*args.only, BASE}
        variants = [variant for variant in variants if {variant.name, variant.axis} & chosen]
    runs = runs_of(variants, seeds, args.seeds, Path(folder), args.threads)
    runs = [replace(run, launcher=launcher_of(args)) for run in runs]
    if not runs:
        raise ValueError(f"--seeds {shlex.join(map(str, args.seeds))}: the plan has none of these")
    return variants, runs


def check_flags(args: argparse.Namespace, extra: Sequence[str]) -> None:
    """Raise ValueError, naming the flag, for one that is out of its bounds or has no place here."""
    for name, least in (("jobs", 1), ("threads", 0), ("processes", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be at least {least}")
    if args.seeds and min(args.seeds) < 0:
        raise ValueError(f"--seeds has {min(args.seeds)}; it must be at least 0")
    if args.plan and args.name:
        raise ValueError("--name is for a recipe; a plan names the folders of its variants (--runs is the one above)")
    if args.accelerate_config and args.processes > 1:
        raise ValueError(
            "--processes and --accelerate_config (NPROC and ACCELERATE_CONFIG of a script) exclude each other"
        )
    if args.accelerate_config and not args.accelerate_config.is_file():
        raise ValueError(f"--accelerate_config {args.accelerate_config}: no such file; `accelerate config` writes one")
    given = {word.split("=")[0] for word in extra}
    for flag, ours in (("--seed", "--seeds"), ("--save_path", "--runs")):
        if flag in given:
            raise ValueError(f"{flag} is of a single run (train_router_mdeberta.py); give {ours}")


def launcher_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The words before each training's own that start several processes of it; none for one process."""
    if args.accelerate_config:
        return ("accelerate", "launch", "--config_file", str(args.accelerate_config))
    if args.processes > 1:
        return ("torchrun", "--standalone", "--nproc_per_node", str(args.processes))
    return ()


def variant_of_recipe(args: argparse.Namespace, extra: Sequence[str]) -> Variant:
    """The one variant of a command without a plan; without --name its folder is ENCODER_LABEL/FIDELITY."""
    variant = variant_of("these settings", {}, extra, {}, args.label)
    encoder, label = Path(variant.config.encoder.encoder).name, variant.config.run.label
    return replace(variant, name=args.name or f"{encoder}_{label}/{variant.config.loss.fidelity}")


def check_label(label: str | None, extra: Sequence[str]) -> None:
    """Raise ValueError if a row of results/ would have no name, or that of a recipe with other settings."""
    own = parse_config(extra).run.label  # what these settings are called without --label
    is_nameless = label is None and own == CUSTOM
    is_taken = label in recipes() and label != own
    if is_nameless or is_taken:
        raise ValueError(
            f"with other settings ({shlex.join(extra)}) this is not what {DEFAULT_RESULTS}/ has a row of: "
            "name its row with --label, or --collect into another folder"
        )


def check_settings(
    args: argparse.Namespace, plan: Mapping[str, Any], variants: Sequence[Variant], extra: Sequence[str]
) -> None:
    """Raise ValueError if arguments for the trainer make a plan's runs other than the plan in the plan's own places.

    These are its folder of runs, and results/ with --collect. Only the device and the precision may be others there.
    """
    is_own = args.runs is not None and Path(args.runs) != Path(plan["runs"])
    if is_own and Path(args.collect or "") != Path(DEFAULT_RESULTS):
        return
    before = {variant.name: variant for variant in variants_of(plan, args.runs or plan["runs"], (), None)}
    for variant in variants:
        ours = settings_of(variant.config)
        theirs = settings_of(before[variant.name].config) if variant.name in before else {}
        changed = {name for name in ours if ours[name] != theirs.get(name)} - HARDWARE
        if changed:
            raise ValueError(
                f"with other settings ({shlex.join(extra)}) {variant.name} is not what the plan says: give the runs "
                "and the results folders of their own (--runs and --collect, or RUNS and RESULTS of the script)"
            )


def runs_of(
    variants: Sequence[Variant], seeds: Sequence[int], chosen: Sequence[int] | None, folder: Path, threads: int = 0
) -> list[Run]:
    """One run for each variant and seed: all variants of one seed before the next seed.

    seeds: of the variants that have none of their own.
    chosen: seeds in place of those; of variants with seeds of their own, only these are trained. None: all.
    threads: of each run, 0 for as many as cores.
    """
    runs, given = [], ("--threads", str(threads)) if threads else ()
    if wrong := [variant.name for variant in variants if ".." in Path(variant.name).parts]:
        raise ValueError(f"{wrong[0]}: the folder of a run stands in {folder}; give a name without ..")
    own_seeds = [seed for variant in variants for seed in variant.seeds or ()]
    for seed in dict.fromkeys(chosen or [*seeds, *own_seeds]):
        for variant in variants:
            if seed in (variant.seeds or chosen or seeds):
                save_path = folder / variant.name / f"seed_{seed}"
                beside = ("--seed", str(seed), *given, "--save_path", str(save_path))
                runs.append(Run(save_path, (*variant.words, *beside)))
    return runs


# Doing it


def make_inputs(variants: Sequence[Variant], dry_run: bool) -> None:
    """Run the commands that variants need before, where what they make is not there; print them with `dry_run`.

    Raises: ValueError for a command that fails.
    """
    for variant in variants:
        if not variant.before or Path(variant.creates).exists():
            continue
        command = shlex.join(variant.before)
        if dry_run:
            print(command)
            continue
        words = [sys.executable if word == "python" else word for word in variant.before]
        if subprocess.run(words).returncode:
            raise ValueError(f"this command failed: {command}")


def collect(runs: Sequence[Run], results: str) -> int:
    """Add the runs to results; returns the exit status of utils.report."""
    from .report.__main__ import main as report  # slow to import: not for those who only plan

    folders = sorted({str(run.folder.parent) for run in runs})
    return report([*folders, "--results", results])


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input or a run that failed, 130 when interrupted."""
    args, extra = parser().parse_known_args(argv)
    try:
        variants, runs = planned(args, extra)
        pending = [run for run in runs if not run.is_finished()]
        with stoppable():
            make_inputs(variants, args.dry_run)
            if args.dry_run:
                for run in pending:
                    print(run.line)
                return 0
            train_all(pending, args.jobs)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130
    return collect(runs, args.collect) if args.collect else 0


if __name__ == "__main__":
    sys.exit(main())
