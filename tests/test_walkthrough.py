"""The walk-through of the README, as it is written, in a copy of the repository: from data to a gateway."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import REPO
from test_layout import kept

from utils.gateway.local import Gateway, free_port, served
from utils.router import Router

KEY = "sk-of-the-test-0123456789abcdef"


def block() -> str:
    """The commands of the README that end with the gateway."""
    found = re.findall(r"```bash\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (commands,) = [text for text in found if "litellm --config" in text]
    return commands


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> Path:
    """A copy of what git knows, in which all commands but those of the gateway have run."""
    clone = tmp_path_factory.mktemp("walk") / "clone"
    for path in kept():
        target = clone / path.relative_to(REPO)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    commands, gateway, _ = block().partition("# in an environment with utils/gateway/requirements.txt")
    assert gateway
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": ""}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return clone / "runs" / "own"


def test_each_step_leaves_what_it_is_for(walked):
    results = json.loads((walked / "router" / "results.json").read_text())
    singles = results["test"]["references"]
    best = max(sum(singles[llm].values()) / 4 for llm in results["test"]["llms"])
    assert results["test"]["id_avg"] > best + 20  # the LLMs differ, and the router knows where
    picks = [json.loads(line) for line in (walked / "picks.jsonl").read_text().splitlines()]
    assert [pick["llm"] for pick in picks] == ["mini/maths"]
    llms = {}
    for name in ("router/checkpoint", "four", "five"):
        llms[name] = json.loads((walked / name / "config.json").read_text())["llms"]
    assert sorted(llms["router/checkpoint"]) == sorted(llms["five"])
    assert set(llms["five"]) - set(llms["four"]) == {"mini/generalist"}
    assert (walked / "five" / "onnx" / "model.onnx").is_file()


@pytest.fixture(scope="module")
def proxy(walked, gateway_python) -> Iterator[Gateway]:
    """The gateway's commands of the README, with LLM servers of ours behind it."""
    backends, port = free_port(), free_port()
    own = {"LLM_SERVER": f"http://127.0.0.1:{backends}/echo/v1", "LITELLM_MASTER_KEY": KEY, "OPENAI_API_KEY": KEY}
    path = f"{Path(gateway_python).parent}{os.pathsep}{os.environ['PATH']}"
    local = {"PATH": path, "PORT": str(port), "HOST": "127.0.0.1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment = os.environ | own | local | {"PYTHONPATH": str(REPO)}
    llms = [gateway_python, "-m", "utils.gateway.backends", "--port", str(backends)]
    commands = "# in an environment with" + block().partition("# in an environment with")[2]
    url, logs = f"http://127.0.0.1:{port}", walked
    program = [
        "bash",
        "-euo",
        "pipefail",
        "-c",
        f"cd {walked.parents[1]}\n{commands.replace('PYTHONPATH', 'exec env PYTHONPATH')}",
    ]
    with ExitStack() as servers:
        servers.enter_context(served(llms, f"http://127.0.0.1:{backends}", logs / "llms.log", environment))
        pid = servers.enter_context(served(program, f"{url}/health/liveliness", logs / "proxy.log", environment))
        yield Gateway(gateway_python, url, environment, logs / "proxy.log", pid)


def test_the_gateway_sends_each_question_to_the_llm_that_the_router_picks(walked, proxy):
    """The proxy computes with ONNX; torch tells which LLM it must be."""
    questions = []
    for task in ("arithmetic", "chinese", "facts", "functions"):
        rows = json.loads((REPO / "datasets" / "miniature" / f"{task}_test.json").read_text(encoding="utf-8"))
        questions += [row["question"] for row in rows[:5]]
    picks = Router.from_pretrained(walked / "five").route(questions)
    assert len(set(picks)) >= 3
    asked = [{"model": "routerdc", "messages": [{"role": "user", "content": text}]} for text in questions]
    answers = proxy.ask(*asked)
    assert [answer["text"] for answer in answers] == [f"echo|{llm}|{text}" for llm, text in zip(picks, questions)]
    assert [answer["headers"]["x-routerdc-llm"] for answer in answers] == picks
