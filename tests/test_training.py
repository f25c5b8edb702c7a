"""train_router_mdeberta.py from its command line.

It learns, resumes, repeats, obeys every flag and names every mistake.
"""

import hashlib
import inspect
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import LLMS, REPO, TRAINED, Run, arguments, make_rows
from safetensors.torch import load_file

import evaluation_router
import train_router_mdeberta as program
from utils import encoders, training
from utils.config import leaves, parse_config
from utils.data import load
from utils.denoise import pool_targets
from utils.experiment import batch_rows
from utils.losses import sample_sample_loss
from utils.training_set import TrainingSet, load_training_set, split_validation, targets


@pytest.fixture(autouse=True)
def signals():
    """Whatever a run does to Ctrl-C, the next test has it back."""
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.fixture
def train(fake, tiny_bert, tmp_path, capsys):
    """Trains in this process: train("name", flag=value, ...) -> Run."""

    def train(name="run", encoder=tiny_bert, **flags) -> Run:
        status = program.main(arguments(fake, encoder, tmp_path / name, **flags))
        out, err = capsys.readouterr()
        assert status == 0, err
        return Run(tmp_path / name, out)

    return train


@pytest.fixture
def fails(fake, tiny_bert, tmp_path, capsys, monkeypatch):
    """Runs a command that must end with status 2 before any training; returns what it says."""

    def fails(encoder=tiny_bert, save_path=None, **flags) -> str:
        def forbidden(*args, **kwargs):
            raise AssertionError("it began to train")

        with monkeypatch.context() as patch:
            patch.setattr(program, "sample_llm_loss", forbidden)
            assert program.main(arguments(fake, encoder, save_path or tmp_path / "run", **flags)) == 2
        out, err = capsys.readouterr()
        text = next(line for line in err.splitlines() if line.startswith("error: "))
        assert "Traceback" not in err
        return text.removeprefix("error: ")

    return fails


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "checkpoint" / "model.safetensors")


def same(a: Run, b: Run) -> bool:
    """Whether two runs ended with the very same weights."""
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def metrics(run: Run, key: str) -> dict[int, float]:
    """The values of one metric, by step."""
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[key] for line in lines if key in line}


def figures(run: Run) -> dict:
    """All of results.json that must not depend on when and where it was made."""
    return {name: value for name, value in run.results.items() if name not in ("seconds", "command")}


def encoder_weights(run: Run, pretrained: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The weights of the encoder before and after a run, by name; those that the router has."""
    before, after = load_file(pretrained / "model.safetensors"), weights(run)
    kept = [name for name in before if f"encoder.backbone.{name}" in after]
    return {name: (before[name], after[f"encoder.backbone.{name}"]) for name in kept}


# It learns, whichever part of the encoder trains


def assert_learned(run: Run, share: float = 0.7) -> None:
    """On every task the router makes up a large share of the way from the best single LLM to the per-query oracle."""
    test = run.results["test"]
    references = test["references"]
    for task, accuracy in test["tasks"].items():
        best = references["best LLM per task (picked on test)"][task]
        oracle = references["per-query oracle"][task]
        assert accuracy > best + share * (oracle - best), (task, accuracy, best, oracle)


def test_full_training_learns(trained):
    assert_learned(trained)
    loss = metrics(trained, "loss")
    assert list(loss) == list(range(10, 121, 10)) and loss[120] < 0.8 * loss[10]
    assert list(metrics(trained, "validation")) == list(range(20, 121, 20))


def test_training_the_last_layer_learns_and_leaves_the_rest(train, tiny_bert):
    run = train(train_layers=1, pooling="mean", training_steps=80, eval_steps=40, learning_rate=0.01, selection="last")
    assert_learned(run, 0.6)
    changed = {
        name for name, (before, after) in encoder_weights(run, tiny_bert).items() if not torch.equal(before, after)
    }
    last_layer = {name for name in encoder_weights(run, tiny_bert) if name.startswith("encoder.layer.2.")}
    without_gradient = {"encoder.layer.2.attention.self.key.bias"}  # it adds the same to all of a row's attention
    assert len(last_layer) == 16 and last_layer - without_gradient <= changed <= last_layer


def test_a_frozen_encoder_learns_by_its_head(train, tiny_bert):
    flags = {"training_steps": 300, "eval_steps": 300, "learning_rate": 0.01, "batch_size": 64}
    run = train(freeze_encoder=True, pooling="mean", **flags)
    assert_learned(run, 0.5)  # all the encoder knows of a word is a random vector
    pairs = encoder_weights(run, tiny_bert)
    assert len(pairs) > 3 * 16 and all(torch.equal(before, after) for before, after in pairs.values())
    assert not torch.equal(weights(run)["head.weight"], torch.eye(32))


def test_a_tiny_mdeberta_end_to_end(fake, tiny_deberta, script, tmp_path, capsys):
    """The paper's kind of encoder, through the real command, to a checkpoint that needs no other folder."""
    command = arguments(fake, tiny_deberta, tmp_path / "run", training_steps=80, eval_steps=20)
    run = script("train_router_mdeberta.py", *command)
    assert run.returncode == 0, run.stderr
    assert_learned(Run(tmp_path / "run", run.stdout))
    assert evaluation_router.main(["--ckpt", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "run" / "tables.md").read_text().strip()


@pytest.mark.parametrize("flags", [{"train_layers": 3}, {"train_layers": 1}, {"freeze_encoder": True}])
def test_the_other_ways_with_a_tiny_mdeberta(train, tiny_deberta, flags):
    """Also all layers without the table of words."""
    released = torch.load(tiny_deberta / "pytorch_model.bin", weights_only=True)
    words = released["deberta.embeddings.word_embeddings.weight"].float()
    trained = weights(train(encoder=tiny_deberta, training_steps=2, **flags))
    assert torch.equal(trained["encoder.backbone.embeddings.word_embeddings.weight"], words)


# What a run leaves


def test_artefacts(trained):
    folder = trained.folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint",
        "metrics.jsonl",
        "picks.json",
        "results.json",
        "tables.md",
        "tensorboard",
        "training_curve.png",
    ]
    assert (folder / "tables.md").read_text().strip() in trained.text
    picture = matplotlib.image.imread(folder / "training_curve.png")
    height, width, channels = picture.shape
    assert height > 400 and width > 400
    colours = np.unique(picture.reshape(-1, channels), axis=0)
    assert len(colours) > 20


def test_tensorboard_has_the_same_scalars(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.folder / "tensorboard"))
    events.Reload()
    for key in ("loss", "validation", "validation/gsm8k"):
        found = {event.step: event.value for event in events.Scalars(key)}
        assert found == pytest.approx(metrics(trained, key), rel=1e-6)


