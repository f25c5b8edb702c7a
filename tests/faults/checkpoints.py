"""Damages a tiny checkpoint in many ways and counts what loading it does: refuses it, or gives the very same router.

PYTHONPATH=. python tests/faults/checkpoints.py --count 6400 --output checkpoints.json

Bad is a router that differs although its digests told of it, an error that is no CheckpointError, a hang, and code that
runs. Three kinds of checkpoints are damaged: one with digests; one from before there were any; and one whose digests
are made anew after the damage, as by somebody who makes it to do harm. Of the last two, routers that differ are counted
under "another router": digests are no signature, and where there are none, what is valid loads.
"""

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from runner import command_line, finish
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizer
from transformers.utils import logging

from utils import checkpoint
from utils.encoders import Encoder
from utils.model import RouterDC
from utils.router import Router

SECONDS = 20  # of the processor that a checkpoint may take, a hundred times what it does take
WORDS = "which river mountain sum product number loop string function what is the of a".split()
DRAW = random.Random(0)
QUERIES = [" ".join(DRAW.choices(WORDS, k=DRAW.randint(1, 20))) + "?" for _ in range(12)]
ABOUT = {
    "router": "RouterDC",
    "precision": "fp32",
    "tests": [{"path": "mbpp.json", "kind": "multi_attempt"}],
    "settings": {
        "data_paths": ["gsm8k-train.json"],
        "freeze_encoder": False,
        "train_layers": None,
        "max_characters": 60,
    },
}
DEEP, DIGITS = "<deep>", "<digits>"  # stand for what json.dumps cannot write
RAW = {f'"{DEEP}"': "[" * 100_000 + "]" * 100_000, f'"{DIGITS}"': "9" * 5000}
HOSTILE = (None, True, -1, 0, 3, 2**40, 10**30, 1e308, float("nan"), "", "\ud800", "bert", [], {}, [1], DEEP, DIGITS)


def make(folder: Path, seed: int) -> None:
    """A checkpoint of a tiny router with weights, vocabulary, configurations and LLMs of its own."""
    rng = random.Random(seed)
    words = rng.sample(WORDS, len(WORDS))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", *words]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, strip_accents=seed == 1)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=32, initializer_range=0.3 / seed, **size)
    encoder = Encoder("tiny", BertModel(config), tokenizer, "mean", 24)
    model = RouterDC(encoder, [f"org/llm-{number}" for number in rng.sample(range(9), 4)])
    checkpoint.save(model, folder, ABOUT)


# What is done to it: each function damages a folder, as `rng` draws. `other` is the folder of another checkpoint


