"""The steps of the pipeline in miniature; `bash eval_scripts/miniature.sh` runs them all.

python -m utils.miniature texts                    write the questions and the LLMs' training texts
python -m utils.miniature llms maths coder         train these LLMs
python -m utils.miniature table                    accuracy of the LLMs, RouterDC and the references
python -m utils.miniature publish                  copy the data to datasets/miniature
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..config import parse_arguments
from ..files import writable_folder, write_text
from .texts import SIZES, write

PROGRAM = "python -m utils.miniature"


@dataclass(frozen=True)
class Arguments:
    """options"""

    step: tyro.conf.Positional[Literal["texts", "llms", "table", "publish"]]
    """which step"""
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """llms: which ones; default: all"""
    runs: Path = Path("runs/miniature")
    """folder of everything that the pipeline makes"""
    router: Path | None = None
    """table: folder of the routers' runs; default: router in --runs"""
    output: Path = Path("datasets/miniature")
    """publish: folder for the data"""
    size: Literal[tuple(sorted(SIZES))] = "full"
    """how much there is to learn and to ask"""
    seed: int = 1
    """of texts and LLMs"""

    @property
    def texts(self) -> Path:
        """The folder of the questions and training texts."""
        return self.runs / "texts"


def is_made(note: Path, args: Arguments) -> bool:
    """Whether `note`, which a finished step leaves, is there. Raises: ValueError if it has another size or seed."""
    if not note.is_file():
        return False
    made = json.loads(note.read_text(encoding="utf-8"))
    if (made["size"], made["seed"]) != (args.size, args.seed):
        raise ValueError(
            f"{note.parent} was made with size {made['size']} and seed {made['seed']}, "
            f"now {args.size} and {args.seed}; choose another folder (RUNS)"
        )
    return True


def make_texts(args: Arguments) -> None:
    """Write the questions and training texts, unless they are there."""
    if is_made(args.texts / "about.json", args):
        return
    writable_folder(args.runs, "--runs")
    about = write(args.texts, args.seed, args.size)
    print(f"questions: {about['questions']}\ntraining texts: {about['texts']}")


def train_llms(args: Arguments) -> None:
    """Train the LLMs that are named, but for those that are there. Raises: ValueError for a name that no LLM has."""
    from .llms import LLMS, train  # torch: not for those who only generate

    if unknown := [name for name in args.names if name not in LLMS]:
        raise ValueError(f"no LLM is called {', '.join(unknown)}; there are {', '.join(LLMS)}")
    if not is_made(args.texts / "about.json", args):
        raise ValueError(f"{args.texts}: no texts there; run {PROGRAM} texts first")
    for name in args.names or LLMS:
        if not is_made(args.runs / "llms" / name / "training.json", args):
            train(name, args.texts, args.runs / "llms", args.size, args.seed)


def make_table(args: Arguments) -> None:
    """Write table.md beside the routers, and print it."""
    from .report import finished, sentence, table, voted

    router = args.router or args.runs / "router"
    text, averages = table(finished(router), voted(router))
    write_text(router / "table.md", f"{text}\n\n{sentence(averages)}\n")
    print((router / "table.md").read_text(encoding="utf-8"))


def publish_data(args: Arguments) -> None:
    """Copy the data of a finished pipeline."""
    from .report import publish

    files = publish(args.runs, args.output)
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files):,} bytes in {args.output}")


STEPS = {"texts": make_texts, "llms": train_llms, "table": make_table, "publish": publish_data}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    try:
        args = parse_arguments(Arguments, sys.argv[1:] if argv is None else argv, PROGRAM, __doc__)
        STEPS[args.step](args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: what is finished stays, and the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
