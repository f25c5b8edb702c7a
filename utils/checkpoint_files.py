"""The files of a checkpoint folder: names, digests and config, read and verified without torch.

`utils.checkpoint` saves and loads the model that is in them.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from .files import write_json
from .reading import ENDS, GIVEN, MISSING, PRECISIONS
from .tasks import DATASETS, KINDS

FORMAT = "routerdc-checkpoint-1"
WEIGHTS, CONFIG, ENCODER = "model.safetensors", "config.json", "encoder"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
NAMED = "named_encoder"  # key of the config: SHA-256 of the weights that the checkpoint does not hold
AGAIN = "the checkpoint is damaged, train or copy it again"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_count_or_null(value: Any) -> bool:
    return value is None or _is_count(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_text, value))


def _are_different_texts(value: Any) -> bool:
    return _are_texts(value) and len(set(value)) == len(value)


def _are_kinds_or_null(value: Any) -> bool:
    return value is None or (_are_texts(value) and set(value) <= set(KINDS))


def _are_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _are_tests(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(test, dict) and _is_text(test.get("path")) and _is_text(test.get("kind")) for test in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_costs(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(cost) and cost >= 0 for cost in value.values())


def _is_calibration(value: Any) -> bool:
    """Whether `utils.calibration.probabilities` can apply it."""
    if not isinstance(value, dict) or not _is_number(value.get("temperature")) or value["temperature"] <= 0:
        return False
    llms = value.get("llms")
    if not isinstance(llms, dict):
        return False
    return all(
        isinstance(line, dict) and _is_number(line.get("slope")) and _is_number(line.get("intercept"))
        for line in llms.values()
    )


def _is_one_of(words: Collection[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


# What the config must hold, as (test of the value, what it must be in words): first for the router itself, then for
# those who evaluate it.
NEEDED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "encoder": (_is_text, "a name"),
    "pooling": (_is_text, "a name"),
    "max_length": (lambda value: value == 0 or _is_count(value), "a number of tokens"),  # 0: `Given` reads no text
    "similarity_function": (_is_text, "a name"),
    "head": (_is_bool, "true or false"),
    "llms": (_are_different_texts, "a list of different names"),
    "router": (_is_text, "a name"),
    "precision": (_is_one_of(PRECISIONS), f"one of {', '.join(PRECISIONS)}"),
    "tests": (_are_tests, "a list of objects with path and kind"),
    "settings": (lambda value: isinstance(value, dict), "an object"),
    "settings.data_paths": (_are_texts, "a list of paths"),
    "settings.freeze_encoder": (_is_bool, "true or false"),
    "settings.train_layers": (_is_count_or_null, "null or a number of layers"),
}
# The same for keys that older checkpoints do not have.
NEEDED_IF_THERE: dict[str, tuple[Callable[[Any], bool], str]] = {
    NAMED: (_is_text, "a SHA-256"),
    "settings.max_characters": (_is_count_or_null, "null or a number of characters"),
    "settings.keep_characters": (_is_one_of(ENDS), " or ".join(ENDS)),
    "settings.missing_cells": (_is_one_of(MISSING), " or ".join(MISSING)),
    "settings.cost_rate": (lambda value: isinstance(value, (int, float)) and value >= 0, "a number that is at least 0"),
    "settings.data_type": (_are_kinds_or_null, "null or a list of score kinds"),
    "settings.data": (_are_digests, "an object with the SHA-256 of files"),
    "settings.dataset": (_is_one_of(tuple(DATASETS)), " or ".join(DATASETS)),
    "best_llm": (_is_text, "a name"),
    "costs": (_are_costs, "an object with a number of US dollars for each LLM"),
    "calibration": (_is_calibration, "an object with a temperature, and slope and intercept of each LLM"),
}
EMBEDS = ("pooling", "max_length", "head")  # keys of the config that change the embedding of a query


class CheckpointError(RuntimeError):
    """A folder is not a checkpoint of this project, or is damaged; the message says which file and why."""


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a checkpoint whose other files are there, with the digests of them and of itself."""
    config = {**config, "files": digests(folder)}
    write_json(folder / CONFIG, config | {"sha256": _digest_of_config(config)})


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that a checkpoint's model is made of, by its path in the folder; hidden files are not."""
    encoder = [path for path in sorted((folder / ENCODER).rglob("*")) if path.is_file() and path.name[0] != "."]
    digests = {}
    for path in [folder / WEIGHTS, *encoder]:
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _digest_of_config(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config as JSON has it, without the digest itself; spaces and the order of keys are no part of it."""
    rest = json.loads(json.dumps({name: value for name, value in config.items() if name != "sha256"}))
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def find(folder: str | Path, flag: str = "--ckpt") -> Path:
    """The checkpoint folder that a path means: itself, or its `checkpoint` if the path is a run's folder.

    Raises: CheckpointError, naming the flag that gave the path, if neither is one.
    """
    for candidate in (Path(folder), Path(folder) / "checkpoint"):
        if (candidate / CONFIG).is_file() and (candidate / WEIGHTS).is_file():
            return candidate
    missing = f"no checkpoint there ({CONFIG} and {WEIGHTS} are missing)"
    raise CheckpointError(f"{flag} {folder}: {missing}. Give the --save_path of a finished training run")


def check_config(config: dict[str, Any], path: Path) -> None:
    """Raise CheckpointError, naming the file and the key, unless everything NEEDED is in a config.

    path: of the file that the config was read from.
    """
    for key, (fits, words) in (NEEDED | NEEDED_IF_THERE).items():
        in_settings = key.startswith("settings.")
        name = key.removeprefix("settings.")
        values = config["settings"] if in_settings else config
        if name not in values:
            if key in NEEDED_IF_THERE:
                continue
            raise CheckpointError(f"{path}: {key} is missing; {AGAIN}")
        if not fits(values[name]):
            raise CheckpointError(f"{path}: {key} is {json.dumps(values[name])[:100]}, it must be {words}; {AGAIN}")


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a checkpoint folder.

    Raises: CheckpointError for another format, or a config that is damaged, edited or without something NEEDED.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG}: not valid JSON ({error}); {AGAIN}") from None
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG}: format is {found!r}, this code reads {FORMAT!r}. Weights of the released code (.pth) "
            "cannot be read: they are bare pickles"
        )
    check_config(config, folder / CONFIG)
    if "files" in config or "sha256" in config:
        found = _digest_of_config(config)
        if config.get("sha256") != found or not isinstance(config.get("files"), dict):
            raise CheckpointError(f"{folder / CONFIG}: it is not as it was saved (SHA-256 is now {found}); {AGAIN}")
    return config


def check_files(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming the file, unless the files of a checkpoint are those that its config tells of.

    Of a checkpoint from before there were digests only the names can be checked; a note on stderr says so.
    """
    found = digests(folder)
    saved = config.get("files", found)
    if "files" not in config:
        print(f"note: {folder} has no digests (it is older than they are): damage may go unnoticed", file=sys.stderr)
    needed = [] if config["encoder"] == GIVEN else [f"{ENCODER}/{name}" for name in (CONFIG, *TOKENIZER)]
    for name in sorted({*needed, *saved, *found}):
        if name not in found:
            raise CheckpointError(f"{folder / name}: no such file; {AGAIN}")
        if name not in saved:
            raise CheckpointError(f"{folder / name}: it is not of this checkpoint; remove it")
        if saved[name] != found[name]:
            raise CheckpointError(f"{folder / name}: it is not as it was saved (SHA-256 is {found[name]}); {AGAIN}")


def content_hash(folder: Path) -> str:
    """SHA-256 over what decides the query embeddings of a checkpoint: weights, tokenizer, EMBEDS.

    When, where and how it was trained is no part of it. Raises: CheckpointError as `read_config`.
    """
    config = read_config(folder)
    named = [config[NAMED]] if NAMED in config else []
    digest = hashlib.sha256(json.dumps([*(config[name] for name in EMBEDS), *named]).encode())
    for path in [folder / WEIGHTS, *sorted((folder / ENCODER).glob("*"))]:
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
