"""The command `python -m utils.baselines` on made-up data, with embeddings of every kind of encoder."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import LLMS, REPO, arguments, make_rows, words_of
from safetensors.torch import load_file
from test_baseline_routers import made_up
from test_voting import with_answers
from transformers import AutoConfig, AutoModel, AutoTokenizer

import train_router_mdeberta as program
from utils.baselines import __main__ as command
from utils.baselines import embeddings as embeddings_module
from utils.baselines.arguments import parse
from utils.baselines.base import Rows, unit
from utils.baselines.embeddings import Embeddings
from utils.baselines.irt import IRT
from utils.baselines.problem import Problem
from utils.baselines.trained_encoder import clustered
from utils.checkpoint_files import content_hash, write_config
from utils.data import DataError, gains, load, load_tests
from utils.denoise import pool_targets
from utils.experiment import choose_hardware
from utils.metrics import accuracy
from utils.training_set import split_validation


@pytest.fixture
def line(fake, tiny_bert, tmp_path):
    """A command line on the made-up data: line("folder", "--routers", ...)."""

    def line(name, *more) -> list[str]:
        settings = {
            "encoder": tiny_bert,
            "pooling": "mean",
            "max_length": 64,
            "device": "cpu",
            "precision": "fp32",
            "cache_dir": tmp_path / "cache",
            "save_path": tmp_path / name,
            "validation_fraction": 0.2,
        }
        return [*fake.arguments(), *words_of(settings), *map(str, more)]

    return line


@pytest.fixture
def run(line, capsys):
    """Runs the command in this process; returns what it prints."""

    def run(name, *more) -> str:
        status = command.main(line(name, *more))
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    return run


@pytest.fixture
def fails(line, capsys):
    """Runs the command in this process, which must end with status 2; returns its error."""

    def fails(*more) -> str:
        assert command.main(line("failed", *more)) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        message = next(text for text in err.splitlines() if text.startswith("error: "))
        return message.removeprefix("error: ")

    return fails


def results(folder) -> dict[tuple[str, int], dict]:
    """What is in each results.json below a folder, by router and seed."""
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("results.json"))]
    return {(result["router"], result["settings"]["seed"]): result for result in found}


def picks_in(folder) -> dict[str, list[int]]:
    """The picks of a run by task."""
    return json.loads((folder / "picks.json").read_text())


ROUTERS = ("kNN", "Ridge", "MLP", "MatrixFactorization", "KMeans", "LoraRetriever", "IRT", "TaskClassifier")


def check_accuracies(fake, folder, test: dict) -> None:
    """The accuracies of a run are what its picks earn in the files, by plain loops."""
    picks = picks_in(folder)
    for task, path in fake.test.items():
        rows = json.loads(path.read_text(encoding="utf-8"))
        earned = [row["scores"][test["llms"][pick]] for row, pick in zip(rows, picks[task], strict=True)]
        if task == "arc_challenge":
            earned = [float(value > 0) for value in earned]
        assert test["tasks"][task] == pytest.approx(100 * sum(earned) / len(earned), abs=1e-4)
    assert test["ood_avg"] == pytest.approx(test["tasks"]["mbpp"])


OF_A_TRAINED_ROUTER = {"calibration", "best_llm"}  # in results.json, for its use


def test_all_routers_and_controls_by_one_command(run, fake, trained, tmp_path):
    printed = run("runs", "--seeds", 1, 2)
    found = results(tmp_path / "runs")
    drawn_once = {(name, 1) for name in ("BestSingle", "BestPerTask", "Oracle")}
    assert set(found) == {(name, seed) for name in [*ROUTERS, "Random"] for seed in (1, 2)} | drawn_once
    assert "Table 1" in printed and "Table 2" in printed
    for (name, seed), result in found.items():
        is_router = name in ROUTERS
        assert f"| {name}, {'frozen' if is_router else 'control'} " in printed
        assert result.keys() == trained.results.keys() - OF_A_TRAINED_ROUTER
        assert set(result["test"]) >= set(trained.results["test"]) - {"dataset"}
        assert result["selection"]["rule"] == ("best" if is_router else "none")
        assert (result["settings"]["encoder"] == "none") != is_router
        folder = tmp_path / "runs" / name / f"seed_{seed}"
        check_accuracies(fake, folder, result["test"])
        assert f"{name} (this run)" in (folder / "tables.md").read_text()

    average = {}
    for name in [*ROUTERS, "Random", "BestSingle", "BestPerTask", "Oracle"]:
        average[name] = np.mean([result["test"]["id_avg"] for key, result in found.items() if key[0] == name])
    oracle = trained.results["test"]["references"]["per-query oracle"]
    assert average["Oracle"] == pytest.approx(np.mean([oracle["gsm8k"], oracle["arc_challenge"]]))
    assert max(average["Random"], average["BestPerTask"]) + 20 < average["Oracle"]
    # Topics can be read off the words, across tasks, and the clusters of LoraRetriever are the topics.
    assert min(average["Ridge"], average["MLP"]) > average["BestSingle"] + 15
    assert average["LoraRetriever"] > average["BestSingle"] + 10


def test_finished_runs_are_skipped_and_others_made_again_to_the_digit(run, tmp_path, monkeypatch):
    routers = ("--routers", "kmeans", "irt", "random", "--seeds", 1, 2)
    run("runs", *routers)
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted((tmp_path / "runs").rglob("*.json"))}
    assert len(files) == 12
    shutil.rmtree(tmp_path / "runs" / "KMeans" / "seed_2")
    (tmp_path / "runs" / "IRT" / "seed_1" / "results.json").unlink()  # stopped before its last file
    printed = run("runs", *routers)
    assert "4 of 6 runs are already done" in printed
    for path, (content, time) in files.items():
        again = "KMeans/seed_2" in str(path) or "IRT/seed_1" in str(path)
        assert (path.stat().st_mtime_ns == time) != again, path
        if path.name == "picks.json":
            assert path.read_bytes() == content, path

    def forbidden(*args, **kwargs):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr(embeddings_module, "load_encoder", forbidden)
    assert run("runs", *routers).split("Table 1")[1] == printed.split("Table 1")[1]


def test_a_process_of_its_own_makes_the_same_picks(run, line, tmp_path):
    routers = ("--routers", "kmeans", "irt")
    run("runs", *routers)
    process = subprocess.run(
        [sys.executable, "-m", "utils.baselines", *line("other", *routers)],
        capture_output=True,
        text=True,
        cwd=REPO,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    for name in ("KMeans", "IRT"):
        picks = [(tmp_path / folder / name / "seed_1" / "picks.json").read_bytes() for folder in ("runs", "other")]
        assert picks[0] == picks[1]


def test_other_settings_in_the_same_folder_are_refused(run, fails):
    run("failed", "--routers", "ridge")
    text = fails("--routers", "ridge", "--targets", "score")
    assert "Ridge" in text and "targets: 'gain' there, 'score' now" in text and "Choose another --save_path" in text


def test_damaged_results_are_named(fails, tmp_path):
    path = tmp_path / "failed" / "Ridge" / "seed_1" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"settings": ')
    text = fails("--routers", "ridge")
    assert text.startswith(f"{path}: damaged, ") and text.endswith("; remove that folder to run it again")


def test_a_run_from_before_an_argument_is_still_finished(run, fails, tmp_path):
    run("failed", "--routers", "ridge")
    path = tmp_path / "failed" / "Ridge" / "seed_1" / "results.json"
    old = json.loads(path.read_text())
    for name in ("keep_characters", "encoder_ckpt", "target_groups"):
        del old["settings"][name]
    path.write_text(json.dumps(old))
    assert "1 of 1 runs are already done" in run("failed", "--routers", "ridge")
    assert "keep_characters: 'last' there, 'first' now" in fails("--routers", "ridge", "--keep_characters", "first")


def test_an_interrupted_command_goes_on(run, line, tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(IRT, "fit", stop)
        assert command.main(line("runs", "--routers", "ridge", "irt")) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert set(results(tmp_path / "runs")) == {("Ridge", 1)}
    run("runs", "--routers", "ridge", "irt")
    assert set(results(tmp_path / "runs")) == {("Ridge", 1), ("IRT", 1)}


def test_no_router_reads_the_test_scores(run, fake, tmp_path):
    """With the scores of all test files turned round, every pick stays, and only the oracle's change."""
    turned = {}
    for task, path in fake.test.items():
        rows = json.loads(path.read_text(encoding="utf-8"))
        for row in rows:
            row["scores"] = {llm: 1 - score for llm, score in row["scores"].items()}
        turned[task] = tmp_path / path.name
        turned[task].write_text(json.dumps(rows), encoding="utf-8")
    other = ["--test_data_paths", turned["gsm8k"], turned["arc_challenge"], "--final_eval_data_paths", turned["mbpp"]]
    run("before")
    run("after", *other)
    for path in sorted((tmp_path / "before").rglob("picks.json")):
        same = path.read_bytes() == (tmp_path / "after" / path.relative_to(tmp_path / "before")).read_bytes()
        assert same == ("Oracle" not in str(path)), path


