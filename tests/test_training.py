"""train_router_mdeberta.py from its command line: it learns, selects, repeats, obeys every flag.

What is in a run's folder and how it is resumed: test_run.py. The training rows: test_training_set.py. The settings:
test_config.py.
"""

import inspect
import json

import numpy as np
import pytest
import torch
from conftest import LLMS, Run, arguments, make_rows, metrics, same_weights, timeless, weights, words_of
from safetensors.torch import load_file

import evaluation_router
import train_router_mdeberta as program
from utils import encoders
from utils.data import load
from utils.experiment import batch_rows
from utils.losses import sample_sample_loss
from utils.training_set import split_validation

# It learns, whichever part of the encoder trains


def assert_learned(run: Run, share: float = 0.7) -> None:
    """On every task the router makes up a large share of the way from the best single LLM to the per-query oracle."""
    test = run.results["test"]
    for task, accuracy in test["tasks"].items():
        best = test["references"]["best LLM per task (picked on test)"][task]
        oracle = test["references"]["per-query oracle"][task]
        assert accuracy > best + share * (oracle - best), (task, accuracy, best, oracle)


def test_full_training_learns(trained):
    assert_learned(trained)
    loss = metrics(trained, "loss")
    assert list(loss) == list(range(10, 121, 10)) and loss[120] < 0.8 * loss[10]
    assert list(metrics(trained, "validation")) == list(range(20, 121, 20))


def changed_weights(run: Run, encoder) -> set[str]:
    """Names of the encoder's weights that a run changed."""
    before, after = load_file(encoder / "model.safetensors"), weights(run)
    kept = {name: after[f"encoder.backbone.{name}"] for name in before if f"encoder.backbone.{name}" in after}
    assert len(kept) > 40
    return {name for name, value in kept.items() if not torch.equal(value, before[name])}


def test_training_the_last_layer_learns_and_leaves_the_rest(train, tiny_bert):
    run = train(train_layers=1, pooling="mean", training_steps=80, eval_steps=40, learning_rate=0.01, selection="last")
    assert_learned(run, 0.6)
    names = load_file(tiny_bert / "model.safetensors")
    last_layer = {name for name in names if name.startswith("encoder.layer.2.")}
    without_gradient = {"encoder.layer.2.attention.self.key.bias"}  # attention does not depend on it; noise may move it
    assert changed_weights(run, tiny_bert) | without_gradient == last_layer


def test_a_frozen_encoder_learns_by_its_head(train, tiny_bert):
    flags = {"freeze_encoder": True, "pooling": "mean", "training_steps": 300, "eval_steps": 300}
    run = train(**flags, learning_rate=0.01, batch_size=64)
    assert_learned(run, 0.5)  # all the encoder knows of a word is a random vector
    assert changed_weights(run, tiny_bert) == set()
    assert not torch.equal(weights(run)["head.weight"], torch.eye(32))


