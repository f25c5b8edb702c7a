"""results/: lines collected from runs, and tables made from them."""

import hashlib
import json
import statistics
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPO

from utils.files import locked
from utils.report import results as report
from utils.tasks import LLMS, TASKS


def results(seed, value, recipe="frozen", fidelity="paper"):
    """A results.json as training writes it; every task has accuracy `value`."""
    tasks = {task.name: value for task in TASKS}
    return {
        "router": "RouterDC", "recipe": recipe, "seconds": 10.0, "device": "cpu", "command": "python x",
        "settings": {"encoder": "minilm", "fidelity": fidelity, "seed": seed},
        "selection": {"rule": "best", "step": 5, "validation": value},
        "test": {"tasks": tasks, "id_avg": value, "ood_avg": (value or 0) + 1, "llms": list(LLMS), "references": {"per-query oracle": {**tasks}}},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    def write(*runs):
        for number, run in enumerate(runs):
            path = tmp_path / "runs" / str(number) / "results.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(run))
        return str(tmp_path / "runs")

    return write


def test_runs_become_lines_and_are_replaced_not_repeated(folder, tmp_path, capsys):
    target = ["--results", str(tmp_path / "results")]
    assert report.main([folder(results(1, 50.0), results(2, 52.0)), *target]) == 0
    assert report.main([folder(results(1, 51.0)), *target]) == 0
    lines = [json.loads(line) for line in (tmp_path / "results" / "runs.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["id_avg"], line["metrics"]["mmlu"]) for line in lines] == [
        (1, 51.0, 51.0),
        (2, 52.0, 52.0),
    ]
    names = {
        "router",
        "encoder",
        "recipe",
        "fidelity",
        "seed",
        "selection",
        "metrics",
        "id_avg",
        "ood_avg",
        "seconds",
        "device",
        "command",
    }
    assert all(set(line) == names for line in lines)


def test_tables_have_mean_and_deviation_and_paired_differences(folder, tmp_path, capsys):
    base, other = [50.0, 53.0, 51.5], [49.0, 53.5, 50.0]
    runs = [results(s, v) for s, v in enumerate(base)] + [
        results(s, v, fidelity="upstream") for s, v in enumerate(other)
    ]
    runs += [results(s, v + 1, recipe="frozen-lambda0") for s, v in enumerate(base)]
    assert report.main([folder(*runs), "--results", str(tmp_path / "results")]) == 0
    text = (tmp_path / "results" / "tables.md").read_text()
    assert f"{statistics.mean(base):.2f} ± {statistics.stdev(base):.2f}" in text
    gaps = [b - a for a, b in zip(base, other)]
    row = next(line for line in text.splitlines() if "fidelity upstream" in line and "minilm, frozen " in line)
    assert f"{statistics.mean(gaps):+.2f} ± {statistics.stdev(gaps):.2f}" in row
    row = next(line for line in text.splitlines() if "lambda = 0" in line)
    assert "+1.00 ± 0.00" in row and row.rstrip("| ").endswith("3")


def test_tables_say_what_a_recipe_sets(folder, tmp_path, capsys):
    run = results(1, 50.0) | {
        "command": "python t.py --encoder x --recipe frozen --top_k 3 --seed 1 --save_path a --refit --llms b c --top_k 4"
    }
    assert report.main([folder(run, results(2, 50.0, "other")), "--results", str(tmp_path / "results")]) == 0
    text = (tmp_path / "results" / "tables.md").read_text()
    assert "\n- frozen (RouterDC): `--top_k 4 --refit --llms b c`\n- other (RouterDC): the defaults\n" in text


def test_a_line_made_with_other_arguments_is_not_replaced_in_silence(folder, tmp_path, capsys):
    first = results(1, 50.0) | {"command": "python t.py --recipe frozen --save_path a --top_k 3"}
    for command, said in (
        ("python t.py --recipe frozen --save_path b --top_k 3", False),
        ("python t.py --recipe frozen --save_path a --top_k 1", True),
    ):
        for run in (first, first | {"command": command}):
            assert report.main([folder(run), "--results", str(tmp_path / "results")]) == 0
            err = capsys.readouterr().err
        assert (
            "RouterDC, minilm, frozen, paper, seed 1, replaces a run made with other arguments (`--top_k 3`)" in err
        ) == said


def test_two_reports_at_once_lose_no_line(folder, tmp_path):
    """The second waits while the folder is held, and then adds to what has been written meanwhile."""
    target, runs = tmp_path / "results", folder(results(1, 50.0))
    assert report.main([runs, "--results", str(target)]) == 0
    line = json.loads((target / "runs.jsonl").read_text())
    (tmp_path / "runs" / "0" / "results.json").write_text(json.dumps(results(3, 51.0)))
    with locked(target):
        other = subprocess.Popen(
            [sys.executable, "-m", "utils.report", runs, "--results", str(target)], cwd=REPO, stdout=subprocess.DEVNULL
        )
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=5)
        (target / "runs.jsonl").write_text("".join(json.dumps(line | {"seed": seed}) + "\n" for seed in (1, 2)))
    assert other.wait(timeout=60) == 0
    assert [json.loads(text)["seed"] for text in (target / "runs.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_the_search_is_ordered_by_validation_and_reads_no_test(folder, tmp_path, capsys):
    runs = [results(1, 40.0, "a"), results(2, 44.0, "a"), results(1, 50.0, "b")]
    for run in runs:
        run["test"] = {}
    assert report.main(["--search", folder(*runs), "--results", str(tmp_path)]) == 0
    rows = [
        line
        for line in (tmp_path / "search.md").read_text().splitlines()
        if line.startswith("| ") and "validation" not in line
    ]
    assert [row.split("|")[1].strip() for row in rows] == ["b", "a"] and "42.00 ± 2.83" in rows[1]


def test_a_search_needs_validation_rows(folder, tmp_path, capsys):
    assert report.main(["--search", folder(results(4, None)), "--results", str(tmp_path)]) == 2
    assert (
        "--search: seed 4 of frozen had no validation rows; train it with --validation_fraction above 0"
        in capsys.readouterr().err
    )


def test_runs_on_other_tasks_are_named_and_left_out(folder, tmp_path, capsys):
    part = results(2, 90.0)
    del part["test"]["tasks"]["mmlu"]
    assert report.main([folder(results(1, 50.0), part), "--results", str(tmp_path / "results")]) == 0
    assert "left out: 1 runs" in capsys.readouterr().err
    assert len((tmp_path / "results" / "runs.jsonl").read_text().splitlines()) == 1


def test_runs_of_which_none_belongs_there_are_no_error(folder, tmp_path, capsys):
    """Own data: baselines.sh goes on to the comparison."""
    own = results(1, 50.0)
    own["test"]["tasks"] = {"poems": 50.0}
    assert report.main([folder(own), "--results", str(tmp_path / "results")]) == 0
    said = capsys.readouterr()
    assert (
        "left out: 1 runs" in said.err
        and "no run of these belongs there" in said.out
        and not list((tmp_path / "results").iterdir())
    )
    assert report.main(["--results", str(tmp_path / "results")]) == 2 and "no runs yet" in capsys.readouterr().err


def test_a_folder_without_runs_is_an_error(tmp_path, capsys):
    assert report.main([str(tmp_path), "--results", str(tmp_path / "r")]) == 2
    assert str(tmp_path) in capsys.readouterr().err


# --compare: what each run picked, query by query


@pytest.fixture
def world(tmp_path):
    """Made-up test files of the paper's eight tasks and seven LLMs, and runs that picked: write(router, recipe, seed, picker) -> its folder."""
    rng, rows = np.random.default_rng(0), {}
    for task in TASKS:
        count = 30 + 5 * TASKS.index(task)
        values = rng.choice([0, 0, 0.3, 0.6, 1.0], size=(count, 7))
        rows[task.name] = [
            {"question": f"{task.name} {number}", "scores": dict(zip(LLMS, map(float, row)))}
            for number, row in enumerate(values)
        ]
        (tmp_path / f"{task.name}_test.json").write_text(json.dumps(rows[task.name]))
    paths = {task.name: tmp_path / f"{task.name}_test.json" for task in TASKS}

    def write(router, recipe, seed, picker, llms=LLMS):
        picks = {task: [llms.index(picker(task, number)) for number in range(len(part))] for task, part in rows.items()}
        run = results(seed, 0.0, recipe)
        digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths.values()}
        run |= {"router": router, "tests": [{"path": str(paths[task.name]), "kind": task.kind} for task in TASKS]}
        run["settings"]["data"] = digests
        run["test"] |= {"llms": list(llms), "in_distribution": [task.name for task in TASKS if task.in_distribution]}
        run["test"]["shares"] = {
            task: {llm: 100 * part.count(llms.index(llm)) / len(part) for llm in llms} for task, part in picks.items()
        }
        folder = tmp_path / "runs" / router / recipe / f"seed_{seed}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(run))
        (folder / "picks.json").write_text(json.dumps(picks))
        return folder

    def earned(picker):
        """Average accuracy in %, in and out of distribution, by plain loops."""
        by_task = {}
        for task in TASKS:
            scores = [row["scores"][picker(task.name, number)] for number, row in enumerate(rows[task.name])]
            by_task[task.name] = 100 * statistics.mean(
                float(score > 0) if task.kind == "probability" else score for score in scores
            )
        return tuple(
            statistics.mean(by_task[task.name] for task in TASKS if task.in_distribution == side)
            for side in (True, False)
        )

    def best(task, number):
        scores = rows[task][number]["scores"]
        return max(scores, key=scores.get)

    return SimpleNamespace(write=write, earned=earned, best=best, rows=rows, paths=paths, runs=tmp_path / "runs")


def compare(world, tmp_path, *more):
    assert (
        report.main(["--compare", str(world.runs), "--results", str(tmp_path / "out"), "--resamples", "2000", *more])
        == 0
    )
    return json.loads((tmp_path / "out" / "comparison.json").read_text()), (
        tmp_path / "out" / "comparison.md"
    ).read_text()


def test_a_comparison_of_known_routers(world, tmp_path, capsys):
    """RouterDC right wherever one can be, ZOOTER always the first LLM; LoraRetriever in another order of LLMs."""
    pickers = {
        "RouterDC": lambda task, n: world.best(task, n) if n % 4 else LLMS[0],
        "ZOOTER": lambda task, n: LLMS[0],
        "LoraRetriever": lambda task, n: LLMS[n % 7],
    }
    for name, picker in pickers.items():
        for seed in (1, 2):
            world.write(name, "tuned", seed, picker, LLMS if name != "LoraRetriever" else LLMS[::-1])
    found, text = compare(world, tmp_path)
    groups = {group["router"]: group for group in found["groups"]}
    for name, picker in pickers.items():
        group, (inside, outside) = groups[name], world.earned(picker)
        assert group["seeds"] == [1, 2]
        for side, value in (("id", inside), ("ood", outside)):
            entry, base = group[side], world.earned(pickers["RouterDC"])[side == "ood"]
            assert entry["per_seed"] == pytest.approx([value, value], abs=1e-3) and entry[
                "difference"
            ] == pytest.approx(value - base, abs=1e-3)
            assert entry["interval"][0] < value < entry["interval"][1]
            low, high = entry["difference_interval"]
            assert (
                (low == high == 0 and entry["p"] == 1)
                if name == "RouterDC"
                else (low < value - base < high < 0 and entry["p"] < 0.01)
            )
            assert f"{value - base:+.2f}" in next(
                line for line in text.split("## Paired")[1].splitlines() if line.startswith(f"| {name}, tuned ")
            )
        for task, part in world.rows.items():
            possible = [n for n, row in enumerate(part) if max(row["scores"].values()) > 0]
            kind = next(t.kind for t in TASKS if t.name == task)
            right = [part[n]["scores"][picker(task, n)] for n in possible]
            assert group["right_when_possible"][task] == pytest.approx(
                100 * statistics.mean(float(s > 0) if kind == "probability" else s for s in right), abs=1e-3
            )
    assert groups["ZOOTER"]["shares"]["mmlu"][LLMS[0]] == 100
    verdicts = {(pair["above"], pair["below"], pair["side"]): pair for pair in found["order"]}
    assert verdicts["RouterDC", "ZOOTER", "id"]["verdict"] == "agrees" and verdicts["RouterDC", "ZOOTER", "id"][
        "paper"
    ] == pytest.approx(58.54 - 53.97, abs=0.01)
    pair = verdicts["LoraRetriever", "ZOOTER", "ood"]
    low, high = pair["interval"]
    assert pair["verdict"] == ("agrees" if low > 0 else "contradicts" if high < 0 else "open")
    assert (
        "single LLM, best on test" in text
        and "Voting cannot be computed" in text
        and not any("Voting" in key for key in verdicts)
    )


def test_an_order_that_ours_turns_round_is_said_so(world, tmp_path, capsys):
    world.write("RouterDC", "frozen", 1, lambda task, n: LLMS[2])
    world.write("ZOOTER", "frozen", 1, world.best)
    found, text = compare(world, tmp_path, "--against", "frozen")
    verdicts = {(pair["above"], pair["below"]): pair["verdict"] for pair in found["order"]}
    assert verdicts["RouterDC", "ZOOTER"] == "contradicts"
    assert (
        f"{sum(pair['verdict'] == 'contradicts' for pair in found['order'])} contradict"
        in text.split("## The paper's ordering")[1]
    )


def test_the_interval_over_seeds_is_wider_where_seeds_differ(world, tmp_path, capsys):
    for seed in range(4):
        world.write("RouterDC", "tuned", seed, world.best if seed % 2 else lambda task, n: LLMS[0])
    found, _ = compare(world, tmp_path)
    entry = next(group for group in found["groups"] if group["router"] == "RouterDC")["id"]
    (low, high), (lower, higher) = entry["interval"], entry["interval_with_seeds"]
    assert higher - lower > 1.5 * (high - low)


def test_verdicts_and_differences_are_by_the_interval_with_seeds(world, tmp_path, capsys):
    """RouterDC does as well as can be with two seeds and as badly with the third: better than ZOOTER for these seeds, but not surely for others."""

    def worst(task, number):
        scores = world.rows[task][number]["scores"]
        return min(scores, key=scores.get)

    for seed, picker in enumerate((world.best, world.best, worst)):
        world.write("RouterDC", "tuned", seed, picker)
        world.write("ZOOTER", "tuned", seed, lambda task, n: LLMS[0])
    found, text = compare(world, tmp_path)
    zooter = next(group for group in found["groups"] if group["router"] == "ZOOTER")
    low, high = (world.earned(lambda task, n: LLMS[0])[0] - world.earned(picker)[0] for picker in (world.best, worst))
    narrow, wide = zooter["id"]["difference_interval"], zooter["id"]["difference_interval_with_seeds"]
    assert (
        narrow[1] < 0 < wide[1] == pytest.approx(high, abs=8)
        and wide[0] == pytest.approx(low, abs=8)
        and wide[0] < narrow[0]
    )  # of 27 samples of the seeds one is all worst, 8 all best
    pair = next(
        pair for pair in found["order"] if (pair["above"], pair["below"], pair["side"]) == ("RouterDC", "ZOOTER", "id")
    )
    assert pair["interval"] == [-wide[1], -wide[0]] and pair["verdict"] == "open"
    row = next(line for line in text.split("## Paired")[1].splitlines() if line.startswith("| ZOOTER, tuned "))
    assert f"[{wide[0]:+.2f}, {wide[1]:+.2f}]" in row


def test_comparisons_that_cannot_be_made(world, tmp_path, capsys):
    def error(*more):
        assert report.main(["--compare", str(world.runs), "--results", str(tmp_path / "out"), *more]) == 2
        assert not (tmp_path / "out" / "comparison.md").exists()
        return capsys.readouterr().err

    world.runs.mkdir()
    assert "no finished run there" in error()
    first = world.write("RouterDC", "tuned", 1, world.best)
    assert "--against best: 0 groups of RouterDC have this recipe; it must be one of tuned" in error(
        "--against", "best"
    )
    assert "--resamples is 5" in error("--resamples", "5")
    picks = (first / "picks.json").read_text()
    (first / "picks.json").write_text(json.dumps({**json.loads(picks), "mmlu": [0]}))
    assert "picks for 1 queries of mmlu" in error()
    (first / "picks.json").unlink()
    assert "no run there has picks.json" in error()
    (first / "picks.json").write_text(picks)
    world.write("ZOOTER", "tuned", 1, world.best)
    (first.parent / "seed_1_again").mkdir()
    for name in ("results.json", "picks.json"):
        (first.parent / "seed_1_again" / name).write_bytes((first / name).read_bytes())
    assert "two runs of RouterDC, minilm, tuned, paper with the same seed" in error()
    (first.parent / "seed_1_again" / "picks.json").unlink()
    world.paths["mbpp"].write_text(world.paths["mbpp"].read_text() + "\n")
    assert "mbpp_test.json is not the file that the runs were tested on" in error()