def numbered(problem: Problem) -> list[np.ndarray]:
    """In place of embeddings each row's number in its file, to follow it."""
    return [np.arange(len(data), dtype=np.float32)[:, None] for data in problem.files]


@pytest.mark.parametrize(
    ("flags", "count", "shrunk"),
    [
        ([], 1000, False),
        (["--training_samples_per_dataset", "20"], 20, False),
        (["--targets", "score", "--target_shrinkage", "0.5"], 1000, True),
    ],
)
def test_rows_and_targets_are_those_of_training(fake, line, flags, count, shrunk):
    """The validation split, the first rows, right or wrong, and means over a task, from the files by other code."""
    problem = Problem(parse(line("x", *flags)))
    rows, validation = problem.rows(numbered(problem), 3, everything=False)
    numbers, tasks, targets = [], [], []
    for data, (x, held) in zip(problem.files, validation, strict=True):
        train, rest = split_validation(data, 0.2, 3)
        assert x[:, 0].tolist() == rest.tolist()
        assert held.questions == [data.questions[number] for number in rest]
        if shrunk:
            y = 0.5 * data.scores[train] + 0.5 * data.scores[train].mean(axis=0)
        else:
            y = gains(data.scores, data.kind)[train]
        numbers += train[:count].tolist()
        tasks += [data.task] * len(train[:count])
        targets.append(y[:count])
    assert rows.x[:, 0].tolist() == numbers and rows.tasks.tolist() == tasks
    assert rows.y == pytest.approx(np.concatenate(targets), abs=1e-6)
    everything, _ = problem.rows(numbered(problem), 3, everything=True)
    assert len(everything.x) == sum(min(count, len(data)) for data in problem.files)


