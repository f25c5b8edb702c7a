"""P(right), the temperature and the calibration error against other ways to compute them; what a run keeps of them."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import LLMS, REPO
from sklearn.linear_model import LogisticRegression

from utils import checkpoint
from utils.calibration import (
    best_label,
    calibration_error,
    distribution,
    fit,
    fit_platt,
    fit_temperature,
    main,
    probabilities,
    reliability,
)

RNG = np.random.default_rng(0)


def drawn(rows: int, temperature: float, llms: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Similarities (rows, llms), and outcomes in which one LLM is right, drawn from softmax(sim / temperature)."""
    similarities = RNG.uniform(-1, 1, (rows, llms))
    chances = np.exp(similarities / temperature)
    chances /= chances.sum(axis=1, keepdims=True)
    winner = (RNG.random((rows, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    return similarities, np.eye(llms)[winner]


# P(right)


def scikit_learn(similarity: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """The same regression by scikit-learn: a query that is right in part is two rows, with its parts as weights."""
    x = (similarity - similarity.mean()) / similarity.std()
    rows = np.concatenate([x, x, [0, 0]])[:, None]
    labels = np.concatenate([np.ones_like(x), np.zeros_like(x), [1, 0]])
    weights = np.concatenate([right, 1 - right, [1, 1]])
    model = LogisticRegression(C=1, tol=1e-10, max_iter=1000).fit(rows, labels, weights)
    slope = model.coef_[0, 0] / similarity.std()
    return slope, model.intercept_[0] - slope * similarity.mean()


@pytest.mark.parametrize("shares", [False, True])
def test_p_right_is_that_of_scikit_learn(shares):
    similarity = RNG.normal(3, 0.2, 200)
    right = (RNG.random(200) < 1 / (1 + np.exp(-4 * (similarity - 3)))).astype(float)
    if shares:  # of ten sampled answers
        right = RNG.binomial(10, 0.2 + 0.6 * right) / 10
    assert fit_platt(similarity, right) == pytest.approx(scikit_learn(similarity, right), rel=1e-4)


@pytest.mark.parametrize("mean", [0, 0.3, 1])
def test_a_constant_similarity_leaves_the_mean(mean):
    right = np.zeros(100)
    right[: round(100 * mean)] = 1
    slope, intercept = fit_platt(np.full(100, 0.7), right)
    assert slope == 0
    assert 1 / (1 + math.exp(-intercept)) == pytest.approx((100 * mean + 1) / 102, abs=1e-5)


def test_a_similarity_that_tells_nothing_hardly_moves_the_mean():
    right = (RNG.random(5000) < 0.3).astype(float)
    similarity = RNG.normal(0.5, 1e-4, 5000)
    slope, intercept = fit_platt(similarity, right)
    found = 1 / (1 + np.exp(-slope * similarity - intercept))
    assert np.abs(found - right.mean()).max() < 0.05


def test_probabilities_are_by_name():
    llms = {"a": {"slope": 2.0, "intercept": -1.0}, "b": {"slope": 0.0, "intercept": 3.0}}
    calibration = {"rows": 9, "temperature": 1.0, "llms": llms}
    found = probabilities(np.array([[0.5, 9.0], [-800.0, 9.0]]), calibration, ["a", "b"])
    sure = 1 / (1 + math.exp(-3))
    assert found == pytest.approx(np.array([[0.5, sure], [0, sure]]))
    assert (probabilities(np.array([[9.0, 0.5]]), calibration, ["b", "a"]) == found[:1, ::-1]).all()
    with pytest.raises(ValueError, match="no P\\(right\\) of c; python -m utils.calibration"):
        probabilities(np.zeros((1, 2)), calibration, ["a", "c"])


@pytest.mark.parametrize("shapes", [((0, 2), (0, 2)), ((3, 2), (3, 3)), ((3, 3), (3, 3))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"a calibration takes \(N, T\)"):
        fit(np.zeros(shapes[0]), np.zeros(shapes[1]), ["a", "b"])


# The temperature


def test_the_temperature_is_the_one_that_drew_the_outcomes():
    similarities, right = drawn(20_000, 0.2)
    assert fit_temperature(similarities, right) == pytest.approx(0.2, rel=0.05)


def test_the_temperature_is_the_best_of_a_grid():
    similarities, right = drawn(300, 0.5)
    right[:50] = 1  # all are right, and share the label
    right[50:70] = 0  # none is: these have no part

    def cross_entropy(temperature: float) -> float:
        total = 0.0
        for row, outcome in zip(similarities, right):
            best = [t for t in range(4) if outcome[t] == max(outcome) > 0]
            log_total = math.log(sum(math.exp(value / temperature) for value in row))
            total -= sum(row[t] / temperature - log_total for t in best) / max(len(best), 1)
        return total

    grid = np.geomspace(0.05, 20, 500)
    best = grid[np.argmin([cross_entropy(temperature) for temperature in grid])]
    assert fit_temperature(similarities, right) == pytest.approx(best, rel=0.02)
    assert fit_temperature(similarities, 1 - np.ones_like(right)) == 1
    assert fit_temperature(np.ones((3, 2)), np.eye(3)[:, :2]) == 1


def test_the_label_is_shared():
    right = np.array([[0.7, 0.7, 0.1], [0, 0, 0], [0, 0.2, 0.1]])
    assert best_label(right).tolist() == [[0.5, 0.5, 0], [0, 0, 0], [0, 1, 0]]


def test_the_distribution_is_the_softmax():
    found = distribution(np.array([[1000.0, 1000.0 + math.log(3)]]), 1)
    assert found == pytest.approx(np.array([[0.25, 0.75]]))
    assert distribution(np.array([[0.0, math.log(3)]]), 0.5) == pytest.approx(np.array([[0.1, 0.9]]))


# The calibration error


@pytest.mark.parametrize("equal", ["mass", "width"])
def test_the_calibration_error_is_that_of_a_naive_loop(equal):
    predicted = RNG.random(500).round(2)  # with ties
    right = (RNG.random(500) < predicted**2).astype(float)
    edges = [k / 10 for k in range(11)]
    if equal == "mass":
        edges = [np.quantile(predicted, k / 10) for k in range(11)]
    error = 0.0
    for k in range(10):
        is_last = k == 9
        inside = [i for i in range(500) if edges[k] <= predicted[i] and (is_last or predicted[i] < edges[k + 1])]
        if inside:
            gap = sum(predicted[i] for i in inside) - sum(right[i] for i in inside)
            error += abs(gap) / 500
    assert calibration_error(predicted, right, 10, equal) == pytest.approx(error)
    assert reliability(predicted, right, 10, equal)[:, 2].sum() == 500


def test_the_calibration_error_of_what_is_and_is_not_calibrated():
    predicted = np.repeat([0.2, 0.8], 1000)
    right = np.concatenate([np.arange(1000) < 200, np.arange(1000) < 800]).astype(float)
    for equal in ("mass", "width"):
        assert calibration_error(predicted, right, equal=equal) == pytest.approx(0)
        assert calibration_error(predicted, 1 - right, equal=equal) == pytest.approx(0.6)
    assert calibration_error(np.full(4, 0.9), np.array([1, 0, 0, 0.0])) == pytest.approx(0.65)


# What a run keeps


def test_a_run_keeps_its_calibration_and_best_llm(trained):
    config = json.loads((trained.folder / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    assert config["calibration"] == trained.results["calibration"] and "costs" not in config
    assert set(config["calibration"]["llms"]) == set(LLMS)
    assert config["calibration"]["rows"] == sum(map(len, held_out(trained)))
    assert config["best_llm"] == best_by_hand(trained)


def held_out(run) -> list[list[int]]:
    """Validation rows of each training file, by the split's own rule written anew."""
    rows = []
    for path in run.results["settings"]["data_paths"]:
        with open(path, encoding="utf-8") as file:
            questions = [row["question"] for row in json.load(file)]
        distinct = list(dict.fromkeys(questions))
        order = np.random.default_rng(run.results["settings"]["seed"]).permutation(len(distinct))
        held = {distinct[i] for i in order[: max(1, round(0.1 * len(distinct)))]}
        rows.append([number for number, question in enumerate(questions) if question in held])
    return rows


def best_by_hand(run) -> str:
    means = dict.fromkeys(LLMS, 0.0)
    for path, held in zip(run.results["settings"]["data_paths"], held_out(run)):
        with open(path, encoding="utf-8") as file:
            rows = [row["scores"] for number, row in enumerate(json.load(file)) if number not in held]
        for llm in LLMS:
            gains = [row[llm] if "gsm8k" in path else float(row[llm] > 0) for row in rows]
            means[llm] += sum(gains) / len(gains)
    return max(sorted(means), key=means.get)


def test_an_older_checkpoint_gets_the_same_calibration(train, capsys, tmp_path):
    run = train(freeze_encoder=True)
    folder = run.folder / "checkpoint"
    config = checkpoint.read_config(folder)
    kept = {name: config.pop(name) for name in ("calibration", "best_llm")}
    checkpoint.write_config(folder, config)
    arguments = ["--ckpt", str(run.folder), "--device", "cpu", "--cache_dir", str(tmp_path / "cache")]
    assert main(arguments) == 0, capsys.readouterr().err
    assert "added best_llm, calibration" in capsys.readouterr().out
    added = checkpoint.load(folder)[1]
    assert {name: added[name] for name in kept} == kept


def test_without_held_out_rows_there_is_none(train, capsys, tmp_path):
    run = train(freeze_encoder=True, validation_fraction=0, selection="last")
    assert "no calibration: no row was held out of training (--validation_fraction 0)" in run.text
    assert "calibration" not in run.results and run.results["best_llm"] in LLMS
    arguments = ["--ckpt", str(run.folder), "--device", "cpu", "--cache_dir", str(tmp_path / "cache")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "added best_llm\n" in out and "no calibration" in out
    changed = train("other", freeze_encoder=True, fidelity="train_as_validation")
    assert "its validation rows have trained (--fidelity 5)" in changed.text


def test_costs_are_means_of_the_training_rows(train, fake, tmp_path):
    paths, sums, count = [], dict.fromkeys(LLMS, 0.0), 0
    for task in ("gsm8k", "mmlu"):
        rows = json.loads(fake.train[task].read_text(encoding="utf-8"))
        for number, row in enumerate(rows if task == "mmlu" else []):  # the other file has none
            row["costs"] = {llm: 0.001 * number * t for t, llm in enumerate(row["scores"])}
            count += 1
            for llm, cost in row["costs"].items():
                sums[llm] += cost
        paths.append(str(tmp_path / f"{task}_train.json"))
        (tmp_path / f"{task}_train.json").write_text(json.dumps(rows), encoding="utf-8")
    tests = [str(fake.test["gsm8k"])]
    flags = {"data_paths": paths, "test_data_paths": tests, "validation_fraction": 0, "selection": "last"}
    run = train(freeze_encoder=True, **flags)
    assert run.results["costs"] == pytest.approx({llm: total / count for llm, total in sums.items()})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("best_llm", 3),
        ("costs", {"a": -1}),
        ("calibration", {"temperature": 0, "llms": {}}),
        ("calibration", {"temperature": 1, "llms": {"a": {"slope": 1}}}),
    ],
)
def test_a_damaged_calibration_is_named(trained, tmp_path, key, value):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = json.loads((trained.folder / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(checkpoint.CheckpointError, match=f"config.json: {key} is"):
        checkpoint.read_config(folder)


def test_it_is_applied_without_torch():
    code = "import sys; import utils.calibration; print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def test_what_cannot_be_read_is_named(tmp_path, capsys):
    assert main(["--ckpt", str(tmp_path)]) == 2
    assert f"error: --ckpt {tmp_path}: no checkpoint there" in capsys.readouterr().err
