"""The pipeline in miniature: its texts, the small setting from end to end, the data that ships.

And quickstart, which takes that data where the released data cannot be had.
"""

import itertools
import json
import math
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO

from utils.data import load
from utils.miniature.llms import encode
from utils.miniature.report import INSIDE, KINDS, publish
from utils.miniature.texts import SIZES, choices, generate
from utils.miniature.world import Relation, pairs
from utils.scoring.convert import read_spec

TASKS = REPO / "eval_scripts" / "tasks" / "miniature"
SHIPPED = REPO / "datasets" / "miniature"


@pytest.fixture(scope="module")
def made():
    return generate(1, SIZES["small"])


def bash(*command: object, **settings: str) -> subprocess.CompletedProcess:
    """Runs a script in the environment of the tests; settings go in by environment variables."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"ROUTERDC_NO_VENV": "1", "PATH": path, "DEVICE": "cpu"} | settings
    return subprocess.run(["bash", *map(str, command)], capture_output=True, text=True, timeout=900, env=environment)


# texts


def test_texts_are_drawn_by_the_seed_alone(made):
    assert generate(1, SIZES["small"]) == made
    assert generate(2, SIZES["small"])[0]["arithmetic_test"] != made[0]["arithmetic_test"]


def asked_in(row: dict) -> str:
    """What a document asks: a question, a prompt, or MBPP's text with the beginning of its first test."""
    if "test_list" in row:
        return f"{row['text']}\n{row['test_list'][0].split('(')[0]}("
    return row.get("question") or row["prompt"]


def test_no_training_text_holds_a_question_that_is_asked(made):
    questions, corpus = made
    everything = "\n".join(prompt + text for texts in corpus.values() for prompt, text in texts)
    asked = [asked_in(row) for rows in questions.values() for row in rows]
    assert len(asked) > 300 and not [text for text in asked if text in everything]
    for rows in questions.values():
        assert len({json.dumps(row) for row in rows}) == len(rows)
    train, test = ({row["question"] for row in questions[f"arithmetic_{side}"]} for side in ("train", "test"))
    assert not train & test


def test_solutions_of_word_problems_are_right(made):
    for row in made[0]["arithmetic_train"] + made[0]["prices"]:
        numbers, value = sorted(map(int, re.findall(r"\d+", row["question"]))), None
        *steps, last = row["answer"].split("\n")
        used = []
        for step in steps:
            left, right = step.split(" = ")
            used += [int(n) for n in re.findall(r"\d+", left)]
            if value is not None:
                assert left.startswith(f"{value} ")
                used.remove(value)
            value = eval(left)
            assert value == int(right)
        assert last == f"#### {value}" and sorted(used) == numbers


def test_right_options_follow_from_the_world(made):
    questions, corpus = made
    for row in questions["facts_numbers"]:
        number, option = int(re.search(r"\d+", row["question"])[0]), int(row["choices"][row["answer"]])
        if re.search(r"after|more|follows", row["question"]):
            assert option == number + 1
        elif re.search("before|less", row["question"]):
            assert option == number - 1
        else:
            assert option == 2 * number
    stated = {text for prompt, text in corpus["facts"] if not prompt}
    capitals = [row for row in questions["facts_geography"] if row["question"].startswith("What is the capital of ")]
    assert capitals
    for row in capitals:
        land = re.search(r"capital of (\w+)", row["question"])[1]
        is_stated = [f"The capital of {land} is {option}." in stated for option in row["choices"]]
        assert is_stated.index(True) == row["answer"]
    subjects = [leaf for leaf in questions if leaf.startswith(("facts_", "chinese_", "idioms_"))]
    every = [row for leaf in subjects for row in questions[leaf]]
    assert all(len(set(row["choices"])) == 4 for row in every)
    places = np.bincount([row["answer"] for row in every]) / len(every)
    assert places.min() > 0.15  # the right option may stand anywhere


def test_more_questions_than_a_subject_has_are_refused():
    relation = Relation(("{k}?", "{k}!"), ("{k} {v}",), pairs("ab cd ef gh ij"))
    documents, texts = choices(random.Random(0), "letters", (relation,), 5, ("{q}", " {v}"))
    assert len(documents) == 5 and len(texts) == 5 + 5  # each fact is asked in one way, learnt in the other and stated
    with pytest.raises(ValueError, match="letters: 6 questions wanted, and there are 5"):
        choices(random.Random(0), "letters", (relation,), 6, ("{q}", " {v}"))


