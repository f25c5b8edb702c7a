"""The plug-in of the configuration: loads the router that `callback_settings` names, once in each process.

    litellm_settings: {callbacks: utils.gateway.routing.plugin}
    callback_settings: {routerdc: {checkpoint: runs/quickstart/seed_1, backend: onnx, threads: 1}}

The settings are `checkpoint`, a name for `Router.from_pretrained`, and whatever else that takes.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import litellm

from ..router import Router
from .chooser import MODEL
from .plugin import RouterDCPlugin


def router_of(settings: Mapping[str, Any]) -> Router:
    """The router that settings ask for. Raises: ValueError for unknown settings or none, and what loading raises."""
    options = dict(settings)
    checkpoint = options.pop("checkpoint", None)
    known = [name for name in inspect.signature(Router.from_pretrained).parameters if name != "name"]
    unknown = [name for name in options if name not in known]
    if unknown or not checkpoint:
        wrong = f"there is no {', '.join(unknown)}" if unknown else "checkpoint is missing, or its variable is not set"
        raise ValueError(f"callback_settings: {MODEL}: {wrong}; it has checkpoint, {', '.join(known)}")
    return Router.from_pretrained(checkpoint, **options)


plugin = RouterDCPlugin(router_of(litellm.callback_settings.get(MODEL) or {}))
