"""The folder onnx/ of a checkpoint: a router's model as graphs that onnxruntime computes, and a description of them.

`utils.onnx_export` writes it, `utils.onnx_backend` reads it, without torch. The description has the SHA-256 of every
graph, and of all files of the checkpoint that they were made of, so that damage is noticed, and other weights, too.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint_files import EMBEDS, ENCODER, CheckpointError, digests
from .files import read_json

FORMAT = "routerdc-onnx-1"
FOLDER, DESCRIPTION, MODEL = "onnx", "config.json", "model.onnx"
INT8 = {  # file names as sentence-transformers has them, by what the CPU multiplies 8-bit numbers with
    "avx512_vnni": "model_qint8_avx512_vnni.onnx",
    "avx2": "model_quint8_avx2.onnx",
    "arm64": "model_qint8_arm64.onnx",
}
INPUTS, OUTPUTS = ("input_ids", "attention_mask"), ("embeddings", "similarities")
TOKENIZER = f"{ENCODER}/tokenizer.json"
SHAPES = (*EMBEDS, "similarity_function", "llms")  # keys of a checkpoint's config that its graphs depend on


def command(folder: Path, file: str = MODEL) -> str:
    """What writes a file of onnx/ anew."""
    kinds = [kind for kind, name in INT8.items() if name == file]
    return " ".join(["python -m utils.onnx_export --ckpt", str(folder), *[f"--int8 {kind}" for kind in kinds]])


def source_of(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the graphs of a checkpoint are made of: its settings and the SHA-256 of its files.

    Of a checkpoint that is older than its digests the files are read.
    """
    files = config["files"] if "files" in config else digests(folder)
    return {**{key: config[key] for key in SHAPES}, "files": files}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_graph(folder: Path, config: Mapping[str, Any], file: str | None = None) -> tuple[Path, dict[str, Any]]:
    """A graph of a checkpoint and the description of the folder it is in, both verified, and the tokenizer as well.

    Args:
        config: of the checkpoint.
        file: "onnx/model.onnx" and the like; None: that one.
    Raises: CheckpointError, with the command that writes it anew, for a graph that is not there, damaged, or made of
        other weights; ValueError for a name outside of onnx/.
    """
    path = folder / (file or f"{FOLDER}/{MODEL}")
    if path.parent != folder / FOLDER or path.suffix != ".onnx":
        raise ValueError(f"file is {file!r}; give {FOLDER}/{MODEL}, or another .onnx of the folder {FOLDER}")
    remedy = f"write it anew: {command(folder, path.name)}"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; {remedy}")
    try:
        description = read_json(path.parent / DESCRIPTION, remedy, ("format", "source", "padding", "files"))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    graphs = description["files"]
    is_known = isinstance(graphs, dict) and isinstance(graphs.get(path.name), dict)
    if description["format"] != FORMAT or not is_known:
        raise CheckpointError(f"{path}: {DESCRIPTION} beside it does not tell of it in the format {FORMAT}; {remedy}")
    if description["source"] != source_of(folder, config):
        raise CheckpointError(f"{path}: it was made of other weights, or settings, than {folder} has now; {remedy}")
    if sha256_of(path) != graphs[path.name].get("sha256"):
        raise CheckpointError(f"{path}: damaged, it is not as it was written; {remedy}")
    if sha256_of(folder / TOKENIZER) != description["source"]["files"].get(TOKENIZER):
        raise CheckpointError(f"{folder / TOKENIZER}: it is not as it was saved; copy the checkpoint again")
    return path, description
