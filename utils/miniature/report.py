"""What came out of the miniature: one table over seeds, and the folder datasets/miniature that ships with the code."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from ..files import atomic_folder, replaceable_folder, write_json, write_text
from ..metrics import CEILING, ORACLE, PER_TASK, best_single
from ..tables import cells_and_mean, markdown, spread
from ..tasks import short_names
from .llms import LLMS

DURATION = "about 9 minutes on 2 cores"
PAGE = Path(__file__).with_name("publish_page.md")  # the text of datasets/miniature/README.md


@dataclass(frozen=True)
class Task:
    """A task of the miniature: its score kind, whether routers are trained on it, and what it asks, for the page."""

    kind: str
    is_trained_on: bool
    about: str


TASKS = {
    "arithmetic": Task("multi_attempt", True, "word problems with `#### n`, 10 answers at temperature 0.2"),
    "facts": Task("probability", True, "an invented world and numbers, multiple choice"),
    "functions": Task("multi_attempt", True, "short Python functions like HumanEval's, 10 programs at temperature 0.2"),
    "chinese": Task("probability", True, "antonyms, measure words, kinds, multiple choice"),
    "prices": Task("multi_attempt", False, "arithmetic in other words; not trained on"),
    "snippets": Task("multi_attempt", False, "functions like MBPP's; not trained on"),
    "idioms": Task("probability", False, "Chinese idioms and capitals; not trained on"),
}
KINDS = {name: task.kind for name, task in TASKS.items()}
INSIDE = tuple(name for name, task in TASKS.items() if task.is_trained_on)


# The table


def finished(router: Path) -> list[dict[str, Any]]:
    """The results of all seeds below a folder.

    Raises: ValueError if there is none, or if they are of different data.
    """
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(router.glob("*/results.json"))]
    if not runs:
        raise ValueError(f"{router}: no finished run there (seed_*/results.json)")
    rows = [{name: row for name, row in run["test"]["references"].items() if name != CEILING} for run in runs]
    if any(row != rows[0] for row in rows):
        raise ValueError(f"{router}: its runs were tested on different data; give each data set a folder of its own")
    return runs


def voted(router: Path) -> dict[str, float] | None:
    """The accuracy in % of voting on each task, where `python -m utils.baselines` left it beside the seeds."""
    path = router / "baselines" / "Voting" / "seed_1" / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))["test"]["tasks"] if path.is_file() else None


def table(runs: Sequence[Mapping[str, Any]], votes: Mapping[str, float] | None = None) -> tuple[str, dict[str, float]]:
    """The accuracy in % of every LLM, of RouterDC, of voting and of the references.

    RouterDC's is mean ± standard deviation over the seeds.
    Returns: a Markdown table, and the averages in distribution of "RouterDC", "best single LLM", "best LLM per task"
    and "oracle".
    """
    test = runs[0]["test"]
    references, llms = test["references"], test["llms"]
    inside = [task for task in test["tasks"] if task in test["in_distribution"]]
    outside = [task for task in test["tasks"] if task not in inside]

    def cells(values: Mapping[str, float]) -> list[str]:
        return [*cells_and_mean(values, inside), *(cells_and_mean(values, outside) if outside else [])]

    def average(values: Mapping[str, float]) -> float:
        return float(np.mean([values[task] for task in inside]))

    best = best_single(references, llms, inside)
    names = short_names(llms)
    names[best] += " (best single LLM)"
    rows = [[names[llm], *cells(references[llm])] for llm in llms]
    rows.append([f"RouterDC ({len(runs)} seed{'s' * (len(runs) > 1)})", *routed_cells(runs, inside, outside)])
    if votes:
        rows.append(["Voting of all LLMs", *cells(votes)])
    rows += [[name, *cells(values)] for name, values in references.items() if name not in llms]
    averages = {
        "RouterDC": float(np.mean([average(run["test"]["tasks"]) for run in runs])),
        "best single LLM": average(references[best]),
        "best LLM per task": average(references[PER_TASK]),
        "oracle": average(references[ORACLE]),
    }
    header = ["", *inside, "ID avg", *([*outside, "OOD avg"] if outside else [])]
    return markdown(header, rows), averages


def routed_cells(runs: Sequence[Mapping[str, Any]], inside: Sequence[str], outside: Sequence[str]) -> list[str]:
    """Mean and deviation of RouterDC on each task, and of the average of each side that has tasks."""
    cells = []
    for side in (inside, outside):
        for task in side:
            cells.append(spread([run["test"]["tasks"][task] for run in runs]))
        if side:
            cells.append(spread([np.mean([run["test"]["tasks"][task] for task in side]) for run in runs]))
    return cells


def sentence(averages: Mapping[str, float]) -> str:
    """The gaps in words; says so if routing did not pay."""
    gain = averages["RouterDC"] - averages["best single LLM"]
    verb = f"gains {gain:.2f} points over" if gain > 0 else f"does NOT gain: {gain:.2f} points against"
    task = averages["RouterDC"] - averages["best LLM per task"]
    return (
        f"In distribution RouterDC {verb} the best single LLM. "
        f"Against the best LLM of each task, picked on test, it has {task:+.2f} points."
    )


# The data that ships


def sources(runs: Path) -> dict[str, Path]:
    """The data files that ship, with the folder of a pipeline in which each is."""
    folders = {f"{task}_train.json": runs / "clustered" for task in INSIDE}
    folders |= {f"{task}_test.json": runs / "converted" for task in INSIDE}
    return folders | {f"{task}.json": runs / "converted" for task in KINDS if task not in INSIDE}


def publish(runs: Path, output: Path) -> list[Path]:
    """Make `output` the data of a finished full pipeline, and describe it there. Returns the files.

    Raises: ValueError if the pipeline in `runs` is not finished, is not the full one, or has other LLMs, or if `output`
    holds files of others.
    """
    folders = sources(runs)
    ours = {*folders, "tasks.json", "README.md"} if (output / "tasks.json").is_file() else ()
    replaceable_folder(output, "--output", ours, "no earlier publish")
    text, _ = table(finished(runs / "router"), voted(runs / "router"))
    about = json.loads((runs / "texts" / "about.json").read_text(encoding="utf-8"))
    if about["size"] != "full":
        raise ValueError(f"{runs} is a pipeline with SIZE={about['size']}; the data that ships comes from the full one")
    if missing := [str(folder / name) for name, folder in folders.items() if not (folder / name).is_file()]:
        raise ValueError(f"not there: {', '.join(missing)}. Run bash eval_scripts/miniature.sh to its end first")
    trained = {name: json.loads((runs / "llms" / name / "training.json").read_text(encoding="utf-8")) for name in LLMS}
    counts = {name: count_rows(folder / name) for name, folder in folders.items()}
    tasks = {"kinds": KINDS, "in_distribution": list(INSIDE), "seed": about["seed"], "llms": trained}
    with atomic_folder(output) as part:
        for name, folder in folders.items():
            shutil.copyfile(folder / name, part / name)
        write_json(part / "tasks.json", tasks)
        write_text(part / "README.md", page(about["seed"], trained, counts, text))
    return sorted(output.iterdir())


def count_rows(path: Path) -> int:
    """The number of rows of a data file. Raises: ValueError unless it has scores of all LLMs and no others."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    if difference := {*rows[0]["scores"]} ^ {f"mini/{llm}" for llm in LLMS}:
        raise ValueError(
            f"{path}: the data that ships has scores of all the LLMs and no others; "
            f"not so here: {', '.join(sorted(difference))}"
        )
    return len(rows)


def page(seed: int, trained: Mapping[str, Mapping[str, Any]], counts: Mapping[str, int], text: str) -> str:
    """The README of the data.

    Args:
        trained: the training.json of each LLM.
        counts: rows of each file.
        text: the table of accuracies.
    """
    lines = []
    for name, task in TASKS.items():
        files = [file for file in counts if file.removesuffix(".json") in (name, f"{name}_train", f"{name}_test")]
        cells = [", ".join(f"`{file}`" for file in files), ", ".join(str(counts[file]) for file in files)]
        lines.append(f"| {' | '.join([*cells, task.about, f'`{task.kind}`'])} |")
    millions = sorted({round(entry["parameters"] / 1e6, 1) for entry in trained.values()})
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        count=len(trained),
        parameters=f"{' to '.join(map(str, millions))} million parameters",
        command=DURATION,
        seeds=f"seed {seed}",
        files="\n".join(lines),
        table=text,
    )
