"""Hostile logs of lm-evaluation-harness and hostile files of routing data, for every program that reads them.

    PYTHONPATH=. python tests/faults/logs.py --count 3000 --output logs.json

Each trial writes good files, damages one to three places in them, and runs the program. What it must do is refuse them
with an error that names a file, and leave nothing behind, or load what a reader of a few lines, written from the
format's description alone, finds in the same files. At the end pairs of programs write one folder at the same time.
"""

import ast
import contextlib
import csv
import gzip
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from runner import command_line, finish

from utils.importers import __main__ as importers
from utils.scoring import convert
from utils.scoring.bigcode import read_generations

LLMS = ("org/a", "lab/b")
TIME = "2026-11-22T10-07-10.453226"
SECONDS = 20  # after which a trial counts as one that hangs
OUTCOMES = ("right", "refused", "unnamed", "left behind", "raw", "silent", "hang")
BAD = OUTCOMES[2:]

# Damage


RAW_TEXTS = ["1e999", "NaN", "-Infinity", "9" * 5000, "[" * 990 + "]" * 990, "[" * 10**5 + "]" * 10**5]
RAW_TEXTS += ['{"a":1,"a":2}', "]"]
RAW = {f"@raw{number}@": text for number, text in enumerate(RAW_TEXTS)}  # what no JSON writer writes, and its stand-in
VALUES = [None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 10**30, 10**400, "", " ", "0", "1", "x", "-1", "\ud800"]
VALUES += ["\x00", "a" * 300, "a/../b", "..", "|", "0.5", "1_0", [], {}, [[]], [None], ["x"], {"a": 1}]
VALUES += [[[["-1", "False"]]]]
VALUES += list(RAW)


def write_json(value: Any) -> str:
    """JSON, with what stands for raw text replaced."""
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value, as (container, key)."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in places(value[key])]


def damage_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with another value at one place, without it, with it twice, or under another name."""
    if not (found := places(value)):
        return rng.choice(VALUES)
    container, key = rng.choice(found)
    how = rng.choice(["value", "value", "value", "drop", "twice", "swap", "text"])
    other = rng.choice(list(container)) if isinstance(container, dict) else rng.randrange(len(container))
    if how == "value":
        container[key] = rng.choice(VALUES)
    elif how == "drop":
        del container[key]
    elif how == "twice" and isinstance(container, list):
        container.insert(other, container[key])
    elif how == "twice":
        container[f"{key}2"] = container.pop(key)
    elif how == "swap":
        container[key], container[other] = container[other], container[key]
    else:
        container[key] = str(container[key])
    return value


def damage_lines(rng: random.Random, lines: list[str]) -> list[str]:
    """JSON lines, one of them damaged, dropped, there twice or at another place."""
    number, how = rng.randrange(len(lines)), rng.choice(["value", "value", "value", "drop", "twice", "swap"])
    if how == "value":
        lines[number] = write_json(damage_value(rng, json.loads(lines[number])))
    elif how == "drop":
        del lines[number]
    elif how == "twice":
        lines.insert(rng.randrange(len(lines)), lines[number])
    else:
        rng.shuffle(lines)
    return lines


def damage_cells(rng: random.Random, text: str) -> str:
    """A CSV file, one cell of it damaged, dropped or added, one line or one column there twice."""
    lines = list(csv.reader(io.StringIO(text, newline="")))
    line = rng.choice(lines)
    place = rng.randrange(len(line))
    cells = ["", " ", "0", "1", "2", "-1", "1.0", "nan", "inf", "1e999", "x", '"', "a,b", "a\nb", "\x00"]
    cells += ["a" * 300, "9" * 5000]
    how = rng.choice(["value", "value", "drop", "add", "line", "column", "swap"])
    if how == "value":
        line[place] = rng.choice(cells)
    elif how == "drop":
        del line[place]
    elif how == "add":
        line.insert(place, rng.choice(cells))
    elif how == "line":
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    elif how == "column":
        lines = [[*cells, cells[place] if place < len(cells) else ""] for cells in lines]
    else:
        lines[0][place % len(lines[0])] = rng.choice(lines[0])
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=rng.choice(",,,,,;")).writerows(lines)
    return written.getvalue()


def damage_bytes(rng: random.Random, raw: bytes) -> bytes:
    """A file with some bytes changed, cut, added, there twice, or in another encoding."""
    start = rng.randrange(len(raw) + 1)
    end = min(len(raw), start + rng.choice([1, 1, 2, 5, 50]))
    text = raw.decode("utf-8", "replace")
    return rng.choice(
        [
            raw[:start],
            raw[:start] + rng.randbytes(end - start) + raw[end:],
            raw[:start] + bytes([rng.choice(b'0123456789,:"[]{}-. \n')]) + raw[start + 1 :],
            raw[:start] + raw[end:],
            raw[:start] + raw[start:end] * 2 + raw[end:],
            raw + rng.choice([b"\n", b"\n\n", b"x", b"{}", b"\x00", b"]"]),
            b"\xef\xbb\xbf" + raw,
            text.encode("utf-16"),
            raw.replace(b"\n", b"\r\n"),
            rng.choice([b"", b" ", b"[]", b"{}", b"null", b"\n", b"0"]),
        ]
    )


def damage_arrays(rng: random.Random, path: Path) -> None:
    """An .npz file with one array of another type, shape, value or name, or without it."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    name = rng.choice(list(arrays))
    value = arrays[name]
    changed = value.copy()
    changed.flat[0] = rng.choice([math.nan, math.inf, -1.0, 2.0, 1e300, -0.0, 0.25])
    kinds = ["U", "S", "complex", "float32", "float16", "bool", "int64", "uint64", "datetime64[s]", "object", ">f8"]
    others = [changed, value.T, value[:, :0], value[:0], value[:-1], value[0], value[None], np.array(3), value[:, :1]]
    others += [value.astype(kind) for kind in kinds]
    how = rng.randrange(6)
    if how < 4:
        arrays[name] = rng.choice(others)
    elif how == 4:
        del arrays[name]
    else:
        arrays[name.replace("_", "-")] = arrays.pop(name)
    np.savez(path, **arrays)


