"""Damaged and hostile data files, every loader: a clear error that names the file, or what an independent reader finds.

    PYTHONPATH=. python tests/faults/inputs.py --count 3000 --output inputs.json

Each input begins as a good file with made-up rows. Then values are exchanged, names repeated or taken out, or bytes
changed; one in eight stays good, and must load. The other reader shares no code with the project.
"""

import ast
import contextlib
import functools
import io
import json
import math
import random
import re
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
from pyarrow import parquet
from runner import command_line, finish

from utils.cluster_files import load_files, unique_queries, write_clustered
from utils.data import DataError, load

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".npz")
LONGEST = 10.0  # seconds for an input
WORDS = "which river 唐代 sum é 🙂 loop , \"quoted\" 'x' ; | \n \\ \u2028 [list] 0.5".split(" ")
HOSTILE = (  # values of JSON that no score, cost, id or question should be, or just can be
    *(None, True, False, "", " ", "0.5", "0_1", "nan", "１", [], {}, [0.5], {"a": 0.5}, "x" * 5000),
    *(-0.0, -1, 1.0000001, 1e-320, 1e308, math.nan, math.inf, -math.inf, 0.1, 1, 0),
    *(10**400, -(10**400), 10**4299, 2**63, 2**63 - 1, -(2**63), -(2**63) - 1, 2**53 + 1, 3.0, 1e30),
    *("\ud800", "a\udfffb", "\0", "\ufeff", "\u2028", "None", "-", "[['a']]", "['a', 'b']"),
)
NAMES = (
    "",
    " ",
    "a",
    "A",
    "difficulty",
    "question",
    "cluster_id",
    "a|total_cost",
    "org/a",
    "\ud800",
    "\t",
    "é",
    "scores",
)
KINDS = ("<f8", ">f4", "<f2", "<g", "<i4", "|u1", "<u8", "|b1", "<c16", "<U4", "|S3", "<M8[s]", "|V4", "|O")


class Hung(BaseException):
    """An input took longer than LONGEST."""


# Good files


def made_rows(rng: random.Random, priced: bool, clusters: bool) -> list[dict]:
    """A few good rows. Their numbers are such that text and back changes nothing."""
    llms = rng.sample(("a", "org/b", "b", "模型", "c d", "lab/e-7b"), rng.randint(2, 4))
    rows = []
    for number in range(rng.randint(1, 5)):
        words = rng.choices(WORDS, k=rng.randint(1, 8))
        row: dict[str, Any] = {"question": f"{number} {' '.join(words)}?"}
        row["scores"] = {llm: rng.choice((0, 1, 0.5, round(rng.random(), 6))) for llm in llms}
        if priced:
            row["costs"] = {llm: round(rng.random() * 10, 9) for llm in llms}
        if clusters:
            row["cluster_id"] = rng.choice((0, 1, -3, 7, 2**53 + 1))
        rows.append(row)
    return rows


def flat(row: Any) -> dict[str, Any]:
    """A row as the cells of a table."""
    cells = {"question": row.get("question")}
    for llm, score in row["scores"].items():
        cells[llm] = score
    for llm, cost in (row.get("costs") or {}).items():
        cells[f"{llm}|total_cost"] = cost
    return cells | ({"cluster_id": row["cluster_id"]} if "cluster_id" in row else {})


def as_json(rows: list[Any], rng: random.Random) -> bytes:
    text = json.dumps(rows, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))
    return text.encode("utf-8", "surrogatepass")


def as_json_lines(rows: list[Any], rng: random.Random) -> bytes:
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    return rng.choice(("\n", "\r\n", "\n\n")).join(lines).encode("utf-8", "surrogatepass")


def as_csv(rows: list[Any], rng: random.Random) -> bytes:
    """Every cell quoted where it must be, in the first row's order of columns."""
    table = [flat(row) for row in rows]
    columns = list(table[0])
    lines = [columns] + [[cells.get(name, "") for name in columns] for cells in table]
    text = ""
    for line in lines:
        cells = ["" if cell is None else str(cell) for cell in line]
        text += ",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in cells) + rng.choice(("\n", "\r\n"))
    return text.encode("utf-8", "surrogatepass")


def as_parquet(rows: list[Any], rng: random.Random) -> bytes:
    table = [flat(row) for row in rows]
    columns = {name: [cells.get(name) for cells in table] for name in table[0]}
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, compression=rng.choice(("none", "snappy", "gzip")))
    return file.getvalue()


