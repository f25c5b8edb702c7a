"""utils/checkpoint.py and utils/model.py: what is saved is what comes back, without a pickle.

Damage is named, and there is never half a folder.
"""

import contextlib
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from conftest import LLMS
from safetensors.torch import load_file, save
from test_encoders import QUESTIONS, SMALL

from utils import checkpoint
from utils.checkpoint import CheckpointError
from utils.encoders import Queries, load_encoder
from utils.model import RouterDC

SETTINGS = {"data_paths": ["gsm8k-train.json"], "freeze_encoder": False, "train_layers": None, "seed": 1}
ABOUT = {
    "router": "RouterDC",
    "precision": "fp32",
    "tests": [{"path": "mbpp.json", "kind": "multi_attempt"}],
    "settings": SETTINGS,
}  # what a run adds
# Full-width letters are what a tokenizer's normalisation is for; a query beyond max_length is among QUESTIONS.
TEXT = [*QUESTIONS, "ｗｈｉｃｈ　ｒｉｖｅｒ？", "诗人"]
DAMAGED = "the checkpoint is damaged, train or copy it again"


def router(folder, similarity="cos", head=False, pooling="mean") -> RouterDC:
    torch.manual_seed(5)
    model = RouterDC(load_encoder(str(folder), pooling, 40), LLMS, similarity, head)
    with torch.no_grad():
        for parameter in model.parameters():  # not the weights that a fresh model starts from
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def similarities(model: RouterDC) -> torch.Tensor:
    return model(Queries(model.encoder, TEXT, SMALL, "all").embed())[1]


@pytest.fixture
def saved(tiny_bert, tmp_path):
    model = router(tiny_bert)
    checkpoint.save(model, tmp_path / "run" / "checkpoint", ABOUT | {"note": "ünï"})
    return model, tmp_path / "run" / "checkpoint"


NEEDED = (
    *("encoder", "pooling", "max_length", "similarity_function", "head", "llms", "router", "precision", "tests"),
    *("settings", "settings.data_paths", "settings.freeze_encoder", "settings.train_layers"),
)
WRONG = {  # keys of the config, and values that may not stand there
    "encoder": [None],
    "pooling": [["mean"]],
    "max_length": ["40", True],
    "similarity_function": [["cos"]],
    "head": [None],
    "llms": [None, [], "org/alpha-7b", [*LLMS[:3], 4], [*LLMS[:3], LLMS[0]]],
    "router": [None],
    "precision": ["fp8"],
    "tests": [None, ["mbpp.json"], [{"path": "mbpp.json"}]],
    "settings": [[], None],
    "settings.data_paths": [None],
    "settings.freeze_encoder": [1],
    "settings.train_layers": ["2"],
    "settings.max_characters": ["1400"],
    "settings.keep_characters": ["middle"],
    "settings.missing_cells": [None],
    "settings.cost_rate": [None],
    "settings.dataset": [[]],
}


@pytest.mark.parametrize("encoder", ["tiny_bert", "tiny_deberta"])
@pytest.mark.parametrize(("similarity", "head", "pooling"), [("cos", False, "first"), ("inner", True, "mean")])
def test_round_trip(encoder, similarity, head, pooling, request, tmp_path, monkeypatch):
    """Bit-equal similarities, nothing pickled on the way, and no look at the folder that the encoder came from."""
    folder = request.getfixturevalue(encoder)
    source = shutil.copytree(folder, tmp_path / "encoder")
    model = router(source, similarity, head, pooling)
    shutil.rmtree(source)
    tokens = model.encoder.tokenize(TEXT).values.tolist()

    def forbidden(*args, **kwargs):
        raise AssertionError("a pickle")

    for name in ("save", "load"):
        monkeypatch.setattr(torch, name, forbidden)
    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    checkpoint.save(model, tmp_path / "checkpoint", ABOUT)
    found, config = checkpoint.load(tmp_path / "checkpoint")
    assert not found.training and found.llms == LLMS
    of_encoder = (config["encoder"], config["pooling"], config["max_length"], config["llms"])
    assert of_encoder == (str(source), pooling, 40, list(LLMS))
    for module in (model, found):
        module.encoder.place(SMALL)
    assert torch.equal(similarities(found), similarities(model))
    assert found.encoder.tokenize(TEXT).values.tolist() == tokens


def test_the_folder_holds_safetensors_json_and_a_tokenizer(saved):
    model, folder = saved
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        "config.json",
        "encoder/config.json",
        "encoder/tokenizer.json",
        "encoder/tokenizer_config.json",
        "model.safetensors",
    ]
    assert load_file(folder / "model.safetensors").keys() == model.state_dict().keys()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["settings"] == SETTINGS and config["note"] == "ünï" and config["format"] == checkpoint.FORMAT


