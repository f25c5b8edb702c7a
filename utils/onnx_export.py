"""Write a trained router as a graph that onnxruntime computes on a CPU, without torch (extension).

    python -m utils.onnx_export --ckpt runs/minilm/seed_1           onnx/model.onnx in the checkpoint folder
    python -m utils.onnx_export --ckpt runs/minilm/seed_1 --int8 avx512_vnni       and one in 8-bit numbers

Token ids and their mask go in; E(x) behind the head and its similarity to every LLM come out. Pooling, head and LLM
embeddings are in the graph. It is written only if it computes what torch computes.
"""

import logging
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint
from .checkpoint_files import CheckpointError, find
from .config import parse_arguments
from .encoders import Encoder
from .files import atomic_folder, replaceable_folder, write_json
from .model import RouterDC
from .onnx_backend import open_session, open_tokenizer
from .onnx_files import (
    DESCRIPTION,
    FOLDER,
    FORMAT,
    INPUTS,
    INT8,
    MODEL,
    OUTPUTS,
    TOKENIZER,
    sha256_of,
    source_of,
)

OPSET = 20
TOLERANCE = 1e-4  # most that a value of a graph in fp32 may differ from torch's, relative to the largest
SHAPES = ((1, 1.0), (2, 0.02), (3, 0.3), (9, 0.07))  # of the inputs that are compared: rows, share of the longest
MOST_BYTES = 2**31 - 2**24  # of weights: a graph is one file, and no larger one can be read
TEXTS = (  # that both tokenizers must read alike
    "What is 17 * 23?",
    "Ｗhat　is１７×２３？　（Ａ）４ ﬁne ①",  # full-width forms, a ligature, a number in a circle
    "  def f(x):\n\treturn x\r\n ",
    "唐代的诗人是谁？ Élan naïve e\u0301 [CLS] [SEP] </s> \u200b🙂",
    "word " * 3000,
)
LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Arguments:
    """options"""

    ckpt: str
    """checkpoint folder, or the --save_path of a training run; the graphs go into its folder onnx"""
    int8: tuple[Literal["avx512_vnni", "avx2", "arm64"], ...] = ()
    """write a graph in 8-bit numbers as well, for CPUs with these instructions"""


class Graph(nn.Module):
    """A router from token ids (N, L) and their mask (N, L) to E(x) (N, p) and similarities (N, T)."""

    def __init__(self, model: RouterDC):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(self.model.encoder(input_ids, attention_mask))


