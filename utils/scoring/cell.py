"""The process in which `utils.scoring.sandbox` runs one program.

    python -I -S cell.py SETTINGS < source

It shuts itself in, starts the program, watches over it and reports. There are three processes. The outer one enters
the namespaces. The keeper, process 1 of the new process namespace, makes a root of its own, with the system's and the
interpreter's files read-only, and starts the program; it ends everything when the program ends, when its time is over
or when it has grown too large. The program runs with limits and without rights. Only the standard library is imported,
since every program pays for it.
"""

import ctypes
import json
import os
import re
import resource
import signal
import stat
import sys
import time

LINUX = sys.platform == "linux"
# linux/sched.h
NEW_MOUNT = 0x00020000
NEW_IPC = 0x08000000
NEW_USER = 0x10000000
NEW_PID = 0x20000000
NEW_NETWORK = 0x40000000
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, RECURSIVE, PRIVATE = 1, 2, 4, 8, 1 << 14, 1 << 18  # linux/mount.h
MOUNT_SETATTR, HERE, WHOLE_TREE = 442, -100, 0x8000  # system call, AT_FDCWD, AT_RECURSIVE
BIND, DETACH = 1 << 12, 2  # linux/mount.h
DEATH_SIGNAL, DUMPABLE, KEEP_CAPABILITIES, SECURE_BITS, SUBREAPER = 1, 4, 8, 28, 36  # linux/prctl.h
NO_NEW_RIGHTS, AMBIENT = 38, 47
READ_EVERYTHING = 2  # CAP_DAC_READ_SEARCH

# What runs the program in its own process, in Python launch.py: it takes a token out of a pipe before the program
# starts, and passes it on after the program's last line.
JAVASCRIPT = """
const fs = require("fs"), [token, proof, end] = process.argv.splice(1), bytes = Buffer.alloc(64);
const size = fs.readSync(Number(token), bytes);
fs.closeSync(Number(token));
const fix = (object, ...names) => {
  for (const name of names)
    Object.defineProperty(object, name, { value: object[name], writable: false, configurable: false });
};
fix(globalThis, "console", "JSON");
fix(console, "assert", "warn", "_stderr");
fix(JSON, "stringify");
fix(process.stderr, "write");
if (fs.readFileSync("program.js", "latin1").includes("require")) Object.freeze(require("assert"));
let ended = false;
globalThis.endOfProgram = (name) => { ended = name === end; };
require(process.cwd() + "/program.js");
if (ended) fs.writeSync(Number(proof), bytes, 0, size);
"""
LAST_LINE = {"python": "", "javascript": '\n;endOfProgram("{end}");\n'}  # a JavaScript file may `return` before its end


# A line of /proc/PID/maps that is shared and of a file without a name; System V memory is counted elsewhere.
SHARED_MAPPING = r"^(\w+)-(\w+) ..[-x]s \w+ (\w+):(\w+) (\d+) +(?!/SYSV).*\(deleted\)$"


def call(function: str, *arguments: object) -> None:
    """A function of the C library. Raises: OSError naming it."""
    libc = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    if getattr(libc, function)(*values) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def write(path: str, text: str) -> None:
    """Write a file of the system."""
    with open(path, "w") as file:
        file.write(text)


def enter_namespaces(user: bool) -> None:
    """Leave the network, the processes and (as a copy) the mounts of the system.

    user: by way of a user namespace, without being root.
    """
    uid, gid = os.getuid(), os.getgid()
    call("unshare", NEW_MOUNT | NEW_PID | NEW_NETWORK | NEW_IPC | (NEW_USER if user else 0))
    if user:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{uid} {uid} 1")
        write("/proc/self/gid_map", f"{gid} {gid} 1")


