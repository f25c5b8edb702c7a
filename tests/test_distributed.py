"""Several processes against one: losses, gradients, weights, picks, the cache, stopping and failing.

The processes are real ones with gloo. They are forked from a server that has imported everything once.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import traceback
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import REPO, arguments, make_rows, weights
from test_losses import drawn, naive_sample_llm, naive_sample_sample, naive_similarity

import evaluation_router
import train_router_mdeberta as program
from utils import encoders
from utils.config import parse_config
from utils.distributed import average_gradients, gather, processes, rank, share_out, world_size
from utils.encoders import Queries, load_encoder, shared_chunks
from utils.experiment import Hardware, choose_hardware, stream_seed
from utils.jobs import Run, train_all
from utils.plan import launcher_of
from utils.run import trainable
from utils.training import STREAM_DROPOUT, STREAM_PAIRS, Training, load_data, make_optimizer, prepare

STEPS = 10
SMALL = 96  # tokens at once, so that a batch has several chunks
QUESTIONS = [row["question"] for row in make_rows(33, "probability", 21)]
L1, BOTH = {"cluster_loss_weight": 0}, {}
L2 = {"patched": "sample_llm_loss"}  # L1 is made zero
F32, F64 = 1e-6, 1e-12
# What is trained by one process and by several: flags, and how far the two may be apart.
CASES = {
    "L1": (L1, F64),
    "L2": (L2, F64),
    "both": (BOTH, F64),
    "L1 in float32": (L1, F32),
    "L2 in float32": (L2, F32),
    "both in float32": (BOTH, F32),
    "last layers": ({"train_layers": 2}, F64),
    "frozen": ({"freeze_encoder": True}, F64),
    "frozen in float32": ({"freeze_encoder": True}, F32),
    "odd batches, random ties": ({"batch_size": 7, "ties": "random"}, F64),
    "accumulation by task": (
        {"gradient_accumulation": 3, "cluster_loss_weight": 0, "sample_loss_weight": 1, "batch_size": 6},
        F64,
    ),
    "fewer rows than processes": ({"batch_size": 3}, F64),
    "one chunk": ({"tokens": 10_000}, F64),
    "as released": ({"fidelity": "1,2,3,4,7"}, F64),
    "ZOOTER": ({"loss": "zooter"}, F64),
    "CosineClassifier": ({"loss": "cosine_classifier"}, F64),
}


# What the processes do


def training_of(command: list[str], tolerance: float, tokens: int = SMALL) -> Training:
    """What a command trains, in float64 for the smaller tolerance."""
    hardware = replace(choose_hardware("cpu", "fp32", 1), tokens=tokens)
    config, data = load_data(parse_config(command))
    training = prepare(config, hardware, data.training)
    if tolerance == F64:
        training.model.double()
        training.optimizer = make_optimizer(training.model, config, hardware)
        if training.queries.trained_layers == "none":
            training.queries.inputs = training.queries.inputs.double()
    training.model.train()
    return training


def steps_of(training: Training, patched: str | None = None, steps: int = STEPS) -> dict:
    """Losses of some steps, the gradients of the first one, and the weights after them. patched: a loss made zero."""
    losses, gradients = [], {}
    with contextlib.ExitStack() as stack:
        if patched:
            stack.enter_context(mock.patch.object(program, patched, lambda similarity, *_, **__: 0 * similarity[:, 0]))
        for step in range(steps):
            losses.append(program.backward(training, step, 0, torch.Generator(), torch.Generator()))
            if not step:
                gradients = {name: value.grad.clone() for name, value in trainable(training.model).items()}
            training.optimizer.step()
            training.optimizer.zero_grad()
    weights = {name: value.detach().clone() for name, value in trainable(training.model).items()}
    return {"losses": torch.stack(losses), "gradients": gradients, "weights": weights}


def few_steps(command: list[str], tolerance: float, tokens: int, patched: str | None, steps: int) -> dict:
    """`steps_of` what a command trains."""
    return steps_of(training_of(command, tolerance, tokens), patched, steps)


def seed_of_dropout(command: list[str]) -> int:
    """The seed of torch's own generator in the step number 2."""
    program.backward(training_of(command, F32), 2, 0, torch.Generator(), torch.Generator())
    return torch.initial_seed()


