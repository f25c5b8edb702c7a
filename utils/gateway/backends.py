"""Small LLM servers that speak OpenAI's protocol, to try the gateway: they echo, or fail in a way of their own.

    python -m utils.gateway.backends --port 8000

`http://127.0.0.1:8000/KIND/v1` is a server: KIND `slow` waits a minute, `html` sends a page, `broken` no JSON, `error`
status 500, and every other name answers at once, `NAME|MODEL|QUESTION`.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

app = FastAPI()


@app.post("/{kind}/v1/chat/completions")
async def chat(kind: str, request: Request) -> Response:
    """Answer a chat, in one piece or streamed by characters."""
    asked = await request.json()
    content = asked["messages"][-1]["content"]
    text = "|".join((kind, asked["model"], content if isinstance(content, str) else json.dumps(content)))
    if kind == "slow":
        await asyncio.sleep(60)
    if kind == "html":
        return HTMLResponse("<html>Please log in</html>")
    if kind == "error":
        return JSONResponse({"error": {"message": "out of memory"}}, 500)
    if asked.get("stream"):
        return StreamingResponse(pieces(kind, asked["model"], text), media_type="text/event-stream")
    if kind == "broken":
        return Response('{"id": "1", "choices": [{"mess', media_type="application/json")
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return JSONResponse({**head(asked["model"], "chat.completion"), "choices": [choice], "usage": usage})


def head(model: str, kind: str) -> dict[str, Any]:
    return {"id": "1", "created": 1, "model": model, "object": kind}


async def pieces(kind: str, model: str, text: str) -> AsyncGenerator[str, None]:
    """The events of a stream with some characters in each."""
    if kind == "broken":
        yield 'data: {"id": "1", "choi\n\n'
        return
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": text[start : start + 8]}, None) for start in range(0, len(text), 8)]
    for delta, reason in [*deltas, ({}, "stop")]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield f"data: {json.dumps({**head(model, 'chat.completion.chunk'), 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, port=parser.parse_args().port, log_level="warning", timeout_keep_alive=600)


if __name__ == "__main__":
    main()
