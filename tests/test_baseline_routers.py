"""The baseline routers against plain loops and closed forms, the choice of settings, and the controls."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from utils.baselines.base import Rows, choose, unit
from utils.baselines.controls import BestPerTask, BestSingle, Oracle, Random
from utils.baselines.irt import IRT
from utils.baselines.kmeans import KMeans
from utils.baselines.knn import KNN
from utils.baselines.lora_retriever import LoraRetriever
from utils.baselines.matrix_factorization import MatrixFactorization
from utils.baselines.mlp import MLP
from utils.baselines.ridge import Ridge
from utils.baselines.task_classifier import TaskClassifier
from utils.baselines.trained_encoder import clustered
from utils.data import RoutingData
from utils.denoise import group_means
from utils.metrics import accuracy

SETTINGS = {
    KNN: {"k": 5},
    Ridge: {"alpha": 1.0},
    MLP: {"units": 64, "alpha": 1e-3, "passes": 400},
    MatrixFactorization: {"rank": 8, "weight_decay": 1e-2, "passes": 200},
    KMeans: {"clusters": 4},
    LoraRetriever: {},
    IRT: {"abilities": 8, "weight_decay": 1e-2, "passes": 200},
    TaskClassifier: {"c": 10.0},
}


def made_up(seed: int, count: int = 90, size: int = 6, noise: float = 0.4) -> Rows:
    """Three tasks around three directions; LLM t of four is good at task t, the fourth is mediocre everywhere."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(3, size=count)
    x = unit(np.eye(size)[groups] + noise * rng.normal(size=(count, size)))
    y = np.clip(0.35 * np.eye(4)[groups] + [0.2, 0.2, 0.2, 0.3] + rng.uniform(-0.2, 0.4, (count, 4)), 0, 1)
    return Rows(x.astype(np.float32), y.astype(np.float32), np.array(["a", "b", "c"])[groups], groups + 10)


@pytest.fixture
def rows():
    return made_up(0)


@pytest.fixture
def queries():
    return made_up(1, 40)


def data_of(rows: Rows, task: str = "a") -> RoutingData:
    return RoutingData(task, "multi_attempt", ["q"] * len(rows.x), rows.y, tuple("wxyz"))


@pytest.mark.parametrize("router_class", SETTINGS)
def test_every_router_learns_and_obeys_the_interface(router_class, rows, queries):
    setting = SETTINGS[router_class]
    router = router_class(3, **setting)
    assert router.fit(rows) is router
    values = router.values(queries.x)
    assert values.shape == (40, 4) and np.isfinite(values).all()
    picks = router.pick(queries.x, range(4))
    assert (picks == values.argmax(axis=1)).all()
    assert (router.pick(queries.x, [3, 1]) == values[:, [3, 1]].argmax(axis=1)).all()
    single = accuracy(np.full(40, rows.y.mean(axis=0).argmax()), data_of(queries))
    assert accuracy(picks, data_of(queries)) > single + 5, "no better than one LLM for all"
    assert (router_class(3, **setting).fit(rows).values(queries.x) == values).all()  # the seed decides everything
    with pytest.raises(TypeError, match=router_class.name):
        router_class(0, wrong=1)


# Each against an independent implementation


@pytest.mark.parametrize("k", [1, 5, 90])
def test_knn_is_a_loop_over_cosines(rows, queries, k):
    for x, value in zip(queries.x, KNN(k=k).fit(rows).values(queries.x)):
        similarity = [sum(float(a) * float(b) for a, b in zip(x, other)) for other in rows.x]
        nearest = sorted(range(90), key=lambda i: -similarity[i])[:k]
        assert value == pytest.approx(rows.y[nearest].mean(axis=0), abs=1e-5)


