"""utils/checkpoint.py and utils/model.py: what is saved is what comes back, without a pickle; damage is named, never half a folder."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from conftest import LLMS
from safetensors.torch import load_file, save_file
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
TEXT = [
    *QUESTIONS,
    "ｗｈｉｃｈ　ｒｉｖｅｒ？",
    "诗人",
]  # full-width: what a tokenizer's normalisation is for; a query beyond max_length is among QUESTIONS


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


WRONG = [  # keys of the config, and what may not stand there
    ("encoder", None), ("pooling", ["mean"]), ("max_length", "40"), ("max_length", True), ("similarity_function", ["cos"]), ("head", None), ("llms", None),
    ("llms", []), ("llms", "org/alpha-7b"), ("llms", [*LLMS[:3], 4]), ("llms", [*LLMS[:3], LLMS[0]]), ("router", None), ("precision", "fp8"), ("tests", None),
    ("tests", ["mbpp.json"]), ("tests", [{"path": "mbpp.json"}]), ("settings", []), ("settings", None), ("settings.data_paths", None), ("settings.freeze_encoder", 1),
    ("settings.keep_characters", "middle"),
    ("settings.train_layers", "2"), ("settings.max_characters", "1400"), ("settings.missing_cells", None), ("settings.cost_rate", None), ("settings.dataset", []),
]  # fmt: skip


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

    for module, name in (
        (torch, "save"),
        (torch, "load"),
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "dump"),
        (pickle, "dumps"),
        (pickle, "Unpickler"),
        (pickle, "Pickler"),
    ):
        monkeypatch.setattr(module, name, forbidden)
    checkpoint.save(model, tmp_path / "checkpoint", ABOUT)
    found, config = checkpoint.load(tmp_path / "checkpoint")
    assert not found.training and found.llms == LLMS
    assert (config["encoder"], config["pooling"], config["max_length"], config["llms"]) == (
        str(source),
        pooling,
        40,
        list(LLMS),
    )
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


def test_damage_is_named(saved):
    folder = saved[1]
    weights, config = (folder / "model.safetensors").read_bytes(), (folder / "config.json").read_text()

    def message() -> str:
        with pytest.raises(CheckpointError) as error:
            checkpoint.load(folder)
        assert str(folder) in str(error.value) and "damaged" in str(error.value)
        return str(error.value)

    for size in (0, 5, len(weights) // 2, len(weights) - 1):
        (folder / "model.safetensors").write_bytes(weights[:size])
        message()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(config[: len(config) // 2])
    assert "not valid JSON" in message()
    for key in (
        "encoder",
        "pooling",
        "max_length",
        "similarity_function",
        "head",
        "llms",
        "router",
        "precision",
        "tests",
        "settings",
    ):
        (folder / "config.json").write_text(
            json.dumps({name: value for name, value in json.loads(config).items() if name != key})
        )
        assert (
            message()
            == f"{folder / 'config.json'}: {key} is missing; the checkpoint is damaged, train or copy it again"
        )
    for key in ("data_paths", "freeze_encoder", "train_layers"):
        (folder / "config.json").write_text(
            json.dumps(
                json.loads(config) | {"settings": {name: value for name, value in SETTINGS.items() if name != key}}
            )
        )
        assert message().startswith(f"{folder / 'config.json'}: settings.{key} is missing; ")
    for key, value in WRONG:
        found = json.loads(config)
        (found["settings"] if key.startswith("settings.") else found)[key.removeprefix("settings.")] = value
        (folder / "config.json").write_text(json.dumps(found))
        assert message().startswith(f"{folder / 'config.json'}: {key} is {json.dumps(value)}, it must be "), (
            key,
            value,
        )
    (folder / "config.json").write_text(config.replace(f'"{LLMS[0]}",', ""))  # one LLM less than the weights have
    assert "llm_embeddings" in message()
    (folder / "config.json").write_text(config)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("llm_embeddings.weight")
    save_file(tensors, folder / "model.safetensors")
    assert "llm_embeddings.weight" in message()
    (folder / "model.safetensors").write_bytes(weights)
    checkpoint.load(folder)  # undamaged again
    for name, text in (
        ("tokenizer.json", '{"version": 1}'),
        ("tokenizer_config.json", "[]"),
        ("config.json", '{"model_type": "bert", "hidden_size": null}'),
    ):
        before = (folder / "encoder" / name).read_text()
        (folder / "encoder" / name).write_text(text)
        message()
        (folder / "encoder" / name).write_text(before)
    checkpoint.load(folder)
    (folder / "encoder" / "config.json").unlink()
    message()


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
    np.testing.assert_allclose(
        similarity.detach(), expected @ weights["llm_embeddings.weight"].double().numpy().T, rtol=1e-3, atol=1e-3
    )


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