def damage_frame(rng: random.Random, path: Path) -> None:
    """A .parquet file with one cell or column of another type, a row twice, or a column less."""
    frame = pandas.read_parquet(path)
    column, row = rng.choice(list(frame.columns)), rng.randrange(len(frame))
    how = rng.choice(["cell", "cell", "type", "drop", "name", "row"])
    if how == "cell":
        cells = [None, "", " ", "x", 0, 1, -1, 2.5, math.nan, math.inf, True, "0.5", b"x", [1], 10**18]
        values = frame[column].tolist()
        values[row] = rng.choice(cells)
        frame[column] = pandas.Series(values, dtype=object)
    elif how == "type":
        frame[column] = frame[column].astype(rng.choice(["str", "category"]))
    elif how == "drop":
        frame = frame.drop(columns=column)
    elif how == "name":
        frame = frame.rename(columns={column: rng.choice(["", "x", "cluster_id", "y|total_cost", "question"])})
    else:
        frame = pandas.concat([frame, frame.iloc[[row]]], ignore_index=True)
    with contextlib.suppress(Exception):  # parquet has no type for some mixtures: then the file stays as it is
        frame.to_parquet(path)


def damage(rng: random.Random, path: Path) -> None:
    """Damage one file, as its format has it or in its bytes."""
    raw = path.read_bytes()
    is_zipped = path.suffix == ".gz"
    if rng.random() < 0.3:
        path.write_bytes(damage_bytes(rng, raw))
        return
    if rng.random() < 0.02:
        path.unlink()
        return
    with contextlib.suppress(Exception):  # of what an earlier damage left, which then stays as it is
        if path.suffix == ".npz":
            damage_arrays(rng, path)
        elif path.suffix == ".parquet":
            damage_frame(rng, path)
        elif path.suffix == ".csv":
            path.write_text(damage_cells(rng, raw.decode()), newline="")
        elif path.suffix == ".jsonl" and not raw.startswith(b"["):
            path.write_text("".join(line + "\n" for line in damage_lines(rng, raw.decode().splitlines())))
        elif is_zipped and rng.random() < 0.1:
            path.write_bytes(gzip.compress(damage_bytes(rng, gzip.decompress(raw))))
        elif is_zipped:
            path.write_bytes(gzip.compress(write_json(damage_value(rng, json.loads(gzip.decompress(raw)))).encode()))
        else:
            path.write_text(write_json(damage_value(rng, json.loads(raw))))


# Logs of the harness: good ones, and a reader of its own


def entry(rule: str, number: int, llm: str) -> dict[str, Any]:
    """One document of a log of 2024, with numbers as numbers."""
    right = (number + LLMS.index(llm)) % 2
    doc = {"question": f"What is {number}?", "answer": str(number)}
    line = {"doc_id": number, "doc": doc, "target": str(number), "arguments": [["context", {"temperature": 0.2}]]}
    if rule == "choice":
        resps = [[[-1.5 + right, False]], [[-1.0, True]], [[-3.25, False]]]
        requests = [["context", f" {option}"] for option in "xyz"]
        return line | {"target": number % 3, "arguments": requests, "resps": resps, "acc": 1.0}
    if rule == "number":
        answers = [f"so #### {number}", f"then #### {number + right}", "no idea"]
        return line | {"target": f"because #### {number}", "resps": [answers], "exact_match": 1.0}
    if rule == "metric":
        return line | {"resps": [["the answer"]], "exact_match": float(right)}
    doc |= {"prompt": "def f():\n", "test": "def check(f):\n    f()\n", "entry_point": "f"}
    return line | {"doc": doc, "resps": [[f"    return {number + right}", "    return 1"]], "pass": 1.0}


def texts_of(value: Any) -> Any:
    """Numbers as text, in lists in lists, as today's logs have the answers."""
    return [texts_of(item) for item in value] if isinstance(value, list) else str(value)


def hash_of(doc: Any) -> str:
    return hashlib.sha256(json.dumps(doc, indent=2, ensure_ascii=False).encode()).hexdigest()


