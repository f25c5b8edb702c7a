"""The README.md that goes with a router: what a reader on a model hub must know of it, from its config alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import read_json
from .reading import GIVEN
from .tables import markdown, tables

HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}  # of encoders that are no hub names themselves
USE = """```python
from .router import Router  # of the code of this repository, from a checkout of it

router = Router.from_pretrained("{name}")
router.route(["What is 17 * 23?"])  # which LLM should answer
```"""
LIMITS = """- It was trained on the tasks above. Queries of other kinds, in other languages or much longer are routed by
  what they look like, without a warning.
- A similarity is no probability. Where the config has a calibration, it was fitted on rows of the training tasks.
- It knows the LLMs above as they were when they were scored. A new version of one needs new scores.
- It decides which LLM answers, not whether an answer is right or harmless."""
LICENCE = """The code is under the Apache License 2.0. The weights are made from the encoder named above and from scored
queries; the licences of both hold for them. The data released with the paper states none."""
CITATION = """```bibtex
@inproceedings{chen2024routerdc,
  title     = {RouterDC: Query-Based Router by Dual Contrastive Learning for Assembling Large Language Models},
  author    = {Chen, Shuhao and Jiang, Weisen and Lin, Baijiong and Kwok, James and Zhang, Yu},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024}
}
```"""
LEFT_OUT = ("data", "data_paths", "data_type", "test_data_paths", "test_data_type")  # of the settings that are listed
LEFT_OUT += ("final_eval_data_paths", "final_eval_data_type")


def model_card(config: Mapping[str, Any], folder: Path, name: str) -> str:
    """The card of a router as Markdown with a YAML header.

    Args:
        config: of its checkpoint.
        folder: of the checkpoint.
        name: what to load it by: a folder or a name on a hub.
    """
    sections = {
        "Use": USE.format(name=name),
        "LLMs": "\n".join(f"- {llm}" for llm in config["llms"]),
        "Encoder": encoder_of(config, folder),
        "Training data": data_table(config["settings"]),
        "Settings": settings_table(config),
        "Results": results_of(config),
        "Limits": LIMITS,
        "Licence": LICENCE,
        "Citation": CITATION,
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    what = (
        f"A router of the kind {config['router']}: it reads a query and picks the one of {len(config['llms'])} LLMs "
        "that should answer it, before any LLM runs."
    )
    return f"{header(config)}\n# {config['router']} router\n\n{what}\n\n{body}\n"


def header(config: Mapping[str, Any]) -> str:
    """The YAML header, with the fields of a model hub."""
    from huggingface_hub import ModelCardData

    fields = ModelCardData(
        library_name="routerdc",
        license="other",
        license_name="of-encoder-and-data",
        tags=["routerdc", "llm-routing", "query-routing"],
        base_model=base_model(config),
    )
    return f"---\n{fields.to_yaml()}\n---"


def base_model(config: Mapping[str, Any]) -> str | None:
    """The encoder's name on a model hub, or None if it has none: it was a folder, or there is no encoder."""
    encoder = HUB_NAMES.get(config["encoder"], config["encoder"])
    is_name = encoder.count("/") == 1 and not encoder.startswith((".", "/")) and not Path(encoder).exists()
    return encoder if is_name else None


def encoder_of(config: Mapping[str, Any], folder: Path) -> str:
    """Encoder, pooling and similarity in words."""
    if config["encoder"] == GIVEN:
        return "None: it reads embeddings, not text."
    path = folder / "encoder" / "config.json"
    kind = read_json(path, "copy the checkpoint again").get("model_type", "unknown")
    name = base_model(config) or f"a folder called {Path(config['encoder']).name}"
    head = " and a linear head" if config["head"] else ""
    similarity = {"cos": "cosine", "inner": "inner product"}.get(
        config["similarity_function"], config["similarity_function"]
    )
    return (
        f"{name} ({kind}), pooling: {config['pooling']}{head}; the last {config['max_length']} tokens of a query are "
        f"read. Similarity: {similarity}."
    )


def data_table(settings: Mapping[str, Any]) -> str:
    """The training files and their digests."""
    digests = settings.get("data", {})
    rows = [[Path(path).name, digests.get(path, "unknown")] for path in settings["data_paths"]]
    most = settings.get("training_samples_per_dataset")
    read = f"The first {most} rows of each were read" if most else "All rows were read"
    held_out = f"{100 * settings.get('validation_fraction', 0):g} % of them were held out for validation"
    return f"{markdown(['file', 'SHA-256'], rows)}\n\n{read}; {held_out}."


def settings_table(config: Mapping[str, Any]) -> str:
    """The settings that decide the result, the seed first."""
    settings = config["settings"]
    names = sorted((name for name in settings if name not in LEFT_OUT), key=lambda name: (name != "seed", name))
    rows = []
    for name in names:
        value = settings[name]
        rows.append([name, Path(str(value)).name if name == "encoder" else str(value).replace("|", "\\|")])
    where = f"Trained on {config['device']}." if "device" in config else ""
    return f"{markdown(['setting', 'value'], rows)}\n\n{where}".strip()


def results_of(config: Mapping[str, Any]) -> str:
    """The tables of the training run."""
    test = config.get("test")
    if not test:
        return "No test sets were read."
    return tables(test, f"{config['router']} (this router)")
