"""utils/config.py: defaults, flags, recipes, labels, and every mistake in them by its name."""

import json
import re
import subprocess
import sys
from dataclasses import astuple, dataclass, field

import pytest
import yaml
from conftest import LLMS, REPO, words_of

from utils.config import (
    CUSTOM,
    RECIPES,
    Config,
    DataConfig,
    Fidelity,
    bounded,
    flags_of,
    parse_arguments,
    parse_config,
    recipes,
    settings_of,
)

PAPER = {  # section "Defaults" of the paper, and what the released command has where the paper is silent
    "top_k": 3,
    "last_k": 3,
    "H": 3,
    "cluster_loss_weight": 1,
    "sample_loss_weight": 0,
    "temperature": 1,
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "batch_size": 64,
    "training_steps": 1000,
    "eval_steps": 50,
    "gradient_accumulation": 1,
    "max_length": 512,
    "training_samples_per_dataset": 1000,
    "fidelity": "paper",
    "similarity_function": "cos",
    "encoder": "microsoft/mdeberta-v3-base",
    "pooling": None,
    "dropout": None,
    "freeze_encoder": False,
    "train_layers": None,
    "loss": "routerdc",
    "negative_below": 0.5,
    "ties": "expected",
    "targets": "score",
    "target_shrinkage": 0,
    "target_groups": "task",
    "target_pooling": "none",
    "cost_rate": 0,
    "llm_learning_rate": None,
    "validation_fraction": 0.1,
    "selection": "best",
    "seed": 1,
    "dataset": "paper",
    "llms": None,
    "missing_cells": "error",
    "max_characters": None,
    "keep_characters": "last",
}
TRAINING_FILES = ["gsm8k-train", "humaneval_train", "arc_challenge_train", "cmmlu_train", "mmlu_train"]


def settings(*words: str) -> dict:
    """The settings that a command line gives, flat."""
    return settings_of(parse_config(words))


def label(*words: str) -> str | None:
    """The label that a command line gives."""
    return parse_config(words).run.label


@pytest.fixture
def recipe_file(tmp_path):
    """Writes a YAML file of one's own and returns the words that name it."""

    def write(text: str, name: str = "mine") -> list[str]:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return ["--config", str(path)]

    return write


# Defaults and flags


def test_the_defaults_are_the_papers():
    found = settings()
    assert {name: found[name] for name in PAPER} == PAPER
    beside = {"data_paths", "data_type", "test_data_paths", "test_data_type", "final_eval_data_paths"}
    beside |= {"final_eval_data_type", "device", "precision", "threads", "tokens", "final_eval"}
    assert found.keys() == PAPER.keys() | beside  # no setting is forgotten here
    assert [path.rsplit("/", 1)[-1] for path in found["data_paths"]] == [f"{name}.json" for name in TRAINING_FILES]
    inside = ["mmlu_test", "gsm8k-test", "cmmlu_test", "arc_challenge_test", "humaneval_test"]
    assert [path.rsplit("/", 1)[-1] for path in found["test_data_paths"]] == [f"{name}.json" for name in inside]
    outside = ["MATH_prealgebra.json", "mbpp.json", "ceval.json"]
    assert [path.rsplit("/", 1)[-1] for path in found["final_eval_data_paths"]] == outside
    assert parse_config([]).run.label == CUSTOM and settings_of(Config()) == found


def test_the_recipe_of_the_paper_is_the_defaults_without_dropout():
    assert settings("--recipe", "paper") == settings("--dropout", "0")
    assert settings("--recipe", "mdeberta") == settings()


