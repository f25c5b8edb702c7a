"""Figures of one run or one data set. Line styles and markers differ as well as colours, for grey print.

Those of the report, which compare runs, are in `utils.report.drawings`.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .data import RoutingData
from .files import replacing
from .fonts import use_fonts
from .meters import read_metrics
from .metrics import disagreement, hull, right_counts, single_accuracies
from .tasks import short_names, title_of

# One of each per row of a figure, so that rows differ in grey print too.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
MARKERS = "os^DvPX*"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1)))
# Groups of a map: ten colours, of which no two are shades of one, and nine markers; 90 groups before a pair repeats.
MAP_COLOURS = "#0072B2 #E69F00 #009E73 #CC79A7 #4D4D4D #6A3D9A #D55E00 #8C510A #17BECF #BCBD22".split()
MAP_MARKERS = "os^DvPX*<"
LABELLED_GROUPS = 12  # a map with more groups has no names in it, only in the legend
GRID = {"color": "#dddddd", "linewidth": 0.6}
FORMATS = (".png", ".pdf", ".svg")
# Nothing in a file depends on when or where it was drawn: the same figure is the same file.
METADATA = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
EMBEDDED_FONTS = {"pdf.fonttype": 42, "svg.hashsalt": "routerdc"}  # TrueType, which journals accept


def check_format(target: Path, flag: str) -> None:
    """Raise ValueError, naming the flag, for a figure whose ending is none of FORMATS."""
    if target.suffix not in FORMATS:
        raise ValueError(f"{flag} {target}: its name must end in {', '.join(FORMATS)}")


def save(figure: Figure, target: Path, dpi: int = 150, pdf: bool = True) -> None:
    """Write a figure to a file whose ending gives the format, and forget the figure.

    A .png gets a .pdf of the same name beside it, unless `pdf` is False. Each file is written as a whole or not at all.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    use_fonts(figure)
    paths = [target, target.with_suffix(".pdf")] if pdf and target.suffix == ".png" else [target]
    for path in paths:
        picture = io.BytesIO()  # written below: of a full disk matplotlib says nothing that helps
        with matplotlib.rc_context(EMBEDDED_FONTS):
            figure.savefig(picture, dpi=dpi, format=path.suffix[1:], metadata=METADATA[path.suffix])
        with replacing(path) as part:
            part.write_bytes(picture.getvalue())
    plt.close(figure)


# A run


def training_curve(metrics: Path, target: Path, best_step: int) -> None:
    """Loss and validation accuracy over the steps of one run, with the chosen step, from its metrics.jsonl.

    To look at, in the run's folder, and so without a .pdf; `utils.report.figures` draws those to print.
    """
    lines = read_metrics(metrics)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    losses = [line for line in lines if "loss" in line]
    top.plot([line["step"] for line in losses], [line["loss"] for line in losses], color="black", linewidth=1)
    top.set_ylabel("training loss (mean of 10 steps)")
    scores = [line for line in lines if "validation" in line]
    names = [name for name in scores[0] if name.startswith("validation")] if scores else []
    steps = [line["step"] for line in scores]
    for number, name in enumerate(names):
        style = {"label": title_of(name.split("/")[-1]), "linewidth": 1}
        if name == "validation":
            style = {"label": "mean", "color": "black", "linewidth": 2}
        style |= {"marker": MARKERS[number % len(MARKERS)], "markersize": 3}
        bottom.plot(steps, [line[name] for line in scores], **style)
    if names:
        bottom.axvline(best_step, color="grey", linestyle="--", linewidth=1, label=f"chosen: step {best_step}")
        bottom.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    bottom.set_ylabel("validation accuracy (%)")
    bottom.set_xlabel("optimizer step")
    save(figure, target, dpi=120, pdf=False)


# A map of queries


