"""The gateway: questions, choices and threads without LiteLLM; then its real proxy, the real client, and failing LLMs.

The proxy's tests need an environment with utils/gateway/requirements.txt. It is the one whose Python ROUTERDC_GATEWAY
names, or .cache/gateway, which is made once where packages can be had; else they are skipped.
"""

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPO

sys.path.append(str(REPO / "tests" / "gateway"))
import standin

from utils.gateway.chooser import Chooser, Options, deployments, options_of, question, ranked

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


# The real proxy

ENVIRONMENT = REPO / ".cache" / "gateway"
KEY = f"sk-{secrets.token_hex(16)}"


@pytest.fixture(scope="module")
def python() -> str:
    """A Python with LiteLLM's proxy."""
    if given := os.environ.get("ROUTERDC_GATEWAY"):
        return given
    program = ENVIRONMENT / "bin" / "python"
    requirements = (REPO / "utils" / "gateway" / "requirements.txt").read_text(encoding="utf-8")
    stamp = ENVIRONMENT / "requirements.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != requirements:
        install = [program, "-m", "pip", "install", "-q", "--no-compile", "--timeout", "5", "--retries", "0"]
        for command in ([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], [*install, "-r", "/dev/stdin"]):
            run = subprocess.run(command, input=requirements, capture_output=True, text=True, timeout=300)
            if run.returncode:
                pytest.skip(f"LiteLLM's proxy could not be installed: {run.stderr[-300:]}")
        stamp.write_text(requirements, encoding="utf-8")
    return str(program)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def served(command: list[str], url: str, log: Path, **environment: str) -> Iterator[None]:
    """A server that runs until the end of the block; it is there when the address answers anything."""
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=REPO) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                except urllib.error.HTTPError:
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()[-3000:]
                    time.sleep(0.1)
            else:
                raise AssertionError(f"{url} does not answer: {log.read_text()[-3000:]}")
            yield
        finally:
            process.terminate()


def configuration(port: int) -> dict:
    """LiteLLM's, with every server of the stand-in; good-b has another name."""
    models = [{"model_name": "routerdc", "litellm_params": {"model": "openai/x", "api_base": "http://127.0.0.1:9"}}]
    for llm in standin.LLMS:
        address = f"http://127.0.0.1:{9 if llm == 'dead' else port}/{llm}/v1"
        params = {"model": f"openai/{llm}-1", "api_base": address, "api_key": "none", "timeout": 1, "stream_timeout": 1}
        models.append({"model_name": llm, "litellm_params": params})
    models[2] |= {"model_name": "the-other", "model_info": {"routerdc": "good-b"}}
    return {
        "model_list": models,
        "litellm_settings": {"callbacks": "standin_plugin.plugin"},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }


@dataclass(frozen=True)
class Proxy:
    """LiteLLM's proxy that runs with the stand-in."""

    python: str
    url: str
    environment: dict[str, str]
    log: Path

    def ask(self, *requests: dict, clients: int = 64) -> list[dict]:
        """Answers of the real client, by utils/gateway/client.py in a process of its own."""
        command = [self.python, "-m", "utils.gateway.client", "--url", self.url, "--clients", str(clients)]
        options = {"capture_output": True, "text": True, "env": self.environment, "cwd": REPO, "timeout": 120}
        run = subprocess.run(command, input=json.dumps(requests), **options)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)


@pytest.fixture(scope="module")
def proxy(python, tmp_path_factory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("gateway")
    port, backends = free_port(), free_port()
    path = folder / "config.yaml"
    path.write_text(json.dumps(configuration(backends)))
    own = {"PYTHONPATH": f"{REPO}:{REPO / 'tests' / 'gateway'}", "LITELLM_MASTER_KEY": KEY, "OPENAI_API_KEY": KEY}
    environment = os.environ | own | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "INFO"}
    llms = [python, "-m", "utils.gateway.backends", "--port", str(backends)]
    program = [
        str(Path(python).with_name("litellm")),
        "--config",
        str(path),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as servers:
        servers.enter_context(served(llms, f"http://127.0.0.1:{backends}", folder / "llms.log", **environment))
        servers.enter_context(served(program, f"{url}/health/liveliness", folder / "proxy.log", **environment))
        yield Proxy(python, f"{url}/v1", environment, folder / "proxy.log")


def asked(text: str, model: str = "routerdc", **others: object) -> dict:
    return {"model": model, **chat(text), **others}


def routed(answer: dict) -> str | None:
    return answer["headers"].get("x-routerdc-llm")


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_goes_to_the_llm_that_the_router_chooses(proxy, stream):
    first, other, named = proxy.ask(
        asked("good-a: hello", stream=stream),
        asked("good-b slow: hello", stream=stream),
        asked("good-b: hello", "good-a", stream=stream),
    )
    assert first["text"] == "good-a|good-a-1|good-a: hello" and routed(first) == "good-a"
    assert other["text"] == "good-b|good-b-1|good-b slow: hello" and routed(other) == "good-b"
    assert first["headers"]["x-routerdc-similarity"] == "1.0000" and first["model"] == "routerdc"
    assert other["headers"]["x-litellm-model-group"] == "the-other"
    assert named["text"] == "good-a|good-a-1|good-b: hello" and routed(named) is None  # it named its model
    log = proxy.log.read_text()
    assert "routerdc: {'llms': ('good-b', 'slow', 'good-a'," in log
