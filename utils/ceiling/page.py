"""results/ceiling.md: what was found, each claim with its interval, and how it was found."""

from collections.abc import Mapping, Sequence
from typing import Any

from utils.ceiling.crossval import BEST, FOLDS, INNER
from utils.ceiling.features import FEATURES
from utils.ceiling.fine_tuned import FineTuned
from utils.ceiling.learners import Constant
from utils.evaluate import markdown
from utils.tasks import short, title_of

PAGE = "ceiling.md"
EARLIER = {  # points, by ridge and kNN on frozen MiniLM embeddings, by another hand; it came without seeds and intervals
    "mmlu": 0.0, "cmmlu": 0.15, "gsm8k": 0.0, "arc_challenge": 0.0, "mbpp": 0.1, "ceval": 0.0, "arc_easy": 0.0, "math_prealgebra": 1.9,
}  # fmt: skip


def label(record: Mapping[str, Any]) -> str:
    """The task's title, with the data set where that is not the paper's."""
    return title_of(record["task"]) + (" (RouterBench)" if record["dataset"] == "routerbench" else "")


def span(figures: Mapping[str, float] | None, sign: str = "+") -> str:
    """Mean and interval as text, "-" where there is none."""
    if figures is None:
        return "-"
    mean = figures["mean"] if "mean" in figures else figures["accuracy"]
    return f"{mean:{sign}.2f} [{figures['low']:{sign}.2f}, {figures['high']:{sign}.2f}]"


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The main table: best LLM, ceiling, both gains of the best learner, oracle, and the share of the head-room that is learnable."""
    rows = []
    for record in records:
        share = record.get("learnable_share")
        rows.append([
            label(record), str(record["queries"]), short(record["best_llm"]), f"{record['best_accuracy']:.2f}", span(record["ceiling"], ""),
            span(record["gain"][BEST]["against_best_of_all_rows"]), span(record["gain"][BEST]), f"{record['oracle']:.2f}", f"{record['headroom']:.2f}", span(share),
        ])  # fmt: skip
    header = [
        "", "queries", "best LLM", "its accuracy", "learnable ceiling", "its gain over that LLM", "gain over the best LLM of the same folds", "oracle", "head-room",
        "learnable share (%)",
    ]  # fmt: skip
    return markdown(header, rows)


def learners_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The gain of each learner over the LLM that is best on the same training folds, and what was measured before."""
    names = list(dict.fromkeys(name for record in records for name in record["gain"] if name not in (Constant.name, BEST)))
    rows = []
    for record in records:
        gain = record["gain"]
        earlier = EARLIER.get(record["task"]) if record["dataset"] == "paper" else None
        cells = [span(gain.get(name)) for name in (*names, BEST)]
        cells.append("-" if earlier is None else f"{earlier:+.2f}")
        rows.append([label(record), *cells])
    return markdown(["", *names, BEST, "measured before"], rows)


def exchanged_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The learners of the curve with their own texts and with those of other queries: both gains of each."""
    rows = []
    for record in records:
        if record["exchanged"]:
            points = (record["curve"][-1], record["exchanged"])
            rows.append([label(record), *[cell for point in points for cell in (span(point), span(point["against_best_of_all_rows"]))]])
    header = ["", "gain, same folds", "gain, all rows", "texts exchanged: same folds", "texts exchanged: all rows"]
    return markdown(header, rows)


def chosen_table(records: Sequence[Mapping[str, Any]]) -> str:
    """How often each learner was chosen, of all (seed, fold), and the range of the gain over the seeds."""
    rows = []
    for record in records:
        best = record["gain"][BEST]
        often = sorted(best["chosen"].items(), key=lambda item: -item[1])
        rows.append([label(record), ", ".join(f"{name} {count}" for name, count in often), f"{min(best['by_seed']):+.2f} to {max(best['by_seed']):+.2f}"])
    return markdown(["", "chosen by the inner folds", "over the seeds"], rows)


def repeats_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Points over the task's best LLM: the oracle with all answers, with half of them, what repeats, and which share of it."""
    rows = []
    for record in records:
        found = record["repeats"]
        if found:
            names = ("oracle", "in_sample", "repeats", "repeats_ranked", "share", "share_of_oracle")
            rows.append([label(record), str(found["answers"]), *[span(found.get(name)) for name in names], span(record["gain"][BEST]["against_best_of_all_rows"])])
    header = [
        "", "answers", "oracle of all answers", "oracle of one half, in sample", "that pick in the other half", "the same, equals to the better LLM",
        "share (%) of one half's oracle", "share (%) of the oracle", "learnable from the text",
    ]  # fmt: skip
    return markdown(header, rows)


