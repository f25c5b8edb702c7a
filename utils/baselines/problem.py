"""What the baselines learn from and are tested on: the files, and the rows and targets of a seed."""

from collections.abc import Sequence

import numpy as np

from ..data import RoutingData, check_alike, count_training_questions, load_tests
from ..training_set import check_encoder_reads, load_training_files, task_rows
from .arguments import Arguments
from .base import Rows
from .registry import ROUTERS


class Problem:
    """Training and test files, and which rows a seed trains on.

    files, tests: of training and of testing. llms: of training, in the order of the columns. columns: of the LLMs that
    the test files have, among those. inside: the tasks in distribution. overlap: how many questions of each test file,
    by its path, are in the training files.
    Raises: DataError for bad files or test files that do not fit the others; ValueError for an encoder that cannot read
    them.
    """

    def __init__(self, args: Arguments):
        targets = args.training_set
        self.args = args
        self.files = load_training_files(
            args.data, need_clusters=targets.target_shrinkage > 0 and targets.target_groups == "cluster"
        )
        self.llms = self.files[0].llms
        self.tests = load_tests(args.data, self.llms)
        self.overlap = count_training_questions(self.tests, self.files)
        self.columns = [self.llms.index(name) for name in self.tests[0].llms]
        self.inside = [data.task for data in self.files]
        check_alike([*self.files, *self.tests])
        if any(name in ROUTERS for name in args.routers) and not args.encoder_ckpt:
            check_encoder_reads(args.encoder, self.files)

    def rows(
        self, embedded: Sequence[np.ndarray], seed: int, everything: bool, pooling: str = "none"
    ) -> tuple[Rows, list[tuple[np.ndarray, RoutingData]]]:
        """Training rows of the seed, and the validation rows of each task with their embeddings (n, p).

        Args:
            embedded: the embeddings (N, p) of each training file.
            everything: all rows train, the validation rows, too.
            pooling: of the targets, "none" or one of `utils.denoise.POOLINGS`.
        """
        config = self.args.training_set
        count = config.training_samples_per_dataset or None  # 0: all
        x, y, tasks, clusters, validation = [], [], [], [], []
        for data, of_file in zip(self.files, embedded):
            rows = task_rows(data, config, seed, refit=everything)
            if pooling != "none":
                rows, _ = rows.pooled(of_file, pooling)
            train = rows.train[:count]
            x.append(of_file[train])
            y.append(rows.targets[train])
            tasks.append(np.full(len(train), data.task))
            if data.clusters is not None:
                clusters.append(data.clusters[train])
            validation.append((of_file[rows.held], data.rows(rows.held)))
        have_clusters = len(clusters) == len(self.files)
        training = Rows(
            np.concatenate(x),
            np.concatenate(y),
            np.concatenate(tasks),
            np.concatenate(clusters) if have_clusters else None,
        )
        return training, validation
