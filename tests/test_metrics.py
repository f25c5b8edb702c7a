"""utils/metrics.py, utils/tasks.py and utils/tables.py: against loops, and the paper's rows from the released data."""

import json

import numpy as np
import pytest
from conftest import LLMS

from utils.data import load, load_all
from utils.metrics import accuracy, averages, best_single, references, shares, single_accuracies
from utils.tables import cells_and_mean, markdown, spread, tables
from utils.tasks import LLMS as PAPER_LLMS
from utils.tasks import PAPER, PAPER_AVERAGE, TASKS, short, short_names, title_of

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
        best = 100 * max(map(np.mean, gained.values()))
        assert table["best LLM per task (picked on test)"][data.task] == pytest.approx(best, rel=1e-6)
        oracle = 100 * np.mean([max(row) for row in zip(*gained.values())])
        assert table["per-query oracle"][data.task] == pytest.approx(oracle, rel=1e-6)
    means = {llm: np.mean(list(table[llm].values())) for llm in LLMS}
    assert best_single(table, LLMS, list(table[LLMS[0]])) == max(means, key=means.get)


def test_single_llms_earn_what_picking_them_every_time_earns(tests):
    for data in tests:
        picked = [accuracy(np.full(len(data), column), data) for column in range(len(data.llms))]
        assert single_accuracies(data) == picked  # to the last digit


def test_markdown_has_one_width_and_aligns_numbers():
    text = markdown(["", "MMLU"], [["a long name", "1.00"], ["b", "61.07"]])
    assert text.splitlines() == [
        "|             |  MMLU |",
        "|-------------|------:|",
        "| a long name |  1.00 |",
        "| b           | 61.07 |",
    ]


def test_spread_is_mean_and_sample_deviation():
    assert spread([1.0, 2.0, 4.0]) == f"2.33 ± {np.std([1, 2, 4], ddof=1):.2f}"
    assert spread([3.0]) == "3.00" and spread([0.5], "+") == "+0.50"


def test_a_row_that_lacks_a_task_has_no_mean():
    assert cells_and_mean({"a": 1.0, "b": 2.5}, ["b", "a"]) == ["2.50", "1.00", "1.75"]
    assert cells_and_mean({"a": 1.0}, ["b", "a"]) == ["-", "1.00", "-"]
    assert cells_and_mean({"a": 0.001, "b": 0.002}, ["a", "b"], 1, 1000) == ["1.0", "2.0", "1.5"]


def test_names_are_short_but_different():
    assert short_names(["org-a/x", "org-b/x", "org-c/y"]) == {
        "org-a/x": "org-a/x",
        "org-b/x": "org-b/x",
        "org-c/y": "y",
    }
    assert list(short_names(PAPER_LLMS).values()) == [short(llm) for llm in PAPER_LLMS]
    assert short_names(["x", "org/x"]) == {"x": "x", "org/x": "org/x"}
    assert short_names(["hub/a/x", "hub/b/x", "b/x"])["hub/a/x"] == "a/x"
    for llms in (["a/b/x", "c/b/x", "b/x", "x"], ["a/x", "a/x", "b/x"], []):
        names = short_names(llms)
        assert set(names) == set(llms) and len(set(names.values())) == len(names)


def cells(text: str, title: str) -> dict[str, list[str]]:
    """The rows of one of the tables of `tables`, by their first cell."""
    table = next(table for table in text.split("\n\n") if table.startswith(title))
    rows = {}
    for line in table.splitlines()[1:]:
        if not line.startswith("|-"):
            first, *others = [cell.strip() for cell in line.strip("|").split("|")]
            rows[first] = others
    return rows


