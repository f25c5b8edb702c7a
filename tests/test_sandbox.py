"""The sandbox against programs that behave, and that misbehave in every way we could think of."""

import functools
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPO
from utils.scoring import launch, rules, sandbox
from utils.scoring.attacks import read_attacks, succeeds
from utils.scoring.sandbox import Mode, Program, SandboxError, judge, mode, run

PLAIN = Mode(False, False, os.getuid() == 0)  # limits alone, what every system has
MODES = {"strictest": None, "plain": PLAIN}
if sys.platform == "linux" and os.getuid() == 0:
    MODES |= {"user namespace": Mode(True, True, False, True), "namespaces": Mode(True, False, False)}
needs_namespaces = pytest.mark.skipif("not mode().namespaces", reason="no namespaces on this system")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


@functools.cache
def works(how: Mode) -> bool:
    try:
        return run(Program("python", "x = 1"), 30, 512, how).passed
    except SandboxError:
        return False


@pytest.fixture(params=MODES)
def how(request) -> Mode:
    """Every mode that works here; on a system without namespaces that is the plain one, twice."""
    wanted = MODES[request.param] or mode()
    if wanted.namespaces and not (mode().namespaces and works(wanted)):
        pytest.skip(f"the mode {request.param!r} does not work on this system")
    return wanted


def javascript(source: str, how: Mode, seconds: float = 10, megabytes: int = 512) -> sandbox.Verdict:
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    return run(Program("javascript", source), seconds, megabytes, how)


def python(source: str, how: Mode | None = None, seconds: float = 10, megabytes: int = 512) -> sandbox.Verdict:
    return run(Program("python", source), seconds, megabytes, how or mode())


def named(name: str) -> str:
    """Lines with which a program takes a name, that its forks keep, so that it can be looked for from outside."""
    return f"import ctypes, os\nctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n"


