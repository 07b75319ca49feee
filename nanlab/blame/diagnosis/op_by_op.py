"""Reading -> whether a fault is the compiled program's alone, made by how it fuses operations.

A product whose rounding is skipped in a sum (a fused multiply-add) leaves the rounding error where
op by op there is 0: exp(x / t - max(x / t)) can overflow at the maximum.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend.finiteness import FINITE, array_code, as_numbers
from nanlab.blame.diagnosis.causal_walk import Event
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.probes.codes import Probe
from nanlab.blame.program.interpreter import Bind, bind_equation
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Frame, Program

ALONE = (
    "run operation by operation, every output is finite: how the compiler fuses or rewrites "
    "operations makes the fault"
)

MAX_POINTS = 60
"""Number of values before a fault that are computed again."""

MAX_BYTES = 2**29
"""Largest outputs of a program that is run operation by operation, which needs several times it."""

TOO_LARGE = (
    "whether the compiler's fusion of operations makes the fault was not examined: running a "
    "program of this size operation by operation takes too much memory"
)

_SUMS = {"add": np.add, "add_any": np.add, "sub": np.subtract}
_ROUNDINGS = 8
"""Difference of a sum, in units of its last place, that only fusion explains."""


def fusion_note(reading: Reading, events: Iterable[Event], arguments: Sequence[object]) -> str:
    """Return ALONE if every output is finite where each operation is compiled by itself.

    Args:
        reading: codes and arrays of the program.
        events: where the fault began.
        arguments: arguments of the program.

    Returns:
        ALONE, TOO_LARGE if the program is too large to be run so, or "". It is run so only if a sum
        before the fault is not that of its operands.
    """
    if not any(_is_fused(reading, point) for point in _before(reading, events)):
        return ""
    program = reading.probe.program
    if any(equation.eqn.effects for equation in program.equations):
        return ""
    outputs = [program.values[value] for value in program.frames[0].results]
    if sum(prod(v.shape) * getattr(v.dtype, "itemsize", 8) for v in outputs) > MAX_BYTES:
        return TOO_LARGE
    results, _ = OpByOp(program)(*arguments)
    codes = [int(array_code(jnp.asarray(x))) for x in jax.tree.leaves(results)]
    return "" if any(code != FINITE for code in codes) else ALONE


class OpByOp(Probe):
    """Runs a program operation by operation; no array outlives its last use.

    Args:
        program: program to run.
        bind_equation: function that runs an equation that contains no frames.
    """

    def __init__(self, program: Program, bind_equation: Bind = bind_equation) -> None:
        super().__init__(program, bind_equation, only=())

    def dead_after(self, frame: Frame) -> dict[int, list[int]]:
        """See `Interpreter.dead_after`."""
        last: dict[int, int] = {}
        for index in frame.equations:
            equation = self.program.equations[index]
            last |= dict.fromkeys((*equation.operands, *equation.results), index)
        dead: dict[int, list[int]] = {}
        for value in last.keys() - set(frame.results):
            dead.setdefault(last[value], []).append(value)
        return dead


def _before(reading: Reading, events: Iterable[Event]) -> list[Point]:
    """Return the nearest points before some events."""
    equations = reading.probe.program.equations
    queue = deque(
        Point(value, event.iterations)
        for event in events
        if event.equation is not None and event.is_computed
        for value in (*equations[event.equation].results, *equations[event.equation].operands)
    )
    found: dict[Point, None] = {}
    while queue and len(found) < MAX_POINTS:
        point = queue.popleft()
        if point not in found:
            found[point] = None
            queue.extend(reading.feeds(point))
    return list(found)


def _is_fused(reading: Reading, point: Point) -> bool:
    """Return whether a recorded sum differs from the sum of its recorded operands."""
    program = reading.probe.program
    equation = program.computed_by(point.value)
    if equation is None or equation.primitive not in _SUMS or program.n_shard_maps(equation.frame):
        return False
    points = [point, *(Point(v, point.iterations) for v in equation.operands)]
    arrays = [x for x in map(reading.array, points) if x is not None]
    if len(arrays) < 3 or arrays[0].dtype.kind != "f":
        return False
    recorded, left, right = map(as_numbers, arrays)
    with np.errstate(all="ignore"):
        again = _SUMS[equation.primitive](left, right)
        is_known = np.isfinite(again) & np.isfinite(recorded)
        difference = np.abs(recorded - again)
        tolerance = _ROUNDINGS * np.finfo(again.dtype).eps * np.abs(again)
        # Flushed subnormals are no fusion.
        is_off = difference > np.maximum(tolerance, 8 * np.finfo(again.dtype).tiny)
    return bool((is_off & is_known).any())
