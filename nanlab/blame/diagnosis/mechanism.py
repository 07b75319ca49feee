"""Site, codes -> mechanism: which arithmetic made the inf or the NaN.

The codes of operands and results settle most primitives. Where they do not (0/0 or inf/inf?), the
probe computes one small detail at the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

OVERFLOW, POLE, DOMAIN, OPAQUE = "overflow", "pole", "domain", "opaque"
INF_MINUS_INF, ZERO_TIMES_INF = "inf-inf", "0*inf"
ZERO_OVER_ZERO, INF_OVER_INF = "0/0", "inf/inf"
INPUT, FILL, CONSTANT = "input", "fill", "constant"

SAME_AS = {
    "reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "rev", "neg", "copy",
    "stop_gradient",
}  # fmt: skip
"""Primitives whose result holds just what their first operand holds."""

NAN_OF = {"tanh", "logistic", "sign", "erf", "erfc", "atan"}
"""Bounded functions: the result is NaN where the operand is, and never inf (of real numbers)."""

Detail = Callable[[Any, Mapping[str, Any], Sequence[Any], Sequence[Any]], Any]
"""Of (NumPy or jax.numpy, the site's parameters, its operands, its results) -> a small number."""


def _zero_divisor(np: Any, params: Any, operands: Sequence[Any], results: Any) -> Any:
    """2 if a NaN stands where both are zero, else 1 if an inf stands where the divisor is.

    What is flushed to zero counts as zero. A complex inf has a NaN in it.
    """
    zero, result = operands[1] == 0, results[0]
    both = zero & (operands[0] == 0) & np.isnan(result)
    return np.max(np.where(both, 2, zero & ~np.isfinite(result)), initial=0)


def _zero_base(np: Any, params: Any, operands: Sequence[Any], results: Any) -> Any:
    """1 if an inf stands where the base of a power is zero."""
    return np.any((operands[0] == 0) & np.isinf(results[0]))


def _inf_meets_zero(np: Any, params: Any, operands: Sequence[Any], results: Any) -> Any:
    """1 if a matrix product multiplies some inf by some zero.

    Exact, without a product: along one contracted index every row of one side meets every column
    of the other.
    """
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
    """1 if one side of a convolution has an inf and the other a zero, padding included."""
    left, right = operands
    padded = any(low > 0 or high > 0 for low, high in params["padding"])
    left_inf, right_inf = np.any(np.isinf(left)), np.any(np.isinf(right))
    left_zero, right_zero = np.any(left == 0) | padded, np.any(right == 0)
    return (left_inf & right_zero) | (left_zero & right_inf)


def _at_pole(np: Any, params: Any, operands: Sequence[Any], results: Any) -> Any:
    """2 if a NaN, else 1 if an inf, stands at a pole of the gamma function's relatives.

    They are at 0 (or what is flushed to it) and the integers below.
    """
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
"""Primitives whose mechanism the codes alone do not settle."""

_ADDING = {
    "add", "add_any", "sub", "reduce_sum", "cumsum", "scatter-add", "scatter_add", "psum",
    "cumlogsumexp", "reduce_window_sum", "scatter-sub", "reduce_window",
}  # fmt: skip
_MULTIPLYING = {"mul", "reduce_prod", "cumprod", "scatter-mul", "integer_pow", "square"}
_CASTS = ("convert_element_type", "reduce_precision")
_DOTS = ("dot_general", "conv_general_dilated")
_POLES = {
    "log", "log1p", "rsqrt", "atanh", "erf_inv", "zeta", "tan", "log2",
}  # fmt: skip
_GAMMAS = ("lgamma", "digamma", "polygamma")
_KERNELS = {
    "cholesky", "cholesky_update", "eigh", "eig", "svd", "lu", "qr", "geqrf", "householder_product",
    "triangular_solve", "schur", "tridiagonal", "tridiagonal_solve", "hessenberg", "lu_solve",
    "pallas_call", "custom_call", "ffi_call", "pure_callback", "io_callback", "fft",
}  # fmt: skip
_FILLING = {"gather", "dynamic_slice", "scatter", "dynamic_update_slice"}
_DOMAINS = {
    "log", "log1p", "log2", "sqrt", "rsqrt", "pow", "rem", "sin", "cos", "tan", "asin", "acos",
    "acosh", "atanh", "asinh", "sinh", "cosh", "erf_inv", "lgamma", "digamma", "igamma",
    "igammac", "polygamma", "zeta", "regularized_incomplete_beta",
    "bessel_i0e", "bessel_i1e", "atan2", "nextafter",
}  # fmt: skip


def nan_mechanism(primitive: str, operand_inf: bool, detail: int, *, has_inf: bool = True) -> str:
    """How a site made a NaN of operands without one.

    Args:
        primitive: the primitive's name.
        operand_inf: whether an operand held an inf.
        detail: what `DETAILS[primitive]` said, or 0.
        has_inf: whether the result's type has an inf; what is too large for one that has none is
            a NaN.
    """
    if not has_inf and not operand_inf and primitive in (*_ADDING, *_MULTIPLYING, *_CASTS, *_DOTS):
        return OVERFLOW
    if primitive == "div":
        if detail != 2 and operand_inf:
            return INF_OVER_INF
        return POLE if detail == 1 else ZERO_OVER_ZERO
    if primitive in _DOTS:
        return ZERO_TIMES_INF if detail else INF_MINUS_INF
    if primitive in _GAMMAS and detail == 2:
        return POLE
    if primitive in _ADDING:
        return INF_MINUS_INF
    if primitive in _MULTIPLYING:
        return ZERO_TIMES_INF
    if primitive in _FILLING:
        return FILL
    if primitive in _CASTS:
        return OVERFLOW
    return DOMAIN if primitive in _DOMAINS else OPAQUE


def inf_mechanism(primitive: str, detail: int) -> str:
    """How a site made an inf of finite operands; arguments as `nan_mechanism`'s."""
    if primitive in ("div", "pow", "integer_pow", *_GAMMAS):
        return POLE if detail else OVERFLOW
    if primitive in _POLES:
        return POLE
    return OPAQUE if primitive in _KERNELS else OVERFLOW
