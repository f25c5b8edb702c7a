"""Write results/faults.md from what the fault runners wrote.

PYTHONPATH=. python tests/faults/page.py
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.files import write_text
from utils.tables import EMPTY, markdown

FOLDER, PAGE = Path("results/faults"), Path("results/faults.md")
PARTS = {  # the runners, and what each of them tries
    "kills": "Programs killed at each of their file-system events and at random times, started again until they end. "
    "Every file that they leave is compared with that of an unbroken run, byte for byte but for times and paths.",
    "disk": "A full disk, folders that cannot be written, and two processes on one folder.",
    "kept": "Damaged files that a run keeps for itself: its state is refused by name, its cache is computed again.",
    "checkpoints": "Checkpoints with changed bytes, exchanged or missing files, edited settings, code or pickles. "
    "Without digests, or with digests made anew, some damage makes another router: digests are no signature.",
    "inputs": "Data files with errors of every kind, in every format, read beside an independent reader.",
    "logs": "Logs of the harness and published routing data, likewise.",
    "attacks": "Programs that try to break out of the sandbox or to pass without an answer, in each mode of it. What "
    "succeeded is stated by `python -m utils.scoring.sandbox` as not held.",
    "scale": "Seconds of one call, by the number of rows and LLMs.",
    "threads": "Seconds to embed 200 queries on all cores, by how threads wait for one another; at 60 it was stopped.",
}
HEAD = """# What was tried to break it

Made by `bash tests/faults/run.sh`; a fixed, quick part of it runs with the tests. `bad` counts what must not happen: a
file that differs after a kill, another result without a word, an error that does not name its file, a hang, a claim
of the sandbox that an attack disproved. All runs: 2 busy cores (x86_64), one thread, as root.

Known flaws of the packages are what `pip-audit -r requirements.txt` prints. Its database could not be reached where
these runs were made, so there is no result of it here.
"""


def cell(value: Any) -> str:
    """A figure for a table."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return EMPTY if value is None else str(value).replace("|", "\\|")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with their keys as columns, in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return markdown(columns, [[cell(row.get(column)) for column in columns] for row in rows])


def with_before(rows: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the seconds that the same call took in another version."""
    sizes = ("name", "rows", "llms")
    known = {tuple(row.get(key) for key in sizes): row["seconds"] for row in before}
    return [row | {"before": known.get(tuple(row.get(key) for key in sizes))} for row in rows]


def part(name: str) -> str:
    """The section of one runner."""
    result = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    rows = result["rows"]
    before = FOLDER / f"{name}_before.json"
    if before.is_file():
        rows = with_before(rows, json.loads(before.read_text(encoding="utf-8"))["rows"])
    totals = []
    for count in ("tried", "bad"):
        if any(count in row for row in rows):
            totals.append(f"{count}: {sum(row.get(count, 0) for row in rows):,}")
    made = f"`{result['command']}`, {result['seconds']:.0f} s"
    return f"## {name.capitalize()}\n\n{PARTS[name]}\n\n{table(rows)}\n\n{'; '.join([*totals, made])}\n"


def main() -> None:
    """Write the page of all runners that wrote something."""
    parts = [part(name) for name in PARTS if (FOLDER / f"{name}.json").is_file()]
    write_text(PAGE, "\n".join([HEAD, *parts]))
    print(f"{PAGE}: {len(parts)} of {len(PARTS)} parts")


if __name__ == "__main__":
    main()
