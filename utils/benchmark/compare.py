"""Our way against the released way, in queries per second and memory.

"ours" tokenises once, computes on chunks of similar length, and in bf16 where the device has it. "released", written
from its description, tokenises query by query at every access and computes on 512 padded tokens in fp32. Model,
batches, losses and optimizer are the same, dropout is off in both, and their steps alternate, so that noise hits both
alike.
"""

import json
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..config import DataConfig, HardwareConfig, bounded
from ..data import RoutingData, load, load_all
from ..encoders import Queries
from ..experiment import Hardware, batch_rows, choose_hardware, stream_seed
from ..files import writable_folder
from ..losses import sample_llm_loss, sample_sample_loss
from ..meters import bar
from ..model import RouterDC
from ..tables import markdown
from ..tasks import KINDS, TASKS
from ..training_set import split_validation, training_rows
from .sized import make_encoder

WAYS = ("ours", "released")
PHASES = ("training", "evaluation")
SAMPLES, HELD_OUT, LEARNING_RATE, WEIGHT_DECAY = 1000, 0.1, 5e-5, 0.01  # the defaults of training
FROZEN_ROUNDS = 10  # a step on embeddings takes a millisecond: do more of them


@dataclass(frozen=True)
class Arguments:
    """options"""

    encoder: str = "minilm"
    """hub name, local folder, or minilm (a PyPI package)"""
    data_paths: tuple[str, ...] = DataConfig.data_paths
    """training files, one per task"""
    test_data_paths: tuple[str, ...] = tuple(task.test for task in TASKS)
    """test files, for their questions"""
    batch_size: int = bounded(64, at_least=1)
    """queries per batch"""
    steps: int = bounded(6, at_least=1)
    """training steps of our way, after one for warming up"""
    released_steps: int = bounded(3, at_least=1)
    """training steps of the released way, after one for warming up"""
    eval_queries: int = bounded(512, at_least=1)
    """test queries, drawn from all test files"""
    seed: int = bounded(1, at_least=0)
    """of the batches and the LLM embeddings"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """--precision is of our way; the released one is fp32"""
    rates: tuple[str, ...] = ()
    """encoders whose rates are measured, too: mdeberta-size (random weights) and any that --encoder takes"""
    repeats: int = bounded(5, at_least=1)
    """how often each of these is measured"""
    figure: Path | None = None
    """draw how the cost of a step grows with length, batch and LLMs for the encoders of --rates"""
    output: Path = Path("results/benchmark.json")
    """file for the figures"""
    memory_of: Literal["ours_training", "ours_evaluation", "released_training", "released_evaluation"] | None = None
    """measure the memory of one phase in this process; a benchmark starts such processes itself"""


@dataclass
class Work:
    """What both ways compute on: the n training rows that occur in `batches`, from 0, and a sample of test questions.

    scores: (n, T). clusters: (n,). batches: (steps, B) rows; the first batch is for warming up.
    """

    llms: tuple[str, ...]
    questions: list[str]
    scores: Tensor
    clusters: Tensor
    batches: np.ndarray
    tests: list[str]


def load_work(args: Arguments, device: torch.device) -> Work:
    """Draw the batches as training does, and the test questions.

    Raises: DataError for bad files; ValueError for more test questions than there are.
    """
    kind = KINDS[0]  # the kind of the scores changes no speed
    files = load_all(args.data_paths, [kind] * len(args.data_paths), ("--data_paths", "kinds"), need_clusters=True)
    batches = draw_batches(files, args)
    used = np.unique(batches)
    questions = [question for data in files for question in data.questions]
    scores = np.concatenate([data.scores for data in files])[used]
    clusters = np.concatenate([data.clusters for data in files])[used]
    return Work(
        files[0].llms,
        [questions[row] for row in used],
        torch.from_numpy(scores).to(device),
        torch.from_numpy(clusters).to(device),
        np.searchsorted(used, batches),
        draw_tests(args, kind),
    )


def draw_batches(files: Sequence[RoutingData], args: Arguments) -> np.ndarray:
    """The batches of a training run, (steps, B), as numbers among the rows of all files end to end."""
    pool, offset = [], 0
    for data in files:
        train, _ = split_validation(data, HELD_OUT, args.seed)
        pool.append(offset + training_rows(train, SAMPLES))
        offset += len(data)
    pool = np.concatenate(pool)
    steps = 1 + max(args.steps, args.released_steps)
    return np.stack([batch_rows(pool, args.batch_size, number, args.seed) for number in range(steps)])


def draw_tests(args: Arguments, kind: str) -> list[str]:
    """--eval_queries questions of the test files. Raises: ValueError if they have fewer."""
    questions = [question for path in args.test_data_paths for question in load(path, kind).questions]
    if args.eval_queries > len(questions):
        raise ValueError(f"--eval_queries is {args.eval_queries}; the test files have {len(questions)} queries")
    sample = np.random.default_rng(args.seed).permutation(len(questions))[: args.eval_queries]
    return [questions[row] for row in sample]


def hardware_of(args: Arguments) -> Hardware:
    """Where and how to compute, by the flags."""
    flags = args.hardware
    return choose_hardware(flags.device, flags.precision, flags.threads, flags.tokens)


class Way:
    """The router, its losses and its optimizer around one way to encode.

    name: "ours", "released" or "frozen" (embeddings once per run).
    """

    def __init__(self, name: str, args: Arguments, work: Work, hardware: Hardware):
        torch.manual_seed(stream_seed(args.seed))  # the same LLM embeddings in every way
        self.name, self.args, self.work, self.hardware = name, args, work, hardware
        self.encoder = make_encoder(args.encoder)
        self.model = RouterDC(self.encoder, work.llms, head=name == "frozen").to(hardware.device)
        self.encoder.requires_grad_(name != "frozen")
        if name != "released":  # which keeps the attention of the library
            self.encoder.place(hardware)
            self.queries = Queries(self.encoder, work.questions, hardware, "none" if name == "frozen" else "all")
        trained = [value for value in self.model.parameters() if value.requires_grad]
        fused = hardware.device.type != "mps"
        self.optimizer = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused)

    def _embed_as_released(self, questions: Sequence[str]) -> Tensor:
        """Encoder output (B, p): every question is tokenised on its own and padded to the longest possible."""
        settings = {
            "padding": "max_length",
            "truncation": True,
            "max_length": self.encoder.max_length,
            "return_tensors": "pt",
        }
        encoded = [self.encoder.tokenizer(question, **settings) for question in questions]
        ids = torch.cat([one["input_ids"] for one in encoded]).to(self.hardware.device)  # (B, 512)
        mask = torch.cat([one["attention_mask"] for one in encoded]).to(self.hardware.device)
        return self.encoder(ids, mask)

    def embed(self, rows: np.ndarray) -> Tensor:
        """Encoder output (B, p) of training rows (B,), with gradients."""
        if self.name == "released":
            return self._embed_as_released([self.work.questions[row] for row in rows])
        return self.queries.embed(rows)

    def embed_tests(self, rows: np.ndarray) -> Tensor:
        """Encoder output (n, p) of test questions (n,), from their text."""
        questions = [self.work.tests[row] for row in rows]
        if self.name == "released":
            return self._embed_as_released(questions)
        return Queries(self.encoder, questions, self.hardware, "all").embed()

    def loss(self, number: int) -> Tensor:
        """Both losses of the paper on batch `number`."""
        rows = self.work.batches[number]
        index = torch.from_numpy(rows).to(self.hardware.device)
        pairs = torch.Generator(self.hardware.device).manual_seed(stream_seed(self.args.seed, number))
        x, similarity = self.model(self.embed(rows))  # (B, p), (B, T)
        among_queries = self.model.similarity(x, x)  # (B, B)
        to_llms = sample_llm_loss(similarity, self.work.scores[index])
        to_queries = sample_sample_loss(among_queries, self.work.clusters[index], generator=pairs, ids=index)
        return to_llms.mean() + to_queries.mean()

    def train(self, number: int) -> int:
        """One optimizer step on batch `number`; returns how many queries it had."""
        self.loss(number).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.args.batch_size

    @torch.no_grad()
    def evaluate(self, rows: np.ndarray) -> int:
        """Route test questions (n,); returns n."""
        return len(self.model(self.embed_tests(rows))[1].argmax(dim=1).cpu())

    def jobs(self, phase: str) -> list[Callable[[], int]]:
        """The steps of a phase, the first for warming up.

        For each batch that the released evaluation has, ours evaluates the whole sample.
        """
        if phase == "training":
            steps = self.args.released_steps if self.name == "released" else self.args.steps
            return [partial(self.train, number) for number in range(1 + steps)]
        rows = np.arange(len(self.work.tests))
        batches = np.split(rows, range(self.args.batch_size, len(rows), self.args.batch_size))
        batches = [batches[0], *batches]
        return [partial(self.evaluate, batch if self.name == "released" else rows) for batch in batches]


def waiting(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done all that it was given."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else getattr(torch, device.type).synchronize


def median_rates(
    ways: Sequence[Way], phase: str, device: torch.device, progress: tqdm | None = None, rounds: int = 1
) -> dict[str, float]:
    """Run the steps of all ways in turn, evenly mixed.

    Args:
        progress: advanced by one for each step.
        rounds: how often all steps are run.
    Returns: each way's median queries per second, its first step left out.
    """
    wait = waiting(device)
    steps = []  # (when, from 0 to 1; the way; what to run)
    for way in ways:
        jobs = way.jobs(phase) * rounds
        steps += [(number / len(jobs), way.name, job) for number, job in enumerate(jobs)]
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    for _, name, job in sorted(steps, key=lambda step: step[0]):
        wait()
        begun = time.perf_counter()
        queries = job()
        wait()
        rates[name].append(queries / (time.perf_counter() - begun))
        if progress is not None:
            progress.update()
    return {name: float(np.median(values[1:])) for name, values in rates.items()}


def forget_peak(device: torch.device) -> None:
    """Let `peak_mb` begin again, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (file := Path("/proc/self/clear_refs")).is_file():
        file.write_text("5")


