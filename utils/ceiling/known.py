"""Ceilings that were measured before, looked up for the test files at hand. Imports nothing above utils.data."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..data import RoutingData

FILE = "ceiling.json"
RESULTS = Path("results")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of one ceiling.json, one for each test file; none if it is not there.

    Raises: ValueError if the file is no such file.
    """
    if not path.is_file():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))["tasks"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{path}: not a file of `python -m utils.ceiling`; remove it and run that again") from None


def ceiling_of(
    records: Sequence[dict[str, Any]], sha256: str, llms: Collection[str], queries: int | None = None
) -> float | None:
    """The ceiling in % of a test file, by its hash, its set of LLMs and the number of its rows that count.

    None if it was not measured.
    """
    for record in records:
        same = record["sha256"] == sha256 and set(record["llms"]) == set(llms)
        if same and queries in (None, record["queries"]):
            return record["ceiling"]["accuracy"]
    return None


def known_ceilings(tests: Sequence[RoutingData], results: Path = RESULTS) -> dict[str, float]:
    """The ceilings that results/ceiling.json, or a ceiling.json one folder below, has, as {task: ceiling in %}.

    A figure is for a file's content and a set of LLMs: with one LLM less there is none. `python -m utils.ceiling
    --test_data_paths FILE` makes one.
    """
    records = []
    for path in sorted([*results.glob(FILE), *results.glob(f"*/{FILE}")]):
        records += read_records(path)
    ceilings = {data.task: ceiling_of(records, data.sha256, data.llms, len(data)) for data in tests}
    return {task: ceiling for task, ceiling in ceilings.items() if ceiling is not None}
