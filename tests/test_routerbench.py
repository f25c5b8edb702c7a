"""RouterBench: AIQ against other ways to compute it, the cost charged once, the script from tables to the curve."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import LLMS, REPO, make_rows
from scipy.spatial import ConvexHull

import evaluation_router
from utils.baselines import __main__ as baselines
from utils.baselines.knn import KNN
from utils.config import DATASETS_OF_TRAINING, Config, flags_of, parse_config, settings_of
from utils.data import DataError, load
from utils.metrics import ORACLE, accuracy, aiq, hull, mean_cost, utility
from utils.report import routerbench
from utils.report.cost_points import ZERO, point
from utils.report.routerbench_page import against_of
from utils.report.runs import Run
from utils.training_set import load_training_set, split_validation

PRICES = dict(zip(LLMS, (0.0001, 0.0004, 0.001, 0.006)))  # US dollars per answer, more or less
TASKS = ("poems", "sums")
RATES, SEEDS = (0.0, 300.0), (1, 2)
FOLDERS = {"train": "routerbench_cluster", "test": "routerbench_zs"}


# Hull and AIQ


def test_aiq_of_a_case_worked_out_by_hand():
    """Points (1, 40), (2, 60), (3, 50), (4, 70), (9, 65).

    The hull goes (1, 40), (2, 60), (4, 70), level to 9; the area is 50 + 130 + 350, over a range of 8.
    """
    costs, qualities = [4, 1, 3, 9, 2], [70, 40, 50, 65, 60]
    x, y = hull(costs, qualities)
    assert x.tolist() == [1, 2, 4] and y.tolist() == [40, 60, 70]
    assert aiq(costs, qualities, 1, 9) == pytest.approx((50 + 130 + 350) / 8)
    assert aiq(costs, qualities, 1.5, 3) == pytest.approx(((50 + 60) / 2 * 0.5 + (60 + 65) / 2) / 1.5)
    assert aiq([1], [40], 1, 2) == 40 and aiq([1, 1], [40, 45], 1, 2) == 45


def best_mixture(costs, qualities, at) -> float:
    """The best quality for a cost that two points give, mixed at random; 0 past the dearest point."""
    points = list(zip(costs, qualities))
    mixed = [0.0]
    for dear, above in points:
        for cheap, below in points:
            if cheap <= at <= dear and cheap < dear:
                mixed.append(below + (above - below) * (at - cheap) / (dear - cheap))
    return max(mixed)


@pytest.mark.parametrize("seed", range(8))
def test_aiq_is_the_area_under_scipys_hull(seed):
    """scipy's hull is of the points and their shadow below and to the right."""
    rng = np.random.default_rng(seed)
    costs, qualities = rng.uniform(1, 5, 12), rng.uniform(30, 80, 12)
    low, high = costs.min(), 6.0
    corners = np.array([*zip(costs, qualities), (low, 0), (high, 0), (high, qualities.max())])
    area = ConvexHull(corners).volume  # in the plane, volume is the area
    assert aiq(costs, qualities, low, high) == pytest.approx(area / (high - low))
    x, y = hull(costs, qualities)
    for at in rng.uniform(low, high, 20):
        single = max(quality for cost, quality in zip(costs, qualities) if cost <= at)
        assert np.interp(at, x, y) == pytest.approx(max(best_mixture(costs, qualities, at), single))
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all() and (np.diff(np.diff(y) / np.diff(x)) < 0).all()


def test_aiq_refuses_what_it_cannot_know():
    with pytest.raises(ValueError, match="cheapest point is at 2"):
        aiq([2, 3], [50, 60], 1, 3)
    with pytest.raises(ValueError, match="is none"):
        aiq([1, 3], [50, 60], 2, 2)


# Made-up tables in the released layout


