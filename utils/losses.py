"""The losses of RouterDC, CosineClassifier and ZOOTER: pure functions of similarities and scores.

Each returns one value per query; reduce with `.mean()`. None loops over rows or waits for the device. A query that has
no term gets a loss of exactly zero, with gradient zero. Some switches are behaviours of the released code that
--fidelity takes in place of the paper's form (`utils.config.Fidelity`); "fidelity row 1" is a row of README's table.

Example (B queries, T LLMs, p dimensions):
    similarity = cosine(queries, llms)                             # (B, p), (T, p) -> (B, T)
    loss = sample_llm_loss(similarity, scores).mean()              # scores: (B, T) in [0, 1]
    loss = loss + sample_sample_loss(cosine(queries, queries), cluster_ids).mean()

References:
    Chen, Jiang, Lin, Kwok, Zhang: RouterDC: Query-Based Router by Dual Contrastive Learning for Assembling Large
    Language Models. NeurIPS 2024, arXiv 2409.19886. Method section: the sample-LLM loss (L1), the sample-sample loss
    (L2), and the objective L = L1 + lambda * L2. Experiments section: the baselines CosineClassifier and ZOOTER.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of all pairs: (N, p), (M, p) -> (N, M)."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of all pairs: (N, p), (M, p) -> (N, M)."""
    return a @ b.T


SIMILARITIES = {"cos": cosine, "inner": inner}
NONE = -1e30  # stands for log 0: its exponential is 0, and so are its gradients
TINY = 1e-30  # what a logarithm gets where its result is not used


def _log_ratio(positive: Tensor, rivals: Tensor) -> Tensor:
    """-log[e^positive / (e^positive + e^rivals)], computed as log(1 + e^(rivals - positive)).

    rivals: the logsumexp of the negatives' similarities; where it is NONE, the result and its gradients are 0. The two
    shapes broadcast.
    """
    return F.softplus(rivals - positive, threshold=50)


def _check_same_shape(similarity: Tensor, scores: Tensor) -> None:
    """Raise ValueError unless both are (B, T)."""
    if similarity.shape != scores.shape or similarity.ndim != 2:
        raise ValueError(f"similarity {tuple(similarity.shape)} and scores {tuple(scores.shape)} must both be (B, T)")


TIES = ("expected", "random", "released", "columns")  # rules for LLMs with one score, see `places`


