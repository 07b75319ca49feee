"""The rules of the house, read off the source: nothing here runs any of it but `import nanlab`."""

import ast
import graphlib
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(ROOT.glob("nanlab/**/*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()

# nanlab/ from the ground up: a room may import the rooms before it, a command any of them.
ROOMS = (
    "backend", "parts", "blame", "linting", "hunting", "curing", "recorder", "grid", "plan",
    "results", "problems", "engine", "study", "ledger", "reporting", "cli",
)  # fmt: skip
# The two foundations do not know each other, and what stands on blame does not know parts.
STANDS_ON = {
    "blame": {"backend"}, "parts": {"backend"}, "linting": {"backend", "blame"},
    "hunting": {"backend", "blame", "linting"},
    "curing": {"backend", "blame", "linting", "hunting"},
    "recorder": {"backend", "blame"},
}  # fmt: skip
JAX_INTERNALS = ROOT / "nanlab/backend/jaxpr.py"
# Its vmap goes over the examples of one lane, each of which has a key of its own.
OVER_EXAMPLES = ROOT / "nanlab/parts/corruptions.py"
MAY_COMPILE = {"backend", "blame", "hunting", "curing", "recorder", "engine"}
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 50


def room_of(path: Path) -> str:
    """nanlab/blame/pinpoint.py -> blame; nanlab/sweep.py -> sweep."""
    return path.relative_to(ROOT / "nanlab").parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module of nanlab) of every import that runs, wherever in the file it stands."""
    tree = tree_of(path)
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in node.body
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name[7:]) for name in names if name.startswith("nanlab."))


def tracked_texts() -> Iterator[tuple[Path, str]]:
    """Every file that git keeps, or would keep if it were added, and that holds text."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield path, content.decode()


def shell_commands() -> list[str]:
    """The lines of README that set up everything by themselves."""
    return re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)


def test_a_room_imports_only_rooms_before_it_and_nobody_imports_a_command() -> None:
    commands = {room_of(path) for path in SOURCES if path.parent.name == "nanlab"} - {"__init__"}
    assert {room_of(path) for path in SOURCES} == {*ROOMS, *commands, "__init__"}
    wrong = []
    for path in SOURCES:
        room = room_of(path)
        if room in {*commands, "__init__"}:
            allowed = {*ROOMS, "__version__"}
        else:
            allowed = STANDS_ON.get(room, set(ROOMS[: ROOMS.index(room)])) | {room}
        wrong += [f"{path}:{line} imports {module}" for line, module in imports_of(path)
                  if module.partition(".")[0] not in allowed]  # fmt: skip
    assert not wrong


def test_no_module_is_part_of_an_import_circle() -> None:
    modules = {".".join(p.relative_to(ROOT / "nanlab").with_suffix("").parts): p for p in SOURCES}
    names = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {
        name: {
            next(m for m in (module, module.rpartition(".")[0]) if m in names)
            for _, module in imports_of(path)
            if module in names or module.rpartition(".")[0] in names
        }
        - {name}
        for name, path in names.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_one_file_knows_the_internals_of_jax() -> None:
    pattern = re.compile(r"jax\._src|jax\.extend|from jax import .*\b(_src|extend)\b")
    found = [path for path in SOURCES if pattern.search(path.read_text())]
    assert found == [JAX_INTERNALS]


def test_files_and_functions_are_small() -> None:
    large = [path for path in SOURCES if len(path.read_text().splitlines()) > MAX_FILE_LINES]
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not large + long, "divide them"


def test_vmap_and_jit_are_called_in_few_rooms() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path in SOURCES
        if room_of(path) not in MAY_COMPILE and path != OVER_EXAMPLES
        for node in ast.walk(tree_of(path))
        if not isinstance(node, ast.FunctionDef)
        and getattr(node, "attr", getattr(node, "id", None)) in {"vmap", "jit", "pmap"}
    ]
    assert not found


