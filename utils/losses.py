"""The losses of RouterDC, CosineClassifier and ZOOTER: pure functions of similarities and scores, one value per row.

None loops over rows nor waits for the device, and a row that has no term gets an exact, differentiable zero. Reduce
with `.mean()`. The switches that name a fidelity row (README) do what the released code does in place of the paper's
form.

Example (B queries, T LLMs, p dimensions):
    similarity = cosine(queries, llms)                             # (B, p), (T, p) -> (B, T)
    loss = sample_llm_loss(similarity, scores).mean()              # scores: (B, T) in [0, 1]
    loss = loss + sample_sample_loss(cosine(queries, queries), cluster_ids).mean()

References:
    Chen, Jiang, Lin, Kwok, Zhang: RouterDC: Query-Based Router by Dual Contrastive Learning for Assembling Large
    Language Models. NeurIPS 2024, arXiv 2409.19886: the sample-LLM loss (L1), the sample-sample loss (L2), L = L1 +
    lambda * L2.
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
    """-log[e^positive / (e^positive + e^rivals)] = log(1 + e^(rivals - positive)); 0, with gradient 0, where rivals
    is NONE.

    rivals is the logsumexp of the negatives' similarities. The two broadcast.
    """
    return F.softplus(rivals - positive, threshold=50)


def _check_shapes(similarity: Tensor, scores: Tensor) -> None:
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
        released: from both ends the first columns come first, as the released code's `topk` on a GPU does (FIDELITY
            row 19).
        columns: one stable sort, so that from the best the first columns come first and from the worst the last ones.

    Args:
        scores: (B, T).
        ties: one of TIES.
        generator: source of randomness of "random", on the device of `scores`.
    Returns: first_best, end_best, first_worst, end_worst, each (B, T) integers: LLM t takes one of the places
        first[t], ..., end[t] - 1, place 0 being the best (or the worst) one.
    Raises: ValueError for another rule.
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


def _check_counts(llms: int, top_k: int, last_k: int) -> None:
    """Raise ValueError for a K+ or K- that this number of LLMs does not allow."""
    for name, k in (("top_k", top_k), ("last_k", last_k)):
        if not 1 <= k <= llms:
            raise ValueError(f"{name} is {k}; with {llms} LLMs it must be from 1 to {llms}")


def _among_first(scores: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """(T,), by place: 1 for the first k places, 0 for the others."""
    return (torch.arange(scores.shape[1], device=scores.device) < k).to(dtype)


def _positive_weights(
    scores: Tensor, first: Tensor, end: Tensor, top_k: int, batch_mask: bool, dtype: torch.dtype
) -> Tensor:
    """weight+ of `sample_llm_loss`, (B, T). first, end: (B, T), the places from the best, see `places`."""
    among_best = _among_first(scores, top_k, dtype)
    if batch_mask:  # mean(log) x mean(mask), place by place
        ranked = scores.sort(dim=1, descending=True).values
        return _mean_worth(among_best * (ranked > 0).to(dtype).mean(dim=0), first, end)
    return _mean_worth(among_best, first, end) * (scores > 0).to(dtype)


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

    weight+ is 1 for the top_k LLMs by score and 0 for the others; weight- is 1 for those of the last_k LLMs whose
    score is below `negative_below`. LLMs with one score share the places that they compete for: with
    `ties="expected"` the weight of each is its chance of a place, any other rule of `places` decides for 0 or 1. An
    LLM with score 0 is no positive. A query without a positive, or without a negative, has loss 0.

    Args:
        similarity: (B, T) similarity of each query to each LLM.
        scores: (B, T) scores in [0, 1].
        top_k, last_k: K+ and K-, 1 to T.
        temperature: divides the similarities.
        negative_below: 0.5 in the paper.
        ties: which of several LLMs with one score are among the top_k or last_k, see `places`.
        generator: source of randomness of `ties="random"`, on the device of `scores`.
        batch_mask: fidelity row 1 as released: the mask of a place among the positives is averaged over the batch.
        half_is_negative: fidelity row 7 as released: a score of exactly `negative_below` makes a negative, too.
    Returns: (B,) losses, sums over the positives.
    Raises: ValueError if top_k or last_k is not in 1..T, the shapes differ, or the rule for ties is unknown.

    Example: scores (0.9, 0.3, 0.3, 0) with top_k = 2 and last_k = 2. The first LLM is a positive, the second and
    third share one place among the positives (1/2 each) and one among the negatives (1/2 each), the last is a
    negative. Scores (0, 0, 0, 0) have no positive and (1, 1, 0.5, 0.5) no negative: loss 0, and gradient 0.

    References: RouterDC, arXiv 2409.19886, the sample-LLM contrastive loss.
    """
    _check_shapes(similarity, scores)
    _check_counts(scores.shape[1], top_k, last_k)
    similarity = similarity / temperature
    first_best, end_best, first_worst, end_worst = places(scores, ties, generator)
    positive = _positive_weights(scores, first_best, end_best, top_k, batch_mask, similarity.dtype)
    is_low = scores <= negative_below if half_is_negative else scores < negative_below
    among_worst = _among_first(scores, last_k, similarity.dtype)
    negative = _mean_worth(among_worst, first_worst, end_worst) * is_low  # (B, T)

    weighted = torch.where(negative > 0, similarity + negative.clamp(min=TINY).log(), NONE)  # log(weight- * e^sim)
    rivals = weighted.logsumexp(dim=1, keepdim=True)  # (B, 1)
    return (positive * _log_ratio(similarity, rivals)).sum(dim=1)


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
    Returns: positive (B,), has_positive (B,), negative (B, min(H, B)), is_negative (B, min(H, B)); indices without
        their flag mean nothing.
    Raises: ValueError if negatives is below 1.
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

    x+ is another query of the same group in the batch, and the x- are H queries of other groups. Draws one in-group
    query and H out-of-group queries of the batch for each row; with fewer than H it uses what there is. A row that is
    alone in its group, or whose group is the whole batch, has loss 0.

    Args:
        similarity: (B, B) similarity of the queries to each other.
        groups: (B,) cluster ids, or task ids.
        negatives: H.
        temperature: divides the similarities.
        generator: source of randomness, on the device of `groups`.
        ids: (B,) ids of the queries; rows with equal ids are copies of one query and no positives of each other.
        self_positive: fidelity row 3 as released: the positive may be the query itself.
        shifted_rows: fidelity row 4 as released: a row with fewer than H out-of-group queries is dropped from the
            drawn pairs but not from the similarities, so that every later row reads the similarities of an earlier
            one, and the mean is over the rows kept. (Released code crashes if it drops every row; here the loss is
            then 0.)
    Returns: (B,) losses.
    Raises: ValueError if negatives is below 1 or the shapes do not fit.

    Example: groups (0, 0, 1). Rows 0 and 1 are each other's positive and have row 2 as their only negative. Row 2 has
    no positive, and in groups (0, 0, 0) nobody has a negative: loss 0, and gradient 0.

    References: RouterDC, arXiv 2409.19886, the sample-sample contrastive loss.
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

    loss(x) = -log softmax(sim(x))[best LLM]

    LLMs that share the highest score share the label, so that the order of the columns teaches nothing. A query that
    every LLM fails has no best one, and loss 0.

    Args:
        similarity: (B, T) similarity of each query to each LLM (the class weights).
        scores: (B, T) scores in [0, 1].
        temperature: divides the similarities.
    Returns: (B,) losses.
    Raises: ValueError if the shapes differ.

    References: RouterDC, arXiv 2409.19886, which compares with this classifier.
    """
    _check_shapes(similarity, scores)
    highest = scores.max(dim=1, keepdim=True).values
    label = ((scores == highest) & (highest > 0)).to(similarity.dtype)  # (B, T), ones at the best
    label = label / label.sum(dim=1, keepdim=True).clamp(min=1)
    return -(label * torch.log_softmax(similarity / temperature, dim=1)).sum(dim=1)


def zooter_loss(similarity: Tensor, scores: Tensor, temperature: float = 1.0) -> Tensor:
    """ZOOTER as the paper compares with it, per query: KL(softmax(normalised scores) || softmax(similarity)).

    A query's scores are normalised to [0, 1], its worst LLM to 0 and its best to 1. Where all are equal the target is
    uniform.

    Args:
        similarity: (B, T) similarity of each query to each LLM.
        scores: (B, T) scores.
        temperature: divides the similarities and the normalised scores.
    Returns: (B,) divergences, at least 0.
    Raises: ValueError if the shapes differ.

    References:
        Lu, Yuan, Lin, Lin, Yuan, Zhou, Zhou: Routing to the Expert: Efficient Reward-guided Ensemble of Large Language
        Models. NAACL 2024, arXiv 2311.08692; here with scores in place of rewards, as in RouterDC, arXiv 2409.19886.
    """
    _check_shapes(similarity, scores)
    lowest, highest = scores.aminmax(dim=1, keepdim=True)
    normalised = (scores - lowest) / torch.where(highest > lowest, highest - lowest, 1)  # (B, T)
    target = torch.log_softmax(normalised.to(similarity.dtype) / temperature, dim=1)
    return (target.exp() * (target - torch.log_softmax(similarity / temperature, dim=1))).sum(dim=1)
