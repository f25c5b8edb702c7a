"""LiteLLM's proxy routes by RouterDC: a request for the model `routerdc` goes to the LLM that the router chooses.

    pip install -r utils/gateway/requirements.txt            in an environment of its own
    PYTHONPATH=. litellm --config utils/gateway/config.yaml

    client = openai.OpenAI(base_url="http://127.0.0.1:4000", api_key=...)
    client.chat.completions.create(model="routerdc", messages=[...], extra_body={"routerdc": {"cost_rate": 50}})

A request for `routerdc` is routed by the text of its last user message alone, since the router was trained on questions
alone; without text it is refused (400), as nothing tells which LLM suits a picture. A request that names another model
passes through. The others in the router's order are the fallbacks of the one chosen, for LiteLLM to try if that is
dead, slow or talks nonsense. x-routerdc-llm and x-routerdc-similarity are the router's decision, x-litellm-model-group
is who answered; LiteLLM's log (LITELLM_LOG=INFO) and callbacks have the whole order. `cost_rate` and `threshold`, as of
`Router.route`, hold for one request. Keys, retries, limits and metrics are LiteLLM's: a request goes only to LLMs that
its key may call by name. Each process of the proxy loads the router once.

Why a CustomLogger: its `async_pre_call_hook` can set the model and the fallbacks of one request, streamed or not, and
other hooks of it can set headers. A RoutingPlugin of `router_settings.plugins` can only narrow a group of deployments:
what is left is drawn at random, so there is no order of fallbacks, and headers need a CustomLogger all the same.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict
from typing import Any

from fastapi import HTTPException
from litellm._logging import verbose_proxy_logger
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy import proxy_server

from .chooser import MODEL, Chooser, deployments, options_of, question

CHATS = ("acompletion", "atext_completion", "aresponses", "anthropic_messages")  # of LiteLLM, what can be routed


def metadata_of(request: dict[str, Any]) -> dict[str, Any]:
    """Where LiteLLM keeps what it knows of a request; what is put there reaches its callbacks."""
    return request.setdefault("litellm_metadata" if "litellm_metadata" in request else "metadata", {})


class RouterDCPlugin(CustomLogger):
    """Sets model and fallbacks of every request for `routerdc`, the headers of its response, and what is logged."""

    def __init__(self, router: Any):
        super().__init__()
        self.chooser = Chooser(router)

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any] | None:
        """Choose the LLM of a request. Raises: HTTPException 400 if it cannot be routed, 503 if there are no LLMs."""
        metadata = metadata_of(data)
        metadata.pop(MODEL, None)  # a client's
        if data.get("model") != MODEL:
            return None
        try:
            if call_type not in CHATS:
                raise ValueError(f"it stands for LLMs, and this is {call_type}; name a model that does it")
            text, options = question(data), options_of(data.pop(MODEL, None))
            available = await self.available(data)
            choice = await self.chooser.choose(text, list(available), options)
        except ValueError as error:
            raise HTTPException(400, detail=f"{MODEL}: {error}") from None
        data["model"], *others = (available[llm] for llm in choice.llms)
        data.setdefault("fallbacks", others)  # a client may have given its own
        metadata[MODEL] = asdict(choice)
        metadata["spend_logs_metadata"] = (metadata.get("spend_logs_metadata") or {}) | {MODEL: metadata[MODEL]}
        verbose_proxy_logger.info("%s: %s", MODEL, metadata[MODEL])
        return data

    async def available(self, request: Mapping[str, Any]) -> dict[str, str]:
        """The proxy's model name for every LLM that there is a deployment for and that the request's key may call."""
        proxy = proxy_server.llm_router
        deployed = deployments(proxy.model_list, self.chooser.router.llms)
        allowed = {}
        for llm, name in deployed.items():
            if await proxy.fallback_access_check(model=name, request_kwargs=request, llm_router=proxy):
                allowed[llm] = name
        if not allowed:
            known = ", ".join(self.chooser.router.llms)
            reason = "the key may call none of them" if deployed else f"the router knows {known}"
            raise HTTPException(503, detail=f"{MODEL}: no model of the proxy can be chosen; {reason}")
        return allowed

    async def async_post_call_response_headers_hook(
        self, data: dict[str, Any], user_api_key_dict: Any, response: Any, **others: Any
    ) -> dict[str, str] | None:
        """The decision as headers. Which LLM answered in the end is in LiteLLM's x-litellm-model-group."""
        chosen = metadata_of(data).get(MODEL)
        if chosen is None:
            return None
        llm = chosen["llms"][0].encode("ascii", "backslashreplace").decode()
        return {"x-routerdc-llm": llm, "x-routerdc-similarity": f"{chosen['similarities'][0]:.4f}"}

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Pass a stream on. Where the one of a routed request ends without a word, the next best LLM answers instead.

        LiteLLM falls back by itself at an error, but takes a web page, or one JSON where a stream was asked for, for an
        answer without words. Headers are out by then: they name the silent one.
        """
        held: list[Any] = []
        is_silent = MODEL in metadata_of(request_data)
        async for chunk in response:
            held.append(chunk)
            is_silent = is_silent and says_nothing(chunk)
            if not is_silent:
                for piece in held:
                    yield piece
                held.clear()
        others = left_after(response, request_data) if is_silent else []
        if others:
            verbose_proxy_logger.warning("%s: a stream without a word; next is %s", MODEL, others[0])
            request = {name: value for name, value in request_data.items() if name != "litellm_logging_obj"}
            request |= {"model": others[0], "fallbacks": others[1:]}
            stream = await proxy_server.llm_router.acompletion(**request)
            held = self.async_post_call_streaming_iterator_hook(user_api_key_dict, stream, request)
            async for chunk in held:
                yield chunk
        else:
            for chunk in held:
                yield chunk


def says_nothing(chunk: Any) -> bool:
    """Whether a piece of a stream of chat has nothing but a role: no text, no call of a tool, no end by a filter."""
    for choice in getattr(chunk, "choices", None) or ():
        said = choice.delta.model_dump(exclude={"role"}) if choice.delta else {}
        if any(said.values()) or choice.finish_reason not in (None, "stop"):
            return False
    return hasattr(chunk, "choices")


def left_after(response: Any, request: Mapping[str, Any]) -> list[str]:
    """The fallbacks of a request after the model that gave this response."""
    headers = (getattr(response, "_hidden_params", None) or {}).get("additional_headers") or {}
    order, model = [request["model"], *request.get("fallbacks", [])], headers.get("x-litellm-model-group")
    return order[order.index(model) + 1 :] if model in order else []
