"""All attacks on the sandbox, in each mode that this machine has, and what came of them.

    PYTHONPATH=. python tests/faults/attacks.py --output attacks.json

The programs stand in utils/scoring/attacks.txt. An attack is "held" if it came to nothing, "stated" if it succeeded
where `python -m utils.scoring.sandbox` prints NO, and "bad" if it succeeded where that prints yes.
"""

import os
import sys
import time
from collections.abc import Sequence

from runner import command_line, finish

from utils.scoring import sandbox
from utils.scoring.attacks import Attack, read_attacks, succeeds
from utils.scoring.sandbox import Mode, Program, SandboxError


def name_of(how: Mode) -> str:
    """A mode in words."""
    if not how.namespaces:
        return "limits alone" + (", as nobody" if how.drop else "")
    words = ["user namespace" if how.user else "namespaces"]
    words += ["as nobody"] * how.drop + ["all files visible"] * (not how.hide)
    return ", ".join(words)


def possible_modes() -> list[Mode]:
    """The modes that work here; never root as itself without namespaces, whom nothing would hold."""
    possible = []
    for how in sandbox._modes():
        if os.getuid() == 0 and not how.namespaces and not how.drop:
            continue
        try:
            if sandbox.run(Program("python", "x = 1"), 30, 512, how).passed:
                possible.append(how)
        except SandboxError:
            pass
    return possible


def won(how: Mode, attacks: Sequence[Attack]) -> list[str]:
    """The names of those that succeed in a mode."""

    def run(language: str, source: str, seconds: float, megabytes: int) -> bool:
        return sandbox.run(Program(language, source), seconds, megabytes, how).passed

    return [attack.name for attack in attacks if succeeds(attack, run)]


def row_of(claim: str, attacks: Sequence[Attack], claimed: dict[Mode, bool]) -> dict:
    """What came of the attacks on one claim. claimed: the modes, and whether it was printed as held there."""
    winners = {how: won(how, attacks) for how in claimed}
    held = {name_of(how): f"{len(attacks) - len(names)} of {len(attacks)} held" for how, names in winners.items()}
    bad = sum(len(names) for how, names in winners.items() if claimed[how])
    stated = sum(map(len, winners.values())) - bad
    names = dict.fromkeys(name for names in winners.values() for name in names)
    row = {"name": claim, "tried": len(attacks) * len(claimed)} | held
    return row | {"stated": stated, "bad": bad, "what succeeded": "; ".join(names)}


def rows(modes: Sequence[Mode], attacks: Sequence[Attack], most: int) -> list[dict]:
    """A row for each claim; most: attacks on each in each mode, 0 for all."""
    printed, found = {how: sandbox.tried(how) for how in modes}, []
    for claim in dict.fromkeys(attack.against for attack in attacks):
        chosen = [attack for attack in attacks if attack.against == claim][: most or None]
        found.append(row_of(claim, chosen, {how: printed[how].get(claim, False) for how in modes}))
        print("{name}: {tried} tried, {stated} stated, {bad} bad".format(**found[-1]), flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 if nothing is bad."""
    args = command_line(__doc__, 0, "attacks on each claim in each mode, 0 for all").parse_args(argv)
    begun = time.monotonic()
    return finish(__file__, argv, args, begun, rows(possible_modes(), read_attacks(), args.count))


if __name__ == "__main__":
    sys.exit(main())