def test_the_flags_that_users_know():
    """Those of the released command, with a value that is not the default, and our own."""
    values = {
        "data_paths": ["a", "b"],
        "data_type": ["probability", "multi_attempt"],
        "test_data_paths": ["c"],
        "test_data_type": ["probability"],
        "final_eval_data_paths": ["d"],
        "final_eval_data_type": ["multi_attempt"],
        "batch_size": 7,
        "training_steps": 9,
        "eval_steps": 11,
        "learning_rate": 0.25,
        "top_k": 2,
        "last_k": 1,
        "gradient_accumulation": 4,
        "similarity_function": "inner",
        "sample_loss_weight": 0.5,
        "cluster_loss_weight": 1.5,
        "H": 6,
        "seed": 5,
        "training_samples_per_dataset": 8,
        "encoder": "f",
        "pooling": "mean",
        "fidelity": "1,4",
        "precision": "bf16",
        "device": "cuda:1",
        "validation_fraction": 0.2,
        "weight_decay": 0.05,
        "max_length": 33,
        "train_layers": 2,
    }
    config = parse_config([*words_of(values), "--save_path", "e", "--final_eval"])
    found = settings_of(config)
    assert {name: found[name] for name in values} == values
    assert config.run.save_path == "e" and config.run.final_eval
    assert settings("--freeze_encoder")["freeze_encoder"] and not settings("--no_freeze_encoder")["freeze_encoder"]


@pytest.mark.parametrize("spelling", ["--temperature", "--tempreture"])
def test_the_released_spelling_of_temperature_works(spelling):
    assert settings(spelling, "0.07")["temperature"] == 0.07
    assert settings(f"{spelling}=0.07")["temperature"] == 0.07


@pytest.mark.parametrize("spelling", ["--no_final_eval", "--no-final_eval", "--no-final-eval"])
def test_spellings_of_a_switch(spelling):
    assert not settings(spelling)["final_eval"]


def test_the_last_of_equal_flags_counts():
    assert settings("--H", "5", "--seed", "2", "--H", "4")["H"] == 4
    assert settings("--tempreture", "0.5", "--temperature", "0.25")["temperature"] == 0.25
    assert settings("--llms", "a", "b", "--llms", "c")["llms"] == ["c"]
    assert settings("--no_final_eval", "--final_eval")["final_eval"]


def test_a_list_may_be_empty():
    assert settings("--final_eval_data_paths", "--seed", "3")["final_eval_data_paths"] == []


def test_a_flag_is_never_guessed_from_its_first_letters():
    for words in (["--training_step", "5"], ["--recip", "tuned"], ["--dat", "routerbench"]):
        with pytest.raises(SystemExit) as stop:
            parse_config(words)
        assert stop.value.code == 2


@pytest.mark.parametrize("name", ["TRAINING_STEPS", "H", "RECIPE", "LABEL", "DEVICE", "SEED", "TEMPERATURE"])
def test_a_variable_of_the_environment_changes_nothing(monkeypatch, name):
    before = parse_config([]), parse_config(["--recipe", "tuned"])
    monkeypatch.setenv(name, "frozen" if name in ("RECIPE", "LABEL") else "9")
    monkeypatch.setenv(f"ROUTERDC_{name}", "9")
    assert (parse_config([]), parse_config(["--recipe", "tuned"])) == before


def test_a_process_that_starts_with_stray_variables_has_the_same_settings(monkeypatch):
    code = "from utils.config import parse_config\nprint(parse_config([]), parse_config(['--recipe', 'tuned']))"

    def printed() -> str:
        run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return run.stdout

    clean = printed()
    for name, value in (("H", "9"), ("TRAINING_STEPS", "1"), ("RECIPE", "paper"), ("SEED", "7"), ("LABEL", "x")):
        monkeypatch.setenv(name, value)
    assert printed() == clean and clean.count("Config(data=") == 2


