"""The documents of the miniature's tasks; the YAML files beside this one name the function."""

import json
import os
from pathlib import Path

from datasets import Dataset


def load(leaf: str, **_) -> dict[str, Dataset]:
    """The documents of a leaf as the split "test", from the folder that `python -m utils.miniature texts` wrote
    ($MINIATURE_TEXTS).

    Raises: FileNotFoundError if they are not there.
    """
    path = Path(os.environ.get("MINIATURE_TEXTS", "runs/miniature/texts")) / "questions" / f"{leaf}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. `python -m utils.miniature texts` writes it, MINIATURE_TEXTS names its folder"
        )
    return {
        "test": Dataset.from_list([json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line])
    }
