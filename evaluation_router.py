"""Evaluate a trained router: print the tables of its training run again, or those of other test files.

    python evaluation_router.py --ckpt runs/minilm/seed_1
    python evaluation_router.py --ckpt runs/minilm/seed_1 --test_data_paths mine_test.json --test_data_type multi_attempt
"""

import argparse
import sys
from pathlib import Path

from utils import checkpoint
from utils.data import DataError, load_all
from utils.evaluate import evaluate, tables
from utils.experiment import setup, writable_folder, write_json
from utils.model import trained_part
from utils.tasks import KINDS, task_of


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ckpt", required=True, help="checkpoint folder, or the --save_path of a training run")
    p.add_argument("--test_data_paths", nargs="+", help="default: the test files of the training run")
    p.add_argument("--test_data_type", nargs="+", choices=KINDS, help="score kind of each file; needed for tasks that the paper has not")
    p.add_argument("--output", type=Path, help="write the figures, and the LLM picked for each query, as JSON")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    p.add_argument("--precision", choices=("auto", "bf16", "fp32"), help="default: that of the training run")
    p.add_argument("--cache_dir", type=Path, default=Path(".cache/queries"), help="embeddings of a frozen encoder")
    return p


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    args = parser().parse_args(argv)
    try:
        model, config = checkpoint.load(args.ckpt)
        where = setup(args.device, args.precision or config["precision"])
        part = trained_part(config["settings"])
        model.place(where, part, config["settings"]["train_layers"])
        paths, kinds = args.test_data_paths, args.test_data_type
        if paths is None:
            if kinds:
                raise ValueError("--test_data_type needs --test_data_paths")
            paths, kinds = [test["path"] for test in config["tests"]], [test["kind"] for test in config["tests"]]
            if not paths:
                raise ValueError(f"--ckpt {args.ckpt}: its training run read no test files; name them with --test_data_paths")
        tests = load_all(paths, kinds, ("--test_data_paths", "--test_data_type"))
        model.columns(tests[0].llms)  # an LLM that the router does not know is an error before any work
        tests = [data.for_llms([name for name in model.llms if name in data.llms]) for data in tests]  # rows of tables in the order of training
        inside = [task_of(path) for path in config["settings"]["data_paths"]]
        if args.output:
            writable_folder(args.output.absolute().parent, "--output")
        result = evaluate(model, tests, where, part, args.cache_dir, inside)
        print(tables(result))
        if args.output:
            write_json(args.output, {"checkpoint": str(args.ckpt), "device": where.describe(), **result})
            print(f"\nWritten: {args.output}")
    except (DataError, checkpoint.CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