def test_results_and_checkpoint_describe_the_run(trained, fake, tiny_bert):
    config = json.loads((trained.folder / "checkpoint" / "config.json").read_text())
    results = trained.results
    files = [*fake.train.values(), *fake.test.values()]
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for description in (config, results):
        settings = description["settings"]
        assert settings["data"] == digests
        assert (settings["training_steps"], settings["learning_rate"], settings["fidelity"]) == (120, 3e-3, "paper")
        assert set(description["test"]["tasks"]) == {"gsm8k", "arc_challenge", "mbpp"}
        assert description["precision"] == "fp32"
        assert description["command"].startswith("python train_router_mdeberta.py --data_paths ")
    assert config["llms"] == list(LLMS)
    assert (config["encoder"], config["pooling"], config["max_length"]) == (str(tiny_bert), "first", 64)
    validation = metrics(trained, "validation")
    assert results["selection"] == {
        "rule": "best",
        "step": max(validation, key=validation.get),
        "validation": max(validation.values()),
    }


def test_strict_json_even_without_validation_rows(train):
    run = train(validation_fraction=0, selection="last", training_steps=2)

    def forbidden(name):
        raise AssertionError(f"{name} is not JSON")

    for path in (run.folder / "results.json", run.folder / "metrics.jsonl", run.folder / "checkpoint" / "config.json"):
        text = path.read_text()
        for document in text.splitlines() if path.suffix == ".jsonl" else [text]:
            json.loads(document, parse_constant=forbidden)
    assert metrics(run, "validation") == {}


def test_the_checkpoint_is_the_best_on_validation(train, monkeypatch):
    """A run whose validation is best after 12 of 24 steps, and again after 18, is the run that was cut there."""
    scores = iter([40.0, 70.0, 70.0, 60.0])
    with monkeypatch.context() as patch:
        patch.setattr(program, "validate", lambda *args: {"validation": next(scores)})
        run = train("best", training_steps=24, eval_steps=6)
    assert run.results["selection"] == {"rule": "best", "step": 12, "validation": 70.0}
    assert same(run, train("cut", training_steps=12, selection="last"))
    assert not same(run, train("last", training_steps=24, selection="last"))


def test_the_test_files_do_not_decide_anything(train, fake, tmp_path):
    """Without them, or with others in their place, the checkpoint is the same to the bit."""
    first = train("first")
    assert same(first, train("none", final_eval=False, **{"no-final_eval": True}))
    inverted = make_rows(30, "multi_attempt", 9)
    for row in inverted:
        row["scores"] = {llm: 1 - score for llm, score in row["scores"].items()}
    (tmp_path / "gsm8k-test.json").write_text(json.dumps(inverted))
    other = train("other", test_data_paths=tmp_path / "gsm8k-test.json")
    assert same(first, other) and first.results["test"]["tasks"] != other.results["test"]["tasks"]


# Validation rows


def evaluate_file(run: Run, path, tmp_path) -> list[int]:
    """The LLM picked for each row of a file by the checkpoint of a run, as positions in LLMS."""
    command = ["--ckpt", run.folder, "--test_data_paths", path, "--device", "cpu", "--output", tmp_path / "out.json"]
    assert evaluation_router.main(list(map(str, command))) == 0
    output = json.loads((tmp_path / "out.json").read_text())
    (picks,) = output["picks"].values()
    return [LLMS.index(output["llms"][pick]) for pick in picks]


def test_validation_is_the_held_out_rows_and_with_fidelity_row_5_the_training_file(train, fake, tmp_path):
    """Recomputed from the checkpoint's picks on the training file and the scores in it."""
    rows = json.loads(fake.train["gsm8k"].read_text(encoding="utf-8"))
    _, held = split_validation(load(fake.train["gsm8k"]), 0.3, 1)
    flags = {"validation_fraction": 0.3, "selection": "last", "training_steps": 5, "dropout": 0.9}  # none in evaluation
    for fidelity, validates in (("paper", list(held)), ("5", list(range(len(rows))))):
        run = train(fidelity, fidelity=fidelity, **flags)
        picks = evaluate_file(run, fake.train["gsm8k"], tmp_path)
        earned = [rows[number]["scores"][LLMS[picks[number]]] for number in validates]
        assert metrics(run, "validation/gsm8k")[5] == pytest.approx(100 * sum(earned) / len(earned), abs=1e-4)
        scores = [metrics(run, f"validation/{task}")[5] for task in fake.train]
        assert metrics(run, "validation")[5] == pytest.approx(np.mean(scores))


def training_set(fake, *flags: str, validate_on_training: bool = False) -> TrainingSet:
    """The training rows of the fake data, 60 a task in an epoch, with more flags of the trainer."""
    config = parse_config([*fake.arguments(), "--training_samples_per_dataset", "60", *flags])
    return load_training_set(
        config.data,
        config.encoder,
        config.training_set,
        config.optimization.seed,
        need_clusters=config.loss.cluster_loss_weight > 0,
        validate_on_training=validate_on_training,
    )


