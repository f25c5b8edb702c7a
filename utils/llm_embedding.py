"""The embedding of an LLM that a trained router does not know, from scores of it on some training queries.

All else stays as it is: encoder, head, and the embeddings of the known LLMs. `utils.add_llm` is the command.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Fidelity
from .data import RoutingData
from .losses import SIMILARITIES, cosine_classifier_loss, sample_llm_loss, zooter_loss
from .training_set import targets

METHOD, PENALTY = "mean", 100.0  # chosen on training rows, see results/new_llms.md
STEPS = 100  # of L-BFGS, at most
FOLDS = 5


@dataclass(frozen=True)
class Scored:
    """Queries that the new LLM has scores for.

    embedded: (n, p), E(x) behind the head. targets: (n, T + 1), what the loss learns from; the new LLM's column is the
    last one. weights: (n,), with sum n: every task counts alike, as in training.
    """

    embedded: Tensor
    targets: Tensor
    weights: Tensor

    def rows(self, index: np.ndarray) -> "Scored":
        """Some of the queries."""
        return Scored(self.embedded[index], self.targets[index], self.weights[index])


# Targets


def targets_with(
    data: RoutingData, trained: np.ndarray, rows: np.ndarray, new: np.ndarray, settings: Mapping[str, Any]
) -> np.ndarray:
    """Targets of T known LLMs and a new one on some rows of a training file, (n, T + 1) float32.

    They are those of training: scores or gains less costs, moved to the mean of their group by `target_shrinkage`. The
    new LLM's mean is the mean of the known ones on all rows that trained, and how much better it was than they on the
    scored rows: hard and easy queries among these weigh less.

    Args:
        data: the file, N rows. trained: the rows that trained. rows: (n,), those with scores of the new LLM.
        new: (n,), what the new LLM's target is before it is moved.
    """
    known = targets(data, settings["targets"], settings.get("cost_rate", 0.0))  # (N, T)
    found = np.column_stack([known[rows], new]).astype(np.float64)
    amount = settings["target_shrinkage"]
    if amount:
        by_cluster = settings.get("target_groups", "task") == "cluster"
        group = data.clusters if by_cluster else np.zeros(len(data), dtype=np.int64)
        for number in np.unique(group[rows]):
            inside = group[rows] == number
            of_known = known[trained[group[trained] == number]].mean(axis=0)  # (T,)
            better = (new[inside] - known[rows[inside]].mean(axis=1)).mean()
            mean = np.append(of_known, of_known.mean() + better)
            found[inside] = (1 - amount) * found[inside] + amount * mean
        if not settings.get("cost_rate"):
            found = found.clip(0, 1)
    return found.astype(np.float32)


# The embedding


def losses_of(similarity: Tensor, values: Tensor, settings: Mapping[str, Any], known: int) -> Tensor:
    """The loss of a run with these settings per query, (n, T + 1) twice -> (n,); its sample-LLM loss, or a baseline's.

    known: T. K- counts one LLM more if it counted all but the K+.
    """
    temperature = settings["temperature"]
    if settings["loss"] == "cosine_classifier":
        return cosine_classifier_loss(similarity, values, temperature)
    if settings["loss"] == "zooter":
        return zooter_loss(similarity, values, temperature)
    fidelity = Fidelity.parse(settings["fidelity"])
    counts_all_others = settings["last_k"] >= known - settings["top_k"]
    last_k = min(settings["last_k"] + counts_all_others, known + 1)
    return sample_llm_loss(
        similarity,
        values,
        min(settings["top_k"], known + 1),
        last_k,
        temperature,
        settings["negative_below"],
        batch_mask=fidelity.batch_mask,
        half_is_negative=fidelity.released_ties,
    )


def fit_embedding(
    known: Tensor, similarity: str, scored: Scored, settings: Mapping[str, Any], method: str, penalty: float
) -> Tensor:
    """The embedding of a new LLM, (p,), as long as those of the known LLMs are on average.

    method:
        mean: the mean of the queries, weighted by how much better than the known LLMs the new one is on them.
        loss: from there the least loss of training, in which the new embedding alone moves.

    Args:
        known: (T, p), the embeddings of the known LLMs, in the order of the targets. similarity: "cos" or "inner".
        penalty: for "loss", how many queries the mean is worth.
    """
    size = known.norm(dim=1).mean()
    better = scored.targets[:, -1] - scored.targets[:, :-1].mean(dim=1)  # (n,)
    mean = (scored.weights * better) @ F.normalize(scored.embedded, dim=1)
    start = size * F.normalize(mean, dim=0)
    if method == "mean":
        return start
    fitted = _least_loss(known, similarity, scored, settings, start, penalty)
    return size * F.normalize(fitted, dim=0) if similarity == "cos" else fitted


def _least_loss(
    known: Tensor, similarity: str, scored: Scored, settings: Mapping[str, Any], start: Tensor, penalty: float
) -> Tensor:
    """See `fit_embedding`: L-BFGS, with a penalty on the way from the start; of the cosine only directions count."""
    function = SIMILARITIES[similarity]
    to_known = function(scored.embedded, known)  # (n, T)
    length = start.norm().clamp(min=1e-12)
    embedding = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([embedding], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        to_all = torch.cat([to_known, function(scored.embedded, embedding[None])], dim=1)  # (n, T + 1)
        loss = losses_of(to_all, scored.targets, settings, len(known)) @ scored.weights
        place = F.normalize(embedding, dim=0) if similarity == "cos" else embedding / length
        total = (loss + penalty / 2 * (place - start / length).square().sum()) / len(scored.weights)
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    return embedding.detach()


def out_of_fold(known: Tensor, similarity: str, scored: Scored, *how: Any) -> np.ndarray:
    """Similarity (n,) of each query to the new LLM's embedding as the queries of the other FOLDS - 1 parts give it."""
    count = len(scored.weights)
    fold_of = np.random.default_rng(0).permutation(count) % min(FOLDS, count)
    found = np.empty(count)
    for fold in np.unique(fold_of):
        inside = np.flatnonzero(fold_of == fold)
        embedding = fit_embedding(known, similarity, scored.rows(np.flatnonzero(fold_of != fold)), *how)
        found[inside] = SIMILARITIES[similarity](scored.embedded[inside], embedding[None])[:, 0].cpu().numpy()
    return found