def shut_mounts(want: dict, uid: int, gid: int) -> None:
    """Make everything read-only but the working folder, which is a small file system in memory.

    Where `visible` names files and folders, nothing else of the disk is there any more. /proc then shows the cell's
    processes only.
    """
    call("mount", b"none", b"/", None, RECURSIVE | PRIVATE, None)
    root = want["work"] if want["visible"] else ""
    if root:
        options = b"mode=755,size=1m"
        call("mount", b"tmpfs", os.fsencode(root), b"tmpfs", NO_SUID | NO_DEVICES, options)
        for path in sorted(want["visible"], key=whole_folders_first):
            show(path, root)
        for name, end in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            os.symlink(f"/proc/self/fd{end}", f"{root}/dev/{name}")
        for folder in ("/proc", want["work"]):
            os.makedirs(root + folder, exist_ok=True)
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY | NO_SUID, 0, 0, 0)  # to set, to clear, propagation, user namespace
    top = os.fsencode(root or "/")
    call("syscall", MOUNT_SETATTR, HERE, top, WHOLE_TREE, attributes, ctypes.sizeof(attributes))
    call("mount", b"proc", os.fsencode(root + "/proc"), b"proc", READ_ONLY | NO_SUID | NO_DEVICES | NO_EXEC, None)
    options = f"size={want['disk']}m,nr_inodes=4096,mode=700,uid={uid},gid={gid}"
    call("mount", b"tmpfs", os.fsencode(root + want["work"]), b"tmpfs", NO_SUID | NO_DEVICES, options.encode())
    if root:  # the old root is put over the new one, and taken away
        os.chdir(root)
        call("pivot_root", b".", b".")
        call("umount2", b".", DETACH)
        os.chdir("/")


def whole_folders_first(path: str) -> tuple:
    """How to sort what is shown: a folder before what stands in it, and links to it after it."""
    return not os.path.isdir(path), os.path.realpath(path) != path, path


def show(path: str, root: str) -> None:
    """Give a file or folder a place below another root; what links lead to has its own."""
    if not os.path.exists(path) or os.path.lexists(root + path):
        return
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    target = os.path.realpath(path)
    if target != path:
        os.symlink(target, root + path)
        return show(target, root)
    if os.path.isdir(path):
        os.mkdir(root + path)
    else:
        os.close(os.open(root + path, os.O_CREAT, 0o644))
    call("mount", os.fsencode(path), os.fsencode(root + path), None, BIND | RECURSIVE, None)