def table(task: str, count: int, seed: int, clusters: bool) -> pd.DataFrame:
    """A table as RouterBench has it: prompts, right or wrong, answers and costs of every LLM."""
    rng, rows = np.random.default_rng(seed), make_rows(count, "multi_attempt", seed)
    columns = {
        "sample_id": [f"{task}.{number}" for number in range(count)],
        "prompt": [str([row["question"]]) for row in rows],
        "eval_name": [task] * count,
    }
    for llm in LLMS:
        columns[llm] = [float(row["scores"][llm] >= 0.7) for row in rows]
    for llm in LLMS:
        columns[f"{llm}|model_response"] = ["['a\nb, \"c\"']"] * count
    for llm, price in PRICES.items():
        columns[f"{llm}|total_cost"] = price * rng.uniform(0.8, 1.2, count)
    columns["oracle_model_to_route_to"] = [LLMS[0]] * count
    if clusters:
        columns["cluster_id"] = [row["cluster_id"] for row in rows]
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with tables for training and testing; those of "sums" have gaps."""
    folder = tmp_path_factory.mktemp("routerbench")
    for name in FOLDERS.values():
        (folder / name).mkdir()
    for number, task in enumerate(TASKS):
        train, test = table(task, 60, number, clusters=True), table(task, 50, 10 + number, clusters=False)
        if task == "sums":
            train.loc[4, LLMS[1]] = np.nan
            train.loc[[4, 7], f"{LLMS[2]}|total_cost"] = np.nan
            test.loc[3, LLMS[0]] = np.nan
        train.to_csv(folder / FOLDERS["train"] / f"{task}_train.csv")
        test.to_csv(folder / FOLDERS["test"] / f"{task}_test.csv")
    return folder


def paths(data, side):
    return [str(data / FOLDERS[side] / f"{task}_{side}.csv") for task in TASKS]


def flags(data, encoder, folder, *more):
    """The arguments of a trainer on these tables."""
    files = ["--data_paths", *paths(data, "train"), "--test_data_paths", *paths(data, "test")]
    hardware = ["--cache_dir", str(folder / "cache"), "--device", "cpu", "--precision", "fp32"]
    return ["--dataset", "routerbench", *files, "--encoder", str(encoder), *hardware, "--max_length", "64", *more]


def without_gaps(path) -> list[pd.Series]:
    """The rows of a table that have every score and cost."""
    columns = [*LLMS, *[f"{llm}|total_cost" for llm in LLMS]]
    return [row for _, row in pd.read_csv(path).dropna(subset=columns).iterrows()]


def training_set(config: Config):
    return load_training_set(config.data, config.encoder, config.training_set, config.optimization.seed)


def test_the_defaults_of_the_variant():
    config = parse_config(["--dataset", "routerbench"])
    data, loss = config.data, config.loss
    assert (loss.top_k, loss.last_k, data.missing_cells, config.training_set.cost_rate) == (4, 4, "drop", 0)
    assert (data.max_characters, data.keep_characters) == (1400, "last")
    assert len(data.data_paths) == len(data.test_data_paths) == 6 and data.final_eval_data_paths == ()
    assert data.data_paths[0] == "datasets/routerbench_cluster/gsm8k_train.csv"
    assert data.test_data_paths[0] == "datasets/routerbench_zs/gsm8k_test.csv"
    manifest = json.loads((REPO / "datasets" / "manifest.json").read_text())["files"]
    for path in data.data_paths + data.test_data_paths:
        assert path.removeprefix("datasets/") in manifest
    assert parse_config(["--dataset", "routerbench", "--top_k", "2", "--last_k", "3"]).loss.top_k == 2
    assert settings_of(parse_config([])) == settings_of(Config())
    written_out = parse_config(flags_of(DATASETS_OF_TRAINING["routerbench"]))
    assert settings_of(config) == settings_of(written_out) | {"dataset": "routerbench"}
    for flag, value in (("cost_rate", -1), ("cost_rate", "inf"), ("cost_rate", "nan"), ("max_characters", 0)):
        with pytest.raises(ValueError, match=f"--{flag} is"):
            parse_config([f"--{flag}", str(value)])


def test_prompts_may_be_cut_at_the_end_as_released(data, tmp_path):
    """The same rows train and validate, whichever characters are read."""
    more = ("--max_characters", "9", "--validation_fraction", "0.2", "--keep_characters")
    first, last = (training_set(parse_config(flags(data, "unused", tmp_path, *more, end))) for end in ("first", "last"))
    prompts = [row["prompt"][2:-2] for path in paths(data, "train") for row in without_gaps(path)]
    assert first.inputs == [prompt[:9] for prompt in prompts]
    assert last.inputs == [prompt[-9:] for prompt in prompts]
    assert (first.pool == last.pool).all()
    for (_, one), (_, other) in zip(first.validation, last.validation, strict=True):
        assert one.tolist() == other.tolist()


def test_training_charges_the_cost_once(data, tmp_path):
    """The targets against a loop over the tables; the scores that are evaluated stay what they were."""
    more = ("--cost_rate", "50", "--max_characters", "20", "--validation_fraction", "0.2")
    rows = training_set(parse_config(flags(data, "unused", tmp_path, *more)))
    expected, questions = [], []
    for path in paths(data, "train"):
        for row in without_gaps(path):
            expected.append([row[llm] - 50 * row[f"{llm}|total_cost"] for llm in LLMS])
            questions.append(row["prompt"][2:-2][-20:])
    assert len(expected) == 118 and rows.inputs == questions
    np.testing.assert_allclose(rows.targets, expected, rtol=1e-5, atol=1e-7)
    for validation, numbers in rows.validation:
        assert set(np.unique(validation.scores)) <= {0, 1}
        picks = np.arange(len(numbers)) % 4
        charged = [expected[number][pick] for number, pick in zip(numbers, picks)]
        assert utility(picks, validation, 50) == pytest.approx(100 * np.mean(charged), rel=1e-5)
        assert utility(picks, validation, 0) == accuracy(picks, validation)


def test_costs_are_asked_for(fake):
    with pytest.raises(DataError, match="--cost_rate 5 needs the cost of every answer"):
        training_set(parse_config([*fake.arguments(), "--cost_rate", "5"]))


# The script


@pytest.fixture(scope="module")
def run(data, tiny_bert, tmp_path_factory):
    """The script on the made-up tables, two cost rates and two seeds.

    Returns: the folder, the finished process, and a function that runs it again with other variables and flags.
    """
    folder = tmp_path_factory.mktemp("run")
    short = {"training_steps": 40, "eval_steps": 20, "batch_size": 16, "max_length": 64, "learning_rate": 1e-2}
    trainer = flags_of(short | {"cache_dir": folder / "cache", "encoder": tiny_bert, "device": "cpu"})

    def again(*more, **changed):
        settings = {
            "ROUTERDC_NO_VENV": "1",
            "DATA": str(data),
            "TASKS": " ".join(TASKS),
            "COST_RATES": "0 300",
            "RUNS": str(folder / "runs"),
            "RESULTS": str(folder / "results"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        script = str(REPO / "train_scripts" / "router_train_routerbench.sh")
        command = ["bash", script, "--seeds", "1", "2", *more, *trainer, "--precision", "fp32"]
        options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 300, "cwd": folder}
        return subprocess.run(command, env=os.environ | settings | changed, **options)

    process = again()
    assert process.returncode == 0, process.stderr
    return folder, process, again


def results(folder, rate, seed):
    return json.loads((folder / "runs" / f"rate_{rate:g}" / f"seed_{seed}" / "results.json").read_text())


def mean_over_tasks(by_task) -> float:
    return float(np.mean(list(by_task.values())))


def test_the_tables_of_a_run_come_again(run, capsys):
    folder = run[0]
    path = folder / "runs" / "rate_300" / "seed_1"
    assert evaluation_router.main(["--ckpt", str(path), "--cache_dir", str(folder / "cache")]) == 0
    text = capsys.readouterr().out
    assert text.strip() == (path / "tables.md").read_text().strip()
    assert "US dollars per 1000 queries" in text and "Utility: score - 300 * cost" in text
    assert "RouterDC (paper)" not in text


def test_runs_report_accuracy_cost_and_utility(run, data):
    folder = run[0]
    picks = json.loads((folder / "runs" / "rate_300" / "seed_1" / "picks.json").read_text())
    test = results(folder, 300, 1)["test"]
    assert test["left_out"] == {"poems": 0, "sums": 1}
    for task, path in zip(TASKS, paths(data, "test")):
        rows = without_gaps(path)
        chosen = [LLMS[pick] for pick in picks[task]]
        earned = np.mean([row[llm] for llm, row in zip(chosen, rows, strict=True)])
        paid = np.mean([row[f"{llm}|total_cost"] for llm, row in zip(chosen, rows)])
        assert test["tasks"][task] == pytest.approx(100 * earned)
        assert test["costs"]["router"][task] == pytest.approx(paid)
        assert test["utilities"]["router"][task] == pytest.approx(100 * (earned - 300 * paid), abs=1e-3)
        dearest = np.mean([row[f"{LLMS[3]}|total_cost"] for row in rows])
        assert test["costs"][LLMS[3]][task] == pytest.approx(dearest)


def test_a_cost_rate_makes_the_router_cheaper(run):
    for seed in SEEDS:
        free, charged = (results(run[0], rate, seed)["test"]["costs"]["router"] for rate in RATES)
        assert mean_over_tasks(charged) < 0.7 * mean_over_tasks(free)


def test_what_is_left_out_is_said(run):
    counts = "empty cells: 1 scores in 1 rows, 2 costs in 2 rows"
    expected = f"sums_train.csv: 2 of 60 rows left out (--missing_cells drop), {counts}"
    logs = [path.read_text() for path in (run[0] / "runs").rglob("log.txt")]
    assert any(expected in text for text in [run[1].stderr, *logs])


@pytest.fixture
def single(data):
    """Mean cost and mean accuracy of each LLM over the test files, cheapest first."""
    tests = [load(path, "multi_attempt", missing="drop") for path in paths(data, "test")]
    means = []
    for column in range(len(LLMS)):
        cost = np.mean([mean_cost(np.full(len(test), column), test) for test in tests])
        quality = np.mean([accuracy(np.full(len(test), column), test) for test in tests])
        means.append((cost, quality))
    return means


def area_of(points, low, high) -> float:
    """Mean height of scipy's hull of points and their shadow below and to the right."""
    shadow = [(low, 0), (high, 0), (high, max(quality for _, quality in points))]
    inside = [point for point in points if point[0] >= low]
    return ConvexHull(np.array([*inside, *shadow])).volume / (high - low)


