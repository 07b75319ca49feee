"""Array -> code: whether it holds only finite values, an inf, or a NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Inexact, Int, Int8, Shaped

FINITE, INF, NAN = 0, 1, 2
"""Codes of an array's contents: finite values only; an inf and no NaN; a NaN."""

_TOGETHER = 16
_BITS = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}


def has_infinity(dtype: Any) -> bool:
    """Return whether a dtype has an inf; some 8-bit floats overflow to NaN instead."""
    is_float = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize == 1
    return not is_float or bool(np.isinf(np.float32(np.inf).astype(dtype).astype(np.float32)))


def measured_as(dtype: Any) -> Any:
    """Return the float type in which the bits of a dtype's arrays are compared."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.finfo(dtype).dtype
    # float8: types with an inf and types without
    return jnp.dtype(dtype if jnp.dtype(dtype).itemsize in _BITS else jnp.float32)


def largest_bits(x: Inexact[Array, " ..."]) -> Int[Array, ""]:
    """Return the bits of the largest |x| of a non-empty array, as an integer."""
    # XLA:CPU's vectorized float maximum drops NaNs (JAX 0.10.2 and 0.12.0: a max over (64, 64)
    # under vmap lost 199 of 200), so compare bits: without the sign they order as integers, inf
    # above every number and NaN above inf.
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.maximum(largest_bits(x.real), largest_bits(x.imag))
    x = x.astype(measured_as(x.dtype))
    integer = _BITS[x.dtype.itemsize]
    # The sign goes by a mask: XLA drops an abs() of a value that it knows to be non-negative, and a
    # NaN that x86 produces there has its sign bit set.
    return jnp.max(jax.lax.bitcast_convert_type(x, integer) & jnp.iinfo(integer).max)


def codes_of_bits(bits: Int[Array, " *n"], dtype: Any) -> Int8[Array, " *n"]:
    """Return the codes of arrays of `dtype` from their `largest_bits`."""
    inf = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, measured_as(dtype)), bits.dtype)
    return (bits >= inf).astype(jnp.int8) + (bits > inf).astype(jnp.int8)


def largest_magnitude(x: Inexact[Array, " ..."]) -> Inexact[Array, ""]:
    """Return the largest |x|, or part of a complex x; NaN if x has one, where `jnp.max` may not."""
    return jax.lax.bitcast_convert_type(largest_bits(x), measured_as(x.dtype))


def array_code(x: Shaped[Array, " ..."]) -> Int8[Array, ""]:
    """Return the code of an array on the device; anything but floats is FINITE."""
    if not jnp.issubdtype(x.dtype, jnp.inexact) or x.size == 0:
        return jnp.int8(FINITE)
    return codes_of_bits(largest_bits(x), x.dtype)


def groups_are_finite(arrays: Sequence[Inexact[Array, " ..."]]) -> list[Bool[Array, ""]]:
    """Return flags that are all set if no array holds an inf or a NaN; cheaper than `array_code`.

    There is one flag for up to 16 arrays of one shape and type.
    """
    # XLA:CPU vectorizes a sum of floats, but neither the maximum of integers nor a conjunction:
    # 33 MB take 2 ms, 20 ms and 7 ms. A zero times an inf or a NaN is a NaN.
    groups: dict[Any, list[Any]] = {}
    for x in arrays:
        is_complex = jnp.issubdtype(x.dtype, jnp.complexfloating)
        for part in (x.real, x.imag) if is_complex else (x,):
            zero = part.astype(jnp.promote_types(part.dtype, jnp.float32)) * 0
            groups.setdefault((zero.shape, zero.dtype), []).append(zero)
    return [
        jnp.isfinite(jnp.sum(sum(zeros[i : i + _TOGETHER])))
        for zeros in groups.values()
        for i in range(0, len(zeros), _TOGETHER)
    ]


def as_numbers(array: np.ndarray) -> np.ndarray[Any, np.dtype[Any]]:
    """Return an array in a dtype that NumPy computes with: bfloat16 and float8 as float32."""
    return array.astype(np.float32) if array.dtype.kind == "V" or _is_small(array) else array


def code_of(array: np.ndarray) -> int:
    """Return the code of an array on the host."""
    numbers = as_numbers(array)
    if numbers.dtype.kind not in "fc" or np.isfinite(numbers).all():
        return FINITE
    return NAN if np.isnan(numbers).any() else INF


def _is_small(array: np.ndarray) -> bool:
    return array.dtype.kind not in "fciub" and array.dtype.name.startswith(("bfloat", "float"))
