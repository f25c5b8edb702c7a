"""How the figures of the report look; `utils.report.figures` reads what they show."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..plots import COLOURS, GRID, LINES, MARKERS
from ..tasks import title_of

FILLS = ("#ffffff", "#cfe3f3", "#f7d9a0", "#a8d8c4", "#e8c3d8", "#8fb9d8", "#e6a07c", "#bbbbbb")
HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++", "oo")

Measure = tuple[float, float]  # mean and standard deviation over the seeds
Curves = Mapping[int, Sequence[Mapping[str, float]]]  # seed to the metrics of its run (`utils.meters.read_metrics`)


def seeds_of(count: int) -> str:
    """A number of seeds in words."""
    return f"{count} seed" if count == 1 else f"{count} seeds"


# Both averages of all routers


def overview(
    rows: Mapping[str, Mapping[str, tuple[float, float, float, float]]],
    marks: Mapping[str, Mapping[str, float]],
    title: str,
) -> Figure:
    """A line for each router, a panel for each average.

    A dot is the mean; thick is the standard deviation over seeds, thin the 95 % interval.

    Args:
        rows: label to {panel title: (mean, standard deviation, low, high)}, all in %; the first row comes on top. A row
            without an interval (a published figure) has low = high = mean.
        marks: label to {panel title: value}; dashed lines that need no router.
    """
    panels = list(next(iter(rows.values())))
    size = (9.6, 2.2 + 0.3 * len(rows))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axis, panel in zip(axes[0], panels):
        for height, row in enumerate(rows.values()):
            draw_interval(axis, height, *row[panel])
        for number, (label, values) in enumerate(marks.items()):
            style = {"color": COLOURS[3 + number], "linestyle": LINES[1 + number], "linewidth": 1.2}
            axis.axvline(values[panel], label=label, zorder=0, **style)
        axis.set_xlabel(f"{panel}: accuracy (%)")
        axis.grid(axis="x", **GRID)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(rows)), list(rows))
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    note = "dot: mean; thick: standard deviation over the seeds; thin: 95 % interval over seeds and queries"
    figure.suptitle(f"{title}\n{note}", fontsize=11)
    return figure


def draw_interval(axis: Axes, height: int, mean: float, deviation: float, low: float, high: float) -> None:
    """One row of an overview; a published figure, which has no interval, is a diamond."""
    is_published = low == high
    if not is_published:
        axis.plot([low, high], [height, height], color=COLOURS[1], linewidth=1)
        thick = {"color": COLOURS[1], "linewidth": 4, "solid_capstyle": "butt"}
        axis.plot([mean - deviation, mean + deviation], [height, height], **thick)
    marker, colour = ("D", COLOURS[6]) if is_published else ("o", COLOURS[0])
    axis.plot(mean, height, marker, color=colour, markersize=5, zorder=3)


# Ablations

MEASURES = {  # of a line of ablations.jsonl: label, colour, marker, line
    "validation": ("validation", COLOURS[1], "^", "--"),
    "id_avg": ("test, in distribution", COLOURS[0], "o", "-"),
    "ood_avg": ("test, out of distribution", COLOURS[6], "s", "-."),
}


def settings_curves(
    panels: Mapping[str, Mapping[str, Mapping[str, Measure]]], own: Mapping[str, str], title: str
) -> Figure:
    """Accuracy against the values of settings: a column for each setting, a row for each of MEASURES.

    Args:
        panels: title of a setting to {value: {"validation", "id_avg", "ood_avg": measure in %}}, values in order;
            a measure may be missing.
        own: title of a setting to the value that the recipe has.
    """
    size = (1.2 + 2.7 * len(panels), 7.4)
    layout = {"sharey": "row", "sharex": "col", "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(len(MEASURES), len(panels), figsize=size, **layout)
    for column, (heading, values) in enumerate(panels.items()):
        for axis, measure in zip(axes[:, column], MEASURES):
            draw_measure(axis, values, measure)
            if own.get(heading) in values:
                place = list(values).index(own[heading])
                axis.axvline(place, color="#999999", linestyle=":", linewidth=1.2, zorder=0)
            axis.grid(axis="y", **GRID)
        axes[0, column].set_title(heading, fontsize=10)
        longest = max(len(value) for value in values)
        axes[-1, column].set_xticks(range(len(values)), values, rotation=45 if longest > 4 else 0)
        axes[-1, column].set_xlim(-0.4, len(values) - 0.6)
    for axis, (label, *_) in zip(axes[:, 0], MEASURES.values()):
        axis.set_ylabel(f"{label}\naccuracy (%)", fontsize=9)
    figure.suptitle(f"{title}\nMean and standard deviation over the seeds; dotted: the recipe's own value", fontsize=11)
    return figure


def draw_measure(axis: Axes, values: Mapping[str, Mapping[str, Measure]], measure: str) -> None:
    """Mean and deviation of one measure at every value that has it."""
    places = [place for place, measures in enumerate(values.values()) if measure in measures]
    points = [measures[measure] for measures in values.values() if measure in measures]
    if not points:
        return
    mean, deviation = np.array(points).T
    label, colour, marker, line = MEASURES[measure]
    style = {"color": colour, "marker": marker, "linestyle": line, "label": label}
    axis.errorbar(places, mean, yerr=deviation, capsize=3, markersize=5, linewidth=1.4, **style)


def lost_llms(rows: Mapping[str, Mapping[str, Mapping[str, Measure]]], title: str) -> Figure:
    """What is left when one LLM is lost at test time.

    Args:
        rows: lost LLM to {side: {what routes: measure in %}}; side is the title of a panel.
    """
    sides = list(next(iter(rows.values())))
    size = (6.2 * len(sides), 0.42 * len(rows) + 2.2)
    figure, axes = plt.subplots(1, len(sides), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, side in zip(axes[0], sides):
        routes = list(next(iter(rows.values()))[side])
        for number, route in enumerate(routes):
            mean, deviation = np.array([measures[side][route] for measures in rows.values()]).T
            axis.errorbar(
                mean,
                np.arange(len(rows)) + 0.16 * (number - 1),
                xerr=deviation if deviation.any() else None,
                label=route,
                fmt=MARKERS[number],
                color=COLOURS[number],
                capsize=3,
                markersize=6 - (number > 0),
            )
        axis.set(title=side, xlabel="accuracy (%)", yticks=range(len(rows)), yticklabels=list(rows))
        axis.grid(axis="x", **GRID)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_ylabel("LLM lost")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


# A router


def llm_embeddings(vectors: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The LLM embeddings (T, p) of a router: their cosines as a heat map, and their two principal directions."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    height = max(4.8, 0.72 * len(names))
    figure, (left, right) = plt.subplots(1, 2, figsize=(2.35 * height + 2.4, height + 0.9), layout="constrained")
    draw_cosines(left, unit @ unit.T, names)
    draw_principal_directions(right, unit, names)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_cosines(axis: Axes, cosines: np.ndarray, names: Sequence[str]) -> None:
    """Cosines (T, T) as a heat map, whose shades are for what is off the diagonal."""
    most = max(np.abs(cosines - np.eye(len(names))).max(), 1e-6)
    image = axis.imshow(cosines, cmap="Greys", vmin=-1.25 * most, vmax=1.25 * most)
    for row, column in np.ndindex(cosines.shape):
        value = cosines[row, column]
        colour = "white" if value > 0.2 * most else "black"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.set_title("cosine similarity of the LLM embeddings", fontsize=10)
    axis.figure.colorbar(image, ax=axis, label="cosine", shrink=0.8, extend="max")


def draw_principal_directions(axis: Axes, unit: np.ndarray, names: Sequence[str]) -> None:
    """Embeddings (T, p) of unit length in the plane in which they differ most."""
    u, s, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    points = (u * s)[:, :2]
    share = s**2 / np.maximum((s**2).sum(), 1e-12)
    for number, (name, (x, y)) in enumerate(zip(names, points)):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axis.scatter(x, y, s=80, label=name, zorder=2, **style)
    axis.margins(0.12)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    axis.set(
        xlabel=f"first principal direction ({100 * share[0]:.0f} % of the variance)",
        ylabel=f"second ({100 * share[1]:.0f} %)",
    )
    axis.set_title("the embeddings, scaled to unit length", fontsize=10)
    axis.grid(**GRID)


def routing_shares(shares: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Stacked bars of where the queries of each task go. shares: {task: {LLM: %}}, all with the same LLMs."""
    llms = list(next(iter(shares.values())))
    figure, axis = plt.subplots(figsize=(10, 0.5 * len(shares) + 2.6), layout="constrained")
    start, heights = np.zeros(len(shares)), np.arange(len(shares))
    for number, llm in enumerate(llms):
        widths = np.array([row[llm] for row in shares.values()])
        style = {"color": FILLS[number % len(FILLS)], "hatch": HATCHES[number % len(HATCHES)]}
        axis.barh(heights, widths, left=start, label=llm, edgecolor="black", linewidth=0.6, **style)
        write_widths(axis, start, widths)
        start = start + widths
    axis.set_yticks(heights, [title_of(task) for task in shares])
    axis.set(xlim=(0, 100), ylim=(len(shares) - 0.5, -0.5), xlabel="share of the test queries routed to an LLM (%)")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, handleheight=1.6, handlelength=2.6)
    figure.suptitle(title, fontsize=11)
    return figure


