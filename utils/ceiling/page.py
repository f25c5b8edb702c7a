"""results/ceiling.md: what was found, each claim with its interval, and how it was found."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..tables import markdown
from ..tasks import LLMS, short, title_of
from .crossval import BEST, FOLDS, INNER
from .features import FEATURES
from .fine_tuned import FineTuned
from .learners import Constant

PAGE = "ceiling.md"
ALL_ROWS = "against_best_of_all_rows"  # the gain over the LLM that is best on all rows, in a record
EARLIER = {  # points, measured before with ridge and kNN on the same embeddings, without intervals
    "mmlu": 0.0,
    "cmmlu": 0.15,
    "gsm8k": 0.0,
    "arc_challenge": 0.0,
    "mbpp": 0.1,
    "ceval": 0.0,
    "arc_easy": 0.0,
    "math_prealgebra": 1.9,
}
NONE = "none"
SOURCE = """\
Made by {commands}.
ceiling.json has every figure. Seconds are of one core, shared with other work, without embedding.
Fold seeds: {seeds}.
Fold seeds of the learning curves: {curve_seeds}.
Encoder: {encoders}.
Fine-tuned for: {tuned}.
All figures are in % or points; in square brackets: 95 % intervals."""
PURPOSE = """\
The oracle takes the LLM that earns most on each query, knowing the answers. These tables say how much of its
head-room over the task's best LLM the queries' text gives away when the labels of the same task are there to learn
from."""
REPEATS_FINDING = """\
- {title}: of {room:.2f} points between the best LLM and the oracle, {repeats} repeat in
  other answers of the same LLMs to the same query. Learnable from the text: {gain}."""
ABOUT_EARLIER = '"Measured before": ridge and kNN on the same embeddings, without intervals.'
ABOUT_EXCHANGED = """\
The learners of the learning curve, with each query's own text and with the texts of other queries of the task.
Gains over the LLM of the same folds, and over the LLM that is best on all rows."""
ABOUT_CURVES = """\
Gain by the number of labelled queries, with {learners}, chosen within: over the best LLM of the same labelled
queries. In round brackets: over the best LLM of all rows, which so few labels may not find."""
METHOD = """\
**Gain.** Each file is cut into {folds} folds of its own rows, by a hash of the question. A learner is fitted on
four folds and picks an LLM for each query of the fifth. Labels of a held-out row decide nothing about that row, so
what the picks earn is not optimistic. Settings, and which learner, are chosen by {inner} folds within the four;
always taking the best LLM is one candidate. Figures are means over the fold seeds. Intervals are 95 % bootstraps
over queries, with the fitted learners held fixed: another draw of training queries would vary more.

**Over which LLM.** The gain over the LLM that is best on the same four folds compares two that know the same. Where
two LLMs are nearly equal on a task, those folds prefer the one that happens to be worse on the fifth. The LLM of
the same folds then earns less than either, and a learner that merely mixes the two seems to gain. With texts
exchanged nothing can be learned, and what such a gain is worth is seen. The gain over the LLM that is best on all
rows has not that fault. But that LLM was chosen on the rows it is scored on, so this gain is too low, if anything.
Believe what holds for both.

**Ceiling.** What the cross-validated picks of the best learner earn: the accuracy of the LLM that is best on all
rows plus the gain over it. Its interval is the gain's. It is an estimate with these features and this many labels,
not a bound: a better encoder or more labels may find more. A negative gain stays negative, since to cut it off
would make the estimate too high on average. So a ceiling may lie below the best LLM. It has seen labels of the task
itself, which no router in our tables has of a test task.

**Features.** The frozen encoder's embedding, and {count} counts on the surface: {features}. Ridge and kNN choose
between the embedding alone and both. Boosting has both, with the embedding's main directions. A fine-tuned encoder
reads the text; it has fold seeds of its own and is not among the learners that the best is chosen from.

