"""Baseline routers on frozen query embeddings, one file each, under one interface; `python -m utils.baselines` runs them."""
