"""RouterBench: AIQ against other ways to compute it, the cost charged once, and the script from made-up tables to the curve."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LLMS, REPO, make_rows
from scipy.spatial import ConvexHull

import train_router_mdeberta as program
from utils.baselines import __main__ as baselines
from utils.baselines.knn import KNN
from utils.data import DataError, load
from utils.metrics import accuracy, aiq, hull, mean_cost, utility
from utils.report import routerbench
from utils.training_set import split_validation

PRICES = dict(zip(LLMS, (0.0001, 0.0004, 0.001, 0.006)))  # US dollars per answer, more or less
TASKS = ("poems", "sums")
RATES, SEEDS = (0.0, 300.0), (1, 2)


# Hull and AIQ


def test_aiq_of_a_case_worked_out_by_hand():
    """Points (1, 40), (2, 60), (3, 50), (4, 70), (9, 65): the hull goes (1, 40), (2, 60), (4, 70), level to 9; area 50 + 130 + 350 over 8."""
    costs, qualities = [4, 1, 3, 9, 2], [70, 40, 50, 65, 60]
    x, y = hull(costs, qualities)
    assert x.tolist() == [1, 2, 4] and y.tolist() == [40, 60, 70]
    assert aiq(costs, qualities, 1, 9) == pytest.approx((50 + 130 + 350) / 8)
    assert aiq(costs, qualities, 1.5, 3) == pytest.approx(((50 + 60) / 2 * 0.5 + (60 + 65) / 2) / 1.5)
    assert aiq([1], [40], 1, 2) == 40 and aiq([1, 1], [40, 45], 1, 2) == 45


@pytest.mark.parametrize("seed", range(8))
def test_aiq_is_the_area_under_scipys_hull(seed):
    """The best mixture of two points at each cost, and the area of scipy's hull of the points and their shadow below and to the right."""
    rng = np.random.default_rng(seed)
    costs, qualities = rng.uniform(1, 5, 12), rng.uniform(30, 80, 12)
    low, high = costs.min(), 6.0
    corners = np.array([*zip(costs, qualities), (low, 0), (high, 0), (high, qualities.max())])
    assert aiq(costs, qualities, low, high) == pytest.approx(
        ConvexHull(corners).volume / (high - low)
    )  # in the plane, volume is the area
    x, y = hull(costs, qualities)
    for at in rng.uniform(low, high, 20):
        mixed = (
            max(
                q + (p - q) * (at - b) / (a - b)
                for a, p in zip(costs, qualities)
                for b, q in zip(costs, qualities)
                if b <= at <= a and b < a
            )
            if at <= costs.max()
            else 0
        )
        assert np.interp(at, x, y) == pytest.approx(max(mixed, max(q for c, q in zip(costs, qualities) if c <= at)))
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all() and (np.diff(np.diff(y) / np.diff(x)) < 0).all()


def test_aiq_refuses_what_it_cannot_know():
    with pytest.raises(ValueError, match="cheapest point is at 2"):
        aiq([2, 3], [50, 60], 1, 3)
    with pytest.raises(ValueError, match="is none"):
        aiq([1, 3], [50, 60], 2, 2)


# Made-up tables in the released layout


