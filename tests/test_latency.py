"""python -m utils.latency: agreement against a naive loop, times that add up, its page, and its errors."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import FakeData
from test_onnx import ABOUT, make_checkpoint

from utils import checkpoint, onnx_export, route
from utils.latency import speed
from utils.latency.__main__ import main
from utils.latency.page import page
from utils.latency.ways import IN_INT8, REFERENCE, sample, test_files, ways_of
from utils.router import Router

test_files.__test__ = False  # it is no test


@pytest.fixture(scope="module")
def exported(fake: FakeData, tiny_bert, tmp_path_factory) -> Path:
    """A checkpoint with random weights and graphs, whose config names the made-up test files."""
    folder = make_checkpoint(tmp_path_factory.mktemp("latency") / "bert", tiny_bert, "mean", "cos", True)
    model, _ = checkpoint.load(folder)
    kinds = {"gsm8k": "multi_attempt", "arc_challenge": "probability", "mbpp": "multi_attempt"}
    tests = [{"path": str(path), "kind": kinds[task]} for task, path in fake.test.items()]
    settings = ABOUT["settings"] | {"data_paths": [str(path) for path in fake.train.values()]}
    checkpoint.save(model, folder, ABOUT | {"tests": tests, "settings": settings})
    assert onnx_export.main(["--ckpt", str(folder), "--int8", "avx512_vnni"]) == 0
    return folder


def latency(folder: Path, output: Path, *flags: str) -> dict:
    """What the command writes for a checkpoint."""
    small = "--queries 64 --rounds 2 --singles 3 --threads 1 --training_queries 30".split()
    cache = ["--cache_dir", str(output.parent / "cache")]
    assert main(["--ckpt", str(folder), *small, *cache, "--output", str(output), *flags]) == 0
    return json.loads(output.read_text())


def test_agreement_is_that_of_a_naive_loop(exported, tmp_path, capsys):
    found = latency(exported, tmp_path / "latency.json", "--parts", "agreement")
    agreement = found["parts"]["agreement"]["checkpoints"][str(exported)]
    assert agreement["queries"] == 140
    reference = Router.from_pretrained(exported, precision="fp32")
    for name, options in ways_of(exported).items():
        router, equal, right = Router.from_pretrained(exported, **options), [], {}
        for data in test_files(str(exported)):
            picks = router.route(data.questions, data.llms)
            equal += [pick == other for pick, other in zip(picks, reference.route(data.questions, data.llms))]
            gained = []
            for pick, scores in zip(picks, data.scores):
                score = scores[data.llms.index(pick)]
                gained.append(float(score > 0) if data.kind == "probability" else score)
            right[data.task] = 100 * np.mean(gained)
        assert agreement["ways"][name]["equal_picks"] == pytest.approx(100 * np.mean(equal))
        assert agreement["ways"][name]["tasks"] == pytest.approx(right, abs=1e-3)
    assert agreement["ways"][REFERENCE]["equal_picks"] == 100
    assert "of 140 queries" in capsys.readouterr().out.lower()
    computed = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert latency(exported, tmp_path / "latency.json", "--parts", "agreement")["parts"]["agreement"]["checkpoints"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == computed


def test_some_of_the_test_queries(exported):
    whole, some = test_files(str(exported)), test_files(str(exported), 30, seed=2)
    assert sum(map(len, some)) == 30 and test_files(str(exported), 1000)[0].questions == whole[0].questions
    known = {data.task: dict(zip(data.questions, data.scores.tolist())) for data in whole}
    for data in some:
        for question, scores in zip(data.questions, data.scores.tolist()):
            assert known[data.task][question] == scores
    questions = whole[0].questions
    assert sample(questions, 5, 1) == sample(questions, 5, 1) != sample(questions, 5, 2)
    assert sorted(sample(questions, 1000, 1)) == sorted(questions)


def test_times_and_the_page(exported, tmp_path):
    output = tmp_path / "latency.json"
    latency(exported, output, "--parts", "quantisation")
    found = latency(exported, output, "--parts", "speed")
    assert set(found["parts"]) == {"quantisation", "speed"}  # the first stays
    ways = found["parts"]["speed"]["threads"]["1"]
    assert list(ways) == list(ways_of(exported))
    for way in ways.values():
        one = way["one"]
        assert 0 < one["least"] <= one["median"] <= one["p95"] <= one["p99"]
        assert 0.2 * 64 / way["per_second"] < way["together"]["least"] / 1000 < 5 * 64 / way["per_second"]
    rows = found["parts"]["quantisation"]["ways"]
    assert all(50 < row["equal_picks"] <= 100 for row in rows) and len(rows) == 6
    text = output.with_suffix(".md").read_text()
    assert text == page(found)
    for name in ways:
        assert f"| {name} " in text
    ratio = ways[IN_INT8]["per_second"] / ways["torch bf16"]["per_second"]
    assert f"{ratio:.2f} times the queries per second" in text


def test_timings_are_of_the_clock_and_of_the_cpu():
    clock, cpu = speed.timed(lambda: time.sleep(0.2))
    assert 0.2 <= clock < 5 and cpu < 0.1
    made = speed.summary([(0.001 * number, 0.002) for number in range(1, 102)])
    assert made == pytest.approx({"median": 51, "p95": 96, "p99": 100, "least": 1, "cpu_median": 2})


def test_fresh_processes(exported, tmp_path):
    """The command line is one that `utils.route` reads; one that fails is an error."""
    for way in ways_of(exported).values():
        command = speed.command_of(str(exported), way, "a river?")
        args = route.parser().parse_args(command[3:])
        assert args.questions == ["a river?"] and args.backend == way["backend"] and args.file == way.get("file")
    clock, cpu = speed._timed_process(speed.command_of(str(exported), ways_of(exported)[IN_INT8], "a river?"))
    assert 0 < cpu < 2 * clock + 1
    with pytest.raises(ValueError, match="exit status 2: error: "):
        speed._timed_process(speed.command_of(str(tmp_path), {}, "a river?"))


def test_errors(exported, tmp_path, capsys):
    output = tmp_path / "latency.json"
    output.write_text("{")

    def error(folder: Path) -> str:
        assert main(["--ckpt", str(folder), "--output", str(output)]) == 2
        return capsys.readouterr().err

    assert "latency.json: damaged" in error(exported)
    assert "no checkpoint there" in error(tmp_path / "none")
    without = Path(shutil.copytree(exported, tmp_path / "without", ignore=shutil.ignore_patterns("model_q*")))
    assert f"python -m utils.onnx_export --ckpt {without} --int8 avx512_vnni" in error(without)
    assert output.read_text() == "{"
