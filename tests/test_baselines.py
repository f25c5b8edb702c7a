"""utils/baselines: each router against a plain loop or a closed form, the choice of settings, the real command on made-
up data.
"""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy.optimize
import torch
from conftest import LLMS, REPO, arguments, make_rows
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

import train_router_mdeberta as program
from utils.baselines import __main__ as command
from utils.baselines import embeddings as embeddings_module
from utils.baselines.arguments import parse
from utils.baselines.base import Rows, choose, group_means, unit
from utils.baselines.controls import BestPerTask, BestSingle, Oracle, Random
from utils.baselines.embeddings import Embeddings
from utils.baselines.irt import IRT
from utils.baselines.kmeans import KMeans
from utils.baselines.knn import KNN
from utils.baselines.lora_retriever import LoraRetriever
from utils.baselines.matrix_factorization import MatrixFactorization
from utils.baselines.mlp import MLP
from utils.baselines.problem import Problem
from utils.baselines.ridge import Ridge
from utils.baselines.task_classifier import TaskClassifier
from utils.baselines.trained_encoder import clustered
from utils.baselines.voting import vote, voting
from utils.checkpoint import content_hash
from utils.data import DataError, RoutingData, gains, load, load_tests
from utils.denoise import pool_targets
from utils.experiment import choose_hardware
from utils.metrics import accuracy
from utils.training_set import split_validation

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


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_router_learns_and_obeys_the_interface(kind, rows, queries):
    router = kind(3, **SETTINGS[kind])
    assert router.fit(rows) is router
    values = router.values(queries.x)
    assert values.shape == (40, 4) and np.isfinite(values).all()
    picks = router.pick(queries.x, range(4))
    assert (picks == values.argmax(axis=1)).all() and (
        router.pick(queries.x, [3, 1]) == values[:, [3, 1]].argmax(axis=1)
    ).all()
    single = accuracy(np.full(40, rows.y.mean(axis=0).argmax()), data_of(queries))
    assert accuracy(picks, data_of(queries)) > single + 5, "no better than one LLM for all"
    assert (kind(3, **SETTINGS[kind]).fit(rows).values(queries.x) == values).all()  # the seed decides everything
    with pytest.raises(TypeError, match=kind.name):
        kind(0, wrong=1)


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
    (first, second), (one, two) = router.model.coefs_, router.model.intercepts_
    expected = [
        [
            sum(
                max(0, sum(v * w for v, w in zip(point, column)) + b) * out[t]
                for column, b, out in zip(first.T, one, second)
            )
            + two[t]
            for t in range(2)
        ]
        for point in x[:20]
    ]
    assert router.values(x[:20]) == pytest.approx(np.array(expected), abs=1e-4)
    right = router.pick(x, range(2)) == 1 - same
    assert right.mean() > 0.9 > 0.7 > (Ridge(alpha=1.0).fit(rows).pick(x, range(2)) == 1 - same).mean()
    assert (MLP(2, units=64, alpha=1e-3, passes=40).fit(rows).values(x) != router.values(x)).any()


def plain_k_means(x: np.ndarray, count: int) -> np.ndarray:
    """Lloyd's algorithm from far-apart starts, with loops: the cluster of each row."""
    centres = [x[0]]
    while len(centres) < count:
        centres.append(max(x, key=lambda row: min(((row - c) ** 2).sum() for c in centres)))
    for _ in range(50):
        labels = np.array([min(range(count), key=lambda g: ((row - centres[g]) ** 2).sum()) for row in x])
        centres = [x[labels == g].mean(axis=0) for g in range(count)]
    return labels


def test_kmeans_is_lloyds_algorithm_and_the_mean_of_a_cluster():
    rows, queries = made_up(0, noise=0.1), made_up(1, 30, noise=0.1)
    labels = plain_k_means(rows.x.astype(np.float64), 3)
    centres = np.stack([rows.x[labels == g].mean(axis=0) for g in range(3)])
    router = KMeans(5, clusters=3).fit(rows)
    assert {tuple(np.flatnonzero(router.model.labels_ == g)) for g in range(3)} == {
        tuple(np.flatnonzero(labels == g)) for g in range(3)
    }
    for x, value in zip(queries.x, router.values(queries.x)):
        nearest = min(range(3), key=lambda g: ((x - centres[g]) ** 2).sum())
        assert value == pytest.approx(rows.y[labels == nearest].mean(axis=0), abs=1e-6)


def test_kmeans_with_many_clusters_is_a_fixed_point(rows):
    """Wherever it stops: each row is nearest to its own centre, and each centre is the mean of its rows."""
    router = KMeans(0, clusters=16).fit(rows)
    centres, labels = router.model.cluster_centers_, router.model.labels_
    for x, label in zip(rows.x, labels):
        assert min(range(16), key=lambda g: ((x - centres[g]) ** 2).sum()) == label
    assert centres == pytest.approx(np.stack([rows.x[labels == g].mean(axis=0) for g in range(16)]), abs=1e-5)


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

    best = scipy.optimize.minimize(
        objective, np.zeros(21), method="L-BFGS-B", options={"maxiter": 500, "maxfun": 100_000}
    ).x.reshape(7, 3)
    logits = np.column_stack([queries.x, np.ones(40)]) @ best
    assert router.model.decision_function(queries.x) - router.model.decision_function(queries.x).mean(
        axis=1, keepdims=True
    ) == pytest.approx(logits - logits.mean(axis=1, keepdims=True), abs=0.05)
    expected = [rows.y[groups == row.argmax()].mean(axis=0) for row in logits]
    assert router.values(queries.x) == pytest.approx(np.array(expected), abs=1e-6)
    one = Rows(rows.x, rows.y, np.full(90, "a"))
    assert TaskClassifier(c=1.0).fit(one).values(queries.x) == pytest.approx(
        np.tile(rows.y.mean(axis=0), (40, 1)), abs=1e-6
    )


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_matrix_factorization_is_its_formula(rows, queries):
    router = MatrixFactorization(2, **SETTINGS[MatrixFactorization]).fit(rows)
    p = {name: value.detach().double().numpy() for name, value in router.module.named_parameters()}
    for x, value in zip(queries.x, router.values(queries.x)):
        q = [sum(a * b for a, b in zip(row, x)) + bias for row, bias in zip(p["query.weight"], p["query.bias"])]
        for t in range(4):
            v = p["llms"][t] / math.sqrt(sum(component**2 for component in p["llms"][t]))
            logit = sum(w * a * b for w, a, b in zip(p["classifier.weight"][0], v, q)) + p["classifier.bias"][0]
            assert value[t] == pytest.approx(sigmoid(logit), abs=1e-5)


