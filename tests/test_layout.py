"""The shape of the repository: who imports whom, what may be in git, scripts that parse."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import REPO

SCRIPTS = ("train_router_mdeberta", "evaluation_router")
# The house from the ground up. A room is a module of utils or a package; a module of a package may have a room of its
# own on another floor. Rooms import what is on lower floors, and themselves.
FLOORS = (
    ("files", "distributed", "choice", "lines", "reading"),  # how anything is written, by whom, read and chosen
    ("experiment", "deberta", "fonts", "formats", "losses", "meters", "tasks", "texts", "download"),  # tools and facts
    ("ceiling.features", "ceiling.learners", "ceiling.repeats", "report.statistics", "columns"),  # what is in arrays
    ("config", "cluster_files", "checkpoint_files", "memory"),  # settings; what a folder stands for; chunks that fit
    ("data", "encoders", "onnx_files"),  # what is read
    ("metrics", "model", "denoise", "ceiling.known"),  # what is made of it
    ("training_set", "evaluate", "tables", "plots", "checkpoint", "baselines.base"),
    ("calibration", "llm_embedding"),  # what is known of a router, and what it can learn later
    ("run", "clustering", "scoring", "miniature", "report.runs"),  # work on files and runs
    ("torch_backend", "onnx_backend", "model_card"),  # what computes for a router in use, and tells of it
    ("training", "benchmark", "importers", "add_llm", "report.summary", "router", "onnx_export"),
    ("baselines", "ceiling", "gateway", "jobs", "explain"),  # routers beside ours, what is possible, many trainings
    ("report", "route_lines"),  # pages and figures of all of them
    ("plan", "route", "latency", "scale"),  # many runs and their report
)


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


def imported(path: Path, root: Path = REPO) -> set[str]:
    """Full names of all modules that a file imports, wherever in it; `from a import b` gives a and a.b.

    Of a relative import in utils/ the name begins with "utils.".
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root).parent.parts[: -node.level + 1 or None] if node.level else ()
            module = ".".join([*package, *filter(None, [node.module])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def imported_by_full_name(path: Path) -> set[str]:
    """Names of modules as a file has them, relative imports apart."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


def modules() -> dict[str, Path]:
    """The modules of utils by name, without "utils."."""
    found = {}
    for path in (REPO / "utils").rglob("*.py"):
        found[str(path.relative_to(REPO / "utils").with_suffix("")).replace("/", ".")] = path
    return found


def of_utils(path: Path) -> set[str]:
    """The modules of utils that a file imports, without "utils."."""
    return {name.removeprefix("utils.") for name in imported(path)} & modules().keys()


def floor_and_room(module: str) -> tuple[int, str]:
    """Where a module of utils stands in FLOORS."""
    for name in (module, module.split(".")[0]):
        for floor, rooms in enumerate(FLOORS):
            if name in rooms:
                return floor, name
    raise AssertionError(f"utils/{module.replace('.', '/')}.py stands on no floor of FLOORS in {Path(__file__).name}")


def is_downwards(importer: str, module: str) -> bool:
    """Whether one module may import another."""
    (own_floor, own_room), (floor, room) = floor_and_room(importer), floor_and_room(module)
    return floor < own_floor or room == own_room


def test_this_test_can_read_imports(tmp_path):
    path = tmp_path / "utils" / "report" / "module.py"
    path.parent.mkdir(parents=True)
    lines = ["import os.path", "from utils.data import load", "def f():"]
    lines += [
        "    from utils import losses",
        "    import utils.meters as m",
        "    from . import runs",
        "    from ..files import a",
    ]
    path.write_text("\n".join(lines))
    wanted = {"os.path", "utils.data", "utils.losses", "utils.meters", "utils.report.runs", "utils.files"}
    assert wanted <= imported(path, tmp_path)


def test_this_test_can_tell_up_from_down():
    assert is_downwards("training", "data") and not is_downwards("data", "training")
    assert is_downwards("report.figures", "report.runs") and not is_downwards("report.runs", "report.figures")
    assert is_downwards("scoring.convert", "scoring.rules")  # one room
    assert is_downwards("ceiling.measure", "baselines.base") and not is_downwards("ceiling.measure", "baselines.run")
    assert not is_downwards("losses", "meters")  # neighbours
    with pytest.raises(AssertionError, match="utils/cellar/rats.py stands on no floor"):
        floor_and_room("cellar.rats")


def test_nothing_in_utils_imports_upwards():
    for name, path in modules().items():
        if name.split(".")[-1] == "__init__":
            assert of_utils(path) == set(), f"{path} imports {of_utils(path)}; who wants a module imports it"
            continue
        for module in of_utils(path):
            assert is_downwards(name, module), f"{path} imports utils.{module}, which does not stand below it"


def test_every_room_of_the_house_is_there():
    rooms = {room for floor in FLOORS for room in floor}
    assert sum(map(len, FLOORS)) == len(rooms)  # none stands on two floors
    there = modules().keys() | {name.split(".")[0] for name in modules()}
    assert rooms <= there, f"there is no {rooms - there}"


def test_utils_never_imports_a_script_or_a_test():
    for path in (REPO / "utils").rglob("*.py"):
        first = {name.split(".")[0] for name in imported(path)}
        assert first.isdisjoint({*SCRIPTS, "tests", "conftest"}), path


def test_utils_works_under_the_name_that_it_is_installed_by(tmp_path):
    """`pip install -e .` makes it `routerdc` (pyproject.toml), beside an application that has a utils of its own."""
    settings = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    ((name, folder),) = settings["package-dir"].items()
    (tmp_path / name).symlink_to(REPO / folder)
    (tmp_path / "utils.py").write_text("")
    elsewhere = ("__main__", "gateway.")  # programs; what needs the gateway's own environment
    here = [module for module in sorted(modules()) if not any(word in module for word in elsewhere)]
    program = "\n".join(f"import {name}.{module}" for module in here)
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for path in modules().values():
        assert "utils" not in {module.split(".")[0] for module in imported_by_full_name(path)}, path


def test_utils_has_no_circles():
    graph = {name: of_utils(path) for name, path in modules().items()}
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


SOURCED = ("env.sh", "common.sh")  # by scripts that stop at errors


def test_shell_scripts_parse_and_stop_at_errors():
    scripts = [path for path in kept() if path.suffix == ".sh" or path.parent.name == ".ci"]
    assert len(scripts) >= 3
    for path in scripts:
        run = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        if path.name not in SOURCED:
            assert "set -euo pipefail" in path.read_text(encoding="utf-8"), f"{path}: does not stop at errors"
