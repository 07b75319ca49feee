"""Site -> place: phase, module, source line, library line and function.

Source files are written from their package's root (`flax/linen/linear.py:287`), never as a path
of one machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from nanlab.backend import jaxpr as _jax
from nanlab.backend.jaxpr import CodeFrame
from nanlab.blame.program.dataflow import downstream, upstream
from nanlab.blame.program.program import Equation, Program
from nanlab.blame.source_path import is_installed, is_nanlab, is_standard
from nanlab.blame.vocabulary import Phase

_MARKS = frozenset(phase.value for phase in Phase)

_PLUMBING = re.compile(
    r"[/\\]jax[/\\](extend|_src[/\\]"
    r"(?!nn[/\\]|scipy[/\\]|image[/\\]|numpy[/\\](?!ufunc_api|array_methods)))"
)
_REMAT = ("remat2", "checkpoint", "remat", "rematted_computation")
_TRANSFORMED = re.compile(r"^[\w.-]+\((.*)\)$")


def module_of(scopes: str, callers: Sequence[_jax.JaxprEqn] = ()) -> str:
    """The modules around a site, without transformations and without our phase marks.

    Args:
        scopes: of the site.
        callers: the calls that it was opened from.
    """
    # Equinox marks its own layers with their classes, which says nothing beside their names.
    names = [
        name
        for name in _names(scopes)
        if name not in (*_MARKS, *_REMAT) and not name.startswith("eqx.")
    ]
    if any(eqn.primitive.name in _REMAT for eqn in callers):
        # What is rematerialized is traced with the modules around it a second time.
        for half in range(len(names) // 2, 0, -1):
            if names[:half] == names[half : 2 * half]:
                names = names[half:]
                break
    return "/".join(names)


def _names(scopes: str) -> Iterator[str]:
    for part in scopes.split("/"):
        name = part
        while (inner := _TRANSFORMED.match(name)) is not None:
            name = inner.group(1)
        if name:
            yield name


def phases_of(program: Program) -> dict[int, Phase]:
    """The phase of every site.

    What is transposed is backward, and so is what a derivative prepared during the forward sweep
    (its scopes say `jvp`, not `transpose`) and nothing but the backward pass uses. What stands
    outside the derivatives is update if it uses a gradient, or if only such sites use it (a
    decayed weight). Our own marks go before what the data flow says.
    """
    prepared, updates = _prepared(program), _updates(program)
    phases: dict[int, Phase] = {}
    for site in program.sites:
        marks = [name for name in _names(site.scopes) if name in _MARKS]
        if _is_transposed(site):
            phases[site.index] = Phase.BACKWARD
        elif marks:
            phases[site.index] = Phase(marks[-1])
        elif site.index in updates:
            phases[site.index] = Phase.UPDATE
        else:
            phases[site.index] = Phase.BACKWARD if site.index in prepared else Phase.FORWARD
    return phases


def _is_transposed(site: Equation) -> bool:
    return "transpose(" in site.scopes


def _is_straight(site: Equation) -> bool:
    return not _is_transposed(site)


def _is_swept(site: Equation) -> bool:
    """Whether a site belongs to the forward sweep of a derivative."""
    return "jvp(" in site.scopes and not _is_transposed(site)


def _prepared(program: Program) -> set[int]:
    """Sites of forward sweeps whose results reach no forward output but by transposed sites."""
    outputs = set(program.frames[0].results)
    straight = upstream(program, outputs, through=_is_straight, around=True)
    for run in _sweeps(program):
        if all(straight.isdisjoint(site.results) for site in run):
            # Only the gradient is returned. The loss is still in the program's text, unused.
            outputs.update(_unused(program, run))
    straight = upstream(program, outputs, through=_is_straight, around=True)
    runs = [run for run in _sweeps(program) if any(straight & set(s.results) for s in run)]
    return {s.index for run in runs for s in run if straight.isdisjoint(s.results)}


def _sweeps(program: Program) -> list[list[Equation]]:
    """The forward sweeps in each frame: each ends where its transposition begins."""
    runs: dict[int, list[list[Equation]]] = {frame.index: [[]] for frame in program.frames}
    for site in program.sites:
        of_frame = runs[site.frame]
        if _is_swept(site):
            of_frame[-1].append(site)
        elif _is_transposed(site) and of_frame[-1]:
            of_frame.append([])
    return [run for of_frame in runs.values() for run in of_frame if run]


def _unused(program: Program, sites: list[Equation]) -> set[int]:
    used = {value for site in program.sites for value in site.operands}
    used.update(value for frame in program.frames for value in frame.results)
    return {value for site in sites if used.isdisjoint(site.results) for value in site.results}


def _updates(program: Program) -> set[int]:
    """Sites outside derivatives that use a gradient, or that only such sites use."""
    gradients = {v for s in program.sites if _is_transposed(s) for v in s.results}
    dependent = downstream(program, gradients)
    plain = [site for site in program.sites if not _is_transposed(site) and not _is_swept(site)]
    found = {site.index for site in plain if not dependent.isdisjoint(site.operands)}

    def is_before(site: Equation) -> bool:
        return site.index not in found

    differentiated = [s for s in program.sites if _is_transposed(s) or _is_swept(s)]
    into_derivatives = {v for site in differentiated for v in site.operands}
    needed_there = upstream(program, into_derivatives, through=is_before, around=False)
    into_updates = {v for index in found for v in program.sites[index].operands}
    needed_here = upstream(program, into_updates, through=is_before, around=False) - needed_there
    return found | {site.index for site in plain if not needed_here.isdisjoint(site.results)}


def stack_of(site: Equation) -> Iterator[CodeFrame]:
    """The Python frames that made a site, innermost first, through the calls around it."""
    for eqn in (site.eqn, *site.callers):
        yield from _jax.equation_frames(eqn)


def user_frame(site: Equation) -> CodeFrame | None:
    """The innermost frame outside installed libraries (nanlab counts as outside)."""
    return next((f for f in stack_of(site) if not is_installed(f.file)), None)


def library_frame(site: Equation) -> CodeFrame | None:
    """The innermost frame in an installed library, JAX's own plumbing passed over."""
    for frame in stack_of(site):
        if not is_installed(frame.file):
            return None
        own = is_installed(frame.file) and is_nanlab(frame.file)
        if not (own or _PLUMBING.search(frame.file) or is_standard(frame.file)):
            return frame
    return None
