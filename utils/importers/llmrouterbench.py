"""LLMRouterBench: `results/bench/<dataset>/<split>/<model>/*.json`.

A file is one JSON object for one LLM on one split of one data set. Used of an object: dataset_name, split, model_name,
demo, records; of a record: index, origin_query, score, cost (US dollars). LLMs are joined by (dataset, split, index),
and their origin_query must agree. Files whose `demo` is true are skipped.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..formats import DataError
from ..meters import bar
from .common import Pairs, check_text


def read(source: Path) -> Pairs:
    """All pairs of the JSON files at or below the folder `source`.

    Raises: DataError that names file and record.
    """
    files = sorted(path for path in source.rglob("*.json") if path.is_file()) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: no .json file at or below it; name the folder results/bench")
    pairs, skipped = Pairs(), 0
    with bar(len(files), "files", "file") as progress:
        for path in files:
            progress.update()
            result = read_result(path)
            if result.get("demo"):
                skipped += 1
                continue
            for number, record in enumerate(result["records"]):
                add_record(pairs, result, record, f"{path}, record {number}")
    if skipped:
        print(f"{skipped} of {len(files)} files are demos: skipped")
    return pairs


def absent_in(value: Any, names: Sequence[str]) -> list[str]:
    """Which of the names a JSON object lacks; all of them if it is no object."""
    return [name for name in names if not isinstance(value, dict) or name not in value]


def read_result(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises: DataError if it is no result."""
    try:
        result = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}). Is it truncated?") from None
    absent = absent_in(result, ("dataset_name", "split", "model_name", "records"))
    if absent or not isinstance(result["records"], list):
        raise DataError(f"{path}: not a result of LLMRouterBench; it lacks {', '.join(absent) or 'a list of records'}")
    for name in ("dataset_name", "split", "model_name"):
        check_text(result[name], f"{name!r}", str(path))
    if not isinstance(result.get("demo"), bool | None):
        raise DataError(f"{path}: 'demo' must be true or false, found {result['demo']!r:.60}")
    return result


def add_record(pairs: Pairs, result: dict[str, Any], record: Any, where: str) -> None:
    """Add one record of a result. Raises: DataError, naming `where`, for a record that lacks something."""
    if absent := absent_in(record, ("index", "origin_query", "score")):
        raise DataError(f"{where}: it lacks {', '.join(absent)}")
    index, score = record["index"], record["score"]
    if type(index) not in (int, str):
        raise DataError(f"{where}: the index must be a number, found {index!r:.60}")
    score = float(score) if isinstance(score, bool) else score
    task, split, llm = (result[name] for name in ("dataset_name", "split", "model_name"))
    pairs.add(task, split, index, record["origin_query"], llm, score, record.get("cost"), where)
