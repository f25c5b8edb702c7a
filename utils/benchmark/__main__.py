"""Measure what encoding costs: our way against the released way, and rates of several encoders.

python -m utils.benchmark --encoder minilm --output results/benchmark.json
python -m utils.benchmark --device cuda --rates minilm mdeberta-size --figure results/figures/growth.png
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import parse_arguments
from ..data import DataError
from ..encoders import EncoderError
from ..files import write_json
from ..plots import check_format
from ..tables import markdown
from .compare import Arguments, Way, benchmark, hardware_of, load_work, measure_memory, table
from .rates import draw_growth, growth, matmul_rate, rates, rows_of


def all_rates(args: Arguments) -> dict[str, Any]:
    """Rates of the encoders of --rates, and with --figure how their steps grow, which is drawn."""
    hardware = hardware_of(args)
    work = load_work(args, hardware.device)
    matmul = matmul_rate(hardware)
    found, curves = {}, {}
    for name in args.rates:
        way = Way("ours", replace(args, encoder=name), work, hardware)
        found[name] = rates(way, matmul, args.repeats)
        if args.figure:
            curves[name] = growth(way.encoder, hardware, args.repeats)
    result = {"matmul_teraflops": round(matmul / 1e12, 3), "rates": found}
    if args.figure:
        draw_growth(curves, hardware.describe(), args.figure)
        result["step_seconds"] = curves
    return result


def text_of(result: dict[str, Any], encoders: Sequence[str]) -> str:
    """The result as Markdown tables."""
    text = table(result)
    if encoders:
        rates_table = markdown(["our way", *encoders], rows_of(result["rates"], encoders))
        text += f"\n\nThe device's matmul rate is {result['matmul_teraflops']} TFLOP/s.\n\n{rates_table}"
    return text


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        args = parse_arguments(Arguments, arguments, "python -m utils.benchmark", __doc__)
        if args.memory_of:
            print(json.dumps(measure_memory(args)))
            return 0
        if args.figure:
            check_format(Path(args.figure), "--figure")
        result = benchmark(args, arguments)
        if args.rates:
            result |= all_rates(args)
        write_json(args.output, result)
        print(
            f"{result['encoder']}, {result['device']}, batch {args.batch_size}, "
            f"{result['mean_tokens']} tokens per training query"
        )
        print(f"\n{text_of(result, args.rates)}\n\nWritten: {args.output}")
    except (DataError, EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