def test_functions_pass_their_own_tests_and_not_those_of_others(made):
    """All solutions run as they are.

    One for the same arguments that does something else fails by an assertion of the tests, and by nothing else.
    """

    def check(row: dict, solution: str) -> None:
        source = f"{row['prompt']}{solution}{row['test']}check({row['entry_point']})"
        exec(source, {})  # written by this project, not by an LLM

    rows, snippets = made[0]["functions"], made[0]["snippets"]
    for row in rows:
        check(row, row["canonical_solution"])
    for row in snippets:
        exec(row["code"] + "\n".join(row["test_list"]), {})
    alike: dict[str, list[dict]] = {}
    for row in rows:
        alike.setdefault(re.search(r"def \w+(\(.*?\))", row["prompt"])[1], []).append(row)
    failed, tried = 0, 0
    for group in alike.values():
        for row, other in itertools.permutations(group, 2):
            if other["canonical_solution"] != row["canonical_solution"]:
                tried += 1
                try:
                    check(row, other["canonical_solution"])
                except AssertionError:
                    failed += 1
    assert tried > 50 and failed > 0.9 * tried


def test_every_leaf_has_a_task_a_conversion_and_a_place_in_the_script(made):
    leaves = {f"mini_{leaf}" for leaf in made[0]}
    table = read_spec(TASKS / "conversions.json")
    assert sorted(leaf for record in table for leaf in record.leaves) == sorted(leaves)
    assert {re.search(r"^task: (\w+)$", path.read_text(), re.MULTILINE)[1] for path in TASKS.glob("*.yaml")} == leaves
    assert set(re.findall(r"mini_\w+", (REPO / "eval_scripts" / "miniature.sh").read_text())) == leaves
    assert {record.task: record.kind for record in table} == KINDS


def test_json_lines_end_at_line_feeds_alone(tmp_path, monkeypatch):
    row = {"prompt": "Say\u2028 it\u0085", "text": " now\u2029", "question": "one\u2028two"}
    (tmp_path / "questions").mkdir()
    path = tmp_path / "questions" / "leaf.jsonl"
    path.write_text(2 * (json.dumps(row, ensure_ascii=False) + "\n"), encoding="utf-8")
    monkeypatch.setenv("MINIATURE_TEXTS", str(tmp_path))
    assert runpy.run_path(str(TASKS / "documents.py"))["load"]("leaf")["test"].to_list() == [row, row]

    def tokenizer(texts: list[str]) -> dict:
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    tokenizer.eos_token_id = 0
    assert encode(tokenizer, path) == 2 * [([ord(letter) for letter in row["prompt"]], [*map(ord, row["text"]), 0])]


