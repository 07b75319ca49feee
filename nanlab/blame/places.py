"""Site -> place: phase, module, source line, library line and function.

Source files are written from their package's root (`flax/linen/linear.py:287`), never as a path
of one machine.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from nanlab import _jax
from nanlab._jax import CodeFrame
from nanlab.blame.sites import Program, Site

PHASES = ("init", "data", "forward", "backward", "update")
"""The parts of a training step, in order; as a `jax.named_scope`, each marks what is inside it."""

_OWN = Path(__file__).resolve().parents[1]
_INSTALLED = tuple(
    str(Path(path).resolve())
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_PLUMBING = re.compile(
    r"[/\\]jax[/\\](extend|_src[/\\]"
    r"(?!nn[/\\]|scipy[/\\]|image[/\\]|numpy[/\\](?!ufunc_api|array_methods)))"
)
_TRANSFORMED = re.compile(r"^[\w.-]+\((.*)\)$")


def module_of(scopes: str) -> str:
    """The modules around a site, without transformations and without our phase marks."""
    return "/".join(name for name in _names(scopes) if name not in PHASES)


def _names(scopes: str) -> Iterator[str]:
    for part in scopes.split("/"):
        name = part
        while (inner := _TRANSFORMED.match(name)) is not None:
            name = inner.group(1)
        if name:
            yield name


def phases_of(program: Program) -> dict[int, str]:
    """The phase of every site.

    What is transposed is backward. So is what a derivative prepared during the forward sweep
    (its scopes say `jvp`, not `transpose`) and nothing but the backward pass uses.
    """
    prepared = _only_for_transposes(program)
    phases: dict[int, str] = {}
    for site in program.sites:
        marks = [name for name in _names(site.scopes) if name in PHASES]
        if "transpose(" in site.scopes:
            phases[site.index] = "backward"
        elif marks:
            phases[site.index] = marks[-1]
        else:
            phases[site.index] = "backward" if site.index in prepared else "forward"
    return phases


def _only_for_transposes(program: Program) -> set[int]:
    """Sites under `jvp` whose results reach no output but through a transposed site."""
    straight: set[int] = set()
    for frame in program.frames:
        needed = set(frame.results)
        for index in reversed(frame.sites):
            site = program.sites[index]
            if "transpose(" not in site.scopes and not needed.isdisjoint(site.results):
                straight.add(index)
                needed.update(site.operands)
    jvp = {s.index for s in program.sites if "jvp(" in s.scopes and "transpose(" not in s.scopes}
    # A program that returns only gradients has no forward outputs to tell the two apart by.
    return jvp - straight if jvp & straight else set()


def stack_of(site: Site) -> Iterator[CodeFrame]:
    """The Python frames that made a site, innermost first, through the calls around it."""
    for eqn in (site.eqn, *site.callers):
        yield from _jax.equation_frames(eqn)


def user_frame(site: Site) -> CodeFrame | None:
    """The innermost frame outside installed libraries (nanlab counts as outside)."""
    return next((f for f in stack_of(site) if not is_installed(f.file)), None)


def library_frame(site: Site) -> CodeFrame | None:
    """The innermost frame in an installed library, JAX's own plumbing passed over."""
    for frame in stack_of(site):
        if not is_installed(frame.file):
            return None
        if not _PLUMBING.search(frame.file) and not _is_standard(frame.file):
            return frame
    return None


@cache
def is_installed(file: str) -> bool:
    path = Path(file).resolve() if not file.startswith("<") else Path(file)
    if path.is_relative_to(_OWN):
        return False
    parts = path.parts
    return (
        file.startswith("<frozen")
        or "site-packages" in parts
        or "dist-packages" in parts
        or str(path).startswith(_INSTALLED)
    )


@cache
def _is_standard(file: str) -> bool:
    path = Path(file).resolve()
    return "site-packages" not in path.parts and "dist-packages" not in path.parts


@cache
def written(file: str) -> str:
    """A source file as it is written in tables: from its package's root, with slashes."""
    path = Path(file)
    root = path.parent
    while (root / "__init__.py").exists() and root.parent != root:
        root = root.parent
    return path.relative_to(root).as_posix() if root != path.parent else path.name
