"""Axis -> the numbers between its values, exactly.

The numbers that a search visits are part of a run's identity, as an axis's own values are: each is
the float nearest to the exact number, on any machine, and equals the value of a finer axis there.
So `{ logspace = [1e-4, 1.0], num = 9 }` with each step cut into 50 has the floats, and hence the
runs, of `num = 401`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from nanlab.grid.axes import EXACT, AxisForm, Linspace, Logspace, number_of
from nanlab.grid.parameter_types import ParameterValue

Kind = Literal["log", "linear"]
KINDS: tuple[Kind, ...] = ("log", "linear")

# Round-off of a width: a step of 0.5 is 50 tolerances of 0.01, not 51.
_SLACK = 1e-9


class Scale:
    """The continuum that an axis samples.

    Args:
        form: the axis as written; its numbers ascend, and are positive on a log scale.
        kind: whether distances are measured between logarithms or between the numbers.

    Attributes:
        kind: as above.
        widths: distance from each value to the next, in log10 on a log scale.
    """

    def __init__(self, form: AxisForm, kind: Kind) -> None:
        self.kind: Kind = kind
        self._exact = _exact(form)
        self.widths: tuple[float, ...] = tuple(self._width(a, b) for a, b in pairwise(self._exact))

    def _width(self, a: Fraction, b: Fraction) -> float:
        return float(EXACT.log10(_decimal(b / a))) if self.kind == "log" else float(b - a)

    def width(self, lower: float, upper: float) -> float:
        """Return the distance between two numbers, in the unit of `widths`."""
        return self._width(*(Fraction(Decimal(repr(end))) for end in (lower, upper)))

    def number(self, step: int, fraction: Fraction) -> float:
        """Return the number at a fraction (0 to 1) of the way from value `step` to the next."""
        low = self._exact[step]
        if not fraction:
            return float(number_of(_decimal(low)))
        high = self._exact[step + 1]
        if self.kind == "linear":
            return float(low + (high - low) * fraction)
        ratio = EXACT.power(_decimal(high / low), _decimal(fraction))
        return float(number_of(EXACT.multiply(_decimal(low), ratio)))


def _decimal(number: Fraction) -> Decimal:
    return EXACT.divide(Decimal(number.numerator), Decimal(number.denominator))


def _exact(form: AxisForm) -> list[Fraction]:
    if isinstance(form, Linspace | Logspace):
        return [Fraction(value) for value in form.exact()]
    values: Sequence[ParameterValue] = form if isinstance(form, list) else form.values()
    return [Fraction(Decimal(repr(value))) for value in values]


def subdivisions(width: float, tolerance: float) -> int:
    """Return the least number of equal parts of `width` that are within the tolerance."""
    return max(math.ceil(width / tolerance - _SLACK), 1)
