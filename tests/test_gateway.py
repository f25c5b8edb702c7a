"""The gateway without LiteLLM: what a request asks, which LLMs there are for it, and the thread that chooses."""

import asyncio
import importlib
import logging
import sys
import time
from collections.abc import Callable, Collection
from types import ModuleType, SimpleNamespace

import pytest
from conftest import REPO

sys.path.append(str(REPO / "tests" / "gateway"))
import standin

from utils.gateway.chooser import Chooser, Options, deployments, options_of, question, ranked
from utils.router import Router

# Requests


def chat(*content: object, role: str = "user") -> dict:
    return {"messages": [{"role": role, "content": part} for part in content]}


def test_the_last_user_message_is_the_question():
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "first"}]
    messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "last"}]
    assert question({"messages": messages}) == "last"
    assert question({"messages": [*messages, {"role": "tool", "content": "42"}]}) == "last"
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    parts = [{"type": "text", "text": "What is"}, image, {"type": "input_text", "text": "this?"}]
    assert question(chat("first", parts)) == "What is\nthis?"
    assert question({"prompt": "complete me"}) == "complete me"
    assert question({"input": "respond"}) == "respond"
    assert question({"input": chat("respond")["messages"]}) == "respond"


@pytest.mark.parametrize(
    "request_",
    [{}, {"messages": []}, {"messages": None}, chat(" \n"), chat(None), chat("hi", role="system"), chat([{"text": 3}])],
)
def test_a_request_without_text_is_refused(request_):
    with pytest.raises(ValueError, match="the last user message has no text.*; name a model, or add text"):
        question(request_)


def test_text_that_is_no_utf8_is_refused():
    with pytest.raises(ValueError, match="not valid UTF-8"):
        question(chat("a\ud800b"))


def test_options_are_numbers():
    assert options_of(None) == options_of({}) == Options(0.0, None)
    assert options_of({"cost_rate": "50", "threshold": 0.6}) == Options(50.0, 0.6)
    for wrong in ({"cost": 1}, [1], "0.5", {"cost_rate": 1, "other": 2}):
        with pytest.raises(ValueError, match="it may have cost_rate and threshold"):
            options_of(wrong)
    for wrong in ("much", None, "nan", [1]):
        with pytest.raises(ValueError, match="threshold is .*; it must be a number"):
            options_of({"threshold": wrong})


def test_models_of_the_proxy_are_llms_by_name_or_by_what_they_say():
    models = [{"model_name": "routerdc"}, {"model_name": "b"}, {"model_name": "b"}, {"model_name": "other"}]
    models += [{"model_name": "my a", "model_info": {"routerdc": "org/a"}}, {"model_name": "org/a", "model_info": None}]
    assert deployments(models, ["c", "org/a", "b"]) == {"org/a": "my a", "b": "b"}


# Choices


def ask(text: str, **options: float) -> list[str]:
    """All LLMs of the stand-in for a question, the best first."""
    router = standin.make()
    similarity = router.similarities([text])[0]
    choice = ranked(router, similarity, router.llms, Options(**options))
    assert sorted(choice.llms) == sorted(router.llms)
    assert choice.similarities == tuple(float(similarity[router.llms.index(llm)]) for llm in choice.llms)
    return list(choice.llms)


def test_the_others_follow_by_similarity():
    assert ask("html good-b dead: x")[:4] == ["html", "good-b", "dead", "good-a"]  # equal ones in the router's order
    router = standin.make()
    similarity = router.similarities(["html good-b dead: x"])[0]
    assert ranked(router, similarity, ["dead", "slow", "good-b"], Options()).llms == ("good-b", "dead", "slow")


def test_a_cost_rate_and_a_threshold_change_the_choice():
    """P(right) is 1 / (1 + e^-similarity): 0.731 for the first, 0.711 for the second; good-b costs 0.01 dollars."""
    assert ask("good-b dead: x", cost_rate=1.9)[:2] == ["good-b", "dead"]
    assert ask("good-b dead: x", cost_rate=2.1)[:2] == ["dead", "good-b"]
    assert ask("dead html: x", threshold=0.73)[:2] == ["dead", "html"]
    assert ask("dead html: x", threshold=0.74)[:3] == ["good-b", "dead", "html"]


# Threads


def test_the_loop_goes_on_while_a_router_computes_and_batches_what_waits():
    router = standin.make()
    chooser = Chooser(router, largest_batch=8)

    async def run() -> tuple[list[str], float]:
        slow = asyncio.create_task(chooser.choose("sleep 0.5 good-b: x", router.llms, Options()))
        await asyncio.sleep(0.05)  # the thread has begun
        questions = [f"{llm}: {number}" for number in range(3) for llm in router.llms]
        tasks = [asyncio.create_task(chooser.choose(text, router.llms, Options())) for text in questions]
        await asyncio.sleep(0)  # all wait
        tasks[5].cancel()  # its client has gone
        longest = 0.0
        while not slow.done():
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - began)
        choices = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(choices.pop(5), asyncio.CancelledError)
        del questions[5]
        assert [choice.llms[0] for choice in choices] == [text.split(":")[0] for text in questions]
        return questions, longest

    questions, longest = asyncio.run(run())
    assert longest < 0.25  # of the half second for which the router slept
    assert [len(batch) for batch in router.engine.batches] == [1, 8, 8, 4]  # without the one that has gone
    assert sum(router.engine.batches[1:], []) == questions


