"""MatrixFactorization: right or wrong from a low-rank product of an LLM's and a query's vector (EmbedLLM)."""

import torch
from torch import Tensor, nn

from .base import Gradient


class Factors(nn.Module):
    """logit(x, t) = w . (v_t * (A x + a)) + c, with an LLM vector v_t of length 1 and `rank` dimensions."""

    def __init__(self, dimension: int, llms: int, rank: int):
        super().__init__()
        self.llms = nn.Parameter(torch.randn(llms, rank))  # v
        self.query = nn.Linear(dimension, rank)  # A, a
        self.classifier = nn.Linear(rank, 1)  # w, c

    def forward(self, x: Tensor) -> Tensor:
        vectors = nn.functional.normalize(self.llms, dim=1)  # (T, rank)
        weighted = self.query(x) * self.classifier.weight  # (n, rank)
        return weighted @ vectors.T + self.classifier.bias  # (n, T)


class MatrixFactorization(Gradient):
    """EmbedLLM's router: LLM vectors, a linear map of the query's embedding, and a linear classifier of the product."""

    name = "MatrixFactorization"
    grid = {"rank": (8, 64), "weight_decay": (1e-2, 1.0), "passes": (5, 20)}

    def build(self, dimension: int, llms: int) -> nn.Module:
        return Factors(dimension, llms, self.setting["rank"])
