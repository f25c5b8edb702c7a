"""The table of the ablations: one setting changed at a time from one recipe, compared on the same seeds.

    python -m utils.report.ablations runs/ablations/minilm_frozen --lose_llms     adds these runs, writes results/ablations.md
    python -m utils.report.ablations                                              writes the table again

`train_scripts/ablations.sh` trains the runs. A run's label (`--recipe`) is its recipe, or "recipe setting=value". With
--lose_llms, each LLM is taken away from the trained routers of the plain recipe at test time: no training, the arg-max is
among those left, and beside it stands the best that those left could do.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import checkpoint
from utils.data import load_all, reading
from utils.encoders import Queries
from utils.experiment import choose_hardware
from utils.files import write_json, write_text
from utils.meters import bar
from utils.metrics import ORACLE, PER_TASK, accuracy, averages, best_single, references
from utils.model import trained_part
from utils.report.comparison import runs_below
from utils.report.results import line_of
from utils.report.statistics import spread
from utils.tables import markdown
from utils.tasks import short, task_of

FILE, TABLE = "ablations.jsonl", "ablations.md"
KEY = ("recipe", "setting", "value", "seed")  # one line of ablations.jsonl for each
BASE, LOST = "base", "lost_LLM"
LIMITS = ("best single LLM", "best LLM per task", "per-query oracle")  # of the LLMs left, all picked on test
SIDES = ("id_avg", "ood_avg")


@dataclass(frozen=True)
class Axis:
    """A setting that is varied: its title, and the trainer's argument that holds its value, if there is just one."""

    title: str
    argument: str | None = None


AXES = {
    "lambda": Axis("lambda: weight of the sample-sample loss", "cluster_loss_weight"),
    "K+": Axis("K+: positive LLMs per query", "top_k"),
    "K-": Axis("K-: candidates for negative LLMs per query", "last_k"),
    "ties": Axis("which of several LLMs with one score are among the K+ or K-", "ties"),
    "columns": Axis("order of the LLMs' columns"),
    "H": Axis("H: out-of-group queries per query", "H"),
    "N": Axis("N: clusters of queries, made with this encoder (given: the ids in the data files)"),
    "learning_rate": Axis("learning rate", "learning_rate"),
    "similarity": Axis("similarity", "similarity_function"),
    "encoder": Axis("encoder and pooling"),
    "LLMs": Axis("number of LLMs"),
    "sample_sample": Axis("sample-sample loss by cluster or by task"),
    "rows": Axis("training rows per task", "training_samples_per_dataset"),
    "fidelity": Axis("rows of the README's table as released", "fidelity"),
    "targets": Axis("score target"),
}


