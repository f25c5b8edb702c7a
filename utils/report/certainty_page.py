"""The page and the figures of `utils.report.certainty`."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..plots import COLOURS, GRID, LINES, MARKERS
from ..tables import EMPTY, markdown, spread
from ..tasks import title_of
from .runs import grouped

SIDES = ("ID", "OOD")
PAGE = """\
# How sure routers are

Made by `{command}`; {device}, {seconds} s. Mean and standard deviation over the seeds. Temperatures, P(right) and \
thresholds come from the validation rows of each run ({rows}), which no weight was trained on; all figures are of the \
test sets. {without}

## Calibration

Expected calibration error in points: the mean distance of what is claimed and what comes true, over {bins} bins of \
equally many queries ("mass") or of equal width. All queries of a side count alike. First for "the pick is right". \
R(x) is the softmax of the similarities, which was never meant to be that; its temperature is fitted to which LLM is \
best. "The LLM's mean" is how often the picked LLM is right on the validation rows, whatever the query: a control. \
P(right) is a logistic regression of each LLM's similarity (Platt).

{calibration}

Then for what R(x) stands for in training, "the pick is the best LLM" (LLMs that are equally good share that):

{best}

By task, P(right) of the pick beside what came true:

{tasks}

`figures/reliability.png` has the diagram.

## Accuracy against coverage

Below a threshold of P(right) the router abstains, and the best single LLM of the training rows answers. A row is a \
threshold at which the router routes that share of the validation rows. "Kept": accuracy of the router on what it \
routes; "router" and "fallback": of both on the rest. In %; accuracy and coverage are means over the tasks, the others \
over queries. The last row is the threshold with the best accuracy on validation rows.

{coverage}

`figures/coverage.png` has the curves.

## Edits that change no question

{edited}. "Changed" is the share of picks that are another LLM than for the plain question, in %; "accuracy" is after \
the edit, less before, in points, with the LLMs' scores on the plain question. Means over the tasks of a side.

{edits}
"""
BINS = 15


def with_certainty(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The entries with validation rows, by label."""
    return grouped(
        [entry["certainty"] | {"label": entry["label"]} for entry in entries if "certainty" in entry],
        lambda e: e["label"],
    )


def error_table(entries: Sequence[Mapping[str, Any]], key: str) -> str:
    """Calibration errors of each recipe and estimate. key: "errors" or "best"."""
    header = ["recipe", "estimate", *[f"{side}, {equal}" for side in SIDES for equal in ("mass", "width")]]
    rows = []
    for label, group in with_certainty(entries).items():
        for title in group[0][key]:
            name = title
            if "fitted" in title:
                name += f" ({spread([entry['temperature'] for entry in group])})"
            cells = []
            for side in SIDES:
                cells += [spread([entry[key][title][side][equal] for entry in group]) for equal in ("mass", "width")]
            rows.append([label, name, *cells])
    return markdown(header, rows)


def task_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """P(right) and accuracy of each task."""
    rows = []
    for label, group in with_certainty(entries).items():
        for task in group[0]["tasks"]:
            cells = [
                spread([entry["tasks"][task][name] for entry in group]) for name in ("P(right)", "accuracy", "error")
            ]
            rows.append([label, title_of(task), *cells])
    return markdown(["recipe", "task", "mean P(right) of the pick", "accuracy", "calibration error"], rows)


