"""Two pages of results/lookahead that utils.report does not make, from the runs of router_train_lookahead.sh.

    python -m utils.report.lookahead within RUNS VOTING --alone RUNS_ON_MATH --results results/lookahead
    python -m utils.report.lookahead leave_one_out FOLDER --results results/lookahead

`within` asks whether a router learns anything finer than the task: what it earns more than one LLM for the whole task,
on the same queries. That LLM is the best on the task's training rows (BestPerTask), or on the test rows themselves.
`leave_one_out` has what routers earn on a task that they were not trained on.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from ..config import parse_arguments
from ..data import DataError, RoutingData, load
from ..files import write_json, write_text
from ..meters import bar
from ..metrics import PER_TASK, best_single, references
from ..tables import EMPTY, bracket, cells_and_mean, markdown, spread
from ..tasks import BY_NAME, short_names, title_of
from .comparison import (
    Group,
    collect,
    columns_of,
    draw_seeds,
    ends,
    label_of,
    means_of_groups,
    single,
)
from .statistics import RESAMPLES, bootstrap, check_resamples, sign_flip

PROGRAM = "python -m utils.report.lookahead"
REFERENCE = {"within": "BestPerTask", "leave_one_out": "BestSingle"}  # the router that differences are to
ALONE = ", trained on MATH alone"  # behind the label of such runs
NOT_ROUTERS = ("Random", "BestSingle", "BestPerTask", "Oracle")
TITLES = {"math: PreAlgebra": "MATH, PreAlgebra", "math: others": "MATH, other subjects"}

ABOUT_WITHIN = """\
Made by `{command}`; seeds {seeds}. A cell is what a router earns more than one LLM for the whole task, on the same \
test queries, in points of accuracy: mean over the seeds, and in brackets the 95 % interval of a paired bootstrap over \
queries and seeds. Behind a task, its number of test queries. PreAlgebra is the part of MATH whose questions stand in \
the paper's PreAlgebra file; the files name no other subject and no level. Voting asks all LLMs; programs cannot be \
voted on."""
HEADINGS = {  # by the rows that the LLM was chosen on
    "training": "More than the LLM that is best on the task's training rows (BestPerTask)",
    "test": "More than the LLM that is best on these test rows, which no router can know",
}
ABOUT_LEAVE_ONE_OUT = """\
Made by `{command}`; seeds {seeds}. Each column is a task that the routers of that column were not trained on: they \
learn from the training halves of the other three, and are tested on its test half, whose size is behind its name. \
Accuracy in %, mean ± standard deviation over the seeds. BestSingle is the LLM with the best mean over the three \
training tasks. The last column is the difference to it, of the mean over the tasks, with the 95 % interval of a \
paired bootstrap over queries and seeds."""


@dataclass(frozen=True)
class Arguments:
    """options"""

    page: tyro.conf.Positional[Literal["within", "leave_one_out"]]
    """which page"""
    folders: tyro.conf.Positional[tuple[str, ...]]
    """of runs; within: the first has the controls; leave_one_out: one folder"""
    alone: tuple[str, ...] = ()
    """within: folders of runs that were trained on MATH alone"""
    prealgebra: str = BY_NAME["math_prealgebra"].test
    """within: the file of its questions"""
    resamples: int = RESAMPLES
    """bootstrap samples"""
    results: Path = Path("results/lookahead")
    """folder of the page and its figures"""


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


# Groups of runs


def row_of(group: Group) -> str:
    """The label of a group's row."""
    return label_of(vars(group))


def number_of_reference(groups: Sequence[Group], page: str, folders: Sequence[str]) -> int:
    """The number of the group that differences are to. Raises: DataError if it is not there once."""
    numbers = [number for number, group in enumerate(groups) if group.router == REFERENCE[page]]
    if len(numbers) != 1:
        raise DataError(
            f"{' '.join(folders)}: {len(numbers)} groups of {REFERENCE[page]} there; run "
            "`python -m utils.baselines` with its controls into that folder"
        )
    return numbers[0]


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


def most_seeds(groups: Sequence[Group]) -> list[int]:
    """The seeds of the groups that have most of them."""
    return max((group.seeds for group in groups), key=len)