def test_publishing_leaves_folders_of_others_alone(tmp_path):
    for path in SHIPPED.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    with pytest.raises(
        ValueError, match="no finished run there"
    ):  # it may be replaced, but there is nothing to publish
        publish(tmp_path / "none", tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    message = "the folder is replaced as a whole, and no earlier publish wrote manifest.json; give another"
    with pytest.raises(ValueError, match=f"--output {tmp_path}: {message}"):
        publish(tmp_path / "none", tmp_path)


# the pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """SIZE=small, run to its end."""
    runs = tmp_path_factory.mktemp("runs") / "the miniature"  # with a space
    run = bash(REPO / "eval_scripts" / "miniature.sh", SIZE="small", RUNS=str(runs), JOBS="2")
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return runs, run


def test_the_small_pipeline_ends_with_a_router_that_pays(pipeline):
    runs, run = pipeline
    results = json.loads((runs / "router" / "seed_1" / "results.json").read_text())
    test, llms = results["test"], results["test"]["llms"]
    assert sorted(llms) == ["mini/chinese", "mini/coder", "mini/maths", "mini/reader"]
    assert test["in_distribution"] == list(INSIDE)
    single = {llm: np.mean([test["references"][llm][task] for task in INSIDE]) for llm in llms}
    assert test["id_avg"] > max(single.values()) + 5
    outside = [task for task in KINDS if task not in INSIDE]
    assert test["ood_avg"] > max(np.mean([test["references"][llm][task] for task in outside]) for llm in llms)
    for task in INSIDE:  # the LLMs differ, and none is simply right or wrong everywhere
        scores = load(runs / "converted" / f"{task}_test.json", KINDS[task]).scores
        assert np.ptp((scores > 0).mean(0)) > 0.1 and 0 < (scores > 0).mean() < 1
    assert "RouterDC" in (runs / "router" / "table.md").read_text() and "RouterDC" in run.stdout


def test_the_vote_is_counted_from_the_answers(pipeline):
    runs, run = pipeline
    rows = json.loads((runs / "said" / "chinese_test.json").read_text())
    earned = []
    for row in rows:
        said = [answers[0] for answers in row["answers"].values()]
        most = max(map(said.count, said))
        right = {answers[0]: verdicts[0] for answers, verdicts in zip(row["answers"].values(), row["right"].values())}
        earned.append(np.mean([right[answer] for answer in set(said) if said.count(answer) == most]))
    results = json.loads((runs / "router" / "baselines" / "Voting" / "seed_1" / "results.json").read_text())
    assert results["test"]["tasks"]["chinese"] == pytest.approx(100 * np.mean(earned), abs=1e-6)
    line = next(line for line in run.stdout.splitlines() if line.startswith("| Voting of all LLMs"))
    assert f"{100 * np.mean(earned):.2f}" in line


def test_the_llms_load_as_any_others(pipeline):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = pipeline[0] / "llms" / "maths"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = "Question: What is twice 21?\nAnswer:"
    assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt
    ids = tokenizer(prompt, return_tensors="pt")
    said = model.generate(**ids, max_new_tokens=24, do_sample=False)[0][ids["input_ids"].shape[1] :]
    text = tokenizer.decode(said, skip_special_tokens=True)
    assert re.search(r"\d", text) and model.config.eos_token_id == tokenizer.eos_token_id


def logged(runs: Path, llm: str, leaf: str) -> list[dict]:
    """The lines of the harness's log of one LLM and leaf."""
    folder = runs / "answers" / llm.replace("/", "__")
    paths = [path for path in folder.rglob(f"samples_mini_{leaf}_*.jsonl") if "verdicts" not in path.name]
    assert len(paths) == 1
    return [json.loads(line) for line in paths[0].read_text(encoding="utf-8").splitlines()]


def converted(runs: Path, *names: str) -> dict[str, dict[str, float]]:
    """The scores of each question in converted files."""
    files = [json.loads((runs / "converted" / f"{name}.json").read_text()) for name in names]
    return {row["question"]: row["scores"] for rows in files for row in rows}


SCORED_AGAIN = ("mini/maths", "mini/coder")


@pytest.mark.parametrize("llm", SCORED_AGAIN)
def test_probabilities_follow_from_the_raw_log_likelihoods(pipeline, llm):
    scores = converted(pipeline[0], "facts_train", "facts_test")
    for line in logged(pipeline[0], llm, "facts_people"):
        doc, values = line["doc"], [math.exp(float(answers[0][0])) for answers in line["resps"]]
        is_right = values.index(max(values)) == doc["answer"]
        options = [f"\n{letter}. {option}" for letter, option in zip("ABCD", doc["choices"])]
        expected = values[doc["answer"]] / sum(values) if is_right else 0
        assert scores[doc["question"] + "".join(options)][llm] == pytest.approx(expected)


@pytest.mark.parametrize("llm", SCORED_AGAIN)
def test_shares_of_right_numbers_follow_from_the_raw_answers(pipeline, llm):
    scores = converted(pipeline[0], "arithmetic_test")
    for line in logged(pipeline[0], llm, "arithmetic_test"):
        numbers = [re.findall(r"#### (\d+)", answer) for answer in line["resps"][0]]
        wanted = line["doc"]["answer"].split("#### ")[1]
        assert len(numbers) == 10
        assert scores[line["doc"]["question"]][llm] == sum(found[:1] == [wanted] for found in numbers) / 10


@pytest.mark.parametrize("llm", SCORED_AGAIN)
def test_shares_of_programs_that_pass_follow_from_the_raw_answers(pipeline, llm):
    """Each different program is run in a process of its own."""
    scores = converted(pipeline[0], "functions_train", "functions_test")
    for line in logged(pipeline[0], llm, "functions")[:12]:
        doc, answers = line["doc"], line["resps"][0]
        passes = {}
        for answer in set(answers):
            body = re.split(r"\n(?=\S)", answer)[0]
            source = f"{doc['prompt'].rstrip()}{body}\n{doc['test']}\ncheck({doc['entry_point']})\n"
            command = [sys.executable, "-I", "-c", source]
            passes[answer] = subprocess.run(command, capture_output=True, timeout=60).returncode == 0
        assert scores[doc["prompt"]][llm] == pytest.approx(np.mean([passes[answer] for answer in answers]))


def test_a_second_run_does_nothing_again(pipeline):
    runs, _ = pipeline
    files = [path for path in runs.rglob("*") if path.is_file()]
    kept = [path for path in files if path.name != "table.md" and path.parent.name != "logs"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    again = bash(REPO / "eval_scripts" / "miniature.sh", SIZE="small", RUNS=str(runs))
    assert again.returncode == 0, again.stderr[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in kept} and "already done" in again.stdout
    other = bash(REPO / "eval_scripts" / "miniature.sh", SIZE="full", RUNS=str(runs), STEPS="texts llms")
    assert other.returncode == 2 and "made with size small and seed 1" in other.stderr


def test_the_small_data_is_not_published_and_bad_settings_are_refused(pipeline, script, tmp_path):
    runs = pipeline[0]
    run = subprocess.run(
        [sys.executable, "-m", "utils.miniature", "publish", "--runs", runs, "--output", tmp_path / "data"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and "SIZE=small" in run.stderr and not (tmp_path / "data").exists()
    run = subprocess.run(
        [sys.executable, "-m", "utils.miniature", "llms", "poet", "--runs", runs],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and "poet" in run.stderr and "maths" in run.stderr
    wrong = [
        ({"SIZE": "huge"}, "full or small"),
        ({"STEPS": "texts dance"}, "'dance'"),
        ({"RUNS": "a'b"}, "without quotes"),
    ]
    for settings, word in wrong:
        run = bash(REPO / "eval_scripts" / "miniature.sh", **{"SIZE": "small", "RUNS": str(runs)} | settings)
        assert run.returncode == 2 and word in run.stderr


# the data that ships


def test_the_shipped_data_is_small_whole_and_as_described():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2_000_000
    assert json.loads((SHIPPED / "tasks.json").read_text(encoding="utf-8"))["kinds"] == KINDS
    names = {task: f"{task}_test.json" if task in INSIDE else f"{task}.json" for task in KINDS}
    tests = {task: load(SHIPPED / names[task], kind) for task, kind in KINDS.items()}
    page = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for task in INSIDE:
        train = load(SHIPPED / f"{task}_train.json", KINDS[task], need_clusters=True)
        assert not set(train.questions) & set(tests[task].questions) and set(train.llms) == set(tests[task].llms)
        assert re.search(rf"`{task}_train.json`, `{task}_test.json` \| {len(train)}, {len(tests[task])} ", page)
    for llm in tests["facts"].llms:  # the table, counted again from the files
        cells = {}
        for task, data in tests.items():
            column = data.scores[:, data.llms.index(llm)]
            cells[task] = 100 * float(np.mean(column > 0 if KINDS[task] == "probability" else column))
        row = next(line for line in page.splitlines() if re.match(rf"\| {llm.split('/')[1]}\b", line))
        wanted = []
        for side in (INSIDE, [task for task in KINDS if task not in INSIDE]):
            values = [cells[task] for task in side]
            wanted += [*values, np.mean(values)]
        assert [float(cell) for cell in row.split("|")[2:-1]] == pytest.approx(wanted, abs=0.0051)


# quickstart without the released data


@pytest.fixture
def clone(tmp_path):
    """A copy of the code without the released data, as after git clone."""
    skip = shutil.ignore_patterns(
        ".git", ".venv", ".cache", "runs", "split2_model7*", "routerbench_*", "results", "__pycache__", "*.part"
    )
    return Path(shutil.copytree(REPO, tmp_path / "clone", ignore=skip))


def test_quickstart_goes_on_with_the_shipped_data_if_there_is_no_network(clone, tiny_bert):
    flags = ["--training_steps", "20", "--max_length", "64", "--precision", "fp32"]
    run = bash(
        clone / "train_scripts" / "quickstart.sh",
        *flags,
        ROUTERDC_MIRROR="",
        ROUTERDC_URL="http://127.0.0.1:9",
        no_proxy="*",
        ENCODER=str(tiny_bert),
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "NOT the paper's data" in run.stdout and "refused" in run.stderr
    rows = re.findall(r"^\| RouterDC \(this run\)", run.stdout, re.MULTILINE)
    assert len(rows) == 4  # two tables, in training and from the checkpoint
    llms = load(SHIPPED / "prices.json", "multi_attempt").llms
    routed = run.stdout.split("Routing one query:\n")[1].split("\t")[0]
    assert routed in llms and (clone / "runs" / "quickstart_miniature" / "seed_1" / "results.json").is_file()


def test_quickstart_stops_at_a_mirror_that_lacks_the_data(clone, tmp_path):
    (tmp_path / "mirror").mkdir()
    run = bash(clone / "train_scripts" / "quickstart.sh", ROUTERDC_MIRROR=str(tmp_path / "mirror"))
    assert run.returncode == 1 and "has no split2_model7" in run.stderr
    assert "miniature" not in run.stdout and not (clone / "runs").exists()
