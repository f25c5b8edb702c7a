"""The style that the repository keeps: ruff's rules (ruff.toml), short functions and lines, pages that can be read."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from test_layout import kept

MOST_LINES = 60  # of a function, with its docstring
MOST_COLUMNS = 120
MOST_WORDS = 1500  # of the front page, without code
LONGEST_SENTENCE = 30  # words
PAGES = ("README.md", "datasets/README.md", "eval_scripts/README.md", "train_scripts/README.md")


# Python


def ruff(*arguments: str) -> subprocess.CompletedProcess:
    """Runs the ruff that stands beside this Python, or the one on the path."""
    program = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if program is None:
        pytest.fail("ruff is not installed: pip install -r requirements.txt")
    return subprocess.run([program, *arguments], cwd=REPO, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")])
def test_ruff_is_content(arguments):
    run = ruff(*arguments, "--no-cache", ".")
    assert run.returncode == 0, run.stdout + run.stderr


def test_ruff_is_the_one_of_the_requirements():
    """Another version may format otherwise."""
    wanted = re.search(r"^ruff==(\S+)", (REPO / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert ruff("--version").stdout.split() == ["ruff", wanted.group(1)]


def test_ruff_checks_length_and_complexity(tmp_path):
    """Two files that its settings (ruff.toml) must refuse."""
    branches = [f"    if x == {number}:\n        return {number}" for number in range(16)]
    files = {
        "E501": f"x = 1  # {'long ' * 30}\n",
        "C901": "\n".join(["def f(x):", *branches, ""]),
    }
    for rule, text in files.items():
        path = tmp_path / f"{rule}.py"
        path.write_text(text)
        run = ruff("check", "--no-cache", "--config", str(REPO / "ruff.toml"), str(path))
        assert run.returncode == 1 and rule in run.stdout


def function_lengths(text: str) -> dict[str, int]:
    """Lines of each function and method in a Python file, decorators apart."""
    functions = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            functions[f"{node.name}, line {node.lineno}"] = node.end_lineno - node.lineno + 1
    return functions


def test_this_test_can_measure_functions():
    text = (
        "class A:\n    @property\n    def a(self):\n        def b():\n            pass\n        return b\n\n\nx = 1\n"
    )
    assert function_lengths(text) == {"a, line 3": 4, "b, line 4": 2}


def test_functions_are_short():
    paths = [path for path in kept() if path.suffix == ".py"]
    assert len(paths) > 100
    too_long = []
    for path in paths:
        for function, lines in function_lengths(path.read_text(encoding="utf-8")).items():
            if lines > MOST_LINES:
                too_long.append(f"{path}: {function} has {lines} lines")
    assert not too_long, "\n".join(too_long)


# Lines and headers of all that people write


def test_lines_are_short():
    """Of Python, scripts and settings: also in strings and comments, where the formatter leaves them as they are."""
    paths = [path for path in kept() if path.suffix in (".py", ".sh", ".yaml", ".toml") or path.parent.name == ".ci"]
    assert len(paths) > 150
    too_long = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if len(line) > MOST_COLUMNS:
                too_long.append(f"{path}, line {number}: {len(line)} columns")
    assert not too_long, "\n".join(too_long)


def test_recipes_and_plans_say_what_they_are():
    """What the header of a recipe must say is tested in test_config.py."""
    paths = [path for folder in ("recipes", "plans") for path in (REPO / "train_scripts" / folder).iterdir()]
    assert len(paths) >= 15
    for path in paths:
        first_line = path.read_text(encoding="utf-8").splitlines()[0]
        assert path.suffix == ".yaml", f"{path}: neither a recipe nor a plan"
        assert first_line.startswith("# ") and len(first_line) > 40, f"{path}: its first line does not say what it is"


def test_scripts_say_what_they_do():
    """In the lines before the first command."""
    for path in kept():
        if path.suffix == ".sh":
            lines = path.read_text(encoding="utf-8").removeprefix("#!/usr/bin/env bash\n").splitlines()
            assert lines[0].startswith("# ") and len(lines[0]) > 30, f"{path}: its first line does not say what it does"


# Pages


def prose(text: str) -> str:
    """A Markdown text without code blocks, tables, pictures and headings; a blank line or an item ends a sentence."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"^[ ]*(\||#|!\[).*$", "\n", text, flags=re.MULTILINE)
    return re.sub(r"\n\s*\n|\n(?=\s*[-*] |\s*\d+\. )", ". ", text)


def sentences(text: str) -> list[str]:
    """The sentences of a Markdown text; a colon or a semicolon ends none."""
    return [" ".join(sentence.split()) for sentence in re.split(r"(?<=[.!?])[*)\"]*\s+", prose(text))]


def test_this_test_can_tell_sentences():
    lines = ["# A title", "", "One two:", "three. Four **five.** Six?", "", "| a | table |"]
    lines += ["```", "code. code", "```", "- seven", "- eight; nine", ""]
    found = [sentence.strip("-.* ") for sentence in sentences("\n".join(lines))]
    assert list(filter(None, found)) == ["One two: three", "Four **five", "Six?", "seven", "eight; nine"]


@pytest.mark.parametrize("name", PAGES)
def test_sentences_can_be_read_in_one_breath(name):
    long = [
        text for text in sentences((REPO / name).read_text(encoding="utf-8")) if len(text.split()) > LONGEST_SENTENCE
    ]
    assert not long, "\n".join(long)


def test_the_front_page_is_short():
    """Words of its tables count, too."""
    text = re.sub(r"```.*?```", "", (REPO / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(text.split()) <= MOST_WORDS
