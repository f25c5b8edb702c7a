"""utils/denoise.py: against plain loops and scipy, on made-up scores whose truth is known, and what must not matter."""

import numpy as np
import pytest
import scipy.optimize

from utils.baselines.base import unit
from utils.data import RoutingData
from utils.denoise import (
    POOLINGS,
    attempts,
    describe,
    neighbour_means,
    other_means,
    pool,
    pool_targets,
    sampling_variance,
    sources_of,
    stack,
)

SAMPLES = 10  # answers that a made-up multi_attempt score is a share of


def made_up(scores: np.ndarray, kind: str = "multi_attempt", clusters: np.ndarray | None = None) -> RoutingData:
    """Routing data with these scores (N, T) and a question of its own in every row."""
    llms = tuple(f"llm {t}" for t in range(scores.shape[1]))
    questions = [f"question {i}" for i in range(len(scores))]
    return RoutingData("task", kind, questions, scores.astype(np.float32), llms, clusters)


def embeddings(count: int, size: int = 3, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, size))).astype(np.float32)


def smooth_truth(x: np.ndarray, llms: int = 4, seed: int = 1) -> np.ndarray:
    """Chances (N, llms) of a right answer that change gently with the embedding."""
    slopes = np.random.default_rng(seed).normal(size=(x.shape[1], llms))
    return 1 / (1 + np.exp(-2 * x @ slopes))


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared error of the differences between LLMs, which decide a pick."""
    difference = found - truth
    return float(((difference - difference.mean(axis=1, keepdims=True)) ** 2).mean())


# Each part against another way to compute it


def test_neighbour_means_are_those_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr("utils.denoise.ROWS", 7)
    x, y = embeddings(30, seed=2) * 3, np.random.default_rng(3).normal(size=(30, 4))
    found = neighbour_means(x, y, [1, 2, 4, 29])
    for i in range(30):
        cosine = {j: float(x[i] @ x[j]) for j in range(30) if j != i}  # all have one length
        nearest = sorted(cosine, key=lambda j: -cosine[j])
        for place, count in enumerate([1, 2, 4, 29]):
            np.testing.assert_allclose(found[place, i], np.mean([y[j] for j in nearest[:count]], axis=0))


def test_means_of_the_others_in_a_group_are_those_of_a_plain_loop():
    groups = np.array([5, 5, 2, 5, 2, 9])
    y = np.random.default_rng(4).normal(size=(6, 3))
    found, others = other_means(y, groups)
    for i in range(6):
        alone = groups[i] == 9  # then all others
        inside = [j for j in range(6) if j != i and (groups[j] == groups[i] or alone)]
        np.testing.assert_allclose(found[i], y[inside].mean(axis=0))
        assert others[i] == len(inside)


def test_stacked_weights_are_the_minimum_that_a_general_solver_finds():
    rng = np.random.default_rng(5)
    y = rng.normal(size=(40, 3))
    spread, bias = np.array([0.5, 1, 1, 2, 4])[:, None, None], np.array([0, 1, -1, 0, 0])[:, None, None]
    sources = y + spread * rng.normal(size=(5, 40, 3)) + bias
    weights = stack(sources, y)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)

    def loss(w: np.ndarray) -> float:
        return ((np.tensordot(w, sources, axes=1) - y) ** 2).mean()

    one = {"type": "eq", "fun": lambda w: w.sum() - 1}
    setting = {"bounds": [(0, 1)] * 5, "constraints": one, "options": {"ftol": 1e-12}}
    other = scipy.optimize.minimize(loss, np.full(5, 0.2), method="SLSQP", **setting)
    np.testing.assert_allclose(weights, other.x, atol=1e-4)
    assert loss(weights) <= other.fun + 1e-9
    np.testing.assert_allclose(stack(np.stack([y + 1, y]), y), [0, 1], atol=1e-12)  # one without any error


def test_the_number_of_answers_is_read_off_the_scores():
    shares = np.array([[0.1, 0.5], [0.9, 1]], dtype=np.float32)
    assert attempts(shares) == SAMPLES
    assert attempts(np.array([[0, 1]], dtype=np.float32)) == 1
    assert attempts(np.array([[0.25, 0.5]], dtype=np.float32)) == 4
    assert attempts(np.array([[0.31830987]], dtype=np.float32)) is None
    assert sampling_variance(shares, "probability") is None
    assert sampling_variance(shares.round(), "multi_attempt") is None


def test_the_sampling_variance_is_unbiased():
    truth = np.random.default_rng(6).uniform(size=4)
    shares = np.random.default_rng(7).binomial(SAMPLES, truth, size=(20000, 4)) / SAMPLES
    found = sampling_variance(shares.astype(np.float32), "multi_attempt").mean(axis=0)
    np.testing.assert_allclose(found, truth * (1 - truth) / SAMPLES, rtol=0.03)
    np.testing.assert_allclose(found, shares.var(axis=0), rtol=0.05)


def test_a_pooled_row_is_the_formula_of_the_module():
    """Two clusters, no neighbour in common: every number by hand in a loop."""
    rng = np.random.default_rng(8)
    x, clusters, y = embeddings(9, seed=9), np.array([0, 0, 0, 0, 1, 1, 1, 1, 2]), rng.normal(size=(9, 2))
    made = sources_of(y, x, clusters)
    assert made.names == ["1", "2", "4", "8", "cluster", "task"]
    found, about = pool(y, made, noise=0.3)
    near = neighbour_means(x, y, [1, 2, 4, 8])
    sources = np.stack([*near, other_means(y, clusters)[0], other_means(y, np.zeros(9))[0]])
    np.testing.assert_allclose(made.means, sources)
    weights = stack(sources, y)
    own = max(0, 1 - 0.3 / ((y - np.tensordot(weights, sources, 1)) ** 2).mean())
    sizes = np.array([[1] * 9, [2] * 9, [4] * 9, [8] * 9, [3] * 8 + [8], [8] * 9])
    for i in range(9):
        inside = sum(w / (size[i] + 1) for w, size in zip(weights, sizes))
        with_row = np.zeros(2)
        for weight, size, source in zip(weights, sizes, sources):
            with_row += weight * (size[i] * source[i] + y[i]) / (size[i] + 1)
        more = max(0, (own - inside) / (1 - inside))
        np.testing.assert_allclose(found[i], (1 - more) * with_row + more * y[i])
    assert about["row"] + sum(about["neighbours"].values()) + about["cluster"] + about["task"] == pytest.approx(1)


# What it is for: nearer to the truth, where the truth is known


@pytest.mark.parametrize("pooling", POOLINGS)
def test_chance_around_the_task_mean_gives_the_task_mean(pooling):
    """One answer each: every row has the same chances, so that a row, its neighbours and its cluster tell nothing."""
    truth = np.array([0.3, 0.5, 0.6, 0.8])
    scores = (np.random.default_rng(10).uniform(size=(800, 4)) < truth).astype(float)
    clusters = np.random.default_rng(11).integers(3, size=800)
    found, about = pool_targets(made_up(scores, "probability", clusters), scores, embeddings(800), pooling)
    mean = np.tile(scores.mean(axis=0), (800, 1))
    assert error(found, mean) < 0.02 * error(scores, mean)
    assert about["differences"]["row"] < 0.1


@pytest.mark.parametrize("pooling", POOLINGS)
def test_exact_scores_that_follow_the_embedding_stay_close(pooling):
    x = embeddings(600)
    scores = smooth_truth(x)
    found, about = pool_targets(made_up(scores), scores, x, pooling)
    assert error(found, scores) < 0.02 * error(np.tile(scores.mean(axis=0), (600, 1)), scores)
    near = sum(share for count, share in about["differences"]["neighbours"].items() if int(count) <= 32)
    assert about["differences"]["row"] + near > 0.95


@pytest.mark.parametrize("own", [0.0, 0.15])
def test_ten_answers_of_known_chances_come_nearer_to_them(own):
    """Nearer than the scores and than the task's mean, whether or not questions have something of their own.

    own: its standard deviation.
    """
    rng, x = np.random.default_rng(12), embeddings(500)
    truth = np.clip(smooth_truth(x) + own * rng.normal(size=(500, 4)), 0.02, 0.98)
    scores = rng.binomial(SAMPLES, truth) / SAMPLES
    found, about = pool_targets(made_up(scores), scores, x, "question")
    for other in (scores, np.tile(scores.mean(axis=0), (500, 1))):
        assert error(found, truth) < 0.8 * error(other, truth)
        assert ((found - truth) ** 2).mean() < 0.8 * ((other - truth) ** 2).mean()
    chance = (truth * (1 - truth)).mean() / SAMPLES * 3 / 4  # of the differences between four LLMs
    assert about["differences"]["noise"] == pytest.approx(chance, rel=0.05)


def test_what_is_a_questions_own_counts_for_the_question_and_is_chance_for_its_like():
    """Ten answers tell a question's own chances well; a router that sees embeddings learns their smooth part alone."""
    rng, x = np.random.default_rng(13), embeddings(600)
    smooth = smooth_truth(x)
    truth = np.clip(smooth + 0.25 * rng.normal(size=smooth.shape), 0, 1)
    scores = rng.binomial(SAMPLES, truth) / SAMPLES
    question, alike = (pool_targets(made_up(scores), scores, x, pooling) for pooling in POOLINGS)
    assert question[1]["differences"]["row"] > 0.6 > 0.3 > alike[1]["differences"]["row"]
    assert error(question[0], truth) < error(alike[0], truth)
    assert error(alike[0], smooth) < error(question[0], smooth)


