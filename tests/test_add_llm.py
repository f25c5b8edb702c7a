"""A new LLM on a trained router, and one less: what is fitted, what stays as it was, and what is refused."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from conftest import LLMS, TOPICS, make_rows

from utils import calibration, checkpoint
from utils.add_llm import main
from utils.data import RoutingData
from utils.llm_embedding import Scored, fit_embedding, losses_of, targets_with

NEW, LEFT = LLMS[2], [llm for llm in LLMS if llm != LLMS[2]]
SETTINGS = {"loss": "routerdc", "top_k": 1, "last_k": 2, "temperature": 0.5, "negative_below": 2.0, "fidelity": "paper"}


# Targets


def routing_data(rows: int = 40) -> RoutingData:
    rng = np.random.default_rng(0)
    scores = rng.random((rows, 3)).astype(np.float32)
    clusters = rng.integers(0, 2, rows)
    return RoutingData("gsm8k", "multi_attempt", [str(i) for i in range(rows)], scores, tuple("abc"), clusters)


def test_targets_are_the_scores_where_none_is_moved():
    data, rows, new = routing_data(), np.array([3, 7]), np.array([0.25, 0.75])
    found = targets_with(data, np.arange(30), rows, new, {"targets": "score", "target_shrinkage": 0.0})
    assert found.tolist() == [[*data.scores[3].tolist(), 0.25], [*data.scores[7].tolist(), 0.75]]


@pytest.mark.parametrize("groups", ["task", "cluster"])
def test_targets_are_moved_to_means(groups):
    data, trained, rows = routing_data(), list(range(5, 40)), list(range(0, 40, 3))
    new = np.linspace(0.2, 0.6, len(rows))
    settings = {"targets": "score", "target_shrinkage": 0.5, "target_groups": groups}
    found = targets_with(data, np.array(trained), np.array(rows), new, settings)
    for place, row in enumerate(rows):
        alike = [i for i in range(40) if groups == "task" or data.clusters[i] == data.clusters[row]]
        means = [np.mean([data.scores[i, t] for i in alike if i in trained]) for t in range(3)]
        better = [new[k] - np.mean(data.scores[i]) for k, i in enumerate(rows) if i in alike]
        means.append(np.mean(means) + np.mean(better))
        values = [*data.scores[row], new[place]]
        assert found[place] == pytest.approx([(mean + value) / 2 for mean, value in zip(means, values)], abs=1e-6)


# The embedding


def scored_at_random(rows: int = 30) -> tuple[torch.Tensor, Scored]:
    generator = torch.Generator().manual_seed(1)
    known = torch.randn(3, 8, generator=generator)
    weights = torch.rand(rows, generator=generator) + 0.5
    embedded, values = torch.randn(rows, 8, generator=generator), torch.rand(rows, 4, generator=generator)
    return known, Scored(embedded, values, weights * rows / weights.sum())


@pytest.mark.parametrize("loss", ["routerdc", "cosine_classifier", "zooter"])
@pytest.mark.parametrize("similarity", ["cos", "inner"])
def test_no_step_from_the_embedding_lowers_the_loss(similarity, loss):
    known, scored = scored_at_random()
    settings = SETTINGS | {"loss": loss}
    fitted = fit_embedding(known, similarity, scored, settings, "loss", 3.0)

    start = fit_embedding(known, similarity, scored, settings, "mean", 0)

    def total(embedding: torch.Tensor) -> float:
        llms = torch.cat([known, embedding[None]])
        similarities = scored.embedded @ llms.T
        moved = (embedding - start) / start.norm()
        if similarity == "cos":
            similarities = torch.cosine_similarity(scored.embedded[:, None], llms[None], dim=2)
            moved = embedding / embedding.norm() - start / start.norm()
        losses = losses_of(similarities, scored.targets, settings, 3)
        return float((losses * scored.weights).sum() + 1.5 * (moved**2).sum())

    generator = torch.Generator().manual_seed(2)
    for size in (0.01, 0.1, 1):
        for _ in range(20):
            step = torch.randn(8, generator=generator)
            assert total(fitted) <= total(fitted + size * step) + 1e-3 * size**2
    if similarity == "cos":
        assert float(fitted.norm()) == pytest.approx(float(known.norm(dim=1).mean()), rel=1e-5)


def test_all_others_stay_all_others():
    """With K- = T - 1 in training the old best is a negative of a new best: K- is T then."""
    similarity, values = torch.zeros(1, 4), torch.tensor([[0.1, 0.2, 0.8, 0.9]])
    of_four = losses_of(similarity, values, SETTINGS, 3)
    assert float(of_four) == pytest.approx(np.log(4))
    assert float(losses_of(similarity, values, SETTINGS | {"last_k": 1}, 3)) == pytest.approx(np.log(2))
    few = losses_of(similarity[:, 2:], values[:, 2:], SETTINGS | {"top_k": 3, "last_k": 3}, 1)  # more than there are
    assert float(few) == pytest.approx(2 * np.log(3))


def test_the_mean_is_weighted_by_how_much_better_the_new_one_is():
    known, scored = scored_at_random()
    expected = torch.zeros(8)
    for query, values, weight in zip(scored.embedded, scored.targets, scored.weights):
        expected += weight * (values[3] - values[:3].mean()) * query / query.norm()
    for method, penalty in (("mean", 0), ("loss", 1e6)):  # where a strong penalty leaves it
        fitted = fit_embedding(known, "cos", scored, SETTINGS, method, penalty)
        assert float(torch.cosine_similarity(fitted, expected, dim=0)) == pytest.approx(1, abs=1e-4)
        assert float(fitted.norm()) == pytest.approx(float(known.norm(dim=1).mean()), rel=1e-5)


# The command


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command: run("--llm", ...) -> (status, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        place = ["--device", "cpu", "--threads", "1", "--cache_dir", str(tmp_path / "cache")]
        status = main([*map(str, words), *place])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def without(trained, tmp_path_factory):
    """The checkpoint of `trained` without NEW."""
    folder = tmp_path_factory.mktemp("without") / "checkpoint"
    assert main(["--ckpt", str(trained.folder), "--remove", NEW, "--output", str(folder)]) == 0
    return folder


def new_scores(path, folder, change=lambda rows: rows):
    """A file with the scores of NEW alone, from a training file, under its name in another folder."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    alone = [{"question": row["question"], "scores": {NEW: row["scores"][NEW]}} for row in rows]
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_text(json.dumps(change(alone), ensure_ascii=False), encoding="utf-8")
    return folder / path.name


