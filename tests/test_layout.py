"""The shape of the repository: who imports whom, what may be in git, scripts that parse."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from conftest import REPO

SCRIPTS = ("train_router_mdeberta", "evaluation_router")
LEAVES = ("losses", "meters", "experiment", "files", "formats")  # import nothing of utils
BELOW = {
    "data": {"tasks", "formats", "config"},
    "tasks": set(),
    "metrics": {"tasks", "data"},
}  # what else these may import


def kept() -> list[Path]:
    """The files in git, and those that would be with `git add --all`."""
    run = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        pytest.skip("not a git checkout")
    return [REPO / name for name in run.stdout.split("\0") if name and (REPO / name).is_file()]


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it; `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def of_utils(path: Path) -> set[str]:
    """The modules of utils that a file imports, without "utils."."""
    modules = {
        str(module.relative_to(REPO / "utils").with_suffix("")).replace("/", ".")
        for module in (REPO / "utils").rglob("*.py")
    }
    return {name.removeprefix("utils.") for name in imported(path)} & modules


def test_this_test_can_read_imports(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import os.path\nfrom utils.data import load\ndef f():\n    from utils import losses\n    import "
        "utils.meters as m\n"
    )
    assert {"os.path", "utils.data", "utils.losses", "utils.meters"} <= imported(path)
    assert of_utils(path) == {"data", "losses", "meters"}


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_import_nothing_of_utils(name):
    path = REPO / "utils" / f"{name}.py"
    assert of_utils(path) == set() and not any(module.startswith(".") for module in imported(path))


@pytest.mark.parametrize("name", BELOW)
def test_the_lower_floors_import_downwards_only(name):
    assert of_utils(REPO / "utils" / f"{name}.py") <= BELOW[name]


def test_utils_never_imports_a_script_or_a_test():
    for path in (REPO / "utils").rglob("*.py"):
        first = {name.split(".")[0] for name in imported(path)}
        assert first.isdisjoint({*SCRIPTS, "tests", "conftest"}), path


def test_utils_has_no_circles():
    graph = {
        str(path.relative_to(REPO / "utils").with_suffix("")).replace("/", "."): of_utils(path)
        for path in (REPO / "utils").rglob("*.py")
    }
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys() - {name}]
        assert free, f"these import each other: {sorted(graph)}"
        for name in free:
            del graph[name]


def test_the_datasets_folder_does_not_hide_the_library():
    assert not (REPO / "datasets" / "__init__.py").exists()


def test_nothing_large_and_no_released_data_in_git():
    for path in kept():
        assert path.stat().st_size <= 5_000_000, path
        assert not re.match(r"datasets/(split2_model7|routerbench_|lookahead)", str(path.relative_to(REPO))), path


def test_no_paths_of_one_machine():
    places = re.compile(r"""(?:^|[\s"'`=:(])/(?:home|root|Users|work|mnt|scratch|tmp|data|opt)/\w""", re.MULTILINE)
    assert places.search(f'x = "{chr(47)}home/me"') and not places.search("datasets/data/x and https://a/home/x")
    for path in kept():
        if path.suffix in (".py", ".sh", ".ipynb", ".yaml"):
            found = [match.group() for match in places.finditer(path.read_text(encoding="utf-8"))]
            assert not found, (path, found)


def test_shell_scripts_parse_and_stop_at_errors():
    scripts = [path for path in kept() if path.suffix == ".sh" or path.parent.name == ".ci"]
    assert len(scripts) >= 3
    for path in scripts:
        run = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        text = path.read_text(encoding="utf-8")
        assert "set -euo pipefail" in text or path.name in ("env.sh", "common.sh", "overrides.sh"), (
            f"{path}: does not stop at errors"
        )  # these are sourced
