"""Kill programs at each of their file-system events and at random times, start them again, and compare what they leave.

    PYTHONPATH=. python tests/faults/kills.py --count 10 --seed 1 --output kills.json

Each program runs in copies of one process that has imported the libraries already. A file-system event is a file opened
for writing, renamed or removed, or a folder made or removed, below the program's folder; the program is killed just
before it. At the end every file must be that of a run that nobody stopped, but for NOT_COMPARED and TIMES.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import test_convert
import test_download
import test_report
import torch.utils.tensorboard  # training imports it late, and every copy would again
from conftest import TRAINED, FakeData, arguments, make_data, make_tiny_bert, words_of
from runner import command_line, finish
from tqdm import tqdm

import evaluation_router
import train_router_mdeberta
from utils import clustering, download, encoders
from utils.baselines import __main__ as baselines
from utils.report import __main__ as report
from utils.scoring import convert

NOT_COMPARED = ("tensorboard",)  # folders: their files are named after time and process
TIMES = ("seconds", "queries_per_second")  # keys of JSON objects
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LIMIT = 120  # seconds for one start, after which it hangs
MOST_KILLS = 6  # in a row
CHANGING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename": 2, "os.remove": 1, "os.mkdir": 2, "os.rmdir": 1, "os.truncate": 1}  # place of dir_fd, if any


@dataclass(frozen=True)
class Program:
    """A command that runs in a folder of its own, where all that it writes is.

    main: takes the arguments, returns the exit status. every: at how many of its events it is killed, 1 being all.
    """

    name: str
    main: Callable[[list[str]], int]
    arguments: list[str]
    every: int = 1


@dataclass(frozen=True)
class Kill:
    """One signal to a program: before an event, counted from 1, or after seconds.

    torn: with SIGKILL, cut the file in half that would be renamed, as if it had been killed while it was written.
    """

    signal: signal.Signals
    event: int | None = None
    seconds: float | None = None
    torn: bool = False


# One start


def is_change(event: str, arguments: tuple, folder: str) -> bool:
    """Whether an audit event (`sys.addaudithook`) is a change below a folder."""
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or not flags & CHANGING_FLAGS:
            return False
    elif event in CHANGES:
        path = arguments[0]
        place = CHANGES[event]
        if len(arguments) > place and arguments[place] != -1:  # relative to an open folder: shutil.rmtree
            return True
    else:
        return False
    return os.path.abspath(os.fsdecode(path)).startswith(folder + os.sep)


def watch(folder: Path, kill: Kill | None, counted: Path | None) -> None:
    """Have this process killed, or its events written to the file `counted`, one character each."""
    events, sent = 0, False
    out = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if counted else -1

    def hook(event: str, arguments: tuple) -> None:
        nonlocal events, sent
        if sent or not is_change(event, arguments, str(folder)):
            return
        events += 1
        if counted:
            os.write(out, b"r" if event == "os.rename" else b".")
        if kill and events == kill.event:
            sent = True
            if kill.torn and os.path.isfile(arguments[0]):
                os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
            os.kill(os.getpid(), kill.signal)

    sys.addaudithook(hook)


def child(program: Program, folder: Path, log: Path, kill: Kill | None, counted: Path | None) -> None:
    """Run a program in this process, a copy; does not return."""
    status = 1
    try:
        os.chdir(folder)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
        torch.set_num_threads(1)
        file = log.open("w", buffering=1)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        tqdm.set_lock(threading.RLock())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        watch(folder, kill, counted)
        status = program.main(program.arguments)
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status if isinstance(status, int) else 1)


def start(program: Program, folder: Path, log: Path, kill: Kill | None = None, counted: Path | None = None) -> int:
    """Start a program and wait for its end; returns its exit status, minus the signal that ended it, or 124."""
    begun = time.monotonic()
    process = os.fork()
    if process == 0:
        child(program, folder, log, kill, counted)
    while time.monotonic() < begun + LIMIT:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if kill and kill.seconds is not None and time.monotonic() - begun > kill.seconds:
            os.kill(process, kill.signal)
            kill = None
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return 124


# What it leaves


def without_times(value: Any) -> Any:
    """JSON without TIMES, and without the digest of an object that has them."""
    if isinstance(value, dict):
        left_out = {*TIMES, "sha256"} if set(TIMES) & value.keys() else ()
        return {key: without_times(item) for key, item in value.items() if key not in left_out}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def files_below(folder: Path) -> dict[str, bytes]:
    """The content of each file and folder, without what depends on the time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if set(NOT_COMPARED).intersection(name.parts):
            continue
        content = b"folder" if path.is_dir() else path.read_bytes()
        if path.suffix in (".json", ".jsonl"):
            try:
                texts = content.decode().splitlines() if path.suffix == ".jsonl" else [content]
                content = json.dumps([without_times(json.loads(text)) for text in texts]).encode()
            except ValueError:
                pass  # damaged: it will differ
        found[str(name)] = content
    return found


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """The names of the files that differ, are missing, or are left over."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


# Kills


@dataclass
class Counts:
    """What happened to one program: a row of the result."""

    tried: int = 0
    kills: int = 0
    resumes: int = 0
    differences: int = 0
    errors: int = 0


class Attempts:
    """Kills of one program in a folder that is made anew for each attempt. notes: what went wrong, in words."""

    def __init__(self, program: Program, place: Path):
        self.program, self.folder, self.log = program, place / "work", place / "log"
        self.counts, self.notes = Counts(), []
        counted = place / "events"
        self.expected = self.unbroken(counted)
        self.events = counted.read_text()
        begun = time.monotonic()
        if self.unbroken(None) != self.expected:
            raise AssertionError(f"{program.name}: two runs that nobody stopped differ")
        self.seconds = time.monotonic() - begun

    def empty(self) -> None:
        """Make the folder anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def unbroken(self, counted: Path | None) -> dict[str, bytes]:
        """What a run leaves that nobody stops."""
        self.empty()
        if status := start(self.program, self.folder, self.log, None, counted):
            raise AssertionError(f"{self.program.name}: status {status}\n{self.log.read_text()}")
        return files_below(self.folder)

    def attempt(self, kills: list[Kill]) -> None:
        """Kill one start after another, let the last one end, and compare."""
        self.empty()
        self.counts.tried += 1
        wrong = []
        for kill in kills:
            status = start(self.program, self.folder, self.log, kill)
            stopped = status < 0 or status == 130 or (kill.signal == signal.SIGINT and status == 1)
            self.counts.kills += stopped
            if status and not stopped:
                wrong.append(f"status {status} after {kill}: {self.log.read_text()[-600:]}")
        self.counts.resumes += 1
        if status := start(self.program, self.folder, self.log):
            wrong.append(f"status {status} of the last start: {self.log.read_text()[-600:]}")
        self.counts.errors += bool(wrong)
        differ = [] if wrong else differences(files_below(self.folder), self.expected)
        self.counts.differences += bool(differ)
        if wrong or differ:
            self.notes.append(f"{self.program.name}, {kills}: {' '.join([*wrong, *differ])}")

    def at_events(self, events: list[int]) -> None:
        """Kill the program before these events: SIGKILL, and torn files at renames; at every third another signal."""
        for number, event in enumerate(events):
            self.attempt([Kill(signal.SIGKILL, event)])
            if number % 3 == 0:
                self.attempt([Kill(SIGNALS[1 + number % 2], event)])
            if self.events[event - 1] == "r":
                self.attempt([Kill(signal.SIGKILL, event, torn=True)])

    def at_random(self, count: int, rng: random.Random) -> None:
        """Kill the program after random times, and several times in a row at random events, `count` times each."""
        for _ in range(count):
            self.attempt([Kill(rng.choice(SIGNALS), seconds=rng.uniform(0, self.seconds))])
            row = [rng.randint(1, len(self.events)) for _ in range(rng.randint(2, MOST_KILLS))]
            self.attempt([Kill(rng.choice(SIGNALS), event) for event in row])