@torch.no_grad()
def similarities(model, texts):
    tokens = model.encoder.tokenize(texts)
    rows = [model.encoder(*tokens.padded(np.array([i]), int(tokens.lengths[i]))) for i in range(len(tokens))]
    return model(torch.cat(rows))[1].numpy()


TEXTS = [row["question"] for row in make_rows(60, "probability", 99)]


def test_removing_an_llm_is_choosing_among_the_others(trained, without):
    before, old = checkpoint.load(trained.folder)
    after, config = checkpoint.load(without)
    assert list(after.llms) == LEFT and config["changes"] == [{"removed": NEW}]
    assert after.llm_embeddings.weight.equal(before.llm_embeddings.weight[before.columns(LEFT)])
    found, expected = similarities(after, TEXTS), similarities(before, TEXTS)[:, before.columns(LEFT)]
    assert found == pytest.approx(expected, abs=1e-6) and (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    lines = old["calibration"]["llms"]
    assert config["calibration"]["llms"] == {llm: lines[llm] for llm in LEFT}
    assert config["best_llm"] in LEFT and "test" not in config and config["settings"] == old["settings"]


def test_a_new_llm_changes_nothing_among_the_old_ones(fake, without, run, tmp_path):
    paths = [new_scores(path, tmp_path / "new") for path in fake.train.values()]
    output = tmp_path / "with"
    status, out, err = run("--ckpt", without, "--llm", NEW, "--data_paths", *paths, "--output", output)
    assert status == 0, err
    assert f"{NEW} is added, fitted to 142 queries; 4 LLMs" in out and "6 of its 60 rows are not used" in err
    before, after = checkpoint.load(without)[0], checkpoint.load(output)[0]
    assert list(after.llms) == [*LEFT, NEW]
    changed = {name for name, value in after.state_dict().items() if not value.equal(before.state_dict()[name])}
    assert changed == {"llm_embeddings.weight"}
    assert after.llm_embeddings.weight[:3].equal(before.llm_embeddings.weight)
    found, expected = similarities(after, TEXTS)[:, :3], similarities(before, TEXTS)
    assert found == pytest.approx(expected, abs=1e-6) and (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    questions = [" ".join(random.Random(i).choices(TOPICS[2], k=5)) + "?" for i in range(20)]
    picks = similarities(after, questions).argmax(axis=1)
    assert (picks == 3).mean() >= 0.8  # the topic that it is the expert of
    others = [" ".join(random.Random(i).choices(TOPICS[i % 2], k=5)) + "?" for i in range(20)]
    assert (similarities(after, others).argmax(axis=1) == 3).mean() <= 0.2


def test_order_and_other_columns_do_not_matter(fake, without, run, tmp_path):
    path = fake.train["mmlu"]
    alone = new_scores(path, tmp_path / "a")
    rows = json.loads(path.read_text(encoding="utf-8"))[::-1]
    rows.append({"question": "another one", "scores": dict.fromkeys(LLMS, 0.5)})
    beside = tmp_path / path.name
    beside.write_text(json.dumps(rows), encoding="utf-8")
    found = []
    for data, output in ((alone, tmp_path / "one"), (beside, tmp_path / "two")):
        status, _, err = run("--ckpt", without, "--llm", NEW, "--data_paths", data, "--output", output)
        assert status == 0, err
        found.append(checkpoint.load(output)[0].llm_embeddings.weight[3])
    assert found[0].equal(found[1])
    assert "1 of its 41 rows are not used" in err


def test_calibration_and_costs_of_the_new_one(fake, without, run, tmp_path):
    def with_costs(rows):
        return [row | {"costs": {NEW: 0.001 * number}} for number, row in enumerate(rows)]

    folder = tmp_path / "priced"
    shutil.copytree(without, folder)
    config = checkpoint.read_config(folder)
    checkpoint.write_config(folder, config | {"costs": dict.fromkeys(LEFT, 0.5)})
    path = new_scores(fake.train["mmlu"], tmp_path / "new", with_costs)
    assert run("--ckpt", folder, "--llm", NEW, "--data_paths", path, "--output", tmp_path / "with")[0] == 0
    added = checkpoint.load(tmp_path / "with")[1]
    assert added["costs"] == pytest.approx(dict.fromkeys(LEFT, 0.5) | {NEW: 0.0195})
    assert added["calibration"]["llms"].keys() == set(LLMS)
    assert added["calibration"]["llms"][NEW]["slope"] > 0  # it is right where it is near
    plain = new_scores(fake.train["mmlu"], tmp_path / "new")
    status, _, err = run("--ckpt", folder, "--llm", NEW, "--data_paths", plain, "--output", tmp_path / "with")
    assert status == 0 and f"no costs of {NEW}" in err
    assert "costs" not in checkpoint.load(tmp_path / "with")[1]


def test_no_calibration_is_made_for_other_llms_than_trained(without, capsys):
    assert calibration.main(["--ckpt", str(without), "--device", "cpu"]) == 2
    assert "its LLMs were changed after training (utils.add_llm)" in capsys.readouterr().err


def test_the_run_s_own_tests_go_on(without, script):
    evaluated = script("evaluation_router.py", "--ckpt", without, "--device", "cpu")
    assert evaluated.returncode == 0 and "gamma-8b" not in evaluated.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--llm", LEFT[0], "--data_paths", "x.json"], f"--llm {LEFT[0]}: it is there already, the router knows"),
        (["--remove", "org/none"], "--remove org/none: no such LLM, the router knows"),
        (["--remove", LEFT[0], "--data_paths", "x.json"], "--data_paths goes with --llm"),
        (["--llm", NEW], "--llm needs --data_paths"),
        ([], "give --llm NAME with --data_paths, or --remove NAME"),
        (["--llm", NEW, "--data_paths", "poems.json"], "stands for the task 'poems', and the training files are for"),
        (["--llm", NEW, "--data_paths", "mmlu_train.json"], "mmlu_train.json: no such file"),
    ],
)
def test_what_cannot_be_done_is_named(without, run, tmp_path, words, message):
    status, _, err = run("--ckpt", without, *words, "--output", tmp_path / "out")
    assert status == 2 and err.startswith("error: ") and message in err
    assert not (tmp_path / "out").exists()


