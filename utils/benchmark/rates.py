"""Rates of one encoder on one device: training, evaluation, embedding, routing; and how a step's cost grows."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from ..encoders import Encoder, Ragged, embed
from ..experiment import Hardware, on_device
from ..losses import sample_llm_loss
from ..meters import bar
from ..model import RouterDC
from ..plots import GRID, save
from .compare import Way, forget_peak, peak_mb, waiting

LENGTHS, BATCHES, LLMS = (16, 32, 64, 128, 256, 512), (1, 4, 16, 64), (7, 100, 1000)
USUAL = {"length": 64, "batch": 16, "llms": 7}  # what stays while one of the three grows
PERCENTILES = {"median": 50, "p95": 95, "p99": 99}


def seconds_of(job: Callable[[], Any], device: torch.device, repeats: int) -> np.ndarray:
    """Seconds of each of some repeats of a job, after one for warming up."""
    wait, seconds = waiting(device), []
    for _ in range(1 + repeats):
        wait()
        begun = time.perf_counter()
        job()
        wait()
        seconds.append(time.perf_counter() - begun)
    return np.array(seconds[1:])


def matmul_rate(hardware: Hardware) -> float:
    """What the device reaches in products of square matrices, in FLOP/s, in the precision of the encoder."""
    size = 8192 if hardware.device.type == "cuda" else 1024
    a = torch.randn(size, size, device=hardware.device, dtype=hardware.dtype)
    return 2 * size**3 / float(np.median(seconds_of(lambda: a @ a, hardware.device, 10)))


def forward_flops(encoder: Encoder, lengths: np.ndarray) -> float:
    """FLOP that a forward pass over rows of these lengths (n,) needs, padding left out.

    For each token two for every weight of the layers, and 4 L p in each layer for the products of attention; DeBERTa's
    with 2 L - 1 relative positions, twice, add 8 L p.
    """
    layers = encoder.backbone.encoder.layer
    weights = sum(value.numel() for value in layers.parameters() if value.ndim == 2)
    attention = 12 if encoder.backbone.config.model_type == "deberta-v2" else 4
    lengths = lengths.astype(np.float64)
    return float(2 * weights * lengths.sum() + attention * len(layers) * encoder.hidden_size * (lengths**2).sum())


def rates(way: Way, matmul: float, repeats: int) -> dict[str, Any]:
    """Figures of one encoder, our way.

    matmul: of the device, FLOP/s, which the shares are of. repeats: steps measured of each kind; of one routed query 20
    times as many.
    """
    hardware, work = way.hardware, way.work
    forget_peak(hardware.device)
    result: dict[str, Any] = {"millions_of_values": round(sum(v.numel() for v in way.encoder.parameters()) / 1e6, 1)}
    batch_lengths = way.queries.inputs.lengths[work.batches[1]]
    tests = np.arange(len(work.tests))
    tokens = way.encoder.tokenize(work.tests)
    on_the_device = tokens.to(hardware.device)

    @torch.no_grad()
    def embed_tests() -> None:
        embed(way.encoder, on_the_device, tests, hardware)

    def evaluate_next(chosen: Iterator[np.ndarray]) -> None:
        way.evaluate(next(chosen))

    jobs = {  # what is done, to rows of which lengths, and how many forward passes that is worth
        "training": (partial(way.train, 1), batch_lengths, 3),
        "evaluation": (partial(way.evaluate, tests), tokens.lengths, 1),
        "embedding": (embed_tests, tokens.lengths, 1),
    }
    for name, (job, lengths, passes) in jobs.items():
        seconds = float(np.median(seconds_of(job, hardware.device, repeats)))
        flops = passes * forward_flops(way.encoder, lengths)
        result[name] = {
            "queries_per_second": round(len(lengths) / seconds, 1),
            "tokens_per_second": round(float(lengths.sum()) / seconds),
            "share_of_matmul_rate": round(flops / seconds / matmul, 3),
        }
    for count, times in ((1, 20 * repeats), (64, repeats)):
        chosen = iter(np.resize(tests, (1 + times) * count).reshape(-1, count))
        seconds = seconds_of(partial(evaluate_next, chosen), hardware.device, times)
        figures = {key: round(1000 * float(np.percentile(seconds, at)), 2) for key, at in PERCENTILES.items()}
        result[f"route_{count}_ms"] = figures
    return result | {"peak_memory_mb": round(peak_mb(hardware.device))}


def step_seconds(encoder: Encoder, hardware: Hardware, length: int, batch: int, llms: int, repeats: int) -> float:
    """Median seconds of a forward and backward pass over `batch` rows of `length` random tokens."""
    random = np.random.default_rng(0)
    values = random.integers(1, encoder.backbone.config.vocab_size, batch * length, dtype=np.int32)
    rows = Ragged(on_device(values, hardware.device), np.full(batch, length))
    scores = on_device(random.random((batch, llms), dtype=np.float32), hardware.device)
    model = RouterDC(encoder, [f"llm {number}" for number in range(llms)]).to(hardware.device)

    def step() -> None:
        similarity = model(embed(encoder, rows, np.arange(batch), hardware))[1]
        sample_llm_loss(similarity, scores).mean().backward()
        model.zero_grad(set_to_none=True)

    return float(np.median(seconds_of(step, hardware.device, repeats)))


def growth(encoder: Encoder, hardware: Hardware, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of a step by length, batch and number of LLMs, each alone beside the USUAL others."""
    axes = {"length": LENGTHS, "batch": BATCHES, "llms": LLMS}
    found: dict[str, dict[str, float]] = {name: {} for name in axes}
    with bar(sum(map(len, axes.values())), "growth", "size") as progress:
        for name, sizes in axes.items():
            for size in sizes:
                sizes_now = USUAL | {name: size}
                found[name][str(size)] = step_seconds(encoder, hardware, **sizes_now, repeats=repeats)
                progress.update()
    return found


