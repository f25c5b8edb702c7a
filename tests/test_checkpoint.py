"""utils/checkpoint.py and utils/model.py: what is saved is what comes back, without a pickle.

Damage is named, and there is never half a folder.
"""

import contextlib
import hashlib
import io
import json
import pickle
import resource
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import LLMS
from safetensors.torch import load_file, save_file
from test_encoders import QUESTIONS, SMALL, hostile

import evaluation_router as program
from utils import checkpoint
from utils.checkpoint_files import CheckpointError, content_hash
from utils.encoders import Given, Queries, load_encoder
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
    "settings.data_type": ["probability", [], ["score"]],
    "settings.data": [[], {"mbpp.json": 7}],
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


def test_a_router_of_given_embeddings(tmp_path):
    """It has no encoder folder, and its weights are checked as all others are."""
    model = RouterDC(Given(6), LLMS, "inner", head=True)
    with torch.no_grad():
        model.head.weight.add_(torch.randn(6, 6))
    checkpoint.save(model, tmp_path / "checkpoint", ABOUT)
    found, config = checkpoint.load(tmp_path / "checkpoint")
    embedded = torch.randn(3, 6)
    assert torch.equal(found(embedded)[1], model(embedded)[1]) and list(config["files"]) == ["model.safetensors"]
    changed(tmp_path / "checkpoint", lambda weights: weights["head.weight"][2:3].fill_(float("inf")))
    assert "it is not as it was saved" in message_of(tmp_path / "checkpoint")
    checkpoint.write_config(tmp_path / "checkpoint", config)
    assert "head.weight has values that are not finite" in message_of(tmp_path / "checkpoint")


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


def older(folder) -> None:
    """Makes a checkpoint one from before there were digests."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in ("files", "sha256")}))


def changed(folder, change) -> None:
    """Changes the weights of a checkpoint, all but its digests."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_damaged_weights_are_named(saved):
    weights = saved[1] / "model.safetensors"
    content = weights.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 1):
        with file_with(weights, content[:size]):
            assert "model.safetensors: it is not as it was saved" in message_of(saved[1])
    place = content.index(b"}}") + 1000  # among the values, where nothing but the digest can tell
    with file_with(weights, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]):
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        assert f"{weights}: it is not as it was saved (SHA-256 is {found})" in message_of(saved[1])


