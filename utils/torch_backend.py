"""A router's model in torch, for `utils.router`: texts to query embeddings and similarities."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint
from .encoders import Given, Queries
from .experiment import hardware_like


def keep_weights_in_bf16(module: nn.Module) -> None:
    """Turn the weights of linear layers to bf16 for good, as autocast would at every call: the same digits, sooner."""
    module.requires_grad_(False)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.to(torch.bfloat16)


class TorchBackend:
    """The model of a checkpoint folder. Several threads may use it at once.

    Args:
        folder, config: of the checkpoint.
        device, precision, threads: as of `hardware_like`; the precision "auto" is that of the training run.
        file: must be None; other backends have several files to choose from.
    Raises: CheckpointError as `checkpoint.load`; ValueError as `hardware_like`, or for a `file`.
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
        if file is not None:
            raise ValueError(f"file is {file!r}, which is for the backend onnx; the backend torch has one model alone")
        self.hardware = hardware_like(config["precision"], device, precision, threads)
        self.model, _ = checkpoint.load(folder)
        self.model.place(self.hardware, "none")
        if self.hardware.precision == "bf16" and not isinstance(self.model.encoder, Given):
            keep_weights_in_bf16(self.model.encoder.backbone)

    def describe(self) -> str:
        """Device and precision in words."""
        return self.hardware.describe()

    @torch.no_grad()
    def _forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Query embeddings E(x) (N, p) and similarities to the LLMs (N, T)."""
        return self.model(Queries(self.model.encoder, texts, self.hardware, "all").embed())

    def embed(self, texts: list[str]) -> np.ndarray:
        """Query embeddings E(x), (N, p) float32."""
        return self._forward(texts)[0].cpu().numpy()

    def similarities(self, texts: list[str]) -> np.ndarray:
        """Similarity of each text to each LLM, (N, T) float32."""
        return self._forward(texts)[1].cpu().numpy()
