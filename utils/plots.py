"""Figures, drawn from result files by commands. Line styles and markers differ as well as colours, for grey print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from utils.data import RoutingData
from utils.meters import read_metrics
from utils.metrics import accuracy, disagreement, hull, right_counts
from utils.tasks import short, title_of

# one of each per row of a figure, so that rows differ in grey print too
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
MARKERS = "os^DvPX*"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1)))
FILLS = ("#ffffff", "#cfe3f3", "#f7d9a0", "#a8d8c4", "#e8c3d8", "#8fb9d8", "#e6a07c", "#bbbbbb")
HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++", "oo")


def save(figure: Figure, target: Path, dpi: int = 150) -> None:
    """Write a figure to a file whose ending gives the format, the whole of it or nothing, and forget the figure."""
    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(part, dpi=dpi, format=target.suffix[1:])
    part.replace(target)
    plt.close(figure)


def training_curve(metrics: Path, target: Path, best_step: int) -> None:
    """Loss and validation accuracy over the steps of one run, with the chosen step, from its metrics.jsonl."""
    lines = read_metrics(metrics)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    losses = [line for line in lines if "loss" in line]
    top.plot([line["step"] for line in losses], [line["loss"] for line in losses], color="black", linewidth=1)
    top.set_ylabel("training loss (mean of 10 steps)")
    scores = [line for line in lines if "validation" in line]
    names = [name for name in scores[0] if name.startswith("validation")] if scores else []
    for number, name in enumerate(names):
        label, style = (
            ("mean", {"color": "black", "linewidth": 2})
            if name == "validation"
            else (title_of(name.split("/")[1]), {"linewidth": 1})
        )
        bottom.plot(
            [s["step"] for s in scores],
            [s[name] for s in scores],
            label=label,
            marker="osv^Dx*P"[number % 8],
            markersize=3,
            **style,
        )
    if names:
        bottom.axvline(best_step, color="grey", linestyle="--", linewidth=1, label=f"chosen: step {best_step}")
        bottom.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    bottom.set_ylabel("validation accuracy (%)")
    bottom.set_xlabel("optimizer step")
    save(figure, target, dpi=120)


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
    colours, markers = (
        ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#4D4D4D", "#56B4E9", "#D55E00"),
        "os^DvPX*",
    )  # 7 and 8: 56 pairs
    outline = [patheffects.withStroke(linewidth=3, foreground="white")]
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 6.6), layout="constrained", squeeze=False)
    for axis, (heading, (names, groups)) in zip(axes[0], panels.items()):
        sizes, handles, at = (
            np.bincount(groups, minlength=len(names)),
            {},
            points[heading] if isinstance(points, Mapping) else points,
        )
        for group in np.argsort(-sizes, kind="stable"):  # small groups on top
            style = {"color": colours[group % len(colours)], "marker": markers[group % len(markers)]}
            handles[group] = axis.scatter(
                *at[groups == group].T,
                s=9,
                linewidths=0,
                alpha=0.7,
                rasterized=True,
                label=f"{names[group]} ({sizes[group]:,})",
                **style,
            )
        room, taken = np.ptp(at, axis=0) * (0.22, 0.06), []  # of a label
        for group in np.flatnonzero(sizes) if len(names) <= 12 else []:
            own = at[groups == group]
            own = own[
                np.argsort(np.abs(own - np.median(own, axis=0)).sum(axis=1))
            ]  # from the middle of the group outwards
            taken.append(
                next((place for place in own if all((np.abs(place - other) > room).any() for other in taken)), own[0])
            )
            axis.annotate(
                names[group], taken[-1], ha="center", va="center", fontsize=10, fontweight="bold", path_effects=outline
            )
        axis.set(title=heading, xticks=[], yticks=[])
        axis.set_aspect("equal", adjustable="datalim")
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
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        "The axes have neither unit nor direction: only which queries lie near each other means something.", fontsize=8
    )
    save(figure, target, dpi=120)


def llm_accuracies(data: Mapping[str, RoutingData], target: Path) -> None:
    """Accuracy of each LLM on each file: a row for each file, a mark for each LLM. `data` maps names of files to the same LLMs' scores."""
    llms, height = next(iter(data.values())).llms, np.arange(len(data))[::-1]
    figure, axis = plt.subplots(figsize=(8, 1.6 + 0.4 * len(data)), layout="constrained")
    for t, llm in enumerate(llms):
        values = [accuracy(np.full(len(file), t), file) for file in data.values()]
        axis.plot(values, height, linestyle="", marker="osv^Dx*P"[t % 8], markersize=7, alpha=0.8, label=short(llm))
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
    """How much there is to route. Left: of how many LLMs are right on a query, by file. Right: disagreement of each two LLMs, mean over files."""
    llms = next(iter(data.values())).llms
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, 2.8 + 0.35 * max(len(data), len(llms))), layout="constrained"
    )
    counts = np.array([right_counts(file) for file in data.values()])  # (files, T + 1)
    before, rows = np.zeros(len(data)), np.arange(len(data))[::-1]
    for number in range(len(llms) + 1):
        shade = plt.get_cmap("viridis")(number / len(llms))
        left.barh(rows, counts[:, number], left=before, color=shade, edgecolor="white", label=str(number))
        before += counts[:, number]
    left.set(
        yticks=rows,
        yticklabels=[Path(name).stem for name in data],
        xlim=(0, 100),
        xlabel="share of the queries (%)",
        title="how many LLMs are right on a query",
    )
    left.legend(ncols=len(llms) + 1, loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8, frameon=False)
    matrix = np.mean([disagreement(file) for file in data.values()], axis=0)  # (T, T)
    right.imshow(matrix, cmap="Greys", vmin=0, vmax=max(1, 1.6 * matrix.max()))
    for a, b in np.ndindex(matrix.shape):
        right.text(
            b,
            a,
            f"{matrix[a, b]:.0f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if matrix[a, b] > 0.85 * max(1, matrix.max()) else "black",
        )
    names = [short(llm) for llm in llms]
    right.set(
        xticks=range(len(llms)),
        yticks=range(len(llms)),
        yticklabels=names,
        title="disagreement: where only one of the two is right (%)",
    )
    right.set_xticklabels(names, rotation=40, ha="right")
    save(figure, target, dpi=120)


