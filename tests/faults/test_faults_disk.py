"""A part of disk.py: programs on a full disk, in a read-only folder, and two at a time in one folder."""

import random
from pathlib import Path

import disk
import kills
import matplotlib.pyplot as plt
import pytest
from disk import Counts, Disk
from kills import Program

from utils.plots import save


def check(rows: list[Counts], notes: list[str]) -> None:
    assert not notes, "\n".join(notes)
    assert all(row.tried and not row.bad for row in rows)


@pytest.mark.parametrize("number", range(3))
def test_programs_name_what_they_cannot_write(tmp_path, number):
    """Convert, report, download."""
    program = list(kills.light_programs(tmp_path))[number]
    rows, notes = disk.faults(program, tmp_path, 2, random.Random(1))
    check(rows, notes)
    assert {row.name for row in rows} >= {f"{program.name}: {kind}" for kind in ("largest file", "two at a time")}


def test_training_names_what_it_cannot_write(fake, tiny_bert, tmp_path):
    """The log, the state, the checkpoint; then two trainings in one folder."""
    found = Disk(next(kills.trainings(fake, tiny_bert)), tmp_path)
    rows = [Counts("largest file"), Counts("two at a time")]
    found.largest_file(rows[0], [0, 1000, found.largest - 1])
    found.two(rows[1], [0.0])
    check(rows, found.notes)
    assert rows[0].errors == 3 and (rows[1].errors, rows[1].completed) == (1, 1)


def silent(words: list[str]) -> int:
    """Does not say which file it could not write."""
    try:
        Path("file").write_text("x" * 9000)
    except OSError as error:
        print(f"error: {error}")
        return 2
    return 0


def leaving(words: list[str]) -> int:
    """Names its file and leaves a part of it."""
    try:
        Path("file.part").write_text("x" * 9000)
        Path("file.part").rename("file")
    except OSError:
        print("error: file: cannot be written")
        return 2
    return 0


def quiet(words: list[str]) -> int:
    """Takes half of a file for the whole."""
    if not Path("file").is_file():
        silent(words)
    return 0


def raw(words: list[str]) -> int:
    Path("file").write_text("x" * 9000)
    return 0


def drawing(words: list[str]) -> int:
    """Draws a figure whose file has some 6,000 bytes."""
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    try:
        save(figure, Path("figure.pdf"))
    except OSError as error:
        print(f"error: {error}")
        return 2
    return 0


def test_a_figure_that_does_not_fit_is_named(tmp_path):
    found, row = Disk(Program("figure", drawing, []), tmp_path), Counts("largest file")
    found.largest_file(row, [0, 500, 3000, found.largest - 1])
    check([row], found.notes)
    assert row.errors == 4


@pytest.mark.parametrize("main", [silent, leaving, quiet, raw])
def test_this_test_can_find_bad_endings(tmp_path, main):
    found, row = Disk(Program("bad", main, []), tmp_path), Counts("largest file")
    found.largest_file(row, [5000])
    assert row.bad == 1 and len(found.notes) == 1
    found.largest_file(row, [10_000])
    assert row.bad == 1 and row.completed >= 1
