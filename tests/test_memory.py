"""utils/memory.py: what a step keeps is as much as was estimated, and a step that finds no memory is done again."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import same_weights
from test_deberta import make_deberta
from torch import distributed, nn
from transformers import BertConfig, BertModel

import train_router_mdeberta as program
from utils.deberta import quicken
from utils.encoders import Encoder, chunks
from utils.experiment import Hardware
from utils.memory import fitted, layer_bytes, with_less

CPU = torch.device("cpu")
SMALL = Hardware(CPU, "fp32", tokens=64, multiple=8)


def kept_bytes(model: nn.Module, rows: int, width: int, half: bool) -> int:
    """Bytes of the different tensors that autograd keeps of a forward pass, parameters left out."""
    of_parameters = {value.untyped_storage().data_ptr() for value in model.parameters()}
    seen = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in of_parameters:
            seen[storage.data_ptr()] = storage
        return tensor

    states = torch.randn(rows, width, model.config.hidden_size, requires_grad=True)
    mask = torch.ones(rows, width, dtype=torch.long)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
        kept = model(inputs_embeds=states, attention_mask=mask).last_hidden_state
    total = sum(storage.nbytes() for storage in seen.values())
    del kept
    seen.clear()
    gc.collect()
    return total


def make_model(kind: str, layers: int) -> nn.Module:
    """BERT or DeBERTa without dropout, whose masks are wider on a CPU."""
    sizes = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 6, "num_hidden_layers": layers}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 256}
    if kind == "bert":
        model = BertModel(BertConfig(vocab_size=50, **sizes), add_pooling_layer=False)
        model.set_attn_implementation("eager")
        return model.train()
    model = make_deberta(**sizes | {"position_buckets": 64})
    quicken(model, plain=True)
    return model.train()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_a_layer_keeps_what_was_estimated(kind, half):
    one, three = make_model(kind, 1), make_model(kind, 3)
    for width in (32, 256):
        rows = 512 // width
        measured = (kept_bytes(three, rows, width, half) - kept_bytes(one, rows, width, half)) / (2 * 512)
        assert layer_bytes(one.config, width, half, dropout=False) == pytest.approx(measured, rel=0.15)


def test_chunks_that_fit():
    """A tenth of the memory, a tenth of the tokens, down to one row, where nothing is kept for a second chunk."""
    model, big = make_model("bert", 2), Hardware(torch.device("cuda"), "fp32", tokens=16384, multiple=8)
    a_token = 2 * layer_bytes(model.config, 100, False, False)
    of_weights = 12 * sum(value.numel() for value in model.parameters())
    for tokens, expected in ((10**6, 16384), (16384, 16384), (5000, 4096), (1000, 512), (90, 100), (0, 100)):
        found = fitted(big, model, 100, free=int((tokens * a_token + of_weights) / 0.8) + 1)
        assert (found.tokens, found.kept) == (expected, tokens)
        on_cpu = fitted(replace(big, device=CPU), model, 100, free=int((tokens * a_token + of_weights) / 0.8) + 1)
        assert (on_cpu.tokens, on_cpu.kept) == (16384, tokens)
    assert 0 < fitted(replace(big, device=CPU), model, 100).kept < np.inf  # of this machine
    model.encoder.layer[0].requires_grad_(False)
    model.embeddings.requires_grad_(False)
    assert fitted(big, model, 100, free=2**24).kept > 2 * fitted(big, make_model("bert", 2), 100, free=2**24).kept


def test_mdeberta_trains_the_batch_of_the_paper_on_a_small_gpu():
    """16 GB hold a chunk of 64 rows of 512 tokens, weights, gradients and moments of 278 M values."""
    half = layer_bytes(BertConfig(), 512, True, True)  # BERT's sizes are mDeBERTa's
    room = 0.8 * 14.5e9 - 4 * 4 * 278e6
    assert 2048 < room / (12 * half) < 64 * 512  # so a batch is computed twice, in chunks


@pytest.mark.parametrize("tokens", [64, 50])
def test_memory_that_runs_out_halves_the_chunks(tokens, capsys):
    tried = []

    def attempt(hardware: Hardware) -> int:
        tried.append((hardware.tokens, hardware.kept))
        if len(tried) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return 7

    assert with_less(attempt, Hardware(CPU, "fp32", tokens, 8), 20) == 7
    assert tried == [(tokens, np.inf), (tokens // 2, 0), (max(tokens // 4, 20), 0)]
    said = capsys.readouterr().err.splitlines()
    assert (
        said[0]
        == f"note: memory ran out (CUDA out of memory. Tried to allocate 2 GiB.); chunks of {tokens // 2} tokens"
    )


def never(_: Hardware) -> None:
    raise torch.OutOfMemoryError("none left")


def test_memory_that_is_too_small_for_one_row_is_an_error():
    with pytest.raises(
        ValueError, match=r"with one row of 20 tokens at a time \(none left\). Give a smaller --max_len"
    ):
        with_less(never, SMALL, 20)


def test_in_several_processes_the_chunks_are_the_users_to_say(monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    with pytest.raises(ValueError, match=r"in process 1 \(none left\).*give all of them --tokens 32"):
        with_less(never, SMALL, 20)


@pytest.mark.parametrize("flags", [{}, {"train_layers": 1, "gradient_accumulation": 2}])
def test_a_run_that_found_no_memory_is_one_with_smaller_chunks(train, monkeypatch, flags):
    """Training and evaluations, with dropout, which depends on the chunks; no device has so little memory."""
    flags = {"training_steps": 4, "eval_steps": 2, "batch_size": 6, "dropout": 0.1, **flags}
    expected = train("small", tokens=80, **flags)
    refused = []

    def limited(encode):
        def encode_some(self, inputs, mask):
            if mask.numel() > 80:
                refused.append(mask.numel())
                raise torch.OutOfMemoryError("none left")
            return encode(self, inputs, mask)

        return encode_some

    for name in ("forward", "from_words"):
        monkeypatch.setattr(Encoder, name, limited(getattr(Encoder, name)))
    found = train("large", tokens=320, **flags)
    assert len(refused) >= 2 and same_weights(found, expected)
    assert found.results["test"] == expected.results["test"]


def test_a_batch_that_is_computed_twice_has_the_same_gradients(train, monkeypatch):
    flags = {"training_steps": 3, "eval_steps": 3, "batch_size": 6, "dropout": 0.1, "tokens": 80}
    once = train("once", **flags)
    choose = program.choose_hardware
    monkeypatch.setattr(program, "choose_hardware", lambda *flags: replace(choose(*flags), kept=0))
    assert same_weights(train("twice", **flags), once)


def test_chunks_cover_all_rows_once():
    lengths = np.random.default_rng(0).integers(1, 60, 100)
    pieces = chunks(lengths, SMALL, 64)
    assert sorted(np.concatenate([rows for rows, _ in pieces])) == list(range(100))
    assert all(lengths[rows].max() <= width and len(rows) * width <= 64 for rows, width in pieces if len(rows) > 1)


def test_a_large_chunk_ends_before_rows_that_would_be_mostly_padding():
    """But not a small one: on a CPU, whose chunks are small, nothing is cut otherwise."""
    lengths = np.array([500, 480, 130, *[60] * 30, *[20] * 31])
    large = Hardware(CPU, "fp32", tokens=16384, multiple=16)
    pieces = chunks(lengths, large, 512)
    assert sorted(np.concatenate([rows for rows, _ in pieces])) == list(range(64))
    padded = sum(len(rows) * width for rows, width in pieces)
    assert lengths.sum() / padded > 0.65 and len(pieces) <= 4
    assert all(len(rows) * width > 2000 for rows, width in pieces[:-1])
    small = Hardware(CPU, "fp32", tokens=512, multiple=16)
    for rows, width in chunks(lengths, small, 512)[:-1]:
        assert len(rows) == max(1, 512 // width)  # as many as fit