def draw_growth(curves: dict[str, dict[str, dict[str, float]]], device: str, target: Path) -> None:
    """A panel for each size that grows, a line for each encoder; seconds relative to the smallest size."""
    labels = {"length": "tokens of a query", "batch": "queries of a batch", "llms": "LLMs"}
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    for panel, (name, label) in zip(panels, labels.items()):
        for (encoder, found), marker in zip(curves.items(), "osv^"):
            sizes = [int(size) for size in found[name]]
            seconds = np.array(list(found[name].values()))
            panel.plot(sizes, seconds / seconds[0], marker=marker, label=encoder)
        panel.set(xscale="log", yscale="log", xlabel=label, xticks=sizes, xticklabels=sizes)
        panel.minorticks_off()
        panel.grid(**GRID)
    panels[0].set_ylabel("seconds of a step, smallest = 1")
    panels[0].legend()
    figure.suptitle(f"Cost of a training step, {device}")
    save(figure, target)


def rows_of(found: dict[str, dict[str, Any]], encoders: Sequence[str]) -> list[list[str]]:
    """Rows of a Markdown table of `rates`, a column for each encoder."""
    rows = []
    for phase in ("training", "evaluation", "embedding"):
        for key, form in (("queries_per_second", "{:.1f}"), ("tokens_per_second", "{:.0f}")):
            rows.append([f"{phase}, {key.replace('_', ' ')}", *(form.format(found[e][phase][key]) for e in encoders)])
        shares = (f"{100 * found[encoder][phase]['share_of_matmul_rate']:.0f} %" for encoder in encoders)
        rows.append([f"{phase}, share of the device's matmul rate", *shares])
    for count in (1, 64):
        times = (found[encoder][f"route_{count}_ms"] for encoder in encoders)
        cells = [" / ".join(str(figures[key]) for key in PERCENTILES) for figures in times]
        rows.append([f"routing {count}, ms: median / p95 / p99", *cells])
    rows.append(["peak MB", *(str(found[encoder]["peak_memory_mb"]) for encoder in encoders)])
    return rows
