"""Group the training queries for the sample-sample loss (paper, section 3.2).

They are embedded with the pre-trained encoder, reduced to two dimensions with t-SNE, and grouped with k-means.

    python -m utils.clustering --encoder minilm --output runs/clustering/minilm
    python -m utils.clustering --encoder minilm --output DIR --data_paths a_train.json b_train.csv --clusters 8

Writes each file again, in its format and under its name, with a `cluster_id` in every row, and reports sizes,
silhouette and the agreement with ids that were there before. Equal questions are one query. t-SNE and k-means run on
one thread, so that a seed gives the same ids on any number of cores; the embeddings, and with them the ids, still
depend on encoder, device and precision.

Of more than MANY queries a sample is mapped and grouped, drawn with the seed; every other query gets the cluster whose
mean embedding in the sample is nearest to its own. In the space of embeddings k-means then takes mini-batches. The
report has the size of the sample.
"""

import io
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn import config_context
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, silhouette_score
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .cluster_files import (
    TRAINING_FILES,
    TrainingFile,
    check_output,
    given_ids,
    load_files,
    unique_queries,
    write_clustered,
)
from .config import GIVEN, EncoderConfig, HardwareConfig, parse_arguments
from .data import DataError
from .encoders import Encoder, EncoderError, Queries, load_encoder
from .experiment import Hardware, choose_hardware
from .files import locked, writable_folder, write_json
from .meters import bar
from .plots import check_format, query_map
from .tables import markdown
from .tasks import title_of

PROGRAM = "python -m utils.clustering"
SPACES = ("tsne", "embedding")
ITERATIONS = 1000  # of t-SNE
SILHOUETTE_POINTS = 10_000  # more are drawn from
MANY = 50_000  # queries; of more a sample is mapped, and k-means takes mini-batches
SAMPLE = 5_000  # queries of a map of MANY
MANY_MEMORY = 64  # megabytes of distances at once in the silhouette of MANY; of fewer as many as scikit-learn takes
MINI_BATCH = 4096
BLOCK = 65_536  # queries whose nearest centre is looked for at once


@dataclass(frozen=True)
class Arguments:
    """Cluster the training queries."""

    output: Path
    """folder for the clustered files, which keep their names and formats"""
    data_paths: tuple[str, ...] = TRAINING_FILES
    """training files of any format, one per task, or folders: of a folder the files named *train, or all data files
    that are not named *_test or *_val"""
    overwrite: bool = False
    """replace files that are there, even the inputs"""
    clusters: int = 5
    """N of the paper"""
    space: Literal[SPACES] = "tsne"
    """cluster the t-SNE map, as the paper does, or the embeddings themselves"""
    perplexity: float = 30.0
    """of t-SNE, which reduces to two dimensions: about how many neighbours count"""
    seed: int = 1
    """of t-SNE and k-means"""
    compare: Path | None = None
    """folder of the same files with cluster ids to compare with; default: the ids in the inputs, if all have them"""
    figure: Path | None = None
    """draw the t-SNE map: a file that ends in .png (a .pdf comes beside it), .pdf or .svg"""
    report: Path | None = None
    """write sizes and measures as JSON"""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)


# Checks


def check_space(space: str) -> None:
    """Refuse a space that is none of SPACES. Raises: ValueError."""
    if space not in SPACES:
        raise ValueError(f"--space is {space!r}; it must be {' or '.join(SPACES)}")


