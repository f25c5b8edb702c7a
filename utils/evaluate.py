"""Score a router on data sets and print the tables of the paper; training and `evaluation_router.py` share this code."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from utils.data import RoutingData
from utils.encoders import Queries, Trained
from utils.experiment import Setup
from utils.meters import bar
from utils.metrics import accuracy, averages, best_single, references, shares
from utils.model import RouterDC
from utils.tasks import PAPER, PAPER_AVERAGE, TASKS, TRAIN_ORDER, short, title_of


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


def evaluate(model: RouterDC, tests: Sequence[RoutingData], setup: Setup, trained: Trained, cache: Path | None = None, inside: Collection[str] = TRAIN_ORDER) -> dict[str, Any]:
    """Route every query of `tests` and report accuracies, averages, reference rows and routing shares, all in %.

    `trained` says which layers the training changed: what lies below them is looked up in, or added to, `cache`. Files are encoded one by one, so a task's figures do not depend on which other files are evaluated.
    Returns: {"tasks": {task: accuracy}, "id_avg", "ood_avg", "in_distribution", "queries": {task: N}, "llms", "shares": {task: {llm: %}},
    "references": {row: {task: %}}, "picks": {task: [column of "llms" per query]}}.
    """
    picks = {}
    for data in tests:
        queries = Queries(model.encoder, data.questions, setup, trained, cache, data.task)
        with bar(len(data), f"test {data.task}", "query") as progress:
            picks[data.task] = route(model, queries, data.llms, progress=progress)
    llms = tests[0].llms
    tasks = {data.task: accuracy(picks[data.task], data) for data in tests}
    routed = {task: dict(zip(llms, map(float, shares(chosen, len(llms))))) for task, chosen in picks.items()}
    return {
        "tasks": tasks,
        **averages(tasks, inside),
        "in_distribution": [task for task in tasks if task in inside],
        "queries": {data.task: len(data) for data in tests},
        "llms": list(llms),
        "shares": routed,
        "references": references(tests),
        "picks": {task: chosen.tolist() for task, chosen in picks.items()},
    }


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[c]) for row in cells) for c in range(len(header))]
    lines = ["| " + " | ".join(v.rjust(w) if c else v.ljust(w) for c, (v, w) in enumerate(zip(row, widths))) + " |" for row in cells]
    rule = "|" + "|".join("-" * (w + 1) + (":" if c else "-") for c, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def tables(result: Mapping[str, Any], name: str = "RouterDC (this run)") -> str:
    """The paper's Table 1 and Table 2 with this result, the paper's RouterDC and the reference rows, and the routing shares."""
    tasks = list(result["tasks"])
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
            rows.append([label, *[f"{values[t]:.2f}" for t in part], f"{np.mean([values[t] for t in part]):.2f}"])
        if set(part) & set(paper):
            cells = [f"{PAPER['RouterDC'][paper[t]]:.2f}" if t in paper else "-" for t in part]
            rows.append(["RouterDC (paper)", *cells, f"{PAPER_AVERAGE['RouterDC'][side]:.2f}" if complete else "-"])
        text.append(f"{title}\n{markdown(['', *map(title_of, part), 'Avg'], rows)}")
    llms = result["llms"]
    rows = [[title_of(task), *[f"{result['shares'][task][llm]:.1f}" for llm in llms]] for task in tasks]
    text.append(f"Routing share of each LLM (%)\n{markdown(['', *map(short, llms)], rows)}")
    return "\n\n".join(text)
