"""Plans: what their YAML says is trained, no more and no less, and what is wrong in one is said with its name."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

import train_router_mdeberta
from tests.conftest import REPO, arguments
from utils import plan
from utils.config import parse_config, settings_of

BASE = {"runs": "DIR", "seeds": [1, 2], "settings": {"encoder": "minilm", "freeze_encoder": True}, "label": "small"}


TEMPLATE = {"values": [1], "settings": {"data_paths": ["{value}"]}}


@pytest.fixture
def write(tmp_path):
    """Writes a plan, BASE with these keys; its path."""

    def write(**keys):
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(BASE | {"runs": str(tmp_path / "runs")} | keys, sort_keys=False))
        return path

    return write


def planned(path, *flags):
    """The variants of a plan and its runs' settings by the end of their folder: {"H=5/seed_1": Config}."""
    args, extra = plan.parser().parse_known_args(["--plan", str(path), *flags])
    variants, runs = plan.planned(args, extra)
    return variants, {"/".join(run.folder.parts[-2:]): parse_config(run.arguments) for run in runs}


def test_several_processes_are_started_by_a_launcher(write, tmp_path, capsys):
    path, file = write(variants={"a": {}}), tmp_path / "accelerate.yaml"
    file.write_text("num_processes: 2\n")
    ways = {
        (): "python ",
        ("--processes", "4"): "torchrun --standalone --nproc_per_node 4 ",
        ("--accelerate_config", str(file)): f"accelerate launch --config_file {file} ",
    }
    for flags, beginning in ways.items():
        assert plan.main(["--plan", str(path), "--seeds", "1", "--dry_run", *flags]) == 0
        assert capsys.readouterr().out.startswith(f"{beginning}train_router_mdeberta.py --encoder minilm ")
    wrong = {
        ("--processes", "0"): "--processes is 0",
        ("--accelerate_config", "there.yaml"): "there.yaml: no such file",
        ("--processes", "2", "--accelerate_config", str(file)): "exclude each other",
    }
    for flags, reason in wrong.items():
        assert plan.main(["--plan", str(path), "--dry_run", *flags]) == 2
        assert reason in capsys.readouterr().err


def test_axes_list_values_name_them_or_fill_a_template(write, tmp_path):
    template = {"values": [2, 3], "settings": {"data_paths": ["{runs}/N{value}/a.json"]}}
    template |= {"before": "make {value} {runs}", "creates": "{runs}/N{value}"}
    axes = {"H": {"H": [3, 5]}, "aim": {"gain": {"targets": "gain"}, "score": {"targets": "score"}}, "N": template}
    variants, runs = planned(write(axes=axes))
    names = ["base", "H=5", "aim=gain", "N=2", "N=3"]  # H=3 and targets=score are those of the base
    assert [variant.name for variant in variants] == names
    assert [*runs] == [f"{name}/seed_{seed}" for seed in (1, 2) for name in names]
    assert runs["H=5/seed_2"].loss.H == 5 and runs["aim=gain/seed_1"].training_set.targets == "gain"
    assert [runs[f"{name}/seed_1"].run.label for name in names[:2]] == ["small", "small H=5"]
    folder = tmp_path / "runs"
    assert runs["N=3/seed_1"].data.data_paths == (f"{folder}/N3/a.json",)
    assert (variants[4].before, variants[4].creates) == (("make", "3", str(folder)), f"{folder}/N3")


def test_a_template_knows_the_settings_and_what_the_command_line_changes(write):
    template = {"values": ["a b"], "settings": {"data_paths": ["{value}"]}, "creates": "{value}"}
    template["before"] = "make {encoder} --device {device} '{value}'"
    variants, _ = planned(write(axes={"N": template}), "--device", "cpu")
    assert variants[1].before == ("make", "minilm", "--device", "cpu", "a b")


