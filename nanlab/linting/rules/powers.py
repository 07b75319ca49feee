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
    if exponent % 2:
        lo, hi = at_corners(lambda x: np.power(x, float(exponent)), a)
        posinf, neginf, bounds = a.posinf, a.neginf, ()
    else:
        lo, hi = at_corners(lambda x: np.power(x, float(exponent)), a)
        lo = np.where((a.lo <= 0) & (a.hi >= 0), 0.0, lo)
        posinf, neginf = a.infs, NEVER
        axes = tuple(range(len(a.shape)))
        bounds = (Bound("square", here.root(0), 1.0, axes),) if exponent == 2 else ()
    peak = (
        a.peak if a.peak and a.peak.least in (0, 1) and exponent > 0 and not a.least < 0 else None
    )
    if exponent == 0:
        posinf = neginf = NEVER
        lo, hi = np.ones_like(lo), np.ones_like(hi)
    return here.value(lo, hi, posinf, neginf, a.nan, ulps=0 if exponent <= 2 else exponent,
                      bounds=bounds, peak=peak)  # fmt: skip


def square(here: Here, a: Abstract) -> Abstract:
    """Return x²."""
    return power(here, a, 2)


def integer_pow(here: Here, a: Abstract) -> Abstract:
    """Return x to a constant integer power."""
    exponent = here.params["y"]
    if exponent >= 0:
        return power(here, a, exponent)
    pole = here.danger(Mechanism.POLE, a.near(0), 0, "can be 0", a)
    smallest = float_type(a.dtype).smallest
    positive = at_corners(lambda x: np.power(x, float(exponent)), _part(a, smallest))
    mirrored = at_corners(lambda x: np.power(x, float(exponent)), _part(neg(here, a), smallest))
    is_odd = bool(exponent % 2)
    negative = (-mirrored[1], -mirrored[0]) if is_odd else mirrored
    lo, hi = np.minimum(positive[0], negative[0]), np.maximum(positive[1], negative[1])
    lo, hi = (
        np.where(a.infs.where, np.minimum(lo, 0), lo),
        np.where(a.infs.where, np.maximum(hi, 0), hi),
    )
    # Close to zero it is as large as the type allows: the pole, reported above.
    largest = np.where(a.near(0), here.largest, np.inf)
    lo, hi = np.maximum(lo, -largest), np.minimum(hi, largest)
    return here.value(
        lo, hi, pole, pole & (a.lo < 0) if is_odd else NEVER, a.nan, ulps=-2 * exponent
    )


def _part(a: Abstract, least: float) -> Abstract:
    """Return the part of a value from this positive number on."""
    return replace(
        a,
        lo=np.where(a.hi > 0, np.maximum(a.lo, least), np.inf),
        hi=np.where(a.hi > 0, a.hi, -np.inf),
    )


def power_of(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return a to the power b."""
    is_integer = (b.lo == b.hi) & (b.lo == np.floor(b.lo))
    negative = (a.lo < 0) & ~is_integer & ~a.empty & ~b.empty
    nan = here.danger(Mechanism.DOMAIN, negative, 0, "can be below 0", a)
    at_zero = a.near(0) & (b.lo < 0) & ~b.empty
    pole = here.danger(Mechanism.POLE, at_zero, 0, "can be 0, with a negative exponent", a)
    smallest = float_type(here.dtype).smallest
    size = replace(
        a,
        lo=np.maximum(np.where(a.hi < 0, -a.hi, a.lo), 0),
        hi=np.where(is_integer, np.maximum(abs(a.lo), abs(a.hi)), np.maximum(a.hi, 0)),
    )
    size = replace(
        size, lo=np.where(a.empty, np.inf, size.lo), hi=np.where(a.empty, -np.inf, size.hi)
    )
    lo, hi = at_corners(lambda x, y: np.power(np.maximum(x, smallest), y), size, b)
    lo = np.where(a.near(0) & (lo <= hi), np.minimum(lo, 0), lo)
    hi = np.where(at_zero, np.minimum(hi, here.largest), hi)
    if (is_integer & (a.lo < 0)).any():
        lo = np.where(is_integer & (a.lo < 0) & (lo <= hi), -hi, lo)
    if a.infs or b.infs:  # anything may come of an inf
        reach = (a.infs | b.infs).where
        lo, hi = np.where(reach, np.minimum(lo, 0), lo), np.where(reach, np.maximum(hi, 1), hi)
    posinf = pole | standing(a.infs | b.infs, (a.infs | b.infs).where)
    signed = (a.lo < 0) | a.neginf.where
    neginf = posinf & signed
    return here.value(lo, hi, posinf, neginf, a.nan | b.nan | nan, ulps=ROUGH)


POWERS: dict[str, Callable[..., Any]] = {
    "square": square,
    "integer_pow": integer_pow,
    "pow": power_of,
}
"""Rules of powers."""
