"""A value of a program in one iteration of each loop around it."""

from __future__ import annotations

from typing import NamedTuple


class Point(NamedTuple):
    """A value, and the iterations of the loops around it, outermost first."""

    value: int
    iterations: tuple[int, ...] = ()
