"""How long a router takes: one query, many, and a fresh process to its first answer."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..meters import bar
from ..router import Router
from .ways import ways_of

BLOCK = 20  # single queries of one way before the next has its turn
TOGETHER = 64  # queries at once


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that some work takes: on the clock, and of the CPU, all threads of this process together."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def summary(seconds: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Milliseconds of many timings: percentiles on the clock, and the median of the CPU."""
    clock, cpu = 1000 * np.array(seconds).T
    at = dict(zip(("median", "p95", "p99"), np.percentile(clock, (50, 95, 99)).tolist()))
    return {**at, "least": float(clock.min()), "cpu_median": float(np.median(cpu))}


def measure_ways(
    folder: Path, questions: Sequence[str], threads: int, rounds: int, singles: int
) -> dict[str, dict[str, Any]]:
    """Time every way on the same queries, in turn, so that noise hits all alike.

    Args:
        folder: of a checkpoint.
        questions: real ones; `singles` of them, others in each round, are routed one by one.
        rounds: how often all of them are routed, in batches of TOGETHER, and at once.
    Returns: for each way {"one": `summary`, "together": `summary`, "per_second": queries on the clock in the best
        round, "per_cpu_second": in the median round}.
    """
    routers = {name: Router.from_pretrained(folder, threads=threads, **way) for name, way in ways_of(folder).items()}
    for router in routers.values():
        router.similarities(questions[:TOGETHER])  # warm
    one: dict[str, list] = {name: [] for name in routers}
    together: dict[str, list] = {name: [] for name in routers}
    at_once: dict[str, list] = {name: [] for name in routers}
    blocks = np.array_split(np.arange(rounds * singles) % len(questions), rounds * max(1, singles // BLOCK))
    batches = [questions[start : start + TOGETHER] for start in range(0, len(questions) - TOGETHER + 1, TOGETHER)]
    steps = len(routers) * (len(blocks) + rounds * (len(batches) + 1))
    with bar(steps, f"time, {threads} threads", "step") as progress:
        for block in blocks:
            for name, router in routers.items():
                one[name] += [timed(lambda: router.similarities([questions[row]])) for row in block]  # noqa: B023
                progress.update()
        for _ in range(rounds):
            for texts in batches:
                for name, router in routers.items():
                    together[name].append(timed(lambda: router.similarities(texts)))  # noqa: B023
                    progress.update()
            for name, router in routers.items():
                at_once[name].append(timed(lambda: router.similarities(questions)))  # noqa: B023
                progress.update()
    result = {}
    for name in routers:
        clock, cpu = np.array(at_once[name]).T
        result[name] = {
            "one": summary(one[name]),
            "together": summary(together[name]),
            "per_second": len(questions) / float(clock.min()),
            "per_cpu_second": len(questions) / float(np.median(cpu)),
        }
    return result


def command_of(ckpt: str, way: Mapping[str, Any], question: str) -> list[str]:
    """The command line that answers one question in one way."""
    flags = [word for name, value in way.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "utils.route", "--ckpt", ckpt, *flags, question]


def measure_start(ckpt: str, folder: Path, question: str, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a fresh process to the end of its first answer, for each way in turn.

    Returns: for each way `summary`, and "bare": that of a Python that imports numpy alone.
    """
    commands = {name: command_of(ckpt, way, question) for name, way in ways_of(folder).items()}
    commands["bare"] = [sys.executable, "-c", "import numpy"]
    seconds: dict[str, list] = {name: [] for name in commands}
    with bar(rounds * len(commands), "start", "process") as progress:
        for _ in range(rounds):
            for name, command in commands.items():
                seconds[name].append(_timed_process(command))
                progress.update()
    return {name: summary(values) for name, values in seconds.items()}


def _timed_process(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of a process on the clock and of the CPU. Raises: ValueError with its last words if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    clock = time.perf_counter() - clock
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{' '.join(command[1:])}: exit status {run.returncode}: {last}")
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
