"""utils/losses.py against plain loops over the paper's formulas.

On random and on degenerate batches; and the switches of the FIDELITY rows.
"""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.metrics.pairwise import cosine_similarity

from utils.losses import (
    SIMILARITIES,
    TIES,
    cosine,
    cosine_classifier_loss,
    draw_pairs,
    inner,
    places,
    sample_llm_loss,
    sample_sample_loss,
    zooter_loss,
)

CLOSE = {torch.float32: {"rtol": 2e-5, "atol": 2e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-12}}


def naive_similarity(a: torch.Tensor, b: torch.Tensor, kind: str) -> list[list[torch.Tensor]]:
    """One pair at a time, so that autograd differentiates the definition."""

    def pair(u, v):
        dot = sum(x * y for x, y in zip(u, v))
        if kind == "inner":
            return dot
        lengths = [sum(x * x for x in vector) ** 0.5 for vector in (u, v)]
        return dot / (lengths[0] * lengths[1])

    return [[pair(u, v) for v in b] for u in a]


def orders_of(score: list[float], ties: str) -> list[tuple[list[int], list[int]]]:
    """All rankings (from the best, from the worst) that a rule for ties allows.

    With "expected" they are equally likely.
    """
    columns = range(len(score))
    best = sorted(columns, key=lambda t: -score[t])  # stable
    if ties == "columns":
        return [(best, best[::-1])]
    if ties == "released":
        return [(best, sorted(columns, key=lambda t: score[t]))]
    shuffled = (sorted(order, key=lambda t: -score[t]) for order in itertools.permutations(columns))
    return [(order, order[::-1]) for order in shuffled]


def naive_sample_llm(
    similarity, scores, top_k=3, last_k=3, temperature=1.0, below=0.5, ties="expected", half=False
) -> list:
    """L1 of the paper, row by row: I+ the top K+ scores (none of them 0), I- those of the bottom K- that are below 0.5.

    Where a rule allows several rankings, an LLM counts with the share of them that make it a positive, or a negative.
    """
    losses = []
    for row, score in zip(similarity, scores.tolist()):
        orders = orders_of(score, ties)
        positive, negative = Counter(), Counter()
        for best, worst in orders:
            positive.update(t for t in best[:top_k] if score[t] > 0)
            negative.update(t for t in worst[:last_k] if score[t] < below or (half and score[t] == below))
        others = sum(count / len(orders) * torch.exp(row[n] / temperature) for n, count in negative.items())
        loss = 0.0 * row[0]
        for t, count in positive.items():
            own = torch.exp(row[t] / temperature)
            loss = loss - count / len(orders) * torch.log(own / (own + others))
        losses.append(loss)
    return losses


def naive_ratio(row, positive, negatives, temperature=1.0):
    """-log[e^s(positive) / (e^s(positive) + sum of e^s(negatives))]."""
    up = torch.exp(row[positive] / temperature)
    return -torch.log(up / (up + sum(torch.exp(row[n] / temperature) for n in negatives)))


def naive_sample_sample(similarity, draws, temperature=1.0) -> list:
    """L2 of the paper for given draws: per row (positive or None, negatives)."""
    return [
        0.0 * row[0] if positive is None or not negatives else naive_ratio(row, positive, negatives, temperature)
        for row, (positive, negatives) in zip(similarity, draws)
    ]


def drawn(groups, count, seed, ids=None, self_positive=False):
    """What `draw_pairs` draws, as (positive or None, list of negatives) per row."""
    result = draw_pairs(groups, count, torch.Generator().manual_seed(seed), ids, self_positive)
    draws = []
    for positive, has_positive, negatives, are_negatives in zip(*(values.tolist() for values in result)):
        chosen = [number for number, is_negative in zip(negatives, are_negatives) if is_negative]
        draws.append((positive if has_positive else None, chosen))
    return draws


