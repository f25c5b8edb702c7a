"""The second route for code: saved generations of bigcode-evaluation-harness, judged; and the script that drives it,
with a stand-in.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPO
from utils.scoring import bigcode

PROBLEMS = {  # language: generations[problem][sample], references[problem], what must come out
    "python": (
        [
            [
                "def add(a, b):\n    return a + b\n",
                "def add(a, b):\n    return a - b\n",
                "def add(a, b):\n    return b + a\n",
            ],
            [
                "def half(a):\n    return a // 2\n",
                "def half(a):\n    return a / 2\n",
                "def half(a):\n    raise SystemExit(0)\n",
            ],
            ["def one():\n    return 2\n", "def one()\n", "import os\nos._exit(0)\n"],
        ],
        [
            "\ndef check(f):\n    assert f(1, 2) == 3\n\ncheck(add)",
            "assert half(4) == 2\nassert half(3) == 1",
            "assert one() == 1",
        ],
        [[True, False, True], [True, False, False], [False, False, False]],
    ),
    "javascript": (
        [
            ["const add = (a, b) => {\n  return a + b;\n}\n", "const add = (a, b) => {\n  return a - b;\n}\n"],
            ["const two = () => {\n  return 2;\n}\n", "const two = () => {\n  process.exit(0);\n}\n"],
        ],
        ["const test = () => {\n  console.assert(add(1, 2) === 3);\n}\n\ntest();\n", "console.assert(two() === 2);"],
        [[True, False], [True, False]],
    ),
}


needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
LANGUAGES = ("python", pytest.param("javascript", marks=needs_node))


@pytest.fixture
def saved(tmp_path):
    """Writes the two files as that harness names them, and gives the arguments of the command."""

    def write(language: str, generations=None, references=None) -> list[str]:
        texts, tests, _ = PROBLEMS[language]
        paths = [tmp_path / f"{what}_{language}.json" for what in ("generations", "references")]
        for path, value in zip(
            paths, (texts if generations is None else generations, tests if references is None else references)
        ):
            path.write_text(value if isinstance(value, str) else json.dumps(value))
        names = [
            "--task",
            language,
            "--llm",
            "org/llm",
            "--output",
            str(tmp_path / "verdicts.json"),
            "--language",
            language,
        ]
        return ["--generations", str(paths[0]), "--references", str(paths[1]), *names]

    return write


@pytest.mark.parametrize("language", LANGUAGES)
def test_verdicts_and_scores_by_problem(saved, tmp_path, language, capsys):
    arguments = saved(language)
    assert bigcode.main([*arguments, "--run_code", "--workers", "2"]) == 0
    found = json.loads((tmp_path / "verdicts.json").read_text())
    texts, tests, expected = PROBLEMS[language]
    assert found["passed"] == expected
    assert found["scores"] == [sum(row) / len(row) for row in expected]
    assert (found["task"], found["llm"], found["language"]) == (language, "org/llm", language)
    assert found["generations_sha256"] == hashlib.sha256(open(arguments[1], "rb").read()).hexdigest()
    assert f"{len(texts)} problems with {len(texts[0])} samples each" in capsys.readouterr().out
    # Another judge, without the sandbox: run the file, and look at the exit code and for JavaScript at what it prints.
    # It is taken in by a
    # program that leaves early, which is the one difference.
    for problem, (samples, test) in enumerate(zip(texts, tests)):
        for number, text in enumerate(samples):
            early = any(word in text for word in ("SystemExit", "_exit", "process.exit"))
            command = [sys.executable, "-c"] if language == "python" else ["node", "-e"]
            run = subprocess.run([*command, f"{text}\n{test}\n"], capture_output=True, text=True)
            naive = run.returncode == 0 and not (language == "javascript" and run.stdout + run.stderr)
            assert expected[problem][number] == (naive and not early), text


def test_nothing_runs_without_consent(saved, tmp_path, capsys):
    texts = [[f"open({str(tmp_path / 'ran')!r}, 'w')"]]
    assert bigcode.main(saved("python", texts, ["pass"])) == 2
    error = capsys.readouterr().err
    assert "1 programs that LLMs wrote must be run" in error and "--run_code" in error
    assert not (tmp_path / "ran").exists() and not (tmp_path / "verdicts.json").exists()


def test_stopped_judging_goes_on(saved, tmp_path, monkeypatch):
    arguments = [*saved("python"), "--run_code"]
    assert bigcode.main(arguments) == 0
    store = tmp_path / "verdicts.verdicts.jsonl"
    lines, whole = store.read_text().splitlines(keepends=True), (tmp_path / "verdicts.json").read_text()
    assert len(lines) == 9
    store.write_text("".join(lines[:6]) + lines[6][:20])  # as if killed in the middle of a line
    seen, judge = [], bigcode.verdicts.__globals__["judge"]
    monkeypatch.setitem(
        bigcode.verdicts.__globals__, "judge", lambda programs, *rest: seen.extend(programs) or judge(programs, *rest)
    )
    assert bigcode.main(arguments) == 0 and len(seen) == 3
    assert (tmp_path / "verdicts.json").read_text() == whole
    assert bigcode.main(arguments[:-1]) == 0 and len(seen) == 3  # all verdicts are known: no consent needed


BAD = {
    "other counts": ([["a"], ["b"]], ["t"], "has 2 problems and .* 1"),
    "a lost sample": ([["a", "b"], ["c"]], ["t", "t"], "problem 1: 1 samples, but problem 0 has 2"),
    "no list": ({"0": ["a"]}, ["t"], "expected a list .* found dict"),
    "nothing": ([], [], "found an empty list"),
    "not text": ([["a"], [3]], ["t", "t"], r"problem 1: expected a list of programs"),
    "no tests": ([["a"]], [""], "problem 0: expected the tests as text"),
    "cut off": ('[["a"], ["b', ["t", "t"], "not valid JSON .* truncated"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(saved, tmp_path, name, capsys):
    generations, references, message = BAD[name]
    assert bigcode.main([*saved("python", generations, references), "--run_code"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "verdicts.json").exists()


def test_missing_file(saved, tmp_path, capsys):
    arguments = saved("python")
    os.remove(arguments[3])
    assert bigcode.main([*arguments, "--run_code"]) == 2
    words = "references_python.json: no such file; bigcode-evaluation-harness writes it with --save_references"
    assert words in capsys.readouterr().err


# A stand-in for the checkout: it takes the arguments that the script gives and writes files where that harness does.
STAND_IN = """
import argparse, json, os, sys
p = argparse.ArgumentParser()
for name in ("model", "tasks", "n_samples", "do_sample", "temperature", "max_length_generation", "batch_size",
             "precision", "save_generations_path", "limit", "prompt"):
    p.add_argument(f"--{name}")
