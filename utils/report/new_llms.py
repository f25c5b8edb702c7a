"""What `utils.add_llm` is worth: each LLM of the paper in turn is left out of training, added later, or removed later.

    python -m utils.plan --plan train_scripts/plans/new_llms.yaml         routers without one LLM, 15 s of a core each
    python -m utils.report.new_llms runs/minilm_tuned/paper runs/minilm_frozen/paper --without runs/new_llms

Writes new_llms.md, new_llms.json and a figure. What was measured of a router stays in its folder, so that a stopped
command goes on. No test row takes part in any choice.
"""

import hashlib
import itertools
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from ..add_llm import Joined, scored_queries
from ..checkpoint_files import CheckpointError
from ..config import HardwareConfig, bounded, parse_arguments
from ..data import gains
from ..files import read_json, write_json, write_text
from ..llm_embedding import METHOD, PENALTY, Scored, fit_embedding
from ..losses import SIMILARITIES
from ..meters import bar
from ..metrics import averages
from ..plots import save
from ..tasks import task_of
from ..training_set import TrainingSet, reopen_training_set
from .frozen_routers import FrozenEncoder, FrozenRouter, open_frozen
from .new_llms_page import figure, page
from .runs import RESULTS, Run, runs_below

PROGRAM = "python -m utils.report.new_llms"
SIZES = (50, 100, 300, 1000)  # scored queries
CHOICES = ("random", "spread")  # which queries are scored
CANDIDATES = (("mean", 0.0), ("loss", 0.0), ("loss", 10.0), ("loss", 100.0), ("loss", 1000.0))
CANDIDATE_SIZES = (50, 300, 1000)
KEPT = "new_llm.json"  # in the folder of a run without one LLM


@dataclass(frozen=True)
class Arguments:
    """options"""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """folders of the runs with all LLMs, or folders above them"""
    without: tuple[str, ...] = ("runs/new_llms",)
    """folders of the runs without one LLM (--llms), with the same labels and seeds, or folders above them"""
    draws: int = bounded(3, at_least=1)
    """of the scored queries, for each number of them"""
    results: Path = Path("results")
    """folder of new_llms.md and new_llms.json; the figure goes into figures/ there"""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)


@dataclass(frozen=True)
class Pair:
    """A run with all LLMs, and the run with the same settings and seed without one of them."""

    full: FrozenRouter
    six: FrozenRouter
    llm: str


def pairs_of(full: Sequence[Run], without: Sequence[Run]) -> list[Pair]:
    """Every run without one LLM beside the one with all. Raises: ValueError if there is none at all."""
    by_label = {(run.label, run.seed): run for run in full}
    pairs = []
    for run in without:
        whole = by_label.get((run.label, run.seed))
        if whole is None or run.settings.get("llms") is None:
            continue
        left_out = [llm for llm in whole.results["test"]["llms"] if llm not in run.settings["llms"]]
        if len(left_out) == 1:
            pairs.append(Pair(open_frozen(whole), open_frozen(run), left_out[0]))
    if not pairs:
        raise ValueError("no run without an LLM has the label and the seed of a run with all; train them (--help)")
    return pairs


class Queries:
    """The training and test queries that all routers share, encoded once."""

    def __init__(self, pairs: Sequence[Pair], hardware: HardwareConfig):
        encoder = FrozenEncoder([router.run for pair in pairs for router in (pair.full, pair.six)], hardware)
        self.device = encoder.router.hardware.describe()
        self.tests = encoder.tests
        self.encoded = {data.task: encoder.encode(data.inputs, data.task) for data in self.tests}
        settings = pairs[0].full.run.settings
        training = reopen_training_set(settings, pairs[0].full.run.folder)
        self.training = encoder.encode(training.inputs, "training queries")  # (N, p), all files end to end
        self.inside = [task_of(path) for path in settings["data_paths"]]
        self._centres: dict[tuple[int, int], np.ndarray] = {}

    def centres(self, count: int, draw: int) -> np.ndarray:
        """Centres (count, p) of k-means on the unit embeddings of all training queries."""
        from sklearn.cluster import MiniBatchKMeans

        if (count, draw) not in self._centres:
            unit = torch.nn.functional.normalize(self.training).numpy()
            means = MiniBatchKMeans(count, n_init=1, random_state=draw, batch_size=2048, max_iter=20).fit(unit)
            self._centres[count, draw] = means.cluster_centers_
        return self._centres[count, draw]

    def draw(self, pool: np.ndarray, count: int, choice: str, draw: int) -> np.ndarray:
        """Which `count` rows of `pool` are scored first: at random, or those nearest to as many centres."""
        shuffled = np.random.default_rng((count, draw)).permutation(pool)
        if choice == "random":
            return shuffled[:count]
        unit = torch.nn.functional.normalize(self.training[torch.from_numpy(pool)]).numpy()
        nearest = np.unique((self.centres(count, draw) @ unit.T).argmax(axis=1))
        others = shuffled[~np.isin(shuffled, pool[nearest])]  # two centres may share a row
        return np.concatenate([pool[nearest], others])[:count]


