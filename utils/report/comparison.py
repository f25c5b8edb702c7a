"""Compare routers query by query: accuracy with intervals, paired differences, routing shares, the paper's ordering.

Used by `python -m utils.report --compare RUNS`, which writes the figures to results/comparison.json. It needs what each
run picked for each query (`picks.json` beside its results.json), and the test files that were read.
"""

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import RoutingData, gains
from ..files import read_json
from ..meters import bar
from ..metrics import best_single, references
from ..tasks import LLMS, PAPER_AVERAGE, TASKS, short_names
from .runs import Run, reopen_tests, row_label, runs_below, seed_groups
from .statistics import RESAMPLES, bootstrap, interval, right_when_possible, seed_weights, sign_flip

SIDES = ("id", "ood")  # in the order of PAPER_AVERAGE
ORDER = ("RouterDC", "LoraRetriever", "Voting", "CosineClassifier", "ZOOTER")  # the routers of the paper
SINGLE = "single LLM, best on test"  # in place of a label
ROUTER = "RouterDC"  # the router that others are compared to


@dataclass
class Group:
    """Runs that differ in the seed alone.

    recipe: their label. gains: for each task what they earned, (S, N) in [0, 1]. shares: {task: {llm: %}}, means over
    the seeds; empty if a run has none.
    """

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


# What the runs picked


def collect(folders: Iterable[str]) -> tuple[list[Group], list[RoutingData], list[str]]:
    """Groups of the runs at or below the folders, their test data, and the tasks in distribution.

    Runs without picks, and runs on other test files than the first one with picks, are counted on stderr and left out.
    Raises: ValueError for a folder without runs, where no run has picks, or for two runs of a group with one seed;
    DataError if a test file has changed since.
    """
    runs = comparable_runs(folders)
    tests = reopen_tests(runs[0])
    groups = []
    for key, members in seed_groups(runs).items():
        seeds = [run.seed for run in members]
        earned = {data.task: np.stack([gains_of(run, data) for run in members]) for data in tests}
        groups.append(Group(*key, seeds, earned, mean_shares(members, tests)))
    return groups, tests, runs[0].results["test"]["in_distribution"]


def comparable_runs(folders: Iterable[str]) -> list[Run]:
    """The runs at or below the folders that have picks and were tested on the files of the first of them."""
    runs = runs_below(folders)
    with_picks = [run for run in runs if (run.folder / "picks.json").is_file() or (run.folder / "gains.json").is_file()]
    if not with_picks:
        raise ValueError(
            f"{' '.join(map(str, folders))}: no run there has picks.json, what was picked for each query; "
            "train again with --overwrite"
        )
    wanted = what_was_read(with_picks[0])
    comparable = [run for run in with_picks if what_was_read(run) == wanted]
    left_out = {
        "without picks.json": len(runs) - len(with_picks),
        f"tested on other files than {comparable[0].folder}": len(with_picks) - len(comparable),
    }
    for reason, count in left_out.items():
        if count:
            print(f"left out: {count} runs {reason}", file=sys.stderr)
    return comparable


def what_was_read(run: Run) -> tuple[list[str], list[str]]:
    """The test files, by content and kind, and the LLMs of a run: runs that differ here cannot be compared."""
    sha256 = run.settings["data"]
    files = [sha256[entry["path"]] + entry["kind"] for entry in run.results["tests"]]
    return sorted(files), sorted(run.results["test"]["llms"])


def gains_of(run: Run, data: RoutingData) -> np.ndarray:
    """What a run earned on each query of a task, (N,). Raises: ValueError if its picks are not for these queries.

    The picks are columns of the run's own order of the LLMs. A run that asks all LLMs (Voting) has gains.json instead.
    """
    picked = (run.folder / "picks.json").is_file()
    path = run.folder / ("picks.json" if picked else "gains.json")
    values = read_json(path, "run it again", [data.task])[data.task]
    are_numbers = isinstance(values, list) and all(isinstance(value, int if picked else float) for value in values)
    if not are_numbers or (picked and not set(values) <= set(range(len(data.llms)))):
        raise ValueError(f"{path}: damaged, {data.task} has values that no run writes; run it again")
    values = np.array(values)
    if len(values) != len(data):
        raise ValueError(
            f"{run.folder}: picks for {len(values)} queries of {data.task}, {data.path} has {len(data)}; "
            "the run is damaged, run it again"
        )
    if not picked:
        return values
    columns = np.array([data.llms.index(llm) for llm in run.results["test"]["llms"]])
    earned = gains(data.scores, data.kind)  # (N, T)
    return earned[np.arange(len(values)), columns[values]].astype(np.float64)


def mean_shares(runs: Sequence[Run], tests: Sequence[RoutingData]) -> dict[str, dict[str, float]]:
    """The routing shares in % of runs, {task: {llm: mean}}; nothing if one of them has none."""
    shares = [run.results["test"].get("shares") for run in runs]
    if None in shares:
        return {}
    means: dict[str, dict[str, float]] = {}
    for data in tests:
        means[data.task] = {llm: float(np.mean([share[data.task][llm] for share in shares])) for llm in data.llms}
    return means


