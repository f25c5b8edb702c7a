"""Collect finished runs into results/ and make the tables from them.

python -m utils.report runs/minilm_tuned        add these runs to results/runs.jsonl and write results/tables.md
python -m utils.report                          write the tables again
python -m utils.report --search runs/search     write results/search.md: validation accuracy of each candidate
python -m utils.report --compare runs/baselines write results/comparison.md: all routers with intervals, differences to RouterDC, shares
"""

import argparse
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.ceiling.known import FILE, ceiling_of, known_ceilings, read_records
from utils.download import load_manifest
from utils.files import locked, write_json, write_text
from utils.metrics import CEILING, ORACLE
from utils.report import comparison
from utils.report.statistics import RESAMPLES, spread
from utils.tables import accuracy_cells, markdown
from utils.tasks import BY_NAME, LLMS, PAPER, PAPER_AVERAGE, TASKS, short, title_of

KEY = ("router", "encoder", "recipe", "fidelity", "seed")  # one line of runs.jsonl for each
NAMED = (
    "encoder",
    "recipe",
    "fidelity",
    "routers",
    "loss",
    "seed",
    "seeds",
    "device",
    "precision",
    "save_path",
    "no-final_eval",
)  # no part of a recipe
LAMBDA_0 = "-lambda0"  # ending of a recipe that differs from the one before it in lambda = 0 alone


def line_of(results: dict[str, Any]) -> dict[str, Any]:
    """The line of runs.jsonl for one results.json. Accuracies in %, seconds of wall clock."""
    settings, test, chosen = results["settings"], results["test"], results["selection"]
    return {
        "router": results["router"],
        "encoder": Path(settings["encoder"]).name if Path(settings["encoder"]).is_absolute() else settings["encoder"],
        "recipe": results["recipe"],
        "fidelity": settings["fidelity"],
        "seed": settings["seed"],
        "selection": {"best": "best on validation", "last": "last step", "none": "nothing to choose"}[chosen["rule"]],
        "metrics": {task: round(value, 4) for task, value in test["tasks"].items()},
        "id_avg": round(test["id_avg"], 4),
        "ood_avg": round(test["ood_avg"], 4),
        "seconds": results["seconds"],
        "device": results["device"],
        "command": results["command"],
    }


