"""The plug-in with the router of standin.py, for LiteLLM's `callbacks`."""

import standin

from utils.gateway.plugin import RouterDCPlugin

plugin = RouterDCPlugin(standin.make())
