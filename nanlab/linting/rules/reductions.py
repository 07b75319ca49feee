"""Rules of reductions and products of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import NEVER, Abstract, May, anything
from nanlab.linting.floats import Number, float_type, is_float
from nanlab.linting.here import Here
from nanlab.linting.relations import Bound
from nanlab.linting.rules.elementwise import neg


def _over(value: Abstract, axes: Sequence[int], name: str) -> May:
    return getattr(value, name).map(lambda mask: mask.any(axis=tuple(axes)))


def rounding(here: Here, count: Number) -> float:
    """Return the relative error of a sum of `count` numbers, in whatever order."""
    error = count * float_type(here.dtype).epsilon / 2
    return error / (1 - error) if error < 0.5 else float(np.expm1(min(error, 80.0)))


def sum_with_error(
    here: Here, lo: Any, hi: Any, size: Any, count: Number, signs: tuple[Any, Any] | None = None
) -> tuple[Any, Any]:
    """Return the ends of a sum with its rounding.

    Args:
        here: the equation.
        lo: least sum without rounding.
        hi: greatest sum without rounding.
        size: bound of the sum of absolute values.
        count: number of summands.
        signs: least sum of the negative summands and greatest of the positive ones, where summands
            differ. Where there are none of one sign, the sum has none either, rounded or not.

    Returns:
        The ends.
    """
    error = rounding(here, count) * size
    below, above = signs or (lo, hi)
    return np.where(below >= 0, np.maximum(lo - error, 0), lo - error), np.where(
        above <= 0, np.minimum(hi + error, 0), hi + error
    )


def _elements(value: Abstract, array: Any, axes: Sequence[int]) -> int:
    """Return how many elements each number of a compressed array stands for along axes."""
    return int(np.prod([value.shape[a] for a in axes if array.shape[a] == 1], initial=1))


def reduce_sum(here: Here, a: Abstract, *rest: Abstract) -> Abstract:
    """Return the sum along axes."""
    axes = tuple(here.params["axes"])
    n = int(np.prod([a.shape[axis] for axis in axes], initial=1))
    if n == 0:
        return here.value(0.0, 0.0)

    def total(ends: Any) -> Any:
        return np.where(a.empty, 0.0, ends).sum(axis=axes) * _elements(a, a.empty, axes)

    def full(ends: Any) -> Any:
        return np.broadcast_to(ends, a.empty.shape)

    lo, hi = total(full(a.lo)), total(full(a.hi))
    below, above = total(full(np.minimum(a.lo, 0))), total(full(np.maximum(a.hi, 0)))
    over = _partial_overflow(here, above, -below)
    size = total(full(np.maximum(abs(a.lo), abs(a.hi))))
    if is_float(here.dtype):
        lo, hi = sum_with_error(here, lo, hi, size, n, (below, above))
    # An element is no more than the sum of numbers that are not negative, rounded or not.
    least_one = np.where(a.empty, 0.0, full(a.lo)).max(axis=axes)
    lo = np.where(least_one.min(initial=np.inf) >= 0, np.maximum(lo, least_one), lo) if (
        not a.least < 0 and not a.neginf) else lo  # fmt: skip
    posinf, neginf = _over(a, axes, "posinf"), _over(a, axes, "neginf")
    clash = posinf.where & neginf.where
    nan = _over(a, axes, "nan") | here.meeting(Mechanism.INF_MINUS_INF, clash, a.infs)
    posinf, neginf, nan = posinf | over, neginf | over, nan | over
    is_positive = not a.least < 0 and not a.neginf
    if is_positive and a.peak and set(a.peak.axes) <= set(axes):
        lo = np.maximum(lo, a.peak.least)
    bounds = _of_rows(here, a, axes) if is_positive else ()
    return here.value(lo, hi, posinf, neginf, nan, bounds=bounds)


def _partial_overflow(here: Here, above: Any, below: Any) -> May:
    """Report where a partial sum may overflow; the order of a sum is not known."""
    if not is_float(here.dtype):
        return NEVER
    return here.overflow(
        (above > here.largest) & (below > 0) | (below > here.largest) & (above > 0)
    )


def _kept(a: Abstract, axes: Sequence[int]) -> list[int]:
    return [axis for axis in range(len(a.shape)) if axis not in axes]


def _of_rows(here: Here, a: Abstract, axes: Sequence[int]) -> tuple[Bound, ...]:
    """Return the bounds of a sum of positive numbers: it is at least each of them."""
    axes_left = _kept(a, axes)
    own = Bound("above", here.root(0), 1.0, tuple(axes_left))
    inner = [b.moved(axes_left) for b in a.bounds if b.kind in ("square", "above", "norm")]
    return (own, *(replace(bound, is_maximum=False) for bound in inner))


def reduce_max(here: Here, a: Abstract, *rest: Abstract) -> Abstract:
    """Return the maximum along axes; it is at least each element."""
    axes = tuple(here.params["axes"])
    if not np.prod([a.shape[axis] for axis in axes], initial=1):
        return anything(here.shape, here.dtype)
    found = _maximum(here, a, axes)
    bound = Bound("above", here.root(0), 1.0, tuple(_kept(a, axes)), is_maximum=not found.neginf)
    return replace(found, bounds=(bound,))


def _maximum(here: Here, a: Abstract, axes: tuple[int, ...]) -> Abstract:
    # What may be -inf does not raise the least maximum.
    certain = np.where(a.neginf.where | a.empty, -np.inf, a.lo)
    lo = certain.max(axis=axes)
    lowest = np.where(a.empty, np.inf, a.lo).min(axis=axes)
    hi = np.broadcast_to(a.hi, certain.shape).max(axis=axes)
    lo = np.where(np.isneginf(lo), lowest, lo)
    neginf = a.neginf.map(lambda mask: mask.all(axis=axes))
    neginf = neginf if neginf.where.any() else NEVER
    return here.value(lo, hi, _over(a, axes, "posinf"), neginf, _over(a, axes, "nan"))


def reduce_min(here: Here, a: Abstract, *rest: Abstract) -> Abstract:
    """Return the minimum along axes."""
    axes = tuple(here.params["axes"])
    if not np.prod([a.shape[axis] for axis in axes], initial=1):
        return anything(here.shape, here.dtype)
    negated = replace(a, lo=-a.hi, hi=-a.lo, posinf=a.neginf, neginf=a.posinf)
    return neg(here, _maximum(here, negated, axes))


def product_of(here: Here, a: Abstract, count: int) -> Abstract:
    """Return the product of up to `count` elements."""
    far = a.uniform(here.shape)
    most = float(np.power(max(a.magnitude, 1.0), float(count)))
    least = float(np.power(max(min(a.least, 1.0), 0.0), float(count)))
    lo = -most if a.least < 0 else least
    zeros = here.meeting(Mechanism.ZERO_TIMES_INF, far.infs.where, far.infs)
    if is_float(here.dtype) and most > here.largest and a.near(0).any():
        zeros = zeros | here.overflow(np.ones((), bool))
    neginf = far.infs if a.least < 0 or a.neginf else NEVER
    return here.value(lo, most, far.infs, neginf, far.nan | zeros, roundings=count)


def reduce_prod(here: Here, a: Abstract, *rest: Abstract) -> Abstract:
    """Return the product along axes."""
    n = int(np.prod([a.shape[axis] for axis in here.params["axes"]], initial=1))
    return product_of(here, a, n)


def cumprod(here: Here, a: Abstract) -> Abstract:
    """Return the products of the first elements."""
    return product_of(here, a, a.shape[here.params["axis"]])


def cumsum(here: Here, a: Abstract) -> Abstract:
    """Return the sums of the first elements."""
    n, flat = a.shape[here.params["axis"]], a.uniform()
    lo, hi = np.minimum(flat.lo, flat.lo * n), np.maximum(flat.hi, flat.hi * n)
    if is_float(here.dtype):
        lo, hi = sum_with_error(here, lo, hi, n * a.magnitude, n)
    clash = flat.posinf.where & flat.neginf.where
    over = _partial_overflow(here, np.maximum(flat.hi * n, 0), np.maximum(-flat.lo * n, 0))
    nan = flat.nan | here.meeting(Mechanism.INF_MINUS_INF, clash, flat.infs) | over
    return here.value(lo, hi, flat.posinf | over, flat.neginf | over, nan)


def cumlogsumexp(here: Here, a: Abstract) -> Abstract:
    """Return the log-sum-exp of the first elements; at least each of them."""
    n, flat = a.shape[here.params["axis"]], a.uniform()
    hi = flat.hi + np.log(max(n, 1))
    return here.value(flat.lo, hi, flat.posinf, flat.neginf, flat.nan, ulps=4 + n)


def reduce_and(here: Here, a: Abstract) -> Abstract:
    """Return whether all are true."""
    return _logical(here, a, np.min)


def reduce_or(here: Here, a: Abstract) -> Abstract:
    """Return whether any is true."""
    return _logical(here, a, np.max)


def _logical(here: Here, a: Abstract, function: Callable[..., Any]) -> Abstract:
    if a.dtype != np.bool_ or not np.prod(a.shape):
        return anything(here.shape, here.dtype)
    axes = tuple(here.params["axes"])
    return here.value(function(a.lo, axis=axes), function(a.hi, axis=axes))


def argmax(here: Here, a: Abstract) -> Abstract:
    """Return an index."""
    (axis,) = here.params["axes"]
    return here.value(0.0, max(a.shape[axis] - 1, 0))


def window_sum(here: Here, a: Abstract) -> Abstract:
    """Return sums of windows."""
    return sum_of(here, a.uniform(here.shape), int(np.prod(here.params["window_dimensions"])))


def sum_of(here: Here, a: Abstract, most: int, *, least: int = 0) -> Abstract:
    """Return the sum of `least` to `most` elements that are like this one."""
    lo = np.where(a.empty, 0, np.minimum(a.lo * most, a.lo * least))
    hi = np.where(a.empty, 0, np.maximum(a.hi * most, a.hi * least))
    if is_float(here.dtype):
        lo, hi = sum_with_error(here, lo, hi, most * a.magnitude, most)
    clash = a.posinf.where & a.neginf.where
    over = _partial_overflow(here, np.maximum(a.hi * most, 0), np.maximum(-a.lo * most, 0))
    nan = a.nan | here.meeting(Mechanism.INF_MINUS_INF, clash, a.infs) | over
    return here.value(lo, hi, a.posinf | over, a.neginf | over, nan)


def windows(here: Here, a: Abstract) -> Abstract:
    """Return elements of windows, or the border's: -inf for a maximum of nothing."""
    return a.uniform(here.shape)


