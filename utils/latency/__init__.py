"""How fast a router answers on a CPU in torch and in ONNX, and whether they pick the same LLMs."""