def table(task: str, count: int, seed: int, clusters: bool) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), make_rows(count, "multi_attempt", seed)
    columns = {
        "sample_id": [f"{task}.{i}" for i in range(count)],
        "prompt": [str([row["question"]]) for row in rows],
        "eval_name": [task] * count,
    }
    columns |= {llm: [float(row["scores"][llm] >= 0.7) for row in rows] for llm in LLMS}
    columns |= {f"{llm}|model_response": ["['a\nb, \"c\"']"] * count for llm in LLMS}
    columns |= {f"{llm}|total_cost": price * rng.uniform(0.8, 1.2, count) for llm, price in PRICES.items()}
    columns |= {"oracle_model_to_route_to": [LLMS[0]] * count} | (
        {"cluster_id": [row["cluster_id"] for row in rows]} if clusters else {}
    )
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routerbench")
    for number, task in enumerate(TASKS):
        train, test = table(task, 60, number, clusters=True), table(task, 50, 10 + number, clusters=False)
        if task == "sums":
            train.loc[4, LLMS[1]] = np.nan
            train.loc[[4, 7], f"{LLMS[2]}|total_cost"] = np.nan
            test.loc[3, LLMS[0]] = np.nan
        for name, part in (("routerbench_cluster", train), ("routerbench_zs", test)):
            (folder / name).mkdir(exist_ok=True)
            part.to_csv(folder / name / f"{task}_{'train' if part is train else 'test'}.csv")
    return folder


def paths(data, side):
    return [
        str(data / ("routerbench_cluster" if side == "train" else "routerbench_zs") / f"{task}_{side}.csv")
        for task in TASKS
    ]


def flags(data, encoder, folder, *more):
    return [
        "--dataset", "routerbench", "--data_paths", *paths(data, "train"), "--test_data_paths", *paths(data, "test"), "--encoder", str(encoder),
        "--cache_dir", str(folder / "cache"), "--device", "cpu", "--precision", "fp32", "--max_length", "64", *more,
    ]  # fmt: skip


def test_the_defaults_of_the_variant():
    args = program.parse(["--dataset", "routerbench"])
    assert (args.top_k, args.last_k, args.missing_cells, args.cost_rate) == (4, 4, "drop", 0)
    assert (args.max_characters, args.keep_characters) == (1400, "last")
    assert len(args.data_paths) == len(args.test_data_paths) == 6 and args.final_eval_data_paths == []
    assert (
        args.data_paths[0] == "datasets/routerbench_cluster/gsm8k_train.csv"
        and args.test_data_paths[0] == "datasets/routerbench_zs/gsm8k_test.csv"
    )
    manifest = json.loads((REPO / "datasets" / "manifest.json").read_text())["files"]
    assert all(path.removeprefix("datasets/") in manifest for path in args.data_paths + args.test_data_paths)
    assert program.parse(["--dataset", "routerbench", "--top_k", "2", "--last_k", "3"]).top_k == 2
    assert program.parse([]) == program.parser().parse_args([])
    for flag, value in (("cost_rate", -1), ("cost_rate", "inf"), ("cost_rate", "nan"), ("max_characters", 0)):
        with pytest.raises(ValueError, match=f"--{flag} is"):
            program.check_numbers(program.parse([f"--{flag}", str(value)]))


def test_prompts_may_be_cut_at_the_end_as_released(data, tmp_path):
    """The same rows train and validate, whichever characters are read."""
    more = ("--max_characters", "9", "--validation_fraction", "0.2", "--keep_characters")
    problems = {}
    for end in ("first", "last"):
        args = program.parse(flags(data, "unused", tmp_path, *more, end))
        problems[end] = program.Problem(args, frozenset(), torch.device("cpu"))
    prompts = []
    for path in paths(data, "train"):
        prompts += [row["prompt"][2:-2] for _, row in pd.read_csv(path).iterrows() if pd.notna(row).all()]
    assert problems["first"].questions == [prompt[:9] for prompt in prompts]
    assert problems["last"].questions == [prompt[-9:] for prompt in prompts]
    assert (problems["first"].pool == problems["last"].pool).all()
    for (_, one), (_, other) in zip(problems["first"].validation, problems["last"].validation, strict=True):
        assert one.tolist() == other.tolist()


