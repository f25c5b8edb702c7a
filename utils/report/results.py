"""results/: a line for every run in runs.jsonl, the tables made from them, and the table of a search."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ceiling.known import FILE, ceiling_of, read_records
from ..download import load_manifest
from ..metrics import CEILING, ORACLE
from ..tables import cells_and_mean, markdown, paper_cells, score_table, spread, spread_cells
from ..tasks import BY_NAME, LLMS, PAPER, TASKS, short
from .runs import GROUP, Run, by_seed, encoder_name, grouped, line_key, replace_lines, row_label

KEY = (*GROUP, "seed")  # one line of runs.jsonl for each
NAMED = (  # arguments that tables name on their own, or that change no result
    "encoder", "label", "fidelity", "routers", "loss", "seed", "seeds", "device", "precision", "save_path",
    "no-final_eval", "no_final_eval",
)  # fmt: skip
LAMBDA_0 = "-lambda0"  # ending of a label whose settings differ from those without it in lambda = 0 alone
SELECTION = {"best": "best on validation", "last": "last step", "none": "nothing to choose"}

PAGE = """\
# Results

Made by `python -m utils.report` from runs.jsonl, which holds every run with its seed, device, time and command. \
Testing accuracy in %, mean ± standard deviation over the seeds; rows marked (paper) are the paper's own figures.

## Table 1: in-distribution

{inside}

## Table 2: out-of-distribution

{outside}

## Paired differences on the same seeds (points)

{differences}

## What the recipes set

{recipes}

## Time and device

{costs}
"""
SEARCH_PAGE = """\
# Choosing the MiniLM recipe on validation rows

Made by `bash train_scripts/search_minilm.sh`: each candidate is trained on a random 80 % of the training rows and \
scored on the rest (mean accuracy over the five tasks, %), once per seed. No test file is read.

{table}

## What the candidates set

{recipes}
"""


# runs.jsonl


def belongs_here(run: Run) -> bool:
    """Whether a run was tested on all eight tasks of the paper with its seven LLMs."""
    test = run.results["test"]
    return set(test.get("tasks", ())) == set(BY_NAME) and set(test["llms"]) == set(LLMS)


def line_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """The line of runs.jsonl for one results.json. Accuracies in %, seconds of wall clock."""
    settings, test = results["settings"], results["test"]
    return {
        "router": results["router"],
        "encoder": encoder_name(settings),
        "recipe": results["recipe"],
        "fidelity": settings["fidelity"],
        "seed": settings["seed"],
        "selection": SELECTION[results["selection"]["rule"]],
        "metrics": {task: round(value, 4) for task, value in test["tasks"].items()},
        "id_avg": round(test["id_avg"], 4),
        "ood_avg": round(test["ood_avg"], 4),
        "seconds": results["seconds"],
        "device": results["device"],
        "command": results["command"],
    }


def add(lines: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`lines` with `new` ones in place of those of the same router, encoder, label, fidelity and seed, sorted by these.

    Says so on stderr where the line that goes was made with other arguments.
    """
    before = {line_key(line, KEY): arguments_of(line) for line in lines}
    for line in new:
        key = line_key(line, KEY)
        if before.get(key, arguments_of(line)) != arguments_of(line):
            print(
                f"note: {', '.join(key[:-1])}, seed {key[-1]}, replaces a run made with other arguments "
                f"(`{before[key]}`); --label gives a row of its own",
                file=sys.stderr,
            )
    return sorted(replace_lines(lines, new, KEY), key=lambda line: line_key(line, KEY))


def arguments_of(line: Mapping[str, Any]) -> str:
    """The arguments in the command of a run, but for those in NAMED."""
    flags: dict[str, str] = {}
    for argument in line["command"].split(" --")[1:]:
        name, _, value = argument.partition(" ")
        flags[name] = value  # of a flag given twice the last one counts
    return " ".join(f"--{name} {value}".strip() for name, value in flags.items() if name not in NAMED)


# tables.md


def with_ceilings(controls: Mapping[str, dict[str, float]], results: Path) -> dict[str, dict[str, float]]:
    """The controls with the ceilings of the paper's files that results/ceiling.json has, before the oracle."""
    records, files = read_records(results / FILE), load_manifest()["files"]
    ceilings = {}
    for task in TASKS:
        sha256 = files[task.test.removeprefix("datasets/")].get("sha256", "")
        ceiling = ceiling_of(records, sha256, LLMS)
        if ceiling is not None:
            ceilings[task.name] = ceiling
    rows = {name: values for name, values in controls.items() if name not in (CEILING, ORACLE)}
    if ceilings:
        rows[CEILING] = ceilings
    if ORACLE in controls:
        rows[ORACLE] = controls[ORACLE]
    return rows


