"""How the text of a query is read, in training as in use: what a run's settings say of it."""

from collections.abc import Mapping
from typing import Any

GIVEN = "given"  # --encoder: the data files have embeddings in place of text
MISSING = ("error", "drop")  # what to do with a row that lacks a score or a cost
PRECISIONS = ("bf16", "fp16", "tf32", "fp32")  # what a run computes in
ENDS = ("last", "first")  # which characters of a query are kept


def cut(question: str, characters: int | None, keep: str = "last") -> str:
    """The `characters` of a question at one of its ENDS; None or 0 keeps all."""
    if not characters:
        return question
    return question[:characters] if keep == "first" else question[-characters:]


def reading(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `load` that a run's settings hold; where a run is older than an option, its default."""
    return {
        "missing": settings.get("missing_cells", "error"),
        "characters": settings.get("max_characters"),
        "keep": settings.get("keep_characters", "last"),
    }
