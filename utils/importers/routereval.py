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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.formats import DataError
from utils.importers.common import SPLITS, Pairs

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
    try:
        if source.suffix.lower() == ".npz":
            with np.load(source, allow_pickle=allow_pickle) as file:
                found = {name: file[name] for name in file.files if name.endswith(("_score", "_embed"))}
        elif source.suffix.lower() in (".pkl", ".pickle"):
            if not allow_pickle:
                raise DataError(f"{source}: {danger}")
            with source.open("rb") as file:
                found = pickle.load(file)
        else:
            raise DataError(f"{source}: expected .npz or .pkl")
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{source}: {danger if 'allow_pickle' in str(error) else error}") from None
    except (OSError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, AttributeError, ImportError) as error:
        raise DataError(f"{source}: cannot be read ({type(error).__name__}: {error}). Is it truncated?") from None
    if not isinstance(found, dict):
        raise DataError(f"{source}: expected arrays by name, found {type(found).__name__}")
    try:
        return {
            str(name): np.asarray(value, dtype=np.float64)
            for name, value in found.items()
            if str(name).endswith(("_score", "_embed"))
        }
    except (ValueError, TypeError) as error:
        raise DataError(f"{source}: its arrays are not all numbers ({error})") from None


def prompts_of(path: Path) -> dict[str, list]:
    """The texts of each split.

    Raises: DataError if the file is not an object of lists.
    """
    try:
        texts = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"--prompts {path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"--prompts {path}: not valid JSON ({error})") from None
    if not isinstance(texts, dict) or not all(isinstance(part, list) for part in texts.values()):
        raise DataError(f'--prompts {path}: expected {{"train": [text, ...], "val": [...], "test": [...]}}')
    return texts


def read(
    source: Path, allow_pickle: bool = False, prompts: Path | None = None, llms: Sequence[str] | None = None
) -> tuple[Pairs, dict[tuple[str, str], Embedded], list[str]]:
    """All of one file: pairs where the text is given, else (task, split) -> Embedded, and the names of the LLMs.

    `llms` names the columns; by default they are llm-1, llm-2, ...
    Raises: DataError for shapes that do not fit each other, scores outside [0, 1], or another number of prompts.
    """
    found = arrays(source, allow_pickle)
    parts = [name for name in PARTS if f"{name}_score" in found]
    if not parts:
        raise DataError(f"{source}: no train_score, val_score or test_score; it has {', '.join(found) or 'no scores'}")
    texts = prompts_of(prompts) if prompts else None
    pairs, embedded = Pairs(), {}
    names = list(llms or [])
    for name in parts:
        scores, embeddings = found[f"{name}_score"], found.get(f"{name}_embed")
        if scores.ndim != 2 or not scores.size:
            raise DataError(f"{source}: {name}_score must be (queries, LLMs), found shape {scores.shape}")
        names = names or [f"llm-{t + 1}" for t in range(scores.shape[1])]
        if len(names) != scores.shape[1]:
            raise DataError(
                f"{source}: {name}_score has {scores.shape[1]} columns and there are {len(names)} LLMs; --llms "
                "must name each column, in order"
            )
        if not ((scores >= 0) & (scores <= 1)).all():
            row, column = np.argwhere(~((scores >= 0) & (scores <= 1)))[0]
            raise DataError(
                f"{source}: {name}_score, row {row}: the score of {names[column]} must be a number in [0, 1], "
                f"found {scores[row, column]:g}"
            )
        if texts is not None:
            if len(texts.get(name, [])) != len(scores):
                raise DataError(
                    f"--prompts {prompts}: {len(texts.get(name, []))} texts for {name}, and {source} has "
                    f"{len(scores)} rows there"
                )
            for number, (text, row) in enumerate(zip(texts[name], scores)):
                for llm, score in zip(names, row):
                    pairs.add(source.stem, name, number, text, llm, float(score), where=f"{prompts}, {name} {number}")
        elif (
            embeddings is None
            or embeddings.ndim != 2
            or len(embeddings) != len(scores)
            or not np.isfinite(embeddings).all()
        ):
            shape = "none" if embeddings is None else embeddings.shape
            raise DataError(
                f"{source}: {name}_embed must be finite and of shape ({len(scores)}, dimension), found {shape}; "
                "without text (--prompts) the embeddings are needed"
            )
        else:
            embedded[source.stem.lower(), SPLITS[name]] = Embedded(scores, embeddings)
    return pairs, embedded, names
