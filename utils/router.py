"""Use a trained router: which of several LLMs should answer a query.

    from .router import Router
    router = Router.from_pretrained("runs/quickstart/seed_1")     # a run's folder, a checkpoint, or a name on the hub
    router.route(["What is 17 * 23?"])                            # ["meta-math/MetaMath-Mistral-7B"]

Neither torch nor transformers is imported before a backend asks for it.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .checkpoint_files import (
    CONFIG,
    ENCODER,
    WEIGHTS,
    CheckpointError,
    check_files,
    content_hash,
    find,
    read_config,
)
from .choice import check_finite, check_queries, columns_of
from .files import atomic_folder, replaceable_folder, write_text
from .reading import cut, reading

BATCH = 1024  # queries that a backend gets at once
BACKENDS = ("torch", "onnx")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
NEEDS = {  # what a training run must have had for what its checkpoint's config may keep
    "calibration": "validation rows",
    "costs": "costs in all its training files",
    "best_llm": "its training files, which must still be there",
}
CARD = "README.md"
OF_FOLDER = (CONFIG, WEIGHTS, ENCODER, "onnx", CARD)  # what a router's folder may have
OF_HUB = [CONFIG, WEIGHTS, f"{ENCODER}/*", "onnx/*", CARD]  # what is taken from a hub


class Backend(Protocol):
    """What computes. Texts are cut as in training before it gets them; it is called from several threads."""

    def embed(self, texts: list[str]) -> np.ndarray:
        """Query embeddings E(x), (N, p) float32, behind the head."""

    def similarities(self, texts: list[str]) -> np.ndarray:
        """Similarity of each text to each LLM, (N, T) float32."""

    def describe(self) -> str:
        """Device and precision in words."""


class HubError(RuntimeError):
    """A model hub refused, or could not be reached."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def locate(name: str | Path, flag: str = "router") -> Path:
    """The checkpoint folder that a name means: of a folder `find`'s, else a copy of what the hub has by that name.

    Raises: CheckpointError, with `flag` before the name, if there is none, or the hub cannot be asked.
    """
    if Path(name).is_dir() or not HUB_NAME.fullmatch(str(name)):
        return find(name, flag)
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(str(name), allow_patterns=OF_HUB)
    except Exception as error:  # of the network, the cache, the hub, or a name that it refuses
        raise CheckpointError(
            f"{flag} {name}: there is no such folder, and the model hub gave no router of that name "
            f"({first_line(error)}). Either "
            "give the --save_path of a finished training run, or download the router where there is a network "
            f"(`hf download {name} --local-dir DIR`) and give DIR"
        ) from None
    return find(folder, flag)


def open_backend(backend: str, folder: Path, config: dict[str, Any], **options: Any) -> Backend:
    """A backend by its name. options: device, precision, threads and file, as of `Router.from_pretrained`."""
    if backend == "torch":
        from .torch_backend import TorchBackend

        return TorchBackend(folder, config, **options)
    if backend == "onnx":
        try:
            from .onnx_backend import OnnxBackend
        except ModuleNotFoundError as error:
            raise ValueError(f"the backend onnx needs {error.name}, which is not installed: pip install it") from None
        return OnnxBackend(folder, config, **options)
    raise ValueError(f"the backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")