def test_irt_is_the_two_parameter_model(rows, queries):
    router = IRT(2, **SETTINGS[IRT]).fit(rows)
    p = {name: value.detach().double().numpy() for name, value in router.module.named_parameters()}
    for x, value in zip(queries.x, router.values(queries.x)):
        a = [
            math.log(1 + math.exp(sum(u * v for u, v in zip(row, x)) + bias))
            for row, bias in zip(p["discrimination.weight"], p["discrimination.bias"])
        ]
        b = sum(u * v for u, v in zip(p["difficulty.weight"][0], x)) + p["difficulty.bias"][0]
        assert value == pytest.approx(
            [sigmoid(sum(u * v for u, v in zip(a, theta)) - b) for theta in p["ability"]], abs=1e-5
        )


def test_irt_with_one_ability_would_pick_one_llm_for_all(rows, queries):
    """Why the grid begins at two: discriminations are positive, so the order of the LLMs is that of their abilities."""
    router = IRT(0, abilities=1, weight_decay=1e-2, passes=20).fit(rows)
    assert set(router.pick(queries.x, range(4))) == {int(router.module.ability[:, 0].argmax())}
    assert min(IRT.grid["abilities"]) > 1


@pytest.mark.parametrize("kind", [MatrixFactorization, IRT])
def test_the_loss_of_the_torch_routers_is_the_mean_log_likelihood(kind, rows):
    router = kind(0, **SETTINGS[kind]).fit(rows)
    values = router.values(rows.x).astype(np.float64)
    expected = -np.mean(
        [y * math.log(v) + (1 - y) * math.log(1 - v) for y, v in zip(rows.y.ravel().tolist(), values.ravel().tolist())]
    )
    assert router.loss(torch.from_numpy(rows.x), torch.from_numpy(rows.y)).item() == pytest.approx(expected, rel=1e-5)
    before = torch.get_rng_state()
    kind(1, **SETTINGS[kind]).fit(rows)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match=f"{kind.name} predicts the probability.*found -"):
        kind(0, **SETTINGS[kind]).fit(Rows(rows.x, rows.y - 1, rows.tasks))


def test_group_means_and_unit_vectors():
    y, groups = np.arange(12.0).reshape(6, 2), np.array([1, 0, 1, 2, 0, 1])
    assert group_means(y, groups, 3).tolist() == [[y[groups == g, t].mean() for t in range(2)] for g in range(3)]
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]


# Choosing


def test_the_setting_that_earns_most_on_validation_is_taken(rows, queries):
    held = [
        (queries.x[:25], data_of(Rows(queries.x[:25], queries.y[:25], queries.tasks[:25]))),
        (queries.x[25:], data_of(Rows(queries.x[25:], queries.y[25:], queries.tasks[25:]), "b")),
    ]
    choice = choose(KNN, rows, held, 0)
    scores = {
        k: np.mean(
            [
                100 * data.scores[np.arange(len(x)), KNN(k=k).fit(rows).values(x).argmax(axis=1)].mean()
                for x, data in held
            ]
        )
        for k in KNN.grid["k"]
        if k <= 90
    }
    assert choice.setting == {"k": max(scores, key=scores.get)} and choice.validation == pytest.approx(
        max(scores.values())
    )
    assert len(set(scores.values())) > 1 and 160 not in scores  # more than there are rows: no candidate
    both = Rows(
        *(np.concatenate([a, b]) for a, b in zip((rows.x, rows.y, rows.tasks), (queries.x, queries.y, queries.tasks)))
    )
    again = choose(KNN, rows, held, 0, everything=both)
    assert again.setting == choice.setting and again.validation == choice.validation
    assert (again.router.values(rows.x) == KNN(**choice.setting).fit(both).values(rows.x)).all()
    worst = choose(KNN, rows, held, 0, worth=lambda picks, data: -accuracy(picks, data))
    assert worst.setting == {"k": min(scores, key=scores.get)}


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
    assert (
        BestPerTask().fit(rows).pick(data_of(queries, "new"), columns) == BestSingle().fit(rows).pick(test, columns)
    ).all()
    assert (Oracle().fit(rows).pick(test, columns) == test.scores.argmax(axis=1)).all()
    picks = np.stack([Random(seed).fit(rows).pick(test, columns) for seed in range(300)])
    assert (
        np.bincount(picks.ravel()) / picks.size == pytest.approx([1 / 3] * 3, abs=0.02) and (picks[0] != picks[1]).any()
    )
    assert (Random(7).fit(rows).pick(test, columns) == Random(7).fit(rows).pick(test, columns)).all()
    assert np.mean(
        [accuracy(row, data_of(Rows(queries.x, queries.y[:, :3], queries.tasks))) for row in picks]
    ) == pytest.approx(100 * queries.y[:, :3].mean(), abs=1)


def test_oracle_charges_the_cost_and_takes_the_cheapest_of_equals():
    scores = np.array([[1, 1, 0.5], [0, 0, 0], [1, 0.9, 0.2]], dtype=np.float32)
    data = RoutingData("a", "multi_attempt", ["q"] * 3, scores, tuple("xyz"), costs=np.array([[2e-3, 1e-3, 1e-4]] * 3))
    for rate in (0, 50, 300, 1000):
        worth = [[(float(score) - rate * cost, -cost) for score, cost in zip(*row)] for row in zip(scores, data.costs)]
        assert Oracle(cost_rate=rate).pick(data, range(3)).tolist() == [row.index(max(row)) for row in worth], rate


