"""Markdown tables: numbers as text, rows of scores with their mean, rows of the paper, the tables of one result."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .metrics import best_single
from .tasks import LLMS, PAPER, PAPER_AVERAGE, TASKS, TRAIN_ORDER, short_names, title_of

TITLES = {
    True: "Table 1: in-distribution testing accuracy (%)",
    False: "Table 2: out-of-distribution testing accuracy (%)",
}
EMPTY = "-"
PER_QUERIES = 1000  # costs are printed in US dollars per that many queries


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    table = []
    for line in lines:
        others = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
        table.append("| " + " | ".join([line[0].ljust(widths[0]), *others]) + " |")
    rules = ["-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)]
    table.insert(1, "|" + "|".join(rules) + "|")
    return "\n".join(table)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and sample standard deviation, as text. sign: "+" shows the sign of the mean."""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.2f}{deviation}"


def bracket(ends: Sequence[float], sign: str = "") -> str:
    """An interval as text. sign: "+" shows the signs of its ends."""
    return f"[{ends[0]:{sign}.2f}, {ends[1]:{sign}.2f}]"


def cells_and_mean(values: Mapping[str, float], tasks: Sequence[str], digits: int = 2, factor: float = 1) -> list[str]:
    """A row's values on the tasks, times `factor`, and their mean.

    A task that the row lacks is "-", and then the mean is "-" as well.
    """
    cells = [f"{factor * values[task]:.{digits}f}" if task in values else EMPTY for task in tasks]
    if EMPTY in cells:
        return [*cells, EMPTY]
    return [*cells, f"{factor * np.mean([values[task] for task in tasks]):.{digits}f}"]


def spread_cells(runs: Sequence[Mapping[str, float]], averages: Sequence[float], tasks: Sequence[str]) -> list[str]:
    """A row of runs that differ in the seed: mean and deviation on each task and of their averages, number of seeds.

    runs: the accuracy on each task, for each run. averages: over the tasks, for each run.
    """
    return [*[spread([run[task] for run in runs]) for task in tasks], spread(averages), str(len(runs))]


def paper_cells(name: str, tasks: Sequence[str], inside: bool) -> list[str]:
    """The paper's accuracies of one of its rows, and the average that it prints of all its tasks on that side.

    "-" for a task that the paper has not, and for the average of other tasks than the paper's.
    """
    printed = {task.name: value for task, value in zip(TASKS, PAPER[name])}
    cells = [f"{printed[task]:.2f}" if task in printed else EMPTY for task in tasks]
    of_paper = {task.name for task in TASKS if task.in_distribution == inside}
    average = PAPER_AVERAGE[name][0 if inside else 1]
    return [*cells, f"{average:.2f}" if set(tasks) == of_paper else EMPTY]


def score_table(tasks: Sequence[str], rows: Sequence[Sequence[str]], further: Sequence[str] = ()) -> str:
    """A table of rows that have a label, a cell for each task, the average, and `further` columns."""
    return markdown(["", *map(title_of, tasks), "Avg", *further], rows)


# The tables of one result


def tables(result: Mapping[str, Any], name: str = "RouterDC (this run)") -> str:
    """The tables of one result of `utils.evaluate.measure`: accuracies, routing shares, and costs where they are known.

    The accuracies are the paper's Table 1 and Table 2 with this result, the paper's RouterDC and the reference rows.
    The paper's figures stand beside its own LLMs and data only.
    """
    blocks = [*accuracy_tables(result, name), shares_table(result)]
    if result.get("costs"):
        blocks += cost_tables(result, name)
    return "\n\n".join(blocks)


def accuracy_tables(result: Mapping[str, Any], name: str) -> list[str]:
    """One table for the tasks in distribution, the paper's first and in its order, and one for the others."""
    tasks = list(result["tasks"])
    trained = result.get("in_distribution", TRAIN_ORDER)
    of_paper = [task.name for task in TASKS]
    inside = [task for task in dict.fromkeys([*of_paper, *tasks]) if task in tasks and task in trained]
    sides = {True: inside, False: [task for task in tasks if task not in inside]}
    return [accuracy_table(result, name, side, is_inside) for is_inside, side in sides.items() if side]


def accuracy_table(result: Mapping[str, Any], name: str, tasks: Sequence[str], inside: bool) -> str:
    """The accuracies of every LLM, of the references and of the result, which is called `name`, on these tasks."""
    llms, names = result["llms"], short_names(result["llms"])
    best = best_single(result["references"], llms, tasks)
    names[best] += " (best single LLM)"
    rows = []
    for row, values in {**result["references"], name: result["tasks"]}.items():
        if set(tasks) & set(values):  # the learnable ceiling may be known of some tasks alone
            rows.append([names.get(row, row), *cells_and_mean(values, tasks)])
    of_paper = result.get("dataset", "paper") == "paper"
    if of_paper and set(llms) <= set(LLMS) and set(tasks) & {task.name for task in TASKS}:
        rows.append(["RouterDC (paper)", *paper_cells("RouterDC", tasks, inside)])
    title = TITLES[inside] if of_paper else without_number(TITLES[inside])
    return f"{title}\n{score_table(tasks, rows)}"


def without_number(title: str) -> str:
    """A title of TITLES for data that are not the paper's."""
    return title.split(": ", 1)[1].capitalize()


def shares_table(result: Mapping[str, Any]) -> str:
    """Which share of each task's queries goes to each LLM."""
    names = short_names(result["llms"])
    rows = []
    for task in result["tasks"]:
        rows.append([title_of(task), *[f"{result['shares'][task][llm]:.1f}" for llm in names]])
    return f"Routing share of each LLM (%)\n{markdown(['', *names.values()], rows)}"


def cost_tables(result: Mapping[str, Any], name: str) -> list[str]:
    """What the result and every LLM cost, and their utility if there is a cost rate, on the tasks with costs."""
    rate = result["cost_rate"]
    title = f"Mean cost of a query (US dollars per {PER_QUERIES} queries)"
    blocks = [f"{title}\n{cost_table(result, name, 'costs', PER_QUERIES, 4)}"]
    if rate:
        title = f"Utility: score - {rate:g} * cost in US dollars (%)"
        blocks.append(f"{title}\n{cost_table(result, name, 'utilities', 1, 2)}")
    return blocks


def cost_table(result: Mapping[str, Any], name: str, key: str, factor: float, digits: int) -> str:
    """The figures of result[key], the LLMs first and the result, called `name`, last."""
    figures, names = result[key], short_names(result["llms"])
    tasks = list(figures["router"])
    rows = [[names[llm], *cells_and_mean(figures[llm], tasks, digits, factor)] for llm in figures if llm != "router"]
    rows.append([name, *cells_and_mean(figures["router"], tasks, digits, factor)])
    return score_table(tasks, rows)
