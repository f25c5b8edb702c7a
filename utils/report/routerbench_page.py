"""results/routerbench.md from the figures of utils/report/routerbench.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics import CEILING
from ..tables import EMPTY, PER_QUERIES, cells_and_mean, markdown, spread
from ..tasks import short_names, title_of
from .cost_points import ZERO, mean_of

DOLLARS = f"$ per {PER_QUERIES} queries"

PAGE = """\
# RouterBench: accuracy against cost

{introduction}

Every router learns from score - cost_rate * cost (cost in US dollars): kNN and MLP by regression on the same \
embeddings, from every row; RouterDC and CosineClassifier from the rows in which some LLM has a value above 0, since \
only such an LLM is a positive (as in the paper): a row in which none is worth its cost tells them nothing about LLMs. \
BestSingle and BestPerTask take the best LLM of the training rows by that value, the second one knowing the task; the \
oracle knows the test scores.

![accuracy against cost](routerbench.png)

## AIQ (%)

{about_aiq}

{aiq}

## At each cost rate

{rates}

## Single LLMs: accuracy (%) and cost

{llms}
"""
MADE = """\
Made by `{command}`, which `{script}` ends with; routerbench.json has every point. Queries (training / test): \
{queries}."""
CUT = "Of each prompt the {end} {characters} characters are read ({released})."
ENCODER = """\
Encoder: {encoder}, {trained}; {seeds} seed(s); mean ± standard deviation over them; averages are over tasks."""
VALIDATION = "The trained router's utility on its own validation rows, mean over the cost rates: {utility} %."
AGAINST = """\
Against `{path}` ({changes}), paired over the seeds: the trained router's utility on validation rows, mean over the \
cost rates, {validation} points; its AIQ on the test files {aiq} points. The choice between the two is by validation \
rows; the test files had been read before."""
TIME = "Training took {training:.0f} s in all, this comparison {comparison:.0f} s ({device})."
ABOUT_AIQ = """\
Area under the non-decreasing convex hull of a router's (mean cost, accuracy) points, from the cheapest to the dearest \
single LLM, divided by that range. The cheapest LLM is a point of every router. The line to beat is RouterBench's zero \
router, the hull of the single LLMs ("{zero}"). The average is of the points' means over all tasks."""
ABOUT_FLAT = '"-": all LLMs cost the same ({tasks}), so there is no range of costs.'


def page(result: Mapping[str, Any]) -> str:
    """results/routerbench.md. result: the content of routerbench.json."""
    about_aiq = [ABOUT_AIQ.format(zero=ZERO)]
    flat = flat_columns(result)
    if flat:
        titles = [title_of(task) if task in result["tasks"] else task for task in flat]
        about_aiq.append(ABOUT_FLAT.format(tasks=", ".join(titles)))
    return PAGE.format(
        introduction=introduction(result),
        about_aiq=" ".join(about_aiq),
        aiq=aiq_table(result, flat),
        rates=rates_table(result),
        llms=llms_table(result),
    )


# The introduction


def introduction(result: Mapping[str, Any]) -> str:
    """What the runs read and trained, how long it took, and the comparison to other runs if there is one."""
    queries = []
    for task in result["tasks"]:
        counts = f"{result['training_queries'].get(task, 0)} / {result['test_queries'][task]}"
        queries.append(f"{title_of(task)} {counts}")
    sentences = [MADE.format(command=result["command"], script=script_of(result), queries=", ".join(queries))]
    if result["settings"]["max_characters"]:
        sentences.append(cut_of(result["settings"]))
    left_out = []
    for path, count in result["left_out"].items():
        if count:
            left_out.append(f"{count} of {Path(path).parent.name}/{Path(path).name}")
    if left_out:
        sentences.append(f"Rows left out for empty cells: {'; '.join(left_out)}.")
    trained = trained_words(result["settings"])
    sentences.append(ENCODER.format(encoder=result["encoder"], trained=trained, seeds=len(result["seeds"])))
    if result["validation"]:
        sentences.append(VALIDATION.format(utility=spread(result["validation"])))
    if "against" in result:
        sentences.append(against_of(result["against"]))
    training, comparison = result["training_seconds"], result["seconds"]
    sentences.append(TIME.format(training=training, comparison=comparison, device=result["device"]))
    return " ".join(sentences)


