"""The gateway with LiteLLM's real proxy, the real client, and LLM servers of which some fail, streamed and not."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import REPO

from utils.gateway.local import Gateway, Model, gateway

GOOD = ("good-a", "good-b")  # the servers that answer; the LLMs are those of tests/gateway/standin.py
BAD = ("dead", "html", "broken", "error", "slow")


@dataclass
class Question:
    """A request for chat.completions, and its answer."""

    request: dict[str, Any]
    answer: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        return self.answer["text"]

    @property
    def chosen(self) -> str | None:
        return self.answer["headers"].get("x-routerdc-llm")


def question(text: Any, model: str = "routerdc", **others: Any) -> Question:
    return Question({"model": model, "messages": [{"role": "user", "content": text}], **others})


@pytest.fixture(scope="module")
def proxy(gateway_python, tmp_path_factory) -> Iterator[Gateway]:
    """With the router of standin.py; good-b is a model of another name."""
    models = [Model(llm, llm) for llm in ("good-a", *BAD)] + [Model("the-other", "good-b", llm="good-b")]
    settings = {
        "litellm_settings": {"callbacks": "standin_plugin.plugin"},
        "router_settings": {"num_retries": 0, "max_fallbacks": 6, "disable_cooldowns": True},
    }
    variables = {"PYTHONPATH": f"{REPO}:{REPO / 'tests' / 'gateway'}", "LITELLM_LOG": "INFO"}
    with gateway(gateway_python, tmp_path_factory.mktemp("gateway"), models, settings, **variables) as proxy:
        yield proxy


def crowd() -> list[tuple[str, Question]]:
    """Questions of all kinds, each with the server that must answer it and a number of its own."""
    numbers, made = itertools.count(), []

    def add(server: str, words: str, model: str = "routerdc") -> None:
        for stream in (False, True):
            made.append((server, question(f"{words}: number {next(numbers)}", model, stream=stream)))

    for server in GOOD:
        for _ in range(8):
            add(server, server)
            add("good-a", server, model="good-a")
    for bad in BAD:
        for server in GOOD:
            add(server, f"{bad} {server}")
    for first, second in itertools.permutations(BAD[:4], 2):
        add("good-b", f"{first} {second} good-b")
    return made


@pytest.fixture(scope="module")
def crowd_answers(proxy) -> list[tuple[str, Question]]:
    asked = crowd()
    assert len(asked) > 100
    for (_, one), answer in zip(asked, proxy.ask(*(one.request for _, one in asked), clients=64)):
        one.answer = answer
    return asked


def test_every_answer_is_the_one_of_its_own_request_from_the_best_llm_that_works(crowd_answers):
    """64 clients at once."""
    for server, one in crowd_answers:
        asked = one.request["messages"][0]["content"]
        assert one.answer.get("text", one.answer).split("|")[::2] == [server, asked]


def test_what_the_router_chose_is_in_the_headers_and_the_log(proxy, crowd_answers):
    for _, one in crowd_answers:
        words = one.request["messages"][0]["content"].split(":")[0].split()
        if one.request["model"] == "routerdc":
            assert one.chosen == words[0] and one.answer["headers"]["x-routerdc-similarity"] == "1.0000"
        else:
            assert one.chosen is None
        if one.chosen == "good-b":
            assert one.answer["headers"]["x-litellm-model-group"] == "the-other"
            assert one.answer["model"] == "routerdc"
    assert "routerdc: {'llms': ('dead', 'good-b', 'good-a'," in proxy.log.read_text()


@pytest.fixture(scope="module")
def singles(proxy) -> dict[str, Question]:
    """Questions by name, asked at once, after a router that sleeps has begun."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    text = {"type": "text", "text": "good-b good-a: what is this?"}
    asked = {
        "sleep": question("sleep 6 good-a: x"),
        "image and text": question([image, text]),
        "image": question([image]),
        "empty": question(" "),
        "dear": question("good-b good-a: x", extra_body={"routerdc": {"cost_rate": 100}}),
        "sure": question("good-a good-b: x", extra_body={"routerdc": {"threshold": 0.9}}),
        "unknown option": question("good-a: x", extra_body={"routerdc": {"speed": 1}}),
        "own fallback": question("dead good-b: x", extra_body={"fallbacks": ["good-a"]}),
        "no fallback": question("dead good-b: x", extra_body={"disable_fallbacks": True}),
        "nobody": question("dead good-b: x", extra_body={"fallbacks": ["html", "dead"]}),
    }
    for number in range(20):
        asked[f"named {number}"] = question("hello", "good-a")
    for one, answer in zip(asked.values(), proxy.ask(*(one.request for one in asked.values()))):
        one.answer = answer
    return asked


def test_a_router_that_is_slow_holds_up_no_other_request(singles):
    """All that name a model are answered while it sleeps."""
    assert singles["sleep"].text.startswith("good-a|") and singles["sleep"].answer["seconds"] > 6
    named = [one.answer["seconds"] for name, one in singles.items() if name.startswith("named")]
    assert len(named) == 20 and max(named) < 6


def test_a_request_has_its_own_cost_rate_threshold_and_fallbacks(singles):
    assert singles["image and text"].text.startswith("good-b|")
    assert singles["dear"].chosen == "good-a"  # good-b costs 0.01 dollars
    assert singles["sure"].chosen == "good-b"  # the best single LLM
    assert singles["own fallback"].text.startswith("good-a|") and singles["own fallback"].chosen == "dead"


@pytest.mark.parametrize(
    "name, status, words",
    [
        ("image", 400, "routerdc: the last user message has no text"),
        ("empty", 400, "routerdc: the last user message has no text"),
        ("unknown option", 400, "it may have cost_rate and threshold"),
        ("no fallback", 500, "Connection error"),
        ("nobody", 500, ""),
    ],
)
def test_what_cannot_be_answered_is_an_error_that_says_so(singles, name, status, words):
    answer = singles[name].answer
    assert answer.get("status") == status and words in answer["error"]
