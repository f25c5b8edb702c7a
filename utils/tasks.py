"""The benchmark of the paper as data: LLMs, tasks, files, score kinds, and the numbers of Tables 1 and 2."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Order of the released data. Scores are always joined by name; this order only fixes rows of tables and embeddings.
LLMS = (
    "mistralai/Mistral-7B-v0.1",
    "meta-math/MetaMath-Mistral-7B",
    "itpossible/Chinese-Mistral-7B-v0.1",
    "HuggingFaceH4/zephyr-7b-beta",
    "cognitivecomputations/dolphin-2.6-mistral-7b",
    "meta-llama/Meta-Llama-3-8B",
    "cognitivecomputations/dolphin-2.9-llama3-8b",
)

KINDS = ("probability", "multi_attempt")


@dataclass(frozen=True)
class Task:
    """One task of the paper.

    `kind` names the score: "probability" (multiple choice and PreAlgebra: a pick is right if its score is above 0) or
    "multi_attempt" (share of the sampled answers that are right: a pick counts its score). Paths are relative to the
    repository; `train` is None for the out-of-distribution tasks.
    """

    name: str
    title: str
    kind: str
    test: str
    train: str | None = None

    @property
    def in_distribution(self) -> bool:
        """Whether the paper trains on this task."""
        return self.train is not None


_PLAIN, _CLUSTER = "datasets/split2_model7/", "datasets/split2_model7_cluster/"
TASKS = (  # report order of the paper
    Task("mmlu", "MMLU", "probability", _PLAIN + "mmlu_test.json", _CLUSTER + "mmlu_train.json"),
    Task("gsm8k", "GSM8K", "multi_attempt", _PLAIN + "gsm8k-test.json", _CLUSTER + "gsm8k-train.json"),
    Task("cmmlu", "CMMLU", "probability", _PLAIN + "cmmlu_test.json", _CLUSTER + "cmmlu_train.json"),
    Task(
        "arc_challenge",
        "ARC-C",
        "probability",
        _PLAIN + "arc_challenge_test.json",
        _CLUSTER + "arc_challenge_train.json",
    ),
    Task("humaneval", "HumanEval", "multi_attempt", _PLAIN + "humaneval_test.json", _CLUSTER + "humaneval_train.json"),
    Task("math_prealgebra", "PreAlgebra", "probability", _PLAIN + "MATH_prealgebra.json"),
    Task("mbpp", "MBPP", "multi_attempt", _PLAIN + "mbpp.json"),
    Task("ceval", "C-Eval", "probability", _PLAIN + "ceval.json"),
)
BY_NAME = {task.name: task for task in TASKS}
TRAIN_ORDER = ("gsm8k", "humaneval", "arc_challenge", "cmmlu", "mmlu")  # order of the released command
ROUTERBENCH = ("gsm8k", "hellaswag", "mbpp", "mmlu", "winograde", "arc_challenge")  # its tasks, as its files spell them
_OTHER_TITLES = {"hellaswag": "HellaSwag", "winograde": "WinoGrande", "math": "MATH"}
# Released, but not in a table of the paper.
OTHER_KINDS = {"javascript": "multi_attempt", "arc_easy": "probability", "hellaswag": "probability"}


def task_of(path: str | Path) -> str:
    """The task that a file's name stands for: "gsm8k-train.json" and "gsm8k-test.json" both give "gsm8k"."""
    return re.sub(r"[-_](train|test|val|valid|validation)$", "", Path(path).stem).lower()


def title_of(name: str) -> str:
    """Column title of a task: its own name if neither the paper nor the other data that is downloaded here has it."""
    return BY_NAME[name].title if name in BY_NAME else _OTHER_TITLES.get(name, name)


def routerbench(task: str, test: bool = False) -> str:
    """The released RouterBench file of a task, relative to the repository; those for training have cluster ids."""
    return f"datasets/routerbench_zs/{task}_test.csv" if test else f"datasets/routerbench_cluster/{task}_train.csv"


