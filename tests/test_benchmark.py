"""utils/benchmark.py on a tiny encoder and made-up data: both ways compute the same thing, and the report is complete. No timing is asserted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from utils import benchmark
from utils.config import parse_arguments
from utils.experiment import choose_hardware

WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """Arguments for a BERT of 16 dimensions and 2 layers, two training files and two test files."""
    folder = tmp_path_factory.mktemp("benchmark")
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder / "encoder")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder / "encoder")

    random = np.random.default_rng(0)
    for name in (
        "gsm8k-train",
        "humaneval_train",
        "gsm8k-test",
        "mine_test",
    ):  # "mine" is no task of the paper: its kind does not matter
        rows = [
            {
                "question": " ".join(
                    random.choice(WORDS, size=random.integers(1, 700 if row % 8 == 0 else 40))
                ),  # some longer than 512
                "scores": {llm: float(random.random()) for llm in "abcd"},
                "cluster_id": int(random.integers(3)),
            }
            for row in range(30)
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return [
        *("--encoder", str(folder / "encoder"), "--device", "cpu", "--precision", "fp32", "--batch_size", "12"),
        *(
            "--steps",
            "2",
            "--released_steps",
            "1",
            "--eval_queries",
            "30",
            "--output",
            str(folder / "out" / "benchmark.json"),
        ),
        *("--data_paths", str(folder / "gsm8k-train.json"), str(folder / "humaneval_train.json")),
        *("--test_data_paths", str(folder / "gsm8k-test.json"), str(folder / "mine_test.json")),
    ]


@pytest.fixture()
def ways(arguments) -> dict[str, benchmark.Way]:
    args = parse_arguments(benchmark.Arguments, arguments, "benchmark", "")
    where = choose_hardware(args.hardware.device, args.hardware.precision)
    work = benchmark.load_work(args, where.device)
    return {name: benchmark.Way(name, args, work, where) for name in (*benchmark.WAYS, "frozen")}


def test_both_ways_compute_the_same(ways):
    ours, released = ways["ours"], ways["released"]
    rows = np.arange(len(ours.work.questions))
    assert (ours.queries.inputs.lengths == 512).any() and (ours.queries.inputs.lengths < 40).any()
    torch.testing.assert_close(ours.embed(rows), released.embed(rows), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(ways["frozen"].embed(rows), released.embed(rows), rtol=1e-4, atol=1e-5)
        everything = np.arange(len(ours.work.tests))
        torch.testing.assert_close(ours.embed_tests(everything), released.embed_tests(everything), rtol=1e-4, atol=1e-5)
    for number in range(len(ours.work.batches)):
        losses = [way.loss(number) for way in (ours, released)]
        assert losses[0] > 0
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    for loss in losses:
        loss.backward()
    gradients = [dict(way.model.named_parameters()) for way in (ours, released)]
    for name in gradients[0]:
        torch.testing.assert_close(
            gradients[0][name].grad, gradients[1][name].grad, rtol=1e-3, atol=1e-5, msg=lambda text: f"{name}: {text}"
        )


def test_released_way_pads_every_query_to_512_and_tokenises_one_by_one(ways, monkeypatch):
    released, shapes, calls = ways["released"], [], []
    tokenizer = released.encoder.tokenizer
    monkeypatch.setattr(
        released.encoder, "tokenizer", lambda text, **settings: calls.append(text) or tokenizer(text, **settings)
    )
    released.encoder.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    for _ in range(2):
        released.train(0)
    assert shapes == [(12, 512)] * 2
    assert calls == 2 * [released.work.questions[row] for row in released.work.batches[0]]  # at every access again


def test_every_way_learns_and_the_frozen_encoder_stays(ways):
    for name, way in ways.items():
        before = {key: value.clone() for key, value in way.model.state_dict().items()}
        assert way.train(0) == 12
        changed = {key for key, value in way.model.state_dict().items() if not torch.equal(value, before[key])}
        assert "llm_embeddings.weight" in changed
        assert any(key.startswith("encoder.") for key in changed) == (name != "frozen")


def test_steps_of_the_ways_alternate_and_the_first_is_left_out(ways):
    done = []

    class Fake:
        def __init__(self, name, count):
            self.name, self.count = name, count

        def jobs(self, phase):
            return [lambda: done.append(self.name) or 1 for _ in range(self.count)]

    rates = benchmark.median_rates([Fake("ours", 4), Fake("released", 2)], "training", torch.device("cpu"))
    assert done == ["ours", "released", "ours", "ours", "released", "ours"]
    assert set(rates) == {"ours", "released"} and all(rate > 0 for rate in rates.values())


def test_command_writes_the_report(arguments, capsys, monkeypatch):
    """One of the four memory figures in a process of its own, as the command takes all of them; the others here, where nothing must be loaded again."""
    child = benchmark.child_memory

    def memory(given, way, phase):
        if (way, phase) == ("released", "evaluation"):
            return child(given, way, phase)
        return benchmark.measure_memory(parse_arguments(benchmark.Arguments, [*given, "--memory_of", f"{way}_{phase}"], "benchmark", ""))

    monkeypatch.setattr(benchmark, "child_memory", memory)
    assert benchmark.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| training, queries/s" in printed and "released" in printed
    result = json.loads(Path(arguments[arguments.index("--output") + 1]).read_text())
    assert result.keys() >= {
        "encoder",
        "device",
        "precision",
        "batch_size",
        "steps",
        "mean_tokens",
        "seed",
        "command",
        "seconds",
    }
    for phase in ("training", "evaluation"):
        assert result[f"{phase}_speedup"] > 0
        for key in (
            result[f"{phase}_queries_per_second"],
            result["peak_memory_mb"][phase],
            result["loaded_memory_mb"][phase],
        ):
            assert key.keys() == {"ours", "released"} and all(value > 0 for value in key.values())
        assert all(
            result["peak_memory_mb"][phase][way] >= result["loaded_memory_mb"][phase][way]
            for way in ("ours", "released")
        )
    assert result["frozen_training"]["steps_per_second"] > 0
    assert (
        result["batch_size"] == 12
        and result["steps"] == 2
        and result["precision"] == "fp32"
        and 1 < result["mean_tokens"] < 512
    )
    assert result["command"].startswith("python -m utils.benchmark --encoder")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--batch_size", "0"], "--batch_size is 0; it must be at least 1"),
        (["--eval_queries", "61"], "--eval_queries is 61; the test files have 60 queries"),
        (["--data_paths", "none.json"], "none.json: no such file"),
        (["--encoder", "/no/such/encoder"], "--encoder /no/such/encoder: cannot be loaded"),
        (["--device", "toaster"], "--device is 'toaster'"),
    ],
)
def test_bad_input_is_one_line(arguments, changed, words, capsys):
    assert benchmark.main([*arguments, *changed]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error and "memory" not in error