def test_a_tiny_mdeberta_end_to_end(fake, tiny_deberta, script, tmp_path, capsys):
    """The paper's kind of encoder, by the real command, from training to a checkpoint that needs no other folder."""
    command = arguments(fake, tiny_deberta, tmp_path / "run", training_steps=80, eval_steps=20)
    run = script("train_router_mdeberta.py", *command)
    assert run.returncode == 0, run.stderr
    assert_learned(Run(tmp_path / "run", run.stdout))
    assert evaluation_router.main(["--ckpt", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "run" / "tables.md").read_text().strip()


@pytest.mark.parametrize("flags", [{"train_layers": 3}, {"train_layers": 1}, {"freeze_encoder": True}])
def test_the_other_ways_with_a_tiny_mdeberta(train, tiny_deberta, flags):
    """Also all layers without the table of words."""
    before = load_file(tiny_deberta / "model.safetensors")
    after = weights(train(encoder=tiny_deberta, training_steps=2, **flags))
    words_before = before["deberta.embeddings.word_embeddings.weight"].float()
    assert torch.equal(after["encoder.backbone.embeddings.word_embeddings.weight"], words_before)


# Selection


def test_the_checkpoint_is_the_best_on_validation(train, monkeypatch):
    """A run whose validation is best after 12 of 24 steps, and again after 18, is the run that was cut there."""
    scores = iter([40.0, 70.0, 70.0, 60.0])
    with monkeypatch.context() as patch:
        patch.setattr(program, "validate", lambda *args: {"validation": next(scores)})
        run = train("best", training_steps=24, eval_steps=6)
    assert run.results["selection"] == {"rule": "best", "step": 12, "validation": 70.0}
    assert same_weights(run, train("cut", training_steps=12, selection="last"))
    last = train("last", training_steps=24, eval_steps=6, selection="last")
    assert not same_weights(run, last) and last.results["selection"]["step"] == 24


def test_the_test_files_do_not_decide_anything(train, tmp_path):
    """Without them, or with others in their place, the checkpoint is the same to the bit."""
    first = train("first")
    assert same_weights(first, train("none", no_final_eval=True))
    inverted = make_rows(30, "multi_attempt", 9)
    for row in inverted:
        row["scores"] = {llm: 1 - score for llm, score in row["scores"].items()}
    (tmp_path / "gsm8k-test.json").write_text(json.dumps(inverted))
    other = train("other", test_data_paths=tmp_path / "gsm8k-test.json")
    assert same_weights(first, other) and first.results["test"]["tasks"] != other.results["test"]["tasks"]


# Validation rows


def evaluate_file(run: Run, path, tmp_path) -> list[int]:
    """The LLM picked for each row of a file by the checkpoint of a run, as positions in LLMS."""
    command = ["--ckpt", run.folder, "--test_data_paths", path, "--device", "cpu", "--output", tmp_path / "out.json"]
    assert evaluation_router.main(list(map(str, command))) == 0
    output = json.loads((tmp_path / "out.json").read_text())
    (picks,) = output["picks"].values()
    return [LLMS.index(output["llms"][pick]) for pick in picks]


@pytest.mark.parametrize("fidelity", ["paper", "5"])
def test_validation_is_the_held_out_rows_and_with_fidelity_row_5_the_training_file(train, fake, tmp_path, fidelity):
    """Recomputed from the checkpoint's picks on the training file and the scores in it."""
    rows = json.loads(fake.train["gsm8k"].read_text(encoding="utf-8"))
    _, held = split_validation(load(fake.train["gsm8k"]), 0.3, 1)
    numbers = range(len(rows)) if fidelity == "5" else held
    flags = {"validation_fraction": 0.3, "selection": "last", "training_steps": 5, "dropout": 0.9}  # none in evaluation
    run = train(fidelity=fidelity, **flags)
    picks = evaluate_file(run, fake.train["gsm8k"], tmp_path)
    earned = [rows[number]["scores"][LLMS[picks[number]]] for number in numbers]
    assert metrics(run, "validation/gsm8k")[5] == pytest.approx(100 * sum(earned) / len(earned), abs=1e-4)
    scores = [metrics(run, f"validation/{task}")[5] for task in fake.train]
    assert metrics(run, "validation")[5] == pytest.approx(np.mean(scores))


def test_pooling_is_estimated_once_kept_and_the_same_whatever_trains(train, monkeypatch):
    """A frozen encoder computes each text once. Trained layers get the same targets, of the pre-trained encoder."""
    computed, embed = [], encoders.embed

    def counted(encoder, inputs, rows, *rest, **options):
        computed.append(len(rows))
        return embed(encoder, inputs, rows, *rest, **options)

    monkeypatch.setattr(encoders, "embed", counted)
    flags = {"target_pooling": "question", "no_final_eval": True, "training_steps": 2}
    frozen = train("frozen", freeze_encoder=True, **flags)
    assert sum(computed) == 148  # rows of the three training files
    estimate = frozen.results["target_pooling"]
    assert set(estimate) == {"gsm8k", "arc_challenge", "mmlu"}
    assert set(estimate["mmlu"]) == {"level", "differences"}
    shares = estimate["gsm8k"]["differences"]
    assert shares["row"] + sum(shares["neighbours"].values()) + shares["cluster"] + shares["task"] == pytest.approx(1)
    percent = 100 * estimate["gsm8k"]["level"]["row"]
    assert f"targets of gsm8k: level: row {percent:.0f} %, neighbours" in frozen.text
    for name, more in (("layers", {"train_layers": 1}), ("all", {})):
        assert train(name, **flags, **more).results["target_pooling"] == estimate
    plain = train("plain", freeze_encoder=True, **flags | {"target_pooling": None})
    assert "target_pooling" not in plain.results and "targets of" not in plain.text
    assert not same_weights(plain, frozen)


# Repeatable, and independent of what should not matter


def test_the_same_seed_gives_the_same_run_and_another_seed_another(train):
    first, second, other = train("first"), train("second"), train("other", seed=2)
    assert same_weights(first, second) and not same_weights(first, other)
    assert timeless(first) == timeless(second) != timeless(other)


def test_evaluating_more_often_changes_nothing_but_with_fidelity_row_6(train):
    flags = {"training_steps": 12, "selection": "last"}
    assert same_weights(train("a", eval_steps=3, **flags), train("b", eval_steps=12, **flags))
    flags["fidelity"] = "6"
    assert not same_weights(train("c", eval_steps=3, **flags), train("d", eval_steps=12, **flags))


def test_the_global_random_state_does_not_matter(train):
    first = train("first")
    torch.manual_seed(123)
    np.random.seed(123)
    assert same_weights(first, train("second"))


def test_the_last_step_is_evaluated_whatever_eval_steps(train):
    assert list(metrics(train(training_steps=7, eval_steps=5), "validation")) == [5, 7]
    assert list(metrics(train("rare", training_steps=3, eval_steps=50), "validation")) == [3]


def test_test_questions_that_were_trained_on_are_counted(fake, tiny_bert, tmp_path, capsys):
    rows = json.loads(fake.test["gsm8k"].read_text())
    train_rows = json.loads(fake.train["gsm8k"].read_text())
    for number in range(3):
        rows[number]["question"] = train_rows[number]["question"]
    path = tmp_path / "gsm8k-test.json"
    path.write_text(json.dumps(rows))
    flags = {"test_data_paths": path, "final_eval_data_paths": [], "training_steps": 1}
    assert program.main(arguments(fake, tiny_bert, tmp_path / "run", **flags)) == 0
    assert f"note: {path}: 3 of its questions stand in the training files, too" in capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["questions_in_training_files"] == {str(path): 3}


# Flags


STEPS = {"training_steps": 3, "eval_steps": 3, "selection": "last", "no_final_eval": True}
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
    {"similarity_function": "inner"},
    {"pooling": "mean"},
    {"dropout": 0.5},
    {"max_length": 8},
    {"max_characters": 20},
    {"max_characters": 20, "keep_characters": "first"},
    {"llms": list(LLMS[1:])},
    {"batch_size": 8},
    {"gradient_accumulation": 2},
    {"learning_rate": 1e-3},
    {"llm_learning_rate": 1e-1},
    {"weight_decay": 1.0},
    {"validation_fraction": 0.5},
    {"training_samples_per_dataset": 0},
    {"target_pooling": "alike"},
    {"target_pooling": "question"},
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
    found = {"nothing": weights(train("nothing", **STEPS))["llm_embeddings.weight"]}
    for number, flags in enumerate(EFFECTS):
        found[str(flags)] = weights(train(f"run{number}", **STEPS | flags))["llm_embeddings.weight"]
    names = list(found)
    for number, name in enumerate(names):
        for other in names[:number]:
            assert not torch.equal(found[name], found[other]), (name, other)


def test_k_is_no_matter_of_losses_without_it(train, fails):
    two = {"llms": list(LLMS[:2]), "training_steps": 1, "no_final_eval": True}
    assert "--top_k is 3; with 2 LLMs" in fails(**two)
    assert train(loss="zooter", cluster_loss_weight=0, **two).results["router"] == "ZOOTER"


def test_both_spellings_of_temperature_do_the_same(train):
    assert same_weights(train("a", temperature=0.5, **STEPS), train("b", tempreture=0.5, **STEPS))


def test_what_the_sample_sample_loss_is_given(train, fake, monkeypatch):
    """Cluster ids and the numbers of the very queries of the batch, so that copies are known; H and the temperature."""
    calls, batches = [], []

    def spied_loss(*args, **kwargs):
        calls.append(inspect.signature(sample_sample_loss).bind(*args, **kwargs).arguments)
        return sample_sample_loss(*args, **kwargs)

    def spied_rows(*args):
        batches.append(batch_rows(*args))
        return batches[-1]

    monkeypatch.setattr(program, "sample_sample_loss", spied_loss)
    monkeypatch.setattr(program, "batch_rows", spied_rows)
    train(temperature=0.25, H=2, sample_loss_weight=0.5, training_steps=2, training_samples_per_dataset=200)
    clusters = np.concatenate([load(path).clusters for path in fake.train.values()])
    tasks = np.repeat([0, 1, 2], [60, 48, 40])
    assert len(batches) == 2 and len(calls) == 4
    for number, call in enumerate(calls):
        batch = batches[number // 2]
        np.testing.assert_array_equal(call["groups"], (clusters, tasks)[number % 2][batch])
        np.testing.assert_array_equal(call["ids"], batch)
        assert (call["negatives"], call["temperature"]) == (2, 0.25) and call["generator"] is not None
        similarity = call["similarity"].detach().numpy()
        assert similarity.shape == (16, 16) and similarity.diagonal() == pytest.approx(np.ones(16), abs=1e-5)


@pytest.fixture
def optimizers(monkeypatch):
    """Every AdamW that a run makes, with the gradients of its steps: the list of (optimizer, list of gradients)."""
    made = []

    class Spy(torch.optim.AdamW):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append((self, []))

        def step(self, *args, **kwargs):
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            made[-1][1].append([parameter.grad.clone() for parameter in parameters])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    return made


def test_accumulated_gradients_are_those_of_the_large_batch(train, optimizers):
    """Two batches of 8 make the gradient of the batch of 16: without dropout and the loss that looks across a batch."""
    flags = {"cluster_loss_weight": 0, "dropout": 0, "training_steps": 2}
    train("one", batch_size=16, **flags)
    train("two", batch_size=8, gradient_accumulation=2, **flags)
    train("half", batch_size=8, **flags)
    (_, one), (_, two), (_, half) = optimizers

    def alike(first, second) -> bool:
        return all(torch.allclose(a, b, rtol=1e-2, atol=1e-4) for a, b in zip(first, second))

    assert len(one) == len(two) == 2
    for a, b in zip(one[0], two[0]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not alike(one[0], half[0])
    assert not alike(one[0], one[1])  # another batch at the second step


def test_learning_rates_and_weight_decay_reach_the_optimizer(train, optimizers):
    train("a", learning_rate=0.002, llm_learning_rate=0.5, weight_decay=0.25, training_steps=1)
    train("b", learning_rate=0.002, training_steps=1)
    (a, _), (b, _) = optimizers
    assert [(group["lr"], group["weight_decay"]) for group in a.param_groups] == [(0.002, 0.25), (0.5, 0.25)]
    assert [(group["lr"], group["weight_decay"]) for group in b.param_groups] == [(0.002, 0.01), (0.002, 0.01)]
    assert [tuple(parameter.shape) for parameter in a.param_groups[1]["params"]] == [(4, 32)]
    assert len(a.param_groups[0]["params"]) == 5 + 3 * 16


# The released code's behaviours as switches


@pytest.fixture
def run_with(train):
    """Runs of three steps: run_with(fidelity, flag=value, ...) -> Run; each has a folder of its own."""
    count = iter(range(100))

    def run(fidelity, **flags) -> Run:
        return train(f"run{next(count)}", fidelity=fidelity, **STEPS | flags)

    return run


def test_fidelity_row_1_acts_on_the_sample_llm_loss_and_rows_3_and_4_on_the_other(run_with):
    """Row 4 acts only where negatives run short: a batch of 16 has not 14 of them for every row, but always one."""
    alone, many, few = {"cluster_loss_weight": 0}, {"H": 14}, {"H": 1}
    plain = run_with("paper", **alone)
    assert not same_weights(plain, run_with("1", **alone))
    assert same_weights(plain, run_with("3,4", **alone))
    plain = run_with("paper", **few)
    assert not same_weights(plain, run_with("3", **few))
    assert same_weights(plain, run_with("4", **few))
    plain = run_with("paper", **many)
    assert not same_weights(plain, run_with("4", **many))
    assert not same_weights(plain, run_with("1", **many))


def test_fidelity_row_2_is_dropout_0(run_with):
    plain, as_released = run_with("paper"), run_with("2")
    assert not same_weights(plain, as_released)
    assert same_weights(as_released, run_with("paper", dropout=0))
    assert same_weights(as_released, run_with("no_dropout", dropout=0.5))


def test_fidelity_row_7_is_more_than_the_rule_for_ties_and_leaves_no_choice_of_it(run_with):
    tied = {"data_type": ["probability"] * 3, "targets": "gain", "cluster_loss_weight": 0}
    tied["negative_below"] = 1  # which is a score of many LLMs
    as_released = run_with("7", **tied)
    assert not same_weights(as_released, run_with("paper", ties="released", **tied))
    assert not same_weights(as_released, run_with("paper", **tied))
    assert same_weights(as_released, run_with("7", ties="random", **tied))


def test_upstream_is_all_rows(run_with):
    assert same_weights(run_with("upstream", H=14), run_with("1,2,3,4,5,6,7", H=14))


# Test files of all sorts


def test_an_unseen_task(train, fake, fails):
    run = train(test_data_paths=fake.unseen, test_data_type="multi_attempt", final_eval_data_paths=fake.test["mbpp"])
    assert list(run.results["test"]["tasks"]) == ["poems", "mbpp"] and "id_avg" not in run.results["test"]
    message = fails(test_data_paths=fake.unseen)
    assert "'poems'" in message and "--test_data_type" in message


def test_fewer_llms_in_the_test_files(train, fake, fails):
    test = train(test_data_paths=fake.fewer, final_eval_data_paths=[]).results["test"]
    assert test["llms"] == [LLMS[1], LLMS[3]]
    assert sum(test["shares"]["mmlu"].values()) == pytest.approx(100)
    message = fails(test_data_paths=fake.fewer)  # beside a file with all four
    assert "mbpp" in message and "its LLMs are" in message


def test_training_on_a_task_that_the_paper_has_not(train, fake):
    kinds = ["multi_attempt", "probability"]
    run = train(data_paths=[fake.unseen, fake.train["mmlu"]], data_type=kinds, cluster_loss_weight=0)
    assert "validation/poems" in (run.folder / "metrics.jsonl").read_text()


# Data of one's own


@pytest.fixture
def own_data(tiny_bert, tmp_path):
    """Writes data of tasks that the paper has not, of some LLMs; returns the words of a command on them."""

    def write(llms: tuple[str, ...], clusters: bool = False) -> list[str]:
        files = {name: tmp_path / f"{name}.json" for name in ("letters_train", "emails_train", "letters_test")}
        for seed, path in enumerate(files.values()):
            rows = make_rows(40, "probability", 50 + seed, clusters=clusters)
            for row in rows:
                expert, *others = row["scores"].values()
                row["scores"] = dict(zip(llms, [expert, *others, 0.25]))
            path.write_text(json.dumps(rows))
        flags = {
            "save_path": tmp_path / "own",
            "data_paths": [files["letters_train"], files["emails_train"]],
            "data_type": "probability",
            "test_data_paths": files["letters_test"],
            "final_eval_data_paths": [],
            "encoder": tiny_bert,
            "cache_dir": tmp_path / "cache",
            "max_length": 64,
            "training_steps": 20,
        }
        return words_of({"device": "cpu", "precision": "fp32"} | flags)

    return write


OWN_LLMS = (*LLMS, "own/epsilon")


@pytest.mark.parametrize("clusters", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_tuned_recipe_on_data_of_ones_own(own_data, tmp_path, capsys, count, clusters):
    """With fewer and with more LLMs it trains, and says so when the sample-sample loss is by task."""
    llms = OWN_LLMS[:count]
    command = ["--recipe", "tuned", *own_data(llms, clusters)]
    assert program.main(command) == 0
    printed = capsys.readouterr().out
    results = Run(tmp_path / "own", printed).results
    by_task = "The rows have no cluster_id: the sample-sample loss is by task (--missing_clusters task)"
    assert printed.count(by_task) == (0 if clusters else 1)
    by_what = None if clusters else "by task: the training rows have no cluster_id"
    assert results.get("sample_sample_loss") == by_what
    assert f"{count} LLMs: {', '.join(llms)}" in printed

    settings = results["settings"]
    assert (settings["top_k"], settings["last_k"]) == (1, count - 1)
    assert settings["cluster_loss_weight"] == 1 and "missing_clusters" not in settings
    assert settings["data_type"] == ["probability"] * 2 and settings["test_data_type"] == ["probability"]
    assert results["test"]["llms"] == list(llms) and list(results["test"]["tasks"]) == ["letters"]
    assert results["recipe"] == "custom"  # --max_length and --training_steps are not the recipe's
    assert program.main(command) == 0 and "already done" in capsys.readouterr().out
    assert evaluation_router.main(["--ckpt", str(tmp_path / "own"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "own" / "tables.md").read_text().strip()


@pytest.mark.parametrize("clusters", [False, True])
def test_the_sample_sample_loss_is_by_task_without_cluster_ids_alone(own_data, tmp_path, clusters):
    """The weights are those of --sample_loss_weight where cluster ids are missing, and others where they are there."""
    weightings = {
        "as_it_is": [],
        "by_task": ["--cluster_loss_weight", "0", "--sample_loss_weight", "1"],
        "neither": ["--cluster_loss_weight", "0"],
    }
    runs = {}
    for name, weighting in weightings.items():
        command = ["--recipe", "tuned", *own_data(LLMS[:3], clusters), *weighting, "--no_final_eval"]
        assert program.main([*command, "--save_path", str(tmp_path / name)]) == 0
        runs[name] = Run(tmp_path / name, "")
    assert same_weights(runs["as_it_is"], runs["by_task"]) is not clusters
    assert not same_weights(runs["as_it_is"], runs["neither"])
    assert "sample_sample_loss" not in runs["by_task"].results
    assert "sample_sample_loss" not in runs["neither"].results


def test_missing_cluster_ids_are_an_error_without_the_recipe(own_data, tmp_path, capsys):
    assert program.main([*own_data(LLMS), "--freeze_encoder"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'letters_train.json'}, row 0: 'cluster_id' must be an integer")
    assert "--missing_clusters task" in error
    assert not (tmp_path / "own" / "results.json").exists()


def test_with_cluster_ids_nothing_is_said_of_tasks(train):
    run = train(missing_clusters="task", training_steps=2)
    assert "by task" not in run.text and "sample_sample_loss" not in run.results
    assert same_weights(run, train("plain", training_steps=2))


def test_a_single_kind_is_not_that_of_the_papers_other_test_tasks(train, fake):
    """MMLU trains, whose kind is given; GSM8K and MBPP are tested, where a pick counts its share of right answers."""
    flags = {"data_paths": fake.train["mmlu"], "data_type": "probability", "training_steps": 2}
    given, by_default = train("given", **flags), train("default", **flags | {"data_type": None})
    kinds = {test["path"]: test["kind"] for test in given.results["tests"]}
    expected = {"gsm8k": "multi_attempt", "arc_challenge": "probability", "mbpp": "multi_attempt"}
    assert kinds == {str(fake.test[task]): kind for task, kind in expected.items()}
    assert given.results["test"] == by_default.results["test"] and same_weights(given, by_default)


# Mistakes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"top_k": 0}, "--top_k is 0; it must be at least 1"),
        ({"top_k": 5}, "--top_k is 5; with 4 LLMs it must be from 1 to 4"),
        ({"last_k": 0}, "--last_k is 0; with 4 LLMs it must be from 1 to 4"),
        ({"last_k": 5}, "--last_k is 5; with 4 LLMs it must be from 1 to 4"),
        ({"learning_rate": "nan"}, "--learning_rate is nan; it must be above 0"),
        ({"freeze_encoder": True, "train_layers": 1}, "--freeze_encoder and --train_layers exclude each other"),
        (
            {"validation_fraction": 0},
            "--selection best needs --validation_fraction above 0; with --validation_fraction 0",
        ),
        (
            {"fidelity": "released"},
            "--fidelity is 'released'; it must be paper, upstream, rows from 1 to 7 such as 1,3",
        ),
        ({"recipe": "none"}, "none.yaml: no such recipe"),
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
def test_settings_that_these_files_and_this_encoder_do_not_allow(fails, flags, words):
    """What makes no sense whatever the data are is tested in test_config.py."""
    assert words in fails(**flags)


def test_files_that_are_not_right(fails, fake, tmp_path):
    assert fails(data_paths=tmp_path / "none.json").startswith(f"{tmp_path / 'none.json'}: no such file")
    message = fails(data_paths=[fake.test["gsm8k"]])  # no cluster ids
    assert message.startswith(f"{fake.test['gsm8k']}, row 0: 'cluster_id' must be an integer")
    message = fails(test_data_paths=[fake.test["gsm8k"], fake.test["mbpp"]])  # mbpp is in --final_eval_data_paths too
    assert "mbpp" in message and "once" in message
    strangers = tmp_path / "gsm8k-test.json"
    strangers.write_text(json.dumps([{"question": "one?", "scores": {"org/alpha-7b": 1, "org/omega": 0}}]))
    message = fails(test_data_paths=strangers, final_eval_data_paths=[])
    assert message.startswith(f"{strangers}: ") and "org/omega" in message


def test_an_encoder_that_cannot_be_loaded(fails, tmp_path):
    message = fails(encoder=tmp_path / "nothing")
    assert message.startswith(f"--encoder {tmp_path / 'nothing'}: cannot be loaded")
    assert "no such folder" in message and "minilm" in message


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