def test_a_runs_folder_stands_for_its_checkpoint(saved):
    model, folder = saved
    assert torch.equal(similarities(checkpoint.load(folder.parent)[0]), similarities(checkpoint.load(str(folder))[0]))


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint there .*config.json and model.safetensors are missing"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("config", [{"format": "someone-elses-2"}, {}, []])
def test_another_format(saved, config):
    folder = saved[1]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(folder)
    found = config.get("format") if config else None
    assert f"{folder / 'config.json'}: format is {found!r}, this code reads 'routerdc-checkpoint-1'" in str(error.value)


def message_of(folder) -> str:
    """What loading a damaged checkpoint says."""
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(folder)
    assert str(folder) in str(error.value) and "damaged" in str(error.value)
    return str(error.value)


@contextlib.contextmanager
def file_with(path, content: bytes):
    """A block in which a file has another content; afterwards it loads as before."""
    before = path.read_bytes()
    path.write_bytes(content)
    yield
    path.write_bytes(before)
    checkpoint.load(path.parent if path.parent.name == "checkpoint" else path.parent.parent)


def test_damaged_weights_are_named(saved):
    weights = saved[1] / "model.safetensors"
    content = weights.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 1):
        with file_with(weights, content[:size]):
            message_of(saved[1])
    tensors = load_file(weights)
    tensors.pop("llm_embeddings.weight")
    with file_with(weights, save(tensors)):
        assert "llm_embeddings.weight" in message_of(saved[1])


def test_a_damaged_config_is_named(saved):
    path = saved[1] / "config.json"
    text = path.read_text()
    with file_with(path, text[: len(text) // 2].encode()):
        assert "not valid JSON" in message_of(saved[1])
    with file_with(path, text.replace(f'"{LLMS[0]}",', "").encode()):  # one LLM less than the weights have
        assert "llm_embeddings" in message_of(saved[1])


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_key_is_named(saved, key):
    path = saved[1] / "config.json"
    config = json.loads(path.read_text())
    values = config["settings"] if key.startswith("settings.") else config
    del values[key.removeprefix("settings.")]
    path.write_text(json.dumps(config))
    assert message_of(saved[1]) == f"{path}: {key} is missing; {DAMAGED}"


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_named(saved, key):
    path = saved[1] / "config.json"
    text = path.read_text()
    for value in WRONG[key]:
        config = json.loads(text)
        values = config["settings"] if key.startswith("settings.") else config
        values[key.removeprefix("settings.")] = value
        path.write_text(json.dumps(config))
        assert message_of(saved[1]).startswith(f"{path}: {key} is {json.dumps(value)}, it must be "), value


def test_a_damaged_encoder_is_named(saved):
    encoder = saved[1] / "encoder"
    for name, text in (
        ("tokenizer.json", '{"version": 1}'),
        ("tokenizer_config.json", "[]"),
        ("config.json", '{"model_type": "bert", "hidden_size": null}'),
    ):
        with file_with(encoder / name, text.encode()):
            message_of(saved[1])
    (encoder / "config.json").unlink()
    message_of(saved[1])


@pytest.mark.parametrize("stage", ["write_json", "save_file"])
def test_an_interrupted_save_leaves_the_old_checkpoint(saved, stage, monkeypatch):
    model, folder = saved
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    with torch.no_grad():
        model.llm_embeddings.weight.add_(1)

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, stage, stop)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(model, folder, {})
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before
    checkpoint.save(model, folder, ABOUT)
    assert torch.equal(similarities(checkpoint.load(folder)[0]), similarities(model))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["checkpoint"]  # no remains


# The router itself


def test_the_router_is_the_similarity_to_each_llm(tiny_bert):
    model = router(tiny_bert, "inner", head=True)
    embedded = torch.randn(3, 32)
    queries, similarity = model(embedded)
    weights = model.state_dict()
    expected = embedded.double().numpy() @ weights["head.weight"].double().numpy().T
    np.testing.assert_allclose(queries.detach(), expected, rtol=1e-4, atol=1e-4)
    products = expected @ weights["llm_embeddings.weight"].double().numpy().T
    np.testing.assert_allclose(similarity.detach(), products, rtol=1e-3, atol=1e-3)


def test_a_fresh_head_changes_nothing(tiny_bert):
    model = RouterDC(load_encoder(str(tiny_bert), max_length=64), LLMS, head=True)
    embedded = torch.randn(3, 32)
    assert torch.equal(model(embedded)[0], embedded)


def test_columns_go_by_name(tiny_bert):
    model = router(tiny_bert)
    assert model.columns(["lab/delta", "org/alpha-7b"]) == [3, 0]
    with pytest.raises(ValueError, match="was not trained with lab/omega; it knows org/alpha-7b, org/beta-7b"):
        model.columns(["org/alpha-7b", "lab/omega"])
    with pytest.raises(ValueError, match="--similarity_function is 'l2'; it must be one of cos, inner"):
        RouterDC(model.encoder, LLMS, "l2")
