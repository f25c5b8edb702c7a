"""How much of its memory a device gives a training step, and what is done when it runs out."""

import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import distributed

from utils.experiment import Hardware

Made = TypeVar("Made")


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
        print(f"note: memory ran out ({reason}); it goes on with --tokens {hardware.tokens}", file=sys.stderr)


def halved(hardware: Hardware, longest: int, reason: str) -> Hardware:
    """Half the tokens a chunk, at least `longest`, and of no more than one chunk what the backward pass needs.

    Raises: ValueError as `with_less`.
    """
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise ValueError(
            f"memory ran out in process {distributed.get_rank()} ({reason}); chunks must not differ between processes: "
            f"give all of them --tokens {max(hardware.tokens // 2, longest)}"
        )
    if hardware.tokens <= longest and hardware.kept == 0:
        raise ValueError(
            f"memory ran out with one row of {longest} tokens at a time ({reason}). Give a smaller --max_length, "
            "--precision bf16, --train_layers, or another --device"
        )
    return replace(hardware, tokens=max(hardware.tokens // 2, longest), kept=0)