def scatter_windows(here: Here, a: Abstract, *rest: Abstract) -> Abstract:
    """Return the sums of what windows hand back to their elements."""
    return sum_of(here, a.uniform(here.shape), int(np.prod(here.params["window_dimensions"])))


def psum(here: Here, *operands: Abstract) -> list[Abstract]:
    """Return sums over devices, of a number that is not known."""
    found: list[Abstract] = []
    for a in operands:
        lo, hi = np.minimum(a.lo, a.lo * 1024), np.maximum(a.hi, a.hi * 1024)
        found.append(
            replace(
                a.alone(), lo=lo, hi=hi, nan=a.nan | (a.infs if a.posinf and a.neginf else NEVER)
            )
        )
    return found


def across(here: Here, *operands: Abstract) -> list[Abstract]:
    """Return elements of other devices."""
    return [operand.uniform(here.result_type(index)[0]) for index, operand in enumerate(operands)]


def dot_general(here: Here, a: Abstract, b: Abstract, *rest: Abstract) -> Abstract:
    """Return the product of matrices."""
    (a_axes, b_axes), (a_batch, b_batch) = here.params["dimension_numbers"]
    n = int(np.prod([a.shape[axis] for axis in a_axes], initial=1))
    is_gram = here.same() and a_axes == b_axes and a_batch == b_batch
    is_square = is_gram and len(here.shape) == len(a_batch)
    return _products(here, a, b, n, is_square=is_square)