def single(llm: str, tests: Sequence[RoutingData]) -> Group:
    """One LLM for every query, as a group."""
    column = tests[0].llms.index(llm)
    values = {data.task: gains(data.scores, data.kind)[None, :, column].astype(np.float64) for data in tests}
    return Group(short_names(tests[0].llms)[llm], "none", SINGLE, "paper", [0], values, {})


# The comparison


@dataclass
class Draws:
    """Bootstrap draws of groups, in %. By side (B, groups) except where another shape is given.

    tasks: (B, tasks, groups), of the mean over the seeds. queries: of the average over tasks, queries drawn alone.
    seeds: of that average, queries and seeds drawn. p: two-sided p-values, (groups,).
    """

    tasks: np.ndarray
    queries: dict[str, np.ndarray]
    seeds: dict[str, np.ndarray]
    p: dict[str, np.ndarray]


def ends(draws: np.ndarray) -> list[float]:
    """The 95 % interval of draws (B,), as [low, high]."""
    return [round(float(value), 4) for value in interval(draws)]


def columns_of(groups: Sequence[Group]) -> list[slice]:
    """Where the runs of each group are among the runs of all."""
    columns, start = [], 0
    for group in groups:
        columns.append(slice(start, start + len(group.seeds)))
        start += len(group.seeds)
    return columns


def means_of_groups(by_run: np.ndarray, columns: Sequence[slice]) -> np.ndarray:
    """What each group earned in the mean over its seeds: (N, runs) -> (N, groups)."""
    return np.stack([by_run[:, runs].mean(axis=1) for runs in columns], axis=1)


