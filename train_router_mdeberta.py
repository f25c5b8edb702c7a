"""Train RouterDC: fit a query encoder and one embedding per LLM with the two contrastive losses of the paper.

    python train_router_mdeberta.py --encoder minilm --save_path runs/minilm/seed_1 --seed 1
    python train_router_mdeberta.py --recipe tuned --save_path runs/tuned/seed_1 --seed 1

Reads the training files, holds out a validation split, trains, keeps the best evaluation on that split as the
checkpoint, then scores the test sets once and prints their tables beside the paper's.
"""

import utils  # noqa: F401  # isort: skip  # before torch, which takes from it how its threads wait
import contextlib
import math
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from utils.config import PROGRAM, Config, parse_config, settings_of
from utils.data import RoutingData
from utils.distributed import (
    any_process,
    average_gradients,
    barrier,
    check_alike,
    is_main,
    main_first,
    own_stream,
    processes,
)
from utils.encoders import EncoderError
from utils.evaluate import evaluate, route
from utils.experiment import Hardware, batch_rows, choose_hardware, on_device, stream_seed
from utils.files import locked, writable_folder
from utils.losses import cosine_classifier_loss, sample_llm_loss, sample_sample_loss, zooter_loss
from utils.memory import with_less
from utils.meters import MetricsLog, NoLog, Speed, bar
from utils.metrics import utility
from utils.model import trained_layers_of
from utils.run import Interrupt, Progress, RunFolder, host_copy, trainable
from utils.tasks import task_of
from utils.training import (
    STREAM_DROPOUT,
    STREAM_PAIRS,
    STREAM_TIES,
    Training,
    introduction,
    load_data,
    prepare,
    results_of,
)

LOG_STEPS = 10  # steps between two lines of metrics.jsonl


def draw_batch(training: Training, number: int, stream: int) -> np.ndarray:
    """The rows (B,) of batch `number`. Batches pass over the training rows, which are shuffled anew for each epoch.

    stream: 0, or another number for another order (fidelity evaluation_draws).
    """
    optimization = training.config.optimization
    return batch_rows(training.data.pool, optimization.batch_size, number, optimization.seed, stream)


def objective(training: Training, batch: np.ndarray, pairs: torch.Generator, ties: torch.Generator) -> Tensor:
    """L = mean over the batch of L1 + lambda * L2, the objective of the paper; or the loss of a baseline.

    Args:
        batch: (B,) row numbers.
        pairs, ties: sources of randomness: of the queries that L2 draws, and of --ties random.
    Returns: the loss, a scalar with a gradient.
    """
    loss, fidelity = training.config.loss, training.fidelity
    rows = on_device(batch, training.hardware.device)
    embedded, similarity = training.model(training.queries.embed(batch))  # (B, p), (B, T)
    targets = training.targets[rows]  # (B, T)
    if loss.loss == "cosine_classifier":
        return cosine_classifier_loss(similarity, targets, loss.temperature).mean()
    if loss.loss == "zooter":
        return zooter_loss(similarity, targets, loss.temperature).mean()

    total = sample_llm_loss(  # L1, sample-LLM
        similarity,
        targets,
        loss.top_k,
        loss.last_k,
        loss.temperature,
        loss.negative_below,
        "released" if fidelity.released_ties else loss.ties,
        ties,
        batch_mask=fidelity.batch_mask,
        half_is_negative=fidelity.released_ties,
    ).mean()
    clusters = training.tasks if training.clusters is None else training.clusters
    for weight, groups in ((loss.cluster_loss_weight, clusters), (loss.sample_loss_weight, training.tasks)):
        if not weight:
            continue
        contrast = sample_sample_loss(  # L2, sample-sample: by cluster as in the paper, or by task
            training.model.similarity(embedded, embedded),  # (B, B)
            groups[rows],
            loss.H,
            loss.temperature,
            pairs,
            rows,
            self_positive=fidelity.self_positive,
            shifted_rows=fidelity.shifted_rows,
        )
        total = total + weight * contrast.mean()
    return total


