"""Run programs that LLMs wrote and tell which ones pass.

    python -m utils.scoring.sandbox          says, after trying it, what this machine can enforce

Each program runs in processes of its own (`utils/scoring/cell.py`) in an empty folder that vanishes with it, without
the environment variables of the caller, and all its processes are killed when its main one ends or its time is over.
Where Linux allows it (as root, or with user namespaces), it has no network, sees no other process, and can write to
that folder alone, 64 MB in memory; root's programs run as a user that nobody is, unless root may not make namespaces
itself. Elsewhere the limits of time, memory, processes and file size remain, as far as the system has them, and a
warning says so before programs run.

A program passes if it ran to its very end: then the code around it takes a random token out of a pipe and sends it
back. Printing, exit codes, `sys.exit(0)`, `os._exit(0)`, `process.exit(0)` and a killed process give no token.
JavaScript must also have printed nothing on either stream, since a failed `console.assert` only prints (so does
bigcode-evaluation-harness). What remains: a program written against this very sandbox could find the pipe among its
open files, or change what `assert` meets; files that the user may read can be read; a flaw of the kernel is not
covered. So the right place for programs from unknown LLMs is still a container or a machine with nothing of value.
"""

import functools
import json
import os
import re
import secrets
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("python", "javascript")
PROCESSES = 64  # processes and threads of one program; node alone has about a dozen
DISK = 64  # MB that a program may write
GRACE = 20.0  # seconds beyond a program's time in which its cell must be set up and cleared away
KEPT = 4096  # bytes of output that are looked at


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

    namespaces: own network, processes and mounts. user: by way of a user namespace. drop: root becomes a user that
    nobody is.
    """

    namespaces: bool
    user: bool
    drop: bool


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
    how = mode()
    for language in {program.language for program in programs}:
        interpreter(language)
    verdicts: dict[int, Verdict] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        numbers = {}
        for number, program in enumerate(programs):
            numbers[pool.submit(run, program, seconds, megabytes, how)] = number
        for future in as_completed(numbers):
            verdicts[numbers[future]] = future.result()
            if progress:
                progress(numbers[future], future.result())
    finally:
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


def run(program: Program, seconds: float, megabytes: int, how: Mode) -> Verdict:
    """Run one program. Raises: SandboxError if it could not be started."""
    command = interpreter(program.language)
    needed = [command, tempfile.gettempdir() + "/work"]
    if program.language == "python":
        needed.append(sys.base_prefix + "/lib")
    want = {
        "language": program.language,
        "interpreter": command,
        "seconds": seconds,
        "megabytes": megabytes,
        "disk": DISK,
        "processes": PROCESSES,
        "namespaces": how.namespaces,
        "user": how.user,
        "uid": 1_000_000_000 + secrets.randbelow(1_000_000_000) if how.drop else None,
        "keep_reading": how.drop and not all(map(_for_everyone, needed)),
    }
    token = secrets.token_hex(16).encode()
    with (
        tempfile.TemporaryDirectory(prefix="routerdc-sandbox-") as work,
        _pipe() as given,
        _pipe() as proof,
        _pipe() as report,
    ):
        os.write(given.write, token)
        given.close_write()
        want |= {"work": work, "token": given.read, "proof": proof.write, "report": report.write}
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
            heard = _talk(cell, program.source.encode("utf-8", "replace"), ends, seconds + GRACE)
        finally:
            try:
                os.killpg(cell.pid, signal.SIGKILL)  # it has ended, unless something went wrong or the user stopped us
            except (ProcessLookupError, PermissionError):
                pass
            cell.wait()
            for stream in (cell.stdin, cell.stdout, cell.stderr):
                stream.close()
    return _verdict(program.language, heard, token)


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


def _talk(cell: subprocess.Popen, source: bytes, ends: dict[str, int], seconds: float) -> dict[str, bytes]:
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
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fd)
                heard[key.data] = (heard[key.data] + chunk)[-KEPT if key.data == "errors" else 0 :][:KEPT]
    return heard


def _verdict(language: str, heard: dict[str, bytes], token: bytes) -> Verdict:
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
    if heard["proof"] != token:
        return Verdict(False, "exited early", "it ended before its last line")
    return Verdict(True, "passed")


def _modes() -> Iterator[Mode]:
    """From the strictest to the loosest."""
    root = os.getuid() == 0
    if sys.platform == "linux":
        yield Mode(True, not root, root)
        if root:
            yield Mode(True, False, False)
            yield Mode(True, True, False)  # root that may not make namespaces, as in many containers
            yield Mode(False, False, True)
    yield Mode(False, False, False)


@functools.cache
def mode() -> Mode:
    """The strictest mode in which a program can pass here. Raises: SandboxError if it cannot in any."""
    reasons = []
    for how in _modes():
        try:
            verdict = run(Program("python", "x = 1"), 30.0, 1024, how)
            if verdict.passed:
                return how
            reasons.append(f"{how}: {verdict.status} {verdict.detail}")
        except SandboxError as error:
            reasons.append(f"{how}: {error}")
    raise SandboxError("an empty program does not pass: " + "; ".join(reasons))


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
    """What is enforced in a mode, found out with programs that try the opposite."""

    def stopped(source: str, megabytes: int = 256) -> bool:
        """Whether a program fails."""
        return not run(Program("python", source), 10.0, megabytes, how).passed

    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        file = os.path.join(folder, "file")
        sees_no_process = stopped(f"import os\nos.stat('/proc/{os.getpid()}')")
        return {
            "no network": stopped(f"import socket\nsocket.create_connection({server.getsockname()!r}, 5)"),
            "writes in its own folder only": stopped(f"open({file!r}, 'w').write('x')") and not os.path.exists(file),
            "no sight of other processes": sees_no_process and sys.platform == "linux",
            "limited memory": stopped("x = bytearray(1 << 30)"),
            "limited number of processes": stopped(
                "import subprocess, sys\n[subprocess.Popen(['sleep', '5']) for _ in range(100)]"
            ),
            "limited file size": stopped(f"open('file', 'wb').write(bytes({DISK + 8} << 20))"),
            "limited time": run(Program("python", "while True: pass"), 0.5, 256, how).status == "timed out",
        }


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
    print(f"Each program runs {way}{user}. Tried on this machine:")
    for what, holds in enforced.items():
        print(f"  {'yes' if holds else 'NO ':3}  {what}")
    if node := shutil.which("node"):
        print(f"  yes  JavaScript ({node})")
    else:
        print("  NO   JavaScript: there is no `node` command")
    if all(enforced.values()):
        return 0
    print("Where it says NO, run programs of LLMs in a container or on a machine that holds nothing of value.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
