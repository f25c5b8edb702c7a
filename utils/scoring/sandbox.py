"""Run programs that LLMs wrote and tell which ones pass.

    python -m utils.scoring.sandbox          attacks it, and says what held on this machine and what did not

Each program runs in processes of its own (`utils/scoring/cell.py`) in an empty folder that vanishes with it, without
the environment variables of the caller, and all its processes are killed when its main one ends or its time is over.
Where Linux allows it (as root, or with user namespaces), it has no network, sees no other process, finds of the disk
only the system and its interpreter, reaches no socket, pipe or terminal, and can write to its folder alone, 64 MB in
memory; root's programs run as a user that nobody is, unless root may not make namespaces itself. Elsewhere the limits
of time, memory, processes and size of a file remain, as far as the system has them, and a warning says so before
programs run. There it can also end the processes of the same user; it then fails alone, if it left this one.

Memory is looked at 20 times a second, with all that processes share. A cgroup would be exact, but may be made by few:
root outside of containers. Bubblewrap would do what cell.py does with the same system calls; it is seldom installed,
so that cell.py would be needed anyway.

A program passes if it ran to its very end: then the code around it (`utils/scoring/launch.py`) sends back a random
token, which it took out of a pipe before the program began. Printing, exit codes, `sys.exit(0)`, `os._exit(0)`,
`process.exit(0)` and a killed process give no token. JavaScript must also have printed nothing on either stream, since
a failed `console.assert` only prints (so does bigcode-evaluation-harness). Assertions fail where an object with
operators of its own decides them alone, and so does a program that changes builtins. But tests run in the program's
process, as in the benchmarks, so that a program written against this very sandbox can pass; `NOT_HELD` has the ways. A
flaw of the kernel is not covered, either. So the right place for programs from unknown LLMs is still a container or a
machine with nothing of value.
"""

import functools
import json
import os
import re
import secrets
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from .attacks import read_attacks, succeeds

