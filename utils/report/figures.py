"""Draw the figures from what other commands left in results/ and runs/, each by a command of its own.

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

`bash train_scripts/figures.sh` draws them all. `python -m utils.report.figures FIGURE --help` lists what a figure can be told.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from utils import checkpoint, plots
from utils.ceiling import known
from utils.ceiling.page import label
from utils.clustering import tsne_map
from utils.data import load_all, reading
from utils.encoders import Queries
from utils.experiment import choose_hardware
from utils.meters import read_metrics
from utils.model import trained_layers_of
from utils.report import ablations, comparison
from utils.report.runs import read_lines, runs_below
from utils.tasks import PAPER_AVERAGE, short, title_of

ABLATIONS = "bash train_scripts/ablations.sh"
RUNS = Path("runs/ablations/minilm_frozen")  # of train_scripts/ablations.sh
CONTROL = "control"  # the recipe of what is no router in runs.jsonl
SIDES = {"id_avg": "in distribution", "ood_avg": "out of distribution"}
COMPARED = dict(zip(("id", "ood"), SIDES.values()))  # the same two, as results/comparison.json names them


def need(path: Path, command: str) -> Path:
    """The path. Raises: ValueError that says which command makes it, if it is not there."""
    if not path.exists():
        raise ValueError(f"{path}: not there; `{command}` makes it")
    return path


def finished(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The finished runs at or below a folder, with their results.json. Raises: ValueError naming the command that trains them."""
    command = ABLATIONS if RUNS in (folder, *folder.parents) else "bash train_scripts/router_train_minilm.sh"
    return runs_below([folder], f"; `{command}` trains them")


def overview_row(entry: Mapping[str, Any]) -> dict[str, tuple[float, float, float, float]]:
    """What `plots.overview` takes for one group of results/comparison.json."""
    row = {}
    for side, title in COMPARED.items():
        values = entry[side]["per_seed"]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        row[title] = (float(np.mean(values)), deviation, *entry[side]["interval_with_seeds"])
    return row


def overview_rows(result: Mapping[str, Any], recipe: str) -> dict[str, dict[str, tuple[float, float, float, float]]]:
    """Rows of the overview: RouterDC in the paper and with each of our recipes, then the baselines of one recipe, the best first.

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
        known = sorted({entry["recipe"] for entry in groups if entry["router"] != "RouterDC"})
        raise ValueError(f"--recipe {recipe}: the comparison has no baseline of that recipe; it has {', '.join(known)}")

    def first_the_best(entries: list) -> list:
        return sorted(entries, key=lambda entry: -sum(np.mean(entry[side]["per_seed"]) for side in COMPARED))

    for entry in [*first_the_best(ours), *first_the_best(others)]:
        seeds = f"{len(entry['seeds'])} seed" + ("s" if len(entry["seeds"]) > 1 else "")
        rows[f"{comparison.label_of(entry)} ({seeds})"] = overview_row(entry)
    return rows


def overview_marks(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The best single LLM, and the best LLM of each task (both picked on training rows), as dashed lines."""
    labels = {"BestSingle": "best single LLM", "BestPerTask": "best LLM of each task, best single one elsewhere"}
    found = {entry["router"]: entry for entry in result["groups"] if entry["recipe"] == CONTROL}
    marks = {}
    for router, title in labels.items():
        if router in found:
            per_side = {side: float(np.mean(found[router][side]["per_seed"])) for side in COMPARED}
            marks[title] = {COMPARED[side]: value for side, value in per_side.items()}
    return marks


def settings_panels(
    lines: Sequence[Mapping[str, Any]], settings: Sequence[str]
) -> tuple[dict[str, dict], dict[str, str]]:
    """What `plots.settings_curves` takes: mean and standard deviation per value of each setting, and the recipe's own values.

    Raises: ValueError for a setting that was not varied.
    """
    plain, panels, own = [line for line in lines if line["setting"] == ablations.BASE], {}, {}
    for setting in settings:
        groups = ablations.groups_of(lines, setting)
        if not groups:
            raise ValueError(
                f"results/{ablations.FILE}: {setting} was not varied; AXES={setting!r} {ABLATIONS} does it"
            )
        title = {"rows": "training rows per task", "LLMs": "number of LLMs"}.get(setting, setting.replace("_", " "))
        value = plain[0]["base"][setting] if plain else None
        if value is not None:
            own[title] = value
            groups.setdefault(value, plain)
        panels[title] = {}
        for value in sorted(groups, key=ablations.value_order):
            columns = {
                name: [line[name] for line in groups[value] if line[name] is not None]
                for name in ("validation", *SIDES)
            }
            panels[title][value] = {
                name: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0)
                for name, v in columns.items()
                if v
            }
    return panels, own