def test_tables_tell_llms_with_one_short_name_apart():
    llms = ["org-a/x", "org-b/x"]
    result = {
        "tasks": {"gsm8k": 70.0},
        "llms": llms,
        "shares": {"gsm8k": {"org-a/x": 25.0, "org-b/x": 75.0}},
        "references": {"org-a/x": {"gsm8k": 50.0}, "org-b/x": {"gsm8k": 60.0}},
        "costs": {row: {"gsm8k": 0.001} for row in ("router", *llms)},
        "cost_rate": 0.0,
    }
    text = tables(result)
    accuracies = cells(text, "Table 1")
    assert accuracies["org-a/x"] == ["50.00", "50.00"]
    assert accuracies["org-b/x (best single LLM)"] == ["60.00", "60.00"]
    assert cells(text, "Routing share")[""] == llms
    assert {"org-a/x", "org-b/x"} < set(cells(text, "Mean cost"))


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
    assert first[short(a)] == ["50.00"] * 3
    assert first[f"{short(b)} (best single LLM)"] == ["51.00"] * 3
    columns = zip(second[""], second["RouterDC (this run)"], second["RouterDC (paper)"])
    assert sorted(columns) == [("Avg", "26.17", "-"), ("MBPP", "40.00", "46.80"), ("riddles", "12.35", "-")]
    assert third == {"": [short(a), short(b)], **{title_of(task): ["25.0", "75.0"] for task in tasks}}


def on_all_tasks(llms: list[str]) -> dict:
    """A result on the paper's eight tasks."""
    everything = {task.name: 50.0 for task in TASKS}
    return {
        "tasks": everything,
        "llms": llms,
        "shares": {task: dict.fromkeys(llms, 100 / len(llms)) for task in everything},
        "references": {llm: everything for llm in llms},
    }


def test_the_papers_averages_stand_beside_its_own_llms_and_all_its_tasks():
    text = tables(on_all_tasks(list(PAPER_LLMS[:2])))
    assert cells(text, "Table 1")["RouterDC (paper)"] == ["61.07", "70.32", "51.77", "58.52", "51.02", "58.54"]
    assert cells(text, "Table 2")["RouterDC (paper)"] == ["38.81", "46.80", "51.93", "45.85"]
    own = tables(on_all_tasks(["org/a", PAPER_LLMS[1]]))
    assert "Table 1" in own and "(paper)" not in own  # other LLMs: the paper's figures say nothing about them


# The paper's numbers


def test_the_papers_averages_follow_from_its_cells():
    for name, row in PAPER.items():
        for part, printed in zip((row[:5], row[5:]), PAPER_AVERAGE[name]):
            assert np.mean(part) == pytest.approx(printed, abs=0.0101), name
    names = "mmlu gsm8k cmmlu arc_challenge humaneval math_prealgebra mbpp ceval"
    assert [task.name for task in TASKS] == names.split()
    assert [task.in_distribution for task in TASKS] == [True] * 5 + [False] * 3


@pytest.fixture(scope="module")
def released(mirror):
    return load_all([str(mirror / task.test.removeprefix("datasets/")) for task in TASKS], None, FLAGS)


@pytest.mark.parametrize("llm", PAPER_LLMS)
def test_single_llm_rows_equal_the_paper(released, llm):
    scores = {data.task: accuracy(np.full(len(data), data.llms.index(llm)), data) for data in released}
    assert [f"{scores[task.name]:.2f}" for task in TASKS] == [f"{value:.2f}" for value in PAPER[llm]]
    found = averages(scores)
    assert tuple(found.values()) == pytest.approx(PAPER_AVERAGE[llm], abs=0.0075)  # 39.744 is printed as 39.75


def test_reference_points_of_the_released_data(released):
    table = references(released)
    assert list(table)[:7] == list(PAPER_LLMS)
    oracle = table["per-query oracle"]
    assert [round(oracle[task.name], 2) for task in TASKS] == [85.26, 83.32, 79.63, 72.44, 66.94, 67.05, 62.40, 81.58]
    for row, printed in (("per-query oracle", (77.52, 70.34)), ("best LLM per task (picked on test)", (58.70, 46.36))):
        assert tuple(round(value, 2) for value in averages(table[row]).values()) == printed
    assert short(best_single(table, PAPER_LLMS, list(table[PAPER_LLMS[0]]))) == "dolphin-2.9-llama3-8b"