@pytest.mark.parametrize("alpha", [0.1, 30.0])
def test_ridge_is_its_closed_form(rows, queries, alpha):
    x, y = rows.x.astype(np.float64), rows.y.astype(np.float64)
    centred = x - x.mean(axis=0)
    weight = np.linalg.solve(centred.T @ centred + alpha * np.eye(6), centred.T @ (y - y.mean(axis=0)))
    expected = y.mean(axis=0) + (queries.x - x.mean(axis=0)) @ weight
    assert Ridge(alpha=alpha).fit(rows).values(queries.x) == pytest.approx(expected, abs=1e-4)


def test_mlp_is_its_formula_and_learns_what_no_line_can():
    """Right where two coordinates have the same sign: linear regression can do nothing there."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 2)).astype(np.float32)
    same = (x[:, 0] * x[:, 1] > 0).astype(np.float32)
    rows = Rows(x, np.column_stack([same, 1 - same]), np.full(600, "a"))
    router = MLP(1, units=64, alpha=1e-3, passes=40).fit(rows)
    (into_units, out_of_units), (unit_biases, biases) = router.model.coefs_, router.model.intercepts_
    for point, value in zip(x[:20], router.values(x[:20])):
        expected = biases.copy()
        for weights, bias, outgoing in zip(into_units.T, unit_biases, out_of_units):
            rectified = max(0, sum(v * w for v, w in zip(point, weights)) + bias)
            expected += rectified * outgoing
        assert value == pytest.approx(expected, abs=1e-4)
    right = router.pick(x, range(2)) == 1 - same
    right_by_a_line = Ridge(alpha=1.0).fit(rows).pick(x, range(2)) == 1 - same
    assert right.mean() > 0.9 > 0.7 > right_by_a_line.mean()
    assert (MLP(2, units=64, alpha=1e-3, passes=40).fit(rows).values(x) != router.values(x)).any()


def plain_k_means(x: np.ndarray, count: int) -> np.ndarray:
    """Lloyd's algorithm from far-apart starts, with loops: the cluster of each row."""

    def distances(row: np.ndarray) -> list[float]:
        return [((row - centre) ** 2).sum() for centre in centres]

    centres = [x[0]]
    while len(centres) < count:
        centres.append(max(x, key=lambda row: min(distances(row))))
    for _ in range(50):
        labels = np.array([int(np.argmin(distances(row))) for row in x])
        centres = [x[labels == g].mean(axis=0) for g in range(count)]
    return labels


def groups_in(labels: np.ndarray) -> set[tuple[int, ...]]:
    """The rows of each cluster, whatever its number."""
    return {tuple(np.flatnonzero(labels == label)) for label in set(labels.tolist())}


def test_kmeans_is_lloyds_algorithm_and_the_mean_of_a_cluster():
    rows, queries = made_up(0, noise=0.1), made_up(1, 30, noise=0.1)
    labels = plain_k_means(rows.x.astype(np.float64), 3)
    centres = np.stack([rows.x[labels == g].mean(axis=0) for g in range(3)])
    router = KMeans(5, clusters=3).fit(rows)
    assert groups_in(router.model.labels_) == groups_in(labels)
    for x, value in zip(queries.x, router.values(queries.x)):
        nearest = ((x - centres) ** 2).sum(axis=1).argmin()
        assert value == pytest.approx(rows.y[labels == nearest].mean(axis=0), abs=1e-6)


def test_kmeans_with_many_clusters_is_a_fixed_point(rows):
    """Wherever it stops: each row is nearest to its own centre, and each centre is the mean of its rows."""
    router = KMeans(0, clusters=16).fit(rows)
    centres, labels = router.model.cluster_centers_, router.model.labels_
    for x, label in zip(rows.x, labels):
        assert ((x - centres) ** 2).sum(axis=1).argmin() == label
    means = np.stack([rows.x[labels == g].mean(axis=0) for g in range(16)])
    assert centres == pytest.approx(means, abs=1e-5)