# One router


def accuracies(similarities: Mapping[str, np.ndarray], llms: Sequence[str], queries: Queries) -> dict[str, float]:
    """Both averages over the test sets in %, from similarities (N, T) to `llms` of each task."""
    by_task = {}
    for data in queries.tests:
        gain = gains(data.for_llms(llms).scores, data.kind)
        picks = similarities[data.task].argmax(axis=1)
        by_task[data.task] = 100 * float(gain[np.arange(len(picks)), picks].mean())
    return averages(by_task, queries.inside)


def tested(router: FrozenRouter, llms: Sequence[str], queries: Queries) -> dict[str, float]:
    """Both averages of a router that chooses among some of its LLMs."""
    columns = [router.llms.index(llm) for llm in llms]
    return accuracies({task: router.similarities(x)[:, columns] for task, x in queries.encoded.items()}, llms, queries)


def scored_rows(
    router: FrozenRouter, known: Sequence[str], llm: str, training: TrainingSet, rows: np.ndarray, encoded: Tensor
) -> Scored:
    """The scores of an LLM on some training rows (n,), numbered end to end, as `utils.add_llm` gets them."""
    rows = np.sort(rows)
    joined = []
    for part, offset in zip(training.parts, training.offsets):
        own = rows[(rows >= offset) & (rows < offset + len(part.data))] - offset
        of_known = replace(part, data=part.data.for_llms(known))
        joined.append(Joined(of_known, own, part.data.rows(own).for_llms([llm])))
    return scored_queries(joined, router.queries(encoded[torch.from_numpy(rows)]), router.run.settings)


def fit(router: FrozenRouter, known: Sequence[str], scored: Scored, method: str, penalty: float) -> Tensor:
    """The embedding (p,) of a new LLM beside these LLMs of the router."""
    embeddings = router.llm_embeddings[[router.llms.index(llm) for llm in known]]
    return fit_embedding(embeddings, router.similarity_function, scored, router.run.settings, method, penalty)


def measure(pair: Pair, queries: Queries, draws: int, progress: tqdm) -> dict[str, Any]:
    """Averages of the router with the LLM added in all ways, without it, and of training with it."""
    six, llm = pair.six, pair.llm
    training = reopen_training_set(six.run.settings | {"llms": None}, six.run.folder)  # the same rows, all columns
    pool = np.unique(training.pool)
    known = {task: six.similarities(x) for task, x in queries.encoded.items()}
    behind = {task: six.queries(x) for task, x in queries.encoded.items()}
    found: dict[str, Any] = {"label": six.run.label, "seed": six.run.seed, "llm": llm}
    found["full"] = tested(pair.full, pair.full.llms, queries)
    found["never"] = accuracies(known, six.llms, queries)
    found["removed"] = tested(pair.full, six.llms, queries)
    found["always"] = accuracies({task: values[:, :1] for task, values in known.items()}, [llm], queries)
    found["added"] = []
    for size, choice, draw in [*ways(draws), (len(pool), "all", 0)]:
        rows = pool if choice == "all" else queries.draw(pool, size, choice, draw)
        scored = scored_rows(six, six.llms, llm, training, rows, queries.training)
        embedding = fit(six, six.llms, scored, METHOD, PENALTY)
        similarities = {}
        for task, x in behind.items():
            new = SIMILARITIES[six.similarity_function](x, embedding[None]).numpy()  # (N, 1)
            similarities[task] = np.concatenate([known[task], new], axis=1)
        averaged = accuracies(similarities, [*six.llms, llm], queries)
        found["added"].append({"size": size, "choice": choice, "draw": draw, **averaged})
        progress.update()
    return found