def test_an_error_of_the_router_reaches_its_request_and_the_next_is_answered():
    router = standin.make()
    chooser = Chooser(router)

    async def run() -> None:
        with pytest.raises(IndexError):
            await chooser.choose(":", router.llms, Options())  # the stand-in looks for a first word
        with pytest.raises(ValueError, match="cost_rate is -1"):
            await chooser.choose("dead: x", router.llms, Options(cost_rate=-1))
        assert (await chooser.choose("dead: x", router.llms, Options())).llms[0] == "dead"

    asyncio.run(run())


# The plug-in, with the little of LiteLLM that it touches


class HTTPError(Exception):
    """In place of fastapi's HTTPException."""

    def __init__(self, status: int, detail: str):
        super().__init__(f"{status}: {detail}")


class Proxy:
    """In place of LiteLLM's router: its models, and those that a key may call."""

    def __init__(self, allowed: Collection[str]):
        self.model_list = [{"model_name": name} for name in ("routerdc", *standin.LLMS[:3], "other")]
        self.allowed = allowed

    async def fallback_access_check(self, model: str, request_kwargs: dict, llm_router: object) -> bool:
        assert llm_router is self and "messages" in request_kwargs
        return model in self.allowed


@pytest.fixture
def plug_in(monkeypatch) -> Callable[..., ModuleType]:
    """A module of utils.gateway, imported anew with stand-ins for what it takes of LiteLLM."""
    parts = {
        "fastapi": {"HTTPException": HTTPError},
        "litellm": {"callback_settings": {"routerdc": {"checkpoint": "runs/none", "backend": "onnx"}}},
        "litellm._logging": {"verbose_proxy_logger": logging.getLogger("test")},
        "litellm.integrations": {},
        "litellm.integrations.custom_logger": {"CustomLogger": object},
        "litellm.proxy": {"proxy_server": SimpleNamespace(llm_router=None)},
    }
    for name, attributes in parts.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)

    def imported(name: str) -> ModuleType:
        for module in ("plugin", "routing"):
            monkeypatch.delitem(sys.modules, f"utils.gateway.{module}", raising=False)
        return importlib.import_module(f"utils.gateway.{name}")

    yield imported
    for module in ("plugin", "routing"):
        sys.modules.pop(f"utils.gateway.{module}", None)


def called(module: ModuleType, allowed: Collection[str], kind: str = "acompletion", **request: object) -> dict:
    """A request after the plug-in's first hook."""
    module.proxy_server.llm_router = Proxy(allowed)
    plugin = module.RouterDCPlugin(standin.make())
    return asyncio.run(plugin.async_pre_call_hook(None, None, request, kind)) or request


def test_a_key_is_sent_only_to_llms_that_it_may_call(plug_in):
    module = plug_in("plugin")
    request = {"model": "routerdc", **chat("good-b dead good-a: x")}
    everything = called(module, standin.LLMS, **request)
    assert [everything["model"], *everything["fallbacks"]] == ["good-b", "dead", "good-a"]
    assert everything["metadata"]["spend_logs_metadata"]["routerdc"]["llms"] == ("good-b", "dead", "good-a")
    some = called(module, ("dead", "good-a"), **request)
    assert [some["model"], *some["fallbacks"]] == ["dead", "good-a"]
    with pytest.raises(HTTPError, match="503: .*the key may call none of them"):
        called(module, (), **request)


def test_what_is_no_chat_is_refused_and_another_model_passes(plug_in):
    module = plug_in("plugin")
    with pytest.raises(HTTPError, match="400: routerdc: it stands for LLMs, and this is aembedding"):
        called(module, standin.LLMS, "aembedding", model="routerdc", input="good-a: x")
    named = {"model": "dead", **chat("good-a: x"), "metadata": {"routerdc": {"llms": ["of the client"]}}}
    passed = called(module, standin.LLMS, **named)
    assert passed == {"model": "dead", **chat("good-a: x"), "metadata": {}}  # and no header by the client's hand
    plugin = module.RouterDCPlugin(standin.make())
    assert asyncio.run(plugin.async_post_call_response_headers_hook(passed, None, None)) is None


def test_headers_are_ascii(plug_in):
    plugin = plug_in("plugin").RouterDCPlugin(standin.make())
    data = {"metadata": {"routerdc": {"llms": ("组织/模型", "b"), "similarities": (0.5, 0.25)}}}
    headers = asyncio.run(plugin.async_post_call_response_headers_hook(data, None, None))
    assert headers == {"x-routerdc-llm": r"\u7ec4\u7ec7/\u6a21\u578b", "x-routerdc-similarity": "0.5000"}


def test_settings_are_those_of_the_router(plug_in, monkeypatch):
    asked = []

    def from_pretrained(name: str, backend: str = "torch", threads: int = 0) -> str:
        asked.append((name, backend, threads))
        return standin.make()

    monkeypatch.setattr(Router, "from_pretrained", from_pretrained)
    module = plug_in("routing")
    assert asked == [("runs/none", "onnx", 0)] and module.plugin.chooser.router.llms == standin.LLMS
    with pytest.raises(ValueError, match="there is no speed; it has checkpoint, backend, threads"):
        module.router_of({"checkpoint": "a", "speed": 1})
    for settings in ({}, {"checkpoint": None}):
        with pytest.raises(ValueError, match="callback_settings: routerdc: checkpoint is missing"):
            module.router_of(settings)
