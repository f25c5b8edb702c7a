"""The style that the repository keeps: ruff's rules (ruff.toml), short functions, a front page that can be read."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from test_layout import kept

MOST_LINES, MOST_COLUMNS, MOST_WORDS, LONGEST_SENTENCE = 60, 120, 1500, 30


def ruff(*arguments: str) -> subprocess.CompletedProcess:
    program = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if program is None:
        pytest.fail("ruff is not installed: pip install -r requirements.txt")
    return subprocess.run([program, *arguments], cwd=REPO, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")])
def test_ruff_is_content(arguments):
    run = ruff(*arguments, "--no-cache", ".")
    assert run.returncode == 0, run.stdout + run.stderr


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_functions_are_short():
    for path in kept():
        for function in functions(path) if path.suffix == ".py" else ():
            lines = function.end_lineno - function.lineno + 1
            assert lines <= MOST_LINES, f"{path}: {function.name} has {lines} lines"


def test_lines_of_scripts_and_settings_are_short():
    paths = [path for path in kept() if path.suffix in (".sh", ".yaml")]
    assert len(paths) > 20
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= MOST_COLUMNS, f"{path}, line {number}"


def prose(path: Path) -> str:
    """A Markdown text without code blocks, tables, pictures and headings; a blank line or an item ends a sentence."""
    text = re.sub(r"```.*?```", "\n\n", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"^[ ]*(\||#|!\[).*$", "\n", text, flags=re.MULTILINE)
    return re.sub(r"\n\s*\n|\n(?=- |\d\. )", ". ", text)


@pytest.mark.parametrize("name", ["README.md", "datasets/README.md"])
def test_sentences_can_be_read_in_one_breath(name):
    for sentence in re.split(r"(?<=[.!?:;])[\s*)]+", prose(REPO / name)):
        assert len(sentence.split()) <= LONGEST_SENTENCE, f"{name}: {' '.join(sentence.split())}"


def test_the_front_page_is_short():
    text = re.sub(r"```.*?```", "", (REPO / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(text.split()) <= MOST_WORDS


def test_recipes_and_plans_say_what_they_are():
    paths = [path for folder in ("recipes", "plans") for path in (REPO / "train_scripts" / folder).glob("*.yaml")]
    assert len(paths) >= 15
    for path in paths:
        assert path.read_text(encoding="utf-8").startswith("# "), (
            f"{path} begins without a comment that says what it is"
        )
