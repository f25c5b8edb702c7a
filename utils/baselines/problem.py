"""What the baselines learn from and are tested on: rows, targets and query embeddings."""

from collections.abc import Sequence

import numpy as np

from utils.baselines import trained_encoder
from utils.baselines.arguments import Arguments
from utils.baselines.base import Rows, unit
from utils.baselines.registry import ROUTERS
from utils.config import GIVEN, EncoderConfig
from utils.data import RoutingData, count_training_questions, embedding_size, load_tests
from utils.encoders import Queries, load_encoder
from utils.experiment import Hardware
from utils.training_set import check_encoder_reads, load_training_files, task_rows


class Problem:
    """Training and test files, and which rows a seed trains on.

    columns: of the LLMs that the test files have, among those of training. inside: tasks in distribution. overlap: how
    many questions of each test file, by its path, stand in the training files.
    Raises: DataError for bad files or test files that do not fit the others; ValueError for an encoder that cannot read
    them.
    """

    def __init__(self, args: Arguments):
        self.args = args
        self.files = load_training_files(args.data)
        self.llms = self.files[0].llms
        self.tests = load_tests(args.data, self.llms)
        self.overlap = count_training_questions(self.tests, self.files)
        self.columns = [self.llms.index(name) for name in self.tests[0].llms]
        self.inside = [data.task for data in self.files]
        embedding_size([*self.files, *self.tests])  # raises if some have text and some embeddings
        needs_encoder = any(name in ROUTERS for name in args.routers) and not args.encoder_ckpt
        if needs_encoder:
            check_encoder_reads(EncoderConfig(args.encoder), self.files)

    def rows(
        self, embedded: Sequence[np.ndarray], seed: int, everything: bool, pooling: str = "none"
    ) -> tuple[Rows, list[tuple[np.ndarray, RoutingData]]]:
        """Training rows of the seed, all of them with `everything`, and the validation rows of each task.

        embedded: of each file, (N, p). pooling: of the targets, "none" or one of utils.denoise.POOLINGS.
        """
        config = self.args.training_set
        count = config.training_samples_per_dataset or None  # 0: all
        x, y, tasks, clusters, validation = [], [], [], [], []
        for data, of_file in zip(self.files, embedded):
            part = task_rows(data, config, seed, refit=everything)
            if pooling != "none":
                part, _ = part.pooled(of_file, pooling)
            kept = part.train[:count]
            x.append(of_file[kept])
            y.append(part.targets[kept])
            tasks.append(np.full(len(kept), data.task))
            clusters.append(None if data.clusters is None else data.clusters[kept])
            validation.append((of_file[part.held], data.rows(part.held)))
        have_clusters = all(ids is not None for ids in clusters)
        rows = Rows(
            np.concatenate(x),
            np.concatenate(y),
            np.concatenate(tasks),
            np.concatenate(clusters) if have_clusters else None,
        )
        return rows, validation


class Embeddings:
    """Query embeddings of length 1 of all training and test files, looked up or computed when they are first needed."""

    def __init__(self, problem: Problem, hardware: Hardware):
        self.problem, self.hardware = problem, hardware
        self.known: dict[int | None, tuple[list[np.ndarray], list[np.ndarray]]] = {}  # by seed; None: the same for all

    def of(self, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """One (N, p) array for each training file, and for each test file."""
        args, problem = self.problem.args, self.problem
        key = seed if args.encoder_ckpt else None
        if key not in self.known:
            if args.encoder_ckpt:
                self.known[key] = trained_encoder.embeddings(args, seed, problem.files, problem.tests, self.hardware)
            else:
                self.known[key] = self._pretrained()
        return self.known[key]

    def _pretrained(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        args, files, tests = self.problem.args, self.problem.files, self.problem.tests
        if args.encoder == GIVEN:
            return [unit(data.inputs) for data in files], [unit(data.inputs) for data in tests]
        encoder = load_encoder(args.encoder, args.pooling, args.max_length).eval()
        encoder.place(self.hardware)

        def embed(questions: Sequence[str], title: str) -> np.ndarray:
            queries = Queries(encoder, questions, self.hardware, "none", args.hardware.cache_dir, title)
            return unit(queries.embed().cpu().numpy())

        together = [question for data in files for question in data.questions]  # one list, as training caches it
        x = embed(together, "training queries")
        of_files = np.split(x, np.cumsum([len(data) for data in files])[:-1])
        return of_files, [embed(data.questions, data.task) for data in tests]
