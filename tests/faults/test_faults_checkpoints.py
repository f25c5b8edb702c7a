"""tests/faults/checkpoints.py, in small: no damage to a checkpoint goes unnoticed, hangs, runs code or is a raw error.

And the runner sees what is bad, where a check is taken away.
"""

import checkpoints

from utils import checkpoint


def bad(count: int) -> dict[str, int]:
    """How many of `count` damaged checkpoints end badly, by fault."""
    with checkpoints.quietly():
        rows = checkpoints.run(count, seed=0)
    assert sum(row["tried"] for row in rows) == count
    return {row["name"]: row["bad"] for row in rows if row["bad"]}


def test_no_damage_goes_unnoticed():
    assert bad(180) == {}


def test_the_runner_sees_damage_that_goes_unnoticed(monkeypatch):
    monkeypatch.setattr(checkpoint, "check_files", lambda *args: None)
    assert any(name.endswith("with digests") for name in bad(90))


def test_the_runner_sees_code_that_runs_hangs_and_raw_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def raw(folder):
        raise KeyError("llms")

    def nameless(folder):
        raise checkpoint.CheckpointError("it is damaged")

    def run_code(folder):
        (tmp_path / "ran").mkdir()
        raise checkpoint.CheckpointError(str(folder))

    def hang(folder):
        while True:
            pass

    monkeypatch.setattr(checkpoints, "SECONDS", 1)
    for load, expected in (
        (raw, "raw error: KeyError: 'llms'"),
        (nameless, "error without the file: it is damaged"),
        (hang, "hang"),
        (run_code, "code ran"),
    ):
        monkeypatch.setattr(checkpoints, "routed", load)
        assert checkpoints.outcome(tmp_path, ([], {})) == expected
