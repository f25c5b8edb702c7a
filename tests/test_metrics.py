"""utils/metrics.py, utils/tasks.py and the tables: against loops, and the paper's single-LLM rows from the released data."""

import json

import numpy as np
import pytest
from conftest import LLMS

from utils.data import load, load_all
from utils.metrics import accuracy, averages, best_single, references, shares
from utils.tables import markdown, tables
from utils.tasks import LLMS as PAPER_LLMS
from utils.tasks import PAPER, PAPER_AVERAGE, TASKS, short, title_of

FLAGS = ("--test_data_paths", "--test_data_type")


@pytest.fixture
def tests(fake):
    return load_all([str(path) for path in fake.test.values()], None, FLAGS)


def naive_gain(row: dict, llm: str, kind: str) -> float:
    """What routing one row of a file to one LLM earns."""
    score = row["scores"][llm]
    return float(score > 0) if kind == "probability" else score


@pytest.mark.parametrize("task", ["gsm8k", "arc_challenge"])
def test_accuracy_is_a_mean_over_the_rows_of_the_file(fake, task):
    data, rows = load(fake.test[task]), json.loads(fake.test[task].read_text(encoding="utf-8"))
    for seed in range(5):
        picks = np.random.default_rng(seed).integers(0, 4, len(rows))
        total = 0.0
        for row, pick in zip(rows, picks):
            total += naive_gain(row, data.llms[pick], "probability" if task == "arc_challenge" else "multi_attempt")
        assert accuracy(picks, data) == pytest.approx(100 * total / len(rows), rel=1e-6)


def test_shares():
    picks = np.array([2, 0, 2, 2, 5])
    assert shares(picks, 7).tolist() == [20, 0, 60, 0, 0, 20, 0]
    assert len(shares(np.array([0, 0]), 4)) == 4  # LLMs that are never picked have a share too


def test_averages_are_over_tasks_on_either_side():
    scores = {"mmlu": 10.0, "mbpp": 50.0, "gsm8k": 40.0, "riddles": 90.0}
    assert averages(scores) == {"id_avg": 25.0, "ood_avg": 70.0}
    assert averages({"mmlu": 10.0}) == {"id_avg": 10.0}
    assert averages({"riddles": 10.0}) == {"ood_avg": 10.0}


def test_reference_rows(fake, tests):
    table = references(tests)
    assert list(table) == [*tests[0].llms, "best LLM per task (picked on test)", "per-query oracle"]
    for data in tests:
        rows = json.loads(fake.test[data.task].read_text(encoding="utf-8"))
        gained = {llm: [naive_gain(row, llm, data.kind) for row in rows] for llm in LLMS}
        for llm in LLMS:
            assert table[llm][data.task] == pytest.approx(100 * np.mean(gained[llm]), rel=1e-6)
        assert table["best LLM per task (picked on test)"][data.task] == pytest.approx(
            100 * max(map(np.mean, gained.values())), rel=1e-6
        )
        assert table["per-query oracle"][data.task] == pytest.approx(
            100 * np.mean([max(row) for row in zip(*gained.values())]), rel=1e-6
        )
    means = {llm: np.mean(list(table[llm].values())) for llm in LLMS}
    assert best_single(table, LLMS, list(table[LLMS[0]])) == max(means, key=means.get)


def test_markdown_has_one_width_and_aligns_numbers():
    text = markdown(["", "MMLU"], [["a long name", "1.00"], ["b", "61.07"]])
    assert text.splitlines() == [
        "|             |  MMLU |",
        "|-------------|------:|",
        "| a long name |  1.00 |",
        "| b           | 61.07 |",
    ]


def cells(text: str, title: str) -> dict[str, list[str]]:
    """The rows of one of the tables of `tables`, by their first cell."""
    part = next(part for part in text.split("\n\n") if part.startswith(title))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.splitlines()[1:]
        if not line.startswith("|-")
    ]
    return {row[0]: row[1:] for row in rows}