LANGUAGES = ("python", "javascript")
PROCESSES = 64  # processes and threads of one program; node alone has about a dozen
DISK = 64  # MB that a program may write
GRACE = 20.0  # seconds beyond a program's time in which its cell must be set up and cleared away
KEPT = 4096  # bytes of output that are looked at
LIBRARIES = ("bz2", "ctypes", "hashlib", "lzma", "sqlite3", "ssl", "zlib", "numpy")  # Python's with libraries of C
SYSTEM = (  # what a program may see of the system's files; what is missing or leads elsewhere is dealt with
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"),
    *("/etc/hosts", "/etc/mime.types", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf"),
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
)

# What no mode holds, by the names that attacks.txt has for it.
NOT_HELD = {
    "the judge's own memory in the program's process": (
        "pass by what it finds in its own process: the judge's frames and objects, or the code of the tests"
    ),
    "a global name that the tests call": "pass by a global name like `abs` or `console` that the tests then call",
    "a function of another module that the tests call": (
        "pass by a function that it puts into a module (but builtins, math; in JavaScript console, JSON, assert)"
    ),
    "a comparison by !=, of three values, with its contents, or outside of assert": (
        "pass by an object that agrees with everything where tests ask `!=`, `1 < x < 3`, `3 in x`, or without `assert`"
    ),
    "arguments changed under the tests": "pass by changing the arguments with which the tests compare its result",
    "the answers read from program.py": "pass by reading the expected results from its own file",
    "memory of the kernel for sockets and for files on their way": (
        "hold memory of the kernel (in sockets, in queues, in files sent through a socket), or too much for 0.05 s"
    ),
}


class SandboxError(OSError):
    """Programs cannot be run here at all; the message says why. Never a verdict on a program."""


@dataclass(frozen=True)
class Program:
    """A whole program with its tests. language: "python" or "javascript"."""

    language: str
    source: str


@dataclass(frozen=True)
class Verdict:
    """What became of one program.

    status: "passed", "failed" (an error, or output in JavaScript), "exited early", "timed out", "out of memory",
        "too many processes" or "killed".
    detail: the last line of the error, or the signal.
    """

    passed: bool
    status: str
    detail: str = ""


@dataclass(frozen=True)
class Mode:
    """How programs are shut in.

    namespaces: own network, processes, memory segments and mounts. user: by way of a user namespace. drop: root becomes
    a user that nobody is. hide: of the disk, nothing is there but the system and the interpreter.
    """

    namespaces: bool
    user: bool
    drop: bool
    hide: bool = False


def judge(
    programs: Sequence[Program],
    workers: int = 1,
    seconds: float = 10.0,
    megabytes: int = 1024,
    progress: Callable[[int, Verdict], None] | None = None,
) -> list[Verdict]:
    """Run every program and return the verdicts in the order given.

    Args:
        workers: programs at a time.
        seconds: wall-clock time for each program (its processor time may be a second more).
        megabytes: memory for each program: its address space in Python, what it really uses in JavaScript.
        progress: called as progress(number of the program, verdict) in this thread whenever a program has ended, in
            any order.
    Raises: ValueError for a bad limit or language, SandboxError if programs cannot be run here.
    """
    if workers < 1 or not 0 < seconds <= 86400 or megabytes < 64:
        raise ValueError(
            f"workers {workers}, seconds {seconds}, megabytes {megabytes}: "
            "at least 1 worker, some time up to a day and 64 MB are needed"
        )
    if unknown := {program.language for program in programs} - {*LANGUAGES}:
        raise ValueError(f"programs in {', '.join(map(repr, unknown))} cannot be run; {' and '.join(LANGUAGES)} can")
    if not programs:
        return []
    how = {language: mode(language) for language in {program.language for program in programs}}
    verdicts: dict[int, Verdict] = {}
    pool, stop = ThreadPoolExecutor(workers), threading.Event()
    try:
        numbers = {}
        for number, program in enumerate(programs):
            numbers[pool.submit(run, program, seconds, megabytes, how[program.language], stop)] = number
        for future in as_completed(numbers):
            verdicts[numbers[future]] = future.result()
            if progress:
                progress(numbers[future], future.result())
    finally:
        stop.set()  # an error or Ctrl-C: what still runs ends now
        pool.shutdown(cancel_futures=True)
    return [verdicts[number] for number in range(len(programs))]


@functools.cache
def interpreter(language: str) -> str:
    """The command that runs a language. Raises: SandboxError if there is none."""
    command = sys.executable if language == "python" else shutil.which("node")
    if not command:
        raise SandboxError(
            "no `node` command, which runs JavaScript; install Node.js (Debian, Ubuntu: apt install nodejs), "
            "or leave such tasks out"
        )
    return command


def _for_everyone(path: str) -> bool:
    """Whether any user can reach a file: all folders above it, and above what it links to, may be entered."""
    folders = {*Path(path).parents, *Path(path).resolve().parents}
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders if folder.exists())


def _visible(language: str) -> list[str]:
    """The files and folders that a program needs: those of the system, and those of its interpreter."""
    command = interpreter(language)
    found = {*SYSTEM, command}
    while os.path.islink(command):
        command = os.path.join(os.path.dirname(command), os.readlink(command))
        found.add(os.path.normpath(command))
    if language == "python":
        found |= {sys.prefix, sys.base_prefix, sys.base_exec_prefix}
    else:
        found.add(os.path.dirname(os.path.dirname(os.path.realpath(command))))
    return [*found, *map(os.path.realpath, found)]


def run(program: Program, seconds: float, megabytes: int, how: Mode, stop: threading.Event | None = None) -> Verdict:
    """Run one program. stop: ends it. Raises: SandboxError if it could not be started, or was stopped."""
    visible, work = _visible(program.language), tempfile.gettempdir() + "/work"
    want = {
        "language": program.language,
        "interpreter": interpreter(program.language),
        "seconds": seconds,
        "megabytes": megabytes,
        "disk": DISK,
        "processes": PROCESSES,
        "namespaces": how.namespaces,
        "user": how.user,
        "uid": 1_000_000_000 + secrets.randbelow(1_000_000_000) if how.drop else None,
        "visible": visible if how.hide else [],
        "keep_reading": how.drop and not how.hide and not all(map(_for_everyone, [*visible, work])),
    }
    source, stop = program.source.encode("utf-8", "replace"), stop or threading.Event()
    heard = _run_cell(want, source, stop)
    if not heard["report"] and not how.namespaces and not stop.is_set():
        heard = _run_cell(want, source, stop)  # the program can end its cell, and so can a machine short of memory
        if not heard["report"] and not stop.is_set():
            return Verdict(False, "killed", "with its cell")
    return _verdict(program.language, heard)


