"""Make data files of this project from routing data that others published.

    python -m utils.importers routerbench routerbench_0shot.parquet --output data/routerbench --test_fraction 0.3
    python -m utils.importers embedllm FOLDER --output data/embedllm
    python -m utils.importers llmrouterbench results/bench --output data/llmrouterbench --missing_cells drop
    python -m utils.importers routereval FILE.npz --prompts FILE.json --output data/routereval
    python -m utils.importers lookahead datasets/lookahead/test --output datasets/lookahead_data \\
        --answers datasets/lookahead_answers --test_fraction 0.5

Writes one file per task and split, `<task>_train.json`, `<task>_test.json` and so on, with costs where the source has
them. A pair of query and LLM that occurs more than once keeps its largest score. Scores are read as --data_type
multi_attempt.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import MISSING, DataError
from . import embedllm, llmrouterbench, lookahead, routerbench, routereval
from .common import (
    Pairs,
    check_text,
    complete,
    new_folder,
    split_off,
    write,
    write_answers,
    write_embedded,
)

FORMATS = ("routerbench", "embedllm", "llmrouterbench", "routereval", "lookahead")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m utils.importers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("format", choices=FORMATS)
    p.add_argument(
        "source",
        type=Path,
        help="file or folder as published; the top of utils/importers/FORMAT.py says what is read of it",
    )
    p.add_argument("--output", type=Path, required=True, help="a new folder")
    p.add_argument(
        "--llms",
        nargs="+",
        metavar="LLM",
        help="take these LLMs only; for routereval, whose columns have no names: what to call each of them",
    )
    p.add_argument(
        "--missing_cells",
        choices=MISSING,
        default="error",
        help="a query without a score (or cost) of some LLM: an error, or left out and counted",
    )
    p.add_argument(
        "--test_fraction",
        type=float,
        default=0.0,
        help="share of the questions for the test file, where the source has no splits",
    )
    p.add_argument("--seed", type=int, default=1, help="of --test_fraction")
    p.add_argument("--prompts", type=Path, help="routereval: the texts, which its score files lack")
    p.add_argument("--answers", type=Path, help="lookahead: a new folder for the LLMs' answers, which voting reads")
    p.add_argument(
        "--allow_pickle", action="store_true", help="open pickles, which can run any code: only files that you trust"
    )
    return p


def check_arguments(args: argparse.Namespace) -> None:
    """Raise DataError for arguments that make no sense with the format."""
    if not 0 <= args.test_fraction < 1:
        raise DataError(f"--test_fraction is {args.test_fraction}; it must be at least 0 and below 1")
    if args.prompts and args.format != "routereval":
        raise DataError("--prompts is for routereval; the other formats have the text")
    if args.answers and args.format != "lookahead":
        raise DataError("--answers is for lookahead; the other formats are read without the answers")
    if args.answers and args.answers.resolve() == args.output.resolve():
        raise DataError(f"--answers {args.answers}: give another folder than --output")
    for number, llm in enumerate(args.llms or ()):
        check_text(llm, "the name of an LLM", "--llms")
        if llm in args.llms[:number]:
            raise DataError(f"--llms names {llm} twice")
    if not args.source.exists():
        raise DataError(f"{args.source}: no such file or folder")


def import_text(args: argparse.Namespace, pairs: Pairs, llms: Sequence[str] | None, ballots: dict[str, Any]) -> list:
    """Write files of questions and scores; with --answers also what each LLM answered. Returns names and rows."""
    complete_files, left_out = complete(pairs, str(args.source), llms, args.missing_cells)
    files = split_off(complete_files, args.test_fraction, args.seed)
    if args.answers:
        new_folder(args.answers)
    written = write(files, args.output)
    if args.answers:
        answered = [name for name, _ in write_answers(files, ballots, args.answers)]
        print(f"{args.answers}: answers to {', '.join(answered)}")
    if pairs.repeated:
        print(f"{pairs.repeated} repeated pairs of LLM and query: the largest score of each was kept")
    if left_out:
        print(f"{left_out} queries left out, since some LLM has no score or cost there (--missing_cells drop)")
    return written


def import_embeddings(args: argparse.Namespace, embedded: dict, llms: Sequence[str]) -> list:
    """Write files of embeddings and scores. Returns names and rows."""
    split_off(embedded, args.test_fraction, args.seed)  # refuses a fraction, since all files have splits
    written = write_embedded(embedded, llms, args.output)
    print(
        "No text (--prompts), so no encoder can be trained on this. The frozen recipe can: "
        "train_router_mdeberta.py --encoder given --freeze_encoder"
    )
    return written


def read(args: argparse.Namespace) -> tuple:
    """Read the source: pairs of LLM and query, answers, embeddings, and the LLMs (None: those of the pairs)."""
    if args.format == "routerbench":
        return routerbench.read(args.source, args.allow_pickle), {}, {}, args.llms
    if args.format == "embedllm":
        return embedllm.read(args.source), {}, {}, args.llms
    if args.format == "llmrouterbench":
        return llmrouterbench.read(args.source), {}, {}, args.llms
    if args.format == "lookahead":
        pairs, ballots = lookahead.read(args.source)
        return pairs, ballots, {}, args.llms
    pairs, embedded, llms = routereval.read(args.source, args.allow_pickle, args.prompts, args.llms)
    return pairs, {}, embedded, llms


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    args = parser().parse_args(argv)
    try:
        check_arguments(args)
        pairs, ballots, embedded, llms = read(args)
        if embedded:
            written = import_embeddings(args, embedded, llms)
        else:
            written = import_text(args, pairs, llms, ballots)
        print(f"{len(llms or pairs.llms)} LLMs: {', '.join(llms or pairs.llms)}")
        for name, rows in written:
            print(f"{args.output / name}: {rows} rows")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
