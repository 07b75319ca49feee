"""Source files: which package they belong to, and their paths as tables show them.

Paths are relative to the package's root (`flax/linen/linear.py:287`), the same on every machine.
"""

from __future__ import annotations

import contextlib
import sys
import sysconfig
from functools import cache
from pathlib import Path

_OWN = Path(__file__).resolve().parents[1]
_INSTALLED = tuple(
    str(Path(path).resolve())
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)


@cache
def is_installed(file: str) -> bool:
    """Return whether a source file belongs to an installed library or to Python itself."""
    path = Path(file).resolve() if not file.startswith("<") else Path(file)
    if path.is_relative_to(_OWN):
        # Files of nanlab that run user functions, and so appear in their frames.
        return path.parent == _OWN / "backend" or path.is_relative_to(_OWN / "blame")
    return (
        file.startswith(("<frozen", "<@beartype"))
        or _library_folder(path) is not None
        or str(path).startswith(_INSTALLED)
    )


def _library_folder(path: Path) -> Path | None:
    """Return the innermost enclosing folder in which libraries are installed, if any."""
    for folder in path.parents:
        if folder.name in ("site-packages", "dist-packages"):
            return folder
        if path.is_absolute() and path.relative_to(folder).parts[0] in _installed_in(folder):
            return folder
    return None


@cache
def _installed_in(folder: Path) -> frozenset[str]:
    """Return the top-level names that pip installed into a folder (any folder, with --target)."""
    names: set[str] = set()
    for record in folder.glob("*.dist-info/RECORD"):
        with contextlib.suppress(OSError):
            lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
            names |= {line.split(",")[0].split("/")[0] for line in lines}
    return frozenset(names - {"..", ""})


@cache
def is_nanlab(file: str) -> bool:
    """Return whether a source file belongs to nanlab."""
    return Path(file).resolve().is_relative_to(_OWN)


@cache
def is_standard(file: str) -> bool:
    """Return whether a source file belongs to no installed library."""
    return _library_folder(Path(file).resolve()) is None


def cell_of(file: str) -> str:
    """Return "cell 3" for a file that holds the code of a notebook's third cell, else ""."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    name_of = getattr(getattr(get_shell and get_shell(), "compile", None), "format_code_name", None)
    kind, name = (name_of and name_of(file)) or ("", "")
    return f"cell {name[3:-1]}" if kind == "Cell" else ""


def from_package_root(file: str) -> str:
    """Return the path of a source file relative to its package's root; a cell of a notebook."""
    return cell_of(file) or _from_package_root(file)


@cache
def _from_package_root(file: str) -> str:
    path = Path(file)
    library = _library_folder(path)
    if library is not None:
        # Not every folder of a package has an __init__.py: optax/_src has none.
        return path.relative_to(library).as_posix()
    root = path.parent
    while (root / "__init__.py").exists() and root.parent != root:
        root = root.parent
    return path.relative_to(root).as_posix() if root != path.parent else path.name


def displayed(file: str) -> str:
    """Return the path of a file, relative to the current folder if it is inside."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
