"""Run the checks of `checks.py` on a device, one after the other, and write their figures as JSON and as a page.

    PYTHONPATH=.:tests python tests/gpu/run.py --device cuda --output results/gpu.json

Exit status: 0 if each check passed or says why it is skipped, 1 if one failed.
"""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from checks import CHECKS, Place, Skipped

from utils.experiment import name_of
from utils.files import write_json, write_text
from utils.tables import markdown


def outcome(check: Any, place: Place) -> dict[str, Any]:
    """What became of one check: "passed", "skipped" or "failed", its figures or the reason, and its seconds."""
    begun = time.monotonic()
    try:
        found = {"status": "passed", "figures": check(place)}
    except Skipped as reason:
        found = {"status": "skipped", "reason": str(reason)}
    except Exception as error:  # the next check may pass
        traceback.print_exc()
        found = {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return found | {"seconds": round(time.monotonic() - begun, 1)}


def page(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = []
    for name, found in result["checks"].items():
        figures = found.get("figures", {})
        said = found.get("reason") or "; ".join(f"{key} {value}" for key, value in figures.items())
        rows.append([name, found["status"], f"{found['seconds']} s", said])
    return f"# Checks on {result['device']}\n\n{markdown(['check', '', 'time', 'figures'], rows)}\n"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=Path("results/gpu.json"))
    parser.add_argument("--only", nargs="+", choices=sorted(CHECKS), help="by default all")
    args = parser.parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"not run: no GPU (torch {torch.__version__} sees no CUDA device). DEVICE=cpu runs what a CPU can")
        return 0
    device = torch.device(args.device)
    result: dict[str, Any] = {"device": name_of(device), "torch": torch.__version__, "checks": {}}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device, Path(folder).resolve())
        for name, check in CHECKS.items():
            if args.only and name not in args.only:
                continue
            found = result["checks"][name] = outcome(check, place)
            print(f"{name}: {found['status']}, {found['seconds']} s", found.get("reason", ""), flush=True)
    write_json(args.output, result)
    write_text(args.output.with_suffix(".md"), page(result))
    print(f"\n{page(result)}\nWritten: {args.output}")
    return int(any(found["status"] == "failed" for found in result["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
