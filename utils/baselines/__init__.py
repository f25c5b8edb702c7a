"""Baseline routers on frozen query embeddings, one file each, under one interface.

`python -m utils.baselines` runs them. A new one is a file with a `Router` (base.py) and a line in registry.py.
"""
