"""One equation under analysis: what a rule reads, and how it reports a danger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from nanlab.blame.program.program import Equation
from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import NEVER, Abstract, May
from nanlab.linting.axes import MOVES, axes_of
from nanlab.linting.danger import Danger
from nanlab.linting.floats import Ends, Mask, Number, float_type, is_float
from nanlab.linting.relations import Bound, BoundKind

if TYPE_CHECKING:
    from nanlab.linting.analysis import RangeAnalysis

FLOAT32_EPSILON = float(np.finfo(np.float32).eps)


class Here:
    """One equation under analysis.

    Args:
        analysis: the analysis of the program.
        equation: the equation.

    Attributes:
        analysis: the analysis of the program.
        equation: the equation.
        params: the equation's parameters.
        shape: shape of the first result.
        dtype: type of the first result.
    """

    def __init__(self, analysis: RangeAnalysis, equation: Equation) -> None:
        self.analysis, self.equation = analysis, equation
        self.params: Mapping[str, Any] = equation.eqn.params
        first = analysis.program.values[equation.results[0]]
        self.shape, self.dtype = first.shape, first.dtype

    # What a rule reads.

    def same(self, first: int = 0, second: int = 1) -> bool:
        """Return whether two operands are one and the same value."""
        return self.root(first) == self.root(second)

    def root(self, operand: int) -> int:
        """Return the value that an operand is a copy of."""
        return self.analysis.root(self.equation.operands[operand])

    def result_type(self, index: int) -> tuple[tuple[int, ...], Any]:
        """Return the shape and the type of a result."""
        value = self.analysis.program.values[self.equation.results[index]]
        return value.shape, value.dtype

    def bound(self, bounded: int, by: int, kind: BoundKind) -> Bound | None:
        """Return the bound of one operand by another, element by element."""
        known = self.analysis.of(self.equation.operands[bounded])
        found = [bound for bound in known.bounds if bound.kind == kind]
        if known.shape == ():  # one number for all elements
            found = [replace(bound, axes=(None,) * len(self.shape)) for bound in found]
        if not found:
            return None
        for value, axes in self._views(by):
            for bound in found:
                pairs = zip(bound.axes, axes, strict=True)
                if bound.value == value and all(a in (None, b) for a, b in pairs):
                    return bound
        return None

    def _views(self, operand: int) -> Iterator[tuple[int, Sequence[int | None]]]:
        """Yield the values that an operand is a view of, and which of their axes it has."""
        program, value = self.analysis.program, self.root(operand)
        axes: list[int | None] = list(range(len(program.values[value].shape)))
        yield value, axes
        while (maker := program.computed_by(value)) is not None and maker.primitive in MOVES:
            source = self.analysis.root(maker.operands[0])
            before, after = (program.values[v].shape for v in (source, value))
            inner = axes_of(maker, before, after)
            if inner is None:
                return
            axes = [None if axis is None else inner[axis] for axis in axes]
            value = source
            yield value, axes

    # What a rule returns.

    def value(
        self, lo: Any, hi: Any, *mays: May, ulps: Number = 0, roundings: Number = 0, **fields: Any
    ) -> Abstract:
        """Return the result.

        Args:
            lo: least finite value of each element.
            hi: greatest finite value of each element.
            *mays: where +inf, -inf and NaN may stand.
            ulps: error of a function computed in float32 or wider, in units of the last place.
            roundings: number of intermediate results that are rounded to the result's type.
            **fields: relations.

        Returns:
            The result, as exact arithmetic has it, before rounding.
        """
        lo, hi = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
        if ulps or roundings:
            kind = float_type(self.dtype)
            # In a narrow type the intermediate results of a function may be rounded, too.
            roundings += 2 if ulps and kind.epsilon > FLOAT32_EPSILON else 0
            error = ulps * self.epsilon + roundings * kind.epsilon
            slack = 4 * kind.zero_below if ulps else 0.0
            lo, hi = _lower(lo, error, slack), -_lower(-hi, error, slack)
        named = dict(zip(("posinf", "neginf", "nan"), mays, strict=False))
        return Abstract(self.shape, self.dtype, lo, hi, **named, **fields)

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next number of the type that is computed in, at least float32."""
        if not is_float(self.dtype):
            return 0.0
        return min(float_type(self.dtype).epsilon, FLOAT32_EPSILON)

    @property
    def largest(self) -> float:
        """The largest finite number of the first result's type."""
        return float_type(self.dtype).largest

    @property
    def is_widening(self) -> bool:
        """Whether it converts to a type in which every number fits."""
        if self.equation.primitive != "convert_element_type":
            return False
        source = self.analysis.program.values[self.equation.operands[0]].dtype
        return not is_float(source) or float_type(source).largest <= self.largest

    # How a rule reports.

    def danger(
        self, mechanism: Mechanism, where: Any, operand: int = 0, what: str = "", value: Any = None
    ) -> May:
        """Report where a bad value may arise from harmless operands.

        Args:
            mechanism: arithmetic by which it arises.
            where: elements at which it may.
            operand: the operand to blame.
            what: what this operand would do, as "can be 0".
            value: this operand.

        Returns:
            Where the bad value may stand, made by this equation.
        """
        mask: Mask = np.asarray(where)
        self.analysis.check(self.equation.index)
        if not mask.any():
            return NEVER
        danger = Danger(mechanism=mechanism, operand=operand, what=what, value=value)
        self.analysis.record(self.equation.index, danger)
        return self.analysis.made(self.equation.index, mask)

    def overflow(self, where: Any) -> May:
        """Report where intermediate sums or products may overflow."""
        mask: Mask = np.asarray(where)
        return self.analysis.overflow(self, None, mask) if mask.any() else NEVER

    def meeting(self, mechanism: Mechanism, where: Any, infs: May) -> May:
        """Report where infs that were made before may turn to NaN."""
        mask: Mask = np.asarray(where)
        if not mask.any() or not infs:
            return NEVER
        self.analysis.record_meeting(self.equation.index, mechanism, infs.makers)
        return May(mask, infs.makers | {self.equation.index})


def _lower(ends: Ends, error: float, slack: float) -> Ends:
    """Return ends lowered by an error, but not below zero if they are not."""
    lowered = np.where(np.isinf(ends), ends, ends - error * abs(ends) - slack)
    return np.where(ends >= 0, np.maximum(lowered, 0), lowered)


def at_corners(function: Callable[..., Any], *operands: Abstract) -> tuple[Ends, Ends]:
    """Return the range of a function that is monotone in each operand, for finite operands."""
    empty = reduce(np.logical_or, [operand.empty for operand in operands])
    ends = [(np.where(a.empty, 1.0, a.lo), np.where(a.empty, 1.0, a.hi)) for a in operands]
    values = [function(*corner) for corner in product(*ends)]
    lo, hi = reduce(np.minimum, values), reduce(np.maximum, values)
    return np.where(empty, np.inf, lo), np.where(empty, -np.inf, hi)