def _run_cell(want: dict, source: bytes, stop: threading.Event) -> dict[str, bytes]:
    """Run a cell. Returns the first bytes of its output, errors, proof and report, and the token that was given."""
    token = secrets.token_hex(16).encode()
    with (
        tempfile.TemporaryDirectory(prefix="routerdc-sandbox-") as work,
        _pipe() as given,
        _pipe() as proof,
        _pipe() as report,
    ):
        os.write(given.write, token)
        given.close_write()
        want = want | {"work": work, "token": given.read, "proof": proof.write, "report": report.write}
        want["end"] = secrets.token_hex(16)
        cell = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("cell.py")), json.dumps(want)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(given.read, proof.write, report.write),
            start_new_session=True,
        )
        try:
            proof.close_write()
            report.close_write()
            ends = {
                "output": cell.stdout.fileno(),
                "errors": cell.stderr.fileno(),
                "proof": proof.read,
                "report": report.read,
            }
            heard = _talk(cell, source, ends, want["seconds"] + GRACE, stop)
        finally:
            _end(cell)
    return heard | {"token": token}


def _end(cell: subprocess.Popen) -> None:
    """See that a cell has ended; it has, unless something went wrong or the user stopped us."""
    cell.terminate()
    try:
        cell.wait(2)
    except subprocess.TimeoutExpired:
        os.killpg(cell.pid, signal.SIGKILL)
        cell.wait()
    for stream in (cell.stdin, cell.stdout, cell.stderr):
        stream.close()


class _pipe:
    """A pipe whose ends are closed at the end of the block."""

    def __enter__(self) -> "_pipe":
        self.read, self.write = os.pipe()
        self.open = [self.read, self.write]
        return self

    def close_write(self) -> None:
        """Close the end that is written to."""
        self.open.remove(self.write)
        os.close(self.write)

    def __exit__(self, *_: object) -> None:
        for end in self.open:
            os.close(end)


def _talk(
    cell: subprocess.Popen, source: bytes, ends: dict[str, int], seconds: float, stop: threading.Event
) -> dict[str, bytes]:
    """Send the source, and collect the first bytes of everything that the cell says until it has closed all ends."""
    try:
        cell.stdin.write(source)
        cell.stdin.close()
    except BrokenPipeError:
        pass  # it ended at once; its report says why
    heard, deadline = {name: b"" for name in ends}, time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for name, end in ends.items():
            selector.register(end, selectors.EVENT_READ, name)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0 and not stop.is_set():
            for key, _ in selector.select(min(left, 0.1)):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fd)
                heard[key.data] = (heard[key.data] + chunk)[-KEPT if key.data == "errors" else 0 :][:KEPT]
    return heard


def _verdict(language: str, heard: dict[str, bytes]) -> Verdict:
    errors = heard["errors"].decode("utf-8", "replace").strip()
    last = errors.splitlines()[-1].strip()[:200] if errors else ""
    lines = heard["report"].splitlines()
    if not lines:
        raise SandboxError(
            f"a program's cell ended without a report ({last or 'it said nothing'}); "
            "is the machine short of memory? Use fewer workers"
        )
    first = json.loads(lines[0])
    if "setup" in first:
        raise SandboxError(f"a program could not be started: {first['setup']}")
    if first["reason"]:
        return Verdict(False, first["reason"])
    code = os.waitstatus_to_exitcode(first["status"])
    if code == -signal.SIGXCPU:
        return Verdict(False, "timed out")
    if code < 0:
        return Verdict(False, "killed", signal.Signals(-code).name if -code in {*signal.Signals} else str(-code))
    if code:
        if language == "javascript":  # node's last line is its version
            named = [line.strip()[:200] for line in errors.splitlines() if re.match(r"\s*\[?\w*Error\b", line)]
            last = named[0] if named else last
        return Verdict(False, "failed", last)
    if language == "javascript" and (heard["output"] or heard["errors"]):
        printed = (heard["errors"] or heard["output"]).decode("utf-8", "replace")
        return Verdict(False, "failed", "printed: " + printed.strip().splitlines()[0][:200])
    if heard["proof"] != heard["token"]:
        return Verdict(False, "exited early", "it ended before its last line")
    return Verdict(True, "passed")