def query_map(
    points: np.ndarray | Mapping[str, np.ndarray],
    panels: Mapping[str, tuple[Sequence[str], np.ndarray]],
    title: str,
    target: Path,
) -> None:
    """A map of queries, drawn once per panel with other groups.

    Args:
        points: (n, 2), of a method such as t-SNE whose axes mean nothing; or the points of each panel.
        panels: title of a panel to the names of its G groups and the group (n,), 0 to G - 1, of every query.
        target: the file; its ending gives the format.
    """
    size = (5.6 * len(panels), 6.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axis, (heading, (names, groups)) in zip(axes[0], panels.items()):
        shown = points[heading] if isinstance(points, Mapping) else points
        draw_groups(axis, shown, names, groups)
        if len(names) <= LABELLED_GROUPS:
            name_groups(axis, shown, names, groups)
        axis.set(title=heading, xticks=[], yticks=[])
        axis.set_aspect("equal", adjustable="datalim")
    figure.suptitle(title, fontsize=11)
    note = "The axes have neither unit nor direction: only which queries lie near each other means something."
    figure.supxlabel(note, fontsize=8)
    save(figure, target, dpi=120)


def draw_groups(axis: Axes, points: np.ndarray, names: Sequence[str], groups: np.ndarray) -> None:
    """The points (n, 2) by group, small groups on top, and a legend with their sizes."""
    sizes = np.bincount(groups, minlength=len(names))
    handles = {}
    for group in np.argsort(-sizes, kind="stable"):
        handles[group] = axis.scatter(
            *points[groups == group].T,
            s=9,
            linewidths=0,
            alpha=0.7,
            rasterized=True,
            label=f"{names[group]} ({sizes[group]:,})",
            color=MAP_COLOURS[group % len(MAP_COLOURS)],
            marker=MAP_MARKERS[group % len(MAP_MARKERS)],
        )
    axis.legend(
        handles=[handles[group] for group in range(len(names))],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=3,
        fontsize=8,
        markerscale=2.5,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1,
    )


def name_groups(axis: Axes, points: np.ndarray, names: Sequence[str], groups: np.ndarray) -> None:
    """The name of each group at its middle, or as near to it as leaves room for the names before it."""
    room = np.ptp(points, axis=0) * (0.22, 0.06)  # of a name
    outline = [patheffects.withStroke(linewidth=3, foreground="white")]
    taken: list[np.ndarray] = []
    for group in np.unique(groups):
        own = points[groups == group]
        from_the_middle = own[np.argsort(np.abs(own - np.median(own, axis=0)).sum(axis=1))]
        free = (point for point in from_the_middle if is_free(point, taken, room))
        taken.append(next(free, from_the_middle[0]))
        style = {"ha": "center", "va": "center", "fontsize": 10, "fontweight": "bold", "path_effects": outline}
        axis.annotate(names[group], taken[-1], **style)


def is_free(point: np.ndarray, taken: Sequence[np.ndarray], room: np.ndarray) -> bool:
    """Whether a name at a point (2,) leaves the names at the `taken` points their room (2,)."""
    return all((np.abs(point - other) > room).any() for other in taken)


# The LLMs of a data set


def llm_accuracies(data: Mapping[str, RoutingData], target: Path) -> None:
    """Accuracy of each LLM on each file: a row for each file, a mark for each LLM.

    data: names of files to the same LLMs' scores.
    """
    names = short_names(next(iter(data.values())).llms)
    height = np.arange(len(data))[::-1]
    figure, axis = plt.subplots(figsize=(8, 1.6 + 0.4 * len(data)), layout="constrained")
    by_file = [single_accuracies(file) for file in data.values()]
    for column, (name, values) in enumerate(zip(names.values(), zip(*by_file))):
        marker = MARKERS[column % len(MARKERS)]
        axis.plot(values, height, linestyle="", marker=marker, markersize=7, alpha=0.8, label=name)
    axis.set(
        yticks=height,
        yticklabels=[Path(name).stem for name in data],
        xlabel="accuracy (%)",
        ylim=(-0.6, len(data) - 0.4),
    )
    axis.grid(axis="y", linewidth=0.5)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    save(figure, target, dpi=120)


def llm_disagreement(data: Mapping[str, RoutingData], target: Path) -> None:
    """How much there is to route.

    Left: of how many LLMs are right on a query, by file. Right: disagreement of each two LLMs, mean over files.
    data: names of files to the same LLMs' scores.
    """
    llms = next(iter(data.values())).llms
    size = (13, 2.8 + 0.35 * max(len(data), len(llms)))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, layout="constrained")
    draw_right_counts(left, data, len(llms))
    draw_disagreement(right, data, list(short_names(llms).values()))
    save(figure, target, dpi=120)


def draw_right_counts(axis: Axes, data: Mapping[str, RoutingData], llms: int) -> None:
    """Stacked bars: the share of each file's queries on which 0, 1, ... of the LLMs are right."""
    counts = np.array([right_counts(file) for file in data.values()])  # (files, T + 1)
    start, rows = np.zeros(len(data)), np.arange(len(data))[::-1]
    for number in range(llms + 1):
        shade = plt.get_cmap("viridis")(number / llms)
        axis.barh(rows, counts[:, number], left=start, color=shade, edgecolor="white", label=str(number))
        start += counts[:, number]
    axis.set(
        yticks=rows,
        yticklabels=[Path(name).stem for name in data],
        xlim=(0, 100),
        xlabel="share of the queries (%)",
        title="how many LLMs are right on a query",
    )
    axis.legend(ncols=llms + 1, loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8, frameon=False)


def draw_disagreement(axis: Axes, data: Mapping[str, RoutingData], names: Sequence[str]) -> None:
    """A heat map of the share of queries on which only one of two LLMs is right, mean over the files."""
    matrix = np.mean([disagreement(file) for file in data.values()], axis=0)  # (T, T)
    most = max(1, matrix.max())
    axis.imshow(matrix, cmap="Greys", vmin=0, vmax=max(1, 1.6 * matrix.max()))
    for row, column in np.ndindex(matrix.shape):
        value = matrix[row, column]
        colour = "white" if value > 0.85 * most else "black"
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set(
        xticks=range(len(names)),
        yticks=range(len(names)),
        yticklabels=names,
        title="disagreement: where only one of the two is right (%)",
    )
    axis.set_xticklabels(names, rotation=40, ha="right")


# Accuracy against cost

