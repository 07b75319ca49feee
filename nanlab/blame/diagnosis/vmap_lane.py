"""Causal path -> lane: which lane of a `vmap` went bad.

A jaxpr does not record which axis of an array a vmap batches. Where values leave the vmap it is
the first, unless out_axes says differently. So the lane is read off the last value inside the vmap
on the path from the equation to a bad output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nanlab.blame.diagnosis.contents import first_bad
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation, Program

_VMAP = "vmap("
Lane = int | tuple[int, ...]


def lane_of(
    reading: Reading, equation: Equation, path: Sequence[Point], element: tuple[int, ...] | None
) -> Lane | None:
    """Return the lane in which an equation went bad.

    Args:
        reading: codes and arrays of the program.
        equation: the equation.
        path: points from its result to a bad output.
        element: index of a bad element of its result, used where the path does not help.

    Returns:
        The lane, a tuple (outermost first) for nested vmaps; None if all lanes share the fault.
    """
    program = reading.probe.program
    shape = program.values[equation.results[0]].shape if equation.results else ()
    is_backward = "transpose(" in equation.scopes
    lanes: list[int] = []
    indices: list[int] = []  # like lanes, but with the vmaps whose lanes all share the equation
    for level in range(equation.scopes.count(_VMAP)):
        inside = _inside(program, equation, level, path)
        is_shared = _is_shared(program, inside, level)
        # Gradients of shared values are summed over the lanes before they leave the vmap.
        last = reading.array(inside[-1]) if inside and not is_backward else None
        if last is None:
            if element is None or len(element) <= level:
                return None
            lanes += [] if is_shared else [element[level]]
            indices.append(element[level])
            continue
        bad = first_bad(np.asarray(last[tuple(indices)])) if last.ndim > level else None
        if not bad:
            return None
        lane = bad[0]
        if element is not None and len(element) > level and shape[level] == last.shape[level]:
            # Other lanes may go bad on the way: prefer the equation's own if it is bad here too.
            own = np.asarray(last[(*indices, element[level])])
            lane = element[level] if first_bad(own) is not None else lane
        indices.append(lane)
        is_shared = is_shared or last.shape[level] not in shape
        if not is_shared and not _are_all_bad(last, indices):
            lanes.append(lane)
    if not lanes:
        return None
    return lanes[0] if len(lanes) == 1 else tuple(lanes)


def _are_all_bad(array: np.ndarray, indices: Sequence[int]) -> bool:
    """Return whether all lanes of the innermost vmap are bad: the fault is not one lane's."""
    lanes = array[tuple(indices[:-1])]
    return len(lanes) > 1 and all(first_bad(np.asarray(lane)) is not None for lane in lanes)


def _is_shared(program: Program, inside: Sequence[Point], level: int) -> bool:
    """Return whether the vmap adds its axis, of size 1, on the path: the lanes share the value."""
    for point in inside:
        value = program.values[point.value]
        assert value.equation is not None
        equation = program.equations[value.equation]
        if equation.primitive == "broadcast_in_dim":
            axes = equation.eqn.params["broadcast_dimensions"]
            if level not in axes and value.shape[level : level + 1] == (1,):
                return True
    return False


def _inside(program: Program, equation: Equation, level: int, path: Sequence[Point]) -> list[Point]:
    """Return the points on the path whose equations are inside the same vmap of this level."""
    end = -1
    for _ in range(level + 1):
        end = equation.scopes.index(_VMAP, end + 1)
    scope = equation.scopes[: end + len(_VMAP)]
    inside: list[Point] = []
    for point in path:
        maker = program.values[point.value].equation
        if maker is not None and program.equations[maker].scopes.startswith(scope):
            inside.append(point)
    return inside
