"""Give a trained router one LLM more, or one less, without training it again.

    python -m utils.add_llm --ckpt runs/mine --llm org/new-7b --data_paths new/gsm8k-train.json --output runs/with_new
    python -m utils.add_llm --ckpt runs/mine --remove org/old-7b --output runs/without_old

The files have scores of the new LLM on some questions of the run's training files, alone or beside other LLMs. Encoder,
head and the embeddings of the known LLMs stay as they are, and so do their picks among themselves. Only the new LLM's
embedding is fitted, to the same loss as in training; results/new_llms.md says how good that is, and with how many
queries.
"""

import utils  # noqa: F401  # isort: skip  # before torch, which takes from it how its threads wait
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.config import Fidelity
from utils.data import RoutingData
from utils.losses import SIMILARITIES, cosine_classifier_loss, sample_llm_loss, zooter_loss
from utils.training_set import targets

STEPS = 100  # of L-BFGS, at most


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

    known: how many LLMs it was trained with. K- counts one more if it counted all but the K+.
    """
    temperature = settings["temperature"]
    if settings["loss"] == "cosine_classifier":
        return cosine_classifier_loss(similarity, values, temperature)
    if settings["loss"] == "zooter":
        return zooter_loss(similarity, values, temperature)
    fidelity = Fidelity.parse(settings["fidelity"])
    last_k = settings["last_k"] + (settings["last_k"] >= known - settings["top_k"])
    return sample_llm_loss(
        similarity,
        values,
        settings["top_k"],
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
        loss: the least loss of training, in which the new embedding alone moves.
        mean: the mean of the queries, weighted by how much better than the known LLMs the new one is on them.

    Args:
        known: (T, p), the embeddings of the known LLMs, in the order of the targets. similarity: "cos" or "inner".
        penalty: for "loss", how many queries its start is worth, the mean of the known embeddings.
    """
    size = known.norm(dim=1).mean()
    if method == "mean":
        better = scored.targets[:, -1] - scored.targets[:, :-1].mean(dim=1)
        fitted = (scored.weights * better) @ F.normalize(scored.embedded, dim=1)
    else:
        fitted = _least_loss(known, similarity, scored, settings, penalty)
    if similarity == "cos" or method == "mean":
        fitted = fitted * (size / fitted.norm().clamp(min=1e-12))
    return fitted


def _least_loss(
    known: Tensor, similarity: str, scored: Scored, settings: Mapping[str, Any], penalty: float
) -> Tensor:
    """See `fit_embedding`: L-BFGS from the mean of the known embeddings, with a penalty on the way from there."""
    is_cosine = similarity == "cos"
    function = SIMILARITIES[similarity]
    start = F.normalize(known, dim=1).mean(dim=0) if is_cosine else known.mean(dim=0)
    length = start.norm().clamp(min=1e-12)
    to_known = function(scored.embedded, known)  # (n, T)
    embedding = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([embedding], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        to_all = torch.cat([to_known, function(scored.embedded, embedding[None])], dim=1)  # (n, T + 1)
        loss = losses_of(to_all, scored.targets, settings, len(known)) @ scored.weights
        moved = (F.normalize(embedding, dim=0) if is_cosine else embedding / length) - start / length
        total = (loss + penalty / 2 * moved.square().sum()) / len(scored.weights)
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    return embedding.detach()


# Joining the new scores with the training files


@dataclass(frozen=True)
class Joined:
    """Rows of one training file with scores of a new LLM.

    part: the training file and its rows. rows: (n,), which of them. new: the same n queries as the new file has them,
    with the column of the new LLM alone.
    """

    part: TaskRows
    rows: np.ndarray
    new: RoutingData


def join(path: str, llm: str, data: TrainingSet, settings: Mapping[str, Any]) -> Joined:
    """The rows of a file of new scores whose questions stand in the training file of its task.

    Of a question with several rows the first one counts. What is left out is counted on stderr.
    Raises: DataError for a file of another task, without the LLM, or damaged.
    """
    task = task_of(path)
    parts = {part.data.task: part for part in data.parts}
    if task not in parts:
        raise DataError(
            f"{path}: its name stands for the task {task!r}, which is none of the training files' ({', '.join(parts)}); "
            "name it as the training file whose questions it has"
        )
    part = parts[task]
    new = load(path, part.data.kind, **reading(settings)).for_llms([llm])
    places: dict[str, int] = {}
    for row, question in enumerate(part.data.identity):
        places.setdefault(question, row)
    common: dict[int, int] = {}  # row there to row here
    for row, question in enumerate(new.identity):
        if question in places:
            common.setdefault(places[question], row)
    if len(common) < len(new):
        left_out = f"{len(new) - len(common)} of its {len(new)} rows are not used"
        print(f"note: {path}: {left_out}, their questions are not in {part.data.path}, or twice here", file=sys.stderr)
    rows = np.array(sorted(common), dtype=np.int64)
    return Joined(part, rows, new.rows(np.array([common[row] for row in rows], dtype=np.int64)))


def check_scores(llm: str, joined: Sequence[Joined]) -> None:
    """Raise ValueError if no query has a score of the new LLM, or all scores are alike."""
    scores = np.concatenate([entry.new.scores[:, 0] for entry in joined])
    if not len(scores):
        files = ", ".join(entry.part.data.path for entry in joined)
        raise ValueError(
            f"--data_paths: none of the questions stands in the training files {files}; give scores of their "
            "questions, spelled as they are there"
        )
    if scores.min() == scores.max():
        raise ValueError(
            f"--llm {llm}: all {len(scores)} scores are {scores[0]:g}, so they do not say for which queries it is a good "
            "choice; score more queries, or look whether these scores are right"
        )


def scored_queries(joined: Sequence[Joined], embedded: Tensor, settings: Mapping[str, Any]) -> Scored:
    """All that the fit needs. embedded: (n, p), behind the head, the rows of the files end to end."""
    found, weights = [], []
    for entry in joined:
        new = targets(entry.new, settings["targets"], settings.get("cost_rate", 0.0))[:, 0]
        found.append(targets_with(entry.part.data, entry.part.train, entry.rows, new, settings))
        weights.append(np.full(len(new), 1 / max(len(new), 1)))
    weight = np.concatenate(weights)
    return Scored(
        embedded,
        torch.from_numpy(np.concatenate(found)).to(embedded.device),
        torch.from_numpy(weight * (len(weight) / weight.sum())).float().to(embedded.device),
    )
