"""Query embeddings of a trained router for the baselines: `--encoder_ckpt`.

LoraRetriever as released routes with a trained encoder. How that one was trained is not stated: here it is RouterDC's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checkpoint, checkpoint_files
from ..clustering import kmeans
from ..data import RoutingData, reading, reading_of
from ..encoders import Queries
from ..experiment import Hardware
from ..meters import bar
from ..model import trained_layers_of
from .arguments import Arguments
from .base import Rows, unit

FLAG = "--encoder_ckpt"
SEED = "{seed}"  # stands for the seed of a run in the value of the flag
SUFFIX = ", trained encoder"  # what the name of a router in results ends in
OF_ENCODER = ("encoder", "pooling", "max_length")  # settings that the checkpoint decides

# From N texts or embeddings (N, p), and a title for the progress bar, to embeddings (N, p) of length 1.
Embed = Callable[[Sequence[str] | np.ndarray, str], np.ndarray]


def folder_of(args: Arguments, seed: int) -> Path:
    """The checkpoint of a seed. Raises: CheckpointError if there is none."""
    return checkpoint_files.find(args.encoder_ckpt.replace(SEED, str(seed)), FLAG)


def settings_of(args: Arguments, seed: int, files: Sequence[RoutingData]) -> dict[str, Any]:
    """What a run's settings say of its encoder: that of the checkpoint, which is named by the hash of its content.

    Raises: CheckpointError for no checkpoint or a damaged one; ValueError as `check_fits`.
    """
    folder = folder_of(args, seed)
    config = checkpoint_files.read_config(folder)
    check_fits(args, seed, files, folder, config)
    return {name: config[name] for name in OF_ENCODER} | {"encoder_ckpt": checkpoint_files.content_hash(folder)}


def check_fits(args: Arguments, seed: int, files: Sequence[RoutingData], folder: Path, config: dict[str, Any]) -> None:
    """Refuse a checkpoint whose training rows are not those of a baseline with this seed: it has seen validation rows.

    Args:
        args: of the baselines. files: their training files.
        folder, config: of the checkpoint.
    Raises: ValueError naming the checkpoint, what differs, and what would help.
    """
    settings = config["settings"]
    there: dict[str, Any] = {name: settings.get(name) for name in ("seed", "validation_fraction", "fidelity")}
    here: dict[str, Any] = {
        "seed": seed,
        "validation_fraction": args.training_set.validation_fraction,
        "fidelity": "paper",
    }
    there |= reading(settings)  # how the rows of the files are read
    here |= reading_of(args.data)
    for name in OF_ENCODER:  # flags that the checkpoint takes the place of; who gives them must mean the same
        asked = getattr(args.encoder, name)
        if asked is not None:
            there[name], here[name] = config[name], asked
    hashes = settings.get("data", {})
    there["training files"] = sorted(str(hashes.get(str(Path(path))))[:12] for path in settings["data_paths"])
    here["training files"] = sorted(data.sha256[:12] for data in files)
    changed = [f"{name}: {there[name]!r} there, {here[name]!r} here" for name in here if there[name] != here[name]]
    if changed:
        raise ValueError(
            f"{FLAG} {folder}: its router was trained on other rows or with another encoder ({'; '.join(changed)}). "
            f"Train one with the same data, seed, split and encoder, and give its --save_path with {SEED} for the seed"
        )


def load_embedder(args: Arguments, seed: int, hardware: Hardware) -> Embed:
    """How the trained router of a seed embeds queries: E(x) as its evaluation computes it, of length 1.

    What lies below the trained layers is looked up in the cache, where training has left it.
    Raises: CheckpointError for a damaged checkpoint. `Embed` raises ValueError for text with a router of embeddings, or
        the reverse.
    """
    model, config = checkpoint.load(folder_of(args, seed))
    trained_layers = trained_layers_of(config["settings"])
    model.place(hardware, trained_layers, config["settings"]["train_layers"])

    @torch.no_grad()
    def embed(inputs: Sequence[str] | np.ndarray, title: str) -> np.ndarray:
        queries = Queries(model.encoder, inputs, hardware, trained_layers, args.hardware.cache_dir, title)
        with bar(len(queries), f"{title}, trained encoder, seed {seed}", "query") as progress:
            embedded, _ = model(queries.embed(progress=progress))
        return unit(embedded.cpu().numpy())

    return embed


def clustered(rows: Rows, seed: int) -> Rows:
    """The rows with clusters made anew by k-means in the space of their embeddings, as many as their files have.

    The ids of the files are clusters of the pre-trained encoder. Equal embeddings are one point, and the order of the
    rows changes nothing. Rows of files without clusters stay as they are.
    """
    if rows.clusters is None:
        return rows
    points, point_of_row = np.unique(rows.x, axis=0, return_inverse=True)
    count = len(np.unique(rows.clusters))
    return replace(rows, clusters=kmeans(points, count, seed)[point_of_row.reshape(-1)])
