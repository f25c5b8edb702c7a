"""The folder of a training run: what is in it, how a stopped run goes on from it, and how a run is stopped."""

import json
import shlex
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import checkpoint
from .checkpoint_files import CONFIG, WEIGHTS
from .config import Config, changed_settings, settings_of
from .distributed import is_main
from .evaluate import picks_text
from .files import atomic_folder, read_json, recover, remove_folder, write_json, write_text
from .model import RouterDC
from .plots import training_curve
from .tables import tables

ROUTERS = {"routerdc": "RouterDC", "cosine_classifier": "CosineClassifier", "zooter": "ZOOTER"}  # by --loss
RESULTS = "results.json"  # makes a folder a finished run
FILES = ("metrics.jsonl", "picks.json", "tables.md", "training_curve.png")
FOLDERS = ("state", "checkpoint", "tensorboard")
REPLACEMENT = ".new"
BEGIN_AGAIN = "--overwrite begins again"


@dataclass
class Progress:
    """How far a run has come.

    step: optimizer steps done. seconds: of wall clock, over all its starts. evaluations: validations done. best_step:
    the step whose weights are kept, 0 before the first evaluation. best_validation: at that step, in %; None without
    validation rows. loss_sum: of the steps since the last line of the log. tokens: in a chunk, 0 if that is not known.
    scaler: state of the loss scaling, in fp16.
    """

    step: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    best_step: int = 0
    best_validation: float | None = None
    loss_sum: float = 0.0
    tokens: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)


def trainable(model: RouterDC) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def host_copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which nothing changes any more."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def checksum(about: dict[str, Any], tensors: dict[str, Tensor]) -> int:
    """CRC-32 of values as JSON has them and of tensors on the CPU."""
    crc = zlib.crc32(json.dumps(about).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy(), crc)
    return crc


