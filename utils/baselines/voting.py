"""Voting: every LLM answers and the most frequent answer counts.

It routes nothing, and costs as much as all LLMs together.
"""

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DataError, RoutingData, gains

AGAIN = "make both by one run of utils.scoring.convert"


def vote(answers: Sequence[Hashable | None], right: Sequence[bool]) -> float:
    """Whether the most frequent answer is right. answers, right: one of each LLM; None is no answer and no vote.

    Answers that are equally frequent share the vote: the mean over them. Equal answers must be right or wrong together.
    Raises: ValueError if they are not.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    verdicts: dict[Hashable, bool] = {}
    for answer, verdict in zip(answers, right):
        if answer is not None and verdicts.setdefault(answer, verdict) != verdict:
            raise ValueError(f"the answer {answer!r} is right for one LLM and wrong for another")
    most = max(votes.values())
    return float(np.mean([verdicts[answer] for answer, count in votes.items() if count == most]))


def _key(answer: Any) -> str | None:
    """An answer as something that can be counted; no answer stays None."""
    return None if answer is None else json.dumps(answer, sort_keys=True)


def answers_of(data: RoutingData, folder: str | Path) -> Path:
    """The file with the answers to the queries of `data`: that of the same name in `folder`.

    Raises: DataError if it is not there.
    """
    path = Path(folder) / Path(data.path).name
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; voting needs the answers to every query of {data.path}, and scores do not tell "
            "which wrong answers agree"
        )
    return path


def voting(data: RoutingData, folder: str | Path) -> np.ndarray:
    """What voting earns on each query of a file, (N,) in [0, 1]. With M answers of each LLM, the mean over M votes.

    The answers are in the file of the same name in `folder`, as `python -m utils.scoring.convert --answers` writes
    them: for each row `{"answers": {llm: [answer, ...]}, "right": {llm: [true or false, ...]}}`, M of each.
    Raises: DataError that names file and row, also where verdicts and scores disagree: then the files do not belong
    together.
    """
    path = answers_of(data, folder)
    rows = json.loads(path.read_text(encoding="utf-8"))
    if len(rows) != len(data):
        raise DataError(f"{path}: answers to {len(rows)} queries, {data.path} has {len(data)}; {AGAIN}")
    earned = gains(data.scores, data.kind)  # (N, T)
    votes = np.empty(len(data))
    for number, row in enumerate(rows):
        location = f"{path}, row {number}"
        answers, right = _answers_in(row, data.llms, location)
        if np.abs(np.mean(right, axis=1) - earned[number]).max() > 1e-4:
            raise DataError(
                f"{location}: the verdicts are not those of the scores in row {number} of {data.path}; {AGAIN}"
            )
        try:
            # The m-th vote is among the m-th answers of all LLMs.
            votes[number] = np.mean([vote(*ballot) for ballot in zip(zip(*answers), zip(*right))])
        except ValueError as error:
            raise DataError(f"{location}: {error}") from None
    return votes


def _answers_in(
    row: dict[str, Any], llms: Sequence[str], location: str
) -> tuple[list[list[str | None]], list[list[bool]]]:
    """The answers of each LLM in a row and whether they are right, M of each.

    location: of the row, for errors.
    Raises: DataError if an LLM is missing, or has more or fewer answers than another.
    """
    answers, right = row.get("answers", {}), row.get("right", {})
    missing = [llm for llm in llms if llm not in answers or llm not in right]
    if missing:
        raise DataError(f"{location}: no 'answers' or no 'right' of {', '.join(missing)}")
    keys = [[_key(answer) for answer in answers[llm]] for llm in llms]
    verdicts = [right[llm] for llm in llms]
    lengths = {len(of_llm) for of_llm in (*keys, *verdicts)}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(
            f"{location}: every LLM must have the same number of answers and verdicts, at least one; found "
            f"{sorted(lengths)}"
        )
    return keys, verdicts
