"""Why an LLM was chosen: the training queries nearest to a query, and what each LLM got on them."""

import hashlib
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint_files import content_hash
from .data import RoutingData, load
from .files import replacing
from .meters import bar
from .reading import reading
from .router import BATCH, Router


class TrainingQueries:
    """The training queries of a router and their embeddings E(x), which are computed once and kept in `cache`.

    Args:
        cache: a folder.
    Raises: ValueError, naming them, for training files that are not there, or are not those of the training run;
        DataError for a damaged one.
    """

    def __init__(self, router: Router, cache: Path):
        self.router = router
        files = training_files(router.config["settings"])
        self.questions = [question for data in files for question in data.identity]
        self.tasks = [data.task for data in files for _ in range(len(data))]
        self.scores: list[dict[str, float]] = []
        for data in files:
            self.scores += [dict(zip(data.llms, row)) for row in data.scores.astype(float).round(6).tolist()]
        self.unit = unit(self._embedded(cache))  # (N, p)

    def nearest(self, queries: Sequence[str], count: int) -> list[list[dict[str, Any]]]:
        """For each query the `count` training queries nearest by the cosine of E(x), the nearest first.

        Each is {"question", "task", "cosine", "scores": {llm: score in [0, 1]}}.
        """
        found = []
        for row in unit(self.router.embed(queries)) @ self.unit.T:  # (Q, N)
            best = np.argsort(-row, kind="stable")[:count]
            found.append([self._about(place, float(row[place])) for place in best])
        return found

    def _about(self, place: int, cosine: float) -> dict[str, Any]:
        return {
            "question": self.questions[place],
            "task": self.tasks[place],
            "cosine": round(cosine, 6),
            "scores": self.scores[place],
        }

    def _embedded(self, cache: Path) -> np.ndarray:
        """Embeddings of the training queries, (N, p): as the cache has them, or computed and added to it."""
        router = self.router
        key = json.dumps([content_hash(router.folder), router.backend, router.describe(), self.questions])
        path = cache / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"
        if path.is_file():
            try:
                return np.load(path)["embedded"]  # the zip file has a checksum
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                print(f"{path}: damaged ({error}); it is computed again", file=sys.stderr)
        rows = []
        with bar(len(self.questions), "embed training queries", "query") as progress:
            for start in range(0, len(self.questions), BATCH):
                rows.append(router.embed(self.questions[start : start + BATCH]))
                progress.update(len(rows[-1]))
        embedded = np.concatenate(rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, embedded=embedded)
        return embedded


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, p) of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def training_files(settings: dict[str, Any]) -> list[RoutingData]:
    """The rows that a training run read. Raises: as `TrainingQueries`."""
    paths, digests = settings["data_paths"], settings.get("data", {})
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise ValueError(
            f"--explain: training files are not there: {', '.join(missing)}. Start where the training run was started, "
            "or bring them back (released ones: python -m utils.download)"
        )
    kinds = settings.get("data_type") or [None]
    kinds = kinds * len(paths) if len(kinds) == 1 else kinds
    files = []
    for path, kind in zip(paths, kinds):
        data = load(path, kind, flag="--data_type", **reading(settings))
        if digests.get(path, data.sha256) != data.sha256:
            raise ValueError(
                f"--explain: {path} has changed since the training run (SHA-256 was {digests[path]}, is "
                f"{data.sha256}); bring the old one back"
            )
        most = settings.get("training_samples_per_dataset") or len(data)
        files.append(data.rows(np.arange(min(most, len(data)))))
    return files
