"""A router that does what a question says: `good-b dead: why?` is most similar to good-b, then to dead.

`sleep 2 good-a: why?` does the same, two seconds later.
"""

import time
from pathlib import Path

import numpy as np

from utils.router import Router

LLMS = ("good-a", "good-b", "dead", "html", "broken", "error", "slow")  # servers of utils/gateway/backends.py


class Words:
    """The backend of such a router; it notes the batches that it gets."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def similarities(self, texts: list[str]) -> np.ndarray:
        """1 for the first LLM that a text names, 0.9 for the next, 0 for those that it does not name."""
        self.batches.append(texts)
        rows = np.zeros((len(texts), len(LLMS)), np.float32)
        for row, text in zip(rows, texts):
            words = text.split(":")[0].split()
            if words[0] == "sleep":
                time.sleep(float(words[1]))
            for place, llm in enumerate(word for word in words if word in LLMS):
                row[LLMS.index(llm)] = 1 - place / 10
        return rows


def make() -> Router:
    """The router: P(right) is half to three quarters, good-b is the best single LLM and alone costs anything."""
    line = {"slope": 1.0, "intercept": 0.0}
    config = {
        "llms": LLMS,
        "settings": {},
        "calibration": {"rows": 1, "temperature": 1.0, "llms": dict.fromkeys(LLMS, line)},
        "costs": dict.fromkeys(LLMS, 0.0) | {"good-b": 0.01},
        "best_llm": "good-b",
    }
    return Router(Path("."), config, Words())
