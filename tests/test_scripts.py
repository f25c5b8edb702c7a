"""The shell scripts that a person runs, on made-up data and a tiny encoder: nothing is downloaded or installed."""

import json
import os
import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import REPO, arguments
from utils import plan
from utils.baselines.arguments import parse as parse_baselines
from utils.ceiling.arguments import parse as parse_ceiling
from utils.config import leaves, parse_config, recipes
from utils.tasks import DATASETS, LLMS, TASKS, task_of


@pytest.fixture
def bash(mirror, tmp_path):
    """Runs a script with these flags in the current environment; folders go in by environment variables."""

    def run(name, flags, **settings):
        environment = os.environ | {"ROUTERDC_NO_VENV": "1", "ROUTERDC_MIRROR": str(mirror)} | settings
        command = ["bash", str(REPO / "train_scripts" / name), *flags]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600, env=environment)

    return run


@pytest.fixture
def flags(fake, tiny_bert, tmp_path):
    """Settings of a short run of the tiny encoder on the made-up data, without the folder that a script sets."""
    values = arguments(fake, tiny_bert, tmp_path / "unused", last_k=3)
    place = values.index("--save_path")
    return values[:place] + values[place + 2 :]


def rows_of(text):
    return re.findall(r"^\| RouterDC \(this run\).*$", text, re.MULTILINE)


def test_quickstart_prints_the_tables_and_the_checkpoint_gives_them_again(bash, flags, script, tmp_path):
    folder = tmp_path / "quick" / "seed_1"
    run = bash("quickstart.sh", flags, SAVE_PATH=str(folder.parent))
    assert run.returncode == 0, run.stderr
    rows = rows_of(run.stdout)
    assert len(rows) == 4 and rows[:2] == rows[2:]
    assert json.loads((folder / "results.json").read_text())["settings"]["seed"] == 1
    again = script("train_router_mdeberta.py", "--recipe", "tuned", "--seed", "1", "--save_path", folder, *flags)
    assert again.returncode == 0 and "already done" in again.stdout and rows_of(again.stdout) == rows[:2]


@pytest.mark.parametrize(("recipe", "seeds"), [("frozen", ["1", "2"]), ("tuned-layers", ["3"])])
def test_a_minilm_recipe_runs(bash, flags, tmp_path, recipe, seeds):
    own = ["--recipe", recipe, "--label", f"{recipe}-tiny", "--seeds", *seeds, "--runs", str(tmp_path / "runs")]
    run = bash("router_train_minilm.sh", [*own, "--name", "here", *flags], RESULTS=str(tmp_path / "results"))
    assert run.returncode == 0, run.stderr
    folders = [tmp_path / "runs" / "here" / f"seed_{seed}" for seed in seeds]
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert [str(result["settings"]["seed"]) for result in results] == seeds
    assert all(result["recipe"] == f"{recipe}-tiny" for result in results)
    trained = {"frozen": (True, None), "tuned-layers": (False, 2)}
    settings = results[0]["settings"]
    assert (settings["freeze_encoder"], settings["train_layers"]) == trained[recipe]
    assert f"left out: {len(seeds)} runs" in run.stderr  # the report saw them: they are not of the paper's data


def test_an_unknown_recipe_is_refused(bash):
    run = bash("router_train_minilm.sh", ["--recipe", "best"])
    assert run.returncode == 2 and "best.yaml: no such recipe" in run.stderr and "tuned" in run.stderr


# What the scripts would run, without running it