def test_training_charges_the_cost_once(data, tmp_path):
    """The targets against a loop over the tables; the scores that are evaluated stay what they were."""
    args = program.parse(
        flags(data, "unused", tmp_path, "--cost_rate", "50", "--max_characters", "20", "--validation_fraction", "0.2")
    )
    problem = program.Problem(args, frozenset(), torch.device("cpu"))
    expected, questions = [], []
    for path in paths(data, "train"):
        for _, row in pd.read_csv(path).iterrows():
            if not any(np.isnan(row[llm]) or np.isnan(row[f"{llm}|total_cost"]) for llm in LLMS):
                expected.append([row[llm] - 50 * row[f"{llm}|total_cost"] for llm in LLMS])
                questions.append(row["prompt"][2:-2][-20:])
    assert len(expected) == 118 and problem.questions == questions
    np.testing.assert_allclose(problem.targets.numpy(), expected, rtol=1e-5, atol=1e-7)
    for validation, rows in problem.validation:
        assert set(np.unique(validation.scores)) <= {0, 1}
        picks = np.arange(len(rows)) % 4
        charged = [expected[row][pick] for row, pick in zip(rows, picks)]
        assert utility(picks, validation, 50) == pytest.approx(100 * np.mean(charged), rel=1e-5)
        assert utility(picks, validation, 0) == accuracy(picks, validation)


def test_costs_are_asked_for(fake, tmp_path):
    with pytest.raises(DataError, match="--cost_rate 5 needs the cost of every answer"):
        program.Problem(program.parse([*fake.arguments(), "--cost_rate", "5"]), frozenset(), torch.device("cpu"))


@pytest.fixture(scope="module")
def run(data, tiny_bert, tmp_path_factory):
    """The script on the made-up tables, two cost rates and two seeds. Returns the folder, the finished process and how to run it again."""
    folder = tmp_path_factory.mktemp("run")

    def again(**changed):
        settings = {
            "ROUTERDC_NO_VENV": "1", "DATA": str(data), "TASKS": " ".join(TASKS), "COST_RATES": "0 300", "SEEDS": "1 2", "ENCODER": str(tiny_bert), "DEVICE": "cpu",
            "PRECISION": "fp32", "LEARNING_RATE": "1e-2", "RUNS": str(folder / "runs"), "RESULTS": str(folder / "results"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **changed,
        }  # fmt: skip
        more = [
            "--training_steps",
            "40",
            "--eval_steps",
            "20",
            "--batch_size",
            "16",
            "--max_length",
            "64",
            "--cache_dir",
            str(folder / "cache"),
        ]
        command = ["bash", str(REPO / "train_scripts" / "router_train_routerbench.sh"), *more]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            env=os.environ | settings,
            cwd=folder,
        )

    process = again()
    assert process.returncode == 0, process.stderr
    return folder, process, again


def results(folder, rate, seed):
    return json.loads((folder / "runs" / f"rate_{rate:g}" / f"seed_{seed}" / "results.json").read_text())