def peak_mb(device: torch.device) -> float:
    """Peak memory of this process so far in MB (2^20 bytes): allocated on a CUDA device, else resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # VmHWM is this program's own; ru_maxrss starts from the process that launched it.
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure_memory(args: Arguments) -> dict[str, float]:
    """Run the phase of `--memory_of` in this process: peak memory in MB when all is loaded, and at the end."""
    name, phase = args.memory_of.split("_")
    hardware = hardware_of(args)
    way = Way(name, args, load_work(args, hardware.device), hardware)
    loaded = peak_mb(hardware.device)
    jobs = way.jobs(phase)
    if name == "released":
        jobs = jobs[:2]  # its shapes never change; the second step has AdamW's state, too
    for job in jobs:
        job()
    return {"loaded": loaded, "peak": peak_mb(hardware.device)}


def child_memory(arguments: Sequence[str], way: str, phase: str) -> dict[str, float]:
    """`measure_memory` in a fresh process. Raises: ValueError with its last words if it fails."""
    run = subprocess.run(
        [sys.executable, "-m", "utils.benchmark", *arguments, "--memory_of", f"{way}_{phase}"],
        capture_output=True,
        text=True,
    )
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        if run.returncode == 2:  # bad input, in the words of `main`
            raise ValueError(last.removeprefix("error: "))
        raise ValueError(
            f"memory of {phase}, {way}: not measured (exit status {run.returncode}: {last}). If memory ran out, give a "
            "smaller --batch_size"
        )
    return json.loads(run.stdout.splitlines()[-1])


def all_memory(arguments: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """What `measure_memory` returns, by phase and way."""
    memory: dict[str, dict[str, dict[str, float]]] = {phase: {} for phase in PHASES}
    with bar(len(PHASES) * len(WAYS), "memory", "process") as progress:
        for phase in PHASES:
            for name in WAYS:
                memory[phase][name] = child_memory(arguments, name, phase)
                progress.update()
    return memory


def memory_in(memory: Mapping[str, Mapping[str, Mapping[str, float]]], moment: str) -> dict[str, dict[str, int]]:
    """The rounded MB at one moment, "loaded" or "peak", by phase and way."""
    return {phase: {name: round(values[moment]) for name, values in memory[phase].items()} for phase in PHASES}


def benchmark(args: Arguments, arguments: Sequence[str]) -> dict:
    """Measure everything; returns what the JSON file holds."""
    begun = time.monotonic()
    hardware = hardware_of(args)
    writable_folder(args.output.parent, "--output")
    work = load_work(args, hardware.device)
    memory = all_memory(arguments)  # first: if there is too little, this says so
    ways = [Way(name, args, work, hardware) for name in WAYS]
    tokens = ways[0].queries.inputs.lengths[work.batches[1 : 1 + args.steps]].mean()
    test_tokens = ways[0].encoder.tokenize(work.tests).lengths.mean()
    steps = sum(len(way.jobs(phase)) for way in ways for phase in PHASES)
    with bar(steps, "speed", "step") as progress:
        rates = {phase: median_rates(ways, phase, hardware.device, progress) for phase in PHASES}
    frozen_way = Way("frozen", args, work, hardware)
    frozen = median_rates([frozen_way], "training", hardware.device, rounds=FROZEN_ROUNDS)["frozen"]

    result = {}
    for phase in PHASES:
        result[f"{phase}_speedup"] = round(rates[phase]["ours"] / rates[phase]["released"], 2)
    for phase in PHASES:
        result[f"{phase}_queries_per_second"] = {name: round(rate, 2) for name, rate in rates[phase].items()}
    return result | {
        "peak_memory_mb": memory_in(memory, "peak"),
        "loaded_memory_mb": memory_in(memory, "loaded"),
        "frozen_training": {
            "queries_per_second": round(frozen),
            "steps_per_second": round(frozen / args.batch_size, 1),
        },
        "encoder": args.encoder,
        "device": hardware.describe(),
        "precision": hardware.precision,
        **{name: getattr(args, name) for name in ("batch_size", "steps", "released_steps", "eval_queries", "seed")},
        "mean_tokens": round(float(tokens), 1),
        "mean_tokens_evaluation": round(float(test_tokens), 1),
        "command": shlex.join(["python", "-m", "utils.benchmark", *arguments]),
        "seconds": round(time.monotonic() - begun, 1),
    }


def table(result: dict) -> str:
    """The result as a Markdown table."""
    rows = []
    for phase in PHASES:
        rates = result[f"{phase}_queries_per_second"]
        speedup = result[f"{phase}_speedup"]
        rows.append([f"{phase}, queries/s", *[f"{rates[name]:.1f}" for name in WAYS], f"{speedup:.2f}"])
    for phase in PHASES:
        peak, loaded = result["peak_memory_mb"][phase], result["loaded_memory_mb"][phase]
        cells = [f"{peak[name]} ({loaded[name]})" for name in WAYS]
        ratio = peak["ours"] / peak["released"]
        rows.append([f"{phase}, peak MB (after loading)", *cells, f"{ratio:.2f}"])
    frozen = result["frozen_training"]["queries_per_second"]
    rows.append(["training on a frozen encoder, queries/s", str(frozen), "-", "-"])
    return markdown(["", *WAYS, "ours / released"], rows)