def random_batch(seed: int, rows=9, llms=6, size=5, dtype=torch.float64):
    """Embeddings of queries and LLMs that want gradients, and scores with zeros, halves, ones and ties."""
    generator = torch.Generator().manual_seed(seed)

    def embeddings(count: int) -> torch.Tensor:
        return torch.randn(count, size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    queries, keys = embeddings(rows), embeddings(llms)
    values = torch.tensor([0, 0, 0.1, 0.3, 0.49, 0.5, 0.5, 0.7, 1, 1])
    return queries, keys, values[torch.randint(len(values), (rows, llms), generator=generator)]


@pytest.mark.parametrize("kind", ["cos", "inner"])
def test_similarities_are_what_scikit_learn_and_numpy_say(kind):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 7)), rng.normal(size=(3, 7))
    expected = cosine_similarity(a, b) if kind == "cos" else np.einsum("ip,jp->ij", a, b)
    found = SIMILARITIES[kind](torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


# L1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["cos", "inner"])
@pytest.mark.parametrize(
    ("top_k", "last_k", "temperature", "below", "ties"),
    [
        (3, 3, 1.0, 0.5, "expected"),
        (1, 5, 0.3, 0.5, "expected"),
        (5, 2, 2.5, 0.4, "expected"),
        (2, 1, 1.0, 1.1, "expected"),
        (3, 3, 1.0, 0.5, "columns"),
        (1, 5, 0.3, 0.5, "columns"),
        (3, 3, 1.0, 0.5, "released"),
        (5, 2, 2.5, 0.4, "released"),
    ],
)
def test_sample_llm_loss_and_gradients_equal_the_loop(dtype, kind, top_k, last_k, temperature, below, ties):
    for seed in range(3):
        queries, keys, scores = random_batch(seed, llms=5, dtype=dtype)
        similarity = SIMILARITIES[kind](queries, keys)
        loss = sample_llm_loss(similarity, scores.to(dtype), top_k, last_k, temperature, below, ties)
        assert loss.shape == (9,) and loss.dtype == dtype
        twins = [value.detach().double().requires_grad_() for value in (queries, keys)]
        naive = naive_sample_llm(naive_similarity(*twins, kind), scores, top_k, last_k, temperature, below, ties)
        expected = torch.stack(naive)
        torch.testing.assert_close(loss.double(), expected, **CLOSE[dtype])
        weight = torch.arange(1.0, 10.0, dtype=dtype)  # rows count differently, so that mixing them up shows
        found = torch.autograd.grad((loss * weight).sum(), (queries, keys))
        wanted = torch.autograd.grad((expected * weight).sum(), twins)
        for a, b in zip(found, wanted):
            torch.testing.assert_close(a.double(), b, rtol=CLOSE[dtype]["rtol"], atol=20 * CLOSE[dtype]["atol"])


def test_sample_llm_loss_by_hand():
    """Two LLMs, similarities log 3 and 0: the share of the positive is 3/4, so the loss is log 4/3."""
    similarity = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    for scores, temperature, expected in (
        ([[0.9, 0.2]], 1.0, math.log(4 / 3)),
        ([[0.2, 0.9]], 1.0, math.log(4)),
        ([[0.9, 0.2]], 0.5, math.log(10 / 9)),
    ):
        loss = sample_llm_loss(similarity, torch.tensor(scores), 1, 1, temperature=temperature)
        assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_worked_example_of_the_docstring():
    """Scores (0.9, 0.3, 0.3, 0), K+ = K- = 2: weights+ (1, 1/2, 1/2, 0) and weights- (0, 1/2, 1/2, 1)."""
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=4)
    exponential = np.exp(similarity)
    rivals = 0.5 * exponential[1] + 0.5 * exponential[2] + exponential[3]
    terms = -np.log(exponential / (exponential + rivals))
    expected = terms[0] + 0.5 * terms[1] + 0.5 * terms[2]
    rows = torch.from_numpy(np.stack([similarity] * 3)).requires_grad_()
    scores = torch.tensor([[0.9, 0.3, 0.3, 0], [0, 0, 0, 0], [1, 1, 0.5, 0.5]], dtype=torch.float64)
    loss = sample_llm_loss(rows, scores, 2, 2)
    assert loss.tolist() == pytest.approx([expected, 0, 0], rel=1e-12) and loss[1:].tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(loss.sum(), rows)
    assert (gradient[0] != 0).all() and (gradient[1:] == 0).all()


@pytest.mark.parametrize("similarity", [cosine, inner])
def test_sample_llm_gradients_numerically(similarity):
    queries, keys, scores = random_batch(7, rows=4)

    def loss(q, k):
        return sample_llm_loss(similarity(q, k), scores, temperature=0.7)

    assert torch.autograd.gradcheck(loss, (queries, keys))


@pytest.mark.parametrize(
    ("name", "scores", "without_term"),
    [
        ("no positive: everyone fails", [0, 0, 0, 0, 0], True),
        ("no negative: everyone is at or above a half", [0.5, 0.6, 0.7, 0.8, 1], True),
        ("a half exactly is no negative", [1, 1, 1, 0.5, 0.5], True),
        ("just below a half is one", [1, 1, 1, 0.5, 0.49], False),
        ("one positive, the rest of the top 3 fail", [0, 0, 0.2, 0, 0], False),
        ("positives are negatives too where nobody is good", [0.4, 0.3, 0.2, 0.1, 0.05], False),
        ("all equal and good", [1, 1, 1, 1, 1], True),
        ("all equal and poor", [0.3, 0.3, 0.3, 0.3, 0.3], False),
    ],
)
def test_sample_llm_loss_on_ragged_rows(name, scores, without_term):
    generator = torch.Generator().manual_seed(1)
    similarity = torch.randn(1, 5, generator=generator, dtype=torch.float64).requires_grad_()  # a batch of one
    scores = torch.tensor([scores], dtype=torch.float64)
    loss = sample_llm_loss(similarity, scores)
    expected = naive_sample_llm(list(similarity.detach()), scores)[0]
    torch.testing.assert_close(loss[0], expected, rtol=1e-12, atol=1e-12)
    assert (loss.item() == 0) == without_term
    (gradient,) = torch.autograd.grad(loss.sum(), similarity)
    assert gradient.isfinite().all() and (gradient == 0).all() == without_term


