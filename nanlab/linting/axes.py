"""Primitives that move elements: which axis of the result is which of the operand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from nanlab.blame.program.program import Equation

COPIES = {
    "copy", "copy_p", "stop_gradient", "optimization_barrier", "pvary", "pcast", "reshard",
    "sharding_constraint", "layout_constraint", "name", "psum_invariant_cast", "mesh_cast",
}  # fmt: skip
"""Primitives whose results are their operands."""

Axes: TypeAlias = "list[int | None]"
"""For each axis of a result the axis of the operand that it is; None for a new axis."""

MOVES = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose"}
"""Primitives whose result has the operand's elements in another shape."""


def axes_of(equation: Equation, before: Sequence[int], after: Sequence[int]) -> Axes | None:
    """Return which axis of its operand each axis of a result is; None if they do not correspond."""
    name, params = equation.primitive, equation.eqn.params
    if name == "transpose":
        return list(params["permutation"])
    if name == "broadcast_in_dim":
        return _placed(range(len(before)), params["broadcast_dimensions"], len(after))
    if name == "squeeze":
        dropped = {axis % len(before) for axis in params["dimensions"]}
        return [axis for axis in range(len(before)) if axis not in dropped]
    sources = [axis for axis, size in enumerate(before) if size != 1]
    targets = [axis for axis, size in enumerate(after) if size != 1]
    if [before[axis] for axis in sources] != [after[axis] for axis in targets]:
        return None
    return _placed(sources, targets, len(after))


def _placed(sources: Iterable[int], targets: Iterable[Any], ndim: int) -> Axes:
    axes: Axes = [None] * ndim
    for source, target in zip(sources, targets, strict=True):
        axes[target] = source
    return axes