def alive(name: str) -> list[str]:
    """The processes of this machine with that name that are not yet dead."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and (folder / "comm").read_text().strip() == name
                and "State:\tZ" not in (folder / "status").read_text()
            ):
                found.append(folder.name)
        except OSError:
            pass
    return found


GOOD = "def add(a, b):\n    return a + b\n\nassert add(1, 2) == 3\n"
GOOD_JS = "const add = (a, b) => {\n  return a + b;\n}\n\nconsole.assert(add(1, 2) === 3);\n"
CASES = [  # language, program, status, part of the detail
    ("python", GOOD, "passed", ""),
    ("python", "print('x' * 1000000)\n" + GOOD, "passed", ""),
    ("python", "import json, re, math, collections, typing, dataclasses, numpy\n" + GOOD, "passed", ""),
    (
        "python",
        "import pickle, dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\nassert "
        "pickle.loads(pickle.dumps(A(1))) == A(1)",
        "passed",
        "",
    ),
    ("python", "if __name__ == '__main__':\n    ran = True\nassert ran", "passed", ""),
    ("python", "open('file', 'w').write('x')\nassert open('file').read() == 'x'", "passed", ""),
    ("python", "assert open('/dev/stdin').read() == ''\nprint(open('/dev/null').read())", "passed", ""),
    ("python", GOOD.replace("+ b", "- b"), "failed", "AssertionError"),
    ("python", "def f(:\n", "failed", "SyntaxError"),
    ("python", "input()", "failed", "EOFError"),
    ("python", "x = '\x00'", "failed", ""),
    ("python", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "killed", "SIGSEGV"),
    ("javascript", GOOD_JS, "passed", ""),
    ("javascript", "const assert = require('assert');\nassert.deepEqual([1], [1]);\n// the end", "passed", ""),
    ("javascript", "if (require('fs').readFileSync('/dev/stdin', 'utf8') !== '') throw 1;", "passed", ""),
    ("javascript", "console.log = () => {};\nconsole.log('quiet');\n" + GOOD_JS, "passed", ""),
    ("javascript", GOOD_JS.replace("a + b", "a - b"), "failed", "Assertion failed"),
    ("javascript", "console.log('hello')", "failed", "hello"),
    ("javascript", "throw new TypeError('no')", "failed", "TypeError: no"),
    ("javascript", "const f = (", "failed", "SyntaxError"),
    ("javascript", "(async () => { await null; console.assert(false, 'later'); })()", "failed", "later"),
    ("javascript", "Promise.reject(new Error('lost'))", "failed", "lost"),
]


@pytest.mark.parametrize("language", ["python", pytest.param("javascript", marks=needs_node)])
def test_verdicts_on_programs_that_behave(language):
    cases = [case for case in CASES if case[0] == language]
    verdicts = judge([Program(language, source) for _, source, _, _ in cases], workers=2)
    for (_, source, status, detail), verdict in zip(cases, verdicts, strict=True):
        assert (verdict.status, verdict.passed) == (status, status == "passed"), (source, verdict)
        assert detail in verdict.detail, (source, verdict)


FAKES = {  # each has a failing test after, before or around the fake; none may pass
    "leaves early": ("python", "import sys\nsys.exit(0)\nassert False"),
    "leaves at once": ("python", "import os\nprint('passed', flush=True)\nos._exit(0)\nassert False"),
    "raises SystemExit": ("python", "raise SystemExit"),
    "prints the verdict": ("python", "print('passed')\nprint('{\"status\": 0, \"reason\": null}')\nassert False"),
    "catches all and leaves": ("python", "import os\ntry:\n    assert False\nexcept BaseException:\n    os._exit(0)"),
    "writes to every open file": (
        "python",
        'import os\nfor fd in range(3, 256):\n    try:\n        os.write(fd, b\'{"status": 0, "reason": '
        "null}\\n')\n    except OSError:\n"
        "        pass\nos._exit(0)",
    ),
    "becomes another program": ("python", "import os\nos.execv('/bin/true', ['true'])"),
    "kills its parent": ("python", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nassert False"),
    "leaves in a child": ("python", "import os\nif os.fork() == 0:\n    os._exit(0)\nos.wait()\nassert False"),
    "a child reaches the end": ("python", "import os\nif os.fork():\n    os.wait()\n    assert False"),
    "process.exit": ("javascript", "process.exit(0);\nconsole.assert(false)"),
    "return": ("javascript", "return;\nconsole.assert(false)"),
    "prints in JavaScript": ("javascript", "console.log('passed');\nprocess.exit(0)"),
    "silent exit handler": (
        "javascript",
        "process.on('exit', () => { process.exitCode = 0; });\nthrow new Error('no')",
    ),
}


@pytest.mark.parametrize("name", FAKES)
def test_a_fake_verdict_does_not_pass(name, how):
    language, source = FAKES[name]
    assert not (python if language == "python" else javascript)(source, how).passed


ENDLESS = [
    ("python", "while True:\n    pass"),
    ("python", "import time\ntime.sleep(60)"),
    ("javascript", "while (true) {}"),
]


@pytest.mark.parametrize("language, source", ENDLESS)
def test_a_program_that_does_not_end(language, source, how):
    start = time.monotonic()
    assert (python if language == "python" else javascript)(source, how, seconds=0.5).status == "timed out"
    assert time.monotonic() - start < 5


def test_a_program_that_prints_without_end(how):
    assert python("while True:\n    print('x' * 10000)", how, seconds=0.5).status == "timed out"


def test_a_fork_bomb_ends_and_leaves_nothing(how):
    if os.getuid() == 0 and not how.drop:
        pytest.skip("the kernel does not limit root's processes, and root's programs run as somebody else")
    verdict = python(
        named("forkbomb") + "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        how,
        seconds=3,
    )
    assert verdict.status in ("timed out", "too many processes")
    time.sleep(0.2)
    assert not alive("forkbomb")


def test_a_forked_background_process_ends_with_the_program(how):
    source = named("straggler")
    source += (
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        __import__('time').sleep(60)\n    "
        "os._exit(0)\nos.wait()"
    )
    start = time.monotonic()
    assert python(source, how).passed
    assert time.monotonic() - start < 5 and not alive("straggler")


def test_ten_gigabytes(how):
    assert python("x = bytearray(10 << 30)", how).detail == "MemoryError"


def test_ten_gigabytes_in_javascript(how):
    greedy = "const all = [];\nfor (let i = 0; i < 100; i++) all.push(Buffer.alloc(1e8, 1));"
    assert javascript(greedy, how, 20).status == "out of memory"
    heap = "const all = [];\nwhile (true) all.push(new Array(100000).fill(Math.random()));"
    assert javascript(heap, how, 20, 128).status in ("out of memory", "killed")


def test_memory_of_several_processes_counts_together(how):
    source = (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        x = os.urandom(1 << 20) * 200\n        "
        "time.sleep(60)\ntime.sleep(60)"
    )
    assert python(source, how, seconds=20).status == "out of memory"


def test_a_file_that_grows_without_end(how):
    assert not python(
        "with open('file', 'wb') as file:\n    for _ in range(2000):\n        file.write(bytes(1 << 20))", how
    ).passed


# bind, remount: writable again
REMOUNT = "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/', None, 4096 | 32, None) == 0"


@pytest.fixture
def shared():
    """A folder with a file `precious` that any user may reach, and change; pytest's own folders are closed to the users
    that programs run as.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "precious").write_text("precious")
        (folder / "precious").chmod(0o666)
        folder.chmod(0o777)
        if not all(above.stat().st_mode & stat.S_IXOTH for above in folder.resolve().parents):
            pytest.skip(f"{folder.parent} cannot be reached by every user")
        yield folder


