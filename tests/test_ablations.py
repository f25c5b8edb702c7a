"""The ablations: the table against what the runs wrote, an LLM lost at test time against plain loops, the script."""

import json
import os
import shlex
import statistics
import subprocess

import numpy as np
import pytest
import torch
import yaml
from conftest import LLMS, REPO, arguments
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

import evaluation_router
import train_router_mdeberta
from utils.config import HardwareConfig, parse_config, settings_of
from utils.report import ablations, lost_llms

FROZEN = {"freeze_encoder": True, "pooling": "mean", "learning_rate": 1e-2}
VARIANTS = {
    "": {},
    " lambda=0": {"cluster_loss_weight": 0},
    " K+=1": {"top_k": 1},
    " K+=2": {"top_k": 2},
    " learning_rate=3e-2": {"learning_rate": 3e-2},
}


@pytest.fixture(scope="module")
def runs(fake, tiny_bert, tmp_path_factory):
    """Two seeds of a recipe and of four variants, and a third seed of one variant alone."""
    folder = tmp_path_factory.mktemp("ablations")
    for change, flags in VARIANTS.items():
        for seed in (1, 2, 3) if change == " K+=1" else (1, 2):
            path = folder / (change.strip() or "base") / f"seed_{seed}"
            settings = FROZEN | {"label": f"tiny{change}", "seed": seed, "cache_dir": folder / "cache"} | flags
            assert train_router_mdeberta.main(arguments(fake, tiny_bert, path, **settings)) == 0
    return folder


