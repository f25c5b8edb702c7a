"""Devices, precision, random streams and batches: what a run needs that is not about routing."""

import contextlib
import platform
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from utils.distributed import own_device, own_threads


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute. `tokens` is how many the encoder takes at once, `multiple` what lengths are rounded up
    to.
    """

    device: torch.device
    bf16: bool
    tokens: int
    multiple: int

    def autocast(self) -> contextlib.AbstractContextManager:
        """A block in which the device computes in bf16, or in fp32 without `bf16`."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def describe(self) -> str:
        """Device and precision in words, as results name them."""
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{self.device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
        )
        return f"{name}, {'bf16' if self.bf16 else 'fp32'}"


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "mps" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_hardware(device: str = "auto", precision: str = "auto", threads: int = 0) -> Hardware:
    """Choose device and precision, and set the number of torch's threads on the CPU.

    Args:
        device: "auto" (CUDA, then MPS, then CPU), "cpu", "cuda", "cuda:1", "mps".
        precision: "auto" (bf16 autocast over fp32 weights where the device computes in bf16), "bf16" or "fp32".
        threads: 0 leaves the number as it is: that of the cores, or OMP_NUM_THREADS. Several processes share the cores.
    Raises: ValueError if the device is not there or the name is unknown.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(own_device(device))
    except RuntimeError:
        raise ValueError(f"--device is {device!r}; it must be auto, cpu, cuda, cuda:N or mps") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        raise ValueError(
            f"--device {device}: PyTorch sees {torch.cuda.device_count()} CUDA devices. Use --device cpu, or "
            "install the CUDA build of torch and check nvidia-smi"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: PyTorch sees no Apple GPU. Use --device cpu")
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"--precision is {precision!r}; it must be auto, bf16 or fp32")
    if threads := threads or own_threads():
        torch.set_num_threads(threads)
    bf16 = _has_bf16(chosen) if precision == "auto" else precision == "bf16"
    return Hardware(chosen, bf16, tokens=512 if chosen.type == "cpu" else 16384, multiple=16 if bf16 else 8)


def stream_seed(*parts: int) -> int:
    """A 63-bit seed for one purpose at one step. A run's randomness depends on (seed, purpose, step), never on what
    else was drawn.
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def epoch_order(count: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """The order (count,) in which an epoch visits `count` rows, drawn by (seed, epoch, stream)."""
    order = np.random.default_rng((seed, epoch, stream)).permutation(count)
    order.flags.writeable = False  # it is kept
    return order


def batch_rows(pool: np.ndarray, size: int, batch: int, seed: int, stream: int = 0) -> np.ndarray:
    """Batch number `batch` of `size` rows from an endless pass over `pool`, reshuffled each epoch by (seed, epoch,
    stream). Its cost is that of the batch; each epoch is shuffled once.
    """
    epochs, places = np.divmod(np.arange(batch * size, (batch + 1) * size), len(pool))
    rows = np.empty(size, dtype=pool.dtype)
    for epoch in np.unique(epochs):
        is_here = epochs == epoch
        rows[is_here] = pool[epoch_order(len(pool), seed, int(epoch), stream)[places[is_here]]]
    return rows