def ways(draws: int) -> list[tuple[int, str, int]]:
    """Number of scored queries, how they are chosen, and the number of the draw."""
    return list(itertools.product(SIZES, CHOICES, range(draws)))


def try_candidates(pair: Pair, queries: Queries) -> list[dict[str, Any]]:
    """How each of CANDIDATES does for the LLMs that the router knows, on its training files alone.

    Each of them is taken out and added again from some rows; on all others the picks are compared. (The head knows
    the LLM from training, whatever the candidate.) Returns: for each size and candidate the mean accuracy in %.
    """
    six = pair.six
    training = reopen_training_set(six.run.settings, six.run.folder)
    pool = np.arange(len(queries.training))
    behind = six.queries(queries.training)
    to_known = six.similarities(queries.training)
    gain = np.concatenate([gains(file.scores, file.kind) for file in training.files])
    lines = []
    for size in CANDIDATE_SIZES:
        for method, penalty in CANDIDATES:
            values = []
            for column, llm in enumerate(six.llms):
                known = [other for other in six.llms if other != llm]
                rows = queries.draw(pool, size, "random", column)
                scored = scored_rows(six, known, llm, training, rows, queries.training)
                embedding = fit(six, known, scored, method, penalty)
                similarities = to_known.copy()
                similarities[:, column] = SIMILARITIES[six.similarity_function](behind, embedding[None]).numpy()[:, 0]
                others = np.setdiff1d(pool, rows)
                right = gain[others, similarities[others].argmax(axis=1)]
                of_task = training.tasks[others]
                values.append(100 * np.mean([right[of_task == task].mean() for task in np.unique(of_task)]))
            mean = float(np.mean(values))
            lines.append({"size": size, "method": method, "penalty": penalty, "accuracy": mean})
    return lines


def digest_of(router: FrozenRouter) -> str:
    """SHA-256 of the results of a router's run: it is another one when the run was trained again."""
    return hashlib.sha256((router.run.folder / RESULTS).read_bytes()).hexdigest()


def measure_all(pairs: Sequence[Pair], queries: Queries, draws: int) -> list[dict[str, Any]]:
    """`measure` of all pairs; what is kept from before is not done again.

    The first pair of each recipe gets `try_candidates`, too.
    """
    done = []
    fits, labels = len(ways(draws)) + 1, set()
    with bar(len(pairs) * fits, "fits", "fit") as progress:
        for pair in pairs:
            is_first = pair.six.run.label not in labels
            labels.add(pair.six.run.label)
            of = [*map(digest_of, (pair.full, pair.six)), METHOD, PENALTY, list(SIZES), draws, is_first]
            path = pair.six.run.folder / KEPT
            kept = read_json(path, "remove it, and it is made again", ["of", "measured"]) if path.is_file() else {}
            if kept.get("of") == of:
                progress.update(fits)
            else:
                measured = measure(pair, queries, draws, progress)
                if is_first:
                    measured["candidates"] = try_candidates(pair, queries)
                kept = {"of": of, "measured": measured}
                write_json(path, kept)
            done.append(kept["measured"])
    return done


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted (resumable)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        args = parse_arguments(Arguments, words, PROGRAM, __doc__)
        begun = time.monotonic()
        pairs = pairs_of(runs_below(args.runs), runs_below(args.without))
        queries = Queries(pairs, args.hardware)
        entries = measure_all(pairs, queries, args.draws)
        command = f"{PROGRAM} {shlex.join(words)}"
        about = {"command": command, "device": queries.device, "seconds": round(time.monotonic() - begun)}
        text = page(entries, command, queries.device, about["seconds"])
        (args.results / "figures").mkdir(parents=True, exist_ok=True)
        write_json(args.results / "new_llms.json", about | {"routers": entries})
        write_text(args.results / "new_llms.md", text)
        save(figure(entries), args.results / "figures" / "new_llms.png")
        print(f"{text}\nwritten to {args.results / 'new_llms.md'}, new_llms.json and figures/new_llms.png")
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with what is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