@pytest.fixture(scope="module")
def table(runs):
    """The command on these runs: (results folder, its Markdown)."""
    results = runs / "results"
    flags = ["--lose_llms", "--device", "cpu", "--cache_dir", str(runs / "cache")]
    assert ablations.main([str(runs), "--results", str(results), *flags]) == 0
    return results, (results / "ablations.md").read_text()


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the Markdown table below a heading, without its header."""
    section = text.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def is_spread(cell: str, values: list[float], sign: str = "") -> bool:
    """Whether a cell has the mean and the standard deviation of these values, to the last digit shown."""
    mean, deviation = cell.split(" ± ")
    assert mean[0] in "+-" or not sign
    same_mean = float(mean) == pytest.approx(statistics.mean(values), abs=0.006)
    return same_mean and float(deviation) == pytest.approx(statistics.stdev(values), abs=0.006)


def test_an_llm_is_lost_on_the_characters_that_the_run_read(fake, tiny_bert, tmp_path):
    found = {}
    for keep in ("first", "last"):
        flags = FROZEN | {"max_characters": 9, "keep_characters": keep, "training_steps": 4, "eval_steps": 4}
        assert train_router_mdeberta.main(arguments(fake, tiny_bert, tmp_path / keep, **flags)) == 0
        (whole, *_) = lost_llms.lose_llms(tmp_path / keep, HardwareConfig(device="cpu", cache_dir=tmp_path / "cache"))
        found[keep] = json.loads((tmp_path / keep / "results.json").read_text())["test"]["id_avg"]
        assert whole["id_avg"] == pytest.approx(found[keep], abs=1e-3)
    assert found["first"] != found["last"]


@pytest.fixture
def figures(runs):
    """Reads the runs of a folder: {seed: (validation, ID average, OOD average)}."""

    def figures(folder: str) -> dict[int, tuple[float, float, float]]:
        found = {}
        for path in (runs / folder).glob("seed_*/results.json"):
            run = json.loads(path.read_text())
            accuracies = run["test"]["id_avg"], run["test"]["ood_avg"]
            found[run["settings"]["seed"]] = (run["selection"]["validation"], *accuracies)
        return found

    return figures


def test_every_row_follows_from_the_files_of_its_runs(table, figures):
    rows, setting, cells = rows_of(table[1], "## tiny"), "", {}
    for row in rows:
        setting = row[0] or setting
        cells[setting.split(":")[0], row[1]] = row[2:]
    base = figures("base")
    plain = cells.pop(("the recipe", ""))
    for column in range(3):
        assert is_spread(plain[column], [base[seed][column] for seed in (1, 2)])
    assert plain[3:] == ["-", "-", "-", "2"]
    for own in (("lambda", "**1**"), ("K+", "**3**"), ("learning rate", "**0.01**")):
        assert cells.pop(own) == plain, own
    folders = {("lambda", "0"): "lambda=0", ("K+", "1"): "K+=1", ("K+", "2"): "K+=2"}
    folders["learning rate", "0.03"] = "learning_rate=3e-2"
    for key, folder in folders.items():
        changed, row = figures(folder), cells.pop(key)
        for column in range(3):
            gaps = [changed[seed][column] - base[seed][column] for seed in (1, 2)]
            assert is_spread(row[column], [values[column] for values in changed.values()]), key
            assert is_spread(row[3 + column], gaps, "+"), key
        assert row[6] == str(len(changed))
    assert not cells
    assert [row[1] for row in rows if row[1]] == ["0", "**1**", "1", "2", "**3**", "**0.01**", "0.03"]


def test_lines_keep_what_it_takes_to_run_them_again_and_are_replaced_not_repeated(runs, table, capsys):
    results, text = table
    lines = [json.loads(line) for line in (results / "ablations.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["setting"] != "lost_LLM"]
    assert len(trained) == 11 and len(lines) == 11 + 2 * 5
    for line in trained:
        assert line["command"].startswith("python train_router_mdeberta.py")
        assert f"--seed {line['seed']} " in line["command"] + " "
        assert line["device"].startswith("cpu") and line["seconds"] > 0
        assert set(line["metrics"]) == {"gsm8k", "arc_challenge", "mbpp"}
    assert ablations.main([str(runs / "lambda=0"), "--results", str(results)]) == 0
    assert ablations.main(["--results", str(results)]) == 0
    assert (results / "ablations.md").read_text() == text
    assert [json.loads(line) for line in (results / "ablations.jsonl").read_text().splitlines()] == lines


def pooled(folder, questions) -> np.ndarray:
    """Embeddings of a frozen run by transformers alone: mean over the tokens, then the head."""
    weights = load_file(folder / "model.safetensors")
    backbone = AutoModel.from_config(AutoConfig.from_pretrained(folder / "encoder")).eval()
    prefix = "encoder.backbone."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    backbone.load_state_dict(own, strict=False)
    tokenizer, rows = AutoTokenizer.from_pretrained(folder / "encoder", truncation_side="left"), []
    with torch.no_grad():
        for question in questions:  # one by one: no padding
            tokens = tokenizer(question, truncation=True, max_length=64, return_tensors="pt")
            rows.append(backbone(**tokens).last_hidden_state[0].mean(dim=0).numpy())
    return np.array(rows) @ weights["head.weight"].numpy().T


TASKS = {"gsm8k": "multi_attempt", "arc_challenge": "probability", "mbpp": "multi_attempt"}
AVERAGES = {"id_avg": ("gsm8k", "arc_challenge"), "ood_avg": ("mbpp",)}


def gain(task: str, row: dict, llm: str) -> float:
    """What an LLM earns on a row of a data file."""
    score = row["scores"][llm]
    return score if TASKS[task] == "multi_attempt" else float(score > 0)


def percent(values: list[float]) -> float:
    return 100 * sum(values) / len(values)


@pytest.fixture
def rows(fake):
    """The rows of each test file."""
    return {task: json.loads(fake.test[task].read_text(encoding="utf-8")) for task in TASKS}


@pytest.fixture
def lost(table):
    """The lines of LLMs that were lost."""
    lines = [json.loads(line) for line in (table[0] / "ablations.jsonl").read_text().splitlines()]
    return [line for line in lines if line["setting"] == "lost_LLM"]


def test_a_lost_llm_against_plain_loops(runs, rows, lost):
    folder = runs / "base" / "seed_2" / "checkpoint"
    llms = load_file(folder / "model.safetensors")["llm_embeddings.weight"].numpy()
    llms /= np.linalg.norm(llms, axis=1, keepdims=True)
    near = {task: pooled(folder, [row["question"] for row in rows[task]]) @ llms.T for task in TASKS}
    by_llm = {line["value"]: line for line in lost if line["seed"] == 2}
    assert list(by_llm) == ["none", *LLMS]
    for value, line in by_llm.items():
        left = [llm for llm in LLMS if llm != value]
        expected = {}
        for task in TASKS:
            picks = [max(left, key=lambda llm, of=of: of[LLMS.index(llm)]) for of in near[task]]
            expected[task] = percent([gain(task, row, pick) for row, pick in zip(rows[task], picks)])
        assert line["metrics"] == pytest.approx(expected, abs=1e-3), value
        for side, tasks in AVERAGES.items():
            assert line[side] == pytest.approx(statistics.mean(expected[task] for task in tasks), abs=1e-3)
    results = json.loads((runs / "base" / "seed_2" / "results.json").read_text())
    assert by_llm["none"]["id_avg"] == pytest.approx(results["test"]["id_avg"], abs=1e-3)
    assert any(line["id_avg"] != by_llm["none"]["id_avg"] for line in by_llm.values())


def test_what_the_llms_left_could_do_at_best(rows, lost):
    for line in lost:
        left = [llm for llm in LLMS if llm != line["value"]]
        oracle, single = {}, {}
        for task in TASKS:
            oracle[task] = percent([max(gain(task, row, llm) for llm in left) for row in rows[task]])
            single[task] = {llm: percent([gain(task, row, llm) for row in rows[task]]) for llm in left}
        for side, tasks in AVERAGES.items():
            expected = {
                "best single LLM": max(statistics.mean(single[task][llm] for task in tasks) for llm in left),
                "best LLM per task": statistics.mean(max(single[task].values()) for task in tasks),
                "per-query oracle": statistics.mean(oracle[task] for task in tasks),
            }
            limits = {limit: values[side] for limit, values in line["limits"].items()}
            assert limits == pytest.approx(expected, abs=1e-3), (line["value"], side)


def test_the_table_of_lost_llms_is_over_the_seeds(table, lost):
    shown = {row[0]: row for row in rows_of(table[1], "### tiny: an LLM lost at test time")}
    assert list(shown) == ["none", *[llm.split("/")[1] for llm in LLMS]]
    pair = [line["id_avg"] for line in lost if line["value"] == LLMS[0]]
    assert is_spread(shown["alpha-7b"][1], pair) and shown["alpha-7b"][-1] == "2"


def test_losing_llms_is_done_once_per_training(runs, table, monkeypatch, capsys):
    def forbidden(*args):
        raise AssertionError("it was done again")

    monkeypatch.setattr(lost_llms, "lose_llms", forbidden)
    command = [str(runs / "base"), "--results", str(table[0]), "--lose_llms"]
    assert ablations.main(command) == 0
    path = runs / "base" / "seed_1" / "results.json"
    before = path.read_text()
    path.write_text(before + "\n")  # as after another training
    try:
        with pytest.raises(AssertionError, match="done again"):
            ablations.main(command)
    finally:
        path.write_text(before)


def test_errors_name_the_folder_and_the_command(runs, tmp_path, capsys):
    def says(*argv) -> str:
        assert ablations.main([*map(str, argv), "--results", str(tmp_path / "results")]) == 2
        return capsys.readouterr().err

    (tmp_path / "empty").mkdir()
    text = says(tmp_path / "empty")
    assert f"{tmp_path / 'empty'}: no finished run" in text and "ablations.sh" in text
    assert "no runs yet" in says()
    assert "no run of the plain recipe" in says(runs / "lambda=0", "--lose_llms")
    assert "--lose_llms needs" in says("--lose_llms")
    assert "--precision bf16: routers are tested in that" in says(runs, "--lose_llms", "--precision", "bf16")
    assert not (tmp_path / "results" / "ablations.jsonl").exists()


# --llms of the trainer


def only(path, llms, folder):
    """A copy of a data file with the scores of some LLMs."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        row["scores"] = {llm: row["scores"][llm] for llm in llms}
    target = folder / path.name
    target.write_text(json.dumps(rows), encoding="utf-8")
    return target