def test_best_single_weighs_tasks_and_not_rows():
    y = np.array([[1, 0]] * 9 + [[0, 1.0], [0, 1.0]] + [[0, 1.0]])
    rows = Rows(np.ones((12, 2)), y, np.array(["a"] * 9 + ["b"] * 2 + ["c"]))
    assert (
        BestSingle().fit(rows).pick(RoutingData("a", "multi_attempt", ["q"], np.zeros((1, 2)), ("x", "y")), [0, 1]) == 1
    ).all()


# Voting


@pytest.mark.parametrize(
    ("answers", "right", "earned"),
    [
        (["a", "a", "b"], [True, True, False], 1),
        (["a", "b", "b"], [True, False, False], 0),
        (["a", "b", "c"], [False, True, False], 1 / 3),
        (["a", "a", "b", "b", "c"], [False, False, True, True, True], 0.5),
        ([None, None, "b"], [False, False, True], 1),
        ([None, None], [False, False], 0),
    ],
)
def test_votes(answers, right, earned):
    assert vote(answers, right) == pytest.approx(earned)


def test_a_vote_needs_consistent_verdicts():
    with pytest.raises(ValueError, match="'a' is right for one LLM and wrong for another"):
        vote(["a", "a"], [True, False])


def with_answers(rows: list[dict], count: int) -> tuple[list[dict], list[dict]]:
    """Rows and answers: every LLM answers `count` times, with the number of the row where it is right, else with one of
    three wrong ones.
    """
    rng, sides = np.random.default_rng(0), []
    for number, row in enumerate(rows):
        right = {llm: [bool(rng.random() < score) for _ in range(count)] for llm, score in row["scores"].items()}
        sides.append(
            {
                "answers": {
                    llm: [number if ok else -int(rng.integers(1, 4)) for ok in part] for llm, part in right.items()
                },
                "right": right,
            }
        )
        row["scores"] = {llm: sum(part) / count for llm, part in right.items()}
    return rows, sides


def test_voting_on_a_file_is_a_loop(tmp_path):
    rows, sides = with_answers(make_rows(40, "multi_attempt", 5), 3)
    path, other = tmp_path / "poems_test.json", tmp_path / "answers" / "poems_test.json"
    path.write_text(json.dumps(rows))
    other.parent.mkdir()
    other.write_text(json.dumps(sides))
    expected = []
    for side in sides:
        votes = []
        for m in range(3):
            given = [side["answers"][llm][m] for llm in LLMS]
            most = max(given.count(answer) for answer in given)
            winners = {answer for answer in given if given.count(answer) == most}
            votes.append(sum(answer >= 0 for answer in winners) / len(winners))  # only right answers are row numbers
        expected.append(sum(votes) / 3)
    data = load(path, "multi_attempt")
    assert voting(data, other.parent) == pytest.approx(expected)
    assert 0 < np.mean(expected) < 1

    def error(change) -> str:
        wrong = json.loads(json.dumps(sides))
        change(wrong)
        other.write_text(json.dumps(wrong))
        with pytest.raises(DataError) as caught:
            voting(data, other.parent)
        return str(caught.value)

    assert "row 7: no 'answers' or no 'right' of org/alpha-7b" in error(lambda wrong: wrong[7]["answers"].pop(LLMS[0]))
    assert "row 7: every LLM must have the same number of answers" in error(
        lambda wrong: wrong[7]["right"][LLMS[0]].pop()
    )
    assert "answers to 39 queries" in error(lambda wrong: wrong.pop())
    assert "the verdicts are not those of the scores in row 0" in error(lambda wrong: wrong.reverse())
    other.unlink()
    with pytest.raises(DataError, match="no such file; voting needs the answers to every query"):
        voting(data, other.parent)


# The command


@pytest.fixture
def line(fake, tiny_bert, tmp_path):
    """A command line on the made-up data: line("folder", "--routers", ...)."""

    def line(name, *more) -> list[str]:
        encoder = [
            "--encoder",
            tiny_bert,
            "--pooling",
            "mean",
            "--max_length",
            "64",
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--cache_dir",
            tmp_path / "cache",
        ]
        return [
            *fake.arguments(),
            *map(str, [*encoder, "--save_path", tmp_path / name, "--validation_fraction", "0.2", *more]),
        ]

    return line


@pytest.fixture
def run(line, capsys):
    """Runs the command in this process; returns what it prints."""

    def run(name, *more) -> str:
        status = command.main(line(name, *more))
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    return run


@pytest.fixture
def fails(line, capsys):
    def fails(*more) -> str:
        assert command.main(line("failed", *more)) == 2
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return next(part for part in err.splitlines() if part.startswith("error: ")).removeprefix("error: ")

    return fails


def results(folder) -> dict[tuple[str, int], dict]:
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("results.json"))]
    return {(result["router"], result["settings"]["seed"]): result for result in found}