def test_tables_put_the_run_beside_the_paper():
    a, b = llms = list(PAPER_LLMS[:2])
    tasks = {"riddles": 12.345, "mmlu": 60.0, "mbpp": 40.0, "gsm8k": 71.0}
    result = {
        "tasks": tasks,
        "llms": llms,
        "shares": {task: {a: 25.0, b: 75.0} for task in tasks},
        "references": {a: {task: 50.0 for task in tasks}, b: {task: 51.0 for task in tasks}},
    }
    text = tables(result)
    first, second, third = (cells(text, title) for title in ("Table 1", "Table 2", "Routing share"))
    assert first[""] == ["MMLU", "GSM8K", "Avg"]  # in the order of the paper
    assert first["RouterDC (this run)"] == ["60.00", "71.00", "65.50"]
    assert first["RouterDC (paper)"] == ["61.07", "70.32", "-"]  # no average over other tasks than the paper's
    assert first[short(a)] == ["50.00", "50.00", "50.00"] and first[f"{short(b)} (best single LLM)"] == [
        "51.00",
        "51.00",
        "51.00",
    ]
    assert sorted(zip(second[""], second["RouterDC (this run)"], second["RouterDC (paper)"])) == [
        ("Avg", "26.17", "-"),
        ("MBPP", "40.00", "46.80"),
        ("riddles", "12.35", "-"),
    ]
    assert third == {"": [short(a), short(b)], **{title_of(task): ["25.0", "75.0"] for task in tasks}}
    everything = {task.name: 50.0 for task in TASKS}
    result |= {
        "tasks": everything,
        "shares": {task: {a: 0.0, b: 100.0} for task in everything},
        "references": {llm: everything for llm in llms},
    }
    assert cells(tables(result), "Table 1")["RouterDC (paper)"] == [
        "61.07",
        "70.32",
        "51.77",
        "58.52",
        "51.02",
        "58.54",
    ]
    assert cells(tables(result), "Table 2")["RouterDC (paper)"] == ["38.81", "46.80", "51.93", "45.85"]
    own = tables(
        result
        | {
            "llms": ["org/a", b],
            "references": {llm: everything for llm in ("org/a", b)},
            "shares": {task: {"org/a": 0.0, b: 100.0} for task in everything},
        }
    )
    assert "Table 1" in own and "(paper)" not in own  # other LLMs: the paper's figures say nothing about them


# The paper's numbers


def test_the_papers_averages_follow_from_its_cells():
    for name, row in PAPER.items():
        for part, printed in zip((row[:5], row[5:]), PAPER_AVERAGE[name]):
            assert np.mean(part) == pytest.approx(printed, abs=0.0101), name
    assert [task.name for task in TASKS] == [
        "mmlu",
        "gsm8k",
        "cmmlu",
        "arc_challenge",
        "humaneval",
        "math_prealgebra",
        "mbpp",
        "ceval",
    ]
    assert [task.in_distribution for task in TASKS] == [True] * 5 + [False] * 3


@pytest.fixture(scope="module")
def released(mirror):
    return load_all([str(mirror / task.test.removeprefix("datasets/")) for task in TASKS], None, FLAGS)


@pytest.mark.parametrize("llm", PAPER_LLMS)
def test_single_llm_rows_equal_the_paper(released, llm):
    scores = {data.task: accuracy(np.full(len(data), data.llms.index(llm)), data) for data in released}
    assert [f"{scores[task.name]:.2f}" for task in TASKS] == [f"{value:.2f}" for value in PAPER[llm]]
    found = averages(scores)
    assert tuple(found.values()) == pytest.approx(
        PAPER_AVERAGE[llm], abs=0.0075
    )  # one is printed as 39.75 and is 39.744


def test_reference_points_of_the_released_data(released):
    table = references(released)
    assert list(table)[:7] == list(PAPER_LLMS)
    oracle = table["per-query oracle"]
    assert [round(oracle[task.name], 2) for task in TASKS] == [85.26, 83.32, 79.63, 72.44, 66.94, 67.05, 62.40, 81.58]
    for row, printed in (("per-query oracle", (77.52, 70.34)), ("best LLM per task (picked on test)", (58.70, 46.36))):
        assert tuple(round(value, 2) for value in averages(table[row]).values()) == printed
    assert short(best_single(table, PAPER_LLMS, list(table[PAPER_LLMS[0]]))) == "dolphin-2.9-llama3-8b"
