"""utils/baselines/voting.py: votes by hand, and a file of answers by a loop."""

import json

import numpy as np
import pytest
from conftest import LLMS, make_rows

from utils.baselines.voting import vote, voting
from utils.data import DataError, load

VOTES = [  # answers of the LLMs, which are right, what the vote earns
    (["a", "a", "b"], [True, True, False], 1),
    (["a", "b", "b"], [True, False, False], 0),
    (["a", "b", "c"], [False, True, False], 1 / 3),
    (["a", "a", "b", "b", "c"], [False, False, True, True, True], 0.5),
    ([None, None, "b"], [False, False, True], 1),
    ([None, None], [False, False], 0),
]


@pytest.mark.parametrize(("answers", "right", "earned"), VOTES)
def test_votes(answers, right, earned):
    assert vote(answers, right) == pytest.approx(earned)


def test_a_vote_needs_consistent_verdicts():
    with pytest.raises(ValueError, match="'a' is right for one LLM and wrong for another"):
        vote(["a", "a"], [True, False])


def with_answers(rows: list[dict], count: int) -> tuple[list[dict], list[dict]]:
    """Rows and the answers to them: every LLM answers `count` times.

    A right answer is the number of the row, a wrong one one of three negative numbers.
    """
    rng, sides = np.random.default_rng(0), []
    for number, row in enumerate(rows):
        right = {llm: [bool(rng.random() < score) for _ in range(count)] for llm, score in row["scores"].items()}
        answers = {}
        for llm, verdicts in right.items():
            answers[llm] = [number if verdict else -int(rng.integers(1, 4)) for verdict in verdicts]
        sides.append({"answers": answers, "right": right})
        row["scores"] = {llm: sum(verdicts) / count for llm, verdicts in right.items()}
    return rows, sides


@pytest.fixture
def answered(tmp_path):
    """The path of 40 rows, the path of the answers to them, and these answers, three of each LLM."""
    rows, sides = with_answers(make_rows(40, "multi_attempt", 5), 3)
    path, answers = tmp_path / "poems_test.json", tmp_path / "answers" / "poems_test.json"
    path.write_text(json.dumps(rows))
    answers.parent.mkdir()
    answers.write_text(json.dumps(sides))
    return path, answers, sides


def test_voting_on_a_file_is_a_loop(answered):
    path, answers, sides = answered
    expected = []
    for side in sides:
        votes = []
        for m in range(3):
            given = [side["answers"][llm][m] for llm in LLMS]
            most = max(given.count(answer) for answer in given)
            winners = {answer for answer in given if given.count(answer) == most}
            votes.append(sum(answer >= 0 for answer in winners) / len(winners))  # only right answers are row numbers
        expected.append(sum(votes) / 3)
    assert voting(load(path, "multi_attempt"), answers.parent) == pytest.approx(expected)
    assert 0 < np.mean(expected) < 1


def test_answers_that_do_not_fit_the_rows_are_named(answered):
    path, answers, sides = answered
    data = load(path, "multi_attempt")

    def error_after(change) -> str:
        wrong = json.loads(json.dumps(sides))
        change(wrong)
        answers.write_text(json.dumps(wrong))
        with pytest.raises(DataError) as error:
            voting(data, answers.parent)
        return str(error.value)

    message = error_after(lambda wrong: wrong[7]["answers"].pop(LLMS[0]))
    assert "row 7: no 'answers' or no 'right' of org/alpha-7b" in message
    message = error_after(lambda wrong: wrong[7]["right"][LLMS[0]].pop())
    assert "row 7: every LLM must have the same number of answers" in message
    assert "answers to 39 queries" in error_after(lambda wrong: wrong.pop())
    assert "the verdicts are not those of the scores in row 0" in error_after(lambda wrong: wrong.reverse())
    answers.unlink()
    with pytest.raises(DataError, match="no such file; voting needs the answers to every query"):
        voting(data, answers.parent)