def test_targets_may_be_shrunk_to_clusters(fake, line, fails, tmp_path):
    problem = Problem(parse(line("x", "--target_shrinkage", 1, "--target_groups", "cluster")))
    rows, _ = problem.rows(numbered(problem), 3, everything=False)
    for data in problem.files:
        of_task = rows.tasks == data.task
        train, _ = split_validation(data, 0.2, 3)
        earned = gains(data.scores, data.kind)[train]
        for cluster in set(data.clusters.tolist()):
            expected = earned[data.clusters[train] == cluster].mean(axis=0)
            found = rows.y[of_task & (rows.clusters == cluster)]
            assert found == pytest.approx(np.tile(expected, (len(found), 1)), abs=1e-6)
    path = tmp_path / "gsm8k-train.json"
    path.write_text(json.dumps(make_rows(30, "multi_attempt", 1, clusters=False)))
    flags = ("--target_shrinkage", 1, "--target_groups", "cluster", "--data_paths", path)
    assert "'cluster_id' must be an integer" in fails(*flags)


def test_pooled_targets_are_those_of_the_training_rows(fake, line):
    """The same ones as of a training run, and none for the controls, which have no embeddings."""
    args = parse(line("x", "--target_pooling", "question", "--training_samples_per_dataset", 20))
    problem, rng = Problem(args), np.random.default_rng(0)
    embedded = [rng.normal(size=(len(data), 5)).astype(np.float32) for data in problem.files]
    found, _ = problem.rows(embedded, 3, False, args.training_set.target_pooling)
    expected = []
    for data, x in zip(problem.files, embedded):
        train, _ = split_validation(data, 0.2, 3)
        pooled, _ = pool_targets(data.rows(train), gains(data.scores, data.kind)[train], x[train], "question")
        expected.append(pooled[:20])
    np.testing.assert_array_equal(found.y, np.concatenate(expected))
    plain, _ = problem.rows(embedded, 3, False)
    assert not np.array_equal(found.y, plain.y)


