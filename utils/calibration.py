"""How sure a router is: P(right) of each LLM from its similarity, a temperature for R(x), and how true both are.

    python -m utils.calibration --ckpt runs/frozen/seed_1     add what an older checkpoint lacks

Training keeps the calibration in the checkpoint's config. It is fitted on validation rows alone, which no weight was
trained on. Applying it takes numpy alone.

References:
    Platt: Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods. 1999.
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks. ICML 2017, arXiv 1706.04599.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from .model import RouterDC
    from .training_set import TrainingSet

LOWEST, HIGHEST = 1e-3, 1e3  # bounds of the temperature
SLOPE_PENALTY = 1.0  # of the squared slope of a standardised similarity, as C = 1 in scikit-learn
BINS = 15  # of the calibration error
HOW = "python -m utils.calibration --ckpt DIR adds it to a checkpoint whose run had validation rows"

# Apply


def probabilities(similarities: np.ndarray, calibration: Mapping[str, Any], llms: Sequence[str]) -> np.ndarray:
    """P(right) of every LLM on every query, (N, T): sigmoid(slope * similarity + intercept), each LLM its own.

    Args:
        similarities: (N, T), columns in the order of `llms`.
        calibration: what `fit` returned.
    Raises: ValueError for an LLM that the calibration has not.
    """
    missing = [llm for llm in llms if llm not in calibration["llms"]]
    if missing:
        raise ValueError(f"the calibration has no P(right) of {', '.join(missing)}; {HOW}")
    slopes = np.array([calibration["llms"][llm]["slope"] for llm in llms])
    intercepts = np.array([calibration["llms"][llm]["intercept"] for llm in llms])
    return sigmoid(similarities * slopes + intercepts)


def distribution(similarities: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """R(x) of the paper, softmax(similarity / temperature): (N, T) -> (N, T)."""
    scaled = similarities / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


# Fit


def fit(similarities: np.ndarray, right: np.ndarray, llms: Sequence[str]) -> dict[str, Any]:
    """The calibration of a router, as its config keeps it.

    Args:
        similarities: (N, T), of queries that no weight was trained on.
        right: (N, T), whether each LLM is right, or how often it is, in [0, 1].
    Returns: {"rows": N, "temperature", "llms": {LLM: {"slope", "intercept"}}}.
    Raises: ValueError if there are no rows, or shapes that do not fit.
    """
    similarities, right = np.asarray(similarities, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if similarities.shape != right.shape or similarities.shape[1:] != (len(llms),) or not len(right):
        shapes = f"{similarities.shape} similarities, {right.shape} outcomes and {len(llms)} LLMs"
        raise ValueError(f"{shapes}: a calibration takes (N, T), (N, T) and T, with N of at least 1")
    by_llm = {}
    for column, llm in enumerate(llms):
        slope, intercept = fit_platt(similarities[:, column], right[:, column])
        by_llm[llm] = {"slope": slope, "intercept": intercept}
    return {"rows": len(right), "temperature": fit_temperature(similarities, right), "llms": by_llm}


def best_label(right: np.ndarray) -> np.ndarray:
    """Each query's LLMs that are right most often share a label of 1, (N, T); where none is ever right it is 0."""
    highest = right.max(axis=1, keepdims=True)
    is_best = (right == highest) & (highest > 0)
    return is_best / np.maximum(is_best.sum(axis=1, keepdims=True), 1)


def fit_temperature(similarities: np.ndarray, right: np.ndarray) -> float:
    """The temperature of R(x) with the least cross-entropy with `best_label`, from LOWEST to HIGHEST.

    Queries on which no LLM is right have no part. Where all similarities are alike, every temperature is as good.
    """
    from scipy.optimize import minimize_scalar

    labels = best_label(right)
    counts = labels.sum(axis=1) > 0
    similarities, labels = similarities[counts], labels[counts]
    if not len(labels) or np.ptp(similarities, axis=1).max() == 0:
        return 1.0

    def cross_entropy(log_temperature: float) -> float:
        scaled = similarities / np.exp(log_temperature)
        highest = scaled.max(axis=1)
        log_total = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
        return float((log_total - (labels * scaled).sum(axis=1)).mean())

    bounds = (np.log(LOWEST), np.log(HIGHEST))  # one minimum: it is convex in 1 / temperature
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, options={"xatol": 1e-6}).x))


