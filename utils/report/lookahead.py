"""Two pages of results/lookahead that utils.report does not make, from the runs of router_train_lookahead.sh.

    python -m utils.report.lookahead within RUNS VOTING --alone RUNS_ON_MATH --results results/lookahead
    python -m utils.report.lookahead leave_one_out FOLDER --results results/lookahead

`within` asks whether a router learns anything finer than the task: what it earns more than one LLM for the whole task,
on the same queries. That LLM is the best on the task's training rows (BestPerTask), or on the test rows themselves.
`leave_one_out` has what routers earn on a task that they were not trained on.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.data import DataError, RoutingData, load
from utils.files import write_json, write_text
from utils.meters import bar
from utils.metrics import best_single, references
from utils.report.comparison import Group, bracket, collect, ends, single
from utils.report.statistics import RESAMPLES, bootstrap, seed_weights, sign_flip, spread
from utils.tables import markdown
from utils.tasks import BY_NAME, short, title_of

REFERENCE = {"within": "BestPerTask", "leave_one_out": "BestSingle"}
ALONE = ", trained on MATH alone"  # behind the recipe of such runs
NOT_ROUTERS = ("Random", "BestSingle", "BestPerTask", "Oracle")
TITLES = {"math: PreAlgebra": "MATH, PreAlgebra", "math: others": "MATH, other subjects"}


@dataclass(frozen=True)
class Part:
    """Test queries of one task: their places (N,) in its file, and the data of these rows."""

    task: str
    index: np.ndarray
    data: RoutingData


def parts_of(tests: Sequence[RoutingData], prealgebra: str) -> dict[str, Part]:
    """Every task as a part, and MATH also in two: the questions of the paper's PreAlgebra file, and the others."""
    parts = {}
    for data in tests:
        parts[data.task] = Part(data.task, np.arange(len(data)), data)
        if data.task == "math":
            known = set(load(prealgebra).questions)
            inside = np.array([question in known for question in data.questions])
            for name, chosen in (("math: PreAlgebra", inside), ("math: others", ~inside)):
                index = np.flatnonzero(chosen)
                parts[name] = Part(data.task, index, data.rows(index))
    return {name: part for name, part in parts.items() if len(part.index)}


def paired(
    groups: Sequence[Group], values: Sequence[Sequence[np.ndarray]], base: int, resamples: int
) -> list[dict[str, Any]]:
    """What each group earns and how much more than group `base`, in %, as a mean over parts.

    Args:
        values: for each part what each group earned, (S, N) in [0, 1], S being its seeds.
    Returns: for each group its mean of each seed, the difference of means, the 95 % interval of the difference over
    queries and seeds, and the p-value of sign flips over queries.
    """
    columns, start = [], 0
    for group in groups:
        columns.append(slice(start, start + len(group.seeds)))
        start += len(group.seeds)
    runs = [100 * np.concatenate(part).T for part in values]  # (N, runs)
    with bar(resamples * len(runs), "bootstrap", "sample") as progress:
        draws = bootstrap(runs, resamples, progress=progress).mean(axis=1)  # (B, runs)
    drawn = np.empty((resamples, len(groups)))
    for place, (group, where) in enumerate(zip(groups, columns)):
        drawn[:, place] = (draws[:, where] * seed_weights(group.seeds, resamples)).sum(axis=1)
    by_query = []
    for part in runs:
        means = np.stack([part[:, where].mean(axis=1) for where in columns], axis=1)  # (N, groups)
        by_query.append(means - means[:, base : base + 1])
    p_values = sign_flip(by_query, resamples)
    found = []
    for place, where in enumerate(columns):
        found.append(
            {
                "per_seed": np.mean([part[:, where].mean(axis=0) for part in runs], axis=0).round(4).tolist(),
                "difference": round(float(np.mean([part[:, place].mean() for part in by_query])), 4),
                "interval": [end + 0.0 for end in ends(drawn[:, place] - drawn[:, base])],  # no -0.0
                "p": round(float(p_values[place]), 5),
            }
        )
    return found


def base_of(groups: Sequence[Group], page: str, folders: Sequence[str]) -> int:
    """The place of the group that differences are to. Raises: DataError if it is not there once."""
    places = [place for place, group in enumerate(groups) if group.router == REFERENCE[page]]
    if len(places) != 1:
        raise DataError(
            f"{' '.join(folders)}: {len(places)} groups of {REFERENCE[page]} there; run "
            "`python -m utils.baselines` with its controls into that folder"
        )
    return places[0]


