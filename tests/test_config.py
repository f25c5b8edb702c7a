"""utils/config.py: defaults, recipes, flags and their order, bounds, and the label of a run."""

import os
import subprocess
import sys
from dataclasses import astuple, dataclass, field

import pytest
import yaml
from conftest import REPO

from utils.config import (
    CUSTOM,
    RECIPES,
    Config,
    DataConfig,
    Fidelity,
    bounded,
    leaves,
    parse_arguments,
    parse_config,
    recipes,
    settings_of,
)

PAPER = {  # section "Defaults" of the paper, and what it leaves out as the README's table has it
    "encoder": "microsoft/mdeberta-v3-base", "max_length": 512, "similarity_function": "cos", "dropout": None,
    "freeze_encoder": False, "train_layers": None, "loss": "routerdc", "top_k": 3, "last_k": 3, "H": 3,
    "temperature": 1, "cluster_loss_weight": 1, "sample_loss_weight": 0, "negative_below": 0.5, "fidelity": "paper",
    "learning_rate": 5e-5, "llm_learning_rate": None, "weight_decay": 0.01, "batch_size": 64,
    "gradient_accumulation": 1, "training_steps": 1000, "eval_steps": 50, "selection": "best", "seed": 1,
    "training_samples_per_dataset": 1000, "targets": "score", "cost_rate": 0, "target_shrinkage": 0,
    "target_pooling": "none", "llms": None, "max_characters": None,
}  # fmt: skip


def values(*words: str) -> dict:
    """All settings of a command line, by name."""
    return dict(leaves(parse_config(words)))


def without_label(*words: str) -> dict:
    """All settings but the label."""
    return {name: value for name, value in values(*words).items() if name != "label"}