def test_the_help_names_every_flag_and_the_recipe(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(["--help"], "What it does.")
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "What it does." in text and "--recipe NAME" in text
    for name in [*settings(), "save_path", "overwrite", "label", "resume_minutes", "cache_dir", "missing_clusters"]:
        assert f"--{name}" in text, name


# Data sets and kinds


def test_routerbench_has_its_files_counts_and_prompts():
    found = settings("--dataset", "routerbench")
    assert (found["top_k"], found["last_k"], found["max_characters"]) == (4, 4, 1400)
    assert found["missing_cells"] == "drop" and found["final_eval_data_paths"] == []
    assert all("routerbench" in path for path in [*found["data_paths"], *found["test_data_paths"]])
    assert found["data_type"] == found["test_data_type"] == ["multi_attempt"] * 6
    again = settings("--top_k", "2", "--dataset", "routerbench", "--max_characters", "100")
    assert (again["top_k"], again["last_k"], again["max_characters"]) == (2, 4, 100)  # flags win wherever they stand
    assert settings("--dataset", "routerbench", "--dataset", "paper") == settings()


def kinds(*words: str) -> tuple:
    """The kinds of training, test, and final test files that a command line gives."""
    found = settings(*words)
    return found["data_type"], found["test_data_type"], found["final_eval_data_type"]


def test_a_single_data_type_serves_all_files():
    own = ["--data_paths", "a_train.json", "b_train.json", "--test_data_paths", "a_test.json", "b_test.json", "c.json"]
    own += ["--final_eval_data_paths", "d.json"]
    one = "multi_attempt"  # no file here is of a task of the paper
    assert kinds(*own, "--data_type", one) == ([one] * 2, [one] * 3, [one])
    given = ["--test_data_type", "probability", "--final_eval_data_type", "probability"]
    assert kinds(*own, "--data_type", one, *given) == ([one] * 2, ["probability"] * 3, ["probability"])
    assert kinds(*own) == (None, None, None)
    assert kinds(*own, "--data_type", one, "probability")[1:] == (None, None)  # two kinds serve no other files


def test_a_single_data_type_leaves_the_papers_other_tasks_their_kind():
    """GSM8K is a share of right answers whatever the kind of the training file, and MMLU is right or wrong."""
    tests = ["--test_data_paths", "gsm8k-test.json", "mmlu_test.json", "--final_eval_data_paths", "mbpp.json"]
    only_mmlu = kinds("--data_paths", "mmlu_train.json", *tests, "--data_type", "probability")
    assert only_mmlu == (["probability"], ["multi_attempt", "probability"], ["multi_attempt"])
    own_mmlu = kinds("--data_paths", "mmlu_train.json", *tests, "--data_type", "multi_attempt")
    assert own_mmlu == (["multi_attempt"], ["multi_attempt", "multi_attempt"], ["multi_attempt"])


# Recipes


def committed_flags(command: str) -> dict[str, object]:
    """The flags of a command in results, numbers as numbers; read without the parser that is tested here."""
    flags: dict[str, object] = {}
    name = ""
    for word in command.split()[2:]:
        if word.startswith("--"):
            name = word.removeprefix("--")
            flags[name] = True
        else:
            flags[name] = number(word)
    return flags


def number(word: object) -> object:
    """A word as a number, if it is one."""
    try:
        return float(str(word))
    except ValueError:
        return word


def committed_runs(wanted: str) -> list[dict]:
    """The runs of results/runs.jsonl with this label."""
    lines = (REPO / "results" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    return [run for run in map(json.loads, lines) if run["recipe"] == wanted and run["router"] == "RouterDC"]


def test_the_recipes_that_there_should_be():
    expected = {"paper", "mdeberta", "frozen", "layers", "tuned", "tuned-layers", "tuned-all", "denoised"}
    expected |= {"denoised-layers", "routerbench", "routerbench_tuned", "miniature"}
    assert set(recipes()) >= expected


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_parses_to_what_its_file_says(name):
    found = settings("--recipe", name)
    contents = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert label("--recipe", name) == contents.pop("label", name)
    contents.pop("missing_clusters", None)  # it changes no result, so it is no setting of one
    dataset = settings("--dataset", contents.get("dataset", "paper"))
    for setting, value in found.items():
        written = contents.get(setting, dataset[setting])
        assert value in (written, number(written)), setting


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_says_what_it_is_and_where_it_was_chosen(name):
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = []
    for line in lines:
        if not line.startswith("# "):
            break
        header.append(line.removeprefix("# "))
    text = " ".join(header)
    assert len(text.split()) >= 10, "a recipe begins with a comment that says what it is"
    assert re.search(r"[Cc]hosen|on validation rows|[Pp]aper's settings|as the released code|eval_scripts/", text), text
    for path in re.findall(r"\b(?:results|utils|train_scripts|eval_scripts)/[\w./]*\w", text):
        assert (REPO / path).is_file(), f"{name}: there is no {path}"
    for candidate in re.findall(r"candidate (\S+?)\)", text):
        assert candidate in (REPO / "results" / "search.md").read_text(encoding="utf-8")
    for other in re.findall(r"`([a-z][a-z_-]*)`", text):
        assert other in recipes(), f"{name}: there is no recipe {other}"


LABELS = ["paper", "frozen", "tuned", "tuned-layers", "tuned-all", "denoised", "denoised-layers"]
NO_SETTINGS = ("label", "seed", "save_path", "device", "precision", "fidelity", "missing_clusters")


@pytest.mark.parametrize("name", LABELS)
def test_a_recipe_is_what_its_committed_runs_were_trained_with(name):
    """Flag by flag, by the committed commands and the YAML file alone; and again as parsed."""
    runs = committed_runs(name)
    assert runs
    contents = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    ours = {setting: number(value) for setting, value in contents.items() if setting not in NO_SETTINGS}
    if "last_k" in contents:
        assert contents["last_k"] is None
        ours["last_k"] = 7 - contents["top_k"]  # the paper has 7 LLMs
    for run in runs:
        flags = {flag: value for flag, value in committed_flags(run["command"]).items() if flag not in NO_SETTINGS}
        if flags.get("selection") == "last":
            flags.pop("eval_steps", None)  # without validation rows, evaluations do nothing
        for setting in flags.keys() | ours.keys() - {"encoder"}:
            if setting == "encoder":  # the recipe `paper` is for every encoder
                assert flags["encoder"] == contents.get("encoder", "minilm")
                continue
            default = PAPER[setting]
            assert flags.get(setting, default) == ours.get(setting, default), (setting, run["command"])

        parsed, recipe = settings(*run["command"].split()[2:]), settings("--recipe", name, "--encoder", "minilm")
        recipe["last_k"] = recipe["last_k"] or 6
        for setting in recipe.keys() - {"seed", "fidelity", "eval_steps"}:
            assert parsed[setting] == recipe[setting], setting


@pytest.mark.parametrize("name", ["routerbench", "routerbench_tuned"])
def test_the_recipes_of_routerbench_are_those_of_its_committed_results(name):
    folder = REPO / "results" / ("" if name == "routerbench" else name)
    committed = json.loads((folder / "routerbench.json").read_text(encoding="utf-8"))
    found = settings("--recipe", name)
    if found["last_k"] is None:
        found["last_k"] = len(committed["llms"]) - found["top_k"]
    compared = committed["settings"].keys() & found.keys()
    assert {"top_k", "last_k", "learning_rate", "freeze_encoder", "max_characters", "training_steps"} <= compared
    for setting in compared:
        assert found[setting] == committed["settings"][setting], setting


@pytest.mark.parametrize(
    "words",
    [
        ["--recipe", "tuned", "--top_k", "2", "--no_freeze_encoder"],
        ["--top_k", "2", "--recipe", "tuned", "--no_freeze_encoder"],
        ["--top_k", "2", "--no_freeze_encoder", "--recipe", "tuned"],
        ["--top_k=2", "--no_freeze_encoder", "--recipe=tuned"],
        ["--no_freeze_encoder", "--recipe", "paper", "--top_k", "2", "--recipe", "tuned"],
    ],
)
def test_flags_win_over_the_recipe_wherever_it_stands(words):
    found = settings(*words)
    assert (found["top_k"], found["freeze_encoder"]) == (2, False)
    assert (found["temperature"], found["targets"]) == (0.2, "gain")  # still the recipe's


def test_flags_win_over_a_recipe_that_wins_over_its_dataset():
    assert settings("--recipe", "routerbench_tuned")["top_k"] == 1
    found = settings("--recipe", "routerbench_tuned", "--top_k", "3")
    assert (found["top_k"], found["last_k"], found["max_characters"]) == (3, None, 1400)


def test_flags_win_over_a_list_of_the_recipe(recipe_file):
    words = recipe_file("llms: [a, b]\ndata_paths: [x.json]\n")
    assert settings(*words)["llms"] == ["a", "b"] and settings(*words)["data_paths"] == ["x.json"]
    assert settings("--llms", "c", *words)["llms"] == ["c"]


def test_null_in_a_recipe_is_none(recipe_file):
    words = recipe_file("last_k: null\ntrain_layers:\ndropout: ~\nllms: null\n")
    found = settings(*words)
    assert [found[name] for name in ("last_k", "train_layers", "dropout", "llms")] == [None] * 4
    assert settings(*words, "--last_k", "2")["last_k"] == 2
    assert settings("--last_k", "None", *recipe_file("last_k: 2\n", "other"))["last_k"] is None


def test_a_recipe_of_ones_own(recipe_file):
    words = recipe_file("# mine\nH: 5\nfreeze_encoder: yes\nlearning_rate: 1e-3\nfinal_eval: off\n")
    found = settings(*words)
    assert (found["H"], found["freeze_encoder"], found["learning_rate"], found["final_eval"]) == (5, True, 1e-3, False)
    assert label(*words) == "mine"
    assert label(*recipe_file("label: row\nH: 5\n")) == "row"
    assert settings(*recipe_file("# nothing\n", "empty")) == settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top_q: 3\nH: 2\nlearn: 1\n", "no setting is called learn, top_q; "),
        ("3: 2\n", "no setting is called 3"),
        ("data:\n  llms: [a]\n", "no setting is called data"),
        ("- H\n- 3\n", "expected settings, one `name: value` a line, found list"),
        ("just words\n", "expected settings, one `name: value` a line, found str"),
        ("H: [1\n", "not valid YAML ("),
        ("H: 3\ntop_k: 2\nH: 5\n", "H is set twice"),
        ("H: 2026-99-99\n", "not valid YAML (month must be in 1..12)"),
        ("H: !!int ''\n", "not valid YAML ("),
        (f"H: {'9' * 5000}\n", "not valid YAML (Exceeds the limit"),
        (f"H: {'[' * 3000}\n", "not valid YAML (maximum recursion depth"),
        ("H: \0\n", "not valid YAML ("),
        ("label: a|b\n", "--label is 'a|b'"),
        ("top_k: 0\n", "--top_k is 0; it must be at least 1"),
        ("targets: none\n", "a setting has a value that its flag does not take, see above"),
        ("fidelity: 9\n", "--fidelity is '9'"),
    ],
)
def test_a_mistake_in_a_recipe_names_file_and_setting(recipe_file, text, message):
    words = recipe_file(text)
    with pytest.raises(ValueError) as error:
        parse_config(words)
    assert message in str(error.value)
    if "fidelity" not in message and "label" not in message:
        assert str(error.value).startswith(f"{words[1]}: ")


