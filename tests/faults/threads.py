"""How long 200 queries take to embed, by how threads wait for one another, alone and beside busy programs.

    PYTHONPATH=. python tests/faults/threads.py --output threads.json

utils/__init__.py sets the short spin. Each cell is the median of several fresh processes, taken in turns.
"""

import os
import statistics
import subprocess
import sys
import time

from runner import command_line, finish

WAYS = {  # what the environment says
    "OpenMP's own spin": {"GOMP_SPINCOUNT": "300000"},
    "the short spin": {},
    "no spin": {"OMP_WAIT_POLICY": "PASSIVE"},
}
WORK = """
import time
from utils.encoders import Queries, load_encoder
from utils.experiment import choose_hardware
encoder, hardware = load_encoder("minilm"), choose_hardware("cpu")
texts = [f"What is {number} times {number + 3}? " + "Explain it well. " * (number % 20) for number in range(200)]
Queries(encoder, texts[:20], hardware, "none")
begun = time.perf_counter()
Queries(encoder, texts, hardware, "none")
print(time.perf_counter() - begun)
"""
LIMIT = 60.0  # seconds that a process may take, with its start


def seconds(environment: dict[str, str]) -> float:
    """One measurement; LIMIT if it takes longer."""
    without = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    command = [sys.executable, "-c", WORK]
    try:
        done = subprocess.run(
            command, env=without | environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return LIMIT
    if done.returncode:
        raise RuntimeError(f"the measurement failed: {' '.join(command[:2])} ended with {done.returncode}")
    return float(done.stdout)


def measure(times: int) -> list[dict]:
    """Medians and their ratios to the first way, alone and beside as many busy processes as there are cores."""
    rows = []
    for busy in (0, os.cpu_count()):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            measured: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(times):
                for way, environment in WAYS.items():
                    measured[way].append(seconds(environment))
        finally:
            for other in others:
                other.kill()
        medians = {way: statistics.median(values) for way, values in measured.items()}
        first = next(iter(medians.values()))
        for way, median in medians.items():
            rows.append({"name": way, "busy processes": busy, "seconds": median, "times OpenMP's own": median / first})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    args = command_line(__doc__, 5, "processes for each cell").parse_args(argv)
    begun = time.monotonic()
    return finish(__file__, argv, args, begun, measure(args.count))


if __name__ == "__main__":
    sys.exit(main())