@pytest.mark.parametrize("validate_on_training", [False, True])
def test_no_validation_question_is_trained_on(fake, validate_on_training):
    """But with fidelity row 5 they are the same questions."""
    rows = training_set(fake, "--validation_fraction", "0.3", validate_on_training=validate_on_training)
    trained_on = {rows.inputs[number] for number in rows.pool}
    held = {rows.inputs[number] for _, numbers in rows.validation for number in numbers}
    assert trained_on | held == set(rows.inputs)
    if validate_on_training:
        assert trained_on == held
    else:
        assert trained_on.isdisjoint(held)
    assert len(rows.pool) == 180  # 60 a task, repeated where there are fewer
    assert [data.task for data, _ in rows.validation] == list(fake.train)
    for data, numbers in rows.validation:
        assert data.questions == [rows.inputs[number] for number in numbers]


def test_fidelity_row_5_is_what_makes_all_rows_validate(fake):
    held = [split_validation(load(path), 0.1, 1)[1] for path in fake.train.values()]
    for fidelity, count in (("paper", sum(map(len, held))), ("1,2,3,4,6,7", sum(map(len, held))), ("5", 148)):
        config = parse_config([*fake.arguments(), "--fidelity", fidelity, "--no_final_eval"])
        _, data = training.load_data(config)
        assert sum(len(numbers) for _, numbers in data.training.validation) == count, fidelity


def test_targets_are_scores_and_gains(fake):
    files = [load(path).for_llms(LLMS) for path in fake.train.values()]
    plain = training_set(fake)
    np.testing.assert_array_equal(plain.targets, np.concatenate([data.scores for data in files]))
    np.testing.assert_array_equal(plain.tasks, np.repeat([0, 1, 2], [60, 48, 40]))
    np.testing.assert_array_equal(plain.clusters, np.concatenate([data.clusters for data in files]))
    gain = training_set(fake, "--targets", "gain").targets
    np.testing.assert_array_equal(gain[:60], files[0].scores)
    np.testing.assert_array_equal(gain[60:], np.concatenate([data.scores > 0 for data in files[1:]]))


def test_shrunk_targets_are_group_means_of_training_rows(fake):
    data = load(fake.train["gsm8k"]).for_llms(LLMS)
    train, held = split_validation(data, 0.1, 1)
    shrunk = training_set(fake, "--target_shrinkage", "1").targets
    mean = data.scores[train].mean(axis=0)
    np.testing.assert_allclose(shrunk[train], np.tile(mean, (len(train), 1)), rtol=1e-5)
    np.testing.assert_array_equal(shrunk[held], data.scores[held])
    flags = ("--target_shrinkage", "1", "--target_groups", "cluster", "--cluster_loss_weight", "0")
    by_cluster = training_set(fake, *flags).targets
    for cluster in range(4):
        members = train[data.clusters[train] == cluster]
        mean = data.scores[members].mean(axis=0)
        np.testing.assert_allclose(by_cluster[members], np.tile(mean, (len(members), 1)), rtol=1e-5)


def test_pooled_targets_come_from_the_training_rows_alone(fake):
    """Other scores and embeddings in the validation rows change nothing, and what validation counts stays as it is."""
    flags = ("--validation_fraction", "0.3", "--target_pooling", "alike")
    rows = training_set(fake, *flags)
    before = rows.targets
    embedded = torch.randn(len(rows.inputs), 8, generator=torch.Generator().manual_seed(0)).numpy()
    estimated = rows.pool_targets(embedded, "alike")

    other = training_set(fake, *flags)
    held = np.concatenate([numbers for _, numbers in other.validation])
    embedded[held] = -7.0
    for task in other.parts:
        task.targets[task.held] = 1 - task.targets[task.held]
    assert other.pool_targets(embedded, "alike") == estimated

    trains = np.unique(rows.pool)
    np.testing.assert_array_equal(rows.targets[trains], other.targets[trains])
    assert not np.array_equal(rows.targets[trains], before[trains])
    np.testing.assert_array_equal(rows.targets[held], before[held])
    np.testing.assert_array_equal(other.targets[held], 1 - before[held])
    for task, offset in zip(rows.parts, rows.offsets):  # what the module says of these rows
        data, train = task.data, task.train
        expected, _ = pool_targets(data.rows(train), targets(data)[train], embedded[offset + train], "alike")
        np.testing.assert_array_equal(rows.targets[offset + train], expected)


def test_pooling_is_estimated_once_kept_and_the_same_whatever_trains(train, monkeypatch):
    """A frozen encoder computes each text once. Trained layers get the same targets, of the pre-trained encoder."""
    computed, embed = [], encoders.embed

    def counted(encoder, inputs, rows, *rest):
        computed.append(len(rows))
        return embed(encoder, inputs, rows, *rest)

    monkeypatch.setattr(encoders, "embed", counted)
    flags = {"target_pooling": "question", "final_eval": False, "no-final_eval": True, "training_steps": 2}
    frozen = train("frozen", freeze_encoder=True, **flags)
    assert sum(computed) == 148  # rows of the three training files
    estimate = frozen.results["target_pooling"]
    assert set(estimate) == {"gsm8k", "arc_challenge", "mmlu"} and set(estimate["mmlu"]) == {"level", "differences"}
    shares = estimate["gsm8k"]["differences"]
    neighbours = sum(shares["neighbours"].values())
    assert shares["row"] + neighbours + shares["cluster"] + shares["task"] == pytest.approx(1)
    assert f"targets of gsm8k: level: row {100 * estimate['gsm8k']['level']['row']:.0f} %, neighbours" in frozen.text
    for name, more in (("layers", {"train_layers": 1}), ("all", {})):
        assert train(name, **flags, **more).results["target_pooling"] == estimate
    plain = train("plain", freeze_encoder=True, **flags | {"target_pooling": None})
    assert "target_pooling" not in plain.results and "targets of" not in plain.text and not same(plain, frozen)


# Repeatable, and independent of what should not matter


