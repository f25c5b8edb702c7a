"""Which way to make 8-bit numbers keeps the picks: compared on training queries, never on test queries."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

from ..checkpoint_files import find, read_config
from ..data import load_all
from ..meters import bar
from ..onnx_backend import TOKENS, OnnxBackend, open_session
from ..onnx_files import FOLDER, MODEL
from ..reading import reading
from .ways import sample

QUANTISATIONS: dict[str, dict[str, Any]] = {
    "one scale a matrix": {"per_channel": False},
    "one scale a column": {"per_channel": True},
    "one scale a column, word embeddings in fp32": {"per_channel": True, "op_types_to_quantize": ["MatMul"]},
}


def compare_quantisations(ckpt: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Agreement with the graph in fp32 on training queries, for each of QUANTISATIONS, with one thread.

    Returns: a row for each, with queries alone and with several at once: {"way", "alone", "equal_picks": %,
        "largest_difference", "per_cpu_second", "megabytes"}.
    """
    folder = find(ckpt)
    config = read_config(folder)
    paths = config["settings"]["data_paths"]
    files = load_all(paths, config["settings"].get("data_type"), ("data", "kinds"), **reading(config["settings"]))
    texts = sample([question for data in files for question in data.questions], count, seed)
    backend = OnnxBackend(folder, config, threads=1)
    expected = backend.similarities(texts)
    rows = []
    with tempfile.TemporaryDirectory() as place, bar(2 * len(QUANTISATIONS), "8-bit numbers", "way") as progress:
        path = Path(place) / MODEL
        for way, options in QUANTISATIONS.items():
            quantize_dynamic(folder / FOLDER / MODEL, path, weight_type=QuantType.QInt8, **options)
            backend.session = open_session(path, 1)
            for alone in (True, False):
                backend.tokens = 1 if alone else TOKENS
                begun = time.process_time()
                found = backend.similarities(texts)
                seconds = time.process_time() - begun
                rows.append(
                    {
                        "way": way,
                        "alone": alone,
                        "equal_picks": 100 * float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
                        "largest_difference": float(np.abs(found - expected).max()),
                        "per_cpu_second": len(texts) / seconds,
                        "megabytes": path.stat().st_size / 1e6,
                    }
                )
                progress.update()
    return rows
