"""Query embeddings for the baselines: of a pre-trained encoder, of the files themselves, or of a trained router."""

from collections.abc import Sequence

import numpy as np

from ..config import GIVEN
from ..data import RoutingData
from ..encoders import Queries, load_encoder
from ..experiment import Hardware
from . import trained_encoder
from .arguments import Arguments
from .base import unit
from .problem import Problem
from .trained_encoder import Embed


class Embeddings:
    """Query embeddings of length 1 of all training and test files, looked up or computed when they are first needed."""

    def __init__(self, problem: Problem, hardware: Hardware):
        self.problem = problem
        self.hardware = hardware
        self.known: dict[int | None, tuple[list[np.ndarray], list[np.ndarray]]] = {}  # by seed; None: the same for all

    def of(self, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """One (N, p) array for each training file, and one for each test file.

        Raises: EncoderError, or CheckpointError with --encoder_ckpt, for an encoder that cannot be loaded; ValueError
            for one that cannot read the files.
        """
        args = self.problem.args
        key = seed if args.encoder_ckpt else None
        if key not in self.known:
            if args.encoder_ckpt:
                embed = trained_encoder.load_embedder(args, seed, self.hardware)
            else:
                embed = load_embedder(args, self.hardware)
            self.known[key] = embed_files(embed, self.problem.files, self.problem.tests)
        return self.known[key]


def load_embedder(args: Arguments, hardware: Hardware) -> Embed:
    """How a pre-trained encoder embeds queries; embeddings that the files give are taken as they are."""
    if args.encoder.encoder == GIVEN:
        return lambda embeddings, title: unit(embeddings)
    encoder = load_encoder(args.encoder.encoder, args.encoder.pooling, args.encoder.max_length).eval()
    encoder.place(hardware)

    def embed(questions: Sequence[str], title: str) -> np.ndarray:
        queries = Queries(encoder, questions, hardware, "none", args.hardware.cache_dir, title)
        return unit(queries.embed().cpu().numpy())

    return embed


def embed_files(
    embed: Embed, files: Sequence[RoutingData], tests: Sequence[RoutingData]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Embeddings (N, p) of each training file, and of each test file.

    The training files are embedded as one list, as the training loop does, so that both find them in the cache.
    """
    if files[0].embeddings is not None:
        together = np.concatenate([data.embeddings for data in files])
    else:
        together = [question for data in files for question in data.questions]
    ends = np.cumsum([len(data) for data in files])
    of_files = np.split(embed(together, "training queries"), ends[:-1])
    return of_files, [embed(data.inputs, data.task) for data in tests]