**What repeats.** A score of k of M answers is split into halves. Answers are exchangeable, so the right ones in a
half are hypergeometric given k, and the expectations are exact, over all halves. Equal LLMs are taken with the same
chance, or the better one on the task first. The expected score of the best LLM of each query lies between what
repeats and the oracle in sample. What repeats is known only to one who has seen answers of every LLM to that very
query. What is learnable from the text is the gain above.

**One answer per query.** Multiple choice, PreAlgebra and RouterBench have a single answer, for multiple choice a
deterministic one. There, luck and skill of an LLM on a query cannot be told apart. An LLM that guesses among four
options is right on a quarter of the queries, and the oracle counts each such hit. So no share can be given. The
answers of the miniature's LLMs could be drawn again, but those LLMs are not kept; that was left out."""


def title_of_record(record: Mapping[str, Any]) -> str:
    """The task's title, with the data set where that is not the paper's."""
    return title_of(record["task"]) + (" (RouterBench)" if record["dataset"] == "routerbench" else "")


def span(figures: Mapping[str, float] | None, sign: str = "+") -> str:
    """Mean and interval as text, "-" where there is none."""
    if figures is None:
        return "-"
    mean = figures["mean"] if "mean" in figures else figures["accuracy"]
    low, high = figures["low"], figures["high"]
    return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def both(figures: Mapping[str, Any]) -> list[str]:
    """A gain over the LLM of the same folds, and over the one of all rows, as text."""
    return [span(figures), span(figures[ALL_ROWS])]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The main table: best LLM, ceiling, both gains of the best learner, oracle, learnable share of the head-room."""
    columns = {
        "": title_of_record,
        "queries": lambda record: str(record["queries"]),
        "best LLM": lambda record: short(record["best_llm"]),
        "its accuracy": lambda record: f"{record['best_accuracy']:.2f}",
        "learnable ceiling": lambda record: span(record["ceiling"], ""),
        "its gain over that LLM": lambda record: span(record["gain"][BEST][ALL_ROWS]),
        "gain over the best LLM of the same folds": lambda record: span(record["gain"][BEST]),
        "oracle": lambda record: f"{record['oracle']:.2f}",
        "head-room": lambda record: f"{record['headroom']:.2f}",
        "learnable share (%)": lambda record: span(record.get("learnable_share")),
    }
    rows = [[cell(record) for cell in columns.values()] for record in records]
    return markdown(list(columns), rows)


def earlier_of(record: Mapping[str, Any]) -> float | None:
    """What was measured before of a record's file, in points: of the paper's tasks with the paper's LLMs alone."""
    of_paper = record["dataset"] == "paper" and set(record["llms"]) == set(LLMS)
    return EARLIER.get(record["task"]) if of_paper else None


def learners_table(records: Sequence[Mapping[str, Any]], against: str | None) -> str:
    """The gain of each learner over the LLM of the same folds, or of ALL_ROWS, and what was measured before."""
    names = [name for record in records for name in record["gain"] if name not in (Constant.name, BEST)]
    names = [*dict.fromkeys(names), BEST]
    rows = []
    for record in records:
        gains = {name: figures[against] if against else figures for name, figures in record["gain"].items()}
        earlier = earlier_of(record)
        cells = [span(gains.get(name)) for name in names]
        rows.append([title_of_record(record), *cells, "-" if earlier is None else f"{earlier:+.2f}"])
    return markdown(["", *names, "measured before"], rows)