COST_STYLES = {  # colours of different lightness, and a marker each; the first are RouterDC's, a recipe each
    "RouterDC": [("#0072B2", "o", "-"), ("#D55E00", "P", (0, (5, 1))), ("#000000", "X", (0, (1, 1)))],
    "kNN": [("#E69F00", "s", "-.")],
    "MLP": [("#009E73", "^", ":")],
    "BestPerTask": [("#999999", "D", "--")],
    "per-query oracle": [("#CC79A7", "*", "-")],
}


def cost_curve(result: Mapping[str, Any], target: Path, others: Sequence[Mapping[str, Any]] = ()) -> None:
    """Accuracy against cost of the routers in a routerbench.json, above the hull of the single LLMs.

    A point is the mean over tasks and seeds at one cost rate; bars are standard deviations over the seeds. The cost
    axis is logarithmic, so the hull's straight pieces are bent; where an LLM costs nothing it is linear.
    others: results of further recipes on the same data, of which RouterDC is drawn; its baselines are the same.
    """
    figure, axis = plt.subplots(figsize=(10.4, 6), layout="constrained")
    scale = draw_single_llms(axis, result["llms"])
    results = [result, *others]
    for name, styles in COST_STYLES.items():
        for number, shown in enumerate(results if name == "RouterDC" else results[:1]):
            label = f"{name}, {cost_recipe(shown)}" if name == "RouterDC" else name
            draw_cost_points(axis, shown, name, label, styles[number % len(styles)])
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: labels[place][0].isdigit() or labels[place] == SINGLE_LLMS)
    axis.legend(
        [handles[place] for place in order],
        [labels[place] for place in order],
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        fontsize=8,
        frameon=False,
    )
    axis.set(xscale=scale, xlabel="mean cost (US dollars per 1000 queries)", ylabel="mean accuracy over tasks (%)")
    if scale == "log":
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(**GRID)
    tasks = ", ".join(map(title_of, result["tasks"]))
    seeds = len(result["seeds"])
    figure.suptitle(
        f"RouterBench ({tasks}): accuracy against cost, {result['encoder']} embeddings\n"
        f"mean and standard deviation over {seeds} seed{'s' if seeds > 1 else ''}, a point for each cost rate",
        fontsize=11,
    )
    save(figure, target)


SINGLE_LLMS = "single LLMs:"  # in the legend, above their names


def draw_single_llms(axis: Axes, llms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The single LLMs, by number, and the hull over them; returns the scale of the cost axis, "log" or "linear"."""
    names = short_names(llms)
    rows = [(1000 * mean_over_tasks(llm["cost"]), mean_over_tasks(llm["accuracy"]), name) for name, llm in llms.items()]
    single = sorted(rows)
    costs, values = [row[0] for row in single], [row[1] for row in single]
    scale = "log" if costs[0] > 0 else "linear"
    grid = (np.geomspace if scale == "log" else np.linspace)(costs[0], costs[-1], 400)
    heights = np.interp(grid, *hull(costs, values))
    axis.plot(grid, heights, color="black", linestyle="--", linewidth=1.2, label="single LLMs, mixed (hull)")
    axis.scatter(costs, values, marker="x", color="black", s=30, label=SINGLE_LLMS)
    for number, (cost, value, name) in enumerate(single, 1):
        axis.annotate(str(number), (cost, value), xytext=(4, -9), textcoords="offset points", fontsize=8)
        axis.plot([], [], linestyle="", label=f"{number}  {names[name]}")
    return scale


def draw_cost_points(axis: Axes, result: Mapping[str, Any], name: str, label: str, style: tuple) -> None:
    """The points of one router, one for each cost rate, with bars for their deviation over the seeds."""
    points = []
    for rate in result["cost_rates"]:
        at_rate = [point for point in result["routers"].get(name, []) if point["cost_rate"] == rate]
        if at_rate:
            costs = [1000 * mean_over_tasks(point["cost"]) for point in at_rate]
            values = [mean_over_tasks(point["accuracy"]) for point in at_rate]
            points.append((np.mean(costs), np.mean(values), deviation(costs), deviation(values)))
    if not points:
        return
    cost, value, cost_deviation, value_deviation = np.array(points).T
    colour, marker, line = style
    axis.errorbar(
        cost,
        value,
        xerr=cost_deviation if cost_deviation.any() else None,
        yerr=value_deviation if value_deviation.any() else None,
        color=colour,
        marker=marker,
        linestyle=line,
        markersize=7,
        linewidth=1.6,
        elinewidth=0.9,
        capsize=2.5,
        markeredgecolor="black",
        markeredgewidth=0.5,
        label=label,
    )


def cost_recipe(result: Mapping[str, Any]) -> str:
    """The name of the recipe in a routerbench.json; older ones have the folder of the runs in their command alone."""
    return result.get("recipe") or Path(result["command"].split()[3]).name.removeprefix("minilm_")


def mean_over_tasks(values: Mapping[str, float]) -> float:
    """The mean of a value of each task."""
    return float(np.mean(list(values.values())))


def deviation(values: Sequence[float]) -> float:
    """The standard deviation over the seeds; 0 for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