def test_all_routers_and_controls_by_one_command(run, fake, trained, tmp_path):
    text = run("runs", "--seeds", 1, 2)
    found = results(tmp_path / "runs")
    routers = {"kNN", "Ridge", "MLP", "MatrixFactorization", "KMeans", "LoraRetriever", "IRT", "TaskClassifier"}
    assert set(found) == {(name, seed) for name in [*routers, "Random"] for seed in (1, 2)} | {
        (name, 1) for name in ("BestSingle", "BestPerTask", "Oracle")
    }
    assert (
        "Table 1" in text
        and "Table 2" in text
        and all(f"| {name}, {'frozen' if name in routers else 'control'} " in text for name, _ in found)
    )
    for (name, seed), result in found.items():
        folder = tmp_path / "runs" / name / f"seed_{seed}"
        assert result.keys() == trained.results.keys() and set(result["test"]) >= set(trained.results["test"]) - {
            "dataset"
        }
        picks = json.loads((folder / "picks.json").read_text())
        for task, path in fake.test.items():  # figures from picks and files, by plain loops
            rows, llms = json.loads(path.read_text(encoding="utf-8")), result["test"]["llms"]
            earned = [row["scores"][llms[pick]] for row, pick in zip(rows, picks[task], strict=True)]
            earned = [float(value > 0) for value in earned] if task == "arc_challenge" else earned
            assert result["test"]["tasks"][task] == pytest.approx(100 * sum(earned) / len(earned), abs=1e-4)
        assert result["test"]["ood_avg"] == pytest.approx(result["test"]["tasks"]["mbpp"])
        assert f"{name} (this run)" in (folder / "tables.md").read_text()
        assert (result["selection"]["rule"], result["settings"]["encoder"] == "none") == (
            ("best", False) if name in routers else ("none", True)
        )
    average = {name: np.mean([found[key]["test"]["id_avg"] for key in found if key[0] == name]) for name, _ in found}
    assert (
        max(average["Random"], average["BestPerTask"]) + 20
        < average["Oracle"]
        == pytest.approx(
            np.mean([trained.results["test"]["references"]["per-query oracle"][t] for t in ("gsm8k", "arc_challenge")])
        )
    )
    assert (
        min(average[name] for name in ("Ridge", "MLP")) > average["BestSingle"] + 15
    )  # topics can be read off the words, across tasks
    assert average["LoraRetriever"] > average["BestSingle"] + 10  # its clusters are the topics


