"""An axis -> the numbers between its values, exactly.

A number that a search comes to is part of a run's identity, as an axis's own values are: it is the
float nearest to the exact one, on any machine, and the one that a finer axis would hold there. So
`{ logspace = [1e-4, 1.0], num = 9 }`, each step of it cut into 50, has the floats, and the runs, of
`num = 401`.
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

# What rounding may take from a width: a step of 0.5 holds 50 tolerances of 0.01, and not 51.
_SLACK = 1e-9


class Scale:
    """The continuum that an axis's values are taken from.

    Args:
        form: the axis as it is written; its numbers ascend, and on a log scale are positive.
        kind: whether a place between two values is in the middle of their logarithms.

    Attributes:
        kind: as above.
        many: how many values the axis has.
        widths: the distance from each value to the next, in log10 on a log scale.
    """

    def __init__(self, form: AxisForm, kind: Kind) -> None:
        self.kind: Kind = kind
        self._exact = _exact(form)
        self.many = len(self._exact)
        self.widths: tuple[float, ...] = tuple(self._width(a, b) for a, b in pairwise(self._exact))

    def _width(self, a: Fraction, b: Fraction) -> float:
        return float(_log10(b / a)) if self.kind == "log" else float(b - a)

    def width(self, lower: float, upper: float) -> float:
        """The distance between two numbers, as `widths` has it."""
        return self._width(*(Fraction(Decimal(repr(end))) for end in (lower, upper)))

    def number(self, step: int, place: Fraction) -> float:
        """The number at `place`, from 0 to 1, between value `step` and the next."""
        low = self._exact[step]
        if not place:
            return float(number_of(_decimal(low)))
        rise = self._exact[step + 1]
        if self.kind == "linear":
            return float(low + (rise - low) * place)
        ratio = EXACT.power(_decimal(rise / low), _decimal(place))
        return float(number_of(EXACT.multiply(_decimal(low), ratio)))


def _decimal(number: Fraction) -> Decimal:
    return EXACT.divide(Decimal(number.numerator), Decimal(number.denominator))


def _log10(ratio: Fraction) -> Decimal:
    return EXACT.log10(_decimal(ratio))


def _exact(form: AxisForm) -> list[Fraction]:
    if isinstance(form, Linspace | Logspace):
        return [Fraction(value) for value in form.exact()]
    values: Sequence[ParameterValue] = form if isinstance(form, list) else form.values()
    return [Fraction(Decimal(repr(value))) for value in values]


def parts(width: float, tolerance: float) -> int:
    """Into how many equal parts a width is cut, each at most the tolerance; at least 1."""
    return max(math.ceil(width / tolerance - _SLACK), 1)
