"""Data files in every format, row by row: `{"question", "scores", "costs", "cluster_id"}`.

Rows are made one by one, so that a file's rows are never held together as objects. What a library raises for a damaged
file becomes a DataError where that library is called. `utils.data` checks what the rows hold.
"""

import ast
import codecs
import csv
import hashlib
import io
import json
import math
import re
import reprlib
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

COST, ANSWER = "|total_cost", "|model_response"  # endings of RouterBench's further columns of each LLM
# Other columns; the last is what a parquet file calls the index of a pandas table.
NOT_LLMS = {"question", "prompt", "cluster_id", "sample_id", "eval_name", "oracle_model_to_route_to", "", "Unnamed: 0"}
NOT_LLMS |= {"__index_level_0__"}
# What tables often say about a question, in small letters. An LLM's column is called otherwise.
ABOUT_QUESTIONS = set(
    "id idx index qid question_id difficulty level category subject topic domain task dataset".split()
)
ABOUT_QUESTIONS |= set("split fold source language label answer reference target length tokens weight year".split())
SPACE = r"[ \t\r\n]*"
TRUNCATED = ". Is it truncated? `python -m utils.download --check` verifies released files"
LIST_BEGINS = re.compile(rf"{SPACE}\[{SPACE}(?P<end>\])?{SPACE}")
ROW_ENDS = re.compile(rf"{SPACE}(?:,|(?P<end>\])){SPACE}")
INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
ARRAYS = {  # of a .npz file: kinds of numpy's types, in words
    "scores": ("fiu", "numbers"),
    "costs": ("fiu", "numbers"),
    "embeddings": ("f", "floating-point numbers"),
    "llms": ("U", "strings"),
    "cluster_id": ("fiu", "numbers"),
}
ROWS_AT_ONCE = 1024  # of a parquet file
csv.field_size_limit(2**31 - 1)  # RouterBench keeps whole answers in its cells


class DataError(ValueError):
    """A data file is missing or wrong; the message names the file, the row, what was found and what to do."""


def shown(value: Any) -> str:
    """A value for an error: as Python writes it, but of what is long or deep the beginning alone."""
    return reprlib.repr(value)


