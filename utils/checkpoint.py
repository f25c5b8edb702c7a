"""Checkpoints are folders that describe themselves: safetensors weights, a JSON config, the tokenizer. Nothing is unpickled."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel

from utils.data import ENDS, MISSING
from utils.encoders import GIVEN, Encoder, Given, load_tokenizer
from utils.files import atomic_folder, write_json
from utils.model import RouterDC
from utils.tasks import DATASETS

FORMAT = "routerdc-checkpoint-1"
WEIGHTS, CONFIG, ENCODER = "model.safetensors", "config.json", "encoder"
AGAIN = "the checkpoint is damaged, train or copy it again"


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _texts(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(_text, value))


def _tests(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(test, dict) and _text(test.get("path")) and _text(test.get("kind")) for test in value
    )


NEEDED: dict[
    str, tuple[Callable[[Any], bool], str]
] = {  # what the config must hold: for the router itself, then for those who evaluate it
    "encoder": (_text, "a name"),
    "pooling": (_text, "a name"),
    "max_length": (lambda value: value == 0 or _number(value), "a number of tokens"),  # 0: `Given` reads no text
    "similarity_function": (_text, "a name"),
    "head": (lambda value: isinstance(value, bool), "true or false"),
    "llms": (lambda value: _texts(value) and len(set(value)) == len(value), "a list of different names"),
    "router": (_text, "a name"),
    "precision": (lambda value: value in ("bf16", "fp32"), "bf16 or fp32"),
    "tests": (_tests, "a list of objects with path and kind"),
    "settings": (lambda value: isinstance(value, dict), "an object"),
    "settings.data_paths": (_texts, "a list of paths"),
    "settings.freeze_encoder": (lambda value: isinstance(value, bool), "true or false"),
    "settings.train_layers": (lambda value: value is None or _number(value), "null or a number of layers"),
    "settings.max_characters": (lambda value: value is None or _number(value), "null or a number of characters"),
    "settings.keep_characters": (lambda value: value in ENDS, " or ".join(ENDS)),
    "settings.missing_cells": (lambda value: value in MISSING, " or ".join(MISSING)),
    "settings.cost_rate": (lambda value: isinstance(value, (int, float)) and value >= 0, "a number that is at least 0"),
    "settings.dataset": (lambda value: value in [*DATASETS], " or ".join(DATASETS)),
}
LATER = tuple(  # older checkpoints have none of these
    f"settings.{name}" for name in ("max_characters", "keep_characters", "missing_cells", "cost_rate", "dataset")
)
EMBEDS = ("pooling", "max_length", "head")  # keys of the config that change the embedding of a query


class CheckpointError(RuntimeError):
    """A folder is not a checkpoint of this project, or is damaged; the message says which file and why."""


def save(model: RouterDC, folder: Path, about: dict[str, Any]) -> None:
    """Write a checkpoint atomically. `about` (arguments, data hashes, metrics, ...) is kept in its config; NEEDED says what `load` asks of it."""
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
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, part / WEIGHTS
        )
        write_json(part / CONFIG, config)


def find(folder: str | Path, flag: str = "--ckpt") -> Path:
    """The checkpoint folder that a path means: itself, or its `checkpoint` if the path is a run's folder.

    Raises: CheckpointError, naming the flag that gave the path, if neither is one.
    """
    for candidate in (Path(folder), Path(folder) / "checkpoint"):
        if (candidate / CONFIG).is_file() and (candidate / WEIGHTS).is_file():
            return candidate
    missing = f"no checkpoint there ({CONFIG} and {WEIGHTS} are missing)"
    raise CheckpointError(f"{flag} {folder}: {missing}. Give the --save_path of a finished training run")


def check(config: dict[str, Any], path: Path) -> None:
    """Raises: CheckpointError naming the file `path` and the key, unless everything NEEDED is in its content `config`."""
    for key, (fits, words) in NEEDED.items():
        *above, name = key.split(".")
        inside = config[above[0]] if above else config
        if name not in inside:
            if key in LATER:
                continue
            raise CheckpointError(f"{path}: {key} is missing; {AGAIN}")
        if not fits(inside[name]):
            raise CheckpointError(f"{path}: {key} is {json.dumps(inside[name])[:100]}, it must be {words}; {AGAIN}")


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a checkpoint folder.

    Raises: CheckpointError for another format, or a config that is damaged or without something NEEDED.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: not valid JSON ({error}); {AGAIN}") from None
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG}: format is {found!r}, this code reads {FORMAT!r}. Weights of the released code (.pth) cannot be read: they are bare pickles"
        )
    check(config, folder / CONFIG)
    return config


def content_hash(folder: Path) -> str:
    """SHA-256 over what decides the query embeddings of a checkpoint: weights, tokenizer, EMBEDS.

    When, where and how it was trained is no part of it. Raises: CheckpointError as `read_config`.
    """
    config = read_config(folder)
    digest = hashlib.sha256(json.dumps([config[name] for name in EMBEDS]).encode())
    for path in [folder / WEIGHTS, *sorted((folder / ENCODER).glob("*"))]:
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def load(folder: str | Path) -> tuple[RouterDC, dict[str, Any]]:
    """Rebuild a router and return it with its config, without a network, a hub or a pickle.

    Raises: CheckpointError for another format, missing or damaged files, or a config without something NEEDED.
    """
    folder = find(folder)
    config = read_config(folder)
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
    except Exception as error:  # the libraries raise anything for a damaged file, tokenizers a bare Exception
        raise CheckpointError(f"{folder}: {type(error).__name__}: {error}; {AGAIN}") from error
    return model.eval(), config