def test_a_value_of_another_type_in_a_recipe_names_setting_and_file(recipe_file, capsys):
    words = recipe_file("batch_size: many\n")
    with pytest.raises(ValueError, match=re.escape(words[1])):
        parse_config(words)
    assert "--batch_size" in capsys.readouterr().err


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="nope.yaml: no such recipe. --recipe takes one of denoised, ") as error:
        parse_config(["--recipe", "nope"])
    assert all(name in str(error.value) for name in recipes()) and "--config" in str(error.value)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'x.yaml'}: no such recipe")):
        parse_config(["--config", str(tmp_path / "x.yaml")])
    with pytest.raises(SystemExit) as stop:
        parse_config(["--recipe", "tuned", "--config", "x.yaml"])
    assert stop.value.code == 2


# Labels


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--seed", "2"],
        ["--encoder", "somewhere"],
        ["--loss", "zooter"],
        ["--fidelity", "upstream"],
        ["--device", "cpu", "--precision", "fp32", "--cache_dir", "c", "--save_path", "s", "--overwrite"],
        ["--data_paths", "a.json", "--data_type", "probability", "--test_data_paths", "b.json"],
        ["--no_final_eval", "--resume_minutes", "1", "--missing_clusters", "error"],
        ["--loss", "cosine_classifier", "--final_eval_data_paths", "--final_eval_data_type", "probability"],
        ["--top_k", "1", "--temperature", "0.2", "--last_k", "None"],  # what the recipe has anyway
    ],
)
def test_what_leaves_the_label(words):
    assert label("--recipe", "tuned", *words) == "tuned"


