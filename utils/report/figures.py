"""Draw the figures from what other commands left in results/ and runs/.

    python -m utils.report.figures overview       both averages of all routers, with intervals
    python -m utils.report.figures settings       accuracy against lambda, K+, K-, H and N
    python -m utils.report.figures lost           an LLM lost at test time
    python -m utils.report.figures tsne           test queries with and without the sample-sample loss
    python -m utils.report.figures embeddings     the LLM embeddings of a router and their similarities
    python -m utils.report.figures curves         loss and validation accuracy over the steps, all seeds
    python -m utils.report.figures shares         which LLM the queries of each task go to
    python -m utils.report.figures cost           accuracy against cost on RouterBench
    python -m utils.report.figures ceiling        best LLM, learnable ceiling and oracle of each task
    python -m utils.report.figures learning       learnable gain against the number of labelled queries
    python -m utils.report.figures all            all of these, into results/figures/

`python -m utils.report.figures FIGURE --help` lists what a figure can be told. A .png gets a .pdf beside it.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from .. import plots
from ..ceiling import known
from ..ceiling.page import title_of_record
from ..checkpoint_files import CONFIG, WEIGHTS, CheckpointError, find
from ..clustering import tsne_map
from ..config import HardwareConfig, bounded, parse_arguments
from ..files import read_json
from ..meters import read_metrics
from ..tasks import PAPER_AVERAGE, short_names, title_of
from . import ablations, comparison, drawings
from .lost_llms import LIMITS, LOST
from .runs import RESULTS, Run, reopen_router, runs_below

PROGRAM = "python -m utils.report.figures"
ABLATIONS = "bash train_scripts/ablations.sh"
TRAINING = "bash train_scripts/router_train_minilm.sh"
ROUTERBENCH = "bash train_scripts/router_train_routerbench.sh"
RUNS = Path("runs/ablations/minilm_frozen")  # of train_scripts/ablations.sh
TUNED = Path("runs/baselines/tuned/routerdc")  # of train_scripts/baselines.sh
CONTROL = "control"  # the label of what is no router in comparison.json
SIDES = {"id_avg": "in distribution", "ood_avg": "out of distribution"}
COMPARED = dict(zip(comparison.SIDES, SIDES.values()))  # the same two, as results/comparison.json names them
CONTROLS = {
    "BestSingle": "best single LLM",
    "BestPerTask": "best LLM of each task, best single one elsewhere",
}
GAINS = ("over the best LLM of the same labels, 95 %", "over the best LLM of all rows, 95 %")


def need(path: Path, command: str) -> Path:
    """The path. Raises: ValueError that says which command makes it, if it is not there."""
    if not path.exists():
        raise ValueError(f"{path}: not there; `{command}` makes it")
    return path


def finished(folder: Path) -> list[Run]:
    """The finished runs at or below a folder. Raises: ValueError naming the command that trains them."""
    command = ABLATIONS if RUNS in (folder, *folder.parents) else TRAINING
    return runs_below([folder], f"; `{command}` trains them")


def recipe_name(name: str) -> str:
    """A label as figures show it: without the encoder, so that "minilm_frozen" of the ablations is "frozen"."""
    return name.removeprefix("minilm_")


# overview


@dataclass(frozen=True)
class Overview:
    """Both averages of all routers, with intervals."""

    output: Path = Path("results/figures/overview.png")
    """the figure: .png, .pdf or .svg"""
    results: Path = Path("results")
    """folder of comparison.json"""
    recipe: str = "frozen"
    """of the baselines that are shown"""


def overview_row(entry: Mapping[str, Any]) -> dict[str, tuple[float, float, float, float]]:
    """What `drawings.overview` takes for one group of results/comparison.json."""
    row = {}
    for side, title in COMPARED.items():
        values = entry[side]["per_seed"]
        row[title] = (float(np.mean(values)), plots.deviation(values), *entry[side]["interval_with_seeds"])
    return row


def overview_rows(result: Mapping[str, Any], recipe: str) -> dict[str, dict[str, tuple[float, float, float, float]]]:
    """Rows of the overview: RouterDC in the paper and with each of our recipes, then the baselines of one recipe.

    The best come first.
    Raises: ValueError if the comparison has no baseline of that recipe.
    """
    rows = {}
    if result["of_paper"]:
        printed = zip(COMPARED.values(), PAPER_AVERAGE["RouterDC"])
        rows["RouterDC, the paper (mDeBERTa)"] = {title: (value, 0.0, value, value) for title, value in printed}
    groups = [entry for entry in result["groups"] if entry["fidelity"] == "paper"]
    ours = [entry for entry in groups if entry["router"] == "RouterDC"]
    others = [entry for entry in groups if entry["recipe"] == recipe and entry["router"] != "RouterDC"]
    if not others:
        recipes = sorted({entry["recipe"] for entry in groups if entry["router"] != "RouterDC"})
        raise ValueError(
            f"--recipe {recipe}: the comparison has no baseline of that recipe; it has {', '.join(recipes)}"
        )

    def sum_of_averages(entry: Mapping[str, Any]) -> float:
        return sum(np.mean(entry[side]["per_seed"]) for side in COMPARED)

    for group in (ours, others):
        for entry in sorted(group, key=sum_of_averages, reverse=True):
            seeds = drawings.seeds_of(len(entry["seeds"]))
            rows[f"{comparison.label_of(entry)} ({seeds})"] = overview_row(entry)
    return rows


def overview_marks(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The best single LLM, and the best LLM of each task (both picked on training rows), as dashed lines."""
    controls = {entry["router"]: entry for entry in result["groups"] if entry["recipe"] == CONTROL}
    marks = {}
    for router, title in CONTROLS.items():
        if router in controls:
            marks[title] = {name: float(np.mean(controls[router][side]["per_seed"])) for side, name in COMPARED.items()}
    return marks


