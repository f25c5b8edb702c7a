"""A quick part of the attacks on the sandbox; the whole is `python tests/faults/attacks.py`."""

import ast
import json
import re

import attacks

from utils.scoring import sandbox
from utils.scoring.attacks import WORDS, Attack, prepared, read_attacks, world


def test_the_strictest_mode_holds_one_attack_on_every_claim(monkeypatch, tmp_path):
    claims = {attack.against for attack in read_attacks()}
    held = claims - sandbox.NOT_HELD.keys()
    monkeypatch.setattr(attacks, "possible_modes", lambda: [sandbox.mode()])
    monkeypatch.setattr(sandbox, "tried", lambda how: dict.fromkeys(held, how.hide))
    assert attacks.main(["--count", "1", "--output", str(tmp_path / "attacks.json")]) == 0
    rows = json.loads((tmp_path / "attacks.json").read_text())["rows"]
    assert len(rows) == len(claims) and all(row["tried"] == 1 for row in rows)
    assert sum(row["stated"] for row in rows) <= len(sandbox.NOT_HELD)


def test_a_success_is_bad_only_where_the_claim_was_printed():
    wins = Attack("does nothing", "a claim", "x = 1")
    loses = Attack("fails", "a claim", "assert False")
    for claimed in (True, False):
        row = attacks.row_of("a claim", [wins, loses], {sandbox.mode(): claimed})
        assert (row["tried"], row["stated"], row["bad"]) == (2, int(not claimed), int(claimed))
        assert row[attacks.name_of(sandbox.mode())] == "1 of 2 held"
        assert row["what succeeded"] == "does nothing"


def test_all_words_are_filled_in():
    with world() as place:
        for attack in read_attacks():
            source = prepared(attack, place)
            left = [word for word in {*place.words, *WORDS["python"]} if re.search(rf"\b{word}\b", source)]
            assert not left, attack.name
            if attack.language == "python" and "left open" not in attack.name:
                ast.parse(source)