@pytest.mark.parametrize(
    "words",
    [
        ["--H", "5"],
        ["--last_k", "6"],
        ["--dataset", "routerbench"],
        ["--max_length", "64"],
        ["--llms", *LLMS],
        ["--no_freeze_encoder"],
        ["--learning_rate", "1e-3"],
        ["--cost_rate", "1"],
    ],
)
def test_what_changes_a_setting_makes_it_custom(words):
    assert label("--recipe", "tuned", *words) == CUSTOM == "custom"


def test_a_label_of_ones_own():
    assert label("--recipe", "tuned", "--H", "5", "--label", "tuned H=5") == "tuned H=5"
    assert label("--label", "mine") == "mine" and label("--seed", "4") == CUSTOM
    assert label("--recipe", "mdeberta") == "paper"  # its file names its row
    assert "label" not in settings("--label", "mine")


# Fidelity


BEHAVIOURS = [
    "batch_mask",
    "no_dropout",
    "self_positive",
    "shifted_rows",
    "train_as_validation",
    "evaluation_draws",
    "released_ties",
]


def taken(text: str) -> list[str]:
    """The behaviours that a text takes as released."""
    fidelity = Fidelity.parse(text)
    return [name for name in BEHAVIOURS if getattr(fidelity, name)]


def test_fidelity_by_name_number_and_as_a_whole():
    assert taken("paper") == [] and taken("upstream") == BEHAVIOURS
    assert taken("1,2,3,4,5,6,7") == BEHAVIOURS
    for row, name in enumerate(BEHAVIOURS, 1):
        assert taken(str(row)) == taken(name) == [name]
        assert astuple(Fidelity.parse(name)) == tuple(number == row for number in range(1, 8))
    assert taken("2, 5") == taken("train_as_validation,no_dropout") == ["no_dropout", "train_as_validation"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("paper", "paper"),
        ("upstream", "upstream"),
        ("3,1", "1,3"),
        ("self_positive, 1", "1,3"),
        ("7,6,5,4,3,2,1", "upstream"),
    ],
)
def test_one_choice_of_behaviours_has_one_name_in_results(text, name):
    assert str(Fidelity.parse(text)) == settings("--fidelity", text)["fidelity"] == name