def test_lora_retriever_is_a_loop_over_the_given_clusters(rows, queries):
    values = LoraRetriever().fit(rows).values(queries.x)
    for x, value in zip(queries.x, values):
        similarity = {}
        for cluster in set(rows.clusters.tolist()):
            centre = sum(row.astype(np.float64) for row, c in zip(rows.x, rows.clusters) if c == cluster)
            similarity[cluster] = float(x @ centre) / math.sqrt(float(centre @ centre))
        nearest = max(similarity, key=similarity.get)
        assert value == pytest.approx(rows.y[rows.clusters == nearest].mean(axis=0), abs=1e-6)
    with pytest.raises(ValueError, match="LoraRetriever needs the cluster of every training row"):
        LoraRetriever().fit(Rows(rows.x, rows.y, rows.tasks))


def test_task_classifier_is_the_optimum_of_logistic_regression(rows, queries):
    """The same objective minimised by scipy: tasks weigh alike, the intercept is free of the penalty."""
    router = TaskClassifier(c=10.0).fit(rows)
    names = sorted(set(rows.tasks))
    groups = np.array([names.index(task) for task in rows.tasks])
    weight = 90 / (3 * np.bincount(groups))[groups]
    x = np.column_stack([rows.x.astype(np.float64), np.ones(90)])

    def objective(flat):
        w = flat.reshape(7, 3)
        logits = x @ w
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(90), groups]
        return 10.0 * (weight * losses).sum() + 0.5 * (w[:6] ** 2).sum()

    options = {"maxiter": 500, "maxfun": 100_000}
    best = scipy.optimize.minimize(objective, np.zeros(21), method="L-BFGS-B", options=options).x
    logits = np.column_stack([queries.x, np.ones(40)]) @ best.reshape(7, 3)
    found = router.model.decision_function(queries.x)

    def centred(values: np.ndarray) -> np.ndarray:  # logits of a row may all be moved alike
        return values - values.mean(axis=1, keepdims=True)

    assert centred(found) == pytest.approx(centred(logits), abs=0.05)
    expected = [rows.y[groups == row.argmax()].mean(axis=0) for row in logits]
    assert router.values(queries.x) == pytest.approx(np.array(expected), abs=1e-6)


def test_task_classifier_of_one_task_gives_its_means(rows, queries):
    one = Rows(rows.x, rows.y, np.full(90, "a"))
    means = np.tile(rows.y.mean(axis=0), (40, 1))
    assert TaskClassifier(c=1.0).fit(one).values(queries.x) == pytest.approx(means, abs=1e-6)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def dot(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def weights_of(router) -> dict[str, np.ndarray]:
    """The parameters of a torch router by name, in float64."""
    return {name: value.detach().double().numpy() for name, value in router.module.named_parameters()}


def test_matrix_factorization_is_its_formula(rows, queries):
    router = MatrixFactorization(2, **SETTINGS[MatrixFactorization]).fit(rows)
    weights = weights_of(router)
    for x, value in zip(queries.x, router.values(queries.x)):
        q = [dot(row, x) + bias for row, bias in zip(weights["query.weight"], weights["query.bias"])]
        for t in range(4):
            llm = weights["llms"][t]
            v = llm / math.sqrt(dot(llm, llm))
            products = [a * b for a, b in zip(v, q)]
            logit = dot(weights["classifier.weight"][0], products) + weights["classifier.bias"][0]
            assert value[t] == pytest.approx(sigmoid(logit), abs=1e-5)


def test_irt_is_the_two_parameter_model(rows, queries):
    router = IRT(2, **SETTINGS[IRT]).fit(rows)
    weights = weights_of(router)
    for x, value in zip(queries.x, router.values(queries.x)):
        a = []
        for row, bias in zip(weights["discrimination.weight"], weights["discrimination.bias"]):
            a.append(math.log(1 + math.exp(dot(row, x) + bias)))
        b = dot(weights["difficulty.weight"][0], x) + weights["difficulty.bias"][0]
        expected = [sigmoid(dot(a, theta) - b) for theta in weights["ability"]]
        assert value == pytest.approx(expected, abs=1e-5)


def test_irt_with_one_ability_would_pick_one_llm_for_all(rows, queries):
    """Why the grid begins at two: discriminations are positive, so the order of the LLMs is that of their abilities."""
    router = IRT(0, abilities=1, weight_decay=1e-2, passes=20).fit(rows)
    assert set(router.pick(queries.x, range(4))) == {int(router.module.ability[:, 0].argmax())}
    assert min(IRT.grid["abilities"]) > 1


@pytest.mark.parametrize("router_class", [MatrixFactorization, IRT])
def test_the_loss_of_the_torch_routers_is_the_mean_log_likelihood(router_class, rows):
    router = router_class(0, **SETTINGS[router_class]).fit(rows)
    likelihoods = []
    for y, v in zip(rows.y.ravel().tolist(), router.values(rows.x).ravel().tolist()):
        likelihoods.append(y * math.log(v) + (1 - y) * math.log(1 - v))
    loss = router.loss(torch.from_numpy(rows.x), torch.from_numpy(rows.y)).item()
    assert loss == pytest.approx(-np.mean(likelihoods), rel=1e-5)


@pytest.mark.parametrize("router_class", [MatrixFactorization, IRT])
def test_torch_routers_leave_the_random_state_and_refuse_other_targets(router_class, rows):
    before = torch.get_rng_state()
    router_class(1, **SETTINGS[router_class]).fit(rows)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match=f"{router_class.name} predicts the probability.*found -"):
        router_class(0, **SETTINGS[router_class]).fit(Rows(rows.x, rows.y - 1, rows.tasks))


