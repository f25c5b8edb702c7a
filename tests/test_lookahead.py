"""utils/report/lookahead.py: made-up runs whose gains are known by construction."""

import hashlib
import json

import numpy as np
import pytest
from conftest import REPO
from scipy import stats

from utils.report import lookahead
from utils.report.comparison import Group

LLMS = ["one", "two", "three"]
QUERIES = {"math": 60, "gsm8k": 40}


@pytest.fixture
def data(tmp_path):
    """Test files with random verdicts, {task: (path, scores (N, T))}, and a PreAlgebra file of 15 MATH questions."""
    rng, made = np.random.default_rng(0), {}
    for task, count in QUERIES.items():
        scores = rng.integers(0, 2, (count, len(LLMS)))
        rows = []
        for number, row in enumerate(scores.tolist()):
            rows.append({"question": f"{task} {number}?", "scores": dict(zip(LLMS, row))})
        path = tmp_path / f"{task}_test.json"
        path.write_text(json.dumps(rows))
        made[task] = path, scores
    known = [{"question": f"math {number}?", "scores": {"other": 1}} for number in range(10, 25)]
    (tmp_path / "MATH_prealgebra.json").write_text(json.dumps(known))
    return made


def run(folder, data, router, label, seed, picks, inside=()):
    """A finished run. picks: {task: (N,) columns}."""
    path = folder / label / router / f"seed_{seed}"
    path.mkdir(parents=True)
    files = {}
    for task in picks:
        name = data[task][0]
        files[str(name)] = hashlib.sha256(name.read_bytes()).hexdigest()
    results = {
        "router": router,
        "recipe": label,
        "settings": {"encoder": "minilm", "fidelity": "paper", "seed": seed, "data": files},
        "tests": [{"path": name, "kind": "multi_attempt"} for name in files],
        "test": {"llms": LLMS, "in_distribution": list(inside)},
    }
    (path / "results.json").write_text(json.dumps(results))
    columns = {task: np.asarray(chosen).tolist() for task, chosen in picks.items()}
    (path / "picks.json").write_text(json.dumps(columns))


def constant(column, tasks=QUERIES):
    return {task: np.full(QUERIES[task], column) for task in tasks}


def drawn(seed):
    rng = np.random.default_rng(seed)
    return {task: rng.integers(0, len(LLMS), count) for task, count in QUERIES.items()}


def earned(data, picks, task):
    """What picks earn on each query of a task, in %, by a loop."""
    return np.array([100.0 * data[task][1][row][column] for row, column in enumerate(picks[task])])


@pytest.fixture
def runs(data, tmp_path):
    folder = tmp_path / "runs"
    run(folder, data, "BestPerTask", "control", 1, constant(0), QUERIES)
    for seed in (1, 2, 3):
        run(folder, data, "kNN", "frozen", seed, drawn(seed), QUERIES)
    return folder


def made(tmp_path, name):
    figures, page = (tmp_path / "results" / f"{name}.{suffix}" for suffix in ("json", "md"))
    return json.loads(figures.read_text()), page.read_text()


def within(tmp_path, *flags):
    more = ["--prealgebra", str(tmp_path / "MATH_prealgebra.json"), "--results", str(tmp_path / "results")]
    return lookahead.main(["within", *map(str, flags), "--resamples", "2000", *more])