def test_scores_that_say_nothing_are_named(fake, without, run, tmp_path):
    def alike(rows):
        return [row | {"scores": {NEW: 0.5}} for row in rows]

    def others(rows):
        return [row | {"question": row["question"] + " indeed"} for row in rows]

    problems = {alike: f"--llm {NEW}: all 40 scores are 0.5", others: "none of the questions stands in the training"}
    for change, message in problems.items():
        path = new_scores(fake.train["mmlu"], tmp_path / "new", change)
        status, _, err = run("--ckpt", without, "--llm", NEW, "--data_paths", path, "--output", tmp_path / "out")
        assert status == 2 and message in err


def test_folders_of_others_and_full_disks(fake, without, run, tmp_path, monkeypatch):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("mine")
    status, _, err = run("--ckpt", without, "--remove", LEFT[0], "--output", taken)
    assert status == 2 and "no checkpoint wrote thesis.tex" in err

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    status, _, err = run("--ckpt", without, "--remove", LEFT[0], "--output", tmp_path / "out")
    assert status == 2 and "No space left on device" in err and not (tmp_path / "out").exists()


def test_two_llms_are_the_least(without, run, tmp_path):
    assert run("--ckpt", without, "--remove", LEFT[0], "--output", tmp_path / "two")[0] == 0
    status, _, err = run("--ckpt", tmp_path / "two", "--remove", LEFT[1], "--output", tmp_path / "one")
    assert status == 2 and "one LLM would be left" in err


def test_files_that_changed_since_training_are_named(fake, without, run, tmp_path):
    config = checkpoint.read_config(without)
    config["settings"]["data"] = dict.fromkeys(config["settings"]["data"], "0" * 64)
    folder = tmp_path / "changed"
    shutil.copytree(without, folder)
    checkpoint.write_config(folder, config)
    path = new_scores(fake.train["mmlu"], tmp_path / "new")
    status, _, err = run("--ckpt", folder, "--llm", NEW, "--data_paths", path, "--output", tmp_path / "out")
    assert status == 2 and "is not the file that the run" in err
    assert config["best_llm"] in LEFT
