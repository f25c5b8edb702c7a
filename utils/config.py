"""The settings of a run: typed, frozen, documented; from defaults, a recipe in YAML, and flags.

    config = parse_config(["--recipe", "tuned", "--seed", "2"])     # train_scripts/recipes/tuned.yaml, then the flags
    config.loss.top_k, config.data.data_paths

Every field is a flag of its name (`--top_k 3`); its docstring is the help. Flags change the recipe wherever --recipe
stands, and of two equal flags the later one counts. Other commands are made of the same parts, see `parse_arguments`.
"""

import argparse
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
import yaml

from .reading import GIVEN
from .tasks import BY_NAME, DATASETS, TASKS, TRAIN_ORDER, kind_of, task_of

RECIPES = Path(__file__).parents[1] / "train_scripts" / "recipes"
MDEBERTA = "microsoft/mdeberta-v3-base"
CUSTOM = "custom"  # the label of a run that has none of its own
PROGRAM = "python train_router_mdeberta.py"
RECIPE_HELP = """--recipe NAME: settings of train_scripts/recipes/NAME.yaml
--config FILE: settings of another YAML file
Flags change them."""
# What --dataset changes of a training run's defaults: the released code's K+ and K- for RouterBench, beside the files.
DATASETS_OF_TRAINING = DATASETS | {"routerbench": {**DATASETS["routerbench"], "top_k": 4, "last_k": 4}}
MOST_INTEGER = 2**32
BOUNDS = {"at least": operator.ge, "above": operator.gt, "below": operator.lt, "at most": operator.le}

Kind = Literal["probability", "multi_attempt"]
Precision = Literal["auto", "bf16", "fp16", "tf32", "fp32"]