def test_training_on_some_llms_is_training_on_files_that_have_no_others(fake, tiny_bert, tmp_path, capsys):
    some = [LLMS[2], LLMS[0]]
    flags = FROZEN | {"top_k": 1, "last_k": 2, "cache_dir": tmp_path / "cache"}
    assert train_router_mdeberta.main(arguments(fake, tiny_bert, tmp_path / "a", llms=some, **flags)) == 0
    command = arguments(fake, tiny_bert, tmp_path / "b", **flags)
    paths = {str(path): str(only(path, some, tmp_path)) for path in [*fake.train.values(), *fake.test.values()]}
    assert train_router_mdeberta.main([paths.get(word, word) for word in command]) == 0
    flagged, cut = (json.loads((tmp_path / name / "results.json").read_text())["test"] for name in "ab")
    assert flagged == cut and flagged["llms"] == some and set(flagged["shares"]["mbpp"]) == set(some)
    weights, others = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in "ab")
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert weights["llm_embeddings.weight"].shape[0] == 2
    capsys.readouterr()
    command = ["--ckpt", str(tmp_path / "a"), "--device", "cpu", "--cache_dir", str(tmp_path / "cache")]
    assert evaluation_router.main(command) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "a" / "tables.md").read_text().strip()


def test_llms_that_are_unknown_or_named_twice_are_errors(fake, tiny_bert, tmp_path, capsys):
    for llms, expected in (
        ([LLMS[0], "lab/psi"], "no scores for lab/psi"),
        ([LLMS[0], LLMS[0]], "--llms names an LLM twice"),
        ([LLMS[0]], f"one LLM alone, {LLMS[0]}"),
        ([LLMS[0], LLMS[2]], "--top_k is 3; with 2 LLMs"),
    ):
        assert train_router_mdeberta.main(arguments(fake, tiny_bert, tmp_path / "run", llms=llms)) == 2
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "run" / "results.json").exists()


