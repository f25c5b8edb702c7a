"""Before and after the training loop: read the data, make the router and its optimizer; describe the run's results."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calibration import held_out_rows, known_of, why_not
from .config import GIVEN, Config, Fidelity, settings_of
from .data import RoutingData, check_alike, count_training_questions, load_tests
from .denoise import describe
from .distributed import world_size
from .encoders import Given, Queries, load_encoder
from .evaluate import check_kinds
from .experiment import Hardware, stream_seed
from .memory import fitted
from .model import RouterDC, trained_layers_of
from .run import ROUTERS, Progress, RunFolder, trainable
from .training_set import TrainingSet, load_training_set

STREAM_INIT, STREAM_DROPOUT, STREAM_PAIRS, STREAM_TIES = 0, 1, 2, 3  # purposes of random numbers


@dataclass(frozen=True)
class Data:
    """What a run reads.

    training: the training files and their rows. tests: the test files, none with --no_final_eval. overlap: how many
    questions of each test file, by its path, are in the training files; files without any are left out.
    """

    training: TrainingSet
    tests: list[RoutingData]
    overlap: dict[str, int]

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by its path."""
        return {file.path: file.sha256 for file in [*self.training.files, *self.tests]}


@dataclass
class Training:
    """All that the training loop works with.

    queries: the texts or embeddings of all N training rows, for the encoder. estimated: what --target_pooling
    estimated for each task, {} without it. targets: (N, T), what the losses learn from. tasks: (N,), the number of
    each row's file. clusters: (N,) cluster ids; None where no row needs one, or where they are missing and the
    sample-sample loss is by task. scaler: of the loss, in fp16 alone.
    """

    config: Config
    fidelity: Fidelity
    hardware: Hardware
    data: TrainingSet
    model: RouterDC
    queries: Queries
    estimated: dict[str, dict[str, Any]]
    targets: Tensor
    tasks: Tensor
    clusters: Tensor | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def go_on(self, progress: Progress) -> None:
        """Take the size of chunks, which dropout depends on, and the loss scaling from a stopped run."""
        if progress.tokens:
            self.queries.hardware = replace(self.queries.hardware, tokens=progress.tokens)
        if progress.scaler:
            self.scaler.load_state_dict(progress.scaler)

    @property
    def clusters_are_missing(self) -> bool:
        """Whether the sample-sample loss should be by cluster and is by task (--missing_clusters task)."""
        return self.config.loss.cluster_loss_weight > 0 and self.clusters is None


def load_data(config: Config) -> tuple[Config, Data]:
    """Read training and test files and check them, before any work.

    Returns: the settings, with the number T - K+ where they leave K- open (--last_k None), and the data.
    Raises: DataError for bad files; ValueError, naming the flag, for a setting that these files do not allow.
    """
    loss, fidelity = config.loss, Fidelity.parse(config.loss.fidelity)
    data = load_training_set(
        config.data,
        config.encoder,
        config.training_set,
        config.optimization.seed,
        need_clusters=loss.cluster_loss_weight > 0,
        missing_clusters=loss.missing_clusters,
        validate_on_training=fidelity.train_as_validation,
        cache=config.hardware.cache_dir,
    )
    llms = len(data.llms)
    if loss.last_k is None:
        loss = replace(loss, last_k=max(1, llms - loss.top_k))
    if loss.loss == "routerdc":
        for name, value in (("top_k", loss.top_k), ("last_k", loss.last_k)):
            if not 1 <= value <= llms:
                raise ValueError(f"--{name} is {value}; with {llms} LLMs it must be from 1 to {llms}")
    if config.optimization.selection == "best" and not any(len(rows) for _, rows in data.validation):
        raise ValueError(
            "--selection best needs --validation_fraction above 0; with --validation_fraction 0 use --selection last"
        )
    tests = load_tests(config.data, data.llms, config.hardware.cache_dir) if config.run.final_eval else []
    check_kinds(tests, {file.task: file.kind for file in data.files})
    check_alike([*data.files, *tests])  # what cannot be tested is not trained
    return replace(config, loss=loss), Data(data, tests, count_training_questions(tests, data.files))


