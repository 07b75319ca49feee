"""Rules of functions with poles or a limited domain: logarithms, roots, inverse functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import NEVER, Abstract, May
from nanlab.linting.floats import float_type
from nanlab.linting.here import Here
from nanlab.linting.relations import turned
from nanlab.linting.rules.elementwise import ROUGH, ULPS, RuleFunction, finite_where


def log(here: Here, a: Abstract) -> Abstract:
    """Return the natural logarithm."""
    smallest = float_type(a.dtype).smallest
    neginf = here.danger(Mechanism.POLE, a.near(0), 0, "can be 0", a)
    nan = here.danger(Mechanism.DOMAIN, (a.lo < 0) & ~a.empty, 0, "can be below 0", a)
    nan = nan | here.meeting(Mechanism.DOMAIN, a.neginf.where, a.neginf)
    lo, hi = np.log(np.maximum(a.lo, smallest)), np.log(np.maximum(a.hi, 0))
    hi = np.where(a.hi < smallest, np.where(a.hi < 0, -np.inf, np.log(smallest)), hi)
    return here.value(lo, hi, a.posinf, neginf, a.nan | nan, ulps=ULPS)


def log1p(here: Here, a: Abstract) -> Abstract:
    """Return log(1 + x)."""
    closest = -1 + here.epsilon / 2
    neginf = here.danger(Mechanism.POLE, a.near(-1), 0, "can be -1", a)
    nan = here.danger(Mechanism.DOMAIN, (a.lo < -1) & ~a.empty, 0, "can be below -1", a)
    nan = nan | here.meeting(Mechanism.DOMAIN, a.neginf.where, a.neginf)
    hi = np.where(a.hi < -1, -np.inf, np.log1p(np.maximum(a.hi, closest)))
    lo = np.log1p(np.maximum(a.lo, closest))
    return here.value(lo, hi, a.posinf, neginf, a.nan | nan, ulps=ULPS)


def sqrt(here: Here, a: Abstract) -> Abstract:
    """Return the square root."""
    nan = here.danger(Mechanism.DOMAIN, (a.lo < 0) & ~a.empty, 0, "can be below 0", a)
    nan = nan | here.meeting(Mechanism.DOMAIN, a.neginf.where, a.neginf)
    hi = np.where(a.hi < 0, -np.inf, np.sqrt(np.maximum(a.hi, 0)))
    return here.value(
        np.sqrt(np.maximum(a.lo, 0)), hi, a.posinf, NEVER, a.nan | nan, ulps=2,
        bounds=turned(a.bounds, "square", "norm", math.sqrt), nonzero=a.nonzero,
    )  # fmt: skip


def rsqrt(here: Here, a: Abstract) -> Abstract:
    """Return 1 / sqrt(x)."""
    smallest = float_type(a.dtype).smallest
    posinf = here.danger(Mechanism.POLE, a.near(0), 0, "can be 0", a)
    nan = here.danger(Mechanism.DOMAIN, (a.lo < 0) & ~a.empty, 0, "can be below 0", a)
    nan = nan | here.meeting(Mechanism.DOMAIN, a.neginf.where, a.neginf)
    lo = np.where(a.posinf.where, 0.0, 1 / np.sqrt(np.maximum(a.hi, smallest)))
    hi = np.where(a.hi < 0, -np.inf, 1 / np.sqrt(np.maximum(a.lo, smallest)))
    hi = np.where(a.posinf.where & (hi < 0), 0.0, hi)
    return here.value(
        np.where(a.empty & ~a.posinf.where, np.inf, lo), hi, posinf, posinf & (a.lo <= 0),  # of -0
        a.nan | nan, ulps=ULPS,
        bounds=turned(a.bounds, "square", "inverse", lambda scale: 1 / math.sqrt(scale)),
    )  # fmt: skip


def limited(
    function: Callable[[Any], Any], least: float, most: float, *, has_poles: bool = False,
    sense: int = 1,
) -> RuleFunction:  # fmt: skip
    """Return the rule of a monotone function of an interval: acos, asin, atanh, erf_inv.

    Args:
        function: the function, for NumPy.
        least: least argument.
        most: greatest argument.
        has_poles: whether it is infinite at both ends.
        sense: 1 for an increasing function, -1 for a decreasing one.

    Returns:
        The rule.
    """
    what = f"can be outside [{least:g}, {most:g}]" if most < np.inf else f"can be below {least:g}"

    def rule(here: Here, a: Abstract) -> Abstract:
        outside = ((a.lo < least) | (a.hi > most)) & ~a.empty
        nan = here.danger(Mechanism.DOMAIN, outside, 0, what, a)
        infs = a.infs if most < np.inf else a.neginf
        nan = nan | here.meeting(Mechanism.DOMAIN, infs.where, infs)
        posinf, neginf = (a.posinf if most == np.inf else NEVER), NEVER
        first, last = least, most
        if has_poles:
            posinf = here.danger(Mechanism.POLE, a.near(most), 0, f"can be {most:g}", a)
            neginf = here.danger(Mechanism.POLE, a.near(least), 0, f"can be {least:g}", a)
            first, last = least + here.epsilon / 4, most - here.epsilon / 4
        ends = [function(np.clip(end, first, last)) for end in (a.lo, a.hi)][::sense]
        inside = (a.hi >= least) & (a.lo <= most) & ~a.empty
        found = here.value(*ends, posinf, neginf, a.nan | nan, ulps=ULPS)
        return finite_where(found, inside)

    return rule


def gamma_like(here: Here, a: Abstract, *, sign: int) -> Abstract:
    """Return any finite number, and an inf where the argument is 0 or a negative integer."""
    pole = here.danger(Mechanism.POLE, (a.lo < float_type(a.dtype).zero_below) & ~a.empty, 0,
                       "can be 0 or a negative integer", a)  # fmt: skip
    return _special(here, a, pole, sign)


def _special(here: Here, a: Abstract, pole: May, sign: int) -> Abstract:
    size = np.maximum(np.where(a.empty, 0, np.maximum(abs(a.lo), abs(a.hi))), 2)
    if sign > 0:  # lgamma: |lgamma(x)| <= |x| log |x| + 104 away from the poles
        lo, hi = -size * np.log(size) - 104, size * np.log(size) + 104
        found = here.value(lo, hi, a.infs | pole, NEVER, a.nan, ulps=ROUGH)
    else:  # digamma: about -1/x near 0, log(x) for large x, anything between the poles
        positive = np.maximum(a.lo, float_type(a.dtype).smallest)
        lo = np.where(a.lo > 0, -1 / positive - 1, -here.largest)
        hi = np.where(a.lo > 0, np.log(size) + 1, here.largest)
        # At a pole JAX 0.10 returns NaN and 0.12 -inf.
        nan = a.nan | pole | here.meeting(Mechanism.DOMAIN, a.neginf.where, a.neginf)
        found = here.value(lo, np.maximum(hi, 1), a.posinf | pole, pole, nan, ulps=ROUGH)
    return finite_where(found, ~a.empty)


def lgamma(here: Here, a: Abstract) -> Abstract:
    """Return the logarithm of the absolute value of the gamma function."""
    return gamma_like(here, a, sign=1)


def digamma(here: Here, a: Abstract) -> Abstract:
    """Return the derivative of lgamma."""
    return gamma_like(here, a, sign=-1)


DOMAINS: dict[str, RuleFunction] = {
    "log": log,
    "log1p": log1p,
    "sqrt": sqrt,
    "rsqrt": rsqrt,
    "asin": limited(np.arcsin, -1.0, 1.0),
    "acos": limited(np.arccos, -1.0, 1.0, sense=-1),
    "acosh": limited(np.arccosh, 1.0, np.inf),
    "atanh": limited(np.arctanh, -1.0, 1.0, has_poles=True),
    "erf_inv": limited(special.erfinv, -1.0, 1.0, has_poles=True),
    "lgamma": lgamma,
    "digamma": digamma,
}
"""Rules of functions that are not finite for all finite numbers."""
