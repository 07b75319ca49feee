"""Properties of JAX's primitives: which pass values on, and details that decide mechanisms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

SAME_AS = {
    "reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "rev", "neg", "copy",
    "stop_gradient",
}  # fmt: skip
"""Primitives whose result contains exactly the elements of their first operand, up to sign."""


NAN_OF = {"tanh", "logistic", "sign", "erf", "erfc", "atan"}
"""Bounded functions: the result is NaN where the operand is, and never inf (for real numbers)."""


Detail = Callable[[Any, Mapping[str, Any], Sequence[Any], Sequence[Any]], Any]
"""(NumPy or jax.numpy, an equation's parameters, operands and results) -> a small number."""


def _zero_divisor(np: Any, params: Any, operands: Sequence[Any], results: Any) -> Any:
    """Return 2 for a NaN where both operands are zero, else 1 for an inf where the divisor is."""
    # Flushed subnormals count as zero. A complex inf may contain a NaN.
    zero, result = operands[1] == 0, results[0]
    both = zero & (operands[0] == 0) & np.isnan(result)
    return np.max(np.where(both, 2, zero & ~np.isfinite(result)), initial=0)


def _zero_base(np: Any, params: Any, operands: Sequence[Any], results: Any) -> Any:
    """Return 1 for an inf where the base of a power is zero."""
    return np.any((operands[0] == 0) & np.isinf(results[0]))


def _inf_meets_zero(np: Any, params: Any, operands: Sequence[Any], results: Any) -> Any:
    """Return 1 if a matrix product multiplies an inf by a zero."""
    # Exact without computing products: at one contracted index every row of one side is multiplied
    # by every column of the other.
    (left_axes, right_axes), (left_batch, right_batch) = params["dimension_numbers"]

    def by_index(x: Any, test: Callable[[Any], Any], batch: Any, axes: Any) -> Any:
        order = (*batch, *axes)
        free = tuple(axis for axis in range(x.ndim) if axis not in order)
        present = np.any(test(x), axis=free)
        left = [axis for axis in range(x.ndim) if axis in order]
        return np.transpose(present, [left.index(axis) for axis in order])

    def is_zero(x: Any) -> Any:
        return x == 0

    left, right = operands
    left_inf = by_index(left, np.isinf, left_batch, left_axes)
    right_inf = by_index(right, np.isinf, right_batch, right_axes)
    left_zero = by_index(left, is_zero, left_batch, left_axes)
    right_zero = by_index(right, is_zero, right_batch, right_axes)
    return np.any((left_inf & right_zero) | (left_zero & right_inf))


def _inf_with_zero_anywhere(np: Any, params: Any, operands: Sequence[Any], results: Any) -> Any:
    """Return 1 if one side of a convolution has an inf and the other a zero, padding included."""
    left, right = operands
    padded = any(low > 0 or high > 0 for low, high in params["padding"])
    left_inf, right_inf = np.any(np.isinf(left)), np.any(np.isinf(right))
    left_zero, right_zero = np.any(left == 0) | padded, np.any(right == 0)
    return (left_inf & right_zero) | (left_zero & right_inf)


def _at_pole(np: Any, params: Any, operands: Sequence[Any], results: Any) -> Any:
    """Return 2 for a NaN, else 1 for an inf, at a pole of a gamma-like function."""
    # The poles are 0, flushed subnormals included, and the negative integers.
    x, result = operands[-1], results[0]
    pole = (x <= 0) & (x == np.floor(x))
    return np.max(np.where(pole & np.isnan(result), 2, pole & np.isinf(result)), initial=0)


DETAILS: dict[str, Detail] = {
    "div": _zero_divisor,
    "pow": _zero_base,
    "integer_pow": _zero_base,
    "digamma": _at_pole,
    "lgamma": _at_pole,
    "polygamma": _at_pole,
    "dot_general": _inf_meets_zero,
    "conv_general_dilated": _inf_with_zero_anywhere,
}
"""Primitives whose mechanism does not follow from the codes alone."""
