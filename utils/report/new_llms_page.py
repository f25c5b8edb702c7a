"""The page and the figure of `utils.report.new_llms`."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..llm_embedding import METHOD, PENALTY
from ..plots import COLOURS, GRID, LINES, MARKERS
from ..tables import markdown, spread
from ..tasks import short_names
from .drawings import seeds_of
from .runs import grouped

SIDES = {"id_avg": "ID avg", "ood_avg": "OOD avg"}
PAGE = """\
# One LLM more, or one less, without training again

Made by `{command}` after `python -m utils.plan --plan train_scripts/plans/new_llms.yaml`; {device}, {seconds:.0f} s.

Each of the {llms} LLMs of the paper in turn is left out of training ({runs}), and then added to the trained router \
with `utils.add_llm`: encoder, head and the other embeddings stay as they are. Figures are testing accuracies in %, \
means over the LLMs left out, {draws} draws of the scored queries and the seeds; ± is the standard deviation over the \
seeds. A difference is paired (same LLM, same seed); its ± is the standard deviation over LLMs and seeds. "Spread" \
scores the queries nearest to the centres of as many clusters (k-means), "random" draws them. No test row and no \
result on one chose anything.

{tables}

## By the LLM left out

What the router of the others lacks, what `--llm` brings back with 100 scored queries at random and with all of them, \
and what training with all LLMs brings: differences to the router of the others, means over seeds and draws.

{by_llm}

## Removing an LLM

`--remove` against training again without it: differences, mean and standard deviation over the seeds.

{removed}

## How the method was chosen

On training rows alone: each LLM that a router knows was taken out and added again from some rows, and the picks on \
the other training rows were scored (accuracy in %, mean over tasks and LLMs, first router of each recipe). Best over \
all numbers of queries: {best}; the default of `utils.add_llm` is {default}.

{candidates}
"""


def mean_of(lines: Sequence[Mapping[str, Any]], side: str) -> float:
    """Mean of a side over measurements."""
    return float(np.mean([line[side] for line in lines]))


def added(entry: Mapping[str, Any], choice: str, size: int | None = None) -> list[Mapping[str, float]]:
    """The measurements of one router with an LLM added in one way, a line for each draw."""
    return [line for line in entry["added"] if line["choice"] == choice and size in (None, line["size"])]


def ways_of(entry: Mapping[str, Any]) -> dict[str, list[Mapping[str, float]]]:
    """Rows of the tables: title to the measurements of one router."""
    rows = {"never picked: the router of the others": [entry["never"]], "always picked": [entry["always"]]}
    for size in sorted({line["size"] for line in entry["added"] if line["choice"] != "all"}):
        for choice in ("random", "spread"):
            rows[f"added, {size} queries, {choice}"] = added(entry, choice, size)
    rows["added, all training queries"] = added(entry, "all")
    rows["trained with all LLMs"] = [entry["full"]]
    return rows


def table_of(entries: Sequence[Mapping[str, Any]]) -> str:
    """One recipe: each way, both averages, and the differences to full training and to the router of the others."""
    header = ["router"]
    for side in SIDES.values():
        header += [side, "minus full training", "minus the others' router"]
    rows = []
    for title in ways_of(entries[0]):
        row = [title]
        for side in SIDES:
            value = {id(entry): mean_of(ways_of(entry)[title], side) for entry in entries}
            by_seed = grouped(entries, lambda entry: entry["seed"])
            row.append(spread([np.mean([value[id(entry)] for entry in group]) for group in by_seed.values()]))
            for base in ("full", "never"):
                row.append(spread([value[id(entry)] - entry[base][side] for entry in entries], "+"))
        rows.append(row)
    return markdown(header, rows)


def by_llm_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Differences to the router of the others, a row for each recipe and LLM."""
    names = short_names(entry["llm"] for entry in entries)
    header = ["recipe", "LLM left out"]
    for side in SIDES.values():
        header += [f"{side}: 100 queries", "all queries", "full training"]
    rows = []
    for (label, llm), group in grouped(entries, lambda entry: (entry["label"], entry["llm"])).items():
        row = [label, names[llm]]
        for side in SIDES:
            for way in (lambda entry: added(entry, "random", 100), lambda entry: added(entry, "all"), None):
                lines = [way(entry) if way else [entry["full"]] for entry in group]
                gaps = [mean_of(line, side) - entry["never"][side] for line, entry in zip(lines, group)]
                row.append(spread(gaps, "+"))
        rows.append(row)
    return markdown(header, rows)