def bounded(
    default: Any,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field with a finite number that `check_bounds` checks; a field that allows None may be None."""
    bounds = {"at least": at_least, "above": above, "below": below, "at most": at_most}
    return field(default=default, metadata={name: bound for name, bound in bounds.items() if bound is not None})


@dataclass(frozen=True)
class DataConfig:
    """data"""

    dataset: Literal[tuple(DATASETS)] = "paper"
    """routerbench: its files, K+ = K- = 4, prompts of 1400 characters, rows with empty cells left out"""
    data_paths: tuple[str, ...] = tuple(BY_NAME[name].train for name in TRAIN_ORDER)
    """training files, one per task"""
    data_type: tuple[Kind, ...] | None = None
    """score kind of each training file, needed for tasks that are not the paper's; a single kind serves all files"""
    test_data_paths: tuple[str, ...] = tuple(task.test for task in TASKS if task.in_distribution)
    """test files, scored once at the end"""
    test_data_type: tuple[Kind, ...] | None = None
    """score kind of each test file; default: a single --data_type, for trained tasks and those that are not the
    paper's"""
    final_eval_data_paths: tuple[str, ...] = tuple(task.test for task in TASKS if not task.in_distribution)
    """more test files (out of distribution); nothing behind it: none"""
    final_eval_data_type: tuple[Kind, ...] | None = None
    """score kind of each of these; default: as for --test_data_type"""
    llms: tuple[str, ...] | None = None
    """choose among these LLMs only; default: all that the training files have scores for"""
    missing_cells: Literal["error", "drop"] = "error"
    """a row with an empty score or cost: an error, or left out and counted"""
    max_characters: int | None = bounded(None, at_least=1)
    """keep N characters of a query; default: all"""
    keep_characters: Literal["last", "first"] = "last"
    """which ones; the released code: first"""


@dataclass(frozen=True)
class TrainingSetConfig:
    """training rows and their targets"""

    training_samples_per_dataset: int = bounded(1000, at_least=0)
    """first rows of each file, repeated where the training loop finds fewer; 0: each row once"""
    validation_fraction: float = bounded(0.1, at_least=0, below=1)
    """share of each training file that is held out, to choose the checkpoint or the settings"""
    targets: Literal["score", "gain"] = "score"
    """gain: right or wrong for multiple choice, what the metric counts"""
    cost_rate: float = bounded(0.0, at_least=0)
    """targets are score - cost_rate * cost in US dollars; what is chosen on validation rows is chosen by that, too"""
    target_shrinkage: float = bounded(0.0, at_least=0, at_most=1)
    """0 to 1: how far each target moves to the mean of its group"""
    target_groups: Literal["task", "cluster"] = "task"
    """the groups of --target_shrinkage: tasks, or clusters within a task"""
    target_pooling: Literal["none", "question", "alike"] = "none"
    """estimate per task how far a target is pooled with neighbours, cluster and task (utils/denoise.py): expected on
    this very question, or on questions that look alike to the pre-trained encoder"""


@dataclass(frozen=True)
class EncoderConfig:
    """encoder"""

    encoder: str = MDEBERTA
    """hub name, local folder, minilm (a PyPI package), or given (data files of embeddings)"""
    pooling: Literal["first", "mean"] | None = None
    """default: first token; mean for minilm"""
    max_length: int = bounded(512, at_least=1)
    """tokens kept of a query, the last ones"""


@dataclass(frozen=True)
class ModelConfig:
    """model"""

    similarity_function: Literal["cos", "inner"] = "cos"
    """cosine, or inner product"""
    dropout: float | None = bounded(None, at_least=0, below=1)
    """default: the encoder's own"""
    freeze_encoder: bool = False
    """embed each query once; train a linear head and the LLM embeddings"""
    train_layers: int | None = bounded(None, at_least=1)
    """train the last N encoder layers, compute the rest once"""


@dataclass(frozen=True)
class LossConfig:
    """losses"""

    loss: Literal["routerdc", "cosine_classifier", "zooter"] = "routerdc"
    """the paper's, or that of a baseline, which has no sample-sample loss"""
    top_k: int = bounded(3, at_least=1)
    """K+"""
    last_k: int | None = 3
    """K-; None: all LLMs that are not among the K+"""
    temperature: Annotated[float, tyro.conf.arg(aliases=["--tempreture"])] = bounded(1.0, above=0)
    """of both losses"""
    cluster_loss_weight: float = bounded(1.0, at_least=0)
    """lambda: sample-sample loss by cluster_id"""
    sample_loss_weight: float = bounded(0.0, at_least=0)
    """the same by task"""
    missing_clusters: Literal["error", "task"] = "error"
    """training rows without cluster_id: an error, or the sample-sample loss of --cluster_loss_weight is by task"""
    H: int = bounded(3, at_least=1)
    """out-of-group queries per query"""
    ties: Literal["expected", "random", "released", "columns"] = "expected"
    """LLMs with one score: they share the places that they compete for (expected), are drawn at every visit (random),
    or the order of the columns decides (released, columns)"""
    negative_below: float = bounded(0.5, at_least=0)
    """only scores below this make a negative"""
    fidelity: str = "paper"
    """paper, upstream, or behaviours of the released code by name or row of the README's table, such as 1,3; it changes
    no data: RouterBench's prompts are cut as released with --keep_characters first"""


@dataclass(frozen=True)
class OptimizationConfig:
    """training"""

    batch_size: int = bounded(64, at_least=1)
    """queries per batch"""
    training_steps: int = bounded(1000, at_least=1)
    """optimizer steps"""
    eval_steps: int = bounded(50, at_least=1)
    """validate this often"""
    learning_rate: float = bounded(5e-5, above=0)
    """of all that is not an LLM embedding"""
    llm_learning_rate: float | None = bounded(None, above=0)
    """of the LLM embeddings; default: --learning_rate"""
    weight_decay: float = bounded(0.01, at_least=0)
    """of AdamW"""
    gradient_accumulation: int = bounded(1, at_least=1)
    """batches per optimizer step"""
    selection: Literal["best", "last"] = "best"
    """best on validation, or the last step"""
    seed: int = bounded(1, at_least=0)
    """of split, batches, pairs and initial values"""


@dataclass(frozen=True)
class HardwareConfig:
    """hardware"""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps"""
    precision: Precision = "auto"
    """auto: bf16 where the device computes in it, else fp16 on CUDA, else fp32"""
    threads: int = bounded(0, at_least=0)
    """CPU threads of torch, 0: as many as cores; it can change the last digits"""
    tokens: int = bounded(0, at_least=0)
    """that the encoder takes at once, padding among them; 0: 512 on a CPU, on a GPU what its memory holds"""
    cache_dir: Path = Path(".cache/queries")
    """embeddings and hidden states that do not change in training"""


@dataclass(frozen=True)
class RunConfig:
    """run"""

    save_path: str = "runs/routerdc"
    """folder of the run; an unfinished one there is resumed"""
    overwrite: bool = False
    """start again even if --save_path holds a run; a finished one stays until the new one is finished"""
    label: str | None = None
    """name of the settings in results; default: that of the recipe, if no flag changes it"""
    final_eval: bool = True
    """score the test sets at the end"""
    resume_minutes: float = bounded(5.0, at_least=0)
    """state is saved this often, and when interrupted"""
    checkpoint_encoder: Literal["whole", "named"] = "whole"
    """named: the checkpoint holds only the weights that trained, and finds its encoder by name and SHA-256"""


@dataclass(frozen=True)
class Config:
    """All settings of a training run; the defaults are the paper's."""

    data: DataConfig = field(default_factory=DataConfig)
    training_set: TrainingSetConfig = field(default_factory=TrainingSetConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(frozen=True)
class Fidelity:
    """Behaviours of the released code that a run takes in place of the paper's form.

    Their order is that of the table in the README, rows 1 to 7, which says what each is.
    """

    batch_mask: bool = False
    """the mask of zero-score positives is averaged over the batch"""
    no_dropout: bool = False
    """dropout is off in training"""
    self_positive: bool = False
    """a query may be its own positive in the sample-sample loss"""
    shifted_rows: bool = False
    """a row without H negatives shifts the similarities of all later rows"""
    train_as_validation: bool = False
    """all training rows train, and the same rows validate"""
    evaluation_draws: bool = False
    """evaluating changes the random numbers of training"""
    released_ties: bool = False
    """among LLMs with one score the first columns are both K+ and K-, and a score of 0.5 is a negative"""

    @classmethod
    def parse(cls, text: str) -> "Fidelity":
        """ "paper" -> none, "upstream" -> all, "batch_mask,self_positive" or "1,3" -> these.

        Raises: ValueError for any other text.
        """
        names = [behaviour.name for behaviour in fields(cls)]
        if text == "paper":
            return cls()
        if text == "upstream":
            return cls(*[True] * len(names))
        by_word = {name: name for name in names} | {str(row): name for row, name in enumerate(names, 1)}
        words = [word.strip() for word in text.split(",")]
        if not set(words) <= by_word.keys():
            raise ValueError(
                f"--fidelity is {text!r}; it must be paper, upstream, rows from 1 to {len(names)} such as 1,3, "
                f"or names among {', '.join(names)}"
            )
        return cls(**{by_word[word]: True for word in words})

    def __str__(self) -> str:
        """ "paper", "upstream", or the rows of the README's table: what results call it."""
        rows = [str(row) for row, behaviour in enumerate(fields(self), 1) if getattr(self, behaviour.name)]
        if len(rows) == len(fields(self)):
            return "upstream"
        return ",".join(rows) or "paper"


Arguments = TypeVar("Arguments")


def parse_arguments(
    arguments_class: type[Arguments],
    arguments: Sequence[str],
    program: str,
    description: str,
    datasets: Mapping[str, Mapping[str, Any]] = DATASETS,
    default: Arguments | None = None,
) -> Arguments:
    """Parse a command line into a dataclass; the flags of its parts (dataclasses in it) have no prefix.

    A `DataConfig` among the parts takes the defaults of its --dataset, and a single --data_type serves all its files.

    Args:
        arguments: the words of the command line.
        program, description: what --help calls the command, and says of it.
        datasets: the defaults that each --dataset changes.
        default: values in place of the class's own defaults.
    Raises: SystemExit(2) for an unknown flag or a value of another type; ValueError, naming the flag, for a number out
    of its bounds.
    """
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--dataset", default="paper")
    dataset = before.parse_known_args(arguments)[0].dataset
    parsed = tyro.cli(
        arguments_class,
        args=[*flags_of(datasets.get(dataset, {})), *arguments],
        prog=program,
        description=description,
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
        use_underscores=True,
    )
    check_bounds(parsed)
    parts = {part.name: getattr(parsed, part.name) for part in fields(parsed)}
    data = {name: _with_kinds(part) for name, part in parts.items() if isinstance(part, DataConfig)}
    return replace(parsed, **data)


def _with_kinds(data: DataConfig) -> DataConfig:
    """One kind for each file where a single kind is given for several.

    A single --data_type serves test files without kinds, too, but not a task of the paper that is tested and not
    trained: its kind is known, and another would count its picks wrongly.
    """
    trained = {task_of(path) for path in data.data_paths}
    given = {"data_type": data.data_type}
    for name in ("test_data", "final_eval_data"):
        kinds = getattr(data, f"{name}_type")
        if kinds is None and data.data_type and len(data.data_type) == 1:
            kinds = []
            for task in map(task_of, getattr(data, f"{name}_paths")):
                known = None if task in trained else kind_of(task)
                kinds.append(known or data.data_type[0])
        given[f"{name}_type"] = kinds

    for name, kinds in given.items():
        if kinds is not None:
            files = len(getattr(data, name.replace("_type", "_paths")))
            given[name] = tuple(kinds) * files if len(kinds) == 1 else tuple(kinds)
    return replace(data, **given)


def parse_config(arguments: Sequence[str], description: str = "") -> Config:
    """The settings of a training run from its command line, with --recipe NAME or --config FILE before all flags.

    The label is that of the recipe if the flags change nothing but what results name beside the label.
    Raises: SystemExit(2) and ValueError as `parse_arguments`; ValueError for a recipe that is not there or has
    a setting that is none or a value that it cannot have, and for settings that exclude each other.
    """
    before = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    source = before.add_mutually_exclusive_group()
    source.add_argument("--recipe")
    source.add_argument("--config", type=Path)
    named, flags = before.parse_known_args(arguments)

    def parse(words: Sequence[str]) -> Config:
        return parse_arguments(Config, words, PROGRAM, f"{description}\n\n{RECIPE_HELP}", DATASETS_OF_TRAINING)

    path = RECIPES / f"{named.recipe}.yaml" if named.recipe else named.config
    label = CUSTOM
    if path is None:
        config = parse(flags)
    else:
        settings = read_recipe(path)
        recipe_label = settings.pop("label", path.stem)
        recipe_flags = flags_of(settings)
        recipe = _naming_the_file(path, parse, recipe_flags)
        config = parse([*recipe_flags, *flags])
        if has_settings_of(config, recipe):
            label = recipe_label

    check_config(config)
    loss = replace(config.loss, fidelity=str(Fidelity.parse(config.loss.fidelity)))
    if loss.loss != "routerdc":
        loss = replace(loss, cluster_loss_weight=0.0)
    label = label if config.run.label is None else config.run.label
    if not label.strip() or re.search(r"[|\r\n]", label):
        raise ValueError(f"--label is {label!r}; it stands in tables: give a name without | and line breaks")
    return replace(config, loss=loss, run=replace(config.run, label=label))


def _naming_the_file(path: Path, parse: Callable[[Sequence[str]], Config], words: Sequence[str]) -> Config:
    """The settings of a recipe alone.

    Raises: ValueError that names the file, for a value that its flag does not take.
    """
    try:
        return parse(words)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except SystemExit:  # the parser has said on stderr which flag it is
        raise ValueError(f"{path}: a setting has a value that its flag does not take, see above") from None


def recipes() -> list[str]:
    """The names that --recipe takes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, by the names of their flags.

    Raises: ValueError that names the file if it is not there, is no mapping, or has a name that is no setting.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: no such recipe. --recipe takes one of {', '.join(recipes())}; --config takes a file of your own"
        )
    text = path.read_bytes()
    try:
        recipe = yaml.safe_load(text) or {}
        nodes = yaml.compose(text, yaml.SafeLoader)
    except Exception as error:  # whatever a damaged file makes of PyYAML: a date or an integer may be a ValueError
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: expected settings, one `name: value` a line, found {type(recipe).__name__}")
    names = [name.value for name, _ in nodes.value] if recipe else []
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path}: {repeated[0]} is set twice")
    known = {name for name, _ in leaves(Config())}
    if unknown := sorted(str(name) for name in recipe if name not in known):
        raise ValueError(f"{path}: no setting is called {', '.join(unknown)}; `{PROGRAM} --help` lists them all")
    return recipe


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command line: {"H": 5, "freeze_encoder": True} -> ["--H", "5", "--freeze_encoder"]."""
    words = []
    for name, value in settings.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, (list, tuple)):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value)]
    return words


