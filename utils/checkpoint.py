"""Checkpoints are folders that describe themselves: safetensors weights, a JSON config, the tokenizer.

One may name its encoder in place of holding it (`save`): it then has the weights that trained, and the SHA-256 of the
others. Nothing is unpickled, and no code of a checkpoint runs. The config has the SHA-256 of every file and of itself,
so that damage is noticed. They are no signature: who can write the folder can write them, too. Checkpoints from before
them still load, with a note on stderr. `utils.checkpoint_files` reads and verifies all that needs no torch.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from .checkpoint_files import (
    AGAIN,
    ENCODER,
    FORMAT,
    NAMED,
    WEIGHTS,
    CheckpointError,
    check_files,
    find,
    read_config,
    write_config,
)
from .encoders import Encoder, EncoderError, Given, check_configuration, load_encoder, load_tokenizer
from .files import atomic_folder
from .model import RouterDC
from .reading import GIVEN


def save(model: RouterDC, folder: Path, about: dict[str, Any], named: bool = False) -> None:
    """Write a checkpoint atomically, with the digests that `load` verifies.

    Args:
        about: settings, data hashes, metrics, ...: kept in the config. NEEDED says what `load` asks of it.
        named: leave out the weights of the encoder that are not marked as trained; `load` finds the encoder by its
            name, and proves by NAMED, the SHA-256 of these weights, that it is the same.
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
    if named:
        untrained = {
            name for name, value in model.encoder.named_parameters(prefix="encoder") if not value.requires_grad
        }
        left_out = {name: weights.pop(name) for name in untrained}
        if left_out:
            config[NAMED] = _digest_of_weights(left_out)
    with atomic_folder(folder) as unfinished:
        if encoder.name != GIVEN:
            encoder.backbone.config.save_pretrained(unfinished / ENCODER)
            encoder.tokenizer.save_pretrained(unfinished / ENCODER)
        save_file(weights, unfinished / WEIGHTS)
        write_config(unfinished, config)


def _digest_of_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU and their names; their order is no part of it."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _named_weights(folder: Path, config: Mapping[str, Any], held: Collection[str]) -> dict[str, Tensor]:
    """The weights of the encoder that a checkpoint names and does not hold.

    Raises: CheckpointError if there is no such encoder, or its weights are others.
    """
    name = config["encoder"]
    names_it = f"{folder} names its encoder, {name}, and does not hold it (--checkpoint_encoder named)"
    try:
        encoder = load_encoder(name, config["pooling"], config["max_length"])
    except EncoderError as error:
        raise CheckpointError(f"{names_it}; {str(error).removeprefix(f'--encoder {name}: ')}") from None
    weights = {f"encoder.{part}": value for part, value in encoder.state_dict().items()}
    weights = {part: value for part, value in weights.items() if part not in held}
    found = _digest_of_weights(weights)
    if found != config[NAMED]:
        raise CheckpointError(
            f"{names_it}; the one there now is another (SHA-256 of its weights is {found}, expected {config[NAMED]}): "
            "bring back the one of the training run"
        )
    return weights


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
        a config without something NEEDED, or a named encoder that is not there.
    """
    folder = find(folder)
    config = read_config(folder)
    check_files(folder, config)
    try:
        weights = load_file(folder / WEIGHTS)
        if NAMED in config:
            weights |= _named_weights(folder, config, weights)
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