def test_llms_that_are_absent_are_not_picked(run, fake, tmp_path):
    routers = ("--routers", "ridge", "random", "best_per_task")
    run("runs", *routers, "--test_data_paths", fake.fewer, "--final_eval_data_paths")
    for result in results(tmp_path / "runs").values():
        assert sorted(result["test"]["llms"]) == sorted([LLMS[1], LLMS[3]])
        assert set(result["test"]["shares"]["mmlu"]) == {LLMS[1], LLMS[3]}
    run("some", "--routers", "ridge", "--llms", LLMS[2], LLMS[0])
    assert results(tmp_path / "some")["Ridge", 1]["test"]["llms"] == [LLMS[2], LLMS[0]]


def test_test_files_are_those_of_training(fake, line, tmp_path):
    """As in train_router_mdeberta.py: with --llms, test files may differ in the LLMs that are not among them.

    Without, none may be unknown.
    """
    rows = make_rows(10, "probability", 3, LLMS[:3])
    for row in rows:
        row["scores"]["lab/other"] = 1
    (tmp_path / "mmlu_test.json").write_text(json.dumps(rows), encoding="utf-8")
    flags = ["--test_data_paths", str(fake.test["gsm8k"]), "--final_eval_data_paths", str(tmp_path / "mmlu_test.json")]
    some = parse([*line("x"), *flags, "--llms", LLMS[2], LLMS[0]])
    for found, expected in zip(Problem(some).tests, load_tests(some.data, (LLMS[2], LLMS[0])), strict=True):
        assert (found.path, found.llms) == (expected.path, expected.llms) and (found.scores == expected.scores).all()
    with pytest.raises(DataError, match="no training file has scores for lab/other"):
        Problem(parse([*line("x"), *flags]))
    with pytest.raises(DataError, match="its LLMs are lab/gamma-8b, those of .* lab/delta, lab/gamma-8b; all"):
        Problem(parse([*line("x"), *flags, "--llms", LLMS[3], LLMS[2]]))


def test_refit_uses_the_validation_rows_too(run, tmp_path):
    run("once", "--routers", "ridge")
    run("twice", "--routers", "ridge", "--refit")
    once, twice = (results(tmp_path / name)["Ridge", 1] for name in ("once", "twice"))
    assert once["selection"] == twice["selection"]
    assert picks_in(tmp_path / "once/Ridge/seed_1") != picks_in(tmp_path / "twice/Ridge/seed_1")


def test_voting_by_the_command(run, fails, tmp_path):
    text = fails("--routers", "voting")
    assert "--routers voting needs --answers DIR" in text and "cannot be computed" in text
    rows, sides = with_answers(make_rows(30, "multi_attempt", 6), 2)
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "gsm8k-test.json").write_text(json.dumps(sides))
    (tmp_path / "gsm8k-test.json").write_text(json.dumps(rows))
    data = ["--test_data_paths", tmp_path / "gsm8k-test.json", "--final_eval_data_paths"]
    data += ["--answers", tmp_path / "answers"]
    out = run("votes", "--routers", "voting", "oracle", *data)
    result = results(tmp_path / "votes")["Voting", 1]
    earned = json.loads((tmp_path / "votes/Voting/seed_1/gains.json").read_text())["gsm8k"]
    assert result["test"]["id_avg"] == pytest.approx(100 * sum(earned) / 30, abs=1e-3)
    assert "Voting, voting" in out


def test_answers_are_a_setting_of_voting_alone_and_new_ones_are_another_run(run, fails, tmp_path):
    rows, sides = with_answers(make_rows(30, "multi_attempt", 6), 2)
    answers, data = tmp_path / "answers" / "gsm8k-test.json", tmp_path / "gsm8k-test.json"
    answers.parent.mkdir()
    answers.write_text(json.dumps(sides))
    data.write_text(json.dumps(rows))
    flags = ["--test_data_paths", data, "--final_eval_data_paths"]
    run("failed", "--routers", "ridge", "oracle", *flags)
    flags += ["--answers", answers.parent]
    assert "2 of 3 runs are already done" in run("failed", "--routers", "ridge", "oracle", "voting", *flags)
    assert "1 of 1 runs are already done" in run("failed", "--routers", "voting", *flags)
    answers.write_text(json.dumps(sides) + "\n")
    text = fails("--routers", "voting", *flags)
    assert "Voting" in text and "data: " in text and "Choose another --save_path" in text
    answers.unlink()
    assert "voting needs the answers to every query" in fails("--routers", "voting", *flags)


