"""Relations that travel with a value: x is at most max(x), |x| at most norm(x), and the like.

A relation compares with another value of the program, element by element along the axes that both
have, and with all elements along the axes that only the other has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

BoundKind = Literal["above", "square", "norm", "inverse"]


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound of this value y by another one, x, times a number.

    Attributes:
        kind: "above": y >= scale * x. "square": y >= scale * x². "norm": y >= scale * |x|.
            "inverse": |y * x| <= scale.
        value: number of the other value, x.
        scale: the number.
        axes: for each axis of y, the axis of x that runs with it; None for an axis along which y
            is the same.
        is_maximum: whether y is the maximum of x over the axes that y lacks.
    """

    kind: BoundKind
    value: int
    scale: float
    axes: tuple[int | None, ...]
    is_maximum: bool = False

    def moved(self, axes: Sequence[int | None]) -> Bound:
        """Return the bound of an array whose axes are these axes of y; None for a new one."""
        return replace(self, axes=tuple(None if a is None else self.axes[a] for a in axes))


@dataclass(frozen=True, slots=True)
class Peak:
    """A number that an element reaches in each row along some axes: 0 for x - max(x).

    Attributes:
        least: the number; such an element is at least as large.
        axes: the axes of the row.
    """

    least: float
    axes: tuple[int, ...]

    def moved(self, axes: Sequence[int | None]) -> Peak | None:
        """Return the peak of an array whose axes are these axes of y; None if the row is cut."""
        places = tuple(i for i, axis in enumerate(axes) if axis in self.axes)
        return replace(self, axes=places) if len(places) == len(self.axes) else None


def scaled(
    bounds: Sequence[Bound], factor: float, kinds: Sequence[BoundKind] = ("above", "square", "norm")
) -> tuple[Bound, ...]:
    """Return the bounds of y * factor, for a positive factor."""
    return tuple(
        replace(b, scale=b.scale * factor, is_maximum=False) for b in bounds if b.kind in kinds
    )


def turned(
    bounds: Sequence[Bound], kind: BoundKind, into: BoundKind, function: Callable[[float], float]
) -> tuple[Bound, ...]:
    """Return the bounds of one kind as bounds of another, with this function of their scale."""
    return tuple(
        replace(b, kind=into, scale=function(b.scale), is_maximum=False)
        for b in bounds
        if b.kind == kind and b.scale > 0
    )