def finished(folders: Iterable[str]) -> list[dict[str, Any]]:
    """All results.json at or below the folders, in order of their paths. Raises: ValueError for a folder without one."""
    return [results for _, results in comparison.runs_below(folders)]


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The lines of runs.jsonl, none if it is not there yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def add(runs: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`runs` with `new` lines in place of those with the same router, encoder, recipe, fidelity and seed.

    Says so on stderr where the line that goes was made with other arguments.
    """
    before = {tuple(str(run[name]) for name in KEY): settings_of(run) for run in runs}
    for run in new:
        key = tuple(str(run[name]) for name in KEY)
        if before.get(key, settings_of(run)) != settings_of(run):
            print(
                f"note: {', '.join(key[:4])}, seed {key[4]}, replaces a run made with other arguments (`{before[key]}`); --recipe gives a row of its own",
                file=sys.stderr,
            )
    by_key = {tuple(str(run[name]) for name in KEY): run for run in [*runs, *new]}
    return [by_key[key] for key in sorted(by_key)]


def groups_of(runs: Sequence[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Runs that differ in the seed alone."""
    groups = defaultdict(list)
    for run in runs:
        groups[tuple(run[name] for name in KEY[:-1])].append(run)
    return dict(groups)


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Table 1 and Table 2 of finished runs on the same tasks: single LLMs and references, then each router over its seeds."""
    test, groups, text = results[0]["test"], defaultdict(list), []
    for result in results:
        groups[f"{result['router']}, {result['recipe']}"].append(result["test"])
    inside = test["in_distribution"]
    for title, part, average in (
        ("Table 1: in-distribution testing accuracy (%)", inside, "id_avg"),
        (
            "Table 2: out-of-distribution testing accuracy (%)",
            [task for task in test["tasks"] if task not in inside],
            "ood_avg",
        ),
    ):
        if part:
            known = {name: values for name, values in test["references"].items() if set(part) & set(values)}
            rows = [[short(name), *accuracy_cells(values, part), ""] for name, values in known.items()]
            rows += [
                [
                    name,
                    *[spread([run["tasks"][t] for run in group]) for t in part],
                    spread([run[average] for run in group]),
                    str(len(group)),
                ]
                for name, group in groups.items()
            ]
            text.append(f"{title}\n{markdown(['', *map(title_of, part), 'Avg', 'seeds'], rows)}")
    return "\n\n".join(text)


def accuracy_table(runs: Sequence[dict[str, Any]], controls: dict[str, dict[str, float]], inside: bool) -> str:
    """Table 1 (inside) or Table 2 of the paper: its rows, the controls and ours."""
    tasks = [task for task in TASKS if task.in_distribution == inside]
    places = [TASKS.index(task) for task in tasks]
    rows = [
        [
            f"{short(name)} (paper)",
            *[f"{PAPER[name][p]:.2f}" for p in places],
            f"{PAPER_AVERAGE[name][not inside]:.2f}",
            "",
        ]
        for name in PAPER
    ]
    for name, values in controls.items():
        if values.keys() & {task.name for task in tasks}:
            rows.append([name, *accuracy_cells(values, [task.name for task in tasks]), ""])
    for (router, encoder, recipe, fidelity), group in groups_of(runs).items():
        if all(task.name in run["metrics"] for task in tasks for run in group):
            average = [run["id_avg" if inside else "ood_avg"] for run in group]
            label = f"**{router}**, {encoder}, {recipe}" + ("" if fidelity == "paper" else f", fidelity {fidelity}")
            rows.append(
                [
                    label,
                    *[spread([run["metrics"][task.name] for run in group]) for task in tasks],
                    spread(average),
                    str(len(group)),
                ]
            )
    return markdown(["", *[task.title for task in tasks], "Avg", "seeds"], rows)


def differences(runs: Sequence[dict[str, Any]]) -> str:
    """Paired differences on the same seeds: fidelity against "paper", and lambda = 0 against the same recipe with lambda = 1."""
    groups, rows = groups_of(runs), []
    for (router, encoder, recipe, fidelity), group in groups.items():
        what = f"fidelity {fidelity}" if fidelity != "paper" else "lambda = 0" if recipe.endswith(LAMBDA_0) else None
        base = {run["seed"]: run for run in groups.get((router, encoder, recipe.removesuffix(LAMBDA_0), "paper"), [])}
        pairs = [(run, base[run["seed"]]) for run in group if run["seed"] in base]
        if what and pairs:
            cells = [spread([run[side] - other[side] for run, other in pairs], "+") for side in ("id_avg", "ood_avg")]
            rows.append([f"{encoder}, {recipe.removesuffix(LAMBDA_0)}", what, *cells, str(len(pairs))])
    return markdown(["recipe", "change", "ID avg", "OOD avg", "seeds"], rows)


def settings_of(run: dict[str, Any]) -> str:
    """The arguments in the command of a run, but for seeds, folders and what the tables name anyway."""
    flags: dict[str, str] = {}
    for part in run["command"].split(" --")[1:]:
        name, _, value = part.partition(" ")
        flags[name] = value  # of a flag given twice the last one counts
    return " ".join(f"--{name} {value}".strip() for name, value in flags.items() if name not in NAMED)


def recipes(runs: Iterable[dict[str, Any]]) -> str:
    """What each recipe sets, read off the commands of its runs."""
    routers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run in runs:
        settings = settings_of(run)
        routers[run["recipe"], settings] += [] if run["router"] in routers[run["recipe"], settings] else [run["router"]]
    return "\n".join(
        f"- {recipe} ({', '.join(names)}): {f'`{settings}`' if settings else 'the defaults'}"
        for (recipe, settings), names in sorted(routers.items())
    )


def tables(runs: Sequence[dict[str, Any]], controls: dict[str, dict[str, float]]) -> str:
    """results/tables.md."""
    costs = [
        [
            f"{router}, {encoder}, {recipe}" + ("" if fidelity == "paper" else f", fidelity {fidelity}"),
            f"{np.mean([run['seconds'] for run in group]):.0f}",
            group[0]["selection"],
            group[0]["device"],
        ]
        for (router, encoder, recipe, fidelity), group in groups_of(runs).items()
    ]
    return (
        "\n\n".join(
            [
                "# Results",
                "Made by `python -m utils.report` from runs.jsonl, which holds every run with its seed, device, time and command. "
                "Testing accuracy in %, mean ± standard deviation over the seeds; rows marked (paper) are the paper's own figures.",
                "## Table 1: in-distribution",
                accuracy_table(runs, controls, True),
                "## Table 2: out-of-distribution",
                accuracy_table(runs, controls, False),
                "## Paired differences on the same seeds (points)",
                differences(runs),
                "## What the recipes set",
                recipes(runs),
                "## Time and device",
                markdown(["", "seconds per run", "selection", "device"], costs),
            ]
        )
        + "\n"
    )


def with_ceilings(controls: dict[str, dict[str, float]], results: Path) -> dict[str, dict[str, float]]:
    """The controls with the ceilings of the paper's files that results/ceiling.json has, before the oracle."""
    records, files = read_records(results / FILE), load_manifest()["files"]
    found = {}
    for task in TASKS:
        value = ceiling_of(records, files[task.test.removeprefix("datasets/")].get("sha256", ""), LLMS)
        found |= {} if value is None else {task.name: value}
    rows = {name: values for name, values in controls.items() if name not in (CEILING, ORACLE)}
    rows |= {CEILING: found} if found else {}
    return rows | {name: values for name, values in controls.items() if name == ORACLE}


def search_table(results: Sequence[dict[str, Any]]) -> str:
    """results/search.md: candidates by validation accuracy at the last step."""
    groups = defaultdict(list)
    for result in results:
        if result["selection"]["validation"] is None:
            raise ValueError(
                f"--search: seed {result['settings']['seed']} of {result['recipe']} had no validation rows; train it with --validation_fraction above 0"
            )
        groups[result["recipe"]].append(result["selection"]["validation"])
    rows = [
        [name, spread(values), str(len(values))]
        for name, values in sorted(groups.items(), key=lambda item: -np.mean(item[1]))
    ]
    return (
        "# Choosing the MiniLM recipe on validation rows\n\nMade by `bash train_scripts/search_minilm.sh`: each candidate is trained on a random 80 % of the "
        "training rows and scored on the rest (mean accuracy over the five tasks, %), once per seed. No test file is read.\n\n"
        + markdown(["candidate", "validation", "seeds"], rows)
        + "\n\n## What the candidates set\n\n"
        + recipes(results)
        + "\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="*", help="folders of finished runs, or folders above them")
    p.add_argument("--search", metavar="DIR", help="folder of the runs of search_minilm.sh")
    p.add_argument("--compare", metavar="DIR", nargs="+", help="folders of runs to compare, query by query")
    p.add_argument(
        "--against",
        default="tuned",
        metavar="RECIPE",
        help="with --compare: the recipe of the RouterDC that differences are to",
    )
    p.add_argument("--resamples", type=int, default=RESAMPLES, help="with --compare: bootstrap samples")
    p.add_argument("--results", type=Path, default=Path("results"), help="folder of runs.jsonl and the tables")
    args = p.parse_args(argv)
    try:
        args.results.mkdir(parents=True, exist_ok=True)
        if args.search:
            text = search_table(finished([args.search]))
            write_text(args.results / "search.md", text)
            print(text)
            return 0
        if args.compare:
            if args.resamples < 100:
                raise ValueError(f"--resamples is {args.resamples}; a 95 % interval needs at least 100")
            groups, tests, inside = comparison.collect(args.compare)
            result = comparison.compare(groups, tests, inside, args.against, args.resamples)
            result["ceilings"] = known_ceilings(tests, args.results)
            command = shlex.join(
                [
                    "python",
                    "-m",
                    "utils.report",
                    "--compare",
                    *args.compare,
                    "--against",
                    args.against,
                    "--resamples",
                    str(args.resamples),
                ]
            )
            text = comparison.text(result, command)
            write_json(args.results / "comparison.json", {"command": command, **result})
            write_text(args.results / "comparison.md", text)
            print(f"{text}\nwritten to {args.results / 'comparison.md'} and comparison.json")
            return 0
        found = finished(args.runs)
        new = [
            result
            for result in found
            if set(result["test"].get("tasks", ())) == set(BY_NAME) and set(result["test"]["llms"]) == set(LLMS)
        ]
        if len(new) < len(found):
            print(
                f"left out: {len(found) - len(new)} runs that were not tested on all eight tasks of the paper with its seven LLMs",
                file=sys.stderr,
            )
        path, controls = args.results / "runs.jsonl", args.results / "controls.json"
        with locked(args.results):
            runs = add(read_runs(path), [line_of(result) for result in new])
            if not runs and found:
                print(f"{path}: no run of these belongs there, nothing was written")
                return 0
            if not runs:
                raise ValueError(f"{path}: no runs yet; name the folders of finished runs")
            references = new[-1]["test"]["references"] if new else json.loads(controls.read_text())
            references = {name: values for name, values in references.items() if name not in PAPER}
            references = with_ceilings(references, args.results)
            text = tables(runs, references)
            write_text(path, "".join(json.dumps(run) + "\n" for run in runs))
            write_json(controls, references)
            write_text(args.results / "tables.md", text)
    except (ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{text}\n{len(new)} runs added to {path}; tables in {args.results / 'tables.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