# Embeddings of a trained router


@pytest.fixture(scope="module")
def routers_trained(fake, tiny_bert, tmp_path_factory):
    """Folders of short RouterDC runs by which layers of the encoder train: "none", "last" or "all". Seed 2."""
    common = {"pooling": "mean", "seed": 2, "validation_fraction": 0.2, "learning_rate": 1e-2}
    folder, runs = tmp_path_factory.mktemp("routers"), {}
    for layers, flags in (("none", {"freeze_encoder": True}), ("last", {"train_layers": 1}), ("all", {})):
        runs[layers] = folder / layers / "seed_2"
        assert program.main(arguments(fake, tiny_bert, runs[layers], **flags, **common)) == 0
    return runs


def plain_embeddings(run, questions: list[str]) -> np.ndarray:
    """E(x) of a checkpoint, one query at a time by transformers alone, scaled to length 1."""
    folder = run / "checkpoint"
    weights = load_file(folder / "model.safetensors")
    backbone = AutoModel.from_config(AutoConfig.from_pretrained(folder / "encoder")).eval()
    own = {name.removeprefix("encoder.backbone."): value for name, value in weights.items() if "backbone" in name}
    backbone.load_state_dict(own, strict=False)
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder", truncation_side="left")
    head = weights.get("head.weight", torch.eye(32))
    embedded = []
    for question in questions:
        tokens = tokenizer(question, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            x = head @ backbone(**tokens).last_hidden_state[0].mean(dim=0)
        embedded.append((x / x.norm()).numpy())
    return np.stack(embedded)


@pytest.mark.parametrize("layers", ["none", "last", "all"])
def test_embeddings_of_a_checkpoint_are_those_that_its_evaluation_computes(routers_trained, line, layers):
    run = routers_trained[layers]
    problem = Problem(parse(line("x", "--encoder_ckpt", run)))
    train, test = Embeddings(problem, choose_hardware("cpu", "fp32")).of(2)
    for files, found in ((problem.files, train), (problem.tests, test)):
        for data, x in zip(files, found, strict=True):
            assert x == pytest.approx(plain_embeddings(run, data.questions), abs=1e-5)
    llms = unit(load_file(run / "checkpoint" / "model.safetensors")["llm_embeddings.weight"].numpy())
    picks = picks_in(run)
    for data, x in zip(problem.tests, test):
        assert (x @ llms.T).argmax(axis=1).tolist() == picks[data.task]


def test_lora_retriever_routes_by_clusters_in_the_trained_space(routers_trained, run, line, tmp_path):
    ckpt = routers_trained["none"]
    run("runs", "--routers", "lora_retriever", "--seeds", 2, "--encoder_ckpt", ckpt)
    problem = Problem(parse(line("x", "--encoder", "given", "--routers", "oracle")))
    x, y = [], []
    for data in problem.files:
        train, _ = split_validation(data, 0.2, 2)
        x.append(plain_embeddings(ckpt, data.questions)[train])
        y.append(gains(data.scores, data.kind)[train])
    x, y = np.concatenate(x), np.concatenate(y)
    four_ids = np.arange(len(x)) % 4  # as many as the files have
    ids = clustered(Rows(x, y, np.full(len(x), "any"), four_ids), 2).clusters
    centres = unit(np.stack([x[ids == number].mean(axis=0) for number in range(4)]))
    best = [int(y[ids == number].mean(axis=0).argmax()) for number in range(4)]
    picks = picks_in(tmp_path / "runs" / "LoraRetriever_trained_encoder" / "seed_2")
    for data in problem.tests:
        nearest = (plain_embeddings(ckpt, data.questions) @ centres.T).argmax(axis=1)
        assert picks[data.task] == [best[number] for number in nearest]


def test_runs_with_a_trained_encoder_are_named_by_its_content(routers_trained, run, tmp_path):
    ckpt = routers_trained["none"]
    flags = ("--routers", "lora_retriever", "oracle", "--seeds", 2)
    printed = run("runs", *flags, "--encoder_ckpt", ckpt.with_name("seed_{seed}"))
    assert "| LoraRetriever, trained encoder, frozen " in printed and "| Oracle, control " in printed
    settings = results(tmp_path / "runs")["LoraRetriever, trained encoder", 2]["settings"]
    trained = json.loads((ckpt / "results.json").read_text())["settings"]
    assert settings["encoder_ckpt"] == content_hash(ckpt / "checkpoint")
    assert all(settings[name] == trained[name] for name in ("encoder", "pooling", "max_length", "seed"))
    assert str(ckpt.parent) not in json.dumps(settings)
    assert results(tmp_path / "runs")["Oracle", 2]["settings"]["encoder_ckpt"] is None
    assert run("runs", *flags, "--encoder_ckpt", ckpt).count("2 of 2 runs are already done") == 1
    assert run("runs", *flags).count("1 of 2 runs are already done") == 1  # the plain one has a folder of its own


def test_a_checkpoint_that_saw_other_rows_is_refused(routers_trained, fake, fails, tmp_path):
    ckpt = routers_trained["none"]
    flags = ("--routers", "ridge", "--encoder_ckpt", ckpt)

    def refused(*more, seed=2) -> str:
        text = fails(*flags, "--seeds", seed, *more)
        assert text.startswith("--encoder_ckpt ") and "trained on other rows or with another encoder" in text
        return text.split("(", 1)[1].split("). Train one", 1)[0]

    assert refused(seed=1) == "seed: 2 there, 1 here"
    assert refused("--validation_fraction", "0.1") == "validation_fraction: 0.2 there, 0.1 here"
    assert refused("--max_characters", "30") == "characters: None there, 30 here"
    assert refused("--max_length", "32") == "max_length: 64 there, 32 here"
    assert refused("--pooling", "first") == "pooling: 'mean' there, 'first' here"
    changed = tmp_path / "gsm8k-train.json"
    changed.write_text(fake.train["gsm8k"].read_text() + "\n")
    paths = [changed, *list(fake.train.values())[1:]]
    assert refused("--data_paths", *paths).startswith("training files: [")
    assert "training files" in refused("--data_paths", *paths[1:])
    wrong = tmp_path / "fidelity" / "seed_2"
    shutil.copytree(ckpt, wrong)
    config = json.loads((wrong / "checkpoint" / "config.json").read_text())
    config["settings"]["fidelity"] = "5"  # its "validation" reads the training rows
    write_config(wrong / "checkpoint", config)
    assert "fidelity: '5' there, 'paper' here" in fails("--routers", "ridge", "--seeds", 2, "--encoder_ckpt", wrong)
    text = fails("--routers", "ridge", "--encoder_ckpt", ckpt.with_name("seed_{seed}"))
    assert text.startswith(f"--encoder_ckpt {ckpt.with_name('seed_1')}: no checkpoint there")


def test_another_checkpoint_is_another_run(routers_trained, run, fails, tmp_path):
    """Its weights, its tokenizer and its pooling count; when and where it was trained does not."""
    ckpt = tmp_path / "seed_2"
    shutil.copytree(routers_trained["none"], ckpt)
    flags = ("--routers", "ridge", "--seeds", 2, "--encoder_ckpt", ckpt)
    run("failed", *flags)
    config = json.loads((ckpt / "checkpoint" / "config.json").read_text())
    write_config(ckpt / "checkpoint", config | {"seconds": 1.5, "device": "another"})
    assert "1 of 1 runs are already done" in run("failed", *flags)
    before = content_hash(ckpt / "checkpoint")
    shutil.copy(routers_trained["all"] / "checkpoint" / "model.safetensors", ckpt / "checkpoint")
    assert content_hash(ckpt / "checkpoint") != before
    assert f"encoder_ckpt: '{before}' there" in fails(*flags)


def test_a_trained_router_of_given_embeddings_serves_too(embedded, fails, tmp_path):
    train, _, _ = embedded("topics_train", 80, 0)
    test, queries, _ = embedded("topics_test", 40, 1)
    kinds = ["--data_type", "multi_attempt", "--test_data_type", "multi_attempt", "--final_eval_data_paths"]
    data = ["--data_paths", train, "--test_data_paths", test, *kinds]
    trainer = ["--encoder", "given", "--freeze_encoder", "--cluster_loss_weight", "0", "--training_steps", "5"]
    assert program.main([*data, *trainer, "--device", "cpu", "--save_path", str(tmp_path / "router")]) == 0
    flags = [*data, "--encoder_ckpt", str(tmp_path / "router"), "--device", "cpu"]
    flags += ["--save_path", str(tmp_path / "runs")]
    assert command.main([*flags, "--routers", "knn"]) == 0
    assert results(tmp_path / "runs")["kNN, trained encoder", 1]["settings"]["encoder"] == "given"
    problem = Problem(parse(flags))
    (x,) = Embeddings(problem, choose_hardware("cpu", "fp32")).of(1)[1]
    head = load_file(tmp_path / "router" / "checkpoint" / "model.safetensors")["head.weight"].numpy()
    assert x == pytest.approx(unit(queries @ head.T), abs=1e-5)
    assert "training files" in fails("--routers", "knn", "--encoder_ckpt", tmp_path / "router")


# Embeddings without text


@pytest.fixture
def embedded(tmp_path):
    """Files of embeddings that tell the expert: write(name, count, seed, size) -> (path, embeddings, scores)."""

    def write(name, count, seed, size=6):
        made = made_up(seed, count, size)
        np.savez(tmp_path / f"{name}.npz", scores=made.y, embeddings=3 * made.x, llms=np.array(LLMS))
        return str(tmp_path / f"{name}.npz"), made.x, made.y

    return write


MULTI_ATTEMPT = ("--data_type", "multi_attempt", "--test_data_type", "multi_attempt", "--final_eval_data_paths")


def test_given_embeddings_are_what_the_routers_read(embedded, run, tmp_path):
    train, x, y = embedded("topics_train", 80, 0)
    test, queries, scores = embedded("topics_test", 40, 1)
    files = ("--data_paths", train, "--test_data_paths", test, *MULTI_ATTEMPT)
    run("runs", "--routers", "knn", "best_single", "--encoder", "given", *files)
    result = results(tmp_path / "runs")["kNN", 1]
    k = result["selection"]["setting"]["k"]
    rows, _ = split_validation(load(train, "multi_attempt"), 0.2, 1)
    expected = []
    for query in queries:  # by a loop over cosines
        cosine = {row: sum(float(a) * float(b) for a, b in zip(query, x[row])) for row in rows}
        nearest = sorted(rows, key=lambda row, cosine=cosine: -cosine[row])[:k]
        expected.append(int(y[nearest].mean(axis=0).argmax()))
    assert picks_in(tmp_path / "runs/kNN/seed_1")["topics"] == expected and len(set(expected)) > 2
    assert result["test"]["id_avg"] == pytest.approx(100 * scores[np.arange(40), expected].mean(), abs=1e-3)
    assert result["settings"]["encoder"] == "given"


def test_text_and_embeddings_do_not_mix(embedded, fake, fails):
    train, _, _ = embedded("topics_train", 20, 0)
    test, _, _ = embedded("topics_test", 20, 1)
    narrow, _, _ = embedded("verse_test", 20, 1, 4)
    text = fake.test["gsm8k"]
    flags = ("--routers", "ridge", "--data_paths", train, *MULTI_ATTEMPT)
    message = fails(*flags, "--test_data_paths", test)  # the encoder is the tiny BERT
    assert f"{train} has embeddings and no text; use --encoder given" in message
    message = fails("--encoder", "given", "--routers", "ridge")
    assert "has text; name an encoder that reads it" in message
    message = fails(*flags, "--test_data_paths", text, "--encoder", "given")
    alike = f"{text} has text, and {train} has embeddings of 6 dimensions; all files of a run must be alike"
    assert message == alike
    message = fails(*flags, "--test_data_paths", narrow, "--encoder", "given")
    assert f"{narrow} has embeddings of 4 dimensions" in message


MISTAKES = {  # flags, and what the error says
    "--routers zooter": ["fitted by the training loop", "--loss zooter"],
    "--routers best": ["--routers best: no such router", "knn"],
    "--routers knn knn": ["--routers names something twice"],
    "--seeds -1": ["--seeds -1"],
    "--training_samples_per_dataset -1": ["--training_samples_per_dataset is -1; it must be at least 0"],
    "--routers ridge --validation_fraction 0": ["Ridge: --validation_fraction must be above 0"],
    "--validation_fraction 1": ["--validation_fraction is 1.0"],
    "--target_pooling alike --target_shrinkage 1": ["--target_pooling alike", "--target_shrinkage 1"],
    "--target_pooling alike --target_groups cluster": ["--target_pooling alike", "--target_groups cluster"],
    "--routers ridge --target_shrinkage 2": ["--target_shrinkage is 2.0; it must be at least 0 and at most 1"],
    "--encoder no/such": ["--encoder no/such: cannot be loaded"],
    "--llms lab/psi": ["no scores for lab/psi"],
    "--cost_rate 2 --routers ridge irt matrix_factorization": [
        "--routers irt matrix_factorization: they predict the probability",
        "--cost_rate 0",
    ],
    "--cost_rate 2 --routers ridge": ["--cost_rate 2 needs the cost of every answer"],
    "--data_paths nowhere.json": ["nowhere.json: no such file"],
    "--device tpu": ["--device is 'tpu'"],
    "--max_length 0": ["--max_length is 0; for"],
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_mistakes_are_named(fails, flags):
    message = fails(*flags.split())
    assert all(words in message for words in MISTAKES[flags]), message


def test_lora_retriever_needs_clusters(fails, tmp_path):
    path = tmp_path / "gsm8k-train.json"
    path.write_text(json.dumps(make_rows(30, "multi_attempt", 1, clusters=False)))
    text = fails("--routers", "lora_retriever", "--data_paths", path)
    assert "LoraRetriever needs the cluster of every training row: `cluster_id`" in text


# The baselines that share RouterDC's training loop


@pytest.mark.parametrize(("loss", "name"), [("cosine_classifier", "CosineClassifier"), ("zooter", "ZOOTER")])
def test_other_losses_share_the_training_loop(fake, tiny_bert, tmp_path, capsys, loss, name):
    flags = {"loss": loss, "freeze_encoder": True, "pooling": "mean", "learning_rate": 0.01, "temperature": 0.1}
    flags |= {"training_steps": 200, "eval_steps": 200}
    assert program.main(arguments(fake, tiny_bert, tmp_path / "run", **flags)) == 0, capsys.readouterr().err
    assert f"| {name} (this run)" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result["router"] == name and result["settings"]["cluster_loss_weight"] == 0
    test, references = result["test"], result["test"]["references"]
    for task, path in fake.test.items():
        picks = np.array(picks_in(tmp_path / "run")[task])
        assert test["tasks"][task] == pytest.approx(accuracy(picks, load(path).for_llms(test["llms"])))
        best = references["best LLM per task (picked on test)"][task]
        oracle = references["per-query oracle"][task]
        assert test["tasks"][task] > best + 0.3 * (oracle - best), "it learned nothing"
    assert program.main(arguments(fake, tiny_bert, tmp_path / "wrong", loss=loss, sample_loss_weight=0.5)) == 2
    assert f"--loss {loss} has no sample-sample loss" in capsys.readouterr().err


def test_one_script_for_everything(mirror, fake, tiny_bert, tmp_path):
    settings = {
        "ROUTERDC_NO_VENV": "1",
        "ROUTERDC_MIRROR": str(mirror),
        "ENCODER": str(tiny_bert),
        "RECIPES": "tuned",
        "LOSSES": "routerdc zooter",
        "RUNS": str(tmp_path / "runs"),
        "RESULTS": str(tmp_path / "results"),
        "RESAMPLES": "200",
    }
    flags = [*fake.arguments(), "--seeds", "1", "--max_length", "64", "--cache_dir", str(tmp_path / "cache")]
    flags += ["--device", "cpu", "--precision", "fp32"]
    run = subprocess.run(
        ["bash", str(REPO / "train_scripts" / "baselines.sh"), *flags],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
        env=os.environ | settings,
    )
    assert run.returncode == 0, run.stderr
    assert "left out: 15 runs that were not tested on all eight tasks" in run.stderr
    assert not (tmp_path / "results" / "runs.jsonl").exists()
    names = {*ROUTERS, "RouterDC", "ZOOTER", "LoraRetriever, trained encoder"}
    names |= {"Random", "BestSingle", "BestPerTask", "Oracle"}
    assert {name for name, _ in results(tmp_path / "runs")} == names
    compared = json.loads((tmp_path / "results" / "comparison.json").read_text())
    assert {entry["router"] for entry in compared["groups"]} >= names and compared["against"] == "tuned"
    page = (tmp_path / "results" / "comparison.md").read_text()
    assert all(f"| {name}, " in page for name in names)
    assert "Voting is not among these runs" in page and "released files" not in page and "(paper)" not in page
    assert 'Rows named "trained encoder" read the query embeddings of a trained router' in page
