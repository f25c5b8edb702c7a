"""The pipeline in miniature: a made-up world, tiny language models that know parts of it, and their routing data."""