def test_finished_runs_are_skipped_and_others_made_again_to_the_digit(run, line, tmp_path, monkeypatch):
    routers = ("--routers", "kmeans", "irt", "random", "--seeds", 1, 2)
    run("runs", *routers)
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted((tmp_path / "runs").rglob("*.json"))}
    assert len(files) == 12
    shutil.rmtree(tmp_path / "runs" / "KMeans" / "seed_2")
    (tmp_path / "runs" / "IRT" / "seed_1" / "results.json").unlink()  # stopped before its last file
    text = run("runs", *routers)
    assert "4 of 6 runs are already done" in text
    for path, (content, time) in files.items():
        again = "KMeans/seed_2" in str(path) or "IRT/seed_1" in str(path)
        assert (path.stat().st_mtime_ns == time) != again, path
        if path.name == "picks.json":
            assert path.read_bytes() == content, path

    def forbidden(*args, **kwargs):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr(embeddings_module, "load_encoder", forbidden)
    assert run("runs", *routers).split("Table 1")[1] == text.split("Table 1")[1]
    process = subprocess.run(
        [sys.executable, "-m", "utils.baselines", *line("other", *map(str, routers[:3]))],
        capture_output=True,
        text=True,
        cwd=REPO,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    for name in ("KMeans", "IRT"):
        assert (tmp_path / "other" / name / "seed_1" / "picks.json").read_bytes() == (
            tmp_path / "runs" / name / "seed_1" / "picks.json"
        ).read_bytes()


def test_other_settings_in_the_same_folder_are_refused(run, fails, line, tmp_path, capsys):
    run("failed", "--routers", "ridge")
    text = fails("--routers", "ridge", "--targets", "score")
    assert "Ridge" in text and "targets: 'gain' there, 'score' now" in text and "Choose another --save_path" in text


def test_a_run_from_before_an_argument_is_still_finished(run, fails, tmp_path):
    run("failed", "--routers", "ridge")
    path = tmp_path / "failed" / "Ridge" / "seed_1" / "results.json"
    old = json.loads(path.read_text())
    for name in ("keep_characters", "encoder_ckpt"):
        del old["settings"][name]
    path.write_text(json.dumps(old))
    assert "1 of 1 runs are already done" in run("failed", "--routers", "ridge")
    assert "keep_characters: 'last' there, 'first' now" in fails("--routers", "ridge", "--keep_characters", "first")


def test_an_interrupted_command_goes_on(run, line, tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(IRT, "fit", stop)
        assert command.main(line("runs", "--routers", "ridge", "irt")) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert set(results(tmp_path / "runs")) == {("Ridge", 1)}
    run("runs", "--routers", "ridge", "irt")
    assert set(results(tmp_path / "runs")) == {("Ridge", 1), ("IRT", 1)}


def test_no_router_reads_the_test_scores(run, fake, tmp_path):
    """With the scores of all test files turned round, every pick stays, and only the oracle's change."""
    turned = {}
    for task, path in fake.test.items():
        rows = json.loads(path.read_text(encoding="utf-8"))
        for row in rows:
            row["scores"] = {llm: 1 - score for llm, score in row["scores"].items()}
        turned[task] = tmp_path / path.name
        turned[task].write_text(json.dumps(rows), encoding="utf-8")
    other = ["--test_data_paths", turned["gsm8k"], turned["arc_challenge"], "--final_eval_data_paths", turned["mbpp"]]
    run("before")
    run("after", *other)
    for path in sorted((tmp_path / "before").rglob("picks.json")):
        same = path.read_bytes() == (tmp_path / "after" / path.relative_to(tmp_path / "before")).read_bytes()
        assert same == ("Oracle" not in str(path)), path


def test_rows_and_targets_are_those_of_training(fake, line):
    """The validation split, the first rows, right or wrong, and means over a task, from the files by other code."""
    for more in ([], ["--training_samples_per_dataset", "20"], ["--targets", "score", "--target_shrinkage", "0.5"]):
        args = parse([*line("x"), *more])
        problem = Problem(args)
        embedded = [
            np.arange(len(data), dtype=np.float32)[:, None] for data in problem.files
        ]  # the row's number, to follow it
        rows, validation = problem.rows(embedded, 3, everything=False)
        count = 20 if "20" in more else 1000
        expected = []
        for data, (x, held) in zip(problem.files, validation):
            train, rest = split_validation(data, 0.2, 3)
            assert x[:, 0].tolist() == rest.tolist() and held.questions == [data.questions[i] for i in rest]
            y = data.scores if "score" in more else gains(data.scores, data.kind)
            y = 0.5 * y[train] + 0.5 * y[train].mean(axis=0) if "score" in more else y[train]
            expected += [(float(i), data.task, *map(float, values)) for i, values in list(zip(train, y))[:count]]
        found = [(float(x[0]), str(task), *map(float, y)) for x, y, task in zip(rows.x, rows.y, rows.tasks)]
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        assert np.array([row[2:] for row in found]) == pytest.approx(np.array([row[2:] for row in expected]), abs=1e-6)
        assert len(problem.rows(embedded, 3, everything=True)[0].x) == sum(
            min(count, len(data)) for data in problem.files
        )


def test_pooled_targets_are_those_of_the_training_rows(fake, line):
    """The same ones as of a training run, and none for the controls, which have no embeddings."""
    args = parse([*line("x"), "--target_pooling", "question", "--training_samples_per_dataset", "20"])
    problem, rng = Problem(args), np.random.default_rng(0)
    embedded = [rng.normal(size=(len(data), 5)).astype(np.float32) for data in problem.files]
    found, expected = problem.rows(embedded, 3, False, args.training_set.target_pooling)[0], []
    for data, x in zip(problem.files, embedded):
        train, _ = split_validation(data, 0.2, 3)
        pooled, _ = pool_targets(data.rows(train), gains(data.scores, data.kind)[train], x[train], "question")
        expected.append(pooled[:20])
    np.testing.assert_array_equal(found.y, np.concatenate(expected))
    assert not np.array_equal(found.y, problem.rows(embedded, 3, False)[0].y)


def test_llms_that_are_absent_are_not_picked(run, fake, tmp_path):
    run(
        "runs",
        "--routers",
        "ridge",
        "random",
        "best_per_task",
        "--test_data_paths",
        fake.fewer,
        "--final_eval_data_paths",
    )
    for result in results(tmp_path / "runs").values():
        assert result["test"]["llms"] == [LLMS[1], LLMS[3]] or result["test"]["llms"] == [LLMS[3], LLMS[1]]
        assert set(result["test"]["shares"]["mmlu"]) == {LLMS[1], LLMS[3]}
    run("some", "--routers", "ridge", "--llms", LLMS[2], LLMS[0])
    assert results(tmp_path / "some")["Ridge", 1]["test"]["llms"] == [LLMS[2], LLMS[0]]


def test_test_files_are_those_of_training(fake, line, tmp_path):
    """With --llms, test files may differ in the LLMs that are not among them; without, none may be unknown. As
    train_router_mdeberta.py has it.
    """
    rows = make_rows(10, "probability", 3, LLMS[:3])
    for row in rows:
        row["scores"]["lab/other"] = 1
    (tmp_path / "mmlu_test.json").write_text(json.dumps(rows), encoding="utf-8")
    flags = ["--test_data_paths", str(fake.test["gsm8k"]), "--final_eval_data_paths", str(tmp_path / "mmlu_test.json")]
    some = parse([*line("x"), *flags, "--llms", LLMS[2], LLMS[0]])
    for found, expected in zip(Problem(some).tests, load_tests(some.data, (LLMS[2], LLMS[0])), strict=True):
        assert (found.path, found.llms) == (expected.path, expected.llms) and (found.scores == expected.scores).all()
    with pytest.raises(DataError, match="no training file has scores for lab/other"):
        Problem(parse([*line("x"), *flags]))
    with pytest.raises(DataError, match="no scores for lab/delta"):
        Problem(parse([*line("x"), *flags, "--llms", LLMS[3]]))


def test_refit_uses_the_validation_rows_too(run, tmp_path):
    run("once", "--routers", "ridge")
    run("twice", "--routers", "ridge", "--refit")
    once, twice = (results(tmp_path / name)["Ridge", 1] for name in ("once", "twice"))
    assert once["selection"] == twice["selection"]
    assert (tmp_path / "once/Ridge/seed_1/picks.json").read_text() != (
        tmp_path / "twice/Ridge/seed_1/picks.json"
    ).read_text()


def test_voting_by_the_command(run, fails, tmp_path):
    text = fails("--routers", "voting")
    assert "--routers voting needs --answers DIR" in text and "cannot be computed" in text
    rows, sides = with_answers(make_rows(30, "multi_attempt", 6), 2)
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "gsm8k-test.json").write_text(json.dumps(sides))
    (tmp_path / "gsm8k-test.json").write_text(json.dumps(rows))
    data = [
        "--test_data_paths",
        tmp_path / "gsm8k-test.json",
        "--final_eval_data_paths",
        "--answers",
        tmp_path / "answers",
    ]
    out = run("votes", "--routers", "voting", "oracle", *data)
    result = results(tmp_path / "votes")["Voting", 1]
    earned = json.loads((tmp_path / "votes/Voting/seed_1/gains.json").read_text())["gsm8k"]
    assert result["test"]["id_avg"] == pytest.approx(100 * sum(earned) / 30, abs=1e-3) and "Voting, voting" in out


def test_answers_are_a_setting_of_voting_alone_and_new_ones_are_another_run(run, fails, tmp_path):
    rows, sides = with_answers(make_rows(30, "multi_attempt", 6), 2)
    answers, data = tmp_path / "answers" / "gsm8k-test.json", tmp_path / "gsm8k-test.json"
    answers.parent.mkdir()
    answers.write_text(json.dumps(sides))
    data.write_text(json.dumps(rows))
    flags = ["--test_data_paths", data, "--final_eval_data_paths"]
    run("failed", "--routers", "ridge", "oracle", *flags)
    flags += ["--answers", answers.parent]
    assert "2 of 3 runs are already done" in run("failed", "--routers", "ridge", "oracle", "voting", *flags)
    assert "1 of 1 runs are already done" in run("failed", "--routers", "voting", *flags)
    answers.write_text(json.dumps(sides) + "\n")
    text = fails("--routers", "voting", *flags)
    assert "Voting" in text and "data: " in text and "Choose another --save_path" in text
    answers.unlink()
    assert "voting needs the answers to every query" in fails("--routers", "voting", *flags)


# Embeddings of a trained router


@pytest.fixture(scope="module")
def routers_trained(fake, tiny_bert, tmp_path_factory):
    """Folders of short RouterDC runs by what of the encoder trained: "none", "last" or "all". Seed 2, split 0.2."""
    folder, found = tmp_path_factory.mktemp("routers"), {}
    for part, flags in (("none", {"freeze_encoder": True}), ("last", {"train_layers": 1}), ("all", {})):
        found[part] = folder / part / "seed_2"
        flags |= {"pooling": "mean", "seed": 2, "validation_fraction": 0.2, "learning_rate": 1e-2}
        assert program.main(arguments(fake, tiny_bert, found[part], **flags)) == 0
    return found


def plain_embeddings(run, questions: list[str]) -> np.ndarray:
    """E(x) of a checkpoint, one query at a time by transformers alone, scaled to length 1."""
    folder = run / "checkpoint"
    weights = load_file(folder / "model.safetensors")
    backbone = AutoModel.from_config(AutoConfig.from_pretrained(folder / "encoder")).eval()
    own = {name.removeprefix("encoder.backbone."): value for name, value in weights.items() if "backbone" in name}
    backbone.load_state_dict(own, strict=False)
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder", truncation_side="left")
    head, found = weights.get("head.weight", torch.eye(32)), []
    for question in questions:
        tokens = tokenizer(question, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            x = head @ backbone(**tokens).last_hidden_state[0].mean(dim=0)
        found.append((x / x.norm()).numpy())
    return np.stack(found)


@pytest.mark.parametrize("part", ["none", "last", "all"])
def test_embeddings_of_a_checkpoint_are_those_that_its_evaluation_computes(routers_trained, line, tmp_path, part):
    run = routers_trained[part]
    args = parse([*line("x", "--encoder_ckpt", run)])
    problem = Problem(args)
    train, test = Embeddings(problem, choose_hardware("cpu", "fp32")).of(2)
    for files, found in ((problem.files, train), (problem.tests, test)):
        for data, x in zip(files, found, strict=True):
            assert x == pytest.approx(plain_embeddings(run, data.questions), abs=1e-5)
    llms = unit(load_file(run / "checkpoint" / "model.safetensors")["llm_embeddings.weight"].numpy())
    picks = json.loads((run / "picks.json").read_text())
    for data, x in zip(problem.tests, test):
        assert (x @ llms.T).argmax(axis=1).tolist() == picks[data.task]


def test_lora_retriever_routes_by_clusters_in_the_trained_space(routers_trained, run, line, tmp_path):
    ckpt = routers_trained["none"]
    flags = ("--routers", "lora_retriever", "oracle", "--seeds", 2)
    text = run("runs", *flags, "--encoder_ckpt", ckpt.with_name("seed_{seed}"))
    assert "| LoraRetriever, trained encoder, frozen " in text and "| Oracle, control " in text
    folder = tmp_path / "runs" / "LoraRetriever_trained_encoder" / "seed_2"
    settings = json.loads((folder / "results.json").read_text())["settings"]
    trained = json.loads((ckpt / "results.json").read_text())["settings"]
    assert settings["encoder_ckpt"] == content_hash(ckpt / "checkpoint")
    assert all(settings[name] == trained[name] for name in ("encoder", "pooling", "max_length", "seed"))
    assert str(ckpt.parent) not in json.dumps(settings)
    assert results(tmp_path / "runs")["Oracle", 2]["settings"]["encoder_ckpt"] is None

    problem = Problem(parse(line("x", "--encoder", "given", "--routers", "oracle")))
    sides = [split_validation(data, 0.2, 2)[0] for data in problem.files]
    x = np.concatenate([plain_embeddings(ckpt, data.questions)[side] for data, side in zip(problem.files, sides)])
    y = np.concatenate([gains(data.scores, data.kind)[side] for data, side in zip(problem.files, sides)])
    ids = clustered(Rows(x, y, np.full(len(x), "any"), np.arange(len(x)) % 4), 2).clusters  # the files have four ids
    centres = unit(np.stack([x[ids == number].mean(axis=0) for number in range(4)]))
    picks = json.loads((folder / "picks.json").read_text())
    for data in problem.tests:
        nearest = (plain_embeddings(ckpt, data.questions) @ centres.T).argmax(axis=1)
        best = [y[ids == number].mean(axis=0).argmax() for number in range(4)]
        assert picks[data.task] == [int(best[number]) for number in nearest]
    assert run("runs", *flags, "--encoder_ckpt", ckpt).count("2 of 2 runs are already done") == 1
    assert run("runs", *flags).count("1 of 2 runs are already done") == 1  # the plain one has a folder of its own


def test_clusters_made_anew_do_not_depend_on_the_order_of_the_rows(rows):
    order = np.random.default_rng(3).permutation(90)
    doubled = np.concatenate([order, order[:20]])  # nor on repeats
    other = Rows(rows.x[doubled], rows.y[doubled], rows.tasks[doubled], rows.clusters[doubled])
    found, again = clustered(rows, 1).clusters, clustered(other, 1).clusters
    assert (again == found[doubled]).all() and len(set(found.tolist())) == 3
    far = made_up(0, noise=0.1)
    found, plain = clustered(far, 1).clusters, plain_k_means(far.x.astype(np.float64), 3)
    assert len({*zip(found.tolist(), plain.tolist())}) == 3  # the same groups, whatever their numbers
    assert clustered(Rows(rows.x, rows.y, rows.tasks), 1).clusters is None


def test_a_checkpoint_that_saw_other_rows_is_refused(routers_trained, fake, fails, tmp_path):
    ckpt = routers_trained["none"]
    flags = ("--routers", "ridge", "--encoder_ckpt", ckpt)

    def refused(*more, seed=2) -> str:
        text = fails(*flags, "--seeds", seed, *more)
        assert text.startswith("--encoder_ckpt ") and "trained on other rows or with another encoder" in text
        return text.split("(", 1)[1].split("). Train one", 1)[0]

    assert refused(seed=1) == "seed: 2 there, 1 here"
    assert refused("--validation_fraction", "0.1") == "validation_fraction: 0.2 there, 0.1 here"
    assert refused("--max_characters", "30") == "characters: None there, 30 here"
    assert refused("--max_length", "32") == "max_length: 64 there, 32 here"
    assert refused("--pooling", "first") == "pooling: 'mean' there, 'first' here"
    changed = tmp_path / "gsm8k-train.json"
    changed.write_text(fake.train["gsm8k"].read_text() + "\n")
    paths = [changed, *list(fake.train.values())[1:]]
    assert refused("--data_paths", *paths).startswith("training files: [")
    assert "training files" in refused("--data_paths", *paths[1:])
    wrong = tmp_path / "fidelity" / "seed_2"
    shutil.copytree(ckpt, wrong)
    path = wrong / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    config["settings"]["fidelity"] = "5"  # its "validation" reads the training rows
    path.write_text(json.dumps(config))
    assert "fidelity: '5' there, 'paper' here" in fails("--routers", "ridge", "--seeds", 2, "--encoder_ckpt", wrong)
    text = fails("--routers", "ridge", "--encoder_ckpt", ckpt.with_name("seed_{seed}"))
    assert text.startswith(f"--encoder_ckpt {ckpt.with_name('seed_1')}: no checkpoint there")


def test_another_checkpoint_is_another_run(routers_trained, run, fails, tmp_path):
    """Its weights, its tokenizer and its pooling count; when and where it was trained does not."""
    ckpt = tmp_path / "seed_2"
    shutil.copytree(routers_trained["none"], ckpt)
    flags = ("--routers", "ridge", "--seeds", 2, "--encoder_ckpt", ckpt)
    run("failed", *flags)
    path = ckpt / "checkpoint" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 1.5, "device": "another"}))
    assert "1 of 1 runs are already done" in run("failed", *flags)
    before = content_hash(ckpt / "checkpoint")
    shutil.copy(routers_trained["all"] / "checkpoint" / "model.safetensors", ckpt / "checkpoint")
    assert content_hash(ckpt / "checkpoint") != before
    assert f"encoder_ckpt: '{before}' there" in fails(*flags)


