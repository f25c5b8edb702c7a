"""Programs on a disk that is full, in a folder that is read-only, and two at a time in one folder.

    PYTHONPATH=. python tests/faults/disk.py --count 8 --seed 1 --output disk.json

The programs are those of kills.py. A full disk is a small tmpfs where this process may mount one, and a largest size of
files (RLIMIT_FSIZE) everywhere. A program must end with one line that begins with "error: " and names a path, leave
nothing half-written, and end as if nothing had been when it is started again with room. Of two programs in one folder
each must end well, or with one line that says that the other is there.
"""

import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kills import Program, child, chosen_programs, differences, files_below, parse
from runner import finish

LIMIT = 240  # seconds for one start
UNFINISHED = (".part", ".old", ".probe", ".tmp", ".new")  # parts of names that nothing may have after an error
PLENTY = "512m"


@dataclass
class Counts:
    """What happened: a row of the result. errors: ended with a clear error. completed: ended well."""

    name: str
    tried: int = 0
    errors: int = 0
    completed: int = 0
    bad: int = 0


# A start


def begin(program: Program, folder: Path, fifo: Path, limit: int | None = None) -> tuple[int, int]:
    """Start a program; returns its process id and what to read its output from: not a file, which has its own limit.

    limit: bytes that a file may have.
    """
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def limited(words: list[str]) -> int:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return program.main(words)

    process = os.fork()
    if process == 0:
        child(replace(program, main=limited), folder, fifo, None, None)
    return process, reader


def end(process: int, reader: int) -> tuple[int, str]:
    """Wait for a program; returns its exit status and its output."""
    begun, output = time.monotonic(), b""
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if not ended and time.monotonic() > begun + LIMIT:
            os.kill(process, 9)
        try:
            output += os.read(reader, 1 << 20)
        except BlockingIOError:
            pass
        if ended:
            os.close(reader)
            return os.waitstatus_to_exitcode(status), output.decode(errors="replace")
        time.sleep(0.01)


def complaints(status: int, output: str, names: set[str]) -> list[str]:
    """What is wrong with how a program ended that could not write. names: one of them must be in its message."""
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    found = []
    if status not in (1, 2) or "Traceback" in output:
        found.append(f"status {status}")
    if len(errors) != 1:
        found.append(f"{len(errors)} lines of error")
    elif not any(name in errors[0] for name in names):
        found.append(f"no path in {errors[0]!r}")
    return found and [*found, output[-1500:]]


def leftovers(folder: Path) -> list[str]:
    """The names of unfinished files."""
    return [
        str(path.relative_to(folder)) for path in folder.rglob("*") if any(part in path.name for part in UNFINISHED)
    ]


# Disks


