"""The page of what finished runs with --target_pooling have estimated (utils/denoise.py).

    python -m utils.report.denoised runs/minilm_denoised runs/search/minilm/pooled_question_gain \
        --output results/denoised.md
"""

import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from ..config import parse_arguments
from ..files import write_text
from ..tables import markdown
from ..tasks import title_of
from .runs import runs_below

PAGE = """\
# How far targets were pooled

Made by `python -m utils.report.denoised {runs} --output FILE` from the results.json of these runs, means over the \
seeds. No test row enters, and no validation row. Weights in %, as estimated from the training rows alone \
(utils/denoise.py): of the row itself, of its nearest questions, of its cluster, of its task. "error" is the \
leave-one-out mean squared error of a cell, "noise" what of it counts as chance. Only the differences between LLMs \
decide a pick.

{table}
"""
HEADER = ("recipe", "task", "part", "row", "neighbours", "cluster", "task's mean", "error", "noise", "seeds")


@dataclass(frozen=True)
class Arguments:
    """options"""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """folders of finished runs, or folders above them"""
    output: Path | None = None
    """Markdown file; default: print"""


def figures_of(estimate: dict[str, Any]) -> list[float]:
    """The columns of one estimate of one task: four weights, which add to 1, the error and the noise."""
    neighbours = sum(estimate["neighbours"].values())
    weights = [estimate["row"], neighbours, estimate["cluster"], estimate["task"]]
    return [*weights, estimate["error"] or 0, estimate["noise"] or 0]


def page(folders: Sequence[str]) -> str:
    """What the runs at or below the folders have estimated, a row for each label, task and part: means over the seeds.

    Raises: ValueError for a folder without a finished run, or a run that has estimated nothing.
    """
    estimates: dict[tuple[str, str, str], list[list[float]]] = defaultdict(list)
    seeds: dict[str, set[int]] = defaultdict(set)
    for run in runs_below(folders):
        if "target_pooling" not in run.results:
            raise ValueError(f"{run.folder}: its targets were not pooled; name runs made with --target_pooling")
        seeds[run.label].add(run.seed)
        for task, parts in run.results["target_pooling"].items():
            for part, estimate in parts.items():
                estimates[run.label, task, part].append(figures_of(estimate))
    rows = []
    for (label, task, part), figures in estimates.items():
        *weights, error, noise = np.mean(figures, axis=0)
        percentages = [f"{100 * weight:.1f}" for weight in weights]
        rows.append([label, title_of(task), part, *percentages, f"{error:.4f}", f"{noise:.4f}", str(len(seeds[label]))])
    return PAGE.format(runs=shlex.join(folders), table=markdown(HEADER, rows))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    words = sys.argv[1:] if argv is None else argv
    about = "What runs with --target_pooling have estimated, as a Markdown page."
    try:
        args = parse_arguments(Arguments, words, "python -m utils.report.denoised", about)
        if not args.runs:
            raise ValueError("no runs were named; give folders of finished runs")
        text = page(args.runs)
        if args.output:
            write_text(args.output, text)
        else:
            print(text)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