def fit_platt(similarity: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of sigmoid(slope * similarity + intercept) for P(right): a logistic regression.

    The slope has a penalty in units of the similarity's standard deviation, so that a similarity that tells nothing,
    or is constant, leaves the LLM's mean. One right and one wrong query at the mean similarity are added: no
    probability is 0 or 1.

    Args:
        similarity, right: (N,).
    """
    from scipy.optimize import minimize

    centre, width = float(similarity.mean()), float(similarity.std())
    if width <= 1e-9 * max(1.0, abs(centre)):
        width = 1.0
        similarity = np.full(len(similarity), centre)
    x = np.concatenate([(similarity - centre) / width, [0.0, 0.0]])
    y = np.concatenate([right, [1.0, 0.0]])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, intercept = parameters
        logits = slope * x + intercept
        value = np.logaddexp(0, logits).sum() - y @ logits + 0.5 * SLOPE_PENALTY * slope**2
        errors = sigmoid(logits) - y
        return value, np.array([errors @ x + SLOPE_PENALTY * slope, errors.sum()])

    mean = y.mean()
    start = np.array([0.0, np.log(mean / (1 - mean))])
    slope, intercept = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-6}).x
    return float(slope / width), float(intercept - slope * centre / width)


# How true probabilities are


def reliability(predicted: np.ndarray, right: np.ndarray, bins: int = BINS, equal: str = "mass") -> np.ndarray:
    """Mean probability, mean outcome and number of queries of each bin that has some, (bins, 3).

    Args:
        predicted, right: (N,), in [0, 1].
        equal: "mass", bins with about equally many queries, of which equal probabilities share one; or "width".
    """
    if equal == "mass":
        edges = np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1])
    else:
        edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.searchsorted(edges, predicted, side="right")
    counts = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, weights=values, minlength=bins) for values in (predicted, right)]
    filled = counts > 0
    return np.stack([*(values[filled] / counts[filled] for values in sums), counts[filled]], axis=1)


def calibration_error(predicted: np.ndarray, right: np.ndarray, bins: int = BINS, equal: str = "mass") -> float:
    """Expected calibration error: the mean distance of probability and outcome over the bins, weighted by queries."""
    mean_predicted, mean_right, counts = reliability(predicted, right, bins, equal).T
    return float(counts @ np.abs(mean_predicted - mean_right) / counts.sum())


# What a training run keeps


def known_of(model: "RouterDC", embedded: "Tensor | None", data: "TrainingSet") -> dict[str, Any]:
    """What a run's config keeps for those who route by it: "best_llm", "costs" and "calibration".

    best_llm: the LLM with the best mean over the training files of its mean gain on the rows that train; of equal ones
    the first by name. costs: {LLM: mean US dollars per query} on the training rows of the files with costs; left out
    where none has any. calibration: what `fit` returned for the validation rows; left out without these.

    Args:
        embedded: (n, p), encoder output of the validation rows, file by file; None without held-out rows.
    """
    import torch

    from .data import gains

    known: dict[str, Any] = {"best_llm": best_single_llm(data, data.llms)}
    prices = [part.data.costs[part.train] for part in data.parts if part.data.costs is not None]
    if prices:
        known["costs"] = dict(zip(data.llms, np.concatenate(prices).mean(axis=0).tolist()))
    if embedded is not None:
        with torch.no_grad():
            similarities = model(embedded)[1].cpu().numpy()  # (n, T)
        right = [gains(held.scores, held.kind) for held, _ in data.validation]
        known["calibration"] = fit(similarities, np.concatenate(right), data.llms)
    return known


def best_single_llm(data: "TrainingSet", llms: Sequence[str]) -> str:
    """The one of these LLMs that is best on the rows that train, see `known_of`."""
    from .metrics import single_accuracies

    trained = []
    for part in data.parts:
        scored = replace(part.data, embeddings=None)  # of many rows they would be a large copy
        trained.append(scored.rows(part.train).for_llms(llms))
    accuracies = np.mean([single_accuracies(file) for file in trained], axis=0)
    return min(zip(-accuracies, llms))[1]


def held_out_rows(data: "TrainingSet", settings: Mapping[str, Any]) -> np.ndarray | None:
    """The numbers (n,) of the validation rows among all training rows; None if no row was held out.

    With fidelity train_as_validation the validation rows have trained.
    """
    from .config import Fidelity

    rows = np.concatenate([rows for _, rows in data.validation])
    if not len(rows) or Fidelity.parse(settings["fidelity"]).train_as_validation:
        return None
    return rows


def why_not(settings: Mapping[str, Any]) -> str:
    """Why a run with these settings has no calibration, in one line."""
    reason = "no row was held out of training (--validation_fraction 0)"
    if settings["validation_fraction"]:
        reason = f"its validation rows have trained (--fidelity {settings['fidelity']})"
    return f"no calibration: {reason}, so P(right) and thresholds of it are not to be had"


# Add it to an older checkpoint


@dataclass(frozen=True)
class Arguments:
    """options"""

    ckpt: str
    """checkpoint folder, or the --save_path of a training run"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps"""
    cache_dir: Path = Path(".cache/queries")
    """folder of embeddings that training did not change"""


def add(args: Arguments) -> str:
    """Add "best_llm", "costs" and "calibration" to the config of a checkpoint, from its run's training files.

    Returns: what was added, in words.
    Raises: CheckpointError or DataError for files that are damaged, changed or gone.
    """
    from . import checkpoint
    from .encoders import Queries
    from .experiment import hardware_like
    from .model import trained_layers_of
    from .training_set import reopen_training_set

    folder = checkpoint.find(args.ckpt)
    model, config = checkpoint.load(folder)
    settings = config["settings"]
    hardware = hardware_like(config["precision"], args.device)
    layers = trained_layers_of(settings)
    model.place(hardware, layers, settings["train_layers"])
    data = reopen_training_set(settings, folder)
    if model.llms != data.llms:
        raise ValueError(
            f"--ckpt {args.ckpt}: its LLMs were changed after training (utils.add_llm), which takes a calibration "
            "along; add one to the checkpoint of the training run, and change its LLMs again"
        )
    embedded = None
    rows = held_out_rows(data, settings)
    if rows is not None:
        inputs = data.inputs[rows] if isinstance(data.inputs, np.ndarray) else [data.inputs[row] for row in rows]
        embedded = Queries(model.encoder, inputs, hardware, layers, args.cache_dir, "validation queries").embed()
    known = known_of(model, embedded, data)
    checkpoint.write_config(folder, config | known)
    lines = [f"{folder}: added {', '.join(known)}"]
    if embedded is None:
        lines.append(why_not(settings))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    from .checkpoint import CheckpointError
    from .config import parse_arguments

    words = sys.argv[1:] if argv is None else argv
    try:
        print(add(parse_arguments(Arguments, words, "python -m utils.calibration", __doc__)))
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
