"""Fit and test the baseline routers and the controls on frozen query embeddings, with the data, splits and metric of training.

    python -m utils.baselines --encoder minilm --targets score --seeds 1 2 3 4 5 --save_path runs/baselines/frozen
    python -m utils.baselines --routers knn ridge --encoder minilm --save_path runs/mine --data_paths a_train.json ...

Each (router, seed) is a run of its own, `<save_path>/<name>/seed_<seed>`, with the results.json of train_router_mdeberta.py: finished
ones are skipped, and `python -m utils.report` collects them. Settings are chosen on the validation rows of the seed, from the grid in the
router's file. CosineClassifier and ZOOTER share RouterDC's training loop: train_router_mdeberta.py --loss. All by one command:
train_scripts/baselines.sh.

    python -m utils.baselines --routers lora_retriever --encoder_ckpt "runs/routerdc/seed_{seed}" --save_path runs/mine

takes the embeddings of trained routers in place of a pre-trained encoder's. The name of such a run ends in
"trained encoder".
"""

import argparse
import hashlib
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from utils.baselines import trained_encoder
from utils.baselines.base import Choice, Gradient, Router, Rows, choose, unit
from utils.baselines.controls import BestPerTask, BestSingle, Control, Oracle, Random
from utils.baselines.irt import IRT
from utils.baselines.kmeans import KMeans
from utils.baselines.knn import KNN
from utils.baselines.lora_retriever import LoraRetriever
from utils.baselines.matrix_factorization import MatrixFactorization
from utils.baselines.mlp import MLP
from utils.baselines.ridge import Ridge
from utils.baselines.task_classifier import TaskClassifier
from utils.baselines.voting import answers_of, voting
from utils.ceiling.known import known_ceilings
from utils.checkpoint import CheckpointError
from utils.data import (
    RoutingData,
    add_data_arguments,
    embedding_size,
    load_all,
    load_tests,
    reading,
    shrink,
    split_validation,
    targets,
    trained_on,
)
from utils.denoise import POOLINGS as TARGET_POOLINGS
from utils.denoise import pool_targets
from utils.encoders import GIVEN, MDEBERTA, POOLINGS, EncoderError, Queries, load_encoder
from utils.evaluate import measure
from utils.experiment import Hardware, choose_hardware
from utils.files import writable_folder, write_json, write_text
from utils.meters import bar
from utils.metrics import averages, references, utility
from utils.report.runs import runs_below
from utils.report.summary import summary
from utils.tables import tables
from utils.tasks import DATASETS, fill_kinds

ROUTERS: dict[str, type[Router]] = {
    "knn": KNN, "ridge": Ridge, "mlp": MLP, "matrix_factorization": MatrixFactorization, "kmeans": KMeans, "lora_retriever": LoraRetriever,
    "irt": IRT, "task_classifier": TaskClassifier,
}  # fmt: skip
CONTROLS: dict[str, type[Control]] = {
    "random": Random,
    "best_single": BestSingle,
    "best_per_task": BestPerTask,
    "oracle": Oracle,
}
VOTING = "voting"
TRAINED = ("routerdc", "cosine_classifier", "zooter")  # what the training loop fits, by its --loss
BOUNDED = tuple(
    name for name, kind in ROUTERS.items() if issubclass(kind, Gradient)
)  # their targets must be in [0, 1], so they cannot charge a cost
NOT_SETTINGS = (
    "routers",
    "seeds",
    "save_path",
    "recipe",
    "device",
    "cache_dir",
    "command",
    "answers",
)  # change no result, or, the answers, voting's alone
MAX_LENGTH = 512