def exchanged_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The learners of the curve with their own texts and with those of other queries: both gains of each."""
    rows = []
    for record in records:
        if record["exchanged"]:
            rows.append([title_of_record(record), *both(record["curve"][-1]), *both(record["exchanged"])])
    header = ["gain, same folds", "gain, all rows", "texts exchanged: same folds", "texts exchanged: all rows"]
    return markdown(["", *header], rows)


def chosen_table(records: Sequence[Mapping[str, Any]]) -> str:
    """How often each learner was chosen, of all (seed, fold), and the range of the gain over the seeds."""
    rows = []
    for record in records:
        best = record["gain"][BEST]
        most_often_first = sorted(best["chosen"].items(), key=lambda item: -item[1])
        names = ", ".join(f"{name} {count}" for name, count in most_often_first)
        least, most = min(best["by_seed"]), max(best["by_seed"])
        rows.append([title_of_record(record), names, f"{least:+.2f} to {most:+.2f}"])
    return markdown(["", "chosen by the inner folds", "gain, same folds, over the seeds"], rows)


def repeats_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Points over the task's best LLM: the oracle with all answers and with half of them, what repeats, its share."""
    columns = {
        "oracle": "oracle of all answers",
        "in_sample": "oracle of one half, in sample",
        "repeats": "that pick in the other half",
        "repeats_ranked": "the same, equals to the better LLM",
        "share": "share (%) of one half's oracle",
        "share_of_oracle": "share (%) of the oracle",
    }
    rows = []
    for record in records:
        repeats = record["repeats"]
        if repeats:
            cells = [span(repeats.get(name)) for name in columns]
            rows.append(
                [title_of_record(record), str(repeats["answers"]), *cells, span(record["gain"][BEST][ALL_ROWS])]
            )
    return markdown(["", "answers", *columns.values(), "learnable from the text"], rows)


def curve_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The gain by the number of labelled queries, and in brackets against the best LLM of all rows."""
    sizes = {point["labelled"] for record in records for point in record["curve"]}
    sizes = [*sorted(sizes - {"all"}, key=int), "all"]
    rows = []
    for record in records:
        cells = {}
        for point in record["curve"]:
            over_all_rows = point[ALL_ROWS]["mean"]
            cells[point["labelled"]] = f"{span(point)} ({over_all_rows:+.2f})"
        if cells:
            rows.append([title_of_record(record), *[cells.get(size, "-") for size in sizes]])
    return markdown(["", *sizes[:-1], "all of four folds"], rows)


def _listed(pairs: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Pairs of a task and a gain as text."""
    return "; ".join(f"{name} {span(figures)}" for name, figures in pairs) or NONE


def _by_sign(pairs: Sequence[tuple[str, Mapping[str, float]]]) -> tuple[str, str, str]:
    """The pairs whose interval lies above 0, below it, and around it, as text."""
    above = [pair for pair in pairs if pair[1]["low"] > 0]
    below = [pair for pair in pairs if pair[1]["high"] < 0]
    around = [pair for pair in pairs if pair not in (*above, *below)]
    return _listed(above), _listed(below), _listed(around)


