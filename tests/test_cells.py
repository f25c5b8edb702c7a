"""The cells of eval_scripts/score.sh: their numbers, several processes at once, killed ones, Slurm and Ray."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import REPO, score_script
from utils.tasks import LLMS

SCRIPTS = REPO / "eval_scripts"
MINIATURE = re.findall(r"mini_\w+", (SCRIPTS / "miniature.sh").read_text().split("TASKS=")[0])
SETTINGS = {
    "MODELS": " ".join(f"mini/{name}" for name in ("maths", "coder", "reader", "chinese")),
    "TASKS": " ".join(f"{task}={task}" for task in MINIATURE),
    "INCLUDE": SCRIPTS / "tasks" / "miniature",
}
CELLS = 4 * len(MINIATURE)

# A stand-in for the harness: notes when it begins and ends a cell, and waits where it is told to.
STAND_IN = """
import os, sys, time
words = sys.argv[1:]
output = words[words.index("--output_path") + 1]
def note(event):
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{event} {output}\\n")
note("begin")
time.sleep(float(os.environ.get("SLEEP", 0)))
os.makedirs(os.path.join(output, "x"), exist_ok=True)
for name in ("results_1.json", "samples_x_1.jsonl"):
    open(os.path.join(output, "x", name), "w").write("{}")
note("end")
"""


@pytest.fixture
def cells(tmp_path):
    """Starts score.sh on the miniature's cells with the stand-in."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    def start(script: str = "score.sh", flags: tuple[str, ...] = (), **settings) -> subprocess.Popen:
        own = {"LM_EVAL": f"{sys.executable} -I -S {tmp_path / 'stand_in.py'}", "OUT": tmp_path / "out"}
        own |= {"CALLS": tmp_path / "calls", "ROUTERDC_NO_VENV": "1", "SHARE": "1"} | SETTINGS | settings
        environment = os.environ | {name: str(value) for name, value in own.items()}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        return subprocess.Popen(["bash", SCRIPTS / script, *flags], env=environment, **pipes)

    return start