def test_aiq_is_what_the_runs_say(run, single):
    folder = run[0]
    found = json.loads((folder / "results" / "routerbench.json").read_text())
    assert (tuple(found["cost_rates"]), tuple(found["seeds"])) == (RATES, SEEDS)
    assert found["test_queries"] == {"poems": 50, "sums": 49}
    low, high = single[0][0], single[3][0]
    for seed, area in zip(SEEDS, found["aiq"]["RouterDC"]["average"]):
        points = [single[0]]
        for rate in RATES:
            test = results(folder, rate, seed)["test"]
            points.append((mean_over_tasks(test["costs"]["router"]), mean_over_tasks(test["tasks"])))
        costs = [cost for cost, _ in points]
        if low <= min(costs) and max(costs) <= high:
            assert area == pytest.approx(area_of(points, low, high))
    assert found["aiq"][ZERO]["average"] == pytest.approx([area_of(single, low, high)] * 2)


def test_points_charge_what_they_cost_and_none_is_above_the_oracle(run):
    found = json.loads((run[0] / "results" / "routerbench.json").read_text())["routers"]
    best = {(each["cost_rate"], each["seed"]): mean_over_tasks(each["utility"]) for each in found[ORACLE]}
    for name, points in found.items():
        assert len(points) == 4
        for each in points:
            for task in TASKS:
                charged = each["accuracy"][task] - 100 * each["cost_rate"] * each["cost"][task]
                assert each["utility"][task] == pytest.approx(charged, abs=1e-3), name
            assert mean_over_tasks(each["utility"]) <= best[each["cost_rate"], each["seed"]] + 1e-6


