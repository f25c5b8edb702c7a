"""A router's model in ONNX, for `utils.router`: texts to query embeddings and similarities on a CPU, without torch.

`python -m utils.onnx_export` writes what it reads. onnxruntime, tokenizers and numpy do the work.
"""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from .checkpoint_files import CheckpointError
from .onnx_files import INPUTS, INT8, OUTPUTS, TOKENIZER, command, find_graph

# What onnxruntime 1.32 makes slower: this operator takes six times as long as the two that it stands for.
SLOWER = ["SkipLayerNormFusion"]
TOKENS = 512  # that a graph gets at once, at most, but for a longer query


def pieces(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Cut rows (N,) into pieces of similar length, longest first, of at most `tokens` tokens with their padding.

    A piece has at least one row.
    """
    order = np.argsort(-lengths, kind="stable")
    cut = []
    while len(order):
        size = max(1, tokens // int(lengths[order[0]]))
        cut.append(order[:size])
        order = order[size:]
    return cut


class OnnxBackend:
    """A graph of a checkpoint folder. Several threads may use it at once.

    Args:
        folder, config: of the checkpoint.
        device: auto or cpu.
        precision: auto: the graph has its own.
        threads: that one query is computed with; 0: as many as cores.
        file: which graph, "onnx/model.onnx" by default.
    Raises: CheckpointError as `find_graph`; ValueError for an option.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        file: str | None = None,
    ):
        if device not in ("auto", "cpu"):
            raise ValueError(f"device is {device!r}; the backend onnx computes on the cpu, the backend torch elsewhere")
        if precision != "auto":
            raise ValueError(
                f"precision is {precision!r}; with the backend onnx it is that of the graph, which `file` names"
            )
        self.path, description = find_graph(folder, config, file)
        self.padding: int = description["padding"]
        self.tokenizer = open_tokenizer(folder / TOKENIZER, config["max_length"])
        # How large the steps of 8-bit numbers are is decided for all that is computed at once: so a query is alone.
        self.tokens = 1 if self.path.name in INT8.values() else TOKENS
        self.threads = threads or cores()
        self.session = open_session(self.path, self.threads)

    def describe(self) -> str:
        """Device and precision in words."""
        return f"cpu ({platform.machine()}, {self.threads} threads), {self.path.name} in onnxruntime"

    def tokenize(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, truncated on the left as in training."""
        encoded = self.tokenizer.encode_batch_fast(texts)
        return [np.array(row.ids, dtype=np.int64) for row in encoded]

    def _run(self, texts: list[str], output: str) -> np.ndarray:
        """Rows of one output of the graph, in the order of the texts."""
        rows = self.tokenize(texts)
        lengths = np.array([len(row) for row in rows])
        computed, order = [], []
        for piece in pieces(lengths, self.tokens):
            ids = np.full((len(piece), lengths[piece[0]]), self.padding, dtype=np.int64)
            mask = np.zeros_like(ids)
            for place, row in enumerate(piece):
                ids[place, : lengths[row]] = rows[row]
                mask[place, : lengths[row]] = 1
            computed.append(self.session.run([output], dict(zip(INPUTS, (ids, mask))))[0])
            order.append(piece)
        return np.concatenate(computed)[np.argsort(np.concatenate(order))]

    def embed(self, texts: list[str]) -> np.ndarray:
        """Query embeddings E(x), (N, p) float32."""
        return self._run(texts, OUTPUTS[0])

    def similarities(self, texts: list[str]) -> np.ndarray:
        """Similarity of each text to each LLM, (N, T) float32."""
        return self._run(texts, OUTPUTS[1])


def cores() -> int:
    """How many cores this process may use; on systems that do not say, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_tokenizer(path: Path, max_length: int) -> Tokenizer:
    """A tokenizer that keeps the last `max_length` tokens of a text, as in training.

    Raises: CheckpointError for a file that is none.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower one
        raise CheckpointError(f"{path}: it is no tokenizer ({error}); copy the checkpoint again") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, direction="left")
    return tokenizer


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A graph ready to run. Raises: CheckpointError for one that onnxruntime cannot read."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    # Threads that wait in a spin take the time from what else is on the CPU: there a query took half as long without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": SLOWER}
    try:
        return onnxruntime.InferenceSession(path, options, **settings)
    except Exception as error:  # onnxruntime has many classes of them
        raise CheckpointError(
            f"{path}: onnxruntime cannot read it ({error}); write it anew: {command(path.parent.parent, path.name)}"
        ) from None
