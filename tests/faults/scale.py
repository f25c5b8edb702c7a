"""How the cost of what a run does once grows with the rows and the LLMs.

    PYTHONPATH=. python tests/faults/scale.py --output scale.json

A row tells the median seconds of one call. PYTHONPATH may name another checkout, to compare with.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from runner import command_line, finish

from utils.baselines.base import Rows, choose, unit
from utils.baselines.knn import KNN
from utils.clustering import silhouette
from utils.data import RoutingData, load
from utils.experiment import batch_rows
from utils.metrics import references

SIZES = [(10**4, 7), (10**5, 7), (10**6, 7), (10**4, 100), (10**5, 100), (10**4, 1000)]  # rows, LLMs
NEIGHBOURS = (10**4, 3 * 10**4)  # rows of the search for neighbours, whose work is quadratic
SILHOUETTES = (10**4, 3 * 10**4)
DIMENSIONS = 384  # of an embedding


def median_seconds(call: Callable[[], object], times: int) -> float:
    """Median wall clock of `times` calls."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def write_rows(path: Path, rows: int, llms: int) -> None:
    """A training file as JSON: right or wrong for each row and LLM, and questions of a sentence."""
    scores = np.random.default_rng(0).integers(0, 2, (rows, llms))
    names = [f"llm-{number}" for number in range(llms)]
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(scores):
            question = f"What is {number} plus {number % 7}, and how do you know?"
            line = {"question": question, "scores": dict(zip(names, map(int, row)))}
            file.write(json.dumps(line) + "\n")


def data_of(rows: int, llms: int) -> RoutingData:
    """The same rows in memory, read from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many_test.jsonl"
        write_rows(path, rows, llms)
        return load(path, "multi_attempt")


def files_and_tables(rows: int, llms: int) -> list[dict]:
    """Reading a file, and the rows of a table that need no router."""
    seconds = {}

    def read() -> RoutingData:
        begun = time.perf_counter()
        data = load(path, "probability")
        seconds["read"] = time.perf_counter() - begun
        return data

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many_test.jsonl"
        write_rows(path, rows, llms)
        data = read()
        megabytes = path.stat().st_size / 2**20
    table = median_seconds(lambda: references([data]), 1)
    return [
        {"name": "read JSON lines", "rows": rows, "llms": llms, "seconds": seconds["read"], "megabytes": megabytes},
        {"name": "reference rows of a table", "rows": rows, "llms": llms, "seconds": table},
    ]


def batches(rows: int) -> dict:
    """A batch of 64."""
    pool, number = np.arange(rows), iter(range(10**6))
    batch_rows(pool, 64, next(number), seed=1)
    return {
        "name": "draw a batch",
        "rows": rows,
        "seconds": median_seconds(lambda: batch_rows(pool, 64, next(number), 1), 9),
    }


def clusters(rows: int) -> dict:
    """The silhouette of eight clusters."""
    rng = np.random.default_rng(0)
    points, ids = rng.normal(size=(rows, DIMENSIONS)).astype(np.float32), rng.integers(0, 8, rows)
    return {"name": "silhouette", "rows": rows, "seconds": median_seconds(lambda: silhouette(points, ids), 1)}


def neighbours(rows: int) -> dict:
    """The choice of k for kNN, with a tenth as many validation rows."""
    rng = np.random.default_rng(0)
    x, y = unit(rng.normal(size=(rows, DIMENSIONS)).astype(np.float32)), rng.random((rows, 7), dtype=np.float32)
    held = rows // 10
    queries = unit(rng.normal(size=(held, DIMENSIONS)).astype(np.float32))
    data = data_of(held, 7)
    train = Rows(x, y, np.full(rows, "many"))
    return {
        "name": "choose k of kNN",
        "rows": rows,
        "llms": 7,
        "seconds": median_seconds(lambda: choose(KNN, train, [(queries, data)], seed=1), 1),
    }


def measure(largest: int) -> list[dict]:
    """All rows of at most `largest` rows."""
    measured = []
    for rows, llms in SIZES:
        if rows * llms <= 10 * largest:
            measured += files_and_tables(rows, llms)
    measured += [batches(rows) for rows in (10**4, 10**5, 10**6) if rows <= largest]
    measured += [clusters(rows) for rows in SILHOUETTES if rows <= largest]
    measured += [neighbours(rows) for rows in NEIGHBOURS if rows <= largest]
    return measured


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    args = command_line(__doc__, 10**6, "rows at most").parse_args(argv)
    begun = time.monotonic()
    return finish(__file__, argv, args, begun, measure(args.count))


if __name__ == "__main__":
    sys.exit(main())