def test_the_page_has_every_router_and_the_validation(run):
    folder = run[0]
    text = (folder / "results" / "routerbench.md").read_text()
    validation = []
    for seed in SEEDS:
        validation.append(np.mean([results(folder, rate, seed)["selection"]["validation"] for rate in RATES]))
    utilities = f"{np.mean(validation):.2f} ± {np.std(validation, ddof=1):.2f} %"
    assert f"validation rows, mean over the cost rates: {utilities}" in text
    names = ("RouterDC", "kNN", "MLP", "BestSingle", "BestPerTask", ORACLE, ZERO, "delta")
    assert all(name in text for name in (*names, "1 of routerbench_zs/sums_test.csv"))
    assert (folder / "results" / "routerbench.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_skipped_and_a_missing_one_is_named(run, capsys):
    folder, _, again = run
    path = folder / "results" / "routerbench.json"
    before = json.loads(path.read_text())
    times = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("results.json")}
    process = again()
    assert process.returncode == 0, process.stderr
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("results.json")} == times
    assert json.loads(path.read_text()) | {"seconds": 0} == before | {"seconds": 0}
    part = folder / "part"
    for rate, seed in ((0, 1), (0, 2), (300, 1)):
        target = part / f"rate_{rate}" / f"seed_{seed}" / "results.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(results(folder, rate, seed)))
    assert routerbench.main([str(part), "--output", str(folder / "other")]) == 2
    assert "no finished run of RouterDC at 300 with seed 2" in capsys.readouterr().err
    assert not list((folder / "other").iterdir())


