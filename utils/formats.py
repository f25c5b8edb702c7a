"""Data files in every format, row by row: `{"question", "scores", "costs", "cluster_id"}`.

Rows are made one by one, so that a file's rows are never held together as objects; of a JSON array the text is held, of
all other formats a piece. Where a format has columns of numbers (parquet, .npz), some rows come together as a Block.
What a library raises for a damaged file becomes a DataError where that library is called. `utils.data` checks what the
rows hold.
"""

import ast
import codecs
import contextlib
import csv
import hashlib
import io
import json
import math
import mmap
import re
import reprlib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from pyarrow import RecordBatch
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
ROWS_AT_ONCE = 1024  # of a parquet file, or of a large .npz file
BYTES_AT_ONCE = 2**20
LARGE = 2**26  # bytes; arrays of such files are read piece by piece
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


@dataclass(frozen=True)
class Block:
    """Some rows of a file that has columns.

    questions: n values that should be texts. llms: T names. scores: (n, T) numbers, or None where a column has
    anything else. costs: (n, T) float64, clusters: (n,) integers, embeddings: (n, p) float32, each None where the file
    has none. rows: makes the same rows one by one, with or without scores and costs.
    """

    rows: Callable[[bool], Iterator[dict[str, Any]]]
    questions: list[Any]
    llms: tuple[str, ...]
    scores: np.ndarray | None = None
    costs: np.ndarray | None = None
    clusters: np.ndarray | None = None
    embeddings: np.ndarray | None = None


UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _not_utf8(path: Path, what: str) -> DataError:
    return DataError(f"{path}: not a text in UTF-8 {what}; save it as UTF-8")


def _text(path: Path, file: BinaryIO) -> str:
    """The text of a file. Raises: DataError unless it is UTF-8, with or without a byte order mark."""
    if not file.read(1):
        return ""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        if raw.find(b"\0") >= 0 or raw[:2] in UTF16:
            raise _not_utf8(path, "but in UTF-16, or with zero bytes")
        try:
            return str(raw, "utf-8-sig")
        except UnicodeDecodeError as error:
            raise _not_utf8(path, f"({error})") from None


def _lines(path: Path, file: BinaryIO) -> io.TextIOWrapper:
    """The lines of a file with their ends, read as they are asked for. Raises: DataError unless it is all UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    while piece := file.read(BYTES_AT_ONCE):
        if b"\0" in piece or (read == 0 and piece[:2] in UTF16):
            raise _not_utf8(path, "but in UTF-16, or with zero bytes")
        begins = read - len(decoder.getstate()[0])
        read += len(piece)
        try:
            decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, f"(byte {begins + error.start}: {error.reason})") from None
    if decoder.getstate()[0]:
        raise _not_utf8(path, f"(byte {read - len(decoder.getstate()[0])}: unexpected end of data)")
    file.seek(0)
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


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


def _json(path: Path, file: BinaryIO) -> Iterator[Any]:
    text = _text(path, file)
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


def _json_lines(path: Path, file: BinaryIO) -> Iterator[Any]:
    for number, line in enumerate(_lines(path, file), 1):
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


def _csv(path: Path, file: BinaryIO) -> Iterator[dict]:
    lines = _csv_lines(path, file)
    columns = next(lines, [])
    if len(columns) == 1 and re.search("[;\t]", columns[0]):
        raise DataError(f"{path}: a single column, {shown(columns[0])}; columns must be separated by commas")
    return table_rows(path, columns, lines)


def _csv_lines(path: Path, file: BinaryIO) -> Iterator[list[str]]:
    """The cells of each line, the names of the columns first; empty lines are left out."""
    reader = csv.reader(_lines(path, file), strict=True)
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not a valid CSV file in UTF-8 ({error}). Is it truncated?"
        ) from None


def _parquet(path: Path, file: BinaryIO) -> Iterator[Block]:
    try:
        from pyarrow import parquet  # slow to import, and only these files need it
    except ImportError:
        raise DataError(
            f"{path}: reading .parquet needs pyarrow; `pip install -r requirements.txt`, or write a CSV file"
        ) from None
    try:
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
    except Exception as error:  # whatever a damaged file makes of pyarrow
        raise _damaged_parquet(path, error) from None
    llms, priced = _llms_of(path, columns)
    for batch in _batches(path, table):
        yield _block(path, batch, llms, priced)


def _batches(path: Path, table: "ParquetFile") -> Iterator["RecordBatch"]:
    """Some rows at a time."""
    try:
        yield from table.iter_batches(ROWS_AT_ONCE)
    except Exception as error:
        raise _damaged_parquet(path, error) from None


def _block(path: Path, batch: "RecordBatch", llms: list[str], priced: list[str]) -> Block:
    """A piece of a parquet file. Raises: DataError for text that is damaged."""
    columns = batch.schema.names

    def rows(with_scores: bool) -> Iterator[dict[str, Any]]:
        chosen = batch if with_scores else batch.select([name for name in columns if name in NOT_LLMS])
        try:
            cells = zip(*[column.to_pylist() for column in chosen.columns])
        except Exception as error:
            raise _damaged_parquet(path, error) from None
        with_costs = priced if with_scores else []
        return _table_rows(path, chosen.schema.names, cells, llms if with_scores else [], with_costs)

    try:
        if "question" in columns:
            questions = batch.column("question").to_pylist()
        else:
            questions = [prompt_text(value) for value in batch.column("prompt").to_pylist()]
    except Exception as error:
        raise _damaged_parquet(path, error) from None
    scores = _numbers_of(batch, llms)
    costs = _numbers_of(batch, [llm + COST for llm in llms]) if priced else None
    clusters = None
    if "cluster_id" in columns:
        clusters = _numbers_of(batch, ["cluster_id"])
    is_plain = (costs is not None or not priced) and ("cluster_id" not in columns or _are_whole(clusters))
    return Block(
        rows=rows,
        questions=questions,
        llms=tuple(llms),
        scores=scores if is_plain else None,
        costs=costs,
        clusters=clusters[:, 0] if is_plain and clusters is not None else None,
    )


def _are_whole(ids: np.ndarray | None) -> bool:
    return ids is not None and ids.dtype.kind in "iu"


def _numbers_of(batch: "RecordBatch", names: Sequence[str]) -> np.ndarray | None:
    """Columns of a parquet file as (n, k); None if one is not of plain numbers, or has an empty cell."""
    columns = [batch.column(name) for name in names]
    types = {str(column.type) for column in columns}
    if not columns or not types <= {"double", "float", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32"}:
        return None
    if any(column.null_count for column in columns):
        return None
    return np.stack([column.to_numpy() for column in columns], axis=1)


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
    llms, priced = _llms_of(path, columns)
    return _table_rows(path, columns, lines, llms, priced)


def _llms_of(path: str | Path, columns: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns with the scores of an LLM, and the LLMs that have a column of costs. Raises: as `table_rows`."""
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
    return llms, priced


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


