"""Data files in every format to rows `{"question", "scores", "costs", "cluster_id"}`.

`utils.data` checks what the rows hold.
"""

import ast
import csv
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COST, ANSWER = "|total_cost", "|model_response"  # endings of RouterBench's further columns of each LLM
# Other columns.
NOT_LLMS = {"question", "prompt", "cluster_id", "sample_id", "eval_name", "oracle_model_to_route_to", "", "Unnamed: 0"}
csv.field_size_limit(2**31 - 1)  # RouterBench keeps whole answers in its cells


class DataError(ValueError):
    """A data file is missing or wrong; the message names the file, the row, what was found and what to do."""


def prompt_text(value: Any) -> str:
    """RouterBench's prompt: a list with one string, or such a list as a Python literal (parsed, never run).

    Several turns get a line each.
    """
    turns = value
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            turns = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return value  # a plain text that happens to stand in brackets
    turns = turns.tolist() if isinstance(turns, np.ndarray) else turns
    if isinstance(turns, list) and all(isinstance(turn, str) for turn in turns):
        return "\n".join(turns)
    return value


def _json(path: Path, raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not valid JSON ({error}). Is it truncated? "
            "`python -m utils.download --check` verifies released files"
        ) from None


def _json_lines(path: Path, raw: bytes) -> list:
    rows = []
    for number, line in enumerate(raw.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(
                    f"{path}, line {number}: not valid JSON ({error}); .jsonl has one object a line"
                ) from None
    return rows


def _csv(path: Path, raw: bytes) -> list[dict]:
    try:
        reader = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        columns, *lines = list(reader) or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a valid CSV file in UTF-8 ({error}). Is it truncated?") from None
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: the column {repeated[0]!r} occurs twice")
    lines = [line for line in lines if line]  # the reader gives [] for an empty line
    for number, line in enumerate(lines):
        if len(line) != len(columns):
            raise DataError(f"{path}, row {number}: {len(line)} cells under {len(columns)} columns")
    return table_rows(path, columns, (dict(zip(columns, line)) for line in lines))


def _parquet(path: Path, raw: bytes) -> list[dict]:
    import pandas  # slow to import, and only these files need it

    try:
        frame = pandas.read_parquet(io.BytesIO(raw))
    except ImportError:
        raise DataError(
            f"{path}: reading .parquet needs pyarrow; `pip install -r requirements.txt`, or write a CSV file"
        ) from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a valid parquet file ({error}). Is it truncated?") from None
    return table_rows(path, list(frame.columns), frame.to_dict("records"))


def _cell(value: Any) -> Any:
    """The number in a cell; None for an empty one; what it holds, as it is, where that is no number."""
    if isinstance(value, str):
        try:
            value = float(value) if value.strip() else None
        except ValueError:
            return value
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


def table_rows(path: str | Path, columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> list[dict]:
    """The rows of a table as those of a JSON file.

    A table has `question` (or RouterBench's `prompt`), a column with the score for each LLM, and may have
    `LLM|total_cost` and `cluster_id`. Where there are cost columns they say which columns are LLMs; RouterBench's other
    columns are left out.
    Raises: DataError for a column that is neither.
    """
    question_column = next((name for name in ("question", "prompt") if name in columns), None)
    if question_column is None:
        raise DataError(
            f"{path}: no column `question` (or `prompt`); it has {', '.join(map(repr, columns[:12])) or 'none'}"
        )
    llms = [name for name in columns if name not in NOT_LLMS and not str(name).endswith((COST, ANSWER))]
    priced = [name.removesuffix(COST) for name in columns if str(name).endswith(COST)]
    wrong = set(llms) ^ set(priced) if priced else set()
    if wrong:
        raise DataError(
            f"{path}: {', '.join(map(repr, sorted(wrong)))}: a score without its cost column, or a cost without its "
            f"score; for each LLM there must be `LLM` and `LLM{COST}`, or no costs at all"
        )
    rows = []
    for record in records:
        question = record[question_column]
        if question_column == "prompt":
            question = prompt_text(question)
        row = {"question": question, "scores": {llm: _cell(record[llm]) for llm in llms}}
        if priced:
            row["costs"] = {llm: _cell(record[llm + COST]) for llm in llms}
        if "cluster_id" in columns:
            cluster = _cell(record["cluster_id"])
            row["cluster_id"] = int(cluster) if isinstance(cluster, float) and cluster.is_integer() else cluster
        rows.append(row)
    return rows


def _npz(path: Path, raw: bytes) -> list[dict]:
    """Scores and embeddings without text.

    Arrays: `scores` (N, T), `embeddings` (N, p), `llms` (T,), and maybe `costs` (N, T), `cluster_id` (N,).
    """
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a valid .npz file of plain arrays ({error})") from None
    absent = [name for name in ("scores", "embeddings", "llms") if name not in arrays]
    if absent:
        raise DataError(f"{path}: no array {', '.join(absent)}; it has {', '.join(arrays) or 'none'}")
    llms = arrays["llms"].tolist()
    _check_arrays(path, arrays, len(llms))
    rows = []
    for number, vector in enumerate(np.ascontiguousarray(arrays["embeddings"], dtype=np.float32)):
        digest = hashlib.sha256(vector.tobytes()).hexdigest()
        row = {"question": f"embedding {digest[:16]}", "embedding": vector}
        row["scores"] = dict(zip(llms, map(_cell, arrays["scores"][number])))
        if "costs" in arrays:
            row["costs"] = dict(zip(llms, map(_cell, arrays["costs"][number])))
        if "cluster_id" in arrays:
            row["cluster_id"] = _cell(arrays["cluster_id"][number])
        rows.append(row)
    return rows


def _check_arrays(path: Path, arrays: Mapping[str, np.ndarray], llms: int) -> None:
    """Raise DataError unless the shapes fit each other and this number of LLMs, and the embeddings are finite."""
    scores, vectors = arrays["scores"], arrays["embeddings"]
    fits = scores.ndim == vectors.ndim == 2 and len(scores) == len(vectors)
    fits = fits and scores.shape[1] == llms and vectors.shape[1] > 0
    if not fits or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
        raise DataError(
            f"{path}: expected scores (N, T), finite embeddings (N, p) and T llms, "
            f"found {scores.shape}, {vectors.shape} ({vectors.dtype}) and {llms}"
        )
    further = {name: arrays[name] for name in ("costs", "cluster_id") if name in arrays}
    fits = all(len(values) == len(scores) for values in further.values())
    if not fits or ("costs" in further and further["costs"].shape != scores.shape):
        shapes = ", ".join(f"{name} {values.shape}" for name, values in further.items())
        raise DataError(f"{path}: {shapes} do not fit scores {scores.shape}")


READERS = {".json": _json, ".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet, ".npz": _npz}


def read_rows(path: Path, raw: bytes) -> Any:
    """The rows of a file with content `raw`; its suffix gives the format. What JSON holds is returned unchecked.

    Raises: DataError if the content is not of that format, or the suffix of none.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        problem = f"{path}: a data file ends in {', '.join(READERS)}"
        if suffix in (".pkl", ".pickle"):
            problem += "; a pickle can run any code when it is opened: "
            problem += "`python -m utils.importers --help` says how to import one"
        raise DataError(problem)
    return READERS[suffix](path, raw)
