"""The rules of the house, read off the source: nothing here runs any of it but `import nanlab`."""

import ast
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(ROOT.glob("nanlab/**/*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()

# The pipeline, from the ground up: a line may import from the lines above it, and nothing else.
# One name is one room: a file, a folder, or the files that share a first word (plan, plan_rows).
# What is in one room may import each other.
ORDER = [
    "machine",
    "_jax",
    "lab",
    "_lazy",
    "codes",
    "keys",
    "blame",
    "parts",
    "parameters",
    "grid",
    "plan",
    "problem",
    "block",
    "own",
    "quadratic",
    "training",
    "problems",
    "patches",
    "products",
    "lanes",
    "launches",
    "faults",
    "curves",
    "forensics",
    "engines",
    "witnesses",
    "memory",
    "tuning",
    "tables",
    "search",
    "compare",
    "provenance",
    "manifest",
    "store",
    "results",
    "chunks",
    "shards",
    "cluster",
    "study",
    "ledger",
    "terminal",
    "interruptible",
    "reporting",
    "loading",
    # The commands: thin, on top, and strangers to each other.
    "replay",
    "sweep",
    "debug",
    "diff",
    "verify",
    "worker",
    "claims",
    "report",
    # python -m nanlab, and the public verbs.
    "__main__",
    "__init__",
]
# What stands on less than ORDER allows.
STANDS_ON = {
    "_jax": {"machine"},
    "_lazy": set(),
    "codes": set(),
    "blame": {"_jax", "codes"},
    "parts": {"_jax", "_lazy", "keys"},
    "patches": set(),
    "products": {"_jax", "patches"},
}
NOBODY_IMPORTS = {
    "sweep",
    "debug",
    "diff",
    "verify",
    "worker",
    "claims",
    "report",
    "__main__",
    "__init__",
}

MAY_COMPILE = {"lanes", "blame", "_jax"}
# Its vmap goes over the examples of one lane, each of which has a key of its own.
OVER_EXAMPLES = "nanlab/parts/corruptions.py"
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 50

each_source = pytest.mark.parametrize(
    "path", SOURCES, ids=[str(p.relative_to(ROOT)) for p in SOURCES]
)


def room_of(path: Path) -> str:
    """nanlab/plan_rows.py -> plan; nanlab/blame/probe.py -> blame; nanlab/_jax.py -> _jax."""
    return room_named(module_of(path))


def module_of(path: Path) -> str:
    return path.relative_to(ROOT / "nanlab").parts[0].removesuffix(".py")


def room_named(module: str) -> str:
    return module if module.startswith("_") else module.partition("_")[0]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of nanlab's own, wherever in the file it stands."""
    inside = path.relative_to(ROOT).parts
    for node in ast.walk(tree_of(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            package = inside[: len(inside) - node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "nanlab":
                module = rest.partition(".")[0]
                is_file = any(module == module_of(source) for source in SOURCES)
                yield node.lineno, room_named(module) if is_file else "__init__"


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


@each_source
def test_imports_point_one_way_along_the_pipeline(path: Path) -> None:
    room = room_of(path)
    where = path.relative_to(ROOT)
    assert room in ORDER, (
        f"{where} has no place in the pipeline yet: add {room!r} to ORDER in tests/test_house.py, "
        "below all that it imports and above all that imports it"
    )
    allowed = STANDS_ON.get(room, set(ORDER[: ORDER.index(room)])) - NOBODY_IMPORTS | {room}
    if room in {"__init__", "__main__"}:
        allowed |= NOBODY_IMPORTS
    wrong = [f"{where}:{line} imports {name}" for line, name in imported_rooms(path)
             if name not in allowed]  # fmt: skip
    assert not wrong, f"{wrong}; {room!r} may import {sorted(allowed)}"


@each_source
def test_a_module_says_in_its_first_line_what_goes_in_and_what_comes_out(path: Path) -> None:
    first = (ast.get_docstring(tree_of(path)) or "").partition("\n")[0]
    assert " -> " in first or first.endswith("."), (
        f"{path.relative_to(ROOT)} must begin with a docstring whose first line is its arrow "
        f"(Grid -> Plan) or one whole sentence; it begins with {first!r}"
    )


@each_source
def test_one_file_knows_the_internals_of_jax(path: Path) -> None:
    if path.name == "_jax.py":
        return
    found = re.search(
        r"jax\._src|jax\.extend|from jax import .*\b(_src|extend)\b", path.read_text()
    )
    assert not found, f"{path.relative_to(ROOT)} says {found and found[0]}; only nanlab/_jax.py may"


@each_source
def test_files_and_functions_are_small(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_FILE_LINES, f"{path.relative_to(ROOT)} has {lines} lines: divide it"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, (
                f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines: divide it"
            )


@each_source
def test_vmap_and_jit_are_called_in_few_places(path: Path) -> None:
    if room_of(path) in MAY_COMPILE or path == ROOT / OVER_EXAMPLES:
        return
    for node in ast.walk(tree_of(path)):
        name = getattr(node, "attr", getattr(node, "id", getattr(node, "name", None)))
        assert name not in {"vmap", "jit", "pmap"} or isinstance(node, ast.FunctionDef), (
            f"{path.relative_to(ROOT)} uses {name}: only {sorted(MAY_COMPILE)} may"
        )


@each_source
def test_only_commands_print(path: Path) -> None:
    ignores = PYPROJECT["tool"]["ruff"]["lint"]["per-file-ignores"]
    (commands,) = [re.findall(r"\w+", p.split("{")[1]) for p in ignores if p.startswith("nanlab/{")]
    if room_of(path) in commands:
        return
    for node in ast.walk(tree_of(path)):
        printed = isinstance(node, ast.Name) and node.id == "print"
        assert not printed, f"{path.relative_to(ROOT)}:{node.lineno} prints"


@pytest.mark.parametrize("module", ["nanlab", "nanlab.grid", "nanlab.plan.plan", "nanlab.sweep"])
def test_importing_it_does_not_import_jax(module: str) -> None:
    code = f"import {module}, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_readme_shows_the_main_job_and_the_tests_on_its_first_screen() -> None:
    main_job, tests = shell_commands()
    assert main_job.endswith(" -m nanlab.sweep sweeps/quickstart.toml --force")
    assert tests.endswith(" -m pytest")
    assert all("-c constraints.txt" in command for command in (main_job, tests))
    first_screen = README.splitlines()[:40]
    assert main_job in first_screen
    assert tests in first_screen


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