def test_ties_by_column():
    """K+ = K- = 1: the first of the best is the positive. The negative is, of the worst, the last or the first.

    "columns": the last one; "released": the first one.
    """
    similarity = torch.tensor([[0.0, 1.0, 2.0, 4.0]], dtype=torch.float64)
    scores = torch.tensor([[0.2, 0.9, 0.9, 0.2]])
    for ties, negative in (("columns", 4.0), ("released", 0.0)):
        loss = sample_llm_loss(similarity, scores, 1, 1, ties=ties)
        assert loss.item() == pytest.approx(math.log(1 + math.exp(negative - 1.0)), rel=1e-12)
    wide = torch.zeros(64, 40, dtype=torch.float64) + torch.arange(40.0)  # an unstable sort would show on long rows
    for ties, negative in (("columns", 39.0), ("released", 0.0)):
        loss = sample_llm_loss(wide, torch.full((64, 40), 0.3), 1, 1, ties=ties)
        torch.testing.assert_close(loss, torch.full((64,), math.log(1 + math.exp(negative)), dtype=torch.float64))


def test_released_ties_are_those_of_numpy_from_both_ends():
    """One LLM may be a positive and a negative: with all scores equal the first K are both."""
    scores = torch.full((1, 5), 0.3)
    first_best, end_best, first_worst, end_worst = places(scores, "released")
    assert first_best.tolist() == first_worst.tolist() == [[0, 1, 2, 3, 4]]
    assert end_best.tolist() == end_worst.tolist() == [[1, 2, 3, 4, 5]]
    rng = np.random.default_rng(0)
    scores = rng.integers(4, size=(50, 7)) / 4
    found = places(torch.from_numpy(scores), "released")
    np.testing.assert_array_equal(found[0].numpy().argsort(axis=1), np.argsort(-scores, axis=1, kind="stable"))
    np.testing.assert_array_equal(found[2].numpy().argsort(axis=1), np.argsort(scores, axis=1, kind="stable"))


def test_expected_places_are_the_frequencies_of_random_ones():
    """Which of the 7 LLMs are among the best 3 and the worst 3, drawn 20,000 times.

    The frequencies are the shares that "expected" gives.
    """
    scores = torch.tensor([0.3, 0.9, 0.3, 0.0, 0.3, 0.0, 0.0])
    expected = places(scores[None])
    drawn_places = places(scores.expand(20_000, 7), "random", torch.Generator().manual_seed(3))
    for side in (0, 2):
        first, end = expected[side][0].double(), expected[side + 1][0].double()
        share = ((3 - first) / (end - first)).clamp(0, 1)
        found = (drawn_places[side] < 3).double().mean(dim=0)
        assert (found - share).abs().max() < 0.015, (side, found, share)
    both_ends = drawn_places[0] + drawn_places[2]
    assert (both_ends == 6).all()  # one order from both ends: nobody is among the best 3 and the worst 3 of 7


@pytest.mark.parametrize("llms", [3, 7, 40])
def test_the_order_of_the_columns_changes_no_loss(llms):
    """Row by row, to the last digits; "columns" and "released" do depend on it, so the test can fail."""
    generator = torch.Generator().manual_seed(llms)
    similarity = torch.randn(64, llms, generator=generator, dtype=torch.float64)
    scores = torch.randint(4, (64, llms), generator=generator).double() / 5
    shuffled = torch.randperm(llms, generator=generator)
    while torch.equal(shuffled, torch.arange(llms)):
        shuffled = torch.randperm(llms, generator=generator)
    top_k = last_k = min(3, llms - 1)
    for ties in TIES:
        if ties == "random":
            continue
        loss = sample_llm_loss(similarity, scores, top_k, last_k, ties=ties)
        moved = sample_llm_loss(similarity[:, shuffled], scores[:, shuffled], top_k, last_k, ties=ties)
        same = torch.allclose(loss, moved, rtol=1e-12, atol=1e-12)
        assert same == (ties == "expected"), ties


