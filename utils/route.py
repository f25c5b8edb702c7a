"""Which LLM should answer each query: questions of the command line, or the lines of a file or of a pipe.

python -m utils.route --ckpt runs/mine "What is 17 * 23?"
python -m utils.route --ckpt runs/mine --input queries.jsonl --output picks.jsonl
... | python -m utils.route --ckpt runs/mine --text | ...

A line is a JSON object with a question, and is passed through with the LLM added; with --text it is the question. What
is in --output when the command is stopped, even killed, stays, and the same command goes on behind it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .reading import PRECISIONS


def parser() -> argparse.ArgumentParser:
    """The flags. Nothing is imported for them that takes time."""
    description, _, more = __doc__.partition("\n")
    command = argparse.ArgumentParser(
        "python -m utils.route",
        description=f"{description}\n{more}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = command.add_argument
    add("questions", nargs="*", metavar="QUESTION", help="texts to route; none: the lines of --input")
    add("--ckpt", required=True, help="a run's folder, a checkpoint folder, or a name on the model hub")
    lines = command.add_argument_group("lines")
    add = lines.add_argument
    add("--input", help="file with a JSON object a line; default, or -: standard input")
    add("--output", default="-", help="file for the lines with the LLM added; default, or -: standard output")
    add("--field", default="question", help="the field with the question (default: %(default)s)")
    add("--text", action="store_true", help="a line is the question itself, no JSON")
    add("--prefix", default="", help="of the fields that are added: llm, similarity, ...; for lines that have them")
    add("--on_error", choices=("stop", "skip"), default="stop", help="a broken line: stop there, or leave it out")
    add("--batch_size", type=_count, default=256, help="lines at once (default: %(default)s)")
    add("--overwrite", action="store_true", help="begin again although --output is there")
    choice = command.add_argument_group("choice")
    add = choice.add_argument
    add("--llms", nargs="+", metavar="LLM", help="choose among these alone; put it behind the questions")
    add("--cost_rate", type=float, default=0.0, help="choose by P(right) - cost_rate * US dollars")
    add("--threshold", type=_share, help="below this P(right) the best single LLM answers")
    add("--explain", action="store_true", help="add all similarities, and the nearest training queries with scores")
    add("--neighbours", type=_count, default=3, help="how many of them (default: %(default)s)")
    hardware = command.add_argument_group("hardware")
    add = hardware.add_argument
    add("--backend", choices=("torch", "onnx"), default="torch", help="what computes (default: %(default)s)")
    add("--file", help="which model file of the backend onnx")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="auto: that of the training run")
    add("--threads", type=_natural, default=0, help="of the CPU; 0: as many as cores")
    add("--cache_dir", type=Path, default=Path(".cache/explain"), help="embeddings of training queries for --explain")
    return command


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError, naming the flags, for arguments that exclude each other, or nothing to route."""
    if args.questions and (args.input or args.output != "-"):
        raise ValueError("questions on the command line and --input or --output exclude each other; give one")
    if not args.questions and args.input is None and sys.stdin.isatty():
        raise ValueError('nothing to route: give a question ("What is 17 * 23?"), --input FILE, or pipe lines in')


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted, 141 for a closed pipe."""
    args = parser().parse_args(argv)
    from .lines import drop_output, leave_closed_pipe
    from .route_lines import answer, route_lines

    try:
        check_arguments(args)
        if args.questions:
            answer(args)
        else:
            route_lines(args)
        sys.stdout.flush()
    except BrokenPipeError:
        return leave_closed_pipe()
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        drop_output()
        return 2
    except KeyboardInterrupt:
        stays = "" if args.output == "-" else f"; {args.output} keeps what is done, and the same command goes on"
        print(f"interrupted{stays}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