def test_writes_outside_its_folder(how, shared):
    if not how.namespaces:
        pytest.skip("without namespaces they are not stopped: see the next test")
    for source in (
        f"open({str(shared / 'new')!r}, 'w')",
        f"open({str(shared / 'precious')!r}, 'w')",
        f"import os\nos.remove({str(shared / 'precious')!r})",
        f"import os\nos.chmod({str(shared)!r}, 0)",
        "open('/dev/shm/left', 'w')",
        REMOUNT,
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000 | 0x20000) == 0\n"
        + REMOUNT,  # in a user namespace of its own
    ):
        verdict = python(source, how)
        assert not verdict.passed, source
    assert [file.name for file in shared.iterdir()] == ["precious"] and (shared / "precious").read_text() == "precious"


def test_without_namespaces_writes_are_open_and_are_said_to_be(shared):
    """Which also shows that the test above asks for what would work."""
    assert python(f"open({str(shared / 'new')!r}, 'w')\nopen({str(shared / 'precious')!r}, 'w')", PLAIN).passed
    assert (shared / "new").is_file() and (shared / "precious").read_text() == ""
    (shared / "precious").chmod(0o600)
    again = python(f"open({str(shared / 'precious')!r}, 'w')", PLAIN)
    assert again.detail.startswith("PermissionError") if PLAIN.drop else again.passed  # root's own files stay root's


@needs_namespaces
def test_no_network_and_no_sight_of_other_processes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        source = f"import socket\nsocket.create_connection({address!r}, 5)"
        socket.create_connection(address, 5).close()  # from here it can be reached
        assert not python(source).passed
    assert python("import os\nassert len([name for name in os.listdir('/proc') if name.isdigit()]) <= 2").passed


@needs_namespaces
def test_no_network_in_javascript():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            f"require('net').connect({port}, '127.0.0.1').on('connect', () => process.exit(0)).on('error', (e) => {{ "
            f"throw e; }});"
        )
        assert "ENETUNREACH" in javascript(code, mode()).detail