def test_random_ties_are_drawn_evenly_and_forget_the_columns():
    """Scores 0.9, 0.9, 0.9, 0.2, 0.2, K+ = 2, K- = 1.

    The mean over draws is the mean over all pairs of positive and negative.
    """
    similarity = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.5]], dtype=torch.float64)
    scores = torch.tensor([[0.9, 0.9, 0.9, 0.2, 0.2]])
    pairs = [similarity[0, n] - similarity[0, p] for p in (0, 1, 2) for n in (3, 4)]
    exact = 2 * np.mean([math.log(1 + math.exp(difference)) for difference in pairs])
    for columns in (list(range(5)), [4, 2, 0, 3, 1]):
        many = [values[:, columns].expand(20_000, 5) for values in (similarity, scores)]
        losses = sample_llm_loss(*many, 2, 1, ties="random", generator=torch.Generator().manual_seed(1))
        assert losses.mean().item() == pytest.approx(exact, rel=0.01) and len(losses.unique()) > 2


def test_without_ties_all_rules_agree():
    batch, keys, values = random_batch(3)
    distinct = values + torch.rand(values.shape, generator=torch.Generator().manual_seed(2)) / 1e4
    expected = sample_llm_loss(cosine(batch, keys), distinct)
    for ties in TIES:
        found = sample_llm_loss(cosine(batch, keys), distinct, ties=ties, generator=torch.Generator().manual_seed(9))
        torch.testing.assert_close(found, expected)


def test_an_unknown_rule_for_ties_is_refused():
    with pytest.raises(ValueError, match="--ties is 'first'; it must be one of expected, random, released, columns"):
        sample_llm_loss(torch.zeros(2, 6), torch.zeros(2, 6), ties="first")


def test_fidelity_row_7_makes_a_negative_of_one_half():
    """Scores 1, 0.5, 0.5 with K- = 1: no negative in the paper; the first of both halves as released."""
    similarity = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    scores = torch.tensor([[1.0, 0.5, 0.5]])
    assert sample_llm_loss(similarity, scores, 1, 1, ties="released").item() == 0
    released = sample_llm_loss(similarity, scores, 1, 1, ties="released", half_is_negative=True)
    assert released.item() == pytest.approx(math.log(1 + math.exp(1.0)), rel=1e-12)
    queries, keys, scores = random_batch(5)
    found = sample_llm_loss(cosine(queries, keys), scores, ties="released", half_is_negative=True)
    naive = naive_sample_llm(naive_similarity(queries, keys, "cos"), scores, ties="released", half=True)
    torch.testing.assert_close(found, torch.stack(naive), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found, sample_llm_loss(cosine(queries, keys), scores, ties="released"))


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_huge_inner_products_give_no_nan(scale):
    similarity = (torch.tensor([[1.0, -1.0, 0.5, -0.25], [-1.0, 1.0, 0.0, 0.75]]) * scale).requires_grad_()
    loss = sample_llm_loss(similarity, torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]), 1, 3)
    assert loss.tolist() == pytest.approx([0.0, 2 * scale])  # log(1 + e^(best negative - positive)), far from zero
    loss.sum().backward()
    assert torch.equal(similarity.grad, torch.tensor([[0.0, 0, 0, 0], [-1, 1, 0, 0]]))
    among = torch.tensor([[0.0, -1, 1], [-1, 0, 1], [1, 1, 0]]).mul(scale).requires_grad_()
    loss = sample_sample_loss(among, torch.tensor([0, 0, 1]), 1)
    assert loss.tolist() == pytest.approx([2 * scale, 2 * scale, 0])
    loss.sum().backward()
    assert among.grad.isfinite().all()