def test_flags_change_what_all_share_and_a_variant_keeps_its_own(write):
    path = write(axes={"H": {"H": [3, 5, 9]}})
    _, runs = planned(path, "--H", "9", "--top_k", "2", "--runs", "mine", "--seeds", "4", "--label", "other")
    assert {name: config.loss.H for name, config in runs.items()} == {
        "base/seed_4": 9,  # so the plan's H=9 is left out, and H=3 is not
        "H=3/seed_4": 3,
        "H=5/seed_4": 5,
    }
    assert all(config.loss.top_k == 2 for config in runs.values())
    assert [config.run.label for config in runs.values()] == ["other", "other H=3", "other H=5"]
    assert all(config.run.save_path.startswith("mine/") for config in runs.values())


def test_a_recipe_is_trained_without_a_plan():
    args, extra = plan.parser().parse_known_args(["--recipe", "tuned", "--device", "cpu"])
    runs = plan.planned(args, extra)[1]
    assert [str(run.folder) for run in runs] == [f"runs/minilm_tuned/paper/seed_{seed}" for seed in (1, 2, 3, 4, 5)]
    for seed, run in enumerate(runs, 1):
        alone = parse_config(["--recipe", "tuned", "--device", "cpu", "--seed", str(seed), "--threads", "1"])
        assert settings_of(parse_config(run.arguments)) == settings_of(alone)
        assert parse_config(run.arguments).run.label == "tuned"


def test_variants_have_seeds_and_labels_of_their_own(write):
    own = {"plain": None, "few": {"H": 5, "seeds": [2], "label": "other"}, "recipe": {"recipe": "frozen"}}
    _, runs = planned(write(variants=own))
    assert [*runs] == ["plain/seed_1", "recipe/seed_1", "plain/seed_2", "few/seed_2", "recipe/seed_2"]
    labels = {name: config.run.label for name, config in runs.items()}
    assert labels["plain/seed_1"] == "plain" and labels["few/seed_2"] == "other" and labels["recipe/seed_1"] == "frozen"
    assert [*planned(write(variants=own), "--seeds", "2", "--only", "few")[1]] == ["few/seed_2"]


def test_only_takes_axes_and_variants_and_keeps_the_base(write):
    path = write(axes={"H": {"H": [1, 5]}, "lambda": {"cluster_loss_weight": [0, 2]}})
    names = [variant.name for variant in planned(path, "--only", "H", "lambda=0")[0]]
    assert names == ["base", "H=1", "H=5", "lambda=0"]