def _npz(path: Path, file: BinaryIO) -> Iterator[Block]:
    """Scores and embeddings without text.

    Arrays: `scores` (N, T), `embeddings` (N, p), `llms` (T,), and maybe `costs` (N, T), `cluster_id` (N,).
    """
    is_large = file.seek(0, io.SEEK_END) >= LARGE
    pieces = _array_pieces(path, file) if is_large else None
    for arrays in pieces or [_arrays(path, file)]:
        yield _block_of_arrays(arrays)


def _block_of_arrays(arrays: Mapping[str, np.ndarray]) -> Block:
    """A piece of a .npz file; a question is the name of its embedding."""
    llms, vectors = arrays["llms"].tolist(), arrays["embeddings"]
    questions = [f"embedding {hashlib.sha256(vector.tobytes()).hexdigest()[:16]}" for vector in vectors]

    def rows(with_scores: bool) -> Iterator[dict[str, Any]]:
        for number, vector in enumerate(vectors):
            row = {"question": questions[number], "embedding": vector}
            for name in ("scores", "costs"):
                if with_scores and name in arrays:
                    row[name] = dict(zip(llms, map(_cell, arrays[name][number].tolist())))
            if "cluster_id" in arrays:
                row["cluster_id"] = _whole(arrays["cluster_id"][number].item())
            yield row

    clusters = arrays.get("cluster_id")
    is_plain = clusters is None or clusters.dtype.kind == "i"
    return Block(
        rows, questions, tuple(llms), arrays["scores"] if is_plain else None, arrays.get("costs"), clusters, vectors
    )


def _array_pieces(path: Path, file: BinaryIO) -> Iterator[dict[str, np.ndarray]] | None:
    """The arrays of a large file, some rows at a time; None for a file that has to be read as a whole.

    That is one with damaged, unknown or missing arrays, for which `_arrays` has the words, or with rows that are not
    one behind the other.
    """
    file.seek(0)
    if file.read(4) != b"PK\3\4":  # numpy, too, goes by the first bytes
        return None
    try:
        members = zipfile.ZipFile(file)
        names = [name.removesuffix(".npy") for name in members.namelist()]
        if len(set(names)) < len(names) or not {"scores", "embeddings", "llms"} <= set(names) <= set(ARRAYS):
            return None
        opened = {name: members.open(f"{name}.npy") for name in names if name != "llms"}
        shapes = {name: _array_header(member) for name, member in opened.items()}
        with members.open("llms.npy") as member:
            llms = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):  # at its end the checksum is looked at
                return None
        empty = {name: np.empty((0, *shape[1:]), dtype) for name, (shape, dtype) in shapes.items()}
        _check_arrays(path, empty | {"llms": llms})
    except Exception:  # whatever a damaged file makes of numpy and zipfile: it is read as a whole, and named there
        return None
    if len({shape[0] for shape, _ in shapes.values()}) > 1:
        return None
    return _read_pieces(path, opened, shapes, llms)