def test_an_embedding_of_zero_has_finite_gradients():
    queries, keys, scores = random_batch(2)
    with torch.no_grad():
        queries[0] = 0
    loss = sample_llm_loss(cosine(queries, keys), scores).sum()
    loss = loss + sample_sample_loss(cosine(queries, queries), torch.arange(9) // 3).sum()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (queries, keys)))


def test_a_batch_without_any_term_has_zero_loss_and_zero_gradients():
    queries, keys, _ = random_batch(3, dtype=torch.float32)
    nobody, everybody = torch.zeros(9, 6), torch.ones(9, 6)
    for similarity in (cosine, inner):
        for scores, batch_mask in itertools.product((nobody, everybody), (False, True)):
            loss = sample_llm_loss(similarity(queries, keys), scores, batch_mask=batch_mask)
            assert (loss == 0).all()
            found = torch.autograd.grad(loss.mean(), (queries, keys))
            assert all((gradient == 0).all() for gradient in found)
        for groups, shifted_rows in itertools.product((torch.zeros(9), torch.arange(9)), (False, True)):
            loss = sample_sample_loss(similarity(queries, queries), groups, shifted_rows=shifted_rows)
            assert (loss == 0).all()
            (gradient,) = torch.autograd.grad(loss.mean(), queries)
            assert (gradient == 0).all()


@pytest.mark.parametrize(("flag", "value"), [("top_k", 0), ("top_k", 7), ("last_k", 0), ("last_k", 7)])
def test_sample_llm_loss_refuses_impossible_counts(flag, value):
    with pytest.raises(ValueError, match=f"{flag} is {value}; with 6 LLMs it must be from 1 to 6"):
        sample_llm_loss(torch.zeros(2, 6), torch.zeros(2, 6), **{flag: value})


def test_losses_refuse_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 6\) and scores \(2, 5\)"):
        sample_llm_loss(torch.zeros(2, 6), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"must be \(B, B\) with B = 3"):
        sample_sample_loss(torch.zeros(2, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="H is 0"):
        sample_sample_loss(torch.zeros(3, 3), torch.zeros(3), negatives=0)


# L2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["cos", "inner"])
@pytest.mark.parametrize(("negatives", "temperature"), [(1, 1.0), (3, 0.4), (50, 2.0)])
def test_sample_sample_loss_and_gradients_equal_the_loop(dtype, kind, negatives, temperature):
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1, 3])  # 2 and 3 are alone
    for seed in range(3):
        queries, _, _ = random_batch(seed, dtype=dtype)
        among = SIMILARITIES[kind](queries, queries)
        loss = sample_sample_loss(among, groups, negatives, temperature, torch.Generator().manual_seed(seed))
        assert loss.shape == (9,) and loss.dtype == dtype
        twin = queries.detach().double().requires_grad_()
        draws = drawn(groups, negatives, seed)
        expected = torch.stack(naive_sample_sample(naive_similarity(twin, twin, kind), draws, temperature))
        torch.testing.assert_close(loss.double(), expected, **CLOSE[dtype])
        assert loss[5] == 0 and loss[8] == 0 and (loss[[0, 3, 6]] > 0).all()
        weight = torch.arange(1.0, 10.0, dtype=dtype)
        (found,) = torch.autograd.grad((loss * weight).sum(), queries)
        (wanted,) = torch.autograd.grad((expected * weight).sum(), twin)
        torch.testing.assert_close(found.double(), wanted, rtol=CLOSE[dtype]["rtol"], atol=20 * CLOSE[dtype]["atol"])


@pytest.mark.parametrize("negatives", [4, 5, 100])
def test_sample_sample_loss_where_nothing_is_left_to_chance(negatives):
    """Pairs as groups and H at least what there is: every draw is forced, so the loop needs no draws of ours."""
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(6, 6, generator=generator, dtype=torch.float64).requires_grad_()
    partner = [1, 0, 3, 2, 5, 4]
    draws = []
    for row in range(6):
        others = [other for other in range(6) if other not in (row, partner[row])]
        draws.append((partner[row], others))
    loss = sample_sample_loss(similarity, torch.arange(6) // 2, negatives, temperature=0.5)
    expected = torch.stack(naive_sample_sample(list(similarity), draws, 0.5))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda s: sample_sample_loss(s, torch.arange(6) // 2, negatives), similarity)


def test_the_worked_examples_of_groups():
    """Groups (0, 0, 1): rows 0 and 1 are each other's positive and row 2 their negative. The others have no term."""
    similarity = torch.tensor([[1.0, 0.5, -0.25], [0.5, 1.0, 0.125], [-0.25, 0.125, 1.0]], dtype=torch.float64)
    similarity.requires_grad_()
    loss = sample_sample_loss(similarity, torch.tensor([0, 0, 1]))
    by_hand = [math.log(1 + math.exp(-0.25 - 0.5)), math.log(1 + math.exp(0.125 - 0.5)), 0]
    assert loss.tolist() == pytest.approx(by_hand, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss.sum(), similarity)
    assert (gradient[2] == 0).all() and (gradient.diagonal() == 0).all()
    for groups in ([0, 0, 0], [0, 1, 2]):  # no negative, and no positive
        loss = sample_sample_loss(similarity, torch.tensor(groups))
        (gradient,) = torch.autograd.grad(loss.sum(), similarity)
        assert loss.tolist() == [0, 0, 0] and (gradient == 0).all()


def test_a_batch_of_one_has_no_sample_sample_term():
    similarity = torch.ones(1, 1, requires_grad=True)
    loss = sample_sample_loss(similarity, torch.zeros(1), 3)
    loss.sum().backward()
    assert loss.tolist() == [0] and similarity.grad.tolist() == [[0]]


# Draws

GROUPS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 0, 0])
IDS = torch.tensor([5, 6, 5, 7, 8, 7, 9, 1, 10, 5])  # the query 5 is there three times, 7 twice