@pytest.fixture
def config_file(tmp_path):
    """Writes a YAML file; returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "own.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# Defaults


def test_the_defaults_are_the_papers():
    found = values()
    assert {name: found[name] for name in PAPER} == PAPER
    for files, names in (
        ("data_paths", ["gsm8k-train", "humaneval_train", "arc_challenge_train", "cmmlu_train", "mmlu_train"]),
        ("test_data_paths", ["mmlu_test", "gsm8k-test", "cmmlu_test", "arc_challenge_test", "humaneval_test"]),
    ):
        assert sorted(path.rsplit("/", 1)[-1] for path in found[files]) == sorted(f"{name}.json" for name in names)
    assert {name for name, value in found.items() if value != dict(leaves(Config()))[name]} == {"label"}


def test_the_recipe_of_the_paper_is_the_defaults_without_dropout():
    assert without_label("--recipe", "paper") == without_label("--dropout", "0")


def test_every_setting_is_documented():
    run = subprocess.run(
        [sys.executable, "train_router_mdeberta.py", "--help"], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0
    for name, _ in leaves(Config()):
        assert f"--{name}" in run.stdout, name


# Which value wins


def test_the_last_flag_wins():
    assert values("--top_k", "2", "--seed", "3", "--top_k", "1")["top_k"] == 1
    assert values("--freeze_encoder", "--no_freeze_encoder")["freeze_encoder"] is False
    assert values("--llms", "a", "b", "--llms", "c")["llms"] == ("c",)


@pytest.mark.parametrize("words", [["--temperature", "0.5", "--tempreture"], ["--tempreture", "0.5", "--temperature"]])
def test_the_released_spelling_of_temperature_is_the_same_flag(words):
    assert values(*words, "0.07")["temperature"] == 0.07


@pytest.mark.parametrize("place", range(4))
def test_flags_win_over_the_recipe_wherever_it_stands(place):
    flags = [["--top_k", "2"], ["--llms", "a", "b"], ["--no_freeze_encoder"]]
    parts = [*flags[:place], ["--recipe", "tuned"], *flags[place:]]
    found = values(*[word for words in parts for word in words])
    assert (found["top_k"], found["llms"], found["freeze_encoder"]) == (2, ("a", "b"), False)
    assert (found["temperature"], found["encoder"], found["last_k"]) == (0.2, "minilm", None)
    assert found == values("--recipe=tuned", "--top_k=2", "--llms", "a", "b", "--no_freeze_encoder")


def test_the_dataset_changes_defaults_that_flags_and_recipes_change_again():
    found = values("--dataset", "routerbench")
    assert (found["top_k"], found["last_k"], found["max_characters"], found["missing_cells"]) == (4, 4, 1400, "drop")
    assert all("routerbench" in path for path in found["data_paths"])
    assert values("--top_k", "2", "--dataset", "routerbench")["top_k"] == 2
    assert values("--recipe", "routerbench_tuned")["top_k"] == 1
    assert values("--recipe", "routerbench_tuned", "--top_k", "3")["top_k"] == 3


def test_stray_environment_variables_change_nothing(monkeypatch):
    """Names of settings that a shell may have; also for a process that starts with them."""
    commands = ((), ("--recipe", "tuned", "--seed", "2"))
    before = [values(*words) for words in commands]
    code = f"from utils.config import parse_config\nfor words in {commands!r}:\n    print(parse_config(words))"

    def printed() -> str:
        run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return run.stdout

    clean = printed()
    for name, value in (("H", "9"), ("TRAINING_STEPS", "1"), ("RECIPE", "paper"), ("SEED", "7"), ("LABEL", "x")):
        monkeypatch.setenv(name, value)
    assert os.environ["H"] == "9"
    assert [values(*words) for words in commands] == before
    assert printed() == clean and clean.count("Config(data=") == 2


# Recipes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*")), ids=lambda path: path.name)
def test_every_recipe_parses_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert path.suffix == ".yaml" and path.stem in recipes()
    header = text.splitlines()[0]
    assert header.startswith("# ") and len(header) > 40
    found, written = values("--recipe", path.stem), yaml.safe_load(text)
    assert {name: found[name] for name in written} == written
    assert found["label"] == path.stem
    base = values("--dataset", written.get("dataset", "paper"))
    changed = {name for name in found if found[name] != base[name]} - {"label"}
    assert changed <= written.keys()


def test_a_config_file_is_a_recipe_of_ones_own(config_file):
    path = config_file("# own\ntop_k: 2\nlast_k: null\ndata_paths: [a.json, b.json]\nfinal_eval: false\nseed: 4\n")
    found = values("--config", path)
    assert (found["top_k"], found["last_k"], found["seed"], found["final_eval"]) == (2, None, 4, False)
    assert found["data_paths"] == ("a.json", "b.json") and found["label"] == "own"
    assert values("--seed", "5", "--config", path) == {**found, "seed": 5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("top_k: 2\ntop_q: 3\n", "no setting is called top_q"),
        ("loss:\n  top_k: 2\nmodel: x\n", "no setting is called model"),
        ("1: 2\n", "no setting is called 1"),
        ("- top_k\n", "expected settings, one `name: value` a line, found list"),
        ("top_k: [\n", "not valid YAML"),
    ],
)
def test_mistakes_in_a_config_file_name_the_file_and_the_setting(config_file, text, words):
    path = config_file(text)
    with pytest.raises(ValueError) as error:
        parse_config(["--config", path])
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


def test_an_empty_config_file_changes_nothing(config_file):
    assert without_label("--config", config_file("# nothing\n")) == without_label()


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="none.yaml: no such recipe. --recipe takes one of denoised, .*, tuned-layers"):
        parse_config(["--recipe", "none"])
    with pytest.raises(ValueError, match="gone.yaml: no such recipe"):
        parse_config(["--config", str(tmp_path / "gone.yaml")])
    with pytest.raises(SystemExit) as stop:
        parse_config(["--recipe", "tuned", "--config", "gone.yaml"])
    assert stop.value.code == 2


# Bounds


@dataclass(frozen=True)
class Bounded:
    """A command of one number."""

    half_open: float | None = bounded(0.5, at_least=0, below=1)
    """a number"""
    positive: int = bounded(1, above=0, at_most=3)
    """another"""


@pytest.mark.parametrize("words", [(), ("--half_open", "0"), ("--half_open", "None"), ("--positive", "3")])
def test_numbers_within_their_bounds(words):
    found = parse_arguments(Bounded, words, "a command", "what it does")
    expected = {"half_open": 0.5, "positive": 1}
    if words:
        expected[words[0][2:]] = {"0": 0, "3": 3, "None": None}[words[1]]
    assert astuple(found) == tuple(expected.values())


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--half_open", "-0.1"), "--half_open is -0.1; it must be at least 0 and below 1"),
        (("--half_open", "1"), "--half_open is 1.0; it must be at least 0 and below 1"),
        (("--half_open", "nan"), "--half_open is nan; it must be at least 0 and below 1"),
        (("--positive", "0"), "--positive is 0; it must be above 0 and at most 3"),
        (("--positive", "4"), "--positive is 4; it must be above 0 and at most 3"),
    ],
)
def test_numbers_out_of_their_bounds(words, error):
    with pytest.raises(ValueError) as found:
        parse_arguments(Bounded, words, "a command", "what it does")
    assert str(found.value) == error


def test_a_number_out_of_its_bounds_in_a_config_file(config_file):
    with pytest.raises(ValueError, match="--H is 0; it must be at least 1"):
        parse_config(["--config", config_file("H: 0\n")])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--llms a b a", "--llms names an LLM twice: a b a"),
        ("--freeze_encoder --train_layers 2", "--freeze_encoder and --train_layers exclude each other"),
        ("--encoder given", "add --freeze_encoder"),
        ("--loss zooter --sample_loss_weight 1", "--loss zooter has no sample-sample loss"),
        ("--loss cosine_classifier --cluster_loss_weight 0.5", "--loss cosine_classifier has no sample-sample loss"),
        ("--fidelity 9", "--fidelity is '9'; it must be paper, upstream, rows from 1 to 7"),
        ("--target_pooling alike --target_shrinkage 0.5", "that --target_shrinkage 0.5 sets by hand"),
    ],
)
def test_settings_that_exclude_each_other(words, error):
    with pytest.raises(ValueError) as found:
        parse_config(words.split())
    assert error in str(found.value)


# Fidelity

ROWS = [  # of the README's table, in its order
    "batch_mask", "no_dropout", "self_positive", "shifted_rows", "train_as_validation", "evaluation_draws",
    "released_ties",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("paper", []),
        ("upstream", [1, 2, 3, 4, 5, 6, 7]),
        ("2, 5", [2, 5]),
        ("7,1", [1, 7]),
        ("batch_mask,self_positive", [1, 3]),
        ("train_as_validation, 6", [5, 6]),
        *((name, [row]) for row, name in enumerate(ROWS, 1)),
    ],
)
def test_fidelity_by_name_and_number(text, numbers):
    fidelity = Fidelity.parse(text)
    assert astuple(fidelity) == tuple(row in numbers for row in range(1, 8))
    assert [name for name in ROWS if getattr(fidelity, name)] == [ROWS[number - 1] for number in numbers]
    canonical = {(): "paper", (1, 2, 3, 4, 5, 6, 7): "upstream"}.get(tuple(numbers), ",".join(map(str, numbers)))
    assert str(fidelity) == canonical
    assert Fidelity.parse(str(fidelity)) == fidelity


@pytest.mark.parametrize("text", ["released", "", "0", "8", "1;2", "1,", "paper,1", "Batch_mask"])
def test_other_fidelities_are_refused(text):
    with pytest.raises(ValueError) as error:
        Fidelity.parse(text)
    assert str(error.value).startswith(f"--fidelity is {text!r}; it must be paper, upstream, rows from 1 to 7")
    assert str(error.value).endswith(f"or names among {', '.join(ROWS)}")


# The label


KEEP_THE_LABEL = [
    "--seed 3",
    "--encoder other --cache_dir c",
    "--loss zooter",
    "--loss cosine_classifier",
    "--fidelity upstream",
    "--data_paths a.json b.json --data_type probability",
    "--test_data_paths c.json --test_data_type multi_attempt",
    "--final_eval_data_paths --final_eval_data_type probability",
    "--device cpu --precision fp32",
    "--save_path elsewhere --overwrite --resume_minutes 1 --no_final_eval",
    "--temperature 0.2 --last_k None",  # what the recipe says anyway
]


@pytest.mark.parametrize("words", ["", *KEEP_THE_LABEL])
def test_a_run_of_a_recipe_has_its_name(words):
    assert values("--recipe", "tuned", *words.split())["label"] == "tuned"


@pytest.mark.parametrize(
    "words",
    ["--top_k 2", "--no_freeze_encoder", "--learning_rate 1e-3", "--llms a b", "--cost_rate 1", "--max_length 64"],
)
def test_a_changed_recipe_is_custom(words):
    assert values("--recipe", "tuned", *words.split())["label"] == CUSTOM == "custom"
    assert values("--recipe", "tuned", *words.split(), "--label", "mine")["label"] == "mine"


def test_without_a_recipe_the_label_is_custom_or_given():
    assert values()["label"] == "custom"
    assert values("--label", "mine")["label"] == "mine"
    assert values("--recipe", "tuned", "--label", "mine")["label"] == "mine"
    assert "label" not in settings_of(parse_config(["--label", "mine"]))


# Kinds of data files


def test_one_kind_serves_all_files():
    found = values("--data_paths", "a", "b", "c", "--data_type", "probability", "--test_data_paths", "d", "e")
    assert found["data_type"] == ("probability",) * 3
    assert found["test_data_type"] == ("probability",) * 2
    assert found["final_eval_data_type"] == ("probability",) * len(found["final_eval_data_paths"])


def test_a_kind_of_their_own_comes_before_the_one_of_all():
    words = "--data_paths a b --data_type probability --test_data_paths c d --test_data_type multi_attempt"
    found = values(*words.split(), "--final_eval_data_paths")
    assert found["data_type"] == ("probability",) * 2
    assert found["test_data_type"] == ("multi_attempt",) * 2
    assert found["final_eval_data_paths"] == ()


def test_several_kinds_are_those_of_the_training_files_alone():
    found = values("--data_paths", "a", "b", "--data_type", "probability", "multi_attempt")
    assert found["data_type"] == ("probability", "multi_attempt")
    assert found["test_data_type"] is None and found["final_eval_data_type"] is None


@dataclass(frozen=True)
class OtherCommand:
    """Another command that reads data."""

    data: DataConfig = field(default_factory=DataConfig)
    number: int = 1
    """a number"""


def test_other_commands_are_made_of_the_same_parts():
    words = ["--number", "2", "--data_paths", "a", "b", "--data_type", "probability"]
    found = parse_arguments(OtherCommand, words, "a command", "what it does")
    assert found.number == 2 and found.data.data_type == ("probability",) * 2
    other = parse_arguments(OtherCommand, ["--dataset", "routerbench"], "a command", "what it does")
    assert other.data.max_characters == 1400