def is_id(value: object) -> bool:
    """Whether a value is a cluster id: an integer of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


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


def _text(path: Path, raw: bytes) -> str:
    """The text of a file. Raises: DataError unless it is UTF-8, with or without a byte order mark."""
    if b"\0" in raw or raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: not a text in UTF-8 but in UTF-16, or with zero bytes; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8 ({error}); save it as UTF-8") from None


def _lines(path: Path, raw: bytes) -> io.TextIOWrapper:
    """The lines of a file with their ends. Raises: DataError as `_text`."""
    _text(path, raw)
    return io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8-sig", newline="")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises: ValueError for a name that occurs twice: one of the values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"{counts.most_common(1)[0][0]!r} occurs twice in one object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)
JSON_ERRORS = (ValueError, RecursionError)  # what a decoder raises; integers of thousands of digits are a ValueError


def _no_json(where: str, error: Exception, advice: str) -> DataError:
    """What to say where `_json_value` failed."""
    return DataError(f"{where}: not valid JSON ({error}){advice if isinstance(error, json.JSONDecodeError) else ''}")


def _check_halves(value: Any) -> None:
    """Raise ValueError for half of a surrogate pair, which no file and no tokenizer takes."""
    json.dumps(value, ensure_ascii=False).encode()


def _json(path: Path, raw: bytes) -> Iterator[Any]:
    text = _text(path, raw)
    del raw
    mark = LIST_BEGINS.match(text)
    if mark is None:
        raise _no_list(path, text)
    has_surrogates = SURROGATE.search(text)
    number = 0
    while not mark["end"]:
        try:
            row, end = DECODER.raw_decode(text, mark.end())
            if has_surrogates and SURROGATE.search(text, mark.end(), end):
                _check_halves(row)
        except JSON_ERRORS as error:
            raise _no_json(f"{path}, row {number}", error, TRUNCATED) from None
        yield row
        mark = ROW_ENDS.match(text, end)
        if mark is None:
            raise DataError(f"{path}, row {number}: not valid JSON (no comma and no ] behind it){TRUNCATED}")
        number += 1
    if mark.end() < len(text):
        raise DataError(f"{path}: not valid JSON ({shown(text[mark.end() :])} stands behind the list)")


def _no_list(path: Path, text: str) -> DataError:
    """What to say of a JSON file that is no list of rows."""
    text = text.strip()
    if not text:
        return DataError(f"{path}: not valid JSON (the file is empty)")
    try:
        value, end = DECODER.raw_decode(text)
    except JSON_ERRORS as error:
        return _no_json(str(path), error, TRUNCATED)
    if isinstance(value, dict) and end < len(text):
        return DataError(f"{path}: not valid JSON, but an object a line; such a file is called {path.stem}.jsonl")
    return DataError(f"{path}: expected a list of at least one row, found {type(value).__name__}")


def _json_lines(path: Path, raw: bytes) -> Iterator[Any]:
    for number, line in enumerate(_lines(path, raw), 1):
        line = line.strip(" \t\r\n")
        if not line:
            continue
        try:
            row = DECODER.decode(line)
            if SURROGATE.search(line):
                _check_halves(row)
        except JSON_ERRORS as error:
            raise _no_json(f"{path}, line {number}", error, "; .jsonl has one object a line, .json a list") from None
        yield row


def _csv(path: Path, raw: bytes) -> Iterator[dict]:
    lines = _csv_lines(path, raw)
    columns = next(lines, [])
    if len(columns) == 1 and re.search("[;\t]", columns[0]):
        raise DataError(f"{path}: a single column, {shown(columns[0])}; columns must be separated by commas")
    return table_rows(path, columns, lines)


def _csv_lines(path: Path, raw: bytes) -> Iterator[list[str]]:
    """The cells of each line, the names of the columns first; empty lines are left out."""
    reader = csv.reader(_lines(path, raw), strict=True)
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not a valid CSV file in UTF-8 ({error}). Is it truncated?"
        ) from None


def _parquet(path: Path, raw: bytes) -> Iterator[dict]:
    try:
        from pyarrow import parquet  # slow to import, and only these files need it
    except ImportError:
        raise DataError(
            f"{path}: reading .parquet needs pyarrow; `pip install -r requirements.txt`, or write a CSV file"
        ) from None
    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        columns = file.schema_arrow.names
    except Exception as error:  # whatever a damaged file makes of pyarrow
        raise _damaged_parquet(path, error) from None
    return table_rows(path, columns, _parquet_lines(path, file))


def _parquet_lines(path: Path, file: "ParquetFile") -> Iterator[tuple]:
    """The cells of each row."""
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield from zip(*[column.to_pylist() for column in batch.columns])
    except Exception as error:
        raise _damaged_parquet(path, error) from None


def _damaged_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a valid parquet file ({error}). Is it truncated?")


def _number(text: str) -> float:
    """The number in a text. Raises: ValueError for others, also for what only Python takes for one: 1_000, ١."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def _cell(value: Any) -> Any:
    """The number in a cell; None for an empty one; what it holds, as it is, where that is no number."""
    if isinstance(value, str):
        try:
            value = _number(value) if value.strip() else None
        except ValueError:
            return value
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _whole(value: Any) -> Any:
    """The integer in a cell, and 3 for 3.0; else as `_cell`. Text is not read as a float: that has 53 bits alone."""
    if isinstance(value, str) and INTEGER.fullmatch(value.strip()):
        return int(value)
    value = _cell(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def table_rows(path: str | Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> Iterator[dict]:
    """The rows of a table as those of a JSON file.

    A table has `question` (or RouterBench's `prompt`), a column with the score for each LLM, and may have
    `LLM|total_cost` and `cluster_id`. Where there are cost columns they say which columns are LLMs; RouterBench's other
    columns are left out.

    Args:
        lines: the cells of each row.
    Raises: DataError for columns that are no such table, or a row with more or fewer cells.
    """
    _check_columns(path, columns)
    llms = [name for name in columns if name not in NOT_LLMS and not name.endswith((COST, ANSWER))]
    priced = [name.removesuffix(COST) for name in columns if name.endswith(COST)]
    wrong = set(llms) ^ set(priced) if priced else set()
    if wrong:
        raise DataError(
            f"{path}: {', '.join(map(repr, sorted(wrong)))}: a score without its cost column, or a cost without its "
            f"score; for each LLM there must be `LLM` and `LLM{COST}`, or no costs at all"
        )
    about = [name for name in llms if name.strip().lower() in ABOUT_QUESTIONS]
    if about and not priced:
        raise DataError(
            f"{path}: the column {about[0]!r} would be an LLM, as all columns but `question` and `cluster_id` are; "
            "leave it out, or rename it if it is one"
        )
    return _table_rows(path, columns, lines, llms, priced)


def _check_columns(path: str | Path, columns: Sequence[Any]) -> None:
    """Raise DataError unless there is a column of questions, and all columns have different names."""
    for name, count in Counter(columns).items():
        if not isinstance(name, str):
            raise DataError(f"{path}: the name of the column {name!r} is no text")
        if count > 1:
            raise DataError(f"{path}: the column {name!r} occurs twice")
    if not {"question", "prompt"}.intersection(columns):
        raise DataError(
            f"{path}: no column `question` (or `prompt`); it has {', '.join(map(repr, columns[:12])) or 'none'}"
        )


def _table_rows(
    path: str | Path, columns: Sequence[str], lines: Iterable[Sequence[Any]], llms: list[str], priced: list[str]
) -> Iterator[dict]:
    """The rows of a table whose columns are checked; `llms` have scores, and `priced` costs."""
    place = {name: number for number, name in enumerate(columns)}
    for number, cells in enumerate(lines):
        if len(cells) != len(columns):
            raise DataError(f"{path}, row {number}: {len(cells)} cells under {len(columns)} columns")
        question = cells[place["question"]] if "question" in place else prompt_text(cells[place["prompt"]])
        row = {"question": question, "scores": {llm: _cell(cells[place[llm]]) for llm in llms}}
        if priced:
            row["costs"] = {llm: _cell(cells[place[llm + COST]]) for llm in priced}
        if "cluster_id" in place:
            row["cluster_id"] = _whole(cells[place["cluster_id"]])
        yield row


def _npz(path: Path, raw: bytes) -> Iterator[dict]:
    """Scores and embeddings without text.

    Arrays: `scores` (N, T), `embeddings` (N, p), `llms` (T,), and maybe `costs` (N, T), `cluster_id` (N,).
    """
    arrays = _arrays(path, raw)
    llms = arrays["llms"].tolist()
    for number, vector in enumerate(arrays["embeddings"]):
        digest = hashlib.sha256(vector.tobytes()).hexdigest()
        row = {"question": f"embedding {digest[:16]}", "embedding": vector}
        for name in ("scores", "costs"):
            if name in arrays:
                row[name] = dict(zip(llms, map(_cell, arrays[name][number].tolist())))
        if "cluster_id" in arrays:
            row["cluster_id"] = _whole(arrays["cluster_id"][number].item())
        yield row


def _arrays(path: Path, raw: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file, with float32 embeddings. Raises: DataError for what is damaged or does not fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as members:
            if damaged := members.testzip():
                raise zipfile.BadZipFile(f"{damaged} is damaged")
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            names = file.files
            arrays = {name: file[name] for name in names}
    except Exception as error:  # whatever a damaged file makes of numpy and zipfile
        raise DataError(f"{path}: not a valid .npz file of plain arrays ({error})") from None
    if len(arrays) < len(names):
        raise DataError(f"{path}: an array occurs twice: {', '.join(names)}")
    absent = [name for name in ("scores", "embeddings", "llms") if name not in arrays]
    if absent:
        raise DataError(f"{path}: no array {', '.join(absent)}; it has {', '.join(arrays) or 'none'}")
    _check_arrays(path, arrays)
    arrays["embeddings"] = np.ascontiguousarray(arrays["embeddings"], dtype=np.float32)
    with np.errstate(over="ignore"):  # what float64 cannot hold becomes infinite, and is refused
        for name in ("scores", "costs"):
            if name in arrays:
                arrays[name] = arrays[name].astype(np.float64)
    return arrays


def _check_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise DataError unless types and shapes are what they must be, and all LLMs have different names."""
    for name, (kinds, content) in ARRAYS.items():
        is_array = isinstance(arrays.get(name), np.ndarray)
        if name in arrays and not (is_array and arrays[name].dtype.kind in kinds):
            raise DataError(f"{path}: {name} must be an array of {content}")
    scores, vectors, llms = arrays["scores"], arrays["embeddings"], arrays["llms"]
    fits = scores.ndim == vectors.ndim == 2 and len(scores) == len(vectors) and vectors.shape[1] > 0
    fits = fits and llms.shape == scores.shape[1:]
    if not fits or not (np.abs(vectors) <= np.finfo(np.float32).max).all():
        raise DataError(
            f"{path}: expected scores (N, T), finite embeddings (N, p) and T llms, "
            f"found {scores.shape}, {vectors.shape} ({vectors.dtype}) and {llms.shape}"
        )
    for name, shape in (("costs", scores.shape), ("cluster_id", scores.shape[:1])):
        if name in arrays and arrays[name].shape != shape:
            raise DataError(f"{path}: {name} {arrays[name].shape} do not fit scores {scores.shape}")
    try:
        names = llms.tolist()
        "".join(names).encode()
    except ValueError as error:
        raise DataError(f"{path}: llms must be names ({error})") from None
    if len(set(names)) < len(names):
        raise DataError(f"{path}: an LLM is named twice: {', '.join(names)}")


READERS = {".json": _json, ".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet, ".npz": _npz}


def read_bytes(path: Path) -> bytes:
    """The content of a data file. Raises: DataError if there is none."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; name the files in it")
    if not path.is_file():
        raise DataError(
            f"{path}: no such file. `python -m utils.download` fetches the released data "
            "(RouterBench: --datasets routerbench); --data_paths and --test_data_paths name your own"
        )
    return path.read_bytes()


def read_rows(path: Path, raw: bytes) -> Iterator[dict[str, Any]]:
    """The rows of a file with content `raw`, which have a question; its suffix gives the format.

    Raises: DataError for another suffix; and later, naming file and row, for content that is not of that format, no
    rows, or a row without a question.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        problem = f"{path}: a data file ends in {', '.join(READERS)}"
        if suffix in (".pkl", ".pickle"):
            problem += "; a pickle can run any code when it is opened: "
            problem += "`python -m utils.importers --help` says how to import one"
        raise DataError(problem)
    return _with_questions(path, READERS[suffix](path, raw))


def _with_questions(path: Path, rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The same rows. Raises: DataError if there are none, or one has no question."""
    number = -1
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: expected an object, found {type(row).__name__}")
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"{path}, row {number}: 'question' must be a non-empty string, found {shown(question)}")
        yield row
    if number < 0:
        raise DataError(f"{path}: expected a list of at least one row, found an empty list")
