"""How much of the oracle's head-room can be learned from the queries, task by task, with the task's own labels.

    python -m utils.ceiling                          the paper's test files: results/ceiling.json and ceiling.md
    python -m utils.ceiling --dataset routerbench    RouterBench's
    python -m utils.ceiling --test_data_paths my_test.json --test_data_type multi_attempt --results results/mine
    bash train_scripts/ceiling.sh                    the first two, a fine-tuned encoder, and the figures

Within each test file: five-fold cross-validation of routing against always taking the LLM that is best on the
training folds, with settings and learner chosen by another cross-validation inside them; learning curves; and of
files with several answers per query, the part of the oracle's head-room that repeats. A figure is kept for the
content of a file and its LLMs; all tables that have those show it beside the oracle, when it lies in results/ or in a
folder there. Picks of each (file, seed) stay in --save_path: a stopped run goes on.
"""

import shlex
import sys

from ..encoders import EncoderError
from .arguments import parse
from .known import FILE
from .measure import run_all
from .page import PAGE, table


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted (resumable)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        args = parse(arguments, __doc__)
        print(table(run_all(args, shlex.join(["python", "-m", "utils.ceiling", *arguments]))))
        print(f"\nwritten to {args.results / PAGE} and {FILE}")
    except (EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with what is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
