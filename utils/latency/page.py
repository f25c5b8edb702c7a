"""results/latency.md: what `python -m utils.latency` measured, as tables."""

from collections.abc import Mapping
from typing import Any

from ..tables import markdown
from .ways import BF16, IN_INT8, REFERENCE

INTRODUCTION = """\
# A router on a CPU: latency and agreement

Made by `python -m utils.latency`; the command of each part stands below it. In one part all ways have their turns on \
the same queries, so that what else the machine does hits all alike: the ratios are safer than the figures. "CPU" is \
the processor time of all threads together, which other programs change least.

Processor: {cpu}. Versions: {versions}.
"""
SPEED = """\
## Speed, {threads} thread{s}

{table}

Milliseconds, from text to similarities: {singles} single queries of the test files and batches of 64, and queries per \
second when {queries} are given at once (best of {rounds} rounds; by CPU: median).{ratios}
"""
START = """\
## A fresh process to its first answer

{table}

Milliseconds of `python -m utils.route` with one question, imports, digests and loading in it; "bare" is a Python that \
imports numpy alone.
"""
AGREEMENT = """\
## Picks of {ckpt}

{table}

Of {queries} queries of the test files; equal picks with torch in fp32, and what all picks are worth (mean accuracy of \
the tasks in and out of distribution, %).
"""
QUANTISATION = """\
## Ways to make 8-bit numbers, on {count} training queries

{table}

Agreement with the graph in fp32. "Alone": every query is computed by itself. Otherwise several of similar length are, \
and share the steps of their 8-bit numbers, so that a pick can depend on the queries beside it.
"""


def speed(part: Mapping[str, Any]) -> list[str]:
    """A table for each number of threads."""
    blocks = []
    for threads, ways in part["threads"].items():
        rows = []
        for name, found in ways.items():
            one, together = found["one"], found["together"]
            cells = [f"{one[key]:.1f}" for key in ("median", "p95", "p99", "least", "cpu_median")]
            cells += [f"{together[key]:.0f}" for key in ("median", "p95", "p99")]
            rows.append([name, *cells, f"{found['per_second']:.0f}", f"{found['per_cpu_second']:.0f}"])
        header = ["", "one: median", "p95", "p99", "least", "CPU", "64: median", "p95", "p99", "queries/s", "by CPU"]
        text = {key: part[key] for key in ("queries", "rounds", "singles")}
        text |= {"threads": threads, "s": "" if threads == "1" else "s", "ratios": ratios(ways)}
        blocks.append(SPEED.format(table=markdown(header, rows), **text))
    return blocks


def ratios(ways: Mapping[str, Any]) -> str:
    """How much faster 8-bit numbers are than bf16 in torch."""
    eight, bf16 = ways[IN_INT8], ways[BF16]
    clock = eight["per_second"] / bf16["per_second"]
    cpu = eight["per_cpu_second"] / bf16["per_cpu_second"]
    one = bf16["one"]["median"] / eight["one"]["median"]
    return (
        f" {IN_INT8} has {clock:.2f} times the queries per second of {BF16} ({cpu:.2f} times by CPU), and answers "
        f"one in 1/{one:.2f} of the time."
    )


def start(part: Mapping[str, Any]) -> list[str]:
    """The table of fresh processes."""
    rows = []
    for name, found in part["ways"].items():
        rows.append([name, *[f"{found[key]:.0f}" for key in ("median", "least", "cpu_median")]])
    return [START.format(table=markdown(["", "median", "least", "CPU"], rows))]


def agreement(part: Mapping[str, Any]) -> list[str]:
    """A table for each checkpoint."""
    blocks = []
    for ckpt, found in part["checkpoints"].items():
        rows = []
        for name, way in found["ways"].items():
            equal = "-" if name == REFERENCE else f"{way['equal_picks']:.2f}"
            worst = "-" if name == REFERENCE else f"{way['largest_difference']:.1e}"
            rows.append([name, equal, worst, f"{way['id_avg']:.2f}", f"{way['ood_avg']:.2f}"])
        header = ["", "equal picks, %", "largest difference", "ID avg", "OOD avg"]
        blocks.append(AGREEMENT.format(ckpt=ckpt, table=markdown(header, rows), queries=found["queries"]))
    return blocks


def quantisation(part: Mapping[str, Any]) -> list[str]:
    """The table of ways to make 8-bit numbers."""
    rows = []
    for found in part["ways"]:
        name = found["way"] + (", alone" if found["alone"] else "")
        equal, worst = f"{found['equal_picks']:.2f}", f"{found['largest_difference']:.2f}"
        rows.append([name, equal, worst, f"{found['per_cpu_second']:.0f}", f"{found['megabytes']:.0f}"])
    header = ["", "equal picks, %", "largest difference", "queries per second of CPU", "MB"]
    return [QUANTISATION.format(table=markdown(header, rows), count=part["count"])]


BLOCKS = {"speed": speed, "start": start, "agreement": agreement, "quantisation": quantisation}


def page(result: Mapping[str, Any]) -> str:
    """The page of all parts that were measured."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    blocks = [INTRODUCTION.format(cpu=result["cpu"], versions=versions)]
    for name, block in BLOCKS.items():
        if name in result["parts"]:
            part = result["parts"][name]
            blocks += block(part)
            busy = f", {part['load']:g} programs on the processor" if "load" in part else ""
            blocks.append(f"`{part['command']}` ({part['seconds']:.0f} s{busy})\n")
    return "\n".join(blocks)
