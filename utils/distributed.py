"""Several processes that train or evaluate one router, and compute what one process computes.

`torchrun --nproc_per_node N train_router_mdeberta.py ...` and `accelerate launch` start N processes; without them all
of this does nothing. Every process draws the batch of one process and cuts it into the same chunks. Each encodes a
share of the chunks, and `gather` gives all of them all embeddings. So each draws the same pairs and has the whole loss.

Backwards, `gather` sums the gradients of the N copies of the loss and gives each process those of its own rows, which
are N times those of one process. Then `average_gradients` takes the mean over the processes. For the encoder this is
the sum of all shares, as in one process; the LLM embeddings and the head have whole gradients everywhere, and the mean
of equals is the same. With torch's `all_gather`, which has no gradients, the encoder would get 1/N of its own.

torch's DistributedDataParallel is not used: it counts on one forward pass for each backward pass, and here every chunk
of a batch has one. accelerate's process state would be a library more for what torch.distributed does in as few lines.
"""

import atexit
import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 2**24  # values that are averaged in one call: 64 MB in float32
PATIENCE = timedelta(seconds=10)  # how long a process that fails waits for the one that says why
Value = TypeVar("Value")


def world_size() -> int:
    """How many processes work together; 1 without a launcher."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


# Beginning and end


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """A block in which the processes of a launcher work together; only the main one prints.

    They leave it together. If one fails, it alone says why: the others end when it has, with SystemExit.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group(_backend())
    try:
        with contextlib.nullcontext() if is_main() else _quiet():
            yield
            barrier()
    except BaseException as error:  # without an end of the group, which would wait for processes that are gone
        if not _tells(error):
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None
        raise
    dist.destroy_process_group()


def _backend() -> str:
    """gloo on the CPU, nccl on GPUs, gloo on GPUs that several processes share."""
    if not torch.cuda.is_available() or _on_this_host() > torch.cuda.device_count():
        return "gloo"
    return "cpu:gloo,cuda:nccl"


def _on_this_host() -> int:
    """How many of the processes are on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A block whose output goes nowhere."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _tells(error: BaseException) -> bool:
    """Whether this process is the one that says why all end: the first to fail.

    The parser of the command line ends all processes and has told the reason in the main one. Others wait until the
    first one ends.
    """
    store = dist.distributed_c10d._get_default_store()
    try:
        is_first = is_main() if isinstance(error, SystemExit) else store.add("failed", 1) == 1
        if is_first:
            atexit.register(store.set, "told", "yes")
        else:
            store.wait(["told"], PATIENCE)
    except dist.DistError:  # the process that kept the store is gone, and was the first
        return False
    return is_first


def own_device(device: str) -> str:
    """The device of this process: of several on a host, each has a GPU of its own, as far as there are so many.

    Raises: ValueError if one GPU is named for several processes.
    """
    if world_size() == 1 or not device.startswith("cuda") or not torch.cuda.is_available():
        return device
    if device != "cuda":
        raise ValueError(f"--device {device} is one GPU for {world_size()} processes; give --device cuda")
    number = int(os.environ.get("LOCAL_RANK", rank())) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def own_threads() -> int:
    """CPU threads of this process where --threads leaves them open: its share of the cores. 0: as they are.

    torchrun sets one thread for each process if nobody chose another number (OMP_NUM_THREADS).
    """
    if world_size() == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // _on_this_host())


def own_stream() -> tuple[int, ...]:
    """What makes random numbers of this process its own (dropout): its number, and nothing if it is alone."""
    return () if world_size() == 1 else (rank(),)


# Agreeing, on the host: no GPU is waited for


def barrier() -> None:
    """Wait until all processes are here."""
    any_process(False)


def any_process(said: bool) -> bool:
    """Whether any process says so; all must ask."""
    if world_size() == 1:
        return said
    votes = torch.tensor(int(said))
    dist.all_reduce(votes)
    return bool(votes)


def least(value: int) -> int:
    """The smallest of the values of all processes; all must ask."""
    if world_size() == 1:
        return value
    smallest = torch.tensor(value)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return int(smallest)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """A block that the main process has left before the others enter."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def check_alike(value: Any, what: str) -> None:
    """Raise ValueError unless all processes have the same value. what: the value in words, and what would help."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise ValueError(f"process {number} has another {what}")


# Sharing


def share_out(costs: Sequence[int], shares: int) -> list[list[int]]:
    """Which pieces of work each process has: the costliest first, each to the one that has least so far.

    Returns: the numbers of its pieces, ascending, for each process.
    """
    given: list[list[int]] = [[] for _ in range(shares)]
    load = [0] * shares
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        least = load.index(min(load))
        given[least].append(number)
        load[least] += costs[number]
    return [sorted(numbers) for numbers in given]


def broadcast(values: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, owner: int) -> Tensor:
    """The values of the process `owner` for all, on the CPU; others give None."""
    if world_size() == 1:
        return values
    own = rank() == owner
    values = values.to(dtype).contiguous() if own else torch.empty(shape, dtype=dtype)
    dist.broadcast(values.view(torch.uint8), owner)
    return values


class _Gather(torch.autograd.Function):
    """`gather` for several processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = own.new_zeros(max(counts), *own.shape[1:])  # all must send equally much
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.split(ctx.counts)[rank()], None


def gather(own: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all processes, those of process 0 first: (counts[rank], ...) -> (sum of counts, ...).

    Backwards each process gets the gradients of its own rows, summed over the losses of all processes.
    """
    return own if len(counts) == 1 else _Gather.apply(own, list(counts))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, many in one call.

    All processes have gradients of the same parameters.
    """
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        bucket.append(parameter.grad)
        if sum(gradient.numel() for gradient in bucket) >= BUCKET:
            _average(bucket)
            bucket = []
    if bucket:
        _average(bucket)


def _average(gradients: Sequence[Tensor]) -> None:
    """Average tensors over the processes, in place and in one call."""
    if len(gradients) == 1 and gradients[0].is_contiguous():
        flat = gradients[0].view(-1)  # a large one is not copied
        dist.all_reduce(flat)
        flat /= world_size()
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(mean.view_as(gradient))