def test_clusters_serve_where_embeddings_tell_nothing():
    rng = np.random.default_rng(14)
    clusters = rng.integers(4, size=400)
    truth = rng.uniform(0.1, 0.9, size=(4, 3))[clusters]
    scores = (rng.uniform(size=truth.shape) < truth).astype(float)
    found, about = pool_targets(made_up(scores, "probability", clusters), scores, embeddings(400), "alike")
    assert about["differences"]["cluster"] > 0.7
    assert error(found, truth) < 0.05 * error(scores, truth)


# What must not matter, and edges


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_order_of_rows_and_of_llms_does_not_matter(pooling):
    rng, x = np.random.default_rng(15), embeddings(90)
    data = made_up(rng.binomial(SAMPLES, smooth_truth(x)) / SAMPLES, clusters=rng.integers(3, size=90))
    found, about = pool_targets(data, data.scores, x, pooling)
    rows, columns = rng.permutation(90), [2, 0, 3, 1]
    moved = data.rows(rows).for_llms([data.llms[t] for t in columns])
    other, other_about = pool_targets(moved, moved.scores, x[rows], pooling)
    np.testing.assert_allclose(other, found[rows][:, columns], atol=1e-6)
    assert describe(other_about) == describe(about)


def test_equal_questions_are_one_question_and_never_their_own_neighbours():
    """Noise in every row twice: a copy would foretell its like, and weigh as its nearest neighbour."""
    rng, x = np.random.default_rng(16), embeddings(100)
    data = made_up((rng.uniform(size=(100, 4)) < 0.5).astype(float), "probability", rng.integers(3, size=100))
    once, about = pool_targets(data, data.scores, x, "alike")
    twice = np.concatenate([np.arange(100), np.arange(40)])
    found, about_twice = pool_targets(data.rows(twice), data.scores[twice], x[twice], "alike")
    np.testing.assert_allclose(found, once[twice], atol=1e-6)
    assert describe(about) == describe(about_twice)


