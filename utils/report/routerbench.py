"""Accuracy against cost on RouterBench: the table, the curve and AIQ of finished runs, kNN, MLP, controls and single LLMs.

    python -m utils.report.routerbench runs/minilm_routerbench        writes results/routerbench.md, .json and .png

The runs are RouterDC's, one for each cost rate and seed (train_scripts/router_train_routerbench.sh). The baselines are fitted here,
on the same training rows and pre-trained embeddings, to the same score - cost_rate * cost, and choose their settings on the same
validation rows. Any runs whose test files have costs will do.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.baselines.base import Router, Rows, choose, unit
from utils.baselines.controls import BestPerTask, BestSingle, Oracle
from utils.baselines.knn import KNN
from utils.baselines.mlp import MLP
from utils.ceiling.known import known_ceilings
from utils.data import RoutingData, load_all, reading, split_validation, targets
from utils.encoders import GIVEN, EncoderError, Queries, load_encoder
from utils.experiment import Hardware, choose_hardware
from utils.files import writable_folder, write_json, write_text
from utils.meters import bar
from utils.metrics import CEILING, ORACLE, accuracy, aiq, mean_cost, utility
from utils.plots import cost_curve
from utils.report.results import finished
from utils.report.statistics import spread
from utils.tables import accuracy_cells, markdown
from utils.tasks import short, title_of

BASELINES: tuple[type[Router], ...] = (KNN, MLP)
ZERO = "single LLMs, mixed"
VARIES = ("seed", "cost_rate")  # settings in which the runs may differ
NAMED = (  # settings that results name
    "freeze_encoder", "train_layers", "top_k", "last_k", "ties", "training_steps", "learning_rate", "max_characters",
    "keep_characters", "validation_fraction",
)  # fmt: skip
THOUSAND = 1000  # costs are printed in US dollars per 1000 queries


def point(picks: Mapping[str, np.ndarray], tests: Sequence[RoutingData], rate: float) -> dict[str, dict[str, float]]:
    """What picks earn and cost on each task: accuracy and utility in %, cost in US dollars per query."""
    return {
        "accuracy": {data.task: accuracy(picks[data.task], data) for data in tests},
        "cost": {data.task: mean_cost(picks[data.task], data) for data in tests},
        "utility": {data.task: utility(picks[data.task], data, rate) for data in tests},
    }


def check(runs: Sequence[Mapping[str, Any]], folder: str) -> tuple[list[float], list[int]]:
    """The cost rates and the seeds of the runs.

    Raises: ValueError if a run has no costs, two are the same, one of the grid is missing, or they differ in anything else.
    """
    found: set[tuple[float, int]] = set()
    first = None
    for run in runs:
        settings = run["settings"]
        key = (settings.get("cost_rate", 0.0), settings["seed"])
        if not run["test"].get("costs") or set(run["test"]["costs"]["router"]) != set(run["test"]["tasks"]):
            raise ValueError(
                f"{folder}: the run `{run['command']}` has test files without costs; only runs on data with costs belong here"
            )
        same = {"router": run["router"], "keep_characters": "last"}  # of runs made before that was an argument
        same |= {name: value for name, value in settings.items() if name not in VARIES}
        first = first or same
        if changed := [name for name in {**first, **same} if first.get(name) != same.get(name)]:
            raise ValueError(f"{folder}: its runs differ in {', '.join(changed)}; only {' and '.join(VARIES)} may")
        if key in found:
            raise ValueError(
                f"{folder}: two runs with cost rate {key[0]:g} and seed {key[1]}; name a folder that has one"
            )
        found.add(key)
    rates, seeds = (sorted({key[place] for key in found}) for place in (0, 1))
    if absent := [
        f"{runs[0]['router']} at {rate:g} with seed {seed}"
        for rate in rates
        for seed in seeds
        if (rate, seed) not in found
    ]:
        raise ValueError(
            f"{folder}: no finished run of {'; '.join(absent)}. Run the script again, it goes on where it stopped"
        )
    return rates, seeds


def embeddings(
    train: Sequence[RoutingData],
    tests: Sequence[RoutingData],
    settings: Mapping[str, Any],
    where: Hardware,
    cache: Path,
) -> dict[str, np.ndarray]:
    """Embeddings (n, p) of length 1 from the pre-trained encoder of a run, by path.

    The training files are embedded as one, as in training: what a run with a frozen encoder left in the cache is found there.
    """
    if settings["encoder"] == GIVEN:
        return {data.path: unit(data.inputs) for data in [*train, *tests]}
    encoder = load_encoder(settings["encoder"], settings["pooling"], settings["max_length"])
    encoder.place(where)

    def embed(questions: Sequence[str], title: str) -> np.ndarray:
        return unit(Queries(encoder, questions, where, "none", cache, title).embed().float().cpu().numpy())

    parts = np.split(
        embed([question for data in train for question in data.questions], "training queries"),
        np.cumsum([len(data) for data in train])[:-1],
    )
    return {data.path: part for data, part in zip(train, parts)} | {
        data.path: embed(data.questions, data.task) for data in tests
    }


def fitted(
    train: Sequence[RoutingData],
    tests: Sequence[RoutingData],
    x: Mapping[str, np.ndarray],
    rate: float,
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, dict]:
    """The points of the baselines and controls for one cost rate and one seed, {name: point}."""
    first = slice(settings["training_samples_per_dataset"] or None)  # as in training, but no row repeated
    sides = [
        (side[first], held)
        for side, held in (split_validation(data, settings["validation_fraction"], seed) for data in train)
    ]
    goals = [targets(data, settings["targets"], rate) for data in train]
    rows = Rows(
        np.concatenate([x[data.path][side] for data, (side, _) in zip(train, sides)]),
        np.concatenate([goal[side] for goal, (side, _) in zip(goals, sides)]),
        np.concatenate([[data.task] * len(side) for data, (side, _) in zip(train, sides)]),
    )
    held = [(x[data.path][side], data.rows(side)) for data, (_, side) in zip(train, sides)]
    found, columns = {}, range(rows.y.shape[1])
    for kind in BASELINES:
        router = choose(kind, rows, held, seed, worth=lambda picks, data: utility(picks, data, rate)).router
        found[kind.name] = point({data.task: router.pick(x[data.path], columns) for data in tests}, tests, rate)
    for control in (BestSingle, BestPerTask):
        chosen = control(seed).fit(rows)
        found[control.name] = point({data.task: chosen.pick(data, columns) for data in tests}, tests, rate)
    return found


def oracle(tests: Sequence[RoutingData], rate: float) -> dict[str, dict[str, float]]:
    """The best pick of each query with its test scores known; of equally good ones the cheapest."""
    best = Oracle(cost_rate=rate)
    return point({data.task: best.pick(data, range(len(data.llms))) for data in tests}, tests, rate)


def mean_of(found: Mapping[str, Mapping[str, float]], what: str, task: str | None) -> float:
    """Accuracy, cost or utility of a point on one task, or the mean over tasks."""
    return float(np.mean(list(found[what].values()))) if task is None else found[what][task]


def improvement(points: Sequence[Mapping], llms: Mapping[str, Mapping], task: str | None) -> float | None:
    """AIQ in % of a router with these points over the range of the single LLMs' costs; None where all LLMs cost the same.

    The cheapest single LLM is one of every router's points: it is what an endless cost rate picks.
    """
    single = [(mean_of(values, "cost", task), mean_of(values, "accuracy", task)) for values in llms.values()]
    cheapest, dearest = min(single, key=lambda pair: (pair[0], -pair[1])), max(single)
    if cheapest[0] == dearest[0]:
        return None
    own = [(mean_of(found, "cost", task), mean_of(found, "accuracy", task)) for found in points]
    costs, qualities = zip(cheapest, *own)
    return aiq(costs, qualities, cheapest[0], dearest[0])


def compare(folder: str, where: Hardware, cache: Path) -> dict[str, Any]:
    """All points and AIQs of the runs in `folder` and of the baselines: the content of routerbench.json.

    Raises: ValueError as `check`, and for data files that are not those of the runs.
    """
    runs = finished([folder])
    rates, seeds = check(runs, folder)
    settings = runs[0]["settings"]
    options = reading(settings)
    train = load_all(settings["data_paths"], settings["data_type"], ("--data_paths", "--data_type"), **options)
    tests = load_all(
        [test["path"] for test in runs[0]["tests"]],
        [test["kind"] for test in runs[0]["tests"]],
        ("--test_data_paths", "--test_data_type"),
        **options,
    )
    for data in [*train, *tests]:
        if settings["data"].get(data.path) != data.sha256:
            raise ValueError(f"{data.path}: not the file that the runs in {folder} read; train again, or bring it back")
    among = settings.get("llms") or train[0].llms
    train, tests = ([data.for_llms(among) for data in files] for files in (train, tests))
    x = embeddings(train, tests, settings, where, cache)

    points: dict[str, list[dict]] = {}
    for run in sorted(runs, key=lambda run: (run["settings"].get("cost_rate", 0.0), run["settings"]["seed"])):
        test = run["test"]
        found = {"accuracy": test["tasks"], "cost": test["costs"]["router"], "utility": test["utilities"]["router"]}
        points.setdefault(run["router"], []).append(
            {"cost_rate": test["cost_rate"], "seed": run["settings"]["seed"], **found}
        )
    with bar(len(rates) * len(seeds), "baselines", "setting") as progress:
        for rate in rates:
            for seed in seeds:
                for name, found in {
                    **fitted(train, tests, x, rate, seed, settings),
                    ORACLE: oracle(tests, rate),
                }.items():
                    points.setdefault(name, []).append({"cost_rate": rate, "seed": seed, **found})
                progress.update()
    llms = {
        llm: point({data.task: np.full(len(data), t) for data in tests}, tests, 0.0)
        for t, llm in enumerate(tests[0].llms)
    }
    tasks = [data.task for data in tests]
    areas = {
        name: {
            task or "average": [improvement([p for p in found if p["seed"] == seed], llms, task) for seed in seeds]
            for task in (None, *tasks)
        }
        for name, found in points.items()
    }
    areas[ZERO] = {
        task or "average": [improvement(list(llms.values()), llms, task)] * len(seeds) for task in (None, *tasks)
    }
    chosen_by = [
        [run["selection"]["validation"] for run in runs if run["settings"]["seed"] == seed] for seed in seeds
    ]  # a list over cost rates each
    return {
        "tasks": tasks,
        "validation": None if None in chosen_by[0] else [float(np.mean(part)) for part in chosen_by],
        "training_queries": {data.task: len(data) for data in train},
        "test_queries": {data.task: len(data) for data in tests},
        "left_out": {data.path: data.left_out for data in [*train, *tests]},
        "encoder": settings["encoder"],
        "recipe": runs[0]["recipe"],
        "settings": {"keep_characters": "last"} | {name: settings[name] for name in NAMED if name in settings},
        "cost_rates": rates,
        "seeds": seeds,
        "ceilings": known_ceilings(tests),
        "llms": {llm: {name: values[name] for name in ("accuracy", "cost")} for llm, values in llms.items()},
        "routers": points,
        "aiq": areas,
        "training_seconds": round(sum(run["seconds"] for run in runs), 1),
        "device": where.describe(),
    }


def script_of(result: Mapping[str, Any]) -> str:
    """The command line of the script that made the runs, as far as their recipe tells it."""
    variables = ["RECIPE=tuned"] if result["recipe"].startswith("routerbench_tuned") else []
    variables += ["KEEP_CHARACTERS=first"] if result["settings"]["keep_characters"] == "first" else []
    return " ".join([*variables, "bash train_scripts/router_train_routerbench.sh"])


def prompts_of(settings: Mapping[str, Any]) -> str:
    """A sentence on how the prompts are cut, or nothing where they are whole."""
    if not settings["max_characters"]:
        return ""
    end = settings["keep_characters"]
    released = "as in the released code" if end == "first" else "the released code keeps the first ones"
    return f"Of each prompt the {end} {settings['max_characters']} characters are read ({released}). "


ALIKE = (  # what two results to compare must have in common
    "tasks", "training_queries", "test_queries", "seeds", "cost_rates", "encoder", "llms",
)  # fmt: skip


def paired(result: Mapping[str, Any], other: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What the trained router gains over that of `other`, the content of another routerbench.json, by seed.

    Returns: {"path", "settings": {name: [here, there]} where they differ, "validation": points of utility by seed,
    "aiq": points by seed}.
    Raises: ValueError if the two have other data, seeds or cost rates, or no validation rows.
    """
    if changed := [name for name in ALIKE if result[name] != other.get(name)]:
        what = ", ".join(changed)
        raise ValueError(f"--against {path}: it differs in {what}; seeds are paired on the same data only")
    if not result["validation"] or not other.get("validation"):
        raise ValueError(f"--against {path}: runs without validation rows cannot be compared on them")
    names = sorted({*result["settings"], *other["settings"]})
    pairs = {name: [result["settings"].get(name), other["settings"].get(name)] for name in names}
    router = next(iter(result["routers"]))
    gain = {"validation": np.subtract(result["validation"], other["validation"])}
    gain["aiq"] = np.subtract(result["aiq"][router]["average"], other["aiq"][router]["average"])
    return {
        "path": str(path),
        "settings": {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        **{name: values.round(4).tolist() for name, values in gain.items()},
    }


def against_of(found: Mapping[str, Any]) -> str:
    """A sentence on what `paired` found."""
    changes = []
    for name, (here, there) in found["settings"].items():
        changes.append(f"{name.replace('_', ' ')} {here} here, {there} there")
    return (
        f"Against `{found['path']}` ({'; '.join(changes) or 'the same settings'}), paired over the seeds: the trained "
        f"router's utility on validation rows, mean over the cost rates, {spread(found['validation'], '+')} points; "
        f"its AIQ on the test files {spread(found['aiq'], '+')} points. The choice between the two is by validation "
        "rows; the test files had been read before. "
    )


def text_of(result: Mapping[str, Any]) -> str:
    """results/routerbench.md."""
    tasks, seeds, rates = result["tasks"], result["seeds"], result["cost_rates"]
    settings = result["settings"]
    part = (
        "frozen"
        if settings["freeze_encoder"]
        else f"last {settings['train_layers']} layers trained"
        if settings["train_layers"]
        else "all layers trained"
    )
    left = [
        f"{count} of {Path(path).parent.name}/{Path(path).name}" for path, count in result["left_out"].items() if count
    ]
    zero = result["aiq"][ZERO]["average"]
    flat = [task for task in (*tasks, "average") if None in result["aiq"][ZERO][task]]  # all LLMs cost the same there
    order = (
        list(result["aiq"])
        if "average" in flat
        else sorted(result["aiq"], key=lambda name: -np.mean(result["aiq"][name]["average"]))
    )
    aiq_rows = []
    for name in order:
        areas = ["-" if task in flat else spread(result["aiq"][name][task]) for task in (*tasks, "average")]
        aiq_rows.append(
            [
                name,
                *areas,
                ""
                if name == ZERO
                else "-"
                if "average" in flat
                else spread(np.subtract(result["aiq"][name]["average"], zero), "+"),
            ]
        )
    llm_rows = [
        [
            short(llm),
            *[f"{values['accuracy'][task]:.2f}" for task in tasks],
            f"{mean_of(values, 'accuracy', None):.2f}",
            f"{THOUSAND * mean_of(values, 'cost', None):.3f}",
        ]
        for llm, values in sorted(result["llms"].items(), key=lambda item: mean_of(item[1], "cost", None))
    ]
    if ceilings := result.get("ceilings"):
        llm_rows.append([CEILING, *accuracy_cells(ceilings, tasks), "-"])
    rate_rows = []
    for rate in rates:
        for name, points in result["routers"].items():
            here = [p for p in points if p["cost_rate"] == rate]
            costs = [THOUSAND * mean_of(p, "cost", None) for p in here]
            rate_rows.append(
                [
                    f"{rate:g}",
                    name,
                    spread([mean_of(p, "accuracy", None) for p in here]),
                    f"{np.mean(costs):.3f}",
                    spread([mean_of(p, "utility", None) for p in here]),
                ]
            )
    queries = ", ".join(
        f"{title_of(task)} {result['training_queries'].get(task, 0)} / {result['test_queries'][task]}" for task in tasks
    )
    return "\n\n".join([
        "# RouterBench: accuracy against cost",
        f"Made by `{result['command']}`, which `{script_of(result)}` ends with; routerbench.json has every point. "
        f"Queries (training / test): {queries}. "
        f"{prompts_of(settings)}"
        + (f"Rows left out for empty cells: {'; '.join(left)}. " if left else "")
        + f"Encoder: {result['encoder']}, {part}; {len(seeds)} seed(s); mean ± standard deviation over them; averages are over tasks. "
        + (f"The trained router's utility on its own validation rows, mean over the cost rates: {spread(result['validation'])} %. " if result["validation"] else "")
        + (against_of(result["against"]) if "against" in result else "")
        + f"Training took {result['training_seconds']:.0f} s in all, this comparison {result['seconds']:.0f} s ({result['device']}).",
        "Every router learns from score - cost_rate * cost (cost in US dollars): kNN and MLP by regression on the same embeddings, from every row; RouterDC and CosineClassifier "
        "from the rows in which some LLM has a value above 0, since only such an LLM is a positive (as in the paper): a row in which none is worth its cost tells them nothing "
        "about LLMs. BestSingle and BestPerTask take the best LLM of the training rows by that value, the second one knowing the task; the oracle knows the test scores.",
        "![accuracy against cost](routerbench.png)",
        "## AIQ (%)",
        "Area under the non-decreasing convex hull of a router's (mean cost, accuracy) points, from the cheapest to the dearest single LLM, divided by that range. The cheapest "
        f"LLM is a point of every router. The line to beat is RouterBench's zero router, the hull of the single LLMs (\"{ZERO}\"). The average is of the points' means over all tasks."
        + (f" \"-\": all LLMs cost the same ({', '.join(title_of(task) if task in tasks else task for task in flat)}), so there is no range of costs." if flat else ""),
        markdown(["router", *map(title_of, tasks), "average", "against single LLMs"], aiq_rows),
        "## At each cost rate",
        markdown(["cost rate", "router", "accuracy (%)", "$ per 1000 queries", "utility (%)"], rate_rows),
        "## Single LLMs: accuracy (%) and cost",
        markdown(["LLM", *map(title_of, tasks), "average", "$ per 1000 queries"], llm_rows),
    ]) + "\n"  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    p = argparse.ArgumentParser(
        prog="python -m utils.report.routerbench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("runs", help="folder of finished runs: every cost rate with every seed")
    p.add_argument("--output", type=Path, default=Path("results"), help="folder for routerbench.md, .json and .png")
    p.add_argument("--against", type=Path, metavar="JSON", help="routerbench.json of other runs on these data")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    p.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    p.add_argument("--cache_dir", type=Path, default=Path(".cache/queries"), help="embeddings")
    args = p.parse_args(argv)
    begun = time.monotonic()
    try:
        where = choose_hardware(args.device, args.precision)
        writable_folder(args.output, "--output")
        result = compare(args.runs, where, args.cache_dir)
        if args.against:
            result["against"] = paired(result, json.loads(args.against.read_text()), args.against)
        given = [("--output", args.output if args.output != Path("results") else None), ("--against", args.against)]
        words = [word for flag, value in given if value for word in (flag, str(value))]
        result["command"] = shlex.join(["python", "-m", "utils.report.routerbench", args.runs, *words])
        result["seconds"] = round(time.monotonic() - begun, 1)
        text = text_of(result)
        cost_curve(result, args.output / "routerbench.png")
        write_json(args.output / "routerbench.json", result)
        write_text(args.output / "routerbench.md", text)
        print(f"{text}\nWritten: {args.output / 'routerbench.md'}, .json and .png")
    except (EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
