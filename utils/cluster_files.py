"""Training files for clustering: find and read them, and write them again, in their own format, with cluster ids."""

import codecs
import csv
import functools
import io
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .columns import Numbers
from .files import naming
from .formats import READERS, DataError, is_id, open_data, read_rows, sha256_of, shown
from .tasks import BY_NAME, TRAIN_ORDER, task_of

# The released training files as they are before clustering.
TRAINING_FILES = tuple(str(Path(BY_NAME[task].test).parent / Path(BY_NAME[task].train).name) for task in TRAIN_ORDER)
CLUSTER_ID = "cluster_id"
TRAIN_NAME = re.compile(r"train$", re.IGNORECASE)
TEST_NAME = re.compile(r"[-_](test|val|valid|validation)$", re.IGNORECASE)


@dataclass(frozen=True)
class TrainingFile:
    """The queries of one training file, row by row; scores are not read, since clusters do not depend on them.

    sha256: of the file, as read. questions: N strings. clusters: (N,) int64, the ids that the file has, or None where
    a row has none. embeddings: (N, p) float32 where the file (.npz) has them in place of text, or None.
    """

    task: str
    path: str
    sha256: str
    questions: list[str]
    clusters: np.ndarray | None
    embeddings: np.ndarray | None

    def __len__(self) -> int:
        return len(self.questions)


# Find and read


def training_files(names: Sequence[str]) -> list[str]:
    """Files as they are; a folder stands for the training files in it, see `files_in`. Raises: ValueError as that."""
    paths = []
    for name in names:
        paths += files_in(Path(name)) if Path(name).is_dir() else [name]
    return paths