def clear(folder: Path) -> None:
    """Remove all that a run wrote in its folder; results.json goes last, see `remove_leftovers`."""
    for name in FOLDERS:
        remove_folder(folder / name)
    for name in (*FILES, RESULTS):
        (folder / name).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Finish what a killed run began to put in place, and remove what it left half-written.

    A finished run in REPLACEMENT takes the place of the one in `folder`. Until that has gone, its results.json is
    there; the new one is the last to come.
    """
    replacement = folder / REPLACEMENT
    for place in (folder, replacement):
        for name in FOLDERS:
            recover(place / name)
            shutil.rmtree(place / f".{name}.part", ignore_errors=True)
        for name in (*FILES, RESULTS):
            (place / f".{name}.part").unlink(missing_ok=True)
        if (place / RESULTS).is_file():
            remove_folder(place / "state")
    if (replacement / RESULTS).is_file():
        if (folder / RESULTS).is_file():
            clear(folder)
        for path in sorted(replacement.iterdir(), key=lambda path: path.name == RESULTS):
            path.rename(folder / path.name)
    if not (replacement / "state").is_dir():
        remove_folder(replacement)


class RunFolder:
    """What a run keeps on disk.

    While it trains, `state/` has what a stopped run needs to go on exactly: trained weights, optimizer, best weights
    and progress. At the end results.json makes it a finished run. Whoever calls this holds the folder (`locked`).

    A run that overwrites a finished one is in REPLACEMENT below it until it is finished, and then takes its place.

    Args:
        settings: all that decides the result, see `utils.config.settings_of`, and the digests of the data files.
        overwrite: whether a run that is there, finished or not, is to be trained again.
    """

    def __init__(self, path: Path, settings: dict[str, Any], overwrite: bool = False):
        self.path, self.settings, self.overwrite = path, settings, overwrite
        self.saved_at = time.monotonic()
        self.writer: Executor | None = None  # in `saving`
        self.written: Future | None = None  # the state that it was last given
        if is_main():
            remove_leftovers(path)
        replacement = path / REPLACEMENT
        is_replacing = replacement.is_dir() or (overwrite and (path / RESULTS).is_file())
        self.work = replacement if is_replacing else path
        self.state = self.work / "state"

    def is_finished(self) -> bool:
        """Whether a finished run is there that is not to be trained again.

        Raises: ValueError if some of what it wrote is gone.
        """
        if self.overwrite or not (self.work / RESULTS).is_file():
            return False
        for name in (f"checkpoint/{CONFIG}", f"checkpoint/{WEIGHTS}", "tables.md"):
            if not (self.work / name).is_file():
                raise ValueError(f"{self.work / name}: not there any more; bring it back, or train again (--overwrite)")
        return True

    def can_resume(self) -> bool:
        """Whether a stopped run left its state."""
        return self.state.is_dir()

    def begin(self) -> None:
        """Make way for the first step: with `overwrite` nothing is left of a run that was not finished."""
        if self.overwrite and is_main():
            clear(self.work)
        self.work.mkdir(exist_ok=True)

    def check_settings(self) -> None:
        """Raise ValueError if a run is there, finished or stopped, with other settings, or its files are damaged.

        A setting that an older run does not know counts as its default.
        """
        defaults = settings_of(Config()) | {"threads": self.settings.get("threads")}  # older runs do not say how many
        for path in (self.work / RESULTS, self.state / "progress.json"):
            if self.overwrite or not path.is_file():
                continue
            old = read_json(path, BEGIN_AGAIN, ["settings"])["settings"]
            if changed := changed_settings(old, self.settings, defaults):
                raise ValueError(
                    f"--save_path {self.path} holds a run with other settings ({'; '.join(changed)}). "
                    "Choose another folder, or --overwrite"
                )

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A block in which `save_state` writes in the background; when it ends, all is written."""
        with ThreadPoolExecutor(1, "state") as self.writer:
            try:
                yield
                self.wait()
            finally:
                self.writer = None

    def wait(self) -> None:
        """Wait until the last state is on disk. Raises: OSError if it could not be written."""
        if self.written is not None:
            written, self.written = self.written, None
            written.result()

    def save_state(
        self, model: RouterDC, optimizer: torch.optim.Optimizer, best: dict[str, Tensor], progress: Progress
    ) -> None:
        """Replace the state on disk by this one, as a whole; the caller waits for a copy, and for the last state.

        best: the weights of the best evaluation so far, as `host_copy` made them.
        Raises: OSError if this state, or the last one, could not be written.
        """
        self.wait()
        tensors = {f"model.{name}": value for name, value in trainable(model).items()}
        for number, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in slots.items()}
        tensors = host_copy(tensors) | {f"best.{name}": value for name, value in best.items()}
        about = {"settings": self.settings, "threads": torch.get_num_threads(), **asdict(progress)}
        if self.writer is None:
            self._write_state(about, tensors)
        else:
            self.written = self.writer.submit(self._write_state, about, tensors)
        self.saved_at = time.monotonic()

    def _write_state(self, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        with atomic_folder(self.state) as folder:
            save_file(tensors, folder / "tensors.safetensors")
            write_json(folder / "progress.json", about | {"checksum": checksum(about, tensors)})

    def load_state(self, model: RouterDC, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Progress]:
        """Put the state on disk into model and optimizer; returns the best weights and the progress.

        Raises: ValueError that names the file if it is damaged, or of another encoder.
        """
        about, tensors = self._read_state()
        threads, now = about.pop("threads"), torch.get_num_threads()
        if threads != now:
            ends = "the last digits of its weights can differ from those of an unbroken run"
            print(f"note: {self.path}: begun with {threads} threads, it goes on with {now}; {ends}", file=sys.stderr)
        parameters = trainable(model)
        shapes = {f"model.{name}": value.shape for name, value in parameters.items()}
        if shapes != {name: value.shape for name, value in tensors.items() if name.startswith("model.")}:
            raise ValueError(f"{self.state}: of another encoder; bring that back, or {BEGIN_AGAIN}")
        best = {}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
                if f"best.{name}" in tensors:
                    best[name] = tensors[f"best.{name}"]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                slots.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        del about["settings"]
        return best, Progress(**about)

    def _read_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """progress.json without its checksum, and the tensors, unless they are damaged."""
        path = self.state / "progress.json"
        about = read_json(path, BEGIN_AGAIN, ["settings", "threads", "checksum"])
        expected = about.pop("checksum")
        try:
            tensors = load_file(self.state / "tensors.safetensors")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.state / 'tensors.safetensors'}: damaged ({error}); {BEGIN_AGAIN}") from None
        if checksum(about, tensors) != expected:
            raise ValueError(f"{self.state}: damaged, its checksum is another than progress.json says; {BEGIN_AGAIN}")
        return about, tensors

    def finish(self, model: RouterDC, results: dict[str, Any], test: dict[str, Any], named: bool = False) -> str:
        """Write checkpoint, curve, tables, picks and, at last, results.json; remove the state. Returns the tables.

        results: all of results.json but "test". test: what `utils.evaluate.measure` returned, or {}. named: whether the
        checkpoint names its encoder in place of holding it.
        """
        results = results | {"test": {name: value for name, value in test.items() if name != "picks"}}
        checkpoint.save(model, self.work / "checkpoint", results, named)
        training_curve(self.work / "metrics.jsonl", self.work / "training_curve.png", results["selection"]["step"])
        text = "No test sets were read (--no_final_eval).\n"
        if test:
            text = tables(test, f"{results['router']} (this run)")
            write_text(self.work / "picks.json", picks_text(test))
        write_text(self.work / "tables.md", text + "\n")
        write_json(self.work / RESULTS, results)
        remove_leftovers(self.path)
        return text

    def describe(self) -> str:
        """Where the checkpoint is, and how to see its tables again."""
        again = f"python evaluation_router.py --ckpt {shlex.quote(str(self.path))}"
        return f"Checkpoint: {self.path / 'checkpoint'}\nAgain:      {again}"


class Interrupt:
    """A block in which the first Ctrl-C or SIGTERM only sets `asked`, which the training loop reads after each step.

    A second one has its usual effect and stops at once.
    """

    def __enter__(self) -> "Interrupt":
        self.asked = False
        self.before = {name: signal.signal(name, self._ask) for name in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, *_: object) -> None:
        self.asked = True
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for name, handler in self.before.items():
            signal.signal(name, handler)
