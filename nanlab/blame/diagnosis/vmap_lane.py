"""Way out of an equation -> lane: which element of a `vmap` went bad.

A jaxpr does not say which axis of an array a vmap batches. Where values leave the vmap it is the
first (unless its out_axes say otherwise): so the lane is read off the last value, on the way from
the equation to a bad output, that is still inside.
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
    reading: Reading, equation: Equation, out: Sequence[Point], element: tuple[int, ...] | None
) -> Lane | None:
    """The lane, of nested vmaps one for each, outermost first; None if all lanes share the fault.

    Args:
        reading: with what values held.
        equation: the equation.
        out: the points from its result to a bad output.
        element: a bad element of its result, which tells where nothing else does.
    """
    program = reading.probe.program
    shape = program.values[equation.results[0]].shape if equation.results else ()
    is_backward = "transpose(" in equation.scopes
    lanes: list[int] = []
    places: list[int] = []  # as lanes, but of vmaps too whose lanes all share the equation
    for level in range(equation.scopes.count(_VMAP)):
        inside = _inside(program, equation, level, out)
        # Gradients of what is shared are summed over the lanes before they leave.
        held = reading.held(inside[-1]) if inside and not is_backward else None
        if held is None:
            if element is None or len(element) <= level:
                return None
            lanes.append(element[level])
            places.append(element[level])
            continue
        bad = first_bad(np.asarray(held[tuple(places)])) if held.ndim > level else None
        if not bad:
            return None
        lane = bad[0]
        if element is not None and len(element) > level and shape[level] == held.shape[level]:
            # Other lanes may go bad on the way; the equation's own is one that is bad here too.
            own = np.asarray(held[(*places, element[level])])
            lane = element[level] if first_bad(own) is not None else lane
        places.append(lane)
        if held.shape[level] in shape and not _are_all_bad(held, places):
            lanes.append(lane)
    if not lanes:
        return None
    return lanes[0] if len(lanes) == 1 else tuple(lanes)


def _are_all_bad(held: np.ndarray, places: Sequence[int]) -> bool:
    """Whether every lane of the innermost of some levels is bad: then it is none's own."""
    lanes = held[tuple(places[:-1])]
    return len(lanes) > 1 and all(first_bad(np.asarray(lane)) is not None for lane in lanes)


def _inside(program: Program, equation: Equation, level: int, out: Sequence[Point]) -> list[Point]:
    """The points on the way out whose equations are inside the same vmap of this level."""
    end = -1
    for _ in range(level + 1):
        end = equation.scopes.index(_VMAP, end + 1)
    around = equation.scopes[: end + len(_VMAP)]
    inside: list[Point] = []
    for point in out:
        made_by = program.values[point.value].equation
        if made_by is not None and program.equations[made_by].scopes.startswith(around):
            inside.append(point)
    return inside