def write_widths(axis: Axes, starts: np.ndarray, widths: np.ndarray) -> None:
    """The number in each bar that is wide enough for it."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
    for height, (start, width) in enumerate(zip(starts, widths)):
        if width >= 6:
            middle = start + width / 2
            axis.text(middle, height, f"{width:.0f}", ha="center", va="center", fontsize=9, bbox=box)


# Training


def training_curves(groups: Mapping[str, Curves], title: str) -> Figure:
    """Loss and validation accuracy over the steps, for each group of runs that differ in the seed alone.

    Every seed has a validation split of its own. The splits' levels differ by more than the curves and say nothing
    about training, so that no band is drawn around validation accuracies; the lowest panel has the differences to the
    first group, paired by the seed, with a band.

    Args:
        groups: label to the metrics of its runs by seed.
    """
    first, *others = groups
    rows = 3 if others else 2
    figure, axes = plt.subplots(rows, 1, figsize=(8, 2.9 * rows + 0.8), sharex=True, layout="constrained")
    for number, (label, runs) in enumerate(groups.items()):
        text = f"{label} ({seeds_of(len(runs))})"
        draw_mean(axes[0], *by_step(runs, "loss"), number, text, band=True)
        draw_mean(axes[1], *by_step(runs, "validation"), number, text, band=False)
        if number:
            differences = paired_differences(runs, groups[first])
            draw_mean(axes[2], *differences, number, f"{label} minus {first}", band=True)
    axes[0].set_ylabel("training loss\n(mean of 10 steps)")
    axes[1].set_ylabel("validation accuracy (%)")
    if others:
        axes[2].set_ylabel("validation accuracy,\npaired difference (points)")
        axes[2].axhline(0, color=COLOURS[0], linewidth=0.8)
    for axis in axes:
        axis.grid(**GRID)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(frameon=False, handlelength=4, fontsize=9)
    axes[-1].set_xlabel("optimizer step")
    figure.suptitle(f"{title}\nLine: mean over the seeds; band: standard deviation over the seeds", fontsize=11)
    return figure


def by_step(runs: Curves, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps (n,) at which every run has a value of this name, and the values (n, runs)."""
    values = [{line["step"]: line[name] for line in metrics if name in line} for metrics in runs.values()]
    steps = sorted(set.intersection(*map(set, values)))
    return np.array(steps), np.array([[of_run[step] for of_run in values] for step in steps]).reshape(-1, len(values))