def cost_curve(result: Mapping[str, Any], target: Path) -> None:
    """Accuracy against cost of the routers in a routerbench.json, over its cost rates, above the hull of the single LLMs.

    A point is the mean over tasks and seeds at one cost rate. The cost axis is logarithmic, so the hull's straight pieces are bent;
    where an LLM costs nothing it is linear.
    """

    def mean(values: Mapping[str, float]) -> float:
        return float(np.mean(list(values.values())))

    figure, axis = plt.subplots(figsize=(9.6, 5.4), layout="constrained")
    single = sorted((1000 * mean(llm["cost"]), mean(llm["accuracy"]), name) for name, llm in result["llms"].items())
    corners = hull([cost for cost, _, _ in single], [value for _, value, _ in single])
    scale = "log" if single[0][0] > 0 else "linear"
    costs = (np.geomspace if scale == "log" else np.linspace)(single[0][0], single[-1][0], 400)
    axis.plot(
        costs,
        np.interp(costs, *corners),
        color="black",
        linestyle="--",
        linewidth=1.2,
        label="single LLMs, mixed (hull)",
    )
    axis.scatter(
        [cost for cost, _, _ in single],
        [value for _, value, _ in single],
        marker="x",
        color="black",
        s=30,
        label="single LLMs:",
    )
    for number, (cost, value, name) in enumerate(single, 1):
        axis.annotate(str(number), (cost, value), xytext=(4, -9), textcoords="offset points", fontsize=8)
        axis.plot([], [], linestyle="", label=f"{number}  {short(name)}")
    styles = {  # colours of different lightness, and a marker each
        "RouterDC": ("#0072B2", "o", "-"), "kNN": ("#E69F00", "s", "-."), "MLP": ("#009E73", "^", ":"),
        "BestPerTask": ("#999999", "D", "--"), "per-query oracle": ("#CC79A7", "*", "-"),
    }  # fmt: skip
    for name, (colour, marker, line) in styles.items():
        points = result["routers"].get(name, [])
        by_rate = [[p for p in points if p["cost_rate"] == rate] for rate in result["cost_rates"]]
        places = [
            (1000 * np.mean([mean(p["cost"]) for p in here]), np.mean([mean(p["accuracy"]) for p in here]))
            for here in by_rate
            if here
        ]
        if places:
            axis.plot(
                *zip(*places),
                color=colour,
                marker=marker,
                linestyle=line,
                markersize=7,
                linewidth=1.6,
                markeredgecolor="black",
                markeredgewidth=0.5,
                label=name,
            )
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(
        range(len(labels)), key=lambda place: labels[place].startswith("single LLMs:") or labels[place][0].isdigit()
    )
    axis.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
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
    axis.grid(color="#dddddd", linewidth=0.6)
    save(figure, target)