def draw_overview(args: Overview) -> None:
    """Draw results/comparison.json."""
    path = need(args.results / "comparison.json", "bash train_scripts/baselines.sh")
    result = read_json(path, "bash train_scripts/baselines.sh makes it")
    title = f"Testing accuracy of the routers; the baselines are those of the recipe {args.recipe}"
    rows = overview_rows(result, args.recipe)
    plots.save(drawings.overview(rows, overview_marks(result), title), args.output)


# settings, lost


@dataclass(frozen=True)
class Settings:
    """Accuracy against the values of settings."""

    output: Path = Path("results/figures/settings.png")
    """the figure: .png, .pdf or .svg"""
    results: Path = Path("results")
    """folder of ablations.jsonl"""
    recipe: str | None = None
    """which recipe of the file, if it has several"""
    settings: tuple[str, ...] = ("lambda", "K+", "K-", "H", "N")
    """which settings of results/ablations.md"""


@dataclass(frozen=True)
class Lost:
    """An LLM lost at test time."""

    output: Path = Path("results/figures/lost_llm.png")
    """the figure: .png, .pdf or .svg"""
    results: Path = Path("results")
    """folder of ablations.jsonl"""
    recipe: str | None = None
    """which recipe of the file, if it has several"""


def read_ablations(args: Settings | Lost) -> tuple[str, list[dict[str, Any]]]:
    """Name and lines of one recipe. Raises: ValueError if there are none, or if --recipe must say which."""
    path = need(args.results / ablations.FILE, ABLATIONS)
    lines = ablations.read_lines(path)
    recipes = list(dict.fromkeys(recipe_name(line["recipe"]) for line in lines))
    recipe = recipes[0] if args.recipe is None else recipe_name(args.recipe)
    if recipe not in recipes or (args.recipe is None and len(recipes) > 1):
        raise ValueError(f"--recipe: {path} has {', '.join(recipes)}; name one of them")
    return recipe, [line for line in lines if recipe_name(line["recipe"]) == recipe]