def lost_rows(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    """What `plots.lost_llms` takes. Raises: ValueError if no LLM was taken away yet."""
    groups = ablations.groups_of(lines, ablations.LOST)
    if not groups:
        raise ValueError(f"results/{ablations.FILE}: no LLM was taken away; AXES={ablations.LOST} {ABLATIONS} does it")
    rows: dict[str, dict] = {}
    for value, group in groups.items():
        row = rows.setdefault(short(value), {})
        for side, title in SIDES.items():
            ours = [line[side] for line in group]
            deviation = float(np.std(ours, ddof=1)) if len(ours) > 1 else 0.0
            row[title] = {"RouterDC": (float(np.mean(ours)), deviation)}
            row[title] |= {
                f"{limit} of those left": (group[0]["limits"][limit][side], 0.0) for limit in ablations.LIMITS[:2]
            }
    return rows


@torch.no_grad()
def query_embeddings(
    run: Path, per_task: int, seed: int, device: str, cache: Path
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Embeddings E(x) (n, p) of at most `per_task` test queries of each task, drawn by `seed`; the tasks, and each query's place among them."""
    model, config = checkpoint.load(run)
    where, part = choose_hardware(device, config["precision"]), trained_layers_of(config["settings"])
    model.place(where, part, config["settings"]["train_layers"])
    tests = config["tests"]
    files = load_all(
        [test["path"] for test in tests],
        [test["kind"] for test in tests],
        ("--test_data_paths", "--test_data_type"),
        **reading(config["settings"]),
    )
    found, places = [], []
    for number, data in enumerate(files):
        rows = np.sort(np.random.default_rng((seed, number)).permutation(len(data))[:per_task])
        embedded = Queries(model.encoder, data.inputs, where, part, cache, data.task).embed(rows)
        found.append(model(embedded)[0].float().cpu().numpy())
        places.append(np.full(len(rows), number))
    embeddings = np.concatenate(found)
    if model.similarity_function == "cos":  # length means nothing to the router
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings, [data.task for data in files], np.concatenate(places)


def overview(args: argparse.Namespace) -> None:
    path = need(args.results / "comparison.json", "bash train_scripts/baselines.sh")
    result = json.loads(path.read_text(encoding="utf-8"))
    plots.save(plots.overview(overview_rows(result, args.recipe), overview_marks(result)), args.output)


def read_ablations(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines of one recipe. Raises: ValueError if there are none, or if --recipe must say which."""
    lines = read_lines(need(args.results / ablations.FILE, ABLATIONS))
    recipes = list(dict.fromkeys(line["recipe"] for line in lines))
    recipe = args.recipe or recipes[0]
    if recipe not in recipes or (args.recipe is None and len(recipes) > 1):
        raise ValueError(f"--recipe: {args.results / ablations.FILE} has {', '.join(recipes)}; name one of them")
    args.recipe = recipe
    return [line for line in lines if line["recipe"] == recipe]


def settings(args: argparse.Namespace) -> None:
    panels, own = settings_panels(read_ablations(args), args.settings)
    plots.save(
        plots.settings_curves(panels, own, f"RouterDC, {args.recipe}: one setting changed at a time"), args.output
    )


def lost(args: argparse.Namespace) -> None:
    rows = lost_rows(read_ablations(args))
    plots.save(
        plots.lost_llms(
            rows,
            f"RouterDC, {args.recipe}: one LLM lost at test time (bars: standard deviation over the seeds). The best of those left are picked on test",
        ),
        args.output,
    )


def tsne(args: argparse.Namespace) -> None:
    maps, panels = {}, {}
    for title, run in (("with the sample-sample loss", args.with_loss), ("without (lambda = 0)", args.without_loss)):
        need(run / "results.json", ABLATIONS)
        embeddings, tasks, places = query_embeddings(run, args.per_task, args.seed, args.device, args.cache_dir)
        maps[title] = tsne_map(embeddings, args.seed, args.perplexity)
        panels[title] = ([title_of(task) for task in tasks], places)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    plots.query_map(
        maps,
        panels,
        f"Test queries as the trained router sees them: t-SNE of E(x), at most {args.per_task} per task",
        args.output,
    )


def embeddings(args: argparse.Namespace) -> None:
    need(args.ckpt, ABLATIONS)
    folder = checkpoint.find(args.ckpt)
    config = json.loads((folder / checkpoint.CONFIG).read_text())
    vectors = load_file(folder / checkpoint.WEIGHTS)["llm_embeddings.weight"].float().numpy()  # (T, p)
    title = f"LLM embeddings after training: RouterDC, {Path(config['encoder']).name}, {config['recipe']}, seed {config['settings']['seed']}"
    plots.save(plots.llm_embeddings(vectors, [short(llm) for llm in config["llms"]], title), args.output)


def curves(args: argparse.Namespace) -> None:
    groups: dict[str, list] = {}
    for folder in args.runs:
        for run, results in finished(folder):
            fidelity = results["settings"]["fidelity"]
            groups.setdefault(results["recipe"] + ("" if fidelity == "paper" else f", fidelity {fidelity}"), []).append(
                read_metrics(run / "metrics.jsonl")
            )
    plots.save(plots.training_curves(groups, "Training of RouterDC"), args.output)


def shares(args: argparse.Namespace) -> None:
    found = [results for _, results in finished(args.runs)]
    labels = sorted({f"{results['recipe']}, fidelity {results['settings']['fidelity']}" for results in found})
    if len(labels) > 1:
        raise ValueError(
            f"--runs {args.runs}: runs of {len(labels)} recipes ({'; '.join(labels)}); name the folder of one"
        )
    tested = [results["test"]["shares"] for results in found]
    mean = {
        task: {short(llm): float(np.mean([share[task][llm] for share in tested])) for llm in row}
        for task, row in tested[0].items()
    }
    seeds = f"{len(found)} seed{'s' if len(found) > 1 else ''}"
    plots.save(
        plots.routing_shares(mean, f"Where RouterDC sends the test queries ({found[0]['recipe']}, mean of {seeds})"),
        args.output,
    )


def cost(args: argparse.Namespace) -> None:
    path = need(args.results / "routerbench.json", "bash train_scripts/router_train_routerbench.sh")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    plots.cost_curve(json.loads(path.read_text()), args.output)


def read_ceilings(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The records of --results. Raises: ValueError naming the command, if there are none."""
    return known.read_records(need(args.results / known.FILE, "python -m utils.ceiling"))


def ceiling(args: argparse.Namespace) -> None:
    rows = {}
    for record in read_ceilings(args):
        row = {"best": record["best_accuracy"], "oracle": record["oracle"], "ceiling": record["ceiling"]["accuracy"]}
        row |= {end: record["ceiling"][end] for end in ("low", "high")}
        if record["repeats"]:
            row["repeats"] = record["best_accuracy"] + record["repeats"]["repeats_ranked"]["mean"]
        rows[label(record)] = row
    plots.save(plots.ceilings(rows, "What the queries' text gives away of the oracle's head-room"), args.output)


def learning(args: argparse.Namespace) -> None:
    panels = {}
    for record in read_ceilings(args):
        everything = int(record["queries"] * 0.8)  # four folds of five
        rows: dict[str, list] = {
            "over the best LLM of the same labels, 95 %": [],
            "over the best LLM of all rows, 95 %": [],
        }
        for point in record["curve"]:
            size = everything if point["labelled"] == "all" else int(point["labelled"])
            for points, figures in zip(rows.values(), (point, point["against_best_of_all_rows"])):
                points.append((size, figures["mean"], figures["low"], figures["high"]))
        if len(record["curve"]) > 1:
            panels[label(record)] = rows
    if not panels:
        raise ValueError(
            f"{args.results / known.FILE}: no learning curves; `python -m utils.ceiling` with --curve_seeds makes them"
        )
    plots.save(
        plots.learning_panels(panels, "Learnable gain against the number of labelled queries of the task"), args.output
    )


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = p.add_subparsers(dest="figure", required=True, metavar="FIGURE")

    def add(name: str, function, **flags) -> argparse.ArgumentParser:
        sub = names.add_parser(name, help=f"draws results/figures/{name}.png")
        sub.set_defaults(function=function)
        sub.add_argument(
            "--output", type=Path, default=Path(f"results/figures/{name}.png"), help="the figure: .png, .pdf or .svg"
        )
        for flag, (default, text) in flags.items():
            many = {"nargs": "+"} if isinstance(default, list) else {}
            sub.add_argument(
                f"--{flag}", type=type((default if not many else default[0]) or ""), default=default, help=text, **many
            )
        return sub

    results = (Path("results"), "folder of the result files")
    own = (None, "which recipe of the file, if it has several")
    device = {
        "device": ("auto", "auto, cpu, cuda, cuda:N, mps"),
        "cache_dir": (Path(".cache/queries"), "embeddings of a frozen encoder"),
    }
    add("overview", overview, results=results, recipe=("frozen", "of the baselines that are shown"))
    add(
        "settings",
        settings,
        results=results,
        recipe=own,
        settings=(["lambda", "K+", "K-", "H", "N"], f"which: {', '.join(ablations.AXES)}"),
    )
    add("lost", lost, results=results, recipe=own)
    add(
        "tsne", tsne, with_loss=(RUNS / "base" / "seed_1", "a run with the sample-sample loss"), without_loss=(RUNS / "lambda=0" / "seed_1", "the same without"),
        per_task=(200, "test queries of each task"), perplexity=(30.0, "of t-SNE"), seed=(1, "of the draw and of t-SNE"), **device,
    )  # fmt: skip
    add("embeddings", embeddings, ckpt=(RUNS / "base" / "seed_1", "the router: a checkpoint, or a run's folder"))
    add(
        "curves", curves, runs=([RUNS / "base", RUNS / "lambda=0"], "folders of runs; those of one recipe are one line")
    )
    add("shares", shares, runs=(RUNS / "base", "folder of the runs of one recipe"))
    add("cost", cost, results=results)
    add("ceiling", ceiling, results=results)
    add("learning", learning, results=results)
    return p


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    args = parser().parse_args(argv)
    try:
        if args.output.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--output {args.output}: its name must end in .png, .pdf or .svg")
        args.function(args)
    except (checkpoint.CheckpointError, ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
