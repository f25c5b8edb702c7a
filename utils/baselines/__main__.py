"""Fit and test the baseline routers and the controls on frozen query embeddings.

Data, splits and metric are those of training.

    python -m utils.baselines --encoder minilm --targets score --seeds 1 2 3 4 5 --save_path runs/baselines/frozen
    python -m utils.baselines --routers knn ridge --encoder minilm --save_path runs/mine --data_paths a_train.json ...

Each (router, seed) is a run of its own, `<save_path>/<name>/seed_<seed>`, with the results.json of
train_router_mdeberta.py: finished ones are skipped, and `python -m utils.report` collects them. Settings are chosen on
the validation rows of the seed, from the grid in the router's file. CosineClassifier and ZOOTER share RouterDC's
training loop: train_router_mdeberta.py --loss. All by one command: train_scripts/baselines.sh.

    python -m utils.baselines --routers lora_retriever --encoder_ckpt "runs/routerdc/seed_{seed}" --save_path runs/mine

takes the embeddings of trained routers in place of a pre-trained encoder's. The name of such a run ends in
"trained encoder".
"""

import shlex
import sys

from ..checkpoint_files import CheckpointError
from ..encoders import EncoderError
from ..report.runs import runs_below
from ..report.summary import summary
from .arguments import parse
from .run import run_all


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted (resumable)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        args = parse(arguments, __doc__)
        runs = run_all(args, shlex.join(["python", "-m", "utils.baselines", *arguments]))
        print(summary(runs_below(runs)))
    except (EncoderError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with the runs that are left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