def test_the_same_seed_gives_the_same_run_and_another_seed_another(train):
    first, second, other = train("first"), train("second"), train("other", seed=2)
    assert same(first, second) and not same(first, other)
    assert figures(first) == figures(second) != figures(other)


def test_evaluating_more_often_changes_nothing_but_with_fidelity_row_6(train):
    flags = {"training_steps": 12, "selection": "last"}
    assert same(train("a", eval_steps=3, **flags), train("b", eval_steps=12, **flags))
    assert not same(train("c", eval_steps=3, fidelity="6", **flags), train("d", eval_steps=12, fidelity="6", **flags))


def test_the_global_random_state_does_not_matter(train):
    first = train("first")
    torch.manual_seed(123)
    np.random.seed(123)
    assert same(first, train("second"))


def test_the_last_step_is_evaluated_whatever_eval_steps(train):
    assert list(metrics(train(training_steps=7, eval_steps=5), "validation")) == [5, 7]
    assert list(metrics(train("rare", training_steps=3, eval_steps=50), "validation")) == [3]


# Interruptions


def interrupted_at(step: int, monkeypatch, action) -> None:
    """Has `action` happen while step number `step` (from 0) draws its batch."""
    draw = program.batch_rows

    def batch_rows(pool, size, batch, *rest):
        if batch == step:
            action()
        return draw(pool, size, batch, *rest)

    monkeypatch.setattr(program, "batch_rows", batch_rows)


@pytest.mark.parametrize(
    "flags", [{}, {"train_layers": 1, "target_pooling": "alike"}, {"freeze_encoder": True}, {"fidelity": "upstream"}]
)
def test_an_interrupted_run_goes_on_exactly(train, fake, tiny_bert, tmp_path, capsys, monkeypatch, flags):
    """Ctrl-C in the 14th of 32 steps: between two evaluations, and between two lines of the log."""
    flags |= {"training_steps": 32, "eval_steps": 5}
    whole = train("whole", **flags)
    command = arguments(fake, tiny_bert, tmp_path / "parts", **flags)
    with monkeypatch.context() as patch:
        interrupted_at(13, patch, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert program.main(command) == 130
    assert "stopped at step 14; the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "results.json").exists()
    parts = train("parts", **flags)
    assert "resumed at step 14" in parts.text
    assert same(whole, parts)
    assert figures(whole) == figures(parts)
    for key in ("validation", "validation/mmlu"):
        assert metrics(whole, key) == metrics(parts, key)
    losses = [metrics(run, "loss") for run in (whole, parts)]
    assert list(losses[0]) == list(losses[1]) == [10, 20, 30]
    assert losses[0][10] == losses[1][10] and losses[0][30] == losses[1][30]
    assert losses[1][20] == pytest.approx(losses[0][20], rel=0.2)  # the mean of the steps since it went on
    assert not (parts.folder / "state").exists()


def test_a_crash_costs_the_steps_since_the_last_state(train, fake, tiny_bert, tmp_path, capsys, monkeypatch):
    """State is saved at every step here; the log lines written after it are written again, not twice."""
    whole = train("whole", training_steps=25, resume_minutes=0)

    def crash():
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        interrupted_at(21, patch, crash)
        with pytest.raises(RuntimeError, match="out of memory"):
            program.main(arguments(fake, tiny_bert, tmp_path / "parts", training_steps=25, resume_minutes=0))
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 22, "loss": 1.0}\n')
    parts = train("parts", training_steps=25, resume_minutes=5)  # how often it saves is no setting
    assert "resumed at step 21" in parts.text
    assert same(whole, parts)
    assert metrics(whole, "validation") == metrics(parts, "validation")
    assert list(metrics(parts, "loss")) == [10, 20]


def test_the_best_weights_from_before_an_interruption_are_kept(train, fake, tiny_bert, tmp_path, monkeypatch):
    flags = {"training_steps": 24, "eval_steps": 6}
    scores = iter([40.0, 70.0, 60.0, 50.0])
    with monkeypatch.context() as patch:
        patch.setattr(program, "validate", lambda *args: {"validation": next(scores)})
        with monkeypatch.context() as inner:
            interrupted_at(14, inner, lambda: os.kill(os.getpid(), signal.SIGINT))
            assert program.main(arguments(fake, tiny_bert, tmp_path / "parts", **flags)) == 130
        parts = train("parts", **flags)
    assert parts.results["selection"]["step"] == 12 and same(parts, train("cut", training_steps=12, selection="last"))