def measure(lines: Sequence[Mapping[str, Any]], name: str) -> drawings.Measure | None:
    """Mean and standard deviation of an entry over the lines that have it; None if none has."""
    values = [line[name] for line in lines if line[name] is not None]
    return (float(np.mean(values)), plots.deviation(values)) if values else None


def settings_panels(
    lines: Sequence[Mapping[str, Any]], settings: Sequence[str]
) -> tuple[dict[str, dict[str, dict[str, drawings.Measure]]], dict[str, str]]:
    """What `drawings.settings_curves` takes: the measures at each value of each setting, and the recipe's own values.

    Raises: ValueError for a setting that was not varied.
    """
    plain = [line for line in lines if line["setting"] == ablations.BASE]
    titles = {"rows": "training rows per task", "LLMs": "number of LLMs"}
    panels, own = {}, {}
    for setting in settings:
        groups = ablations.groups_of(lines, setting)
        if not groups:
            raise ValueError(f"results/{ablations.FILE}: {setting} was not varied; {ABLATIONS} does it")
        title = titles.get(setting, setting.replace("_", " "))
        value = plain[0]["base"][setting] if plain else None
        if value is not None:
            own[title] = value
            groups.setdefault(value, plain)
        panels[title] = {}
        for value in sorted(groups, key=ablations.value_order):
            measures = {name: measure(groups[value], name) for name in ("validation", *SIDES)}
            panels[title][value] = {name: found for name, found in measures.items() if found}
    return panels, own


def lost_rows(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, drawings.Measure]]]:
    """What `drawings.lost_llms` takes. Raises: ValueError if no LLM was taken away yet."""
    groups = ablations.groups_of(lines, LOST)
    if not groups:
        raise ValueError(f"results/{ablations.FILE}: no LLM was taken away; {ABLATIONS} does it")
    names = short_names(groups)
    rows = {}
    for llm, group in groups.items():
        row = {}
        for side, title in SIDES.items():
            row[title] = {"RouterDC": measure(group, side)}
            for limit in LIMITS[:2]:
                row[title][f"{limit} of those left"] = (group[0]["limits"][limit][side], 0.0)
        rows[names[llm]] = row
    return rows


def draw_settings(args: Settings) -> None:
    """Draw the settings in results/ablations.jsonl."""
    recipe, lines = read_ablations(args)
    title = f"RouterDC, {recipe}: one setting changed at a time"
    plots.save(drawings.settings_curves(*settings_panels(lines, args.settings), title), args.output)


def draw_lost(args: Lost) -> None:
    """Draw the lost LLMs in results/ablations.jsonl."""
    recipe, lines = read_ablations(args)
    title = (
        f"RouterDC, {recipe}: one LLM lost at test time (bars: standard deviation over the seeds). "
        "The best of those left are picked on test"
    )
    plots.save(drawings.lost_llms(lost_rows(lines), title), args.output)


# tsne, embeddings


@dataclass(frozen=True)
class Tsne:
    """Test queries with and without the sample-sample loss."""

    output: Path = Path("results/figures/tsne.png")
    """the figure: .png, .pdf or .svg"""
    with_loss: Path = RUNS / "base" / "seed_1"
    """a run with the sample-sample loss"""
    without_loss: Path = RUNS / "lambda=0" / "seed_1"
    """the same without"""
    per_task: int = bounded(200, at_least=1)
    """test queries of each task"""
    perplexity: float = 30.0
    """of t-SNE"""
    seed: int = bounded(1, at_least=0)
    """of the draw and of t-SNE"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """the precision is always that of the training run"""


@dataclass(frozen=True)
class Embeddings:
    """The LLM embeddings of a router and their similarities."""

    output: Path = Path("results/figures/llm_embeddings.png")
    """the figure: .png, .pdf or .svg"""
    ckpt: Path = RUNS / "base" / "seed_1"
    """the router: a checkpoint, or a run's folder"""


