"""IRT: a two-parameter item-response router.

A query's discrimination and difficulty are predicted from its embedding.
"""

import torch
from torch import Tensor, nn

from .base import Gradient


class TwoParameter(nn.Module):
    """logit(x, t) = a(x) . theta_t - b(x).

    theta_t are the abilities of LLM t, a(x) = softplus(A x + a0) >= 0 the discriminations and b(x), linear in x, the
    difficulty of a query.
    """

    def __init__(self, dimension: int, llms: int, abilities: int):
        super().__init__()
        self.ability = nn.Parameter(torch.randn(llms, abilities))  # theta
        self.discrimination = nn.Linear(dimension, abilities)
        self.difficulty = nn.Linear(dimension, 1)

    def forward(self, x: Tensor) -> Tensor:
        discriminations = nn.functional.softplus(self.discrimination(x))  # (n, d)
        return discriminations @ self.ability.T - self.difficulty(x)  # (n, T)


class IRT(Gradient):
    """The multidimensional two-parameter logistic model (Reckase), compensatory form.

    With one ability dimension and a(x) >= 0 the ablest LLM would be picked for every query, whatever a(x) and b(x) are;
    the grid therefore begins at two. The difficulty b(x) moves all LLMs alike: it explains answers, never the pick.
    """

    name = "IRT"
    grid = {"abilities": (2, 8, 32), "weight_decay": (1e-2, 1.0), "passes": (5, 20)}

    def build(self, dimension: int, llms: int) -> nn.Module:
        return TwoParameter(dimension, llms, self.setting["abilities"])