def _products(here: Here, a: Abstract, b: Abstract, n: int, *, is_square: bool = False) -> Abstract:
    x, y = a.uniform(()), b.uniform(())
    ends = [np.where(v.empty, 0.0, end) for v in (x, y) for end in (v.lo, v.hi)]
    corners = [p * q for p in ends[:2] for q in ends[2:]]
    lo, hi = n * min(corners), n * max(corners)
    if is_square:
        lo = np.maximum(lo, 0)
    if is_float(here.dtype):
        lo, hi = sum_with_error(here, lo, hi, n * max(map(abs, corners)), n)
    infs, nan = x.infs | y.infs, x.nan | y.nan
    over = _partial_overflow(here, n * max(*corners, 0), n * -min(*corners, 0))
    if infs:
        meets_zero = (x.infs.where & y.near(0)) | (y.infs.where & x.near(0))
        mechanism = Mechanism.ZERO_TIMES_INF if meets_zero.any() else Mechanism.INF_MINUS_INF
        clash = meets_zero | np.asarray(n > 1) | (x.infs.where & y.infs.where)
        nan = nan | here.meeting(mechanism, clash, infs)
    return here.value(lo, hi, infs | over, infs | over, nan | over)


def convolution(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the products of windows and a kernel; padding and dilation add zeros."""
    kernel = here.params["dimension_numbers"].rhs_spec[1:]
    n = int(np.prod([b.shape[axis] for axis in kernel], initial=1))
    found = _products(here, a, b, n)
    return replace(found, lo=np.minimum(found.lo, 0), hi=np.maximum(found.hi, 0))


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": reduce_sum,
    "reduce_max": reduce_max,
    "reduce_min": reduce_min,
    "reduce_prod": reduce_prod,
    "reduce_and": reduce_and,
    "reduce_or": reduce_or,
    "argmax": argmax,
    "argmin": argmax,
    "cumsum": cumsum,
    "cumprod": cumprod,
    "cummax": lambda here, a: a.uniform(),
    "cummin": lambda here, a: a.uniform(),
    "cumlogsumexp": cumlogsumexp,
    "reduce_window_sum": window_sum,
    "reduce_window_max": windows,
    "reduce_window_min": windows,
    "select_and_scatter_add": scatter_windows,
    "select_and_gather_add": windows,
    "psum": psum,
    "psum_invariant": psum,
    "all_gather": across,
    "ppermute": across,
    "pmax": across,
    "pmin": across,
    "all_to_all": across,
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
}
