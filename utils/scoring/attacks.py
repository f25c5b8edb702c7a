"""Programs that attack the sandbox, and what they could reach.

They stand in attacks.txt, each under the claim that it attacks, of those that `python -m utils.scoring.sandbox` prints,
or under what it says that it does not hold. That command runs the quick ones; tests/faults/attacks.py runs all.
"""

import contextlib
import ctypes
import os
import pty
import re
import secrets
import select
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
MEGABYTES = {"python": 256, "javascript": 512}  # memory of an attack
SECONDS, SLOW_SECONDS = 8.0, 0.5  # time of an attack, and of one that wants to take more
SLACK = 4.0  # seconds that ending a program may take beyond its time
WORDS = {  # what stands for what in attacks.txt
    "python": {
        "WRONG": "def add(a, b):\n    return 0\n",
        "TESTS": "\nassert add(1, 2) == 3\nassert add(5, 7) == 12\nassert abs(add(0.5, 0.25) - 0.75) < 1e-6\n",
        "NAMED": "import ctypes; ctypes.CDLL(None).prctl(15, b'KEY', 0, 0, 0)",
    },
    "javascript": {
        "WRONG": "const add = (a, b) => 0;\n",
        "TESTS": "\nconsole.assert(add(1, 2) === 3);\nconsole.assert(JSON.stringify([add(5, 7)]) === '[12]');\n",
    },
}


@dataclass(frozen=True)
class Attack:
    """A program that tries something.

    against: the claim that it attacks. trace: how its success shows, see `succeeds`; "" is by passing. quick: runs also
    where the user asks what holds.
    """

    name: str
    against: str
    source: str
    trace: str = ""
    language: str = "python"
    quick: bool = False


def read_attacks() -> list[Attack]:
    """The attacks of attacks.txt, in its order."""
    attacks, path = [], Path(__file__).with_name("attacks.txt")
    for section in re.split(r"^=== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        against, *parts = re.split(r"^--- ", section, flags=re.MULTILINE)
        for part in parts:
            head, _, source = part.partition("\n")
            name, *words = head.split(" | ")
            language = "javascript" if "javascript" in words else "python"
            trace = " ".join(word for word in words if word not in ("javascript", "quick"))
            attacks.append(Attack(name, against.strip(), source.rstrip() + "\n", trace, language, "quick" in words))
    return attacks


@dataclass
class World:
    """What an attack could reach: files, servers and a terminal.

    words: what stands for each of them in attacks.txt. ends: where it shows that something came in. key: of System V
    memory, and as a decimal number the name of processes.
    """

    words: dict[str, str]
    folder: Path
    ends: list[int]
    key: int

    def files(self) -> dict[str, object]:
        """All about the files that must not be changed."""
        found = {}
        for path in sorted(self.folder.glob("*")):
            about = path.stat()
            content = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
            found[path.name] = (about.st_mode, about.st_nlink, int(about.st_mtime), content)
        return found

    def heard(self) -> bool:
        """Whether anything came in."""
        return any(select.select([end], [], [], 0)[0] for end in self.ends)

    def alive(self) -> bool:
        """Whether a process of an attack still runs."""
        for path in Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if path.read_text().strip() == str(self.key):
                    return True
        return False

    def in_memory(self) -> bool:
        """Whether System V memory or a queue of an attack is there; it is taken away."""
        found = False
        for kind, remove in (("shm", "shmctl"), ("msg", "msgctl")):
            table = Path(f"/proc/sysvipc/{kind}")
            for line in table.read_text().splitlines()[1:] if table.exists() else ():
                key, number = line.split()[:2]
                if int(key) == self.key:
                    found = True
                    getattr(ctypes.CDLL(None), remove)(int(number), 0, None)  # IPC_RMID
        return found


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A world in a temporary folder that every user may enter and change."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacks-")))
        folder.chmod(0o777)
        for name, mode in (("precious", 0o666), ("mine", 0o644), ("private", 0o600)):
            (folder / name).write_text(name)
            (folder / name).chmod(mode)
        key = 1 + secrets.randbelow(1 << 30)
        opened = {}
        for name, family, kind, address in (
            ("PORT", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("DATAGRAM", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("socket", socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
            ("datagram", socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "datagram")),
            *(
                [("ABSTRACT", socket.AF_UNIX, socket.SOCK_STREAM, f"\0attacks-{key}")]
                if sys.platform == "linux"
                else []
            ),
        ):
            opened[name] = stack.enter_context(socket.socket(family, kind))
            opened[name].bind(address)
            if kind == socket.SOCK_STREAM:
                opened[name].listen(64)
        os.mkfifo(folder / "pipe")
        pipe = os.open(folder / "pipe", os.O_RDWR | os.O_NONBLOCK)
        ours, theirs = pty.openpty()
        for end in (pipe, ours, theirs):
            stack.callback(os.close, end)
        for path in (folder / "socket", folder / "datagram", folder / "pipe", os.ttyname(theirs)):
            os.chmod(path, 0o666)
        words = {name: opened[name].getsockname()[1] for name in ("PORT", "DATAGRAM")}
        words |= {"FOLDER": folder, "PID": os.getpid(), "ABSTRACT": f"attacks-{key}"}
        words |= {"TERMINAL": os.ttyname(theirs), "REPO": REPO, "KEY": key}
        ends = [opened["DATAGRAM"].fileno(), opened["datagram"].fileno(), pipe, ours]
        yield World({name: str(value) for name, value in words.items()}, folder, ends, key)


def prepared(attack: Attack, place: World) -> str:
    """The program of an attack, with its words filled in."""
    source = attack.source
    for word, text in (WORDS[attack.language] | place.words).items():
        source = re.sub(rf"\b{word}\b", lambda _, text=text: text, source)
    return source


def succeeds(attack: Attack, run: Callable[[str, str, float, int], bool]) -> bool:
    """Whether an attack gets what it wants in a world of its own.

    run: called with language, program, seconds and megabytes, tells whether it passes. OSError: more than the program
    was stopped.
    """
    with world() as place, temporary_folder() as folder:
        before, start = place.files(), time.monotonic()
        seconds = SLOW_SECONDS if attack.trace == "slow" else SECONDS
        passed = aborts = False
        try:
            passed = run(attack.language, prepared(attack, place), seconds, MEGABYTES[attack.language])
        except OSError:
            aborts = True
        traces = {
            "": passed,
            "aborts": aborts,
            "slow": time.monotonic() - start > seconds + SLACK,
            "heard": place.heard(),
            "written": place.files() != before,
            "left alive": place.alive(),
            "left in memory": place.in_memory(),
            "left on disk": bool(os.listdir(folder)),
        }
        return traces[attack.trace]


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """An empty folder that is the temporary folder of this process for a while."""
    before = tempfile.gettempdir()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        tempfile.tempdir = folder
        try:
            yield folder
        finally:
            tempfile.tempdir = before