def events(folder: Path) -> list[tuple[str, str]]:
    """What the stand-in noted: ("begin" or "end", where the cell is written)."""
    path = folder / "calls"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until_begun(folder: Path, count: int = 1) -> None:
    deadline = time.monotonic() + 60
    while sum(event == "begin" for event, _ in events(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finished(folder: Path) -> int:
    """How many cells are whole; fails if anything else is left."""
    out = folder / "out"
    assert not [*out.rglob("*.part"), *out.rglob("*.lock")]
    return len([*out.glob("*/*/settings.txt")])


def test_a_number_stands_for_one_cell():
    every = score_script(DRY_RUN=1, CELL="").stdout.splitlines()
    listed = [
        line.split("\t")
        for line in subprocess.check_output(["bash", SCRIPTS / "score.sh", "--list"], text=True).splitlines()
    ]
    assert [int(line[0]) for line in listed] == [*range(1, 85)] and len(every) == 84
    assert [line[1] for line in listed] == [llm for llm in LLMS for _ in range(12)]
    for number in (1, 17, 84):
        run = score_script(DRY_RUN=1, CELL=number)
        assert run.stdout.splitlines() == [every[number - 1]]
        assert f"{listed[number - 1][1].replace('/', '__')}/.{listed[number - 1][2]}.part" in run.stdout
    for wrong in ("0", "85", "1-3", "x", "99999999999999999999"):
        run = score_script(DRY_RUN=1, CELL=wrong)
        assert run.returncode == 2 and f"CELL is '{wrong}'; it must be a number from 1 to 84" in run.stderr


def test_one_cell_alone_is_done_and_listed(cells, tmp_path):
    assert cells(CELL=17).wait() == 0
    assert finished(tmp_path) == 1
    listed = cells(flags=("--list",)).communicate()[0].splitlines()
    assert [line.split("\t")[0] for line in listed if line.endswith("\tdone")] == ["17"] and len(listed) == CELLS
    listed = cells(flags=("--list",), LIMIT=3).communicate()[0].splitlines()
    assert sum(line.endswith("\tother settings") for line in listed) == 1


def test_two_processes_do_every_cell_once(cells, tmp_path):
    both = [cells(SLEEP="0.01") for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    counts = Counter(events(tmp_path))
    assert len(counts) == 2 * CELLS and set(counts.values()) == {1}
    assert finished(tmp_path) == CELLS
    done = [[int(number) for number in re.findall(r"(\d+) (?:finished|done already)", text)] for text, _ in said]
    assert [sum(numbers) for numbers in done] == [CELLS, CELLS]
    assert sum(numbers[0] for numbers in done) == CELLS and all(numbers[0] for numbers in done)  # both worked


@pytest.mark.parametrize("harness_survives", [False, True])
def test_a_cell_whose_process_was_killed_is_done_by_another(cells, tmp_path, harness_survives):
    """And never beside a harness that still writes it."""
    tasks = " ".join(SETTINGS["TASKS"].split()[:2])
    settings = {"MODELS": "mini/maths", "TASKS": tasks}
    killed = cells(SLEEP="1.5", **settings)
    wait_until_begun(tmp_path)
    other = cells(**settings)
    wait_until_begun(tmp_path, 2)  # it has taken the second cell
    if harness_survives:
        killed.kill()
    else:
        os.killpg(killed.pid, signal.SIGKILL)
    text, errors = other.communicate(timeout=60)
    assert other.returncode == 0 and "2 finished" in text, errors
    first = [event for event, cell in events(tmp_path) if f".{MINIATURE[0]}.part" in cell]
    assert first == (["begin", "end", "begin", "end"] if harness_survives else ["begin", "begin", "end"])
    assert finished(tmp_path) == 2


def program(folder: Path, name: str, text: str) -> str:
    """A search path on which a program of this name comes first."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return os.pathsep.join((str(path.parent), os.environ["PATH"]))


def test_a_file_system_without_locks_is_an_error_unless_none_are_wanted(cells, tmp_path):
    path = program(tmp_path, "flock", "exit 71")
    run = cells(PATH=path, CELL=1)
    assert "takes no locks (flock exit code 71)" in run.communicate()[1] and run.returncode == 2
    assert not events(tmp_path)
    assert cells(PATH=path, CELL=1, LOCK="none").wait() == 0 and len(events(tmp_path)) == 2


# Slurm and Ray, with stand-ins


def test_a_job_of_the_slurm_array_does_its_cell(cells, tmp_path):
    path = program(tmp_path, "srun", f'echo "$@" > {tmp_path}/srun; shift; exec "$@"')
    job = cells("score_slurm.sh", SLURM_ARRAY_TASK_ID=5, SLURM_SUBMIT_DIR=REPO, PATH=path)
    assert job.wait() == 0, job.stderr.read()
    assert (tmp_path / "srun").read_text() == "--ntasks=1 bash eval_scripts/score.sh\n"
    ((_, cell), _) = events(tmp_path)
    assert cell == str(tmp_path / "out" / "mini__maths" / f".{MINIATURE[4]}.part")


def test_the_slurm_array_is_that_of_the_cells():
    text = (SCRIPTS / "score_slurm.sh").read_text()
    assert "#SBATCH --array=1-84%" in text and 84 == 7 * 12
    head = text.split("set -euo")[0].splitlines()
    assert all(line.startswith("#") for line in head)  # sbatch reads no directive behind a command


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SLURM_SUBMIT_DIR": REPO}, "SLURM_ARRAY_TASK_ID is not set"),
        ({"SLURM_SUBMIT_DIR": SCRIPTS, "SLURM_ARRAY_TASK_ID": 1}, "call sbatch from the root of the repository"),
    ],
)
def test_wrong_submissions_to_slurm(cells, settings, message):
    job = cells("score_slurm.sh", **settings)
    assert message in job.communicate()[1] and job.returncode == 2


RAY = """
printf '%s\\0' "$@" >> "$CALLS.ray"
while [[ "$1" != -- ]]; do
  if [[ "$1" == --runtime-env-json ]]; then json="$2"; fi
  shift
done
shift
cell="$(python3 -c 'import json, sys; print(json.loads(sys.argv[1])["env_vars"]["CELL"])' "$json")"
[[ "$cell" != "$BAD" ]] || exit 1
CELL="$cell" "$@"
"""


def test_ray_gets_a_job_for_each_open_cell(cells, tmp_path):
    path = program(tmp_path, "ray", RAY)
    settings = {"PATH": path, "MODELS": "mini/maths", "SHARE": "0", "JOBS": 3, "CELLS": "1 2 3 4"}
    first = cells("score_ray.sh", **settings, BAD="2")
    assert "failed: cells 2;" in first.communicate()[1] and first.returncode == 1
    assert finished(tmp_path) == 3
    (tmp_path / "calls.ray").unlink()
    second = cells("score_ray.sh", **settings, BAD="none")
    assert second.wait() == 0 and finished(tmp_path) == 4
    words = (tmp_path / "calls.ray").read_text().split("\0")
    assert words[:4] == ["job", "submit", "--entrypoint-num-gpus", "1"]
    sent = json.loads(words[words.index("--runtime-env-json") + 1])["env_vars"]
    assert sent["CELL"] == "2" and sent["MODELS"] == "mini/maths" and sent["OUT"] == str(tmp_path / "out")
    assert "HF_TOKEN" not in sent and words.count("submit") == 1


def test_ray_reserves_no_gpu_where_vllm_reserves_them():
    settings = {"DRY_RUN": "1", "CELLS": "1 3", "TP": "2", "DP": "4"}  # gsm8k_train samples, mmlu does not
    run = subprocess.run(
        ["bash", SCRIPTS / "score_ray.sh"], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    gpus = {}
    for line in run.stdout.splitlines():
        words = shlex.split(line)
        cell = json.loads(words[words.index("--runtime-env-json") + 1])["env_vars"]["CELL"]
        gpus[cell] = words[words.index("--entrypoint-num-gpus") + 1]
    assert gpus == {"1": "2", "3": "0"}