def collect_all(folders: Sequence[str], alone: Sequence[str]) -> tuple[list[Group], list[RoutingData]]:
    """Groups of all folders and the test data of the first; other folders may have been tested on fewer of its files.

    Raises: DataError for a folder that was tested on another file.
    """
    groups, tests, _ = collect(folders[:1])
    known = {data.task: data.sha256 for data in tests}
    for folder in [*folders[1:], *alone]:
        more, others, _ = collect([folder])
        for data in others:
            if known.get(data.task) != data.sha256 or data.llms != tests[0].llms:
                raise DataError(
                    f"{folder}: tested on {data.path}, and the runs in {folders[0]} were not; "
                    "give folders of runs with the same test files"
                )
        if folder in alone:
            more = [replace(group, recipe=group.recipe + ALONE) for group in more if group.router not in NOT_ROUTERS]
        groups += more
    return groups, tests


def within(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of within_tasks.json."""
    groups, tests = collect_all(args.folders, args.alone)
    base = groups[base_of(groups, "within", args.folders)]
    parts = parts_of(tests, args.prealgebra)
    known = references([replace(part.data, task=name) for name, part in parts.items()])
    rows: dict[str, dict[str, Any]] = {f"{group.router}, {group.recipe}": {} for group in groups}
    best = {name: best_single(known, tests[0].llms, [name]) for name in parts}
    for name, part in parts.items():
        here = [group for group in groups if part.task in group.gains]
        bases = {"training": base, "test": single(best[name], tests)}
        for side, reference in bases.items():
            others = [group for group in here if group is not reference]
            values = [[group.gains[part.task][:, part.index] for group in [reference, *others]]]
            for group, entry in zip([reference, *others], paired([reference, *others], values, 0, args.resamples)):
                if group is not bases["test"]:
                    rows[f"{group.router}, {group.recipe}"].setdefault(name, {})[side] = entry
    sizes = {name: len(part.index) for name, part in parts.items()}
    return {"queries": sizes, "best_on_test": best, "groups": rows, "references": known, "seeds": most_seeds(groups)}


def most_seeds(groups: Sequence[Group]) -> list[int]:
    """The seeds of the groups that have most of them."""
    return max((group.seeds for group in groups), key=len)


def title(part: str) -> str:
    """The column title of a part, or of a task."""
    return TITLES.get(part, title_of(part))


def cell(entry: dict[str, Any] | None) -> str:
    """A difference with its interval; "-" where there is none."""
    return "-" if entry is None else f"{entry['difference']:+.2f} {bracket(entry['interval'], '+')}"


def verdict(groups: dict[str, dict[str, Any]], part: str, side: str) -> str:
    """How many routers have a difference on a part whose interval is above 0, or below 0, and which are above."""
    routers = {}
    for label, entries in groups.items():
        if part in entries and label.partition(",")[0] not in (*NOT_ROUTERS, "Voting"):
            routers[label] = entries[part][side]
    above = [label for label, entry in routers.items() if entry["interval"][0] > 0]
    below = [label for label, entry in routers.items() if entry["interval"][1] < 0]
    names = f" ({'; '.join(above)})" if above else ""
    return f"of {len(routers)} routers {len(above)} are above 0{names} and {len(below)} below"


def within_text(result: dict[str, Any], command: str) -> str:
    """within_tasks.md."""
    sizes, groups = result["queries"], result["groups"]
    header = ["", *[f"{title(name)} ({size})" for name, size in sizes.items()]]
    tables: dict[str, list[list[str]]] = {"training": [], "test": [], "accuracy": [], "single": []}
    for label in sorted(groups, key=lambda label: (label.partition(", ")[2], label)):
        for side in ("training", "test"):
            tables[side].append([label, *[cell(groups[label].get(name, {}).get(side)) for name in sizes]])
        seeds = [groups[label][name]["test"]["per_seed"] if name in groups[label] else None for name in sizes]
        tables["accuracy"].append([label, *["-" if values is None else spread(values) for values in seeds]])
    for row, values in result["references"].items():
        tables["single"].append([short(row), *[f"{values[name]:.2f}" for name in sizes]])
    text = [
        "# Does a router learn anything finer than the task?",
        f"Made by `{command}`; seeds {', '.join(map(str, result['seeds']))}. A cell is what a router earns more than "
        "one LLM for the whole task, on the same test queries, in points of accuracy: mean over the seeds, and in "
        "brackets the 95 % interval of a paired bootstrap over queries and seeds. Behind a task, its number of test "
        "queries. PreAlgebra is the part of MATH whose questions stand in the paper's PreAlgebra file; the files name "
        "no other subject and no level. Voting asks all LLMs; programs cannot be voted on.",
    ]
    about = {
        "training": "More than the LLM that is best on the task's training rows (BestPerTask)",
        "test": "More than the LLM that is best on these test rows, which no router can know",
    }
    for side, heading in about.items():
        verdicts = [f"- {title(name)}: {verdict(groups, name, side)}." for name in sizes]
        text += [f"## {heading}", "By the intervals:", "\n".join(verdicts), markdown(header, tables[side])]
    text += ["## Accuracy in %, mean ± standard deviation over seeds", markdown(header, tables["accuracy"])]
    text += ["## Single LLMs, accuracy in %", markdown(header, tables["single"])]
    return "\n\n".join(text) + "\n"


def leave_one_out(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of leave_one_out.json. In the folder is one folder for each task that was left out.

    Raises: DataError if the tasks do not have the same routers with the same seeds, or a router has seen its task.
    """
    folder = Path(args.folders[0])
    by_task: dict[str, dict[str, Group]] = {}
    tests = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        groups, (data,), inside = collect([str(place)])
        if data.task in inside:
            raise DataError(f"{place}: its routers were trained on {data.task}, too; leave that training file out")
        groups = [group for group in groups if group.router != "BestPerTask"]  # it knows no task here: BestSingle again
        by_task[data.task] = {f"{group.router}, {group.recipe}": group for group in groups}
        tests.append(data)
    first = by_task[tests[0].task]
    seeds = {label: group.seeds for label, group in first.items()}
    for task, groups in by_task.items():
        if {label: group.seeds for label, group in groups.items()} != seeds:
            raise DataError(
                f"{folder}: without {task} there are other routers or seeds than without {tests[0].task}; "
                "finish the runs"
            )
    values = [[by_task[data.task][label].gains[data.task] for label in first] for data in tests]
    base = base_of(list(first.values()), "leave_one_out", args.folders)
    rows = {}
    for label, entry in zip(first, paired(list(first.values()), values, base, args.resamples)):
        gained = {data.task: by_task[data.task][label].gains[data.task] for data in tests}
        each = {task: (100 * earned.mean(axis=1)).round(4).tolist() for task, earned in gained.items()}
        rows[label] = {"tasks": each, **entry}
    sizes = {data.task: len(data) for data in tests}
    most = most_seeds(list(first.values()))
    return {"queries": sizes, "groups": rows, "references": references(tests), "seeds": most}


def leave_one_out_text(result: dict[str, Any], command: str) -> str:
    """leave_one_out.md."""
    tasks, rows = list(result["queries"]), []
    for label, entry in sorted(result["groups"].items(), key=lambda item: -item[1]["difference"]):
        rows.append([label, *[spread(entry["tasks"][task]) for task in tasks], spread(entry["per_seed"]), cell(entry)])
    own = result["references"]["best LLM per task (picked on test)"]
    average = np.mean([own[task] for task in tasks])
    best = [f"{own[task]:.2f}" for task in tasks]
    rows.append(["the task's own best LLM (picked on test)", *best, f"{average:.2f}", "-"])
    titles = [f"{title(task)} ({size})" for task, size in result["queries"].items()]
    return (
        "\n\n".join(
            [
                "# Leave one task out",
                f"Made by `{command}`; seeds {', '.join(map(str, result['seeds']))}. Each column is a task that the routers of "
                "that column were not trained on: they learn from the training halves of the other three, and are tested on "
                "its test half, whose size is behind its name. Accuracy in %, mean ± standard deviation over the seeds. "
                "BestSingle is the LLM with the best mean over the three training tasks. The last column is the difference to "
                "it, of the mean over the tasks, with the 95 % interval of a paired bootstrap over queries and seeds.",
                markdown(["", *titles, "Avg", "more than BestSingle"], rows),
            ]
        )
        + "\n"
    )


PAGES = {
    "within": ("within_tasks", within, within_text),
    "leave_one_out": ("leave_one_out", leave_one_out, leave_one_out_text),
}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m utils.report.lookahead", description=__doc__)
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.add_argument("page", choices=PAGES)
    p.add_argument("folders", nargs="+", help="of runs; within: the first has the controls; leave_one_out: one folder")
    p.add_argument("--alone", nargs="*", default=[], help="within: folders of runs that were trained on MATH alone")
    p.add_argument("--prealgebra", default=BY_NAME["math_prealgebra"].test, help="within: the file of its questions")
    p.add_argument("--resamples", type=int, default=RESAMPLES, help="bootstrap samples")
    p.add_argument("--results", type=Path, default=Path("results/lookahead"))
    return p


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    try:
        if args.resamples < 100:
            raise ValueError(f"--resamples is {args.resamples}; a 95 % interval needs at least 100")
        name, figures, text = PAGES[args.page]
        result = figures(args)
        command = shlex.join(["python", "-m", "utils.report.lookahead", *arguments])
        args.results.mkdir(parents=True, exist_ok=True)
        write_json(args.results / f"{name}.json", {"command": command, **result})
        write_text(args.results / f"{name}.md", text(result, command))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{text(result, command)}\nwritten to {args.results / name}.md and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