def against_earlier(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the earlier measurement lies against the interval of the gain over the LLM of all rows."""
    inside, outside = [], []
    for record in records:
        earlier = earlier_of(record)
        if earlier is not None:
            gain = record["gain"][BEST][ALL_ROWS]
            words = f"{title_of_record(record)} {earlier:+.2f} (here {span(gain)})"
            side = inside if gain["low"] <= earlier <= gain["high"] else outside
            side.append(words)
    if not inside and not outside:
        return []
    return [
        f"- What another hand measured before lies in the first gain's interval for {'; '.join(inside) or 'none'}.",
        f"  It does not for {'; '.join(outside) or 'none'}.",
    ]


def gain_findings(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of which tasks the gain is above 0, below it, or neither: for both gains."""
    of_all_rows = [(title_of_record(record), record["gain"][BEST][ALL_ROWS]) for record in records]
    of_same_folds = [(title_of_record(record), record["gain"][BEST]) for record in records]
    lines = []
    for order, rows, pairs in (("First", "all rows", of_all_rows), ("Second", "the same folds", of_same_folds)):
        above, below, around = _by_sign(pairs)
        lines.append(f"- {order}, over the LLM that is best on {rows}: a gain above 0 for {above}.")
        lines.append(f"  A loss for {below}. Not to be told from 0: {around}.")
    return lines


def exchanged_findings(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of which tasks a gain is found although texts were exchanged."""
    above, _, _ = _by_sign(
        [(title_of_record(record), record["exchanged"]) for record in records if record["exchanged"]]
    )
    if above == NONE:
        return []
    return [
        f"- Where nothing can be learned, the second gain is above 0 all the same for {above}.",
        "  That comes of LLMs which are nearly equal, so the first is the one to believe.",
    ]


def repeats_findings(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """How much of the oracle's head-room repeats, and how much of it can be learned."""
    lines = []
    for record in records:
        repeats = record["repeats"]
        if repeats:
            lines.append(
                REPEATS_FINDING.format(
                    title=title_of_record(record),
                    room=repeats["oracle"]["mean"],
                    repeats=span(repeats["repeats_ranked"]),
                    gain=span(record["gain"][BEST][ALL_ROWS]),
                )
            )
    return lines


def findings(records: Sequence[Mapping[str, Any]]) -> str:
    """What the figures say, each with its interval."""
    files = (
        f"- {len(records)} files, each with an interval of 95 %: about one in twenty lies beside the truth by chance."
    )
    lines = [
        *gain_findings(records),
        *exchanged_findings(records),
        files,
        *against_earlier(records),
        *repeats_findings(records),
    ]
    return "\n".join(lines)


def source(records: Sequence[Mapping[str, Any]]) -> str:
    """Commands, seconds, seeds and encoders of the records."""
    spent: dict[str, float] = {}
    for record in records:
        spent[record["command"]] = spent.get(record["command"], 0) + record["seconds"]
    seeds = {seed for record in records for seed in record["seeds"]}
    curve_seeds = {seed for record in records for seed in record["curve_seeds"]}
    tuned = []
    for record in records:
        of_encoder = record["gain"].get(FineTuned.name)
        if of_encoder:
            tuned.append(f"{title_of_record(record)} (fold seeds {', '.join(map(str, of_encoder['seeds']))})")
    return SOURCE.format(
        commands="; ".join(f"`{command}` ({seconds:.0f} s)" for command, seconds in spent.items()),
        seeds=", ".join(map(str, sorted(seeds))),
        curve_seeds=", ".join(map(str, sorted(curve_seeds))) or NONE,
        encoders=", ".join(sorted({record["encoder"] for record in records})),
        tuned=", ".join(tuned) or "no task",
    )


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """results/ceiling.md."""
    method = METHOD.format(folds=FOLDS, inner=INNER, count=len(FEATURES), features=", ".join(FEATURES))
    parts = [
        "# What can be learned: a ceiling beside the oracle",
        source(records),
        PURPOSE,
        "## The ceiling",
        table(records),
        "![ceiling](figures/ceiling.png)",
        "## What it says",
        findings(records),
        "## Gain of each learner over the LLM that is best on the same folds (points)",
        learners_table(records, None),
    ]
    if any(earlier_of(record) is not None for record in records):
        parts.append(ABOUT_EARLIER)
    parts += [
        chosen_table(records),
        "## Gain of each learner over the LLM that is best on all rows (points)",
        learners_table(records, ALL_ROWS),
    ]
    if any(record["exchanged"] for record in records):
        parts += ["## The same method where nothing can be learned (points)", ABOUT_EXCHANGED, exchanged_table(records)]
    if any(record["repeats"] for record in records):
        parts += ["## What of the oracle repeats (points over the task's best LLM)", repeats_table(records)]
    if any(record["curve"] for record in records):
        names = dict.fromkeys(name for record in records for name in record["curve_learners"])
        about = ABOUT_CURVES.format(learners=" and ".join(names))
        parts += ["## Learning curves (points)", about, curve_table(records)]
        parts.append("![learning curves](figures/learning.png)")
    return "\n\n".join([*parts, "## How", method]) + "\n"
