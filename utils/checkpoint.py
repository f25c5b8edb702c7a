"""Checkpoints are folders that describe themselves: safetensors weights, a JSON config, the tokenizer. Nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel

from utils.encoders import GIVEN, Encoder, Given, load_tokenizer
from utils.experiment import atomic_folder, write_json
from utils.model import RouterDC

FORMAT = "routerdc-checkpoint-1"
WEIGHTS, CONFIG, ENCODER = "model.safetensors", "config.json", "encoder"


class CheckpointError(RuntimeError):
    """A folder is not a checkpoint of this project, or is damaged; the message says which file and why."""


def save(model: RouterDC, folder: Path, about: dict[str, Any]) -> None:
    """Write a checkpoint atomically. `about` (arguments, data hashes, metrics, ...) is kept in its config."""
    encoder = model.encoder
    config = {
        "format": FORMAT,
        "encoder": encoder.name,
        "pooling": encoder.pooling,
        "max_length": encoder.max_length,
        "similarity_function": model.similarity_function,
        "head": isinstance(model.head, nn.Linear),
        "llms": list(model.llms),
        **about,
    }
    with atomic_folder(folder) as part:
        if encoder.name != GIVEN:
            encoder.backbone.config.save_pretrained(part / ENCODER)
            encoder.tokenizer.save_pretrained(part / ENCODER)
        save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, part / WEIGHTS)
        write_json(part / CONFIG, config)


def find(folder: str | Path) -> Path:
    """The checkpoint folder that a path means: itself, or its `checkpoint` if the path is a run's folder.

    Raises: CheckpointError if neither is one.
    """
    for candidate in (Path(folder), Path(folder) / "checkpoint"):
        if (candidate / CONFIG).is_file() and (candidate / WEIGHTS).is_file():
            return candidate
    raise CheckpointError(f"--ckpt {folder}: no checkpoint there ({CONFIG} and {WEIGHTS} are missing). Give the --save_path of a finished training run")


def load(folder: str | Path) -> tuple[RouterDC, dict[str, Any]]:
    """Rebuild a router and return it with its config, without a network, a hub or a pickle.

    Raises: CheckpointError for another format, or missing or damaged files.
    """
    folder = find(folder)
    try:
        config = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: not valid JSON ({error}); the checkpoint is damaged, train or copy it again") from None
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{folder / CONFIG}: format is {found!r}, this code reads {FORMAT!r}. Weights of the released code (.pth) cannot be read: they are bare pickles")
    try:
        weights = load_file(folder / WEIGHTS)
        if config["encoder"] == GIVEN:
            encoder = Given(weights["llm_embeddings.weight"].shape[1])
        else:
            backbone = AutoModel.from_config(AutoConfig.from_pretrained(folder / ENCODER))
            tokenizer = load_tokenizer(folder / ENCODER)
            encoder = Encoder(config["encoder"], backbone, tokenizer, config["pooling"], config["max_length"])
        model = RouterDC(encoder, config["llms"], config["similarity_function"], config["head"])
        model.load_state_dict(weights)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the checkpoint is damaged ({type(error).__name__}: {error}); train or copy it again") from None
    return model.eval(), config