def today(line: dict[str, Any]) -> dict[str, Any]:
    """A line of 2024 as the harness writes it today."""
    named = {}
    for number, request in enumerate(line["arguments"]):
        named[f"gen_args_{number}"] = {f"arg_{place}": value for place, value in enumerate(request)}
    metrics = [name for name in ("acc", "exact_match", "pass") if name in line]
    further = {"arguments": named, "resps": texts_of(line["resps"]), "filter": "none", "metrics": metrics}
    return line | further | {"target": str(line["target"]), "doc_hash": hash_of(line["doc"])}


def program_of(doc: dict, answer: str) -> str:
    """The key of a program of these logs among verdicts."""
    source = f"{doc['prompt']}{answer}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return hashlib.sha256(f"python\0{source}".encode()).hexdigest()


def make_logs(rng: random.Random, root: Path, year: int) -> list[Path]:
    """Logs of two LLMs on four documents, of a rule that is drawn, and the spec that converts them."""
    rule = rng.choice(["choice", "number", "metric", "python"])
    spec = {"task": "t", "leaves": ["leaf"], "rule": rule, "question": "{question}", "test": "t_test.json"}
    (root / "spec.json").write_text(json.dumps([spec]))
    made = []
    for llm in LLMS:
        folder = root / "logs" / llm.replace("/", "__") / "g"
        folder.mkdir(parents=True)
        lines = [entry(rule, number, llm) for number in range(4)]
        made.append(folder / (f"samples_leaf_{TIME}.jsonl" if year == 2026 else "pretrained__x_leaf.jsonl"))
        results = {"config": {"limit": None}, "n-shot": {"leaf": 0}, "lm_eval_version": "0.4.13"}
        if year == 2026:
            made[-1].write_text("".join(json.dumps(today(line)) + "\n" for line in lines))
            results["n-samples"] = {"leaf": {"original": 4, "effective": 4}}
        else:
            made[-1].write_text(json.dumps(lines))
        if rule == "python":
            store = made[-1].with_suffix(".verdicts.jsonl")
            keys = [program_of(line["doc"], answer) for line in lines for answer in line["resps"][0]]
            passed = [{"program": key, "passed": int(key, 16) % 2 == 0} for key in dict.fromkeys(keys)]
            limits = {"status": "", "seconds": 10.0, "megabytes": 4096}
            store.write_text("".join(json.dumps(verdict | limits) + "\n" for verdict in passed))
            made.append(store)
        made.append(folder / (f"results_{TIME}.json" if year == 2026 else "results.json"))
        made[-1].write_text(json.dumps(results))
    return made


def check(condition: Any) -> None:
    """Raise AssertionError for files in which the independent reader finds no routing data."""
    if not condition:
        raise AssertionError


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def logs_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*leaf*.jsonl") if "verdicts" not in path.name]


def read_log(folder: Path, year: int) -> dict[int, dict]:
    """The lines of a log by document, as the format's description has them."""
    (path,) = logs_in(folder)
    raw, results = path.read_bytes(), folder / (f"results_{TIME}.json" if year == 2026 else "results.json")
    about = json.loads(results.read_bytes()) if year == 2026 or results.is_file() else {}
    check(about.get("config", {}).get("limit") is None)
    if raw[:1] == b"[":
        lines = json.loads(raw)
    else:
        check(raw.endswith(b"\n"))
        lines = [json.loads(line) for line in raw.split(b"\n")[:-1]]
    by_document: dict[int, dict] = {}
    for line in lines:
        check(type(line["doc_id"]) is int and type(line["doc"]) is dict)
        before = by_document.setdefault(line["doc_id"], line)
        check(before is line or ("filter" not in line and before["resps"] == line["resps"]))
        if isinstance(line["arguments"], dict):
            line["arguments"] = [list(request.values()) for request in line["arguments"].values()]
    check(len({line.get("filter") for line in by_document.values()}) == 1)
    count = about.get("n-samples", {}).get("leaf", {})
    check(count.get("original") == count.get("effective"))
    check(count.get("effective") in (None, len(by_document)))
    return by_document


def score_of(line: dict, rule: str, passed: dict[str, bool]) -> float:
    """The score of a line, from the rule's description."""
    if rule == "choice":
        pairs = [of_option[0] for of_option in line["resps"]]
        check(all(type(pair) is list and len(pair) == 2 and type(pair[0]) is not bool for pair in pairs))
        values = [float(pair[0]) for pair in pairs]
        options = [str(request[-1]).strip() for request in line["arguments"]]
        check(len(options) == len(values) and not any(map(math.isnan, values)) and math.isfinite(max(values)))
        check(type(line["target"]) in (int, str, bool))
        target = str(line["target"]).strip()
        right = int(target) if re.fullmatch(r"\d+", target) else options.index(target)
        check(right < len(values))
        best = values.index(max(values))
        return 1 / sum(math.exp(value - max(values)) for value in values) if best == right else 0
    (answers,) = line["resps"]
    check(answers and all(type(answer) is str for answer in answers))
    if rule == "metric":
        check(len(answers) == 1 and type(line["exact_match"]) in (int, float, bool) and 0 <= line["exact_match"] <= 1)
        return float(line["exact_match"])
    if rule == "number":
        check(type(line["target"]) in (str, int, float, bool))
        gold = str(line["target"]).rpartition("####")[2].strip()
        found = [re.search(r"#### (-?[0-9.,]+)", answer) for answer in answers]
        return sum(bool(match) and match[1] == gold for match in found) / len(found)
    return sum(passed[program_of(line["doc"], answer)] for answer in answers) / len(answers)


