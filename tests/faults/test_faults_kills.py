"""A part of kills.py: programs that are killed leave, once they have been started again, what nobody stopped leaves."""

import os
import random
import signal
from pathlib import Path

import kills
import pytest
from kills import Attempts, Kill, Program

from utils.files import atomic_folder, remove_folder, writable_folder, write_json


def check(attempts: Attempts) -> None:
    assert attempts.counts.kills > 0 and attempts.counts.resumes == attempts.counts.tried
    assert not attempts.notes, "\n".join(attempts.notes)


def test_training_goes_on_after_kills(fake, tiny_bert, tmp_path):
    """At some events of all its parts: cache, state, log, checkpoint, tables."""
    program = next(kills.trainings(fake, tiny_bert))
    attempts = Attempts(program, tmp_path)
    count = len(attempts.events)
    assert count > 80
    for place, event in enumerate(range(1, count, count // 4)):
        attempts.attempt([Kill(kills.SIGNALS[place % 3], event)])
    attempts.attempt([Kill(signal.SIGKILL, event) for event in (count // 3, count // 4, count // 5)])
    attempts.attempt([Kill(signal.SIGKILL, attempts.events.rindex("r") + 1, torn=True)])
    check(attempts)


@pytest.mark.parametrize("number", range(3))
def test_programs_begin_again_after_kills(tmp_path, number):
    """Convert, report, download."""
    attempts = Attempts(list(kills.light_programs(tmp_path))[number], tmp_path)
    attempts.at_events(random.Random(1).sample(range(1, len(attempts.events) + 1), 4))
    check(attempts)


def half_written(words: list[str]) -> int:
    """Writes a file in two steps, and never again once it is there."""
    if not Path("file.json").is_file():
        Path("file.json").write_text("[1]")
        os.mkdir("folder")
        Path("file.json").write_text("[1, 2]")
    return 0


def leaving(words: list[str]) -> int:
    """Leaves a temporary file if it is killed."""
    Path(f"{os.getpid()}.part").write_text("[]")
    os.rename(f"{os.getpid()}.part", "file.json")
    return 0


def failing(words: list[str]) -> int:
    """Cannot be started again."""
    os.mkdir("folder")
    os.mkdir("other")
    return 0


@pytest.mark.parametrize(
    ("main", "event", "bad"), [(half_written, 2, 1), (leaving, 2, 1), (failing, 2, 1), (leaving, 1, 0)]
)
def test_this_test_can_find_what_a_kill_spoils(tmp_path, main, event, bad):
    attempts = Attempts(Program("bad", main, []), tmp_path)
    attempts.attempt([Kill(signal.SIGKILL, event)])
    assert attempts.counts.kills == 1 and len(attempts.notes) == bad


def proving(words: list[str]) -> int:
    writable_folder(Path("folder"), "--output")
    return 0


def writing(words: list[str]) -> int:
    write_json(Path("a.json"), [1])
    write_json(Path("b.json"), [2])
    return 0


def exchanging(words: list[str]) -> int:
    for number in range(2):
        with atomic_folder(Path("folder")) as folder:
            (folder / "file").write_text(f"{number}")
    remove_folder(Path("other"))
    return 0


@pytest.mark.parametrize("main", [proving, writing, exchanging])
def test_nothing_is_left_by_a_kill_at_any_event(tmp_path, main):
    attempts = Attempts(Program("files", main, []), tmp_path)
    attempts.at_events(list(range(1, len(attempts.events) + 1)))
    check(attempts)