def files_of(folder: Path) -> list[Path]:
    """The files of a checkpoint."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def any_bytes(folder: Path, rng: random.Random) -> tuple[Path, bytearray, int, int]:
    """A file, its content, and the two ends of a part of it."""
    path = rng.choice(files_of(folder))
    content = bytearray(path.read_bytes())
    start, end = sorted(rng.choices(range(len(content) + 1), k=2))
    return path, content, start, min(end, start + rng.choice([1, 16, 512, 10**9]))


def flipped(folder: Path, rng: random.Random, other: Path) -> None:
    """One to eight bits, anywhere in one file."""
    path, content, _, _ = any_bytes(folder, rng)
    for _ in range(rng.choice([1, 1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncated(folder: Path, rng: random.Random, other: Path) -> None:
    """A file without its end."""
    path, content, start, _ = any_bytes(folder, rng)
    path.write_bytes(content[: min(start, len(content) - 1)])


def zeroed(folder: Path, rng: random.Random, other: Path) -> None:
    """A block of zeros in a file, as after a crash of the file system."""
    path, content, start, end = any_bytes(folder, rng)
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def moved(folder: Path, rng: random.Random, other: Path) -> None:
    """A block of a file cut out, or written twice."""
    path, content, start, end = any_bytes(folder, rng)
    content[start:end] = rng.choice([b"", 2 * content[start:end]])
    path.write_bytes(content)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All (object or list, key or index) in nested JSON."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def write_raw(path: Path, value: Any) -> None:
    """Writes JSON, also with nesting and digits beyond what Python reads."""
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(name, raw)
    path.write_text(text)


def edited(folder: Path, rng: random.Random, other: Path) -> None:
    """A value of one JSON file replaced, removed, or exchanged with another of the file."""
    path = rng.choice([path for path in files_of(folder) if path.suffix == ".json"])
    content = json.loads(path.read_text(encoding="utf-8"))
    found = list(places(content))
    (holder, key), (other_holder, other_key) = rng.choices(found, k=2)
    action = rng.choice(["replace", "replace", "remove", "exchange"])
    if action == "replace":
        holder[key] = rng.choice(HOSTILE)
    elif action == "remove":
        del holder[key]
    else:
        value = json.loads(json.dumps(other_holder[other_key]))  # a copy: an object must not come to hold itself
        other_holder[other_key] = json.loads(json.dumps(holder[key]))
        holder[key] = value
    write_raw(path, content)


def missing(folder: Path, rng: random.Random, other: Path) -> None:
    """A file that is not there, or is a folder."""
    path = rng.choice(files_of(folder))
    path.unlink()
    if rng.random() < 0.3:
        path.mkdir()


def exchanged(folder: Path, rng: random.Random, other: Path) -> None:
    """A file of another checkpoint, or another file of the same one."""
    path = rng.choice(files_of(folder))
    others = [other / path.relative_to(folder), rng.choice(files_of(folder))]
    path.write_bytes(rng.choice(others).read_bytes())


class Bomb:
    """What runs code when it is unpickled: it makes the file `ran` in the working folder."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def foreign(folder: Path, rng: random.Random, other: Path) -> None:
    """A file beside that the libraries would read, some of them pickles, at times in place of the weights."""
    files = {
        "added_tokens.json": b'{"river": 7}',
        "special_tokens_map.json": b'{"unk_token": "river"}',
        "vocab.txt": b"[UNK]\nriver\n",
        "adapter_config.json": b'{"base_model_name_or_path": "other/model", "peft_type": "LORA"}',
        "pytorch_model.bin": pickle.dumps(Bomb()),
        "tokenizer.pkl": pickle.dumps(Bomb()),
    }
    name = rng.choice(list(files))
    (rng.choice([folder, folder / "encoder"]) / name).write_bytes(files[name])
    if name == "pytorch_model.bin" and rng.random() < 0.5:
        (folder / "model.safetensors").unlink()


def hostile(folder: Path, rng: random.Random, other: Path) -> None:
    """Code named in a configuration, or an unheard-of size."""
    path = folder / "encoder" / rng.choice(["config.json", "tokenizer_config.json"])
    content = json.loads(path.read_text())
    (folder / "encoder" / "code.py").write_text("import os\nos.mkdir('ran')\nclass Thing: pass\n")
    sizes = ["num_hidden_layers", "vocab_size", "hidden_size", "max_position_embeddings", "num_labels"]
    thing = rng.choice(["code.Thing", "other/model--code.Thing", ["code.Thing", None]])
    changes = [
        {"auto_map": {rng.choice(["AutoConfig", "AutoModel", "AutoTokenizer"]): thing}},
        {"attn_implementation": "other/kernel"},
        {rng.choice(sizes): rng.choice([10**30, 2**40, 2**20, 2**16, 900])},
    ]
    content |= rng.choice(changes)
    if rng.random() < 0.5:
        content["model_type"] = content["tokenizer_class"] = "unheard-of"
    path.write_text(json.dumps(content))


def unfit(folder: Path, rng: random.Random, other: Path) -> None:
    """Weights with values that are not finite or too large, of another type or shape, or under another name."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = rng.choice(sorted(weights))
    value = weights.pop(name).clone()
    value.view(-1)[rng.randrange(value.numel())] = rng.choice([float("nan"), float("inf"), -float("inf"), 3e38])
    forms = [value, value.half(), value.double(), value[:-1].clone(), value[None].clone(), value[:0].clone()]
    weights[rng.choice([name, name, "another"])] = rng.choice([value, *forms])
    save_file(weights, path)


FAULTS = {
    "bits flipped": flipped,
    "file truncated": truncated,
    "block of zeros": zeroed,
    "block cut out or doubled": moved,
    "JSON value edited": edited,
    "file missing": missing,
    "file exchanged": exchanged,
    "file beside, pickles too": foreign,
    "code or size in a configuration": hostile,
    "weights that do not fit": unfit,
}
KINDS = ("with digests", "from before digests", "digests made anew")


def strip(folder: Path) -> None:
    """Makes a checkpoint one from before there were digests."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in ("files", "sha256")}))