def backward(training: Training, step: int, stream: int, pairs: torch.Generator, ties: torch.Generator) -> Tensor:
    """Give every parameter its gradient of one step: summed over micro-batches, and the same in all processes.

    When memory runs out, all of it is done again with smaller chunks; its randomness depends on the step alone.

    Args:
        step: from 0.
        stream: see `draw_batch`.
        pairs, ties: see `objective`; they are seeded here.
    Returns: the loss of the step, a scalar on the device.
    """
    config = training.config.optimization

    def attempt(hardware: Hardware) -> Tensor:
        training.queries.hardware = hardware
        training.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(stream_seed(config.seed, STREAM_DROPOUT, step, stream, *own_stream()))
        losses = []
        for micro in range(config.gradient_accumulation):
            pairs.manual_seed(stream_seed(config.seed, STREAM_PAIRS, step, micro, stream))
            ties.manual_seed(stream_seed(config.seed, STREAM_TIES, step, micro, stream))
            batch = draw_batch(training, step * config.gradient_accumulation + micro, stream)
            loss = objective(training, batch, pairs, ties) / config.gradient_accumulation
            training.scaler.scale(loss).backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    loss = with_less(attempt, training.queries.hardware, training.queries.longest)
    average_gradients(trainable(training.model).values())
    return loss


def validate(training: Training) -> dict[str, float]:
    """Utility in % on the validation rows of each task, and their mean; without --cost_rate that is the accuracy.

    Returns: {"validation": mean, "validation/TASK": ...}; {} if no row validates.
    """
    scores = {}
    for data, rows in training.data.validation:
        if len(rows):
            picks = route(training.model, training.queries, data.llms, rows)
            scores[f"validation/{data.task}"] = utility(picks, data, training.config.training_set.cost_rate)
    if not scores:
        return {}
    return {"validation": float(np.mean(list(scores.values()))), **scores}


def fit(training: Training, run: RunFolder, begun: float) -> Progress:
    """The training loop; the model has the weights of the selected step when it returns.

    begun: when this process began the run, by time.monotonic.
    Raises: ValueError if the loss is no longer finite; KeyboardInterrupt when asked to stop, with the state saved.
    """
    config, model, optimizer = training.config.optimization, training.model, training.optimizer
    device = training.hardware.device
    best, progress = run.load_state(model, optimizer) if run.can_resume() else ({}, Progress())
    if progress.step:
        training.go_on(progress)
        print(f"{run.path}: resumed at step {progress.step}")
    begun -= progress.seconds
    check_alike(progress.step, "step to go on from: --save_path must be a folder that all hosts share")
    log, speed = MetricsLog(run.work, progress.step) if is_main() else NoLog(), Speed()
    pairs, ties = torch.Generator(device), torch.Generator(device)
    loss_sum = torch.tensor(progress.loss_sum, device=device)  # of the steps since the last line of the log
    model.train()
    with Interrupt() as interrupt, run.saving(), bar(config.training_steps, "train", "step", progress.step) as shown:
        for step in range(progress.step, config.training_steps):
            stream = progress.evaluations if training.fidelity.evaluation_draws else 0
            loss_sum += backward(training, step, stream, pairs, ties)
            training.scaler.step(optimizer)
            training.scaler.update()
            optimizer.zero_grad(set_to_none=True)
            speed.add(config.batch_size * config.gradient_accumulation)

            progress.step = step + 1
            shown.update()
            last = progress.step == config.training_steps
            validates = progress.step % config.eval_steps == 0 or last
            if progress.step % LOG_STEPS == 0 or validates:  # reading the loss makes the host wait for the device
                mean_loss = float(loss_sum) / (step % LOG_STEPS + 1)
                check_finite(mean_loss, progress.step, training.config)
                if progress.step % LOG_STEPS == 0 or last:
                    log.write(progress.step, {"loss": mean_loss, "queries_per_second": speed.rate()})
                    show(shown, mean_loss, speed, progress)
                    loss_sum.zero_()
            if validates:
                speed.pause()
                if select(training, progress, log):
                    best = host_copy(trainable(model))
                speed.resume()
            asked = any_process(interrupt.asked)  # so that all stop after the same step
            overdue = time.monotonic() - run.saved_at > 60 * training.config.run.resume_minutes
            if is_main() and (asked or last or overdue):
                progress.seconds, progress.loss_sum = time.monotonic() - begun, float(loss_sum)
                progress.tokens, progress.scaler = training.queries.hardware.tokens, training.scaler.state_dict()
                run.save_state(model, optimizer, best, progress)
            if asked and not last:
                run.wait()
                log.close()
                barrier()
                raise KeyboardInterrupt(stop_message(progress.step, training.config))
    log.close()
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(best[name])
    return progress