def test_targets_stay_within_the_scores_and_costs_may_take_them_below_zero():
    rng, x = np.random.default_rng(17), embeddings(60)
    data = made_up(rng.binomial(SAMPLES, smooth_truth(x)) / SAMPLES)
    for values in (data.scores, data.scores - 0.7):
        found, _ = pool_targets(data, values, x, "question")
        assert found.dtype == np.float32 and values.min() <= found.min() and found.max() <= values.max()
    shifted, _ = pool_targets(data, data.scores - 0.5, x, "question")
    plain, _ = pool_targets(data, data.scores, x, "question")
    np.testing.assert_allclose(shifted, plain - 0.5, atol=1e-6)  # an equal charge on all moves nothing else


def test_few_rows_and_constant_scores():
    one = made_up(np.array([[0.2, 0.9]]))
    found, about = pool_targets(one, one.scores, embeddings(1), "alike")
    np.testing.assert_allclose(found, one.scores)
    assert about["differences"]["row"] == 1
    two = made_up(np.array([[0.0, 1.0], [1.0, 0.0]]), "probability")
    found, _ = pool_targets(two, two.scores, embeddings(2), "alike")
    np.testing.assert_allclose(found, 0.5)
    same = made_up(np.full((5, 2), 0.3))
    found, about = pool_targets(same, same.scores, embeddings(5), "question")
    np.testing.assert_allclose(found, 0.3, rtol=1e-6)
    assert "row" in describe(about)
    with pytest.raises(ValueError, match="--target_pooling is 'most'; it must be none, question or alike"):
        pool_targets(same, same.scores, embeddings(5), "most")