def seal(folder: Path) -> None:
    """Makes the digests of a checkpoint anew, where its config is there and can be read."""
    with contextlib.suppress(ValueError, OSError, RecursionError, AttributeError):
        checkpoint.write_config(folder, json.loads((folder / "config.json").read_text()))


# What loading it does


class Hang(BaseException):
    """Loading takes too long; no `except Exception` may stop it."""


class NoInput(io.StringIO):
    """Standard input that must not be read."""

    def readline(self, *_: Any) -> str:
        os.mkdir("ran")
        return "y\n"

    read = readline


def routed(folder: Path) -> tuple[list, dict]:
    """The queries as a checkpoint routes them, with all similarities, and its config without the digests."""
    router = Router.from_pretrained(folder, device="cpu", precision="fp32")
    rest = {name: value for name, value in router.config.items() if name not in ("files", "sha256")}
    similarities = router.similarities(QUERIES)
    llms = router.choose(similarities)
    return [{"query": query, "llm": llm} for query, llm in zip(QUERIES, llms)] + similarities.tolist(), rest


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """A block that ends with Hang if it takes more time of the processor, whatever else the machine does."""

    def stop(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(folder: Path, expected: tuple[list, dict]) -> str:
    """What loading a damaged checkpoint does: a column of the table, or what is bad about it."""
    try:
        with at_most(SECONDS):
            found = routed(folder)
    except checkpoint.CheckpointError as error:
        found = error
    except Hang:
        return "hang"
    except Exception as error:
        is_ours = isinstance(error, ValueError) and "are not finite" in str(error)
        return "refused" if is_ours else f"raw error: {type(error).__name__}: {error}"[:300]
    if Path("ran").exists():
        return "code ran"
    if isinstance(found, checkpoint.CheckpointError):
        return "refused" if str(folder) in str(found) else f"error without the file: {found}"[:300]
    return "same router" if found == expected else "another router"


def run(count: int, seed: int) -> list[dict[str, Any]]:
    """Damage `count` checkpoints: for each fault and kind of checkpoint a row with what came of it."""
    counts = {(fault, kind): Counter() for fault in FAULTS for kind in KINDS}
    examples: dict[tuple[str, str], list[str]] = {key: [] for key in counts}
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        one, other, damaged = (Path(scratch) / name for name in ("one", "other", "damaged"))
        make(one, 1)
        make(other, 2)
        expected = routed(one)
        for number in range(count):
            fault, kind = list(counts)[number % len(counts)]
            shutil.copytree(one, damaged)
            if kind == "from before digests":
                strip(damaged)
            FAULTS[fault](damaged, random.Random(f"{seed} {number}"), other)
            if kind == "digests made anew":
                seal(damaged)
            result = outcome(damaged, expected)
            is_stated = result == "another router" and kind != "with digests"
            if result not in ("refused", "same router") and not is_stated:
                examples[fault, kind].append(f"number {number}: {result}")
                result = "bad"
            counts[fault, kind][result] += 1
            shutil.rmtree(damaged)
            shutil.rmtree("ran", ignore_errors=True)
    return [row(name, counts[name], examples[name]) for name in counts]


def row(name: tuple[str, str], counts: Counter, examples: list[str]) -> dict[str, Any]:
    """A row of the table."""
    columns = ("refused", "same router", "another router", "bad")
    result = {"name": ", ".join(name), "tried": counts.total()} | {column: counts[column] for column in columns}
    return result | ({"examples": examples[:5]} if examples else {})


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """A block without the notes of the libraries and of `checkpoint.load`, and without standard input."""
    before = sys.stdin, logging.get_verbosity()
    sys.stdin = NoInput()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        sys.stdin = before[0]
        logging.set_verbosity(before[1])


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 1 if anything was bad."""
    args = command_line(__doc__, 6400, "checkpoints to damage", seed=0).parse_args(argv)
    begun = time.monotonic()
    with quietly():
        rows = run(args.count, args.seed)
    return finish(__file__, argv, args, begun, rows)


if __name__ == "__main__":
    sys.exit(main())