@pytest.mark.parametrize("text", ["released", "0", "8", "1;2", "1,", "18", "", "Paper", "paper,1"])
def test_other_fidelity_is_refused(text):
    with pytest.raises(ValueError) as error:
        parse_config(["--fidelity", text])
    message = str(error.value)
    assert f"--fidelity is {text!r}; it must be paper, upstream, rows from 1 to 7 such as 1,3" in message
    assert all(name in message for name in BEHAVIOURS)


# Bounds and settings that exclude each other


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"top_k": 0}, "--top_k is 0; it must be at least 1"),
        ({"H": 0}, "--H is 0; it must be at least 1"),
        ({"batch_size": 0}, "--batch_size is 0; it must be at least 1"),
        ({"training_steps": 0}, "--training_steps is 0; it must be at least 1"),
        ({"eval_steps": 0}, "--eval_steps is 0; it must be at least 1"),
        ({"gradient_accumulation": 0}, "--gradient_accumulation is 0; it must be at least 1"),
        ({"training_samples_per_dataset": -1}, "--training_samples_per_dataset is -1; it must be at least 0"),
        ({"seed": -1}, "--seed is -1; it must be at least 0"),
        ({"learning_rate": 0.0}, "--learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": "nan"}, "--learning_rate is nan; it must be above 0"),
        ({"learning_rate": "inf"}, "--learning_rate is inf; it must be above 0"),
        ({"llm_learning_rate": -1.0}, "--llm_learning_rate is -1.0; it must be above 0"),
        ({"temperature": 0.0}, "--temperature is 0.0; it must be above 0"),
        ({"tempreture": 0.0}, "--temperature is 0.0; it must be above 0"),
        ({"weight_decay": -0.1}, "--weight_decay is -0.1; it must be at least 0"),
        ({"cluster_loss_weight": -1.0}, "--cluster_loss_weight is -1.0; it must be at least 0"),
        ({"sample_loss_weight": "inf"}, "--sample_loss_weight is inf; it must be at least 0"),
        ({"cost_rate": -1}, "--cost_rate is -1.0; it must be at least 0"),
        ({"resume_minutes": -1}, "--resume_minutes is -1.0; it must be at least 0"),
        ({"negative_below": "nan"}, "--negative_below is nan; it must be at least 0"),
        ({"max_characters": 0}, "--max_characters is 0; it must be at least 1"),
        ({"dropout": 1.0}, "--dropout is 1.0; it must be at least 0 and below 1"),
        ({"dropout": -0.1}, "--dropout is -0.1; it must be at least 0 and below 1"),
        ({"target_shrinkage": 2.0}, "--target_shrinkage is 2.0; it must be at least 0 and at most 1"),
        ({"validation_fraction": 1.0}, "--validation_fraction is 1.0; it must be at least 0 and below 1"),
        ({"train_layers": 0}, "--train_layers is 0; it must be at least 1"),
        ({"target_pooling": "alike", "target_shrinkage": 0.5}, "the pooling that --target_shrinkage 0.5 sets by hand"),
        ({"target_pooling": "question", "target_groups": "cluster"}, "that --target_groups cluster sets by hand"),
        ({"llms": ["a", "b", "a"]}, "--llms names an LLM twice: a b a"),
        ({"llms": ["a", " "]}, "--llms has an empty name: 'a', ' '"),
        ({"llms": [""]}, "--llms has an empty name: ''"),
        ({"seed": 10**30}, f"--seed is {10**30}; it must be below 4294967296"),
        ({"seed": 10**400}, "; it must be below 4294967296"),
        ({"batch_size": 2**32}, "--batch_size is 4294967296; it must be below 4294967296"),
        ({"last_k": 10**20}, f"--last_k is {10**20}; it must be below 4294967296"),
        ({"max_length": 0}, "--max_length is 0; it must be at least 1"),
        ({"label": "a|b"}, "--label is 'a|b'; it stands in tables: give a name without | and line breaks"),
        ({"label": "a\nb"}, "--label is 'a\\nb'; it stands in tables"),
        ({"label": " "}, "--label is ' '; it stands in tables"),
        ({"freeze_encoder": True, "train_layers": 1}, "--freeze_encoder and --train_layers exclude each other"),
        ({"encoder": "given"}, "--encoder given: embeddings are there already, so no encoder can train; add --freeze"),
        ({"loss": "zooter", "cluster_loss_weight": 2}, "--loss zooter has no sample-sample loss; leave out"),
        ({"loss": "cosine_classifier", "sample_loss_weight": 1}, "--loss cosine_classifier has no sample-sample loss"),
    ],
)
def test_numbers_that_make_no_sense_and_settings_that_exclude_each_other(flags, words):
    with pytest.raises(ValueError) as error:
        parse_config(words_of(flags))
    assert words in str(error.value)


