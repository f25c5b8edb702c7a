"""`python -m utils.report --compare`: what made-up runs picked, query by query, against plain loops."""

import hashlib
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from utils.report import __main__ as report
from utils.tasks import LLMS, TASKS


@dataclass
class World:
    """Made-up test files of the paper's eight tasks and seven LLMs, and the runs that are written.

    rows: of each task's file.
    """

    rows: dict
    paths: dict
    runs: Path

    def write(self, router, label, seed, picker, llms=LLMS):
        """A finished run that picked picker(task, number of the query). Returns its folder."""
        picks, shares = {}, {}
        for task, rows in self.rows.items():
            picks[task] = [llms.index(picker(task, number)) for number in range(len(rows))]
            shares[task] = {llm: 100 * picks[task].count(llms.index(llm)) / len(rows) for llm in llms}
        digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in self.paths.values()}
        run = {
            "router": router,
            "recipe": label,
            "settings": {"encoder": "minilm", "fidelity": "paper", "seed": seed, "data": digests},
            "tests": [{"path": str(self.paths[task.name]), "kind": task.kind} for task in TASKS],
            "test": {
                "llms": list(llms),
                "in_distribution": [task.name for task in TASKS if task.in_distribution],
                "shares": shares,
            },
        }
        folder = self.runs / router / label / f"seed_{seed}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(run))
        (folder / "picks.json").write_text(json.dumps(picks))
        return folder

    def gain(self, task, number, llm):
        """What an LLM earns on a query."""
        score = self.rows[task.name][number]["scores"][llm]
        return float(score > 0) if task.kind == "probability" else score

    def earned(self, picker):
        """Average accuracy in %, in and out of distribution, by plain loops."""
        sides = {True: [], False: []}
        for task in TASKS:
            count = len(self.rows[task.name])
            values = [self.gain(task, number, picker(task.name, number)) for number in range(count)]
            sides[task.in_distribution].append(100 * statistics.mean(values))
        return {"id": statistics.mean(sides[True]), "ood": statistics.mean(sides[False])}

    def right_when_possible(self, task, picker):
        """How much is earned, in %, on the queries where some LLM has a score above 0, by plain loops."""
        values = []
        for number, row in enumerate(self.rows[task.name]):
            if max(row["scores"].values()) > 0:
                values.append(self.gain(task, number, picker(task.name, number)))
        return 100 * statistics.mean(values)

    def best(self, task, number):
        """The LLM with the highest score."""
        scores = self.rows[task][number]["scores"]
        return max(scores, key=scores.get)

    def worst(self, task, number):
        """The LLM with the lowest score."""
        scores = self.rows[task][number]["scores"]
        return min(scores, key=scores.get)


@pytest.fixture
def world(tmp_path):
    rng, rows, paths = np.random.default_rng(0), {}, {}
    for position, task in enumerate(TASKS):
        values = rng.choice([0, 0, 0.3, 0.6, 1.0], size=(30 + 5 * position, 7))
        rows[task.name] = []
        for number, row in enumerate(values):
            scores = dict(zip(LLMS, map(float, row)))
            rows[task.name].append({"question": f"{task.name} {number}", "scores": scores})
        paths[task.name] = tmp_path / f"{task.name}_test.json"
        paths[task.name].write_text(json.dumps(rows[task.name]))
    return World(rows, paths, tmp_path / "runs")


def first_llm(task, number):
    return LLMS[0]


@pytest.fixture
def compare(world, tmp_path):
    """Runs the command: compare(more flags) -> the figures and the page."""

    def compare(*more):
        command = ["--compare", str(world.runs), "--results", str(tmp_path / "out"), "--resamples", "2000", *more]
        assert report.main(command) == 0
        figures = json.loads((tmp_path / "out" / "comparison.json").read_text())
        return figures, (tmp_path / "out" / "comparison.md").read_text()

    return compare


def group_of(figures, router):
    return next(group for group in figures["groups"] if group["router"] == router)


def difference_row(text, label):
    """The row of the table of paired differences."""
    return next(line for line in text.split("## Paired")[1].splitlines() if line.startswith(f"| {label} "))


@pytest.fixture
def known(world):
    """Routers whose picks are known, written with two seeds.

    RouterDC is right wherever one can be but for every fourth query, ZOOTER always takes the first LLM; LoraRetriever
    has another order of LLMs.
    """
    pickers = {
        "RouterDC": lambda task, number: world.best(task, number) if number % 4 else LLMS[0],
        "ZOOTER": first_llm,
        "LoraRetriever": lambda task, number: LLMS[number % 7],
    }
    for router, picker in pickers.items():
        for seed in (1, 2):
            world.write(router, "tuned", seed, picker, LLMS if router != "LoraRetriever" else LLMS[::-1])
    return pickers


