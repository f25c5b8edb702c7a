"""utils/meters.py and the curve drawn from it: lines that survive a resume, TensorBoard files, the speed of a run."""

import json
import os
import subprocess
import sys
import time

import matplotlib.image
import numpy as np
import pytest
from conftest import REPO

from utils import meters
from utils.meters import MetricsLog, Speed, read_metrics
from utils.plots import training_curve


def scalars(folder, name: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def write(folder, resume: int, values: dict[int, float]) -> None:
    log = MetricsLog(folder, resume)
    for step, value in values.items():
        log.write(step, {"loss": value})
    log.close()


def test_a_resume_drops_what_was_written_after_it(tmp_path):
    write(tmp_path, 0, {10: 1.0, 20: 2.0, 30: 3.0})
    time.sleep(1.1)  # TensorBoard reads files in the order of the second in their names
    write(tmp_path, 20, {30: 30.0, 40: 40.0})
    expected = {10: 1.0, 20: 2.0, 30: 30.0, 40: 40.0}
    assert {line["step"]: line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")} == expected
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    assert scalars(tmp_path, "loss") == pytest.approx(expected)


def test_a_resume_without_the_file_begins_it_again(tmp_path, capsys):
    write(tmp_path, 20, {30: 3.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 30, "loss": 3.0}]
    assert f"{tmp_path / 'metrics.jsonl'}: not there any more; it begins again after step 20" in capsys.readouterr().err


def test_a_resume_that_is_stopped_leaves_the_lines(tmp_path, monkeypatch):
    write(tmp_path, 0, {10: 1.0, 20: 2.0})
    before = (tmp_path / "metrics.jsonl").read_text()

    def half(path, text, **options):
        path.open("w").write(text[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(meters.Path, "write_text", half)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, 20)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_fresh_start_drops_everything(tmp_path):
    write(tmp_path, 0, {10: 1.0, 20: 2.0})
    write(tmp_path, 0, {5: 7.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 5, "loss": 7.0}]
    assert scalars(tmp_path, "loss") == {5: 7.0}


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": 0.5})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}]
    log.close()


def test_a_damaged_line_is_named_and_a_half_written_last_one_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]
    for line in (b'{"step": 2, "lo', b"\xff\xfe", b"[]", b"{}"):
        path.write_bytes(b'{"step": 1, "loss": 0.5}\n' + line + b'\n{"step": 3}\n')
        with pytest.raises(ValueError) as error:
            MetricsLog(tmp_path, 20)
        assert str(error.value).startswith(f"{path}, line 2: damaged, ")
        assert str(error.value).endswith("; remove that line")


def test_a_full_disk_names_the_tensorboard_folder(tmp_path):
    """In a process of its own, in which no file may have more than ten bytes."""
    lines = ["import pathlib, resource, time", "from utils.meters import MetricsLog"]
    lines += [
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, -1))",
        "try:",
        "    MetricsLog(pathlib.Path('.')).close()",
    ]
    lines += ["except OSError as error:", "    time.sleep(0.5)  # for the thread to print", "    print(error)"]
    command = [sys.executable, "-c", "\n".join(lines)]
    path = os.environ | {"PYTHONPATH": str(REPO)}
    run = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True)
    assert run.stdout == "[Errno 27] File too large: 'tensorboard'\n" and "Traceback" not in run.stderr, run.stderr


def test_speed_leaves_pauses_out(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(meters.time, "perf_counter", lambda: clock[0])
    speed = Speed()
    speed.add(30)
    clock[0] += 2
    assert speed.rate() == 15
    speed.pause()
    clock[0] += 50  # an evaluation
    speed.resume()
    speed.add(30)
    clock[0] += 2
    assert speed.rate() == 15


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"step": 10, "loss": 2.0}],
        [{"step": 5, "validation": 50.0, "validation/gsm8k": 40.0, "validation/riddles": 60.0}],
    ],
)
def test_a_curve_is_drawn_of_whatever_there_is(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    training_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png", 5)
    picture = matplotlib.image.imread(tmp_path / "curve.png")
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 3
