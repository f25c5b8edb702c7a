"""What the router adds to LiteLLM's proxy: many clients at once, LLMs that answer at once, and are all answers right?

    python -m utils.gateway.benchmark --ckpt runs/quickstart/seed_1 --python .cache/gateway/bin/python

Each round asks the same questions twice, in turn: for an LLM by name, and for the model routerdc. Every answer must be
that of its own question by the LLM that was named, or that `Router.route` picks. --python is of an environment with
utils/gateway/requirements.txt; `python -m utils.onnx_export` makes what the backend onnx reads.
"""

import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import parse_arguments
from ..data import load
from ..files import write_json, write_text
from ..meters import bar
from ..router import Router
from ..tables import markdown
from .chooser import MODEL
from .local import Gateway, Model, gateway

QUANTILES = {"median": 50, "p95": 95, "p99": 99}
ARMS = ("named", "routed")
ALONE = 30  # requests of a single client
TESTS = tuple(f"datasets/miniature/{task}_test.json" for task in ("arithmetic", "chinese", "facts", "functions"))


@dataclass(frozen=True)
class Arguments:
    """options"""

    ckpt: str
    """a run's folder, a checkpoint folder, or a name on the hub"""
    python: Path
    """of the environment with LiteLLM's proxy"""
    questions: tuple[str, ...] = TESTS
    """data files with the questions, each put with a number of its own"""
    backend: str = "onnx"
    clients: int = 64
    rounds: int = 4
    requests: int = 192
    """in each round, for each of the two ways"""
    output: Path = Path("results")
    """folder for gateway.json and gateway.md"""


def questions_of(paths: Sequence[str], count: int) -> list[str]:
    """Questions of data files, again and again until there are `count`; a number makes each the only one."""
    found = [question for path in paths for question in load(path, "probability").questions]
    return [f"{found[number % len(found)]} ({number})" for number in range(count)]


def ask(proxy: Gateway, arm: str, questions: Sequence[str], picks: Sequence[str], clients: int) -> np.ndarray:
    """Seconds of each question, (N,). Raises: ValueError for an answer that is lost, another's, or of a wrong LLM."""
    requests = []
    for question, pick in zip(questions, picks):
        model = pick if arm == "named" else MODEL
        requests.append({"model": model, "messages": [{"role": "user", "content": question}]})
    answers = proxy.ask(*requests, clients=clients)
    for question, pick, answer in zip(questions, picks, answers):
        if answer.get("text") != f"echo|{pick}|{question}":
            raise ValueError(f"{arm}: {question!r} should be answered by {pick}, and this came back: {answer}")
    return np.array([answer["seconds"] for answer in answers])


def cpu_seconds(pid: int) -> float:
    """Seconds that a process has computed so far, all threads together (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # in user mode, and in the kernel


def measure(proxy: Gateway, args: Arguments, questions: Sequence[str], picks: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of every request, by the number of clients (all, and one), by arm, in a list for each round.

    And "cpu": those that the proxy computed for a request with all clients, by arm, one for each round.
    """
    sizes = {args.clients: len(questions), 1: min(ALONE, len(questions))}
    found: dict[str, Any] = {"cpu": {arm: [] for arm in ARMS}}
    for arm in ARMS:
        ask(proxy, arm, questions[: args.clients], picks, args.clients)  # what is loaded late is loaded now
    with bar(args.rounds, "benchmark", "round") as progress:
        for number in range(args.rounds):
            for clients, size in sizes.items():
                for arm in ARMS if number % 2 else ARMS[::-1]:
                    before = cpu_seconds(proxy.pid)
                    seconds = ask(proxy, arm, questions[:size], picks, clients)
                    if clients == args.clients:
                        found["cpu"][arm].append(1000 * (cpu_seconds(proxy.pid) - before) / size)
                    found.setdefault(str(clients), {}).setdefault(arm, []).append(np.round(1000 * seconds, 1).tolist())
            progress.update()
    return found