def test_bounds_let_their_own_edge_pass():
    config = parse_config("--validation_fraction 0 --dropout 0 --target_shrinkage 1 --seed 0 --top_k 1 --H 1".split())
    assert config.training_set.target_shrinkage == 1 and config.optimization.seed == 0


@dataclass(frozen=True)
class Bounded:
    """A command of two numbers."""

    half_open: float | None = bounded(0.5, at_least=0, below=1)
    """a number"""
    positive: int = bounded(1, above=0, at_most=3)
    """another"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", (0.5, 1)),
        ("--half_open 0", (0, 1)),
        ("--half_open None", (None, 1)),
        ("--positive 3", (0.5, 3)),
    ],
)
def test_numbers_within_bounds(words, expected):
    assert astuple(parse_arguments(Bounded, words.split(), "a command", "what it does")) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--half_open -0.1", "--half_open is -0.1; it must be at least 0 and below 1"),
        ("--half_open 1", "--half_open is 1.0; it must be at least 0 and below 1"),
        ("--half_open nan", "--half_open is nan; it must be at least 0 and below 1"),
        ("--positive 0", "--positive is 0; it must be above 0 and at most 3"),
        ("--positive 4", "--positive is 4; it must be above 0 and at most 3"),
    ],
)
def test_numbers_out_of_bounds(words, message):
    with pytest.raises(ValueError) as error:
        parse_arguments(Bounded, words.split(), "a command", "what it does")
    assert str(error.value) == message


@dataclass(frozen=True)
class Unbounded:
    """A command of values without bounds."""

    number: float = 1.0
    """a number"""
    count: int = 1
    """another"""
    llms: tuple[str, ...] | None = None
    """LLMs"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--number nan", "--number is nan; it must be a number"),
        ("--number -inf", "--number is -inf; it must be a number"),
        (f"--count -{2**32}", f"--count is -{2**32}; it must be below {2**32}"),
        ("--llms a b a", "--llms names an LLM twice: a b a"),
    ],
)
def test_values_of_every_command_are_checked(words, message):
    with pytest.raises(ValueError) as error:
        parse_arguments(Unbounded, words.split(), "a command", "what it does")
    assert str(error.value) == message
    found = parse_arguments(Unbounded, f"--number -2.5 --count {2**32 - 1} --llms a b".split(), "a command", "")
    assert astuple(found) == (-2.5, 2**32 - 1, ("a", "b"))