DATASETS = {  # --dataset: the defaults that it changes of the arguments about data
    "paper": {},
    "routerbench": {
        "data_paths": [routerbench(task) for task in ROUTERBENCH],
        "data_type": ["multi_attempt"],  # of all its files
        "test_data_paths": [routerbench(task, test=True) for task in ROUTERBENCH],
        "test_data_type": ["multi_attempt"],
        "final_eval_data_paths": [],
        "max_characters": 1400,
        "missing_cells": "drop",
    },
}


def kind_of(name: str) -> str | None:
    """Score kind of a task of the paper or of the released data, None for a task that neither knows."""
    return BY_NAME[name].kind if name in BY_NAME else OTHER_KINDS.get(name)


def short(llm: str) -> str:
    """Name of an LLM without its organisation, for tables."""
    return llm.rsplit("/", 1)[-1]


def short_names(llms: Iterable[str]) -> dict[str, str]:
    """Different names of LLMs for a table: without the organisation, except where two LLMs would have the same name.

    {"org-a/x": "org-a/x", "org-b/x": "org-b/x", "org-c/y": "y"} for these three.
    """
    llms = list(dict.fromkeys(llms))
    names = {}
    for llm in llms:
        words = llm.split("/")
        for count in range(1, len(words) + 1):
            names[llm] = "/".join(words[-count:])
            others = [other for other in llms if other != llm]
            if names[llm] not in ["/".join(other.split("/")[-count:]) for other in others]:
                break
    return names


# Testing accuracy in %, Tables 1 and 2 of the paper, in the order of TASKS. A test finds the rows of single LLMs in the
# data.
PAPER = {
    "mistralai/Mistral-7B-v0.1": (62.14, 36.71, 43.83, 49.43, 28.98, 24.80, 37.90, 46.43),
    "meta-math/MetaMath-Mistral-7B": (59.86, 69.63, 43.83, 48.30, 29.80, 39.15, 37.74, 45.17),
    "HuggingFaceH4/zephyr-7b-beta": (59.81, 33.00, 42.82, 57.95, 22.04, 20.78, 31.14, 44.87),
    "itpossible/Chinese-Mistral-7B-v0.1": (57.42, 41.03, 49.67, 43.47, 21.43, 18.48, 29.64, 48.44),
    "cognitivecomputations/dolphin-2.6-mistral-7b": (60.53, 52.38, 43.71, 52.56, 45.10, 29.28, 44.86, 45.10),
    "meta-llama/Meta-Llama-3-8B": (64.59, 47.76, 51.77, 49.43, 26.73, 27.67, 43.02, 52.01),
    "cognitivecomputations/dolphin-2.9-llama3-8b": (59.46, 69.81, 44.72, 49.43, 49.39, 39.72, 47.34, 44.80),
    "Voting": (63.30, 67.39, 47.48, 50.85, 42.85, 39.03, 41.60, 48.50),
    "CosineClassifier": (59.72, 69.03, 45.47, 50.57, 46.33, 36.97, 38.48, 47.77),
    "ZOOTER": (60.48, 66.69, 45.27, 53.13, 44.29, 34.44, 41.10, 44.95),
    "LoraRetriever": (63.33, 66.63, 51.77, 57.10, 40.00, 35.36, 43.12, 52.01),
    "RouterDC": (61.07, 70.32, 51.77, 58.52, 51.02, 38.81, 46.80, 51.93),
}
PAPER_AVERAGE = {  # printed averages (ID, OOD): of unrounded cells, so up to 0.01 from the mean of the cells above
    "mistralai/Mistral-7B-v0.1": (44.22, 36.38),
    "meta-math/MetaMath-Mistral-7B": (50.28, 40.69),
    "HuggingFaceH4/zephyr-7b-beta": (43.13, 32.26),
    "itpossible/Chinese-Mistral-7B-v0.1": (42.60, 32.19),
    "cognitivecomputations/dolphin-2.6-mistral-7b": (50.86, 39.75),
    "meta-llama/Meta-Llama-3-8B": (48.06, 40.90),
    "cognitivecomputations/dolphin-2.9-llama3-8b": (54.56, 43.95),
    "Voting": (54.37, 43.04),
    "CosineClassifier": (54.22, 41.07),
    "ZOOTER": (53.97, 40.16),
    "LoraRetriever": (55.77, 43.50),
    "RouterDC": (58.54, 45.85),
}