STUB = """#!/usr/bin/env bash
printf '%q ' "$@" >> {record}
echo >> {record}
"""
LOOKAHEAD = "router_train_lookahead.sh"  # reads files that an importer made, which no manifest lists: a test of its own
TRAIN_NOTHING = {"env.sh", "figures.sh", "ceiling.sh"}
SCRIPTS = sorted({path.name for path in (REPO / "train_scripts").glob("*.sh")} - TRAIN_NOTHING - {LOOKAHEAD})
LOSSES = ("routerdc", "cosine_classifier", "zooter")
LABELS = {"save_path", "label", "seed"}  # what differs between any two runs
LEARNING = {"top_k", "last_k", "negative_below", "temperature", "llm_learning_rate", "training_samples_per_dataset"}
LEARNING |= {"targets", "validation_fraction", "selection", "missing_clusters"}
AVERAGED = LEARNING | {"target_shrinkage"}
DENOISED = LEARNING | {"target_pooling"}
CHANGED = {  # what the recipes set otherwise than the paper, as their files say
    "paper": {"dropout"},
    "layers": {"train_layers", "learning_rate", "llm_learning_rate", "training_steps"},
    "frozen": {"freeze_encoder", "learning_rate"},
    "tuned": AVERAGED | {"freeze_encoder", "learning_rate"},
    "tuned-layers": AVERAGED | {"train_layers", "learning_rate", "training_steps", "dropout"},
    "tuned-all": AVERAGED | {"training_steps", "dropout"},
    "denoised": DENOISED | {"freeze_encoder", "learning_rate"},
    "denoised-layers": DENOISED | {"train_layers", "learning_rate", "training_steps", "dropout"},
}
OTHER_RECIPES = {"mdeberta", "miniature", "routerbench", "routerbench_tuned"}  # not for router_train_minilm.sh


@pytest.fixture
def commands(tmp_path):
    """Runs a script with a `python` that only notes what it is asked for.

    commands("fidelity.sh", "--seeds", "1") -> the arguments of each call of `python`.
    """

    def commands(name, *flags, **settings) -> list[list[str]]:
        record = tmp_path / "record"
        record.write_text("")
        (tmp_path / "bin").mkdir(exist_ok=True)
        python = tmp_path / "bin" / "python"
        python.write_text(STUB.format(record=shlex.quote(str(record))))
        python.chmod(0o755)
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, "ROUTERDC_NO_VENV": "1"} | settings
        command = ["bash", str(REPO / "train_scripts" / name), *flags]
        run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment)
        assert run.returncode == 0, run.stderr
        return [shlex.split(line) for line in record.read_text().splitlines()]

    return commands


def flat(arguments_class) -> SimpleNamespace:
    """Parsed arguments without their parts: .top_k, .data_paths, .label."""
    return SimpleNamespace(**dict(leaves(arguments_class)))


def parsed(words) -> SimpleNamespace:
    """The settings of a run of the trainer, which ends the test if it refuses them."""
    return flat(parse_config(words))


@pytest.fixture
def planned(commands, monkeypatch):
    """The training runs of a script, those of its plans among them, as the trainer reads their arguments."""
    monkeypatch.chdir(REPO)

    def planned(name, *flags, **settings):
        runs = []
        for command in commands(name, *flags, **settings):
            if command[0] == "train_router_mdeberta.py":
                runs.append(parsed(command[1:]))
            elif command[:2] == ["-m", "utils.plan"]:
                args, extra = plan.parser().parse_known_args(command[2:])
                runs += [parsed(run.arguments) for run in plan.planned(args, extra)[1]]
        assert runs
        return runs

    return planned


