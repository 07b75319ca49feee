"""A value of a program in one iteration of each enclosing loop."""

from __future__ import annotations

from typing import NamedTuple


class Point(NamedTuple):
    """The number of a value, and the iterations of the enclosing loops, outermost first."""

    value: int
    iterations: tuple[int, ...] = ()
