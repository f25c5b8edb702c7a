"""utils/router.py: the picks of evaluation in three lines of Python, for any number of queries and threads; the hub."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import LLMS, REPO, make_rows
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from utils import router as router_module
from utils.checkpoint_files import CheckpointError, write_config
from utils.experiment import choose_hardware
from utils.router import HubError, Router
from utils.torch_backend import keep_weights_in_bf16

QUERIES = [row["question"] for row in make_rows(40, "probability", 31)] + ["诗人 唐代?", "a" * 500]
LINES = {llm: {"slope": 2.0 + t, "intercept": 0.1 * t} for t, llm in enumerate(LLMS)}
CALIBRATION = {"llms": LINES, "temperature": 1.0}
COSTS = dict(zip(LLMS, (0.5, 0.1, 0.9, 0.2)))


@pytest.fixture(scope="module")
def router(trained) -> Router:
    return Router.from_pretrained(trained.folder, device="cpu", precision="fp32")


@pytest.fixture
def informed(router) -> Router:
    """The same router with all that a training run may know of it."""
    known = {"calibration": CALIBRATION, "costs": COSTS, "best_llm": LLMS[1]}
    return Router(router.folder, {**router.config, **known}, router.engine)


@pytest.fixture
def bare(router) -> Router:
    """The same router without any of that."""
    known = ("calibration", "costs", "best_llm")
    return Router(router.folder, {key: value for key, value in router.config.items() if key not in known}, None)


@torch.no_grad()
def one_by_one(folder: Path) -> np.ndarray:
    """Similarities of QUERIES from the files alone: transformers' model, first token, no batch and no padding."""
    weights = load_file(folder / "model.safetensors")
    prefix = "encoder.backbone."
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder / "encoder"), add_pooling_layer=False).eval()
    model.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items() if prefix in name})
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    llms = torch.nn.functional.normalize(weights["llm_embeddings.weight"])
    rows = []
    for query in QUERIES:
        ids = tokenizer(query)["input_ids"]
        ids = [ids[0], *ids[1:][-63:]] if len(ids) > 64 else ids
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0, 0]
        rows.append(torch.nn.functional.normalize(hidden, dim=0) @ llms.T)
    return torch.stack(rows).numpy()


def test_similarities_are_those_of_the_files(router):
    expected = one_by_one(router.folder)
    assert np.allclose(router.scores(QUERIES), expected, atol=1e-5)
    assert router.llms == LLMS and router.route(QUERIES) == [LLMS[best] for best in expected.argmax(axis=1)]
    left = [LLMS[3], LLMS[1]]
    assert np.allclose(router.scores(QUERIES, left), expected[:, [3, 1]], atol=1e-5)
    assert router.route(QUERIES, left) == [left[best] for best in expected[:, [3, 1]].argmax(axis=1)]
    assert len(set(router.route(QUERIES))) > 2  # the test can fail


def test_picks_are_those_of_the_training_run(router, trained, fake):
    picks = json.loads((trained.folder / "picks.json").read_text())
    for task, path in fake.test.items():
        questions = [row["question"] for row in json.loads(path.read_text())]
        assert router.route(questions) == [picks["LLMs"][pick] for pick in picks[task]]


def test_a_querys_result_depends_on_no_other(router, monkeypatch):
    """Alone, among others, in another order, and in batches of another size: but for the last digits."""
    together = router.scores(QUERIES)
    alone = np.concatenate([router.scores([query]) for query in QUERIES])
    backwards = router.scores(QUERIES[::-1])[::-1]
    monkeypatch.setattr(router_module, "BATCH", 7)
    for found in (alone, backwards, router.scores(QUERIES)):
        np.testing.assert_allclose(found, together, atol=2e-6)
    assert np.allclose(router.embed(QUERIES), np.concatenate([router.embed([query]) for query in QUERIES]), atol=2e-5)


def test_eight_threads_get_what_one_gets(router):
    orders = [np.random.default_rng(seed).permutation(len(QUERIES)) for seed in range(48)]
    together = router.scores(QUERIES)
    with ThreadPoolExecutor(8) as threads:
        for order, found in zip(orders, threads.map(lambda order: router.scores([QUERIES[i] for i in order]), orders)):
            np.testing.assert_allclose(found, together[order], atol=2e-6)


def test_weights_kept_in_bf16_give_the_digits_of_autocast(trained):
    """To the last one: autocast makes the same weights at every call."""
    hardware = choose_hardware("cpu", "bf16")
    once, always = (Router.from_pretrained(trained.folder, device="cpu", precision="fp32") for _ in range(2))
    for router in (once, always):
        router.engine.hardware = hardware
    keep_weights_in_bf16(once.engine.model.encoder.backbone)
    assert (once.scores(QUERIES) == always.scores(QUERIES)).all()
    bf16 = Router.from_pretrained(trained.folder, device="cpu", precision="bf16")
    assert (bf16.scores(QUERIES) == once.scores(QUERIES)).all()
    assert (bf16.scores(QUERIES) != Router.from_pretrained(trained.folder, precision="fp32").scores(QUERIES)).any()