def _array_header(member: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in a .npz file. Raises: ValueError if its rows are not one behind the other."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(member)
    if is_fortran or dtype.hasobject or len(shape) not in (1, 2) or version > (2, 0):
        raise ValueError("not rows of plain numbers")
    return shape, dtype


def _read_pieces(
    path: Path,
    members: Mapping[str, Any],
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    llms: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """The next rows of every array. Raises: DataError for damaged content, or infinite embeddings."""
    count = shapes["scores"][0][0]
    for start in range(0, count, ROWS_AT_ONCE):
        arrays = {"llms": llms}
        rows = min(ROWS_AT_ONCE, count - start)
        try:
            for name, (shape, dtype) in shapes.items():
                content = members[name].read(rows * int(np.prod(shape[1:])) * dtype.itemsize)
                arrays[name] = np.frombuffer(content, dtype).reshape(rows, *shape[1:])
            if start + rows == count and any(member.read(1) for member in members.values()):
                raise zipfile.BadZipFile("an array has more bytes than its shape")
        except Exception as error:  # whatever a damaged file makes of numpy and zipfile
            raise DataError(f"{path}: not a valid .npz file of plain arrays ({error})") from None
        _check_arrays(path, arrays)
        yield _plain(arrays)


def _arrays(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of a file, with float32 embeddings. Raises: DataError for what is damaged or does not fit."""
    try:
        file.seek(0)
        with zipfile.ZipFile(file) as members:
            if damaged := members.testzip():
                raise zipfile.BadZipFile(f"{damaged} is damaged")
        file.seek(0)
        with np.load(file, allow_pickle=False) as content:
            names = content.files
            arrays = {name: content[name] for name in names}
    except Exception as error:  # whatever a damaged file makes of numpy and zipfile
        raise DataError(f"{path}: not a valid .npz file of plain arrays ({error})") from None
    if len(arrays) < len(names):
        raise DataError(f"{path}: an array occurs twice: {', '.join(names)}")
    absent = [name for name in ("scores", "embeddings", "llms") if name not in arrays]
    if absent:
        raise DataError(f"{path}: no array {', '.join(absent)}; it has {', '.join(arrays) or 'none'}")
    _check_arrays(path, arrays)
    return _plain(arrays)


def _plain(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays with float32 embeddings, and float64 scores and costs."""
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


def open_data(path: Path) -> BinaryIO:
    """A data file, opened to be read once: who replaces it meanwhile changes nothing. Raises: DataError without one."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; name the files in it")
    if not path.is_file():
        raise DataError(
            f"{path}: no such file. `python -m utils.download` fetches the released data "
            "(RouterBench: --datasets routerbench); --data_paths and --test_data_paths name your own"
        )
    return path.open("rb")


def is_large(path: Path, file: BinaryIO) -> bool:
    """Whether a file has LARGE bytes, or a parquet file, which may be packed tightly, as many numbers of four bytes."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size < LARGE and path.suffix.lower() == ".parquet":
        with contextlib.suppress(Exception):  # what is wrong with a damaged file, or pyarrow, is said where it is read
            from pyarrow import parquet

            about = parquet.ParquetFile(file).metadata
            size = 4 * about.num_rows * about.num_columns
        file.seek(0)
    return size >= LARGE


def sha256_of(file: BinaryIO) -> str:
    """SHA-256 of an open file, which is then at its begin again."""
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return digest


def read_parts(path: Path, file: BinaryIO) -> Iterator[dict[str, Any] | Block]:
    """The rows of an open file, one by one or some together; the suffix of its path gives the format.

    Raises: DataError for another suffix; and later, naming file and row, for content that is not of that format, or no
    rows. What a row holds is not looked at, see `check_question`.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        problem = f"{path}: a data file ends in {', '.join(READERS)}"
        if suffix in (".pkl", ".pickle"):
            problem += "; a pickle can run any code when it is opened: "
            problem += "`python -m utils.importers --help` says how to import one"
        raise DataError(problem)
    return _not_empty(path, READERS[suffix](path, file))


def _not_empty(path: Path, parts: Iterable[Any]) -> Iterator[Any]:
    """The same parts. Raises: DataError if they have no row."""
    count = 0
    for part in parts:
        count += len(part.questions) if isinstance(part, Block) else 1
        yield part
    if not count:
        raise DataError(f"{path}: expected a list of at least one row, found an empty list")


def read_rows(path: Path, file: BinaryIO, with_scores: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of an open file one by one. Raises: DataError as `read_parts` and `check_question`.

    with_scores: without them a file that has columns gives its rows sooner.
    """
    number = 0
    for part in read_parts(path, file):
        for row in part.rows(with_scores) if isinstance(part, Block) else (part,):
            check_question(path, number, row)
            yield row
            number += 1


def check_question(path: Path, number: int, row: Any) -> None:
    """Raise DataError, naming the row, unless it is an object with a question."""
    if not isinstance(row, dict):
        raise DataError(f"{path}, row {number}: expected an object, found {type(row).__name__}")
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{path}, row {number}: 'question' must be a non-empty string, found {shown(question)}")
