"""How far apart several processes and one are: ten steps of MiniLM on released data, on a CPU.

    PYTHONPATH=. python tests/ranks.py --output results/ranks.json

Prints a Markdown table: for 2 and 4 processes the largest difference from one process in losses, in gradients of the
first step, in weights after ten steps, and in the tables of two test sets; and the time of the ten steps. Every process
has one thread. In float32 the key biases are left out of the weights: in a softmax over keys they cancel out, so that
their gradients are noise, which AdamW scales up.
"""

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

from test_distributed import F32, F64, largest_difference, launched, steps_of, training_of

from utils.config import flags_of
from utils.data import load
from utils.distributed import processes
from utils.evaluate import evaluate
from utils.files import write_json
from utils.model import trained_layers_of
from utils.tables import markdown

DATA = "datasets/split2_model7"
KINDS = {  # what trains, and in which precision
    "all layers, float32": ({}, F32),
    "all layers, float64": ({}, F64),
    "last 2 layers, float32": ({"train_layers": 2}, F32),
    "frozen encoder, float32": ({"freeze_encoder": True, "learning_rate": 1e-3}, F32),
}
COLUMNS = ("losses", "gradients", "weights", "tables, points", "other picks", "seconds")


def command_of(batch: int, flags: dict, folder: str) -> list[str]:
    """A training on two tasks at the paper's learning rate, without dropout."""
    tasks = [f"{DATA}_cluster/{name}_train.json" for name in ("arc_challenge", "humaneval")]
    shared = {"encoder": "minilm", "data_paths": tasks, "batch_size": batch, "dropout": 0.0, "max_length": 256}
    shared |= {"precision": "fp32", "threads": 1, "save_path": f"{folder}/run", "cache_dir": f"{folder}/cache"}
    return flags_of(shared | flags)


def measured(batch: int, folder: str) -> dict:
    """What each process computes and how long that takes, by kind."""
    tests = [load(f"{DATA}/{name}_test.json") for name in ("arc_challenge", "humaneval")]
    results = {}
    with processes():
        for kind, (flags, tolerance) in KINDS.items():
            training = training_of(command_of(batch, flags, folder), tolerance, tokens=512)
            begun = time.perf_counter()
            results[kind] = steps_of(training) | {"seconds": time.perf_counter() - begun}
            training.model.float().eval()
            layers = trained_layers_of({"freeze_encoder": False, "train_layers": None} | flags)
            tests = [data.for_llms(training.model.llms) for data in tests]
            results[kind]["test"] = evaluate(training.model, tests, training.hardware, layers)
    return results


def compared(found: dict, expected: dict, tolerance: float) -> list[float]:
    """The values of COLUMNS for one kind and one number of processes."""
    noise = "key.bias" if tolerance == F32 else "nothing"
    tasks, others = found["test"]["tasks"], expected["test"]["tasks"]
    picks = [found["test"]["picks"][task] != expected["test"]["picks"][task] for task in tasks]
    return [
        float((found["losses"] - expected["losses"]).abs().max()),
        largest_difference(found["gradients"], expected["gradients"]),
        largest_difference(found["weights"], expected["weights"], noise),
        max(abs(tasks[task] - others[task]) for task in tasks),
        sum(picks),
        round(found["seconds"], 1),
    ]


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="the first one is compared with")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    begun = time.monotonic()
    found = {}
    for size in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            results, text = launched(Path(folder) / "out", size, measured, args.batch_size, folder, limit=3600)
        print(text, file=sys.stderr, end="")
        found[size] = results[0]
    rows = []
    for kind, (_, tolerance) in KINDS.items():
        for size in args.ranks:
            values = compared(found[size][kind], found[args.ranks[0]][kind], tolerance)
            rows.append({"trained": kind, "processes": size, **dict(zip(COLUMNS, values))})
    command = shlex.join(["python", "tests/ranks.py", *sys.argv[1:]])
    about = {"command": f"PYTHONPATH=. {command}", "batch_size": args.batch_size, "threads": 1, "seed": 1}
    write_json(args.output, about | {"seconds": round(time.monotonic() - begun), "rows": rows})
    cells = [[f"{value:.1g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    for row, texts in zip(rows, cells):
        texts[-1] = f"{row['seconds']:.1f}"
    print(markdown([*rows[0]], cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