def test_group_means_and_unit_vectors():
    y, groups = np.arange(12.0).reshape(6, 2), np.array([1, 0, 1, 2, 0, 1])
    assert group_means(y, groups).tolist() == [[y[groups == g, t].mean() for t in range(2)] for g in range(3)]
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]


# Choosing


def test_the_setting_that_earns_most_on_validation_is_taken(rows, queries):
    held = []
    for task, part in (("a", slice(25)), ("b", slice(25, None))):
        x = queries.x[part]
        held.append((x, data_of(Rows(x, queries.y[part], queries.tasks[part]), task)))
    scores = {}
    for k in KNN.grid["k"]:
        if k <= len(rows.x):
            router = KNN(k=k).fit(rows)
            earned = [data.scores[np.arange(len(x)), router.values(x).argmax(axis=1)].mean() for x, data in held]
            scores[k] = 100 * np.mean(earned)
    assert len(set(scores.values())) > 1 and 160 not in scores  # more than there are rows: no candidate
    choice = choose(KNN, rows, held, 0)
    assert choice.setting == {"k": max(scores, key=scores.get)}
    assert choice.validation == pytest.approx(max(scores.values()))
    worst = choose(KNN, rows, held, 0, worth=lambda picks, data: -accuracy(picks, data))
    assert worst.setting == {"k": min(scores, key=scores.get)}


def test_the_chosen_setting_is_fitted_again_on_everything(rows, queries):
    held = [(queries.x, data_of(queries))]
    everything = Rows(
        np.concatenate([rows.x, queries.x]),
        np.concatenate([rows.y, queries.y]),
        np.concatenate([rows.tasks, queries.tasks]),
    )
    once, again = choose(KNN, rows, held, 0), choose(KNN, rows, held, 0, everything=everything)
    assert again.setting == once.setting and again.validation == once.validation
    assert (again.router.values(rows.x) == KNN(**once.setting).fit(everything).values(rows.x)).all()


def test_choosing_needs_validation_rows_and_enough_training_rows(rows):
    with pytest.raises(ValueError, match="Ridge: --validation_fraction must be above 0"):
        choose(Ridge, rows, [], 0)
    assert choose(LoraRetriever, rows, [], 0).validation is None  # nothing to choose
    few = Rows(rows.x[:3], rows.y[:3], rows.tasks[:3])
    with pytest.raises(ValueError, match="kNN: 3 training rows are too few"):
        choose(KNN, few, [(rows.x, data_of(rows))], 0)


