"""Collect finished runs into results/ and make the tables from them.

    python -m utils.report runs/minilm_tuned          add these runs to results/runs.jsonl, write results/tables.md
    python -m utils.report                            write the tables again
    python -m utils.report --summary runs/mine        print mean and deviation over the seeds of any runs
    python -m utils.report --search runs/search       write results/search.md: validation accuracy of each candidate
    python -m utils.report --compare runs/baselines   write results/comparison.md: all routers with intervals,
                                                      differences to RouterDC, shares

A finished run is a folder with a results.json, named itself or by a folder above it.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..ceiling.known import known_ceilings
from ..config import parse_arguments
from ..files import locked, read_json, write_json, write_text
from ..tasks import PAPER
from . import comparison, comparison_page, results
from .runs import Run, read_lines, runs_below, write_lines
from .statistics import RESAMPLES, check_resamples
from .summary import summary

PROGRAM = "python -m utils.report"


@dataclass(frozen=True)
class Arguments:
    """options"""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """folders of finished runs, or folders above them"""
    summary: tuple[str, ...] = ()
    """print a table of the runs in these folders, own data too; nothing is written"""
    search: str | None = None
    """folder of the runs of search_minilm.sh"""
    compare: tuple[str, ...] = ()
    """folders of runs to compare, query by query"""
    against: str = "tuned"
    """with --compare: the label of the RouterDC that differences are to"""
    resamples: int = RESAMPLES
    """with --compare: bootstrap samples"""
    results: Path = Path("results")
    """folder of runs.jsonl and the tables"""


def write_search(args: Arguments) -> None:
    """Write and print search.md."""
    page = results.search_page(runs_below([args.search]))
    args.results.mkdir(parents=True, exist_ok=True)
    write_text(args.results / "search.md", page)
    print(page)


def write_comparison(args: Arguments) -> None:
    """Write comparison.json and comparison.md, and print the page.

    Raises: ValueError if there is nothing to compare.
    """
    check_resamples(args.resamples)
    groups, tests, inside = comparison.collect(args.compare)
    figures = comparison.compare(groups, tests, inside, args.against, args.resamples)
    figures["ceilings"] = known_ceilings(tests, args.results)
    flags = ["--compare", *args.compare, "--against", args.against, "--resamples", str(args.resamples)]
    command = f"{PROGRAM} {shlex.join(flags)}"
    page = comparison_page.page(figures, command)
    args.results.mkdir(parents=True, exist_ok=True)
    write_json(args.results / "comparison.json", {"command": command, **figures})
    write_text(args.results / "comparison.md", page)
    print(f"{page}\nwritten to {args.results / 'comparison.md'} and comparison.json")


def references_of(new: list[Run], path: Path) -> dict[str, dict[str, float]]:
    """The references of the paper's test files but its LLMs: of the newest run, else those kept in controls.json."""
    references = new[-1].results["test"]["references"] if new else read_json(path, "name a finished run")
    return {name: values for name, values in references.items() if name not in PAPER}


def collect(args: Arguments) -> None:
    """Add runs to runs.jsonl, and write and print tables.md. Raises: ValueError if there are no runs at all."""
    runs = runs_below(args.runs)
    new = [run for run in runs if results.belongs_here(run)]
    if len(new) < len(runs):
        print(
            f"left out: {len(runs) - len(new)} runs that were not tested on all eight tasks of the paper with its "
            f"seven LLMs; `{PROGRAM} --summary` prints any runs",
            file=sys.stderr,
        )
    args.results.mkdir(parents=True, exist_ok=True)
    path, controls = args.results / "runs.jsonl", args.results / "controls.json"
    with locked(args.results):
        lines = results.add(read_lines(path), [results.line_of(run.results) for run in new])
        if not lines and runs:
            print(f"{path}: no run of these belongs there, nothing was written")
            return
        if not lines:
            raise ValueError(f"{path}: no runs yet; name the folders of finished runs")
        references = results.with_ceilings(references_of(new, controls), args.results)
        page = results.page(lines, references)
        write_lines(path, lines)
        write_json(controls, references)
        write_text(args.results / "tables.md", page)
    print(f"{page}\n{len(new)} runs added to {path}; tables in {args.results / 'tables.md'}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    try:
        args = parse_arguments(Arguments, sys.argv[1:] if argv is None else argv, PROGRAM, __doc__)
        if args.summary:
            print(summary(runs_below(args.summary)))
        elif args.search:
            write_search(args)
        elif args.compare:
            write_comparison(args)
        else:
            collect(args)
    except (ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