def paired(
    groups: Sequence[Group], values: Sequence[Sequence[np.ndarray]], base: int, resamples: int
) -> list[dict[str, Any]]:
    """What each group earns and how much more than group `base`, in %, as a mean over parts.

    Args:
        values: for each part what each group earned, (S, N) in [0, 1], S being its seeds.
    Returns: for each group its mean of each seed, the difference of means, the 95 % interval of the difference over
        queries and seeds, and the p-value of sign flips over queries.
    """
    columns = columns_of(groups)
    by_run = [100 * np.concatenate(part).T for part in values]  # (N, runs) each
    with bar(resamples * len(by_run), "bootstrap", "sample") as progress:
        draws = bootstrap(by_run, resamples, progress=progress).mean(axis=1)  # (B, runs)
    drawn = draw_seeds(draws, groups)  # (B, groups)
    gaps = []
    for part in by_run:
        means = means_of_groups(part, columns)  # (N, groups)
        gaps.append(means - means[:, base : base + 1])
    p_values = sign_flip(gaps, resamples)
    entries = []
    for number, runs in enumerate(columns):
        low, high = ends(drawn[:, number] - drawn[:, base])
        entries.append(
            {
                "per_seed": np.mean([part[:, runs].mean(axis=0) for part in by_run], axis=0).round(4).tolist(),
                "difference": round(float(np.mean([gap[:, number].mean() for gap in gaps])), 4),
                "interval": [low + 0.0, high + 0.0],  # no -0.0
                "p": round(float(p_values[number]), 5),
            }
        )
    return entries


# Figures


def within(args: Arguments) -> dict[str, Any]:
    """All figures of within_tasks.json."""
    groups, tests = collect_all(args.folders, args.alone)
    base = groups[number_of_reference(groups, "within", args.folders)]
    parts = parts_of(tests, args.prealgebra)
    known = references([replace(part.data, task=name) for name, part in parts.items()])
    best = {name: best_single(known, tests[0].llms, [name]) for name in parts}
    rows: dict[str, dict[str, Any]] = {row_of(group): {} for group in groups}
    for name, part in parts.items():
        tested = [group for group in groups if part.task in group.gains]
        best_on_test = single(best[name], tests)
        for chosen_on, reference in (("training", base), ("test", best_on_test)):
            compared = [reference, *[group for group in tested if group is not reference]]
            values = [[group.gains[part.task][:, part.index] for group in compared]]
            for group, entry in zip(compared, paired(compared, values, 0, args.resamples)):
                if group is not best_on_test:
                    rows[row_of(group)].setdefault(name, {})[chosen_on] = entry
    sizes = {name: len(part.index) for name, part in parts.items()}
    return {"queries": sizes, "best_on_test": best, "groups": rows, "references": known, "seeds": most_seeds(groups)}


def collect_left_out(folder: Path) -> tuple[dict[str, dict[str, Group]], list[RoutingData]]:
    """The groups of each task that was left out, {task: {row: group}}, and the test data of these tasks.

    Raises: DataError if the tasks do not have the same routers with the same seeds, or a router has seen its task.
    """
    by_task: dict[str, dict[str, Group]] = {}
    tests = []
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        groups, (data,), inside = collect([str(below)])
        if data.task in inside:
            raise DataError(f"{below}: its routers were trained on {data.task}, too; leave that training file out")
        groups = [group for group in groups if group.router != "BestPerTask"]  # it knows no task here: BestSingle again
        by_task[data.task] = {row_of(group): group for group in groups}
        tests.append(data)
    seeds = {task: {row: group.seeds for row, group in groups.items()} for task, groups in by_task.items()}
    first = tests[0].task
    for task in by_task:
        if seeds[task] != seeds[first]:
            raise DataError(
                f"{folder}: without {task} there are other routers or seeds than without {first}; finish the runs"
            )
    return by_task, tests


def leave_one_out(args: Arguments) -> dict[str, Any]:
    """All figures of leave_one_out.json. In the folder is one folder for each task that was left out.

    Raises: DataError as `collect_left_out`.
    """
    by_task, tests = collect_left_out(Path(args.folders[0]))
    labels = list(by_task[tests[0].task])
    groups = [by_task[tests[0].task][label] for label in labels]
    values = [[by_task[data.task][label].gains[data.task] for label in labels] for data in tests]
    base = number_of_reference(groups, "leave_one_out", args.folders)
    rows = {}
    for label, entry in zip(labels, paired(groups, values, base, args.resamples)):
        accuracies = {}
        for data in tests:
            earned = by_task[data.task][label].gains[data.task]  # (S, N)
            accuracies[data.task] = (100 * earned.mean(axis=1)).round(4).tolist()
        rows[label] = {"tasks": accuracies, **entry}
    sizes = {data.task: len(data) for data in tests}
    return {"queries": sizes, "groups": rows, "references": references(tests), "seeds": most_seeds(groups)}


# Pages


