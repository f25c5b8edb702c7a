"""The steps of the pipeline in miniature; `bash eval_scripts/miniature.sh` runs them all.

python -m utils.miniature texts                    write the questions and the LLMs' training texts
python -m utils.miniature llms maths coder         train these LLMs
python -m utils.miniature table                    accuracy of the LLMs, RouterDC and the references
python -m utils.miniature publish                  copy the data to datasets/miniature
"""

import argparse
import json
import sys
from pathlib import Path

from utils.files import writable_folder, write_text
from utils.miniature.texts import SIZES, write


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m utils.miniature", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("step", choices=("texts", "llms", "table", "publish"))
    p.add_argument("names", nargs="*", help="llms: which ones; default: all")
    p.add_argument(
        "--runs", type=Path, default=Path("runs/miniature"), help="folder of everything that the pipeline makes"
    )
    p.add_argument("--router", type=Path, help="table: folder of the routers' runs; default: router in --runs")
    p.add_argument("--output", type=Path, default=Path("datasets/miniature"), help="publish: folder for the data")
    p.add_argument("--size", choices=sorted(SIZES), default="full")
    p.add_argument("--seed", type=int, default=1, help="of texts and LLMs")
    return p


def made_with(path: Path, size: str, seed: int) -> bool:
    """Whether `path`, the note of a finished step, is there. Raises: ValueError if it says another size or seed."""
    if not path.is_file():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    if (found["size"], found["seed"]) != (size, seed):
        raise ValueError(
            f"{path.parent} was made with size {found['size']} and seed {found['seed']}, now {size} and {seed}; choose another folder (RUNS)"
        )
    return True


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    args = parser().parse_args(argv)
    try:
        if args.step == "texts":
            if not made_with(args.runs / "texts" / "about.json", args.size, args.seed):
                writable_folder(args.runs, "--runs")
                about = write(args.runs / "texts", args.seed, args.size)
                print(f"questions: {about['questions']}\ntraining texts: {about['texts']}")
        elif args.step == "llms":
            from utils.miniature.llms import LLMS, train  # torch: not for those who only generate

            if unknown := [name for name in args.names if name not in LLMS]:
                raise ValueError(f"no LLM is called {', '.join(unknown)}; there are {', '.join(LLMS)}")
            if not made_with(args.runs / "texts" / "about.json", args.size, args.seed):
                raise ValueError(f"{args.runs / 'texts'}: no texts there; run python -m utils.miniature texts first")
            for name in args.names or LLMS:
                if not made_with(args.runs / "llms" / name / "training.json", args.size, args.seed):
                    train(name, args.runs / "texts", args.runs / "llms", args.size, args.seed)
        elif args.step == "table":
            from utils.miniature.report import finished, sentence, table, voted

            router = args.router or args.runs / "router"
            text, figures = table(finished(router), voted(router))
            write_text(router / "table.md", f"{text}\n\n{sentence(figures)}\n")
            print((router / "table.md").read_text(encoding="utf-8"))
        else:
            from utils.miniature.report import publish

            files = publish(args.runs, args.output)
            print(f"{len(files)} files, {sum(path.stat().st_size for path in files):,} bytes in {args.output}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: what is finished stays, and the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
