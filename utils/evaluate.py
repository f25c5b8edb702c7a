"""Score a router on data sets and print the tables of the paper; training and `evaluation_router.py` share this code."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from utils.ceiling.known import known_ceilings
from utils.data import RoutingData
from utils.encoders import Queries, Trained
from utils.experiment import Setup
from utils.meters import bar
from utils.metrics import accuracy, averages, best_single, mean_cost, references, shares, utility
from utils.model import RouterDC
from utils.tasks import LLMS, PAPER, PAPER_AVERAGE, TASKS, TRAIN_ORDER, short, title_of


@torch.no_grad()
def route(model: RouterDC, queries: Queries, llms: Sequence[str], rows: np.ndarray | None = None, progress: tqdm | None = None) -> np.ndarray:
    """The column of `llms` that each query is routed to: arg-max of the similarity among the LLMs present. Returns (N,).

    Leaves the training mode and every random state as they were.
    """
    was_training = model.training
    model.eval()
    try:
        similarity = model(queries.embed(rows, progress))[1]  # (N, T)
        return similarity[:, model.columns(llms)].argmax(dim=1).cpu().numpy()
    finally:
        model.train(was_training)


def evaluate(model: RouterDC, tests: Sequence[RoutingData], setup: Setup, trained: Trained, cache: Path | None = None, inside: Collection[str] = TRAIN_ORDER, cost_rate: float = 0.0) -> dict[str, Any]:
    """Route every query of `tests` and report accuracies, averages, reference rows and routing shares, all in %.

    `trained` says which layers the training changed: what lies below them is looked up in, or added to, `cache`. Files are encoded one by one, so a task's figures do not depend on which other files are evaluated.
    Returns: what `measure` returns.
    """
    picks = {}
    for data in tests:
        queries = Queries(model.encoder, data.inputs, setup, trained, cache, data.task)
        with bar(len(data), f"test {data.task}", "query") as progress:
            picks[data.task] = route(model, queries, data.llms, progress=progress)
    return measure(picks, tests, inside, cost_rate)


def measure(picks: Mapping[str, np.ndarray], tests: Sequence[RoutingData], inside: Collection[str] = TRAIN_ORDER, cost_rate: float = 0.0) -> dict[str, Any]:
    """What any router's picks are worth. picks: for each task the column of `llms` per query, (N,).

    Returns: {"tasks": {task: accuracy}, "id_avg", "ood_avg", "in_distribution", "queries": {task: N}, "llms", "shares": {task: {llm: %}},
    "references": {row: {task: %}}, "picks": {task: [column of "llms" per query]}}. For the tasks whose files have costs also "costs": {row: {task: US dollars per query}} and
    "utilities": {row: {task: %}}, rows being "router" and each LLM, "cost_rate", and "left_out": {task: rows with empty cells}.
    """
    llms = tests[0].llms
    tasks = {data.task: accuracy(picks[data.task], data) for data in tests}
    routed = {task: dict(zip(llms, map(float, shares(chosen, len(llms))))) for task, chosen in picks.items()}
    priced = [data for data in tests if data.costs is not None]
    rows = {"router": picks} | {llm: {data.task: np.full(len(data), t) for data in priced} for t, llm in enumerate(llms)}
    charged = {
        "costs": {row: {data.task: mean_cost(chosen[data.task], data) for data in priced} for row, chosen in rows.items()},
        "utilities": {row: {data.task: utility(chosen[data.task], data, cost_rate) for data in priced} for row, chosen in rows.items()},
        "cost_rate": cost_rate,
        "left_out": {data.task: data.left_out for data in tests},
    }
    return {
        "tasks": tasks,
        **averages(tasks, inside),
        "in_distribution": [task for task in tasks if task in inside],
        "queries": {data.task: len(data) for data in tests},
        "llms": list(llms),
        "shares": routed,
        "references": references(tests, known_ceilings(tests)),
        "picks": {task: chosen.tolist() for task, chosen in picks.items()},
        **(charged if priced else {}),
    }


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[c]) for row in cells) for c in range(len(header))]
    lines = ["| " + " | ".join(v.rjust(w) if c else v.ljust(w) for c, (v, w) in enumerate(zip(row, widths))) + " |" for row in cells]
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
            named = {**{row: values for row, values in result[part].items() if row != "router"}, name: result[part]["router"]}
            rows = [
                [short(row), *[f"{factor * values[t]:.{digits}f}" for t in priced], f"{factor * np.mean([values[t] for t in priced]):.{digits}f}"]
                for row, values in named.items()
            ]
            text.append(f"{title}\n{markdown(['', *map(title_of, priced), 'Avg'], rows)}")
    return "\n\n".join(text)
