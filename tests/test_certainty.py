"""The pages on certainty and on new LLMs: edits, thresholds by hand, and both commands on small runs."""

import json

import numpy as np
import pytest
from conftest import LLMS, Run

from utils.report import certainty, edits, new_llms
from utils.report.certainty import Routed, best_errors, with_fallback
from utils.report.edits import EDITS, question_in_front, reverse_options, typing_errors

# Edits


def test_case_white_space_and_prefix():
    text = "Who is Ada?\n A  b"
    assert EDITS["lower case"](text) == "who is ada?\n a  b"
    assert EDITS["upper case"](text) == "WHO IS ADA?\n A  B"
    assert EDITS["doubled white space"](text) == "Who  is  Ada?\n  A    b"
    assert question_in_front(text) == "Question: Who is Ada?\n A  b"


def test_typing_errors_swap_inner_letters_of_some_words():
    text = " ".join(["which", "letters", "of", "the", "程序", "question", "x1y2"] * 200)
    found = typing_errors(text)
    assert found == typing_errors(text) != typing_errors(text, seed=1)
    changed = 0
    for before, after in zip(text.split(), found.split(), strict=True):
        if before == after:
            continue
        changed += 1
        places = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert before in ("which", "letters", "question") and 0 < places[0] and places[-1] < len(before) - 1
        assert places[1] == places[0] + 1 and sorted(before) == sorted(after)
    assert 0.05 < changed / 600 < 0.15  # "tt" changes places unseen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What?\nA. one\nB. two\nC. three", "What?\nA. three\nB. two\nC. one"),
        ("问\nA. 一\nB. 二\n答案：", "问\nA. 二\nB. 一\n答案："),
        ("问\nA. 一\nB. 二答案：", "问\nA. 二\nB. 一答案："),  # as C-Eval has it
        ("Who?\nA) x y\nB) z\nAnswer:", "Who?\nA) z\nB) x y\nAnswer:"),
        ("A. Turing was\nborn in?\nAnswer:", "A. Turing was\nborn in?\nAnswer:"),
        ("Vitamin\nB. one\nC. two", "Vitamin\nB. one\nC. two"),
        ("no options", "no options"),
    ],
)
def test_options_change_places_and_letters_stay(text, expected):
    assert reverse_options(text) == expected
    assert reverse_options(expected) == text


def test_the_released_questions_have_such_options(mirror):
    counts = {"mmlu_test": 4213, "cmmlu_test": 3475, "ceval": 1345, "arc_challenge_test": 0, "gsm8k-test": 0}
    for name, count in counts.items():
        paths = list(mirror.rglob(f"{name}.json"))
        if not paths:
            pytest.skip(f"the mirror has no {name}.json")
        rows = json.loads(paths[0].read_text(encoding="utf-8"))
        assert sum(reverse_options(row["question"]) != row["question"] for row in rows) == pytest.approx(count, abs=30)


# Thresholds and errors


def made_up(rows: int, seed: int) -> Routed:
    rng = np.random.default_rng(seed)
    return Routed(rng.random((rows, 3)), rng.integers(0, 2, (rows, 3)).astype(float))


