"""Equation, codes -> mechanism: which arithmetic made the inf or the NaN.

The codes of operands and results are enough for most primitives. Where they are not (0/0 or
inf/inf?), the probe computes one small detail at the equation.
"""

from __future__ import annotations

from nanlab.blame.vocabulary import Mechanism

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


def nan_mechanism(
    primitive: str, operand_inf: bool, detail: int, *, has_inf: bool = True
) -> Mechanism:
    """Return how an equation made a NaN from operands without one.

    Args:
        primitive: name of the primitive.
        operand_inf: whether an operand contains an inf.
        detail: result of `DETAILS[primitive]`, or 0.
        has_inf: whether the result's type has an inf; without one, an overflow gives a NaN.

    Returns:
        The mechanism.
    """
    if not has_inf and not operand_inf and primitive in (*_ADDING, *_MULTIPLYING, *_CASTS, *_DOTS):
        return Mechanism.OVERFLOW
    if primitive == "div":
        if detail != 2 and operand_inf:
            return Mechanism.INF_OVER_INF
        return Mechanism.POLE if detail == 1 else Mechanism.ZERO_OVER_ZERO
    if primitive in _DOTS:
        return Mechanism.ZERO_TIMES_INF if detail else Mechanism.INF_MINUS_INF
    if primitive in _GAMMAS and detail == 2:
        return Mechanism.POLE
    if primitive in _ADDING:
        return Mechanism.INF_MINUS_INF
    if primitive in _MULTIPLYING:
        return Mechanism.ZERO_TIMES_INF
    if primitive in _FILLING:
        return Mechanism.FILL
    if primitive in _CASTS:
        return Mechanism.OVERFLOW
    return Mechanism.DOMAIN if primitive in _DOMAINS else Mechanism.OPAQUE


def inf_mechanism(primitive: str, detail: int) -> Mechanism:
    """Return how an equation made an inf from finite operands; see `nan_mechanism`."""
    if primitive in ("div", "pow", "integer_pow", *_GAMMAS):
        return Mechanism.POLE if detail else Mechanism.OVERFLOW
    if primitive in _POLES:
        return Mechanism.POLE
    return Mechanism.OPAQUE if primitive in _KERNELS else Mechanism.OVERFLOW
