"""Damaged files that a run keeps: the quick part of what kept.py tries."""

import random

import kept
import pytest


@pytest.mark.parametrize("part", [kept.state, kept.cache])
def test_damage_is_refused_or_mended(part, tmp_path):
    row = part(tmp_path, 60, random.Random(1))
    assert row["tried"] == 60 and row["bad"] == 0
    assert row["refused"] + row["same"] == 60
