"""Lines of a stream as they arrive, and the end of a program whose reader has gone."""

import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

AT_ONCE = 2**20  # bytes; a pipe gives what it holds, 64 KiB at most
CLOSED_PIPE = 141  # the exit status of a program that SIGPIPE ended


def arriving(stream: BinaryIO, most: int) -> Iterator[list[bytes]]:
    """Lines in lists of at most `most`, a list as soon as a read has given a whole line; the last may lack its end.

    Only a line feed ends a line, with a carriage return before it or not. Memory is that of one read and one line.
    """
    begun: list[bytes] = []  # of a line whose end has not come
    while read := stream.read1(AT_ONCE):
        *whole, rest = read.split(b"\n")
        if whole:
            whole[0] = b"".join([*begun, whole[0]])
            begun = []
        if rest:
            begun.append(rest)
        lines = [line.removesuffix(b"\r") for line in whole]
        for start in range(0, len(lines), most):
            yield lines[start : start + most]
    if begun:
        yield [b"".join(begun)]


def leave_closed_pipe() -> int:
    """End quietly where the reader of standard output has gone (`| head`); returns the exit status."""
    drop_output()
    return CLOSED_PIPE


def drop_output() -> None:
    """Send standard output nowhere if it cannot be written, of which Python would complain once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