@pytest.mark.parametrize("module", ["nanlab", "nanlab.grid", "nanlab.plan.plan", "nanlab.sweep"])
def test_importing_it_does_not_import_jax(module: str) -> None:
    code = f"import {module}, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_readme_shows_the_main_job_and_the_tests_on_its_first_screen() -> None:
    main_job, tests = shell_commands()
    assert main_job.endswith(" -m nanlab.sweep sweeps/quickstart.toml --out out/quickstart")
    assert tests.endswith(" -m pytest")
    assert all("-c constraints.txt" in command for command in (main_job, tests))
    first_screen = README.splitlines()[:40]
    assert main_job in first_screen
    assert tests in first_screen


def test_the_folder_of_readmes_first_command_is_ignored_by_git() -> None:
    assert "/out/" in (ROOT / ".gitignore").read_text().splitlines()


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_file_and_module_that_readme_names_exists() -> None:
    named = set(re.findall(r"\b(?:sweeps|benchmarks|nanlab)/[a-z_][\w/]*(?:\.\w+)+", README))
    modules = re.findall(r"-m nanlab\.(\w+)", README)
    packages = {module for module in modules if (ROOT / "nanlab" / module).is_dir()}
    named |= {f"nanlab/{m}/__main__.py" if m in packages else f"nanlab/{m}.py" for m in modules}
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_ci_runs_the_very_test_command_of_readme() -> None:
    script = (ROOT / ".ci/run").read_text()
    (extraction,) = re.findall(r"^command=.*?\)", script, flags=re.MULTILINE)
    shown = subprocess.run(
        ["bash", "-c", f"{extraction}; printf %s \"$command\""],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stdout == shell_commands()[1]
    assert 'bash -euo pipefail -c "$command"' in script
    for tool in ("ruff format --check", "ruff check", "pyright"):
        assert f".venv/bin/{tool}" in script


def test_supported_pythons_are_the_same_wherever_they_are_named() -> None:
    classifiers = PYPROJECT["project"]["classifiers"]
    supported = re.findall(r"Python :: (3\.\d+)", " ".join(classifiers))
    lowest = supported[0]
    assert PYPROJECT["project"]["requires-python"] == f">={lowest}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    assert PYPROJECT["tool"]["pyright"]["pythonVersion"] == lowest
    assert re.findall(r"^\| Python (3\.\d+) \|", README, flags=re.MULTILINE) == supported


def test_the_pins_cover_every_package_that_the_tests_need() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and not pin.url, f"constraints.txt: {pin}"
    pinned = {canonicalize_name(p.name) for p in pins if not p.marker or p.marker.evaluate()}
    needed, todo = set(), [("nanlab", "dev")]
    while todo:
        name, extra = todo.pop()
        for requirement in map(Requirement, metadata.requires(name) or []):
            wanted = not requirement.marker or requirement.marker.evaluate({"extra": extra})
            below = canonicalize_name(requirement.name)
            if wanted and below not in needed:
                needed.add(below)
                todo += [(below, each) for each in requirement.extras or {""}]
    assert needed - pinned - {"nanlab"} == set(), "not pinned in constraints.txt"


def test_no_tracked_text_holds_a_path_of_one_machine_or_the_address_of_a_registry() -> None:
    # Each pattern is written so that it does not match itself.
    pattern = re.compile(
        r"/[w]ork/|/[r]oot/|/[h]ome/\w+/|/[U]sers/\w+/|/[t]mp/\w+/\w"
        r"|[p]ypi\.org|[p]ythonhosted|[n]pmjs\.|[d]eb\.debian"
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path, text in tracked_texts()
        for match in pattern.finditer(text)
    ]
    assert not found


def test_the_tests_themselves_run_offline() -> None:
    with pytest.raises(OSError, match=r"offline.*192\.0\.2\.1"), socket.socket() as connection:
        connection.connect(("192.0.2.1", 80))  # RFC 5737: an address that nobody has
