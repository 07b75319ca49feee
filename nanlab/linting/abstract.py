"""The abstract value: an interval for each element, and where +inf, -inf and NaN may stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from nanlab.linting.floats import (
    Ends,
    Mask,
    Number,
    float_type,
    integer_range,
    is_complex,
    is_float,
)
from nanlab.linting.relations import Bound, Peak

MOST_ELEMENTS = 1 << 15
"""Larger arrays have one interval for all their elements."""

INPUT, CONSTANT = -1, -2
"""Makers that are no equation: an argument, and a constant of the program."""


class May(NamedTuple):
    """Where a bad value may stand, and the equations that may have made it.

    Attributes:
        where: elements at which it may stand.
        makers: numbers of the equations; empty if it stands nowhere.
    """

    where: Mask
    makers: frozenset[int]

    def __or__(self, other: May) -> May:
        """Return where either may stand."""
        if not self.makers or not other.makers:
            return self if self.makers else other
        return May(self.where | other.where, self.makers | other.makers)

    def __and__(self, mask: Any) -> May:
        """Return where it may stand inside a mask."""
        if not self.makers:
            return self
        where = self.where & mask
        return May(where, self.makers) if where.any() else NEVER

    def __bool__(self) -> bool:
        """Return whether it may stand anywhere."""
        return bool(self.makers)

    def map(self, function: Callable[[Any], Any]) -> May:
        """Return it in an array of another shape."""
        return May(function(self.where), self.makers) if self.makers else self


NEVER = May(np.zeros((), bool), frozenset())


@dataclass(slots=True, eq=False)
class Abstract:
    """Every value that an array may have.

    Attributes:
        shape: shape of the array.
        dtype: type of the array.
        lo: least finite value of each element; +inf where none is finite.
        hi: greatest finite value of each element; -inf where none is finite.
        posinf: where +inf may stand.
        neginf: where -inf may stand.
        nan: where NaN may stand.
        bounds: relations to other values of the program.
        peak: a number that an element in each row reaches.
        nonzero: whether no element is zero, although an interval may contain it.
    """

    shape: tuple[int, ...]
    dtype: Any
    lo: Ends
    hi: Ends
    posinf: May = NEVER
    neginf: May = NEVER
    nan: May = NEVER
    bounds: tuple[Bound, ...] = ()
    peak: Peak | None = None
    nonzero: bool = False

    def __post_init__(self) -> None:
        """Give all arrays as many axes as the shape has."""
        axes = len(self.shape)
        self.lo, self.hi = _aligned(self.lo, axes), _aligned(self.hi, axes)
        for name in ("posinf", "neginf", "nan"):
            may: May = getattr(self, name)
            if not may.makers or not may.where.any():
                setattr(self, name, NEVER)
            elif may.where.ndim != axes:
                setattr(self, name, May(_aligned(may.where, axes), may.makers))

    @property
    def empty(self) -> Mask:
        """Elements that have no finite value."""
        return self.lo > self.hi

    @property
    def infs(self) -> May:
        """Where +inf or -inf may stand."""
        return self.posinf | self.neginf

    @property
    def bad(self) -> May:
        """Where +inf, -inf or NaN may stand."""
        return self.posinf | self.neginf | self.nan

    @property
    def least(self) -> float:
        """The least finite value; +inf if there is none."""
        return float(self.lo.min(initial=np.inf))

    @property
    def greatest(self) -> float:
        """The greatest finite value; -inf if there is none."""
        return float(self.hi.max(initial=-np.inf))

    @property
    def magnitude(self) -> float:
        """The greatest absolute finite value; 0 if there is none."""
        return max(-self.least, self.greatest, 0.0)

    @property
    def is_point(self) -> bool:
        """Whether all elements are one and the same finite number."""
        return not self.bad and self.least == self.greatest

    def near(self, number: Number) -> Mask:
        """Return the elements that may be this number; subnormals may be zero."""
        if number == 0 and self.nonzero:
            return np.zeros_like(self.lo, bool)
        if number == 0 and is_float(self.dtype):
            number, margin = 0.0, float_type(self.dtype).zero_below
            return (self.lo < margin) & (self.hi > -margin) & ~self.empty
        return (self.lo <= number) & (number <= self.hi)

    def map(self, function: Callable[[Any], Any], shape: Sequence[int], **changes: Any) -> Abstract:
        """Return these elements in an array of another shape; relations end unless given."""
        moved: dict[str, Any] = {
            "lo": function(self.lo),
            "hi": function(self.hi),
            "posinf": self.posinf.map(function),
            "neginf": self.neginf.map(function),
            "nan": self.nan.map(function),
            "nonzero": self.nonzero,
        }
        return Abstract(tuple(shape), changes.pop("dtype", self.dtype), **(moved | changes))

    def uniform(self, shape: Sequence[int] | None = None) -> Abstract:
        """Return one interval for all elements, in an array of this or another shape."""
        ones = (1,) * len(self.shape if shape is None else shape)

        def least(ends: Ends) -> Ends:
            return np.full(ones, ends.min(initial=np.inf))

        def anywhere(mask: Mask) -> Mask:
            return np.full(ones, mask.any())

        return Abstract(
            self.shape if shape is None else tuple(shape),
            self.dtype,
            least(self.lo),
            -least(-self.hi),
            self.posinf.map(anywhere),
            self.neginf.map(anywhere),
            self.nan.map(anywhere),
            bounds=self.bounds if shape is None else (),
            peak=self.peak if shape is None else None,
            nonzero=self.nonzero,
        )

    def alone(self) -> Abstract:
        """Return it without relations to other values."""
        return replace(self, bounds=(), peak=None) if self.bounds or self.peak else self


def _aligned(array: Any, axes: int) -> Any:
    array = np.asarray(array)
    return array if array.ndim == axes else array.reshape((1,) * (axes - array.ndim) + array.shape)


def interval(shape: Sequence[int], dtype: Any, lo: Any, hi: Any, **fields: Any) -> Abstract:
    """Return an array of finite values between two ends."""
    low, high = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
    return Abstract(tuple(shape), dtype, low, high, **fields)


def anything(shape: Sequence[int], dtype: Any, **fields: Any) -> Abstract:
    """Return an array of any finite values of a type."""
    if is_float(dtype):
        largest = float_type(dtype).largest
        return interval(shape, dtype, -largest, largest, **fields)
    if is_complex(dtype):  # not followed
        return interval(shape, dtype, -np.inf, np.inf, **fields)
    return interval(shape, dtype, *integer_range(dtype), **fields)


def constant(array: Any, dtype: Any) -> Abstract:
    """Return an array whose elements are known."""
    array = np.asarray(array)
    if is_complex(array.dtype):
        bad, least = ~np.isfinite(array), float_type(array.dtype).zero_below
        nan = May(bad, frozenset({CONSTANT})) if bad.any() else NEVER
        nonzero = bool((np.abs(array) >= least).all())
        return anything(array.shape, dtype, nan=nan, nonzero=nonzero)
    if array.dtype.kind not in "fiub" and not is_float(array.dtype):
        return anything(array.shape, dtype)
    numbers = array.astype(np.float64)
    finite = np.isfinite(numbers)
    lo, hi = np.where(finite, numbers, np.inf), np.where(finite, numbers, -np.inf)

    def standing(mask: Mask) -> May:
        return May(mask, frozenset({CONSTANT})) if mask.any() else NEVER

    value = Abstract(
        array.shape, dtype, lo, hi,
        standing(np.isposinf(numbers)), standing(np.isneginf(numbers)), standing(np.isnan(numbers)),
    )  # fmt: skip
    value = flushed(value)
    is_uniform = array.size > 1 and (numbers == numbers.flat[0]).all()
    return value.uniform() if is_uniform or array.size > MOST_ELEMENTS else value


def flushed(value: Abstract) -> Abstract:
    """Return a value whose subnormals may be zero as well."""
    if not is_float(value.dtype):
        return value
    below = float_type(value.dtype).zero_below
    lo = np.where((value.lo > 0) & (value.lo < below), 0.0, value.lo)
    hi = np.where((value.hi < 0) & (value.hi > -below), 0.0, value.hi)
    return replace(value, lo=lo, hi=hi)


def joined(first: Abstract, *others: Abstract) -> Abstract:
    """Return what is one of these values; relations that all have remain."""
    for other in others:
        first = Abstract(
            first.shape,
            first.dtype,
            np.minimum(first.lo, other.lo),
            np.maximum(first.hi, other.hi),
            first.posinf | other.posinf,
            first.neginf | other.neginf,
            first.nan | other.nan,
            bounds=tuple(bound for bound in first.bounds if bound in other.bounds),
            nonzero=first.nonzero and other.nonzero,
        )
    return first


def within(value: Abstract, outer: Abstract) -> bool:
    """Return whether `outer` covers all that `value` may be, with the same makers."""
    pairs = ((value.posinf, outer.posinf), (value.neginf, outer.neginf), (value.nan, outer.nan))
    return bool(
        ((value.lo >= outer.lo) | value.empty).all()
        and ((value.hi <= outer.hi) | value.empty).all()
        and all(a.makers <= b.makers and (b.where | ~a.where).all() for a, b in pairs if a)
    )
