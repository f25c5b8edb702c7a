"""Markdown tables, and the tables of the paper from one result."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.metrics import best_single
from utils.tasks import LLMS, PAPER, PAPER_AVERAGE, TASKS, TRAIN_ORDER, short, title_of


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[c]) for row in cells) for c in range(len(header))]
    lines = [
        "| " + " | ".join(v.rjust(w) if c else v.ljust(w) for c, (v, w) in enumerate(zip(row, widths))) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if c else "-") for c, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def accuracy_cells(values: Mapping[str, float], tasks: Sequence[str]) -> list[str]:
    """A row's accuracies on tasks and their mean, as text; "-" for a task that it has not, and then for the mean."""
    cells = [f"{values[task]:.2f}" if task in values else "-" for task in tasks]
    return [*cells, "-" if "-" in cells else f"{np.mean([values[task] for task in tasks]):.2f}"]


def tables(result: Mapping[str, Any], name: str = "RouterDC (this run)") -> str:
    """The paper's Table 1 and Table 2 with this result, the paper's RouterDC and the reference rows, the routing shares, and costs where they are known.

    The paper's figures stand beside its own LLMs and data only.
    """
    tasks = list(result["tasks"])
    of_paper = result.get("dataset", "paper") == "paper"
    paper = {task.name: place for place, task in enumerate(TASKS)}
    text = []
    inside = [task for task in [*paper, *tasks] if task in tasks and task in result.get("in_distribution", TRAIN_ORDER)]
    inside = list(dict.fromkeys(inside))  # the paper's tasks first, in its order
    for title, part, side in (
        ("Table 1: in-distribution testing accuracy (%)", inside, 0),
        ("Table 2: out-of-distribution testing accuracy (%)", [task for task in tasks if task not in inside], 1),
    ):
        if not part:
            continue
        rows = []
        complete = {t for t in part} == {task.name for task in TASKS if task.in_distribution == (side == 0)}
        best = best_single(result["references"], result["llms"], part)
        for row, values in {**result["references"], name: result["tasks"]}.items():
            label = f"{short(row)} (best single LLM)" if row == best else short(row)
            if set(part) & set(values):  # the learnable ceiling may be known of some tasks alone
                rows.append([label, *accuracy_cells(values, part)])
        if of_paper and set(result["llms"]) <= set(LLMS) and set(part) & set(paper):
            cells = [f"{PAPER['RouterDC'][paper[t]]:.2f}" if t in paper else "-" for t in part]
            rows.append(["RouterDC (paper)", *cells, f"{PAPER_AVERAGE['RouterDC'][side]:.2f}" if complete else "-"])
        title = title if of_paper else title.split(": ", 1)[1].capitalize()
        text.append(f"{title}\n{markdown(['', *map(title_of, part), 'Avg'], rows)}")
    llms = result["llms"]
    rows = [[title_of(task), *[f"{result['shares'][task][llm]:.1f}" for llm in llms]] for task in tasks]
    text.append(f"Routing share of each LLM (%)\n{markdown(['', *map(short, llms)], rows)}")
    if result.get("costs"):
        rate = result["cost_rate"]
        charged = [("costs", "Mean cost of a query (US dollars per 1000 queries)", 1000, 4)]
        charged += [("utilities", f"Utility: score - {rate:g} * cost in US dollars (%)", 1, 2)] if rate else []
        for part, title, factor, digits in charged:
            priced = list(result[part]["router"])
            named = {
                **{row: values for row, values in result[part].items() if row != "router"},
                name: result[part]["router"],
            }
            rows = [
                [
                    short(row),
                    *[f"{factor * values[t]:.{digits}f}" for t in priced],
                    f"{factor * np.mean([values[t] for t in priced]):.{digits}f}",
                ]
                for row, values in named.items()
            ]
            text.append(f"{title}\n{markdown(['', *map(title_of, priced), 'Avg'], rows)}")
    return "\n\n".join(text)
