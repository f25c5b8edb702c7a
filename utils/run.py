"""The folder of a training run: what is in it, how a stopped run goes on from it, and how a run is stopped."""

import json
import shlex
import shutil
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils import checkpoint
from utils.config import Config, changed_settings, settings_of
from utils.files import atomic_folder, recover, write_json, write_text
from utils.model import RouterDC
from utils.plots import training_curve
from utils.tables import tables

ROUTERS = {"routerdc": "RouterDC", "cosine_classifier": "CosineClassifier", "zooter": "ZOOTER"}  # by --loss
FILES = ("metrics.jsonl", "picks.json", "tables.md", "training_curve.png")
FOLDERS = ("state", "checkpoint", "tensorboard")


@dataclass
class Progress:
    """How far a run has come.

    step: optimizer steps done. seconds: of wall clock, over all its starts. evaluations: validations done. best_step:
    the step whose weights are kept, 0 before the first evaluation. best_validation: at that step, in %; None without
    validation rows.
    """

    step: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    best_step: int = 0
    best_validation: float | None = None


def trainable(model: RouterDC) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


class RunFolder:
    """What a run keeps on disk.

    While it trains, `state/` has what a stopped run needs to go on exactly: trained weights, optimizer, best weights
    and progress. At the end results.json makes it a finished run.

    Args:
        settings: all that decides the result, see `utils.config.settings_of`, and the digests of the data files.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path, self.settings = path, settings
        self.state = path / "state"
        self.saved_at = time.monotonic()

    def is_finished(self) -> bool:
        """Whether results.json is there."""
        return (self.path / "results.json").is_file()

    def can_resume(self) -> bool:
        """Whether a stopped run left its state."""
        return self.state.is_dir()

    def clear(self) -> None:
        """Remove a run that is there, finished or not (--overwrite)."""
        recover(self.state)  # or a state that was being exchanged when its run was killed would come back later
        for name in ("results.json", *FILES):
            (self.path / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def check_settings(self) -> None:
        """Raise ValueError if a run is there, finished or stopped, with other settings.

        A setting that an older run does not know counts as its default.
        """
        recover(self.state)
        defaults = settings_of(Config()) | {"threads": self.settings.get("threads")}  # older runs do not say how many
        for path in (self.path / "results.json", self.state / "progress.json"):
            if not path.is_file():
                continue
            old = json.loads(path.read_text(encoding="utf-8"))["settings"]
            if changed := changed_settings(old, self.settings, defaults):
                raise ValueError(
                    f"--save_path {self.path} holds a run with other settings ({'; '.join(changed)}). "
                    "Choose another folder, or --overwrite"
                )

    def save_state(
        self, model: RouterDC, optimizer: torch.optim.Optimizer, best: dict[str, Tensor], progress: Progress
    ) -> None:
        """Replace the state on disk by this one, as a whole. best: the weights of the best evaluation so far."""
        tensors = {f"model.{name}": value.detach() for name, value in trainable(model).items()}
        tensors |= {f"best.{name}": value for name, value in best.items()}
        for number, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in slots.items()}
        with atomic_folder(self.state) as folder:
            save_file({name: value.cpu().clone() for name, value in tensors.items()}, folder / "tensors.safetensors")
            write_json(folder / "progress.json", {"settings": self.settings, **asdict(progress)})
        self.saved_at = time.monotonic()

    def load_state(self, model: RouterDC, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Progress]:
        """Put the state on disk into model and optimizer; returns the best weights and the progress."""
        saved = json.loads((self.state / "progress.json").read_text(encoding="utf-8"))
        tensors = load_file(self.state / "tensors.safetensors")
        best = {}
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter.copy_(tensors[f"model.{name}"])
                if f"best.{name}" in tensors:
                    best[name] = tensors[f"best.{name}"].to(parameter.device)
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                slots.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        del saved["settings"]
        return best, Progress(**saved)

    def finish(self, model: RouterDC, results: dict[str, Any], test: dict[str, Any]) -> str:
        """Write checkpoint, curve, tables, picks and, at last, results.json; remove the state. Returns the tables.

        results: all of results.json but "test". test: what `utils.evaluate.measure` returned, or {}.
        """
        results = results | {"test": {name: value for name, value in test.items() if name != "picks"}}
        checkpoint.save(model, self.path / "checkpoint", results)
        training_curve(self.path / "metrics.jsonl", self.path / "training_curve.png", results["selection"]["step"])
        text = "No test sets were read (--no_final_eval).\n"
        if test:
            text = tables(test, f"{results['router']} (this run)")
            write_text(self.path / "picks.json", json.dumps(test["picks"]) + "\n")
        write_text(self.path / "tables.md", text + "\n")
        write_json(self.path / "results.json", results)
        shutil.rmtree(self.state, ignore_errors=True)
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