@pytest.mark.parametrize("ids", [None, IDS])
def test_positives_are_others_of_the_group_and_negatives_distinct_others_outside(ids):
    own = torch.arange(10) if ids is None else ids
    for seed in range(200):
        for row, (positive, negatives) in enumerate(drawn(GROUPS, 3, seed, ids)):
            outside = (GROUPS != GROUPS[row]).nonzero()[:, 0].tolist()
            if row == 7:
                assert positive is None  # alone in its group
            else:
                assert GROUPS[positive] == GROUPS[row] and own[positive] != own[row]
            assert len(set(negatives)) == len(negatives) == 3 and set(negatives) <= set(outside)


def test_fewer_negatives_than_wanted_are_all_taken():
    groups = torch.tensor([0, 0, 0, 0, 1, 2])
    for row, (_, negatives) in enumerate(drawn(groups, 3, 0)):
        assert len(negatives) == (2 if row < 4 else 3)
        assert row >= 4 or sorted(negatives) == [4, 5]
    assert all(len(negatives) == 1 for _, negatives in drawn(groups, 1, 0))
    assert all(negatives == [] for _, negatives in drawn(torch.zeros(4), 3, 0))


def test_only_copies_in_the_group_is_no_positive():
    draws = drawn(torch.tensor([0, 0, 1]), 1, 0, ids=torch.tensor([4, 4, 2]))
    assert [positive for positive, _ in draws] == [None, None, None]


@pytest.mark.parametrize("self_positive", [False, True])
def test_draws_are_uniform(self_positive):
    """4000 draws for one batch: positives, and sets of two negatives, occur equally often.

    Rows draw on their own.
    """
    groups, generator = torch.tensor([0, 0, 0, 0, 1, 1, 2, 1]), torch.Generator().manual_seed(0)
    draws = [draw_pairs(groups, 2, generator, self_positive=self_positive) for _ in range(4000)]
    positives = torch.stack([draw[0] for draw in draws])  # (4000, 8)
    for row, others in ((0, [0, 1, 2, 3]), (4, [4, 5, 7])):
        others = [other for other in others if self_positive or other != row]
        counts = [(positives[:, row] == other).sum().item() for other in others]
        assert sum(counts) == 4000 and chisquare(counts).pvalue > 1e-3
    negatives = torch.stack([draw[2] for draw in draws])[:, 1].sort(dim=1).values.tolist()  # those of row 1
    sets = [negatives.count(list(pair)) for pair in itertools.combinations([4, 5, 6, 7], 2)]
    assert sum(sets) == 4000 and chisquare(sets).pvalue > 1e-3
    pairs = (positives[:, 0] * 8 + positives[:, 1]).unique(return_counts=True)[1].tolist()  # rows 0 and 1 together
    assert len(pairs) == (16 if self_positive else 9) and chisquare(pairs).pvalue > 1e-3


def test_draws_follow_the_generator_and_leave_the_global_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = drawn(GROUPS, 3, 4), drawn(GROUPS, 3, 4), drawn(GROUPS, 3, 5)
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


# FIDELITY rows, both sides


def released_sample_llm(similarity, scores, temperature, ties):
    """L1 as released, K+ = K- = 3: the sum over the places j of mean(log terms of place j) x mean(mask of place j)."""
    total = 0.0
    for j in range(3):
        logs = []
        for row, score in zip(similarity, scores.tolist()):
            orders = orders_of(score, ties)
            negatives = Counter(t for _, worst in orders for t in worst[:3] if score[t] < 0.5)
            others = sum(count / len(orders) * torch.exp(row[n] / temperature) for n, count in negatives.items())
            own = [torch.exp(row[best[j]] / temperature) for best, _ in orders]
            logs.append(-sum(torch.log(value / (value + others)) for value in own) / len(orders))
        mask = (scores.sort(dim=1, descending=True).values[:, j] > 0).double().reshape(-1, 1)
        total = total + (torch.stack(logs) * mask).mean()
    return total