def _modes() -> Iterator[Mode]:
    """From the strictest to the loosest."""
    root = os.getuid() == 0
    if sys.platform == "linux":
        for hide in (True, False):
            yield Mode(True, not root, root, hide)
            if root:
                yield Mode(True, False, False, hide)
                yield Mode(True, True, False, hide)  # root that may not make namespaces, as in many containers
        if root:
            yield Mode(False, False, True)
    yield Mode(False, False, False)


@functools.cache
def _first_program(language: str) -> Program:
    """A program that must pass: in Python it imports what can be imported without a sandbox and has libraries of C."""
    if language != "python":
        return Program(language, "1;")
    code = "import sys\nfor name in sys.argv[1:]:\n    try:\n        __import__(name)\n        print(name)\n"
    code += "    except ImportError:\n        pass"
    command, environment = [sys.executable, "-I", "-c", code, *LIBRARIES], {"PATH": os.environ.get("PATH", os.defpath)}
    found = subprocess.run(command, capture_output=True, text=True, env=environment).stdout.split()
    return Program(language, "".join(f"import {name}\n" for name in found))


@functools.cache
def mode(language: str = "python") -> Mode:
    """The strictest mode in which a first program can pass here. Raises: SandboxError if it cannot in any."""
    interpreter(language)
    reasons = []
    for how in _modes():
        try:
            verdict = run(_first_program(language), 30.0, 4096, how)
            if verdict.passed:
                return how
            reasons.append(f"{how}: {verdict.status} {verdict.detail}")
        except SandboxError as error:
            reasons.append(f"{how}: {error}")
    raise SandboxError(f"a first program in {language} does not pass: " + "; ".join(reasons))


@functools.cache
def warn() -> None:
    """Say on stderr, once, what is not enforced where programs run without namespaces.

    Raises: SandboxError if they cannot run at all.
    """
    how = mode()
    if not how.namespaces:
        who = "any user may" if how.drop else "you may"
        print(
            "warning: no namespaces can be made here, so programs that LLMs wrote can use the network, "
            f"see other processes, and read and write every file that {who}; "
            "only time, file size and, where the system can, memory and processes are limited. "
            "Best in a container; `python -m utils.scoring.sandbox` tells more",
            file=sys.stderr,
        )


def tried(how: Mode) -> dict[str, bool]:
    """The claims about a mode, and whether each one held against the quick ones of the attacks on it."""

    def run_here(language: str, source: str, seconds: float, megabytes: int) -> bool:
        """Whether a program passes."""
        return run(Program(language, source), seconds, megabytes, how).passed

    held: dict[str, bool] = {}
    for attack in read_attacks():
        if attack.quick and attack.against not in NOT_HELD and (attack.language == "python" or shutil.which("node")):
            held[attack.against] = held.get(attack.against, True) and not succeeds(attack, run_here)
    if sys.platform != "linux":  # elsewhere, these attacks have nothing to look at
        held |= {"no sight of other processes": False, "nothing is left behind": False}
    return held


def main() -> int:
    """Print what is enforced on this machine; 0 if all of it is, 1 if not, 2 if no program can be run."""
    try:
        how = mode()
        enforced = tried(how)
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    way = "in namespaces of its own"
    if not how.namespaces:
        way = "without namespaces (this user may make none, or it is not Linux)"
    user = ", as a user that nobody is" if how.drop else ""
    print(f"Each program runs {way}{user}. Attacked on this machine, these claims held (yes) or not (NO):")
    for what, holds in enforced.items():
        print(f"  {'yes' if holds else 'NO ':3}  {what}")
    if node := shutil.which("node"):
        print(f"  yes  JavaScript ({node})")
    else:
        print("  NO   JavaScript: there is no `node` command")
    print("Not held on any machine, so that a program made for it can")
    for what in NOT_HELD.values():
        print(f"  {what}")
    if all(enforced.values()):
        return 0
    print("Where it says NO, run programs of LLMs in a container or on a machine that holds nothing of value.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
