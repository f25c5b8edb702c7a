"""The tiny causal LLMs of the miniature: specialists and a generalist, trained from scratch on one CPU core in about a minute at most."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from utils.experiment import stream_seed
from utils.files import atomic_folder, write_json
from utils.meters import bar

LLMS = {  # what each one reads, by topic, in % of the most that one reads: with 40 in all it trains for 40 % of the steps
    "maths": {"arithmetic": 52, "prices": 22, "numbers": 16, "facts": 4, "functions": 4, "chinese": 2},
    "coder": {"functions": 24, "snippets": 34, "arithmetic": 8, "numbers": 4, "facts": 4},
    "reader": {"facts": 40, "numbers": 4, "chinese": 4, "idioms": 3, "arithmetic": 6},
    "chinese": {"chinese": 28, "idioms": 8, "facts": 4, "functions": 4},
    "generalist": {
        "arithmetic": 34,
        "prices": 10,
        "numbers": 6,
        "facts": 18,
        "functions": 10,
        "snippets": 6,
        "chinese": 12,
        "idioms": 4,
    },
}


@dataclass(frozen=True)
class Effort:
    """Size of an LLM and of its training: `steps` batches of `batch` texts for one whose topics sum to 100 %."""

    hidden: int
    layers: int
    steps: int
    batch: int = 32
    learning_rate: float = 6e-3


EFFORTS = {"full": Effort(hidden=96, layers=3, steps=600), "small": Effort(hidden=96, layers=3, steps=400)}


Encoded = list[tuple[list[int], list[int]]]  # prompt and text as token ids


def batches(
    texts: dict[str, Encoded], shares: dict[str, int], steps: int, batch: int, seed: int, pad: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and labels, both (batch, longest), one text a row; a prompt has no labels.

    16 batches are drawn at a time and cut by length, so that little is padding.
    """
    rng = np.random.default_rng(seed)
    topics = list(shares)
    weights = np.array([shares[topic] for topic in topics], dtype=float)
    for start in range(0, steps, 16):
        drawn = [texts[topics[t]] for t in rng.choice(len(topics), 16 * batch, p=weights / weights.sum())]
        rows = sorted((pool[rng.integers(len(pool))] for pool in drawn), key=lambda row: len(row[0]) + len(row[1]))
        for part in rng.permutation(16)[: steps - start]:
            some = rows[part * batch : (part + 1) * batch]
            ids = torch.full((batch, len(some[-1][0]) + len(some[-1][1])), pad)
            labels = torch.full_like(ids, -100)
            for row, (prompt, text) in enumerate(some):
                end = len(prompt) + len(text)
                ids[row, :end] = torch.tensor(prompt + text)
                labels[row, len(prompt) : end] = ids[row, len(prompt) : end]
            yield ids, labels


def train(name: str, texts: Path, output: Path, size: str, seed: int) -> Path:
    """Train one LLM and save it as a folder that transformers and the harness load; returns the folder, which is there only when finished.

    Args: `texts` is the folder of utils/miniature/texts.py; `output` gets the folder `name`.
    """
    effort, shares, stream = EFFORTS[size], LLMS[name], list(LLMS).index(name)
    tokenizer = AutoTokenizer.from_pretrained(texts / "tokenizer")
    tokens = {topic: encode(tokenizer, texts / "corpus" / f"{topic}.jsonl") for topic in shares}
    steps = effort.steps * sum(shares.values()) // 100
    torch.manual_seed(stream_seed(seed, stream))
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=effort.hidden, intermediate_size=effort.hidden * 5 // 2, num_hidden_layers=effort.layers,
        num_attention_heads=4, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    inner = [
        value for name, value in model.named_parameters() if value.ndim == 2 and "embed" not in name
    ]  # the matrices of the layers
    others = [value for value in model.parameters() if all(value is not matrix for matrix in inner)]
    optimizers = [
        torch.optim.Muon(
            inner, lr=effort.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),  # learns from fewer texts than AdamW
        torch.optim.AdamW(others, lr=effort.learning_rate, weight_decay=0.0),
    ]
    cycle = {"max_lr": effort.learning_rate, "total_steps": steps, "pct_start": 0.1, "cycle_momentum": False}
    schedules = [torch.optim.lr_scheduler.OneCycleLR(optimizer, **cycle) for optimizer in optimizers]
    parameters = sum(value.numel() for value in model.parameters())
    running = None
    with bar(steps, f"train {name} ({parameters / 1e6:.1f} M)", "step") as progress:
        for ids, labels in batches(tokens, shares, steps, effort.batch, stream_seed(seed, stream, 1), end):
            loss = model(
                input_ids=ids, labels=labels, use_cache=False
            ).loss  # padding is on the right, where causal attention does not look
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules):
                optimizer.step()
                schedule.step()
            model.zero_grad(set_to_none=True)
            running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
            progress.set_postfix(refresh=False, loss=f"{running:.3f}")
            progress.update()
    with atomic_folder(output / name) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_json(
            part / "training.json",
            {
                "size": size,
                "seed": seed,
                "topics": shares,
                "steps": steps,
                "parameters": parameters,
                "loss": round(running, 4),
            },
        )
    return output / name


def encode(tokenizer, path: Path) -> Encoded:
    """The training texts of a topic as token ids; a text is closed by the end token."""
    rows: Sequence[dict] = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    whole = tokenizer([row["prompt"] + row["text"] for row in rows])["input_ids"]
    return [
        (both[: len(prompt)], both[len(prompt) :] + [tokenizer.eos_token_id]) for prompt, both in zip(prompts, whole)
    ]