def test_root_becomes_nobody():
    if not mode().drop:
        pytest.skip("not root, or root that may not become another user in namespaces")
    assert python("import os\nassert os.getuid() > 65536 and os.getgid() > 65536 and os.getgroups() == []").passed
    assert python("import os\nos.setuid(0)").detail.startswith("PermissionError")


def test_the_environment_is_not_passed_on(monkeypatch, how):
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    assert python("import os\nassert 'SECRET_TOKEN' not in os.environ", how).passed


def test_nothing_is_left_on_the_disk(tmp_path, monkeypatch, how):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').write('x')\nos.chmod('a/b', 0)\nos.chmod('a', 0)"
    assert python(source, how).passed
    assert not python("while True: pass", how, seconds=0.2).passed
    assert list(tmp_path.iterdir()) == []
    assert javascript("require('fs').writeFileSync('file', 'x')", how).passed
    assert list(tmp_path.iterdir()) == []


def test_verdicts_come_in_the_order_given_and_progress_as_they_come():
    sources = [f"import time\ntime.sleep({0.6 - 0.1 * place})\nassert {place} % 2 == 0" for place in range(6)]
    seen = []
    verdicts = judge(
        [Program("python", source) for source in sources],
        workers=6,
        progress=lambda place, verdict: seen.append((place, verdict)),
    )
    assert [verdict.passed for verdict in verdicts] == [True, False] * 3
    assert sorted(place for place, _ in seen) == [*range(6)] and all(
        verdicts[place] == verdict for place, verdict in seen
    )
    assert judge([]) == []


def test_programs_end_with_the_caller(tmp_path):
    source = named("orphaned") + "while True:\n    pass"
    code = f"from utils.scoring.sandbox import Program, judge\njudge([Program('python', {source!r})], seconds=30)"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, env=os.environ | {"TMPDIR": str(tmp_path)})
    for _ in range(100):
        if alive("orphaned"):
            break
        time.sleep(0.1)
    assert alive("orphaned")
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    for _ in range(50):
        if not alive("orphaned"):
            break
        time.sleep(0.1)
    assert not alive("orphaned")


def test_text_that_is_no_unicode_is_judged():
    assert python("x = '\ud800'\n" + GOOD).status == "passed"
    assert javascript("\udfff(", mode()).status == "failed"


def test_bad_arguments():
    with pytest.raises(ValueError, match="'ruby' cannot be run; python and javascript can"):
        judge([Program("ruby", "")])
    for bad in ({"workers": 0}, {"seconds": 0}, {"megabytes": 8}):
        with pytest.raises(ValueError, match="at least 1 worker"):
            judge([Program("python", "")], **bad)


