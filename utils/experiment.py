"""Devices, precision, random streams and batches: what a run needs that is not about routing."""

import contextlib
import math
import platform
import sys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .distributed import own_device, own_threads
from .reading import PRECISIONS

MOST_TOKENS = {"cpu": 512}  # that the encoder takes at once, by device; 512 measured best on a CPU
MOST_TOKENS_ELSEWHERE = 16384
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute.

    precision: one of PRECISIONS. tokens: how many the encoder takes at once, padding among them. multiple: what lengths
    are rounded up to. kept: of how many tokens at most a training step keeps what its backward pass needs; a batch of
    more is computed twice, chunk by chunk, which changes no digit.
    """

    device: torch.device
    precision: str
    tokens: int
    multiple: int
    kept: float = math.inf

    @property
    def dtype(self) -> torch.dtype:
        """What the encoder's products are computed in, and its hidden states kept in."""
        return HALF.get(self.precision, torch.float32)

    def autocast(self) -> contextlib.AbstractContextManager:
        """A block in which the device computes in half precision, or in float32 with "fp32" and "tf32"."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.precision in HALF)

    def describe(self) -> str:
        """Device and precision in words, as results name them."""
        return f"{name_of(self.device)}, {self.precision}"


def name_of(device: torch.device) -> str:
    """A device in words, with the number of threads of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def computes_in(device: torch.device, precision: str) -> bool:
    """Whether a device has this precision of its own, and does not imitate it more slowly than float32."""
    if precision == "bf16":
        if device.type == "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return device.type == "mps" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if precision == "tf32":
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return precision == "fp32" or device.type in ("cuda", "mps")


def choose_device(device: str) -> torch.device:
    """ "auto" (CUDA, then MPS, then CPU), "cpu", "cuda", "cuda:1" or "mps" as a device.

    Raises: ValueError if it is not there or the name is unknown.
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
    return chosen


def choose_precision(device: torch.device, precision: str) -> str:
    """One of PRECISIONS. "auto" is bf16 where the device computes in it, else fp16 on CUDA, else fp32.

    A note on stderr says if that is fp16, or if the device imitates what was asked for: fp16 on a CPU gives the right
    numbers, five times more slowly than fp32.
    Raises: ValueError for another name, or tf32 where the device has none.
    """
    if precision == "auto":
        if computes_in(device, "bf16"):
            return "bf16"
        if device.type == "cuda":
            print(f"note: {name_of(device)} has no bf16: fp16 with loss scaling (or --precision fp32)", file=sys.stderr)
            return "fp16"
        return "fp32"
    if precision not in PRECISIONS:
        raise ValueError(f"--precision is {precision!r}; it must be auto, {', '.join(PRECISIONS[:-1])} or fp32")
    if not computes_in(device, precision):
        if precision == "tf32":
            raise ValueError(f"--precision tf32: {name_of(device)} has none; use fp32")
        print(f"note: {name_of(device)} has no {precision} and imitates it slowly", file=sys.stderr)
    return precision


def choose_hardware(device: str = "auto", precision: str = "auto", threads: int = 0, tokens: int = 0) -> Hardware:
    """Choose device and precision, and set the number of torch's threads on the CPU.

    With "tf32" all products of float32 matrices on the GPU have TF32's 10 bits, those of the losses among them; with
    "fp32" they are whole, also where the GPU has TF32: who wants speed has bf16.

    Args:
        device: see `choose_device`.
        precision: "auto" or one of PRECISIONS, see `choose_precision`; weights are float32 in each.
        threads: 0 leaves the number as it is: that of the cores, or OMP_NUM_THREADS. Several processes share the cores.
        tokens: that the encoder takes at once; 0: 512 on a CPU; elsewhere `utils.memory.fitted` lowers 16,384 to what
            fits.
    Raises: ValueError if the device is not there or a name is unknown.
    """
    chosen = choose_device(device)
    if threads := threads or own_threads():
        torch.set_num_threads(threads)
    precision = choose_precision(chosen, precision)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    tokens = tokens or MOST_TOKENS.get(chosen.type, MOST_TOKENS_ELSEWHERE)
    return Hardware(chosen, precision, tokens, multiple=16 if precision in HALF else 8)


def hardware_like(
    trained: str, device: str = "auto", precision: str = "auto", threads: int = 0, tokens: int = 0
) -> Hardware:
    """`choose_hardware` for a trained router: "auto" is the precision of its training.

    Where the device lacks that, it is the device's own, and a note on stderr says so.
    """
    if precision == "auto":
        chosen = choose_device(device)
        precision = trained
        if not computes_in(chosen, trained):
            precision = choose_precision(chosen, "auto")
            has_not = f"trained in {trained}, which {name_of(chosen)} does not have"
            print(f"note: {has_not}; computed in {precision}: the last digits can differ", file=sys.stderr)
    return choose_hardware(device, precision, threads, tokens)


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Values on a device, without waiting for what it computes."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


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