def test_accuracies_and_differences_of_known_routers(world, known, compare):
    figures, text = compare()
    base = world.earned(known["RouterDC"])
    for router, picker in known.items():
        group, earned = group_of(figures, router), world.earned(picker)
        assert group["seeds"] == [1, 2]
        for side, value in earned.items():
            entry, gap = group[side], value - base[side]
            assert entry["per_seed"] == pytest.approx([value, value], abs=1e-3)
            assert entry["difference"] == pytest.approx(gap, abs=1e-3)
            assert entry["interval"][0] < value < entry["interval"][1]
            low, high = entry["difference_interval"]
            if router == "RouterDC":
                assert low == high == 0 and entry["p"] == 1
            else:
                assert low < gap < high < 0 and entry["p"] < 0.01
            assert f"{gap:+.2f}" in difference_row(text, f"{router}, tuned")
        for task in TASKS:
            expected = world.right_when_possible(task, picker)
            assert group["right_when_possible"][task.name] == pytest.approx(expected, abs=1e-3)
    assert group_of(figures, "ZOOTER")["shares"]["mmlu"][LLMS[0]] == 100
    assert "single LLM, best on test" in text


def test_the_papers_order_of_known_routers(known, compare):
    figures, text = compare()
    pairs = {(pair["above"], pair["below"], pair["side"]): pair for pair in figures["order"]}
    pair = pairs["RouterDC", "ZOOTER", "id"]
    assert pair["verdict"] == "agrees" and pair["paper"] == pytest.approx(58.54 - 53.97, abs=0.01)
    pair = pairs["LoraRetriever", "ZOOTER", "ood"]
    low, high = pair["interval"]
    assert pair["verdict"] == ("agrees" if low > 0 else "contradicts" if high < 0 else "open")
    assert "Voting cannot be computed" in text and not any("Voting" in key for key in pairs)


def test_an_order_that_ours_turns_round_is_named_so(world, compare):
    world.write("RouterDC", "frozen", 1, lambda task, number: LLMS[2])
    world.write("ZOOTER", "frozen", 1, world.best)
    figures, text = compare("--against", "frozen")
    verdicts = {(pair["above"], pair["below"]): pair["verdict"] for pair in figures["order"]}
    assert verdicts["RouterDC", "ZOOTER"] == "contradicts"
    count = sum(pair["verdict"] == "contradicts" for pair in figures["order"])
    assert f"{count} contradict" in text.split("## The paper's ordering")[1]


def test_the_interval_over_seeds_is_wider_where_seeds_differ(world, compare):
    for seed in range(4):
        world.write("RouterDC", "tuned", seed, world.best if seed % 2 else first_llm)
    entry = group_of(compare()[0], "RouterDC")["id"]
    (low, high), (lower, higher) = entry["interval"], entry["interval_with_seeds"]
    assert higher - lower > 1.5 * (high - low)


def test_verdicts_and_differences_are_by_the_interval_with_seeds(world, compare):
    """RouterDC is as good as can be with two seeds and as bad with the third.

    It is better than ZOOTER for these seeds, but not surely for others.
    """
    for seed, picker in enumerate((world.best, world.best, world.worst)):
        world.write("RouterDC", "tuned", seed, picker)
        world.write("ZOOTER", "tuned", seed, first_llm)
    figures, text = compare()
    zooter = world.earned(first_llm)["id"]
    low, high = (zooter - world.earned(picker)["id"] for picker in (world.best, world.worst))
    entry = group_of(figures, "ZOOTER")["id"]
    narrow, wide = entry["difference_interval"], entry["difference_interval_with_seeds"]
    assert narrow[1] < 0 < wide[1] and wide[0] < narrow[0]
    assert wide == pytest.approx([low, high], abs=8)  # of 27 samples of the seeds one is all worst, 8 all best
    pairs = {(pair["above"], pair["below"], pair["side"]): pair for pair in figures["order"]}
    pair = pairs["RouterDC", "ZOOTER", "id"]
    assert pair["interval"] == [-wide[1], -wide[0]] and pair["verdict"] == "open"
    assert f"[{wide[0]:+.2f}, {wide[1]:+.2f}]" in difference_row(text, "ZOOTER, tuned")


def test_comparisons_that_cannot_be_made(world, tmp_path, capsys):
    def error(*more):
        assert report.main(["--compare", str(world.runs), "--results", str(tmp_path / "out"), *more]) == 2
        assert not (tmp_path / "out" / "comparison.md").exists()
        return capsys.readouterr().err

    world.runs.mkdir()
    assert "no finished run there" in error()
    first = world.write("RouterDC", "tuned", 1, world.best)
    expected = "--against best: 0 groups of RouterDC have this label; it must be one of tuned"
    assert expected in error("--against", "best")
    assert "--resamples is 5" in error("--resamples", "5")
    picks = (first / "picks.json").read_text()
    (first / "picks.json").write_text(json.dumps({**json.loads(picks), "mmlu": [0]}))
    assert "picks for 1 queries of mmlu" in error()
    for text, expected in (
        (picks[:-9], "not valid JSON"),
        ("{}", "it must be an object with "),
        (picks.replace("0", "99"), "has values that no run writes"),
        (picks.replace("0", '"a"'), "has values that no run writes"),
    ):
        (first / "picks.json").write_text(text)
        message = error()
        assert f"{first / 'picks.json'}: damaged, " in message and expected in message and "run it again" in message
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
    text = error()
    assert f"mbpp_test.json is not the file that the run {first} read" in text and "bring that file back" in text