for name in ("generation_only", "save_generations", "save_references"):
    p.add_argument(f"--{name}", action="store_true")
args = p.parse_args()
if args.model == "org/broken":
    sys.exit("no such model")
assert args.generation_only and args.save_generations and args.save_references
assert args.do_sample == "True" and args.temperature == "0.2"
assert (args.prompt == "continue") == args.tasks.endswith("-js")
js = args.tasks.endswith("-js")
generations = [["const a = 1;", "const a = 2;"] * 5] if js else [["a = 1", "a = 2"] * 5]
json.dump(generations, open(f"{os.path.splitext(args.save_generations_path)[0]}_{args.tasks}.json", "w"))
json.dump(["console.assert(a === 1);" if js else "assert a == 1"], open(f"references_{args.tasks}.json", "w"))
"""


@pytest.fixture
def script(tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "main.py").write_text(STAND_IN)

    def run(**settings):
        own = {
            "ROUTERDC_NO_VENV": "1",
            "BIGCODE": str(checkout),
            "BIGCODE_PYTHON": sys.executable,
            "OUT": str(tmp_path / "out"),
            "MODELS": "org/a",
        }
        path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
        environment = os.environ | {"PATH": path} | own | settings
        return subprocess.run(
            ["bash", str(REPO / "eval_scripts" / "bigcode.sh")],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )

    return run


def test_the_script_generates_judges_and_goes_on(script, tmp_path):
    run = script()
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "out" / "org__a"
    assert not list(folder.rglob("verdicts*")), "nothing runs without RUN_CODE=1"
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("generations_*.json")}
    assert len(times) == 3
    tasks = ("humaneval", "mbpp", "humanevalsynthesize-js")[: 3 if shutil.which("node") else 2]
    run = script(RUN_CODE="1", TASKS=" ".join(tasks))
    assert run.returncode == 0 and run.stdout.count("generated already") == len(tasks), run.stderr
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for task in tasks:
        assert json.loads((folder / task / "verdicts.json").read_text())["passed"] == [[True, False] * 5]


def test_the_script_reports_a_failure_and_goes_on_with_the_others(script, tmp_path):
    run = script(MODELS="org/broken org/a", TASKS="humaneval")
    assert run.returncode == 1 and "failed: org/broken humaneval" in run.stderr and "no such model" in run.stderr
    assert (tmp_path / "out" / "org__a" / "humaneval").is_dir() and not (
        tmp_path / "out" / "org__broken" / "humaneval"
    ).exists()
    run = script(TASKS="humaneval", LIMIT="3")
    assert run.returncode == 1 and "other settings" in run.stderr


def test_the_script_without_a_checkout(script, tmp_path):
    run = script(BIGCODE="")
    assert run.returncode == 2 and "BIGCODE is not set" in run.stderr
    run = script(BIGCODE=str(tmp_path))
    assert run.returncode == 2 and "has no main.py" in run.stderr
    run = script(BIGCODE_PYTHON="no-such-python")
    assert run.returncode == 2
    assert "BIGCODE_PYTHON is 'no-such-python', which is no command" in run.stderr
    assert not (tmp_path / "out").exists()
    run = script(TASKS="humaneval ruby", DRY_RUN="1")
    assert run.returncode == 2 and "TASKS has 'ruby'" in run.stderr


def test_each_interpreter_does_its_own_work(tmp_path):
    """The harness is run by the caller's interpreter, though its folder is another one and the judge's environment has
    a `python` of its own.
    """
    for name in ("eval_scripts", "train_scripts", "checkout", "harness", "judge"):
        (tmp_path / name).mkdir()
    for name in ("bigcode.sh", "common.sh"):
        shutil.copy(REPO / "eval_scripts" / name, tmp_path / "eval_scripts")
    (tmp_path / "train_scripts" / "env.sh").write_text('PATH="$PWD/judge:$PATH"\n')
    (tmp_path / "checkout" / "main.py").write_text(STAND_IN)
    for name, line in (("harness", f'exec {sys.executable} "$@"'), ("judge", "")):
        path = tmp_path / name / "python"
        path.write_text(f'#!/bin/sh\necho "$2" >> "{tmp_path / name / "calls"}"\n{line}\n')
        path.chmod(0o755)
    path = os.pathsep.join((str(tmp_path / "harness"), os.environ["PATH"]))
    environment = os.environ | {"PATH": path, "BIGCODE": "checkout", "OUT": "out", "RUN_CODE": "1", "MODELS": "org/a"}
    command = ["bash", str(tmp_path / "eval_scripts" / "bigcode.sh")]
    for task, name in (("humaneval", "python"), ("mbpp", "harness/python")):  # by its name, and by a path from the root
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment | {"TASKS": task, "BIGCODE_PYTHON": name},
            cwd=tmp_path,
        )
        assert run.returncode == 0, run.stderr
        assert (tmp_path / "out" / "org__a" / task / f"generations_{task}.json").is_file()
    assert (tmp_path / "harness" / "calls").read_text().split() == ["--model"] * 2
    assert (tmp_path / "judge" / "calls").read_text().split() == ["utils.scoring.bigcode"] * 2


def test_dry_run_of_the_script(script, tmp_path):
    run = script(DRY_RUN="1", RUN_CODE="1")
    assert run.returncode == 0 and not (tmp_path / "out").exists()
    assert run.stdout.count("--n_samples 10 --do_sample True --temperature 0.2") == 3
    assert run.stdout.count("--prompt continue") == 1
    assert run.stdout.count("python -m utils.scoring.bigcode") == 3 and run.stdout.count("--run_code") == 3