def removed_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """The router of all LLMs without one, minus the router trained without it."""
    names = short_names(entry["llm"] for entry in entries)
    rows = []
    for (label, llm), group in grouped(entries, lambda entry: (entry["label"], entry["llm"])).items():
        cells = [spread([entry["removed"][side] - entry["never"][side] for entry in group], "+") for side in SIDES]
        rows.append([label, names[llm], *cells])
    for label, group in grouped(entries, lambda entry: entry["label"]).items():
        gaps = {side: [entry["removed"][side] - entry["never"][side] for entry in group] for side in SIDES}
        rows.append([label, "*all, ± over LLMs and seeds*", *[spread(values, "+") for values in gaps.values()]])
    return markdown(["recipe", "LLM removed", *SIDES.values()], rows)


def candidate_means(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[str, float], dict[int, float]]:
    """Accuracy on training rows of each method and penalty, by the number of scored queries."""
    lines = [line for entry in entries for line in entry.get("candidates", [])]
    means: dict[tuple[str, float], dict[int, float]] = {}
    for (method, penalty, size), group in grouped(
        lines, lambda line: (line["method"], line["penalty"], line["size"])
    ).items():
        means.setdefault((method, penalty), {})[size] = mean_of(group, "accuracy")
    return means


def best_candidate(entries: Sequence[Mapping[str, Any]]) -> tuple[str, float]:
    """The method and penalty with the highest mean over the numbers of queries."""
    means = candidate_means(entries)
    return max(means, key=lambda candidate: np.mean(list(means[candidate].values())))


def in_words(method: str, penalty: float) -> str:
    """A method, with its penalty where it has one."""
    return f"{method}, penalty {penalty:g}" if method == "loss" else method


def page(entries: Sequence[Mapping[str, Any]], command: str, device: str, seconds: float) -> str:
    """The page of all measurements."""
    seeds = sorted({entry["seed"] for entry in entries})
    tables = []
    for label, group in grouped(entries, lambda entry: entry["label"]).items():
        count = len({entry["llm"] for entry in group})
        tables.append(f"## Recipe `{label}`\n\n{len(group)} routers: {count} LLMs left out.\n\n{table_of(group)}")
    means = candidate_means(entries)
    sizes = sorted({size for by_size in means.values() for size in by_size})
    rows = []
    for (method, penalty), by_size in means.items():
        rows.append([method, f"{penalty:g}" if method == "loss" else "-", *[f"{by_size[size]:.3f}" for size in sizes]])
    return PAGE.format(
        command=command,
        device=device,
        seconds=seconds,
        llms=len({entry["llm"] for entry in entries}),
        runs=f"{len(entries)} routers, seeds {', '.join(map(str, seeds))}",
        draws=1 + max(line["draw"] for line in entries[0]["added"]),
        tables="\n\n".join(tables),
        by_llm=by_llm_table(entries),
        removed=removed_table(entries),
        best=in_words(*best_candidate(entries)),
        default=in_words(METHOD, PENALTY),
        candidates=markdown(["method", "penalty", *[f"{size} queries" for size in sizes]], rows),
    )


def figure(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy minus that of full training against the number of scored queries, a panel for each average."""
    figure, axes = plt.subplots(1, len(SIDES), figsize=(11, 4.6), sharey=True, layout="constrained")
    for axis, (side, title) in zip(axes, SIDES.items()):
        number = 0
        for label, group in grouped(entries, lambda entry: entry["label"]).items():
            sizes = sorted({line["size"] for line in group[0]["added"] if line["choice"] != "all"})
            never = np.mean([entry["never"][side] - entry["full"][side] for entry in group])
            axis.axhline(never, color=COLOURS[number + 1], linestyle=":", label=f"{label}: without the LLM")
            for choice in ("random", "spread"):
                number += 1
                gaps = [[mean_of(added(e, choice, size), side) - e["full"][side] for e in group] for size in sizes]
                every = [mean_of(added(entry, "all"), side) - entry["full"][side] for entry in group]
                count = np.mean([added(entry, "all")[0]["size"] for entry in group])
                means = [*map(np.mean, gaps), np.mean(every)]
                style = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": LINES[number]}
                axis.plot([*sizes, count], means, label=f"{label}: added, {choice}", **style)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xscale="log", xlabel="scored queries of the added LLM", title=title)
        axis.set_xticks([*sizes], [f"{size}" for size in sizes])
        axis.grid(**GRID)
    axes[0].set_ylabel("accuracy minus that of training with all LLMs (points)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    seeds = seeds_of(len({entry["seed"] for entry in entries}))
    figure.suptitle(f"A new LLM on a trained router: mean over the LLMs left out, {seeds}", fontsize=11)
    return figure
