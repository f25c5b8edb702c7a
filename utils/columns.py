"""Columns of numbers and texts that grow row by row: in memory, or in the files of a folder that are then mapped.

A large data file is read once. Its columns stay in the cache, in a folder that its SHA-256 names, and every later run
maps them: what a run holds in memory then depends on what it looks at, not on the file.
"""

import json
import sys
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import naming, write_json
from .texts import Texts

VERSION = 1  # of the files; another is read anew
ABOUT = "columns.json"  # written last: without it the others are not whole
AT_ONCE = 2**20  # bytes that are kept before they are written, or read for a checksum


class Numbers:
    """Numbers end to end in memory. code: of the `array` module."""

    def __init__(self, code: str):
        self.values = array(code)
        self.add = self.values.fromlist  # put a list of numbers behind the others; every row does so

    def add_array(self, values: np.ndarray) -> None:
        """Put an array of any shape behind the others."""
        self.values.frombytes(np.ascontiguousarray(values, dtype=self.values.typecode).tobytes())

    def table(self, width: int | None) -> np.ndarray:
        """All values, (N, width), or (N,) without a width. Shares memory with this object."""
        values = np.frombuffer(self.values, dtype=self.values.typecode)
        return values if width is None else values.reshape(-1, width)


class NumbersOnDisk(Numbers):
    """Numbers end to end in a file."""

    def __init__(self, code: str, path: Path):
        super().__init__(code)
        self.add = self.add_list
        self.path, self.checksum = path, 0
        with naming(path):
            self.file = path.open("wb", buffering=0)

    def add_list(self, values: list[float]) -> None:
        """Put a list of numbers behind the others."""
        self.values.fromlist(values)
        self.flush(AT_ONCE)

    def add_array(self, values: np.ndarray) -> None:
        """Put an array of any shape behind the others."""
        super().add_array(values)
        self.flush(AT_ONCE)

    def flush(self, least: int = 0) -> None:
        """Write what is waiting, if these are at least so many bytes."""
        if len(self.values) * self.values.itemsize < least:
            return
        self.checksum = zlib.crc32(self.values, self.checksum)
        with naming(self.path):
            self.values.tofile(self.file)
        del self.values[:]

    def table(self, width: int | None) -> np.ndarray:
        """All values as the file has them, mapped."""
        if not self.file.closed:
            self.flush()
        return mapped(self.path, self.values.typecode, width)

    def close(self) -> dict[str, Any]:
        """Close the file; returns what `Columns.save` notes."""
        self.flush()
        self.file.close()
        return {"code": self.values.typecode, "bytes": self.path.stat().st_size, "checksum": self.checksum}


@dataclass(frozen=True)
class NumbersKept:
    """Numbers in a file that an earlier run wrote."""

    path: Path
    code: str

    def table(self, width: int | None) -> np.ndarray:
        """All values, mapped."""
        return mapped(self.path, self.code, width)


@dataclass(frozen=True)
class TextsKept:
    """Texts in two files that an earlier run wrote."""

    text: NumbersKept
    ends: NumbersKept

    def all(self) -> Texts:
        """The texts, mapped."""
        return Texts(self.text.table(None), self.ends.table(None))


def mapped(path: Path, code: str, width: int | None) -> np.ndarray:
    """The values in a file, (N, width) or (N,). Who writes to them has a copy of the page; the file stays."""
    values = np.memmap(path, dtype=code, mode="c")
    return values if width is None else values.reshape(-1, width)


def checksum_of(path: Path) -> int:
    """CRC-32 of a file, read piece by piece."""
    found = 0
    with path.open("rb") as file:
        while piece := file.read(AT_ONCE):
            found = zlib.crc32(piece, found)
    return found


class TextList(list):
    """Texts in memory: a plain list, with the names that `TextsOnDisk` has."""

    add = list.extend

    def all(self) -> list[str]:
        """The texts."""
        return self


class TextsOnDisk:
    """Texts in two files."""

    def __init__(self, text: NumbersOnDisk, ends: NumbersOnDisk):
        self.text, self.ends, self.end = text, ends, 0

    def add(self, texts: Iterable[str]) -> None:
        """Put texts behind the others."""
        pieces, ends = [], []
        for text in texts:
            pieces.append(text.encode())
            self.end += len(pieces[-1])
            ends.append(self.end)
        self.text.add_array(np.frombuffer(b"".join(pieces), dtype=np.uint8))
        self.ends.add(ends)

    def all(self) -> Texts:
        """The texts, mapped."""
        return Texts(self.text.table(None), self.ends.table(None))


class Memory:
    """Makes columns in memory."""

    def numbers(self, name: str, code: str) -> Numbers:
        """A column of numbers."""
        return Numbers(code)

    def texts(self) -> TextList:
        """The column of texts."""
        return TextList()


class Folder(Memory):
    """Makes columns in the files of a folder, and reads them again."""

    def __init__(self, path: Path):
        self.path, self.columns = path, {}

    def numbers(self, name: str, code: str) -> NumbersOnDisk:
        """A column of numbers in the file `name`."""
        self.columns[name] = NumbersOnDisk(code, self.path / name)
        return self.columns[name]

    def texts(self) -> TextsOnDisk:
        """The column of texts."""
        return TextsOnDisk(self.numbers("text", "B"), self.numbers("ends", "q"))

    def save(self, about: dict[str, Any]) -> None:
        """Note that the columns are whole, and something `about` them."""
        files = {name: column.close() for name, column in self.columns.items()}
        write_json(self.path / ABOUT, {"version": VERSION, "files": files, "about": about})

    def read(self) -> dict[str, Any] | None:
        """What `save` noted of whole columns; None if they are not there, or, which stderr tells, are damaged."""
        path = self.path / ABOUT
        if not path.is_file():
            return None
        try:
            noted = json.loads(path.read_bytes())
            if noted["version"] != VERSION:
                return None
            for name, file in noted["files"].items():
                column = self.path / name
                if column.stat().st_size != file["bytes"] or checksum_of(column) != file["checksum"]:
                    raise ValueError(f"{name} is not what was written")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{self.path}: damaged ({error}); the data file is read again", file=sys.stderr)
            return None
        return noted

    def kept_numbers(self, noted: dict[str, Any], name: str) -> NumbersKept:
        """A column of numbers that was saved. noted: by `read`."""
        return NumbersKept(self.path / name, noted["files"][name]["code"])

    def kept_texts(self, noted: dict[str, Any]) -> TextsKept:
        """The column of texts that was saved."""
        return TextsKept(self.kept_numbers(noted, "text"), self.kept_numbers(noted, "ends"))