def places(
    scores: Tensor, ties: str = "expected", generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rank the LLMs of each query, from the best and from the worst: which places each of them may take.

    The paper leaves open which of several LLMs with one score are the K+ best or the K- worst. The rules:
        expected: all places that the tied LLMs compete for, each with the same chance. No randomness, no order of
            columns.
        random: a fresh order of the tied LLMs, the same one from both ends.
        released: from both ends the first columns come first, as with the released code's `topk` on a GPU.
        columns: one stable sort, so that from the best the first columns come first and from the worst the last ones.

    Args:
        scores: (B, T).
        ties: one of TIES.
        generator: source of randomness of "random", on the device of `scores`.
    Returns: first_best, end_best, first_worst, end_worst, each (B, T) integers: LLM t takes one of the places
        first[t], ..., end[t] - 1, place 0 being the best (or the worst) one.
    Raises: ValueError for another rule.

    Example: scores (0.9, 0.3, 0.3, 0). By "expected" the second and the third LLM may each take the places 1 and 2 from
    the best (first_best 1, end_best 3), and the same two places from the worst.
    """
    if ties == "expected":
        ascending = scores.sort(dim=1).values
        below = torch.searchsorted(ascending, scores)  # LLMs that are worse
        not_above = torch.searchsorted(ascending, scores, right=True)  # worse or equal
        count = scores.shape[1]
        return count - not_above, count - below, below, not_above
    if ties == "random":
        noise = torch.rand(scores.shape, generator=generator, device=scores.device)
        shuffled = noise.argsort(dim=1)
        order = shuffled.gather(1, scores.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    elif ties in ("released", "columns"):
        order = scores.argsort(dim=1, descending=True, stable=True)
    else:
        raise ValueError(f"--ties is {ties!r}; it must be one of {', '.join(TIES)}")
    best = order.argsort(dim=1)
    if ties == "released":
        worst = scores.argsort(dim=1, stable=True).argsort(dim=1)
    else:
        worst = scores.shape[1] - 1 - best
    return best, best + 1, worst, worst + 1


def _mean_worth(worth: Tensor, first: Tensor, end: Tensor) -> Tensor:
    """Mean worth of the places first, ..., end - 1. worth: (T,) of each place; first and end: (B, T)."""
    total = torch.cat([worth.new_zeros(1), worth.cumsum(dim=0)])  # (T + 1,)
    return (total[end] - total[first]) / (end - first)


def sample_llm_loss(
    similarity: Tensor,
    scores: Tensor,
    top_k: int = 3,
    last_k: int = 3,
    temperature: float = 1.0,
    negative_below: float = 0.5,
    ties: str = "expected",
    generator: torch.Generator | None = None,
    batch_mask: bool = False,
    half_is_negative: bool = False,
) -> Tensor:
    """Sample-LLM contrastive loss, L1 of the paper, per query.

    L1(x) = sum over t+ of weight+(t+) * -log [ e^sim(t+) / (e^sim(t+) + sum over t- of weight-(t-) * e^sim(t-)) ]

    A positive t+ is one of the top_k LLMs by score, with a score above 0. A negative t- is one of the last_k LLMs by
    score, with a score below `negative_below`. Their weights are 1. LLMs with one score share the places that they
    compete for: with ties="expected" the weight of each is its chance of a place among the top_k (last_k).

    Args:
        similarity: (B, T) similarity of each query to each LLM. scores: (B, T), in [0, 1].
        top_k, last_k: K+ and K-, 1 to T.
        temperature: divides the similarities; 1 in the paper. negative_below: 0.5 in the paper.
        ties: rule for LLMs with one score, see `places`. generator: for "random", on the device of `scores`.
        batch_mask, half_is_negative: fidelity rows 1 and 7 as released, see `_positive_weights` and
            `_negative_weights`.
    Returns: (B,) losses, sums over the positives.
    Raises: ValueError if top_k or last_k is not in 1..T, the shapes differ, or the rule for ties is unknown.

    Example, top_k = last_k = 2: with scores (0.9, 0.3, 0.3, 0) the first LLM is a positive and the last a negative;
    the two in the middle are each half a positive and half a negative. Scores (0, 0, 0, 0) have no positive, and
    (1, 1, 0.5, 0.5) no negative: loss 0, and gradient 0. In a batch with a query of each kind only the first counts.

    References: RouterDC (arXiv 2409.19886), method section, sample-LLM loss.
    """
    _check_same_shape(similarity, scores)
    count = scores.shape[1]
    for name, k in (("top_k", top_k), ("last_k", last_k)):
        if not 1 <= k <= count:
            raise ValueError(f"{name} is {k}; with {count} LLMs it must be from 1 to {count}")
    similarity = similarity / temperature
    first_best, end_best, first_worst, end_worst = places(scores, ties, generator)
    dtype = similarity.dtype
    positive = _positive_weights(scores, top_k, first_best, end_best, batch_mask, dtype)
    negative = _negative_weights(scores, last_k, first_worst, end_worst, negative_below, half_is_negative, dtype)

    weighted = torch.where(negative > 0, similarity + negative.clamp(min=TINY).log(), NONE)  # log(weight- * e^sim)
    rivals = weighted.logsumexp(dim=1, keepdim=True)  # (B, 1)
    return (positive * _log_ratio(similarity, rivals)).sum(dim=1)


def _positive_weights(
    scores: Tensor, top_k: int, first: Tensor, end: Tensor, batch_mask: bool, dtype: torch.dtype
) -> Tensor:
    """weight+ of `sample_llm_loss`, (B, T): the chance of a place among the best top_k; 0 for an LLM with score 0.

    first, end: (B, T), see `places`. batch_mask: as released (fidelity row 1), the mask that leaves out scores of 0 is
    averaged over the batch, place by place, in place of applying to its own query.
    """
    among_best = (torch.arange(scores.shape[1], device=scores.device) < top_k).to(dtype)  # (T,), by place
    if batch_mask:  # mean(log) x mean(mask), place by place
        ranked = scores.sort(dim=1, descending=True).values
        return _mean_worth(among_best * (ranked > 0).to(dtype).mean(dim=0), first, end)
    return _mean_worth(among_best, first, end) * (scores > 0).to(dtype)


def _negative_weights(
    scores: Tensor, last_k: int, first: Tensor, end: Tensor, below: float, half_is_negative: bool, dtype: torch.dtype
) -> Tensor:
    """weight- of `sample_llm_loss`, (B, T): the chance of a place among the worst last_k, for a score below `below`.

    first, end: (B, T), see `places`. half_is_negative: as released (fidelity row 7), a score of exactly `below` makes
    a negative, too.
    """
    among_worst = (torch.arange(scores.shape[1], device=scores.device) < last_k).to(dtype)  # (T,), by place
    is_low = scores <= below if half_is_negative else scores < below
    return _mean_worth(among_worst, first, end) * is_low


def draw_pairs(
    groups: Tensor,
    negatives: int = 3,
    generator: torch.Generator | None = None,
    ids: Tensor | None = None,
    self_positive: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw for each row one in-group positive and up to `negatives` distinct out-of-group rows, uniformly.

    Args:
        groups: (B,) group ids.
        negatives: H, at least 1.
        generator: source of randomness, on the device of `groups`.
        ids: (B,) ids of the queries, for batches that may hold a query twice: a positive is another query, not a copy.
        self_positive: fidelity row 3 as released: the positive may be the row itself.
    Returns: positive (B,), has_positive (B,), negative (B, min(H, B)), is_negative (B, min(H, B)): row numbers, and
        whether there is such a row. Row numbers without their flag mean nothing.
    Raises: ValueError if negatives is below 1.

    Example: groups (0, 0, 1) with H = 3. Rows 0 and 1 draw each other, and row 2 as their one negative. Row 2 has no
    positive, and two negatives.
    """
    if negatives < 1:
        raise ValueError(f"H is {negatives}; it must be at least 1")
    size = len(groups)
    same = groups[:, None] == groups[None, :]  # (B, B)
    ids = torch.arange(size, device=groups.device) if ids is None else ids
    candidates = same if self_positive else same & (ids[:, None] != ids[None, :])
    # the largest of uniform noise is a uniform draw
    noise = torch.rand(size, size, generator=generator, device=groups.device)
    positive = noise.masked_fill(~candidates, -1).argmax(dim=1)
    drawn, negative = noise.masked_fill(same, -1).topk(min(negatives, size), dim=1)
    return positive, candidates.any(dim=1), negative, drawn >= 0


def sample_sample_loss(
    similarity: Tensor,
    groups: Tensor,
    negatives: int = 3,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    ids: Tensor | None = None,
    self_positive: bool = False,
    shifted_rows: bool = False,
) -> Tensor:
    """Sample-sample contrastive loss, L2 of the paper, per query.

    L2(x) = -log [ e^sim(x, x+) / (e^sim(x, x+) + sum over x- of e^sim(x, x-)) ]

    x+ is another query of the same group, and the x- are H queries of other groups, drawn from the batch for each row.
    Where fewer than H are there, all of them are used. A row that is alone in its group, or whose group is the whole
    batch, has loss 0.

    Args:
        similarity: (B, B) similarity of the queries to each other.
        groups: (B,) cluster ids as in the paper, or task ids.
        negatives: H; 3 in the paper.
        temperature: divides the similarities; 1 in the paper.
        generator: source of randomness, on the device of `groups`.
        ids: (B,) ids of the queries; rows with equal ids are copies of one query and no positives of each other.
        self_positive: fidelity row 3 as released: the positive may be the query itself.
        shifted_rows: fidelity row 4 as released: a row with fewer than H out-of-group queries is dropped from the
            drawn pairs but not from the similarities, so that every later row reads the similarities of an earlier
            one, and the mean is over the rows kept. (The released code crashes if it drops every row; here the loss
            is then 0.)
    Returns: (B,) losses.
    Raises: ValueError if negatives is below 1 or the shapes do not fit.

    Example: groups (0, 0, 1). Rows 0 and 1 are each other's positive and have row 2 as their only negative. Row 2 has
    no positive: loss 0, and gradient 0. In groups (0, 0, 0), one group that is the whole batch, no row has a negative:
    all losses are 0. So are they in groups (0, 1, 2), where no row has a positive.

    References: RouterDC (arXiv 2409.19886), method section, sample-sample loss.
    """
    size = len(groups)
    if similarity.shape != (size, size):
        shape = tuple(similarity.shape)
        raise ValueError(f"similarity {shape} must be (B, B) with B = {size}, the number of group ids")
    similarity = similarity / temperature
    positive, has_positive, negative, is_negative = draw_pairs(groups, negatives, generator, ids, self_positive)
    if shifted_rows:
        kept = is_negative.sum(dim=1) >= negatives
        moved = torch.sort(kept.int(), descending=True, stable=True).indices  # kept rows first, order unchanged
        positive, negative, is_negative = positive[moved], negative[moved], is_negative[moved]
        kept_count = kept.sum()
        weight = (torch.arange(size, device=groups.device) < kept_count) & has_positive[moved]
        weight = weight * (size / kept_count.clamp(min=1))  # so that the mean over B is the mean over the kept rows
    else:
        weight = has_positive
    rivals = similarity.gather(1, negative).masked_fill(~is_negative, NONE).logsumexp(dim=1)  # (B,)
    return _log_ratio(similarity.gather(1, positive[:, None])[:, 0], rivals) * weight  # no valid negative: already 0


def cosine_classifier_loss(similarity: Tensor, scores: Tensor, temperature: float = 1.0) -> Tensor:
    """CosineClassifier of the paper, per query: cross-entropy of softmax(similarity) on the LLM with the highest score.

    loss(x) = -log [ e^sim(best) / sum over all t of e^sim(t) ]

    LLMs that share the highest score share the label equally, so that the order of the columns teaches nothing. A
    query that every LLM fails has no best one, and loss 0.

    Args:
        similarity: (B, T) similarity of each query to each LLM (the class weights).
        scores: (B, T) scores in [0, 1].
        temperature: divides the similarities.
    Returns: (B,) losses.
    Raises: ValueError if the shapes differ.

    Example: scores (0.7, 0.7, 0.1) have the label (1/2, 1/2, 0); scores (0, 0, 0) have none: loss 0, and gradient 0.

    References: RouterDC (arXiv 2409.19886), experiments section, baseline CosineClassifier.
    """
    _check_same_shape(similarity, scores)
    highest = scores.max(dim=1, keepdim=True).values
    label = ((scores == highest) & (highest > 0)).to(similarity.dtype)  # (B, T), ones at the best
    label = label / label.sum(dim=1, keepdim=True).clamp(min=1)
    return -(label * torch.log_softmax(similarity / temperature, dim=1)).sum(dim=1)


def zooter_loss(similarity: Tensor, scores: Tensor, temperature: float = 1.0) -> Tensor:
    """ZOOTER as the paper compares with it, per query: KL(softmax(normalised scores) || softmax(similarity)).

    loss(x) = sum over t of q(t) * log [ q(t) / p(t) ]    with q = softmax(normalised scores), p = softmax(sim)

    A query's scores are normalised to [0, 1]: its worst LLM gets 0 and its best 1. Where all are equal, q is uniform.

    Args:
        similarity: (B, T) similarity of each query to each LLM.
        scores: (B, T) scores.
        temperature: divides the similarities and the normalised scores.
    Returns: (B,) divergences, at least 0.
    Raises: ValueError if the shapes differ.

    Example: scores (0.2, 0.4, 0.3) are normalised to (0, 1, 0.5); scores (0, 0, 0), all failing, teach the uniform q.

    References: RouterDC (arXiv 2409.19886), experiments section, baseline ZOOTER.
    """
    _check_same_shape(similarity, scores)
    lowest, highest = scores.aminmax(dim=1, keepdim=True)
    normalised = (scores - lowest) / torch.where(highest > lowest, highest - lowest, 1)  # (B, T)
    target = torch.log_softmax(normalised.to(similarity.dtype) / temperature, dim=1)
    return (target.exp() * (target - torch.log_softmax(similarity / temperature, dim=1))).sum(dim=1)