def select(training: Training, progress: Progress, log: MetricsLog) -> bool:
    """Validate, log it, and note in `progress` whether these are the weights to keep; returns that.

    They are if they are the best so far (of equal ones the first), or always with --selection last.
    """
    scores = validate(training)
    progress.evaluations += 1
    if scores:
        log.write(progress.step, scores)
    keep_latest = training.config.optimization.selection == "last"
    is_first = progress.best_step == 0
    if not (keep_latest or is_first or scores["validation"] > progress.best_validation):
        return False
    progress.best_step, progress.best_validation = progress.step, scores.get("validation")
    return True


def check_finite(loss: float, step: int, config: Config) -> None:
    """Raise ValueError if training has diverged."""
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} at step {step}: training has diverged. Lower --learning_rate "
            f"({config.optimization.learning_rate}) or --llm_learning_rate; --overwrite begins again"
        )


def show(shown: tqdm, loss: float, speed: Speed, progress: Progress) -> None:
    """Loss, speed and best validation beside the progress bar."""
    best = {} if progress.best_validation is None else {"best": f"{progress.best_validation:.2f}"}
    shown.set_postfix(refresh=False, loss=f"{loss:.3f}", queries_per_s=f"{speed.rate():.0f}", **best)


def stop_message(step: int, config: Config) -> str:
    """What an interrupted run says, and how to go on."""
    without = " without --overwrite" if config.run.overwrite else ""
    return f"stopped at step {step}; the same command{without} goes on from there"


def train(config: Config, command: str) -> Path:
    """Run the whole of training, selection and the final test; returns the folder of the run.

    Args:
        command: the command line, for results.json.
    Raises: ValueError (DataError) or EncoderError for bad input; KeyboardInterrupt when asked to stop, with the state
        saved.
    """
    path = Path(config.run.save_path)
    taken = f"--save_path {path}: another process is training there; wait for it, or choose another folder"
    with main_first():
        writable_folder(path, "--save_path")
    with locked(path, taken) if is_main() else contextlib.nullcontext():
        flags = config.hardware
        hardware = choose_hardware(flags.device, flags.precision, flags.threads, flags.tokens)
        writable_folder(config.hardware.cache_dir, "--cache_dir")
        config, data = load_data(config)
        with main_first():
            run = RunFolder(path, settings_of(config) | {"data": data.digests}, config.run.overwrite)
        check_alike(run.settings, "settings or data files; give all the same")
        run.check_settings()
        if run.is_finished():
            old_tables = (path / "tables.md").read_text(encoding="utf-8")
            print(f"{path}: already done (--overwrite trains it again)\n\n{old_tables}")
            return path

        begun = time.monotonic()
        training = prepare(config, hardware, data.training)
        with main_first():
            run.begin()
        print(introduction(training))
        progress = fit(training, run, begun)
        tested_from = time.monotonic()
        test = test_once(training, data.tests)
        progress.seconds += time.monotonic() - tested_from
        results = results_of(training, run, data, progress, command)
        if is_main():
            named = config.run.checkpoint_encoder == "named"
            new_tables = run.finish(training.model, results, test, named)
            print(f"\n{new_tables}\n\n{conclusion(progress, config)}\n{run.describe()}")
    return path


def test_once(training: Training, tests: list[RoutingData]) -> dict:
    """Score the test files; returns what `utils.evaluate.measure` does, or {} without test files (--no_final_eval)."""
    if not tests:
        return {}
    config = training.config
    training.model.eval()
    inside = [task_of(path) for path in config.data.data_paths]
    layers, cache = trained_layers_of(settings_of(config)), config.hardware.cache_dir
    test = evaluate(training.model, tests, training.hardware, layers, cache, inside, config.training_set.cost_rate)
    return test | {"dataset": config.data.dataset}


def conclusion(progress: Progress, config: Config) -> str:
    """Which step was kept, and the time."""
    kept = "the last"
    if config.optimization.selection == "best":
        kept = f"best of the validation split: {progress.best_validation:.2f} %"
    steps = config.optimization.training_steps
    return f"Step {progress.best_step} of {steps} ({kept}), {progress.seconds:.0f} s"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted (resumable)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        with processes():
            train(parse_config(arguments, __doc__), f"{PROGRAM} {shlex.join(arguments)}".strip())
    except (EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        otherwise = "the same command goes on from the last state that training saved, or begins again if there is none"
        print(f"interrupted: {str(stop) or otherwise}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
