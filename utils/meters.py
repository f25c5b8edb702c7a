"""Training metrics as JSON lines and for TensorBoard, and the speed of a run."""

import json
import shutil
import sys
import threading
import time
from pathlib import Path

from tqdm import tqdm  # plain text in notebooks, too

from .files import naming, parse_json, write_text


def bar(total: int, title: str, unit: str, done: int = 0) -> tqdm:
    """A progress bar that is quiet in log files and notebooks: there it prints a line every half minute.

    done: how many of the `total` units were done before.
    """
    is_watched = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=unit,
        mininterval=0.2 if is_watched else 30,
        delay=0 if is_watched else 5,  # seconds; a bar that is done by then prints nothing
        dynamic_ncols=True,
    )


class MetricsLog:
    """Appends one JSON object a line to `<folder>/metrics.jsonl`, and the same scalars to TensorBoard files beside it.

    Args:
        resume: the step after which a stopped run goes on. What it wrote after that step is dropped, since these steps
            are trained again; a file that is gone is reported on stderr. 0: a new run.
    """

    def __init__(self, folder: Path, resume: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # slow to import: not for those who only evaluate

        self.path, self.tensorboard = folder / "metrics.jsonl", folder / "tensorboard"
        kept = []
        if resume and self.path.is_file():
            kept = [line for line in read_metrics(self.path) if line["step"] <= resume]
        elif resume:
            print(f"{self.path}: not there any more; it begins again after step {resume}", file=sys.stderr)
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        if not resume:
            shutil.rmtree(self.tensorboard, ignore_errors=True)
        threading.excepthook = leave_to_writer
        with naming(self.tensorboard):
            self.writer = SummaryWriter(str(self.tensorboard), purge_step=resume + 1 if resume else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add the values of one step; they are in the file when this returns."""
        with naming(self.path), self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        with naming(self.tensorboard):
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """End the TensorBoard file."""
        with naming(self.tensorboard):
            self.writer.close()


class NoLog:
    """A `MetricsLog` that writes nothing, for the processes beside the main one."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def leave_to_writer(failure: threading.ExceptHookArgs) -> None:
    """Print the error of a thread, but not that of a TensorBoard thread: its writer raises it at the next call."""
    if not type(failure.thread).__module__.startswith("tensorboard"):
        threading.__excepthook__(failure)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics file, without a last line that a killed run left half-written.

    Raises: ValueError that names the file and the line if one is damaged.
    """
    whole_lines = path.read_bytes().split(b"\n")[:-1]
    remedy = "remove that line"
    return [parse_json(line, f"{path}, line {n}", remedy, ["step"]) for n, line in enumerate(whole_lines, 1)]


class Speed:
    """Queries per second since this object was made, without the time between `pause` and `resume` (evaluations)."""

    def __init__(self):
        self.queries, self.seconds, self.since = 0, 0.0, time.perf_counter()

    def add(self, queries: int) -> None:
        """Count this many queries."""
        self.queries += queries

    def pause(self) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self.since

    def resume(self) -> None:
        """Let the clock go on."""
        self.since = time.perf_counter()

    def rate(self) -> float:
        """Queries per second so far; only while the clock runs."""
        return self.queries / max(self.seconds + time.perf_counter() - self.since, 1e-9)