@pytest.mark.parametrize("ties", ["columns", "released", "expected"])
def test_fidelity_row_1(ties):
    """Released: for each positive the (B,) log terms meet a (B, 1) mask, so their mean is mean(log) x mean(mask)."""
    queries, keys, _ = random_batch(5)
    rows = [[1, 0.9, 0.8, 0.4, 0.1, 0], [0.6, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0.3, 0.2, 0, 0, 0, 0]]
    scores = torch.tensor(rows).repeat(3, 1)[:9]
    similarity, temperature = cosine(queries, keys), 0.6
    released = released_sample_llm(similarity, scores, temperature, ties)
    found = sample_llm_loss(similarity, scores, temperature=temperature, ties=ties, batch_mask=True).mean()
    paper = sample_llm_loss(similarity, scores, temperature=temperature, ties=ties).mean()
    torch.testing.assert_close(found, released, rtol=1e-10, atol=1e-12)
    naive = naive_sample_llm(list(similarity), scores, temperature=temperature, ties=ties)
    torch.testing.assert_close(paper, torch.stack(naive).mean(), rtol=1e-10, atol=1e-12)
    assert abs(found - paper) > 1e-2
    slopes = torch.autograd.grad(found, (queries, keys), retain_graph=True)
    expected = torch.autograd.grad(released, (queries, keys))
    for a, b in zip(slopes, expected):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ties", ["columns", "released", "expected"])
def test_fidelity_row_1_changes_nothing_without_scores_of_zero(ties):
    queries, keys, scores = random_batch(5)
    similarity, full = cosine(queries, keys), scores.clamp(min=0.05)
    masked, plain = (sample_llm_loss(similarity, full, ties=ties, batch_mask=mask).mean() for mask in (True, False))
    torch.testing.assert_close(masked, plain)


def test_fidelity_row_3():
    """Released: the positive may be the query itself, also when it is alone; in the paper it never is."""
    groups = torch.tensor([0, 0, 1, 2, 2, 2])
    released = [drawn(groups, 2, seed, self_positive=True) for seed in range(100)]
    assert all(draws[2][0] == 2 for draws in released)
    assert {draws[0][0] for draws in released} == {0, 1} and {draws[3][0] for draws in released} == {3, 4, 5}
    paper = [drawn(groups, 2, seed) for seed in range(100)]
    positives = [{draws[row][0] for draws in paper} for row in (0, 2, 3)]
    assert positives == [{1}, {None}, {4, 5}]
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for self_positive in (True, False):
        generator = torch.Generator().manual_seed(3)
        loss = sample_sample_loss(similarity, groups, 2, 1.0, generator, self_positive=self_positive)
        draws = drawn(groups, 2, 3, self_positive=self_positive)
        torch.testing.assert_close(loss, torch.stack(naive_sample_sample(list(similarity), draws)))
        assert (loss[2] > 0) == self_positive