def test_costs_and_thresholds_are_chosen_for_each_request(informed):
    """By a plain loop over queries and LLMs."""
    similarities = informed.scores(QUERIES)
    right = informed.probabilities(QUERIES)
    by_hand = [[1 / (1 + np.exp(-((2.0 + t) * s + 0.1 * t))) for t, s in enumerate(row)] for row in similarities]
    np.testing.assert_allclose(right, by_hand, atol=1e-6)
    for rate in (0.3, 5.0):
        worth = [[p - rate * COSTS[llm] for p, llm in zip(row, LLMS)] for row in by_hand]
        np.testing.assert_allclose(informed.scores(QUERIES, cost_rate=rate), worth, atol=1e-6)
        expected = [LLMS[max(range(4), key=row.__getitem__)] for row in worth]
        assert informed.route(QUERIES, cost_rate=rate) == expected
    assert set(informed.route(QUERIES, cost_rate=1000)) == {LLMS[1]}  # the cheapest
    threshold = float(np.median(right[np.arange(len(QUERIES)), similarities.argmax(axis=1)]))
    sure = []
    for row, p in zip(similarities, right):
        best = int(row.argmax())
        sure.append(LLMS[best] if p[best] >= threshold else LLMS[1])
    assert informed.route(QUERIES, threshold=threshold) == sure != informed.route(QUERIES)
    assert informed.route(QUERIES, threshold=0) == informed.route(QUERIES)
    with pytest.raises(ValueError, match="best single LLM, and it is not among llms"):
        informed.route(QUERIES, [LLMS[0], LLMS[2]], threshold=0.5)


def test_what_a_checkpoint_lacks_is_said(bare):
    rows = np.zeros((1, 4))
    for call, key in (
        (lambda: bare.choose(rows, cost_rate=1), "costs"),
        (lambda: bare.choose(rows, threshold=0.5), "best_llm"),
        (lambda: bare.calibrated(rows), "calibration"),
    ):
        with pytest.raises(ValueError, match=f"needs '{key}' in .*config.json, which has none. `python -m utils.calib"):
            call()


def test_queries_that_cannot_be_routed(router):
    for queries, message in (
        (["one?", " \n"], "queries: number 1 is empty; give the text that an LLM would get"),
        (["one?", "\udcff"], "queries: number 1 is not valid UTF-8"),
        ("one?", "queries is one text; give a list of them"),
    ):
        with pytest.raises(ValueError, match=message):
            router.route(queries)
    for llms in (["lab/psi"], [], [LLMS[0], LLMS[0]], LLMS[0]):
        with pytest.raises(ValueError, match="the router was not trained with lab/psi; it knows|different names among"):
            router.route(QUERIES, llms)
    for rate in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="cost_rate is"):
            router.scores(QUERIES, cost_rate=rate)
    assert router.route([]) == [] and router.scores([]).shape == (0, 4)
    with pytest.raises(ValueError, match="the backend is 'tpu'; it must be one of torch, onnx"):
        Router.from_pretrained(router.folder, backend="tpu")


def test_names_that_no_router_has(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="no checkpoint there .* Give the --save_path of a finished training run"):
        Router.from_pretrained(tmp_path / "none")
    with pytest.raises(CheckpointError) as error:  # the hub is off in tests
        Router.from_pretrained("nobody/nothing")
    text = str(error.value)
    assert text.startswith("router nobody/nothing: there is no such folder, and the model hub gave no router")
    assert "--save_path" in text and "`hf download nobody/nothing --local-dir DIR`" in text and "\n" not in text


def test_a_hub_name_is_downloaded_and_loaded(router, monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(name)
        assert "config.json" in allow_patterns and "model.safetensors" in allow_patterns
        return str(shutil.copytree(router.folder, tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = Router.from_pretrained("owner/name", device="cpu", precision="fp32")
    assert asked == ["owner/name"] and (found.scores(QUERIES) == router.scores(QUERIES)).all()


def test_a_saved_router_loads_again_and_has_a_card(router, tmp_path):
    folder = router.save_pretrained(tmp_path / "saved")
    assert (Router.from_pretrained(folder, precision="fp32").scores(QUERIES) == router.scores(QUERIES)).all()
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "routerdc" and "llm-routing" in card.data.tags and card.data.license == "other"
    for words in ('from_pretrained("saved")', *LLMS, "| seed ", "gsm8k-train.json", "Table 1", "chen2024routerdc"):
        assert words in card.text
    digests = router.config["settings"]["data"].values()
    assert any(digest in card.text for digest in digests) and str(tmp_path) not in card.text
    router.save_pretrained(folder)  # once more in the same place
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no router wrote notes.txt"):
        router.save_pretrained(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_a_checkpoint_that_changed_is_not_saved(router, tmp_path):
    copy = shutil.copytree(router.folder, tmp_path / "copy")
    loaded = Router.from_pretrained(copy, device="cpu", precision="fp32")
    write_config(copy, {**loaded.config, "recipe": "another"})
    with pytest.raises(CheckpointError, match="another one by now"):
        loaded.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_push_to_hub_uploads_the_folder(router, tmp_path, monkeypatch):
    """A stand-in for the hub that keeps what it gets."""
    calls = []

    class HfApi:
        def __init__(self, token=None):
            calls.append(token)

        def create_repo(self, repo_id, private, exist_ok):
            calls.append((repo_id, private, exist_ok))
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / repo_id)

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "HfApi", HfApi)
        assert router.push_to_hub("owner/name", private=False, token="secret") == "https://hub/owner/name"
    assert calls == ["secret", ("owner/name", False, True)]
    found = Router.from_pretrained(tmp_path / "owner/name", device="cpu", precision="fp32")
    assert (found.scores(QUERIES) == router.scores(QUERIES)).all()
    assert 'from_pretrained("owner/name")' in (tmp_path / "owner/name/README.md").read_text()
    with pytest.raises(HubError, match="push_to_hub owner/name: .*hf auth login.* `hf upload owner/name DIR`"):
        router.push_to_hub("owner/name")


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys; from utils.router import Router; import utils.route; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "tyro", "pandas", "sklearn", "scipy", "huggingface_hub", "onnxruntime"}
    assert "utils.router" in run.stdout.split() and heavy.isdisjoint(run.stdout.split())