def test_a_trained_router_of_given_embeddings_serves_too(embedded, fails, tmp_path):
    train, _, _ = embedded("topics_train", 80, 0)
    test, queries, _ = embedded("topics_test", 40, 1)
    kinds = ["--data_type", "multi_attempt", "--test_data_type", "multi_attempt", "--final_eval_data_paths"]
    data = ["--data_paths", train, "--test_data_paths", test, *kinds]
    trainer = ["--encoder", "given", "--freeze_encoder", "--cluster_loss_weight", "0", "--training_steps", "5"]
    assert program.main([*data, *trainer, "--device", "cpu", "--save_path", str(tmp_path / "router")]) == 0
    flags = [*data, "--encoder_ckpt", str(tmp_path / "router"), "--device", "cpu"]
    flags += ["--save_path", str(tmp_path / "runs")]
    assert command.main([*flags, "--routers", "knn"]) == 0
    assert results(tmp_path / "runs")["kNN, trained encoder", 1]["settings"]["encoder"] == "given"
    problem = Problem(parse(flags))
    (x,) = Embeddings(problem, choose_hardware("cpu", "fp32")).of(1)[1]
    head = load_file(tmp_path / "router" / "checkpoint" / "model.safetensors")["head.weight"].numpy()
    assert x == pytest.approx(unit(queries @ head.T), abs=1e-5)
    assert "training files" in fails("--routers", "knn", "--encoder_ckpt", tmp_path / "router")


