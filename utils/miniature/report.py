"""What came out of the miniature: one table over seeds, and the folder datasets/miniature that ships with the code."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import atomic_folder, replaceable_folder, write_json, write_text
from utils.metrics import CEILING, ORACLE, PER_TASK, best_single
from utils.miniature.llms import LLMS
from utils.tables import markdown
from utils.tasks import short

KINDS = {  # score kind of each task; the first four are trained on
    "arithmetic": "multi_attempt", "facts": "probability", "functions": "multi_attempt", "chinese": "probability",
    "prices": "multi_attempt", "snippets": "multi_attempt", "idioms": "probability",
}  # fmt: skip
INSIDE = ("arithmetic", "facts", "functions", "chinese")


def finished(router: Path) -> list[dict[str, Any]]:
    """The results of all seeds below a folder. Raises: ValueError if there is none, or if they are of different data."""
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
    """The accuracy in % of every LLM, of RouterDC (mean ± standard deviation over seeds), of voting and of the references, and the gaps that matter.

    Returns: a Markdown table, and {"RouterDC", "best single LLM", "best LLM per task", "oracle"} with the average in distribution of each.
    """
    tasks = list(runs[0]["test"]["tasks"])
    inside = [task for task in tasks if task in runs[0]["test"]["in_distribution"]]
    columns = {
        **{task: [task] for task in inside},
        "ID avg": inside,
        **{task: [task] for task in tasks if task not in inside},
    }
    columns["OOD avg"] = [task for task in tasks if task not in inside]
    columns = {title: part for title, part in columns.items() if part}

    def mean(row: Mapping[str, float], part: Sequence[str]) -> float:
        return float(np.mean([row[task] for task in part]))

    references, llms = runs[0]["test"]["references"], runs[0]["test"]["llms"]
    best = best_single(references, llms, inside)
    labels = {name: f"{short(name)} (best single LLM)" if name == best else short(name) for name in references}
    rows = []
    for name, row in references.items():
        cells = [f"{mean(row, part):.2f}" if set(part) <= set(row) else "-" for part in columns.values()]
        rows.append([labels[name], *cells])
    routed = {title: [mean(run["test"]["tasks"], part) for run in runs] for title, part in columns.items()}
    spread = {title: f" ± {np.std(values, ddof=1):.2f}" if len(runs) > 1 else "" for title, values in routed.items()}
    if votes:
        rows.insert(len(llms), ["Voting of all LLMs", *[f"{mean(votes, part):.2f}" for part in columns.values()]])
    rows.insert(
        len(llms),
        [
            f"RouterDC ({len(runs)} seed{'s' * (len(runs) > 1)})",
            *[f"{np.mean(routed[title]):.2f}{spread[title]}" for title in columns],
        ],
    )
    figures = {"RouterDC": float(np.mean(routed["ID avg"])), "best single LLM": mean(references[best], inside)}
    figures |= {"best LLM per task": mean(references[PER_TASK], inside), "oracle": mean(references[ORACLE], inside)}
    return markdown(["", *columns], rows), figures


def sentence(figures: Mapping[str, float]) -> str:
    """The gaps in words; says so if routing did not pay."""
    gain = figures["RouterDC"] - figures["best single LLM"]
    verb = f"gains {gain:.2f} points over" if gain > 0 else f"does NOT gain: {gain:.2f} points against"
    task = figures["RouterDC"] - figures["best LLM per task"]
    return f"In distribution RouterDC {verb} the best single LLM. Against the best LLM of each task, picked on test, it has {task:+.2f} points."


README = """# The routing data of the pipeline in miniature

Routing data of {count} tiny LLMs ({parameters}) which this project trained from scratch, on tasks that it generated, scored with
lm-evaluation-harness, the answers' programs run in the sandbox, converted and clustered by the two notebooks. Everything here was written or drawn
for this project and is under its licence (Apache-2.0). The figures say nothing about real LLMs, nor about the paper's.