def curve_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The gain by the number of labelled queries, and in brackets against the best LLM of all rows."""
    sizes = sorted({point["labelled"] for record in records for point in record["curve"]} - {"all"}, key=int)
    rows = []
    for record in records:
        points = {point["labelled"]: point for point in record["curve"]}
        if points:
            cells = [f"{span(points[size])} ({points[size]['against_best_of_all_rows']['mean']:+.2f})" if size in points else "-" for size in (*sizes, "all")]
            rows.append([label(record), *cells])
    return markdown(["", *sizes, "all of four folds"], rows)


def _listed(pairs: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    return "; ".join(f"{name} {span(figures)}" for name, figures in pairs) or "none"


def _sorted(pairs: Sequence[tuple[str, Mapping[str, float]]]) -> tuple[str, str, str]:
    """The pairs whose interval lies above 0, around it, and below it, as text."""
    above = [pair for pair in pairs if pair[1]["low"] > 0]
    below = [pair for pair in pairs if pair[1]["high"] < 0]
    around = [pair for pair in pairs if pair not in (*above, *below)]
    return _listed(above), _listed(around), _listed(below)


def findings(records: Sequence[Mapping[str, Any]]) -> str:
    """What the figures say, each with its interval."""
    lines = []
    for what, key in (("that is best on all rows", "against_best_of_all_rows"), ("that is best on the same folds", None)):
        pairs = [(label(record), record["gain"][BEST][key] if key else record["gain"][BEST]) for record in records]
        above, around, below = _sorted(pairs)
        lines.append(f"- Over the LLM {what}: a gain above 0 for {above}; a loss for {below}; not to be told from 0: {around}.")
    lines.append(f"- {len(records)} files with an interval of 95 % each: one in twenty lies beside the truth by chance.")
    repeated = [record for record in records if record["repeats"] and "share" in record["repeats"]]
    for record in repeated:
        found = record["repeats"]
        lines.append(
            f"- {label(record)}: of the {found['oracle']['mean']:.2f} points between the best LLM and the oracle, {span(found['repeats_ranked'])} repeat for one who has seen half of "
            f"every LLM's answers to that very query. From the text, {span(record['gain'][BEST]['against_best_of_all_rows'])} are learned."
        )
    return "\n".join(lines)


def method() -> str:
    """How it was measured, for the reader of the page."""
    return "\n\n".join([
        f"**Gain.** Each file is cut into {FOLDS} folds of its own rows, by a hash of the question. A learner is fitted on four folds and picks an LLM for each query of the fifth. "
        "Labels of a held-out row decide nothing about that row, so what the picks earn is not optimistic. "
        f"Settings, and which learner, are chosen by {INNER} folds within the four, always taking the best LLM being one candidate. Mean over the fold seeds; the interval is a "
        "bootstrap over queries of 95 %, with the fitted learners held fixed: another draw of training queries would vary more.",
        "**Over which LLM.** The gain over the LLM that is best on the same four folds compares two that know the same. Where two LLMs are nearly equal on a task, those folds "
        "prefer the one that happens to be worse on the fifth: the LLM of the same folds earns less than either, and a learner that merely mixes the two seems to gain. With texts "
        "exchanged (below) nothing can be learned, and what such a gain is worth is seen. The gain over the LLM that is best on all rows has not that fault, but that LLM "
        "was chosen on the rows it is scored on: this gain is too low, if anything. A claim that holds for both holds.",
        "**Ceiling.** What the cross-validated picks of the best learner earn: the accuracy of the LLM that is best on all rows plus the gain over it; its interval is the gain's. "
        "It is an estimate with these features and this many labels, not a bound: a better encoder or more labels may find more. "
        "A negative gain stays negative: to cut it off would make the estimate too high on average, so a ceiling may lie below the best LLM, which any router can always take. "
        "It has seen labels of the task itself, which no router in our tables has of a test task.",
        f"**Features.** The frozen encoder's embedding, and {len(FEATURES)} counts on the surface: {', '.join(FEATURES)}. Ridge and kNN choose between the embedding alone and both; "
        "boosting has both, with the embedding's main directions. The fine-tuned encoder reads the text.",
        "**What repeats.** A score of k of M answers is split into halves; answers are exchangeable, so the right ones in a half are hypergeometric given k, and the "
        "expectations are exact, over all halves. Equal LLMs are taken with the same chance, or the better one on the task first. The expected best LLM of each query lies "
        "between what repeats and the oracle in sample. What repeats is known only to one who has seen answers of every LLM to that query; what is learnable from the text is the gain above.",
        "**One answer per query.** Multiple choice, PreAlgebra and RouterBench have a single answer, for multiple choice a deterministic one. There, luck and skill of an LLM on a query cannot "
        "be told apart: an LLM that guesses among four options is right on a quarter of the queries, and the oracle counts each such hit. No share can be given. "
        "The answers of the miniature's LLMs could be drawn again, but its LLMs are not kept; that was left out.",
    ])  # fmt: skip


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """results/ceiling.md."""
    commands = list(dict.fromkeys(record["command"] for record in records))
    spent = [f"`{command}` ({sum(record['seconds'] for record in records if record['command'] == command):.0f} s)" for command in commands]
    seeds = sorted({seed for record in records for seed in record["seeds"]})
    curve_seeds = sorted({seed for record in records for seed in record["curve_seeds"]})
    encoders = ", ".join(sorted({record["encoder"] for record in records}))
    tuned = [f"{label(record)} (seeds {', '.join(map(str, record['gain'][FineTuned.name]['seeds']))})" for record in records if FineTuned.name in record["gain"]]
    parts = [
        "# What can be learned: a ceiling beside the oracle",
        f"Made by {'; '.join(spent)}; ceiling.json has every figure. Seconds are of one busy core, without embedding. Fold seeds: {', '.join(map(str, seeds))}; "
        f"of the learning curves: {', '.join(map(str, curve_seeds)) or 'none'}. Encoder: {encoders}. Fine-tuned for: {', '.join(tuned) or 'no task'}. All figures are in % or points.",
        "The oracle takes the LLM that earns most on each query, knowing the answers. These tables say how much of its head-room over the task's best LLM the queries' "
        "text gives away when the labels of the same task are there to learn from.",
        "## The ceiling", table(records),
        "## What it says", findings(records),
        "## Gain of each learner over always taking the best LLM (points)", learners_table(records),
        "\"Measured before\": by another hand, ridge and kNN on the same embeddings, without intervals.",
        chosen_table(records),
        "## The same method where nothing can be learned (points)", exchanged_table(records),
        "The learners of the learning curve, with each query's own text and with the texts of other queries of the task. Gains over the LLM of the same folds, and over the best of all rows.",
        "## What of the oracle repeats (points over the task's best LLM)", repeats_table(records),
    ]  # fmt: skip
    if any(record["curve"] for record in records):
        names = " and ".join(dict.fromkeys(name for record in records for name in record["curve_learners"]))
        parts += [
            "## Learning curves (points)",
            f"Gain by the number of labelled queries, with {names}, chosen within: over the best LLM of the same labelled queries; in brackets against the best LLM of all rows, "
            "which so few labels may not find.", curve_table(records), "![learning curves](figures/learning.png)",
        ]  # fmt: skip
    parts += ["![ceiling](figures/ceiling.png)", "## How", method()]
    return "\n\n".join(parts) + "\n"
