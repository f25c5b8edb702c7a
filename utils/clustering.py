"""Group the training queries for the sample-sample loss: embed them with the pre-trained encoder, t-SNE, k-means (paper, section 3.2).

    python -m utils.clustering --encoder minilm --output runs/clustering/minilm
    python -m utils.clustering --encoder minilm --output DIR --data_paths a_train.json b_train.json --clusters 8 --figure map.png --report report.json

Writes each file again with a `cluster_id` in every row, and reports sizes, silhouette and the agreement with ids that were there before.
Equal questions are one query. t-SNE and k-means run on one thread, so that a seed gives the same ids on any number of cores; the
embeddings, and with them the ids, still depend on encoder, device and precision.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, silhouette_score
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from utils.data import DataError, RoutingData, load, load_all
from utils.encoders import MDEBERTA, POOLINGS, Encoder, EncoderError, Queries, load_encoder
from utils.experiment import Hardware, choose_hardware
from utils.files import writable_folder, write_json
from utils.meters import bar
from utils.plots import query_map
from utils.tables import markdown
from utils.tasks import BY_NAME, KINDS, TRAIN_ORDER, kind_of, task_of, title_of

TRAINING_FILES = tuple(
    str(Path(BY_NAME[task].test).parent / Path(BY_NAME[task].train).name) for task in TRAIN_ORDER
)  # as released, before clustering
SPACES = ("tsne", "embedding")
ITERATIONS = 1000  # of t-SNE
FIGURES = (".png", ".pdf", ".svg")


def training_files(names: Sequence[str]) -> list[str]:
    """Files as they are; a folder stands for the files in it that end in train.json, the paper's tasks first in the released order.

    Raises: ValueError for a folder without one.
    """
    order, found = {task: place for place, task in enumerate(TRAIN_ORDER)}, []
    for name in names:
        inside = sorted(
            map(str, Path(name).glob("*train.json")), key=lambda path: (order.get(task_of(path), len(order)), path)
        )
        if Path(name).is_dir() and not inside:
            raise ValueError(f"--data_paths {name}: no file there ends in train.json; name the files themselves")
        found += inside if Path(name).is_dir() else [name]
    return found


def load_files(names: Sequence[str]) -> list[RoutingData]:
    """Read the training files, one per task.

    Raises: DataError as `utils.data.load_all`, also for a task that occurs twice, or for a file that is not .json: what else a row has is kept.
    """
    paths = training_files(names)
    kinds = [
        kind_of(task_of(path)) or KINDS[0] for path in paths
    ]  # clusters do not depend on the kind of score: any will do
    files = load_all(paths, kinds, ("--data_paths", "--data_paths"))
    for data in files:
        if Path(data.path).suffix.lower() != ".json":
            raise DataError(
                f"{data.path}: cluster ids are written into .json files alone; save its rows as a .json file first (datasets/README.md has the layout)"
            )
    return files


def unique_queries(files: Sequence[RoutingData]) -> tuple[list[str], list[np.ndarray]]:
    """The n different questions of all files in order of appearance, and for each file the place (N,) of every row among them."""
    texts: dict[str, int] = {}
    places = [np.array([texts.setdefault(question, len(texts)) for question in data.questions]) for data in files]
    return list(texts), places


def given_ids(files: Sequence[RoutingData], folder: str | Path | None = None) -> list[np.ndarray] | None:
    """Cluster ids (N,) of every file from before: of the files of the same names in `folder`, else the files' own; None if some have none.

    Raises: DataError if a file of `folder` is missing, has a row without an id, or other questions.
    """
    if folder is None:
        return [data.clusters for data in files] if all(data.clusters is not None for data in files) else None
    found = []
    for data in files:
        other = load(Path(folder) / Path(data.path).name, data.kind, need_clusters=True)
        if other.questions != data.questions:
            row = next(
                (row for row, (a, b) in enumerate(zip(other.questions, data.questions)) if a != b),
                min(len(other), len(data)),
            )
            raise DataError(
                f"{other.path}, row {row}: not the question of that row in {data.path}; --compare needs the same questions in the same order"
            )
        found.append(other.clusters)
    return found


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
            f"--perplexity is {perplexity:g}; it must be at least 1{few}. Without t-SNE: --space embedding and no --figure"
        )


def check_output(files: Sequence[RoutingData], folder: Path, overwrite: bool = False) -> None:
    """Refuse to replace files that are there, the inputs above all, unless `overwrite`. Raises: ValueError naming the file."""
    for data in files:
        target = folder / Path(data.path).name
        if overwrite or not target.exists():
            continue
        if target.resolve() == Path(data.path).resolve():
            raise ValueError(
                f"--output {folder}: this is the folder of the input {data.path}; choose another, or --overwrite to put the cluster ids into the input files"
            )
        raise ValueError(
            f"--output {folder}: {target.name} is already there; choose another folder, or --overwrite to replace it"
        )


def embed_queries(texts: Sequence[str], encoder: Encoder, where: Hardware, cache: Path | None = None) -> np.ndarray:
    """Embeddings (n, p) float32 of n texts by the pre-trained encoder; looked up in, or added to, the folder `cache`."""
    encoder.place(where)
    return Queries(encoder.eval(), texts, where, "none", cache, "training queries").inputs.float().cpu().numpy()


class _Iterations(io.TextIOBase):
    """Stands in for standard output while scikit-learn's t-SNE, which has no callback, prints its iterations: moves a bar instead."""

    def __init__(self, progress: tqdm):
        self.progress = progress

    def write(self, text: str) -> int:
        if found := re.search(r"Iteration (\d+)", text):
            self.progress.update(max(0, int(found[1]) - self.progress.n))
        return len(text)


