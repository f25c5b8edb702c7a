"""Training metrics as JSON lines and for TensorBoard, and the speed of a run."""

import json
import shutil
import sys
import time
from pathlib import Path

from tqdm.auto import tqdm


def bar(total: int, title: str, unit: str, done: int = 0) -> tqdm:
    """A progress bar that stays quiet in log files: a line every half minute where nobody watches."""
    return tqdm(total=total, initial=done, desc=title, unit=unit, mininterval=0.2 if sys.stderr.isatty() else 30, dynamic_ncols=True)


class MetricsLog:
    """Appends one JSON object a line to `<folder>/metrics.jsonl` and the same scalars to TensorBoard files beside it.

    What a stopped run wrote after step `resume` is dropped, since that part is trained again.
    """

    def __init__(self, folder: Path, resume: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # slow to import: not for those who only evaluate

        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= resume] if resume else []
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        if not resume:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume + 1 if resume else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics file; a last line that a killed run left half-written is not one."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Speed:
    """Queries per second since `start`, without the time spent between `pause` and `resume` (evaluations)."""

    def __init__(self):
        self.queries, self.seconds, self.since = 0, 0.0, time.perf_counter()

    def add(self, queries: int) -> None:
        self.queries += queries

    def pause(self) -> None:
        self.seconds += time.perf_counter() - self.since

    def resume(self) -> None:
        self.since = time.perf_counter()

    def rate(self) -> float:
        return self.queries / max(self.seconds + time.perf_counter() - self.since, 1e-9)
