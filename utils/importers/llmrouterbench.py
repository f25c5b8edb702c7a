"""LLMRouterBench: `results/bench/<dataset>/<split>/<model>/*.json`, one JSON object a file for one LLM on one split of
one data set.

Used of an object: dataset_name, split, model_name, demo, records; of a record: index, origin_query, score, cost (US
dollars). LLMs are joined by (dataset, split, index), and their origin_query must agree. Files whose `demo` is true are
skipped.
"""

import json
from pathlib import Path

from utils.formats import DataError
from utils.importers.common import Pairs
from utils.meters import bar


def read(source: Path) -> Pairs:
    """All pairs of the JSON files at or below the folder `source`.

    Raises: DataError that names file and record.
    """
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: no .json file at or below it; name the folder results/bench")
    pairs, skipped = Pairs(), 0
    with bar(len(files), "files", "file") as progress:
        for path in files:
            progress.update()
            try:
                result = json.loads(path.read_bytes())
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{path}: not valid JSON ({error}). Is it truncated?") from None
            absent = [
                name
                for name in ("dataset_name", "split", "model_name", "records")
                if not isinstance(result, dict) or name not in result
            ]
            if absent or not isinstance(result["records"], list):
                raise DataError(
                    f"{path}: not a result of LLMRouterBench; it lacks {', '.join(absent) or 'a list of records'}"
                )
            if result.get("demo"):
                skipped += 1
                continue
            for number, record in enumerate(result["records"]):
                where = f"{path}, record {number}"
                absent = [
                    name
                    for name in ("index", "origin_query", "score")
                    if not isinstance(record, dict) or name not in record
                ]
                if absent:
                    raise DataError(f"{where}: it lacks {', '.join(absent)}")
                score = float(record["score"]) if isinstance(record["score"], bool) else record["score"]
                pairs.add(
                    str(result["dataset_name"]),
                    str(result["split"]),
                    record["index"],
                    record["origin_query"],
                    str(result["model_name"]),
                    score,
                    record.get("cost"),
                    where,
                )
    if skipped:
        print(f"{skipped} of {len(files)} files are demos: skipped")
    return pairs
