"""Compare routers on the queries of their runs: Tables 1 and 2 with intervals, paired differences, routing shares, the paper's ordering.

Used by `python -m utils.report --compare RUNS`. It needs what each run picked, query by query (`picks.json` beside its results.json), and the
test files that were read.
"""

import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.baselines.trained_encoder import SUFFIX
from utils.data import DataError, RoutingData, gains, load, reading
from utils.meters import bar
from utils.metrics import CEILING, best_single, references
from utils.report.statistics import RESAMPLES, bootstrap, interval, right_when_possible, seed_weights, sign_flip, spread
from utils.tables import accuracy_cells, markdown
from utils.tasks import LLMS, PAPER, PAPER_AVERAGE, TASKS, short, title_of

SIDES = ("id", "ood")  # in the order of PAPER_AVERAGE
ORDER = ("RouterDC", "LoraRetriever", "Voting", "CosineClassifier", "ZOOTER")  # the routers of the paper
SINGLE = "single LLM, best on test"  # in place of a recipe


@dataclass
class Group:
    """Runs that differ in the seed alone. gains: for each task what they earned, (S, N) in [0, 1]. shares: {task: {llm: %}}, mean over seeds."""

    router: str
    encoder: str
    recipe: str
    fidelity: str
    seeds: list[int]
    gains: dict[str, np.ndarray]
    shares: dict[str, dict[str, float]]

    def average(self, tasks: Sequence[str]) -> np.ndarray:
        """Mean over `tasks` of each seed, in %: (S,)."""
        return 100 * np.mean([self.gains[task].mean(axis=1) for task in tasks], axis=0)


def runs_below(folders: Iterable[str | Path], remedy: str = "") -> list[tuple[Path, dict[str, Any]]]:
    """The folder and the results.json of every finished run at or below the folders, in order of their paths.

    Raises: ValueError for a folder without one, with the remedy.
    """
    runs = []
    for folder in folders:
        paths = sorted(Path(folder).rglob("results.json"))
        if not paths:
            raise ValueError(f"{folder}: no finished run there (results.json){remedy}")
        runs += [(path.parent, json.loads(path.read_text())) for path in paths]
    return runs


def read_tests(results: dict[str, Any]) -> list[RoutingData]:
    """The test files of a run, with the LLMs of its picks in their order. Raises: DataError if one has changed since."""
    tests = []
    for entry in results["tests"]:
        data = load(entry["path"], entry["kind"], **reading(results["settings"]))
        if data.sha256 != results["settings"]["data"][entry["path"]]:
            raise DataError(
                f"{entry['path']} is not the file that the runs were tested on (its SHA-256 differs); bring that file back, or run again"
            )
        tests.append(data.for_llms(results["test"]["llms"]))
    return tests


def what_was_read(results: dict[str, Any]) -> tuple:
    """The test files and the LLMs of a run: runs that differ here cannot be compared."""
    data = results["settings"]["data"]
    return tuple(sorted(data[entry["path"]] + entry["kind"] for entry in results["tests"])), tuple(
        sorted(results["test"]["llms"])
    )