# The baselines


def test_the_baselines_here_get_the_rows_of_training(data, monkeypatch):
    train = [load(path, "multi_attempt", missing="drop") for path in paths(data, "train")]
    x = {file.path: np.arange(len(file), dtype=np.float32)[:, None] for file in train}  # the row's number, to follow it
    seen = []

    def note(kind, rows, held, *args, **kwargs):
        seen.append((rows, held))
        raise InterruptedError  # what was given is all that matters here

    monkeypatch.setattr(routerbench, "choose", note)
    for count in (0, 25):
        settings = {"validation_fraction": 0.2, "targets": "score", "training_samples_per_dataset": count}
        with pytest.raises(InterruptedError):
            routerbench.fitted(train, [], x, 50.0, 3, settings)
        rows, held = seen.pop()
        for file, (numbers, _) in zip(train, held):
            first, rest = split_validation(file, 0.2, 3)
            first = first[:count] if count else first
            mine = rows.tasks == file.task
            assert rows.x[mine, 0].tolist() == first.tolist() and numbers[:, 0].tolist() == rest.tolist()
            expected = file.scores[first] - 50 * file.costs[first]
            np.testing.assert_allclose(rows.y[mine], expected, rtol=1e-5, atol=1e-6)


def test_all_baselines_with_a_cost_rate(data, tiny_bert, tmp_path, capsys):
    """Those that can charge a cost do, and pick cheaper LLMs for it; the others are named.

    A loop over the tables gives the same figures.
    """
    spent = {}
    for rate in ("0", "300"):
        more = ["--cost_rate", rate, "--validation_fraction", "0.2", "--save_path", str(tmp_path / rate)]
        assert baselines.main(flags(data, tiny_bert, tmp_path, *more)) == 0
        assert ("left out: matrix_factorization, irt" in capsys.readouterr().err) == (rate != "0")
        folders = [path.parent for path in (tmp_path / rate).rglob("results.json")]
        names = {folder.parent.name for folder in folders}
        assert ({"MatrixFactorization", "IRT"} <= names) == (rate == "0")
        expected = "kNN Ridge MLP KMeans LoraRetriever TaskClassifier Random BestSingle BestPerTask Oracle"
        assert names >= set(expected.split())
        for folder in folders:
            test = json.loads((folder / "results.json").read_text())["test"]
            picks = json.loads((folder / "picks.json").read_text())
            for task, path in zip(TASKS, paths(data, "test")):
                chosen = [test["llms"][pick] for pick in picks[task]]
                pairs = zip(chosen, without_gaps(path), strict=True)
                earned = [row[llm] - float(rate) * row[f"{llm}|total_cost"] for llm, row in pairs]
                found = test["utilities"]["router"][task]
                assert found == pytest.approx(100 * np.mean(earned), abs=1e-3), folder
            spent[folder.parent.name, rate] = mean_over_tasks(test["costs"]["router"])
    for name in ("kNN", "Ridge", "KMeans", "TaskClassifier"):
        assert spent[name, "300"] < 0.7 * spent[name, "0"], name


