"""Number types: their largest and smallest numbers, and rounding to them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

# At run time a single number is a NumPy scalar, and no array.
if TYPE_CHECKING:
    Ends: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
else:
    Ends = Mask = Any
"""Ends of intervals, and masks; an axis of size 1 stands for all elements along it."""

Number: TypeAlias = float | int


class FloatType(NamedTuple):
    """A floating-point type.

    Attributes:
        largest: largest finite number.
        zero_below: positive numbers below this one may be flushed to zero.
        smallest: smallest positive number where nothing is flushed.
        epsilon: distance from 1 to the next number.
        has_inf: whether it has an inf; where it has none, overflow makes NaN.
    """

    largest: float
    zero_below: float
    smallest: float
    epsilon: float
    has_inf: bool


@cache
def is_float(dtype: Any) -> bool:
    """Return whether a type is a real floating-point type."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


@cache
def is_complex(dtype: Any) -> bool:
    """Return whether a type is one of complex numbers."""
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


@cache
def can_be_nan(dtype: Any) -> bool:
    """Return whether a type has an inf or a NaN."""
    return is_float(dtype) or is_complex(dtype)


@cache
def float_type(dtype: Any) -> FloatType:
    """Return what there is to know about a floating-point type, or the parts of a complex one."""
    dtype = np.zeros((), dtype).real.dtype if is_complex(dtype) else dtype
    info = jnp.finfo(dtype)
    smallest = float(info.smallest_subnormal)
    # XLA computes float16 in float32, where its subnormals are normal numbers.
    is_flushed = np.dtype(dtype) != np.dtype(np.float16)
    with np.errstate(all="ignore"):
        has_inf = bool(np.isinf(np.asarray(np.inf).astype(dtype).astype(np.float64)))
    return FloatType(
        largest=float(info.max),
        zero_below=float(info.smallest_normal) if is_flushed else smallest,
        smallest=smallest,
        epsilon=float(info.eps),
        has_inf=has_inf,
    )


@cache
def integer_range(dtype: Any) -> tuple[float, float]:
    """Return the smallest and the largest number of an integer or boolean type."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return 0.0, 1.0
    if not jnp.issubdtype(dtype, jnp.integer):
        return 0.0, 0.0
    info = jnp.iinfo(dtype)
    return float(info.min), float(info.max)


def rounded(ends: Ends, dtype: Any) -> Ends:
    """Round to the nearest numbers of a type, as its arithmetic does; numbers must fit in it."""
    if np.dtype(dtype) == np.dtype(np.float64):
        return ends
    if np.dtype(dtype).kind != "f":  # as XLA does: computed in float32, then rounded
        ends = ends.astype(np.float32).astype(np.float64)
    return ends.astype(dtype).astype(np.float64)


def next_number(number: Number, dtype: Any, direction: Number) -> float:
    """Return the next number of a type in a direction; next to zero, the first not flushed."""
    if not is_float(dtype):
        return float(number) + direction
    if number == 0:
        return direction * float_type(dtype).zero_below
    step = abs(number) * float_type(dtype).epsilon / 2
    after = rounded(np.asarray(number + direction * step * 1.01), dtype)
    return float(after) if after != number else number + direction * step