def test_runs_report_accuracy_cost_and_utility(run, data, capsys):
    import evaluation_router

    folder, process, _ = run
    picks = folder / "picks.json"
    assert (
        evaluation_router.main(
            [
                "--ckpt",
                str(folder / "runs" / "rate_300" / "seed_1"),
                "--output",
                str(picks),
                "--cache_dir",
                str(folder / "cache"),
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert text.split("\n\nWritten")[0] == (folder / "runs" / "rate_300" / "seed_1" / "tables.md").read_text().strip()
    assert (
        "US dollars per 1000 queries" in text
        and "Utility: score - 300 * cost" in text
        and "RouterDC (paper)" not in text
    )
    found, test = json.loads(picks.read_text()), results(folder, 300, 1)["test"]
    assert test["left_out"] == {"poems": 0, "sums": 1}
    for task, path in zip(TASKS, paths(data, "test")):
        rows = pd.read_csv(path).dropna(subset=list(LLMS))
        chosen = [LLMS[pick] for pick in found["picks"][task]]
        earned = [row[llm] for llm, (_, row) in zip(chosen, rows.iterrows(), strict=True)]
        paid = [row[f"{llm}|total_cost"] for llm, (_, row) in zip(chosen, rows.iterrows())]
        assert test["tasks"][task] == pytest.approx(100 * np.mean(earned))
        assert test["costs"]["router"][task] == pytest.approx(np.mean(paid))
        assert test["utilities"]["router"][task] == pytest.approx(
            100 * (np.mean(earned) - 300 * np.mean(paid)), abs=1e-3
        )
        assert test["costs"][LLMS[3]][task] == pytest.approx(rows[f"{LLMS[3]}|total_cost"].mean())


def test_a_cost_rate_makes_the_router_cheaper(run):
    folder = run[0]
    for seed in SEEDS:
        free, charged = (results(folder, rate, seed)["test"] for rate in RATES)
        assert np.mean(list(charged["costs"]["router"].values())) < 0.7 * np.mean(
            list(free["costs"]["router"].values())
        )


def test_what_is_left_out_is_said(run):
    assert (
        "sums_train.csv: 2 of 60 rows left out (--missing_cells drop), empty cells: 1 scores in 1 rows, 2 costs in 2 rows"
        in run[1].stderr
    )


def test_results_are_what_the_runs_say(run, data):
    folder = run[0]
    found = json.loads((folder / "results" / "routerbench.json").read_text())
    assert (tuple(found["cost_rates"]), tuple(found["seeds"])) == (RATES, SEEDS) and found["test_queries"] == {
        "poems": 50,
        "sums": 49,
    }
    tests = [load(path, "multi_attempt", missing="drop") for path in paths(data, "test")]
    single = {
        llm: ([mean_cost(np.full(len(d), t), d) for d in tests], [accuracy(np.full(len(d), t), d) for d in tests])
        for t, llm in enumerate(LLMS)
    }
    cheap, dear = ([np.mean(side) for side in single[llm]] for llm in (LLMS[0], LLMS[3]))
    for seed, area in zip(SEEDS, found["aiq"]["RouterDC"]["average"]):
        points = [cheap]
        for rate in RATES:
            test = results(folder, rate, seed)["test"]
            points.append([np.mean(list(test["costs"]["router"].values())), np.mean(list(test["tasks"].values()))])
        shadow = np.array(
            [
                *[p for p in points if p[0] >= cheap[0]],
                (cheap[0], 0),
                (dear[0], 0),
                (dear[0], max(p[1] for p in points)),
            ]
        )
        if max(p[0] for p in points) <= dear[0] and min(p[0] for p in points) >= cheap[0]:
            assert area == pytest.approx(ConvexHull(shadow).volume / (dear[0] - cheap[0]))
    shadow = np.array(
        [
            *[(np.mean(c), np.mean(a)) for c, a in single.values()],
            (cheap[0], 0),
            (dear[0], 0),
            (dear[0], max(np.mean(a) for _, a in single.values())),
        ]
    )
    assert found["aiq"][routerbench.ZERO]["average"] == pytest.approx(
        [ConvexHull(shadow).volume / (dear[0] - cheap[0])] * 2
    )
    validation = [np.mean([results(folder, rate, seed)["selection"]["validation"] for rate in RATES]) for seed in SEEDS]
    text = (folder / "results" / "routerbench.md").read_text()
    assert (
        f"validation rows, mean over the cost rates: {np.mean(validation):.2f} ± {np.std(validation, ddof=1):.2f} %"
        in text
    )
    for name in (
        "RouterDC",
        "kNN",
        "MLP",
        "BestSingle",
        "BestPerTask",
        routerbench.ORACLE,
        routerbench.ZERO,
        "delta",
        "1 of routerbench_zs/sums_test.csv",
    ):
        assert name in text
    for name, points in found["routers"].items():
        assert len(points) == 4
        for p in points:
            for task in TASKS:
                assert p["utility"][task] == pytest.approx(
                    p["accuracy"][task] - 100 * p["cost_rate"] * p["cost"][task], abs=1e-3
                ), name
    best = {
        (p["cost_rate"], p["seed"]): np.mean(list(p["utility"].values())) for p in found["routers"][routerbench.ORACLE]
    }
    assert all(
        np.mean(list(p["utility"].values())) <= best[p["cost_rate"], p["seed"]] + 1e-6
        for points in found["routers"].values()
        for p in points
    )
    assert (folder / "results" / "routerbench.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_skipped_and_a_missing_one_is_named(run, capsys):
    folder, _, again = run
    before = (folder / "results" / "routerbench.json").read_text()
    process = again(COST_RATES="300", SEEDS="2")
    assert process.returncode == 0 and process.stdout.count("already done") == 1
    drop = ("seconds",)
    first, second = (
        {name: value for name, value in json.loads(text).items() if name not in drop}
        for text in (before, (folder / "results" / "routerbench.json").read_text())
    )
    assert first == second
    part = folder / "part"
    (part / "rate_0").mkdir(parents=True)
    for rate, seed in ((0, 1), (0, 2), (300, 1)):
        target = part / f"rate_{rate}" / f"seed_{seed}" / "results.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(results(folder, rate, seed)))
    assert routerbench.main([str(part), "--output", str(folder / "other")]) == 2
    assert "no finished run of RouterDC at 300 with seed 2" in capsys.readouterr().err and not list(
        (folder / "other").iterdir()
    )


def test_the_baselines_here_get_the_rows_of_training(data, monkeypatch):
    train = [load(path, "multi_attempt", missing="drop") for path in paths(data, "train")]
    x = {part.path: np.arange(len(part), dtype=np.float32)[:, None] for part in train}  # the row's number, to follow it
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
        for part, (place, _) in zip(train, held):
            first, rest = split_validation(part, 0.2, 3)
            first = first[:count] if count else first
            mine = rows.tasks == part.task
            assert rows.x[mine, 0].tolist() == first.tolist() and place[:, 0].tolist() == rest.tolist()
            np.testing.assert_allclose(rows.y[mine], part.scores[first] - 50 * part.costs[first], rtol=1e-5, atol=1e-6)


def test_all_baselines_with_a_cost_rate(data, tiny_bert, tmp_path, capsys):
    """Those that can charge a cost do, and pick cheaper LLMs for it; the others are named. A loop over the tables gives the same figures."""
    spent = {}
    for rate in ("0", "300"):
        more = ["--cost_rate", rate, "--validation_fraction", "0.2", "--save_path", str(tmp_path / rate)]
        assert baselines.main(flags(data, tiny_bert, tmp_path, *more)) == 0
        assert ("left out: matrix_factorization, irt" in capsys.readouterr().err) == (rate != "0")
        found = {
            path.parent.parent.name: json.loads(path.read_text()) for path in (tmp_path / rate).rglob("results.json")
        }
        assert ({"MatrixFactorization", "IRT"} <= set(found)) == (rate == "0")
        assert set(found) >= {
            "kNN",
            "Ridge",
            "MLP",
            "KMeans",
            "LoraRetriever",
            "TaskClassifier",
            "Random",
            "BestSingle",
            "BestPerTask",
            "Oracle",
        }
        for name, result in found.items():
            picks = json.loads((tmp_path / rate / name / "seed_1" / "picks.json").read_text())
            for task, path in zip(TASKS, paths(data, "test")):
                table = pd.read_csv(path).dropna(subset=list(LLMS))
                chosen = [result["test"]["llms"][pick] for pick in picks[task]]
                earned = [
                    row[llm] - float(rate) * row[f"{llm}|total_cost"]
                    for llm, (_, row) in zip(chosen, table.iterrows(), strict=True)
                ]
                assert result["test"]["utilities"]["router"][task] == pytest.approx(100 * np.mean(earned), abs=1e-3), (
                    name
                )
            spent[name, rate] = np.mean(list(result["test"]["costs"]["router"].values()))
    for name in ("kNN", "Ridge", "KMeans", "TaskClassifier"):
        assert spent[name, "300"] < 0.7 * spent[name, "0"], name


@pytest.fixture
def made_up_runs(tmp_path, monkeypatch):
    """Writes results.json of runs that picked the first LLM, (data folder, flags) -> runs/; the comparison embeds nothing and fits kNN alone."""
    monkeypatch.setattr(routerbench, "BASELINES", (KNN,))
    monkeypatch.setattr(
        routerbench,
        "embeddings",
        lambda train, tests, *_: {d.path: np.eye(len(d), 4, dtype=np.float32) for d in [*train, *tests]},
    )

    def write(folder, *more, recipe="routerbench"):
        files = [
            load(path, "multi_attempt", missing="drop") for side in ("train", "test") for path in paths(folder, side)
        ]
        for rate, seed in ((0.0, 1), (300.0, 1)):
            settings = vars(program.parse(flags(folder, "unused", tmp_path, "--validation_fraction", "0.2", *more)))
            settings |= {"data": {data.path: data.sha256 for data in files}, "cost_rate": rate, "seed": seed}
            picks = {data.task: np.zeros(len(data), dtype=int) for data in files[2:]}
            found = routerbench.point(picks, files[2:], rate)
            test = {
                "tasks": found["accuracy"],
                "costs": {"router": found["cost"]},
                "utilities": {"router": found["utility"]},
                "cost_rate": rate,
            }
            result = {"router": "RouterDC", "recipe": recipe, "settings": settings, "test": test, "seconds": 1}
            result |= {"command": "x", "selection": {"validation": None}}
            result["tests"] = [{"path": data.path, "kind": data.kind} for data in files[2:]]
            target = tmp_path / "runs" / f"{rate:g}" / "results.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(result))
        assert routerbench.main([str(tmp_path / "runs"), "--output", str(tmp_path / "results"), "--device", "cpu"]) == 0
        return json.loads((tmp_path / "results" / "routerbench.json").read_text()), (
            tmp_path / "results" / "routerbench.md"
        ).read_text()

    return write


def test_a_comparison_is_among_the_llms_of_the_runs(data, made_up_runs):
    """Two cheap LLMs of four: nobody picks the others, and what the best picks earn is a loop over the two."""
    found, _ = made_up_runs(data, "--llms", *LLMS[:2])
    assert list(found["llms"]) == list(LLMS[:2])
    for task, path in zip(TASKS, paths(data, "test")):
        table = pd.read_csv(path).dropna(subset=list(LLMS))
        best = 100 * np.mean([max(row[llm] for llm in LLMS[:2]) for _, row in table.iterrows()])
        assert found["routers"][routerbench.ORACLE][0]["accuracy"][task] == pytest.approx(best)
        dearest = max(table[f"{llm}|total_cost"].mean() for llm in LLMS[:2])
        assert all(p["cost"][task] <= dearest + 1e-12 for points in found["routers"].values() for p in points)
        assert all(p["accuracy"][task] <= best + 1e-9 for points in found["routers"].values() for p in points)


def test_the_page_says_which_characters_were_read_and_what_made_it(data, made_up_runs):
    found, text = made_up_runs(data)
    assert "which `bash train_scripts/router_train_routerbench.sh` ends with" in text
    assert "Of each prompt the last 1400 characters are read (the released code keeps the first ones)." in text
    found, text = made_up_runs(data, "--keep_characters", "first", recipe="routerbench_tuned_first")
    script = "RECIPE=tuned KEEP_CHARACTERS=first bash train_scripts/router_train_routerbench.sh"
    assert f"which `{script}` ends with" in text and found["settings"]["keep_characters"] == "first"
    assert "Of each prompt the first 1400 characters are read (as in the released code)." in text


def test_two_cuts_are_compared_seed_by_seed(data, made_up_runs, tmp_path, capsys):
    first, _ = made_up_runs(data, "--keep_characters", "first")
    (tmp_path / "other.json").write_text(json.dumps(first | {"validation": [41.5]}))
    found, _ = made_up_runs(data)
    (tmp_path / "mine.json").write_text(json.dumps(found | {"validation": [40.0]}))
    other = json.loads((tmp_path / "other.json").read_text())
    pair = routerbench.paired(found | {"validation": [40.0]}, other, tmp_path / "other.json")
    assert pair["settings"] == {"keep_characters": ["last", "first"]}
    assert (pair["validation"], pair["aiq"]) == ([-1.5], [0.0])
    text = routerbench.against_of(pair)
    assert "(keep characters last here, first there)" in text and "-1.50 points" in text
    command = [str(tmp_path / "runs"), "--against", str(tmp_path / "other.json"), "--output", str(tmp_path)]
    assert routerbench.main(command) == 2
    assert "runs without validation rows cannot be compared" in capsys.readouterr().err
    with pytest.raises(ValueError, match="other.json: it differs in seeds; seeds are paired"):
        routerbench.paired(found, other | {"seeds": [1, 2]}, tmp_path / "other.json")


def test_runs_from_before_the_end_was_an_argument_kept_the_last_characters():
    test = {"tasks": {"a": 1}, "costs": {"router": {"a": 1}}}
    old = {"router": "RouterDC", "settings": {"seed": 1, "cost_rate": 0.0}, "test": test, "command": "x"}
    new = old | {"settings": {"seed": 2, "cost_rate": 0.0, "keep_characters": "last"}}
    assert routerbench.check([old, new], "folder") == ([0.0], [1, 2])
    new["settings"]["keep_characters"] = "first"
    with pytest.raises(ValueError, match="its runs differ in keep_characters; only"):
        routerbench.check([old, new], "folder")


def test_a_task_whose_llms_cost_the_same_has_no_aiq(data, tmp_path, made_up_runs):
    """Local LLMs at cost 0 on one task, and one of them on all: the cell has "-", the average is that of the points' means."""
    for side in ("train", "test"):
        for task, path in zip(TASKS, paths(data, side)):
            table = pd.read_csv(path, index_col=0)
            free = LLMS if task == "poems" else LLMS[:1]
            target = tmp_path / "free" / Path(path).relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            table.assign(**{f"{llm}|total_cost": 0.0 for llm in free}).to_csv(target)
    found, text = made_up_runs(tmp_path / "free")
    for name, areas in found["aiq"].items():
        assert areas["poems"] == [None] and 0 < areas["sums"][0] <= 100 and 0 < areas["average"][0] <= 100
        assert re.search(rf"^\| {re.escape(name)} +\| +- \| +\d", text, re.MULTILINE), name
    single = [
        (np.mean(list(v["cost"].values())), np.mean(list(v["accuracy"].values()))) for v in found["llms"].values()
    ]
    assert found["aiq"][routerbench.ZERO]["average"] == [pytest.approx(aiq(*zip(*single), 0, max(single)[0]))]
    assert '"-": all LLMs cost the same (poems)' in text and (tmp_path / "results" / "routerbench.png").is_file()


def test_runs_of_two_routers_do_not_belong_together():
    settings, test = {"seed": 1, "cost_rate": 0.0}, {"tasks": {"a": 1}, "costs": {"router": {"a": 1}}}
    two = [
        {"router": name, "settings": settings | {"seed": seed}, "test": test, "command": "x"}
        for seed, name in enumerate(("kNN", "Ridge"))
    ]
    with pytest.raises(ValueError, match="its runs differ in router; only"):
        routerbench.check(two, "folder")
    assert routerbench.check(two[:1], "folder") == ([0.0], [0])


def test_runs_without_costs_do_not_belong_here(trained, tmp_path, capsys):
    assert routerbench.main([str(trained.folder), "--output", str(tmp_path)]) == 2
    assert "test files without costs" in capsys.readouterr().err
