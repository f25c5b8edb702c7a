"""Damaged and hostile data files, a quick part: tests/faults/inputs.py tries 3,000 for every loader."""

import dataclasses
import random

import inputs
import pytest


@pytest.mark.parametrize("attempt", [inputs.try_load, inputs.try_write])
@pytest.mark.parametrize("suffix", inputs.SUFFIXES)
def test_damaged_files_are_refused_by_name_or_read_as_another_reader_does(tmp_path, suffix, attempt):
    counts = inputs.run(suffix, attempt, count=120, seed=2, folder=tmp_path)
    assert counts["bad"] == 0
    assert counts["loaded"] > 15 and counts["refused"] > 30  # the inputs are neither all good nor all hopeless


def test_the_same_seed_gives_the_same_inputs():
    for suffix in inputs.SUFFIXES:
        first, again, other = (inputs.make_input(suffix, random.Random(seed)) for seed in ("1", "1", "2"))
        assert first == again != other


@pytest.mark.parametrize("suffix", inputs.SUFFIXES)
def test_other_scores_count_as_different(tmp_path, monkeypatch, suffix):
    def load_otherwise(*args, **options):
        data = load(*args, **options)
        return dataclasses.replace(data, scores=1 - data.scores)

    load = inputs.load
    monkeypatch.setattr(inputs, "load", load_otherwise)
    counts = inputs.run(suffix, inputs.try_load, count=60, seed=2, folder=tmp_path)
    assert counts["different"] > 5 and counts["bad"] == counts["different"]


def test_errors_of_libraries_and_endless_loops_are_told_from_ours(tmp_path, monkeypatch):
    def fail(error):
        def attempt():
            raise error

        return inputs.outcome(attempt, tmp_path)

    assert fail(inputs.DataError(f"{tmp_path}: why")) == "refused"
    assert fail(inputs.DataError("why")).startswith("raw")
    assert fail(ValueError(f"{tmp_path}: why")).startswith("raw: ValueError")
    monkeypatch.setattr(inputs, "LONGEST", 0.05)

    def endless():
        while True:
            pass

    assert inputs.outcome(endless, tmp_path) == "hung"
