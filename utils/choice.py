"""From the similarities of a query to the LLM that is chosen, and what is wrong with a query; numpy alone."""

from collections.abc import Sequence

import numpy as np


def check_queries(queries: Sequence[str], title: str = "queries", first: int = 0) -> None:
    """Raise ValueError, naming it, for a query that is empty or not valid UTF-8.

    title: of the queries. first: the number of the first one.
    """
    for number, query in enumerate(queries, first):
        if not query.strip():
            raise ValueError(f"{title}: number {number} is empty; give the text that an LLM would get")
        if query != query.encode(errors="ignore").decode():
            raise ValueError(f"{title}: number {number} is not valid UTF-8: {query[:80]!r}")


def columns_of(llms: Sequence[str], known: Sequence[str]) -> list[int]:
    """Position of each of `llms` among those that a router knows. Raises: ValueError that names the unknown ones."""
    unknown = [name for name in llms if name not in known]
    if unknown:
        raise ValueError(f"the router was not trained with {', '.join(unknown)}; it knows {', '.join(known)}")
    return [known.index(name) for name in llms]


def check_finite(similarity: np.ndarray, title: str = "queries") -> None:
    """Raise ValueError unless all similarities (N, T) are finite: an arg-max over others picks an LLM without a reason.

    title: of the queries, for the error.
    """
    wrong = int((~np.isfinite(similarity)).any(axis=1).sum())
    if wrong:
        raise ValueError(
            f"{title}: the similarities of {wrong} of {len(similarity)} are not finite, so no LLM is the nearest: "
            "training has diverged. Train again with a lower --learning_rate"
        )
