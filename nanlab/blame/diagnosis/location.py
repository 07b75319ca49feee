"""Equation -> location: phase, module, source line, library line and function."""

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
    r"|-packages[/\\](jaxtyping|beartype)[/\\]|^<@beartype"  # wrappers that check annotations
)
_REMAT = ("remat2", "checkpoint", "remat", "rematted_computation")
_TRANSFORMED = re.compile(r"^[\w.-]+\((.*)\)$")


def module_of(scopes: str, callers: Sequence[_jax.JaxprEqn] = ()) -> str:
    """Return the path of an equation's module, without transformations and phase marks."""
    # Equinox marks its own layers with their classes, which add nothing to their names.
    names = [
        name
        for name in _names(scopes)
        if name not in (*_MARKS, *_REMAT) and not name.startswith("eqx.")
    ]
    if any(eqn.primitive.name in _REMAT for eqn in callers):
        # A rematerialized region repeats the names of its enclosing modules.
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
    """Return the phase of every equation, by number."""
    # Transposed equations are backward, and so are residuals: equations of the forward sweep
    # (scoped `jvp`, not `transpose`) that only the backward pass uses. Outside derivatives, an
    # equation is update if it uses a gradient, or if only such equations use it (weight decay).
    # Explicit phase marks take precedence over data flow.
    prepared, updates = _prepared(program), _updates(program)
    phases: dict[int, Phase] = {}
    for equation in program.equations:
        marks = [name for name in _names(equation.scopes) if name in _MARKS]
        if _is_transposed(equation):
            phases[equation.index] = Phase.BACKWARD
        elif marks:
            phases[equation.index] = Phase(marks[-1])
        elif equation.index in updates:
            phases[equation.index] = Phase.UPDATE
        else:
            phases[equation.index] = Phase.BACKWARD if equation.index in prepared else Phase.FORWARD
    return phases


def _is_transposed(equation: Equation) -> bool:
    return "transpose(" in equation.scopes


def _is_straight(equation: Equation) -> bool:
    return not _is_transposed(equation)


def _is_swept(equation: Equation) -> bool:
    """Return whether an equation belongs to the forward sweep of a derivative."""
    return "jvp(" in equation.scopes and not _is_transposed(equation)


def _prepared(program: Program) -> set[int]:
    """Return equations that reach outputs through transposed equations only."""
    outputs = set(program.frames[0].results)
    straight = upstream(program, outputs, through=_is_straight, iterated=True)
    for run in _sweeps(program):
        if all(straight.isdisjoint(equation.results) for equation in run):
            # Only the gradient is returned; the jaxpr still contains the loss, unused.
            outputs.update(_unused(program, run))
    straight = upstream(program, outputs, through=_is_straight, iterated=True)
    runs = [run for run in _sweeps(program) if any(straight & set(s.results) for s in run)]
    prepared = {s.index for run in runs for s in run if straight.isdisjoint(s.results)}
    return prepared | _hoisted(program, straight, prepared)


def _hoisted(program: Program, straight: set[int], prepared: set[int]) -> set[int]:
    """Return equations without the scope of a derivative that only its backward pass uses."""
    # JAX computes what is the same in all iterations of a differentiated scan before it, and
    # drops the scopes. A cotangent that the user passes counts too.
    forward = [e for e in program.equations if _is_swept(e) and e.index not in prepared]
    results = {v for equation in forward for v in equation.results}
    used = straight | upstream(program, results, through=_is_straight, iterated=True)
    transposed = {v for e in program.equations if _is_transposed(e) for v in e.operands}
    passed = upstream(program, transposed, through=_is_straight, iterated=True) - used
    return {
        equation.index
        for equation in program.equations
        if not (_is_transposed(equation) or _is_swept(equation))
        and not passed.isdisjoint(equation.results)
    }


def _sweeps(program: Program) -> list[list[Equation]]:
    """Return the forward sweeps of each frame; a sweep ends where its transposition begins."""
    runs: dict[int, list[list[Equation]]] = {frame.index: [[]] for frame in program.frames}
    for equation in program.equations:
        of_frame = runs[equation.frame]
        if _is_swept(equation):
            of_frame[-1].append(equation)
        elif _is_transposed(equation) and of_frame[-1]:
            of_frame.append([])
    return [run for of_frame in runs.values() for run in of_frame if run]


def _unused(program: Program, equations: list[Equation]) -> set[int]:
    used = {value for equation in program.equations for value in equation.operands}
    used.update(value for frame in program.frames for value in frame.results)
    return {value for equation in equations for value in equation.results} - used


def _updates(program: Program) -> set[int]:
    """Return equations outside derivatives that use a gradient, or feed only such equations."""
    gradients = {v for s in program.equations if _is_transposed(s) for v in s.results}
    dependent = downstream(program, gradients)
    plain = [
        equation
        for equation in program.equations
        if not _is_transposed(equation) and not _is_swept(equation)
    ]
    found = {equation.index for equation in plain if not dependent.isdisjoint(equation.operands)}

    def is_before(equation: Equation) -> bool:
        return equation.index not in found

    differentiated = [s for s in program.equations if _is_transposed(s) or _is_swept(s)]
    into_derivatives = {v for equation in differentiated for v in equation.operands}
    needed_there = upstream(program, into_derivatives, through=is_before, iterated=False)
    into_updates = {v for index in found for v in program.equations[index].operands}
    needed_here = upstream(program, into_updates, through=is_before, iterated=False) - needed_there
    return found | {
        equation.index for equation in plain if not needed_here.isdisjoint(equation.results)
    }


def stack_of(equation: Equation) -> Iterator[CodeFrame]:
    """Yield an equation's Python frames, innermost first, including those of enclosing calls."""
    for eqn in (equation.eqn, *equation.callers):
        yield from _jax.equation_frames(eqn)


def user_frame(equation: Equation) -> CodeFrame | None:
    """Return the innermost frame outside installed libraries (nanlab counts as outside)."""
    return next((f for f in stack_of(equation) if not is_installed(f.file)), None)


def library_frame(equation: Equation) -> CodeFrame | None:
    """Return the innermost frame if it is in an installed library, skipping JAX's internals."""
    for frame in stack_of(equation):
        if not is_installed(frame.file):
            return None
        if not is_plumbing(frame.file):
            return frame
    return None


def is_plumbing(file: str) -> bool:
    """Return whether a file is of Python, nanlab, JAX's internals, or checks annotations."""
    return is_nanlab(file) or bool(_PLUMBING.search(file)) or is_standard(file)
