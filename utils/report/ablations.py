"""The table of the ablations: one setting changed at a time from one recipe, compared on the same seeds.

    python -m utils.report.ablations runs/ablations/minilm_frozen --lose_llms     add these runs, write the table
    python -m utils.report.ablations                                              write results/ablations.md again

`train_scripts/ablations.sh` trains the runs. A run's label is that of its recipe, or "recipe setting=value". With
--lose_llms, each LLM is taken away from the trained routers of the plain recipe at test time: no training, the arg-max
is among those left, and beside it stands the best that those left could do.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from ..checkpoint_files import CheckpointError
from ..config import HardwareConfig, parse_arguments
from ..files import write_text
from ..meters import bar
from ..tables import EMPTY, markdown, spread
from ..tasks import short_names
from .lost_llms import LIMITS, LOST, SIDES, lost_lines
from .results import line_of
from .runs import grouped, read_lines, replace_lines, runs_below, write_lines

PROGRAM = "python -m utils.report.ablations"
TRAIN_THEM = "`bash train_scripts/ablations.sh` trains them"
FILE, TABLE = "ablations.jsonl", "ablations.md"
KEY = ("recipe", "setting", "value", "seed")  # one line of ablations.jsonl for each
BASE = "base"  # the setting of a run of the plain recipe
COLUMNS = ("validation", *SIDES)

ABOUT = """\
Made by `bash train_scripts/ablations.sh` (`python -m utils.report.ablations` writes the tables again from \
ablations.jsonl, which holds every run with its seed, device, seconds and command). Accuracy in %, mean ± standard \
deviation over the seeds; a difference is that to the recipe on the same seeds, in points. One setting is changed at a \
time, all else is the recipe's; its own value is in bold. Choices are made on the validation column alone: it is the \
accuracy on held-out training rows at the chosen step. Fidelity row 5 validates on training rows, so its validation \
figure cannot be compared; row 2 (dropout) acts only where layers train."""
ABOUT_LOST = """\
The trained routers, with the arg-max among the LLMs left; beside them what those could do at best, picked on the test \
files."""


@dataclass(frozen=True)
class Arguments:
    """options"""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """folders of finished runs, or folders above them"""
    lose_llms: bool = False
    """also test the runs of the plain recipe without each LLM"""
    results: Path = Path("results")
    """folder of ablations.jsonl and ablations.md"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """of --lose_llms; the precision is always that of the training run"""


@dataclass(frozen=True)
class Axis:
    """A setting that is varied: its title, and the trainer's argument that holds its value, if there is just one."""

    title: str
    argument: str | None = None


AXES = {
    "lambda": Axis("lambda: weight of the sample-sample loss", "cluster_loss_weight"),
    "K+": Axis("K+: positive LLMs per query", "top_k"),
    "K-": Axis("K-: candidates for negative LLMs per query", "last_k"),
    "ties": Axis("which of several LLMs with one score are among the K+ or K-", "ties"),
    "columns": Axis("order of the LLMs' columns"),
    "files": Axis("order of the training files"),
    "H": Axis("H: out-of-group queries per query", "H"),
    "N": Axis("N: clusters of queries, made with this encoder (given: the ids in the data files)"),
    "learning_rate": Axis("learning rate", "learning_rate"),
    "similarity": Axis("similarity", "similarity_function"),
    "encoder": Axis("encoder and pooling"),
    "LLMs": Axis("number of LLMs"),
    "sample_sample": Axis("sample-sample loss by cluster or by task"),
    "rows": Axis("training rows per task", "training_samples_per_dataset"),
    "fidelity": Axis("rows of the README's table as released", "fidelity"),
    "targets": Axis("score target"),
}
SAMPLE_SAMPLE = {  # by whether the loss is by cluster, and whether it is by task
    (True, False): "cluster",
    (False, True): "task",
    (True, True): "both",
    (False, False): "none",
}
TARGETS = {  # by --targets and --target_shrinkage
    ("score", 0): "score",
    ("score", 1): "task_mean",
    ("gain", 0): "gain",
    ("gain", 1): "gain_task_mean",
}


# Lines


def value_text(value: object) -> str:
    """A value as tables print it: 0.001 for "1e-3", 1 for 1.0, other text as it is."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return str(value)


def value_order(value: str) -> tuple[bool, float, str]:
    """Sort key of a value: numbers by size, then texts by letter."""
    try:
        return False, float(value), ""
    except ValueError:
        return True, 0.0, value


def base_values(results: Mapping[str, Any]) -> dict[str, str]:
    """What the run of the plain recipe has on each axis."""
    settings = results["settings"]
    values = {name: value_text(settings[axis.argument]) for name, axis in AXES.items() if axis.argument}
    encoder = Path(settings["encoder"]).name
    targets, shrinkage = settings["targets"], settings["target_shrinkage"]
    return values | {
        "N": "given",
        "columns": "given",
        "files": "given",
        "encoder": encoder if settings["pooling"] is None else f"{encoder}_{settings['pooling']}",
        "LLMs": str(len(results["test"]["llms"])),
        "sample_sample": SAMPLE_SAMPLE[settings["cluster_loss_weight"] > 0, settings["sample_loss_weight"] > 0],
        "targets": TARGETS.get((targets, shrinkage), f"{targets} {shrinkage:g}"),
    }


def line_of_run(results: Mapping[str, Any]) -> dict[str, Any]:
    """The line of ablations.jsonl for one results.json.

    It is that of runs.jsonl, the setting, its value, and the validation accuracy in %; for the plain recipe also its
    values on all axes.
    Raises: ValueError for a run without a table, such as one with --no_final_eval.
    """
    if not {*SIDES} <= results["test"].keys():
        raise ValueError(
            f"the run of `{results['command']}` was not tested on in-distribution and out-of-distribution tasks"
        )
    recipe, _, change = results["recipe"].partition(" ")
    setting, _, value = change.partition("=")
    validation = results["selection"]["validation"]
    line = line_of(results) | {
        "recipe": recipe,
        "setting": setting or BASE,
        "value": value_text(value),
        "validation": None if validation is None else round(validation, 4),
    }
    return line if setting else line | {"base": base_values(results)}


def line_order(line: Mapping[str, Any]) -> tuple:
    """Sort key of a line: the order of the table. LLMs that are lost stay in the order in which they come."""
    settings = [BASE, *AXES]
    setting = line["setting"]
    number = settings.index(setting) if setting in settings else len(settings)
    return line["recipe"], number, setting, None if setting == LOST else value_order(line["value"]), line["seed"]


def add(lines: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """`lines` with `new` ones in place of those of the same recipe, setting, value and seed, in the table's order."""
    return sorted(replace_lines(lines, new, KEY), key=line_order)


