"""The notebooks: tidy in the repository, and executed from a clean kernel on small data."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import REPO

NOTEBOOKS = ("convert_dataset_7_model.ipynb", "cluster_generate.ipynb")


def execute(name: str, **environment: object):
    """Run a notebook of the repository from a clean kernel, with these environment variables; returns it with its outputs.

    Raises: nbclient.exceptions.CellExecutionError if a cell fails.
    """
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(REPO / name, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(REPO)}}
    )
    client.execute(env=os.environ | {key: str(value) for key, value in environment.items()})
    return notebook


def printed(notebook) -> str:
    """All text that the cells of an executed notebook put out."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(
        output.get("text", "")
        or output.get("data", {}).get("text/markdown", "")
        or output.get("data", {}).get("text/plain", "")
        for output in outputs
    )


def pictures(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_short_and_without_outputs(name):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(REPO / name, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata["kernelspec"]["name"] == "python3" and len(notebook.cells) <= 12
    for cell in notebook.cells:
        assert len(cell.source.splitlines()) <= 30
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


# convert_dataset_7_model.ipynb


@pytest.fixture
def logs(tmp_path) -> Path:
    """Made-up verdicts on code of two LLMs, their logs of a quiz and sums, and the conversions of all three, in that order."""
    from tests.test_convert import HUMANEVAL, QUIZ, SUMS, A, B, choices, sums, write_log

    for llm in (A, B):
        write_log(tmp_path / "logs", llm, "mini_quiz", choices(20, llm))
        write_log(tmp_path / "logs", llm, "mini_sums", sums(10, llm))
        code = tmp_path / "logs" / llm.replace("/", "__") / "humaneval"
        code.mkdir()
        (code / "verdicts.json").write_text(
            json.dumps({"passed": [[True, False]], "generations_sha256": "1", "references_sha256": "2"})
        )
    documents = tmp_path / "humaneval.jsonl"
    documents.write_text(json.dumps(HUMANEVAL))
    verdicts = {
        "task": "humaneval",
        "leaves": ["humaneval"],
        "rule": "verdicts",
        "documents": str(documents),
        "question": "{prompt}",
        "test": "humaneval_test.json",
    }
    (tmp_path / "spec.json").write_text(json.dumps([verdicts, QUIZ, SUMS]))
    return tmp_path


def test_convert_notebook_writes_files_and_draws(logs):
    from utils.scoring.convert import main

    notebook = execute(
        "convert_dataset_7_model.ipynb",
        LOGS=logs / "logs",
        OUTPUT=logs / "mine",
        SPEC=logs / "spec.json",
        FIGURES=logs / "figures",
        FLAGS="--seed 5",
    )
    text = printed(notebook)
    assert (
        "quiz: 1 leaf tasks x 2 LLMs -> quiz_train.json, quiz_test.json" in text
        and "resps" in text
        and "per-query oracle" in text
        and "train_router_mdeberta.py" in text
    )
    assert pictures(notebook) == 2 and all(
        (logs / "figures" / f"{name}.png").stat().st_size > 5000 for name in ("llm_accuracies", "llm_disagreement")
    )
    assert (
        main(
            [
                "--logs",
                str(logs / "logs"),
                "--output",
                str(logs / "command"),
                "--spec",
                str(logs / "spec.json"),
                "--seed",
                "5",
            ]
        )
        == 0
    )
    for name in ("quiz_train.json", "quiz_test.json", "sums_test.json"):
        assert (logs / "mine" / name).read_bytes() == (logs / "command" / name).read_bytes()


def test_convert_notebook_with_verdicts_alone(logs):
    notebook = execute(
        "convert_dataset_7_model.ipynb",
        LOGS=logs / "logs",
        OUTPUT=logs / "mine",
        SPEC=logs / "spec.json",
        FIGURES=logs / "figures",
        TASKS="humaneval",
    )
    assert (
        "No logs of lm-evaluation-harness among these" in printed(notebook)
        and "| humaneval_test" in printed(notebook)
        and pictures(notebook) == 2
    )


def test_convert_notebook_says_that_the_logs_are_missing(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    with pytest.raises(nbclient.exceptions.CellExecutionError) as error:
        execute("convert_dataset_7_model.ipynb", LOGS=tmp_path / "none", OUTPUT=tmp_path / "mine")
    assert (
        "no such folder. Run `bash eval_scripts/score.sh` first" in str(error.value)
        and not (tmp_path / "mine").exists()
    )


# cluster_generate.ipynb


def test_cluster_generate(fake, tiny_bert, tmp_path):
    """From a clean kernel: the same files as the command makes, its table, and the map."""
    from utils.clustering import main

    settings = {
        "ENCODER": tiny_bert,
        "POOLING": "mean",
        "MAX_LENGTH": 64,
        "CLUSTERS": 4,
        "PERPLEXITY": 12,
        "SEED": 3,
        "DEVICE": "cpu",
        "PRECISION": "fp32",
    }
    data = " ".join(map(str, fake.train.values()))
    notebook = execute(
        "cluster_generate.ipynb",
        DATA=data,
        OUTPUT=tmp_path / "data",
        RESULTS=tmp_path / "results",
        CACHE_DIR=tmp_path / "cache",
        **settings,
    )
    flags = [part for name, value in settings.items() for part in (f"--{name.lower()}", str(value))]
    made = [
        "--output",
        str(tmp_path / "made"),
        "--cache_dir",
        str(tmp_path / "cache"),
        "--report",
        str(tmp_path / "made.json"),
    ]
    assert main(["--data_paths", *data.split(), *made, *flags]) == 0
    names = sorted(path.name for path in fake.train.values())
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == names
    for name in names:
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    assert {
        row["cluster_id"]
        for name in names
        for row in json.loads((tmp_path / "data" / name).read_text(encoding="utf-8"))
    } == {0, 1, 2, 3}
    report, expected = (
        json.loads(path.read_text()) for path in (tmp_path / "results" / "report.json", tmp_path / "made.json")
    )
    assert (
        report == {name: expected[name] for name in report} | {"encoder": str(tiny_bert)}
        and "adjusted_rand_index" in report
    )
    assert "| GSM8K " in printed(
        notebook
    ) and f"new and given: {report['adjusted_rand_index']['new_and_given']:.3f}" in printed(notebook)
    assert pictures(notebook) == 1 and (tmp_path / "results" / "map.png").stat().st_size > 10_000


def test_cluster_generate_does_not_replace_a_folder_unasked(fake, tiny_bert, tmp_path):
    settings = {
        "DATA": fake.train["mmlu"],
        "ENCODER": tiny_bert,
        "MAX_LENGTH": 64,
        "PERPLEXITY": 5,
        "CACHE_DIR": tmp_path / "cache",
    }
    nbclient = pytest.importorskip("nbclient")
    with pytest.raises(
        nbclient.exceptions.CellExecutionError,
        match="this is the folder of the input .*mmlu_train.json; choose another, or --overwrite",
    ):
        execute("cluster_generate.ipynb", OUTPUT=fake.folder, **settings)


def test_cluster_generate_knows_two_spaces(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="SPACE is 'umap'; it must be tsne or embedding"):
        execute("cluster_generate.ipynb", OUTPUT=tmp_path / "data", SPACE="umap")


def test_cluster_generate_on_released_training_data(mirror, tmp_path):
    """Two of the released files (all five take minutes; results/clustering/ has them), compared with the released ids."""
    from tests.test_clustering import naive_ari

    names = ("humaneval_train.json", "arc_challenge_train.json")
    data = " ".join(str(mirror / "split2_model7" / name) for name in names)
    settings = {
        "OUTPUT": tmp_path / "data",
        "COMPARE": mirror / "split2_model7_cluster",
        "ENCODER": "minilm",
        "CACHE_DIR": tmp_path / "cache",
    }
    notebook = execute("cluster_generate.ipynb", DATA=data, DEVICE="cpu", **settings)
    report = json.loads((tmp_path / "data" / "results" / "report.json").read_text())
    assert {task: sum(row) for task, row in report["sizes"].items()} == {"humaneval": 115, "arc_challenge": 820}
    assert (
        max(report["sizes"]["humaneval"]) > 105
    )  # code lies apart from school science: in one cluster of the five, but for a few
    new, given = (
        [row["cluster_id"] for name in names for row in json.loads((folder / name).read_text(encoding="utf-8"))]
        for folder in (tmp_path / "data", settings["COMPARE"])
    )
    found = {
        "new_and_given": naive_ari(new, given),
        "new_and_tasks": naive_ari(new, [0] * 115 + [1] * 820),
        "given_and_tasks": naive_ari(given, [0] * 115 + [1] * 820),
    }
    assert report["adjusted_rand_index"] == pytest.approx(found, abs=1e-4) and pictures(notebook) == 1
