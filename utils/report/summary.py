"""Mean and standard deviation over seeds of any finished runs, whatever their tasks and LLMs are."""

import json
import sys
from collections.abc import Sequence

from ..metrics import CEILING
from ..tables import TITLES, cells_and_mean, score_table, spread_cells, without_number
from ..tasks import BY_NAME, short_names, title_of
from .runs import Run, grouped, row_label, seed_groups


def what_was_tested(run: Run) -> str:
    """Text that is equal for runs tested on the same data and trained on the same tasks."""
    test = run.results["test"]
    references = {row: values for row, values in test["references"].items() if row != CEILING}
    return json.dumps([references, test["in_distribution"]], sort_keys=True)


def row_labels(groups: Sequence[tuple[str, str, str, str]]) -> dict[tuple[str, str, str, str], str]:
    """A label for each group: its router, its label and its fidelity, and the encoder where these are alike."""
    plain = {}
    for router, encoder, label, fidelity in groups:
        plain[router, encoder, label, fidelity] = row_label(router, label, fidelity=fidelity)
    labels = {}
    for group, label in plain.items():
        alike = list(plain.values()).count(label) > 1
        labels[group] = row_label(*group[:3], fidelity=group[3]) if alike else label
    return labels


def side_table(runs: Sequence[Run], tasks: Sequence[str], average: str) -> str:
    """The single LLMs and references, then each group of runs, on the tasks of one side.

    average: the name of the side's average in results, "id_avg" or "ood_avg".
    """
    test = runs[0].results["test"]
    names = short_names(test["llms"])
    rows = []
    for row, values in test["references"].items():
        if set(tasks) & set(values):
            rows.append([names.get(row, row), *cells_and_mean(values, tasks), ""])
    groups = seed_groups(runs)
    labels = row_labels(list(groups))
    for group, members in groups.items():
        tests = [run.results["test"] for run in members]
        cells = spread_cells([test["tasks"] for test in tests], [test[average] for test in tests], tasks)
        rows.append([labels[group], *cells])
    return score_table(tasks, rows, ["seeds"])


def section(runs: Sequence[Run]) -> list[str]:
    """One table a side of runs that were tested on the same data, each below its title."""
    test = runs[0].results["test"]
    inside = test["in_distribution"]
    sides = {True: inside, False: [task for task in test["tasks"] if task not in inside]}
    of_paper = set(test["tasks"]) <= set(BY_NAME)
    paragraphs = []
    for is_inside, tasks in sides.items():
        if tasks:
            title = TITLES[is_inside] if of_paper else without_number(TITLES[is_inside])
            paragraphs.append(f"{title}\n\n{side_table(runs, tasks, 'id_avg' if is_inside else 'ood_avg')}")
    return paragraphs


def summary(runs: Sequence[Run]) -> str:
    """Markdown tables of finished runs, one a side, with mean and standard deviation over the seeds.

    The rows are the single LLMs and references, then each router and label.
    Runs that were tested on other data than the first one, or trained on other tasks, have tables of their own. Runs
    that were not tested are counted on stderr and left out.
    Raises: ValueError for two runs of one row with the same seed, and where no run was tested.
    """
    tested = [run for run in runs if run.results["test"].get("tasks")]
    if not tested:
        raise ValueError("none of the runs was tested; train without --no_final_eval")
    if len(tested) < len(runs):
        print(f"left out: {len(runs) - len(tested)} runs that were not tested", file=sys.stderr)
    sections = grouped(tested, what_was_tested)
    paragraphs = []
    for number, members in enumerate(sections.values(), 1):
        if len(sections) > 1:
            test = members[0].results["test"]
            tasks = ", ".join(map(title_of, test["tasks"]))
            paragraphs.append(f"## Data {number}: {tasks}; {len(test['llms'])} LLMs")
        paragraphs += section(members)
    return "\n\n".join(paragraphs)