class Router:
    """A trained router, ready for queries; several threads may use one.

    Wherever `queries` are asked for they are any number of texts, read as in training; `llms` are the LLMs to choose
    from, all by default. All methods with queries
    Raise: ValueError for a query that is empty or not valid UTF-8, an LLM that the router does not know, or
        similarities that are not finite.

    Attributes:
        folder: of the checkpoint.
        config: its config.json.
        llms: T names.
        backend: "torch" or "onnx"; `engine` is the object that computes.
    """

    def __init__(self, folder: Path, config: dict[str, Any], engine: Backend, backend: str = "torch"):
        self.folder = folder
        self.config = config
        self.engine = engine
        self.backend = backend
        self.llms: tuple[str, ...] = tuple(config["llms"])

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        backend: str = "torch",
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        file: str | None = None,
    ) -> "Router":
        """Load a router.

        Args:
            name: a run's folder (--save_path), a checkpoint folder, or a name on the model hub.
            backend: one of BACKENDS.
            device: auto, cpu, cuda, cuda:N, mps.
            precision: auto (that of the training run), or one of `utils.reading.PRECISIONS`.
            threads: of the CPU; 0: as many as cores.
            file: which file of the backend onnx.
        Raises: CheckpointError if there is no router, or it is damaged; ValueError for an option.
        """
        folder = locate(name)
        config = read_config(folder)
        options = {"device": device, "precision": precision, "threads": threads, "file": file}
        return cls(folder, config, open_backend(backend, folder, config, **options), backend)

    def describe(self) -> str:
        """Device and precision in words."""
        return self.engine.describe()

    def embed(self, queries: Sequence[str]) -> np.ndarray:
        """Query embeddings E(x), (N, p) float32, behind the head."""
        return self._computed(self.engine.embed, queries)

    def scores(self, queries: Sequence[str], llms: Sequence[str] | None = None, cost_rate: float = 0.0) -> np.ndarray:
        """What the router chooses by, (N, T): the similarity of each query to each LLM.

        With a cost_rate utilities: P(right) - cost_rate * mean cost of the LLM's answers in training, in US dollars.
        Raises: ValueError also if there is a rate and the checkpoint has no calibration or costs.
        """
        return self._worth(self.similarities(queries, llms), llms, cost_rate)

    def similarities(
        self, queries: Sequence[str], llms: Sequence[str] | None = None, title: str = "queries"
    ) -> np.ndarray:
        """Similarity of each query to each LLM, (N, T) float32. title: of the queries, for errors."""
        columns = self._columns(llms)
        similarity = self._computed(self.engine.similarities, queries, len(self.llms), title)[:, columns]
        check_finite(similarity, title)
        return similarity

    def probabilities(self, queries: Sequence[str], llms: Sequence[str] | None = None) -> np.ndarray:
        """P(right) of each LLM on each query, (N, T). Raises: ValueError also for a checkpoint without calibration."""
        return self.calibrated(self.similarities(queries, llms), llms)

    def route(
        self,
        queries: Sequence[str],
        llms: Sequence[str] | None = None,
        cost_rate: float = 0.0,
        threshold: float | None = None,
    ) -> list[str]:
        """The LLM that should answer each query: the arg-max of `scores`.

        threshold: where P(right) of that LLM is lower, the best single LLM of the training rows answers.
        Raises: ValueError also as `scores`, and if there is a threshold without calibration or best single LLM.
        """
        return self.choose(self.similarities(queries, llms), llms, cost_rate, threshold)

    def choose(
        self,
        similarity: np.ndarray,
        llms: Sequence[str] | None = None,
        cost_rate: float = 0.0,
        threshold: float | None = None,
    ) -> list[str]:
        """The LLM for each row of similarities (N, T) as `similarities` returned them, otherwise as `route`."""
        names = self.llms if llms is None else llms
        best = self._worth(similarity, llms, cost_rate).argmax(axis=1)  # (N,)
        chosen = [names[column] for column in best]
        if threshold is None:
            return chosen
        fallback = self._stored("best_llm", "a threshold")
        if fallback not in names:
            raise ValueError(f"threshold: below it {fallback} answers, the best single LLM, and it is not among llms")
        right = np.take_along_axis(self.calibrated(similarity, llms), best[:, None], axis=1)[:, 0]
        return [llm if certain else fallback for llm, certain in zip(chosen, right >= threshold)]

    def save_pretrained(self, folder: str | Path, name: str | None = None) -> Path:
        """Copy the checkpoint, with a model card (README.md), to a folder that loads again; whole or not at all.

        name: what the card says to load it by; default: the folder's name.
        Raises: ValueError for a folder with files that are no router's; CheckpointError if the checkpoint's files are
            not those that were loaded any more.
        """
        from .model_card import model_card

        folder = Path(folder)
        replaceable_folder(folder, "save_pretrained", OF_FOLDER, "no router")
        card = model_card(self.config, self.folder, name or folder.name)
        with atomic_folder(folder) as unfinished:
            for part in filter(Path.exists, (self.folder / entry for entry in OF_FOLDER)):
                copy = shutil.copytree if part.is_dir() else shutil.copyfile
                copy(part, unfinished / part.name)
            write_text(unfinished / CARD, card)
            check_files(unfinished, read_config(unfinished))
            if read_config(unfinished) != self.config:
                raise CheckpointError(f"{self.folder}: the checkpoint there is another one by now; load it again")
        return folder

    def push_to_hub(self, repo_id: str, private: bool = True, token: str | None = None) -> str:
        """Upload what `save_pretrained` saves to a model hub; returns the address.

        Args:
            repo_id: "owner/name"; made if it is not there.
            private: of a new one.
            token: default: that of `hf auth login`.
        Raises: HubError, saying what else can be done, if the hub refuses or cannot be reached.
        """
        import huggingface_hub

        with tempfile.TemporaryDirectory() as parent:
            folder = self.save_pretrained(Path(parent) / "router", repo_id)
            try:
                api = huggingface_hub.HfApi(token=token)
                address = api.create_repo(repo_id, private=private, exist_ok=True)
                api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="A RouterDC router")
            except Exception as error:  # of the network, the hub, or a name that it refuses
                raise HubError(
                    f"push_to_hub {repo_id}: {first_line(error)}. Either log in (`hf auth login`) where there is a "
                    f"network, or save_pretrained(DIR) and upload that: `hf upload {repo_id} DIR`"
                ) from None
        return str(address)

    def calibrated(self, similarity: np.ndarray, llms: Sequence[str] | None = None) -> np.ndarray:
        """P(right), (N, T), by similarities as `similarities` returned them. Raises: ValueError as `probabilities`."""
        calibration = self._stored("calibration", "P(right)")
        from .calibration import probabilities

        return probabilities(similarity, calibration, list(self.llms if llms is None else llms))

    def check_stored(self, cost_rate: float = 0.0, threshold: float | None = None) -> None:
        """Raise ValueError, saying how to get it, if the checkpoint lacks what a cost_rate or a threshold needs."""
        if cost_rate:
            self._stored("costs", "a cost_rate")
        if threshold is not None:
            self._stored("best_llm", "a threshold")
        if cost_rate or threshold is not None:
            self._stored("calibration", "P(right)")

    def identity(self) -> str:
        """SHA-256 that tells this router from any other: of the config with all digests; of an older one, of its
        files.
        """
        return self.config.get("sha256") or content_hash(self.folder)

    def _columns(self, llms: Sequence[str] | None) -> list[int]:
        """Position of each LLM. Raises: ValueError for unknown ones, none, or one named twice."""
        if llms is None:
            return list(range(len(self.llms)))
        if isinstance(llms, str) or not llms or len(set(llms)) < len(llms):
            raise ValueError(f"llms is {llms!r}; give a list of different names among {', '.join(self.llms)}")
        return columns_of(llms, self.llms)

    def _computed(
        self, compute: Callable[[list[str]], np.ndarray], queries: Sequence[str], width: int = 0, title: str = "queries"
    ) -> np.ndarray:
        """Rows of the engine for all queries, in batches. width: of a row, where there may be no query."""
        if isinstance(queries, (str, bytes)):
            raise ValueError("queries is one text; give a list of them")
        check_queries(queries, title)
        options = reading(self.config["settings"])
        rows = [np.empty((0, width), np.float32)] if width or not len(queries) else []
        for start in range(0, len(queries), BATCH):
            batch = queries[start : start + BATCH]
            rows.append(compute([cut(query, options["characters"], options["keep"]) for query in batch]))
        return np.concatenate(rows)

    def _worth(self, similarity: np.ndarray, llms: Sequence[str] | None, cost_rate: float) -> np.ndarray:
        """Similarities (N, T), or with a rate utilities."""
        if not cost_rate:
            return similarity
        if not 0 <= cost_rate < float("inf"):
            raise ValueError(f"cost_rate is {cost_rate}; it must be a number that is at least 0")
        costs = self._stored("costs", "a cost_rate")
        prices = np.array([costs[name] for name in (self.llms if llms is None else llms)])  # (T,)
        return self.calibrated(similarity, llms) - cost_rate * prices

    def _stored(self, key: str, what: str) -> Any:
        """What training stores in the config. Raises: ValueError, saying how to get it, if it is not there."""
        if self.config.get(key) is None:
            raise ValueError(
                f"{what} needs {key!r} in {self.folder / 'config.json'}, which has none. `python -m utils.calibration "
                f"--ckpt {self.folder}` adds it, where the training run had {NEEDS[key]}"
            )
        return self.config[key]