def changed(run, other) -> set[str]:
    """The settings in which two runs differ; a plan gives each run one thread."""
    return {name for name, value in vars(run).items() if value != getattr(other, name)} - LABELS - {"threads"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_trains_with_what_the_trainer_accepts(planned, name):
    known = {f"datasets/{path}" for path in json.loads((REPO / "datasets" / "manifest.json").read_text())["files"]}
    seeds = () if name == "quickstart.sh" else ("--seeds", "1", "2")
    runs = planned(name, *seeds, RECIPES="frozen tuned tuned-layers")  # a variable of baselines.sh
    assert len({run.save_path for run in runs}) == len(runs)  # none is taken for another
    for run in runs:
        assert run.selection == "last" or run.validation_fraction > 0  # or there is nothing to choose by
        if " N=" in run.label:  # its plan makes the training files
            assert all("/clusters/N=" in path for path in run.data_paths)
        else:
            assert {*run.data_paths} <= known
        assert {*run.test_data_paths, *run.final_eval_data_paths} <= known
        assert max(run.top_k, run.last_k or 0) <= len(LLMS) and not run.overwrite


def test_the_main_script_has_the_settings_of_the_paper(planned):
    runs = planned("router_train.sh")
    expected = {
        "encoder": "microsoft/mdeberta-v3-base",
        "freeze_encoder": False,
        "train_layers": None,
        "loss": "routerdc",
        "batch_size": 64,
        "training_steps": 1000,
        "eval_steps": 50,
        "learning_rate": 5e-5,
        "llm_learning_rate": None,
        "weight_decay": 0.01,
        "top_k": 3,
        "last_k": 3,
        "H": 3,
        "temperature": 1.0,
        "cluster_loss_weight": 1.0,
        "sample_loss_weight": 0.0,
        "similarity_function": "cos",
        "targets": "score",
        "target_shrinkage": 0.0,
        "fidelity": "paper",
        "dropout": None,  # the encoder's own
    }
    for run in runs:
        assert {name: getattr(run, name) for name in expected} == expected
        assert run.label == "paper" and changed(run, parsed([])) == {"device"}
    assert [run.seed for run in runs] == [1, 2, 3, 4, 5]


def test_the_recipes_differ_from_the_paper_where_they_say(planned):
    assert {*recipes()} == {*CHANGED} | OTHER_RECIPES
    runs = {}
    for recipe in CHANGED:
        run, second = planned("router_train_minilm.sh", "--recipe", recipe, "--seeds", "4", "7")
        assert (run.seed, second.seed, run.label) == (4, 7, recipe) and not changed(run, second)
        assert run.encoder == "minilm" and changed(run, parsed(["--encoder", "minilm"])) == CHANGED[recipe]
        runs[recipe] = run
    trained = {
        recipe: (run.freeze_encoder, run.train_layers, run.training_steps, run.dropout) for recipe, run in runs.items()
    }
    assert trained == {
        "paper": (False, None, 1000, 0.0),
        "layers": (False, 2, 100, None),
        "frozen": (True, None, 1000, None),
        "tuned": (True, None, 1000, None),
        "tuned-layers": (False, 2, 200, 0.0),
        "tuned-all": (False, None, 200, 0.0),
        "denoised": (True, None, 1000, None),
        "denoised-layers": (False, 2, 200, 0.0),
    }
    for name in ("", "-layers"):  # what differs is how the targets are pooled
        assert changed(runs[f"tuned{name}"], runs[f"denoised{name}"]) == {"target_shrinkage", "target_pooling"}
    tuned = runs["tuned"]
    for recipe in ("tuned-layers", "tuned-all"):  # the same targets
        assert not changed(runs[recipe], tuned) & AVERAGED
    assert (tuned.targets, tuned.target_shrinkage, tuned.target_groups) == ("gain", 1.0, "task")
    assert tuned.validation_fraction == 0.0 and tuned.last_k is None


def test_further_flags_reach_the_trainer(planned):
    for name in ("router_train.sh", "router_train_minilm.sh"):
        own = ["--seeds", "2", "--label", "mine", "--runs", "elsewhere", "--name", "here"]
        others = [
            "--H",
            "5",
            "--encoder",
            "some/encoder",
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--fidelity",
            "1,3",
        ]
        (run,) = planned(name, *own, *others)
        assert (run.seed, run.H, run.encoder, run.fidelity) == (2, 5, "some/encoder", "1,3")
        assert (run.device, run.precision, run.label) == ("cpu", "fp32", "mine")
        assert run.save_path == "elsewhere/here/seed_2"
        (named,) = planned(name, "--seeds", "2", "--label", "mine", *others)  # a folder of its own without a name
        assert named.save_path == "runs/encoder_mine/1,3/seed_2"


def test_the_search_reads_validation_rows_alone_and_has_its_winners_in_the_recipes(planned):
    tests = {task.test for task in TASKS}
    assert not re.search("test_data|final_eval_data", (REPO / "train_scripts/plans/search.yaml").read_text())
    runs = planned("search_minilm.sh", "--seeds", "1", "2", "3")
    for run in runs:
        assert not run.final_eval and run.validation_fraction == 0.2 and run.selection == "last"
        assert not tests & {*run.data_paths}
    seeds = {name: [run.seed for run in runs if run.label == name] for name in {run.label for run in runs}}
    assert len(seeds) == 34 and all(found == [1, 2, 3] for found in seeds.values())
    candidates = {run.label: run for run in runs if run.seed == 2}
    assert all(changed(one, two) for one in candidates.values() for two in candidates.values() if one is not two)
    winners = {
        "tuned": "task_mean_1_head_3e-4",
        "tuned-layers": "task_mean_1_layers_2",
        "denoised": "pooled_alike_head_3e-4",
    }
    differ = {"final_eval", "validation_fraction", "eval_steps", "missing_clusters", "last_k"}
    for recipe, winner in winners.items():
        (chosen,) = planned("router_train_minilm.sh", "--recipe", recipe, "--seeds", "2")
        assert changed(chosen, candidates[winner]) == differ
        assert (chosen.last_k, candidates[winner].last_k) == (None, len(LLMS) - 1)  # the same, in two words


def test_the_papers_settings_differ_in_one_thing_on_the_same_seeds(commands, planned):
    runs = planned("paper_settings.sh", RUNS="unused", LABEL="unused")
    by = {(run.label, run.loss, run.fidelity, run.seed): run for run in runs}
    assert len(by) == len(runs)
    expected = {  # seeds, and what is changed
        ("paper-lambda0", "routerdc", "paper"): (3, {"cluster_loss_weight"}),
        ("paper", "cosine_classifier", "paper"): (2, {"loss", "cluster_loss_weight"}),  # that loss has no such part
        ("paper", "zooter", "paper"): (2, {"loss", "cluster_loss_weight"}),
        ("paper", "routerdc", "upstream"): (3, {"fidelity"}),
        ("paper-dropout", "routerdc", "paper"): (2, {"dropout"}),
    }
    paper = {seed: by.pop(("paper", "routerdc", "paper", seed)) for seed in range(1, 6)}
    for key, (seeds, names) in expected.items():
        for seed in range(1, seeds + 1):
            assert changed(by.pop((*key, seed)), paper[seed]) == names
    assert {*by} == {("tuned-all", "routerdc", "paper", seed) for seed in (1, 2, 3)}
    plain = planned("router_train_minilm.sh", "--recipe", "paper")
    assert [run.save_path for run in plain] == [paper[run.seed].save_path for run in plain]  # trained once
    assert not any(changed(run, paper[run.seed]) for run in plain)
    (tuned, *_) = planned("router_train_minilm.sh", "--recipe", "tuned-all")
    assert not changed(by["tuned-all", "routerdc", "paper", 1], tuned)
    last = commands("paper_settings.sh")[-1]  # the report is of all runs of the plan
    assert last[:2] == ["-m", "utils.plan"] and last[last.index("--collect") + 1] == "results"


def test_the_fidelity_runs_differ_in_one_thing_on_the_same_seeds(commands, planned):
    runs = planned("fidelity.sh", RUNS="unused", LABEL="unused")
    by = {(run.label, run.fidelity, run.seed): run for run in runs}
    assert len(by) == len(runs)
    seeds = (1, 2, 3, 4, 5)
    expected = {"frozen": ["paper", "upstream", "1", "3", "7"], "frozen-lambda0": ["paper"], "tuned-lambda0": ["paper"]}
    wanted = {(label, fidelity, seed) for label, rows in expected.items() for fidelity in rows for seed in seeds}
    wanted |= {("layers", fidelity, seed) for fidelity in ("paper", "2") for seed in (1, 2, 3)}
    assert {*by} == wanted
    for label, fidelity, seed in by:
        if fidelity != "paper":
            assert changed(by[label, fidelity, seed], by[label, "paper", seed]) == {"fidelity"}
    for recipe in ("frozen", "tuned"):
        for run in planned("router_train_minilm.sh", "--recipe", recipe):
            other = by[f"{recipe}-lambda0", "paper", run.seed]
            assert changed(other, run) == {"cluster_loss_weight"} and other.cluster_loss_weight == 0
            assert recipe == "tuned" or run.save_path == by[recipe, "paper", run.seed].save_path  # trained once
    last = commands("fidelity.sh")[-1]
    assert last[:2] == ["-m", "utils.plan"] and last[last.index("--collect") + 1] == "results"


def test_the_baselines_and_routerdc_learn_from_the_same_targets(commands, planned):
    flags, settings = ("--seeds", "1", "2"), {"RECIPES": "frozen tuned tuned-layers"}
    runs = planned("baselines.sh", *flags, **settings)
    losses = Counter((run.label, run.loss) for run in runs)
    assert losses == {(recipe, loss): 2 for recipe in ("frozen", "tuned", "tuned-layers") for loss in LOSSES}
    routerdc = {(run.label, run.seed): run for run in runs if run.loss == "routerdc"}
    for run in runs:
        ours = routerdc[run.label, run.seed]
        assert changed(run, ours) == ({"loss", "cluster_loss_weight"} if run is not ours else set())
    calls = [call[2:] for call in commands("baselines.sh", *flags, **settings) if call[:2] == ["-m", "utils.baselines"]]
    others = [flat(parse_baselines(call)) for call in calls]
    recipes_of_others = ["frozen", "frozen", "tuned", "tuned", "tuned-layers", "frozen"]  # the last, of the controls
    assert [other.label for other in others] == recipes_of_others
    assert {*others[5].routers} == {"random", "best_single", "best_per_task", "oracle"}
    assert all(other.seeds == (1, 2) for other in others)
    for other in (others[1], others[3], others[4]):  # on the embeddings of the same recipe's RouterDC, with its split
        assert other.routers == ("lora_retriever",)
        for seed in other.seeds:
            ours = routerdc[other.label, seed]
            assert other.encoder_ckpt.replace("{seed}", str(seed)) == ours.save_path
            for name in ("targets", "target_shrinkage", "validation_fraction", "data_paths", "test_data_paths"):
                assert getattr(other, name) == getattr(ours, name), name
    same = ("targets", "target_shrinkage", "training_samples_per_dataset", "encoder")
    files = ("data_paths", "test_data_paths", "final_eval_data_paths")
    for other in (others[0], others[2]):
        for name in (*same, *files):
            assert getattr(other, name) == getattr(routerdc[other.label, 1], name), name


def test_routerbench_trains_every_cost_rate_with_every_seed(planned):
    runs = planned("router_train_routerbench.sh", "--seeds", "1", "2", COST_RATES="0 30")
    assert [(run.cost_rate, run.seed) for run in runs] == [(0, 1), (0, 2), (30, 1), (30, 2)]
    train, test = (DATASETS["routerbench"][name] for name in ("data_paths", "test_data_paths"))
    for run in runs:
        assert (run.top_k, run.last_k, run.max_characters, run.freeze_encoder) == (4, 4, 1400, True)
        assert {*run.data_paths} <= {*train} and {*run.test_data_paths} <= {*test}
        assert run.final_eval_data_paths == ()
    assert not changed(runs[0], runs[1]) and changed(runs[0], runs[2]) == {"cost_rate"}


def test_routerbench_recipes_have_pages_of_their_own(planned, commands):
    tuned, first = ["--recipe", "routerbench_tuned"], ["--keep_characters", "first"]
    variants = {
        "routerbench": [],
        "routerbench_tuned": tuned,
        "routerbench_first": first,
        "routerbench_tuned_first": [*first, *tuned],
    }
    runs = {}
    for label, flags in variants.items():
        (run,) = planned("router_train_routerbench.sh", "--seeds", "1", *flags, COST_RATES="0")
        last = commands("router_train_routerbench.sh", *flags)[-1]
        folder = "results" if label == "routerbench" else f"results/{label}"
        assert run.label == label and last[last.index("--output") + 1] == folder
        runs[label] = run
    plain, tuned, first, both = runs.values()
    assert changed(tuned, plain) == {"top_k", "last_k", "negative_below", "temperature", "target_shrinkage"}
    assert changed(first, plain) == changed(both, tuned) == {"keep_characters"}
    assert len({Path(run.save_path).parts[1] for run in runs.values()}) == 4


@pytest.mark.parametrize("flags", [["--recipe", "frozen"], ["--recipe"], ["--keep_characters", "middle"]])
def test_routerbench_refuses_what_it_has_not(bash, flags):
    run = bash("router_train_routerbench.sh", flags)
    assert run.returncode == 2 and run.stderr.startswith(f"error: {flags[0]} is '{''.join(flags[1:])}'; it must be")


IMPORTED = ("math", "gsm8k", "humaneval", "mbpp")  # the tasks of Lookahead Routing
NOWHERE = "nowhere/lookahead"  # for its RUNS: what is there already would be left out
DATA_FLAGS = {f"{name}_{what}" for name in ("data", "test_data", "final_eval_data") for what in ("paths", "type")}


def tasks_of(paths) -> list[str]:
    return [task_of(path) for path in paths]


def test_lookahead_trains_all_tasks_three_of_them_and_math_alone(planned):
    runs = planned(LOOKAHEAD, "--seeds", "1", "2", RUNS=NOWHERE, RESULTS=NOWHERE)
    assert len({run.save_path for run in runs}) == len(runs)
    folders = Counter(tuple(Path(run.save_path).parts[2:-2]) for run in runs)
    expected = {("routers", recipe): 6 for recipe in ("frozen", "tuned")} | {("math", "frozen"): 6}
    for task in IMPORTED:
        expected |= {("leave_one_out", task, recipe): 2 for recipe in ("frozen", "tuned")}
    assert folders == expected
    plain = {}
    for recipe in ("frozen", "tuned"):
        (plain[recipe],) = planned("router_train_minilm.sh", "--recipe", recipe, "--seeds", "1")
    for run in runs:
        assert run.selection == "last" or run.validation_fraction > 0
        assert all(path.endswith("_train.json") for path in run.data_paths) and run.final_eval_data_paths == ()
        assert all(path.endswith("_test.json") for path in run.test_data_paths)
        assert run.data_type == ("multi_attempt",) * len(run.data_paths)
        assert run.test_data_type == ("multi_attempt",) * len(run.test_data_paths)
        trained, tested = tasks_of(run.data_paths), tasks_of(run.test_data_paths)
        step, left = Path(run.save_path).parts[2:4]
        alone = {"training_samples_per_dataset"} if step == "math" else set()
        if step == "leave_one_out":
            assert {*trained} == {*IMPORTED} - {left} and tested == [left] and run.loss == "routerdc"
            assert all(f"without_{left}/" in path for path in run.data_paths)
        else:
            assert trained == tested == ([*IMPORTED] if step == "routers" else ["math"])
        assert changed(run, plain[run.label]) - DATA_FLAGS - alone - {"loss", "cluster_loss_weight"} == set()
        assert run.label == "frozen" or (run.top_k, run.last_k) == (1, None)  # one against all others


def test_lookahead_gives_baselines_and_voting_the_files_of_routerdc(commands, planned):
    flags, settings = ("--seeds", "3"), {"RUNS": NOWHERE, "RESULTS": f"{NOWHERE}/results"}
    trained = {Path(run.save_path).parent.parent: run for run in planned(LOOKAHEAD, *flags, **settings)}
    calls = commands(LOOKAHEAD, *flags, **settings)
    fitting = [flat(parse_baselines(call[2:])) for call in calls if call[:2] == ["-m", "utils.baselines"]]
    voting = [args for args in fitting if args.routers == ("voting",)]
    controls = [args for args in fitting if Path(args.save_path).name == "controls"]
    fitted = [args for args in fitting if Path(args.save_path) in trained]
    assert len(voting) == 1 and tasks_of(voting[0].test_data_paths) == ["math", "gsm8k"] and voting[0].answers
    assert len(fitted) == 2 + 8 + 1 and len(fitted) + len(controls) + 1 == len(fitting)
    names = ["data_paths", "test_data_paths", "targets", "target_shrinkage", "training_samples_per_dataset", "encoder"]
    for args in fitted:
        ours = trained[Path(args.save_path)]
        assert {name: getattr(args, name) for name in names} == {name: getattr(ours, name) for name in names}
        assert args.seeds == (ours.seed,) == (3,) and args.label == ours.label
    for args in controls:
        ours = trained[Path(args.save_path).parent / "frozen"]
        assert args.test_data_paths == ours.test_data_paths and args.data_paths == ours.data_paths
    clustered = {call[call.index("--output") + 1] for call in calls if call[:2] == ["-m", "utils.clustering"]}
    assert {str(Path(path).parent) for run in trained.values() for path in run.data_paths} == clustered
    (measured,) = [flat(parse_ceiling(call[2:])) for call in calls if call[:2] == ["-m", "utils.ceiling"]]
    assert sorted(measured.test_data_paths) == sorted(trained[Path(f"{NOWHERE}/routers/frozen")].test_data_paths)
    pages = [call[2:4] for call in calls if call[:2] == ["-m", "utils.report.lookahead"]]
    assert pages == [["within", f"{NOWHERE}/routers"], ["leave_one_out", f"{NOWHERE}/leave_one_out"]]


STRAY = {"H": "9", "TRAINING_STEPS": "1", "TOP_K": "1", "LEARNING_RATE": "1", "RECIPE": "paper", "LABEL": "x"}
STRAY |= {"SEEDS": "9", "FIDELITY": "upstream", "KEEP_CHARACTERS": "first", "DEVICE": "cuda", "PRECISION": "fp32"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_stray_variable_changes_no_run(planned, name):
    seeds = () if name == "quickstart.sh" else ("--seeds", "1")
    assert planned(name, *seeds, **STRAY) == planned(name, *seeds)


PLANS = {"ablations.sh", "fidelity.sh", "paper_settings.sh", "search_minilm.sh"}


@pytest.mark.parametrize("name", [*SCRIPTS, LOOKAHEAD, "ceiling.sh"])
def test_a_folder_with_a_space_is_one_word(commands, name):
    """The commands are those for the same folders with a dash in place of the space."""
    folders = {name: f"a {name.lower()} folder" for name in ("RUNS", "RESULTS", "SAVE_PATH", "DATA", "ANSWERS")}
    dashes = {name: folder.replace(" ", "-") for name, folder in folders.items()}

    def with_dashes(word):
        for name, folder in folders.items():
            word = word.replace(folder, dashes[name])
        return word

    assert [[with_dashes(word) for word in call] for call in commands(name, **folders)] == commands(name, **dashes)


@pytest.mark.parametrize("name", sorted({name for name in SCRIPTS if name.startswith("router_train")} | PLANS))
def test_a_dry_run_downloads_and_reports_nothing(commands, name):
    calls = commands(name, "--dry_run")
    assert calls and all(call[:2] == ["-m", "utils.plan"] and "--dry_run" in call for call in calls)


def test_nproc_and_accelerate_config_start_several_processes(commands):
    """NPROC and ACCELERATE_CONFIG are flags of utils.plan, which test_plan.py tests."""
    (call,) = commands("router_train.sh", "--dry_run", NPROC="4", ACCELERATE_CONFIG="my file.yaml")
    assert call[call.index("--processes") :][:4] == ["--processes", "4", "--accelerate_config", "my file.yaml"]
    (call,) = commands("router_train.sh", "--dry_run")
    assert call[call.index("--processes") + 1] == "1" and "--accelerate_config" not in call


def test_lookahead_with_other_settings_leaves_its_results_alone(bash):
    run = bash(LOOKAHEAD, ["--max_length", "9"])
    assert run.returncode == 2 and "with other settings (--max_length 9)" in run.stderr and "RESULTS" in run.stderr
    run = bash(LOOKAHEAD, [], STEPS="all")
    assert run.returncode == 2 and "STEPS has 'all'" in run.stderr


@pytest.mark.parametrize("name", ["router_train.sh", "router_train_minilm.sh", "fidelity.sh", "paper_settings.sh"])
def test_other_settings_do_not_go_into_the_results_under_the_old_name(bash, name):
    run = bash(name, ["--top_k", "2", "--seeds", "1"])
    assert run.returncode == 2 and re.search(r"error: with other settings \(.*--top_k 2\)", run.stderr)
    assert "--collect" in run.stderr and ("--label" in run.stderr) == name.startswith("router_train")


@pytest.mark.parametrize("flags", [["--top_k", "1"], ["--seeds", "1", "--top_k", "1"]])
def test_baselines_with_other_settings_need_folders_of_their_own(bash, flags):
    run = bash("baselines.sh", flags)
    assert run.returncode == 2 and run.stderr.startswith("error: with other settings") and "RESULTS" in run.stderr


def test_quickstart_trains_the_tuned_recipe_once(commands, planned):
    (run,) = planned("quickstart.sh", SAVE_PATH="mine")
    (plain,) = planned("router_train_minilm.sh", "--seeds", "1")
    assert (run.label, run.seed, run.save_path) == ("tuned", 1, "mine/seed_1") and not changed(run, plain)
    calls = commands("quickstart.sh", SAVE_PATH="mine")
    evaluations = [call[:3] for call in calls if call[0] == "evaluation_router.py"]
    assert evaluations == [["evaluation_router.py", "--ckpt", "mine/seed_1"]] * 2
