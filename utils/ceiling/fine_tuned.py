"""A fine-tuned encoder as a learner of the ceiling.

The last layers and a linear layer behind them are trained on right or wrong of every LLM.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..encoders import Encoder, Queries
from ..experiment import Hardware, batch_rows, stream_seed
from .learners import Labelled, Learner, named


class FineTuned(Learner):
    """Binary cross-entropy of T logits, one for each LLM, with what it earns as the target.

    The linear layer begins with the logits of the task's means, so that no training is `Constant`. The settings are
    the passes over the training rows and how far the estimate moves from the task's mean.

    Args:
        encoder: a pre-trained encoder of which `train_last` was called; every fit begins with the weights it has now.
        questions: of all rows of the `Labelled` that it will be asked about, in their order.
        progress: advanced by the queries of each pass.
    """

    name: ClassVar[str] = "fine-tuned encoder"
    inner = 1  # a fit takes a minute
    passes, weights = 3, (0.3, 1.0)
    batch, learning_rate = 32, 2e-4
    settings = named("{} passes, weight {:g}", range(1, passes + 1), weights)

    def __init__(self, encoder: Encoder, questions: Sequence[str], hardware: Hardware, progress: tqdm | None = None):
        self.encoder = encoder
        self.hardware = hardware
        self.progress = progress
        self.queries = Queries(encoder, questions, hardware, "last", None, "queries")
        self.parameters = [value for value in encoder.parameters() if value.requires_grad]
        self.first_values = [value.detach().clone() for value in self.parameters]

    def estimates(self, data: Labelled, train: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, len(train)))
            return self._fit(data, train, new, seed)

    def _fit(self, data: Labelled, train: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
        """Train from the first values; estimates for the rows `new` after each pass, (settings, n, T)."""
        mean = data.y[train].mean(axis=0)  # (T,)
        head = self._start(mean)
        targets = torch.from_numpy(data.y).float().to(self.hardware.device)
        groups = [
            {"params": self.parameters},
            {"params": head.parameters(), "lr": 10 * self.learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=0.01)
        steps = math.ceil(len(train) / self.batch)
        estimates = []
        for number in range(self.passes):
            self.encoder.train()
            for step in range(number * steps, (number + 1) * steps):
                rows = batch_rows(train, min(self.batch, len(train)), step, seed)
                optimizer.zero_grad(set_to_none=True)
                logits = head(self.queries.embed(rows))
                nn.functional.binary_cross_entropy_with_logits(logits, targets[torch.from_numpy(rows)]).backward()
                optimizer.step()
            self.encoder.eval()
            with torch.no_grad():
                values = torch.sigmoid(head(self.queries.embed(new))).double().cpu().numpy()
            estimates += [mean + weight * (values - mean) for weight in self.weights]
            if self.progress is not None:
                self.progress.update(len(train))
        return np.stack(estimates)

    def _start(self, mean: np.ndarray) -> nn.Linear:
        """Give the encoder its first values, and make a linear layer whose probabilities are the means (T,)."""
        head = nn.Linear(self.encoder.hidden_size, len(mean)).to(self.hardware.device)
        probabilities = torch.from_numpy(np.clip(mean, 0.01, 0.99)).float()
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.logit(probabilities))
            for value, first in zip(self.parameters, self.first_values):
                value.copy_(first)
        return head
