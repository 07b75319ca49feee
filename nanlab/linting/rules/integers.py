"""Rules of integers, booleans, bits, changes of type and random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from nanlab.linting.abstract import NEVER, Abstract, anything, interval
from nanlab.linting.floats import float_type, integer_range, is_float
from nanlab.linting.here import Here


def _is_bool(value: Abstract) -> bool:
    return value.dtype == np.bool_


def integer_quotient(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the quotient of integers, rounded towards zero."""
    if (b.lo <= 0).any():
        far = max(a.magnitude, 1.0)
        return here.value(-far, far) if b.least > -np.inf and not b.near(0).any() else _any(here)
    corners = [np.trunc(x / y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return here.value(np.minimum.reduce(corners), np.maximum.reduce(corners))


def integer_remainder(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the remainder of integers, with the sign of the dividend."""
    if b.near(0).any():
        return _any(here)
    far = np.maximum(abs(b.lo), abs(b.hi)) - 1
    return here.value(np.maximum(np.minimum(a.lo, 0), -far), np.minimum(np.maximum(a.hi, 0), far))


def _any(here: Here, *operands: Abstract) -> Abstract:
    return anything(here.shape, here.dtype)


def logical_not(here: Here, a: Abstract) -> Abstract:
    """Return not a."""
    return here.value(1 - a.hi, 1 - a.lo) if _is_bool(a) else here.value(-1 - a.hi, -1 - a.lo)


def logical_and(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return a and b, bit by bit."""
    if _is_bool(a):
        return here.value(np.minimum(a.lo, b.lo), np.minimum(a.hi, b.hi))
    if a.least < 0 and b.least < 0:
        return _any(here)
    least = 0.0
    if a.least < 0 or b.least < 0:
        return here.value(least, (b if a.least < 0 else a).hi)
    return here.value(least, np.minimum(a.hi, b.hi))


def logical_or(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return a or b, bit by bit; bits that only one may have add up."""
    if _is_bool(a):
        return here.value(np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi))
    if a.least < 0 or b.least < 0:
        return _any(here)
    for value, other in ((a, b), (b, a)):
        if value.is_point and other.greatest < (low := _lowest_bit(int(value.least))):
            assert low
            return here.value(value.lo + other.lo, value.hi + other.hi)
    most = 2.0 ** np.ceil(np.log2(max(a.greatest, b.greatest, 1) + 1)) - 1
    return here.value(np.maximum(a.lo, b.lo), most)


def _lowest_bit(number: int) -> int:
    return number & -number


def logical_xor(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return a exclusive-or b."""
    if not _is_bool(a):
        return _any(here)
    known = (a.lo == a.hi) & (b.lo == b.hi)
    differs = (a.lo != b.lo).astype(np.float64)
    return here.value(np.where(known, differs, 0.0), np.where(known, differs, 1.0))


def shift_right(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return a without its lowest bits, zeros before it."""
    bits = jnp.iinfo(here.dtype).bits
    if b.least < 0 or b.greatest >= bits:
        return _any(here)
    if a.least >= 0:
        return here.value(np.floor(a.lo / 2.0**b.hi), np.floor(a.hi / 2.0**b.lo))
    return here.value(0.0, 2.0 ** (bits - b.lo) - 1) if b.least > 0 else _any(here)


def shift_left(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return a times a power of two."""
    if b.least < 0 or b.greatest >= jnp.iinfo(here.dtype).bits or a.least < 0:
        return _any(here)
    return here.value(a.lo * 2.0**b.lo, a.hi * 2.0**b.hi)


def convert(here: Here, a: Abstract) -> Abstract:
    """Return a value in another type."""
    if is_float(here.dtype):
        moved = replace(a, dtype=here.dtype)
        if is_float(a.dtype) and not float_type(here.dtype).has_inf:
            moved = replace(moved, posinf=NEVER, neginf=NEVER, nan=a.bad)
        if is_float(a.dtype) and float_type(here.dtype).epsilon > float_type(a.dtype).epsilon:
            peak = a.peak if a.peak and a.peak.least in (0.0, 1.0) else None
            # x != 0 may be flushed to zero in the other type.
            tiny = float_type(here.dtype).smallest > float_type(a.dtype).smallest
            return replace(moved, bounds=(), peak=peak, nonzero=a.nonzero and not tiny)
        return moved
    bad = a.bad.where
    if here.dtype == np.bool_:
        never, always = (a.lo == 0) & (a.hi == 0) & ~bad, ~a.near(0) & ~a.empty
        return here.value(np.where(always | (a.empty & bad), 1.0, 0.0), np.where(never, 0.0, 1.0))
    least, most = integer_range(here.dtype)
    if is_float(a.dtype):
        lo, hi = np.trunc(a.lo), np.trunc(a.hi)
        unclear = bad | a.empty
        lo, hi = np.where(unclear, least, lo), np.where(unclear, most, hi)
        return here.value(np.clip(lo, least, most), np.clip(hi, least, most))
    return here.value(a.lo, a.hi)


def bitcast(here: Here, a: Abstract) -> Abstract:
    """Return bits as another type; those of positive floats are in their order."""
    is_ordered = (
        is_float(here.dtype) and not is_float(a.dtype) and a.shape == here.shape
        and np.dtype(here.dtype).kind == "f" and a.least >= 0
    )  # fmt: skip
    if is_ordered:
        integer = np.dtype(f"u{np.dtype(here.dtype).itemsize}")
        lo, hi = (end.astype(integer).view(here.dtype).astype(np.float64) for end in (a.lo, a.hi))
        if np.isfinite(lo).all() and np.isfinite(hi).all():
            return here.value(lo, hi)
    found = anything(here.shape, here.dtype)
    if is_float(here.dtype):
        every = np.ones((1,) * len(here.shape), bool)
        makers = frozenset({here.equation.index})
        nan = type(a.nan)(every, makers)
        return replace(found, posinf=nan, neginf=nan, nan=nan)
    return found


def reduced_precision(here: Here, a: Abstract) -> Abstract:
    """Return a value rounded to fewer bits, in its own type."""
    exponent, mantissa = here.params["exponent_bits"], here.params["mantissa_bits"]
    error = 2.0 ** -(mantissa + 1)
    largest = (2 - 2.0**-mantissa) * 2.0 ** (2 ** (exponent - 1) - 1)
    lo, hi = a.lo - error * abs(a.lo), a.hi + error * abs(a.hi)
    over = (hi > largest) & ~a.empty & (largest < here.largest)
    under = (lo < -largest) & ~a.empty & (largest < here.largest)
    from nanlab.blame.vocabulary import Mechanism

    made = here.danger(Mechanism.OVERFLOW, over | under, 0, f"can exceed {largest:g}", a)
    smallest = 2.0 ** (2 - 2 ** (exponent - 1))
    lo = np.where((lo > 0) & (lo < smallest), 0.0, np.maximum(lo, -largest))
    hi = np.where((hi < 0) & (hi > -smallest), 0.0, np.minimum(hi, largest))
    lo, hi = np.where(a.empty, np.inf, lo), np.where(a.empty, -np.inf, hi)
    return here.value(lo, hi, a.posinf | made & over, a.neginf | made & under, a.nan)


def zero(here: Here, *operands: Abstract) -> Abstract:
    """Return keys, whose bits are of no interest, or an index that is 0."""
    return interval(here.shape, here.dtype, 0, 0)


def any_bits(here: Here, *operands: Abstract) -> list[Abstract]:
    """Return integers of any value."""
    results = range(len(here.equation.results))
    return [anything(*here.result_type(index)) for index in results]


INTEGERS: dict[str, Callable[..., Any]] = {
    "not": logical_not,
    "and": logical_and,
    "or": logical_or,
    "xor": logical_xor,
    "shift_right_logical": shift_right,
    "shift_right_arithmetic": _any,
    "shift_left": shift_left,
    "population_count": lambda here, a: here.value(0.0, jnp.iinfo(here.dtype).bits),
    "clz": lambda here, a: here.value(0.0, jnp.iinfo(here.dtype).bits),
    "convert_element_type": convert,
    "bitcast_convert_type": bitcast,
    "reduce_precision": reduced_precision,
    "random_bits": any_bits,
    "random_unwrap": any_bits,
    "threefry2x32": any_bits,
    "random_wrap": zero,
    "random_seed": zero,
    "random_fold_in": zero,
    "random_split": zero,
    "random_clone": zero,
    "platform_index": zero,
    "axis_index": _any,
}