def collect(folders: Iterable[str]) -> tuple[list[Group], list[RoutingData], list[str]]:
    """Groups of the runs at or below the folders, their test data, and the tasks in distribution.

    Runs without picks, and runs on other test files than the first one with picks, are counted on stderr and left out.
    Raises: ValueError for a folder without runs, or where no run has picks.
    """
    runs = runs_below(folders)
    kept = [(run, results) for run, results in runs if (run / "picks.json").is_file() or (run / "gains.json").is_file()]
    if not kept:
        raise ValueError(
            f"{' '.join(map(str, folders))}: no run there has picks.json, what was picked for each query; train again with --overwrite"
        )
    wanted = what_was_read(kept[0][1])
    same = [(run, results) for run, results in kept if what_was_read(results) == wanted]
    for count, why in (
        (len(runs) - len(kept), "without picks.json"),
        (len(kept) - len(same), f"tested on other files than {same[0][0]}"),
    ):
        if count:
            print(f"left out: {count} runs {why}", file=sys.stderr)

    tests = read_tests(same[0][1])
    earned = {data.task: gains(data.scores, data.kind) for data in tests}
    members = defaultdict(list)
    for run, results in same:
        settings = results["settings"]
        encoder = Path(settings["encoder"]).name if Path(settings["encoder"]).is_absolute() else settings["encoder"]
        members[results["router"], encoder, results["recipe"], settings["fidelity"]].append((run, results))
    groups = []
    for key, part in members.items():
        part.sort(key=lambda entry: entry[1]["settings"]["seed"])
        seeds = [results["settings"]["seed"] for _, results in part]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"two runs of {', '.join(key)} with the same seed: {', '.join(str(run) for run, _ in part)}; name the folders of one of them"
            )
        values = {
            data.task: np.stack(
                [gains_of(run, results, data, earned[data.task], tests[0].llms) for run, results in part]
            )
            for data in tests
        }
        shared = [results["test"].get("shares") for _, results in part]
        shares = (
            {}
            if None in shared
            else {t: {llm: float(np.mean([s[t][llm] for s in shared])) for llm in tests[0].llms} for t in values}
        )
        groups.append(Group(*key, seeds, values, shares))
    return groups, tests, same[0][1]["test"]["in_distribution"]


def gains_of(
    run: Path, results: dict[str, Any], data: RoutingData, earned: np.ndarray, llms: Sequence[str]
) -> np.ndarray:
    """What a run earned on each query of a task, (N,). Raises: ValueError if its picks are not for these queries."""
    picked = (run / "picks.json").is_file()
    values = np.array(json.loads((run / ("picks.json" if picked else "gains.json")).read_text())[data.task])
    if len(values) != len(data):
        raise ValueError(
            f"{run}: picks for {len(values)} queries of {data.task}, {data.path} has {len(data)}; the run is damaged, run it again"
        )
    if not picked:
        return values
    columns = np.array([llms.index(llm) for llm in results["test"]["llms"]])
    return earned[np.arange(len(values)), columns[values]].astype(np.float64)


def single(llm: str, tests: Sequence[RoutingData]) -> Group:
    """One LLM for every query, the best on the test files, as a group."""
    column = tests[0].llms.index(llm)
    values = {data.task: gains(data.scores, data.kind)[None, :, column].astype(np.float64) for data in tests}
    return Group(short(llm), "none", SINGLE, "paper", [0], values, {})


def ends(draws: np.ndarray) -> list[float]:
    """The 95 % interval of draws (B,), as [low, high]."""
    return [round(float(value), 4) for value in interval(draws)]