def embedded(encoder: Path, folder: Path) -> dict:
    """Embeddings by an encoder that trains and by a frozen one, of which the cache is made in pieces of five queries.

    computed: how many pieces this process computed, the first time and the second.
    """
    encoder = load_encoder(str(encoder), max_length=64).eval()
    hardware, computed = Hardware(torch.device("cpu"), "fp32", SMALL, 8), []
    piece = Queries._computed_piece
    with (
        torch.no_grad(),
        mock.patch.object(encoders, "CACHED", 5),
        mock.patch.object(Queries, "_computed_piece") as made,
    ):
        made.side_effect = lambda *args: piece(queries, *args)
        tokens = Queries(encoder, QUESTIONS, hardware, "all").embed()
        some = Queries(encoder, QUESTIONS, hardware, "all").embed(np.array([7, 3, 7]))
        for _ in range(2):
            queries = Queries.__new__(Queries)
            queries.__init__(encoder, QUESTIONS, hardware, "none", folder)
            computed.append(made.call_count)
    return {"tokens": tokens, "some": some, "cached": queries.embed(), "computed": computed}


@dataclass
class Pitfall:
    """The gradient of one matrix by four ways to share a batch, times what it should be."""

    ours: torch.Tensor
    detached: torch.Tensor
    ours_of_own_rows: torch.Tensor
    detached_of_own_rows: torch.Tensor


def contrast(embedded: torch.Tensor, rows: slice) -> torch.Tensor:
    """A loss in which every row is the rival of all others, summed over some rows and divided by all."""
    similarity = embedded @ embedded.T
    return (similarity.logsumexp(dim=1) - similarity.roll(1, dims=1).diagonal())[rows].sum() / len(embedded)


def pitfalls() -> Pitfall:
    """`gather` and a plain all_gather with one's own rows put back, for the whole loss and for that of own rows."""
    inputs = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    share = len(inputs) // world_size()
    own = slice(rank() * share, (rank() + 1) * share)

    def detached(values: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(values) for _ in range(world_size())]
        dist.all_gather(parts, values.detach())
        return torch.cat([*parts[: rank()], values, *parts[rank() + 1 :]])

    def gradient(together, rows: slice) -> torch.Tensor:
        matrix = torch.nn.Parameter(torch.eye(5, dtype=torch.float64))
        contrast(together(inputs[own] @ matrix), rows).backward()
        average_gradients([matrix])
        return matrix.grad

    counts = [share] * world_size()
    ways = [lambda values: gather(values, counts), detached]
    whole = [gradient(way, slice(None)) for way in ways]
    of_own_rows = [gradient(way, own) * world_size() for way in ways]
    return Pitfall(*whole, *of_own_rows)


def work(commands: dict, encoder: Path, folder: Path) -> dict:
    """All that the processes of one number compute."""
    with processes():
        results = {name: few_steps(*command) for name, command in commands.items()}
        results["dropout"] = seed_of_dropout(commands["L1 in float32"][0])
        results["embedded"] = embedded(encoder, folder / f"cache_{world_size()}")
        results["pitfalls"] = vars(pitfalls())
    return results


def stopped(command: list[str], step: int) -> int:
    """Train; process 1 gets SIGTERM in a step. Returns the exit status."""
    draw = program.batch_rows

    def batch_rows(pool, size, batch, *rest):
        if batch == step and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(pool, size, batch, *rest)

    with mock.patch.object(program, "batch_rows", batch_rows):
        return program.main(command)


def failing(command: list[str]) -> int:
    """Train; process 1 fails in its first step. Returns the exit status."""

    def objective(*_):
        if rank() == 1:
            raise ValueError("this process alone has bad luck")
        return real(*_)

    real = program.objective
    with mock.patch.object(program, "objective", objective):
        return program.main(command)


# Starting them


def child(number: int, size: int, port: int, folder: Path, function, words: tuple) -> None:
    """One process: what the function returns goes to a file, and what it prints to another."""
    own = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in own.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    torch.set_num_threads(1)
    with (folder / f"{number}.txt").open("w") as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                value = function(*words)
            except SystemExit as stop:
                value = stop.code
            except BaseException:
                traceback.print_exc()
                value = None
        atexit._run_exitfuncs()  # which multiprocessing leaves out
    torch.save(value, folder / f"{number}.pt")


