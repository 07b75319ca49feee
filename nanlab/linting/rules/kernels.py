"""Rules of kernels: linear algebra and special functions, judged by their arguments alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import NEVER, Abstract, May, anything
from nanlab.linting.floats import can_be_nan, float_type
from nanlab.linting.here import Here


def everywhere(nan: May) -> May:
    """Return bad values of these makers in every element."""
    return May(np.ones((), bool), nan.makers) if nan else NEVER


def any_numbers(here: Here, *operands: Abstract, nan: May = NEVER) -> list[Abstract]:
    """Return any finite numbers, and NaN of operands that may be bad."""
    for operand in operands:
        nan = nan | everywhere(operand.bad)
    results = range(len(here.equation.results))
    types = [here.result_type(index) for index in results]
    return [
        anything(shape, dtype, nan=nan if can_be_nan(dtype) else NEVER) for shape, dtype in types
    ]


def cholesky(here: Here, a: Abstract) -> list[Abstract]:
    """Return the Cholesky factor; nothing says that a matrix is positive definite."""
    what = "is not known to be positive definite"
    nan = everywhere(here.danger(Mechanism.OPAQUE, np.ones((), bool), 0, what, a))
    return any_numbers(here, a, nan=nan)


def triangular_solve(here: Here, a: Abstract, b: Abstract) -> list[Abstract]:
    """Return the solution of a triangular system, whose diagonal may contain 0."""
    near = np.asarray(a.near(0).any() and not here.params.get("unit_diagonal", False))
    nan = everywhere(here.danger(Mechanism.OPAQUE, near, 0, "can have 0 on its diagonal", a))
    return any_numbers(here, a, b, nan=nan)


def igamma(here: Here, a: Abstract, x: Abstract) -> Abstract:
    """Return a regularized incomplete gamma function."""
    outside = (a.lo <= 0) | (x.lo < 0)
    nan = here.danger(Mechanism.DOMAIN, outside, 0, "or x can be below 0", a)
    # Products with the logarithms of both overflow inside.
    is_large = (a.hi > here.largest / 256) | (x.hi > here.largest / 256)
    nan = nan | here.danger(Mechanism.OPAQUE, is_large, 0, "or x can be close to the maximum", a)
    nan = nan | here.meeting(Mechanism.DOMAIN, (a.infs | x.infs).where, a.infs | x.infs)
    return here.value(-1e-5, 1.0, NEVER, NEVER, a.nan | x.nan | nan, ulps=256)


def igamma_derivative(here: Here, a: Abstract, x: Abstract) -> list[Abstract]:
    """Return the derivative of an incomplete gamma function by its parameter."""
    outside = np.asarray(((a.lo <= 0) | (x.lo < 0) | (x.hi > 1e4)).any())
    nan = here.danger(Mechanism.OPAQUE, outside, 0, "or x can be outside of what it computes", a)
    return any_numbers(here, a, x, nan=nan)


def polygamma(here: Here, order: Abstract, x: Abstract) -> Abstract:
    """Return a derivative of digamma."""
    near = (x.lo < float_type(x.dtype).zero_below) & ~x.empty
    pole = here.danger(Mechanism.POLE, near, 1, "can be 0 or a negative integer", x)
    nan = x.nan | order.nan | pole
    nan = nan | here.meeting(Mechanism.DOMAIN, (x.infs | order.infs).where, x.infs | order.infs)
    return here.value(-here.largest, here.largest, pole, pole, nan)


def zeta(here: Here, x: Abstract, q: Abstract) -> Abstract:
    """Return the Hurwitz zeta function."""
    near = (q.lo < float_type(q.dtype).zero_below) | (x.lo <= 1)
    pole = here.danger(Mechanism.POLE, near, 1, "can be 0 or negative, or x at most 1", q)
    nan = (
        x.nan
        | q.nan
        | pole
        | here.meeting(Mechanism.DOMAIN, (x.infs | q.infs).where, x.infs | q.infs)
    )
    return here.value(-here.largest, here.largest, pole, pole, nan)


KERNELS: dict[str, Callable[..., Any]] = {
    "cholesky": cholesky,
    "triangular_solve": triangular_solve,
    "igamma": igamma,
    "igammac": igamma,
    "igamma_grad_a": igamma_derivative,
    "polygamma": polygamma,
    "zeta": zeta,
    "eigh": any_numbers,
    "svd": any_numbers,
    "qr": any_numbers,
    "householder_product": any_numbers,
    "lu": any_numbers,
    "lu_pivots_to_permutation": any_numbers,
    "fft": any_numbers,
    "real": any_numbers,
    "imag": any_numbers,
    "conj": any_numbers,
    "complex": any_numbers,
}
