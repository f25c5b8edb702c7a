"""Checkpoints are folders that describe themselves: safetensors weights, a JSON config, the tokenizer.

Nothing is unpickled, and no code of a checkpoint runs. The config has the SHA-256 of every file and of itself, so that
damage is noticed. They are no signature: who can write the folder can write them, too. Checkpoints from before them
still load, with a note on stderr. `utils.checkpoint_files` reads and verifies all that needs no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from utils.checkpoint_files import (
    AGAIN,
    ENCODER,
    FORMAT,
    WEIGHTS,
    CheckpointError,
    check_files,
    find,
    read_config,
    write_config,
)
from utils.encoders import Encoder, Given, check_configuration, load_tokenizer
from utils.files import atomic_folder
from utils.model import RouterDC
from utils.reading import GIVEN


def save(model: RouterDC, folder: Path, about: dict[str, Any]) -> None:
    """Write a checkpoint atomically, with the digests that `load` verifies.

    about: settings, data hashes, metrics, ...: kept in the config. NEEDED says what `load` asks of it.
    """
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
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_folder(folder) as unfinished:
        if encoder.name != GIVEN:
            encoder.backbone.config.save_pretrained(unfinished / ENCODER)
            encoder.tokenizer.save_pretrained(unfinished / ENCODER)
        save_file(weights, unfinished / WEIGHTS)
        write_config(unfinished, config)


def check_weights(weights: Mapping[str, Tensor], empty: RouterDC, path: Path) -> None:
    """Raise CheckpointError unless weights have the names, shapes and types of an empty model, and are finite."""
    expected = empty.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            problem = "is missing" if name not in weights else "is not of this router"
            raise CheckpointError(f"{path}: {name} {problem}; {AGAIN}")
        value, wanted = weights[name], expected[name]
        if (value.shape, value.dtype) != (wanted.shape, wanted.dtype):
            there = f"{value.dtype} {tuple(value.shape)}"
            raise CheckpointError(
                f"{path}: {name} is {there}, the configs say {wanted.dtype} {tuple(wanted.shape)}; {AGAIN}"
            )
        if value.numel() and not torch.stack(value.aminmax()).isfinite().all():
            raise CheckpointError(f"{path}: {name} has values that are not finite; {AGAIN}")


def check_runs(encoder: Encoder) -> None:
    """Raise ValueError, or what its libraries raise, unless an encoder knows all tokens and can embed a query."""
    highest = max(encoder.tokenizer.get_vocab().values())
    known = encoder.backbone.get_input_embeddings().num_embeddings
    if highest >= known:
        raise ValueError(f"the tokenizer has tokens up to number {highest}, and the encoder knows {known}")
    tokens = encoder.tokenize(["?"]).values[None]  # (1, L)
    with torch.no_grad():
        encoder(tokens, torch.ones_like(tokens))


def _build(folder: Path, config: Mapping[str, Any], tokenizer: Any, hidden_size: int) -> RouterDC:
    """A router as the configs of a checkpoint describe it, before its weights. tokenizer: None for `Given`."""
    if tokenizer is None:
        encoder = Given(hidden_size)
    else:
        of_backbone = AutoConfig.from_pretrained(folder / ENCODER, trust_remote_code=False)
        backbone = AutoModel.from_config(of_backbone, trust_remote_code=False, dtype=torch.float32)
        encoder = Encoder(config["encoder"], backbone, tokenizer, config["pooling"], config["max_length"])
    return RouterDC(encoder, config["llms"], config["similarity_function"], config["head"])


def load(folder: str | Path) -> tuple[RouterDC, dict[str, Any]]:
    """Rebuild a router and return it with its config, without a network, a hub or a pickle.

    All digests, shapes and values are checked before memory is taken for the model.
    Raises: CheckpointError for another format, missing, damaged or edited files, code in the encoder's configuration,
        or a config without something NEEDED.
    """
    folder = find(folder)
    config = read_config(folder)
    check_files(folder, config)
    try:
        weights = load_file(folder / WEIGHTS)
        tokenizer = None
        if config["encoder"] != GIVEN:
            check_configuration(folder / ENCODER)
            tokenizer = load_tokenizer(folder / ENCODER)
        parts = (folder, config, tokenizer, weights["llm_embeddings.weight"].shape[1])
        with torch.device("meta"):  # shapes without memory
            check_weights(weights, _build(*parts), folder / WEIGHTS)
        with no_init_weights():
            model = _build(*parts)
        model.eval().load_state_dict(weights)
        if tokenizer is not None:
            check_runs(model.encoder)
    except CheckpointError:
        raise
    except Exception as error:  # the libraries raise anything for a damaged file, tokenizers a bare Exception
        raise CheckpointError(f"{folder}: {type(error).__name__}: {error}; {AGAIN}") from error
    return model, config