def paired_differences(runs: Curves, base: Curves) -> tuple[np.ndarray, np.ndarray]:
    """The steps (n,), and the validation accuracy of runs minus that of `base` (n, seeds), for the seeds of both."""
    seeds = [seed for seed in runs if seed in base]
    if not seeds:
        return np.empty(0), np.empty((0, 0))
    steps, values = by_step({seed: runs[seed] for seed in seeds}, "validation")
    base_steps, base_values = by_step({seed: base[seed] for seed in seeds}, "validation")
    common, ours, theirs = np.intersect1d(steps, base_steps, return_indices=True)
    return common, values[ours] - base_values[theirs]


def draw_mean(axis: Axes, steps: np.ndarray, values: np.ndarray, number: int, label: str, band: bool) -> None:
    """The mean over the columns of `values` (n, seeds) as a line; `band` draws their standard deviation around it."""
    if not len(steps):
        return
    mean = values.mean(axis=1)
    colour = COLOURS[number % len(COLOURS)]
    axis.plot(steps, mean, label=label, color=colour, linestyle=LINES[number % len(LINES)], linewidth=1.6)
    if band and values.shape[1] > 1:
        deviation = values.std(axis=1, ddof=1)
        axis.fill_between(steps, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)


# The learnable ceiling

CEILING_COLUMNS = ("best", "ceiling", "low", "high", "repeats", "oracle")


