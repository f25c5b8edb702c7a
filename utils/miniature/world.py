"""The made-up world of the miniature: who and what there is, how stories are told, what functions do, some Chinese.

Its words are in world.yaml beside this file. Countries, animals and people are invented by a seeded generator, so no
LLM outside knows them. `utils/miniature/texts.py` turns the world into questions and training texts.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

WORLD = yaml.safe_load(Path(__file__).with_name("world.yaml").read_text(encoding="utf-8"))
PEOPLE, THINGS, WARES, WORDS = (WORLD[name].split() for name in ("people", "things", "wares", "words"))


@dataclass(frozen=True)
class Story:
    """An arithmetic word problem.

    `question` has {name}, {thing}, {a}, {b}, {c}; `signs` says how a, b (and c) are joined.
    """

    question: str
    signs: str


@dataclass(frozen=True)
class Relation:
    """Facts of one kind. `questions` have {k}, `statements` have {k} and {v}; `values` maps each k to its v."""

    questions: tuple[str, ...]
    statements: tuple[str, ...]
    values: dict[str, str]


@dataclass(frozen=True)
class Operation:
    """What a short function does.

    kind: of its arguments: number, pair, list or text. `says` and `body` have {a}, {b} (arguments) and {k}, {m}
    (digits); `names` may have {k}, {m}.
    """

    kind: str
    names: tuple[str, ...]
    says: tuple[str, ...]
    body: str


@dataclass(frozen=True)
class Parameters:
    """How functions of one kind may call their arguments, and what a task description calls them."""

    names: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]


# Facts


def invented(rng: random.Random, count: int, ends: Sequence[str]) -> list[str]:
    """`count` different names of two or three syllables."""
    starts = "Bal Dor Fen Gar Hol Jar Kel Lum Mor Nar Pel Quin Ros Sel Tar Ulm Ves Wen Yor Zan".split()
    middles = ["a", "e", "i", "o", "u", ""]
    names = [start + middle + end for start in starts for middle in middles for end in ends]
    return rng.sample(names, count)


def drawn(rng: random.Random, keys: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """A value for each key, all values about equally often."""
    repeated = list(values) * (len(keys) // len(values) + 1)
    return dict(zip(keys, rng.sample(repeated, len(keys))))


def facts(seed: int, size: int) -> dict[str, tuple[Relation, ...]]:
    """The English multiple-choice subjects: three of an invented world with `size` entries each, one of numbers."""
    rng = random.Random(seed)
    lands = invented(rng, size, ("land", "mark", "stan"))
    animals = [name.lower() for name in invented(rng, size, ("bu", "fin", "pok"))]
    families = invented(rng, size, ("dric", "wina"))
    people = [f"{family} {name}" for family, name in zip(families, rng.choices(PEOPLE, k=size))]
    cities = invented(rng, size, ("by", "ford", "dam"))
    numbers = range(3, 60)
    keys = {"geography": lands, "animals": animals, "people": people}
    known = {
        "capital": dict(zip(lands, cities)),
        "successor": {str(number): str(number + 1) for number in numbers},
        "predecessor": {str(number): str(number - 1) for number in numbers},
        "double": {str(number): str(2 * number) for number in numbers},
    }
    subjects = {}
    for subject, entries in WORLD["facts"].items():
        relations = []
        for entry in entries:
            if "about" in entry:
                values = known[entry["about"]]
            else:
                values = drawn(rng, keys[subject], entry["values"].split())
            relations.append(relation(entry, values))
        subjects[subject] = tuple(relations)
    return subjects


def relation(entry: Mapping[str, Any], values: dict[str, str]) -> Relation:
    """A relation from its entry in world.yaml."""
    return Relation(tuple(entry["questions"]), tuple(entry["statements"]), values)


def pairs(text: str) -> dict[str, str]:
    """Pairs as world.yaml has them.

    "大小 多少" -> {"大": "小", "多": "少"}.
    With a colon, "水果:苹果,梨" -> {"苹果": "水果", "梨": "水果"}.
    """
    table = {}
    for entry in text.split():
        head, _, members = entry.partition(":")
        if members:
            table |= {member: head for member in members.split(",")}
        else:
            table[entry[:-1]] = entry[-1]
    return table


def chinese(name: str) -> dict[str, tuple[Relation, ...]]:
    """The Chinese multiple-choice subjects of one entry in world.yaml."""
    subjects = {}
    for subject, entries in WORLD[name].items():
        relations = []
        for entry in entries:
            values = pairs(entry["pairs"])
            if entry.get("both_ways"):
                values |= {value: key for key, value in values.items()}
            relations.append(relation(entry, values))
        subjects[subject] = tuple(relations)
    return subjects


# What world.yaml holds

ARITHMETIC = tuple(Story(**entry) for entry in WORLD["arithmetic"])
PRICES = tuple(Story(**entry) for entry in WORLD["prices"])
CHINESE = chinese("chinese")
IDIOMS = chinese("idioms")
PARAMETERS = {
    kind: Parameters(tuple(map(tuple, entry["names"])), tuple(entry["words"]))
    for kind, entry in WORLD["parameters"].items()
}
OPERATIONS = tuple(
    Operation(entry["kind"], tuple(entry["names"]), tuple(entry["says"]), entry["body"])
    for entry in WORLD["operations"]
)