```
bash eval_scripts/miniature.sh                                # makes everything: {command}
python -m utils.miniature publish                             # copies its data here and writes this page
```

The generator, the LLMs, the answers and the clusters are seeded ({seeds}). Another machine or version of torch rounds differently, so its
LLMs answer a little differently.

| Files | Rows | Task | Kind |
|---|---|---|---|
{files}

`*_train.json` carry `cluster_id` (t-SNE and k-means, N = 5). `tasks.json` has the kinds and who made what.

Testing accuracy in %; RouterDC is a linear head on the frozen MiniLM, trained in seconds on a CPU. Voting counts the most frequent answer of all
LLMs. *Best LLM per task* and the oracle are picked on test.

{table}
"""
ABOUT = {
    "arithmetic": "word problems with `#### n`, 10 answers at temperature 0.2", "facts": "an invented world and numbers, multiple choice",
    "functions": "short Python functions like HumanEval's, 10 programs at temperature 0.2", "chinese": "antonyms, measure words, kinds, multiple choice",
    "prices": "arithmetic in other words; not trained on", "snippets": "functions like MBPP's; not trained on",
    "idioms": "Chinese idioms and capitals; not trained on",
}  # fmt: skip


def publish(runs: Path, output: Path) -> list[Path]:
    """Make `output` the data of a finished full pipeline, and describe it there. Returns the files.

    Raises: ValueError if the pipeline in `runs` is not finished, is not the full one, or has other LLMs, or if `output` holds files of others.
    """
    sources = {f"{task}_train.json": runs / "clustered" for task in INSIDE} | {
        f"{task}_test.json": runs / "converted" for task in INSIDE
    }
    sources |= {f"{task}.json": runs / "converted" for task in KINDS if task not in INSIDE}
    ours = {*sources, "tasks.json", "README.md"} if (output / "tasks.json").is_file() else ()
    replaceable_folder(output, "--output", ours, "no earlier publish")
    text, _ = table(finished(runs / "router"), voted(runs / "router"))
    about = json.loads((runs / "texts" / "about.json").read_text(encoding="utf-8"))
    if about["size"] != "full":
        raise ValueError(f"{runs} is a pipeline with SIZE={about['size']}; the data that ships comes from the full one")
    if missing := [str(folder / name) for name, folder in sources.items() if not (folder / name).is_file()]:
        raise ValueError(f"not there: {', '.join(missing)}. Run bash eval_scripts/miniature.sh to its end first")
    trained = {name: json.loads((runs / "llms" / name / "training.json").read_text(encoding="utf-8")) for name in LLMS}
    counts = {}
    for name, folder in sources.items():
        rows = json.loads((folder / name).read_text(encoding="utf-8"))
        if found := {*rows[0]["scores"]} ^ {f"mini/{llm}" for llm in LLMS}:
            raise ValueError(
                f"{folder / name}: the data that ships has scores of all the LLMs and no others; not so here: {', '.join(sorted(found))}"
            )
        counts[name] = len(rows)
    lines = []
    for task, kind in KINDS.items():
        names = [
            name for name in sources if name.removesuffix(".json").removesuffix("_train").removesuffix("_test") == task
        ]
        lines.append(
            f"| {', '.join(f'`{name}`' for name in names)} | {', '.join(str(counts[name]) for name in names)} | {ABOUT[task]} | `{kind}` |"
        )
    millions = sorted({round(entry["parameters"] / 1e6, 1) for entry in trained.values()})
    page = README.format(
        count=len(trained), parameters=f"{' to '.join(map(str, millions))} million parameters", seeds=f"seed {about['seed']}", files="\n".join(lines), table=text,
        command="about 9 minutes on 2 cores",
    )  # fmt: skip
    with atomic_folder(output) as part:
        for name, folder in sources.items():
            shutil.copyfile(folder / name, part / name)
        write_json(
            part / "tasks.json",
            {"kinds": KINDS, "in_distribution": list(INSIDE), "seed": about["seed"], "llms": trained},
        )
        write_text(part / "README.md", page)
    return sorted(output.iterdir())