# The programs


def with_small_cache(words: list[str]) -> int:
    """Evaluation with ten queries in each file of the cache."""
    encoders.CACHED = 10
    return evaluation_router.main(words)


def train(words: list[str]) -> int:
    """Train with a line of the log every four steps."""
    train_router_mdeberta.LOG_STEPS = 4
    return train_router_mdeberta.main(words)


def train_twice(words: list[str]) -> int:
    """Train with another seed, and then again with --overwrite."""
    if not (Path("run/results.json").is_file() or Path("run/.new").is_dir()):
        first = [word for word in words if word != "--overwrite"]
        if status := train([*first, "--seed", "2"]):
            return status
    return train(words)


def cluster(words: list[str]) -> int:
    """Cluster with few steps of t-SNE."""
    clustering.ITERATIONS = 250
    return clustering.main(words)


def with_manifest(words: list[str]) -> int:
    """Download by the manifest in the mirror."""
    download.MANIFEST = Path(words[-1]) / "manifest.json"
    return download.main(words)


BRIEF = {"training_steps": 6, "eval_steps": 3}
TRAININGS = {
    "frozen": {"freeze_encoder": True},
    "last layer": {"train_layers": 1},
    "all layers": {},
    "ties": {"freeze_encoder": True, "ties": "random", "target_pooling": "alike"},
    "accumulation": {"gradient_accumulation": 2, "sample_loss_weight": 0.5},
}


