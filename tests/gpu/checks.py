"""What is to be shown on a GPU; each check takes a `Place` and returns figures, or raises AssertionError or Skipped.

On a CPU the same checks compare the CPU with itself, in small: that they run, and what they can find there.
"""

import copy
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import REPO, FakeData, arguments, make_data, make_tiny_bert
from safetensors.torch import load_file
from test_benchmark import save_encoder
from test_deberta import make_deberta
from torch.utils._python_dispatch import TorchDispatchMode

import train_router_mdeberta as program
from utils.config import parse_config
from utils.encoders import Encoder, Ragged, embed, load_encoder
from utils.experiment import Hardware, choose_hardware, computes_in
from utils.losses import sample_llm_loss, sample_sample_loss
from utils.model import RouterDC
from utils.training import Training, load_data, prepare

STEPS = 20
CLOSE = 2e-4  # of the same sums in float32 on two devices, relative
LIMIT = 240  # seconds of a process
WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select")


class Skipped(Exception):
    """Why a check cannot be made here."""


@dataclass
class Place:
    """A device, and a folder for data, encoders and runs."""

    device: torch.device
    folder: Path

    @cached_property
    def fake(self) -> FakeData:
        """Small data files."""
        return make_data(self.folder)

    @cached_property
    def encoder(self) -> Path:
        """A tiny encoder."""
        return make_tiny_bert(self.folder / "tiny-bert")

    @cached_property
    def wide_encoder(self) -> Path:
        """A tiny encoder that reads 512 tokens."""
        save_encoder(self.folder / "wide-bert")
        return self.folder / "wide-bert"

    def words(self, name: str, device: str | None = None, **flags: object) -> list[str]:
        """The command line of a short training without dropout, in the folder's run `name`."""
        fixed = {"device": device or str(self.device), "dropout": 0, "training_steps": STEPS, "eval_steps": STEPS // 2}
        return arguments(self.fake, self.encoder, self.folder / name, **fixed | flags)

    def train(self, name: str, device: str | None = None, **flags: object) -> "Trained":
        """Train in this process."""
        begun = time.monotonic()
        with redirect_stdout(io.StringIO()):
            assert program.main(self.words(name, device, **flags)) == 0
        return Trained(self.folder / name, time.monotonic() - begun)


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    folder: Path
    seconds: float

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """By name."""
        return load_file(self.folder / "checkpoint" / "model.safetensors")

    @property
    def picks(self) -> np.ndarray:
        """The LLM picked for each test query, end to end."""
        picks = json.loads((self.folder / "picks.json").read_text())
        return np.concatenate([columns for task, columns in picks.items() if task != "LLMs"])

    @property
    def loss(self) -> float:
        """The last one of the log."""
        lines = map(json.loads, (self.folder / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line][-1]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two tensors, relative to the largest value that was expected."""
    return float((found.cpu() - expected.cpu()).abs().max() / expected.abs().max().clamp(min=1e-6))


def largest_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """`difference` of all tensors; attention does not depend on the bias of its keys, which is noise."""
    assert found.keys() == expected.keys()
    return max(difference(found[name], expected[name]) for name in found if "key.bias" not in name)


def sharing(first: np.ndarray, second: np.ndarray) -> float:
    """The share of equal picks."""
    return round(float((first == second).mean()), 4)


# Losses and gradients


def losses_and_gradients(place: Place) -> dict[str, Any]:
    """Both losses and all gradients of a BERT and a DeBERTa, in float32, on the device and on the CPU."""
    figures = {}
    for name in ("bert", "deberta"):
        encoder = load_encoder(str(place.encoder), max_length=64, dropout=0.0)
        if name == "deberta":
            encoder = Encoder(name, make_deberta(vocab_size=2000), encoder.tokenizer, "first", 64)
        model = RouterDC(encoder, list("abcd"))
        found = gradients(copy.deepcopy(model), choose_hardware(str(place.device), "fp32"))
        expected = gradients(model, choose_hardware("cpu", "fp32"))
        figures[f"{name}, loss"] = difference(found.pop("loss"), expected.pop("loss"))
        figures[f"{name}, gradients"] = largest_difference(found, expected)
    assert max(figures.values()) < CLOSE, figures
    return {key: f"{value:.1e}" for key, value in figures.items()}


def gradients(model: RouterDC, hardware: Hardware) -> dict[str, torch.Tensor]:
    """The loss and its gradients by name; pairs of two and all others as negatives, so that nothing is drawn."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 60, 12)
    ids = random.integers(5, model.encoder.backbone.config.vocab_size, lengths.sum())
    tokens = Ragged(torch.from_numpy(ids), lengths).to(hardware.device)
    scores = torch.from_numpy(random.random((12, 4), dtype=np.float32)).to(hardware.device)
    groups = torch.arange(12, device=hardware.device) // 2
    model.place(hardware, "all")
    queries, similarity = model(embed(model.encoder, tokens, np.arange(12), hardware))
    among = model.similarity(queries, queries)
    loss = sample_llm_loss(similarity, scores).mean() + sample_sample_loss(among, groups, negatives=12).mean()
    loss.backward()
    return {"loss": loss.detach()} | {n: value.grad for n, value in model.named_parameters() if value.grad is not None}


# Training


def training_as_on_a_cpu(place: Place) -> dict[str, Any]:
    """One training of 20 steps, in float32, without the loss whose pairs each kind of device draws in its own way."""
    flags = {"cluster_loss_weight": 0, "learning_rate": 1e-3}
    there, here = place.train("there", **flags), place.train("here", "cpu", **flags)
    moved = largest_difference(there.weights, here.weights)
    same = sharing(there.picks, here.picks)
    assert moved < 0.02 and same > 0.97, (moved, same)
    return {"weights": f"{moved:.1e}", "same picks": same, "loss": f"{abs(there.loss - here.loss):.1e}"}


def precisions(place: Place) -> dict[str, Any]:
    """20 steps in each precision that the device has, on a CPU fp16 as well: losses near that of float32."""
    flags = {"learning_rate": 1e-3}
    expected = place.train("fp32", precision="fp32", **flags)
    figures = {"fp32": f"{expected.loss:.4f}"}
    for precision in ("bf16", "fp16", "tf32"):
        if not computes_in(place.device, precision) and (precision != "fp16" or place.device.type == "cuda"):
            figures[precision] = "not of this device"
            continue
        found = place.train(precision, precision=precision, **flags)
        assert abs(found.loss / expected.loss - 1) < 0.05, (precision, found.loss, expected.loss)
        figures[precision] = f"{found.loss:.4f}, same picks {sharing(found.picks, expected.picks)}"
    return figures


@contextmanager
def no_waiting(device: torch.device) -> Iterator[list[str]]:
    """A block that must not read from the device: CUDA raises an error, on others the operations that would are noted.

    Yields: these.
    """
    seen: list[str] = []

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket._qualified_op_name
            masks = name == "aten::index" and any(part is not None and part.dtype == torch.bool for part in args[1])
            if name in WAITING or masks:
                seen.append(name)
            return function(*args, **kwargs or {})

    if device.type != "cuda":
        with Note():
            yield seen
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield seen
    finally:
        torch.cuda.set_sync_debug_mode("default")


def step_of(training: Training, step: int) -> torch.Tensor:
    """An optimizer step as the training loop does it."""
    device = training.hardware.device
    loss = program.backward(training, step, 0, torch.Generator(device), torch.Generator(device))
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    return loss


def no_step_waits(place: Place) -> dict[str, Any]:
    """Steps between two lines of the log, of all layers and of a frozen encoder, read nothing from the device."""
    figures = {}
    ways = {"all layers": {}, "last layer": {"train_layers": 1}, "frozen": {"freeze_encoder": True}}
    for name, flags in ways.items():
        config, data = load_data(parse_config(place.words("waits", precision="auto", **flags)))
        training = prepare(config, choose_hardware(str(place.device)), data.training)
        training.model.train()
        for step in range(2):  # the first makes the state of the optimizer
            step_of(training, step)
        with no_waiting(place.device) as seen:
            for step in range(2, 5):
                step_of(training, step)
        assert not seen, (name, sorted(set(seen)))
        figures[name] = "none in 3 steps"
    return figures


def kill_and_resume(place: Place) -> dict[str, Any]:
    """SIGKILL when a state is there; the same command goes on, to the weights of a run that nobody stopped."""
    flags = {"training_steps": 60, "eval_steps": 20, "resume_minutes": 0}
    command = [sys.executable, "train_router_mdeberta.py", *place.words("killed", **flags)]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state, begun = place.folder / "killed" / "state", time.monotonic()
    while process.poll() is None and not state.is_dir() and time.monotonic() - begun < LIMIT:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    resumed, whole = place.train("killed", **flags), place.train("whole", **flags)
    moved = largest_difference(resumed.weights, whole.weights)
    assert moved == 0 if place.device.type == "cpu" else moved < 0.02, moved
    return {"weights": f"{moved:.1e}", "same picks": sharing(resumed.picks, whole.picks)}


def processes(place: Place) -> dict[str, Any]:
    """Two processes of torchrun, on as many GPUs as there are, against one: weights and picks."""
    words = place.words("two", precision="fp32")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train_router_mdeberta.py"]
    run = subprocess.run(
        [sys.executable, *launch, *words], cwd=REPO, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert run.returncode == 0, run.stderr[-800:]
    two, one = Trained(place.folder / "two", 0.0), place.train("one", precision="fp32")
    moved = largest_difference(two.weights, one.weights)
    assert moved < 0.02, moved
    return {"weights": f"{moved:.1e}", "same picks": sharing(two.picks, one.picks), "GPUs": torch.cuda.device_count()}


# Memory and speed


def command(place: Place, module: str, *words: object) -> None:
    """Run a module of the project on the device in a process of its own."""
    files = ["--data_paths", *map(str, place.fake.train.values()), "--test_data_paths", str(place.fake.test["gsm8k"])]
    told = [sys.executable, "-m", module, *files, "--device", str(place.device), *map(str, words)]
    run = subprocess.run(told, cwd=REPO, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert run.returncode == 0, run.stderr[-800:]


def memory(place: Place) -> dict[str, Any]:
    """A step with 64 queries of 512 tokens, with mDeBERTa's real size; on a CPU 4 queries and a tiny encoder."""
    output, on_cpu = place.folder / "memory.json", place.device.type == "cpu"
    size = ["--encoder", place.wide_encoder, "--batch_size", 4] if on_cpu else ["--batch_size", 64]
    precision = next(name for name in ("bf16", "fp16", "fp32") if computes_in(place.device, name))
    more = ["--full_length", "--eval_queries", 8, "--precisions", precision, "--output", output]
    command(place, "utils.benchmark.paper_size", *size, *more)
    found = json.loads(output.read_text())["precisions"][precision]
    phases = {name: f"{cost['seconds']} s, {cost['peak_mb']} MB" for name, cost in found.pop("phases").items()}
    return found | phases


def benchmark(place: Place) -> dict[str, Any]:
    """`python -m utils.benchmark`: MiniLM against the released way, and rates of MiniLM and mDeBERTa's size."""
    output, on_cpu = place.folder / "benchmark.json", place.device.type == "cpu"
    words = ["--output", output, "--eval_queries", 32, "--encoder", place.wide_encoder if on_cpu else "minilm"]
    words += ["--rates", place.wide_encoder] if on_cpu else ["--rates", "minilm", "mdeberta-size"]
    words += ["--steps", 2, "--released_steps", 1]
    words += ["--batch_size", 16, "--repeats", 1] if on_cpu else ["--batch_size", 64, "--repeats", 5]
    command(place, "utils.benchmark", *words, "--figure", place.folder / "growth.png")
    result = json.loads(output.read_text())
    kept = ("training_speedup", "evaluation_speedup", "matmul_teraflops", "rates")
    return {name: result[name] for name in kept}


CHECKS = {
    "losses and gradients": losses_and_gradients,
    "training": training_as_on_a_cpu,
    "precisions": precisions,
    "no step waits": no_step_waits,
    "kill and resume": kill_and_resume,
    "processes": processes,
    "memory": memory,
    "benchmark": benchmark,
}
