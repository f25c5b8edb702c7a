"""Texts of many rows: end to end in one array of bytes, which may lie in a file, and which of them are equal."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np

from .reading import cut


class Texts(Sequence[str]):
    """N strings that are made when they are asked for, so that a million take the memory of their bytes alone.

    Args:
        values: (bytes,) uint8, the strings in UTF-8 end to end; may be mapped from a file.
        ends: (N,) int64, where each ends.
        index: which of them, in which order, repeats allowed; None: all.
        characters, keep: how much of each is read, see `cut`.
    """

    def __init__(
        self,
        values: np.ndarray,
        ends: np.ndarray,
        index: np.ndarray | None = None,
        characters: int | None = None,
        keep: str = "last",
    ):
        self.values, self.ends, self.index, self.characters, self.keep = values, ends, index, characters, keep

    def __len__(self) -> int:
        return len(self.ends if self.index is None else self.index)

    def raw(self, number: int) -> bytes:
        """The whole string `number`, in UTF-8."""
        place = number if self.index is None else self.index[number]
        start = self.ends[place - 1] if place else 0
        return self.values[start : self.ends[place]].tobytes()

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        place = range(len(self))[number]  # negative ones count from the end; others are an IndexError
        return cut(self.raw(place).decode(), self.characters, self.keep)

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self)):
            yield self[number]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    __hash__ = None

    def take(self, index: np.ndarray) -> "Texts":
        """The strings of `index` (n,), repeats allowed; no bytes are copied."""
        chosen = index if self.index is None else self.index[index]
        return Texts(self.values, self.ends, chosen, self.characters, self.keep)

    def cut(self, characters: int | None, keep: str = "last") -> "Texts":
        """The same strings of which `characters` are read."""
        return Texts(self.values, self.ends, self.index, characters, keep)

    @cached_property
    def digests(self) -> np.ndarray:
        """128 bits of BLAKE2 of each whole string, (N, 2) uint64: equal for equal strings, and for no others."""
        if self.characters:
            return self.cut(None).digests
        return digests(self.raw(number) for number in range(len(self)))


def digests(texts: Iterable[bytes]) -> np.ndarray:
    """128 bits of BLAKE2 of each text, (N, 2) uint64."""
    found = bytearray()
    for text in texts:
        found += hashlib.blake2b(text, digest_size=16).digest()
    return np.frombuffer(found, dtype=np.uint64).reshape(-1, 2)


def digests_of(texts: Sequence[str]) -> np.ndarray:
    """As `digests`, of strings that are kept in any way."""
    return texts.digests if isinstance(texts, Texts) else digests(text.encode() for text in texts)


def take(texts: Sequence[str], index: np.ndarray) -> Sequence[str]:
    """The texts of `index` (n,), kept as they were."""
    return texts.take(index) if isinstance(texts, Texts) else [texts[number] for number in index]


def joined(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """The texts of all parts end to end: a list, unless there is one part, which is given back as it is."""
    return parts[0] if len(parts) == 1 else [text for part in parts for text in part]


def numbers(digests: np.ndarray) -> np.ndarray:
    """A number for each row of digests (N, 2), equal for equal rows, from 0 in order of first appearance, (N,)."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equal rows the first comes first
    in_order = digests[order]
    begins = np.concatenate([[True], (in_order[1:] != in_order[:-1]).any(axis=1)])
    first = order[begins]  # (M,), the first row of each group
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    group = np.empty(len(order), dtype=np.int64)
    group[order] = rank[np.cumsum(begins) - 1]
    return group


def question_numbers(texts: Sequence[str]) -> np.ndarray:
    """A number for each text (N,), equal for equal texts, from 0 in order of first appearance."""
    if isinstance(texts, Texts):
        return numbers(texts.digests)
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, len(first)) for text in texts])
