"""Many clients at once that ask a server of OpenAI's protocol with the `openai` package; for benchmark and tests.

    python -m utils.gateway.client --url http://127.0.0.1:4000/v1 --clients 64 < requests.json > answers.json

The key comes from the variable OPENAI_API_KEY. Requests are a list of the arguments of `chat.completions.create`.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openai import APIError, AsyncOpenAI


async def ask(client: AsyncOpenAI, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request: {"text", "model", "headers", "seconds"}, or {"status", "error", "seconds"}.

    model: what the server says in the answer. seconds: until the answer was whole.
    """
    began = time.perf_counter()
    try:
        raw = await client.chat.completions.with_raw_response.create(**request)
        said = raw.parse()
        if request.get("stream"):
            text, model = "", None
            async for chunk in said:
                model = chunk.model
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
        else:
            text, model = said.choices[0].message.content, said.model
        found: dict[str, Any] = {"text": text, "model": model, "headers": dict(raw.headers)}
    except APIError as error:
        found = {"status": getattr(error, "status_code", None), "error": str(error)}
    return found | {"seconds": time.perf_counter() - began}


async def ask_all(url: str, requests: Sequence[Mapping[str, Any]], clients: int) -> list[dict[str, Any]]:
    """Answers in the order of the requests; each of the clients takes the next request as soon as it has an answer."""
    answers: list[dict[str, Any]] = [{}] * len(requests)
    left = iter(enumerate(requests))

    async def work(client: AsyncOpenAI, left: Iterator[tuple[int, Mapping[str, Any]]]) -> None:
        for number, request in left:
            answers[number] = await ask(client, request)

    async with AsyncOpenAI(base_url=url, max_retries=0, timeout=60) as client:
        await asyncio.gather(*(work(client, left) for _ in range(clients)))
    return answers


def main() -> None:
    """Requests from standard input, answers to standard output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--clients", type=int, default=64)
    args = parser.parse_args()
    json.dump(asyncio.run(ask_all(args.url, json.load(sys.stdin), args.clients)), sys.stdout)


if __name__ == "__main__":
    main()
