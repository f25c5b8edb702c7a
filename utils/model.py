"""The router of the paper: a query encoder, one learnable embedding per LLM, and their similarity."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .choice import columns_of
from .encoders import Encoder, Given, TrainedLayers
from .experiment import Hardware
from .losses import SIMILARITIES


def at_least_float32(values: Tensor) -> Tensor:
    """Values of a lower precision as float32."""
    return values if values.dtype == torch.float64 else values.float()


class RouterDC(nn.Module):
    """R(x) = softmax over t of sim(E(x), k_t), with one embedding k_t in R^p for each LLM.

    Args:
        encoder: E; its embeddings have p = `encoder.hidden_size` dimensions.
        llms: T names; row t of `llm_embeddings.weight` belongs to llms[t].
        similarity: "cos" (the paper) or "inner".
        head: put a linear map p -> p, at first the identity, behind the encoder: what a frozen encoder trains.
    Raises: ValueError for another similarity.
    """

    def __init__(self, encoder: Encoder | Given, llms: Sequence[str], similarity: str = "cos", head: bool = False):
        super().__init__()
        if similarity not in SIMILARITIES:
            raise ValueError(f"--similarity_function is {similarity!r}; it must be one of {', '.join(SIMILARITIES)}")
        self.encoder = encoder
        self.llms = tuple(llms)
        self.similarity_function = similarity
        self.llm_embeddings = nn.Embedding(len(self.llms), encoder.hidden_size)
        self.head = nn.Linear(encoder.hidden_size, encoder.hidden_size, bias=False) if head else nn.Identity()
        if head:
            nn.init.eye_(self.head.weight)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarity of all pairs, (N, p) and (M, p) -> (N, M), in float32 or, where they have it, float64."""
        return SIMILARITIES[self.similarity_function](at_least_float32(a), at_least_float32(b))

    def forward(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder output (B, p) -> query embeddings E(x) (B, p) and their similarity to each LLM (B, T)."""
        queries = self.head(at_least_float32(embedded))
        return queries, self.similarity(queries, self.llm_embeddings.weight)

    def place(self, hardware: Hardware, trained_layers: TrainedLayers, layers: int | None = None) -> None:
        """Move to the device and leave only these layers of the encoder trainable.

        layers: how many train, where `trained_layers` is "last".
        """
        self.to(hardware.device)
        self.encoder.place(hardware)
        if trained_layers == "none":
            self.encoder.requires_grad_(False)
        elif trained_layers == "last":
            self.encoder.train_last(layers)

    def columns(self, llms: Sequence[str]) -> list[int]:
        """Position of each name of `llms` among this router's LLMs. Raises: ValueError as `check_knows`."""
        return columns_of(llms, self.llms)

    def check_knows(self, llms: Sequence[str]) -> None:
        """Raise ValueError, naming them, for LLMs that the router was not trained with."""
        columns_of(llms, self.llms)


def trained_layers_of(settings: Mapping[str, object]) -> TrainedLayers:
    """Which layers of the encoder a training run with these settings changes."""
    if settings["freeze_encoder"]:
        return "none"
    return "last" if settings["train_layers"] else "all"