@pytest.mark.parametrize(
    ("keys", "flags", "said"),
    [
        ({"sedes": [1]}, [], "plan.yaml: sedes is no part of a plan"),
        ({"variants": {"a": {"recipe": "best"}}}, [], "best.yaml: no such recipe"),
        ({"variants": {"a": {"Hs": 5}}}, [], "plan.yaml: a: no setting is called Hs"),
        ({"axes": {"H": {"Hs": [5]}}}, [], "plan.yaml: H=5: no setting is called Hs"),
        ({"variants": {"a": {"H": 0}}}, [], "plan.yaml: a: --H is 0; it must be at least 1"),
        ({"variants": {"a": {"H": "five"}}}, [], "plan.yaml: a: the trainer does not take these settings"),
        ({"variants": {"a": 5}}, [], "plan.yaml: a: expected settings, found 5"),
        ({"variants": {"a": {"seeds": 5}}}, [], "plan.yaml: seeds of a: expected a list of whole numbers from 0"),
        ({"seeds": ["1"], "variants": {"a": None}}, [], "plan.yaml: seeds: expected a list of whole numbers"),
        ({"settings": ["H"], "variants": {"a": None}}, [], "plan.yaml: settings is ['H']; it must be a dict"),
        ({}, [], "plan.yaml: nothing to train"),
        ({"axes": {"H": 5}}, [], "plan.yaml: H: expected a flag with a list of values, or settings by name; found 5"),
        ({"axes": {"H": {"H": 5}}}, [], "plan.yaml: H: H is 5; it must be a list of values, or settings"),
        ({"axes": {"N": TEMPLATE | {"before": "x"}}}, [], "plan.yaml: N: a template has values and settings"),
        ({"axes": {"N": TEMPLATE | {"before": "{x}", "creates": "y"}}}, [], "plan.yaml: N=1: '{x}' names a field"),
        ({"variants": {"a": None}}, ["--only", "b"], "--only names b; this plan has a"),
        ({"variants": {"a": None}}, ["--label", "b"], "plan.yaml: --label is for a recipe or a plan with axes"),
        ({"variants": {"a": None}}, ["--name", "b"], "--name is for a recipe"),
        ({"variants": {"a": {"seeds": [1]}}}, ["--seeds", "7"], "--seeds 7: the plan has none of these"),
        ({"variants": {"a": None}}, ["--seed=7"], "--seed is of a single run (train_router_mdeberta.py); give --seeds"),
        ({"variants": {"a": None}}, ["--jobs", "0"], "--jobs is 0; it must be at least 1"),
        ({"variants": {"a": None}}, ["--H", "5"], "with other settings (--H 5) a is not what the plan says"),
    ],
)
def test_what_is_wrong_in_a_plan_is_said(write, capsys, keys, flags, said):
    assert plan.main(["--plan", str(write(**keys)), "--dry_run", *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["..", "a/../../b"])
def test_the_folder_of_a_run_stands_below_that_of_the_runs(write, tmp_path, capsys, name):
    text = f"error: {name}: the folder of a run stands in {tmp_path / 'runs'}; give a name without .."
    for words in (["--plan", write(variants={name: {"H": 2}})], ["--encoder", "minilm", "--name", name]):
        assert plan.main([*map(str, words), "--runs", str(tmp_path / "runs"), "--dry_run"]) == 2
        assert text in capsys.readouterr().err


def test_a_plan_with_axes_names_their_rows(tmp_path, capsys):
    path = tmp_path / "plan.yaml"
    path.write_text("{runs: r, seeds: [1], axes: {H: {H: [1]}}}")
    assert plan.main(["--plan", str(path)]) == 2
    assert f"{path}: a plan with axes needs a label" in capsys.readouterr().err


@pytest.mark.parametrize("collect", ["results", "results/"])
def test_a_row_of_the_results_is_what_its_name_says(capsys, collect):
    command = ["--recipe", "tuned", "--seeds", "1", "--dry_run", "--collect", collect]
    for flags in (["--H", "5"], ["--H", "5", "--label", "tuned"]):  # without a name, and with one that is taken
        assert plan.main([*command, *flags]) == 2
        assert "--H 5) this is not what results/ has a row of: name its row with --label" in capsys.readouterr().err
    for flags in (["--H", "5", "--label", "mine"], ["--label", "tuned"], ["--encoder", "other", "--device", "cpu"]):
        assert plan.main([*command, *flags]) == 0


@pytest.mark.parametrize("text", ["- 1\n", "a: [\n", "seeds: [1]\n", None])
def test_a_file_that_is_no_plan_is_named(tmp_path, capsys, text):
    path = tmp_path / "none.yaml"
    if text is not None:
        path.write_text(text)
    assert plan.main(["--plan", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


def committed(name: str) -> dict[tuple, list[dict]]:
    """The rows of a file in results/ that the trainer made, those of the same settings together."""
    groups = {}
    for line in (REPO / "results" / name).read_text().splitlines():
        row = json.loads(line)
        if "train_router_mdeberta.py" in row["command"] and row.get("setting") != "lost_LLM":
            key = ("recipe", "router", "fidelity", "setting", "value")
            groups.setdefault(tuple(row.get(name) for name in key), []).append(row)
    return groups


def words_of(rows: list[dict]) -> list[str]:
    """The trainer's arguments of the first of these rows; those of the others must differ in seed and folder alone."""
    kept = set()
    for row in rows:
        assert f" --seed {row['seed']} " in row["command"]
        kept.add(re.sub(r" --(seed|save_path) \S+| --loss routerdc", "", row["command"]))
    assert len(kept) == 1, kept
    return shlex.split(rows[0]["command"])[2:]


def named(config) -> tuple[tuple, dict]:
    """What results call a run beside its seed, and its settings as with the paper's seven LLMs."""
    settings = settings_of(config)
    del settings["seed"]
    if settings["last_k"] is None:
        settings["last_k"] = 7 - settings["top_k"]
    if settings["selection"] == "last" and not settings["validation_fraction"]:
        del settings["eval_steps"]  # nothing is evaluated
    return (config.run.label, config.loss.fidelity, config.loss.loss), settings


def test_the_ablations_are_those_of_the_committed_results(monkeypatch):
    """Each run in results/ablations.jsonl has the settings that the plan trains, and the plan no others."""
    monkeypatch.chdir(REPO)
    args, extra = plan.parser().parse_known_args(["--plan", "train_scripts/plans/ablations.yaml"])
    variants, runs = plan.planned(args, extra)
    ours = dict(named(variant.config) for variant in variants)
    groups = committed("ablations.jsonl").values()
    theirs = dict(named(parse_config(words_of(rows))) for rows in groups)
    assert all([row["seed"] for row in rows] == [1, 2, 3, 4, 5] for rows in groups)
    assert len(ours) == len(variants) == len(groups) == 63 and len(runs) == 315
    assert {words[words.index("--seed") + 1] for words in (run.arguments for run in runs)} == set("12345")
    assert ours == theirs


def test_the_plans_are_those_of_the_committed_runs(monkeypatch):
    """A row of results/runs.jsonl that the trainer made has the settings with which it would be made again."""
    monkeypatch.chdir(REPO)
    commands = [["--plan", f"train_scripts/plans/{name}.yaml"] for name in ("comparison", "fidelity", "paper_settings")]
    commands += [["--recipe", recipe] for recipe in ("denoised", "denoised-layers")]
    ours = {}
    for command in commands:
        args, extra = plan.parser().parse_known_args(command)
        for variant in plan.planned(args, extra)[0]:
            name, settings = named(variant.config)
            assert ours.setdefault(name, settings) == settings  # two plans mean the same by one name
    compared = set()
    for (label, *_), rows in committed("runs.jsonl").items():
        if label != "cluster-means":  # trained once, by flags
            name, settings = named(parse_config(words_of(rows)))
            assert ours[name] == settings, name
            compared.add(name)
    assert len(compared) >= 18


def test_what_a_variant_needs_is_made_once_and_before(write, tmp_path, capfd):
    template = TEMPLATE | {"before": "python -c \"open('{runs}.made', 'x')\"", "creates": "{runs}.made"}
    path = write(axes={"N": template})
    variants, _ = planned(path)
    plan.make_inputs(variants, dry_run=True)
    assert capfd.readouterr().out.startswith("python -c ") and not (tmp_path / "runs.made").exists()
    for _ in range(2):
        plan.make_inputs(variants, dry_run=False)
    assert (tmp_path / "runs.made").exists()
    assert plan.main(["--plan", str(write(axes={"N": template | {"creates": "{runs}.other"}}))]) == 2
    assert "error: this command failed: python -c " in capfd.readouterr().err and not (tmp_path / "runs").exists()


# Training


@pytest.fixture
def tiny(fake, tiny_bert, tmp_path):
    """A short run of the tiny encoder on made-up data, as flags for every run, in a folder that is not the plan's."""
    values = arguments(fake, tiny_bert, tmp_path / "unused", freeze_encoder=True, training_steps=None)
    place = values.index("--save_path")
    return [*values[:place], *values[place + 2 :], "--runs", str(tmp_path / "trained")]


def weights_of(folder):
    return load_file(folder / "checkpoint" / "model.safetensors")


def same_weights(one, other) -> bool:
    ours, theirs = weights_of(one), weights_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_two_at_a_time_give_what_the_trainer_gives_alone(write, tiny, tmp_path, capsys):
    path = write(settings={"training_steps": 12}, variants={"a": None, "b": {"H": 2}})
    command = ["--plan", str(path), "--seeds", "1", "2", *tiny]
    assert plan.main([*command, "--dry_run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert plan.main([*command, "--jobs", "2"]) == 0
    folders = [tmp_path / "trained" / name / f"seed_{seed}" for seed in (1, 2) for name in ("a", "b")]
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert [result["command"] for result in results] == printed
    for number in (0, 3):
        alone = tmp_path / f"alone_{number}"
        words = shlex.split(printed[number])[2:]
        assert train_router_mdeberta.main([*words, "--save_path", str(alone)]) == 0
        other = json.loads((alone / "results.json").read_text())
        assert other["test"] == results[number]["test"] and other["settings"] == results[number]["settings"]
        assert same_weights(alone, folders[number])
    capsys.readouterr()
    assert plan.main([*command, "--dry_run"]) == 0 and capsys.readouterr().out == ""  # all are finished
    before = [(folder / "log.txt").stat().st_mtime_ns for folder in folders]
    assert plan.main(command) == 0 and [(folder / "log.txt").stat().st_mtime_ns for folder in folders] == before


def test_damaged_results_are_named(write, tiny, tmp_path, capsys):
    path = tmp_path / "trained" / "a" / "seed_1" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"command": ')
    command = ["--plan", str(write(settings={"training_steps": 2}, variants={"a": None})), "--seeds", "1", *tiny]
    assert plan.main([*command, "--dry_run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: damaged, ") and said.endswith("; remove it to train the run again\n")
    path.unlink()
    assert plan.main([*command, "--dry_run"]) == 0


def test_a_run_with_other_settings_is_not_taken_for_the_plans(write, tiny, tmp_path, capsys):
    flags = ["--seeds", "1", *tiny]
    assert plan.main(["--plan", str(write(settings={"training_steps": 2}, variants={"a": None})), *flags]) == 0
    folder = tmp_path / "trained" / "a" / "seed_1"
    before = (folder / "results.json").read_text()
    assert plan.main(["--plan", str(write(settings={"training_steps": 3}, variants={"a": None})), *flags]) == 2
    said = capsys.readouterr().err
    assert "error: this command failed: python train_router_mdeberta.py" in said
    assert f"--save_path {folder} holds a run with other settings (training_steps: 2 there, 3 now)" in said
    assert (folder / "results.json").read_text() == before


def test_a_run_that_fails_stops_the_others_and_shows_its_log(write, tiny, tmp_path):
    long = {"training_steps": 10**6}
    variants = {"a": {"training_steps": 2}, "wrong": {"llms": ["no/such-llm"]}, "long": long, "never": None}
    path = write(settings={}, variants=variants)
    command = [sys.executable, "-m", "utils.plan", "--plan", str(path), "--seeds", "1", "--jobs", "2", *tiny]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=300)
    failed, log = run.stderr.split("error: this command failed: ")[1].split("\n", 1)
    assert run.returncode == 2 and failed.startswith("python train_router_mdeberta.py ")
    assert " --llms no/such-llm " in failed
    assert "error: " in log and "no/such-llm" in log  # the end of what the run printed
    runs = tmp_path / "trained"
    finished = [name for name in variants if (runs / name / "seed_1" / "results.json").is_file()]
    assert finished == ["a"] and not (runs / "never").exists()


def wait_for(happened, process) -> None:
    """Wait until something has happened; the process must not end before."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if happened():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it did not happen within five minutes")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stopped_plan_goes_on_to_the_same_weights(write, tiny, tmp_path, name):
    """Ctrl-C reaches the whole group of processes, the other signal the parent alone: each run is told once."""
    long = {"training_steps": 3000, "eval_steps": 500}
    path = write(settings={}, variants={"short": {"training_steps": 2}, "long": long, "longer": long | {"H": 2}})
    command = [sys.executable, "-m", "utils.plan", "--plan", str(path), "--seeds", "1", "--jobs", "2", *tiny]
    folders = [tmp_path / "trained" / variant / "seed_1" for variant in ("long", "longer")]
    process = subprocess.Popen(
        command,
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    for folder in folders:
        metrics = folder / "metrics.jsonl"
        wait_for(lambda metrics=metrics: metrics.is_file() and '"step": 20,' in metrics.read_text(), process)
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "interrupted: the same command goes on" in said
    for folder in folders:
        assert (folder / "state").is_dir() and not (folder / "results.json").exists()
        assert "interrupted: stopped at step" in (folder / "log.txt").read_text()
    assert subprocess.run(command, cwd=REPO, capture_output=True, timeout=300).returncode == 0
    assert "resumed at step" in (folders[0] / "log.txt").read_text()
    words = json.loads((folders[0] / "results.json").read_text())["command"]
    alone = [*shlex.split(words)[2:], "--save_path", str(tmp_path / "alone")]
    assert train_router_mdeberta.main(alone) == 0 and same_weights(tmp_path / "alone", folders[0])
