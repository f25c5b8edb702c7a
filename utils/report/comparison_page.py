"""results/comparison.md from the figures of utils/report/comparison.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..baselines.trained_encoder import SUFFIX
from ..metrics import CEILING
from ..tables import bracket, cells_and_mean, markdown, paper_cells, score_table, spread
from ..tasks import PAPER_AVERAGE, short_names, title_of
from .comparison import ORDER, label_of

TITLES = {"id": "Table 1: in-distribution", "ood": "Table 2: out-of-distribution"}
AVERAGES = {"id": "ID avg", "ood": "OOD avg"}
VERDICTS = {"agrees": "agree", "open": "open", "contradicts": "contradict"}

ABOUT = """\
Made by `{command}` from what each run picked, query by query. Testing accuracy in %, mean ± standard deviation over \
the seeds; averages are over tasks. In brackets: 95 % percentile intervals of {resamples} bootstrap samples. "95 %, \
queries" draws the queries alone, within each task, for the seeds that were run; "95 %" draws the seeds as well, the \
same ones for routers with equally many. It is the wider one as a rule, and every verdict below is by it; five seeds \
show a little less than their whole spread."""
RECIPES = """\
The recipes are those of train_scripts/baselines.sh. Within one, all routers learn from the same rows and targets: \
`frozen` from the scores, as the paper does; `tuned` from right or wrong, averaged over the rows of a task. RouterDC, \
CosineClassifier and ZOOTER repeat the rows of a small task up to the number for each task, as the paper does, so that \
tasks weigh alike; the others see each row once, since a repeated row would be its own neighbour. `control` is no \
router, or one that knows what none can."""
TRAINED_ENCODER = """\
Rows named "{name}" read the query embeddings of a trained router in place of the pre-trained encoder's: in \
train_scripts/baselines.sh the RouterDC of their recipe and seed, whose training rows are theirs. LoraRetriever then \
clusters in that space. As released it routes with a trained encoder, too; how that one was trained is not stated."""
NO_VOTING_OF_PAPER = """\
Voting cannot be computed from the released files: they have scores, and not the answers that would be counted. The \
paper reports {inside:.2f} in and {outside:.2f} out of distribution."""
NO_VOTING = """\
Voting is not among these runs: `python -m utils.baselines --routers voting --answers DIR` adds it where the LLMs' \
answers are kept."""
ABOUT_DIFFERENCES = """\
On the same queries, seeds drawn as well. p: two-sided, from random flips of the signs of the per-query differences of \
the means over the seeds; neither for the seeds nor corrected for the number of rows."""
ABOUT_RIGHT = """\
Of tasks with several answers per query: the mean share of right answers, over the queries where some LLM has a right \
one."""
ABOUT_ORDER = """\
Pairs in the paper's order: its difference of averages and ours, all routers of a row's recipe. *agrees*: the interval \
is above 0, *contradicts*: below 0, *open*: it holds 0."""


def page(result: Mapping[str, Any], command: str) -> str:
    """results/comparison.md. result: of `utils.report.comparison.compare`, with "ceilings" where some are known."""
    paragraphs = ["# Comparison of the routers", *introduction(result, command)]
    for side in result["sides"]:
        paragraphs += [f"## {TITLES[side]}", accuracy_table(result, side)]
    paragraphs += [f"## Paired differences to RouterDC, {result['against']} (points)", ABOUT_DIFFERENCES]
    paragraphs += [differences_table(result)]
    paragraphs += ["## How often the routed LLM is right when some LLM is (%)", ABOUT_RIGHT, right_table(result)]
    if result["order"]:
        paragraphs += ["## The paper's ordering", ABOUT_ORDER, *order_tables(result)]
    paragraphs += ["## Routing share of each LLM (%), mean over the seeds", *share_tables(result)]
    return "\n\n".join(paragraphs) + "\n"


def introduction(result: Mapping[str, Any], command: str) -> list[str]:
    """How the page was made, and what its rows are."""
    routers = [entry["router"] for entry in result["groups"]]
    paragraphs = [ABOUT.format(command=command, resamples=result["resamples"]), RECIPES]
    if any(router.endswith(SUFFIX) for router in routers):
        paragraphs.append(TRAINED_ENCODER.format(name=SUFFIX.removeprefix(", ")))
    if "Voting" not in routers:
        inside, outside = PAPER_AVERAGE["Voting"]
        of_paper = NO_VOTING_OF_PAPER.format(inside=inside, outside=outside)
        paragraphs.append(of_paper if result["of_paper"] else NO_VOTING)
    return paragraphs