def launched(folder: Path, size: int, function, *words, limit: float = 200) -> tuple[list, str]:
    """What the processes return, by their numbers, and what all of them print. All must end within `limit` seconds."""
    folder.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_distributed"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=child, args=(n, size, port, folder, function, words)) for n in range(size)]
    paths = os.pathsep.join([str(REPO / "tests"), str(REPO)])
    with mock.patch.dict(os.environ, PYTHONPATH=paths):  # the server takes it from there
        for process in started:
            process.start()
    for process in started:
        process.join(limit)
    hanging = [process for process in started if process.is_alive()]
    for process in hanging:
        process.kill()
    text = "".join((folder / f"{n}.txt").read_text() for n in range(size))
    assert not hanging, f"{len(hanging)} of {size} processes do not end\n{text}"
    assert not any(process.exitcode for process in started), f"{[process.exitcode for process in started]}\n{text}"
    return [torch.load(folder / f"{n}.pt", weights_only=False) for n in range(size)], text


@pytest.fixture(scope="module")
def commands(fake, tiny_bert, tmp_path_factory) -> dict[str, tuple]:
    """The arguments of `few_steps` by case; the losses of the paper have ten steps."""
    made, folder = {}, tmp_path_factory.mktemp("commands")
    for name, (flags, tolerance) in CASES.items():
        flags = {"learning_rate": 5e-5, "dropout": 0.0, "threads": 1, **flags}
        patched, tokens = flags.pop("patched", None), flags.pop("tokens", SMALL)
        steps = STEPS if patched or flags.get("cluster_loss_weight") == 0 or name.startswith("both") else 3
        made[name] = (arguments(fake, tiny_bert, folder / "run", **flags), tolerance, tokens, patched, steps)
    return made


@pytest.fixture(scope="module")
def alone(commands) -> dict:
    """What one process computes."""
    return {name: few_steps(*command) for name, command in commands.items()}


@pytest.fixture(scope="module", params=[2, 4])
def together(request, commands, tiny_bert, tmp_path_factory) -> list[dict]:
    """What each of several processes computes."""
    folder = tmp_path_factory.mktemp("together")
    results, text = launched(folder / "out", request.param, work, commands, tiny_bert, folder)
    assert None not in results, text
    return results


# Training