def leaves(config: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every setting in a dataclass and its parts, in their order."""
    for part in fields(config):
        value = getattr(config, part.name)
        if is_dataclass(value):
            yield from leaves(value)
        else:
            yield part.name, value


def check_bounds(config: Any) -> None:
    """Raise ValueError, naming the flag, for a number outside the bounds of its field, or LLMs without a name or alike.

    All numbers must be finite, and integers below 2**32, which every library takes.
    """
    for part in fields(config):
        value = getattr(config, part.name)
        if is_dataclass(value):
            check_bounds(value)
        elif isinstance(value, (int, float)):
            check_number(part.name, value, part.metadata)
        elif part.name == "llms" and value:
            check_names(value)


def check_number(name: str, value: float, bounds: Mapping[str, float]) -> None:
    """Raise ValueError, naming the flag, for a number outside these bounds, of those in BOUNDS."""
    is_finite = isinstance(value, int) or math.isfinite(value)
    is_within = all(BOUNDS[word](value, bound) for word, bound in bounds.items())
    if bounds and not (is_within and is_finite):
        expected = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items())
        raise ValueError(f"--{name} is {value}; it must be {expected}")
    if not is_finite:
        raise ValueError(f"--{name} is {value}; it must be a number")
    if isinstance(value, int) and abs(value) >= MOST_INTEGER:
        raise ValueError(f"--{name} is {value}; it must be below {MOST_INTEGER}")


def check_names(llms: Sequence[str]) -> None:
    """Raise ValueError for --llms that names an LLM twice, or none."""
    if len(set(llms)) < len(llms):
        raise ValueError(f"--llms names an LLM twice: {' '.join(llms)}")
    if not all(map(str.strip, llms)):
        raise ValueError(f"--llms has an empty name: {', '.join(map(repr, llms))}")


def check_config(config: Config) -> None:
    """Raise ValueError, naming the flags, for settings that exclude each other, whatever the data are."""
    training_set, model, loss = config.training_set, config.model, config.loss
    if model.freeze_encoder and model.train_layers:
        raise ValueError("--freeze_encoder and --train_layers exclude each other; give one")
    if config.encoder.encoder == GIVEN and not model.freeze_encoder:
        raise ValueError("--encoder given: embeddings are there already, so no encoder can train; add --freeze_encoder")
    if loss.loss != "routerdc" and (loss.sample_loss_weight or loss.cluster_loss_weight not in (0, 1)):
        raise ValueError(
            f"--loss {loss.loss} has no sample-sample loss; leave out --cluster_loss_weight and --sample_loss_weight"
        )
    by_hand = []
    if training_set.target_shrinkage:
        by_hand.append(f"--target_shrinkage {training_set.target_shrinkage:g}")
    if training_set.target_groups != "task":
        by_hand.append(f"--target_groups {training_set.target_groups}")
    if training_set.target_pooling != "none" and by_hand:
        raise ValueError(
            f"--target_pooling {training_set.target_pooling} estimates the pooling that {' and '.join(by_hand)} "
            "sets by hand; leave out one of them"
        )


# These settings change no result. (Where cluster ids are missing, --missing_clusters error gives no result at all.)
RUN_ONLY = ("save_path", "overwrite", "label", "resume_minutes", "checkpoint_encoder", "cache_dir", "missing_clusters")
# A run keeps the label of its recipe when these change: results name them beside the label, or name the data.
NAMED_BESIDE_THE_LABEL = (
    *("seed", "encoder", "loss", "fidelity", "device", "precision", "threads", "tokens", "final_eval"),
    *("data_paths", "data_type", "test_data_paths", "test_data_type", "final_eval_data_paths", "final_eval_data_type"),
)


def settings_of(config: Any) -> dict[str, Any]:
    """The settings that decide a result, flat and as JSON has them: "settings" in results.json."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in leaves(config)
        if name not in RUN_ONLY
    }


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """What differs between the settings of an older run and new ones, in words.

    A setting that the older run does not know counts as its default.
    """
    new = json.loads(json.dumps(new))  # as JSON has them: a tuple is a list
    changed = []
    for name in sorted({*old, *new}):
        before = old.get(name, defaults.get(name))
        if before != new.get(name):
            changed.append(f"{name}: {before!r} there, {new.get(name)!r} now")
    return changed


def has_settings_of(config: Config, recipe: Config) -> bool:
    """Whether a run differs from a recipe in nothing but what results name beside its label."""
    ours, theirs = settings_of(config), settings_of(recipe)
    return all(ours[name] == theirs[name] for name in ours if name not in NAMED_BESIDE_THE_LABEL)
