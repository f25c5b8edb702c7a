"""The gateway's benchmark: what it refuses to count, and its figures."""

import json
from types import SimpleNamespace

import pytest
from conftest import REPO

from utils.gateway.benchmark import added, ask, page, questions_of


def test_questions_are_all_different():
    path = str(REPO / "datasets" / "miniature" / "chinese_test.json")
    questions = questions_of([path], 200)
    assert len(set(questions)) == 200
    first = json.loads((REPO / "datasets" / "miniature" / "chinese_test.json").read_text(encoding="utf-8"))[0]
    assert questions[0] == f"{first['question']} (0)" and questions[81] == f"{first['question']} (81)"


@pytest.mark.parametrize("text", ["echo|b|one", "echo|a|two", None])
def test_an_answer_that_is_anothers_or_lost_ends_the_benchmark(text):
    def answers(*requests: dict, clients: int) -> list[dict]:
        return [{"text": "echo|a|one", "seconds": 1.5}, {"seconds": 2.0} | ({"text": text} if text else {})][
            : len(requests)
        ]

    proxy = SimpleNamespace(ask=answers)
    assert ask(proxy, "named", ["one"], ["a"], 1).tolist() == [1.5]
    with pytest.raises(ValueError, match="routed: 'two' should be answered by b, and this came back"):
        ask(proxy, "routed", ["one", "two"], ["a", "b"], 2)


def test_figures_are_over_all_rounds_and_the_range_over_single_ones():
    rounds = {"named": [[10.0, 20.0, 30.0], [10.0, 10.0, 10.0]], "routed": [[30.0, 30.0, 30.0], [5.0, 10.0, 50.0]]}
    figures = added(rounds, 50)
    assert figures == {"named": 10.0, "routed": 30.0, "ratio": 3.0, "range": [1.0, 1.5]}


def test_the_page_is_what_its_figures_say():
    result = json.loads((REPO / "results" / "gateway.json").read_text(encoding="utf-8"))
    assert (REPO / "results" / "gateway.md").read_text(encoding="utf-8") == page(result)
    for clients, arms in result["by_round"].items():
        assert result["added"][clients]["median"] == added(arms, 50)