def write_graph(graph: Graph, path: Path) -> None:
    """Write a router to a file of the format ONNX, for any number of queries of any length."""
    example = torch.ones(2, 9, dtype=torch.int64)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.onnx.export(
            graph,
            (example, example.clone()),
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=(any_size, any_size),
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in whose sources it comes from
    program.save(path)


def examples(encoder: Encoder) -> list[tuple[Tensor, Tensor]]:
    """Random token ids with masks, each (N, L), of several sizes; all rows but the first are padded."""
    random = np.random.default_rng(0)
    known = encoder.backbone.get_input_embeddings().num_embeddings
    batches = []
    for rows, share in SHAPES:
        longest = max(1, round(share * encoder.max_length))
        lengths = random.integers(1, longest + 1, size=rows)
        lengths[0] = longest
        ids = torch.from_numpy(random.integers(0, known, size=(rows, longest)))
        mask = torch.from_numpy((np.arange(longest) < lengths[:, None]).astype(np.int64))
        batches.append((ids.masked_fill(mask == 0, encoder.padding_token), mask))
    return batches


@torch.no_grad()
def largest_error(graph: Graph, path: Path) -> float:
    """How much a file's outputs differ from torch's at most, relative to the largest of torch's."""
    session = open_session(path, torch.get_num_threads())
    worst = 0.0
    for ids, mask in examples(graph.model.encoder):
        found = session.run(OUTPUTS, dict(zip(INPUTS, (ids.numpy(), mask.numpy()))))
        for values, expected in zip(found, graph(ids, mask)):
            difference = np.abs(values - expected.numpy()).max() / np.abs(expected.numpy()).max()
            worst = max(worst, float(difference))
    return worst


def write_int8(path: Path, kind: str) -> Path:
    """Write a graph in fp32 once more with weights of 8 bits, and products of 8-bit numbers; returns the new path."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # needed for this alone

    target = path.with_name(INT8[kind])
    weights = QuantType.QUInt8 if kind == "avx2" else QuantType.QInt8  # AVX2 adds up pairs of signed ones too narrowly
    logging.getLogger().setLevel(logging.ERROR)
    quantize_dynamic(path, target, per_channel=True, weight_type=weights)
    return target


def check_tokens(encoder: Encoder, path: Path) -> None:
    """Raise CheckpointError unless the tokenizer in a file cuts texts into the tokens of training."""
    tokenizer = open_tokenizer(path, encoder.max_length)
    for text, found in zip(TEXTS, tokenizer.encode_batch_fast(list(TEXTS))):
        expected = encoder.tokenize([text]).values.tolist()
        if found.ids != expected:
            raise CheckpointError(f"{path}: without transformers it reads {text[:40]!r} as other tokens than with it")


def check_exportable(model: RouterDC, ckpt: str) -> None:
    """Raise ValueError for a router that reads no text, or is too large."""
    if not isinstance(model.encoder, Encoder):
        raise ValueError(f"--ckpt {ckpt}: its router reads embeddings, not text, so there is no encoder to export")
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if size > MOST_BYTES:
        raise ValueError(f"--ckpt {ckpt}: its weights have {size} bytes; a graph can have {MOST_BYTES} at most")


def export(folder: Path, model: RouterDC, config: dict[str, Any], int8: tuple[str, ...] = ()) -> dict[str, Any]:
    """Write the folder onnx/ of a checkpoint, all of it or nothing.

    Args:
        model, config: as `checkpoint.load` returns them.
        int8: keys of INT8.
    Returns: the description.
    Raises: CheckpointError if a graph, or the tokenizer alone, does not compute what torch and transformers do.
    """
    encoder = model.encoder
    check_tokens(encoder, folder / TOKENIZER)
    encoder.backbone.set_attn_implementation("eager")  # the plainest; the encoder is on the CPU, as it was loaded
    graph = Graph(model).eval()
    description = {
        "format": FORMAT,
        "source": source_of(folder, config),
        "padding": encoder.padding_token,
        "opset": OPSET,
        "versions": {name: version(name) for name in LIBRARIES},
        "files": {},
    }
    with atomic_folder(folder / FOLDER) as unfinished:
        path = unfinished / MODEL
        write_graph(graph, path)
        for written in (path, *(write_int8(path, kind) for kind in int8)):
            error = largest_error(graph, written)
            if not (error <= TOLERANCE or (written != path and np.isfinite(error))):
                raise CheckpointError(f"{folder}: {written.name} would differ from torch by {error:.2g}; not written")
            description["files"][written.name] = {"sha256": sha256_of(written), "largest_error": error}
        write_json(unfinished / DESCRIPTION, description)
    return description


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    try:
        arguments = sys.argv[1:] if argv is None else argv
        args = parse_arguments(Arguments, arguments, "python -m utils.onnx_export", __doc__)
        folder = find(args.ckpt)
        replaceable_folder(folder / FOLDER, "--ckpt", {DESCRIPTION, MODEL, *INT8.values()}, "no export")
        model, config = checkpoint.load(folder)
        check_exportable(model, args.ckpt)
        description = export(folder, model, config, args.int8)
        for name, about in description["files"].items():
            megabytes = (folder / FOLDER / name).stat().st_size / 1e6
            error = about["largest_error"]
            print(f"{folder / FOLDER / name}: {megabytes:.1f} MB, differs from torch by {error:.1g} at most")
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