@pytest.mark.parametrize("self_positive", [True, False])
def test_fidelity_row_4(self_positive):
    """Released: rows short of H negatives leave the list of pairs but not the similarities.

    So later pairs read the similarities of earlier rows.
    """
    groups = torch.tensor([0, 1, 0, 0, 2, 0, 1, 0])  # with H = 4, the rows of group 0 have only 3 negatives
    generator = torch.Generator().manual_seed(2)
    similarity = torch.randn(8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    draws = drawn(groups, 4, 9, self_positive=self_positive)
    kept = [draw for draw in draws if len(draw[1]) >= 4]
    assert [len(draw[1]) for draw in draws] == [3, 4, 3, 3, 4, 3, 4, 3] and len(kept) == 3
    terms = []
    for row, (positive, negatives) in enumerate(kept):
        if positive is not None:
            terms.append(naive_ratio(similarity[row], positive, negatives, 0.8))
    released = sum(terms) / len(kept)

    def loss(shifted_rows: bool) -> torch.Tensor:
        source = torch.Generator().manual_seed(9)
        switches = {"self_positive": self_positive, "shifted_rows": shifted_rows}
        return sample_sample_loss(similarity, groups, 4, 0.8, source, **switches).mean()

    found, paper = loss(True), loss(False)
    torch.testing.assert_close(found, released, rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(found, similarity, retain_graph=True)
    (expected,) = torch.autograd.grad(released, similarity)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-6)
    naive = torch.stack(naive_sample_sample(list(similarity), draws, 0.8)).mean()
    torch.testing.assert_close(paper, naive, rtol=1e-10, atol=1e-12)
    assert abs(found - paper) > 1e-2


def test_fidelity_row_4_changes_nothing_while_every_row_has_enough_negatives():
    groups = torch.arange(8) % 2
    similarity = torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
    found, paper = (
        sample_sample_loss(similarity, groups, 4, 1.0, torch.Generator().manual_seed(1), shifted_rows=rows)
        for rows in (True, False)
    )
    torch.testing.assert_close(found, paper)


# The losses of the baselines


def naive_probabilities(row, temperature):
    powers = [torch.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def naive_cosine_classifier(similarity, scores, temperature=1.0) -> list:
    """-log of the probability of the best LLM, the mean over those that share the highest score.

    0 where all fail.
    """
    losses = []
    for row, score in zip(similarity, scores.tolist()):
        best = [t for t, value in enumerate(score) if value == max(score) and value > 0]
        logs = [-torch.log(naive_probabilities(row, temperature)[t]) for t in best]
        losses.append(sum(logs) / len(logs) if logs else 0.0 * row[0])
    return losses


def naive_zooter(similarity, scores, temperature=1.0) -> list:
    """sum of q log(q / p), q the softmax of the scores brought to [0, 1]."""
    losses = []
    for row, score in zip(similarity, scores.tolist()):
        width = max(score) - min(score)
        normalised = [(value - min(score)) / width if width else 0.0 for value in score]
        powers = [math.exp(value / temperature) for value in normalised]
        target = [power / sum(powers) for power in powers]
        found = naive_probabilities(row, temperature)
        losses.append(sum(q * (math.log(q) - torch.log(p)) for q, p in zip(target, found)))
    return losses


BASELINES = [(cosine_classifier_loss, naive_cosine_classifier), (zooter_loss, naive_zooter)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize(("function", "naive"), BASELINES)
def test_baseline_losses_and_gradients_equal_the_loop(function, naive, temperature, dtype):
    for seed, rows in itertools.product(range(3), (9, 1)):  # also a batch of one
        queries, keys, scores = random_batch(seed, rows=rows, dtype=dtype)
        scores[0] = torch.tensor([0.0, 0.7, 0.1, 0.7, 0.0, 0.7])  # three LLMs share the best score
        loss = function(cosine(queries, keys), scores.to(dtype), temperature)
        assert loss.shape == (rows,) and loss.dtype == dtype
        twins = [value.detach().double().requires_grad_() for value in (queries, keys)]
        expected = torch.stack(naive(naive_similarity(*twins, "cos"), scores.to(dtype).double(), temperature))
        torch.testing.assert_close(loss.double(), expected, **CLOSE[dtype])
        weight = torch.arange(1.0, rows + 1, dtype=dtype)
        found = torch.autograd.grad((loss * weight).sum(), (queries, keys))
        wanted = torch.autograd.grad((expected * weight).sum(), twins)
        for a, b in zip(found, wanted):
            torch.testing.assert_close(a.double(), b, rtol=CLOSE[dtype]["rtol"], atol=20 * CLOSE[dtype]["atol"])


def test_cosine_classifier_loss_is_cross_entropy_where_one_llm_is_best():
    generator = torch.Generator().manual_seed(0)
    similarity, scores = (torch.rand(12, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = torch.nn.functional.cross_entropy(similarity / 0.3, scores.argmax(dim=1), reduction="none")
    torch.testing.assert_close(cosine_classifier_loss(similarity, scores, 0.3), expected)


def test_zooter_loss_is_the_divergence_of_torch_and_zero_at_its_target():
    generator = torch.Generator().manual_seed(0)
    similarity, scores = (torch.rand(12, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    scores[:, 0], scores[:, 1] = 0, 1  # already from 0 to 1
    logs, target = similarity.log_softmax(dim=1), scores.softmax(dim=1)
    expected = torch.nn.functional.kl_div(logs, target, reduction="none").sum(dim=1)
    torch.testing.assert_close(zooter_loss(similarity, scores), expected)
    torch.testing.assert_close(zooter_loss(scores + 3, scores), torch.zeros(12, dtype=torch.float64))
    moved = 0.1 + 0.2 * scores  # scale and level of the scores are normalised away
    torch.testing.assert_close(zooter_loss(similarity, moved), expected)


def test_baseline_losses_where_all_llms_are_equal():
    similarity = torch.tensor([[0.5, -0.5, 0.0]], requires_grad=True)
    loss = cosine_classifier_loss(similarity, torch.zeros(1, 3))
    loss.sum().backward()
    assert loss.tolist() == [0] and similarity.grad.tolist() == [[0, 0, 0]]  # nobody is right: there is no best LLM
    uniform = -torch.log_softmax(similarity.detach(), dim=1).mean()
    assert cosine_classifier_loss(similarity, torch.ones(1, 3)).item() == pytest.approx(uniform.item(), rel=1e-6)
    for value in (0.0, 0.3, 1.0):
        loss = zooter_loss(similarity, torch.full((1, 3), value))
        assert loss.item() == pytest.approx(uniform.item() - math.log(3), rel=1e-5)
        (gradient,) = torch.autograd.grad(loss.sum(), similarity)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("function", [cosine_classifier_loss, zooter_loss])
def test_baseline_losses_refuse_shapes_that_do_not_fit(function):
    with pytest.raises(ValueError, match=r"\(2, 6\) and scores \(2, 5\)"):
        function(torch.zeros(2, 6), torch.zeros(2, 5))