def groups_of(lines: Iterable[dict[str, Any]], setting: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of one setting by value, in their order."""
    return grouped([line for line in lines if line["setting"] == setting], lambda line: line["value"])


# The page


def cells(group: Sequence[dict[str, Any]], base: Mapping[int, dict[str, Any]]) -> list[str]:
    """Validation, ID and OOD average, their paired differences to the base on the same seeds, and the number of seeds.

    base: the line of each seed.
    """
    row = []
    for name in COLUMNS:
        values = [line[name] for line in group if line[name] is not None]
        row.append(spread(values) if values else EMPTY)
    pairs = [(line, base[line["seed"]]) for line in group if line["seed"] in base]
    for name in COLUMNS:
        gaps = [line[name] - other[name] for line, other in pairs if None not in (line[name], other[name])]
        row.append(spread(gaps, "+") if gaps else EMPTY)
    return [*row, str(len(group))]


def recipe_table(lines: Sequence[dict[str, Any]]) -> str:
    """The rows of one recipe: itself, then every value of every setting; its own value stands in bold among them."""
    plain = [line for line in lines if line["setting"] == BASE]
    base = {line["seed"]: line for line in plain}
    rows = [["the recipe", "", *cells(plain, {})]] if plain else []
    settings = [setting for setting in grouped(lines, lambda line: line["setting"]) if setting not in (BASE, LOST)]
    for setting in settings:
        groups = groups_of(lines, setting)
        own = plain[0]["base"].get(setting) if plain else None
        title = AXES[setting].title if setting in AXES else setting
        values = {*groups} if own is None else {*groups, own}
        for value in sorted(values, key=value_order):
            if value in groups:
                rows.append([title, value, *cells(groups[value], base)])
            else:
                rows.append([title, f"**{value}**", *cells(plain, {})])
            title = ""
    columns = ["validation", "ID avg", "OOD avg"]
    differences = [f"{column}, difference" for column in columns]
    return markdown(["setting", "value", *columns, *differences, "seeds"], rows)


def lost_table(lines: Sequence[dict[str, Any]]) -> str:
    """Routers without one of their LLMs, beside the best that the LLMs left could do."""
    header, rows = ["lost LLM"], []
    for side in ("ID", "OOD"):
        header += [f"{side} {name}" for name in ("RouterDC", *LIMITS)]
    groups = groups_of(lines, LOST)
    names = short_names(groups)
    for value, group in groups.items():
        row = [names[value]]
        for side in SIDES:
            row.append(spread([line[side] for line in group]))
            row += [f"{group[0]['limits'][limit][side]:.2f}" for limit in LIMITS]
        rows.append([*row, str(len(group))])
    return markdown([*header, "seeds"], rows)


def page(lines: Sequence[dict[str, Any]]) -> str:
    """results/ablations.md."""
    paragraphs = ["# Ablations", ABOUT]
    for recipe, own in grouped(lines, lambda line: line["recipe"]).items():
        paragraphs += [f"## {recipe}", recipe_table(own)]
        if any(line["setting"] == LOST for line in own):
            paragraphs += [f"### {recipe}: an LLM lost at test time", ABOUT_LOST, lost_table(own)]
    return "\n\n".join(paragraphs) + "\n"


# The command


def new_lines(args: Arguments) -> list[dict[str, Any]]:
    """Lines of the runs that were named, with --lose_llms also those of routers without one of their LLMs."""
    runs = runs_below(args.runs, f"; {TRAIN_THEM}")
    lines = [line_of_run(run.results) for run in runs]
    if not args.lose_llms:
        return lines
    plain = [run.folder for run, line in zip(runs, lines) if line["setting"] == BASE]
    if not plain:
        raise ValueError(f"{' '.join(args.runs)}: no run of the plain recipe there, whose LLMs could be taken away")
    with bar(len(plain), "losing an LLM", "run") as progress:
        for folder in plain:
            lines += lost_lines(folder, args.hardware)
            progress.update()
    return lines


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    try:
        args = parse_arguments(Arguments, sys.argv[1:] if argv is None else argv, PROGRAM, __doc__)
        if args.lose_llms and not args.runs:
            raise ValueError("--lose_llms needs the folders of the runs")
        if args.hardware.precision != "auto":
            raise ValueError(f"--precision {args.hardware.precision}: routers are tested in that of their training")
        new, path = new_lines(args), args.results / FILE
        lines = add(read_lines(path), new)
        if not lines:
            raise ValueError(f"{path}: no runs yet; {TRAIN_THEM}")
        text = page(lines)
        args.results.mkdir(parents=True, exist_ok=True)
        write_lines(path, lines)
        write_text(args.results / TABLE, text)
    except (CheckpointError, ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{text}\n{len(new)} lines added to {path}; the table is {args.results / TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
