"""Give a trained router one LLM more, or one less, without training it again.

    python -m utils.add_llm --ckpt runs/mine --llm org/new-7b --data_paths new/gsm8k-train.json --output runs/with_new
    python -m utils.add_llm --ckpt runs/mine --remove org/old-7b --output runs/without_old

The files have scores of the new LLM on some questions of the run's training files, alone or beside other LLMs. Encoder,
head and the embeddings of the known LLMs stay as they are, and so do their picks among themselves. Only the new LLM's
embedding is fitted, to the same loss as in training; results/new_llms.md says how good that is, and with how many
queries.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from . import checkpoint
from .calibration import best_single_llm, fit_platt
from .checkpoint_files import CONFIG, ENCODER, WEIGHTS, CheckpointError
from .config import HardwareConfig, bounded, parse_arguments
from .data import DataError, RoutingData, gains, load, reading
from .encoders import Queries
from .experiment import hardware_like
from .files import replaceable_folder
from .llm_embedding import METHOD, PENALTY, Scored, fit_embedding, out_of_fold, targets_with
from .model import RouterDC, trained_layers_of
from .tasks import task_of
from .training_set import TaskRows, TrainingSet, reopen_training_set, targets

OF_MODEL = ("format", "encoder", "pooling", "max_length", "similarity_function", "head", "llms")  # keys of a config
OF_TRAINING = ("test", "files", "sha256")  # keys that are no longer true of a changed router


# Joining the new scores with the training files


@dataclass(frozen=True)
class Joined:
    """Rows of one training file with scores of a new LLM.

    part: the training file and its rows. rows: (n,), which of them. new: the same n queries as the new file has them,
    with the column of the new LLM alone.
    """

    part: TaskRows
    rows: np.ndarray
    new: RoutingData


def parts_with(data: TrainingSet, llms: Sequence[str]) -> list[TaskRows]:
    """The training files with the columns of the LLMs of a router that they have; others are named on stderr."""
    common = [llm for llm in llms if llm in data.llms]
    if without := [llm for llm in llms if llm not in data.llms]:
        print(f"note: the training files have no scores of {', '.join(without)}: no part in the fit", file=sys.stderr)
    return [replace(part, data=part.data.for_llms(common)) for part in data.parts]


def join(path: str, llm: str, parts: Sequence[TaskRows], settings: Mapping[str, Any]) -> Joined:
    """The rows of a file of new scores whose questions stand in the training file of its task.

    Of a question with several rows the first one counts. What is left out is counted on stderr.
    Raises: DataError for a file of another task, without the LLM, or damaged.
    """
    task = task_of(path)
    of_task = {part.data.task: part for part in parts}
    if task not in of_task:
        raise DataError(
            f"{path}: its name stands for the task {task!r}, and the training files are for {', '.join(of_task)}; "
            "name it as the training file whose questions it has"
        )
    part = of_task[task]
    new = load(path, part.data.kind, **reading(settings)).for_llms([llm])
    places: dict[str, int] = {}
    for row, question in enumerate(part.data.identity):
        places.setdefault(question, row)
    common: dict[int, int] = {}  # row there to row here
    for row, question in enumerate(new.identity):
        if question in places:
            common.setdefault(places[question], row)
    if len(common) < len(new):
        left_out = f"{len(new) - len(common)} of its {len(new)} rows are not used"
        print(f"note: {path}: {left_out}, their questions are not in {part.data.path}, or twice here", file=sys.stderr)
    rows = np.array(sorted(common), dtype=np.int64)
    return Joined(part, rows, new.rows(np.array([common[row] for row in rows], dtype=np.int64)))


def check_scores(llm: str, joined: Sequence[Joined]) -> None:
    """Raise ValueError if no query has a score of the new LLM, or all scores are alike."""
    scores = np.concatenate([entry.new.scores[:, 0] for entry in joined])
    if not len(scores):
        files = ", ".join(entry.part.data.path for entry in joined)
        raise ValueError(
            f"--data_paths: none of the questions stands in the training files {files}; give scores of their "
            "questions, spelled as they are there"
        )
    if scores.min() == scores.max():
        raise ValueError(
            f"--llm {llm}: all {len(scores)} scores are {scores[0]:g}, so they do not say for which queries it is a "
            "good choice; score more queries, or look whether these scores are right"
        )


def scored_queries(joined: Sequence[Joined], embedded: Tensor, settings: Mapping[str, Any]) -> Scored:
    """All that the fit needs. embedded: (n, p), behind the head, the rows of the files end to end."""
    found, weights = [], []
    for entry in joined:
        new = targets(entry.new, settings["targets"], settings.get("cost_rate", 0.0))[:, 0]
        found.append(targets_with(entry.part.data, entry.part.train, entry.rows, new, settings))
        weights.append(np.full(len(new), 1 / max(len(new), 1)))
    weight = np.concatenate(weights)
    return Scored(
        embedded,
        torch.from_numpy(np.concatenate(found)).to(embedded.device),
        torch.from_numpy(weight * (len(weight) / weight.sum())).float().to(embedded.device),
    )


# The checkpoint


@dataclass(frozen=True)
class Arguments:
    """options"""

    ckpt: str
    """checkpoint folder, or the --save_path of a training run"""
    output: Path
    """folder of the new checkpoint"""
    llm: str | None = None
    """name of the LLM to add, as the files have it"""
    data_paths: tuple[str, ...] = ()
    """files with its scores, each named as the training file whose questions it has"""
    remove: str | None = None
    """name of the LLM to remove"""
    method: Literal["loss", "mean"] = METHOD
    """how its embedding is fitted: the mean of the queries that it is good at, or from there the loss of training"""
    penalty: float = bounded(PENALTY, at_least=0)
    """for the loss: how many queries that mean is worth"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """--precision auto: that of the training run"""


def check_arguments(args: Arguments, llms: Sequence[str]) -> None:
    """Raise ValueError, naming the flags, for what cannot be done to a router of these LLMs."""
    if (args.llm is None) == (args.remove is None):
        raise ValueError("give --llm NAME with --data_paths, or --remove NAME")
    if args.remove is not None and args.data_paths:
        raise ValueError("--data_paths goes with --llm; removing an LLM takes no data")
    if args.llm is not None and not args.data_paths:
        raise ValueError("--llm needs --data_paths: files with its scores on some of the training questions")
    if args.llm is not None and not args.llm.strip():
        raise ValueError("--llm is empty; give the name that the files have")
    known = f"the router knows {', '.join(llms)}"
    if args.llm in llms:
        raise ValueError(f"--llm {args.llm}: it is there already, {known}. To fit it again, --remove it first")
    if args.remove is not None and args.remove not in llms:
        raise ValueError(f"--remove {args.remove}: no such LLM, {known}")
    if args.remove is not None and len(llms) < 3:
        raise ValueError(f"--remove {args.remove}: one LLM would be left, and a router chooses among two or more")
    replaceable_folder(args.output, "--output", (CONFIG, WEIGHTS, ENCODER), "no checkpoint")


def with_llms(model: RouterDC, llms: Sequence[str], embeddings: Tensor) -> None:
    """Give a router other LLMs: T names and their embeddings (T, p)."""
    model.llms = tuple(llms)
    model.llm_embeddings = torch.nn.Embedding.from_pretrained(embeddings.detach().clone(), freeze=False)


def save(model: RouterDC, config: Mapping[str, Any], change: Mapping[str, Any], output: Path) -> None:
    """Write a changed router as a checkpoint. change: kept in its config, in the list "changes"."""
    about = {key: value for key, value in config.items() if key not in (*OF_MODEL, *OF_TRAINING)}
    checkpoint.save(model, output, about | {"changes": [*config.get("changes", []), dict(change)]})


def remove(args: Arguments, model: RouterDC, config: dict[str, Any]) -> str:
    """Save the router without one of its LLMs; returns what was done, in words."""
    left = [llm for llm in model.llms if llm != args.remove]
    with_llms(model, left, model.llm_embeddings.weight[model.columns(left)])
    if "calibration" in config:
        of_llms = {llm: line for llm, line in config["calibration"]["llms"].items() if llm != args.remove}
        config["calibration"] |= {"llms": of_llms}
    if "costs" in config:
        config["costs"] = {llm: cost for llm, cost in config["costs"].items() if llm != args.remove}
    if config.get("best_llm") == args.remove:
        try:
            data = reopen_training_set(config["settings"], checkpoint.find(args.ckpt))
            config["best_llm"] = best_single_llm(data, [llm for llm in left if llm in data.llms])
        except (DataError, OSError) as error:
            del config["best_llm"]
            print(f"note: which of the others is the best single LLM is not known: {error}", file=sys.stderr)
    save(model, config, {"removed": args.remove}, args.output)
    return f"{args.output}: {args.remove} is removed, {len(left)} LLMs are left"


def add(args: Arguments, model: RouterDC, config: dict[str, Any]) -> str:
    """Fit the embedding of a new LLM and save the router with it; returns what was done, in words.

    Raises: DataError or ValueError for files that do not fit the run, or scores that say nothing.
    """
    settings = config["settings"]
    parts = parts_with(reopen_training_set(settings, checkpoint.find(args.ckpt)), model.llms)
    joined = [join(path, args.llm, parts, settings) for path in args.data_paths]
    check_scores(args.llm, joined)
    if settings.get("target_pooling", "none") != "none":
        print("note: the run pooled its targets (--target_pooling); the new LLM's are as they are", file=sys.stderr)
    scored = scored_queries(joined, embed(args, model, config, joined), settings)
    known = model.llm_embeddings.weight.detach()[model.columns(parts[0].data.llms)]
    fit = (known, model.similarity_function)
    how = (settings, args.method, args.penalty)
    new = fit_embedding(*fit, scored, *how)
    change = {"added": args.llm, "queries": len(scored.weights), "method": args.method, "penalty": args.penalty}
    change["data"] = {entry.new.path: entry.new.sha256 for entry in joined}
    if "calibration" in config:
        similarity = out_of_fold(*fit, scored, *how)
        right = np.concatenate([gains(entry.new.scores, entry.new.kind)[:, 0] for entry in joined])
        slope, intercept = fit_platt(similarity, right.astype(np.float64))
        config["calibration"]["llms"][args.llm] = {"slope": slope, "intercept": intercept}
    add_costs(args.llm, config, joined)
    with_llms(model, [*model.llms, args.llm], torch.cat([model.llm_embeddings.weight, new[None]]))
    save(model, config, change, args.output)
    return f"{args.output}: {args.llm} is added, fitted to {len(scored.weights)} queries; {len(model.llms)} LLMs"


def embed(args: Arguments, model: RouterDC, config: Mapping[str, Any], joined: Sequence[Joined]) -> Tensor:
    """Query embeddings behind the head, (n, p), of the joined rows."""
    settings = config["settings"]
    flags = args.hardware
    hardware = hardware_like(config["precision"], flags.device, flags.precision, flags.threads, flags.tokens)
    layers = trained_layers_of(settings)
    model.place(hardware, layers, settings["train_layers"])
    inputs = [entry.part.data.rows(entry.rows).inputs for entry in joined]
    texts = np.concatenate(inputs) if isinstance(inputs[0], np.ndarray) else [text for file in inputs for text in file]
    with torch.no_grad():
        return model(
            Queries(model.encoder, texts, hardware, layers, args.hardware.cache_dir, "scored queries").embed()
        )[0]


def add_costs(llm: str, config: dict[str, Any], joined: Sequence[Joined]) -> None:
    """Put the mean cost of the new LLM's answers into a config that has costs; without any, these have to go."""
    if "costs" not in config:
        return
    prices = [entry.new.costs[:, 0] for entry in joined if entry.new.costs is not None]
    if prices:
        config["costs"][llm] = float(np.concatenate(prices).mean())
    else:
        del config["costs"]
        print(f"note: the files have no costs of {llm}, so the new checkpoint takes no cost rate", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted (nothing is written then)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        args = parse_arguments(Arguments, words, "python -m utils.add_llm", __doc__)
        model, config = checkpoint.load(args.ckpt)
        check_arguments(args, model.llms)
        print(remove(args, model, config) if args.llm is None else add(args, model, config))
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