def as_npz(rows: list[Any], rng: random.Random) -> bytes:
    """Scores as they are; a row's embedding comes from its place."""
    arrays = {
        "scores": np.array([list(row["scores"].values()) for row in rows]),
        "embeddings": np.arange(3 * len(rows), dtype=rng.choice(("f2", "f4", "f8"))).reshape(-1, 3),
        "llms": np.array(list(rows[0]["scores"])),
    }
    if "costs" in rows[0]:
        arrays["costs"] = np.array([list(row["costs"].values()) for row in rows])
    if "cluster_id" in rows[0]:
        arrays["cluster_id"] = np.array([row["cluster_id"] for row in rows])
    if rng.random() < 0.5:
        change_arrays(arrays, rng)
    return zipped({name: member(array) for name, array in arrays.items()}, rng)


WRITERS: dict[str, Callable[[list[Any], random.Random], bytes]] = {
    ".json": as_json,
    ".jsonl": as_json_lines,
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".npz": as_npz,
}


def member(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def zipped(members: dict[str, bytes], rng: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


# Damage


def change_values(rows: list[dict], rng: random.Random) -> None:
    """Exchange a value, take one out, or give an LLM another name."""
    row = rng.choice(rows)
    place, key = rng.choice([(row, key) for key in row] + [(row["scores"], llm) for llm in row["scores"]])
    way = rng.choice(("value", "value", "value", "gone", "name"))
    if way == "value":
        place[key] = rng.choice(HOSTILE)
    elif way == "gone":
        del place[key]
    else:
        place[rng.choice(NAMES)] = place.pop(key)


def change_arrays(arrays: dict[str, np.ndarray], rng: random.Random) -> None:
    """Another type, shape, value or name of an array."""
    name = rng.choice(list(arrays))
    way = rng.choice(("kind", "shape", "value", "name", "gone"))
    with warnings.catch_warnings(), contextlib.suppress(ValueError, TypeError, OverflowError):
        warnings.simplefilter("ignore")
        if way == "kind":
            arrays[name] = arrays[name].astype(rng.choice(KINDS))
        elif way == "shape":
            shapes = (lambda a: a[:-1], lambda a: a[None], lambda a: a.ravel(), lambda a: a.T, lambda a: a[0])
            arrays[name] = rng.choice(shapes)(arrays[name])
        elif way == "value":
            arrays[name].flat[0] = rng.choice((*HOSTILE, *NAMES))
        elif way == "name":
            arrays[rng.choice((*NAMES, "scores", "file"))] = arrays.pop(name)
        else:
            del arrays[name]


def change_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, doubled or put in; another encoding; names of JSON made equal."""
    start = rng.randrange(len(raw))
    end = min(len(raw), start + rng.choice((1, 1, 2, 8, 40)))
    piece = rng.choice(
        (b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"[", b"{}", b",", b"\n", b"\r", b"1" * 5000, b"[" * 9000)
    )
    ways = (
        lambda: raw[:start] + bytes([rng.randrange(256)]) + raw[start + 1 :],
        lambda: raw[:start] + raw[end:],
        lambda: raw[:end] + raw[start:],
        lambda: raw[:start] + piece + raw[start:],
        lambda: raw[:start],
        lambda: raw + raw,
        lambda: b"\xef\xbb\xbf" + raw,
        lambda: raw.decode("utf-8", "replace").encode(
            rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1")), "replace"
        ),
        lambda: raw.replace(b"org/b", b"b"),
        lambda: raw.replace(b",", b";"),
        lambda: rng.randbytes(rng.choice((0, 1, 60))),
    )
    return rng.choice(ways)()


def make_input(suffix: str, rng: random.Random) -> tuple[bytes, bool]:
    """The content of a file, and whether it is good."""
    rows = made_rows(rng, priced=rng.random() < 0.4, clusters=rng.random() < 0.5)
    if rng.random() < 0.125 and suffix != ".npz":  # the arrays of .npz are changed where they are written
        return WRITERS[suffix](rows, rng), True
    while True:
        damaged = json.loads(json.dumps(rows))
        try:
            for _ in range(rng.choice((0, 1, 1, 2))):
                change_values(damaged, rng)
            raw = WRITERS[suffix](damaged, rng)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError, pyarrow.ArrowException):
            continue  # not even this format's writer takes it
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            raw = change_bytes(raw, rng) if raw else raw
        return raw, False


# The other reader: rows as (question or embedding, {llm: score}, {llm: cost} or None, cluster id or None)

Row = tuple[Any, dict[str, Any], dict[str, Any] | None, Any]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def rows_of_json(rows: list[dict]) -> list[Row]:
    return [(row["question"], row.get("scores"), row.get("costs"), row.get("cluster_id")) for row in rows]


def read_json(raw: bytes) -> list[Row]:
    return rows_of_json(json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique))


def read_json_lines(raw: bytes) -> list[Row]:
    lines = re.split("\r\n|\r|\n", raw.decode("utf-8-sig"))
    return rows_of_json([json.loads(line, object_pairs_hook=unique) for line in lines if line.strip()])


def number(cell: Any) -> Any:
    """None for an empty cell or NaN, the number of a text that is one."""
    if isinstance(cell, str):
        text = cell.strip()
        if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
            return float(text)
        return None if text.lower() in ("", "nan", "+nan", "-nan") else cell
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def integer(cell: Any) -> Any:
    """The integer of a cell: 7, "7" and 7.0 are one."""
    if isinstance(cell, str) and re.fullmatch(r"[+-]?[0-9]{1,4000}", cell.strip()):
        return int(cell)
    value = number(cell)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def rows_of_table(table: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for cells in table:
        names = [
            name for name in cells if name not in ("question", "cluster_id", "") and not name.endswith("|total_cost")
        ]
        costs = {name: cells[f"{name}|total_cost"] for name in names if f"{name}|total_cost" in cells}
        scores = {name: number(cells[name]) for name in names}
        costs = {name: number(cost) for name, cost in costs.items()} or None
        rows.append((cells["question"], scores, costs, integer(cells.get("cluster_id"))))
    return rows


def read_csv(raw: bytes) -> list[Row]:
    raw.decode()
    table = pandas.read_csv(io.BytesIO(raw), header=None, dtype=str, na_filter=False, encoding="utf-8-sig")
    names, *lines = table.to_numpy().tolist()
    return rows_of_table([unique(list(zip(names, line))) for line in lines])


def read_parquet(raw: bytes) -> list[Row]:
    table = pandas.read_parquet(io.BytesIO(raw), dtype_backend="numpy_nullable").astype(object)
    table = table.where(table.notna(), None)
    return rows_of_table(table.to_dict("records"))


def read_array(raw: bytes) -> np.ndarray:
    """The array of a .npy file, by the description of the format."""
    size = int.from_bytes(raw[8:10], "little") if raw[6] == 1 else int.from_bytes(raw[8:12], "little")
    start = 10 if raw[6] == 1 else 12
    header = ast.literal_eval(raw[start : start + size].decode("latin-1"))
    values = np.frombuffer(raw[start + size :], dtype=np.dtype(header["descr"]))
    return values.reshape(header["shape"], order="F" if header["fortran_order"] else "C")


def read_npz(raw: bytes) -> list[Row]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        arrays = unique([(name.removesuffix(".npy"), archive.read(name)) for name in archive.namelist()])
    wanted = ("scores", "embeddings", "llms", "costs", "cluster_id")
    arrays = {name: read_array(content) for name, content in arrays.items() if name in wanted}
    llms = arrays["llms"].tolist()
    rows = []
    for place, scores in enumerate(arrays["scores"].astype(float).tolist()):
        costs = arrays["costs"][place].astype(float).tolist() if "costs" in arrays else None
        cluster = integer(arrays["cluster_id"][place].item()) if "cluster_id" in arrays else None
        costs = None if costs is None else unique(list(zip(llms, map(number, costs))))
        scores = unique(list(zip(llms, map(number, scores))))
        rows.append((arrays["embeddings"][place].astype("f4").tolist(), scores, costs, cluster))
    return rows


READERS = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".npz": read_npz,
}


# What a loader makes of an input


def is_value(value: Any, most: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= most


def is_id(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def as_loaded(rows: list[Row], drops: bool) -> tuple[list, list, list | None, list | None]:
    """Questions, scores, costs and cluster ids of the rows as the project should have them.

    Raises: ValueError for rows that it should have refused.
    """
    llms = list(rows[0][1])
    if not all(name.strip() for name in llms) or any(set(scores) != set(llms) for _, scores, _, _ in rows):
        raise ValueError("other LLMs")
    priced = any(costs is not None for _, _, costs, _ in rows)
    kept = []
    for question, scores, costs, cluster in rows:
        values = [scores[llm] for llm in llms]
        prices = [(costs or {}).get(llm) for llm in llms] if priced else []
        has_gap = None in values or None in prices
        right = all(is_value(value, 1) or value is None for value in values)
        right = right and all(is_value(price, sys.float_info.max) or price is None for price in prices)
        if not right or (has_gap and not drops) or not (isinstance(question, list) or question.strip()):
            raise ValueError("a wrong value")
        if not has_gap:
            kept.append((question, [float(np.float32(value)) for value in values], prices, cluster))
    has_ids = all(is_id(cluster) for *_, cluster in rows)
    questions, scores, costs, clusters = (list(column) for column in zip(*kept))
    return (
        questions,
        scores,
        [list(map(float, line)) for line in costs] if priced else None,
        clusters if has_ids else None,
    )


def is_read_as(data: Any, raw: bytes, suffix: str, drops: bool) -> bool:
    """Whether loaded data are what the other reader finds. Raises: what that raises for a file that it cannot read."""
    rows = READERS[suffix](raw)
    questions, scores, costs, clusters = as_loaded(rows, drops)
    ours = data.questions if data.embeddings is None else data.embeddings.tolist()
    same = ours == questions and list(data.llms) == list(rows[0][1]) and data.scores.tolist() == scores
    same = same and (None if data.costs is None else data.costs.tolist()) == costs
    return same and (None if data.clusters is None else data.clusters.tolist()) == clusters


def try_load(path: Path, raw: bytes, rng: random.Random) -> str:
    """Load a file: "loaded", or "different" from what the other reader finds. Raises: as the project does."""
    drops = rng.random() < 0.3
    data = load(path, "multi_attempt", missing="drop" if drops else "error")
    return "loaded" if is_read_as(data, raw, path.suffix, drops) else "different"


def try_write(path: Path, raw: bytes, rng: random.Random) -> str:
    """Give a file cluster ids as `python -m utils.clustering` does: the other reader must find these and all else."""
    files = load_files([str(path)])
    texts, places = unique_queries(files)
    ids = np.array([rng.randrange(5) for _ in texts])
    written = write_clustered(files, places, ids, path.parent / "new", overwrite=True)[0]
    before, after = READERS[path.suffix](raw), READERS[path.suffix](written.read_bytes())
    expected = [(*row[:3], number) for row, number in zip(before, ids[places[0]].tolist())]
    return "loaded" if repr(after) == repr(expected) else "different"


def outcome(attempt: Callable[[], str], path: Path) -> str:
    """What came of it: loaded, refused, raw (an error that is not ours or names no file), different, or hung."""

    def stop(*_: Any) -> None:
        raise Hung

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attempt()
    except DataError as error:
        return "refused" if str(path) in str(error) else f"raw: {error}"
    except Hung:
        return "hung"
    except Exception as error:
        return f"raw: {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(
    suffix: str, attempt: Callable, count: int, seed: int, folder: Path, keep: Path | None = None
) -> dict[str, Any]:
    """Try so many inputs of a format; keep those that went wrong in a folder."""
    counts: Counter[str] = Counter()
    for place in range(count):
        rng = random.Random(f"{seed} {suffix} {place}")
        raw, is_good = make_input(suffix, rng)
        path = folder / f"poems_train{suffix}"
        path.write_bytes(raw)
        found = outcome(functools.partial(attempt, path, raw, rng), path)
        if is_good and found == "refused":
            found = "different"
        counts[found.split(":")[0]] += 1
        if keep and found not in ("loaded", "refused"):
            (keep / f"{place}{suffix}").write_bytes(raw)
            print(f"{place}{suffix} {attempt.__name__}: {found:.300}", file=sys.stderr)
    wrong = {name: counts[name] for name in ("raw", "different", "hung")}
    return {
        "tried": count,
        "loaded": counts["loaded"],
        "refused": counts["refused"],
        **wrong,
        "bad": sum(wrong.values()),
    }


def run_all(count: int, seed: int, keep: Path | None = None) -> list[dict[str, Any]]:
    """A row for every format, and for every format that is read and written again."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, attempt in (("data", try_load), ("clustering writes", try_write)):
            for suffix in SUFFIXES:
                rows.append({"name": f"{name} {suffix}", **run(suffix, attempt, count, seed, Path(folder), keep)})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 1 if anything was bad."""
    parser = command_line(__doc__, 3000, "inputs for each loader", seed=1)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that went wrong")
    args = parser.parse_args(argv)
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    return finish(__file__, argv, args, begun, run_all(args.count, args.seed, args.keep))


if __name__ == "__main__":
    sys.exit(main())
