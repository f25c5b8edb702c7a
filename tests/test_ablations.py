"""The ablations: the table against what the runs wrote, an LLM lost at test time against plain loops, the script's commands and a short real run."""

import json
import os
import shlex
import statistics
import subprocess

import numpy as np
import pytest
import torch
from conftest import LLMS, REPO, arguments
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

import evaluation_router
import train_router_mdeberta
from utils import clustering
from utils.report import ablations

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
            settings = FROZEN | {"recipe": f"tiny{change}", "seed": seed, "cache_dir": folder / "cache"} | flags
            assert train_router_mdeberta.main(arguments(fake, tiny_bert, path, **settings)) == 0
    return folder


@pytest.fixture(scope="module")
def table(runs):
    """The command on these runs: (results folder, its Markdown)."""
    results = runs / "results"
    assert (
        ablations.main(
            [str(runs), "--results", str(results), "--lose_llms", "--device", "cpu", "--cache_dir", str(runs / "cache")]
        )
        == 0
    )
    return results, (results / "ablations.md").read_text()


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the Markdown table below a heading, without its header."""
    part = text.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    return rows[2:]


def is_spread(cell: str, values: list[float], sign: str = "") -> bool:
    """Whether a cell has the mean and the standard deviation of these values, to the last digit shown."""
    mean, deviation = cell.split(" ± ")
    assert mean[0] in "+-" or not sign
    return float(mean) == pytest.approx(statistics.mean(values), abs=0.006) and float(deviation) == pytest.approx(
        statistics.stdev(values), abs=0.006
    )


def test_an_llm_is_lost_on_the_characters_that_the_run_read(fake, tiny_bert, tmp_path):
    found = {}
    for keep in ("first", "last"):
        flags = FROZEN | {"max_characters": 9, "keep_characters": keep, "training_steps": 4, "eval_steps": 4}
        assert train_router_mdeberta.main(arguments(fake, tiny_bert, tmp_path / keep, **flags)) == 0
        (whole, *_) = ablations.lose_llms(tmp_path / keep, tmp_path / "cache", "cpu")
        found[keep] = json.loads((tmp_path / keep / "results.json").read_text())["test"]["id_avg"]
        assert whole["id_avg"] == pytest.approx(found[keep], abs=1e-3)
    assert found["first"] != found["last"]


def test_every_row_follows_from_the_files_of_its_runs(runs, table):
    def figures(folder: str) -> dict[int, tuple[float, float, float]]:
        found = [json.loads(path.read_text()) for path in (runs / folder).glob("seed_*/results.json")]
        return {
            run["settings"]["seed"]: (run["selection"]["validation"], run["test"]["id_avg"], run["test"]["ood_avg"])
            for run in found
        }

    rows, setting, seen = rows_of(table[1], "## tiny"), "", {}
    for row in rows:
        setting = row[0] or setting
        seen[setting.split(":")[0], row[1]] = row[2:]
    base = figures("base")
    plain = seen.pop(("the recipe", ""))
    assert all(is_spread(plain[i], [base[seed][i] for seed in (1, 2)]) for i in range(3)) and plain[3:] == [
        "-",
        "-",
        "-",
        "2",
    ]
    for own in (("lambda", "**1**"), ("K+", "**3**"), ("learning rate", "**0.01**")):
        assert seen.pop(own) == plain, own
    for (setting, value), folder in {
        ("lambda", "0"): "lambda=0",
        ("K+", "1"): "K+=1",
        ("K+", "2"): "K+=2",
        ("learning rate", "0.03"): "learning_rate=3e-2",
    }.items():
        found = figures(folder)
        row = seen.pop((setting, value))
        for i in range(3):
            assert is_spread(row[i], [values[i] for values in found.values()]), setting
            assert is_spread(row[3 + i], [found[seed][i] - base[seed][i] for seed in (1, 2)], "+"), setting
        assert row[6] == str(len(found))
    assert not seen
    assert [row[1] for row in rows if row[1]] == ["0", "**1**", "1", "2", "**3**", "**0.01**", "0.03"]


def test_lines_keep_what_it_takes_to_run_them_again_and_are_replaced_not_repeated(runs, table, capsys):
    results, text = table
    lines = [json.loads(line) for line in (results / "ablations.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["setting"] != "lost_LLM"]
    assert len(trained) == 11 and len(lines) == 11 + 2 * 5
    for line in trained:
        assert (
            line["command"].startswith("python train_router_mdeberta.py")
            and f"--seed {line['seed']} " in line["command"] + " "
        )
        assert (
            line["device"].startswith("cpu")
            and line["seconds"] > 0
            and set(line["metrics"]) == {"gsm8k", "arc_challenge", "mbpp"}
        )
    assert ablations.main([str(runs / "lambda=0"), "--results", str(results)]) == 0
    assert ablations.main(["--results", str(results)]) == 0
    assert (results / "ablations.md").read_text() == text
    assert [json.loads(line) for line in (results / "ablations.jsonl").read_text().splitlines()] == lines


def pooled(folder, questions) -> np.ndarray:
    """Embeddings of a frozen run by transformers alone: mean over the tokens, then the head."""
    weights = load_file(folder / "model.safetensors")
    backbone = AutoModel.from_config(AutoConfig.from_pretrained(folder / "encoder")).eval()
    backbone.load_state_dict(
        {
            name.removeprefix("encoder.backbone."): value
            for name, value in weights.items()
            if name.startswith("encoder.backbone.")
        },
        strict=False,
    )
    tokenizer, rows = AutoTokenizer.from_pretrained(folder / "encoder", truncation_side="left"), []
    with torch.no_grad():
        for question in questions:  # one by one: no padding
            rows.append(
                backbone(**tokenizer(question, truncation=True, max_length=64, return_tensors="pt"))
                .last_hidden_state[0]
                .mean(dim=0)
                .numpy()
            )
    return np.array(rows) @ weights["head.weight"].numpy().T


def test_a_lost_llm_against_plain_loops(runs, table, fake):
    folder = runs / "base" / "seed_2" / "checkpoint"
    llms = load_file(folder / "model.safetensors")["llm_embeddings.weight"].numpy()
    llms /= np.linalg.norm(llms, axis=1, keepdims=True)
    kinds = {"gsm8k": "multi_attempt", "arc_challenge": "probability", "mbpp": "multi_attempt"}
    rows = {task: json.loads(fake.test[task].read_text(encoding="utf-8")) for task in kinds}
    near = {task: pooled(folder, [row["question"] for row in rows[task]]) @ llms.T for task in kinds}

    def gain(task, row, llm):
        return row["scores"][llm] if kinds[task] == "multi_attempt" else float(row["scores"][llm] > 0)

    lines = [json.loads(line) for line in (table[0] / "ablations.jsonl").read_text().splitlines()]
    lost = {line["value"]: line for line in lines if line["setting"] == "lost_LLM" and line["seed"] == 2}
    assert list(lost) == ["none", *LLMS]
    changed = 0
    for value, line in lost.items():
        left = [llm for llm in LLMS if llm != value]
        ours, oracle, single = {}, {}, {}
        for task in kinds:
            total = best = 0.0
            for row, similarity in zip(rows[task], near[task]):
                pick = max(left, key=lambda llm: similarity[LLMS.index(llm)])
                total += gain(task, row, pick)
                best += max(gain(task, row, llm) for llm in left)
            ours[task], oracle[task] = 100 * total / len(rows[task]), 100 * best / len(rows[task])
            single[task] = {
                llm: 100 * sum(gain(task, row, llm) for row in rows[task]) / len(rows[task]) for llm in left
            }
        assert line["metrics"] == pytest.approx(ours, abs=1e-3), value
        for side, tasks in (("id_avg", ("gsm8k", "arc_challenge")), ("ood_avg", ("mbpp",))):
            assert line[side] == pytest.approx(statistics.mean(ours[task] for task in tasks), abs=1e-3)
            assert line["limits"]["per-query oracle"][side] == pytest.approx(
                statistics.mean(oracle[task] for task in tasks), abs=1e-3
            )
            assert line["limits"]["best LLM per task"][side] == pytest.approx(
                statistics.mean(max(single[task].values()) for task in tasks), abs=1e-3
            )
            assert line["limits"]["best single LLM"][side] == pytest.approx(
                max(statistics.mean(single[task][llm] for task in tasks) for llm in left), abs=1e-3
            )
        changed += line["id_avg"] != lost["none"]["id_avg"]
    results = json.loads((runs / "base" / "seed_2" / "results.json").read_text())
    assert lost["none"]["id_avg"] == pytest.approx(results["test"]["id_avg"], abs=1e-3) and changed
    shown = {row[0]: row for row in rows_of(table[1], "### tiny: an LLM lost at test time")}
    assert list(shown) == ["none", *[llm.split("/")[1] for llm in LLMS]]
    pair = [line["id_avg"] for line in lines if line["setting"] == "lost_LLM" and line["value"] == LLMS[0]]
    assert is_spread(shown["alpha-7b"][1], pair) and shown["alpha-7b"][-1] == "2"


def test_losing_llms_is_done_once_per_training(runs, table, monkeypatch, capsys):
    def forbidden(*args):
        raise AssertionError("it was done again")

    monkeypatch.setattr(ablations, "lose_llms", forbidden)
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
    assert f"{tmp_path / 'empty'}: no finished run" in says(tmp_path / "empty") and "ablations.sh" in says(
        tmp_path / "empty"
    )
    assert "no runs yet" in says()
    assert "no run of the plain recipe" in says(runs / "lambda=0", "--lose_llms")
    assert "--lose_llms needs" in says("--lose_llms")
    assert not (tmp_path / "results" / "ablations.jsonl").exists()


# --llms of the trainer


def only(path, llms, folder):
    """A copy of a data file with the scores of some LLMs."""
    rows = [
        row | {"scores": {llm: row["scores"][llm] for llm in llms}}
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]
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
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in "ab")
    assert a["test"] == b["test"] and a["test"]["llms"] == some and set(a["test"]["shares"]["mbpp"]) == set(some)
    weights = [load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in "ab"]
    assert (
        all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        and weights[0]["llm_embeddings.weight"].shape[0] == 2
    )
    capsys.readouterr()
    assert (
        evaluation_router.main(
            ["--ckpt", str(tmp_path / "a"), "--device", "cpu", "--cache_dir", str(tmp_path / "cache")]
        )
        == 0
    )
    assert capsys.readouterr().out.strip() == (tmp_path / "a" / "tables.md").read_text().strip()


def test_llms_that_are_unknown_or_named_twice_are_errors(fake, tiny_bert, tmp_path, capsys):
    for llms, expected in (
        ([LLMS[0], "lab/psi"], "no scores for lab/psi"),
        ([LLMS[0], LLMS[0]], "--llms names an LLM twice"),
        ([LLMS[0]], "--top_k is 3; with 1 LLMs"),
    ):
        assert train_router_mdeberta.main(arguments(fake, tiny_bert, tmp_path / "run", llms=llms)) == 2
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "run" / "results.json").exists()


# The script


def bash(tiny_bert, mirror, folder, *flags, **settings) -> subprocess.CompletedProcess:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RECIPE", "AXES", "SEEDS", "LLMS", "TRAIN")
    }
    environment |= {
        "ROUTERDC_NO_VENV": "1",
        "ROUTERDC_MIRROR": str(mirror),
        "ENCODER": str(tiny_bert),
        "DEVICE": "cpu",
        "PRECISION": "fp32",
    }
    environment |= {
        "RUNS": str(folder / "runs"),
        "RESULTS": str(folder / "results"),
        "CACHE_DIR": str(folder / "cache"),
        "MAX_LENGTH": "64",
    } | settings
    return subprocess.run(
        ["bash", str(REPO / "train_scripts" / "ablations.sh"), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )


# What each axis may change in the trainer's arguments.
CHANGED = {
    "base": set(), "lambda": {"cluster_loss_weight"}, "K+": {"top_k"}, "K-": {"last_k"}, "ties": {"ties"}, "H": {"H"}, "N": {"data_paths"}, "learning_rate": {"learning_rate"},
    "similarity": {"similarity_function"}, "columns": {"llms"}, "encoder": {"encoder", "pooling"}, "LLMs": {"llms", "top_k", "last_k"}, "fidelity": {"fidelity"},
    "sample_sample": {"cluster_loss_weight", "sample_loss_weight"}, "rows": {"training_samples_per_dataset"}, "targets": {"targets", "target_shrinkage", "target_groups"},
}  # fmt: skip


@pytest.mark.parametrize("recipe", ["frozen", "tuned"])
def test_the_script_plans_one_change_at_a_time(tmp_path, recipe):
    """Every command of the dry run parses, and differs from the plain recipe of its seed in its axis alone."""
    run = bash("minilm", tmp_path, tmp_path, DRY_RUN="1", RECIPE=recipe, SEEDS="1 2")
    assert run.returncode == 0, run.stderr
    commands = [shlex.split(line) for line in run.stdout.splitlines()]
    clusters = [command for command in commands if command[:3] == ["python", "-m", "utils.clustering"]]
    made = {str(args.output): args for args in (clustering.parser().parse_args(command[3:]) for command in clusters)}
    assert {args.clusters for args in made.values()} == {2, 3, 5, 8, 10, 20}
    training = [command[2:] for command in commands if command[:2] == ["python", "train_router_mdeberta.py"]]
    assert len(clusters) + len(training) == len(commands)
    parsed = [vars(train_router_mdeberta.parser().parse_args(command)) for command in training]
    bases = {args["seed"]: args for args in parsed if args["recipe"] == f"minilm_{recipe}"}
    assert set(bases) == {1, 2} and [args["recipe"] for args in parsed if args["seed"] == 1] == [
        args["recipe"] for args in parsed if args["seed"] == 2
    ]
    seen, folders = {}, set()
    for args in parsed:
        axis, _, value = args["recipe"].partition(" ")[2].partition("=")
        base = bases[args["seed"]]
        changed = {name for name in args if args[name] != base[name]} - {"recipe", "save_path"}
        assert (changed <= CHANGED[axis or "base"]) and (changed or not axis), args["recipe"]
        seen.setdefault(axis or "base", []).append(value)
        folders.add(args["save_path"])
        if axis == "N":
            assert all(str(path).startswith(f"{tmp_path}/runs/clusters/N={value}/") for path in args["data_paths"])
            assert made[f"{tmp_path}/runs/clusters/N={value}"].data_paths == base["data_paths"]
        if axis == "LLMs":
            assert len(args["llms"]) == int(value) and args["top_k"] <= int(value) and args["last_k"] <= int(value)
    assert set(seen) == set(CHANGED) and len(folders) == len(parsed)
    assert all(args["device"] == "cpu" and args["overwrite"] is False for args in parsed)
    names = [args["llms"] for args in parsed if "LLMs=" in args["recipe"] and args["seed"] == 1]
    assert [len(llms) for llms in names] == [1, 2, 3, 4, 5, 6] and all(
        a == b[: len(a)] for a, b in zip(names, names[1:])
    )
    if recipe == "frozen":
        first = {axis: values[: len(values) // 2] for axis, values in seen.items()}
        assert first["lambda"] == ["0", "0.5", "2", "5"] and first["fidelity"] == [
            "1",
            "2",
            "3",
            "4",
            "5",
            "6",
            "7",
            "upstream",
        ]
        assert first["ties"] == ["random", "released", "columns"]
        assert first["K+"] == ["1", "2", "4", "5", "6"] and first["sample_sample"] == ["none", "task", "both"]


def test_a_short_run_of_the_script_fails_resumes_and_makes_the_table(fake, tiny_bert, mirror, tmp_path):
    values = arguments(
        fake,
        tiny_bert,
        tmp_path / "unused",
        cache_dir=None,
        max_length=None,
        device=None,
        precision=None,
        pooling="mean",
        last_k=2,
        training_steps=6,
    )
    for name in ("--encoder", "--save_path"):
        del values[values.index(name) : values.index(name) + 2]
    train = " ".join(map(str, fake.train.values()))
    settings = {"SEEDS": "1", "TRAIN": train, "LLMS": " ".join(LLMS)}
    bad = bash(tiny_bert, mirror, tmp_path, *values, AXES="K+", TOP_KS="9", **settings)
    assert bad.returncode != 0 and "--top_k is 9; with 4 LLMs" in bad.stderr and not (tmp_path / "results").exists()
    base = tmp_path / "runs" / "base" / "seed_1" / "results.json"
    before = base.stat().st_mtime_ns
    run = bash(tiny_bert, mirror, tmp_path, *values, AXES="N lost_LLM", CLUSTERS="2", **settings)
    assert run.returncode == 0, run.stderr
    assert base.stat().st_mtime_ns == before  # it was done by the first call
    lines = [json.loads(line) for line in (tmp_path / "results" / "ablations.jsonl").read_text().splitlines()]
    label = f"{tiny_bert.name}_frozen"
    assert [(line["recipe"], line["setting"], line["value"]) for line in lines[:2]] == [
        (label, "base", ""),
        (label, "N", "2"),
    ]
    assert [line["value"] for line in lines[2:]] == ["none", *LLMS]
    clustered = [
        json.loads((tmp_path / "runs" / "clusters" / "N=2" / path.name).read_text(encoding="utf-8"))
        for path in fake.train.values()
    ]
    assert {row["cluster_id"] for rows in clustered for row in rows} == {0, 1}
    settings = json.loads((tmp_path / "runs" / "N=2" / "seed_1" / "results.json").read_text())["settings"]
    assert all("clusters/N=2" in path for path in settings["data_paths"]) and settings["freeze_encoder"]
    assert (tmp_path / "results" / "ablations.md").read_text().strip() in run.stdout