def test_differences_to_the_best_llm_of_the_task(data, runs, tmp_path):
    assert within(tmp_path, runs) == 0
    result, text = made(tmp_path, "within_tasks")
    assert result["queries"] == {"math": 60, "math: PreAlgebra": 15, "math: others": 45, "gsm8k": 40}
    rows = {"math": slice(None), "math: PreAlgebra": slice(10, 25), "gsm8k": slice(None)}
    for part, where in rows.items():
        task = part.partition(":")[0]
        base = earned(data, constant(0), task)[where]
        ours = np.array([earned(data, drawn(seed), task)[where] for seed in (1, 2, 3)])
        entry = result["groups"]["kNN, frozen"][part]["training"]
        np.testing.assert_allclose(entry["per_seed"], ours.mean(axis=1), atol=1e-4)
        assert entry["difference"] == pytest.approx((ours - base).mean(), abs=1e-3)
        assert result["references"]["one"][part] == pytest.approx(base.mean())
        best = max(earned(data, constant(column), task)[where].mean() for column in range(3))
        against_test = result["groups"]["kNN, frozen"][part]["test"]
        assert against_test["difference"] == pytest.approx(ours.mean() - best, abs=1e-3)
        same = result["groups"]["BestPerTask, control"][part]["training"]
        assert same["difference"] == 0 and same["interval"] == [0, 0] and same["p"] == 1
    assert "| kNN, frozen" in text and "MATH, PreAlgebra (15)" in text
    assert "- MATH: of 1 routers 0 are above 0 and" in text


def test_the_interval_is_that_of_paired_differences(data):
    """One seed: the normal interval of the differences of the same queries, which an unpaired one would miss."""
    rng = np.random.default_rng(4)
    base = rng.integers(0, 2, (1, 400)).astype(float)
    ours = np.where(rng.random((1, 400)) < 0.9, base, 1 - base)
    groups = [Group("a", "e", "r", "paper", [1], {}, {}), Group("b", "e", "r", "paper", [1], {}, {})]
    entry = lookahead.paired(groups, [[base, ours]], 0, 4000)[1]
    gap = 100 * (ours - base)[0]
    expected = stats.norm.interval(0.95, gap.mean(), gap.std() / 20)
    np.testing.assert_allclose(entry["interval"], expected, atol=0.4)
    assert entry["p"] == pytest.approx(stats.binomtest(int((gap > 0).sum()), int((gap != 0).sum())).pvalue, abs=0.03)


def test_voting_and_routers_trained_on_math_alone_are_further_rows(data, runs, tmp_path):
    run(tmp_path / "voting", data, "Voting", "voting", 1, constant(1, ["math"]))
    run(tmp_path / "alone", data, "kNN", "frozen", 1, constant(2, ["math"]), ["math"])
    run(tmp_path / "alone", data, "BestPerTask", "control", 1, constant(0, ["math"]), ["math"])
    assert within(tmp_path, runs, tmp_path / "voting", "--alone", tmp_path / "alone") == 0
    groups = made(tmp_path, "within_tasks")[0]["groups"]
    assert {*groups} == {"kNN, frozen", "BestPerTask, control", "Voting, voting", "kNN, frozen, trained on MATH alone"}
    for label, column in (("Voting, voting", 1), ("kNN, frozen, trained on MATH alone", 2)):
        assert {*groups[label]} == {"math", "math: PreAlgebra", "math: others"}
        gap = earned(data, constant(column), "math").mean() - earned(data, constant(0), "math").mean()
        assert groups[label]["math"]["training"]["difference"] == pytest.approx(gap, abs=1e-3)


def test_a_router_that_is_surely_better_is_named(data, tmp_path):
    best = {task: scores.argmax(axis=1) for task, (_, scores) in data.items()}
    run(tmp_path / "runs", data, "BestPerTask", "control", 1, constant(0), QUERIES)
    run(tmp_path / "runs", data, "Sage", "frozen", 1, best, QUERIES)
    run(tmp_path / "runs", data, "Oracle", "control", 1, best, QUERIES)
    assert within(tmp_path, tmp_path / "runs") == 0
    text = made(tmp_path, "within_tasks")[1]
    assert text.count("- MATH: of 1 routers 1 are above 0 (Sage, frozen) and 0 below.") == 2


@pytest.fixture
def left_out(data, tmp_path):
    folder = tmp_path / "left_out"
    for task in QUERIES:
        run(folder / task, data, "BestSingle", "control", 1, constant(1, [task]))
        run(folder / task, data, "BestPerTask", "control", 1, constant(1, [task]))
        for seed in (1, 2):
            run(folder / task, data, "kNN", "frozen", seed, {task: drawn(seed)[task]})
    return folder