def added(rounds: dict[str, list[list[float]]], percent: int) -> dict[str, Any]:
    """A percentile of both arms, milliseconds, over all rounds; their ratio, and its range over single rounds."""
    named, routed = (float(np.percentile(np.concatenate(rounds[arm]), percent)) for arm in ARMS)
    ratios = []
    for one, other in zip(*(rounds[arm] for arm in ARMS)):
        ratios.append(float(np.percentile(other, percent) / np.percentile(one, percent)))
    return {"named": named, "routed": routed, "ratio": routed / named, "range": [min(ratios), max(ratios)]}


def page(result: dict[str, Any]) -> str:
    """gateway.md."""
    rows = []
    for clients, quantiles in result["added"].items():
        for name, cell in quantiles.items():
            ends = f"{cell['range'][0]:.2f} to {cell['range'][1]:.2f}"
            numbers = [f"{cell[arm]:.0f}" for arm in ARMS]
            rows.append([f"{clients} client{'s' * (clients != '1')}, {name}", *numbers, f"{cell['ratio']:.2f}", ends])
    named, routed = (result["cpu"][arm] for arm in ARMS)
    ratios = [other / one for one, other in zip(named, routed)]
    numbers = [f"{np.mean(named):.0f}", f"{np.mean(routed):.0f}", f"{np.mean(routed) / np.mean(named):.2f}"]
    rows.append(["computed by the proxy, mean", *numbers, f"{min(ratios):.2f} to {max(ratios):.2f}"])
    table = markdown(["", "a named LLM, ms", "routed, ms", "ratio", "in single rounds"], rows)
    return f"""# What the router adds to LiteLLM's proxy

Milliseconds from a request to its whole answer, of the `openai` client, with LLM servers that answer at once. Proxy,
servers and clients share the machine, whose load was {result["load"]:.0f}: read the ratio, not the milliseconds.
{result["answers"]} answers were checked: none was lost, or another's, and all routed ones came from the LLM that
`Router.route` picks. {result["rounds"]} rounds, in which both ways take turns.

{table}

{result["device"]}; router: {result["router"]}; {result["seconds"]:.0f} s; `{result["command"]}`
"""


def run(args: Arguments) -> dict[str, Any]:
    """The whole measurement."""
    began = time.perf_counter()
    router = Router.from_pretrained(args.ckpt, backend=args.backend, threads=1)
    questions = questions_of(args.questions, args.requests)
    picks = router.route(questions)
    folder = Path(router.folder).absolute()
    settings = {
        "litellm_settings": {"callbacks": "utils.gateway.routing.plugin"},
        "callback_settings": {MODEL: {"checkpoint": str(folder), "backend": args.backend, "threads": 1}},
    }
    models = [Model(llm, "echo") for llm in router.llms]
    with tempfile.TemporaryDirectory() as work, gateway(str(args.python), Path(work), models, settings) as proxy:
        rounds = measure(proxy, args, questions, picks)
    cpu = rounds.pop("cpu")
    summary = {}
    for clients, arms in rounds.items():
        summary[clients] = {name: added(arms, percent) for name, percent in QUANTILES.items()}
    flags = f"--ckpt {args.ckpt} --python {args.python} --rounds {args.rounds}"
    return {
        "added": summary,
        "by_round": rounds,
        "cpu": cpu,
        "rounds": args.rounds,
        "answers": 2 * (args.clients + args.rounds * (args.requests + min(ALONE, args.requests))),
        "router": f"{len(router.llms)} LLMs, {router.describe()}",
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[1],
        "seconds": time.perf_counter() - began,
        "command": f"python -m utils.gateway.benchmark {flags}",
    }


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write both files, print the page."""
    try:
        words = sys.argv[1:] if words is None else words
        args = parse_arguments(Arguments, words, "python -m utils.gateway.benchmark", __doc__)
        result = run(args)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / "gateway.json", result | {"settings": {k: str(v) for k, v in asdict(args).items()}})
    write_text(args.output / "gateway.md", page(result))
    print(page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