def ceilings(rows: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """One row for each task: its best LLM, its learnable ceiling, what repeats in other answers, the oracle.

    Args:
        rows: title of a task to {"best", "ceiling", "low", "high", "oracle"} in %, and "repeats" where it is known.
    """
    figure, axis = plt.subplots(figsize=(9, 0.46 * len(rows) + 2.2), layout="constrained")
    height = np.arange(len(rows))
    best, ceiling, low, high, repeats, oracle = np.array(
        [[row.get(name, np.nan) for name in CEILING_COLUMNS] for row in rows.values()]
    ).T
    axis.hlines(height, best, oracle, color="#bbbbbb", linewidth=1.2, zorder=0)
    tick = {"marker": "|", "markersize": 15, "markeredgewidth": 2}
    axis.plot(best, height, linestyle="", color=COLOURS[0], label="best LLM of the task", **tick)
    sides = np.abs(np.stack([ceiling - low, high - ceiling]))
    point = {"fmt": "o", "color": COLOURS[1], "capsize": 3, "markersize": 6}
    axis.errorbar(ceiling, height, xerr=sides, label="learnable ceiling, 95 %", **point)
    halves = {"marker": "^", "markersize": 8, "color": COLOURS[3]}
    axis.plot(repeats, height, linestyle="", label="best of half of the answers, in the other half", **halves)
    diamond = {"marker": "D", "markersize": 6, "color": COLOURS[6]}
    axis.plot(oracle, height, linestyle="", label="per-query oracle", **diamond)
    axis.set(yticks=height, yticklabels=list(rows), xlabel="accuracy (%)", ylim=(len(rows) - 0.5, -0.5))
    axis.grid(axis="x", **GRID)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def learning_panels(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float, float]]]], title: str
) -> Figure:
    """Gain against the number of labelled queries, a panel for each task.

    Args:
        panels: title of a task to {label: points (labelled queries, mean, low, high) in points of accuracy}.
    """
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    size = (3.3 * columns + 0.6, 2.5 * lines + 1.2)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (heading, rows) in zip(axes.flat, panels.items()):
        for number, (label, points) in enumerate(rows.items()):
            draw_learning(axis, points, number, label)
        axis.axhline(0, color="#999999", linewidth=0.8, zorder=0)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 4)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(heading, fontsize=10)
        axis.grid(**GRID)
        axis.set_xlabel("labelled queries", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("gain (points)", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_learning(axis: Axes, points: Sequence[tuple[float, float, float, float]], number: int, label: str) -> None:
    """One learning curve with its interval."""
    queries, mean, low, high = np.array(points).T
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    line = LINES[number % len(LINES)]
    axis.plot(queries, mean, label=label, color=colour, marker=marker, linestyle=line, markersize=4, linewidth=1.5)
    axis.fill_between(queries, low, high, color=colour, alpha=0.13, linewidth=0)