def give_up_root(uid: int, keep_reading: bool) -> None:
    """Become a user that nobody is, for good.

    keep_reading: the interpreter lies where that user could not read it, and can be put nowhere else.
    """
    if keep_reading:
        call("prctl", KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if keep_reading:
        keep_capabilities(1 << READ_EVERYTHING)
        call("prctl", AMBIENT, 2, READ_EVERYTHING, 0, 0)


def keep_capabilities(mask: int) -> None:
    """Give up all capabilities but those of the mask."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    call("capset", header, (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0))  # effective, permitted, inheritable


def limit(kind: int, value: int) -> None:
    """Lower a limit for good; a hard limit that is lower already stays."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def tasks_of(uid: int) -> int:
    """How many threads the system counts for a user."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            count += len(os.listdir(f"/proc/{pid}/task")) if os.stat(f"/proc/{pid}").st_uid == uid else 0
        except OSError:
            pass  # ended meanwhile
    return count


def become_program(want: dict) -> None:
    """In the innermost process: limits, no rights, then the program. Does not return."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.setpgid(0, 0)
    os.chdir(want["work"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    seconds, megabytes, python = want["seconds"], want["megabytes"], want["language"] == "python"
    limit(resource.RLIMIT_CPU, int(seconds) + 1)
    limit(resource.RLIMIT_FSIZE, want["disk"] << 20)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NOFILE, 256)
    if LINUX:
        limit(resource.RLIMIT_NPROC, want["processes"] + want["others"])
        if want["uid"] is not None:
            give_up_root(want["uid"], want["keep_reading"])
        elif want["namespaces"] and os.getuid() == 0:  # it stays root by name only, or it could undo the cell
            call("prctl", SECURE_BITS, 3, 0, 0, 0)  # SECBIT_NOROOT, locked: no capabilities for being root
            keep_capabilities(0)
        call("prctl", NO_NEW_RIGHTS, 1, 0, 0, 0)
        call("prctl", DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    interpreter, ends = want["interpreter"], [str(want["token"]), str(want["proof"])]
    if python:
        command = [interpreter, "-I", "-B", "-c", want["launch"], *ends]
    else:  # node reserves far more addresses than it uses: its memory is limited by its own heap limit, and watched
        command = [interpreter, f"--max-old-space-size={megabytes}", "-e", JAVASCRIPT, "--", *ends, want["end"]]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": want["work"],
        "TMPDIR": want["work"],
        "LANG": "C.UTF-8",
    }
    environment |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    if python:
        try:
            limit(resource.RLIMIT_AS, megabytes << 20)
        except (ValueError, OSError):  # macOS on ARM has no such limit; elsewhere nothing runs without it
            if LINUX:
                raise
    os.execve(interpreter, command, environment)


def children(pid: int) -> list[int]:
    """The children of a process, on Linux; none once it has ended."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


def processes(namespaces: bool) -> list[int]:
    """All processes of the program: what is in the cell, or without namespaces what descends from this process."""
    if namespaces:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    found = children(os.getpid())
    for pid in found:  # grows while it is read
        found += children(pid)
    return found


def memory(pids: list[int], want: dict) -> float:
    """What these processes hold in memory, in MB, without the files of the disk. What they share counts once."""
    held = sum(map(all_pages, pids))
    if held > want["megabytes"] << 20:  # with what they share counted for each, and the libraries' files
        held = sum(map(own_pages, pids))
    return (held + sum(unnamed_files(pids).values()) + sum(row["rss"] for row in in_ipc("shm", want))) / 2**20


def all_pages(pid: int) -> int:
    """Bytes of all that a process has in memory; 0 once it has ended."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def own_pages(pid: int) -> int:
    """Bytes in memory that come from no file; pages of several processes are divided among them."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return int(re.search(r"^Pss_Anon: +(\d+)", file.read(), re.MULTILINE)[1]) << 10
    except (OSError, TypeError):
        return all_pages(pid)  # it has ended, it does not let us look, or the kernel is an old one


def unnamed_files(pids: list[int]) -> dict[tuple[int, int], int]:
    """Bytes of the files in memory that have no name (memfd, shared mappings), {(device, number): bytes}.

    A mapping counts whole: a process need not touch what it keeps for others.
    """
    sizes = {}
    for pid in pids:
        try:
            for end in os.listdir(f"/proc/{pid}/fd"):
                about = os.stat(f"/proc/{pid}/fd/{end}")
                if about.st_nlink == 0 and stat.S_ISREG(about.st_mode):
                    sizes[about.st_dev, about.st_ino] = about.st_blocks * 512
            with open(f"/proc/{pid}/maps") as file:
                mappings = re.findall(SHARED_MAPPING, file.read(), re.MULTILINE)
        except OSError:  # ended or closed meanwhile
            continue
        for start, end, major, minor, number in mappings:
            key = os.makedev(int(major, 16), int(minor, 16)), int(number)
            sizes[key] = max(sizes.get(key, 0), int(end, 16) - int(start, 16))
    return sizes


def in_ipc(kind: str, want: dict) -> list[dict[str, int]]:
    """The System V objects of the program, one row each: all of its namespace, or all of its user.

    kind: "shm" (memory), "msg" (queues) or "sem" (semaphores). None without either.
    """
    if not want["namespaces"] and want["uid"] is None:
        return []
    try:
        with open(f"/proc/sysvipc/{kind}") as file:
            head, *lines = file.read().splitlines()
    except OSError:
        return []
    rows = [dict(zip(head.split(), map(int, line.split()))) for line in lines]
    return [row for row in rows if want["namespaces"] or row["cuid"] == want["uid"]]


def clear_ipc(want: dict) -> None:
    """Take away the System V objects that the program leaves; a namespace does so itself."""
    for row in in_ipc("shm", want):
        call("shmctl", row["shmid"], 0, None)  # IPC_RMID
    for row in in_ipc("msg", want):
        call("msgctl", row["msqid"], 0, None)
    for row in in_ipc("sem", want):
        call("semctl", row["semid"], 0, 0)


def end_all(group: list[int], namespaces: bool) -> None:
    """Kill every process of the program, first its process group as a whole, and wait until none is left."""
    while True:
        for pid in [-1] if namespaces else [*(-pid for pid in group), *processes(False)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # ended meanwhile, or nobody but this process is left
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def watch(program: int, want: dict) -> dict:
    """Wait for the program to end, or end it. Returns its wait status, and the reason where it was ended."""
    status, reason, deadline = 0, None, time.monotonic() + want["seconds"]
    while True:
        ended, status = os.waitpid(program, os.WNOHANG)
        if ended:
            break
        left = deadline - time.monotonic()
        if left <= 0:
            reason = "timed out"
        elif LINUX:
            pids = processes(want["namespaces"])
            if len(pids) > want["processes"]:
                reason = "too many processes"
            elif memory(pids, want) > want["megabytes"]:
                reason = "out of memory"
        if reason:
            break
        if hasattr(signal, "sigtimedwait"):
            signal.sigtimedwait({signal.SIGCHLD}, min(left, 0.05))
        else:
            time.sleep(min(left, 0.01))
    end_all([program], want["namespaces"])
    if LINUX and not want["namespaces"]:
        clear_ipc(want)
    return {"status": status, "reason": reason}


def keep(want: dict, source: bytes) -> dict:
    """The keeper: make the cell, run the program in it. Returns the report."""
    uid = os.getuid() if want["uid"] is None else want["uid"]
    gid = os.getgid() if want["uid"] is None else want["uid"]
    if LINUX:
        call("prctl", DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
        call("prctl", SUBREAPER, 1, 0, 0, 0)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "launch.py"), encoding="utf-8") as file:
        want["launch"] = file.read()
    if want["namespaces"]:
        shut_mounts(want, uid, gid)
    else:
        os.chown(want["work"], uid, gid)
    name = "program.py" if want["language"] == "python" else "program.js"
    with open(os.path.join(want["work"], name), "wb") as file:
        file.write(source + LAST_LINE[want["language"]].replace("{end}", want["end"]).encode())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    program = os.fork()
    if program == 0:
        try:
            become_program(want)
        except BaseException as error:  # the program never started: that is for the caller to know, not a verdict
            os.write(want["report"], json.dumps({"setup": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        finally:
            os._exit(1)
    for end in (want["token"], want["proof"]):
        os.close(end)
    return watch(program, want)


def stop(*_: object) -> None:
    """The caller wants no more, or is gone."""
    end_all([], False)
    os._exit(1)


def main() -> int:
    """Run the program that stdin has, as the settings in the first argument say, and write the report."""
    want = json.loads(sys.argv[1])
    source = sys.stdin.buffer.read()
    os.set_inheritable(want["report"], False)
    report = {}
    try:
        if not want["namespaces"]:  # the end of a namespace ends all in it; elsewhere that is for this process to do
            signal.signal(signal.SIGTERM, stop)
        if LINUX:
            call("prctl", DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)
            call("prctl", SUBREAPER, 1, 0, 0, 0)
            # The limit on processes counts those that this user has already.
            want["others"] = tasks_of(os.getuid()) if want["uid"] is None else 0
        if want["namespaces"]:
            enter_namespaces(want["user"])
        if LINUX:
            call("prctl", DUMPABLE, 0, 0, 0, 0)  # the program may be of the same user, and must not look in here
        keeper = os.fork()
        if not keeper:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            report = keep(want, source)
        elif os.WIFEXITED(os.waitpid(keeper, 0)[1]):
            return 0
        else:  # without namespaces, a program can kill it
            end_all([], False)
            report = {"status": int(signal.SIGKILL), "reason": None}
    except Exception as error:
        report = {"setup": f"{type(error).__name__}: {error}"}
    os.write(want["report"], json.dumps(report).encode() + b"\n")
    return 0


if __name__ == "__main__":
    os._exit(main())