def trainings(fake: FakeData, encoder: Path) -> Iterator[Program]:
    """Training in each of its ways; the state is saved at every step."""
    for number, (name, flags) in enumerate(TRAININGS.items()):
        words = arguments(fake, encoder, Path("run"), resume_minutes=0, **BRIEF, **flags)
        yield Program(f"training, {name}", train, words, every=5 if number else 1)
    words = arguments(fake, encoder, Path("run"), freeze_encoder=True, overwrite=True, **BRIEF)
    yield Program("training, --overwrite", train_twice, words, every=3)


def make_mirror(folder: Path) -> Path:
    """A folder with small released files and their manifest."""
    files = {}
    for name, content in test_download.CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        files[name] = {"set": "routerdc", "git_blob_sha1": test_download.blob_id(content)}
    (folder / "manifest.json").write_text(json.dumps({"repository": "a/b", "commit": "c", "files": files}))
    return folder


def make_logs(place: Path) -> list[str]:
    """Logs of two tasks, and the arguments that convert them."""
    test_convert.write_both(place)
    spec = test_convert.spec_file(place, test_convert.QUIZ, test_convert.SUMS)
    return ["--logs", str(place / "logs"), "--spec", str(spec), "--output", "mine", "--answers", "answers"]


def make_runs(folder: Path) -> Path:
    """Finished runs for the report."""
    for seed in range(3):
        (folder / str(seed)).mkdir(parents=True)
        (folder / str(seed) / "results.json").write_text(json.dumps(test_report.results(seed, 50.0 + seed)))
    return folder


def make_router(place: Path, fake: FakeData, encoder: Path) -> Path:
    """A trained router, for evaluation."""
    place.mkdir()
    words = arguments(fake, encoder, Path("run"), freeze_encoder=True, **TRAINED)
    if start(Program("router", train_router_mdeberta.main, words), place, place / "log"):
        raise AssertionError((place / "log").read_text())
    return place / "run"


def programs(place: Path) -> Iterator[Program]:
    """All programs; what they read is made in a folder."""
    fake, encoder = make_data(place), make_tiny_bert(place / "tiny-bert")
    encoders.load_encoder(str(encoder), max_length=64)  # what loading imports late is there for all copies
    yield from trainings(fake, encoder)
    tiny = {"encoder": encoder, "max_length": 64, "device": "cpu", "precision": "fp32", "cache_dir": "cache"}
    router = make_router(place / "router", fake, encoder)
    words = ["--ckpt", str(router), "--device", "cpu", "--cache_dir", "cache", "--output", "figures.json"]
    yield Program("evaluation, cache", with_small_cache, words)
    words = [*fake.arguments(), *words_of(tiny | {"save_path": "runs", "routers": ["knn", "random"], "seeds": [1, 2]})]
    yield Program("baselines", baselines.main, words)
    flags = {"overwrite": True, "output": "data", "figure": "map.png", "report": "report.json", "perplexity": 12}
    words = ["--data_paths", *map(str, fake.train.values()), *words_of(tiny | flags)]
    yield Program("clustering", cluster, words)
    yield from light_programs(place)


def light_programs(place: Path) -> Iterator[Program]:
    """The programs that need no encoder."""
    yield Program("convert", convert.main, make_logs(place))
    yield Program("report", report.main, [str(make_runs(place / "runs")), "--results", "results"])
    yield Program("download", with_manifest, ["--root", "datasets", "--mirror", str(make_mirror(place / "mirror"))])


def parse(description: str, argv: Sequence[str] | None, count: int, what: str) -> argparse.Namespace:
    """The flags of a runner that tries these programs; what: is counted by --count."""
    parser = command_line(description, count, what, seed=1)
    parser.add_argument("--only", nargs="+", help="programs whose names have one of these in them")
    return parser.parse_args(argv)


def chosen_programs(only: Sequence[str] | None) -> Iterator[tuple[Program, Path]]:
    """The programs whose names have one of these words in them, by default all, each with a folder to work in."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        for program in programs(place):
            if not only or any(word in program.name for word in only):
                yield program, place


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 1 if a file differs or a program fails."""
    args = parse(__doc__, argv, 10, "kills of each program at random times")
    begun, rows = time.monotonic(), []
    for program, place in chosen_programs(args.only):
        attempts = Attempts(program, place)
        attempts.at_events(list(range(1, len(attempts.events) + 1, program.every)))
        attempts.at_random(args.count, random.Random(f"{args.seed} {program.name}"))
        counts = attempts.counts
        bad = counts.differences + counts.errors
        rows.append({"name": program.name, "events": len(attempts.events), **vars(counts), "bad": bad})
        print(rows[-1], *attempts.notes, sep="\n", flush=True)
    return finish(__file__, argv, args, begun, rows)


if __name__ == "__main__":
    sys.exit(main())
