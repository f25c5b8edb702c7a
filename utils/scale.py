"""How time and memory grow with a data file: read, cluster, train and evaluate files of up to a million rows.

    python -m utils.scale --output results/scale.json        writes results/scale.md beside it

Makes the files in a temporary folder (up to 6 GB of disk), and runs every step in a process of its own. The rows are
drawn with a fixed seed: right or wrong for each LLM, a question of some words, and an embedding from one of twenty
topics. Nothing here says how good a router is.
"""

import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .clustering import MANY, SAMPLE
from .config import parse_arguments
from .files import write_json, write_text
from .formats import LARGE, is_large
from .meters import bar
from .tables import markdown

PROGRAM = "python -m utils.scale"
REPO = Path(__file__).resolve().parent.parent
SIZES = ((10**4, 20), (10**5, 20), (10**6, 20), (10**5, 1000))  # rows, LLMs
DIMENSIONS = 384  # of an embedding, as MiniLM's
TOPICS = 20
TRAINING_STEPS = 200
BLOCK = 8192  # rows that are made at once
SECONDS = 0.02  # between two looks at a process
WORDS = "which river sum array poem number law cell market star verb river proof engine treaty gene".split()
MANY_LLMS = 1000  # whose scores are too many for a JSON array or a CSV file
FORMATS = (".json", ".jsonl", ".csv", ".parquet", ".npz")


@dataclass(frozen=True)
class Arguments:
    """Measure time and memory of files of up to a million rows."""

    output: Path
    """JSON file to write; the page comes beside it, with the ending .md"""
    folder: Path | None = None
    """where the temporary folder is made; default: the system's"""
    largest: int = 10**6
    """leave out files with more rows"""
    memory: int = 0
    """stop a step that holds more megabytes of its own; 0: four fifths of what is free when it begins"""


# The files


