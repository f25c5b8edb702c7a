"""The notebooks: tidy in the repository, and executed from a clean kernel, by papermill, on small data."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import REPO

NOTEBOOKS = ("convert_dataset_7_model.ipynb", "cluster_generate.ipynb")
Failure = papermill.PapermillExecutionError  # of a cell


def execute(name: str, folder: Path, /, **parameters: object) -> nbformat.NotebookNode:
    """Run a notebook of the repository from a clean kernel; returns it with its outputs.

    Raises: Failure if a cell fails.
    """
    values = {key: str(value) if isinstance(value, Path) else value for key, value in parameters.items()}
    quiet = {"progress_bar": False, "log_output": False}
    return papermill.execute_notebook(
        REPO / name, folder / "executed.ipynb", values, kernel_name="python3", cwd=REPO, **quiet
    )


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Everything that the cells put out."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook: nbformat.NotebookNode) -> str:
    """All text that the cells of an executed notebook put out."""
    texts = []
    for output in outputs(notebook):
        data = output.get("data", {})
        texts.append(output.get("text") or data.get("text/markdown") or data.get("text/plain", ""))
    return "\n".join(texts)


def pictures(notebook: nbformat.NotebookNode) -> int:
    """The number of pictures in an executed notebook."""
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def check_text_and_pictures_only(notebook: nbformat.NotebookNode) -> None:
    """No widgets, which a reader of the file sees as `HBox(children=...)`, and bars as few lines of text."""
    kinds = {kind for output in outputs(notebook) for kind in output.get("data", {})}
    assert not [kind for kind in kinds if "widget" in kind] and "widgets" not in notebook.metadata
    assert len(printed(notebook).splitlines()) < 250


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_short_and_without_outputs(name):
    notebook = nbformat.read(REPO / name, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata["kernelspec"]["name"] == "python3" and len(notebook.cells) <= 12
    for cell in notebook.cells:
        lines = cell.source.splitlines()
        assert len(lines) <= 30 and max(map(len, lines)) <= 130
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameters_are_plain_assignments_in_one_tagged_cell(name):
    """What papermill changes is all in the cell before the first import, and no cell reads the environment."""
    notebook = nbformat.read(REPO / name, as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [cell for cell in codes if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == codes[:1]
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
    assert not [cell for cell in codes if "environ" in cell.source or "getenv" in cell.source]


# convert_dataset_7_model.ipynb


@pytest.fixture
def logs(tmp_path) -> Path:
    """Made-up verdicts on code of two LLMs, their logs of a quiz and sums, and the conversions of all three."""
    from tests.test_convert import HUMANEVAL, QUIZ, SUMS, A, B, choices, sums, write_log

    verdicts = {"passed": [[True, False]], "generations_sha256": "1", "references_sha256": "2"}
    for llm in (A, B):
        write_log(tmp_path / "logs", llm, "mini_quiz", choices(20, llm))
        write_log(tmp_path / "logs", llm, "mini_sums", sums(10, llm))
        code = tmp_path / "logs" / llm.replace("/", "__") / "humaneval"
        code.mkdir()
        (code / "verdicts.json").write_text(json.dumps(verdicts))
    documents = tmp_path / "humaneval.jsonl"
    documents.write_text(json.dumps(HUMANEVAL))
    code_task = {
        "task": "humaneval",
        "leaves": ["humaneval"],
        "rule": "verdicts",
        "documents": str(documents),
        "question": "{prompt}",
        "test": "humaneval_test.json",
    }
    (tmp_path / "spec.json").write_text(json.dumps([code_task, QUIZ, SUMS]))
    return tmp_path


def convert(logs: Path, **parameters: object) -> nbformat.NotebookNode:
    """The notebook on the made-up logs, written to the folder mine/ beside them."""
    own = {"logs": logs / "logs", "output": logs / "mine", "spec": logs / "spec.json", "figures": logs / "figures"}
    return execute("convert_dataset_7_model.ipynb", logs, **own, **parameters)


def test_convert_notebook_writes_files_and_draws(logs):
    from utils.scoring.convert import main

    notebook = convert(logs, flags="--seed 5")
    text = printed(notebook)
    assert "quiz: 1 leaf tasks x 2 LLMs -> quiz_train.json, quiz_test.json" in text
    assert "resps" in text and "per-query oracle" in text and "train_router_mdeberta.py" in text
    check_text_and_pictures_only(notebook)
    assert pictures(notebook) == 2
    for name in ("llm_accuracies", "llm_disagreement"):
        assert (logs / "figures" / f"{name}.png").stat().st_size > 5000
        assert (logs / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    flags = {"--logs": logs / "logs", "--output": logs / "command", "--spec": logs / "spec.json", "--seed": 5}
    assert main([str(word) for pair in flags.items() for word in pair]) == 0
    for name in ("quiz_train.json", "quiz_test.json", "sums_test.json"):
        assert (logs / "mine" / name).read_bytes() == (logs / "command" / name).read_bytes()


def test_convert_notebook_with_verdicts_alone(logs):
    notebook = convert(logs, tasks="humaneval")
    text = printed(notebook)
    assert "No logs of lm-evaluation-harness among these" in text and "| humaneval_test" in text
    assert pictures(notebook) == 2


def test_convert_notebook_says_that_the_logs_are_missing(tmp_path):
    with pytest.raises(Failure, match="no such folder. Run `bash eval_scripts/score.sh` first"):
        execute("convert_dataset_7_model.ipynb", tmp_path, logs=tmp_path / "none", output=tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


# cluster_generate.ipynb


def test_cluster_generate(fake, tiny_bert, tmp_path):
    """From a clean kernel: the same files as the command makes, its table, and the map."""
    from utils.clustering import main

    settings = {
        "encoder": str(tiny_bert),
        "pooling": "mean",
        "max_length": 64,
        "clusters": 4,
        "perplexity": 12,
        "seed": 3,
        "device": "cpu",
        "precision": "fp32",
        "cache_dir": str(tmp_path / "cache"),
    }
    data = [str(path) for path in fake.train.values()]
    places = {"data_paths": " ".join(data), "output": tmp_path / "data", "results": tmp_path / "results"}
    notebook = execute("cluster_generate.ipynb", tmp_path, **places, **settings)

    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    made = ["--output", str(tmp_path / "made"), "--report", str(tmp_path / "made.json")]
    assert main(["--data_paths", *data, *made, *flags]) == 0
    names = sorted(path.name for path in fake.train.values())
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == names
    ids = set()
    for name in names:
        content = (tmp_path / "data" / name).read_bytes()
        assert content == (tmp_path / "made" / name).read_bytes()
        ids |= {row["cluster_id"] for row in json.loads(content)}
    assert ids == {0, 1, 2, 3}

    report = json.loads((tmp_path / "results" / "report.json").read_text())
    expected = json.loads((tmp_path / "made.json").read_text())
    assert report == {name: expected[name] for name in report} | {"encoder": str(tiny_bert)}
    index = report["adjusted_rand_index"]["new_and_given"]
    assert "| GSM8K " in printed(notebook) and f"new and given: {index:.3f}" in printed(notebook)
    assert pictures(notebook) == 1 and (tmp_path / "results" / "map.png").stat().st_size > 10_000
    check_text_and_pictures_only(notebook)


def test_papermill_sets_parameters_from_the_command_line(fake, tiny_bert, tmp_path):
    """The command of the README; the files come as a folder."""
    parameters = {
        "clusters": 3,
        "data_paths": fake.folder,
        "output": tmp_path / "data",
        "encoder": tiny_bert,
        "max_length": 64,
        "perplexity": 5,
        "device": "cpu",
        "cache_dir": tmp_path / "cache",
    }
    words = [str(word) for name, value in parameters.items() for word in ("-p", name, value)]
    command = [sys.executable, "-m", "papermill", "cluster_generate.ipynb", str(tmp_path / "out.ipynb"), *words]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads((tmp_path / "data" / "results" / "report.json").read_text())
    assert report["clusters"] == 3 and sorted(report["sizes"]) == sorted(fake.train)
    assert pictures(nbformat.read(tmp_path / "out.ipynb", as_version=4)) == 1


def test_cluster_generate_does_not_replace_a_folder_unasked(fake, tiny_bert, tmp_path):
    settings = {"encoder": tiny_bert, "max_length": 64, "perplexity": 5, "cache_dir": tmp_path / "cache"}
    message = "this is the folder of the input .*mmlu_train.json; choose another, or --overwrite"
    with pytest.raises(Failure, match=message):
        data = fake.train["mmlu"]
        execute("cluster_generate.ipynb", tmp_path, data_paths=data, output=fake.folder, **settings)


def test_cluster_generate_knows_two_spaces(tmp_path):
    with pytest.raises(Failure, match="--space is 'umap'; it must be tsne or embedding"):
        execute("cluster_generate.ipynb", tmp_path, output=tmp_path / "data", space="umap")


def test_cluster_generate_on_released_training_data(mirror, tmp_path):
    """Two of the released files, compared with the released ids. All five take minutes: see results/clustering/."""
    from tests.test_clustering import naive_ari

    names = ("humaneval_train.json", "arc_challenge_train.json")
    released = mirror / "split2_model7_cluster"
    notebook = execute(
        "cluster_generate.ipynb",
        tmp_path,
        data_paths=" ".join(str(mirror / "split2_model7" / name) for name in names),
        output=tmp_path / "data",
        compare=released,
        cache_dir=tmp_path / "cache",
        device="cpu",
    )
    report = json.loads((tmp_path / "data" / "results" / "report.json").read_text())
    assert {task: sum(row) for task, row in report["sizes"].items()} == {"humaneval": 115, "arc_challenge": 820}
    # Code lies apart from school science: in one cluster of the five, but for a few.
    assert max(report["sizes"]["humaneval"]) > 105

    def ids_in(folder: Path) -> list[int]:
        files = [json.loads((folder / name).read_text(encoding="utf-8")) for name in names]
        return [row["cluster_id"] for rows in files for row in rows]

    new, given, tasks = ids_in(tmp_path / "data"), ids_in(released), [0] * 115 + [1] * 820
    expected = {
        "new_and_given": naive_ari(new, given),
        "new_and_tasks": naive_ari(new, tasks),
        "given_and_tasks": naive_ari(given, tasks),
    }
    assert report["adjusted_rand_index"] == pytest.approx(expected, abs=1e-4) and pictures(notebook) == 1
