"""The folder of a run: what is left in it, and what becomes of stopped, crashed, finished and changed runs."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import (
    LLMS,
    REPO,
    TRAINED,
    Run,
    arguments,
    ctrl_c,
    interrupted_at,
    make_rows,
    metrics,
    same_weights,
    timeless,
)
from safetensors.torch import load_file
from torch.amp import GradScaler

import train_router_mdeberta as program
from utils import training
from utils.config import Config, settings_of
from utils.run import Interrupt, Progress, RunFolder, trainable

# What a run leaves


def test_artefacts(trained):
    folder = trained.folder
    names = ["checkpoint", "metrics.jsonl", "picks.json", "results.json", "tables.md", "tensorboard"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "training_curve.png"]
    assert (folder / "tables.md").read_text().strip() in trained.text
    picture = matplotlib.image.imread(folder / "training_curve.png")
    height, width, channels = picture.shape
    assert height > 400 and width > 400
    assert len(np.unique(picture.reshape(-1, channels), axis=0)) > 20


def test_tensorboard_has_the_same_scalars(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.folder / "tensorboard"))
    events.Reload()
    for key in ("loss", "validation", "validation/gsm8k"):
        scalars = {event.step: event.value for event in events.Scalars(key)}
        assert scalars == pytest.approx(metrics(trained, key), rel=1e-6)


def test_results_and_checkpoint_describe_the_run(trained, fake, tiny_bert):
    config = json.loads((trained.folder / "checkpoint" / "config.json").read_text())
    results = trained.results
    files = [*fake.train.values(), *fake.test.values()]
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for about in (config, results):
        settings = about["settings"]
        assert settings["data"] == digests
        assert (settings["training_steps"], settings["learning_rate"]) == (120, 3e-3)
        assert settings["fidelity"] == "paper" and about["precision"] == "fp32"
        assert settings.keys() == settings_of(Config()).keys() | {"data"}
        assert set(about["test"]["tasks"]) == {"gsm8k", "arc_challenge", "mbpp"}
        assert about["command"].startswith("python train_router_mdeberta.py --data_paths ")
    assert (config["llms"], config["encoder"]) == (list(LLMS), str(tiny_bert))
    assert (config["pooling"], config["max_length"]) == ("first", 64)
    assert (results["router"], results["recipe"]) == ("RouterDC", "custom")
    validation = metrics(trained, "validation")
    best_step = max(validation, key=validation.get)
    assert results["selection"] == {"rule": "best", "step": best_step, "validation": max(validation.values())}


def test_strict_json_even_without_validation_rows(train):
    run = train(validation_fraction=0, selection="last", training_steps=2)

    def forbidden(name):
        raise AssertionError(f"{name} is not JSON")

    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    lines += [(run.folder / name).read_text() for name in ("results.json", "checkpoint/config.json")]
    for text in lines:
        json.loads(text, parse_constant=forbidden)
    assert metrics(run, "validation") == {}


def test_the_results_name_the_recipe_and_the_command(train, tmp_path):
    words = "freeze_encoder: true\nmax_length: 64\nbatch_size: 16\ntraining_samples_per_dataset: 60\n"
    (tmp_path / "tiny.yaml").write_text(f"{words}learning_rate: 3.0e-3\neval_steps: 6\ntraining_steps: 2\n")
    recipe = {"config": tmp_path / "tiny.yaml", "training_steps": None}
    assert train("same", **recipe, seed=3).results["recipe"] == "tiny"
    assert train("changed", **recipe, H=2).results["recipe"] == "custom"
    labelled = train("labelled", **recipe, H=2, label="tiny H=2").results
    assert labelled["recipe"] == "tiny H=2" and labelled["command"].endswith("--H 2 --label 'tiny H=2'")
    assert labelled["settings"]["freeze_encoder"] and "label" not in labelled["settings"]


# Interruptions

WAYS = [{}, {"train_layers": 1, "target_pooling": "alike"}, {"freeze_encoder": True}, {"fidelity": "upstream"}]
WAYS += [{"ties": "random", "gradient_accumulation": 2, "sample_loss_weight": 0.5}]


@pytest.mark.parametrize("flags", WAYS)
def test_an_interrupted_run_goes_on_exactly(train, fake, tiny_bert, tmp_path, capsys, monkeypatch, flags):
    """Ctrl-C in the 14th of 32 steps: between two evaluations, and between two lines of the log."""
    flags = flags | {"training_steps": 32, "eval_steps": 5}
    batch = 13 * flags.get("gradient_accumulation", 1)
    whole = train("whole", **flags)
    command = arguments(fake, tiny_bert, tmp_path / "parts", **flags)
    with monkeypatch.context() as patch:
        interrupted_at(batch, patch, ctrl_c)
        assert program.main(command) == 130
    assert "stopped at step 14; the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "results.json").exists()
    parts = train("parts", **flags)
    assert "resumed at step 14" in parts.text
    assert same_weights(whole, parts)
    assert timeless(whole) == timeless(parts)
    assert list(metrics(whole, "loss")) == [10, 20, 30, 32]
    for key in ("loss", "validation", "validation/mmlu"):
        assert metrics(whole, key) == metrics(parts, key)
    assert not (parts.folder / "state").exists()


def test_a_crash_costs_the_steps_since_the_last_state(train, fake, tiny_bert, tmp_path, monkeypatch):
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
    assert same_weights(whole, parts)
    assert metrics(whole, "validation") == metrics(parts, "validation")
    assert list(metrics(parts, "loss")) == [10, 20, 25]


def test_the_best_weights_from_before_an_interruption_are_kept(train, fake, tiny_bert, tmp_path, monkeypatch):
    flags = {"training_steps": 24, "eval_steps": 6}
    scores = iter([40.0, 70.0, 60.0, 50.0])
    with monkeypatch.context() as patch:
        patch.setattr(program, "validate", lambda *args: {"validation": next(scores)})
        with monkeypatch.context() as inner:
            interrupted_at(14, inner, ctrl_c)
            assert program.main(arguments(fake, tiny_bert, tmp_path / "parts", **flags)) == 130
        parts = train("parts", **flags)
    assert parts.results["selection"]["step"] == 12
    assert same_weights(parts, train("cut", training_steps=12, selection="last"))


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
    assert timeless(parts) == timeless(train("whole"))


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
    while process.poll() is None and time.monotonic() < deadline:
        if log.is_file() and log.read_text():
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err and "Traceback" not in err
    again = script("train_router_mdeberta.py", *command)
    assert again.returncode == 0, again.stderr
    assert "resumed at step" in again.stdout
    run = Run(tmp_path / "run", again.stdout)
    assert same_weights(trained, run) and timeless(trained) == timeless(run)
    assert metrics(trained, "validation") == metrics(run, "validation")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_has_its_usual_effect(signals, number):
    """And so has the first one after the block."""
    received = []
    signal.signal(number, lambda *_: received.append("usual"))
    with Interrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), number)
        assert interrupt.asked and received == []
        os.kill(os.getpid(), number)
        assert received == ["usual"]
    os.kill(os.getpid(), number)
    assert received == ["usual", "usual"]
    with Interrupt() as unasked:
        pass
    os.kill(os.getpid(), number)
    assert not unasked.asked and len(received) == 3


# A folder with a run in it


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


def test_a_run_that_is_overwritten_leaves_nothing_behind(train):
    run = train()
    overwritten = train(overwrite=True, seed=3)
    assert overwritten.results["settings"]["seed"] == 3
    assert 0 not in metrics(overwritten, "loss").values()
    assert list(metrics(overwritten, "validation")) == [6, 12]
    train(overwrite=True, no_final_eval=True)
    assert not (run.folder / "picks.json").exists()
    assert (run.folder / "tables.md").read_text() == "No test sets were read (--no_final_eval).\n\n"


WRONG = [{"encoder": "no/such/encoder"}, {"device": "cuda:99"}, {"top_k": 9}, {"train_layers": 7}]
WRONG += [{"learning_rate": -1}, {"test_data_paths": ["gone.json"]}]


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_setting_costs_no_finished_run(train, fails, wrong):
    run = train()
    before = files_of(run.folder)
    fails(overwrite=True, **wrong)
    assert files_of(run.folder) == before


def test_a_finished_run_stays_until_the_one_that_overwrites_it_is_finished(
    train, fake, tiny_bert, tmp_path, monkeypatch
):
    run = train()
    before = files_of(run.folder)
    for _ in range(2):  # the second time it begins again
        with monkeypatch.context() as patch:
            interrupted_at(7, patch, ctrl_c)
            assert program.main(arguments(fake, tiny_bert, run.folder, overwrite=True, seed=2)) == 130
        assert files_of(run.folder).items() >= before.items() and (run.folder / ".new" / "state").is_dir()
    anew = train(seed=2)
    assert "resumed at step 8" in anew.text
    assert timeless(anew) == timeless(train("plain", seed=2)) and same_weights(anew, Run(tmp_path / "plain", ""))
    assert {path.name for path in anew.folder.iterdir()} == {path.name for path in (tmp_path / "plain").iterdir()}


def test_overwriting_removes_a_state_that_was_being_exchanged(train, fake, tiny_bert, tmp_path, monkeypatch):
    """A run killed between the two renames of its state has left it under another name."""
    with monkeypatch.context() as patch:
        interrupted_at(3, patch, ctrl_c)
        assert program.main(arguments(fake, tiny_bert, tmp_path / "run")) == 130
    (tmp_path / "run" / "state").rename(tmp_path / "run" / ".state.old")
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    assert "resumed at step 4" in train("kept").text
    anew = train("run", overwrite=True, seed=2)
    assert "resumed" not in anew.text and same_weights(anew, train("plain", seed=2))


def test_two_processes_do_not_train_in_one_folder(fails, tmp_path):
    (tmp_path / "run").mkdir()
    lines = [
        "import pathlib, sys",
        "from utils.files import locked",
        "with locked(pathlib.Path(sys.argv[1])):",
        "    print('held', flush=True)",
        "    sys.stdin.read()",
    ]
    command = [sys.executable, "-c", "\n".join(lines), tmp_path / "run"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPO, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        assert f"--save_path {tmp_path / 'run'}: another process is training there" in fails()
        other.communicate()


def test_other_settings_in_the_same_folder_are_refused(train, fails, tmp_path, monkeypatch):
    train()
    message = fails(learning_rate=1e-3, H=5)
    assert "holds a run with other settings" in message and "--overwrite" in message
    assert "learning_rate: 0.003 there, 0.001 now" in message
    assert "H: 3 there, 5 now" in message
    with monkeypatch.context() as patch:
        interrupted_at(3, patch, ctrl_c)
        with pytest.raises(AssertionError, match="stopped at step 4"):
            train("unfinished")
    assert "seed: 1 there, 2 now" in fails(save_path=tmp_path / "unfinished", seed=2)


def test_a_run_that_goes_on_with_other_threads_says_so(fake, tiny_bert, tmp_path, capsys, monkeypatch):
    """Where the number is that of the cores, it is no other setting on another machine."""
    before = torch.get_num_threads()
    try:
        with monkeypatch.context() as patch:
            interrupted_at(3, patch, ctrl_c)
            assert program.main(arguments(fake, tiny_bert, tmp_path / "run")) == 130
        torch.set_num_threads(before + 1)
        capsys.readouterr()
        assert program.main(arguments(fake, tiny_bert, tmp_path / "run")) == 0
        printed = capsys.readouterr()
        assert "resumed at step 4" in printed.out
        assert f"begun with {before} threads, it goes on with {before + 1};" in printed.err
        assert f", {before + 1} threads)" in json.loads((tmp_path / "run" / "results.json").read_text())["device"]
    finally:
        torch.set_num_threads(before)


def test_what_changes_no_result_may_change(train):
    first = train()
    again = train(
        label="another", resume_minutes=1, cache_dir=first.folder.parent / "elsewhere", missing_clusters="task"
    )
    assert "already done" in again.text and again.results == first.results


def test_changed_data_in_the_same_folder_are_refused(train, fails, fake, tmp_path):
    data = tmp_path / "gsm8k-train.json"
    data.write_bytes(fake.train["gsm8k"].read_bytes())
    paths = [data, fake.train["mmlu"]]
    train(data_paths=paths, training_steps=1)
    data.write_text(json.dumps(make_rows(40, "multi_attempt", 30)))
    assert "holds a run with other settings (data: " in fails(data_paths=paths, training_steps=1)


def test_a_run_that_is_damaged_names_its_file_and_the_remedy(train, fails):
    run = train()
    for name in ("tables.md", "checkpoint/model.safetensors", "checkpoint/config.json"):
        raw = (run.folder / name).read_bytes()
        (run.folder / name).unlink()
        expected = f"{run.folder / name}: not there any more; bring it back, or train again (--overwrite)"
        assert fails() == expected
        (run.folder / name).write_bytes(raw)
    assert "already done" in train().text
    shutil.rmtree(run.folder / "checkpoint")
    assert "not there any more" in fails()
    for text in ("", '{"settings": ', "[]", '{"test": 1}', "[" * 100_000):
        (run.folder / "results.json").write_text(text)
        message = fails()
        assert message.startswith(f"{run.folder / 'results.json'}: damaged, ")
        assert message.endswith("; --overwrite begins again")
    assert train(overwrite=True).results["settings"]["seed"] == 1


def test_a_state_that_is_damaged_names_its_file_and_the_remedy(train, fails, fake, tiny_bert, tmp_path, monkeypatch):
    """Cut short, one digit changed, one bit changed, gone."""
    with monkeypatch.context() as patch:
        interrupted_at(3, patch, ctrl_c)
        assert program.main(arguments(fake, tiny_bert, tmp_path / "run")) == 130
    state = tmp_path / "run" / "state"
    raw = {path: path.read_bytes() for path in (state / "progress.json", state / "tensors.safetensors")}
    progress, tensors = raw.values()
    flipped = tensors[:-2] + bytes([tensors[-2] ^ 4]) + tensors[-1:]
    damages = {"progress.json": [progress[:-9], b"{}", progress.replace(b'"step": 4', b'"step": 5')]}
    damages["tensors.safetensors"] = [tensors[:-1], tensors[:20], b"", flipped]
    for name, contents in damages.items():
        for content in contents:
            (state / name).write_bytes(content)
            message = fails()
            assert message.startswith(str(state)) and "damaged" in message, message
            assert message.endswith("; --overwrite begins again")
        (state / name).unlink()
        assert fails().startswith(f"{state / name}: ")
        (state / name).write_bytes(raw[state / name])
    assert "resumed at step 4" in train().text


def test_what_a_kill_left_half_written_goes(train):
    """And the state of a run that was killed after results.json, before the state was removed."""
    run = train()
    before = files_of(run.folder)
    for name in (".state.part", ".checkpoint.part", ".checkpoint.old", ".tensorboard.part", "state", ".new"):
        (run.folder / name).mkdir()
        (run.folder / name / "file").write_text("half")
    for name in (".results.json.part", ".metrics.jsonl.part", ".training_curve.png.part"):
        (run.folder / name).write_text("half")
    assert "already done" in train().text
    assert files_of(run.folder) == before


def test_a_setting_that_an_older_run_does_not_know_counts_as_its_default(train, fails):
    run = train()
    results = run.results
    del results["settings"]["ties"]
    (run.folder / "results.json").write_text(json.dumps(results))
    assert "already done" in train().text
    assert "ties: 'expected' there, 'random' now" in fails(ties="random")
    assert "threads: 0 there, 1 now" in fails(threads=1)
    del results["settings"]["threads"]  # of these nothing is known
    (run.folder / "results.json").write_text(json.dumps(results))
    assert "already done" in train(threads=1).text
    results["settings"]["gone"] = 3
    (run.folder / "results.json").write_text(json.dumps(results))
    assert "gone: 3 there, None now" in fails()


def test_a_run_that_diverges_is_an_error_and_leaves_no_results(fake, tiny_bert, tmp_path, capsys):
    flags = {"learning_rate": 1e30, "similarity_function": "inner", "selection": "last", "training_steps": 12}
    assert program.main(arguments(fake, tiny_bert, tmp_path / "run", **flags)) == 2
    assert "at step 6: training has diverged. Lower --learning_rate (1e+30)" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_run_where_nothing_can_be_written(fails, tmp_path):
    (tmp_path / "file").write_text("")
    message = fails(save_path=tmp_path / "file" / "run")
    assert message.startswith(f"--save_path {tmp_path / 'file' / 'run'}: cannot write there")
    assert "choose another folder" in message
    message = fails(cache_dir=tmp_path / "file" / "cache")
    assert message.startswith(f"--cache_dir {tmp_path / 'file' / 'cache'}: cannot write there")


# The state on its own


def test_a_state_gives_weights_optimizer_and_progress_back(tmp_path):
    """Two steps in one go, and two with a save and a load of everything between them."""

    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        model.bias.requires_grad_(False)
        return model, torch.optim.AdamW([model.weight], lr=0.1)

    def step(model, optimizer) -> None:
        model(torch.arange(3.0)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole = made()
    step(*whole)
    step(*whole)
    first, second = made(), made()
    step(*first)
    folder = RunFolder(tmp_path, {"H": 3})
    assert not folder.can_resume() and not folder.is_finished()
    best = {"weight": torch.ones(2, 3)}
    progress = Progress(step=1, seconds=2.5, evaluations=4, best_step=1, best_validation=50.0)
    folder.save_state(*first, best, progress)
    assert folder.can_resume() and list(trainable(second[0])) == ["weight"]
    kept, found = RunFolder(tmp_path, {"H": 3}).load_state(*second)
    assert found == progress and torch.equal(kept["weight"], best["weight"]) and kept.keys() == best.keys()
    step(*second)
    assert torch.equal(second[0].weight, whole[0].weight)
    assert not torch.equal(first[0].weight, whole[0].weight)


def saved(folder: RunFolder, value: float) -> torch.nn.Module:
    """Save a state whose weights are all `value`."""
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    folder.save_state(model, torch.optim.AdamW(model.parameters()), {}, Progress(step=int(value)))
    return model


def on_disk(folder: RunFolder) -> tuple[float, int]:
    """The weights in the state of a run, and its step."""
    tensors = load_file(folder.state / "tensors.safetensors")
    return float(tensors["model.weight"][0, 0]), json.loads((folder.state / "progress.json").read_text())["step"]


def test_a_state_is_written_behind_the_loop_from_a_copy(tmp_path, monkeypatch):
    """The loop goes on while it is written; the next save waits; the block ends with all on disk."""
    folder, go, begun = RunFolder(tmp_path, {}), threading.Event(), threading.Event()
    write = RunFolder._write_state

    def slow(self, *rest):
        begun.set()
        assert go.wait(20)
        write(self, *rest)

    monkeypatch.setattr(RunFolder, "_write_state", slow)
    with folder.saving():
        model = saved(folder, 1)
        assert begun.wait(20) and not folder.can_resume()
        torch.nn.init.constant_(model.weight, 7)  # the loop goes on
        go.set()
        saved(folder, 2)  # waits for the first one
        folder.wait()
        assert on_disk(folder) == (2.0, 2)
        saved(folder, 3)
    assert on_disk(folder) == (3.0, 3)


def test_an_error_behind_the_loop_comes_up_at_the_next_save_or_the_end(tmp_path, monkeypatch):
    folder, failing = RunFolder(tmp_path, {}), []
    write = RunFolder._write_state

    def full(self, *rest):
        if failing:
            raise OSError(28, "No space left on device", "state")
        write(self, *rest)

    monkeypatch.setattr(RunFolder, "_write_state", full)
    with pytest.raises(OSError, match="No space left"), folder.saving():
        saved(folder, 1)
        folder.wait()
        failing.append(True)
        saved(folder, 2)
        saved(folder, 3)
    with pytest.raises(OSError, match="No space left"), folder.saving():
        saved(folder, 4)
    assert on_disk(folder) == (1.0, 1) and {path.name for path in tmp_path.iterdir()} == {"state"}


def test_a_brief_run_has_its_loss(train):
    run = train(training_steps=4, eval_steps=2)
    assert list(metrics(run, "loss")) == [4]


def test_fp16_goes_on_with_its_loss_scaling(train, fake, tiny_bert, tmp_path, monkeypatch):
    """GradScaler doubles its scale after steps without overflow, which a resumed run must count on."""
    flags = {"precision": "fp16", "training_steps": 12, "eval_steps": 6}
    scalers = []

    def quick(device, enabled):
        scalers.append(GradScaler(device, init_scale=8.0, growth_interval=3, enabled=enabled))
        return scalers[-1]

    monkeypatch.setattr(torch.amp, "GradScaler", quick)
    whole = train("whole", **flags)
    with monkeypatch.context() as patch:
        interrupted_at(4, patch, ctrl_c)
        assert program.main(arguments(fake, tiny_bert, tmp_path / "parts", **flags)) == 130
    parts = train("parts", **flags)
    assert same_weights(whole, parts) and whole.results["precision"] == "fp16"
    assert [scaler.get_scale() for scaler in scalers] == [128.0, 16.0, 128.0]