def test_an_interruption_of_the_final_test_only_repeats_that(train, fake, tiny_bert, tmp_path, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(program, "evaluate", stop)
        assert program.main(arguments(fake, tiny_bert, tmp_path / "parts")) == 130
    assert "goes on" in capsys.readouterr().err
    interrupted_at(0, monkeypatch, stop)
    parts = train("parts")
    monkeypatch.undo()
    assert figures(parts) == figures(train("whole"))


def test_sigint_to_a_running_command(trained, fake, tiny_bert, script, tmp_path):
    """A real Ctrl-C in another process, and the very weights of the run that nobody interrupted."""
    command = arguments(fake, tiny_bert, tmp_path / "run", **TRAINED)
    process = subprocess.Popen(
        [sys.executable, str(REPO / "train_router_mdeberta.py"), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (log.is_file() and log.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err and "Traceback" not in err
    again = script("train_router_mdeberta.py", *command)
    assert again.returncode == 0, again.stderr
    assert "resumed at step" in again.stdout
    run = Run(tmp_path / "run", again.stdout)
    assert same(trained, run) and figures(trained) == figures(run)
    assert metrics(trained, "validation") == metrics(run, "validation")


def test_a_finished_run_is_not_trained_again(train, monkeypatch):
    run = train()
    files = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}

    def forbidden(*args, **kwargs):
        raise AssertionError("it began anew")

    with monkeypatch.context() as patch:
        patch.setattr(training, "load_encoder", forbidden)
        again = train()
    assert "already done (--overwrite trains it again)" in again.text
    assert (run.folder / "tables.md").read_text().strip() in again.text
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == files
    overwritten = train(overwrite=True, seed=3)
    assert overwritten.results["settings"]["seed"] == 3
    assert 0 not in metrics(overwritten, "loss").values()
    assert list(metrics(overwritten, "validation")) == [6, 12]
    train(overwrite=True, **{"no-final_eval": True})
    assert not (run.folder / "picks.json").exists()  # no results of another run stay behind


def test_two_processes_do_not_train_in_one_folder(fails, tmp_path):
    (tmp_path / "run").mkdir()
    code = (
        "import sys, utils.files, pathlib\n"
        "with utils.files.locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()"
    )
    command, pipe = [sys.executable, "-c", code, tmp_path / "run"], subprocess.PIPE
    with subprocess.Popen(command, cwd=REPO, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert f"--save_path {tmp_path / 'run'}: another process is training there" in fails()
        other.communicate()


def test_a_run_that_diverges_is_an_error_and_leaves_no_results(fake, tiny_bert, tmp_path, capsys):
    flags = {"learning_rate": 1e30, "similarity_function": "inner", "selection": "last", "training_steps": 12}
    assert program.main(arguments(fake, tiny_bert, tmp_path / "run", **flags)) == 2
    assert "at step 10: training has diverged. Lower --learning_rate (1e+30)" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists() and not (tmp_path / "run" / "checkpoint").exists()


def test_test_questions_that_were_trained_on_are_counted(fake, tiny_bert, tmp_path, capsys):
    rows, trained_on = (json.loads(files["gsm8k"].read_text()) for files in (fake.test, fake.train))
    for number in range(3):
        rows[number]["question"] = trained_on[number]["question"]
    path = tmp_path / "gsm8k-test.json"
    path.write_text(json.dumps(rows))
    flags = {"test_data_paths": path, "final_eval_data_paths": [], "training_steps": 1}
    assert program.main(arguments(fake, tiny_bert, tmp_path / "run", **flags)) == 0
    assert f"note: {path}: 3 of its questions stand in the training files, too" in capsys.readouterr().err
    assert Run(tmp_path / "run", "").results["questions_in_training_files"] == {str(path): 3}


def test_other_settings_in_the_same_folder_are_refused(train, fails, fake, tmp_path, monkeypatch):
    train()
    text = fails(learning_rate=1e-3, H=5)
    for words in ("other settings", "learning_rate: 0.003 there, 0.001 now", "H: 3 there, 5 now", "--overwrite"):
        assert words in text
    with monkeypatch.context() as patch:
        interrupted_at(3, patch, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(AssertionError, match="stopped at step 4"):
            train("unfinished")
    assert "seed: 1 there, 2 now" in fails(save_path=tmp_path / "unfinished", seed=2)


def test_changed_data_in_the_same_folder_are_refused(train, fails, fake, tmp_path):
    data = tmp_path / "gsm8k-train.json"
    data.write_bytes(fake.train["gsm8k"].read_bytes())
    paths = [data, fake.train["mmlu"]]
    train(data_paths=paths, training_steps=1)
    data.write_text(json.dumps(make_rows(40, "multi_attempt", 30)))
    assert "holds a run with other settings (data: " in fails(data_paths=paths, training_steps=1)


# Flags


RELEASED_FLAGS = {  # each with a value that is not the default
    "data_paths": ["a", "b"], "data_type": ["probability", "multi_attempt"],
    "test_data_paths": ["c"], "test_data_type": ["probability"],
    "final_eval_data_paths": ["d"], "final_eval_data_type": ["multi_attempt"],
    "batch_size": 7, "training_steps": 9, "eval_steps": 11, "learning_rate": 0.25, "save_path": "e",
    "top_k": 2, "last_k": 1, "gradient_accumulation": 4, "similarity_function": "inner", "sample_loss_weight": 0.5,
    "cluster_loss_weight": 1.5, "H": 6, "seed": 5, "training_samples_per_dataset": 8,
}  # fmt: skip
OUR_FLAGS = {
    "encoder": "f", "pooling": "mean", "fidelity": "1,4", "precision": "bf16", "device": "cuda:1",
    "validation_fraction": 0.2, "weight_decay": 0.05, "max_length": 33, "train_layers": 2,
}  # fmt: skip


def test_the_flags_that_users_know():
    """Those of the released command, and our own."""
    values = RELEASED_FLAGS | OUR_FLAGS
    command = []
    for name, value in values.items():
        command += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    found = dict(leaves(parse_config([*command, "--final_eval"])))
    expected = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    assert {name: found[name] for name in values} == expected and found["final_eval"] is True
    defaults = dict(leaves(parse_config([])))
    assert not [name for name in values if defaults[name] == expected[name]]
    for name in ("--temperature", "--tempreture"):  # the released spelling too
        assert parse_config([name, "0.07"]).loss.temperature == 0.07
    assert parse_config(["--freeze_encoder"]).model.freeze_encoder
    for name in ("--no_final_eval", "--no-final_eval"):
        assert not parse_config([name]).run.final_eval


STEPS = {"training_steps": 3, "eval_steps": 3, "selection": "last", "no-final_eval": True}
EFFECTS = [
    {"top_k": 1},
    {"last_k": 1},
    {"temperature": 0.5},
    {"cluster_loss_weight": 0.5},
    {"sample_loss_weight": 0.5},
    {"H": 1},
    {"negative_below": 0.2},
    {"targets": "gain"},
    {"target_shrinkage": 0.9},
    {"target_shrinkage": 0.9, "target_groups": "cluster"},
    {"target_pooling": "alike"},
    {"target_pooling": "question"},
    {"similarity_function": "inner"},
    {"pooling": "mean"},
    {"dropout": 0.5},
    {"max_length": 8},
    {"batch_size": 8},
    {"gradient_accumulation": 2},
    {"learning_rate": 1e-3},
    {"llm_learning_rate": 1e-1},
    {"weight_decay": 1.0},
    {"validation_fraction": 0.5},
    {"training_samples_per_dataset": 0},
    {"training_steps": 4},
    {"seed": 2},
    {"freeze_encoder": True},
    {"train_layers": 2},
    {"loss": "zooter"},
    {"loss": "cosine_classifier"},
    {"data_type": ["probability"] * 3, "targets": "gain"},
    {"last_k": 1, "ties": "random"},
    {"last_k": 1, "ties": "released"},
    {"last_k": 1, "ties": "columns"},
]


def test_no_flag_is_dead(train):
    """Each of them changes the weights that a run ends with, and no two do the same."""
    runs = {"nothing": weights(train("nothing", **STEPS))["llm_embeddings.weight"]}
    for number, flags in enumerate(EFFECTS):
        runs[str(flags)] = weights(train(f"run{number}", **STEPS | flags))["llm_embeddings.weight"]
    for first, second in itertools.combinations(runs, 2):
        assert not torch.equal(runs[first], runs[second]), (first, second)


def test_k_is_no_matter_of_losses_without_it(train, fails):
    two = {"llms": list(LLMS[:2]), "training_steps": 1, "no-final_eval": True}
    assert "--top_k is 3; with 2 LLMs" in fails(**two)
    assert train(loss="zooter", cluster_loss_weight=0, **two).results["router"] == "ZOOTER"


def test_both_spellings_of_temperature_do_the_same(train):
    assert same(train("a", temperature=0.5, **STEPS), train("b", tempreture=0.5, **STEPS))


def test_what_the_sample_sample_loss_is_given(train, fake, monkeypatch):
    """Cluster ids and ids of the very queries of the batch, so that copies of a query are known.

    H and the temperature, too.
    """
    calls, batches = [], []

    def loss(*args, **kwargs):
        calls.append(inspect.signature(sample_sample_loss).bind(*args, **kwargs).arguments)
        return sample_sample_loss(*args, **kwargs)

    def rows(*args):
        batches.append(batch_rows(*args))
        return batches[-1]

    monkeypatch.setattr(program, "sample_sample_loss", loss)
    monkeypatch.setattr(program, "batch_rows", rows)
    train(temperature=0.25, H=2, sample_loss_weight=0.5, training_steps=2, training_samples_per_dataset=200)
    files = [load(path) for path in fake.train.values()]
    clusters, tasks = np.concatenate([data.clusters for data in files]), np.repeat([0, 1, 2], [60, 48, 40])
    assert len(batches) == 2 and len(calls) == 4
    for number, call in enumerate(calls):
        batch = batches[number // 2]
        np.testing.assert_array_equal(call["groups"], (clusters, tasks)[number % 2][batch])
        np.testing.assert_array_equal(call["ids"], batch)
        assert (call["negatives"], call["temperature"]) == (2, 0.25) and call["generator"] is not None
        similarity = call["similarity"].detach().numpy()
        assert similarity.shape == (16, 16)
        np.testing.assert_allclose(similarity.diagonal(), np.ones(16), atol=1e-5)


@pytest.fixture
def optimizers(monkeypatch):
    """Every AdamW that a run makes, with the gradients of its steps: the list of (optimizer, list of gradients)."""
    made = []

    class Spy(torch.optim.AdamW):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append((self, []))

        def step(self, *args, **kwargs):
            trained = itertools.chain.from_iterable(group["params"] for group in self.param_groups)
            made[-1][1].append([parameter.grad.clone() for parameter in trained])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    return made


def test_accumulated_gradients_are_those_of_the_large_batch(train, optimizers):
    """Two batches of 8 make the gradient of the batch of 16.

    Without the loss that looks across a batch, and without dropout.
    """
    flags = {"cluster_loss_weight": 0, "dropout": 0, "training_steps": 2}
    train("one", batch_size=16, **flags)
    train("two", batch_size=8, gradient_accumulation=2, **flags)
    train("half", batch_size=8, **flags)
    (_, one), (_, two), (_, half) = optimizers
    assert len(one) == len(two) == 2
    for a, b in zip(one[0], two[0]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for other in (half[0], one[1]):  # of half the batch, and of another batch at the second step
        assert not all(torch.allclose(a, b, rtol=1e-2, atol=1e-4) for a, b in zip(one[0], other))


def test_learning_rates_and_weight_decay_reach_the_optimizer(train, optimizers):
    train("a", learning_rate=0.002, llm_learning_rate=0.5, weight_decay=0.25, training_steps=1)
    train("b", learning_rate=0.002, training_steps=1)
    (a, _), (b, _) = optimizers
    assert [(group["lr"], group["weight_decay"]) for group in a.param_groups] == [(0.002, 0.25), (0.5, 0.25)]
    assert [(group["lr"], group["weight_decay"]) for group in b.param_groups] == [(0.002, 0.01), (0.002, 0.01)]
    assert [tuple(parameter.shape) for parameter in a.param_groups[1]["params"]] == [(4, 32)]
    assert len(a.param_groups[0]["params"]) == 5 + 3 * 16


# FIDELITY rows as switches


def test_fidelity_rows_act_where_they_should_and_nowhere_else(train):
    """Row 1 acts on the sample-LLM loss, rows 3 and 4 on the sample-sample loss.

    Row 4 only where negatives run short; row 2 is dropout 0.
    """
    count = iter(range(100))

    def run(fidelity, **flags):
        return train(f"run{next(count)}", fidelity=fidelity, **STEPS | flags)

    alone, many, few = {"cluster_loss_weight": 0}, {"H": 14}, {"H": 1}
    plain = {name: run("paper", **flags) for name, flags in (("alone", alone), ("many", many), ("few", few))}
    assert not same(plain["alone"], run("1", **alone))
    assert same(plain["alone"], run("3,4", **alone))
    assert not same(plain["few"], run("3", **few))
    assert same(plain["few"], run("4", **few))
    assert not same(plain["many"], run("4", **many))
    assert not same(plain["many"], run("1", **many))
    ones = {"data_type": ["probability"] * 3, "targets": "gain", "negative_below": 1}  # which are no negatives
    tied = ones | alone
    as_released = run("7", **tied)
    assert not same(as_released, run("paper", ties="released", **tied))
    assert not same(as_released, run("paper", **tied))
    assert same(run("7", ties="random", **tied), as_released)
    without_dropout = run("2", **few)
    assert not same(plain["few"], without_dropout)
    assert same(without_dropout, run("paper", dropout=0, **few))
    assert same(run("upstream", **many), run("1,2,3,4,5,6,7", **many))


@pytest.mark.parametrize("text", ["released", "0", "8", "1;2", "1,", "18"])
def test_other_fidelity_rows_are_refused(fails, text):
    error = fails(fidelity=text)
    assert error.startswith(f"--fidelity is {text!r}; it must be paper, upstream, rows from 1 to 7 such as 1,3, ")
    assert "batch_mask, no_dropout, self_positive" in error


# Test files of all sorts


def test_unseen_tasks_and_fewer_llms(train, fake, fails):
    run = train(test_data_paths=fake.unseen, test_data_type="multi_attempt", final_eval_data_paths=fake.test["mbpp"])
    assert list(run.results["test"]["tasks"]) == ["poems", "mbpp"] and "id_avg" not in run.results["test"]
    assert "'poems'" in fails(test_data_paths=fake.unseen) and "--test_data_type" in fails(test_data_paths=fake.unseen)
    run = train("fewer", test_data_paths=fake.fewer, final_eval_data_paths=[])
    test = run.results["test"]
    assert test["llms"] == [LLMS[1], LLMS[3]] and sum(test["shares"]["mmlu"].values()) == pytest.approx(100)
    text = fails(test_data_paths=fake.fewer)  # beside a file with all four
    assert "mbpp" in text and "its LLMs are" in text


def test_training_on_a_task_that_the_paper_has_not(train, fake):
    files = {"data_paths": [fake.unseen, fake.train["mmlu"]], "data_type": ["multi_attempt", "probability"]}
    run = train(cluster_loss_weight=0, **files)
    assert "validation/poems" in (run.folder / "metrics.jsonl").read_text()


@pytest.fixture
def own_data(tiny_bert, tmp_path):
    """Writes data of one's own, without cluster ids, of some LLMs; returns the words of a command on them."""

    def write(llms: tuple[str, ...]) -> list[str]:
        files = {name: tmp_path / f"{name}.json" for name in ("letters", "emails", "letters_test")}
        for seed, path in enumerate(files.values()):
            path.write_text(json.dumps(make_rows(40, "probability", 50 + seed, llms, clusters=False)))
        flags = {
            "save_path": [tmp_path / "own"],
            "data_paths": [files["letters"], files["emails"]],
            "data_type": ["probability"],
            "test_data_paths": [files["letters_test"]],
            "final_eval_data_paths": [],
            "encoder": [tiny_bert],
            "cache_dir": [tmp_path / "cache"],
            "max_length": [64],
            "training_steps": [20],
        }
        command = ["--device", "cpu", "--precision", "fp32"]
        for name, values in flags.items():
            command += [f"--{name}", *map(str, values)]
        return command

    return write


@pytest.mark.parametrize("count", [2, 3])
def test_the_tuned_recipe_on_data_of_ones_own(own_data, tmp_path, capsys, count):
    """No cluster ids, and fewer LLMs than K+ and K- of the paper: it trains, and says what it did in their place."""
    command = ["--recipe", "tuned", *own_data(LLMS[:count])]
    assert program.main(command) == 0
    printed = capsys.readouterr().out
    by_task = "The rows have no cluster_id: the sample-sample loss is by task (--missing_clusters task)"
    assert printed.count(by_task) == 1
    results = Run(tmp_path / "own", printed).results
    assert results["sample_sample_loss"] == "by task: the training rows have no cluster_id"
    settings = results["settings"]
    assert (settings["top_k"], settings["last_k"]) == (1, count - 1)
    assert settings["cluster_loss_weight"] == 1 and "missing_clusters" not in settings
    assert results["test"]["llms"] == list(LLMS[:count]) and list(results["test"]["tasks"]) == ["letters"]
    assert results["recipe"] == "custom"  # --max_length and --training_steps
    assert program.main(command) == 0 and "already done" in capsys.readouterr().out


def test_its_sample_sample_loss_is_the_one_by_task(own_data, tmp_path):
    """The weights are those of --sample_loss_weight; and without the recipe a missing cluster id is an error."""
    folders = [tmp_path / name for name in ("clusters", "tasks", "neither")]
    weightings = [(), ("--cluster_loss_weight", "0", "--sample_loss_weight", "1"), ("--cluster_loss_weight", "0")]
    for folder, weighting in zip(folders, weightings):
        command = ["--recipe", "tuned", *own_data(LLMS[:3]), *weighting, "--no_final_eval"]
        assert program.main([*command, "--save_path", str(folder)]) == 0
    by_cluster, by_task, without = (Run(folder, "") for folder in folders)
    assert same(by_cluster, by_task) and not same(by_cluster, without)
    assert "sample_sample_loss" not in by_task.results and "sample_sample_loss" not in without.results


def test_missing_cluster_ids_are_an_error_without_the_recipe(own_data, tmp_path, capsys):
    assert program.main([*own_data(LLMS), "--freeze_encoder"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'letters.json'}, row 0: 'cluster_id' must be an integer")
    assert not (tmp_path / "own" / "results.json").exists()


def test_with_cluster_ids_nothing_is_said_of_tasks(train):
    run = train(missing_clusters="task", training_steps=2)
    assert "by task" not in run.text and "sample_sample_loss" not in run.results
    assert same(run, train("plain", training_steps=2))


# Mistakes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"top_k": 0}, "--top_k is 0; it must be at least 1"),
        ({"top_k": 5}, "--top_k is 5; with 4 LLMs it must be from 1 to 4"),
        ({"last_k": 0}, "--last_k is 0; with 4 LLMs it must be from 1 to 4"),
        ({"last_k": 5}, "--last_k is 5; with 4 LLMs it must be from 1 to 4"),
        ({"H": 0}, "--H is 0; it must be at least 1"),
        ({"batch_size": 0}, "--batch_size is 0; it must be at least 1"),
        ({"training_steps": 0}, "--training_steps is 0; it must be at least 1"),
        ({"eval_steps": 0}, "--eval_steps is 0; it must be at least 1"),
        ({"gradient_accumulation": 0}, "--gradient_accumulation is 0; it must be at least 1"),
        ({"training_samples_per_dataset": -1}, "--training_samples_per_dataset is -1; it must be at least 0"),
        ({"seed": -1}, "--seed is -1; it must be at least 0"),
        ({"learning_rate": 0.0}, "--learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": "nan"}, "--learning_rate is nan; it must be above 0"),
        ({"llm_learning_rate": -1.0}, "--llm_learning_rate is -1.0; it must be above 0"),
        ({"temperature": 0.0}, "--temperature is 0.0; it must be above 0"),
        ({"weight_decay": -0.1}, "--weight_decay is -0.1; it must be at least 0"),
        ({"cluster_loss_weight": -1.0}, "--cluster_loss_weight is -1.0; it must be at least 0"),
        ({"sample_loss_weight": "inf"}, "--sample_loss_weight is inf; it must be at least 0"),
        ({"dropout": 1.0}, "--dropout is 1.0; it must be at least 0 and below 1"),
        ({"target_shrinkage": 2.0}, "--target_shrinkage is 2.0; it must be at least 0 and at most 1"),
        ({"target_pooling": "alike", "target_shrinkage": 0.5}, "the pooling that --target_shrinkage 0.5 sets by hand"),
        ({"target_pooling": "question", "target_groups": "cluster"}, "that --target_groups cluster sets by hand"),
        ({"validation_fraction": 1.0}, "--validation_fraction is 1.0; it must be at least 0 and below 1"),
        (
            {"validation_fraction": 0},
            "--selection best needs --validation_fraction above 0; with --validation_fraction 0 use --selection last",
        ),
        ({"train_layers": 0}, "--train_layers is 0"),
        ({"freeze_encoder": True, "train_layers": 1}, "--freeze_encoder and --train_layers exclude each other"),
        ({"train_layers": 4}, "--train_layers is 4"),
        ({"max_length": 65}, "--max_length is 65"),
        ({"device": "cuda:99"}, "--device cuda:99: PyTorch sees"),
        ({"device": "tpu!"}, "--device is 'tpu!'; it must be auto, cpu, cuda, cuda:N or mps"),
        ({"data_type": ["probability"] * 2}, "--data_paths names 3 files and --data_type 2 kinds"),
        ({"test_data_type": ["probability"] * 3}, "--test_data_paths names 2 files and --test_data_type 3 kinds"),
        (
            {"final_eval_data_type": ["probability"] * 2},
            "--final_eval_data_paths names 1 files and --final_eval_data_type 2 kinds",
        ),
    ],
)
def test_numbers_and_lists_that_make_no_sense(fails, flags, words):
    assert words in fails(**flags)


def test_files_that_are_not_right(fails, fake, tmp_path):
    assert fails(data_paths=tmp_path / "none.json").startswith(f"{tmp_path / 'none.json'}: no such file")
    text = fails(data_paths=[fake.test["gsm8k"]])  # no cluster ids
    assert text.startswith(f"{fake.test['gsm8k']}, row 0: 'cluster_id' must be an integer")
    twice = [fake.test["gsm8k"], fake.test["mbpp"]]
    text = fails(test_data_paths=twice)  # mbpp is in --final_eval_data_paths too
    assert "mbpp" in text and "once" in text
    strangers = tmp_path / "gsm8k-test.json"
    strangers.write_text(json.dumps([{"question": "one?", "scores": {"org/alpha-7b": 1, "org/omega": 0}}]))
    text = fails(test_data_paths=strangers, final_eval_data_paths=[])
    assert text.startswith(f"{strangers}: ") and "org/omega" in text


def test_a_run_where_nothing_can_be_written(fails, tmp_path):
    (tmp_path / "file").write_text("")
    text = fails(save_path=tmp_path / "file" / "run")
    assert text.startswith(f"--save_path {tmp_path / 'file' / 'run'}: cannot write there")
    assert "choose another folder" in text


def test_an_encoder_that_cannot_be_loaded(fails, tmp_path):
    text = fails(encoder=tmp_path / "nothing")
    assert text.startswith(f"--encoder {tmp_path / 'nothing'}: cannot be loaded")
    assert "hf download" in text and "minilm" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device(fails):
    assert "--device cuda: PyTorch sees 0 CUDA devices. Use --device cpu" in fails(device="cuda")


def test_mistakes_have_status_2_and_no_traceback(script, fake, tiny_bert, tmp_path):
    run = script("train_router_mdeberta.py", *arguments(fake, tiny_bert, tmp_path / "run", fidelity="released"))
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: --fidelity is 'released'")


@pytest.mark.parametrize("flags", [{"pooling": "max"}, {"batch_size": "many"}, {"no_such_flag": True}])
def test_values_that_the_parser_refuses(fake, tiny_bert, tmp_path, capsys, flags):
    with pytest.raises(SystemExit) as stop:
        program.main(arguments(fake, tiny_bert, tmp_path / "run", **flags))
    assert stop.value.code == 2 and f"--{list(flags)[-1]}" in capsys.readouterr().err
