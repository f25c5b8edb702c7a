"""Damaged files that a run keeps for itself: its state is refused by name, its cache is computed again.

PYTHONPATH=. python tests/faults/kept.py --output kept.json
"""

import contextlib
import io
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from checkpoints import make
from runner import command_line, finish

from utils import checkpoint
from utils.encoders import Queries
from utils.experiment import Hardware
from utils.run import Progress, RunFolder

QUERIES = ["What is 2 + 3?", "Name a river.", "Why?"]


def damage(folder: Path, rng: random.Random) -> None:
    """One file of a folder with changed bits, without its end, with a block of zeros, or gone."""
    path = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    way = rng.choice(("bits", "end", "zeros", "gone"))
    if way == "gone":
        path.unlink()
        return
    if way == "bits":
        content[start] ^= 1 << rng.randrange(8)
    elif way == "end":
        del content[start:]
    else:
        content[start : start + 64] = bytes(len(content[start : start + 64]))
    path.write_bytes(content)


def tried(name: str, count: int, folder: Path, rng: random.Random, read: Callable[[], str]) -> dict:
    """Damage a folder `count` times and read it: "same", "refused" by name, "raw" error or "different"."""
    whole = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    counts = dict.fromkeys(("same", "refused", "raw", "different"), 0)
    for _ in range(count):
        damage(folder, rng)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                counts[read()] += 1
        except ValueError as error:
            counts["refused" if str(folder) in str(error) else "raw"] += 1
        except Exception as error:  # whatever a library raises is what is counted here, and shown
            counts["raw"] += 1
            print(f"{name}: {type(error).__name__}: {error}")
        for path, content in whole.items():
            path.write_bytes(content)
    return {"name": name, "tried": count, **counts, "bad": counts["raw"] + counts["different"]}


def state(folder: Path, count: int, rng: random.Random) -> dict:
    """The state of a stopped run."""
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    run = RunFolder(folder, {"H": 3})
    expected = Progress(step=7, evaluations=2, best_step=5, best_validation=61.5)
    run.save_state(model, optimizer, {"weight": torch.ones(3, 4)}, expected)
    weight = model.weight.detach().clone()

    def read() -> str:
        best, progress = run.load_state(model, optimizer)
        is_same = progress == expected and torch.equal(model.weight, weight)
        return "same" if is_same else "different"

    return tried("state of a run", count, run.state, rng, read)


def cache(folder: Path, count: int, rng: random.Random) -> dict:
    """The embeddings of three queries."""
    make(folder / "checkpoint", 1)
    encoder = checkpoint.load(folder / "checkpoint")[0].encoder
    hardware = Hardware(torch.device("cpu"), precision="fp32", tokens=512, multiple=8)

    def embedded() -> torch.Tensor:
        return Queries(encoder, QUERIES, hardware, "none", folder / "cache").embed()

    expected = embedded()

    def read() -> str:
        return "same" if torch.equal(embedded(), expected) else "different"

    return tried("cache of embeddings", count, folder / "cache", rng, read)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 1 if anything was bad."""
    args = command_line(__doc__, 3000, "damages of each", seed=1).parse_args(argv)
    begun, rows = time.monotonic(), []
    for number, part in enumerate((state, cache)):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(part(Path(folder).resolve(), args.count, random.Random(args.seed + number)))
    return finish(__file__, argv, args, begun, rows)


if __name__ == "__main__":
    sys.exit(main())