def chosen_point(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The point with the best validation accuracy; of equal ones that with the most coverage."""
    return max(entry["points"], key=lambda point: (point["validation"], point["coverage"]))


def coverage_cells(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells of one row, of the same threshold of every seed."""
    cells = [spread([point["threshold"] for point in points]), spread([point["validation"] for point in points])]
    for side in SIDES:
        for name in ("coverage", "accuracy", "kept", "router", "fallback"):
            values = [point[side][name] for point in points if point[side][name] is not None]
            cells.append(spread(values) if values else EMPTY)
    return cells


def coverage_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy at each coverage of the validation rows, and at the one that they choose."""
    header = ["recipe", "coverage there", "threshold", "validation"]
    for side in SIDES:
        header += [f"{side}: coverage", "accuracy", "kept", "router", "fallback"]
    rows = []
    for label, group in with_certainty(entries).items():
        for number, point in enumerate(group[0]["points"]):
            rows.append([label, str(point["coverage"]), *coverage_cells([entry["points"][number] for entry in group])])
        rows.append([label, "*chosen*", *coverage_cells([chosen_point(entry) for entry in group])])
    return markdown(header, rows)


def edit_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Changed picks and accuracies of each edit."""
    header = ["recipe", "edit"]
    for side in SIDES:
        header += [f"{side}: changed", "accuracy"]
    rows = []
    for label, group in grouped(entries, lambda entry: entry["label"]).items():
        for edit in group[0]["edits"]:
            cells = []
            for side in ("id_avg", "ood_avg"):
                cells.append(spread([entry["edits"][edit]["changed"][side] for entry in group]))
                cells.append(spread([entry["edits"][edit]["difference"][side] for entry in group], "+"))
            rows.append([label, edit, *cells])
    return markdown(header, rows)


def page(entries: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The page of all runs. about: command, device, seconds and edited_queries."""
    groups = with_certainty(entries)
    rows = [f"{label}: {entry['rows']}" for label, group in groups.items() for entry in group[:1]]
    without = sorted({entry["label"] for entry in entries if "certainty" not in entry})
    most = about["edited_queries"]
    return PAGE.format(
        command=about["command"],
        device=about["device"],
        seconds=about["seconds"],
        rows=", ".join(rows) or "none has any",
        without=f"Without held-out rows, and so only among the edits: {', '.join(without)}." if without else "",
        bins=BINS,
        calibration=error_table(entries, "errors"),
        best=error_table(entries, "best"),
        tasks=task_table(entries),
        coverage=coverage_table(entries),
        edited=f"The first {most} queries of each test file" if most else "All test queries",
        edits=edit_table(entries),
    )


def reliability_figure(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """What came true against what was claimed of the picks, a panel for each recipe and side; a line for each seed."""
    groups = with_certainty(entries)
    size = (9.6, 0.6 + 4.2 * len(groups))
    figure, axes = plt.subplots(len(groups), 2, figsize=size, squeeze=False, layout="constrained")
    for line, (label, group) in zip(axes, groups.items()):
        for axis, side in zip(line, SIDES):
            axis.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
            for number, title in enumerate(group[0]["diagram"][side]):
                for seed, entry in enumerate(group):
                    predicted, right, _ = np.array(entry["diagram"][side][title]).T
                    style = {"color": COLOURS[number + 1], "marker": MARKERS[number], "linestyle": LINES[number]}
                    axis.plot(predicted, right, markersize=4, linewidth=1, label=None if seed else title, **style)
            axis.set(title=f"{label}, {side}", xlabel="claimed", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
            axis.grid(**GRID)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(
        "How often the pick is right: ten bins of equally many test queries, a line for each seed", fontsize=11
    )
    return figure


def coverage_figure(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy with a fallback against coverage, a panel for each side: mean and deviation over the seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for axis, side in zip(axes, SIDES):
        for number, (label, group) in enumerate(with_certainty(entries).items()):
            covered, accuracy = [
                np.array([[point[side][name] for point in entry["points"]] for entry in group])
                for name in ("coverage", "accuracy")
            ]
            deviation = accuracy.std(axis=0, ddof=1) if len(group) > 1 else None
            style = {"color": COLOURS[number + 1], "marker": MARKERS[number], "linestyle": LINES[number]}
            axis.errorbar(covered.mean(axis=0), accuracy.mean(axis=0), yerr=deviation, capsize=3, label=label, **style)
        axis.set(title=side, xlabel="queries that the router routes (%)", ylabel="accuracy of all queries (%)")
        axis.grid(**GRID)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Below a threshold of P(right) the best single LLM answers", fontsize=11)
    return figure