def leave(tmp_path, folder):
    return lookahead.main(["leave_one_out", str(folder), "--resamples", "500", "--results", str(tmp_path / "results")])


def test_leave_one_out(data, left_out, tmp_path):
    assert leave(tmp_path, left_out) == 0
    result, text = made(tmp_path, "leave_one_out")
    assert {*result["groups"]} == {"kNN, frozen", "BestSingle, control"} and result["seeds"] == [1, 2]
    ours = {task: [earned(data, drawn(seed), task).mean() for seed in (1, 2)] for task in QUERIES}
    entry = result["groups"]["kNN, frozen"]
    for task in QUERIES:
        np.testing.assert_allclose(entry["tasks"][task], ours[task], atol=1e-4)
    mean = np.mean([ours[task] for task in QUERIES], axis=0)
    np.testing.assert_allclose(entry["per_seed"], mean, atol=1e-4)
    single = np.mean([earned(data, constant(1), task).mean() for task in QUERIES])
    assert entry["difference"] == pytest.approx(mean.mean() - single, abs=1e-3)
    best = max(100 * data["math"][1].mean(axis=0))
    row = next(line for line in text.splitlines() if line.startswith("| the task's own best LLM"))
    assert f"{best:.2f}" in row and f"{mean.mean():.2f} ± {mean.std(ddof=1):.2f}" in text


@pytest.mark.parametrize("how", ["trained on it", "unfinished", "no controls", "other files"])
def test_runs_that_do_not_belong_together_are_refused(data, runs, left_out, tmp_path, how, capsys):
    if how == "other files":
        data["math"][0].with_name("gsm8k_test.json").rename(tmp_path / "older")
        rows = json.loads((tmp_path / "older").read_text())
        (tmp_path / "new").mkdir()
        path = tmp_path / "new" / "gsm8k_test.json"
        path.write_text(json.dumps(rows[::-1]))
        (tmp_path / "older").rename(tmp_path / "gsm8k_test.json")
        run(tmp_path / "more", {"gsm8k": (path, None)}, "Voting", "voting", 1, constant(0, ["gsm8k"]))
        assert within(tmp_path, runs, tmp_path / "more") == 2
        words = f"tested on {path}"
    elif how == "no controls":
        run(tmp_path / "more", data, "kNN", "frozen", 1, constant(0), QUERIES)
        assert within(tmp_path, tmp_path / "more") == 2
        words = "0 groups of BestPerTask there"
    elif how == "unfinished":
        run(left_out / "math", data, "kNN", "frozen", 3, constant(0, ["math"]))
        assert leave(tmp_path, left_out) == 2
        words = "other routers or seeds"
    else:
        run(tmp_path / "bad" / "math", data, "BestSingle", "control", 1, constant(1, ["math"]), ["math"])
        assert leave(tmp_path, tmp_path / "bad") == 2
        words = "were trained on math, too"
    assert words in capsys.readouterr().err and not (tmp_path / "results").exists()


def test_the_pages_in_git_are_of_the_released_runs():
    """What results/lookahead claims rests on five seeds and all test queries."""
    folder = REPO / "results" / "lookahead"
    if not (folder / "leave_one_out.json").is_file():
        pytest.skip("results/lookahead has no leave_one_out.json")
    within_tasks = json.loads((folder / "within_tasks.json").read_text())
    assert within_tasks["seeds"] == [1, 2, 3, 4, 5] and within_tasks["queries"]["math"] == 2500
    assert within_tasks["queries"]["math: PreAlgebra"] + within_tasks["queries"]["math: others"] == 2500
    left = json.loads((folder / "leave_one_out.json").read_text())
    assert left["seeds"] == [1, 2, 3, 4, 5] and {*left["queries"]} == {"math", "gsm8k", "humaneval", "mbpp"}