def prepare(config: Config, hardware: Hardware, data: TrainingSet) -> Training:
    """Load the encoder, make the router and its optimizer, and estimate pooled targets (--target_pooling).

    Raises: EncoderError if the encoder cannot be loaded; ValueError if it does not have --train_layers layers.
    """
    fidelity = Fidelity.parse(config.loss.fidelity)
    cache = config.hardware.cache_dir
    torch.manual_seed(stream_seed(config.optimization.seed, STREAM_INIT))
    if config.encoder.encoder == GIVEN:
        encoder = Given(data.inputs.shape[1])
    else:
        dropout = 0.0 if fidelity.no_dropout else config.model.dropout
        encoder = load_encoder(config.encoder.encoder, config.encoder.pooling, config.encoder.max_length, dropout)
    model = RouterDC(encoder, data.llms, config.model.similarity_function, head=config.model.freeze_encoder)
    trained_layers = trained_layers_of(settings_of(config))
    model.place(hardware, trained_layers, config.model.train_layers)
    queries = Queries(encoder, data.inputs, hardware, trained_layers, cache, "training queries")

    if trained_layers != "none":
        queries.hardware = fitted(hardware, encoder.backbone, queries.longest)

    estimated = {}
    if config.training_set.target_pooling != "none":  # by the encoder as it is before any weight of it moves
        frozen = queries
        if trained_layers != "none":
            frozen = Queries(encoder, data.inputs, hardware, "none", cache, "queries for their targets")
        estimated = data.pool_targets(frozen.embed().float().cpu().numpy(), config.training_set.target_pooling)
        for task, estimate in estimated.items():
            print(f"targets of {task}: {describe(estimate)}")

    return Training(
        config,
        fidelity,
        hardware,
        data,
        model,
        queries,
        estimated,
        targets=torch.from_numpy(data.targets).to(hardware.device),
        tasks=torch.from_numpy(data.tasks).to(hardware.device),
        clusters=None if data.clusters is None else torch.from_numpy(data.clusters).to(hardware.device),
        optimizer=make_optimizer(model, config, hardware),
        scaler=torch.amp.GradScaler(hardware.device.type, enabled=hardware.precision == "fp16"),
    )


def make_optimizer(model: RouterDC, config: Config, hardware: Hardware) -> torch.optim.AdamW:
    """AdamW over all that trains; the LLM embeddings have a learning rate of their own."""
    rate = config.optimization.learning_rate
    llm_embeddings = model.llm_embeddings.weight
    others = [value for value in trainable(model).values() if value is not llm_embeddings]
    groups = [
        {"params": others, "lr": rate},
        {"params": [llm_embeddings], "lr": config.optimization.llm_learning_rate or rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=config.optimization.weight_decay, fused=hardware.device.type != "mps")


def introduction(training: Training) -> str:
    """What trains on what, and the LLMs: the lines that a run prints before it trains."""
    config, data, model = training.config, training.data, training.model
    millions = sum(value.numel() for value in trainable(model).values()) / 1e6
    validation_rows = sum(len(rows) for _, rows in data.validation)
    lines = [
        f"{ROUTERS[config.loss.loss]}: {config.encoder.encoder} ({model.encoder.pooling} pooling, "
        f"{millions:.1f} M trained values), {len(np.unique(data.pool))} training rows (an epoch is {len(data.pool)}), "
        f"{validation_rows} validation rows, {training.hardware.describe()}",
        f"{len(model.llms)} LLMs: {', '.join(model.llms)}",
    ]
    if world_size() > 1:
        lines.append(f"{world_size()} processes share the work")
    if training.clusters_are_missing:
        lines.append("The rows have no cluster_id: the sample-sample loss is by task (--missing_clusters task)")
    return "\n".join(lines)


def results_of(training: Training, run: RunFolder, data: Data, progress: Progress, command: str) -> dict[str, Any]:
    """What results.json says of a run beside its test: what it is, its settings, selection, time and command."""
    config = training.config
    results = {
        "router": ROUTERS[config.loss.loss],
        "recipe": config.run.label,
        "settings": run.settings,
        "selection": {
            "rule": config.optimization.selection,
            "step": progress.best_step,
            "validation": progress.best_validation,
        },
        "tests": [{"path": test.path, "kind": test.kind} for test in data.tests],
        "questions_in_training_files": data.overlap,
        "seconds": round(progress.seconds, 1),
        "device": training.hardware.describe(),
        "precision": training.hardware.precision,
        "command": command,
    }
    results |= known_for_routing(training)
    if world_size() > 1:
        results["processes"] = world_size()
    if training.clusters_are_missing:
        results["sample_sample_loss"] = "by task: the training rows have no cluster_id"
    if training.estimated:
        results["target_pooling"] = training.estimated
    return results


def known_for_routing(training: Training) -> dict[str, Any]:
    """What `utils.calibration.known_of` says of a trained router; prints why there is no calibration, if so."""
    settings = settings_of(training.config)
    rows = held_out_rows(training.data, settings)
    if rows is None:
        print(f"note: {why_not(settings)}")
        return known_of(training.model, None, training.data)
    training.model.eval()
    with torch.no_grad():
        return known_of(training.model, training.queries.embed(rows), training.data)