def test_without_node_there_is_an_error_and_no_verdict(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    sandbox.interpreter.cache_clear()
    try:
        with pytest.raises(SandboxError, match="install Node.js"):
            judge([Program("javascript", "")])
        assert judge([Program("python", GOOD)])[0].passed
    finally:
        sandbox.interpreter.cache_clear()


def test_a_cell_that_cannot_be_made_is_no_verdict(monkeypatch):
    monkeypatch.setattr(sandbox, "interpreter", lambda language: "/nowhere/python")
    with pytest.raises(SandboxError, match="could not be started: FileNotFoundError"):
        run(Program("python", GOOD), 10, 512, PLAIN)


LESS = """
import ctypes, os, sys
# PR_CAPBSET_DROP, CAP_SYS_ADMIN: gone after exec, though this is root
assert ctypes.CDLL(None).prctl(24, 21, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
WHICH = """
from utils.scoring.sandbox import Mode, Program, SandboxError, mode, run
def works(how):
    try:
        return run(Program("python", "x = 1"), 30, 512, how).passed
    except SandboxError:
        return False
possible = [works(Mode(True, user, drop, True)) for user, drop in ((False, True), (False, False), (True, False))]
print(possible, mode() == Mode(True, True, False, True), mode().namespaces)
"""


@pytest.mark.skipif(os.getuid() != 0 or sys.platform != "linux", reason="not root on Linux")
def test_root_without_the_right_to_make_namespaces_goes_by_way_of_a_user_namespace():
    run = subprocess.run([sys.executable, "-c", LESS, WHICH], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() in ("[False, False, True] True True", "[False, False, False] False False"), (
        run.stderr
    )  # user namespaces may be off


def test_a_warning_before_programs_run_without_namespaces(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(rules, "judge", lambda programs, *_: asked.append(capsys.readouterr().err))
    for number, how in enumerate((Mode(False, False, False), Mode(False, False, True), Mode(True, False, True))):
        monkeypatch.setattr(sandbox, "mode", lambda how=how: how)
        sandbox.warn.cache_clear()
        for title in ("one", "two"):
            rules.verdicts([Program("python", "")], tmp_path / f"{title}{number}", rules.Judging(True), title)
    sandbox.warn.cache_clear()
    warned = [
        text.count("warning: no namespaces can be made here, so programs that LLMs wrote can use the network")
        for text in asked
    ]
    assert warned == [1, 0, 1, 0, 0, 0]
    assert "every file that you may;" in asked[0]
    assert "every file that any user may;" in asked[2]


NO_LIMIT = """
set_limit = resource.setrlimit
def refuse(kind, values):
    if kind == resource.RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")  # as on macOS
    set_limit(kind, values)
resource.setrlimit = refuse
"""


@pytest.mark.parametrize("linux", [True, False])
def test_a_system_that_cannot_limit_the_address_space(linux, monkeypatch, tmp_path):
    """Where that is so by nature, programs run and what is enforced is found out; on Linux it is an error."""
    text, line = (REPO / "utils" / "scoring" / "cell.py").read_text(), 'LINUX = sys.platform == "linux"\n'
    assert line in text
    shutil.copy(REPO / "utils" / "scoring" / "launch.py", tmp_path)
    (tmp_path / "cell.py").write_text(text.replace(line, f"LINUX = {linux}\n{NO_LIMIT}"))
    monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "sandbox.py"))
    plain = Mode(False, False, False)
    if linux:
        with pytest.raises(SandboxError, match="could not be started: ValueError: current limit"):
            python(GOOD, plain)
    else:
        assert python(GOOD, plain).passed and not python(GOOD + "\nassert False", plain).passed
        assert python(
            "x = bytearray(1 << 30)", plain, megabytes=256
        ).passed  # what the report of this module tries, so that it says NO


def test_only_linux_lets_root_become_nobody(monkeypatch):
    """cell.py changes the user on Linux only; no mode may promise it elsewhere."""
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert any(how.drop for how in sandbox._modes()) == (sys.platform == "linux")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert list(sandbox._modes()) == [Mode(False, False, False)]


def test_the_command_says_what_is_enforced():
    run = subprocess.run(
        [sys.executable, "-m", "utils.scoring.sandbox"], cwd=REPO, capture_output=True, text=True, timeout=240
    )
    claims = {attack.against for attack in read_attacks()} - sandbox.NOT_HELD.keys()
    assert len(claims) > 12
    for claim in claims:
        line = next(line for line in run.stdout.splitlines() if line.endswith(claim))
        assert line.split()[0] == "yes" or not mode().namespaces, line
    for what in sandbox.NOT_HELD.values():
        assert f"  {what}\n" in run.stdout
    assert run.returncode == (1 if "  NO " in run.stdout else 0), run.stderr


def test_what_does_not_hold_is_not_claimed():
    """Without namespaces these are open to every program, as on every system."""
    held = sandbox.tried(PLAIN)
    open_to_all = {"no network", "writes in its own folder only", "no sockets, pipes or terminals of others"}
    open_to_all |= {"no sight of other processes", "limited space for files"}
    assert not any(held[claim] for claim in open_to_all)
    assert held["limited time"] and held["no pass without the last line"]


def test_every_attack_is_on_a_claim_or_on_what_is_said_not_to_hold():
    attacks = read_attacks()
    assert len(attacks) >= 75 and len({(attack.against, attack.name) for attack in attacks}) == len(attacks)
    for claim in {attack.against for attack in attacks} - sandbox.NOT_HELD.keys():
        assert any(attack.quick for attack in attacks if attack.against == claim), f"{claim}: would not be printed"
    assert sandbox.NOT_HELD.keys() <= {attack.against for attack in attacks}


def attack(name: str, how: Mode) -> bool:
    """Whether the attack of that name succeeds."""
    (found,) = [attack for attack in read_attacks() if attack.name == name]
    return succeeds(found, lambda *program: run(Program(*program[:2]), *program[2:], how).passed)


@pytest.mark.parametrize("name", ["1.2 GB in memfd, written", "1.2 GB in shared mappings of forks"])
def test_shared_memory_counts(name, how):
    assert not attack(name, how)


@needs_namespaces
def test_detached_segments_count_and_vanish():
    assert not attack("1.2 GB in detached SysV segments", mode()) and not attack("a SysV segment", mode())


def test_a_large_mapping_of_its_own_is_no_shared_memory(how):
    """What forks share counts once, and reserved addresses are no memory."""
    source = (
        "import mmap, os, time\nx = os.urandom(1 << 20) * 100\nfor _ in range(6):\n    if os.fork() == 0:\n        "
    )
    source += (
        "time.sleep(0.5)\n        os._exit(0)\ny = mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE)\ntime.sleep(0.5)"
    )
    assert python(source, how, megabytes=384).passed


@needs_namespaces
def test_nothing_of_the_disk_but_the_system_and_the_interpreter(shared):
    if not mode().hide:
        pytest.skip("all files stay visible on this system")
    names = [
        "a file of everyone in the temporary folder",
        "the code of the sandbox itself",
        "a Unix socket of this machine",
    ]
    assert not any(attack(name, mode()) for name in [*names, "a named pipe", "write to a terminal"])
    looked = "import os\nassert {'usr', 'dev', 'proc'} <= {*os.listdir('/')} <= " + repr(visible_at_the_root())
    assert python(looked).passed


def test_a_link_does_not_hide_the_folder_that_it_leads_into(shared, monkeypatch):
    if not mode().hide:
        pytest.skip("all files stay visible on this system")
    (shared / "real" / "bin").mkdir(parents=True)
    for name in ("bin/command", "library"):
        (shared / "real" / name).write_text(name)
    (shared / "a").symlink_to(shared / "real" / "bin" / "command")
    (shared / "b").symlink_to(shared / "real")
    visible = [*sandbox._visible("python"), *(str(shared / name) for name in ("a", "b", "b/bin/command", "real"))]
    monkeypatch.setattr(sandbox, "_visible", lambda language: visible)
    names = [("a", "bin/command"), ("b/library", "library"), ("real/library", "library")]
    lines = [f"assert open({str(shared / path)!r}).read() == {text!r}\n" for path, text in names]
    verdict = python("".join(lines))
    assert verdict.passed, verdict


def test_libraries_outside_of_what_is_shown_are_not_lost(monkeypatch, tmp_path):
    """Where the interpreter would not work as it does elsewhere, all files stay visible."""
    if not mode().hide:
        pytest.skip("all files stay visible on this system")
    monkeypatch.setattr(sandbox, "mode", sandbox.mode.__wrapped__)
    monkeypatch.setattr(sandbox, "LIBRARIES", ("sqlite3", "no_such_library"))
    sandbox._first_program.cache_clear()
    visible = sandbox._visible("python")
    try:
        assert sandbox.mode() == mode() and sandbox.mode().hide
        assert sandbox._first_program("python").source == "import sqlite3\n"
        visible = [path for path in visible if path.startswith("/dev/")]
        monkeypatch.setattr(sandbox, "_visible", lambda language: visible)
        assert sandbox.mode().namespaces and not sandbox.mode().hide
    finally:
        sandbox._first_program.cache_clear()


def visible_at_the_root() -> set[str]:
    """Names in the root of programs: those of the system and above the interpreter and the working folder."""
    shown = [*sandbox._visible("python"), tempfile.gettempdir(), "/proc"]
    shown += map(os.path.realpath, list(shown))
    return {path.split("/")[1] for path in shown}


@needs_node
def test_an_interpreter_that_only_root_can_reach(monkeypatch):
    """It is put where the program can reach it, which gets no right to read anything else."""
    if not mode("javascript").drop or not mode("javascript").hide:
        pytest.skip("programs do not run as another user here")
    with tempfile.TemporaryDirectory() as name:
        node = Path(name) / "node"
        node.symlink_to(shutil.which("node"))
        assert not node.parent.stat().st_mode & stat.S_IXOTH
        monkeypatch.setattr(sandbox, "interpreter", lambda language: str(node))
        read = "const text = require('fs').readFileSync('/proc/self/status', 'utf8');\n"
        read += "if (!/CapEff:\\s*0+\\n/.test(text) || !process.execArgv.length) throw new Error(text);"
        verdict = javascript(read, mode("javascript"))
        assert verdict.passed, verdict


ASIDE = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\ntime.sleep(60)"


@pytest.mark.parametrize("plain", [False, True])
def test_ctrl_c_ends_everything_at_once(plain):
    code = "from utils.scoring import sandbox\n"
    code += f"how = {PLAIN!r} if {plain} else sandbox.mode()\nsandbox.mode = lambda language: how\n".replace(
        "Mode", "sandbox.Mode"
    )
    code += f"sandbox.judge([sandbox.Program('python', {named('interrupted') + ASIDE!r})] * 3, workers=2, seconds=50)"
    caller = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    for _ in range(100):
        if len(alive("interrupted")) >= 4:
            break
        time.sleep(0.1)
    start = time.monotonic()
    caller.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in caller.communicate(timeout=10)[1] and caller.returncode != 0
    while alive("interrupted") and time.monotonic() - start < 5:  # the kernel takes a moment
        time.sleep(0.05)
    assert time.monotonic() - start < 5 and not alive("interrupted")


def test_a_program_that_kills_its_cell_fails_alone(monkeypatch):
    """Without namespaces, as the same user, it can."""
    how = Mode(False, False, False)
    monkeypatch.setattr(sandbox, "mode", lambda language="python": how)
    (killer,) = [attack.source for attack in read_attacks() if attack.name == "kill the keeper and all above it"]
    verdicts = judge([Program("python", source) for source in (GOOD, killer, GOOD)])
    assert [verdict.status for verdict in verdicts] == ["passed", "killed", "passed"]


@pytest.mark.parametrize("times, status", [(1, "passed"), (2, "killed")])
def test_a_cell_that_ends_without_a_word(monkeypatch, times, status):
    """Without namespaces it runs once more, as a machine short of memory ends cells, too; with them it is an error."""
    real, lost = sandbox._run_cell, []

    def lose(want, source, stop):
        lost.append(want)
        silent = {"output": b"", "errors": b"", "proof": b"", "report": b"", "token": b"x"}
        return silent if len(lost) <= times else real(want, source, stop)

    monkeypatch.setattr(sandbox, "_run_cell", lose)
    assert python(GOOD, PLAIN).status == status and len(lost) == 2
    lost.clear()
    with pytest.raises(SandboxError, match="without a report"):
        python(GOOD, Mode(True, False, False))


HONEST = """
import collections, dataclasses, datetime, decimal, enum, fractions, functools, pathlib, types, unittest
import numpy
class Node:
    def __init__(self, value):
        self.value = value
    def __eq__(self, other):
        return isinstance(other, Node) and self.value == other.value
    def __lt__(self, other):
        return self.value < other.value
    def __sub__(self, other):
        return Node(self.value - other.value)
Pair = collections.namedtuple("Pair", "a b")
Color = enum.Enum("Color", "RED GREEN")
class Number(enum.IntEnum):
    ONE = 1
@dataclasses.dataclass(order=True)
class Point:
    x: int
class Words(list):
    pass
class Plain:
    pass
class Bag:
    def __contains__(self, item):
        return item == 1
"""
# Of honest programs: their tests compare what libraries made, and their own objects with each other.
EXPRESSIONS = """
1 + 2 == 3
3 - 2 != 2
abs(0.1 + 0.2 - 0.3) < 1e-6
2 in [1, 2]
5 not in {1: 2}
1 < 2 <= 3
[] is not None
collections.Counter('aab') == {'a': 2, 'b': 1}
collections.OrderedDict(a=1) == {'a': 1}
Pair(1, 2) == (1, 2)
fractions.Fraction(1, 2) == 0.5
decimal.Decimal(2) - 1 == 1
{1, 2} - {2} == {1}
Number.ONE == 1
Node(1) == Node(1)
Node(1) < Node(2)
[Node(1)] == [Node(1)]
Node(3) - Node(1) == Node(2)
Node(1) in [Node(1)]
Point(1) == Point(1)
Point(1) < Point(2)
Color.RED != Color.GREEN
Words('ab') == ['a', 'b']
Plain() != 3
Node(1) != None
Node(1) not in [1, None]
1 in Bag()
(numpy.arange(3) == [0, 1, 2]).all()
numpy.float64(1) == 1
all(numpy.array([2.5]) - 2.5 == 0)
datetime.date(2024, 1, 2) - datetime.date(2024, 1, 1) == datetime.timedelta(1)
pathlib.Path('a') == pathlib.Path('a')
(lambda x: x == 1)(1)
[x for x in range(5) if x > 3] == [4]
(1 == 1) == True
not (3 == 4)
float('nan') != float('nan')
""".strip().splitlines()


def test_assertions_of_honest_programs_mean_what_they_mean_elsewhere():
    """The same as the interpreter's, when they hold and when they do not."""
    source = HONEST + "".join(f"assert {text}\n" for text in EXPRESSIONS)
    verdict = python(source)
    assert verdict.passed, verdict
    exec(compile(source, "program.py", "exec"), {"__name__": "honest"})
    reversed_ones = "".join(
        f"try:\n    assert not ({text})\nexcept AssertionError:\n    pass\n" for text in EXPRESSIONS
    )
    counted = reversed_ones.replace("except AssertionError:\n    pass", "except AssertionError:\n    caught += 1")
    assert python(HONEST + f"caught = 0\n{counted}\nassert caught == {len(EXPRESSIONS)}").passed


PLAIN_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=6,
)


@given(st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in", "-"]), PLAIN_VALUES, PLAIN_VALUES)
def test_operations_on_plain_values_are_pythons(operation, left, right):
    """The checked program ends as the program does: the same value, or the same error."""
    source = (
        f"try:\n    result = {left!r} {operation} {right!r}\nexcept Exception as error:\n    result = repr(error)\n"
    )
    checked = f"result = []\ntry:\n    assert result.append({left!r} {operation} {right!r})\nexcept AssertionError:\n"
    checked += "    (result,) = result\nexcept Exception as error:\n    result = repr(error)\n"
    plain, ours = {}, {"__operated__": launch.operated}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        exec(source, plain)
        exec(launch.code_of(checked.encode()), ours)
    assert repr(plain["result"]) == repr(ours["result"])


def test_deep_programs_are_judged():
    """A sum of a thousand numbers is a deep tree."""
    for count in (900, 3000):
        source = f"assert {' + '.join(['1'] * count)} == {count}\n"
        try:
            compile(source, "program.py", "exec")
        except RecursionError:
            continue
        assert python(source).passed, count