# Embeddings without text


@pytest.fixture
def embedded(tmp_path):
    """Files of embeddings that tell the expert: write(name, count, seed, size) -> (path, embeddings, scores)."""

    def write(name, count, seed, size=6):
        made = made_up(seed, count, size)
        np.savez(tmp_path / f"{name}.npz", scores=made.y, embeddings=3 * made.x, llms=np.array(LLMS))
        return str(tmp_path / f"{name}.npz"), made.x, made.y

    return write


def test_given_embeddings_are_what_the_routers_read(embedded, run, tmp_path):
    train, x, y = embedded("topics_train", 80, 0)
    test, queries, scores = embedded("topics_test", 40, 1)
    flags = [
        "--data_paths",
        train,
        "--data_type",
        "multi_attempt",
        "--test_data_paths",
        test,
        "--test_data_type",
        "multi_attempt",
        "--final_eval_data_paths",
    ]
    run("runs", "--routers", "knn", "best_single", "--encoder", "given", *flags)
    result = results(tmp_path / "runs")["kNN", 1]
    k = result["selection"]["setting"]["k"]
    rows = split_validation(load(train, "multi_attempt"), 0.2, 1)[0]
    expected = []
    for query in queries:  # by a loop over cosines
        nearest = sorted(rows, key=lambda i: -sum(float(a) * float(b) for a, b in zip(query, x[i])))[:k]
        expected.append(int(y[nearest].mean(axis=0).argmax()))
    assert (
        json.loads((tmp_path / "runs/kNN/seed_1/picks.json").read_text())["topics"] == expected
        and len(set(expected)) > 2
    )
    assert (
        result["test"]["id_avg"] == pytest.approx(100 * scores[np.arange(40), expected].mean(), abs=1e-3)
        and result["settings"]["encoder"] == "given"
    )