def text_of(value: object) -> str:
    """A value as tables print it: 0.001 for "1e-3", 1 for 1.0, other text as it is."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return str(value)


def place_of(value: str) -> tuple[bool, float, str]:
    """Sort key of a value: numbers by size, then texts by letter."""
    try:
        return False, float(value), ""
    except ValueError:
        return True, 0.0, value


def base_values(results: Mapping[str, Any]) -> dict[str, str]:
    """What the run of the plain recipe has on each axis."""
    settings = results["settings"]
    values = {name: text_of(settings[axis.argument]) for name, axis in AXES.items() if axis.argument}
    by_cluster, by_task = settings["cluster_loss_weight"] > 0, settings["sample_loss_weight"] > 0
    aim = {("score", 0): "score", ("score", 1): "task_mean", ("gain", 0): "gain", ("gain", 1): "gain_task_mean"}
    return values | {
        "N": "given",
        "columns": "given",
        "encoder": f"{Path(settings['encoder']).name}{'' if settings['pooling'] is None else '_' + settings['pooling']}",
        "LLMs": str(len(results["test"]["llms"])),
        "sample_sample": {
            (True, False): "cluster",
            (False, True): "task",
            (True, True): "both",
            (False, False): "none",
        }[by_cluster, by_task],
        "targets": aim.get(
            (settings["targets"], settings["target_shrinkage"]),
            f"{settings['targets']} {settings['target_shrinkage']:g}",
        ),
    }


def line_of_run(results: dict[str, Any]) -> dict[str, Any]:
    """The line of ablations.jsonl for one results.json: that of runs.jsonl, the setting, its value, and the validation accuracy in %.

    Raises: ValueError for a run without a table, such as one with --no-final_eval.
    """
    if not {*SIDES} <= results["test"].keys():
        raise ValueError(
            f"the run of `{results['command']}` was not tested on in-distribution and out-of-distribution tasks"
        )
    base, _, change = results["recipe"].partition(" ")
    setting, _, value = change.partition("=")
    validation = results["selection"]["validation"]
    return {
        **line_of(results),
        "recipe": base,
        "setting": setting or BASE,
        "value": text_of(value),
        "validation": None if validation is None else round(validation, 4),
        **({} if setting else {"base": base_values(results)}),
    }


@torch.no_grad()
def lose_llms(run: Path, cache: Path, device: str) -> list[dict[str, Any]]:
    """Test the router of a finished run without each of its LLMs in turn, and with all ("none").

    Every query is encoded once. Returns lines of ablations.jsonl with a further entry "limits": {one of LIMITS: {"id_avg", "ood_avg"}},
    what the LLMs left could do at best, each picked on the test files.
    Raises: ValueError for a router with fewer than two LLMs; CheckpointError or DataError for files that are damaged or gone.
    """
    results = json.loads((run / "results.json").read_text())
    model, config = checkpoint.load(run)
    settings, tests = config["settings"], config["tests"]
    where, part = choose_hardware(device, config["precision"]), trained_part(settings)
    model.place(where, part, settings["train_layers"])
    files = load_all(
        [test["path"] for test in tests],
        [test["kind"] for test in tests],
        ("--test_data_paths", "--test_data_type"),
        **reading(settings),
    )
    inside = [task_of(path) for path in settings["data_paths"]]
    llms = [name for name in model.llms if name in files[0].llms]
    similarity = {
        data.task: model(Queries(model.encoder, data.inputs, where, part, cache, data.task).embed())[1].cpu().numpy()
        for data in files
    }
    if len(llms) < 2:
        raise ValueError(f"{run}: its router has {len(llms)} of the LLMs of its test files; to lose one takes two")
    lines = []
    for lost in (None, *llms):
        left = [name for name in llms if name != lost]
        few = [data.for_llms(left) for data in files]
        tasks = {
            data.task: accuracy(similarity[data.task][:, model.columns(left)].argmax(axis=1), data) for data in few
        }
        table, limits = references(few), {}
        for side, names in (
            ("id_avg", [t for t in tasks if t in inside]),
            ("ood_avg", [t for t in tasks if t not in inside]),
        ):
            for limit, row in zip(LIMITS, (best_single(table, left, names), PER_TASK, ORACLE)):
                limits.setdefault(limit, {})[side] = round(float(np.mean([table[row][task] for task in names])), 4)
        lines.append({
            **line_of(results),
            "setting": LOST,
            "value": lost or "none",
            "validation": None,
            "metrics": {task: round(value, 4) for task, value in tasks.items()},
            **{side: round(value, 4) for side, value in averages(tasks, inside).items()},
            "limits": limits,
            "device": where.describe(),
            "command": f"python -m utils.report.ablations {run} --lose_llms",
        })  # fmt: skip
    return lines


def lost_lines(run: Path, cache: Path, device: str) -> list[dict[str, Any]]:
    """`lose_llms`, kept in the run's folder until the run is trained again."""
    kept, of = run / "lost_llms.json", hashlib.sha256((run / "results.json").read_bytes()).hexdigest()
    if kept.is_file():
        found = json.loads(kept.read_text())
        if found["of"] == of:
            return found["lines"]
    lines = lose_llms(run, cache, device)
    write_json(kept, {"of": of, "lines": lines})
    return lines


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of ablations.jsonl, none if it is not there yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def add(lines: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """`lines` with `new` ones in place of those of the same recipe, setting, value and seed, in the order of the table."""
    by_key = {tuple(line[name] for name in KEY): line for line in [*lines, *new]}
    order = [BASE, *AXES]
    return sorted(
        by_key.values(),
        key=lambda line: (
            line["recipe"],
            order.index(line["setting"]) if line["setting"] in order else len(order),
            line["setting"],
            None if line["setting"] == LOST else place_of(line["value"]),  # LLMs stay in their order
            line["seed"],
        ),
    )


def groups_of(lines: Iterable[dict[str, Any]], setting: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of one setting by value, in their order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["setting"] == setting:
            groups.setdefault(line["value"], []).append(line)
    return groups


def cells(group: Sequence[dict[str, Any]], base: Mapping[int, dict[str, Any]]) -> list[str]:
    """Validation, ID and OOD average, their paired differences to the base on the same seeds, and the number of seeds."""
    names = ("validation", *SIDES)
    columns = [([line[name] for line in group if line[name] is not None], "") for name in names]
    pairs = [(line, base[line["seed"]]) for line in group if line["seed"] in base]
    columns += [
        ([line[name] - other[name] for line, other in pairs if None not in (line[name], other[name])], "+")
        for name in names
    ]
    return [*[spread(values, sign) if values else "-" for values, sign in columns], str(len(group))]


def recipe_table(lines: Sequence[dict[str, Any]]) -> str:
    """The rows of one recipe: the recipe itself, then every value of every setting; its own value stands in bold among them."""
    plain = [line for line in lines if line["setting"] == BASE]
    base = {line["seed"]: line for line in plain}
    rows = [["the recipe", "", *cells(plain, {})]] if plain else []
    for setting in [name for name in dict.fromkeys(line["setting"] for line in lines) if name not in (BASE, LOST)]:
        groups = groups_of(lines, setting)
        own = plain[0]["base"].get(setting) if plain else None
        title = AXES[setting].title if setting in AXES else setting
        for value in sorted({*groups, *([own] if own is not None else [])}, key=place_of):
            if value == own and value not in groups:
                rows.append([title, f"**{value}**", *cells(plain, {})])
            else:
                rows.append([title, value, *cells(groups[value], base)])
            title = ""
    header = [
        "setting",
        "value",
        "validation",
        "ID avg",
        "OOD avg",
        "validation, difference",
        "ID avg, difference",
        "OOD avg, difference",
        "seeds",
    ]
    return markdown(header, rows)


def lost_table(lines: Sequence[dict[str, Any]]) -> str:
    """Routers without one of their LLMs, beside the best that the LLMs left could do."""
    rows = []
    for value, group in groups_of(lines, LOST).items():
        row = [short(value)]
        for side in SIDES:
            row += [
                spread([line[side] for line in group]),
                *[f"{group[0]['limits'][limit][side]:.2f}" for limit in LIMITS],
            ]
        rows.append([*row, str(len(group))])
    return markdown(
        ["lost LLM", *[f"{side} {name}" for side in ("ID", "OOD") for name in ("RouterDC", *LIMITS)], "seeds"], rows
    )


def tables(lines: Sequence[dict[str, Any]]) -> str:
    """results/ablations.md."""
    text = [
        "# Ablations",
        "Made by `bash train_scripts/ablations.sh` (`python -m utils.report.ablations` writes the tables again from ablations.jsonl, which holds every run with "
        "its seed, device, seconds and command). Accuracy in %, mean ± standard deviation over the seeds; a difference is that to the "
        "recipe on the same seeds, in points. One setting is changed at a time, all else is the recipe's; its own value is in bold. "
        "Choices are made on the validation column alone: it is the accuracy on held-out training rows at the chosen step. "
        "Fidelity row 5 validates on training rows, so its validation figure cannot be compared; row 2 (dropout) acts only where layers train.",
    ]
    for recipe in dict.fromkeys(line["recipe"] for line in lines):
        own = [line for line in lines if line["recipe"] == recipe]
        text += [f"## {recipe}", recipe_table(own)]
        if any(line["setting"] == LOST for line in own):
            text += [
                f"### {recipe}: an LLM lost at test time",
                "The trained routers, with the arg-max among the LLMs left; beside them what those could do at best, picked on the test files.",
                lost_table(own),
            ]
    return "\n\n".join(text) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="*", help="folders of finished runs, or folders above them")
    p.add_argument("--lose_llms", action="store_true", help="also test the runs of the plain recipe without each LLM")
    p.add_argument("--results", type=Path, default=Path("results"), help=f"folder of {FILE} and {TABLE}")
    p.add_argument("--device", default="auto", help="of --lose_llms: auto, cpu, cuda, cuda:N, mps")
    p.add_argument("--cache_dir", type=Path, default=Path(".cache/queries"), help="embeddings of a frozen encoder")
    args = p.parse_args(argv)
    try:
        if args.lose_llms and not args.runs:
            raise ValueError("--lose_llms needs the folders of the runs")
        args.results.mkdir(parents=True, exist_ok=True)
        runs = runs_below(args.runs, "; `bash train_scripts/ablations.sh` trains them")
        new = [line_of_run(results) for _, results in runs]
        if args.lose_llms:
            plain = [run for (run, _), line in zip(runs, new) if line["setting"] == BASE]
            if not plain:
                raise ValueError(
                    f"{' '.join(args.runs)}: no run of the plain recipe there, whose LLMs could be taken away"
                )
            with bar(len(plain), "losing an LLM", "run") as progress:
                for run in plain:
                    new += lost_lines(run, args.cache_dir, args.device)
                    progress.update()
        lines = add(read_lines(args.results / FILE), new)
        if not lines:
            raise ValueError(f"{args.results / FILE}: no runs yet; `bash train_scripts/ablations.sh` trains them")
        text = tables(lines)
        write_text(args.results / FILE, "".join(json.dumps(line) + "\n" for line in lines))
        write_text(args.results / TABLE, text)
    except (checkpoint.CheckpointError, ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{text}\n{len(new)} lines added to {args.results / FILE}; the table is {args.results / TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
