"""Array -> code: does it hold only finite values, an inf, or a NaN?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

FINITE, INF, NAN = 0, 1, 2
"""What an array holds: only finite values; an inf and no NaN; a NaN."""

_BITS = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}


def has_infinity(dtype: Any) -> bool:
    """Whether a type has an inf; some of 8 bits have none, and what is too large is NaN there."""
    is_float = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize == 1
    return not is_float or bool(np.isinf(np.float32(np.inf).astype(dtype).astype(np.float32)))


def measured_as(dtype: Any) -> Any:
    """The float type whose bits an inexact type's arrays are measured in."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.finfo(dtype).dtype
    # float8: types with an inf and types without
    return jnp.dtype(dtype if jnp.dtype(dtype).itemsize in _BITS else jnp.float32)


def largest_bits(x: Array) -> Array:
    """The bits of the largest |x| of an inexact array that is not empty, as a scalar integer.

    XLA's vectorized float maximum on the CPU drops NaNs (measured with JAX 0.10.2 and 0.12.0: a
    max over (64, 64) under vmap lost 199 of 200), so the comparison is made on the bits: without
    the sign they order as integers do, inf above every number and NaN above inf.
    """
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.maximum(largest_bits(x.real), largest_bits(x.imag))
    x = x.astype(measured_as(x.dtype))
    integer = _BITS[x.dtype.itemsize]
    # The sign goes by a mask: XLA drops an abs() of what it knows to be no less than 0, and the
    # NaN that x86 makes there has its sign bit set.
    return jnp.max(jax.lax.bitcast_convert_type(x, integer) & jnp.iinfo(integer).max)


def codes_of_bits(bits: Array, dtype: Any) -> Array:
    """FINITE, INF or NAN (int8) of each of some `largest_bits` of arrays of `dtype`."""
    inf = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, measured_as(dtype)), bits.dtype)
    return (bits >= inf).astype(jnp.int8) + (bits > inf).astype(jnp.int8)


def largest_magnitude(x: Array) -> Array:
    """The largest |x|, a scalar of x's type; NaN if x holds a NaN.

    It is `jnp.max(jnp.abs(x))` with NaN kept: see `largest_bits`.
    """
    return jax.lax.bitcast_convert_type(largest_bits(x), x.dtype)


def array_code(x: Array) -> Array:
    """FINITE, INF or NAN of one array, an int8 scalar; of anything but floats FINITE."""
    if not jnp.issubdtype(x.dtype, jnp.inexact) or x.size == 0:
        return jnp.int8(FINITE)
    return codes_of_bits(largest_bits(x), x.dtype)


def as_numbers(array: np.ndarray) -> np.ndarray[Any, np.dtype[Any]]:
    """An array in a type that NumPy can count in: bfloat16 and float8 as float32."""
    return array.astype(np.float32) if array.dtype.kind == "V" or _is_small(array) else array


def code_of(array: np.ndarray) -> int:
    """FINITE, INF or NAN of one array."""
    numbers = as_numbers(array)
    if numbers.dtype.kind not in "fc" or np.isfinite(numbers).all():
        return FINITE
    return NAN if np.isnan(numbers).any() else INF


def _is_small(array: np.ndarray) -> bool:
    return array.dtype.kind not in "fciub" and array.dtype.name.startswith(("bfloat", "float"))
