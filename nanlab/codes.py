"""Array -> code: does it hold only finite values, an inf, or a NaN?"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

FINITE, INF, NAN = 0, 1, 2
"""What an array holds: only finite values; an inf and no NaN; a NaN."""

_BITS = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}


def largest_magnitude(x: Array) -> Array:
    """The largest |x|, a scalar of x's type; NaN if x holds a NaN.

    It is `jnp.max(jnp.abs(x))` with NaN kept. XLA's vectorized float maximum on the CPU drops
    NaNs (measured with JAX 0.10.2 and 0.12.0: a max over (64, 64) under vmap lost 199 of 200),
    so the comparison is made on the bits: without the sign they order as integers do, inf above
    every number and NaN above inf.
    """
    integer = _BITS[x.dtype.itemsize]
    # The sign goes by a mask: XLA drops an abs() of what it knows to be no less than 0, and the
    # NaN that x86 makes there has its sign bit set.
    bits = jax.lax.bitcast_convert_type(x, integer) & jnp.iinfo(integer).max
    return jax.lax.bitcast_convert_type(jnp.max(bits), x.dtype)


def array_code(x: Array) -> Array:
    """FINITE, INF or NAN of one array, an int8 scalar; of anything but floats FINITE."""
    if not jnp.issubdtype(x.dtype, jnp.inexact) or x.size == 0:
        return jnp.int8(FINITE)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.maximum(array_code(x.real), array_code(x.imag))
    if x.dtype.itemsize not in _BITS:  # float8: types with an inf and types without
        x = x.astype(jnp.float32)
    largest = largest_magnitude(x)
    code = jnp.where(jnp.isnan(largest), NAN, jnp.where(jnp.isinf(largest), INF, FINITE))
    return code.astype(jnp.int8)
