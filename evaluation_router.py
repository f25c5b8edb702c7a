"""Evaluate a trained router: print the tables of its training run again, or those of other test files.

python evaluation_router.py --ckpt runs/minilm/seed_1
python evaluation_router.py --ckpt runs/minilm/seed_1 --test_data_paths mine_test.json --test_data_type multi_attempt
python evaluation_router.py --ckpt runs/minilm/seed_1 --query "What is 17 * 23?"        which LLM should answer it
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from utils import checkpoint
from utils.data import DataError, cut, load_all, reading
from utils.encoders import Queries
from utils.evaluate import evaluate
from utils.experiment import Hardware, choose_hardware
from utils.files import writable_folder, write_json
from utils.model import RouterDC, trained_part
from utils.tables import tables
from utils.tasks import KINDS, short, task_of


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ckpt", required=True, help="checkpoint folder, or the --save_path of a training run")
    p.add_argument("--test_data_paths", nargs="+", help="default: the test files of the training run")
    p.add_argument(
        "--test_data_type",
        nargs="+",
        choices=KINDS,
        help="score kind of each file; needed for tasks that the paper has not",
    )
    p.add_argument(
        "--query",
        nargs="+",
        metavar="TEXT",
        help="route these queries instead, or each line of standard input with --query -",
    )
    p.add_argument(
        "--llms", nargs="+", help="with --query: the LLMs to choose from; default: all that the router knows"
    )
    p.add_argument("--output", type=Path, help="write the figures, and the LLM picked for each query, as JSON")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    p.add_argument("--precision", choices=("auto", "bf16", "fp32"), help="default: that of the training run")
    p.add_argument("--cache_dir", type=Path, default=Path(".cache/queries"), help="embeddings of a frozen encoder")
    return p


@torch.no_grad()
def choose(
    model: RouterDC,
    queries: Sequence[str],
    llms: Sequence[str],
    where: Hardware,
    characters: int | None = None,
    keep: str = "last",
) -> list[dict[str, Any]]:
    """Route queries: for each {"query", "llm": the one picked, "similarity": {llm: cosine or inner product}}.

    The pick is the arg-max over `llms` alone. Of each query `characters` are read, all by default, from the end `keep`.
    Raises: ValueError for no query, an empty one, or an LLM that the router does not know.
    """
    columns = model.columns(llms)
    if not queries:
        raise ValueError("--query -: standard input is empty; give one query a line")
    for number, query in enumerate(queries):
        if not query.strip():
            raise ValueError(f"--query: number {number} is empty; give the text that an LLM would get")
    read = [cut(query, characters, keep) for query in queries]
    similarity = model(Queries(model.encoder, read, where, "all").embed())[1][:, columns]  # (N, T)
    picks = similarity.argmax(dim=1).tolist()
    return [
        {"query": q, "llm": llms[t], "similarity": dict(zip(llms, row))}
        for q, t, row in zip(queries, picks, similarity.tolist())
    ]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    args = parser().parse_args(argv)
    try:
        model, config = checkpoint.load(args.ckpt)
        where = choose_hardware(args.device, args.precision or config["precision"])
        part = trained_part(config["settings"])
        model.place(where, part, config["settings"]["train_layers"])
        if args.output:
            writable_folder(args.output.absolute().parent, "--output")
        if args.llms and not args.query:
            raise ValueError("--llms needs --query")
        if args.query:
            if args.test_data_paths:
                raise ValueError("--query and --test_data_paths exclude each other; give one")
            texts = sys.stdin.read().splitlines() if args.query == ["-"] else args.query
            options = reading(config["settings"])
            routed = choose(model, texts, args.llms or model.llms, where, options["characters"], options["keep"])
            for pick in routed:
                near = sorted(pick["similarity"].items(), key=lambda item: -item[1])
                print(
                    f"{pick['llm']}\t{pick['query']}\n    similarity: {', '.join(f'{short(llm)} {value:.3f}' for llm, value in near)}"
                )
            if args.output:
                write_json(args.output, {"checkpoint": str(args.ckpt), "device": where.describe(), "queries": routed})
            return 0
        paths, kinds = args.test_data_paths, args.test_data_type
        if paths is None:
            if kinds:
                raise ValueError("--test_data_type needs --test_data_paths")
            paths, kinds = [test["path"] for test in config["tests"]], [test["kind"] for test in config["tests"]]
            if not paths:
                raise ValueError(
                    f"--ckpt {args.ckpt}: its training run read no test files; name them with --test_data_paths"
                )
        settings = config["settings"]
        tests = load_all(paths, kinds, ("--test_data_paths", "--test_data_type"), **reading(settings))
        if args.test_data_paths is None and config["settings"].get(
            "llms"
        ):  # a run with --llms read these columns alone
            tests = [data.for_llms([name for name in data.llms if name in model.llms]) for data in tests]
        model.columns(tests[0].llms)  # an LLM that the router does not know is an error before any work
        tests = [
            data.for_llms([name for name in model.llms if name in data.llms]) for data in tests
        ]  # rows of tables in the order of training
        inside = [task_of(path) for path in config["settings"]["data_paths"]]
        result = evaluate(model, tests, where, part, args.cache_dir, inside, settings.get("cost_rate", 0.0))
        result["dataset"] = settings.get("dataset", "paper")
        print(tables(result, f"{config['router']} (this run)"))
        if args.output:
            write_json(args.output, {"checkpoint": str(args.ckpt), "device": where.describe(), **result})
            print(f"\nWritten: {args.output}")
    except (DataError, checkpoint.CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
