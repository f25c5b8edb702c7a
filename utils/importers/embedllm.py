"""EmbedLLM (hub data set RZ412/EmbedLLM): train.csv, val.csv and test.csv with one line for each (LLM, prompt).

Columns used: prompt_id, prompt, model_name, category (the task), label (0 or 1). A pair that occurs more than once
keeps its largest label, as the project itself does. There are no costs.
"""

import csv
from pathlib import Path

from utils.formats import DataError
from utils.importers.common import Pairs
from utils.meters import bar

COLUMNS = ("prompt_id", "prompt", "model_name", "category", "label")


def read(source: Path) -> Pairs:
    """All pairs of the CSV files in the folder `source`, or of that one CSV file.

    Raises: DataError that names file and line.
    """
    files = (
        [source]
        if source.is_file()
        else [path for name in ("train", "val", "test") if (path := source / f"{name}.csv").is_file()]
    )
    if not files:
        raise DataError(
            f"{source}: no train.csv, val.csv or test.csv there; `hf download RZ412/EmbedLLM --repo-type dataset "
            "--local-dir DIR` fetches them"
        )
    pairs = Pairs()
    for path in files:
        with path.open(encoding="utf-8-sig", newline="") as file, bar(path.stat().st_size, path.name, "B") as progress:
            reader, seen = csv.DictReader(file, strict=True), 0
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if absent:
                raise DataError(
                    f"{path}: no column {', '.join(absent)}; it has {', '.join(reader.fieldnames or ()) or 'none'}"
                )
            try:
                for line in reader:
                    where = f"{path}, line {reader.line_num}"
                    if line["label"] not in ("0", "1", "0.0", "1.0"):
                        raise DataError(f"{where}: the label must be 0 or 1, found {line['label']!r}")
                    pairs.add(
                        line["category"],
                        path.stem,
                        line["prompt_id"],
                        line["prompt"],
                        line["model_name"],
                        float(line["label"]),
                        where=where,
                    )
                    if reader.line_num - seen > 10_000:
                        seen = reader.line_num
                        progress.update(file.buffer.tell() - progress.n)
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(
                    f"{path}, line {reader.line_num}: not a valid CSV file in UTF-8 ({error}). Is it truncated?"
                ) from None
            progress.update(path.stat().st_size - progress.n)
    return pairs
