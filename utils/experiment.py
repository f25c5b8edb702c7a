"""Devices, precision, random streams, atomic files and folders: what a run needs that is not about routing."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Setup:
    """Where and how to compute. `tokens` is how many the encoder takes at once, `multiple` what lengths are rounded up to."""

    device: torch.device
    bf16: bool
    tokens: int
    multiple: int

    def autocast(self) -> contextlib.AbstractContextManager:
        """A block in which the device computes in bf16, or in fp32 without `bf16`."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def describe(self) -> str:
        """Device and precision in words, as results name them."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{self.device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
        return f"{name}, {'bf16' if self.bf16 else 'fp32'}"


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "mps" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def setup(device: str = "auto", precision: str = "auto") -> Setup:
    """Choose device and precision.

    Args:
        device: "auto" (CUDA, then MPS, then CPU), "cpu", "cuda", "cuda:1", "mps".
        precision: "auto" (bf16 autocast over fp32 weights where the device computes in bf16), "bf16" or "fp32".
    Raises: ValueError if the device is not there or the name is unknown.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"--device is {device!r}; it must be auto, cpu, cuda, cuda:N or mps") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        raise ValueError(f"--device {device}: PyTorch sees {torch.cuda.device_count()} CUDA devices. Use --device cpu, or install the CUDA build of torch and check nvidia-smi")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: PyTorch sees no Apple GPU. Use --device cpu")
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"--precision is {precision!r}; it must be auto, bf16 or fp32")
    bf16 = _has_bf16(chosen) if precision == "auto" else precision == "bf16"
    return Setup(chosen, bf16, tokens=512 if chosen.type == "cpu" else 16384, multiple=16 if bf16 else 8)


def stream_seed(*parts: int) -> int:
    """A 63-bit seed for one purpose at one step. A run's randomness depends on (seed, purpose, step), never on what else was drawn."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def batch_rows(pool: np.ndarray, size: int, batch: int, seed: int, stream: int = 0) -> np.ndarray:
    """Batch number `batch` of `size` rows from an endless pass over `pool`, reshuffled each epoch by (seed, epoch, stream)."""
    places = np.arange(batch * size, (batch + 1) * size)
    epochs = places // len(pool)
    orders = {e: np.random.default_rng((seed, int(e), stream)).permutation(pool) for e in np.unique(epochs)}
    return np.array([orders[e][place % len(pool)] for place, e in zip(places, epochs)])


def writable_folder(path: Path, flag: str) -> None:
    """Make a folder and prove that a file can be written there.

    Raises: ValueError naming the flag, the path and the reason.
    """
    probe = path / f".probe-{uuid.uuid4().hex[:8]}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{flag} {path}: cannot write there ({error.strerror}); choose another folder") from None


def replaceable_folder(path: Path, flag: str, ours: Collection[str], maker: str) -> None:
    """Prove that `atomic_folder` may put a new folder in the place of this one: a file can be written beside it, and it holds none but `ours`.

    Raises: ValueError naming the flag, the path and what is there of which `maker` ("no conversion") wrote nothing.
    """
    writable_folder(path.parent, flag)
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"{flag} {path}: a file is there; give a folder")
    if others := sorted({entry.name for entry in path.iterdir()}.difference(ours)):
        names = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise ValueError(f"{flag} {path}: the folder is replaced as a whole, and {maker} wrote {names}; give another folder")


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is the old one or the whole new one, never a part."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def locked(folder: Path, taken: str | None = None) -> Iterator[None]:
    """Hold a folder against other processes that ask for it here; nothing is left in it.

    They wait, or, with `taken`, Raises: ValueError with that text.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if taken else 0))
        except BlockingIOError:
            raise ValueError(taken) from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends, and vanishes if it fails.

    What a killed process left behind is removed first; `recover` brings back a folder that was killed in the exchange.
    """
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "old"))
    recover(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if path.exists():
            path.rename(old)
        part.rename(path)
    finally:
        recover(path)
        shutil.rmtree(part, ignore_errors=True)


def recover(path: Path) -> None:
    """Finish an exchange of `atomic_folder` that was stopped half-way: the old folder comes back if no new one is there."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)