def tsne_map(embeddings: np.ndarray, seed: int, perplexity: float = 30.0) -> np.ndarray:
    """The embeddings (n, p) in two dimensions, (n, 2) float32. Raises: ValueError if perplexity is not below n."""
    check_settings(len(embeddings), 1, seed, perplexity)
    with (
        bar(ITERATIONS, "t-SNE", "iteration") as progress,
        threadpool_limits(1),
        redirect_stdout(_Iterations(progress)),
    ):
        points = TSNE(
            2, perplexity=perplexity, max_iter=ITERATIONS, init="pca", random_state=seed, verbose=2
        ).fit_transform(embeddings)
        progress.update(ITERATIONS - progress.n)
    return points


def kmeans(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Cluster ids (n,) from 0 of points (n, d), the best of ten starts. The largest cluster is 0; of equal ones the first in `points`.

    Raises: ValueError if clusters is not from 1 to n, or if there are fewer different points.
    """
    check_settings(len(points), clusters, seed)
    different = len(np.unique(points, axis=0))
    if different < clusters:
        raise ValueError(
            f"--clusters is {clusters}, but the {len(points)} queries are only {different} different points; give at most {different}"
        )
    with threadpool_limits(1):
        found = KMeans(clusters, n_init=10, random_state=seed).fit_predict(points)
    _, first, sizes = np.unique(found, return_index=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[found]


def silhouette(points: np.ndarray, ids: np.ndarray) -> float | None:
    """Mean silhouette of clusters ids (n,) in points (n, d), from -1 to 1; None where it has no meaning (one cluster, or only single points)."""
    return round(float(silhouette_score(points, ids)), 4) if 2 <= len(np.unique(ids)) < len(ids) else None


def describe(
    files: Sequence[RoutingData],
    places: Sequence[np.ndarray],
    ids: np.ndarray,
    spaces: Mapping[str, np.ndarray],
    given: Sequence[np.ndarray] | None,
) -> dict[str, Any]:
    """Sizes and measures of the clusters ids (n,) of the unique queries.

    Args:
        places: for each file the place (N,) of every row among the unique queries.
        spaces: points (n, d) by name; in each the silhouette is computed, over the unique queries.
        given: ids (N,) of each file from before, or None.
    Returns: sizes per task and cluster, and adjusted Rand indices (1: the same grouping, 0: as by chance), over the rows of the files.
    The indices with the tasks are controls: they say how much of a grouping the task alone explains.
    """
    new, tasks = ids[np.concatenate(places)], np.repeat(np.arange(len(files)), [len(data) for data in files])  # (rows,)
    pairs = {"new_and_tasks": (new, tasks)}
    if given is not None:
        old = np.concatenate(given)
        pairs = {"new_and_given": (new, old), **pairs, "given_and_tasks": (old, tasks)}
    return {
        "rows": len(new),
        "unique_queries": len(ids),
        "sizes": {
            data.task: np.bincount(ids[place], minlength=ids.max() + 1).tolist() for data, place in zip(files, places)
        },
        "silhouette": {name: silhouette(points, ids) for name, points in spaces.items()},
        "adjusted_rand_index": {name: round(float(adjusted_rand_score(*pair)), 4) for name, pair in pairs.items()},
    }


def table(result: Mapping[str, Any]) -> str:
    """Sizes of a `describe` as a Markdown table, and its measures as a list below."""
    sizes = {title_of(task): row for task, row in result["sizes"].items()}
    sizes["all"] = np.sum(list(sizes.values()), axis=0).tolist()
    rows = [[title, *map(str, row), str(sum(row))] for title, row in sizes.items()]
    lines = [
        f"- silhouette, {name}: {'-' if value is None else f'{value:.3f}'}"
        for name, value in result["silhouette"].items()
    ]
    lines += [
        f"- adjusted Rand index, {name.replace('_', ' ')}: {value:.3f}"
        for name, value in result["adjusted_rand_index"].items()
    ]
    return markdown(["rows per cluster", *map(str, range(len(rows[0]) - 2)), "all"], rows) + "\n\n" + "\n".join(lines)


def draw(
    files: Sequence[RoutingData],
    places: Sequence[np.ndarray],
    points: np.ndarray,
    ids: np.ndarray,
    given: Sequence[np.ndarray] | None,
    title: str,
    target: Path,
) -> None:
    """The t-SNE map (n, 2) coloured by cluster and by task, and by the ids given before if there are any."""
    _, first = np.unique(np.concatenate(places), return_index=True)  # the first row of every unique query
    tasks = np.repeat(np.arange(len(files)), [len(data) for data in files])[first]
    panels = {
        f"k-means clusters, N = {ids.max() + 1}": ([f"cluster {number}" for number in range(ids.max() + 1)], ids),
        "Tasks": ([title_of(data.task) for data in files], tasks),
    }
    if given is not None:
        names, old = np.unique(np.concatenate(given), return_inverse=True)
        panels["Cluster ids given before"] = ([f"given {name}" for name in names], old[first])
    query_map(points, panels, title, target)


def write_clustered(
    files: Sequence[RoutingData], places: Sequence[np.ndarray], ids: np.ndarray, folder: Path, overwrite: bool = False
) -> list[Path]:
    """Write every file into `folder` under its own name, with the `cluster_id` of each row; what else a row has stays as it is, in its order.

    All files or none: they are written beside their targets and then take their places; if that fails, what was there comes back.
    Raises: ValueError if a file is there and not `overwrite`; DataError if an input changed since it was read.
    """
    check_output(files, folder, overwrite)
    texts = {}
    for data, place in zip(files, places):
        raw = Path(data.path).read_bytes()
        if hashlib.sha256(raw).hexdigest() != data.sha256:
            raise DataError(
                f"{data.path}: it changed while it was being clustered, so that the ids may not fit its rows; start again"
            )
        rows = [
            json.dumps({**row, "cluster_id": int(number)}, ensure_ascii=False)
            for row, number in zip(json.loads(raw), ids[place])
        ]
        texts[folder / Path(data.path).name] = "[\n" + ",\n".join(rows) + "\n]\n"
    folder.mkdir(parents=True, exist_ok=True)
    before = {path: path.read_bytes() if path.exists() else None for path in texts}
    parts = {path: path.with_name(f".{path.name}.part") for path in texts}
    replaced: list[Path] = []
    try:
        for path, text in texts.items():
            parts[path].write_text(text, encoding="utf-8")
        for path, part in parts.items():
            replaced.append(path)
            os.replace(part, path)
    except BaseException:
        for path in replaced:
            if before[path] is None:
                path.unlink(missing_ok=True)
            else:
                parts[path].write_bytes(before[path])
                os.replace(parts[path], path)
        raise
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return list(texts)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--data_paths",
        nargs="+",
        default=list(TRAINING_FILES),
        help="training files (.json), one per task, or folders of them (default: the released ones)",
    )
    p.add_argument("--output", required=True, type=Path, help="folder for the clustered files, which keep their names")
    p.add_argument("--overwrite", action="store_true", help="replace files that are there, even the inputs")
    p.add_argument("--clusters", type=int, default=5, help="N of the paper")
    p.add_argument(
        "--space",
        choices=SPACES,
        default="tsne",
        help="cluster the t-SNE map, as the paper does, or the embeddings themselves",
    )
    p.add_argument(
        "--perplexity",
        type=float,
        default=30.0,
        help="of t-SNE, which reduces to two dimensions: about how many neighbours count",
    )
    p.add_argument("--encoder", default=MDEBERTA, help="hub name, local folder, or minilm (a PyPI package)")
    p.add_argument("--pooling", choices=POOLINGS, help="default: first token; mean for minilm")
    p.add_argument("--max_length", type=int, default=512, help="tokens kept of a query, the last ones")
    p.add_argument("--seed", type=int, default=1, help="of t-SNE and k-means")
    p.add_argument(
        "--compare",
        metavar="DIR",
        help="folder of the same files with cluster ids to compare with; default: the ids in the inputs, if all have them",
    )
    p.add_argument("--figure", type=Path, help=f"draw the t-SNE map: a file that ends in {', '.join(FIGURES)}")
    p.add_argument("--report", type=Path, help="write sizes and measures as JSON")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    p.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    p.add_argument(
        "--cache_dir",
        type=Path,
        default=Path(".cache/queries"),
        help="embeddings, so that a stopped run need not compute them again",
    )
    return p


def cluster(args: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Do what the command line asks for; returns what the JSON report holds.

    Raises: ValueError (DataError) or EncoderError for bad input; the files are then as they were.
    """
    begun = time.monotonic()
    where = choose_hardware(args.device, args.precision)
    files = load_files(args.data_paths)
    given = given_ids(files, args.compare)
    texts, places = unique_queries(files)
    mapped = args.space == "tsne" or args.figure is not None
    check_settings(len(texts), args.clusters, args.seed, args.perplexity if mapped else None)
    check_output(files, args.output, args.overwrite)
    if args.figure and args.figure.suffix not in FIGURES:
        raise ValueError(f"--figure {args.figure}: its name must end in {', '.join(FIGURES)}")
    for path, flag in (
        (args.output, "--output"),
        (args.figure and args.figure.parent, "--figure"),
        (args.report and args.report.parent, "--report"),
        (args.cache_dir, "--cache_dir"),
    ):
        if path:
            writable_folder(path, flag)

    encoder = load_encoder(args.encoder, args.pooling, args.max_length)
    embeddings = embed_queries(texts, encoder, where, args.cache_dir)
    spaces = {"tsne": tsne_map(embeddings, args.seed, args.perplexity)} if mapped else {}
    spaces["embedding"] = embeddings
    ids = kmeans(spaces[args.space], args.clusters, args.seed)
    name = Path(args.encoder).name if Path(args.encoder).is_absolute() else args.encoder
    result = {
        "clusters": args.clusters, "space": args.space, "perplexity": args.perplexity if mapped else None,
        "encoder": name, "pooling": encoder.pooling, "max_length": args.max_length, "seed": args.seed,
        **describe(files, places, ids, spaces, given),
        "files": [{"task": data.task, "path": data.path, "rows": len(data), "sha256": data.sha256} for data in files],
        "given": args.compare or ("inputs" if given else None),
        "device": where.describe(),
        "command": shlex.join(["python", "-m", "utils.clustering", *arguments]),
    }  # fmt: skip
    write_clustered(files, places, ids, args.output, args.overwrite)
    if args.figure:
        title = f"{len(texts):,} training queries, {name} embeddings ({encoder.pooling} pooling), t-SNE with perplexity {args.perplexity:g}, seed {args.seed}"
        draw(files, places, spaces["tsne"], ids, given, title, args.figure)
    result["seconds"] = round(time.monotonic() - begun, 1)
    if args.report:
        write_json(args.report, result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 2 for bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    try:
        result = cluster(args, arguments)
    except (DataError, EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    written = ", ".join(
        [f"{len(result['files'])} files in {args.output}", *[str(path) for path in (args.figure, args.report) if path]]
    )
    print(
        f"{result['unique_queries']} unique queries, {result['encoder']}, seed {result['seed']}\n\n{table(result)}\n\nWritten: {written}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