# Controls


def test_controls_pick_what_they_say(rows, queries):
    test = data_of(queries, "b")
    mean = {task: rows.y[rows.tasks == task].mean(axis=0) for task in "abc"}
    columns = [3, 0, 1]
    assert (BestSingle().fit(rows).pick(test, columns) == (sum(mean.values()) / 3)[columns].argmax()).all()
    assert (BestPerTask().fit(rows).pick(test, columns) == mean["b"][columns].argmax()).all()
    of_new_task = BestPerTask().fit(rows).pick(data_of(queries, "new"), columns)
    assert (of_new_task == BestSingle().fit(rows).pick(test, columns)).all()
    assert (Oracle().fit(rows).pick(test, columns) == test.scores.argmax(axis=1)).all()


def test_random_picks_are_even_and_the_seeds(rows, queries):
    test, columns = data_of(queries, "b"), [3, 0, 1]
    picks = np.stack([Random(seed).fit(rows).pick(test, columns) for seed in range(300)])
    assert np.bincount(picks.ravel()) / picks.size == pytest.approx([1 / 3] * 3, abs=0.02)
    assert (picks[0] != picks[1]).any()
    assert (Random(7).fit(rows).pick(test, columns) == picks[7]).all()
    three_llms = data_of(Rows(queries.x, queries.y[:, :3], queries.tasks))
    accuracies = [accuracy(of_seed, three_llms) for of_seed in picks]
    assert np.mean(accuracies) == pytest.approx(100 * queries.y[:, :3].mean(), abs=1)


def test_oracle_charges_the_cost_and_takes_the_cheapest_of_equals():
    scores = np.array([[1, 1, 0.5], [0, 0, 0], [1, 0.9, 0.2]], dtype=np.float32)
    data = RoutingData("a", "multi_attempt", ["q"] * 3, scores, tuple("xyz"), costs=np.array([[2e-3, 1e-3, 1e-4]] * 3))
    for rate in (0, 50, 300, 1000):
        expected = []
        for row_scores, costs in zip(scores, data.costs):
            worth = [(float(score) - rate * cost, -cost) for score, cost in zip(row_scores, costs)]
            expected.append(worth.index(max(worth)))
        assert Oracle(cost_rate=rate).pick(data, range(3)).tolist() == expected, rate


def test_best_single_weighs_tasks_and_not_rows():
    y = np.array([[1, 0]] * 9 + [[0, 1.0], [0, 1.0]] + [[0, 1.0]])
    rows = Rows(np.ones((12, 2)), y, np.array(["a"] * 9 + ["b"] * 2 + ["c"]))
    test = RoutingData("a", "multi_attempt", ["q"], np.zeros((1, 2)), ("x", "y"))
    assert BestSingle().fit(rows).pick(test, [0, 1]).tolist() == [1]


# Clusters in the space of a trained encoder


def test_clusters_made_anew_do_not_depend_on_the_order_of_the_rows(rows):
    order = np.random.default_rng(3).permutation(90)
    doubled = np.concatenate([order, order[:20]])  # nor on repeats
    other = Rows(rows.x[doubled], rows.y[doubled], rows.tasks[doubled], rows.clusters[doubled])
    found, again = clustered(rows, 1).clusters, clustered(other, 1).clusters
    assert (again == found[doubled]).all() and len(set(found.tolist())) == 3
    far = made_up(0, noise=0.1)
    found, plain = clustered(far, 1).clusters, plain_k_means(far.x.astype(np.float64), 3)
    assert groups_in(found) == groups_in(plain)
    assert clustered(Rows(rows.x, rows.y, rows.tasks), 1).clusters is None
