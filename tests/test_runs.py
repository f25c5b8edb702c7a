"""utils/report/runs.py: finished runs found, named, grouped by seed, kept in lines, and their files opened again."""

import json
import shutil

import pytest
from conftest import LLMS

from utils.config import HardwareConfig
from utils.data import DataError
from utils.report import runs
from utils.report.runs import Run


@pytest.fixture
def write(tmp_path):
    """Writes the results.json of a finished run: write(folder, seed, ...) -> its folder."""

    def write(name, seed, router="RouterDC", label="mine", encoder="minilm", fidelity="paper"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        settings = {"seed": seed, "encoder": encoder, "fidelity": fidelity}
        run = {"router": router, "recipe": label, "settings": settings}
        (folder / "results.json").write_text(json.dumps(run))
        return folder

    return write


def test_runs_are_found_below_folders_in_order(write, tmp_path):
    folders = [write("b/seed_1", 1), write("a/seed_2", 2), write("a/seed_1", 1)]
    found = runs.runs_below([tmp_path / "b", str(tmp_path / "a"), folders[1]])
    assert [run.folder for run in found] == [folders[0], folders[2], folders[1], folders[1]]
    assert [run.seed for run in found] == [1, 1, 2, 2] and found[0].label == "mine"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no finished run there .results.json.; make one"):
        runs.runs_below([tmp_path / "b", tmp_path / "empty"], "; make one")


def test_runs_that_differ_in_the_seed_alone_are_a_group(write, tmp_path):
    write("one", 2)
    write("two", 1)
    write("three", 1, router="kNN")
    write("four", 1, label="other", encoder=str(tmp_path / "models" / "large"))
    write("five", 1, fidelity="upstream")
    groups = runs.seed_groups(runs.runs_below([tmp_path]))
    assert {key: [run.seed for run in members] for key, members in groups.items()} == {
        ("RouterDC", "minilm", "mine", "paper"): [1, 2],
        ("kNN", "minilm", "mine", "paper"): [1],
        ("RouterDC", "large", "other", "paper"): [1],
        ("RouterDC", "minilm", "mine", "upstream"): [1],
    }
    again = write("again", 2)
    with pytest.raises(ValueError, match="two runs of RouterDC, minilm, mine, paper with the same seed") as error:
        runs.seed_groups(runs.runs_below([tmp_path]))
    assert str(again) in str(error.value) and str(tmp_path / "one") in str(error.value)


def test_a_row_names_the_fidelity_where_it_is_not_the_papers():
    assert runs.row_label("RouterDC", "tuned") == "RouterDC, tuned"
    assert runs.row_label("RouterDC", "minilm", "tuned", fidelity="1,3") == "RouterDC, minilm, tuned, fidelity 1,3"


def test_lines_are_replaced_by_key_and_come_again(tmp_path):
    path = tmp_path / "runs.jsonl"
    assert runs.read_lines(path) == []
    lines = [{"name": "a", "seed": 1, "value": 1}, {"name": "b", "seed": 1, "value": 2}]
    new = [{"name": "c", "seed": 1, "value": 3}, {"name": "a", "seed": 1, "value": "ü"}]
    replaced = runs.replace_lines(lines, new, ("name", "seed"))
    assert [(line["name"], line["value"]) for line in replaced] == [("a", "ü"), ("b", 2), ("c", 3)]
    runs.write_lines(path, replaced)
    assert runs.read_lines(path) == replaced and len(path.read_text().splitlines()) == 3


def test_damaged_results_and_lines_are_named(write, tmp_path):
    path = write("a", 1) / "results.json"
    for text in ("", path.read_text()[:-5], "[]", '{"router": "x"}'):
        path.write_text(text)
        with pytest.raises(ValueError) as error:
            runs.runs_below([tmp_path])
        assert str(error.value).startswith(f"{path}: damaged, ")
        assert str(error.value).endswith("train or copy the run again")
    (tmp_path / "runs.jsonl").write_text('{"seed": 1}\n{"seed":\n')
    with pytest.raises(ValueError) as error:
        runs.read_lines(tmp_path / "runs.jsonl")
    assert str(error.value).startswith(f"{tmp_path / 'runs.jsonl'}, line 2: damaged, not valid JSON")


def test_test_files_are_opened_again_with_the_llms_of_the_run(trained):
    (run,) = runs.runs_below([trained.folder])
    tests = runs.reopen_tests(run)
    assert [data.task for data in tests] == ["gsm8k", "arc_challenge", "mbpp"]
    assert all(list(data.llms) == run.results["test"]["llms"] for data in tests)
    some = Run(run.folder, run.results | {"test": {"llms": [LLMS[2], LLMS[0]]}})
    assert runs.reopen_tests(some)[0].llms == (LLMS[2], LLMS[0])


def test_a_router_is_opened_again_and_a_changed_file_is_refused(trained, tmp_path):
    router = runs.reopen_router(trained.folder, HardwareConfig(device="cpu", cache_dir=tmp_path / "cache"))
    assert router.embed(router.tests[0]).shape == (50, router.model.encoder.hidden_size)
    assert router.trained_layers == "all" and router.hardware.precision == "fp32"
    shutil.copytree(trained.folder, tmp_path / "copy")
    results = trained.results
    path = results["tests"][0]["path"]
    results["settings"]["data"][path] = "another"
    (tmp_path / "copy" / "results.json").write_text(json.dumps(results))
    with pytest.raises(DataError) as error:
        runs.reopen_router(tmp_path / "copy", HardwareConfig(device="cpu", cache_dir=tmp_path / "cache"))
    assert f"{path} is not the file that the run {tmp_path / 'copy'} read" in str(error.value)
    with pytest.raises(ValueError, match="checkpoint: no finished run there"):
        runs.reopen_router(trained.folder / "checkpoint", HardwareConfig(device="cpu", cache_dir=tmp_path / "cache"))