def accuracy_table(lines: Sequence[dict[str, Any]], controls: Mapping[str, dict[str, float]], inside: bool) -> str:
    """Table 1 (inside) or Table 2 of the paper: its rows, the controls and ours."""
    tasks = [task.name for task in TASKS if task.in_distribution == inside]
    rows = [[f"{short(name)} (paper)", *paper_cells(name, tasks, inside), ""] for name in PAPER]
    for name, values in controls.items():
        if values.keys() & set(tasks):
            rows.append([name, *cells_and_mean(values, tasks), ""])
    for (router, encoder, label, fidelity), group in by_seed(lines).items():
        metrics = [line["metrics"] for line in group]
        if all(set(tasks) <= values.keys() for values in metrics):
            averages = [line["id_avg" if inside else "ood_avg"] for line in group]
            row = row_label(f"**{router}**", encoder, label, fidelity=fidelity)
            rows.append([row, *spread_cells(metrics, averages, tasks)])
    return score_table(tasks, rows, ["seeds"])


def differences(lines: Sequence[dict[str, Any]]) -> str:
    """Paired differences on the same seeds.

    They are of each fidelity to "paper", and of lambda = 0 to the same settings with lambda = 1.
    """
    groups, rows = by_seed(lines), []
    for (router, encoder, label, fidelity), group in groups.items():
        plain = label.removesuffix(LAMBDA_0)
        if fidelity != "paper":
            change = f"fidelity {fidelity}"
        elif label != plain:
            change = "lambda = 0"
        else:
            continue
        base = {line["seed"]: line for line in groups.get((router, encoder, plain, "paper"), [])}
        pairs = [(line, base[line["seed"]]) for line in group if line["seed"] in base]
        if pairs:
            cells = [spread([line[name] - other[name] for line, other in pairs], "+") for name in ("id_avg", "ood_avg")]
            rows.append([f"{encoder}, {plain}", change, *cells, str(len(pairs))])
    return markdown(["recipe", "change", "ID avg", "OOD avg", "seeds"], rows)


def recipes(lines: Iterable[Mapping[str, Any]]) -> str:
    """What each label sets, read off the commands of its runs, as a list."""
    routers: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        names = routers.setdefault((line["recipe"], arguments_of(line)), [])
        if line["router"] not in names:
            names.append(line["router"])
    items = []
    for (label, arguments), names in sorted(routers.items()):
        settings = f"`{arguments}`" if arguments else "the defaults"
        items.append(f"- {label} ({', '.join(names)}): {settings}")
    return "\n".join(items)


def costs(lines: Iterable[dict[str, Any]]) -> str:
    """Mean seconds of the runs of each group, what was selected, and on which device."""
    rows = []
    for (router, encoder, label, fidelity), group in by_seed(lines).items():
        seconds = np.mean([line["seconds"] for line in group])
        row = row_label(router, encoder, label, fidelity=fidelity)
        rows.append([row, f"{seconds:.0f}", group[0]["selection"], group[0]["device"]])
    return markdown(["", "seconds per run", "selection", "device"], rows)


def page(lines: Sequence[dict[str, Any]], controls: Mapping[str, dict[str, float]]) -> str:
    """results/tables.md."""
    return PAGE.format(
        inside=accuracy_table(lines, controls, True),
        outside=accuracy_table(lines, controls, False),
        differences=differences(lines),
        recipes=recipes(lines),
        costs=costs(lines),
    )


# search.md


def search_page(runs: Sequence[Run]) -> str:
    """results/search.md: candidates by validation accuracy.

    Raises: ValueError for a run without validation rows.
    """
    for run in runs:
        if run.results["selection"]["validation"] is None:
            raise ValueError(
                f"--search: seed {run.seed} of {run.label} had no validation rows; "
                "train it with --validation_fraction above 0"
            )
    validation = {}
    for label, group in grouped(runs, lambda run: run.label).items():
        validation[label] = [run.results["selection"]["validation"] for run in group]
    best_first = sorted(validation.items(), key=lambda item: -np.mean(item[1]))
    rows = [[label, spread(values), str(len(values))] for label, values in best_first]
    table = markdown(["candidate", "validation", "seeds"], rows)
    return SEARCH_PAGE.format(table=table, recipes=recipes([run.results for run in runs]))