def largest_difference(a: dict, b: dict, without: str = "nothing") -> float:
    """Of two sets of tensors by name."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a if not name.endswith(without))


@pytest.mark.parametrize("name", CASES)
def test_several_processes_are_one(together, alone, name):
    """The key biases have no gradient, which float32 makes noise: in a softmax over keys they cancel out."""
    tolerance, expected = CASES[name][1], alone[name]
    noise = "key.bias" if tolerance == F32 else "nothing"
    assert expected["losses"].std() > 1e-3 and expected["losses"].dtype == (
        torch.float64 if tolerance == F64 else torch.float32
    )
    assert sum(float(value.abs().max()) > 1e-4 for value in expected["gradients"].values()) >= 2
    for found in (results[name] for results in together):
        torch.testing.assert_close(found["losses"], expected["losses"], rtol=0, atol=2 * tolerance)
        for part in ("gradients", "weights"):
            assert largest_difference(found[part], expected[part], noise) <= tolerance
    for gradient in (value for key, value in expected["gradients"].items() if key.endswith(noise)):
        assert gradient.abs().max() < 1e-6
    first = together[0][name]["weights"]
    for results in together[1:]:
        assert all(torch.equal(value, first[key]) for key, value in results[name]["weights"].items())


def padded_embeddings(encoder, texts: list[str]) -> torch.Tensor:
    """The first token's last hidden state of one padded batch, by the transformers model as it is."""
    batch = encoder.tokenizer(texts, padding=True, truncation=True, max_length=encoder.max_length, return_tensors="pt")
    return encoder.backbone(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[
        :, 0
    ]


def test_they_are_the_definition(together, commands):
    """One padded pass and losses in plain loops: the gradients of the first step, and positives of another process."""
    training = training_of(*commands["both"][:2])
    optimization = training.config.optimization
    rows = program.draw_batch(training, 0, 0)
    texts = [training.data.inputs[row] for row in rows]
    queries = padded_embeddings(training.model.encoder, texts)
    scores, clusters = training.targets[torch.from_numpy(rows)], training.clusters[torch.from_numpy(rows)]
    l1 = naive_sample_llm(naive_similarity(queries, training.model.llm_embeddings.weight, "cos"), scores)
    seed = stream_seed(optimization.seed, STREAM_PAIRS, 0, 0, 0)
    draws = drawn(clusters, training.config.loss.H, seed, torch.from_numpy(rows))
    l2 = naive_sample_sample(naive_similarity(queries, queries, "cos"), draws)
    loss = (sum(l1) + sum(l2)) / len(rows)
    loss.backward()
    expected = {name: value.grad for name, value in trainable(training.model).items()}
    for results in together:
        assert abs(float(results["both"]["losses"][0] - loss)) < 1e-6  # the scores are float32
        assert largest_difference(results["both"]["gradients"], expected) < 1e-6

    lengths = training.queries.inputs.lengths[rows]
    owner = np.zeros(len(rows), dtype=int)
    for number, share in enumerate(shared_chunks(lengths, training.hardware, 64, len(together))):
        owner[np.concatenate([chunk for chunk, _ in share])] = number
    assert set(owner) == set(range(len(together)))
    elsewhere = [owner[row] != owner[positive] for row, (positive, _) in enumerate(draws) if positive is not None]
    assert sum(elsewhere) >= 3


def test_each_process_has_its_own_dropout(together, commands):
    seeds = [results["dropout"] for results in together]
    of_one = seed_of_dropout(commands["L1 in float32"][0])
    assert of_one == stream_seed(1, STREAM_DROPOUT, 2, 0)
    assert len({of_one, *seeds}) == len(together) + 1


def test_a_plain_all_gather_would_be_wrong(together):
    """It gives 1/N of the gradients where each process has the whole loss, and others where it has that of its rows."""
    inputs = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = torch.nn.Parameter(torch.eye(5, dtype=torch.float64))
    contrast(inputs @ matrix, slice(None)).backward()
    for results in together:
        found = Pitfall(**results["pitfalls"])
        torch.testing.assert_close(found.ours, matrix.grad, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.ours_of_own_rows, matrix.grad, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.detached * len(together), matrix.grad, rtol=0, atol=1e-12)
        ratio = found.detached_of_own_rows / matrix.grad
        assert (found.detached_of_own_rows - matrix.grad).abs().max() > 0.1 and ratio.std() > 0.01


# Embedding


def test_embeddings_are_equal_to_the_digit(together, tiny_bert, tmp_path):
    expected = embedded(tiny_bert, tmp_path)
    for results in together:
        found = results["embedded"]
        assert all(torch.equal(found[name], expected[name]) for name in ("tokens", "cached"))
        torch.testing.assert_close(found["some"], expected["some"], rtol=0, atol=1e-6)


def test_every_piece_of_the_cache_is_computed_once(together, tiny_bert, tmp_path):
    embedded(tiny_bert, tmp_path)
    pieces = -(-len(QUESTIONS) // 5)
    assert len(list(tmp_path.iterdir())) == pieces
    first, second = zip(*(results["embedded"]["computed"] for results in together))
    assert sum(first) == pieces and min(first) >= 1 and second == first


def test_work_is_shared_out_evenly():
    costs = np.random.default_rng(0).integers(1, 100, 40).tolist()
    for shares in (1, 3, 7):
        given = share_out(costs, shares)
        assert sorted(number for numbers in given for number in numbers) == list(range(40))
        loads = [sum(costs[number] for number in numbers) for numbers in given]
        assert max(loads) - min(loads) <= min(costs) + 10
    assert share_out([5, 5], 3) == [[0], [1], []]


@pytest.mark.parametrize("tokens", [SMALL, 10_000])
def test_few_chunks_are_cut_smaller(tokens):
    lengths = np.random.default_rng(0).integers(4, 30, 64)
    hardware = Hardware(torch.device("cpu"), "fp32", tokens, 8)
    for shares in (1, 2, 4):
        shared = shared_chunks(lengths, hardware, 64, shares)
        rows = np.concatenate([chunk for share in shared for chunk, _ in share])
        assert sorted(rows) == list(range(64))
        loads = [sum(len(chunk) * width for chunk, width in share) for share in shared]
        assert max(loads) <= 1.25 * sum(loads) / shares
    assert len(shared_chunks(lengths, hardware, 64, 1)[0]) == len(encoders.chunks(lengths, hardware, 64))


# Whole runs


@pytest.fixture(scope="module")
def one_run(fake, tiny_bert, tmp_path_factory) -> Path:
    """The folder of a run by one process."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert program.main(run_command(fake, tiny_bert, folder)) == 0
    return folder


def run_command(fake, encoder: Path, folder: Path, **flags) -> list[str]:
    return arguments(fake, encoder, folder, learning_rate=3e-4, dropout=0.0, threads=1, **flags)


def assert_same_run(folder: Path, other: Path) -> None:
    """Equal tables, picks and selection; weights within 1e-6, but for the noise of the key biases."""
    for name in ("tables.md", "picks.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    found, expected = (json.loads((path / "results.json").read_text()) for path in (folder, other))
    assert found["selection"] == expected["selection"] and found["settings"] == expected["settings"]
    assert largest_difference(*(weights(SimpleRun(path)) for path in (folder, other)), without="key.bias") <= 1e-6


@dataclass
class SimpleRun:
    folder: Path


def test_torchrun_trains_the_run_of_one_process(fake, tiny_bert, one_run, tmp_path):
    """Started as a plan starts its runs."""
    folder = tmp_path / "two"
    arguments = tuple(run_command(fake, tiny_bert, folder))
    run = Run(folder, arguments, launcher_of(Namespace(processes=2, accelerate_config=None)))
    train_all([run], 1)
    assert_same_run(folder, one_run)
    printed = run.log.read_text(encoding="utf-8")
    assert printed.count("Table 1") == 1 and "2 processes share the work" in printed
    assert json.loads((folder / "results.json").read_text())["processes"] == 2 and run.is_finished()
    names = {path.name for path in one_run.iterdir()}
    assert {path.name for path in folder.iterdir()} == names | {"log.txt"}


def test_an_evaluation_prints_the_same_tables_once(one_run, tmp_path, capsys):
    command = ["--ckpt", str(one_run), "--threads", "1"]
    assert evaluation_router.main(command) == 0
    expected = capsys.readouterr().out
    assert expected.count("Table 1") == 1
    statuses, text = launched(tmp_path / "out", 2, evaluation_router.main, command)
    assert (statuses, text) == ([0, 0], expected)
    statuses, text = launched(tmp_path / "query", 2, evaluation_router.main, [*command, "--query", "why?"])
    assert statuses == [2, 2] and text.count("error: --query is for one process") == 1


def test_a_stopped_run_goes_on_with_another_number_of_processes(fake, tiny_bert, one_run, tmp_path):
    """Two processes, of which one is told to stop; then four, of which one is; then one process."""
    command = run_command(fake, tiny_bert, tmp_path / "run")
    for size, step in ((2, 3), (4, 8)):
        statuses, text = launched(tmp_path / f"{size}", size, stopped, command, step)
        assert statuses == [130] * size, text
        assert text.count("interrupted: stopped at step") == 1 and f"stopped at step {step + 1};" in text
        progress = json.loads((tmp_path / "run" / "state" / "progress.json").read_text())
        assert progress["step"] == step + 1
    assert program.main(command) == 0
    assert_same_run(tmp_path / "run", one_run)


@pytest.mark.parametrize("flags", [{"top_k": 9}, {"learning_rate": 1e30}])
def test_an_error_of_all_is_said_once(fake, tiny_bert, tmp_path, flags):
    """A setting that the files do not allow, and a loss that is not finite."""
    command = arguments(fake, tiny_bert, tmp_path / "run", threads=1, **flags)
    statuses, text = launched(tmp_path / "out", 2, program.main, command)
    assert statuses == [2, 2] and text.count("error: ") == 1 and "Traceback" not in text, text


def test_a_damaged_file_is_said_once(fake, tiny_bert, tmp_path):
    path = tmp_path / "mmlu_train.json"
    path.write_text('[{"question": "why?"}]')
    command = arguments(fake, tiny_bert, tmp_path / "run", data_paths=path)
    statuses, text = launched(tmp_path / "out", 2, program.main, command)
    assert statuses == [2, 2] and text.count("error: ") == 1 and str(path) in text, text


def test_an_error_of_one_process_ends_all(fake, tiny_bert, tmp_path):
    command = arguments(fake, tiny_bert, tmp_path / "run", threads=1)
    statuses, text = launched(tmp_path / "out", 4, failing, command)
    assert statuses == [2] * 4 and text.count("error: this process alone has bad luck") == 1, text
    assert "Traceback" not in text