def check_settings(queries: int, clusters: int, seed: int, perplexity: float | None = None) -> None:
    """Refuse numbers that k-means, or t-SNE where `perplexity` is given, cannot take for so many unique queries.

    Raises: ValueError naming the flag, the number and the bound.
    """
    if clusters < 1:
        raise ValueError(f"--clusters is {clusters}; it must be at least 1")
    if clusters > queries:
        raise ValueError(
            f"--clusters is {clusters}, but there are only {queries} unique queries; give at most {queries}"
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed is {seed}; it must be from 0 to {2**32 - 1}")
    if perplexity is not None and not 1 <= perplexity < queries:
        few = f" and below the number of unique queries, {queries}" if perplexity >= 1 else ""
        raise ValueError(
            f"--perplexity is {perplexity:g}; it must be at least 1{few}. "
            "Without t-SNE: --space embedding and no --figure"
        )


def check_folders(args: Arguments) -> None:
    """Refuse a figure of unknown format, and folders that cannot be written. Raises: ValueError naming the flag."""
    folders = {"--output": args.output, "--cache_dir": args.hardware.cache_dir}
    if args.figure:
        check_format(args.figure, "--figure")
        folders["--figure"] = args.figure.parent
    if args.report:
        folders["--report"] = args.report.parent
    for flag, folder in folders.items():
        writable_folder(folder, flag)


# Embeddings, map, clusters


def embed_queries(texts: Sequence[str], encoder: Encoder, hardware: Hardware, cache: Path | None = None) -> np.ndarray:
    """Embeddings (n, p) float32 of n texts by the pre-trained encoder.

    cache: folder in which they are looked up, and to which they are added; or None.
    """
    encoder.place(hardware)
    queries = Queries(encoder.eval(), texts, hardware, "none", cache, "training queries")
    return queries.inputs.float().cpu().numpy()


def embeddings_in(files: Sequence[TrainingFile], places: Sequence[np.ndarray]) -> np.ndarray:
    """Embeddings (n, p) of the n unique queries of files (.npz) that have them in place of text.

    places: for each file the place (N,) of every row among the unique queries.
    Raises: DataError for a file that has text, or embeddings of another size.
    """
    for file in files:
        if file.embeddings is None:
            raise DataError(f"{file.path}: it has text, which --encoder {GIVEN} cannot read; name an encoder")
        sizes = [other.embeddings.shape[1] for other in (files[0], file)]
        if sizes[0] != sizes[1]:
            raise DataError(
                f"{file.path} has embeddings of {sizes[1]} dimensions, and {files[0].path} of {sizes[0]}; "
                "all files must be alike"
            )
    _, first = np.unique(np.concatenate(places), return_index=True)
    if len(files) == 1 and len(first) == len(files[0]):
        return files[0].embeddings  # all of them, in their order
    return np.concatenate([file.embeddings for file in files])[first]


def check_text(files: Sequence[TrainingFile], encoder: str) -> None:
    """Refuse files without text for an encoder that reads it. Raises: DataError."""
    for file in files:
        if file.embeddings is not None:
            raise DataError(
                f"{file.path}: embeddings without text, which --encoder {encoder} cannot read; give --encoder {GIVEN}"
            )


class _Iterations(io.TextIOBase):
    """Stands in for standard output while scikit-learn's t-SNE prints its iterations: moves a bar instead.

    That t-SNE has no callback.
    """

    def __init__(self, progress: tqdm):
        self.progress = progress

    def write(self, text: str) -> int:
        if iteration := re.search(r"Iteration (\d+)", text):
            self.progress.update(max(0, int(iteration[1]) - self.progress.n))
        return len(text)


def tsne_map(embeddings: np.ndarray, seed: int, perplexity: float = 30.0) -> np.ndarray:
    """The embeddings (n, p) in two dimensions, (n, 2) float32. Raises: ValueError if perplexity is not below n."""
    check_settings(len(embeddings), 1, seed, perplexity)
    tsne = TSNE(2, perplexity=perplexity, max_iter=ITERATIONS, init="pca", random_state=seed, verbose=2)
    with (
        bar(ITERATIONS, "t-SNE", "iteration") as progress,
        threadpool_limits(1),
        redirect_stdout(_Iterations(progress)),
    ):
        points = tsne.fit_transform(embeddings)
        progress.update(ITERATIONS - progress.n)
    return points


def kmeans(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Cluster ids (n,) from 0 of points (n, d), the best of ten starts.

    The largest cluster is 0; of equal ones the first in `points`.
    Raises: ValueError if clusters is not from 1 to n, or if there are fewer different points.
    """
    check_settings(len(points), clusters, seed)
    method = KMeans(clusters, n_init=10, random_state=seed)
    if len(points) > MANY:
        method = MiniBatchKMeans(clusters, n_init=10, random_state=seed, batch_size=MINI_BATCH)
    different = clusters if len(points) > MANY else len(np.unique(points, axis=0))
    if different >= clusters:
        with threadpool_limits(1):
            labels = method.fit_predict(points)
        different = len(np.unique(labels))
    if different < clusters:
        raise ValueError(
            f"--clusters is {clusters}, but the {len(points)} queries are only {different} different points; "
            f"give at most {different}"
        )
    return largest_first(labels)


def largest_first(labels: np.ndarray) -> np.ndarray:
    """The same clusters (n,), numbered from 0 by size; of equal ones the first in `labels` comes first."""
    _, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[labels]


def draw_sample(count: int, seed: int) -> np.ndarray | None:
    """Which of `count` queries are mapped, (SAMPLE,) in their order; None for all, up to MANY."""
    if count <= MANY:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, SAMPLE, replace=False))


def extended(embeddings: np.ndarray, drawn: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Clusters (n,) of all queries from those of a sample: the others get that of the nearest mean of the sample.

    embeddings: (n, p). drawn: (s,), the queries of the sample. labels: (s,), their clusters from 0.
    """
    means = np.stack([embeddings[drawn[labels == label]].mean(axis=0) for label in range(labels.max() + 1)])
    lengths = (means**2).sum(axis=1)
    found = np.empty(len(embeddings), dtype=np.int64)
    with threadpool_limits(1):
        for start in range(0, len(embeddings), BLOCK):
            block = embeddings[start : start + BLOCK]
            found[start : start + len(block)] = (lengths - 2 * block @ means.T).argmin(axis=1)
    found[drawn] = labels
    return largest_first(found)


# Measures


def silhouette(points: np.ndarray, ids: np.ndarray) -> float | None:
    """Mean silhouette of clusters ids (n,) in points (n, d), from -1 to 1.

    Its work is quadratic: of more than SILHOUETTE_POINTS points it is that of so many, drawn with a fixed seed.
    None where it has no meaning: for one cluster, or if every point is alone in its own.
    """
    memory = MANY_MEMORY if len(ids) > MANY else None
    if len(ids) > SILHOUETTE_POINTS:
        drawn = np.random.default_rng(0).choice(len(ids), SILHOUETTE_POINTS, replace=False)
        points, ids = points[drawn], ids[drawn]
    if not 2 <= len(np.unique(ids)) < len(ids):
        return None
    with config_context(working_memory=memory):
        return round(float(silhouette_score(points, ids)), 4)


def describe(
    files: Sequence[TrainingFile],
    places: Sequence[np.ndarray],
    ids: np.ndarray,
    spaces: Mapping[str, np.ndarray],
    given: Sequence[np.ndarray] | None,
    drawn: np.ndarray | None = None,
) -> dict[str, Any]:
    """Sizes and measures of the clusters ids (n,) of the unique queries.

    Args:
        places: for each file the place (N,) of every row among the unique queries.
        spaces: points (n, d) by name; in each the silhouette is computed, over the unique queries.
        given: ids (N,) of each file from before, or None.
        drawn: (s,), the queries that "tsne" has; None: all.
    Returns: sizes per task and cluster, and adjusted Rand indices (1: the same grouping, 0: as by chance), over the
    rows of the files. The indices with the tasks are controls: how much of a grouping the task alone explains.
    """
    new = ids[np.concatenate(places)]  # (rows,)
    tasks = np.repeat(np.arange(len(files)), [len(file) for file in files])  # (rows,)
    pairs = {"new_and_tasks": (new, tasks)}
    if given is not None:
        old = np.concatenate(given)
        pairs = {"new_and_given": (new, old), **pairs, "given_and_tasks": (old, tasks)}
    sizes = {}
    for file, place in zip(files, places):
        sizes[file.task] = np.bincount(ids[place], minlength=ids.max() + 1).tolist()
    return {
        "rows": len(new),
        "unique_queries": len(ids),
        "sizes": sizes,
        "silhouette": {
            name: silhouette(points, ids if name != "tsne" or drawn is None else ids[drawn])
            for name, points in spaces.items()
        },
        "adjusted_rand_index": {name: round(float(adjusted_rand_score(*pair)), 4) for name, pair in pairs.items()},
    }


def table(result: Mapping[str, Any]) -> str:
    """Sizes of a `describe` as a Markdown table, and its measures as a list below."""
    sizes = {title_of(task): row for task, row in result["sizes"].items()}
    sizes["all"] = np.sum(list(sizes.values()), axis=0).tolist()
    clusters = len(sizes["all"])
    rows = [[title, *map(str, row), str(sum(row))] for title, row in sizes.items()]
    measures = []
    drawn = f" ({SILHOUETTE_POINTS:,} queries drawn)" if result["unique_queries"] > SILHOUETTE_POINTS else ""
    for name, value in result["silhouette"].items():
        measures.append(f"- silhouette, {name}{drawn}: {'-' if value is None else f'{value:.3f}'}")
    for name, value in result["adjusted_rand_index"].items():
        measures.append(f"- adjusted Rand index, {name.replace('_', ' ')}: {value:.3f}")
    header = ["rows per cluster", *map(str, range(clusters)), "all"]
    return markdown(header, rows) + "\n\n" + "\n".join(measures)


def draw(
    files: Sequence[TrainingFile],
    places: Sequence[np.ndarray],
    points: np.ndarray,
    ids: np.ndarray,
    given: Sequence[np.ndarray] | None,
    title: str,
    target: Path,
    drawn: np.ndarray | None = None,
) -> None:
    """The t-SNE map (n, 2) coloured by cluster and by task, and by the ids given before if there are any.

    drawn: (n,), which of the unique queries are on it; None: all.
    """
    _, first = np.unique(np.concatenate(places), return_index=True)  # the first row of every unique query
    if drawn is not None:
        first, ids = first[drawn], ids[drawn]
    tasks = np.repeat(np.arange(len(files)), [len(file) for file in files])[first]
    clusters = ids.max() + 1
    panels = {
        f"k-means clusters, N = {clusters}": ([f"cluster {number}" for number in range(clusters)], ids),
        "Tasks": ([title_of(file.task) for file in files], tasks),
    }
    if given is not None:
        names, old = np.unique(np.concatenate(given), return_inverse=True)
        panels["Cluster ids given before"] = ([f"given {name}" for name in names], old[first])
    query_map(points, panels, title, target)


def map_title(queries: int, encoder: str, pooling: str | None, perplexity: float, seed: int) -> str:
    """The title of the map: how many queries, whose embeddings, and the settings of t-SNE."""
    pooled = f" ({pooling} pooling)" if pooling else ""
    settings = f"t-SNE with perplexity {perplexity:g}, seed {seed}"
    return f"{queries:,} training queries, {encoder} embeddings{pooled}, {settings}"


# The command


def group(
    embeddings: np.ndarray, args: Arguments, is_mapped: bool
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
    """Points by space, cluster ids (n,) of all queries, and which queries are mapped (None: all, or no map).

    embeddings: (n, p). is_mapped: make the t-SNE map.
    """
    drawn = draw_sample(len(embeddings), args.seed) if is_mapped else None
    spaces = {}
    if is_mapped:
        spaces["tsne"] = tsne_map(embeddings if drawn is None else embeddings[drawn], args.seed, args.perplexity)
    spaces["embedding"] = embeddings
    ids = kmeans(spaces[args.space], args.clusters, args.seed)
    if args.space == "tsne" and drawn is not None:
        ids = extended(embeddings, drawn, ids)
    return spaces, ids, drawn


def cluster(args: Arguments, words: Sequence[str]) -> dict[str, Any]:
    """Do what the command line asks for; returns what the JSON report holds.

    words: the command line, for the report.
    Raises: ValueError (DataError) or EncoderError for bad input; the files are then as they were.
    """
    begun = time.monotonic()
    flags = args.hardware
    hardware = choose_hardware(flags.device, flags.precision, flags.threads, flags.tokens)
    files = load_files(args.data_paths)
    given = given_ids(files, args.compare)
    texts, places = unique_queries(files)
    is_mapped = args.space == "tsne" or args.figure is not None
    perplexity = args.perplexity if is_mapped else None
    check_settings(len(texts), args.clusters, args.seed, perplexity)
    check_output(files, args.output, args.overwrite)
    check_folders(args)

    source = args.encoder.encoder
    if source == GIVEN:
        pooling = None
        embeddings = embeddings_in(files, places)
    else:
        check_text(files, source)
        encoder = load_encoder(source, args.encoder.pooling, args.encoder.max_length)
        pooling = encoder.pooling
        embeddings = embed_queries(texts, encoder, hardware, args.hardware.cache_dir)
    spaces, ids, drawn = group(embeddings, args, is_mapped)

    name = Path(source).name if Path(source).is_absolute() else source
    result = {
        "clusters": args.clusters,
        "space": args.space,
        "perplexity": perplexity,
        "encoder": name,
        "pooling": pooling,
        "max_length": args.encoder.max_length,
        "seed": args.seed,
        **describe(files, places, ids, spaces, given, drawn),
        "files": [{"task": file.task, "path": file.path, "rows": len(file), "sha256": file.sha256} for file in files],
        "given": str(args.compare) if args.compare else "inputs" if given else None,
        "device": hardware.describe(),
        "command": f"{PROGRAM} {shlex.join(words)}",
    }
    if drawn is not None:
        result["mapped_queries"] = len(drawn)
    if args.space == "embedding" and len(texts) > MANY:
        result["mini_batch"] = MINI_BATCH
    with locked(args.output):  # of two at once, the second replaces what the first wrote, or refuses to
        write_clustered(files, places, ids, args.output, args.overwrite)
        if args.figure:
            title = map_title(len(spaces["tsne"]), name, pooling, args.perplexity, args.seed)
            draw(files, places, spaces["tsne"], ids, given, title, args.figure, drawn)
        result["seconds"] = round(time.monotonic() - begun, 1)
        if args.report:
            write_json(args.report, result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    words = sys.argv[1:] if argv is None else argv
    try:
        args = parse_arguments(Arguments, words, PROGRAM, __doc__)
        result = cluster(args, words)
    except (DataError, EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    written = [f"{len(result['files'])} files in {args.output}"]
    written += [str(path) for path in (args.figure, args.report) if path]
    print(f"{result['unique_queries']} unique queries, {result['encoder']}, seed {result['seed']}\n")
    print(f"{table(result)}\n\nWritten: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