# The page, from made-up results


@pytest.fixture
def made_up_runs(tmp_path, monkeypatch):
    """Writes runs that picked the first LLM and runs the command: (data folder, flags) -> its figures and its page.

    The comparison embeds nothing and fits kNN alone.
    """

    def embed_nothing(train, tests, *_):
        return {file.path: np.eye(len(file), 4, dtype=np.float32) for file in [*train, *tests]}

    monkeypatch.setattr(routerbench, "BASELINES", (KNN,))
    monkeypatch.setattr(routerbench, "embeddings", embed_nothing)

    def write(folder, *more, label="routerbench"):
        config = parse_config(flags(folder, "unused", tmp_path, "--validation_fraction", "0.2", *more))
        named = [*paths(folder, "train"), *paths(folder, "test")]
        files = [load(path, "multi_attempt", missing="drop") for path in named]
        for rate, seed in ((0.0, 1), (300.0, 1)):
            settings = settings_of(config) | {"cost_rate": rate, "seed": seed}
            settings["data"] = {file.path: file.sha256 for file in files}
            found = point({file.task: np.zeros(len(file), dtype=int) for file in files[2:]}, files[2:], rate)
            result = {
                "router": "RouterDC",
                "recipe": label,
                "settings": settings,
                "test": {
                    "tasks": found["accuracy"],
                    "costs": {"router": found["cost"]},
                    "utilities": {"router": found["utility"]},
                    "cost_rate": rate,
                },
                "seconds": 1,
                "command": "x",
                "selection": {"validation": None},
                "tests": [{"path": file.path, "kind": file.kind} for file in files[2:]],
            }
            target = tmp_path / "runs" / f"{rate:g}" / "results.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(result))
        output = tmp_path / "results"
        assert routerbench.main([str(tmp_path / "runs"), "--output", str(output), "--device", "cpu"]) == 0
        return json.loads((output / "routerbench.json").read_text()), (output / "routerbench.md").read_text()

    return write


def test_a_comparison_is_among_the_llms_of_the_runs(data, made_up_runs):
    """Two cheap LLMs of four: nobody picks the others, and what the best picks earn is a loop over the two."""
    found, _ = made_up_runs(data, "--llms", *LLMS[:2])
    assert list(found["llms"]) == list(LLMS[:2])
    for task, path in zip(TASKS, paths(data, "test")):
        rows = without_gaps(path)
        best = 100 * np.mean([max(row[llm] for llm in LLMS[:2]) for row in rows])
        assert found["routers"][ORACLE][0]["accuracy"][task] == pytest.approx(best)
        dearest = max(np.mean([row[f"{llm}|total_cost"] for row in rows]) for llm in LLMS[:2])
        for points in found["routers"].values():
            for each in points:
                assert each["cost"][task] <= dearest + 1e-12 and each["accuracy"][task] <= best + 1e-9


def test_the_page_says_which_characters_were_read_and_what_made_it(data, made_up_runs):
    found, text = made_up_runs(data)
    assert "which `bash train_scripts/router_train_routerbench.sh` ends with" in text
    assert "Of each prompt the last 1400 characters are read (the released code keeps the first ones)." in text
    found, text = made_up_runs(data, "--keep_characters", "first", label="routerbench_tuned_first")
    flags = "--recipe routerbench_tuned --keep_characters first"
    script = f"bash train_scripts/router_train_routerbench.sh {flags}"
    assert f"which `{script}` ends with" in text and found["settings"]["keep_characters"] == "first"
    assert "Of each prompt the first 1400 characters are read (as in the released code)." in text