class QueryEmbeddings(NamedTuple):
    """Test queries as a router sees them.

    embeddings: (n, p). tasks: their names. places: (n,), the place of each query's task among these. run: the router's.
    """

    embeddings: np.ndarray
    tasks: list[str]
    places: np.ndarray
    run: Run


@torch.no_grad()
def query_embeddings(folder: Path, per_task: int, seed: int, hardware: HardwareConfig) -> QueryEmbeddings:
    """Embeddings E(x) of at most `per_task` test queries of each task, drawn by `seed`."""
    router = reopen_router(folder, hardware)
    found, places = [], []
    for number, data in enumerate(router.tests):
        rows = np.sort(np.random.default_rng((seed, number)).permutation(len(data))[:per_task])
        found.append(router.model(router.embed(data, rows))[0].float().cpu().numpy())
        places.append(np.full(len(rows), number))
    embeddings = np.concatenate(found)
    if router.model.similarity_function == "cos":  # length means nothing to the router
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return QueryEmbeddings(embeddings, [data.task for data in router.tests], np.concatenate(places), router.run)


def draw_tsne(args: Tsne) -> None:
    """Draw the test queries of two routers."""
    maps, panels = {}, {}
    for kind, folder in (("with", args.with_loss), ("without", args.without_loss)):
        need(folder / RESULTS, ABLATIONS)
        queries = query_embeddings(folder, args.per_task, args.seed, args.hardware)
        run = queries.run
        title = f"{recipe_name(run.label)}, seed {run.seed}: {kind} the sample-sample loss"
        maps[title] = tsne_map(queries.embeddings, args.seed, args.perplexity)
        panels[title] = ([title_of(task) for task in queries.tasks], queries.places)
    title = f"Test queries as the trained RouterDC sees them: t-SNE of E(x), at most {args.per_task} per task"
    plots.query_map(maps, panels, title, args.output)


def draw_embeddings(args: Embeddings) -> None:
    """Draw the LLM embeddings of a checkpoint."""
    need(args.ckpt, ABLATIONS)
    folder = find(args.ckpt)
    config = json.loads((folder / CONFIG).read_text())
    vectors = load_file(folder / WEIGHTS)["llm_embeddings.weight"].float().numpy()  # (T, p)
    encoder, recipe = Path(config["encoder"]).name, recipe_name(config["recipe"])
    title = f"LLM embeddings after training: RouterDC, {encoder}, {recipe}, seed {config['settings']['seed']}"
    names = list(short_names(config["llms"]).values())
    plots.save(drawings.llm_embeddings(vectors, names, title), args.output)


# curves, shares


@dataclass(frozen=True)
class CurvesArguments:
    """Loss and validation accuracy over the steps, all seeds."""

    output: Path = Path("results/figures/curves.png")
    """the figure: .png, .pdf or .svg"""
    runs: tuple[Path, ...] = (RUNS / "base", RUNS / "lambda=0")
    """folders of runs; those of one recipe are one line, and the others' differences are to the first"""


@dataclass(frozen=True)
class Shares:
    """Which LLM the queries of each task go to."""

    output: Path = Path("results/figures/shares.png")
    """the figure: .png, .pdf or .svg"""
    runs: Path = RUNS / "base"
    """folder of the runs of one recipe"""


def draw_curves(args: CurvesArguments) -> None:
    """Draw the metrics of runs. Raises: ValueError for two runs of one recipe with the same seed."""
    groups: dict[str, dict[int, list[dict[str, float]]]] = {}
    for folder in args.runs:
        for run in finished(folder):
            fidelity = run.settings["fidelity"]
            name = recipe_name(run.label) + ("" if fidelity == "paper" else f", fidelity {fidelity}")
            of_seeds = groups.setdefault(name, {})
            if run.seed in of_seeds:
                raise ValueError(f"--runs: two runs of {name} with seed {run.seed}, the second one {run.folder}")
            of_seeds[run.seed] = read_metrics(run.folder / "metrics.jsonl")
    plots.save(drawings.training_curves(groups, "Training of RouterDC"), args.output)