def parser() -> argparse.ArgumentParser:
    """The arguments; those of the data, the encoder and the targets are named as in train_router_mdeberta.py."""
    p = argparse.ArgumentParser(
        prog="python -m utils.baselines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--routers", nargs="+",
        help=f"of {', '.join([*ROUTERS, *CONTROLS, VOTING])}; default: all but voting, which needs answers, and with --cost_rate all but {' and '.join(BOUNDED)} too",
    )  # fmt: skip
    p.add_argument("--seeds", nargs="+", type=int, default=[1], help="of the validation split and of whatever is drawn")

    data = p.add_argument_group("data")
    add_data_arguments(data)
    data.add_argument(
        "--training_samples_per_dataset",
        type=int,
        default=1000,
        help="first rows of each file, none of them repeated; 0: all",
    )
    data.add_argument(
        "--validation_fraction",
        type=float,
        default=0.1,
        help="share of each training file held out to choose the settings",
    )
    data.add_argument(
        "--answers",
        metavar="DIR",
        help="for voting: what each LLM answered to each test query, from `python -m utils.scoring.convert --answers DIR`",
    )
    data.add_argument(
        "--refit",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="fit the chosen setting again on training and validation rows",
    )

    goal = p.add_argument_group("targets")
    goal.add_argument(
        "--targets",
        choices=("score", "gain"),
        default="gain",
        help="gain: right or wrong for multiple choice, what the metric counts",
    )
    goal.add_argument(
        "--cost_rate",
        type=float,
        default=0.0,
        help="targets are score - cost_rate * cost in US dollars; settings are chosen by that, too",
    )
    goal.add_argument(
        "--target_shrinkage", type=float, default=0.0, help="0 to 1: how far each target moves to the mean of its task"
    )
    goal.add_argument(
        "--target_pooling", choices=("none", *TARGET_POOLINGS), default="none",
        help="estimate that, and parts of neighbours and cluster, per task (utils/denoise.py); not for the controls",
    )  # fmt: skip

    encoder = p.add_argument_group("encoder")
    encoder.add_argument(
        "--encoder",
        help="hub name, local folder, minilm (a PyPI package), or given (data files of embeddings); "
        f"default: {MDEBERTA}",
    )  # fmt: skip
    encoder.add_argument("--pooling", choices=POOLINGS, help="default: first token; mean for minilm")
    encoder.add_argument("--max_length", type=int, help=f"tokens kept of a query, the last ones; default: {MAX_LENGTH}")
    encoder.add_argument(
        trained_encoder.FLAG, metavar="RUN",
        help="finished run of train_router_mdeberta.py whose query embeddings to take in place of these three, "
        f"{trained_encoder.SEED} in it standing for the seed; training files and split must be those of the baseline",
    )  # fmt: skip
    encoder.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps; of the encoder")
    encoder.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    encoder.add_argument("--cache_dir", default=".cache/queries", help="embeddings")

    p.add_argument("--recipe", default="frozen", help="label of the settings in results")
    p.add_argument(
        "--save_path", default="runs/baselines/frozen", help="folder of the runs; finished ones there are skipped"
    )
    return p


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments with the defaults of their --dataset.

    Raises: ValueError, naming the flag, for a value that makes no sense whatever the data are.
    """
    p = parser()
    p.set_defaults(**DATASETS[p.parse_args(arguments).dataset])
    args = p.parse_args(arguments)
    fill_kinds(args)
    if not args.encoder_ckpt:
        args.encoder = args.encoder or MDEBERTA
        args.max_length = MAX_LENGTH if args.max_length is None else args.max_length
    bounded = [name for name in args.routers or () if name in BOUNDED]
    if args.cost_rate and bounded:
        raise ValueError(
            f"--routers {' '.join(bounded)}: they predict the probability of a right answer and cannot learn score - cost_rate * cost; leave them out, or --cost_rate 0"
        )
    if args.routers is None:
        args.routers = [name for name in (*ROUTERS, *CONTROLS) if not (args.cost_rate and name in BOUNDED)]
        if args.cost_rate:
            print(
                f"left out: {', '.join(BOUNDED)}, which predict the probability of a right answer and cannot learn score - cost_rate * cost",
                file=sys.stderr,
            )
    for name in args.routers:
        if name in TRAINED:
            raise ValueError(
                f"--routers {name} is fitted by the training loop: python train_router_mdeberta.py --freeze_encoder --loss {name}, or bash train_scripts/baselines.sh"
            )
        if name not in (*ROUTERS, *CONTROLS, VOTING):
            raise ValueError(
                f"--routers {name}: no such router; it must be one of {', '.join([*ROUTERS, *CONTROLS, VOTING])}"
            )
    if VOTING in args.routers and not args.answers:
        raise ValueError(
            "--routers voting needs --answers DIR, the answers of all LLMs. The released files have scores alone, which do not tell which wrong answers agree: voting cannot be computed from them"
        )
    if args.target_pooling != "none" and args.target_shrinkage:
        raise ValueError(
            f"--target_pooling {args.target_pooling} estimates the pooling that "
            f"--target_shrinkage {args.target_shrinkage:g} sets by hand; leave out one of them"
        )
    for name in ("routers", "seeds", "llms"):
        values = getattr(args, name) or []
        if len(set(values)) < len(values):
            raise ValueError(f"--{name} names something twice: {' '.join(map(str, values))}")
    if min(args.seeds) < 0:
        raise ValueError(f"--seeds {min(args.seeds)}: a seed is at least 0")
    for name, least in (("training_samples_per_dataset", 0), ("max_characters", 1), ("cost_rate", 0)):
        value = getattr(args, name)
        if value is not None and not least <= value < float("inf"):
            raise ValueError(f"--{name} is {value}; it must be at least {least}")
    return args


class Problem:
    """Training and test files, and which rows a seed trains on.

    Raises: DataError for bad files or test files that do not fit the others; ValueError for an encoder that cannot read them.
    """

    def __init__(self, args: argparse.Namespace):
        options = reading(vars(args))
        self.args = args
        self.files = load_all(args.data_paths, args.data_type, ("--data_paths", "--data_type"), **options)
        if args.llms:
            self.files = [data.for_llms(args.llms) for data in self.files]
        self.llms = self.files[0].llms
        self.tests = load_tests(args, self.llms)
        self.overlap = trained_on(self.tests, self.files)
        self.columns = [
            self.llms.index(name) for name in self.tests[0].llms
        ]  # of the LLMs present, among those of training
        self.inside = [data.task for data in self.files]
        given = embedding_size([*self.files, *self.tests]) is not None
        reads = any(name in ROUTERS for name in args.routers) and not args.encoder_ckpt
        if reads and given != (args.encoder == GIVEN):
            raise ValueError(
                f"--encoder {args.encoder}: {self.files[0].path} has {'embeddings and no text; use --encoder given' if given else 'text; name an encoder that reads it'}"
            )

    def rows(
        self, embedded: Sequence[np.ndarray], seed: int, everything: bool, pooling: str = "none"
    ) -> tuple[Rows, list[tuple[np.ndarray, RoutingData]]]:
        """Training rows of the seed, all of them with `everything`, and the validation rows of each task.

        embedded: of each file, (N, p). pooling: of the targets, "none" or one of utils.denoise.POOLINGS.
        """
        args, parts, validation = self.args, [], []
        for data, x in zip(self.files, embedded):
            train, held = split_validation(data, args.validation_fraction, seed)
            train = np.arange(len(data)) if everything else train
            y = targets(data, args.targets, args.cost_rate)[train]
            y = shrink(y, np.zeros(len(train), dtype=np.int64), args.target_shrinkage)
            if pooling != "none":
                y, _ = pool_targets(data.rows(train), y, x[train], pooling)
            kept = slice(args.training_samples_per_dataset or None)
            clusters = None if data.clusters is None else data.clusters[train][kept]
            parts.append((x[train][kept], y[kept], np.full(len(y[kept]), data.task), clusters))
            validation.append((x[held], data.rows(held)))
        x, y, tasks = (np.concatenate([part[place] for part in parts]) for place in range(3))
        clusters = None if any(part[3] is None for part in parts) else np.concatenate([part[3] for part in parts])
        return Rows(x, y, tasks, clusters), validation


class Embeddings:
    """Query embeddings of length 1 of all training and test files, looked up or computed when they are first needed."""

    def __init__(self, problem: Problem, where: Hardware):
        self.problem, self.where = problem, where
        self.known: dict[int | None, tuple[list[np.ndarray], list[np.ndarray]]] = {}  # by seed; None: the same for all

    def of(self, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """One (N, p) array for each training file, and for each test file."""
        args, problem = self.problem.args, self.problem
        key = seed if args.encoder_ckpt else None
        if key not in self.known:
            if args.encoder_ckpt:
                self.known[key] = trained_encoder.embeddings(args, seed, problem.files, problem.tests, self.where)
            else:
                self.known[key] = self._pretrained()
        return self.known[key]

    def _pretrained(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        args, problem = self.problem.args, self.problem
        if args.encoder == GIVEN:
            return [unit(data.inputs) for data in problem.files], [unit(data.inputs) for data in problem.tests]
        encoder = load_encoder(args.encoder, args.pooling, args.max_length).eval()
        encoder.place(self.where)

        def embed(questions: Sequence[str], title: str) -> np.ndarray:
            queries = Queries(encoder, questions, self.where, "none", Path(args.cache_dir), title)
            return unit(queries.embed().cpu().numpy())

        questions = [
            question for data in problem.files for question in data.questions
        ]  # one list, as training keeps it in the cache
        x = embed(questions, "training queries")
        train = np.split(x, np.cumsum([len(data) for data in problem.files])[:-1])
        return train, [embed(data.questions, data.task) for data in problem.tests]


def name_of(args: argparse.Namespace, key: str) -> str:
    """What results call a router, control or voting."""
    if key == VOTING:
        return "Voting"
    if key in CONTROLS:
        return CONTROLS[key].name
    return ROUTERS[key].name + (trained_encoder.SUFFIX if args.encoder_ckpt else "")


def settings_of(problem: Problem, seed: int, key: str) -> dict[str, Any]:
    """What decides the result of a run of the router `key`. Controls and voting have no encoder; voting alone has answers, which are data of its own.

    Raises: DataError if a file of answers is not there; CheckpointError or ValueError for a checkpoint that is no use.
    """
    args = problem.args
    settings = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
    files = {data.path: data.sha256 for data in [*problem.files, *problem.tests]}
    if key not in ROUTERS:
        settings |= {name: None for name in trained_encoder.OF_ENCODER}
        settings |= {"encoder": "none", "precision": None, "encoder_ckpt": None}
    elif args.encoder_ckpt:
        settings |= trained_encoder.settings_of(args, seed, problem.files)
    if key == VOTING:
        settings["answers"] = args.answers
        files |= {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (answers_of(data, args.answers) for data in problem.tests)
        }
    return settings | {"fidelity": "paper", "seed": seed, "data": files}


def is_finished(run: Path, settings: dict[str, Any]) -> bool:
    """Whether the run is there, with these settings. Raises: ValueError if it is there with others."""
    path = run / "results.json"
    if not path.is_file():
        return False
    old, new = json.loads(path.read_text())["settings"], json.loads(json.dumps(settings))
    old = {"keep_characters": "last", "target_pooling": "none", "encoder_ckpt": None} | old  # of an older run
    changed = [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} now"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise ValueError(
            f"{run} holds a run with other settings ({'; '.join(changed)}). Choose another --save_path, or remove that folder"
        )
    return True


def finish(
    run: Path, about: dict[str, Any], result: dict[str, Any], earned: dict[str, np.ndarray] | None = None
) -> None:
    """Write a run: tables.md, the picks (of voting, what each query earned), and at last results.json, which makes it a finished one."""
    run.mkdir(parents=True, exist_ok=True)
    if earned is None:
        write_text(run / "picks.json", json.dumps(result["picks"]) + "\n")
        write_text(run / "tables.md", tables(result, f"{about['router']} (this run)") + "\n")
    else:
        write_text(
            run / "gains.json", json.dumps({task: values.round(6).tolist() for task, values in earned.items()}) + "\n"
        )
    write_json(
        run / "results.json", about | {"test": {name: value for name, value in result.items() if name != "picks"}}
    )


def fitted(
    problem: Problem,
    embedded: Sequence[np.ndarray],
    key: str,
    seed: int,
    worth: Callable[[np.ndarray, RoutingData], float],
    progress: tqdm,
) -> Choice:
    """The router `key`, its setting chosen on the validation rows of the seed. embedded: of each training file, (N, p).

    With the embeddings of a checkpoint, clusters are made anew in their space.
    """
    pooling = problem.args.target_pooling
    rows, validation = problem.rows(embedded, seed, False, pooling)
    everything = problem.rows(embedded, seed, True, pooling)[0] if problem.args.refit else None
    if problem.args.encoder_ckpt:
        rows = trained_encoder.clustered(rows, seed)
        everything = None if everything is None else trained_encoder.clustered(everything, seed)
    return choose(ROUTERS[key], rows, validation, seed, everything, worth, progress)


def run_all(args: argparse.Namespace) -> list[Path]:
    """Fit, test and write every (router, seed) that is not finished; returns the folders of all of them."""
    where = choose_hardware(args.device, args.precision)
    root = Path(args.save_path)
    writable_folder(root, "--save_path")
    writable_folder(Path(args.cache_dir), "--cache_dir")
    problem = Problem(args)
    worth = lambda picks, data: utility(picks, data, args.cost_rate)  # noqa: E731, without a cost rate this is the accuracy
    plan = []
    for key, seed in itertools.product(args.routers, args.seeds):
        if (
            key in ROUTERS or seed == args.seeds[0] or (key in CONTROLS and CONTROLS[key].drawn)
        ):  # the others are the same for every seed
            folder = name_of(args, key).replace(", ", "_").replace(" ", "_")
            plan.append((key, seed, root / folder / f"seed_{seed}", settings_of(problem, seed, key)))
    pending = [entry for entry in plan if not is_finished(entry[2], entry[3])]
    if len(pending) < len(plan):
        print(f"{root}: {len(plan) - len(pending)} of {len(plan)} runs are already done")

    embeddings = Embeddings(problem, where)
    fits = sum(
        len(list(itertools.product(*ROUTERS[key].grid.values()))) if key in ROUTERS else 1 for key, *_ in pending
    )
    for seed in dict.fromkeys(seed for key, seed, *_ in pending if key in ROUTERS):
        embeddings.of(seed)
    with bar(fits, "baselines", "fit") as progress:
        for key, seed, run, settings in pending:
            begun, chosen, done = time.monotonic(), {"rule": "none", "step": None, "validation": None}, progress.n
            progress.set_postfix_str(f"{name_of(args, key)}, seed {seed}", refresh=False)
            earned = None
            if key == VOTING:
                earned = {data.task: voting(data, args.answers) for data in problem.tests}
                accuracies = {task: 100 * float(values.mean()) for task, values in earned.items()}
                result = {
                    "tasks": accuracies,
                    **averages(accuracies, problem.inside),
                    "in_distribution": [task for task in accuracies if task in problem.inside],
                }
                result |= {
                    "queries": {data.task: len(data) for data in problem.tests},
                    "llms": list(problem.tests[0].llms),
                }
                result["references"] = references(problem.tests, known_ceilings(problem.tests))
            else:
                if key in CONTROLS:
                    nothing = [np.zeros((len(data), 1)) for data in problem.files]
                    control = CONTROLS[key](seed, args.cost_rate).fit(problem.rows(nothing, seed, everything=True)[0])
                    picks = {data.task: control.pick(data, problem.columns) for data in problem.tests}
                else:
                    choice = fitted(problem, embeddings.of(seed)[0], key, seed, worth, progress)
                    chosen = {"rule": "best", "step": None, "validation": choice.validation, "setting": choice.setting}
                    tests = zip(embeddings.of(seed)[1], problem.tests)
                    picks = {data.task: choice.router.pick(x, problem.columns) for x, data in tests}
                result = measure(picks, problem.tests, problem.inside, args.cost_rate)
            about = {
                "router": name_of(args, key),
                "recipe": args.recipe if key in ROUTERS else "control" if key in CONTROLS else VOTING,
                "settings": settings,
                "selection": chosen,
                "tests": [{"path": data.path, "kind": data.kind} for data in problem.tests],
                "questions_in_training_files": problem.overlap,
                "seconds": round(time.monotonic() - begun, 1),
                "device": where.describe(),
                "precision": "bf16" if where.bf16 else "fp32",
                "command": args.command,
            }
            finish(run, about, result | {"dataset": args.dataset}, earned)
            progress.update(
                done + (len(list(itertools.product(*ROUTERS[key].grid.values()))) if key in ROUTERS else 1) - progress.n
            )
    return [run for _, _, run, _ in plan]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted (resumable)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        args = parse(arguments)
        args.command = shlex.join(["python", "-m", "utils.baselines", *arguments])
        runs = run_all(args)
        print(summary(runs_below(runs)))
    except (EncoderError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with the runs that are left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
