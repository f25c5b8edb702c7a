"""utils/report/statistics.py against scipy, exact enumeration and formulas."""

import itertools

import numpy as np
import pytest
import scipy.stats

from utils.report.statistics import bootstrap, interval, right_when_possible, seed_weights, sign_flip


@pytest.fixture
def earned():
    """What three routers earned on two tasks: right or wrong, and shares of ten answers; the third copies the first."""
    rng = np.random.default_rng(0)
    first, second = (rng.random((80, 2)) < [0.8, 0.35]).astype(float), rng.integers(0, 11, (33, 2)) / 10
    return [np.column_stack([part, part[:, 0]]) for part in (first, second)]


def test_the_interval_of_a_mean_is_scipys(earned):
    draws = bootstrap(earned, 20_000)
    assert draws.shape == (20_000, 2, 3)
    for task, by_router in enumerate(earned):
        for column, values in enumerate(by_router.T):
            drawn = draws[:, task, column]
            expected = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1)
            step = 1.01 / len(values)  # means of 0s and 1s move by steps
            assert interval(drawn) == pytest.approx(tuple(expected.confidence_interval), abs=step)
            assert drawn.std() == pytest.approx(values.std() / np.sqrt(len(values)), rel=0.03)  # exact
            assert drawn.mean() == pytest.approx(values.mean(), abs=0.003)


def mean_of_means(first, second, axis):
    return (first.mean(axis=axis) + second.mean(axis=axis)) / 2


def test_the_interval_of_an_average_over_tasks_is_scipys(earned):
    """scipy draws several samples independently: queries within each task."""
    low, high = interval(bootstrap(earned, 20_000).mean(axis=1))
    for column in range(3):
        samples = tuple(part[:, column] for part in earned)
        options = {"n_resamples": 20_000, "method": "percentile", "rng": 2, "vectorized": True}
        expected = scipy.stats.bootstrap(samples, mean_of_means, **options).confidence_interval
        assert (low[column], high[column]) == pytest.approx(tuple(expected), abs=0.006)
    narrow, wide = (interval(bootstrap(earned, 2000).mean(axis=1), level) for level in (0.5, 0.99))
    assert (narrow[0] > wide[0]).all() and (narrow[1] < wide[1]).all()


def test_differences_are_paired(earned):
    draws = bootstrap(earned, 500)
    assert (draws[..., 0] == draws[..., 2]).all()  # the same queries are drawn for every column
    gap = [part[:, 0] - part[:, 1] for part in earned]
    low, high = interval((draws[..., 0] - draws[..., 1]).mean(axis=1))
    again = bootstrap([part[:, None] for part in gap], 500).mean(axis=1)[:, 0]
    assert (low, high) == pytest.approx(interval(again))


def test_draws_are_repeatable_and_of_each_task_alone(earned):
    first = bootstrap(earned, 300)
    assert (bootstrap(earned, 300) == first).all() and (bootstrap(earned, 300, seed=1) != first).any()
    assert (bootstrap(earned[:1], 300)[:, 0] == first[:, 0]).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.report.statistics.CELLS", 1000)  # many small parts
        small = bootstrap(earned, 4000)
    assert interval(small.mean(axis=1))[0] == pytest.approx(interval(bootstrap(earned, 4000).mean(axis=1))[0], abs=0.01)


def test_a_constant_has_no_width_and_one_query_is_no_error():
    draws = bootstrap([np.full((7, 1), 0.25), np.ones((1, 1))], 200)
    assert interval(draws.mean(axis=1)) == (pytest.approx([0.625]), pytest.approx([0.625]))


def test_small_p_values_are_those_of_all_sign_patterns():
    """Nine queries: 512 patterns can be listed, and scipy lists them too."""
    gap = np.array([0.3, -0.1, 0.5, 0.2, 0.0, 0.4, -0.2, 0.6, 0.1])
    patterns = [np.dot(signs, gap) for signs in itertools.product((-1, 1), repeat=9)]
    exact = np.mean([abs(total) >= abs(gap.sum()) - 1e-12 for total in patterns])
    reference = scipy.stats.permutation_test(
        (gap, np.zeros(9)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert reference.pvalue == pytest.approx(exact)
    assert sign_flip([gap[:, None]], 40_000)[0] == pytest.approx(exact, abs=0.006)


def test_p_values_of_averages_over_tasks_are_scipys(earned):
    gap = [part[:, :1] - part[:, 1:] for part in earned]
    found = sign_flip(gap, 20_000)
    assert found[0] < 0.01 and found[1] == 1  # the copy differs nowhere

    rng = np.random.default_rng(3)
    near = [rng.normal(0.1, 1, (count, 1)) for count in (40, 25)]
    moved = []
    for _ in range(20_000):
        flipped = [gaps[:, 0] * rng.choice([-1, 1], len(gaps)) for gaps in near]
        moved.append(np.mean([gaps.mean() for gaps in flipped]))
    observed = np.mean([gaps.mean() for gaps in near])
    assert sign_flip(near, 20_000)[0] == pytest.approx(np.mean(np.abs(moved) >= abs(observed)), abs=0.015)
    one = scipy.stats.permutation_test(
        (near[0][:, 0], np.zeros(40)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=4,
    )
    assert sign_flip(near[:1], 20_000)[0] == pytest.approx(one.pvalue, abs=0.015)


def test_p_values_are_uniform_where_there_is_no_difference():
    rng = np.random.default_rng(5)
    values = sign_flip([rng.normal(size=(30, 300))], 999)
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01 and values.min() >= 1 / 1000


def test_seeds_are_drawn_with_replacement():
    weights = seed_weights([1, 2, 3, 4, 5], 20_000)
    assert weights.shape == (20_000, 5) and weights.sum(axis=1) == pytest.approx(np.ones(20_000))
    assert weights.mean(axis=0) == pytest.approx(np.full(5, 0.2), abs=0.005)
    runs = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    assert (weights @ runs).std() == pytest.approx(runs.std() / np.sqrt(5), rel=0.03)
    assert (seed_weights([1], 10) == 1).all()


def test_only_routers_with_the_same_seeds_share_their_draws():
    weights, again = seed_weights([1, 2, 3], 20_000), seed_weights([1, 2, 3], 20_000)
    others = seed_weights([4, 5, 6], 20_000)
    np.testing.assert_array_equal(weights, again)
    runs = np.array([1.0, 4.0, 2.0])
    assert abs(np.corrcoef(weights @ runs, others @ runs)[0, 1]) < 0.05


def test_right_when_possible_counts_only_queries_that_someone_gets_right():
    scores = np.array([[1, 0], [0, 1], [0, 0], [1, 1], [0.2, 0.6]])
    picked = scores[np.arange(5), [0, 0, 1, 1, 0]]
    assert right_when_possible(picked, scores.max(axis=1)) == pytest.approx(100 * (1 + 0 + 1 + 0.2) / 4)
    both = np.stack([picked, scores.max(axis=1)])
    assert right_when_possible(both, scores.max(axis=1)) == pytest.approx(100 * (2.2 / 4 + 3.6 / 4) / 2)
    assert np.isnan(right_when_possible(np.zeros(3), np.zeros(3)))