def mean_shares(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """{task: {LLM: %}}, the means over the runs, with short names."""
    shares = [run.results["test"]["shares"] for run in runs]
    means = {}
    for task, row in shares[0].items():
        names = short_names(row)
        means[task] = {names[llm]: float(np.mean([share[task][llm] for share in shares])) for llm in row}
    return means


def draw_shares(args: Shares) -> None:
    """Draw the routing shares of runs. Raises: ValueError for runs of several recipes."""
    runs = finished(args.runs)
    labels = sorted({f"{run.label}, fidelity {run.settings['fidelity']}" for run in runs})
    if len(labels) > 1:
        raise ValueError(
            f"--runs {args.runs}: runs of {len(labels)} recipes ({'; '.join(labels)}); name the folder of one"
        )
    recipe, seeds = recipe_name(runs[0].label), drawings.seeds_of(len(runs))
    title = f"Where RouterDC sends the test queries ({recipe}, mean of {seeds})"
    plots.save(drawings.routing_shares(mean_shares(runs), title), args.output)


# cost, ceiling, learning


@dataclass(frozen=True)
class Cost:
    """Accuracy against cost on RouterBench, with the tuned recipe where routerbench_tuned/ is there, too."""

    output: Path = Path("results/figures/cost.png")
    """the figure: .png, .pdf or .svg"""
    results: Path = Path("results")
    """folder of routerbench.json and routerbench_tuned/"""


@dataclass(frozen=True)
class Ceiling:
    """Best LLM, learnable ceiling and oracle of each task."""

    output: Path = Path("results/figures/ceiling.png")
    """the figure: .png, .pdf or .svg"""
    results: Path = Path("results")
    """folder of ceiling.json"""


@dataclass(frozen=True)
class Learning:
    """Learnable gain against the number of labelled queries."""

    output: Path = Path("results/figures/learning.png")
    """the figure: .png, .pdf or .svg"""
    results: Path = Path("results")
    """folder of ceiling.json"""


def draw_cost(args: Cost) -> None:
    """Draw results/routerbench.json, and the tuned recipe beside it."""
    path = need(args.results / "routerbench.json", ROUTERBENCH)
    result = read_json(path, f"{ROUTERBENCH} makes it")
    tuned = args.results / "routerbench_tuned" / "routerbench.json"
    others = [read_json(tuned, f"{ROUTERBENCH} makes it")] if tuned.is_file() else []
    plots.cost_curve(result, args.output, others)


def read_ceilings(folder: Path) -> list[dict[str, Any]]:
    """The records in the ceiling.json of a folder. Raises: ValueError naming the command, if there are none."""
    return known.read_records(need(folder / known.FILE, "python -m utils.ceiling"))


def draw_ceiling(args: Ceiling) -> None:
    """Draw results/ceiling.json."""
    rows = {}
    for record in read_ceilings(args.results):
        row = {"best": record["best_accuracy"], "oracle": record["oracle"], "ceiling": record["ceiling"]["accuracy"]}
        row |= {end: record["ceiling"][end] for end in ("low", "high")}
        if record["repeats"]:
            row["repeats"] = record["best_accuracy"] + record["repeats"]["repeats_ranked"]["mean"]
        rows[title_of_record(record)] = row
    title = "What the queries' text gives away of the oracle's head-room"
    plots.save(drawings.ceilings(rows, title), args.output)


def learning_rows(record: Mapping[str, Any]) -> dict[str, list[tuple[float, float, float, float]]]:
    """The points of one task's learning curves, as `drawings.learning_panels` takes them."""
    everything = int(record["queries"] * 0.8)  # four folds of five
    rows = {gain: [] for gain in GAINS}
    for point in record["curve"]:
        queries = everything if point["labelled"] == "all" else int(point["labelled"])
        for points, figures in zip(rows.values(), (point, point["against_best_of_all_rows"])):
            points.append((queries, figures["mean"], figures["low"], figures["high"]))
    return rows


def draw_learning(args: Learning) -> None:
    """Draw the learning curves in results/ceiling.json. Raises: ValueError if it has none."""
    records = [record for record in read_ceilings(args.results) if len(record["curve"]) > 1]
    if not records:
        path = args.results / known.FILE
        raise ValueError(f"{path}: no learning curves; `python -m utils.ceiling` with --curve_seeds makes them")
    panels = {title_of_record(record): learning_rows(record) for record in records}
    title = "Learnable gain against the number of labelled queries of the task"
    plots.save(drawings.learning_panels(panels, title), args.output)


# All of them


@dataclass(frozen=True)
class All:
    """Draw every figure; one whose inputs are missing says which command makes them, and the others are drawn."""

    results: Path = Path("results")
    """folder of the result files; the figures go to figures/ in it"""
    runs: Path = RUNS
    """runs of the ablations: base/ and lambda=0/ in it"""
    tuned: Path = TUNED
    """runs of the tuned recipe, for their routing shares"""
    recipe: str | None = None
    """which recipe of ablations.jsonl, if it has several"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """of the t-SNE map; the precision is always that of the training run"""


FIGURES: dict[str, tuple[type, Callable]] = {
    "overview": (Overview, draw_overview),
    "settings": (Settings, draw_settings),
    "lost": (Lost, draw_lost),
    "tsne": (Tsne, draw_tsne),
    "embeddings": (Embeddings, draw_embeddings),
    "curves": (CurvesArguments, draw_curves),
    "shares": (Shares, draw_shares),
    "cost": (Cost, draw_cost),
    "ceiling": (Ceiling, draw_ceiling),
    "learning": (Learning, draw_learning),
}


def all_figures(args: All) -> list[Any]:
    """The arguments of every figure."""
    folder, base, plain = args.results / "figures", args.runs / "base", args.runs / "lambda=0"
    recipe = {"results": args.results, "recipe": args.recipe}
    more_settings = ("learning_rate", "rows", "LLMs")
    return [
        Overview(folder / "overview.png", args.results),
        Settings(folder / "settings.png", **recipe),
        Settings(folder / "learning_rate_rows_llms.png", settings=more_settings, **recipe),
        Lost(folder / "lost_llm.png", **recipe),
        Tsne(folder / "tsne.png", base / "seed_1", plain / "seed_1", hardware=args.hardware),
        Embeddings(folder / "llm_embeddings.png", base / "seed_1"),
        CurvesArguments(folder / "curves.png", (base, plain)),
        Shares(folder / "shares.png", base),
        Shares(folder / "shares_tuned.png", args.tuned),
        Cost(folder / "cost.png", args.results),
        Ceiling(folder / "ceiling.png", args.results),
        Learning(folder / "learning.png", args.results),
    ]


def draw(args: Any) -> bool:
    """Draw one figure; says on stderr what is wrong if it cannot, and returns whether it could."""
    functions = {arguments: function for arguments, function in FIGURES.values()}
    try:
        plots.check_format(args.output, "--output")
        functions[type(args)](args)
    except (CheckpointError, ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print(f"Written: {args.output}")
    return True


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    name, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    classes = {figure: arguments for figure, (arguments, _) in FIGURES.items()} | {"all": All}
    if name not in classes:
        print(f"error: no figure is called {name!r}; there are {', '.join(classes)}", file=sys.stderr)
        return 2
    try:
        args = parse_arguments(classes[name], words, f"{PROGRAM} {name}", classes[name].__doc__)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    drawn = [draw(figure) for figure in (all_figures(args) if name == "all" else [args])]
    return 0 if all(drawn) else 2


if __name__ == "__main__":
    sys.exit(main())