def test_text_and_embeddings_do_not_mix(embedded, fake, fails):
    train, test, narrow = (
        embedded("topics_train", 20, 0)[0],
        embedded("topics_test", 20, 1)[0],
        embedded("verse_test", 20, 1, 4)[0],
    )
    kinds = [
        "--data_type",
        "multi_attempt",
        "--test_data_type",
        "multi_attempt",
        "--final_eval_data_paths",
        "--routers",
        "ridge",
    ]
    text = fails("--data_paths", train, "--test_data_paths", test, *kinds)  # the encoder is the tiny BERT
    assert f"{train} has embeddings and no text; use --encoder given" in text
    text = fails("--encoder", "given", "--routers", "ridge")
    assert "has text; name an encoder that reads it" in text
    text = fails("--data_paths", train, "--test_data_paths", fake.test["gsm8k"], *kinds, "--encoder", "given")
    assert (
        text
        == f"{fake.test['gsm8k']} has text, and {train} has embeddings of 6 dimensions; all files of a run must be "
        "alike"
    )
    assert f"{narrow} has embeddings of 4 dimensions" in fails(
        "--data_paths", train, "--test_data_paths", narrow, *kinds, "--encoder", "given"
    )


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--routers", "zooter"], ["fitted by the training loop", "--loss zooter"]),
        (["--routers", "best"], ["--routers best: no such router", "knn"]),
        (["--routers", "knn", "knn"], ["--routers names something twice"]),
        (["--seeds", "-1"], ["--seeds -1"]),
        (["--training_samples_per_dataset", "-1"], ["--training_samples_per_dataset is -1; it must be at least 0"]),
        (["--routers", "ridge", "--validation_fraction", "0"], ["Ridge: --validation_fraction must be above 0"]),
        (["--validation_fraction", "1"], ["--validation_fraction is 1.0"]),
        (["--target_pooling", "alike", "--target_shrinkage", "1"], ["--target_pooling alike", "--target_shrinkage 1"]),
        (
            ["--target_shrinkage", "2", "--routers", "ridge"],
            ["--target_shrinkage is 2.0; it must be at least 0 and at most 1"],
        ),
        (["--encoder", "no/such"], ["--encoder no/such: cannot be loaded"]),
        (["--llms", "lab/psi"], ["no scores for lab/psi"]),
        (
            ["--cost_rate", "2", "--routers", "ridge", "irt", "matrix_factorization"],
            ["--routers irt matrix_factorization: they predict the probability", "--cost_rate 0"],
        ),
        (["--cost_rate", "2", "--routers", "ridge"], ["--cost_rate 2 needs the cost of every answer"]),
        (["--data_paths", "nowhere.json"], ["nowhere.json: no such file"]),
        (["--device", "tpu"], ["--device is 'tpu'"]),
    ],
)
def test_mistakes_are_named(fails, flags, parts):
    text = fails(*flags)
    assert all(part in text for part in parts), text


def test_lora_retriever_needs_clusters(fails, tmp_path):
    path = tmp_path / "gsm8k-train.json"
    path.write_text(json.dumps(make_rows(30, "multi_attempt", 1, clusters=False)))
    text = fails("--routers", "lora_retriever", "--data_paths", path)
    assert "LoraRetriever needs the cluster of every training row: `cluster_id`" in text


# The baselines that share RouterDC's training loop


@pytest.mark.parametrize(("loss", "name"), [("cosine_classifier", "CosineClassifier"), ("zooter", "ZOOTER")])
def test_other_losses_share_the_training_loop(fake, tiny_bert, tmp_path, capsys, loss, name):
    flags = {
        "loss": loss,
        "freeze_encoder": True,
        "pooling": "mean",
        "training_steps": 200,
        "eval_steps": 200,
        "learning_rate": 0.01,
        "temperature": 0.1,
    }
    assert program.main(arguments(fake, tiny_bert, tmp_path / "run", **flags)) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (
        result["router"] == name
        and result["settings"]["cluster_loss_weight"] == 0
        and f"| {name} (this run)" in capsys.readouterr().out
    )
    picks = json.loads((tmp_path / "run" / "picks.json").read_text())
    for task, path in fake.test.items():
        data = load(path).for_llms(result["test"]["llms"])
        assert result["test"]["tasks"][task] == pytest.approx(accuracy(np.array(picks[task]), data))
        best, oracle = (
            result["test"]["references"][row][task]
            for row in ("best LLM per task (picked on test)", "per-query oracle")
        )
        assert result["test"]["tasks"][task] > best + 0.3 * (oracle - best), "it learned nothing"
    assert program.main(arguments(fake, tiny_bert, tmp_path / "wrong", loss=loss, sample_loss_weight=0.5)) == 2
    assert f"--loss {loss} has no sample-sample loss" in capsys.readouterr().err


def test_one_script_for_everything(mirror, fake, tiny_bert, tmp_path):
    environment = os.environ | {
        "ROUTERDC_NO_VENV": "1",
        "ROUTERDC_MIRROR": str(mirror),
        "ENCODER": str(tiny_bert),
        "DEVICE": "cpu",
        "PRECISION": "fp32",
        "SEEDS": "1",
        "RECIPES": "tuned",
        "LOSSES": "routerdc zooter",
        "RUNS": str(tmp_path / "runs"),
        "RESULTS": str(tmp_path / "results"),
        "RESAMPLES": "200",
        "TRAINER_FLAGS": "--training_steps 6 --eval_steps 6 --batch_size 16 --last_k 3",
    }
    flags = [*fake.arguments(), "--max_length", "64", "--cache_dir", str(tmp_path / "cache")]
    run = subprocess.run(
        ["bash", str(REPO / "train_scripts" / "baselines.sh"), *flags],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    assert "left out: 15 runs that were not tested on all eight tasks" in run.stderr
    assert not (tmp_path / "results" / "runs.jsonl").exists()
    names = {
        "RouterDC",
        "ZOOTER",
        "kNN",
        "Ridge",
        "MLP",
        "MatrixFactorization",
        "KMeans",
        "LoraRetriever",
        "IRT",
        "TaskClassifier",
        "Random",
        "BestSingle",
        "BestPerTask",
        "Oracle",
    }
    names |= {"LoraRetriever, trained encoder"}
    assert {name for name, _ in results(tmp_path / "runs")} == names
    compared = json.loads((tmp_path / "results" / "comparison.json").read_text())
    assert {entry["router"] for entry in compared["groups"]} >= names and compared["against"] == "tuned"
    text = (tmp_path / "results" / "comparison.md").read_text()
    assert all(f"| {name}, " in text for name in names)
    assert "Voting is not among these runs" in text and "released files" not in text and "(paper)" not in text
    assert 'Rows named "trained encoder" read the query embeddings of a trained router' in text
