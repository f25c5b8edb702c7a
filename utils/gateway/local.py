"""LiteLLM's proxy and small LLM servers as processes of this machine, for the benchmark and the tests."""

import json
import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
DISCARD = 9  # a port on which nobody listens


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(url: str) -> bool:
    """Whether a server answers there, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def served(
    command: Sequence[str], url: str, log: Path, environment: Mapping[str, str], seconds: int = 300
) -> Iterator[int]:
    """A server that runs during the block, which begins when `url` answers. Yields its process id.

    Raises: RuntimeError, with the end of its log, if the server ends before, or does not answer within `seconds`.
    """
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=REPO) as process:
        try:
            end = time.monotonic() + seconds
            while not answers(url):
                if process.poll() is not None or time.monotonic() > end:
                    state = f"{' '.join(command)} does not answer" if process.poll() is None else "it ended"
                    raise RuntimeError(f"{state}; {log} ends with: {log.read_text()[-3000:]}")
                time.sleep(0.1)
            yield process.pid
        finally:
            process.kill()


@dataclass(frozen=True)
class Gateway:
    """LiteLLM's proxy that runs, and LLM servers behind it."""

    python: str
    url: str
    environment: dict[str, str]
    log: Path
    pid: int

    def ask(self, *requests: Mapping[str, Any], clients: int = 64) -> list[dict[str, Any]]:
        """What `client.ask_all` returns, from a process of its own. Raises: RuntimeError if that ends with an error."""
        command = [self.python, "-m", "utils.gateway.client", "--url", f"{self.url}/v1", "--clients", str(clients)]
        options: dict[str, Any] = {"capture_output": True, "text": True, "env": self.environment, "cwd": REPO}
        run = subprocess.run(command, input=json.dumps(requests), **options)
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)}: {run.stderr}")
        return json.loads(run.stdout)


@dataclass(frozen=True)
class Model:
    """A model of the proxy, and the KIND of server (backends.py) behind it; "dead": there is none.

    llm: which one it is; None: that of its name.
    """

    name: str
    kind: str
    llm: str | None = None

    def entry(self, port: int) -> dict[str, Any]:
        """Of LiteLLM's model_list, with servers on a port. The slow one has a second to answer."""
        address = f"http://127.0.0.1:{DISCARD if self.kind == 'dead' else port}/{self.kind}/v1"
        params = {"model": f"openai/{self.name}", "api_base": address, "api_key": "none"}
        seconds = 1 if self.kind == "slow" else 60
        params |= {"timeout": seconds, "stream_timeout": seconds}
        return {"model_name": self.name, "litellm_params": params, "model_info": {"routerdc": self.llm or self.name}}


@contextmanager
def gateway(
    python: str, folder: Path, models: Sequence[Model], settings: Mapping[str, Any], **variables: str
) -> Iterator[Gateway]:
    """A proxy with these models and routerdc, and the servers behind them, during the block.

    Args:
        python: of an environment with requirements.txt.
        folder: for the configuration and the logs.
        settings: more of LiteLLM's configuration, such as litellm_settings.
        variables: of the environment.
    """
    backends, port, key = free_port(), free_port(), f"sk-{secrets.token_hex(16)}"
    model_list = [model.entry(backends) for model in (Model("routerdc", "dead"), *models)]
    config = folder / "config.yaml"
    config.write_text(json.dumps({"model_list": model_list, **settings}), encoding="utf-8")
    own = {"LITELLM_MASTER_KEY": key, "OPENAI_API_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment = os.environ | {"PYTHONPATH": str(REPO)} | own | variables
    llms = [python, "-m", "utils.gateway.backends", "--port", str(backends)]
    litellm = str(Path(python).with_name("litellm"))
    proxy = [litellm, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as servers:
        servers.enter_context(served(llms, f"http://127.0.0.1:{backends}", folder / "llms.log", environment))
        pid = servers.enter_context(served(proxy, f"{url}/health/liveliness", folder / "proxy.log", environment))
        yield Gateway(python, url, environment, folder / "proxy.log", pid)
