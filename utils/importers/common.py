"""What the importers share: joining (LLM, query) pairs to rows, what to do with gaps, splits, files."""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DataError, RoutingData
from ..files import atomic_folder, write_json
from ..meters import bar
from ..training_set import split_validation

# Any other name is no split.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
Key = tuple[str, str]  # task, and "train", "val", "test" or "" for no split


def check_text(value: Any, what: str, where: str) -> None:
    """Raise DataError, naming `where`, unless a value is a text that is not blank and can be written to a file."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {what} must be a non-empty string, found {value!r:.60}")
    check_writable(value, what, where)


def check_writable(text: str, what: str, where: str) -> None:
    """Raise DataError, naming `where`, for a text with half a character (a lone surrogate), which UTF-8 has not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {what} is no text that can be written ({error})") from None


def csv_lines(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The lines of a CSV file as {column: cell}, each with its name for errors.

    Raises: DataError that names file and line for a file that is no CSV in UTF-8, a column that occurs twice, or a
    line with another number of cells than there are columns.
    """
    size = path.stat().st_size
    with path.open(encoding="utf-8-sig", newline="") as file, bar(size, path.name, "B") as progress:
        reader = csv.reader(file, strict=True)
        try:
            columns = next(reader, [])
            if twice := sorted({name for name in columns if columns.count(name) > 1}):
                raise DataError(f"{path}: the column {twice[0]!r} occurs twice")
            for number, cells in enumerate(reader):
                where = f"{path}, line {reader.line_num}"
                if len(cells) != len(columns) and cells:  # the reader gives [] for an empty line
                    raise DataError(f"{where}: {len(cells)} cells under {len(columns)} columns")
                if cells:
                    yield where, dict(zip(columns, cells))
                if number % 10_000 == 0:
                    progress.update(file.buffer.tell() - progress.n)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}, line {reader.line_num}: not a valid CSV file in UTF-8 ({error}). Is it truncated?"
            ) from None
        progress.update(size - progress.n)


@cache
def file_of(task: str, split: str) -> Key:
    """The file in which the rows of a task and split go, by their names in the source."""
    return re.sub(r"[^a-z0-9.]+", "_", task.lower()).strip("_.") or "task", SPLITS.get(split.lower(), "")


class Pairs:
    """Scores, and costs where there are some, of (LLM, query) pairs, joined to one row a query.

    rows: {(task, split): {query: row of a data file}}, split being "train", "val", "test" or "", and a query the task
        and split as they are named in the source, with an id.
    llms: in the order in which they came.
    repeated: how many pairs came more than once; the largest score is kept, with its cost.
    """

    def __init__(self):
        self.rows: dict[Key, dict[Any, dict]] = {}
        self.llms: dict[str, None] = {}  # a set in order
        self.repeated = 0

    def add(
        self, task: str, split: str, key: Any, question: Any, llm: str, score: Any, cost: Any = None, where: str = ""
    ) -> None:
        """Add one pair. A score of None is a gap. `key` is the query's within the task and split.

        Raises: DataError, naming `where`, for an empty question or name, a score outside [0, 1], a cost below 0, or a
        query whose text is not the one that another LLM answered.
        """
        if llm not in self.llms:
            check_text(llm, "the name of the LLM", where)
            if len(llm.splitlines()) > 1:
                raise DataError(f"{where}: the name of the LLM must be one line, found {llm!r:.60}")
        for what, value, most, words in (
            ("score", score, 1, "1"),
            ("cost", cost, sys.float_info.max, "any amount of US dollars"),
        ):
            if value is not None and not _is_number(value, most):
                raise DataError(f"{where}: the {what} of {llm} must be a number from 0 to {words}, found {value!r:.60}")
        self.llms.setdefault(llm)
        file = file_of(task, split)
        rows = self.rows.setdefault(file, {})
        place = (task.lower(), split.lower(), key)  # names that share a file, such as "a-b" and "a_b", stay apart
        if place not in rows or rows[place]["question"] != question:
            check_text(question, "the text of the query", where)
        row = rows.setdefault(place, {"question": question, "scores": {}, "costs": {}})
        if row["question"] != question:
            raise DataError(
                f"{where}: query {key} of {file[0]} is {question!r:.60} here and {row['question']!r:.60} for another "
                "LLM; their records do not belong together"
            )
        if score is None:
            return
        if llm in row["scores"]:
            self.repeated += 1
            if score <= row["scores"][llm]:
                return
            row["costs"].pop(llm, None)
        row["scores"][llm] = score
        if cost is not None:
            row["costs"][llm] = cost


def _is_number(value: Any, most: float) -> bool:
    """Whether a value is a number from 0 to `most`; NaN is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value <= most


def complete(pairs: Pairs, source: str, llms: Sequence[str] | None, missing: str) -> tuple[dict[Key, list[dict]], int]:
    """Rows with a score, and if there are costs a cost, of every LLM, and how many rows are left out.

    Args:
        source: where the pairs come from, for errors.
        llms: the LLMs; by default all.
        missing: what a gap is, an "error", or a reason to "drop" its row.
    Raises: DataError for an LLM that is not there, for gaps if `missing` is "error", or if nothing is left.
    """
    chosen = list(llms or pairs.llms)
    unknown = [llm for llm in chosen if llm not in pairs.llms]
    if unknown or not chosen:
        raise DataError(
            f"{source}: no records of {', '.join(unknown) or 'any LLM'}; it has {', '.join(pairs.llms) or 'none'}"
        )
    priced = any(row["costs"] for rows in pairs.rows.values() for row in rows.values())
    gaps: Counter[str] = Counter()
    files, total, kept = {}, 0, 0
    for key, rows in pairs.rows.items():
        complete_rows = []
        for row in rows.values():
            lacking = [llm for llm in chosen if llm not in row["scores"] or (priced and llm not in row["costs"])]
            gaps.update(lacking)
            if not lacking:
                complete_rows.append(_row_of(row, chosen, priced))
        total += len(rows)
        kept += len(complete_rows)
        if complete_rows:
            files[key] = complete_rows
    if total > kept and (missing == "error" or not kept):
        most = ", ".join(f"{llm} {count}" for llm, count in gaps.most_common(5))
        lacks = "a score or a cost" if priced else "a score"
        remedy = "name fewer LLMs with --llms"
        if missing != "drop":
            remedy = f"leave those queries out with --missing_cells drop, or {remedy}"
        raise DataError(
            f"{source}: {total - kept} of {total} queries lack {lacks} of some LLM (most: {most}); {remedy}"
        )
    return files, total - kept


def _row_of(row: dict, llms: Sequence[str], priced: bool) -> dict:
    """The row of a data file with the LLMs in this order."""
    result = {"question": row["question"], "scores": {llm: row["scores"][llm] for llm in llms}}
    if priced:
        result["costs"] = {llm: row["costs"][llm] for llm in llms}
    if "cluster_id" in row:
        result["cluster_id"] = row["cluster_id"]
    return result


def split_off(files: dict[Key, list[dict]], fraction: float, seed: int) -> dict[Key, list[dict]]:
    """Cut the files without a split into "train" and "test", by question, with a `fraction` of them in "test".

    A fraction of 0 leaves them whole. Files that the source splits stay as they are, and are named.
    Raises: DataError if all are such, so that there is nothing to cut.
    """
    result, kept = {}, sorted({f"{task} ({split})" for task, split in files if split})
    if fraction and kept:
        if len(kept) == len(files):
            raise DataError(
                f"--test_fraction {fraction:g}: the source has splits, which stay as they are: "
                f"{', '.join(kept)}; leave --test_fraction out"
            )
        print(f"--test_fraction {fraction:g} does not cut what the source splits: {', '.join(kept)}")
    for (task, split), rows in files.items():
        if split or not fraction:
            result[task, split] = rows
            continue
        questions = [row["question"] for row in rows]
        distinct = len(set(questions))
        if distinct < 2:
            raise DataError(
                f"the task {task} has one question, which --test_fraction cannot split; use --test_fraction 0"
            )
        data = RoutingData(task, "multi_attempt", questions, np.empty((len(rows), 0)), ())
        sides = split_validation(data, min(fraction, 1 - 1 / distinct), seed)
        for name, index in zip(("train", "test"), sides):
            result[task, name] = [rows[i] for i in index]
    return result


def new_folder(path: Path) -> None:
    """Raises: DataError if there is something in the folder already: nothing of a person is overwritten."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"--output {path}: not an empty folder; name a new one, nothing is overwritten")


def write(files: dict[Key, list[dict]], output: Path) -> list[tuple[str, int]]:
    """Write `<task>_<split>.json` files, all or none, into a new folder. Returns their names and numbers of rows."""
    written = []
    with atomic_folder(output) as folder:
        new_folder(output)
        for (task, split), rows in sorted(files.items()):
            name = f"{task}_{split}.json" if split else f"{task}.json"
            write_json(folder / name, rows)
            written.append((name, len(rows)))
    return written


def write_answers(
    files: dict[Key, list[dict]], ballots: dict[str, dict[str, Any]], folder: Path
) -> list[tuple[str, int]]:
    """Write what the LLMs answered to the tasks in `ballots`, {task: {question: entry}}, as `write` does."""
    answers = {}
    for (task, split), rows in files.items():
        if task in ballots:
            answers[task, split] = [ballots[task][row["question"]] for row in rows]
    return write(answers, folder)


def write_embedded(files: dict[Key, Any], llms: Sequence[str], output: Path) -> list[tuple[str, int]]:
    """Write scores and embeddings without text as `<task>_<split>.npz`, all or none, as `write` does."""
    written = []
    with atomic_folder(output) as folder:
        new_folder(output)
        for (task, split), embedded in files.items():
            name = f"{task}_{split}.npz"
            np.savez(
                folder / name,
                scores=np.float32(embedded.scores),
                embeddings=np.float32(embedded.embeddings),
                llms=np.array(llms, dtype=str),
            )
            written.append((name, len(embedded.scores)))
    return written