def compare(
    groups: Sequence[Group],
    tests: Sequence[RoutingData],
    inside: Sequence[str],
    against: str,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """All figures of results/comparison.json.

    Args:
        groups: of `collect`.
        inside: tasks in distribution.
        against: the recipe of the RouterDC that differences are to; its group must be there, with `fidelity` "paper".
    Raises: ValueError if it is not.
    """
    llm = best_single(
        references(tests),
        tests[0].llms,
        [data.task for data in tests if data.task in inside] or [data.task for data in tests],
    )
    groups = sorted(
        [*groups, single(llm, tests)],
        key=lambda group: (group.recipe, group.router != "RouterDC", label_of(vars(group))),
    )
    base = [
        place
        for place, group in enumerate(groups)
        if (group.router, group.recipe, group.fidelity) == ("RouterDC", against, "paper")
    ]
    if len(base) != 1:
        raise ValueError(
            f"--against {against}: {len(base)} groups of RouterDC have this recipe; it must be one of {', '.join(sorted({g.recipe for g in groups if g.router == 'RouterDC'})) or 'none: there is no RouterDC'}"
        )
    sides = {
        "id": [data.task for data in tests if data.task in inside],
        "ood": [data.task for data in tests if data.task not in inside],
    }
    sides = {side: part for side, part in sides.items() if part}
    place_of = {data.task: place for place, data in enumerate(tests)}
    columns, start = [], 0
    for group in groups:
        columns.append(slice(start, start + len(group.seeds)))
        start += len(group.seeds)
    values = [100 * np.concatenate([group.gains[data.task] for group in groups]).T for data in tests]  # (N, runs)
    with bar(resamples * len(tests), "bootstrap", "sample") as progress:
        draws = bootstrap(values, resamples, progress=progress)  # (B, tasks, runs)
    means = np.stack([draws[..., part].mean(axis=2) for part in columns], axis=-1)  # (B, tasks, groups), over seeds
    by_query = [np.stack([part[:, where].mean(axis=1) for where in columns], axis=1) for part in values]  # (N, groups)

    average, with_seeds, p_values = {}, {}, {}
    for side, part in sides.items():
        places = [place_of[task] for task in part]
        average[side] = means[:, places].mean(axis=1)  # (B, groups)
        of_runs = draws[:, places].mean(axis=1)  # (B, runs)
        with_seeds[side] = np.stack(
            [
                (of_runs[:, where] * seed_weights(group.seeds, resamples)).sum(axis=1)
                for group, where in zip(groups, columns)
            ],
            axis=1,
        )
        p_values[side] = sign_flip([by_query[place] - by_query[place][:, base] for place in places], resamples)
    best = {data.task: gains(data.scores, data.kind).max(axis=1) for data in tests}
    of_paper = set(place_of) == {task.name for task in TASKS} and set(tests[0].llms) == set(LLMS)
    table = []
    for number, (group, where) in enumerate(zip(groups, columns)):
        entry = {
            "router": group.router,
            "encoder": group.encoder,
            "recipe": group.recipe,
            "fidelity": group.fidelity,
            "seeds": group.seeds,
        }
        entry["tasks"] = {
            task: {
                "per_seed": (100 * group.gains[task].mean(axis=1)).round(4).tolist(),
                "interval": ends(means[:, place, number]),
            }
            for task, place in place_of.items()
        }
        for side, part in sides.items():
            entry[side] = {
                "per_seed": group.average(part).round(4).tolist(),
                "interval": ends(average[side][:, number]),
                "interval_with_seeds": ends(with_seeds[side][:, number]),
                "difference": round(float(group.average(part).mean() - groups[base[0]].average(part).mean()), 4),
                "difference_interval": ends(average[side][:, number] - average[side][:, base[0]]),
                "difference_interval_with_seeds": ends(with_seeds[side][:, number] - with_seeds[side][:, base[0]]),
                "p": round(float(p_values[side][number]), 5),
            }
        entry["shares"] = {
            task: {llm: round(value, 2) for llm, value in row.items()} for task, row in group.shares.items()
        }
        entry["right_when_possible"] = {
            task: round(right_when_possible(group.gains[task], best[task]), 4) for task in place_of
        }
        table.append(entry)
    return {
        "against": against,
        "resamples": resamples,
        "sides": sides,
        "llms": list(tests[0].llms),
        "queries": {data.task: len(data) for data in tests},
        "answerable": {task: int((values > 0).sum()) for task, values in best.items()},
        "of_paper": of_paper,
        "groups": table,
        "order": order(groups, with_seeds, llm) if of_paper else [],
    }


def order(groups: Sequence[Group], average: dict[str, np.ndarray], llm: str) -> list[dict[str, Any]]:
    """The paper's ordering against ours: each pair of its routers and its best single LLM, within each recipe that RouterDC has.

    average: {side: bootstrap draws (B, groups)} of queries and seeds. A pair agrees if the interval of our difference lies on the paper's side of 0,
    contradicts if on the other, and is open if it holds 0. Pairs that the runs lack, such as those with Voting, are left out.
    """
    pairs = []
    printed = {**{name: PAPER_AVERAGE[name] for name in ORDER}, short(llm): PAPER_AVERAGE[llm]}
    for recipe, encoder in sorted(
        {(group.recipe, group.encoder) for group in groups if group.router == "RouterDC" and group.fidelity == "paper"}
    ):
        wanted = {
            group.router: place
            for place, group in enumerate(groups)
            if (group.recipe, group.encoder, group.fidelity) == (recipe, encoder, "paper")
            or group.recipe in (SINGLE, "voting")
        }
        names = [name for name in printed if name in wanted]
        for (number, side), (a, b) in itertools.product(enumerate(SIDES), itertools.combinations(names, 2)):
            above, below = (a, b) if printed[a][number] > printed[b][number] else (b, a)
            gap = average[side][:, wanted[above]] - average[side][:, wanted[below]]
            low, high = ends(gap)
            tasks = [task.name for task in TASKS if task.in_distribution == (side == "id")]
            ours = float(groups[wanted[above]].average(tasks).mean() - groups[wanted[below]].average(tasks).mean())
            pairs.append({
                "recipe": recipe, "encoder": encoder, "side": side, "above": above, "below": below,
                "paper": round(printed[above][number] - printed[below][number], 2), "ours": round(ours, 4), "interval": [low, high],
                "verdict": "agrees" if low > 0 else "contradicts" if high < 0 else "open",
            })  # fmt: skip
    return pairs


def bracket(ends: Sequence[float], sign: str = "") -> str:
    return f"[{ends[0]:{sign}.2f}, {ends[1]:{sign}.2f}]"


def label_of(entry: Mapping[str, Any]) -> str:
    """The row of a group: its router and recipe, and its fidelity where that is not the paper's."""
    return f"{entry['router']}, {entry['recipe']}" + (
        "" if entry["fidelity"] == "paper" else f", fidelity {entry['fidelity']}"
    )


def text(result: dict[str, Any], command: str) -> str:
    """results/comparison.md."""
    groups, sides = result["groups"], result["sides"]
    titles = {"id": "Table 1: in-distribution", "ood": "Table 2: out-of-distribution"}
    parts = [
        "# Comparison of the routers",
        f"Made by `{command}` from what each run picked, query by query. Testing accuracy in %, mean ± standard deviation over the seeds; averages are over tasks. "
        f'In brackets: 95 % percentile intervals of {result["resamples"]} bootstrap samples. "95 %, queries" draws the queries alone, within each task, for the seeds that were run; '
        '"95 %" draws the seeds as well, the same ones for routers with equally many. It is the wider one as a rule, and every verdict below is by it; five seeds show '
        "a little less than their whole spread.",
        "The recipes are those of train_scripts/baselines.sh. Within one, all routers learn from the same rows and targets: `frozen` from the scores, as the paper does; `tuned` from "
        "right or wrong, averaged over the rows of a task. RouterDC, CosineClassifier and ZOOTER repeat the rows of a small task up to the number for each task, as the paper does, "
        "so that tasks weigh alike; the others see each row once, since a repeated row would be its own neighbour. `control` is no router, or one that knows what none can.",
    ]
    if any(entry["router"].endswith(SUFFIX) for entry in groups):
        parts.append(
            f'Rows named "{SUFFIX.removeprefix(", ")}" read the query embeddings of a trained router in place of the '
            "pre-trained encoder's: in train_scripts/baselines.sh the RouterDC of their recipe and seed, whose "
            "training rows are theirs. LoraRetriever then clusters in that space. As released it routes with a trained "
            "encoder, too; how that one was trained is not stated."
        )
    if not any(entry["router"] == "Voting" for entry in groups):
        parts.append(
            "Voting cannot be computed from the released files: they have scores, and not the answers that would be counted. The paper reports "
            f"{PAPER_AVERAGE['Voting'][0]:.2f} in and {PAPER_AVERAGE['Voting'][1]:.2f} out of distribution."
            if result["of_paper"]
            else "Voting is not among these runs: `python -m utils.baselines --routers voting --answers DIR` adds it where the LLMs' answers are kept."
        )
    paper = {task.name: place for place, task in enumerate(TASKS)}
    for side, tasks in sides.items():
        rows = [
            [
                label_of(e),
                *[spread(e["tasks"][t]["per_seed"]) for t in tasks],
                spread(e[side]["per_seed"]),
                bracket(e[side]["interval"]),
                bracket(e[side]["interval_with_seeds"]),
                str(len(e["seeds"])),
            ]
            for e in groups
        ]
        if ceilings := {t: value for t, value in result.get("ceilings", {}).items() if t in tasks}:
            rows.append([CEILING, *accuracy_cells(ceilings, tasks), "", "", ""])
        if result["order"]:
            rows += [
                [
                    f"{name} (paper)",
                    *[f"{PAPER[name][paper[t]]:.2f}" for t in tasks],
                    f"{PAPER_AVERAGE[name][SIDES.index(side)]:.2f}",
                    "",
                    "",
                    "",
                ]
                for name in ORDER
            ]
        parts += [
            f"## {titles[side]}",
            markdown(["", *map(title_of, tasks), "Avg", "95 %, queries", "95 %", "seeds"], rows),
        ]
    cells = {"id": "ID avg", "ood": "OOD avg"}
    rows = [
        [
            label_of(e),
            *[
                c
                for s in sides
                for c in (
                    f"{e[s]['difference']:+.2f}",
                    bracket(e[s]["difference_interval_with_seeds"], "+"),
                    f"{e[s]['p']:.4f}",
                )
            ],
        ]
        for e in groups
    ]
    parts += [
        f"## Paired differences to RouterDC, {result['against']} (points)",
        "On the same queries, seeds drawn as well. p: two-sided, from random flips of the signs of the per-query differences of the means over the seeds; neither for the seeds nor corrected for the number of rows.",
        markdown(["", *[c for s in sides for c in (cells[s], "95 %", "p")]], rows),
    ]
    tasks = [task for part in sides.values() for task in part]
    rows = [[label_of(e), *[f"{e['right_when_possible'][t]:.1f}" for t in tasks]] for e in groups]
    answerable = [
        "*queries that some LLM gets right*",
        *[f"{result['answerable'][t]} of {result['queries'][t]}" for t in tasks],
    ]
    parts += [
        "## How often the routed LLM is right when some LLM is (%)",
        "Of tasks with several answers per query: the mean share of right answers, over the queries where some LLM has a right one.",
        markdown(["", *map(title_of, tasks)], [*rows, answerable]),
    ]
    if result["order"]:
        parts += [
            "## The paper's ordering",
            "Pairs in the paper's order: its difference of averages and ours, all routers of a row's recipe. *agrees*: the interval is above 0, "
            "*contradicts*: below 0, *open*: it holds 0.",
        ]
        for recipe in dict.fromkeys(pair["recipe"] for pair in result["order"]):
            pairs = [pair for pair in result["order"] if pair["recipe"] == recipe]
            counts = ", ".join(
                f"{sum(pair['verdict'] == verdict for pair in pairs)} {word}"
                for verdict, word in (("agrees", "agree"), ("open", "open"), ("contradicts", "contradict"))
            )
            rows = [
                [
                    f"{p['above']} > {p['below']}",
                    cells[p["side"]],
                    f"{p['paper']:+.2f}",
                    f"{p['ours']:+.2f}",
                    bracket(p["interval"], "+"),
                    p["verdict"],
                ]
                for p in pairs
            ]
            few = [e["router"] for e in groups if e["recipe"] == recipe and len(e["seeds"]) == 1]
            note = f" (one seed of {', '.join(few)}: there the interval is over queries alone)" if few else ""
            parts += [
                f"Recipe `{recipe}`: {counts}{note}",
                markdown(["pair", "average", "paper", "ours", "95 %", "verdict"], rows),
            ]
    parts.append("## Routing share of each LLM (%), mean over the seeds")
    for task in tasks:
        rows = [
            [label_of(e), *[f"{e['shares'][task][llm]:.1f}" for llm in result["llms"]]] for e in groups if e["shares"]
        ]
        parts += [f"### {title_of(task)}", markdown(["", *map(short, result["llms"])], rows)]
    return "\n\n".join(parts) + "\n"
