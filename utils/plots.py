"""Figures, drawn from result files by commands. Line styles and markers differ as well as colours, for grey print."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from utils.meters import read_metrics
from utils.tasks import title_of


def training_curve(metrics: Path, target: Path, best_step: int) -> None:
    """Loss and validation accuracy over the steps of one run, with the chosen step, from its metrics.jsonl."""
    lines = read_metrics(metrics)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    losses = [line for line in lines if "loss" in line]
    top.plot([line["step"] for line in losses], [line["loss"] for line in losses], color="black", linewidth=1)
    top.set_ylabel("training loss (mean of 10 steps)")
    scores = [line for line in lines if "validation" in line]
    names = [name for name in scores[0] if name.startswith("validation")] if scores else []
    for number, name in enumerate(names):
        label, style = ("mean", {"color": "black", "linewidth": 2}) if name == "validation" else (title_of(name.split("/")[1]), {"linewidth": 1})
        bottom.plot([s["step"] for s in scores], [s[name] for s in scores], label=label, marker="osv^Dx*P"[number % 8], markersize=3, **style)
    if names:
        bottom.axvline(best_step, color="grey", linestyle="--", linewidth=1, label=f"chosen: step {best_step}")
        bottom.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    bottom.set_ylabel("validation accuracy (%)")
    bottom.set_xlabel("optimizer step")
    figure.savefig(target, dpi=120)
    plt.close(figure)
