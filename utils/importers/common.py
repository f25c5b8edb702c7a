"""What the importers share: joining (LLM, query) pairs to rows, what to do with gaps, splits, files."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.data import DataError, RoutingData
from utils.files import atomic_folder, write_json
from utils.training_set import split_validation

SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}  # any other name is no split


class Pairs:
    """Scores, and costs where there are some, of (LLM, query) pairs, joined to one row a query.

    rows: {(task, split): {key of the query: row of a data file}}, split being "train", "val", "test" or "". repeated:
    how many pairs came more than once; the largest score is kept, with its cost.
    """

    def __init__(self):
        self.rows: dict[tuple[str, str], dict[Any, dict]] = {}
        self.llms: dict[str, None] = {}  # in the order in which they came
        self.repeated = 0

    def add(
        self, task: str, split: str, key: Any, question: Any, llm: str, score: Any, cost: Any = None, where: str = ""
    ) -> None:
        """Add one pair. A score of None is a gap.

        Raises: DataError, naming `where`, for an empty question, a score outside [0, 1], a cost below 0, or a query
        whose text is not the one that another LLM answered.
        """
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"{where}: the text of the query must be a non-empty string, found {question!r}")
        for what, value, most in (("score", score, 1), ("cost", cost, math.inf)):
            if value is not None and (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not math.isfinite(value)
                or not 0 <= value <= most
            ):
                raise DataError(
                    f"{where}: the {what} of {llm} must be a number from 0 to "
                    f"{'1' if most == 1 else 'any amount of US dollars'}, found {value!r}"
                )
        self.llms.setdefault(llm)
        task = re.sub(r"[^a-z0-9.]+", "_", task.lower()).strip("_.") or "task"
        rows = self.rows.setdefault((task, SPLITS.get(split.lower(), "")), {})
        row = rows.setdefault(key, {"question": question, "scores": {}, "costs": {}})
        if row["question"] != question:
            raise DataError(
                f"{where}: query {key} of {task} is {question[:60]!r} here and {row['question'][:60]!r} for "
                "another LLM; their records do not belong together"
            )
        if score is None:
            return
        if llm in row["scores"]:
            self.repeated += 1
            if score <= row["scores"][llm]:
                return
            row["costs"].pop(llm, None)
        row["scores"][llm] = score
        if cost is not None:
            row["costs"][llm] = cost


def complete(
    pairs: Pairs, source: str, llms: Sequence[str] | None, missing: str
) -> tuple[dict[tuple[str, str], list[dict]], int]:
    """Rows with a score, and if there are costs a cost, of every LLM of `llms` (default: all), and how many rows are
    left out.

    Raises: DataError for an LLM that is not there, for gaps if `missing` is "error", or if nothing is left.
    """
    chosen = list(llms or pairs.llms)
    unknown = [llm for llm in chosen if llm not in pairs.llms]
    if unknown or not chosen:
        raise DataError(
            f"{source}: no records of {', '.join(unknown) or 'any LLM'}; it has {', '.join(pairs.llms) or 'none'}"
        )
    priced = any(row["costs"] for rows in pairs.rows.values() for row in rows.values())
    gaps: Counter[str] = Counter()
    whole, total, kept = {}, 0, 0
    for place, rows in pairs.rows.items():
        part = []
        for row in rows.values():
            lacking = [llm for llm in chosen if llm not in row["scores"] or (priced and llm not in row["costs"])]
            gaps.update(lacking)
            if not lacking:
                part.append({"question": row["question"], "scores": {llm: row["scores"][llm] for llm in chosen}})
                part[-1] |= {"costs": {llm: row["costs"][llm] for llm in chosen}} if priced else {}
                part[-1] |= {"cluster_id": row["cluster_id"]} if "cluster_id" in row else {}
        total, kept = total + len(rows), kept + len(part)
        if part:
            whole[place] = part
    if total > kept and (missing == "error" or not kept):
        most = ", ".join(f"{llm} {count}" for llm, count in gaps.most_common(5))
        remedy = (
            "name fewer LLMs with --llms"
            if missing == "drop"
            else "leave those queries out with --missing_cells drop, or name fewer LLMs with --llms"
        )
        raise DataError(
            f"{source}: {total - kept} of {total} queries lack a score{' or a cost' if priced else ''} of some "
            f"LLM (most: {most}); {remedy}"
        )
    return whole, total - kept


def split_off(
    parts: dict[tuple[str, str], list[dict]], fraction: float, seed: int
) -> dict[tuple[str, str], list[dict]]:
    """Parts without a split cut into "train" and "test", by question, with `fraction` of the distinct ones in "test"; 0
    leaves them whole.

    Parts that the source splits stay as they are, and are named. Raises: DataError if all are such, so that there is
    nothing to cut.
    """
    result, kept = {}, sorted({f"{task} ({split})" for task, split in parts if split})
    if fraction and kept:
        if len(kept) == len(parts):
            raise DataError(
                f"--test_fraction {fraction:g}: the source has splits, which stay as they are: "
                f"{', '.join(kept)}; leave --test_fraction out"
            )
        print(f"--test_fraction {fraction:g} does not cut what the source splits: {', '.join(kept)}")
    for (task, split), rows in parts.items():
        if split or not fraction:
            result[task, split] = rows
            continue
        questions = [row["question"] for row in rows]
        if len(set(questions)) < 2:
            raise DataError(
                f"the task {task} has one question, which --test_fraction cannot split; use --test_fraction 0"
            )
        sides = split_validation(
            RoutingData(task, "multi_attempt", questions, np.empty((len(rows), 0)), ()),
            min(fraction, 1 - 1 / len(set(questions))),
            seed,
        )
        for name, index in zip(("train", "test"), sides):
            result[task, name] = [rows[i] for i in index]
    return result


def new_folder(path: Path) -> None:
    """Raises: DataError if there is something in the folder already: nothing of a person is overwritten."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"--output {path}: not an empty folder; name a new one, nothing is overwritten")


def write(parts: dict[tuple[str, str], list[dict]], output: Path) -> list[tuple[str, int]]:
    """Write `<task>_<split>.json` files, all or none, into a new folder. Returns their names and numbers of rows."""
    new_folder(output)
    names = [
        (f"{task}_{split}.json" if split else f"{task}.json", rows) for (task, split), rows in sorted(parts.items())
    ]
    with atomic_folder(output) as part:
        for name, rows in names:
            write_json(part / name, rows)
    return [(name, len(rows)) for name, rows in names]


def write_answers(
    parts: dict[tuple[str, str], list[dict]], ballots: dict[str, dict[str, Any]], folder: Path
) -> list[tuple[str, int]]:
    """Write what the LLMs answered to the tasks in `ballots`, {task: {question: entry}}, as `write` does."""
    chosen = {}
    for (task, split), rows in parts.items():
        if task in ballots:
            chosen[task, split] = [ballots[task][row["question"]] for row in rows]
    return write(chosen, folder)


def write_embedded(parts: dict[tuple[str, str], Any], llms: Sequence[str], output: Path) -> list[tuple[str, int]]:
    """Write scores and embeddings without text as `<task>_<split>.npz`, all or none, as `write` does."""
    new_folder(output)
    with atomic_folder(output) as folder:
        for (task, split), part in parts.items():
            np.savez(
                folder / f"{task}_{split}.npz",
                scores=np.float32(part.scores),
                embeddings=np.float32(part.embeddings),
                llms=np.array(llms, dtype=str),
            )
    return [(f"{task}_{split}.npz", len(part.scores)) for (task, split), part in parts.items()]
