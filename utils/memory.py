"""How much of its memory a device gives a training step, and what is done when it runs out."""

import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .distributed import least, rank, world_size
from .experiment import Hardware

Made = TypeVar("Made")
ENOUGH = 2048  # tokens that keep a GPU busy: only beyond them does a chunk's padding cost more than another chunk


def with_less(attempt: Callable[[Hardware], Made], hardware: Hardware, longest: int) -> Made:
    """attempt(hardware); when the device's memory runs out, the same again with half the tokens a chunk, and so on.

    Args:
        attempt: what can be done again as if it had not been begun.
        longest: tokens of the longest row, which a chunk cannot be shorter than.
    Raises: ValueError if memory runs out with one such row a chunk, or in one of several processes, whose chunks must
        not differ.
    """
    while True:
        try:
            return attempt(hardware)
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
        gc.collect()  # here, where the error no longer holds what the attempt had made
        if hardware.device.type == "cuda":
            torch.cuda.empty_cache()
        hardware = halved(hardware, longest, reason)
        print(f"note: memory ran out ({reason}); chunks of {hardware.tokens} tokens", file=sys.stderr)


def halved(hardware: Hardware, longest: int, reason: str) -> Hardware:
    """Half the tokens a chunk, at least `longest`, and of no more than one chunk what the backward pass needs.

    Raises: ValueError as `with_less`.
    """
    if world_size() > 1:
        raise ValueError(
            f"memory ran out in process {rank()} ({reason}); chunks must not differ between processes: "
            f"give all of them --tokens {max(hardware.tokens // 2, longest)}"
        )
    if hardware.tokens <= longest and hardware.kept == 0:
        raise ValueError(
            f"memory ran out with one row of {longest} tokens at a time ({reason}). Give a smaller --max_length, "
            "--precision bf16, --train_layers, or another --device"
        )
    return replace(hardware, tokens=max(hardware.tokens // 2, longest), kept=0)


def layer_bytes(config: PreTrainedConfig, width: int, half: bool, dropout: bool) -> int:
    """What the backward pass needs of one layer (BERT's or DeBERTa's) for one token of a row of `width` tokens.

    Of p dimensions, f in the middle and h heads it keeps the input, query, key, value, what attention mixed, what both
    normalisations get and what the first one gives (8 p values), f values before and after the activation, and the h
    probabilities of each of `width` tokens. In float32 a value has 4 bytes. In half precision it has 2, but what enters
    and leaves the normalisations is float32, and query, key and value each keep an input of their own: 12 p bytes more.
    Dropout keeps one more copy of the probabilities, and a byte for each value that it may drop, 3 p and h * width. (On
    a CPU that is 4 bytes, and a fused kernel on a GPU keeps fewer probabilities.)
    """
    p, f = config.hidden_size, config.intermediate_size
    size = 2 if half else 4
    probabilities = config.num_attention_heads * width
    needed = size * (8 * p + 2 * f + probabilities) + 12 * p * half
    if dropout:
        needed += size * probabilities + 3 * p + probabilities
    return needed


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device can still give; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    facts = Path("/proc/meminfo")
    if device.type != "cpu" or not facts.is_file():
        return None
    return 1024 * int(facts.read_text().split("MemAvailable:")[1].split()[0])


def fitted(hardware: Hardware, backbone: PreTrainedModel, longest: int, free: int | None = None) -> Hardware:
    """Hardware whose chunks, and what a training step keeps of them, fit in a device's free memory.

    Of that, a fifth is left alone, and gradients and both moments of AdamW get theirs: three times the trained values.
    The rest holds so many tokens, each with `layer_bytes` a trained layer; in half precision each has its part of the
    weights, too, which autocast copies for every chunk, usually of ENOUGH tokens. A chunk has at most hardware.tokens
    of them, rounded down to a power of two, and at least one row; on a CPU they are as many as ever. A batch of more is
    computed twice, see `Hardware.kept`.

    Args:
        backbone: on the device, its trained parameters marked. longest: tokens of the longest row.
        free: bytes; None: what the device says.
    """
    free = free_memory(hardware.device) if free is None else free
    free = None if free is None else least(free)  # so that all processes cut the same chunks
    trained = sum(value.numel() for value in backbone.parameters() if value.requires_grad)
    layers = sum(any(value.requires_grad for value in layer.parameters()) for layer in backbone.encoder.layer)
    if not layers or free is None:
        return hardware
    config = backbone.config
    dropout = config.hidden_dropout_prob > 0 or config.attention_probs_dropout_prob > 0
    half = hardware.dtype.itemsize == 2
    a_token = layers * layer_bytes(config, longest, half, dropout)
    if half:
        in_layers = sum(value.numel() for value in backbone.encoder.parameters() if value.requires_grad)
        a_token += 2 * in_layers // min(hardware.tokens, ENOUGH)
    kept = max(0, int(0.8 * free) - 3 * 4 * trained) // a_token
    if hardware.device.type == "cpu":
        return replace(hardware, kept=kept)
    power = 2 ** (kept.bit_length() - 1) if kept else 0
    return replace(hardware, tokens=max(min(power, hardware.tokens), longest), kept=kept)