def draw_seeds(by_run: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    """Weigh the runs of each group as bootstrap samples of its seeds do: (B, runs) -> (B, groups)."""
    weighed = []
    for group, runs in zip(groups, columns_of(groups)):
        weighed.append((by_run[:, runs] * seed_weights(group.seeds, len(by_run))).sum(axis=1))
    return np.stack(weighed, axis=1)


def draw(
    groups: Sequence[Group], tasks: Sequence[str], sides: Mapping[str, Sequence[str]], base: int, resamples: int
) -> Draws:
    """Draw queries and seeds of all groups. base: the number of the group that differences are to."""
    columns = columns_of(groups)
    earned = [100 * np.concatenate([group.gains[task] for group in groups]).T for task in tasks]  # (N, runs) each
    with bar(resamples * len(tasks), "bootstrap", "sample") as progress:
        draws = bootstrap(earned, resamples, progress=progress)  # (B, tasks, runs)
    means = np.stack([draws[..., runs].mean(axis=2) for runs in columns], axis=-1)  # (B, tasks, groups)
    by_query = [means_of_groups(by_run, columns) for by_run in earned]  # (N, groups) each

    draws_of_sides = Draws(means, {}, {}, {})
    for side, names in sides.items():
        numbers = [list(tasks).index(task) for task in names]
        draws_of_sides.queries[side] = means[:, numbers].mean(axis=1)
        draws_of_sides.seeds[side] = draw_seeds(draws[:, numbers].mean(axis=1), groups)
        gaps = [by_query[number] - by_query[number][:, [base]] for number in numbers]
        draws_of_sides.p[side] = sign_flip(gaps, resamples)
    return draws_of_sides


def base_of(groups: Sequence[Group], against: str) -> int:
    """The number of the RouterDC with this label and fidelity "paper".

    Raises: ValueError if it is not there once.
    """
    wanted = (ROUTER, against, "paper")
    numbers = [number for number, group in enumerate(groups) if (group.router, group.recipe, group.fidelity) == wanted]
    if len(numbers) != 1:
        labels = sorted({group.recipe for group in groups if group.router == ROUTER})
        raise ValueError(
            f"--against {against}: {len(numbers)} groups of RouterDC have this label; it must be one of "
            f"{', '.join(labels) or 'none: there is no RouterDC'}"
        )
    return numbers[0]


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
        against: the label of the RouterDC that differences are to; its group must be there, with fidelity "paper".
    Raises: ValueError if it is not.
    """
    tasks = [data.task for data in tests]
    llm = best_single(references(tests), tests[0].llms, [task for task in tasks if task in inside] or tasks)
    groups = sorted([*groups, single(llm, tests)], key=sort_key)
    base = base_of(groups, against)
    sides = {"id": [task for task in tasks if task in inside], "ood": [task for task in tasks if task not in inside]}
    sides = {side: names for side, names in sides.items() if names}
    draws = draw(groups, tasks, sides, base, resamples)

    best = {data.task: gains(data.scores, data.kind).max(axis=1) for data in tests}
    of_paper = set(tasks) == {task.name for task in TASKS} and set(tests[0].llms) == set(LLMS)
    return {
        "against": against,
        "resamples": resamples,
        "sides": sides,
        "llms": list(tests[0].llms),
        "queries": {data.task: len(data) for data in tests},
        "answerable": {task: int((values > 0).sum()) for task, values in best.items()},
        "of_paper": of_paper,
        "groups": [entry_of(groups, number, base, sides, draws, best) for number in range(len(groups))],
        "order": order(groups, draws.seeds, llm) if of_paper else [],
    }


def label_of(entry: Mapping[str, Any]) -> str:
    """The row of a group: its router and label, and its fidelity where that is not the paper's."""
    return row_label(entry["router"], entry["recipe"], fidelity=entry["fidelity"])


def sort_key(group: Group) -> tuple[str, bool, str]:
    """Groups of one label stand together, RouterDC first."""
    return group.recipe, group.router != ROUTER, label_of(vars(group))


def entry_of(
    groups: Sequence[Group],
    number: int,
    base: int,
    sides: Mapping[str, Sequence[str]],
    draws: Draws,
    best: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """The figures of group `number`. best: for each task the most that an LLM earns on each query, (N,)."""
    group = groups[number]
    entry: dict[str, Any] = {
        "router": group.router,
        "encoder": group.encoder,
        "recipe": group.recipe,
        "fidelity": group.fidelity,
        "seeds": group.seeds,
        "tasks": {},
    }
    for position, task in enumerate(best):
        per_seed = (100 * group.gains[task].mean(axis=1)).round(4).tolist()
        entry["tasks"][task] = {"per_seed": per_seed, "interval": ends(draws.tasks[:, position, number])}
    for side, tasks in sides.items():
        queries, seeds = draws.queries[side], draws.seeds[side]
        difference = float(group.average(tasks).mean() - groups[base].average(tasks).mean())
        entry[side] = {
            "per_seed": group.average(tasks).round(4).tolist(),
            "interval": ends(queries[:, number]),
            "interval_with_seeds": ends(seeds[:, number]),
            "difference": round(difference, 4),
            "difference_interval": ends(queries[:, number] - queries[:, base]),
            "difference_interval_with_seeds": ends(seeds[:, number] - seeds[:, base]),
            "p": round(float(draws.p[side][number]), 5),
        }
    entry["shares"] = {}
    for task, shares in group.shares.items():
        entry["shares"][task] = {llm: round(value, 2) for llm, value in shares.items()}
    entry["right_when_possible"] = {}
    for task, possible in best.items():
        entry["right_when_possible"][task] = round(right_when_possible(group.gains[task], possible), 4)
    return entry


# The paper's ordering


def order(groups: Sequence[Group], draws: Mapping[str, np.ndarray], llm: str) -> list[dict[str, Any]]:
    """The paper's ordering against ours: pairs of its routers and its best single LLM, within each label of RouterDC.

    A pair agrees if the interval of our difference lies on the paper's side of 0, contradicts if on the other, and is
    open if it holds 0. Pairs that the runs lack, such as those with Voting, are left out.

    Args:
        draws: {side: bootstrap draws (B, groups)} of queries and seeds.
        llm: the best single LLM.
    """
    printed = {name: PAPER_AVERAGE[name] for name in ORDER}
    printed[short_names(LLMS)[llm]] = PAPER_AVERAGE[llm]
    ours = [group for group in groups if group.router == ROUTER and group.fidelity == "paper"]
    pairs = []
    for label, encoder in sorted({(group.recipe, group.encoder) for group in ours}):
        wanted = {}
        for number, group in enumerate(groups):
            alike = (group.recipe, group.encoder, group.fidelity) == (label, encoder, "paper")
            if alike or group.recipe in (SINGLE, "voting"):
                wanted[group.router] = number
        names = [name for name in printed if name in wanted]
        for side, (first, second) in itertools.product(SIDES, itertools.combinations(names, 2)):
            averages = {name: printed[name][SIDES.index(side)] for name in (first, second)}
            above, below = (first, second) if averages[first] > averages[second] else (second, first)
            pair = {"recipe": label, "encoder": encoder, "side": side, "above": above, "below": below}
            pair["paper"] = round(averages[above] - averages[below], 2)
            pairs.append(pair | our_order(groups, wanted[above], wanted[below], side, draws[side]))
    return pairs


def our_order(groups: Sequence[Group], above: int, below: int, side: str, draws: np.ndarray) -> dict[str, Any]:
    """Our difference of two groups, which the paper has in this order, its interval and the verdict."""
    tasks = [task.name for task in TASKS if task.in_distribution == (side == "id")]
    difference = float(groups[above].average(tasks).mean() - groups[below].average(tasks).mean())
    low, high = ends(draws[:, above] - draws[:, below])
    verdict = "agrees" if low > 0 else "contradicts" if high < 0 else "open"
    return {"ours": round(difference, 4), "interval": [low, high], "verdict": verdict}
