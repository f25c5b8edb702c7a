"""Routers as ONNX graphs: they compute what torch computes, without torch; what is stale or damaged is refused."""

import json
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LLMS, REPO, make_rows

from utils import checkpoint, onnx_export
from utils.checkpoint_files import CheckpointError, read_config
from utils.encoders import load_encoder
from utils.model import RouterDC
from utils.onnx_backend import pieces
from utils.onnx_files import INT8
from utils.router import Router

ABOUT = {  # of a checkpoint's config, all that `load` asks of it
    "router": "RouterDC",
    "precision": "fp32",
    "tests": [],
    "settings": {"data_paths": ["made_up.json"], "freeze_encoder": True, "train_layers": None},
}
WAYS = {  # each encoder, pooling, similarity and head occurs
    "bert, frozen": ("tiny_bert", "mean", "cos", True),
    "bert, full": ("tiny_bert", "first", "inner", False),
    "deberta, frozen": ("tiny_deberta", "mean", "inner", True),
    "deberta, full": ("tiny_deberta", "first", "cos", False),
}
QINT8 = f"onnx/{INT8['avx512_vnni']}"


def queries() -> list[str]:
    """Texts of many lengths, from one character to more than an encoder takes, Chinese and full-width ones among
    them.
    """
    rng = random.Random(5)
    texts = [row["question"] for row in make_rows(40, "probability", 21)]
    texts += [" ".join(rng.choices(" ".join(texts).split(), k=length)) for length in (1, 2, 70, 200, 3)]
    wide = ["Ｗｈｉｃｈ　ｒｉｖｅｒ　１７？", "唐代的诗人", "é ﬁ 🙂 ①"]
    return [*texts, *wide, "?", " \t river\n\n stone "]


def make_checkpoint(folder: Path, encoder: Path, pooling: str, similarity: str, head: bool, seed: int = 3) -> Path:
    """A checkpoint with random weights behind a tiny encoder."""
    torch.manual_seed(seed)
    model = RouterDC(load_encoder(str(encoder), pooling, 64), LLMS, similarity, head)
    if head:
        torch.nn.init.normal_(model.head.weight, std=0.3)
    checkpoint.save(model, folder, ABOUT)
    return folder


@pytest.fixture(scope="module")
def exported(tiny_bert, tmp_path_factory) -> Path:
    """A checkpoint of the tiny BERT with its graphs in fp32 and in 8 bits, written by the command."""
    folder = make_checkpoint(tmp_path_factory.mktemp("onnx") / "bert", tiny_bert, "mean", "cos", True)
    assert onnx_export.main(["--ckpt", str(folder), "--int8", "avx512_vnni"]) == 0
    return folder


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "copied"))


@pytest.mark.parametrize("way", WAYS)
def test_the_graph_computes_what_torch_computes(way, request, tmp_path):
    encoder, *rest = WAYS[way]
    folder = make_checkpoint(tmp_path / "checkpoint", request.getfixturevalue(encoder), *rest)
    assert onnx_export.main(["--ckpt", str(folder)]) == 0
    in_torch, in_onnx = Router.from_pretrained(folder), Router.from_pretrained(folder, backend="onnx")
    texts = queries()
    for name in ("embed", "scores"):
        expected, found = getattr(in_torch, name)(texts), getattr(in_onnx, name)(texts)
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
    for text in texts[::7]:  # one alone is not padded
        assert np.allclose(in_onnx.scores([text]), in_torch.scores([text]), rtol=1e-4, atol=1e-5)
    tokens = in_torch.engine.model.encoder.tokenize(texts)
    assert [len(row) for row in in_onnx.engine.tokenize(texts)] == tokens.lengths.tolist()
    assert max(tokens.lengths) == 64 and min(tokens.lengths) < 6  # some were truncated
    assert np.concatenate(in_onnx.engine.tokenize(texts)).tolist() == tokens.values.tolist()


def test_full_width_forms_are_not_unknown(tiny_deberta, tmp_path):
    """Their tokens are those of the plain letters: the normaliser is in the saved tokenizer."""
    folder = make_checkpoint(tmp_path / "checkpoint", tiny_deberta, "first", "cos", False)
    onnx_export.check_tokens(checkpoint.load(folder)[0].encoder, folder / "encoder/tokenizer.json")
    path = folder / "encoder/tokenizer.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["normalizer"] = None
    path.write_text(json.dumps(saved), encoding="utf-8")
    encoder = load_encoder(str(tiny_deberta), "first", 64)
    with pytest.raises(CheckpointError, match="tokenizer.json: without transformers it reads"):
        onnx_export.check_tokens(encoder, path)


def test_picks_do_not_depend_on_order_batch_or_threads(exported):
    texts = queries()
    for file in (None, QINT8):
        router = Router.from_pretrained(exported, backend="onnx", file=file, threads=1)
        expected = router.scores(texts)
        turned = np.random.default_rng(0).permutation(len(texts))
        assert np.abs(router.scores([texts[row] for row in turned]) - expected[turned]).max() < 1e-5
        assert np.abs(np.concatenate([router.scores([text]) for text in texts]) - expected).max() < 1e-5
        several = Router.from_pretrained(exported, backend="onnx", file=file, threads=2)
        assert np.abs(several.scores(texts) - expected).max() < 1e-5
        with ThreadPoolExecutor(4) as pool:
            at_once = list(pool.map(router.scores, [texts] * 8))
        assert all(np.abs(found - expected).max() < 1e-5 for found in at_once)


