"""RouterEval: one .npz or .pkl for each data set and group of candidate LLMs, with train_score, val_score and
test_score (queries, LLMs) and train_embed, val_embed and test_embed (queries, dimension).

The prompts are in a separate archive, and the LLMs have no names in these files. With --prompts FILE, a JSON object
{"train": [text, ...], "val": [...], "test": [...]} in the order of the rows, everything can be imported. Without it,
scores and embeddings go to .npz files: no encoder can be trained on those, but the frozen recipe can (`--encoder given
--freeze_encoder`). A .pkl, and an .npz that holds pickled objects, can run any code when opened: they are read with
--allow_pickle only.
"""

import json
import pickle
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import DataError
from .common import SPLITS, Pairs

PARTS = ("train", "val", "test")


@dataclass
class Embedded:
    """One split without text: scores (N, T), embeddings (N, p)."""

    scores: np.ndarray
    embeddings: np.ndarray


def arrays(source: Path, allow_pickle: bool) -> dict[str, np.ndarray]:
    """The arrays of one file by name.

    Raises: DataError for a pickle without `allow_pickle`, or a file that is no such thing.
    """
    danger = (
        "it holds a pickle, which can run any code when it is opened. If you trust where it comes from, --allow_pickle"
    )
    suffix = source.suffix.lower()
    if suffix not in (".npz", ".pkl", ".pickle"):
        raise DataError(f"{source}: expected .npz or .pkl")
    if suffix != ".npz" and not allow_pickle:
        raise DataError(f"{source}: {danger}")
    try:
        found = in_zip(source, allow_pickle) if suffix == ".npz" else pickle.loads(source.read_bytes())
    except Exception as error:  # whatever a damaged file makes of numpy, zipfile or pickle
        if "Object arrays cannot be loaded" in str(error):
            raise DataError(f"{source}: {danger}") from None
        raise DataError(f"{source}: cannot be read ({type(error).__name__}: {error}). Is it truncated?") from None
    if not isinstance(found, dict):
        raise DataError(f"{source}: expected arrays by name, found {type(found).__name__}")
    names = [name for name in found if str(name).endswith(("_score", "_embed"))]
    return {str(name): numbers(found[name], f"{source}: {name}") for name in names}


def in_zip(source: Path, allow_pickle: bool) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Raises: whatever numpy and zipfile raise."""
    with zipfile.ZipFile(source) as file:
        twice = [name for name, count in Counter(file.namelist()).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} occurs twice")
    with np.load(source, allow_pickle=allow_pickle) as file:
        return {name: file[name] for name in file.files if name.endswith(("_score", "_embed"))}


def numbers(value: Any, name: str) -> np.ndarray:
    """An array as float64. Raises: DataError, naming it by `name`, if it holds anything but real numbers."""
    try:
        array = np.asarray(value)
        array = array.astype(np.float64) if array.dtype.kind == "O" else array  # of a pickle
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{name} holds something else than numbers ({error})") from None
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must hold numbers, found the type {array.dtype}")
    return array.astype(np.float64)


def prompts_of(path: Path) -> dict[str, list]:
    """The texts of each split.

    Raises: DataError if the file is not an object of lists.
    """
    try:
        texts = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"--prompts {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"--prompts {path}: not valid JSON ({error})") from None
    if not isinstance(texts, dict) or not all(isinstance(of_split, list) for of_split in texts.values()):
        raise DataError(f'--prompts {path}: expected {{"train": [text, ...], "val": [...], "test": [...]}}')
    return texts


def read(
    source: Path, allow_pickle: bool = False, prompts: Path | None = None, llms: Sequence[str] | None = None
) -> tuple[Pairs, dict[tuple[str, str], Embedded], list[str]]:
    """All of one file: pairs where the text is given, else (task, split) -> Embedded, and the names of the LLMs.

    `llms` names the columns; by default they are llm-1, llm-2, ...
    Raises: DataError for shapes that do not fit each other, scores outside [0, 1], or another number of prompts.
    """
    by_name = arrays(source, allow_pickle)
    splits = [split for split in PARTS if f"{split}_score" in by_name]
    if not splits:
        raise DataError(
            f"{source}: no train_score, val_score or test_score; it has {', '.join(by_name) or 'no scores'}"
        )
    texts = prompts_of(prompts) if prompts else None
    pairs, embedded = Pairs(), {}
    names = list(llms or [])
    for split in splits:
        scores, embeddings = by_name[f"{split}_score"], by_name.get(f"{split}_embed")
        if scores.ndim != 2 or not scores.size:
            raise DataError(f"{source}: {split}_score must be (queries, LLMs), found shape {scores.shape}")
        names = names or [f"llm-{t + 1}" for t in range(scores.shape[1])]
        check_scores(scores, names, f"{source}: {split}_score")
        if texts is None:
            check_embeddings(embeddings, len(scores), f"{source}: {split}_embed")
            embedded[source.stem.lower(), SPLITS[split]] = Embedded(scores, embeddings)
            continue
        texts_of_split = texts.get(split, [])
        if len(texts_of_split) != len(scores):
            raise DataError(
                f"--prompts {prompts}: {len(texts_of_split)} texts for {split}, "
                f"and {source} has {len(scores)} rows there"
            )
        for number, (text, row) in enumerate(zip(texts_of_split, scores)):
            for llm, score in zip(names, row):
                pairs.add(source.stem, split, number, text, llm, float(score), where=f"{prompts}, {split} {number}")
    return pairs, embedded, names


def check_scores(scores: np.ndarray, llms: Sequence[str], name: str) -> None:
    """Raise DataError unless there is a column for each LLM, of numbers in [0, 1]."""
    if len(llms) != scores.shape[1]:
        raise DataError(
            f"{name} has {scores.shape[1]} columns and there are {len(llms)} LLMs; "
            "--llms must name each column, in order"
        )
    wrong = np.argwhere(~((scores >= 0) & (scores <= 1)))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{name}, row {row}: the score of {llms[column]} must be a number in [0, 1], found {scores[row, column]:g}"
        )


def check_embeddings(embeddings: np.ndarray | None, rows: int, name: str) -> None:
    """Raise DataError unless there is an embedding for each row, finite as float32, in which it is written."""
    if embeddings is not None and embeddings.ndim == 2 and len(embeddings) == rows and embeddings.size:
        if (np.abs(embeddings) <= np.finfo(np.float32).max).all():
            return
    shape = "none" if embeddings is None else embeddings.shape
    raise DataError(
        f"{name} must be finite and of shape ({rows}, dimension), found {shape}; "
        "without text (--prompts) the embeddings are needed"
    )