def all_tasks(result: Mapping[str, Any]) -> list[str]:
    """The tasks of both sides."""
    return [task for tasks in result["sides"].values() for task in tasks]


def accuracy_table(result: Mapping[str, Any], side: str) -> str:
    """Table 1 or Table 2: every group with both intervals, the learnable ceiling, and the paper's routers."""
    tasks, rows = result["sides"][side], []
    for entry in result["groups"]:
        figures = entry[side]
        intervals = [bracket(figures["interval"]), bracket(figures["interval_with_seeds"])]
        cells = [spread(entry["tasks"][task]["per_seed"]) for task in tasks]
        rows.append([label_of(entry), *cells, spread(figures["per_seed"]), *intervals, str(len(entry["seeds"]))])
    blank = [""] * 3
    ceilings = {task: value for task, value in result.get("ceilings", {}).items() if task in tasks}
    if ceilings:
        rows.append([CEILING, *cells_and_mean(ceilings, tasks), *blank])
    if result["order"]:
        rows += [[f"{name} (paper)", *paper_cells(name, tasks, side == "id"), *blank] for name in ORDER]
    return score_table(tasks, rows, ["95 %, queries", "95 %", "seeds"])


def differences_table(result: Mapping[str, Any]) -> str:
    """Differences of averages to the RouterDC that the comparison is against, with intervals and p-values."""
    header, rows = [""], []
    for side in result["sides"]:
        header += [AVERAGES[side], "95 %", "p"]
    for entry in result["groups"]:
        cells = []
        for side in result["sides"]:
            figures = entry[side]
            interval = bracket(figures["difference_interval_with_seeds"], "+")
            cells += [f"{figures['difference']:+.2f}", interval, f"{figures['p']:.4f}"]
        rows.append([label_of(entry), *cells])
    return markdown(header, rows)


def right_table(result: Mapping[str, Any]) -> str:
    """How often each group is right when some LLM is, and for how many queries that is so."""
    tasks, rows = all_tasks(result), []
    for entry in result["groups"]:
        rows.append([label_of(entry), *[f"{entry['right_when_possible'][task]:.1f}" for task in tasks]])
    counts = [f"{result['answerable'][task]} of {result['queries'][task]}" for task in tasks]
    rows.append(["*queries that some LLM gets right*", *counts])
    return markdown(["", *map(title_of, tasks)], rows)


def order_tables(result: Mapping[str, Any]) -> list[str]:
    """For each label, how many pairs agree with the paper's ordering, and every pair."""
    paragraphs = []
    for label in dict.fromkeys(pair["recipe"] for pair in result["order"]):
        pairs = [pair for pair in result["order"] if pair["recipe"] == label]
        counts = []
        for verdict, words in VERDICTS.items():
            counts.append(f"{sum(pair['verdict'] == verdict for pair in pairs)} {words}")
        groups = [entry for entry in result["groups"] if entry["recipe"] == label]
        once = [entry["router"] for entry in groups if len(entry["seeds"]) == 1]
        note = f" (one seed of {', '.join(once)}: there the interval is over queries alone)" if once else ""
        paragraphs += [f"Recipe `{label}`: {', '.join(counts)}{note}", order_table(pairs)]
    return paragraphs


def order_table(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The paper's difference and ours for each pair."""
    rows = []
    for pair in pairs:
        names, interval = f"{pair['above']} > {pair['below']}", bracket(pair["interval"], "+")
        differences = [f"{pair['paper']:+.2f}", f"{pair['ours']:+.2f}"]
        rows.append([names, AVERAGES[pair["side"]], *differences, interval, pair["verdict"]])
    return markdown(["pair", "average", "paper", "ours", "95 %", "verdict"], rows)


def share_tables(result: Mapping[str, Any]) -> list[str]:
    """For each task, which share of its queries each group sends to each LLM."""
    names, paragraphs = short_names(result["llms"]), []
    for task in all_tasks(result):
        rows = []
        for entry in result["groups"]:
            if entry["shares"]:
                rows.append([label_of(entry), *[f"{entry['shares'][task][llm]:.1f}" for llm in names]])
        paragraphs += [f"### {title_of(task)}", markdown(["", *names.values()], rows)]
    return paragraphs