def test_eight_bits_pick_as_torch_does(exported):
    """But for queries whose two nearest LLMs are about as near."""
    texts = queries()
    expected = Router.from_pretrained(exported).scores(texts)
    found = Router.from_pretrained(exported, backend="onnx", file=QINT8).scores(texts)
    assert 0 < np.abs(found - expected).max() < 0.2
    best_two = np.sort(expected, axis=1)[:, -2:]
    is_clear = best_two[:, 1] - best_two[:, 0] > 0.1
    assert is_clear.sum() > 10
    assert np.array_equal(found.argmax(axis=1)[is_clear], expected.argmax(axis=1)[is_clear])
    graphs = [(exported / "onnx" / name).stat().st_size for name in ("model.onnx", INT8["avx512_vnni"])]
    assert graphs[1] < 0.7 * graphs[0]


def test_the_process_has_no_torch(exported):
    code = (
        "import sys\nfrom utils.router import Router\n"
        f"router = Router.from_pretrained({str(exported)!r}, backend='onnx')\nprint(*router.route(['a river?']))\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    pick, modules = run.stdout.splitlines()
    assert [pick] == Router.from_pretrained(exported).route(["a river?"])
    heavy = {"torch", "transformers", "pandas", "sklearn", "scipy", "onnx", "pyarrow", "matplotlib", "tyro"}
    assert heavy.isdisjoint(modules.split()) and {"onnxruntime", "tokenizers", "numpy"} <= set(modules.split())


def refused(folder: Path, **options) -> str:
    """The error of loading a checkpoint's graph."""
    with pytest.raises(CheckpointError) as error:
        Router.from_pretrained(folder, backend="onnx", **options)
    return str(error.value)


def test_what_is_not_there_is_named_with_the_command(copied):
    remedy = f"write it anew: python -m utils.onnx_export --ckpt {copied}"
    assert refused(copied, file="onnx/model_quint8_avx2.onnx").endswith(f"no such file; {remedy} --int8 avx2")
    (copied / "onnx/config.json").unlink()
    assert remedy in refused(copied)
    shutil.rmtree(copied / "onnx")
    assert refused(copied) == f"{copied}/onnx/model.onnx: no such file; {remedy}"
    with pytest.raises(ValueError, match="give onnx/model.onnx"):
        Router.from_pretrained(copied, backend="onnx", file="../model.onnx")


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "bf16"}])
def test_what_onnx_cannot_do_is_refused(exported, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Router.from_pretrained(exported, backend="onnx", **options)


@pytest.mark.parametrize("file", ["onnx/model.onnx", QINT8, "encoder/tokenizer.json"])
def test_damage_is_refused(copied, file):
    path = copied / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    error = refused(copied, file=QINT8 if file == QINT8 else None)
    assert str(path) in error and "it is not as it was" in error
    path.write_bytes(content[: len(content) // 2])
    assert "it is not as it was" in refused(copied, file=QINT8 if file == QINT8 else None)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"format": 1, "source": 2, "padding": 3, "files": 4}'])
def test_a_damaged_description_is_refused(copied, text):
    (copied / "onnx/config.json").write_text(text)
    assert "python -m utils.onnx_export --ckpt" in refused(copied)


def test_graphs_of_other_weights_are_refused_until_renewed(copied, tiny_bert, tmp_path, capsys):
    other = make_checkpoint(tmp_path / "other", tiny_bert, "mean", "cos", True, seed=4)
    shutil.copytree(copied / "onnx", other / "onnx")
    error = refused(other)
    assert "made of other weights" in error and f"python -m utils.onnx_export --ckpt {other}" in error
    assert onnx_export.main(["--ckpt", str(other)]) == 0
    assert sorted(path.name for path in (other / "onnx").iterdir()) == ["config.json", "model.onnx"]
    expected = Router.from_pretrained(other).scores(queries())
    assert np.allclose(Router.from_pretrained(other, backend="onnx").scores(queries()), expected, atol=1e-5)
    assert "model.onnx" in capsys.readouterr().out


def test_a_checkpoint_with_graphs_still_loads_in_torch(exported):
    model, config = checkpoint.load(exported)
    assert model.llms == LLMS and not any(name.startswith("onnx") for name in config["files"])


def test_a_graph_that_differs_is_not_written(exported, tmp_path, monkeypatch, capsys):
    """What was there stays."""
    folder = Path(shutil.copytree(exported, tmp_path / "checkpoint"))
    before = {path: path.read_bytes() for path in (folder / "onnx").iterdir()}
    monkeypatch.setattr(onnx_export, "write_graph", lambda graph, path: shutil.copy(folder / QINT8, path))
    assert onnx_export.main(["--ckpt", str(folder)]) == 2
    assert "model.onnx would differ from torch by" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "onnx").iterdir()} == before
    assert not list(folder.glob(".onnx*"))


def test_bad_input_of_the_command(copied, tmp_path, capsys):
    assert onnx_export.main(["--ckpt", str(tmp_path / "nowhere")]) == 2
    assert "error: --ckpt" in capsys.readouterr().err
    (copied / "onnx/notes.txt").write_text("mine")
    assert onnx_export.main(["--ckpt", str(copied)]) == 2
    assert "no export wrote notes.txt" in capsys.readouterr().err
    assert read_config(copied)["llms"] == list(LLMS)


def test_pieces_hold_every_row_once_and_waste_little():
    lengths = np.random.default_rng(1).integers(1, 90, 300)
    found = pieces(lengths, 512)
    assert sorted(np.concatenate(found).tolist()) == list(range(300))
    for piece in found:
        assert len(piece) == 1 or len(piece) * lengths[piece].max() <= 512
    padded = sum(len(piece) * lengths[piece].max() for piece in found)
    assert padded < 1.1 * lengths.sum()
    assert [len(piece) for piece in pieces(np.array([600, 3, 700]), 512)] == [1, 1, 1]
