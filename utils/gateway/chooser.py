"""What the gateway needs of a router: the question of a request, and the LLMs for it from the best on.

Nothing here knows LiteLLM; `plugin.py` calls it.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..router import Router

MODEL = "routerdc"  # a request for a model of this name is routed; the key of its own options, too
EXAMPLE = '{"routerdc": {"cost_rate": 50, "threshold": 0.6}}'
NO_TEXT = "the last user message has no text, and the router reads nothing else; name a model, or add text"


# What a request asks


def question(request: Mapping[str, Any]) -> str:
    """The text that is routed: the last user message alone, as the router was trained on questions alone.

    Of a content list the text parts count, with a line feed between them; a system prompt, earlier turns and pictures
    are not read. `prompt` of completions and `input` of responses stand for messages.
    Raises: ValueError if there is no text, or it is not valid UTF-8.
    """
    messages = request.get("messages") or request.get("input") or request.get("prompt")
    if not isinstance(messages, str):
        messages = text_of(last_of_user(messages))
    if not messages.strip():
        raise ValueError(NO_TEXT)
    if messages != messages.encode(errors="ignore").decode():
        raise ValueError("the last user message is not valid UTF-8")
    return messages


def last_of_user(messages: Any) -> Any:
    """The content of the last message with the role user; None if there is none."""
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, Mapping) and message.get("role") == "user":
            return message.get("content")
    return None


def text_of(content: Any) -> str:
    """The text of a message's content: a text, or a list of parts of which some have a text."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
    return "\n".join(texts)


@dataclass(frozen=True)
class Options:
    """What a request may set for itself, as in EXAMPLE; as of `Router.route`."""

    cost_rate: float = 0.0
    threshold: float | None = None


def options_of(given: Any) -> Options:
    """The options of a request, numbers or their texts. Raises: ValueError for others."""
    values = {} if given is None else given
    if not isinstance(values, Mapping) or not values.keys() <= Options.__dataclass_fields__.keys():
        raise ValueError(f"{MODEL}: {given!r}; it may have cost_rate and threshold, as in {EXAMPLE}")
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            numbers[name] = math.nan
        if not math.isfinite(numbers[name]):
            raise ValueError(f"{MODEL}: {name} is {value!r}; it must be a number")
    return Options(**numbers)


# Which LLMs there are


def deployments(model_list: Sequence[Mapping[str, Any]], llms: Sequence[str]) -> dict[str, str]:
    """The proxy's model name for each LLM that it has one for, in the router's order.

    A model of the proxy is the LLM of its own name, or the one that its `model_info` names: {"routerdc": LLM}.
    """
    names: dict[str, str] = {}
    for deployment in model_list:
        name = deployment["model_name"]
        names.setdefault((deployment.get("model_info") or {}).get(MODEL, name), name)
    return {llm: names[llm] for llm in llms if llm in names}


# Which LLM it should be


@dataclass(frozen=True)
class Choice:
    """The LLMs for a request, the one chosen first, and how similar each is to the question."""

    llms: tuple[str, ...]
    similarities: tuple[float, ...]


def ranked(router: "Router", similarity: np.ndarray, llms: Sequence[str], options: Options) -> Choice:
    """The router's pick, then its pick among the others, and so on; a threshold holds for the first alone.

    Args:
        similarity: (T,), of all LLMs of the router, as `Router.similarities` gave it.
        llms: those to choose from.
    Raises: ValueError, as `Router.choose`, for options that the checkpoint has no numbers for.
    """
    of_llm = dict(zip(router.llms, similarity))
    left, order, threshold = list(llms), [], options.threshold
    while left:
        row = np.array([[of_llm[llm] for llm in left]])  # (1, LLMs that are left)
        best = router.choose(row, left, options.cost_rate, threshold)[0]
        order.append(best)
        left.remove(best)
        threshold = None
    return Choice(tuple(order), tuple(float(of_llm[llm]) for llm in order))


class Chooser:
    """Routes the questions of many requests without holding up the event loop.

    One thread computes. What comes in while it does is its next batch, of at most `largest_batch` questions: under load
    a batch costs far less than its questions one by one, and a single question waits for nobody.
    """

    def __init__(self, router: "Router", largest_batch: int = 64):
        self.router = router
        self.largest_batch = largest_batch
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=MODEL)
        self.waiting: list[tuple[str, asyncio.Future]] = []
        self.work: asyncio.Task | None = None

    async def choose(self, text: str, llms: Sequence[str], options: Options) -> Choice:
        """The LLMs for a question, best first. Raises: what the router raises."""
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((text, answer))
        if self.work is None:
            self.work = asyncio.create_task(self._work())
        return ranked(self.router, await answer, llms, options)

    async def _work(self) -> None:
        """Compute similarities until nobody waits. An error goes to all questions of its batch."""
        while self.waiting:
            waiting = [(text, answer) for text, answer in self.waiting if not answer.done()]  # clients may have gone
            batch, self.waiting = waiting[: self.largest_batch], waiting[self.largest_batch :]
            texts = [text for text, _ in batch]
            try:
                rows = await asyncio.get_running_loop().run_in_executor(self.thread, self.router.similarities, texts)
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for row, (_, answer) in zip(rows, batch):
                if not answer.done():
                    answer.set_result(row)
        self.work = None