@pytest.mark.parametrize(
    "words", ["--seed 1e30", "--pooling max", "--batch_size many", "--no_such_flag", "--targets all", "stray"]
)
def test_values_that_the_parser_refuses(capsys, words):
    with pytest.raises(SystemExit) as stop:
        parse_config(words.split())
    assert stop.value.code == 2 and words.split()[0] in capsys.readouterr().err


def test_a_baselines_loss_has_no_sample_sample_loss():
    for loss in ("zooter", "cosine_classifier"):
        assert settings("--loss", loss)["cluster_loss_weight"] == 0
        assert settings("--recipe", "tuned", "--loss", loss)["cluster_loss_weight"] == 0


# Pieces that other commands use


def test_settings_become_the_words_that_give_them_back():
    values = {"H": 5, "freeze_encoder": True, "final_eval": False, "llms": ["a", "b"], "last_k": None, "encoder": "x y"}
    words = ["--H", "5", "--freeze_encoder", "--no_final_eval", "--llms", "a", "b"]
    assert flags_of(values) == [*words, "--last_k", "None", "--encoder", "x y"]
    found = settings(*flags_of(values))
    assert {name: found[name] for name in values} == values


def test_all_settings_survive_results_json_and_give_the_same_run():
    first = settings("--recipe", "denoised-layers", "--data_type", "probability", "--device", "cpu")
    again = json.loads(json.dumps(first))
    assert again == first and settings(*flags_of(again)) == first


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
    mine = OtherCommand(number=7)
    assert parse_arguments(OtherCommand, [], "a command", "", default=mine).number == 7
