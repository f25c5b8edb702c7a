"""What the runners of this folder share: their flags, and the JSON file of what they counted."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def command_line(description: str, count: int, what: str, seed: int | None = None) -> argparse.ArgumentParser:
    """A parser with --count, --output and, if something is drawn, --seed. what: is counted by --count."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count, help=what)
    if seed is not None:
        parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    return parser


def finish(
    script: str, argv: Sequence[str] | None, args: argparse.Namespace, begun: float, rows: Sequence[dict[str, Any]]
) -> int:
    """Write what a runner counted; returns its exit status, which is 1 if any row is bad.

    script: its file. argv: its flags as words, None for those of the command line. args: the same, parsed. begun: by
    time.monotonic.
    """
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    drawn = {"seed": args.seed} if hasattr(args, "seed") else {}
    result = {
        "command": f"PYTHONPATH=. python tests/faults/{Path(script).name} {words}",
        "seconds": round(time.monotonic() - begun, 1),
        **drawn,
        "rows": list(rows),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    bad = sum(row.get("bad", 0) for row in rows)
    print(f"{args.output}: {len(rows)} rows, {bad} bad")
    return int(bad > 0)