def script_of(result: Mapping[str, Any]) -> str:
    """The command line of the script that made the runs, as far as their label tells it."""
    words = ["bash train_scripts/router_train_routerbench.sh"]
    if result["recipe"].startswith("routerbench_tuned"):
        words.append("--recipe routerbench_tuned")
    if result["settings"]["keep_characters"] == "first":
        words.append("--keep_characters first")
    return " ".join(words)


def cut_of(settings: Mapping[str, Any]) -> str:
    """A sentence on how the prompts are cut."""
    end = settings["keep_characters"]
    released = "as in the released code" if end == "first" else "the released code keeps the first ones"
    return CUT.format(end=end, characters=settings["max_characters"], released=released)


def trained_words(settings: Mapping[str, Any]) -> str:
    """Which layers of the encoder were trained, in words."""
    if settings["freeze_encoder"]:
        return "frozen"
    if settings["train_layers"]:
        return f"last {settings['train_layers']} layers trained"
    return "all layers trained"


def against_of(pair: Mapping[str, Any]) -> str:
    """A sentence on what `utils.report.routerbench.paired` has."""
    changes = []
    for name, (here, there) in pair["settings"].items():
        changes.append(f"{name.replace('_', ' ')} {here} here, {there} there")
    return AGAINST.format(
        path=pair["path"],
        changes="; ".join(changes) or "the same settings",
        validation=spread(pair["validation"], "+"),
        aiq=spread(pair["aiq"], "+"),
    )


# The tables


def flat_columns(result: Mapping[str, Any]) -> list[str]:
    """The tasks, or "average", for which all LLMs cost the same, so that there is no AIQ."""
    return [name for name in (*result["tasks"], "average") if None in result["aiq"][ZERO][name]]


def aiq_table(result: Mapping[str, Any], flat: Sequence[str]) -> str:
    """AIQ of each router, the best first, and how much it is above the single LLMs."""
    areas, columns = result["aiq"], (*result["tasks"], "average")
    zero, names = areas[ZERO]["average"], list(areas)
    if "average" not in flat:
        names.sort(key=lambda name: -np.mean(areas[name]["average"]))
    rows = []
    for name in names:
        cells = [EMPTY if column in flat else spread(areas[name][column]) for column in columns]
        if name == ZERO:
            gain = ""
        elif "average" in flat:
            gain = EMPTY
        else:
            gain = spread(np.subtract(areas[name]["average"], zero), "+")
        rows.append([name, *cells, gain])
    return markdown(["router", *map(title_of, result["tasks"]), "average", "against single LLMs"], rows)


def rates_table(result: Mapping[str, Any]) -> str:
    """Accuracy, cost and utility of each router at each cost rate, over the seeds."""
    rows = []
    for rate in result["cost_rates"]:
        for name, points in result["routers"].items():
            of_rate = [point for point in points if point["cost_rate"] == rate]
            cost = np.mean([PER_QUERIES * mean_of(point, "cost", None) for point in of_rate])
            accuracy = spread([mean_of(point, "accuracy", None) for point in of_rate])
            utility = spread([mean_of(point, "utility", None) for point in of_rate])
            rows.append([f"{rate:g}", name, accuracy, f"{cost:.3f}", utility])
    return markdown(["cost rate", "router", "accuracy (%)", DOLLARS, "utility (%)"], rows)


def llms_table(result: Mapping[str, Any]) -> str:
    """Accuracy and cost of each LLM, the cheapest first, and the learnable ceiling where it is known."""
    tasks, names, rows = result["tasks"], short_names(result["llms"]), []
    cheapest_first = sorted(result["llms"].items(), key=lambda item: mean_of(item[1], "cost", None))
    for llm, point in cheapest_first:
        cost = PER_QUERIES * mean_of(point, "cost", None)
        rows.append([names[llm], *cells_and_mean(point["accuracy"], tasks), f"{cost:.3f}"])
    if result.get("ceilings"):
        rows.append([CEILING, *cells_and_mean(result["ceilings"], tasks), EMPTY])
    return markdown(["LLM", *map(title_of, tasks), "average", DOLLARS], rows)
