"""Results folder -> the code and data that it names and that are not this project's.

Running a study again runs the code that its grid names. A folder from elsewhere can name any
module, so only code that a grid of this project names is run without a question.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nanlab.grid.parameter_types import USER_CODE
from nanlab.plan.plan import Plan
from nanlab.results.read import FinishedStudy


class ForeignCodeError(Exception):
    """A study names code or data from elsewhere; the message is a sentence for the user."""


def check_is_ours(study: FinishedStudy, folder: Path) -> None:
    """Check that all code and data that a study runs belong to the current project.

    They do if they lie in the working directory, outside the results folder, and the grid file of
    the study, in the working directory too, names them.

    Args:
        study: the study.
        folder: its results folder.

    Raises:
        ForeignCodeError: they do not.
    """
    specs = _from_elsewhere(study.plan, folder)
    grid = _grid_text(study.manifest, folder)
    specs += [spec for spec in _user_specs(study.plan) if spec not in grid]
    _refuse(specs, folder, "which no grid of this project names", "--trust (in Python, trust=True)")


def check_lies_here(plan: Plan, folder: Path) -> None:
    """Check that all code and data that a prepared study runs lie in the working directory.

    A prepared study has no manifest yet, so no grid file of it is known.

    Args:
        plan: the study's plan.
        folder: its results folder.

    Raises:
        ForeignCodeError: they do not, or they lie in the results folder.
    """
    where = "which does not lie in the working directory, outside the results folder"
    _refuse(_from_elsewhere(plan, folder), folder, where, "--trust")


def check_modules_lie_here(modules: Iterable[str], folder: Path) -> None:
    """Check that modules that a folder names lie in the working directory, outside the folder.

    Raises:
        ForeignCodeError: they do not.
    """
    names = [name for name in modules if not _lies_here(_home_of(f"{name}:function"), folder)]
    where = "which does not lie in the working directory, outside the folder"
    _refuse(names, folder, where, "--trust")


def _from_elsewhere(plan: Plan, folder: Path) -> list[str]:
    return [spec for spec in _user_specs(plan) if not _lies_here(_home_of(spec), folder)]


def _refuse(specs: list[str], folder: Path, why: str, way_out: str) -> None:
    if specs:
        listed = ", ".join(dict.fromkeys(specs))
        raise ForeignCodeError(
            f"{folder} runs {listed}, {why}; code from elsewhere can do anything that you can. "
            f"{way_out} runs it"
        )


def is_confirmed(error: ForeignCodeError) -> bool:
    """Show the sentence, and ask on a terminal whether to run the code."""
    sys.stderr.write(f"{error}\n")
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    sys.stderr.write("Run it now? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def is_allowed(check: Callable[[], None]) -> bool:
    """Run a check; if the code is from elsewhere, ask whether to run it."""
    try:
        check()
    except ForeignCodeError as error:
        return is_confirmed(error)
    return True


def _user_specs(plan: Plan) -> list[str]:
    values = {
        str(group.statics[name])
        for group in plan.groups
        for name in ("problem", "model", "task")
        if name in group.statics
    }
    data = (".npz", ".parquet")
    return sorted(value for value in values if USER_CODE.match(value) or value.endswith(data))


def _home_of(spec: str) -> Path | None:
    """Return the file that a reference names; None for a module that is not found or built in."""
    if not USER_CODE.match(spec):
        return Path(spec)
    home = spec.rpartition(":")[0]
    if home.endswith(".py"):
        return Path(home)
    try:
        found = find_spec(home.partition(".")[0])  # this imports nothing
    except (ImportError, ValueError):
        return None
    folders = () if found is None else found.submodule_search_locations or (found.origin,)
    return next((Path(folder) for folder in folders if folder), None)


def _lies_here(path: Path | None, folder: Path) -> bool:
    if path is None:
        return False
    path, here, theirs = (Path(os.path.realpath(each)) for each in (path, Path.cwd(), folder))
    is_installed = "site-packages" in path.parts
    return path.is_relative_to(here) and not is_installed and not path.is_relative_to(theirs)


def _grid_text(manifest: Mapping[str, Any], folder: Path) -> set[str]:
    """Return the texts between quotation marks of the grid file that made the study."""
    texts = set[str]()
    for path in _arguments(manifest):
        if path.suffix == ".toml" and path.is_file() and _lies_here(path, folder):
            texts |= set(re.findall(r"[\"']([^\"'\n]+)[\"']", path.read_text("utf-8", "replace")))
    return texts


def _arguments(manifest: Mapping[str, Any]) -> Iterator[Path]:
    try:
        yield from map(Path, shlex.split(manifest["command"]))
    except ValueError:
        return