@dataclass(frozen=True)
class Block:
    """Some rows: the number of the first, scores (n, T) of 0 and 1, and embeddings (n, p) float32."""

    start: int
    scores: np.ndarray
    embeddings: np.ndarray

    def questions(self) -> list[str]:
        """A sentence of 20 words for each row."""
        texts = []
        for number in range(self.start, self.start + len(self.scores)):
            words = [WORDS[(number // (place + 1)) % len(WORDS)] for place in range(20)]
            texts.append(f"{number}: {' '.join(words)}?")
        return texts


def blocks(rows: int, llms: int, vectors: bool) -> Iterator[Block]:
    """The rows of a file, some at a time; the same for every format. vectors: with embeddings."""
    centres = np.random.default_rng(1).normal(size=(TOPICS, DIMENSIONS))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        rng = np.random.default_rng((2, start))
        topics = rng.integers(0, TOPICS, count)
        chances = 0.3 + 0.4 * ((topics[:, None] + np.arange(llms)) % TOPICS == 0)
        scores = (rng.random((count, llms)) < chances).astype(np.uint8)
        embeddings = np.empty((0, DIMENSIONS), dtype=np.float32)
        if vectors:
            noise = np.random.default_rng((3, start)).normal(size=(count, DIMENSIONS))
            embeddings = (centres[topics] + noise).astype(np.float32)
        yield Block(start, scores, embeddings)


def names_of(llms: int) -> list[str]:
    """What the LLMs are called."""
    return [f"llm-{number}" for number in range(llms)]


def write_file(path: Path, rows: int, llms: int) -> None:
    """A training file, in the format of its suffix."""
    if path.suffix == ".npz":
        write_arrays(path, rows, llms)
    elif path.suffix == ".parquet":
        write_parquet(path, rows, llms)
    else:
        write_rows(path, rows, llms)


def write_rows(path: Path, rows: int, llms: int) -> None:
    """A text file: a JSON array, JSON lines or CSV."""
    names = names_of(llms)
    cells = [(f'"{name}": 0', f'"{name}": 1') for name in names]
    begin, between, end = ("[\n", ",\n", "\n]\n") if path.suffix == ".json" else ("", "\n", "\n")
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(["question", *names]) + "\n" if path.suffix == ".csv" else begin)
        for block in blocks(rows, llms, vectors=False):
            lines = []
            for question, scores in zip(block.questions(), block.scores.tolist()):
                if path.suffix == ".csv":
                    lines.append(f"{question},{','.join(map(str, scores))}")
                    continue
                pairs = ", ".join([cell[score] for cell, score in zip(cells, scores)])
                lines.append(f'{{"question": "{question}", "scores": {{{pairs}}}}}')
            is_last = block.start + len(lines) == rows
            file.write(between.join(lines) + (end if is_last else between))


def write_parquet(path: Path, rows: int, llms: int) -> None:
    """A parquet file with a column of float64 for each LLM."""
    import pyarrow
    from pyarrow import parquet

    names = names_of(llms)
    fields = [("question", pyarrow.string()), *((name, pyarrow.float64()) for name in names)]
    with parquet.ParquetWriter(path, pyarrow.schema(fields)) as writer:
        for block in blocks(rows, llms, vectors=False):
            columns = {"question": block.questions()}
            for name, values in zip(names, block.scores.T):
                columns[name] = values.astype(np.float64)
            writer.write_table(pyarrow.table(columns))


def write_arrays(path: Path, rows: int, llms: int) -> None:
    """A .npz file of scores (float32) and embeddings, as np.savez writes it."""
    shapes = {"scores": (rows, llms), "embeddings": (rows, DIMENSIONS)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as members:
        with members.open("llms.npy", "w") as member:
            np.lib.format.write_array(member, np.array(names_of(llms)))
        for name, shape in shapes.items():
            with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(member, header)
                for block in blocks(rows, llms, vectors=name == "embeddings"):
                    member.write(getattr(block, name).astype("<f4").tobytes())


# The steps, each a command of its own

LOAD = """
import sys
from .config import DataConfig
from .training_set import load_training_files
load_training_files(DataConfig(data_paths=(sys.argv[1],), data_type=("probability",)), cache=sys.argv[2])
"""


def load(path: Path, cache: Path) -> list[str]:
    """Read a training file as training does."""
    return ["-c", LOAD, str(path), str(cache)]


def cluster(path: Path, output: Path, cache: Path, space: str) -> list[str]:
    """Cluster a training file of embeddings, or, as the paper does, their map ("tsne")."""
    flags = ["--encoder", "given", "--space", space, "--threads", "1", "--cache_dir", str(cache), "--overwrite"]
    return ["-m", "utils.clustering", "--data_paths", str(path), "--output", str(output), *flags]


def train(path: Path, output: Path, cache: Path) -> list[str]:
    """Train on given embeddings, all rows in an epoch."""
    data = ["--data_paths", str(path), "--data_type", "probability", "--training_samples_per_dataset", "0"]
    steps = ["--training_steps", str(TRAINING_STEPS), "--eval_steps", str(TRAINING_STEPS // 2)]
    losses = ["--cluster_loss_weight", "0", "--sample_loss_weight", "1"]
    encoder = ["--encoder", "given", "--freeze_encoder", "--threads", "1", "--cache_dir", str(cache)]
    flags = [*steps, *losses, *encoder, "--no_final_eval", "--save_path", str(output)]
    return ["train_router_mdeberta.py", *data, *flags]


def evaluate(path: Path, checkpoint: Path, cache: Path) -> list[str]:
    """Route every row of a file of embeddings, and print the tables."""
    data = ["--test_data_paths", str(path), "--test_data_type", "probability"]
    return ["evaluation_router.py", "--ckpt", str(checkpoint), *data, "--threads", "1", "--cache_dir", str(cache)]


def formats_of(llms: int) -> Sequence[str]:
    """The formats that are measured; of many LLMs those that one would choose."""
    return FORMATS if llms < MANY_LLMS else FORMATS[1::2] + FORMATS[4:]


def steps_of(folder: Path, rows: int, llms: int) -> list[tuple[str, list[str]]]:
    """The steps for the files in a folder: what a row of the table says, and the words behind python."""
    cache, run = folder / "cache", folder / "run"
    steps = []
    for suffix in formats_of(llms):
        path = folder / f"many_train{suffix}"
        steps.append((f"load {suffix}", load(path, cache)))
        with path.open("rb") as file:
            is_kept = is_large(path, file)
        if is_kept:
            steps.append((f"load {suffix} again", load(path, cache)))
    path = folder / "many_train.npz"
    steps.append(("cluster", cluster(path, folder / "clustered", cache, "embedding")))
    if rows > MANY and llms < MANY_LLMS:  # clusters do not depend on LLMs
        steps.append(("cluster, map", cluster(path, folder / "clustered", cache, "tsne")))
    steps.append((f"train, {TRAINING_STEPS} steps", train(path, run, cache)))
    steps.append(("evaluate", evaluate(folder / "many_test.npz", run, cache)))
    return steps


# Measure


def status_of(pid: int) -> dict[str, int]:
    """What Linux says of a process's memory, in kB by name; {} once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.split() for line in lines if line.endswith(" kB")]
    return {pair[0].rstrip(":"): int(pair[1]) for pair in pairs}


def free_megabytes() -> int:
    """Memory of this machine that programs can have now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable"))


def measure(words: Sequence[str], most: int) -> dict[str, Any]:
    """Run a step: {"seconds", "cpu": seconds, "peak": MB in memory at most, "own": MB at most without pages of files}.

    words: what stands behind python. most: megabytes of its own at which it is stopped; it then has no seconds.
    Raises: RuntimeError with the end of what it said, if it failed.
    """
    own, peak, is_stopped, begun, ended = 0, 0, False, time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as said:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *words], cwd=REPO, stdout=said, stderr=subprocess.STDOUT, env=environment
        )
        while not ended:
            memory = status_of(process.pid)
            own = max(own, memory.get("RssAnon", 0) // 1024)
            peak = max(peak, memory.get("VmHWM", 0) // 1024)
            if own > most and not is_stopped:
                process.kill()
                is_stopped = True
            time.sleep(SECONDS)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begun
        said.seek(0)
        last = said.read().splitlines()[-15:]
    measured = {"seconds": None, "cpu": None, "peak": peak, "own": own}
    if is_stopped:
        return measured | {"stopped_at": most}
    if status:
        raise RuntimeError(f"{' '.join(words)} failed:\n" + "\n".join(last))
    return measured | {"seconds": round(seconds, 2), "cpu": round(usage.ru_utime + usage.ru_stime, 2)}


def measure_size(rows: int, llms: int, folder: Path, args: Arguments) -> Iterator[dict[str, Any]]:
    """Make the files of one size, and run all steps on them."""
    for suffix in formats_of(llms):
        write_file(folder / f"many_train{suffix}", rows, llms)
    os.link(folder / "many_train.npz", folder / "many_test.npz")
    for title, words in steps_of(folder, rows, llms):
        row = {"step": title, "rows": rows, "llms": llms}
        if title.startswith("load"):
            row["megabytes"] = round((folder / f"many_train{title.split()[1]}").stat().st_size / 1e6, 1)
        yield row | measure(words, args.memory or free_megabytes() * 4 // 5)


def commit() -> str:
    """The commit of this checkout, and whether files differ from it; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude", "*"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
    return run.stdout.strip() or "unknown"


def page(result: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    header = ["step", "rows", "LLMs", "file, MB", "CPU seconds", "seconds", "peak, MB", "own, MB"]
    rows = []
    for row in result["rows"]:
        if row["seconds"] is None:
            seconds, cpu = f"stopped at {row['stopped_at']} MB", "-"
        else:
            seconds, cpu = f"{row['seconds']:.1f}", f"{row['cpu']:.1f}"
        size = f"{row['megabytes']:.0f}" if "megabytes" in row else "-"
        cells = [f"{row['rows']:,}", str(row["llms"]), size, cpu, seconds, str(row["peak"]), str(row["own"])]
        rows.append([row["step"], *cells])
    return f"""# Time and memory by the size of a data file

{markdown(header, rows)}

`{result["command"]}`, {result["seconds"] / 60:.0f} minutes, {result["date"]}, commit {result["commit"]},
{result["device"]}, one thread a process.

- Every row is a process of its own, from its start to its end. Peak is the most that it had in memory (VmHWM of
  Linux), pages of files included, which the system takes back when others need them. Own is the most without these.
- Other programs ran beside it: CPU seconds, of the program and of the system for it, hardly depend on them.
- `imports` is what Python and the libraries take before any data; a load imports less.
- A file of {LARGE / 1e6:.0f} MB or more (of parquet: of numbers) is read twice: the second time its columns are in the
  cache. So are those of the .npz file before training and evaluation.
- `cluster, map` maps {SAMPLE:,} queries with t-SNE; up to {MANY:,} are all mapped, which takes minutes for 10,000 and
  is not in this table. `cluster` groups the embeddings themselves, more than {MANY:,} in mini-batches.
"""


def run(args: Arguments, command: str) -> None:
    """Measure all sizes, and write what was measured after each."""
    begun = time.monotonic()
    sizes = [(rows, llms) for rows, llms in SIZES if rows <= args.largest]
    about = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": f"cpu ({platform.machine()}, {os.cpu_count()} cores)",
    }
    imports = measure(["-c", "import evaluation_router"], free_megabytes())
    measured = [{"step": "imports", "rows": 0, "llms": 0} | imports]
    with bar(len(sizes), "scale", "size") as progress:
        for rows, llms in sizes:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                measured += measure_size(rows, llms, Path(folder), args)
            progress.update()
            result = about | {"seconds": round(time.monotonic() - begun, 1), "rows": measured}
            write_json(args.output, result)
            write_text(args.output.with_suffix(".md"), page(result))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    words = sys.argv[1:] if argv is None else argv
    try:
        args = parse_arguments(Arguments, words, PROGRAM, __doc__)
        run(args, f"{PROGRAM} {' '.join(words)}")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(args.output.with_suffix(".md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
