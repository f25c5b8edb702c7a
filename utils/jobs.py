"""Train runs in processes of their own, a few at a time; all of them stop, and save, when this one is stopped."""

import contextlib
import multiprocessing
import os
import runpy
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tqdm import tqdm

from .config import PROGRAM
from .files import read_json
from .meters import bar

LAUNCHERS = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.accelerate_cli"}  # their modules
TRAINER = Path(__file__).parents[1] / "train_router_mdeberta.py"


@dataclass(frozen=True)
class Run:
    """One run: its folder, the arguments of the trainer, and what starts several processes of it, one of LAUNCHERS."""

    folder: Path
    arguments: tuple[str, ...]
    launcher: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The run as its results name it, by however many processes it was trained."""
        return f"{PROGRAM} {shlex.join(self.arguments)}"

    @property
    def line(self) -> str:
        """The run as a line for a shell."""
        if not self.launcher:
            return self.command
        return shlex.join([*self.launcher, PROGRAM.removeprefix("python "), *self.arguments])

    @property
    def log(self) -> Path:
        """The file with what the run printed."""
        return self.folder / "log.txt"

    def is_finished(self) -> bool:
        """Whether its results are there, made by this very command. The trainer judges all others."""
        path = self.folder / "results.json"
        if not path.is_file():
            return False
        return read_json(path, "remove it to train the run again", ["settings"]).get("command") == self.command


def train(run: Run) -> None:
    """Train one run in this process, a child; what it prints goes to log.txt in the run's folder."""
    os.setpgrp()  # Ctrl-C in a terminal reaches the parent alone, which asks its children to stop, once
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tqdm.set_lock(threading.RLock())  # the parent's may be held by a thread that this copy has not
    log = run.log.open("a", buffering=1, encoding="utf-8")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    if run.launcher:
        program, *options = run.launcher
        words = [sys.executable, "-m", LAUNCHERS[program], *options, str(TRAINER), *run.arguments]
        os.execv(sys.executable, words)
    sys.stdout = sys.stderr = log
    sys.argv = [str(TRAINER), *run.arguments]
    runpy.run_path(str(TRAINER), run_name="__main__")


def train_all(runs: Sequence[Run], jobs: int) -> None:
    """Train the runs, `jobs` at a time, each in a process of its own.

    Libraries are imported once: on Linux a child is a copy of this process. The first run is alone, since it computes
    what the others find in the cache.
    Raises: ValueError with the end of the log for the first run that fails; KeyboardInterrupt. The others are stopped,
    and can go on later.
    """
    from . import training  # noqa: F401, for the children

    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting, finished = list(runs), 0
    active: dict[int, tuple[BaseProcess, Run]] = {}
    with bar(len(runs), "runs", "run") as progress:
        try:
            while waiting or active:
                while waiting and len(active) < (jobs if finished else 1):
                    run = waiting.pop(0)
                    run.folder.mkdir(parents=True, exist_ok=True)
                    child = context.Process(target=train, args=(run,))
                    child.start()
                    active[child.sentinel] = child, run
                for sentinel in wait(list(active)):
                    child, run = active.pop(sentinel)
                    child.join()
                    if child.exitcode:
                        raise ValueError(f"this command failed: {run.line}\n{end_of_log(run)}")
                    finished += 1
                    progress.update()
        finally:
            for child, _ in active.values():
                child.terminate()
            for child, _ in active.values():
                child.join()


def end_of_log(run: Run, lines: int = 5) -> str:
    """The last lines that a run printed."""
    if not run.log.is_file():
        return ""
    printed = [line for line in run.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\n".join(printed[-lines:])


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Make SIGTERM and the end of the terminal what Ctrl-C is, so that the children are stopped, too."""
    before = {}
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) == signal.SIG_DFL:  # nohup ignores the second one
            before[name] = signal.signal(name, signal.default_int_handler)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
