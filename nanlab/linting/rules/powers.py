"""Rules of powers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import NEVER, Abstract
from nanlab.linting.floats import float_type
from nanlab.linting.here import Here, at_corners
from nanlab.linting.relations import Bound
from nanlab.linting.rules.elementwise import ROUGH, neg, standing


def power(here: Here, a: Abstract, exponent: int) -> Abstract:
    """Return x to an integer power, not below 0."""
    lo, hi = at_corners(lambda x: np.power(x, float(exponent)), a)
    posinf, neginf, bounds = a.posinf, a.neginf, ()
    if exponent == 0:
        posinf = neginf = NEVER
        lo, hi = np.ones_like(lo), np.ones_like(hi)
    elif exponent % 2 == 0:
        lo = np.where((a.lo <= 0) & (a.hi >= 0), 0.0, lo)
        posinf, neginf = a.infs, NEVER
        axes = tuple(range(len(a.shape)))
        bounds = (Bound("square", here.root(0), 1.0, axes),) if exponent == 2 else ()
    is_same = a.peak is not None and a.peak.least in (0, 1) and exponent and not a.least < 0
    return here.value(
        lo, hi, posinf, neginf, a.nan, roundings=0 if exponent <= 2 else exponent,
        bounds=bounds, peak=a.peak if is_same else None,
    )  # fmt: skip


def square(here: Here, a: Abstract) -> Abstract:
    """Return x²."""
    return power(here, a, 2)


def one_minus_square(here: Here, a: Abstract) -> Abstract:
    """Return 1 - x², the derivative of tanh in JAX 0.12."""
    squared = power(here, a, 2)
    lo, hi = 1 - squared.hi, 1 - squared.lo
    return here.value(lo, hi, NEVER, squared.posinf, a.nan, roundings=2)


def integer_pow(here: Here, a: Abstract) -> Abstract:
    """Return x to a constant integer power."""
    exponent = here.params["y"]
    if exponent >= 0:
        return power(here, a, exponent)
    near, is_odd = a.near(0), bool(exponent % 2)
    pole = here.danger(Mechanism.POLE, near, 0, "can be 0", a)
    positive, mirrored = (
        at_corners(lambda x: np.power(x, float(exponent)), part)
        for part in (away_from_zero(a), away_from_zero(neg(here, a)))
    )
    negative = (-mirrored[1], -mirrored[0]) if is_odd else mirrored
    lo, hi = np.minimum(positive[0], negative[0]), np.maximum(positive[1], negative[1])
    if a.infs:  # a negative power of inf is 0
        reach = a.infs.where
        lo, hi = np.where(reach, np.minimum(lo, 0), lo), np.where(reach, np.maximum(hi, 0), hi)
    # Close to zero it is as large as the type allows: the pole, reported above.
    limit = np.where(near, here.largest, np.inf)
    lo, hi = np.where(lo > hi, lo, np.maximum(lo, -limit)), np.minimum(hi, limit)
    # In a narrow type the positive power may overflow on the way, and its inverse is 0.
    lo = np.where((lo > 0) & (lo < 2 / here.largest), 0.0, lo)
    hi = np.where((hi < 0) & (hi > -2 / here.largest), 0.0, hi)
    neginf = pole & (a.lo <= 0) if is_odd else NEVER
    return here.value(lo, hi, pole, neginf, a.nan, roundings=1 - exponent)


def away_from_zero(a: Abstract) -> Abstract:
    """Return the positive part of a value, from the first number that is not zero on."""
    kind = float_type(a.dtype)
    first = np.where(a.near(0), kind.smallest, kind.zero_below)
    is_positive = a.hi > 0
    lo = np.where(is_positive, np.maximum(a.lo, first), np.inf)
    return replace(a, lo=lo, hi=np.where(is_positive, a.hi, -np.inf))


def power_of(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return a to the power b."""
    is_integer = (b.lo == b.hi) & (b.lo == np.floor(b.lo))
    below = (a.lo < 0) & ~a.empty & ~b.empty
    nan = here.danger(Mechanism.DOMAIN, below & ~is_integer, 0, "can be below 0", a)
    at_zero = a.near(0) & (b.lo < 0) & ~b.empty
    pole = here.danger(Mechanism.POLE, at_zero, 0, "can be 0, with a negative exponent", a)
    # Of a negative base only integer powers are numbers.
    is_mirrored = below & (np.floor(b.hi) >= np.ceil(b.lo))
    far = np.maximum(a.hi, np.where(is_mirrored, -a.lo, a.hi))
    close = np.where(is_mirrored, np.where(a.hi < 0, -a.hi, 0), a.lo)
    size = replace(a, lo=np.maximum(close, 0), hi=np.where(far < 0, -np.inf, far))
    smallest = float_type(here.dtype).smallest * 1e-6  # the logarithm of a subnormal is rough
    lo, hi = at_corners(lambda x, y: np.power(np.maximum(x, smallest), y), size, b)
    lo = np.where(a.near(0) & (lo <= hi), np.minimum(lo, 0), lo)
    hi = np.where(at_zero, np.minimum(hi, here.largest), hi)
    lo = np.where(is_mirrored & (lo <= hi), -hi, lo)
    infs, bad = a.infs | b.infs, a.bad | b.bad
    if bad:  # anything may come of an inf, and of a NaN: 1**NaN and NaN**0 are 1
        lo = np.where(bad.where, np.minimum(lo, 0), lo)
        hi = np.where(bad.where, np.maximum(hi, 1), hi)
    posinf = pole | standing(infs, infs.where)
    neginf = posinf & ((a.lo <= 0) | a.neginf.where)
    return here.value(lo, hi, posinf, neginf, a.nan | b.nan | nan, ulps=ROUGH)


POWERS: dict[str, Callable[..., Any]] = {
    "square": square,
    "one_minus_square": one_minus_square,
    "integer_pow": integer_pow,
    "pow": power_of,
}
"""Rules of powers."""