@contextmanager
def mounted(place: Path, size: str) -> Iterator[Path]:
    """A tmpfs of a size at `place`."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, options: str) -> None:
    """Change the options of a tmpfs."""
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def can_mount(place: Path) -> bool:
    """Whether this process may mount a tmpfs."""
    try:
        with mounted(place, "4k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class Disk:
    """Faults of one program in folders below `place`. notes: what went wrong, in words."""

    def __init__(self, program: Program, place: Path):
        self.program, self.place = program, place
        self.folder, self.fifo = place / "work", place / "fifo"
        self.notes: list[str] = []
        self.empty()
        status, output = end(*begin(program, self.folder, self.fifo))
        if status:
            raise AssertionError(f"{program.name}: status {status}\n{output}")
        self.expected = files_below(self.folder)
        sizes = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file()]
        self.largest, self.total = max(sizes), sum(-(-size // 4096) * 4096 for size in sizes)
        written = {name.split("/")[0] for name in self.expected}
        self.names = {"--output", str(self.folder), str(place / "small"), *written}

    def empty(self) -> None:
        """Make the folder anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def judge(self, row: Counts, folder: Path, status: int, output: str, more_room: Callable[[], None]) -> None:
        """Count one try in a row: how it ended, and how the next start with more room does."""
        row.tried += 1
        row.completed += status == 0
        row.errors += status != 0
        wrong = complaints(status, output, self.names) if status else []
        wrong += leftovers(folder)
        more_room()
        status, output = end(*begin(self.program, folder, self.fifo))
        wrong += [f"status {status} of the next start: {output[-1500:]}"] if status else []
        wrong += differences(files_below(folder), self.expected)
        row.bad += bool(wrong)
        if wrong:
            self.notes.append(f"{row.name}, try {row.tried}: {wrong}")

    def largest_file(self, row: Counts, limits: list[int]) -> None:
        """No file may be larger than each of these numbers of bytes."""
        for limit in limits:
            self.empty()
            status, output = end(*begin(self.program, self.folder, self.fifo, limit))
            self.judge(row, self.folder, status, output, lambda: None)

    def full(self, row: Counts, sizes: list[int]) -> None:
        """A disk of each of these sizes in bytes."""
        for size in sizes:
            with mounted(self.place / "small", str(size)) as folder:
                status, output = end(*begin(self.program, folder, self.fifo))
                self.judge(row, folder, status, output, lambda: remount(folder, f"size={PLENTY}"))

    def read_only(self, row: Counts) -> None:
        """A read-only disk; without the right to mount one a read-only folder, which stops all users but root."""
        if can_mount(self.place / "small"):
            with mounted(self.place / "small", PLENTY) as folder:
                remount(folder, "ro")
                status, output = end(*begin(self.program, folder, self.fifo))
                self.judge(row, folder, status, output, lambda: remount(folder, "rw"))
        elif os.getuid():
            self.empty()
            self.folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
            status, output = end(*begin(self.program, self.folder, self.fifo))
            self.judge(row, self.folder, status, output, lambda: self.folder.chmod(stat.S_IRWXU))

    def two(self, row: Counts, delays: list[float]) -> None:
        """Two at a time in one folder, the second one after each of these seconds."""
        for delay in delays:
            self.empty()
            first = begin(self.program, self.folder, self.fifo)
            time.sleep(delay)
            second = begin(self.program, self.folder, self.place / "fifo2")
            ends = [end(*first), end(*second)]
            row.tried += 1
            wrong = [] if any(status == 0 for status, _ in ends) else ["none of the two ended well"]
            for status, output in ends:
                row.completed += status == 0
                row.errors += status != 0
                wrong += complaints(status, output, {"another process"}) if status else []
            wrong += differences(files_below(self.folder), self.expected)
            row.bad += bool(wrong)
            if wrong:
                self.notes.append(f"{row.name}, after {delay:.2f} s: {wrong}")


def faults(program: Program, place: Path, count: int, rng: random.Random) -> tuple[list[Counts], list[str]]:
    """All faults of one program, `count` of each kind; returns the rows and what went wrong, in words."""
    begun = time.monotonic()
    disk = Disk(program, place)
    seconds = time.monotonic() - begun
    rows = [Counts(f"{program.name}: {kind}") for kind in ("largest file", "full disk", "read-only", "two at a time")]
    disk.largest_file(rows[0], [disk.largest * number // count for number in range(count)])
    if can_mount(place / "small"):
        disk.full(rows[1], [max(4096, disk.total * number // count) for number in range(count)])
    disk.read_only(rows[2])
    disk.two(rows[3], [rng.uniform(0, seconds) for _ in range(count)])
    return [row for row in rows if row.tried], disk.notes


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 1 if anything went wrong."""
    args = parse(__doc__, argv, 8, "tries of each fault")
    begun, rows = time.monotonic(), []
    for program, place in chosen_programs(args.only):
        counts, notes = faults(program, place, args.count, random.Random(f"{args.seed} {program.name}"))
        rows += [vars(row) for row in counts]
        print(*[vars(row) for row in counts], *notes, sep="\n", flush=True)
    return finish(__file__, argv, args, begun, rows)


if __name__ == "__main__":
    sys.exit(main())