def title(part: str) -> str:
    """The column title of a part, or of a task."""
    return TITLES.get(part, title_of(part))


def titles_with_sizes(sizes: Mapping[str, int]) -> list[str]:
    """Column titles of parts, with their numbers of queries."""
    return [f"{title(part)} ({size})" for part, size in sizes.items()]


def cell(entry: Mapping[str, Any] | None) -> str:
    """A difference with its interval; "-" where there is none."""
    return EMPTY if entry is None else f"{entry['difference']:+.2f} {bracket(entry['interval'], '+')}"


def verdict(groups: Mapping[str, dict[str, Any]], part: str, chosen_on: str) -> str:
    """How many routers have a difference on a part whose interval is above 0, or below 0, and which are above."""
    intervals = {}
    for label, entries in groups.items():
        router = label.partition(",")[0]
        if part in entries and router not in (*NOT_ROUTERS, "Voting"):
            intervals[label] = entries[part][chosen_on]["interval"]
    above = [label for label, (low, _) in intervals.items() if low > 0]
    below = [label for label, (_, high) in intervals.items() if high < 0]
    names = f" ({'; '.join(above)})" if above else ""
    return f"of {len(intervals)} routers {len(above)} are above 0{names} and {len(below)} below"


def accuracies_of(entries: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    """Accuracy on each part over the seeds, "-" where a group was not tested."""
    return [spread(entries[part]["test"]["per_seed"]) if part in entries else EMPTY for part in parts]


def within_page(result: Mapping[str, Any], command: str) -> str:
    """within_tasks.md."""
    groups, parts = result["groups"], list(result["queries"])
    header = ["", *titles_with_sizes(result["queries"])]
    labels = sorted(groups, key=lambda label: (label.partition(", ")[2], label))
    seeds = ", ".join(map(str, result["seeds"]))
    paragraphs = ["# Does a router learn anything finer than the task?"]
    paragraphs.append(ABOUT_WITHIN.format(command=command, seeds=seeds))
    for chosen_on, heading in HEADINGS.items():
        verdicts = [f"- {title(part)}: {verdict(groups, part, chosen_on)}." for part in parts]
        rows = [[label, *[cell(groups[label].get(part, {}).get(chosen_on)) for part in parts]] for label in labels]
        paragraphs += [f"## {heading}", "By the intervals:", "\n".join(verdicts), markdown(header, rows)]
    rows = [[label, *accuracies_of(groups[label], parts)] for label in labels]
    paragraphs += ["## Accuracy in %, mean ± standard deviation over seeds", markdown(header, rows)]
    names = short_names(result["references"])
    rows = [[names[row], *[f"{values[part]:.2f}" for part in parts]] for row, values in result["references"].items()]
    paragraphs += ["## Single LLMs, accuracy in %", markdown(header, rows)]
    return "\n\n".join(paragraphs) + "\n"


def leave_one_out_page(result: Mapping[str, Any], command: str) -> str:
    """leave_one_out.md."""
    tasks, rows = list(result["queries"]), []
    for label, entry in sorted(result["groups"].items(), key=lambda item: -item[1]["difference"]):
        accuracies = [spread(entry["tasks"][task]) for task in tasks]
        rows.append([label, *accuracies, spread(entry["per_seed"]), cell(entry)])
    best = cells_and_mean(result["references"][PER_TASK], tasks)
    rows.append(["the task's own best LLM (picked on test)", *best, EMPTY])
    header = ["", *titles_with_sizes(result["queries"]), "Avg", "more than BestSingle"]
    about = ABOUT_LEAVE_ONE_OUT.format(command=command, seeds=", ".join(map(str, result["seeds"])))
    return "\n\n".join(["# Leave one task out", about, markdown(header, rows)]) + "\n"


# The command

PAGES = {
    "within": ("within_tasks", within, within_page),
    "leave_one_out": ("leave_one_out", leave_one_out, leave_one_out_page),
}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    words = sys.argv[1:] if argv is None else argv
    try:
        args = parse_arguments(Arguments, words, PROGRAM, __doc__)
        check_resamples(args.resamples)
        if not args.folders:
            raise ValueError("no folders were named; give folders of finished runs")
        name, figures, page = PAGES[args.page]
        result = figures(args)
        command = f"{PROGRAM} {shlex.join(words)}"
        text = page(result, command)
        args.results.mkdir(parents=True, exist_ok=True)
        write_json(args.results / f"{name}.json", {"command": command, **result})
        write_text(args.results / f"{name}.md", text)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{text}\nwritten to {args.results / name}.md and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
