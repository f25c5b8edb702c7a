"""utils/benchmark/ on a tiny encoder and made-up data: both ways compute the same, and the report is complete.

No timing is asserted.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_deberta import make_deberta
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model, PreTrainedTokenizerFast

from utils.benchmark import __main__ as program
from utils.benchmark import compare as benchmark
from utils.benchmark import rates as measured
from utils.benchmark import sized
from utils.config import parse_arguments
from utils.deberta import quicken
from utils.experiment import choose_hardware

WORDS = [f"w{i}" for i in range(40)]


def save_encoder(folder: Path) -> None:
    """A BERT of 16 dimensions and 2 layers whose words are WORDS."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)


def random_rows(random: np.random.Generator) -> list[dict]:
    """30 rows of a data file; some questions are longer than 512 tokens."""
    rows = []
    for number in range(30):
        words = random.choice(WORDS, size=random.integers(1, 700 if number % 8 == 0 else 40))
        scores = {llm: float(random.random()) for llm in "abcd"}
        rows.append({"question": " ".join(words), "scores": scores, "cluster_id": int(random.integers(3))})
    return rows


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """Arguments for the tiny encoder, two training files and two test files."""
    folder = tmp_path_factory.mktemp("benchmark")
    save_encoder(folder / "encoder")
    random = np.random.default_rng(0)
    paths = {}
    for name in ("gsm8k-train", "humaneval_train", "gsm8k-test", "mine_test"):  # a task of one's own needs no kind here
        paths[name] = str(folder / f"{name}.json")
        Path(paths[name]).write_text(json.dumps(random_rows(random)))
    words = "--device cpu --precision fp32 --batch_size 12 --steps 2 --released_steps 1 --eval_queries 30"
    return [
        *("--encoder", str(folder / "encoder"), *words.split(), "--output", str(folder / "out" / "benchmark.json")),
        *("--data_paths", paths["gsm8k-train"], paths["humaneval_train"]),
        *("--test_data_paths", paths["gsm8k-test"], paths["mine_test"]),
    ]


@pytest.fixture()
def ways(arguments) -> dict[str, benchmark.Way]:
    args = parse_arguments(benchmark.Arguments, arguments, "benchmark", "")
    hardware = choose_hardware(args.hardware.device, args.hardware.precision)
    work = benchmark.load_work(args, hardware.device)
    return {name: benchmark.Way(name, args, work, hardware) for name in (*benchmark.WAYS, "frozen")}


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
    expected = {name: value.grad for name, value in released.model.named_parameters()}
    found = {name: value.grad for name, value in ours.model.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)  # says which one differs


def test_released_way_pads_every_query_to_512_and_tokenises_one_by_one(ways, monkeypatch):
    released, shapes, calls = ways["released"], [], []
    tokenizer = released.encoder.tokenizer

    def counting(question, **settings):
        calls.append(question)
        return tokenizer(question, **settings)

    def note_shape(_, args, kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))

    monkeypatch.setattr(released.encoder, "tokenizer", counting)
    released.encoder.backbone.register_forward_pre_hook(note_shape, with_kwargs=True)
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
    """One of the four memory figures is taken in a process of its own, as the command takes all of them.

    The others are taken here, where nothing must be loaded again.
    """
    child_memory = benchmark.child_memory

    def memory(given, way, phase):
        if (way, phase) == ("released", "evaluation"):
            return child_memory(given, way, phase)
        words = [*given, "--memory_of", f"{way}_{phase}"]
        return benchmark.measure_memory(parse_arguments(benchmark.Arguments, words, "benchmark", ""))

    monkeypatch.setattr(benchmark, "child_memory", memory)
    encoder = arguments[1]
    figure = Path(encoder).parent / "growth.png"
    monkeypatch.setattr(measured, "LENGTHS", (8, 32))
    monkeypatch.setattr(measured, "LLMS", (3, 5))
    monkeypatch.setattr(measured, "USUAL", {"length": 8, "batch": 2, "llms": 3})
    more = ["--rates", encoder, "--repeats", "1", "--figure", str(figure)]
    assert program.main([*arguments, *more]) == 0
    printed = capsys.readouterr().out
    assert "| training, queries/s" in printed and "released" in printed
    result = json.loads(Path(arguments[arguments.index("--output") + 1]).read_text())
    assert {"encoder", "device", "seed", "seconds"} < result.keys()
    for phase in ("training", "evaluation"):
        assert result[f"{phase}_speedup"] > 0
        rates = result[f"{phase}_queries_per_second"]
        peak, loaded = result["peak_memory_mb"][phase], result["loaded_memory_mb"][phase]
        for figures in (rates, peak, loaded):
            assert figures.keys() == {"ours", "released"} and all(value > 0 for value in figures.values())
        assert all(peak[way] >= loaded[way] for way in ("ours", "released"))
    assert result["frozen_training"]["steps_per_second"] > 0
    found = result["rates"][encoder]
    for phase in ("training", "evaluation", "embedding"):
        assert 0 < found[phase]["share_of_matmul_rate"] < 1 < found[phase]["tokens_per_second"]
    for count in (1, 64):
        assert 0 < found[f"route_{count}_ms"]["median"] <= found[f"route_{count}_ms"]["p95"]
    assert figure.is_file() and set(result["step_seconds"][encoder]["length"]) == {"8", "32"}
    assert (result["batch_size"], result["steps"], result["precision"]) == (12, 2, "fp32")
    assert 1 < result["mean_tokens"] < 512
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
    assert program.main([*arguments, *changed]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error and "memory" not in error


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_the_work_of_a_forward_pass_is_what_torch_counts(kind):
    """Of both kinds of attention; torch's counter sees each product of matrices. Its table is projected, too."""
    if kind == "bert":
        save_size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        backbone = BertModel(BertConfig(vocab_size=50, **save_size), add_pooling_layer=False)
        backbone.set_attn_implementation("eager")
    else:
        backbone = make_deberta()
        quicken(backbone, plain=True)
    encoder = SimpleNamespace(backbone=backbone, hidden_size=48)
    tokens, mask = torch.ones(8, 32, dtype=torch.long), torch.ones(8, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(input_ids=tokens, attention_mask=mask)
    expected = measured.forward_flops(encoder, np.full(8, 32))
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.02 if kind == "bert" else 0.1)


def test_the_encoder_of_mdebertas_size():
    with torch.device("meta"):
        model = DebertaV2Model(DebertaV2Config(**sized.CONFIGURATION))
    assert sum(value.numel() for value in model.parameters()) == pytest.approx(278e6, rel=0.01)
    small = sized.make_encoder(sized.SIZED, vocab_size=31_000, hidden_size=48, num_hidden_layers=1)
    assert (small.pooling, small.max_length) == ("first", 512) and small.backbone.config.hidden_dropout_prob == 0