# The script


def bash(folder, *flags, **settings) -> subprocess.CompletedProcess:
    """Runs train_scripts/ablations.sh with these flags and variables."""
    environment = os.environ | {"ROUTERDC_NO_VENV": "1"} | settings
    environment |= {"RUNS": str(folder / "runs"), "RESULTS": str(folder / "results")}
    command = ["bash", str(REPO / "train_scripts" / "ablations.sh"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


CHANGED = {  # what each axis may change in the settings of a run
    "base": set(),
    "lambda": {"cluster_loss_weight"},
    "K+": {"top_k"},
    "K-": {"last_k"},
    "ties": {"ties"},
    "H": {"H"},
    "N": {"data_paths"},
    "learning_rate": {"learning_rate"},
    "similarity": {"similarity_function"},
    "columns": {"llms"},
    "files": {"data_paths"},
    "encoder": {"encoder", "pooling"},
    "LLMs": {"llms", "top_k", "last_k"},
    "fidelity": {"fidelity"},
    "sample_sample": {"cluster_loss_weight", "sample_loss_weight"},
    "rows": {"training_samples_per_dataset"},
    "targets": {"targets", "target_shrinkage", "target_groups"},
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The dry run of the script with two seeds: its folder, the clusterings by output, the runs by label and seed."""
    folder = tmp_path_factory.mktemp("planned")
    process = bash(folder, "--dry_run", "--seeds", "1", "2", "--device", "cpu")
    assert process.returncode == 0, process.stderr
    clusterings, runs = {}, {}
    for line in process.stdout.splitlines():
        words = shlex.split(line)
        if words[:3] == ["python", "-m", "utils.clustering"]:
            flags = dict(zip(words[3::2], words[4::2]))
            clusterings[flags["--output"]] = flags
        else:
            assert words[:2] == ["python", "train_router_mdeberta.py"]
            config = parse_config(words[2:])
            runs[config.run.label, config.optimization.seed] = config
    assert len(clusterings) + len(runs) == len(process.stdout.splitlines())
    return folder, clusterings, runs


def axis_of(label: str) -> tuple[str, str]:
    """Setting and value in the label of a run."""
    setting, _, value = label.partition(" ")[2].partition("=")
    return setting or "base", value


def test_the_script_plans_one_change_at_a_time(planned):
    """Every command of the dry run parses, and differs from the plain recipe of its seed in its axis alone."""
    _, _, runs = planned
    labels = {seed: [label for label, number in runs if number == seed] for seed in (1, 2)}
    assert labels[1] == labels[2] and labels[1][0] == "minilm_frozen"
    assert {axis_of(label)[0] for label in labels[1]} == set(CHANGED)
    assert len({config.run.save_path for config in runs.values()}) == len(runs)
    for (label, seed), config in runs.items():
        axis, _ = axis_of(label)
        ours, base = settings_of(config), settings_of(runs["minilm_frozen", seed])
        changed = {name for name in ours if ours[name] != base[name]}
        assert changed <= CHANGED[axis] and (changed or axis == "base"), label
        assert config.hardware.device == "cpu" and not config.run.overwrite


def test_the_script_plans_the_published_values(planned):
    values = {}
    for label, seed in planned[2]:
        if seed == 1:
            axis, value = axis_of(label)
            values.setdefault(axis, []).append(value)
    assert values["lambda"] == ["0", "0.5", "2", "5"]
    assert values["fidelity"] == ["1", "2", "3", "4", "5", "6", "7", "upstream"]
    assert values["ties"] == ["random", "released", "columns"]
    assert values["K+"] == ["1", "2", "4", "5", "6"]
    assert values["sample_sample"] == ["none", "task", "both"]


def test_the_script_plans_clusters_and_numbers_of_llms(planned):
    folder, clusterings, runs = planned
    assert {flags["--clusters"] for flags in clusterings.values()} == {"2", "3", "5", "8", "10", "20"}
    base = runs["minilm_frozen", 1].data
    llms = []
    for (label, seed), config in runs.items():
        axis, value = axis_of(label)
        if axis == "N":
            made = f"{folder}/runs/clusters/N={value}"
            assert clusterings[made]["--clusters"] == value
            expected = {f"{made}/{path.rsplit('/', 1)[1]}" for path in base.data_paths}
            assert set(config.data.data_paths) == expected
        if axis == "LLMs" and seed == 1:
            llms.append(config.data.llms)
            assert len(llms[-1]) == int(value)
            assert config.loss.top_k <= int(value) and config.loss.last_k <= int(value)
    assert [len(names) for names in llms] == [1, 2, 3, 4, 5, 6]
    assert all(fewer == more[: len(fewer)] for fewer, more in zip(llms, llms[1:]))


@pytest.fixture
def plan(fake, tiny_bert, tmp_path):
    """A small plan on the fake data: K+ that there are too few LLMs for, and clusters made anew."""
    words = arguments(fake, tiny_bert, tmp_path / "unused", freeze_encoder=True, pooling="mean", training_steps=6)
    settings = dict(settings_of(parse_config([*words, "--last_k", "2"])))
    kept = ("encoder", "pooling", "max_length", "freeze_encoder", "training_steps", "eval_steps", "batch_size")
    settings = {name: settings[name] for name in (*kept, "data_paths", "test_data_paths", "final_eval_data_paths")}
    settings |= {"last_k": 2, "device": "cpu", "precision": "fp32", "cache_dir": str(tmp_path / "cache")}
    train = [str(path) for path in fake.train.values()]
    clustering = ["python", "-m", "utils.clustering", "--encoder", str(tiny_bert), "--data_paths", *train]
    flags = ["--max_length", "64", "--device", "cpu", "--clusters", "{value}", "--seed", "1"]
    clusters = {
        "values": [2],
        "settings": {"data_paths": ["{runs}/clusters/" + path.name for path in fake.train.values()]},
        "before": shlex.join([*clustering, *flags, "--output", "{runs}/clusters"]),
        "creates": "{runs}/clusters",
    }
    path = tmp_path / "plan.yaml"
    axes = {"K+": {"top_k": [9]}, "N": clusters}
    path.write_text(
        yaml.safe_dump({"runs": "unused", "seeds": [1], "settings": settings, "label": "tiny", "axes": axes})
    )
    return path


def test_a_short_run_of_the_script_fails_resumes_and_makes_the_table(fake, plan, mirror, tmp_path):
    settings = {"PLAN": str(plan), "ROUTERDC_MIRROR": str(mirror)}
    bad = bash(tmp_path, "--only", "K+", **settings)
    assert bad.returncode != 0 and "--top_k is 9; with 4 LLMs" in bad.stderr and not (tmp_path / "results").exists()
    base = tmp_path / "runs" / "base" / "seed_1" / "results.json"
    before = base.stat().st_mtime_ns
    run = bash(tmp_path, "--only", "N", **settings)
    assert run.returncode == 0, run.stderr
    assert base.stat().st_mtime_ns == before  # it was done by the first call
    lines = [json.loads(line) for line in (tmp_path / "results" / "ablations.jsonl").read_text().splitlines()]
    found = [(line["recipe"], line["setting"], line["value"]) for line in lines[:2]]
    assert found == [("tiny", "base", ""), ("tiny", "N", "2")]
    assert [line["value"] for line in lines[2:]] == ["none", *LLMS]
    clusters = set()
    for path in fake.train.values():
        rows = json.loads((tmp_path / "runs" / "clusters" / path.name).read_text(encoding="utf-8"))
        clusters |= {row["cluster_id"] for row in rows}
    assert clusters == {0, 1}
    trained = json.loads((tmp_path / "runs" / "N=2" / "seed_1" / "results.json").read_text())["settings"]
    assert all("runs/clusters/" in path for path in trained["data_paths"]) and trained["freeze_encoder"]
    assert (tmp_path / "results" / "ablations.md").read_text().strip() in run.stdout