def test_a_damaged_config_is_named(saved):
    path = saved[1] / "config.json"
    text = path.read_text()
    for damaged in (
        text[: len(text) // 2],
        "[" * 100_000,
        text.replace('"max_length": 40', '"max_length": ' + 5000 * "4"),
    ):
        with file_with(path, damaged.encode()):
            assert "not valid JSON" in message_of(saved[1])
    with file_with(path, b"\xff\xfe" + text.encode("utf-16-le")):
        assert "not valid JSON" in message_of(saved[1])


EDITS = {
    "llms": LLMS[::-1],
    "pooling": "first",
    "max_length": 39,
    "similarity_function": "inner",
    "head": True,
    "encoder": "given",
    "precision": "bf16",
    "tests": [{"path": "mbpp.json", "kind": "probability"}],
    "settings": SETTINGS | {"max_characters": 9},
    "note": "another",
    "files": {},
    "sha256": 64 * "0",
}


@pytest.mark.parametrize("key", EDITS)
def test_an_edited_config_is_refused(saved, key):
    """Whatever it would change; also with one of the digests removed, though not for other spaces and order."""
    path = saved[1] / "config.json"
    config = json.loads(path.read_text())
    with file_with(path, json.dumps(dict(sorted(config.items())), indent=4).encode()):
        checkpoint.load(saved[1])
    for edited in (config | {key: EDITS[key]}, {name: value for name, value in config.items() if name != key}):
        with file_with(path, json.dumps(edited).encode()):
            message = message_of(saved[1])
            assert "it is not as it was saved" in message or f"{path}: {key} is missing" in message


def test_missing_foreign_and_exchanged_files_are_named(saved, tiny_deberta, tmp_path):
    folder = saved[1]
    for path in (folder / "encoder").iterdir():
        with file_with(path, b""):
            path.unlink()
            assert f"{path}: no such file" in message_of(folder)
    (folder / "encoder" / ".hidden").write_text("some systems leave such files in every folder")
    checkpoint.load(folder)
    foreign = folder / "encoder" / "added_tokens.json"
    foreign.write_text('{"river": 7}')
    with pytest.raises(CheckpointError, match="added_tokens.json: it is not of this checkpoint; remove it"):
        checkpoint.load(folder)
    foreign.unlink()
    checkpoint.save(router(tiny_deberta), tmp_path / "other", ABOUT)
    for name in ("tokenizer.json", "config.json"):
        with file_with(folder / "encoder" / name, (tmp_path / "other" / "encoder" / name).read_bytes()):
            assert f"{name}: it is not as it was saved" in message_of(folder)


def test_a_checkpoint_without_digests_loads_with_a_note(saved, capsys):
    model, folder = saved
    checkpoint.load(folder)
    assert capsys.readouterr().err == ""
    before = content_hash(folder)
    older(folder)
    assert torch.equal(similarities(checkpoint.load(folder)[0]), similarities(model))
    assert capsys.readouterr().err.startswith(f"note: {folder} has no digests")
    assert content_hash(folder) == before
    (folder / "encoder" / "tokenizer.json").unlink()
    assert f"{folder / 'encoder' / 'tokenizer.json'}: no such file" in message_of(folder)
    checkpoint.write_config(folder, json.loads((folder / "config.json").read_text()))
    assert f"{folder / 'encoder' / 'tokenizer.json'}: no such file" in message_of(folder)


CHANGES = {
    "llm_embeddings.weight is missing": lambda weights: weights.pop("llm_embeddings.weight"),
    "more is not of this router": lambda weights: weights.update(more=torch.zeros(2)),
    "llm_embeddings.weight is torch.float32 (3, 32)": lambda weights: weights.update(
        {"llm_embeddings.weight": weights["llm_embeddings.weight"][:3].clone()}
    ),
    "llm_embeddings.weight is torch.float16 (4, 32)": lambda weights: weights.update(
        {"llm_embeddings.weight": weights["llm_embeddings.weight"].half()}
    ),
    "llm_embeddings.weight has values that are not finite": lambda weights: weights["llm_embeddings.weight"][
        2, 7:9
    ].fill_(float("nan")),
    "word_embeddings.weight has values that are not finite": lambda weights: weights[
        "encoder.backbone.embeddings.word_embeddings.weight"
    ][9, 7:9].fill_(float("-inf")),
}


@pytest.mark.parametrize("words", CHANGES)
@pytest.mark.parametrize("digests", ["none", "new"])
def test_weights_that_do_not_fit_the_configs_are_refused(saved, words, digests):
    folder = saved[1]
    changed(folder, CHANGES[words])
    older(folder)
    if digests == "new":  # of who made them wrong
        checkpoint.write_config(folder, json.loads((folder / "config.json").read_text()))
    message = message_of(folder)
    assert words in message or (words.endswith("weight is missing") and "llm_embeddings.weight" in message)


SIZES = {
    "num_hidden_layers": [10**30, 2**40, 2**20, 900, 2, -1, 1e30],
    "vocab_size": [10**30, 2**40, 2**20, 7],
    "hidden_size": [10**30, 2**40, 2**20, 64],
    "max_position_embeddings": [10**30, 2**40, 2**20],
    "intermediate_size": [10**30, 2**40, 2**20],
    "num_labels": [10**30, 2**40, 2**20],
    "num_attention_heads": [-1, 3],
    "id2label": [{"0": 10**30}],
}


@pytest.mark.parametrize("key", SIZES)
def test_sizes_are_bounded_before_memory_is_taken(saved, key):
    """Also where the digests are right, as of who makes a checkpoint to do harm: little time and memory are taken."""
    folder = saved[1]
    path = folder / "encoder" / "config.json"
    text = path.read_text()
    for value in SIZES[key]:
        path.write_text(json.dumps(json.loads(text) | {key: value}))
        checkpoint.write_config(folder, json.loads((folder / "config.json").read_text()))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        message_of(folder)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, value  # in KB


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("entry", ["AutoConfig", "AutoModel", "AutoTokenizer"])
def test_a_checkpoint_runs_no_code_and_asks_nothing(saved, tmp_path, monkeypatch, file, entry):
    """Not even one whose digests are right."""
    folder = saved[1]
    hostile(folder / "encoder", tmp_path / "ran", file, entry)
    checkpoint.write_config(folder, json.loads((folder / "config.json").read_text()))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    assert f"{file} names code of its own (auto_map), which is never run" in message_of(folder)
    assert not (tmp_path / "ran").exists() and sys.stdin.tell() == 0


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


@pytest.mark.parametrize("stage", ["write_config", "save_file"])
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


# Checkpoints that name their encoder


@pytest.mark.parametrize("flags", [{"freeze_encoder": True}, {"train_layers": 1}])
def test_a_checkpoint_that_names_its_encoder_is_smaller_and_the_same(train, flags):
    flags = {"training_steps": 2, "eval_steps": 2, **flags}
    whole, named = train("whole", **flags), train("named", checkpoint_encoder="named", **flags)
    size = {run: (run.folder / "checkpoint" / checkpoint.WEIGHTS).stat().st_size for run in (whole, named)}
    (model, _), (expected, _) = checkpoint.load(named.folder), checkpoint.load(whole.folder)
    trained = sum(value.numel() for value in expected.parameters())
    assert (
        size[named] < size[whole] - 4 * model.encoder.backbone.embeddings.word_embeddings.weight.numel() < 4 * trained
    )
    assert model.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
    assert program.main(["--ckpt", str(named.folder), "--device", "cpu"]) == 0
    assert content_hash(named.folder / "checkpoint") != content_hash(whole.folder / "checkpoint")


def test_a_named_encoder_must_be_there_and_the_same(train, tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "encoder")
    flags = {"encoder": tmp_path / "encoder", "training_steps": 2, "eval_steps": 2, "freeze_encoder": True}
    run = train("run", checkpoint_encoder="named", **flags)
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    changed = next(name for name in weights if "layer.1.output.dense.weight" in name)
    weights[changed][0, 0] += 1e-3
    save_file(weights, tmp_path / "encoder" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="names its encoder.* the one there now is another .SHA-256"):
        checkpoint.load(run.folder)
    shutil.rmtree(tmp_path / "encoder")
    with pytest.raises(CheckpointError, match="does not hold it .--checkpoint_encoder named.; cannot be loaded"):
        checkpoint.load(run.folder)


def test_a_run_that_trains_all_layers_has_no_encoder_to_name(train):
    run = train("run", checkpoint_encoder="named", training_steps=2, eval_steps=2)
    assert checkpoint.NAMED not in checkpoint.read_config(run.folder / "checkpoint")
    assert checkpoint.load(run.folder)