def files_in(folder: Path) -> list[str]:
    """The training files in a folder, in every format of `utils.formats`; what is left out is named on stderr.

    Where names end in "train" (gsm8k-train.json, poems_train.csv), these are the training files; elsewhere all data
    files are, but for those whose names end in _test, _val or the like. The paper's tasks come first in the released
    order, others after them by name.
    Raises: ValueError for a folder without one.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    data = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in READERS]
    chosen = [entry for entry in data if TRAIN_NAME.search(entry.stem)]
    chosen = chosen or [entry for entry in data if not TEST_NAME.search(entry.stem)]
    formats = ", ".join(READERS)
    if not chosen:
        names = ", ".join(entry.name for entry in entries) or "nothing"
        raise ValueError(f"--data_paths {folder}: no training file there ({formats}), only {names}; name the files")
    left_out = [entry for entry in entries if entry not in chosen]
    if left_out:
        reasons = [
            f"{entry.name} ({'no training file by its name' if entry in data else 'no data file'})"
            for entry in left_out
        ]
        print(f"{folder}: left out: {', '.join(reasons)}", file=sys.stderr)
    order = {task: place for place, task in enumerate(TRAIN_ORDER)}
    chosen.sort(key=lambda entry: (order.get(task_of(entry), len(order)), str(entry)))
    return [str(entry) for entry in chosen]


def read_file(path: str | Path) -> TrainingFile:
    """Read one training file. Raises: DataError that names the file, and the row, for what is missing or wrong."""
    path = Path(path)
    questions, ids, vectors, dimensions = [], [], Numbers("f"), 0
    with open_data(path) as file:
        sha256 = sha256_of(file)
        for row in read_rows(path, file, with_scores=False):
            questions.append(row["question"])
            ids.append(row.get(CLUSTER_ID))
            if isinstance(row.get("embedding"), np.ndarray):  # all rows of a file have one, or none
                vectors.add_array(row["embedding"])
                dimensions = len(row["embedding"])
    return TrainingFile(
        task=task_of(path),
        path=str(path),
        sha256=sha256,
        questions=questions,
        clusters=np.array(ids, dtype=np.int64) if all(map(is_id, ids)) else None,
        embeddings=vectors.table(dimensions) if dimensions else None,
    )


def load_files(names: Sequence[str]) -> list[TrainingFile]:
    """Read the training files, one per task; folders as in `training_files`.

    Raises: DataError as `read_file`, also for a task that occurs twice; ValueError for a folder without training files.
    """
    files = [read_file(path) for path in training_files(names)]
    tasks = [file.task for file in files]
    for task in tasks:
        if tasks.count(task) > 1:
            raise DataError(f"--data_paths: two files are for the task {task!r}; give each task's file once")
    return files


def unique_queries(files: Sequence[TrainingFile]) -> tuple[list[str], list[np.ndarray]]:
    """The n different questions of all files, and where the question of each row is among them.

    Returns: the questions in order of appearance, and for each file an index (N,) into them.
    """
    texts: dict[str, int] = {}
    places = []
    for file in files:
        places.append(np.array([texts.setdefault(question, len(texts)) for question in file.questions]))
    return list(texts), places


def given_ids(files: Sequence[TrainingFile], folder: str | Path | None = None) -> list[np.ndarray] | None:
    """Cluster ids (N,) of every file from before; None if some rows have none.

    folder: holds files of the same names, and their ids are taken; None: the files' own.
    Raises: DataError if a file of `folder` is missing, has a row without an id, or other questions.
    """
    if folder is None:
        own = [file.clusters for file in files if file.clusters is not None]
        return own if len(own) == len(files) else None
    return [ids_of_same_questions(file, Path(folder) / Path(file.path).name) for file in files]


def ids_of_same_questions(file: TrainingFile, path: Path) -> np.ndarray:
    """The cluster ids (N,) of the file at `path`.

    Raises: DataError unless it has, row by row, an id and the question of `file`.
    """
    other = read_file(path)
    if other.clusters is None:
        with open_data(path) as file:
            ids = enumerate(row.get(CLUSTER_ID) for row in read_rows(path, file, with_scores=False))
            number, wrong = next((number, value) for number, value in ids if not is_id(value))
        raise DataError(f"{path}, row {number}: '{CLUSTER_ID}' must be an integer, found {shown(wrong)}")
    if other.questions != file.questions:
        pairs = enumerate(zip(other.questions, file.questions))
        shorter = min(len(other), len(file))
        number = next((number for number, (theirs, ours) in pairs if theirs != ours), shorter)
        raise DataError(
            f"{path}, row {number}: not the question of that row in {file.path}; "
            "--compare needs the same questions in the same order"
        )
    return other.clusters


# Write again


def check_output(files: Sequence[TrainingFile], folder: Path, overwrite: bool = False) -> None:
    """Refuse to replace files that are there, the inputs above all, unless `overwrite`.

    Raises: ValueError naming the file.
    """
    for file in files:
        target = folder / Path(file.path).name
        if overwrite or not target.exists():
            continue
        if target.resolve() == Path(file.path).resolve():
            raise ValueError(
                f"--output {folder}: this is the folder of the input {file.path}; choose another, "
                "or --overwrite to put the cluster ids into the input files"
            )
        raise ValueError(
            f"--output {folder}: {target.name} is already there; choose another folder, or --overwrite to replace it"
        )


def write_clustered(
    files: Sequence[TrainingFile],
    places: Sequence[np.ndarray],
    ids: np.ndarray,
    folder: Path,
    overwrite: bool = False,
) -> list[Path]:
    """Write every file into `folder` under its name and in its format, with the `cluster_id` of each row.

    What else a row has stays as it is, in its order. All files are written, or none, see `replace_all`.

    Args:
        places: for each file the place (N,) of every row among the n unique queries.
        ids: (n,), the cluster of every unique query.
    Raises: ValueError if a file is there and not `overwrite`; DataError if an input changed since it was read.
    """
    check_output(files, folder, overwrite)
    for file in files:
        with open(file.path, "rb") as source:
            _check_unchanged(file, source)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {}
    for file, place in zip(files, places):
        target = folder / Path(file.path).name
        contents[target] = functools.partial(_write_with_ids, file, ids[place])
    replace_all(contents)
    return list(contents)


def _write_with_ids(file: TrainingFile, ids: np.ndarray, target: Path) -> None:
    """Write one file with the ids (N,) of its rows. Raises: DataError if it changed since it was read."""
    with open(file.path, "rb") as source, target.open("wb") as written:
        _check_unchanged(file, source)
        WRITERS[Path(file.path).suffix.lower()](source, written, ids)


def _check_unchanged(file: TrainingFile, source: BinaryIO) -> None:
    """Raise DataError if a file, opened again, is not what was read."""
    if sha256_of(source) != file.sha256:
        raise DataError(
            f"{file.path}: it changed while it was being clustered, so that the ids may not fit its rows; start again"
        )


def replace_all(contents: Mapping[Path, Callable[[Path], None]]) -> None:
    """Give all files new contents, or none.

    They are written beside their targets, each by the function that gets the place to write to, and then take their
    places; if that fails, what was there comes back.
    """
    parts = {path: path.with_name(f".{path.name}.part") for path in contents}
    before = {path: path.with_name(f".{path.name}.old") for path in contents}
    replaced: list[Path] = []
    try:
        for path, write in contents.items():
            with naming(path):
                write(parts[path])
        for path, part in parts.items():
            if path.exists():
                os.link(path, before[path])
            replaced.append(path)
            os.replace(part, path)
    except BaseException:
        for path in replaced:
            if before[path].exists():
                os.replace(before[path], path)
            else:
                path.unlink(missing_ok=True)
        raise
    finally:
        for left in (*parts.values(), *before.values()):
            left.unlink(missing_ok=True)


def _with_id(row: dict, number: int) -> str:
    return json.dumps({**row, CLUSTER_ID: int(number)}, ensure_ascii=False)


def _json(source: BinaryIO, written: BinaryIO, ids: np.ndarray) -> None:
    between = "[\n"
    for row, number in zip(json.load(source), ids):
        written.write((between + _with_id(row, number)).encode())
        between = ",\n"
    written.write(b"\n]\n")


def _json_lines(source: BinaryIO, written: BinaryIO, ids: np.ndarray) -> None:
    lines = (line for line in io.TextIOWrapper(source, "utf-8-sig", newline="") if line.strip(" \t\r\n"))
    for line, number in zip(lines, ids):
        written.write((_with_id(json.loads(line), number) + "\n").encode())


def _csv(source: BinaryIO, written: BinaryIO, ids: np.ndarray) -> None:
    """The cells as they are, with the line ends of the first line and its byte order mark."""
    has_mark = source.read(3) == codecs.BOM_UTF8
    source.seek(0)
    text = io.TextIOWrapper(source, "utf-8-sig", newline="")
    first_line = text.readline()
    text.seek(0)
    has_return = any("\r" in cell for line in csv.reader(text, strict=True) for cell in line)
    text.seek(0)
    lines = filter(None, csv.reader(text, strict=True))  # [] is an empty line
    columns = next(lines)
    column = columns.index(CLUSTER_ID) if CLUSTER_ID in columns else len(columns)
    file = io.TextIOWrapper(written, "utf-8-sig" if has_mark else "utf-8", newline="")
    writer = csv.writer(
        file,
        lineterminator="\r\n" if first_line.endswith("\r\n") else "\n",
        quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL,  # the latter may leave a carriage return bare
    )
    writer.writerow([*columns[:column], CLUSTER_ID, *columns[column + 1 :]])
    for line, value in zip(lines, ids.tolist()):
        writer.writerow([*line[:column], str(value), *line[column + 1 :]])
    file.flush()
    file.detach()


def _parquet(source: BinaryIO, written: BinaryIO, ids: np.ndarray) -> None:
    import pyarrow  # slow to import, and only these files need it
    from pyarrow import parquet

    table = parquet.read_table(source)
    column = pyarrow.array(ids.astype(np.int64))
    if CLUSTER_ID in table.column_names:
        table = table.set_column(table.column_names.index(CLUSTER_ID), CLUSTER_ID, column)
    else:
        table = table.append_column(CLUSTER_ID, column)
    parquet.write_table(table, written)


def _npz(source: BinaryIO, written: BinaryIO, ids: np.ndarray) -> None:
    """The other arrays as they are, copied piece by piece."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            if info.filename.removesuffix(".npy") == CLUSTER_ID:
                continue
            as_before = zipfile.ZipInfo(info.filename)
            as_before.compress_type = info.compress_type
            with old.open(info) as member, new.open(as_before, "w", force_zip64=True) as copy:
                shutil.copyfileobj(member, copy, 2**20)
        with new.open(f"{CLUSTER_ID}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, ids.astype(np.int64), allow_pickle=False)


WRITERS: dict[str, Callable[[BinaryIO, BinaryIO, np.ndarray], None]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
    ".npz": _npz,
}
