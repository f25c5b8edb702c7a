"""The tiny causal LLMs of the miniature: specialists and a generalist.

Each is trained from scratch on one CPU core, in about a minute at most.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ..experiment import stream_seed
from ..files import atomic_folder, write_json
from ..meters import bar

# What each LLM reads, by topic, in % of the most that one reads: with 40 in all it trains for 40 % of the steps.
LLMS = {
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
BATCHES_AT_A_TIME = 16

Encoded = list[tuple[list[int], list[int]]]  # prompt and text as token ids


def batches(
    texts: dict[str, Encoded], shares: dict[str, int], steps: int, batch: int, seed: int, pad: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and labels, both (batch, longest), one text a row; a prompt has no labels.

    BATCHES_AT_A_TIME are drawn and cut by length, so that little is padding.
    """
    rng = np.random.default_rng(seed)
    topics = list(shares)
    weights = np.array([shares[topic] for topic in topics], dtype=float)
    count = BATCHES_AT_A_TIME * batch
    for start in range(0, steps, BATCHES_AT_A_TIME):
        numbers = rng.choice(len(topics), count, p=weights / weights.sum())
        pools = [texts[topics[number]] for number in numbers]
        rows = [pool[rng.integers(len(pool))] for pool in pools]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        for number in rng.permutation(BATCHES_AT_A_TIME)[: steps - start]:
            of_batch = rows[number * batch : (number + 1) * batch]
            longest_prompt, longest_text = of_batch[-1]
            ids = torch.full((batch, len(longest_prompt) + len(longest_text)), pad)
            labels = torch.full_like(ids, -100)
            for row, (prompt, text) in enumerate(of_batch):
                end = len(prompt) + len(text)
                ids[row, :end] = torch.tensor(prompt + text)
                labels[row, len(prompt) : end] = ids[row, len(prompt) : end]
            yield ids, labels


def new_model(effort: Effort, vocabulary: int, end: int) -> LlamaForCausalLM:
    """An LLM with drawn weights. vocabulary: number of tokens; end: the token that begins, ends and pads."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=effort.hidden,
        intermediate_size=effort.hidden * 5 // 2,
        num_hidden_layers=effort.layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    return LlamaForCausalLM(config)


def optimizers_of(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learns from fewer texts than AdamW, and AdamW for all else."""
    matrices, others = [], []
    for name, value in model.named_parameters():
        is_matrix = value.ndim == 2 and "embed" not in name
        (matrices if is_matrix else others).append(value)
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.0),
    ]


def train(name: str, texts: Path, output: Path, size: str, seed: int) -> Path:
    """Train one LLM and save it as a folder that transformers and the harness load.

    Args:
        texts: the folder of utils/miniature/texts.py.
        output: gets the folder `name`, which is there only when the training is finished.
    Returns: that folder.
    """
    effort, shares, stream = EFFORTS[size], LLMS[name], list(LLMS).index(name)
    tokenizer = AutoTokenizer.from_pretrained(texts / "tokenizer", trust_remote_code=False)
    tokens = {topic: encode(tokenizer, texts / "corpus" / f"{topic}.jsonl") for topic in shares}
    steps = effort.steps * sum(shares.values()) // 100
    torch.manual_seed(stream_seed(seed, stream))
    model = new_model(effort, len(tokenizer), tokenizer.eos_token_id)
    optimizers = optimizers_of(model, effort.learning_rate)
    cycle = {"max_lr": effort.learning_rate, "total_steps": steps, "pct_start": 0.1, "cycle_momentum": False}
    schedules = [torch.optim.lr_scheduler.OneCycleLR(optimizer, **cycle) for optimizer in optimizers]
    parameters = sum(value.numel() for value in model.parameters())
    drawn = batches(tokens, shares, steps, effort.batch, stream_seed(seed, stream, 1), tokenizer.eos_token_id)
    running = None
    with bar(steps, f"train {name} ({parameters / 1e6:.1f} M)", "step") as progress:
        for ids, labels in drawn:
            # Padding is on the right, where causal attention does not look.
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules):
                optimizer.step()
                schedule.step()
            model.zero_grad(set_to_none=True)
            running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
            progress.set_postfix(refresh=False, loss=f"{running:.3f}")
            progress.update()
    about = {"size": size, "seed": seed, "topics": shares, "steps": steps, "parameters": parameters}
    with atomic_folder(output / name) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_json(part / "training.json", about | {"loss": round(running, 4)})
    return output / name


def encode(tokenizer, path: Path) -> Encoded:
    """The training texts of a topic as token ids; a text is closed by the end token."""
    rows: Sequence[dict] = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    whole = tokenizer([row["prompt"] + row["text"] for row in rows])["input_ids"]
    end = [tokenizer.eos_token_id]
    return [(both[: len(prompt)], both[len(prompt) :] + end) for prompt, both in zip(prompts, whole)]