def test_two_cuts_are_compared_seed_by_seed(data, made_up_runs, tmp_path, capsys):
    first, _ = made_up_runs(data, "--keep_characters", "first")
    (tmp_path / "other.json").write_text(json.dumps(first | {"validation": [41.5]}))
    found, _ = made_up_runs(data)
    other = json.loads((tmp_path / "other.json").read_text())
    pair = routerbench.paired(found | {"validation": [40.0]}, other, tmp_path / "other.json")
    assert pair["settings"] == {"keep_characters": ["last", "first"]}
    assert (pair["validation"], pair["aiq"]) == ([-1.5], [0.0])
    text = against_of(pair)
    assert "(keep characters last here, first there)" in text and "-1.50 points" in text
    command = [str(tmp_path / "runs"), "--against", str(tmp_path / "other.json"), "--output", str(tmp_path)]
    assert routerbench.main(command) == 2
    assert "runs without validation rows cannot be compared" in capsys.readouterr().err
    with pytest.raises(ValueError, match="other.json: it differs in seeds; seeds are paired"):
        routerbench.paired(found, other | {"seeds": [1, 2]}, tmp_path / "other.json")


def test_a_task_whose_llms_cost_the_same_has_no_aiq(data, tmp_path, made_up_runs):
    """Local LLMs at cost 0 on one task, and one of them on all: the cell is "-", the average of the means is there."""
    for side in ("train", "test"):
        for task, path in zip(TASKS, paths(data, side)):
            rows = pd.read_csv(path, index_col=0)
            free = LLMS if task == "poems" else LLMS[:1]
            target = tmp_path / "free" / Path(path).relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            rows.assign(**{f"{llm}|total_cost": 0.0 for llm in free}).to_csv(target)
    found, text = made_up_runs(tmp_path / "free")
    for name, areas in found["aiq"].items():
        assert areas["poems"] == [None] and 0 < areas["sums"][0] <= 100 and 0 < areas["average"][0] <= 100
        assert re.search(rf"^\| {re.escape(name)} +\| +- \| +\d", text, re.MULTILINE), name
    single = [(mean_over_tasks(each["cost"]), mean_over_tasks(each["accuracy"])) for each in found["llms"].values()]
    costs, qualities = zip(*single)
    assert found["aiq"][ZERO]["average"] == [pytest.approx(aiq(costs, qualities, 0, max(single)[0]))]
    assert '"-": all LLMs cost the same (poems)' in text and (tmp_path / "results" / "routerbench.png").is_file()


# Runs that do not belong together


def made_up_run(seed, router="RouterDC", **settings) -> Run:
    test = {"tasks": {"a": 1}, "costs": {"router": {"a": 1}}}
    settings = {"seed": seed, "cost_rate": 0.0, **settings}
    return Run(Path(), {"router": router, "settings": settings, "test": test, "command": "x"})


def test_runs_from_before_the_end_was_an_argument_kept_the_last_characters():
    old = made_up_run(1)
    assert routerbench.rates_and_seeds([old, made_up_run(2, keep_characters="last")], "folder") == ([0.0], [1, 2])
    with pytest.raises(ValueError, match="its runs differ in keep_characters; only"):
        routerbench.rates_and_seeds([old, made_up_run(2, keep_characters="first")], "folder")


def test_runs_of_two_routers_do_not_belong_together():
    with pytest.raises(ValueError, match="its runs differ in router; only"):
        routerbench.rates_and_seeds([made_up_run(0, "kNN"), made_up_run(1, "Ridge")], "folder")
    assert routerbench.rates_and_seeds([made_up_run(0, "kNN")], "folder") == ([0.0], [0])


def test_two_runs_with_one_rate_and_seed_are_refused():
    with pytest.raises(ValueError, match="two runs with cost rate 0 and seed 1; name a folder that has one"):
        routerbench.rates_and_seeds([made_up_run(1), made_up_run(1)], "folder")


def test_runs_without_costs_do_not_belong_here(trained, tmp_path, capsys):
    assert routerbench.main([str(trained.folder), "--output", str(tmp_path)]) == 2
    assert "test files without costs" in capsys.readouterr().err
