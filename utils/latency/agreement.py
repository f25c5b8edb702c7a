"""Do torch and ONNX pick the same LLMs on the test queries of a run, and what are their picks worth?"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..checkpoint_files import find, read_config
from ..data import RoutingData
from ..evaluate import measure
from ..files import replacing
from ..meters import bar
from ..onnx_files import sha256_of, source_of
from ..router import Router
from ..tasks import task_of
from .ways import REFERENCE, test_files, ways_of

PIECE = 256  # queries between two looks of the progress bar, and in one file of the cache


def similarities_of(router: Router, questions: Sequence[str], cache: Path, key: str, progress: tqdm) -> np.ndarray:
    """Similarities (N, T) of the questions, piece by piece, so that a stopped computation goes on.

    key: of what computes them.
    """
    rows = []
    for start in range(0, len(questions), PIECE):
        texts = questions[start : start + PIECE]
        name = hashlib.sha256(json.dumps([key, *texts]).encode()).hexdigest()
        path = cache / f"{name}.npy"
        if not path.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            values = router.similarities(texts)
            with replacing(path) as part, part.open("wb") as file:
                np.save(file, values)
        rows.append(np.load(path))
        progress.update(len(texts))
    return np.concatenate(rows)


def compare(
    ckpt: str, names: Sequence[str], threads: int, cache: Path, count: int = 0, seed: int = 1
) -> dict[str, Any]:
    """The picks of a checkpoint's router on its test queries, computed in several ways.

    Args:
        names: of the ways; the first of all is always the reference, torch in fp32.
        cache: folder for similarities that are computed.
        count, seed: how many of the queries, and how they are drawn; 0: all of them.
    Returns: {"queries", "ways": {way: {"equal_picks": %, "by_task": {task: %}, "largest_difference", "id_avg",
        "ood_avg", "tasks": {task: accuracy}}}}.
    """
    folder = find(ckpt)
    config, tests = read_config(folder), test_files(ckpt, count, seed)
    inside = [task_of(path) for path in config["settings"]["data_paths"]]
    ways = {name: options for name, options in ways_of(folder).items() if name in {REFERENCE, *names}}
    made_of = json.dumps(source_of(folder, config))
    similarities: dict[str, list[np.ndarray]] = {}
    with bar(len(ways) * sum(map(len, tests)), f"picks of {config['router']}", "query") as progress:
        for name, options in ways.items():
            router = Router.from_pretrained(folder, threads=threads, **options)
            key = name + made_of + (sha256_of(folder / options["file"]) if "file" in options else "")
            columns = [router.llms.index(llm) for llm in tests[0].llms]
            similarities[name] = []
            for data in tests:
                found = similarities_of(router, data.questions, cache, key, progress)
                similarities[name].append(found[:, columns])
    reference = similarities[REFERENCE]
    compared = {name: differences(found, reference, tests, inside) for name, found in similarities.items()}
    return {"queries": sum(map(len, tests)), "ways": compared}


def differences(
    found: Sequence[np.ndarray], reference: Sequence[np.ndarray], tests: Sequence[RoutingData], inside: Sequence[str]
) -> dict[str, Any]:
    """How one way's similarities differ from the reference's, each (N, T) for each test file."""
    equal, picks = {}, {}
    for data, values, expected in zip(tests, found, reference):
        picks[data.task] = values.argmax(axis=1)
        equal[data.task] = picks[data.task] == expected.argmax(axis=1)  # (N,)
    worth = measure(picks, tests, inside)
    return {
        "equal_picks": 100 * float(np.concatenate(list(equal.values())).mean()),
        "by_task": {task: 100 * float(values.mean()) for task, values in equal.items()},
        "largest_difference": max(float(np.abs(a - b).max()) for a, b in zip(found, reference)),
        **{key: worth[key] for key in ("id_avg", "ood_avg", "tasks")},
    }
