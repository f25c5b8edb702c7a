"""EmbedLLM (hub data set RZ412/EmbedLLM): train.csv, val.csv and test.csv with one line for each (LLM, prompt).

Columns used: prompt_id, prompt, model_name, category (the task), label (0 or 1). A pair that occurs more than once
keeps its largest label, as the project itself does. There are no costs.
"""

from pathlib import Path

from ..formats import DataError
from .common import Pairs, check_text, csv_lines

COLUMNS = ("prompt_id", "prompt", "model_name", "category", "label")


def read(source: Path) -> Pairs:
    """All pairs of the CSV files in the folder `source`, or of that one CSV file.

    Raises: DataError that names file and line.
    """
    files = [source] if source.is_file() else [source / f"{name}.csv" for name in ("train", "val", "test")]
    files = [path for path in files if path.is_file()]
    if not files:
        raise DataError(
            f"{source}: no train.csv, val.csv or test.csv there; `hf download RZ412/EmbedLLM --repo-type dataset "
            "--local-dir DIR` fetches them"
        )
    pairs = Pairs()
    for path in files:
        for where, line in csv_lines(path):
            add_line(pairs, line, path.stem, where)
    return pairs


def add_line(pairs: Pairs, line: dict[str, str], split: str, where: str) -> None:
    """Add one line of the table.

    Raises: DataError, naming `where`, if a column is missing, the category blank, or the label not 0 or 1.
    """
    if absent := [name for name in COLUMNS if name not in line]:
        raise DataError(f"{where}: no column {', '.join(absent)}; it has {', '.join(map(repr, line))}")
    check_text(line["category"], "the category", where)
    label = line["label"]
    if label not in ("0", "1", "0.0", "1.0"):
        raise DataError(f"{where}: the label must be 0 or 1, found {label!r}")
    question, llm = line["prompt"], line["model_name"]
    pairs.add(line["category"], split, line["prompt_id"], question, llm, float(label), where=where)
