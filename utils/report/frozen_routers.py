"""Finished runs with a frozen encoder: little differs between them, and each query is encoded once for all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..checkpoint_files import WEIGHTS, find, read_config
from ..config import HardwareConfig
from ..encoders import Queries
from ..losses import SIMILARITIES
from .runs import Run, reopen_router

ENCODER = ("encoder", "pooling", "max_length")  # settings that routers with one encoder have in common


@dataclass(frozen=True)
class FrozenRouter:
    """What a run with a frozen encoder has trained. head: (p, p). llm_embeddings: (T, p)."""

    run: Run
    llms: tuple[str, ...]
    head: Tensor
    llm_embeddings: Tensor
    similarity_function: str

    def queries(self, encoded: Tensor) -> Tensor:
        """E(x) behind the head: encoder output (N, p) -> (N, p)."""
        return encoded.float() @ self.head.T

    def similarities(self, encoded: Tensor) -> np.ndarray:
        """Similarity of each query to each LLM: encoder output (N, p) -> (N, T)."""
        return SIMILARITIES[self.similarity_function](self.queries(encoded), self.llm_embeddings).numpy()


def open_frozen(run: Run) -> FrozenRouter:
    """The trained part of a run.

    Raises: ValueError for a run that trained its encoder; CheckpointError for a damaged config.
    """
    if not run.settings["freeze_encoder"]:
        raise ValueError(f"{run.folder}: its encoder was trained; this page takes runs with --freeze_encoder")
    folder = find(run.folder)
    config = read_config(folder)
    with safe_open(folder / WEIGHTS, "pt") as weights:
        head, embeddings = weights.get_tensor("head.weight"), weights.get_tensor("llm_embeddings.weight")
    return FrozenRouter(run, tuple(config["llms"]), head, embeddings, config["similarity_function"])


class FrozenEncoder:
    """The encoder that the routers share, and the test files of the first one.

    Raises: ValueError that names two runs with different encoders.
    """

    def __init__(self, runs: Sequence[Run], hardware: HardwareConfig):
        for run in runs:
            for name in ENCODER:
                ours, theirs = run.settings[name], runs[0].settings[name]
                if ours != theirs:
                    raise ValueError(
                        f"{run.folder} has the {name} {ours}, and {runs[0].folder} {theirs}; make a page of each"
                    )
        self.router = reopen_router(runs[0].folder, hardware)
        self.tests = self.router.tests

    def encode(self, inputs: list[str] | np.ndarray, title: str) -> Tensor:
        """Encoder output (N, p) of texts, or of embeddings that stand for them, on the CPU."""
        router = self.router
        queries = Queries(router.model.encoder, inputs, router.hardware, "none", router.cache, title)
        with torch.no_grad():
            return queries.embed().float().cpu()