def verdicts_in(folder: Path) -> dict[str, bool]:
    """The verdicts beside a log; the last of a program counts, and a last line that was cut off does not."""
    passed = {}
    for path in folder.glob("*.verdicts.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            verdict = json.loads(line) if line.endswith(b"\n") else {}
            if (verdict.get("seconds"), verdict.get("megabytes")) == (10.0, 4096):
                check(type(verdict["passed"]) is bool)
                passed[verdict["program"]] = verdict["passed"]
    return passed


def expect_logs(root: Path, year: int) -> dict[str, list]:
    """The rows of the file that these logs make."""
    (record,) = json.loads((root / "spec.json").read_text())
    folders = {llm: root / "logs" / llm.replace("/", "__") / "g" for llm in sorted(LLMS)}
    folders = {llm: folder for llm, folder in folders.items() if logs_in(folder)}
    sheets = {llm: read_log(folder, year) for llm, folder in folders.items()}
    first = next(iter(sheets.values()))
    rows = []
    for number in sorted(first):
        lines = {llm: sheet[number] for llm, sheet in sheets.items()}
        check(all(sheet.keys() == first.keys() for sheet in sheets.values()))
        check(len({line.get("doc_hash") or hash_of(line["doc"]) for line in lines.values()}) == 1)
        question = first[number]["doc"]["question"]
        check(type(question) in (str, int, float, bool) and str(question).strip())
        scores = {}
        for llm, line in lines.items():
            check(len(line["resps"][0]) == len(first[min(first)]["resps"][0]))
            scores[llm] = score_of(line, record["rule"], verdicts_in(folders[llm]))
        rows.append({"question": str(question), "scores": scores})
    return {"t_test.json": rows}


def run_convert(root: Path, year: int | None = None) -> int:
    words = ["--logs", root / "logs", "--spec", root / "spec.json", "--tasks", "t", "--output", root / "out"]
    return convert.main([*map(str, words)])


def make_verdicts(rng: random.Random, root: Path) -> list[Path]:
    """Verdicts of bigcode's harness for two LLMs, and their data set."""
    documents = root / "documents.jsonl"
    documents.write_text("".join(json.dumps({"question": f"Write {number}"}) + "\n" for number in range(4)))
    spec = {"task": "t", "leaves": ["leaf"], "rule": "verdicts", "question": "{question}", "test": "t_test.json"}
    (root / "spec.json").write_text(json.dumps([spec | {"documents": str(documents)}]))
    made = [documents]
    for llm in LLMS:
        folder = root / "logs" / llm.replace("/", "__") / "leaf"
        folder.mkdir(parents=True)
        made.append(folder / "verdicts.json")
        passed = [[rng.random() < 0.5 for _ in range(2)] for _ in range(4)]
        made[-1].write_text(json.dumps({"passed": passed, "generations_sha256": "a", "references_sha256": "b"}))
    return made


def expect_verdicts(root: Path) -> dict[str, list]:
    """The rows of the file that these verdicts make."""
    lines = (root / "documents.jsonl").read_bytes().decode().split("\n")
    documents = [json.loads(line) for line in lines if line.strip()]
    sheets = {}
    for llm in sorted(LLMS):
        path = root / "logs" / llm.replace("/", "__") / "leaf" / "verdicts.json"
        if not path.is_file():
            continue  # an LLM without logs is none
        saved = json.loads(path.read_bytes())
        check(all(type(right) is bool for of_problem in saved["passed"] for right in of_problem))
        sheets[llm] = [saved["references_sha256"], [sum(found) / len(found) for found in saved["passed"]]]
        sheets[llm].append([len(found) for found in saved["passed"]])
        check(len(documents) == len(saved["passed"]))
    (tests, _, counts), *others = sheets.values()
    check(all((other[0], other[2]) == (tests, counts) for other in others))
    rows = []
    for number, document in enumerate(documents):
        question = document["question"]
        check(type(question) in (str, int, float, bool) and str(question).strip())
        rows.append({"question": str(question), "scores": {llm: sheet[1][number] for llm, sheet in sheets.items()}})
    return {"t_test.json": rows}


def make_generations(rng: random.Random, root: Path) -> list[Path]:
    """What bigcode's harness saves."""
    made = [root / "generations.json", root / "references.json"]
    made[0].write_text(json.dumps([[f"def f(): return {rng.random()}", "x = 1"] for _ in range(3)]))
    made[1].write_text(json.dumps([f"assert f() == {number}" for number in range(3)]))
    return made


def run_generations(root: Path) -> int:
    """Read them as the command does, and write the programs."""
    try:
        programs, _ = read_generations(root / "generations.json", root / "references.json", "python")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (root / "out").mkdir()
    sources = [[program.source for program in of_problem] for of_problem in programs]
    (root / "out" / "programs.json").write_text(json.dumps(sources))
    return 0


def expect_generations(root: Path) -> dict[str, list]:
    """The programs with their tests."""
    texts, tests = (json.loads((root / f"{name}.json").read_bytes()) for name in ("generations", "references"))
    check(type(texts) is type(tests) is list and len(texts) == len(tests) > 0)
    check(all(type(samples) is list and len(samples) == len(texts[0]) > 0 for samples in texts))
    check(all(type(text) is str for samples in [*texts, tests] for text in samples) and all(map(str.strip, tests)))
    return {"programs.json": [[f"{text}\n{test}\n" for text in samples] for samples, test in zip(texts, tests)]}


def make_spec(rng: random.Random, root: Path) -> list[Path]:
    """Good logs of today, and a spec to be damaged."""
    make_logs(rng, root, 2026)
    return [root / "spec.json"]


def expect_spec(root: Path) -> dict[str, list]:
    """What a damaged spec makes: the same file, from fields that may stand there."""
    (record,) = json.loads((root / "spec.json").read_bytes())
    record = {name: value for name, value in record.items() if value is not None}
    names = {"task", "leaves", "rule", "question", "train", "test", "train_rows", "filter", "metric", "group"}
    check(record.keys() <= names and record["task"] == "t")
    check(type(record["leaves"]) is list and record["leaves"].count("leaf") == len(record["leaves"]))
    made = expect_logs(root, 2026)["t_test.json"]
    check(type(record["question"]) is str)
    for row in made:
        row["question"] = record["question"].replace("{question}", row["question"])
        check("{" not in row["question"] and row["question"].strip())
    name = record.get("train") or record["test"]
    check(not (record.get("train") and record.get("test")) and name in ("t_test.json", "t_train.json", "t.json"))
    return {name: made[: record.get("train_rows") or None] if "train" in record else made}


# Routing data of others


def joined(triples: list[tuple]) -> dict[str, list]:
    """Files of (file, query, question, llm, score, cost): the largest score of a pair counts, no pair may lack."""
    files: dict[str, dict[Any, dict]] = {}
    llms = list(dict.fromkeys(llm for _, _, _, llm, _, _ in triples))
    for file, key, question, llm, score, cost in triples:
        check(type(question) is str and question.strip() and type(llm) is str and llm.strip())
        check(is_number(score) and 0 <= score <= 1)
        check(cost is None or (is_number(cost) and cost >= 0 and cost < math.inf))
        row = files.setdefault(file, {}).setdefault(key, {"question": question, "scores": {}, "costs": {}})
        check(row["question"] == question)
        if score > row["scores"].get(llm, -1):
            row["scores"][llm] = score
            row["costs"].pop(llm, None)
            if cost is not None:
                row["costs"][llm] = cost
    priced = any(row["costs"] for rows in files.values() for row in rows.values())
    for rows in files.values():
        for row in rows.values():
            check(row["scores"].keys() == set(llms) and (not priced or row["costs"].keys() == set(llms)))
            if not priced:
                del row["costs"]
    return {file: list(rows.values()) for file, rows in files.items()}


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.") or "task"


def make_embedllm(rng: random.Random, root: Path) -> list[Path]:
    made = []
    for name in ("train", "test"):
        lines = ["prompt_id,prompt,model_name,category,label,model_id"]
        for llm in LLMS:
            lines += [f'{number},"What, {number}?",{llm},task {number % 2},{rng.randrange(2)},0' for number in range(4)]
        made.append(root / "source" / f"{name}.csv")
        made[-1].parent.mkdir(exist_ok=True)
        made[-1].write_text("\n".join(lines) + "\n")
    return made


def expect_embedllm(root: Path) -> dict[str, list]:
    triples = []
    for name in ("train", "test"):
        if not (path := root / "source" / f"{name}.csv").is_file():
            continue
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            check(len(set(reader.fieldnames or ())) == len(reader.fieldnames or ()))
            for line in reader:
                check(None not in line and None not in line.values() and line["category"].strip())
                check(line["label"] in ("0", "1", "0.0", "1.0"))
                task = line["category"]
                key = task.lower(), line["prompt_id"]
                name_of = f"{slug(task)}_{name}.json"
                triples.append((name_of, key, line["prompt"], line["model_name"], float(line["label"]), None))
    return joined(triples)


def make_bench(rng: random.Random, root: Path) -> list[Path]:
    made = []
    for split in ("test", "hard", "easy"):
        for llm in LLMS:
            records = []
            for index in range(1, 4):
                record = {"index": index, "origin_query": f"What is {index}?", "score": rng.choice([0.0, 1.0, 0.5])}
                records.append(record | {"cost": rng.random() / 100, "prediction": "x"})
            result = {"dataset_name": "aime", "split": split, "model_name": llm, "demo": False, "records": records}
            made.append(root / "source" / split / llm.replace("/", "_") / "run.json")
            made[-1].parent.mkdir(parents=True)
            made[-1].write_text(json.dumps(result))
    return made


def expect_bench(root: Path) -> dict[str, list]:
    triples, known = [], ("train", "test", "val", "dev")
    for path in sorted((root / "source").rglob("*.json")):
        result = json.loads(path.read_bytes())
        names = [result[name] for name in ("dataset_name", "split", "model_name")]
        check(all(type(name) is str and name.strip() for name in names) and type(result["records"]) is list)
        check(result.get("demo") in (None, True, False))
        if result.get("demo"):
            continue
        task, split, llm = names
        file = f"{slug(task)}_{split.lower()}.json" if split.lower() in known else f"{slug(task)}.json"
        for record in result["records"]:
            check(type(record["index"]) in (int, str))
            key = (task.lower(), split.lower(), record["index"])
            score = float(record["score"]) if type(record["score"]) is bool else record["score"]
            triples.append((file, key, record["origin_query"], llm, score, record.get("cost")))
    return joined(triples)


def make_lookahead(rng: random.Random, root: Path) -> list[Path]:
    source, made = root / "source", []
    step = "\nPlease reason step by step, and put your final answer within \\boxed{}.\n"
    for folder in ("GSM8k", "MATH"):
        for llm in ("a", "b"):
            details = {}
            for number in range(4):
                right = rng.random() < 0.5
                prompt = [{"role": "HUMAN", "prompt": f"{folder} {number}?{step}"}]
                answer = {"predictions": str(number + (not right)), "references": str(number), "correct": right}
                details[str(number)] = {"prompt": prompt} | answer
            accuracy = 25.0 * sum(detail["correct"] for detail in details.values())
            made.append(source / folder / f"{llm}.json.gz")
            made[-1].parent.mkdir(parents=True, exist_ok=True)
            made[-1].write_bytes(gzip.compress(json.dumps({"accuracy": accuracy, "details": details}).encode()))
    return made


def expect_lookahead(root: Path) -> dict[str, list]:
    step = "\nPlease reason step by step, and put your final answer within \\boxed{}.\n"
    triples, golds = [], {}
    for folder, task in (("GSM8k", "gsm8k"), ("MATH", "math")):
        for llm in ("a", "b"):
            saved = json.loads(gzip.decompress((root / "source" / folder / f"{llm}.json.gz").read_bytes()))
            check(saved["details"] and is_number(saved["accuracy"]))
            for key, record in saved["details"].items():
                (message,) = record["prompt"]
                check(type(record["correct"]) is bool and message["prompt"].endswith(step))
                check(type(record["predictions"]) is type(record["references"]) is str)
                question = message["prompt"].removesuffix(step)
                check(golds.setdefault((task, question), (key, record["references"])) == (key, record["references"]))
                triples.append((f"{task}.json", key, question, llm, float(record["correct"]), None))
            rights = [record["correct"] for record in saved["details"].values()]
            check(math.isclose(saved["accuracy"], 100 * sum(rights) / len(rights), abs_tol=1e-6))
    return joined(triples)


def make_routerbench(rng: random.Random, root: Path, suffix: str) -> list[Path]:
    rows = []
    for number in range(5):
        row = {
            "sample_id": f"x.{number}",
            "prompt": f"['What is {number}?']",
            "eval_name": ("mbpp", "mmlu-law")[number % 2],
        }
        row |= {llm: float(rng.randrange(2)) for llm in LLMS}
        rows.append(row | {f"{llm}|total_cost": rng.random() / 100 for llm in LLMS})
    path = root / "source" / f"table{suffix}"
    path.parent.mkdir()
    frame = pandas.DataFrame(rows)
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return [path]


def expect_routerbench(root: Path, suffix: str) -> dict[str, list]:
    path = root / "source" / f"table{suffix}"
    if suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns, *lines = [line for line in csv.reader(file, strict=True) if line]
        check(len(set(columns)) == len(columns) and all(len(line) == len(columns) for line in lines))
        records = [dict(zip(columns, line)) for line in lines]
    else:
        frame = pandas.read_parquet(path)
        columns, records = list(frame.columns), frame.to_dict("records")
    others = {
        "question",
        "prompt",
        "eval_name",
        "cluster_id",
        "sample_id",
        "",
        "Unnamed: 0",
        "oracle_model_to_route_to",
    }
    llms = [name for name in columns if name not in others and not name.endswith("|total_cost")]
    priced = any(name.endswith("|total_cost") for name in columns)
    triples = []
    for number, record in enumerate(records):
        name = record["eval_name"]
        check(type(name) is str and name.strip())
        task = "mmlu" if name.startswith("mmlu-") else name
        prompt = record["question"] if "question" in record else record["prompt"]
        listed = None
        with contextlib.suppress(ValueError, SyntaxError):
            listed = ast.literal_eval(prompt) if "question" not in record else None
        is_list = isinstance(listed, list) and all(isinstance(turn, str) for turn in listed)
        values = []
        for llm in llms:
            score, cost = record[llm], record[f"{llm}|total_cost"] if priced else None
            if isinstance(score, np.generic):
                score = score.item()
            score, cost = (float(value) if isinstance(value, str) else value for value in (score, cost))
            check(not priced or cost is not None)
            values.append((f"{slug(task)}.json", number, "\n".join(listed) if is_list else prompt, llm, score, cost))
        triples += values
    return joined(triples)


def make_routereval(rng: random.Random, root: Path, with_text: bool) -> list[Path]:
    draw = np.random.default_rng(rng.randrange(2**32))
    counts, arrays = {"train": 3, "test": 2}, {}
    for split, count in counts.items():
        arrays[f"{split}_score"] = draw.integers(0, 2, (count, 2)).astype(float)
        arrays[f"{split}_embed"] = draw.normal(size=(count, 4))
    made = [root / "source" / "mmlu.npz"]
    made[0].parent.mkdir()
    np.savez(made[0], **arrays)
    if with_text:
        made.append(root / "source" / "texts.json")
        texts = {split: [f"{split} {number}?" for number in range(count)] for split, count in counts.items()}
        made[1].write_text(json.dumps(texts))
    return made


def expect_routereval(root: Path, with_text: bool) -> dict[str, Any]:
    with np.load(root / "source" / "mmlu.npz") as file:
        arrays = {name: file[name] for name in file.files if name.endswith(("_score", "_embed"))}
    check(all(array.dtype.kind in "biuf" for array in arrays.values()))
    texts = json.loads((root / "source" / "texts.json").read_bytes()) if with_text else {}
    found, triples, width = {}, [], None
    for split in ("train", "val", "test"):
        scores, vectors = arrays.get(f"{split}_score"), arrays.get(f"{split}_embed")
        if scores is None:
            continue
        width = width or scores.shape[1]
        check(scores.ndim == 2 and scores.shape[1] == width and ((scores >= 0) & (scores <= 1)).all())
        if not with_text:
            check(len(vectors) == len(scores) and np.isfinite(vectors.astype(np.float32)).all())
            found[f"mmlu_{split}.npz"] = [scores.astype(np.float32), vectors.astype(np.float32)]
        check(not with_text or len(texts[split]) == len(scores))
        for number, text in enumerate(texts.get(split, ())):
            for place, score in enumerate(scores[number].tolist()):
                triples.append((f"mmlu_{split}.json", number, text, f"llm-{place + 1}", float(score), None))
    check(found or triples)
    return joined(triples) if with_text else found


def run_import(root: Path, format: str, source: str = "", words: Sequence[Any] = ()) -> int:
    return importers.main([*map(str, [format, root / "source" / source, *words, "--output", root / "out"])])


def run_routereval(root: Path, with_text: bool) -> int:
    return run_import(
        root, "routereval", "mmlu.npz", ["--prompts", root / "source" / "texts.json"] if with_text else []
    )


def run_routerbench(root: Path, suffix: str, words: Sequence[Any] = ()) -> int:
    return run_import(root, "routerbench", f"table{suffix}", words)


# Trials


@dataclass(frozen=True)
class Loader:
    """A program: how good files for it are made, how it is run, and what an independent reader finds in its files."""

    name: str
    make: Callable[[random.Random, Path], list[Path]]
    run: Callable[[Path], int]
    expect: Callable[[Path], dict[str, Any]]


def loader_of(name: str, make: Callable, run: Callable, expect: Callable, **options: Any) -> Loader:
    """A loader whose files come in several forms; the options say which."""
    return Loader(name, *(partial(function, **options) for function in (make, run, expect)))


LOADERS = (
    loader_of("lm-evaluation-harness (today)", make_logs, run_convert, expect_logs, year=2026),
    loader_of("lm-evaluation-harness (2024)", make_logs, run_convert, expect_logs, year=2024),
    Loader("verdicts of bigcode", make_verdicts, run_convert, expect_verdicts),
    Loader("generations of bigcode", make_generations, run_generations, expect_generations),
    Loader("--spec of convert", make_spec, run_convert, expect_spec),
    Loader("EmbedLLM", make_embedllm, partial(run_import, format="embedllm"), expect_embedllm),
    Loader("LLMRouterBench", make_bench, partial(run_import, format="llmrouterbench"), expect_bench),
    loader_of("RouterEval (with text)", make_routereval, run_routereval, expect_routereval, with_text=True),
    loader_of("RouterEval (without text)", make_routereval, run_routereval, expect_routereval, with_text=False),
    loader_of("RouterBench (.csv)", make_routerbench, run_routerbench, expect_routerbench, suffix=".csv"),
    loader_of("RouterBench (.parquet)", make_routerbench, run_routerbench, expect_routerbench, suffix=".parquet"),
    Loader("Lookahead", make_lookahead, partial(run_import, format="lookahead"), expect_lookahead),
)


class Hang(BaseException):
    """A trial that takes too long."""


def interrupt(*_: Any) -> None:
    raise Hang


def same(found: Any, expected: Any) -> bool:
    """Whether two values are equal, numbers to twelve digits."""
    if isinstance(expected, np.ndarray):
        return found.shape == expected.shape and np.array_equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return math.isclose(found, expected, rel_tol=1e-12) if isinstance(expected, float) else found == expected


def loaded(folder: Path) -> dict[str, Any]:
    """What a program wrote, by file."""
    found = {}
    for path in folder.iterdir():
        if path.suffix == ".npz":
            with np.load(path) as file:
                found[path.name] = [file["scores"], file["embeddings"]]
        elif path.name != "convert.json":
            found[path.name] = json.loads(path.read_bytes())
    return found


def is_right(loader: Loader, root: Path) -> bool:
    """Whether what was loaded is what the independent reader finds in the same files."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = loader.expect(root)
    except Exception:  # it finds no routing data there
        return False
    found = loaded(root / "out")
    return found.keys() == expected.keys() and all(same(found[name], expected[name]) for name in expected)


def judge(loader: Loader, root: Path) -> tuple[str, str]:
    """Run a program on damaged files. Returns: one of OUTCOMES, and its error."""
    errors = io.StringIO()
    signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = loader.run(root)
    except Hang:
        return "hang", ""
    except Exception as error:
        return "raw", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    text = errors.getvalue().strip()
    if status == 0:
        return ("right" if is_right(loader, root) else "silent"), text
    error = text.splitlines()[-1] if text else ""
    if [path for path in root.iterdir() if path.name.lstrip(".").startswith("out")]:
        return "left behind", error
    is_flag = error.startswith("error: --") or "--run_code" in error
    says_which = str(root) in error or ("leaf" in error and any(llm in error for llm in LLMS)) or is_flag
    return ("refused" if error.startswith("error: ") and says_which else "unnamed"), error


def trial(loader: Loader, seed: int, root: Path) -> tuple[str, str]:
    """One trial in an empty folder."""
    rng = random.Random(f"{loader.name} {seed}")
    files = loader.make(rng, root)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        path = rng.choice(files)
        if path.is_file():
            damage(rng, path)
    return judge(loader, root)


def row_of(loader: Loader, count: int, seed: int, shown: bool = False) -> dict[str, Any]:
    """The counts of `count` trials of one program."""
    outcomes: Counter[str] = Counter()
    for number in range(seed, seed + count):
        with tempfile.TemporaryDirectory() as folder:
            outcome, error = trial(loader, number, Path(folder))
        outcomes[outcome] += 1
        if shown and outcome in BAD:
            print(f"{loader.name}, trial {number}: {outcome} {error[:300]}", file=sys.stderr)
    counts = {outcome: outcomes[outcome] for outcome in OUTCOMES}
    return {"name": loader.name, "tried": count, **counts, "bad": sum(outcomes[outcome] for outcome in BAD)}


# Two programs at once that write one folder


def make_pair_of_conversions(root: Path) -> None:
    """Logs that are split into a training and a test file, which differ from seed to seed."""
    make_logs(random.Random(1), root, 2026)
    (record,) = json.loads((root / "spec.json").read_text())
    split = {"train": "t_train.json", "test": "t_test.json", "test_fraction": 0.5}
    (root / "spec.json").write_text(json.dumps([record | split]))


def convert_with_seed(root: Path, seed: int) -> int:
    words = ["--logs", root / "logs", "--spec", root / "spec.json", "--output", root / "out", "--seed", seed]
    return convert.main([*map(str, words)])


def make_pair_of_imports(root: Path) -> None:
    make_routerbench(random.Random(1), root, ".csv")


def import_with_seed(root: Path, seed: int) -> int:
    return run_routerbench(root, ".csv", ["--test_fraction", "0.5", "--seed", seed])


PAIRS = {
    "two conversions into one folder": (make_pair_of_conversions, convert_with_seed),
    "two imports into one folder": (make_pair_of_imports, import_with_seed),
}


def in_a_fork(run: Callable[[Path, int], int], root: Path, seed: int, wait: float) -> int:
    """Start a program in a process of its own after so many seconds; returns the process."""
    if process := os.fork():
        return process
    status = 3
    try:
        time.sleep(wait)
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing), contextlib.redirect_stdout(nothing):
            status = run(root, seed)
    finally:
        os._exit(status)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pair_row(name: str, count: int, seed: int) -> dict[str, Any]:
    """Counts of pairs of programs that were started together: the folder is what one of them makes alone, or mixed."""
    make, run = PAIRS[name]
    rng, outcomes = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        root, alone, begun = Path(folder), [], time.monotonic()
        make(root)
        for own_seed in (1, 2):
            os.waitpid(in_a_fork(run, root, own_seed, 0), 0)
            alone.append(bytes_of(root / "out"))
            shutil.rmtree(root / "out")
        seconds = (time.monotonic() - begun) / 2
        for _ in range(count):
            processes = [in_a_fork(run, root, own_seed, rng.random() * seconds) for own_seed in (1, 2)]
            codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
            left = [path.name for path in root.iterdir() if path.name.startswith(".")]
            is_whole = (root / "out").is_dir() and bytes_of(root / "out") in alone and not left
            outcomes["one refused"] += 2 in codes
            outcomes["mixed"] += not is_whole or not set(codes) <= {0, 2} or codes == [2, 2]
            shutil.rmtree(root / "out", ignore_errors=True)
    return {"name": name, "tried": count, "one refused": outcomes["one refused"], "bad": outcomes["mixed"]}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 1 if a trial ended as none may."""
    parser = command_line(__doc__, 3000, "trials of each program, and thirty times the pairs", seed=0)
    parser.add_argument("--only", help="programs with this in their name")
    args = parser.parse_args(argv)
    begun, rows = time.monotonic(), []
    for loader in LOADERS:
        if args.only is None or args.only in loader.name:
            rows.append(row_of(loader, args.count, args.seed, shown=True))
            print(json.dumps(rows[-1]), flush=True)
    for name in PAIRS:
        if args.only is None or args.only in name:
            rows.append(pair_row(name, -(-args.count // 30), args.seed))
            print(json.dumps(rows[-1]), flush=True)
    return finish(__file__, argv, args, begun, rows)


if __name__ == "__main__":
    sys.exit(main())