def test_a_point_of_the_curve_is_that_of_a_naive_loop():
    tests = {"a": made_up(50, 1), "b": made_up(80, 2)}
    found = with_fallback(tests, lambda file: file.similarities.max(axis=1), 0.7, 1)
    accuracies, coverages, parts = [], [], {"kept": [], "router": [], "fallback": []}
    for file in tests.values():
        earned, routes = 0.0, 0
        for row, right in zip(file.similarities, file.right):
            pick = int(row.argmax())
            if row[pick] >= 0.7:
                routes += 1
                earned += right[pick]
                parts["kept"].append(right[pick])
            else:
                earned += right[1]
                parts["router"].append(right[pick])
                parts["fallback"].append(right[1])
        accuracies.append(100 * earned / len(file.right))
        coverages.append(100 * routes / len(file.right))
    assert found["accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["coverage"] == pytest.approx(np.mean(coverages))
    for name, values in parts.items():
        assert found[name] == pytest.approx(100 * np.mean(values))
    assert with_fallback(tests, lambda file: file.similarities.max(axis=1), 2.0, 1)["kept"] is None


def test_being_the_best_leaves_out_queries_that_all_fail():
    file = Routed(np.array([[9.0, 0], [9, 0], [9, 0]]), np.array([[1.0, 1], [0, 1], [0, 0]]))
    certain = 1 / (1 + np.exp(-9))
    assert best_errors({"a": file}, 1.0)["width"] == pytest.approx(100 * (certain - 0.25))


# The commands


@pytest.fixture
def small_runs(train) -> dict[str, Run]:
    """Runs with a frozen encoder: of all LLMs, with and without validation rows, and without the third LLM."""
    common = {"freeze_encoder": True, "label": "small", "training_steps": 60, "eval_steps": 20}
    left = [llm for llm in LLMS if llm != LLMS[2]]
    plain = {"validation_fraction": 0, "selection": "last", "label": "no-rows"}
    return {
        "full": train("full/seed_1", **common),
        "without": train("without/third/seed_1", **common, llms=left),
        "no-rows": train("no-rows/seed_1", **(common | plain)),
    }


def test_both_pages_of_small_runs(small_runs, tmp_path, capsys, monkeypatch):
    place = ["--results", str(tmp_path / "results"), "--cache_dir", str(tmp_path / "cache"), "--device", "cpu"]
    runs = [str(small_runs[name].folder) for name in ("full", "no-rows")]
    assert certainty.main([*runs, *place]) == 0, capsys.readouterr().err
    text = (tmp_path / "results" / "certainty.md").read_text(encoding="utf-8")
    assert "only among the edits: no-rows." in text and '"Question: " in front' in text
    found = json.loads((tmp_path / "results" / "certainty.json").read_text(encoding="utf-8"))["runs"]
    full = next(entry for entry in found if entry["label"] == "small")["certainty"]
    kept = small_runs["full"].results
    assert full["best_llm"] == kept["best_llm"]
    assert full["temperature"] == pytest.approx(kept["calibration"]["temperature"], rel=1e-3)
    first, last = full["points"][0], full["points"][-1]
    single = kept["test"]["references"][kept["best_llm"]]
    assert last["OOD"]["accuracy"] == pytest.approx(single["mbpp"])  # the best single LLM alone
    assert first["OOD"]["accuracy"] == pytest.approx(kept["test"]["ood_avg"])  # the router alone
    for task, line in full["tasks"].items():
        assert line["accuracy"] == pytest.approx(kept["test"]["tasks"][task], abs=1e-3)

    monkeypatch.setattr(new_llms, "SIZES", (20, 40))
    monkeypatch.setattr(new_llms, "CANDIDATE_SIZES", (30,))
    command = [runs[0], "--without", str(small_runs["without"].folder.parent), "--draws", "2", *place]
    assert new_llms.main(command) == 0, capsys.readouterr().err
    (entry,) = json.loads((tmp_path / "results" / "new_llms.json").read_text(encoding="utf-8"))["routers"]
    assert entry["llm"] == LLMS[2] and len(entry["added"]) == 9
    assert entry["full"]["id_avg"] == pytest.approx(kept["test"]["id_avg"])
    assert entry["never"]["ood_avg"] == pytest.approx(small_runs["without"].results["test"]["ood_avg"])
    always = kept["test"]["references"][LLMS[2]]
    assert entry["always"]["ood_avg"] == pytest.approx(always["mbpp"])
    assert (tmp_path / "results" / "figures" / "new_llms.png").is_file()

    def again(*_):
        raise AssertionError("it was measured before")

    monkeypatch.setattr(new_llms, "measure", again)
    assert new_llms.main(command) == 0  # what is kept is not done again


def test_runs_that_do_not_fit_are_named(trained, tmp_path, capsys):
    assert certainty.main([str(trained.folder), "--results", str(tmp_path)]) == 2
    assert "its encoder was trained; this page takes runs with --freeze_encoder" in capsys.readouterr().err
    assert new_llms.main([str(trained.folder), "--without", str(trained.folder), "--results", str(tmp_path)]) == 2
    assert "no run without an LLM has the label and the seed" in capsys.readouterr().err
    assert edits.EDITS.keys() == certainty.EDITS.keys()