def overview(
    rows: Mapping[str, Mapping[str, tuple[float, float, float, float]]], marks: Mapping[str, Mapping[str, float]]
) -> Figure:
    """A line for each router, a panel for each average: its mean, thick the standard deviation over seeds, thin the 95 % interval.

    Args:
        rows: label to {panel title: (mean, standard deviation, low, high)}, all in %; the first row comes on top. A row without
            an interval (a published figure) has low = high = mean.
        marks: label to {panel title: value}; dashed lines that need no router.
    """
    titles = list(next(iter(rows.values())))
    height = 1.6 + 0.3 * len(rows)
    figure, axes = plt.subplots(1, len(titles), figsize=(9.6, height), sharey=True, layout="constrained", squeeze=False)
    for axis, title in zip(axes[0], titles):
        for place, row in enumerate(rows.values()):
            mean, deviation, low, high = row[title]
            published = low == high
            if not published:
                axis.plot([low, high], [place, place], color=COLOURS[1], linewidth=1)
                axis.plot(
                    [mean - deviation, mean + deviation],
                    [place, place],
                    color=COLOURS[1],
                    linewidth=4,
                    solid_capstyle="butt",
                )
            axis.plot(
                mean, place, "D" if published else "o", color=COLOURS[6 if published else 0], markersize=5, zorder=3
            )
        for number, (label, values) in enumerate(marks.items()):
            style = {"color": COLOURS[3 + number], "linestyle": LINES[1 + number], "linewidth": 1.2}
            axis.axvline(values[title], label=label, zorder=0, **style)
        axis.set_xlabel(f"{title}: accuracy (%)")
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(rows)), list(rows))
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def settings_curves(
    panels: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]], own: Mapping[str, str], title: str
) -> Figure:
    """Accuracy against the values of settings: one column per setting, in-distribution and validation above, out-of-distribution below.

    Args:
        panels: title of a setting to {value: {"validation", "id_avg", "ood_avg": (mean, standard deviation) in %}}, values in order;
            "validation" may be missing.
        own: title of a setting to the value that the recipe has.
    """
    figure, axes = plt.subplots(
        2,
        len(panels),
        figsize=(1.2 + 2.7 * len(panels), 5.6),
        sharey="row",
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    styles = {
        "id_avg": ("test, in-distribution average", {"color": COLOURS[0], "marker": "o", "linestyle": "-"}, 0),
        "validation": ("validation", {"color": COLOURS[1], "marker": "^", "linestyle": "--"}, 0),
        "ood_avg": ("test, out-of-distribution average", {"color": COLOURS[6], "marker": "s", "linestyle": "-."}, 1),
    }
    drawn = {}
    for column, (heading, values) in enumerate(panels.items()):
        for name, (label, style, row) in styles.items():
            points = [(place, *measures[name]) for place, measures in enumerate(values.values()) if name in measures]
            if points:
                x, mean, deviation = map(np.array, zip(*points))
                drawn[label] = axes[row, column].errorbar(
                    x, mean, yerr=deviation, capsize=3, markersize=5, linewidth=1.4, **style
                )
        for axis in axes[:, column]:
            if own.get(heading) in values:
                axis.axvline(list(values).index(own[heading]), color="#999999", linestyle=":", linewidth=1.2, zorder=0)
            axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes[0, column].set_title(heading, fontsize=10)
        axes[1, column].set_xticks(range(len(values)), values, rotation=45 if max(map(len, values)) > 4 else 0)
        axes[1, column].set_xlim(-0.4, len(values) - 0.6)
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[1, 0].set_ylabel("accuracy (%)")
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{title}\nMean and standard deviation over the seeds; dotted: the recipe's own value", fontsize=11)
    return figure


def lost_llms(rows: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]], title: str) -> Figure:
    """What is left when one LLM is lost at test time.

    Args:
        rows: lost LLM to {side: {what routes: (mean, standard deviation) in %}}; side is the title of a panel.
    """
    sides = list(next(iter(rows.values())))
    figure, axes = plt.subplots(
        1,
        len(sides),
        figsize=(6.2 * len(sides), 0.42 * len(rows) + 2.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, side in zip(axes[0], sides):
        for number, name in enumerate(next(iter(rows.values()))[side]):
            mean, deviation = map(np.array, zip(*[measures[side][name] for measures in rows.values()]))
            y = np.arange(len(rows)) + 0.16 * (number - 1)
            axis.errorbar(
                mean,
                y,
                xerr=deviation if deviation.any() else None,
                label=name,
                fmt=MARKERS[number],
                color=COLOURS[number],
                capsize=3,
                markersize=6 - (number > 0),
            )
        axis.set(title=side, xlabel="accuracy (%)", yticks=range(len(rows)), yticklabels=list(rows))
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_ylabel("LLM lost")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def llm_embeddings(vectors: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The LLM embeddings (T, p) of a router: their cosines as a heat map, and their two principal directions."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T  # (T, T)
    centred = unit - unit.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    points, share = (u * s)[:, :2], s**2 / np.maximum((s**2).sum(), 1e-12)
    size = max(4.8, 0.72 * len(names))
    figure, (left, right) = plt.subplots(1, 2, figsize=(2.35 * size + 2.4, size + 0.9), layout="constrained")
    most = max(np.abs(cosines - np.eye(len(names))).max(), 1e-6)  # the shades are for what is off the diagonal
    image = left.imshow(cosines, cmap="Greys", vmin=-1.25 * most, vmax=1.25 * most)
    for row in range(len(names)):
        for column in range(len(names)):
            left.text(
                column,
                row,
                f"{cosines[row, column]:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if cosines[row, column] > 0.2 * most else "black",
            )
    left.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    left.set_yticks(range(len(names)), names)
    left.set_title("cosine similarity of the LLM embeddings", fontsize=10)
    figure.colorbar(image, ax=left, label="cosine", shrink=0.8, extend="max")
    for number, (name, (x, y)) in enumerate(zip(names, points)):
        right.scatter(x, y, s=80, color=COLOURS[number % 8], marker=MARKERS[number % 8], label=name, zorder=2)
    right.margins(0.12)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    right.set(
        xlabel=f"first principal direction ({100 * share[0]:.0f} % of the variance)",
        ylabel=f"second ({100 * share[1]:.0f} %)",
    )
    right.set_title("the embeddings, scaled to unit length", fontsize=10)
    right.grid(color="#dddddd", linewidth=0.6)
    figure.suptitle(title, fontsize=11)
    return figure


def training_curves(groups: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], title: str) -> Figure:
    """Loss and validation accuracy over the steps, mean and standard deviation over the seeds of each group.

    Args:
        groups: label to the metrics of its runs (`utils.meters.read_metrics`).
    """
    figure, axes = plt.subplots(2, 1, figsize=(8, 6.4), sharex=True, layout="constrained")
    for number, (label, runs) in enumerate(groups.items()):
        style = {"color": COLOURS[number % 8], "linestyle": LINES[number % 8], "linewidth": 1.6}
        for axis, name in zip(axes, ("loss", "validation")):
            by_step: dict[float, list[float]] = {}
            for line in [line for run in runs for line in run if name in line]:
                by_step.setdefault(line["step"], []).append(line[name])
            steps = sorted(step for step, values in by_step.items() if len(values) == len(runs))
            if steps:
                values = np.array([by_step[step] for step in steps])  # (steps, seeds)
                mean, deviation = (
                    values.mean(axis=1),
                    values.std(axis=1, ddof=1) if len(runs) > 1 else np.zeros(len(steps)),
                )
                axis.plot(steps, mean, label=f"{label} ({len(runs)} seed{'s' if len(runs) > 1 else ''})", **style)
                axis.fill_between(
                    steps, mean - deviation, mean + deviation, color=style["color"], alpha=0.15, linewidth=0
                )
    axes[0].set_ylabel("training loss (mean of 10 steps)")
    axes[1].set_ylabel("validation accuracy (%)")
    axes[1].set_xlabel("optimizer step")
    for axis in axes:
        axis.grid(color="#dddddd", linewidth=0.6)
    axes[0].legend(frameon=False, handlelength=4)
    figure.suptitle(f"{title}. Band: standard deviation over the seeds", fontsize=11)
    return figure


def routing_shares(shares: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Stacked bars of where the queries of each task go. shares: {task: {LLM: %}}, all with the same LLMs."""
    llms = list(next(iter(shares.values())))
    figure, axis = plt.subplots(figsize=(10, 0.5 * len(shares) + 2.6), layout="constrained")
    left, places = np.zeros(len(shares)), np.arange(len(shares))
    for number, llm in enumerate(llms):
        widths = np.array([row[llm] for row in shares.values()])
        axis.barh(
            places,
            widths,
            left=left,
            label=llm,
            color=FILLS[number % 8],
            hatch=HATCHES[number % 8],
            edgecolor="black",
            linewidth=0.6,
        )
        for place, start, width in zip(places, left, widths):
            if width >= 6:
                axis.text(
                    start + width / 2,
                    place,
                    f"{width:.0f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2},
                )
        left = left + widths
    axis.set_yticks(places, [title_of(task) for task in shares])
    axis.set(xlim=(0, 100), ylim=(len(shares) - 0.5, -0.5), xlabel="share of the test queries routed to an LLM (%)")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, handleheight=1.6, handlelength=2.6)
    figure.suptitle(title, fontsize=11)
    return figure


def ceilings(rows: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """One row for each task: its best LLM, the learnable ceiling with its interval, what repeats in other answers, and the oracle, in %.

    Args:
        rows: title of a task to {"best", "ceiling", "low", "high", "oracle"} in %, and "repeats" where it is known.
    """
    figure, axis = plt.subplots(figsize=(9, 0.46 * len(rows) + 2.2), layout="constrained")
    height = np.arange(len(rows))
    columns = {
        name: np.array([row.get(name, np.nan) for row in rows.values()])
        for name in ("best", "ceiling", "low", "high", "repeats", "oracle")
    }
    axis.hlines(height, columns["best"], columns["oracle"], color="#bbbbbb", linewidth=1.2, zorder=0)
    axis.plot(
        columns["best"],
        height,
        linestyle="",
        marker="|",
        markersize=15,
        markeredgewidth=2,
        color=COLOURS[0],
        label="best LLM of the task",
    )
    sides = np.abs(np.stack([columns["ceiling"] - columns["low"], columns["high"] - columns["ceiling"]]))
    axis.errorbar(
        columns["ceiling"],
        height,
        xerr=sides,
        fmt="o",
        color=COLOURS[1],
        capsize=3,
        markersize=6,
        label="learnable ceiling, 95 %",
    )
    axis.plot(
        columns["repeats"],
        height,
        linestyle="",
        marker="^",
        markersize=8,
        color=COLOURS[3],
        label="best of half of the answers, in the other half",
    )
    axis.plot(
        columns["oracle"], height, linestyle="", marker="D", markersize=6, color=COLOURS[6], label="per-query oracle"
    )
    axis.set(yticks=height, yticklabels=list(rows), xlabel="accuracy (%)", ylim=(len(rows) - 0.5, -0.5))
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
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
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.3 * columns + 0.6, 2.5 * lines + 1.2), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (heading, rows) in zip(axes.flat, panels.items()):
        for number, (label, points) in enumerate(rows.items()):
            style = {"color": COLOURS[number % 8], "marker": MARKERS[number % 8], "linestyle": LINES[number % 8]}
            size, mean, low, high = np.array(points).T
            axis.plot(size, mean, label=label, markersize=4, linewidth=1.5, **style)
            axis.fill_between(size, low, high, color=style["color"], alpha=0.13, linewidth=0)
        axis.axhline(0, color="#999999", linewidth=0.8, zorder=0)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 4)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(heading, fontsize=10)
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.set_xlabel("labelled queries", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("gain (points)", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure
