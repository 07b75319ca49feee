"""Rules of sums, products and quotients, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import NEVER, Abstract
from nanlab.linting.floats import float_type, is_float
from nanlab.linting.here import Here, at_corners
from nanlab.linting.relations import Peak, scaled
from nanlab.linting.rules.elementwise import neg, standing
from nanlab.linting.rules.integers import integer_quotient, integer_remainder
from nanlab.linting.rules.powers import away_from_zero, square

ABOVE_SLACK = 1.05
"""Rounding of a sum and a factor between x and the y that is at least scale * x."""

NORM_SLACK = 1.5
"""The same for squares and their root, of which float16's subnormals round the most."""


def add(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the sum."""
    lo, hi = at_corners(np.add, a, b)
    clash = (a.posinf.where & b.neginf.where) | (a.neginf.where & b.posinf.where)
    nan = here.meeting(Mechanism.INF_MINUS_INF, clash, a.infs | b.infs)
    # What is at least x stays so when a number that is not negative is added.
    bounds = (a.bounds if not b.least < 0 and not b.neginf else ()) + (
        b.bounds if not a.least < 0 and not a.neginf else ()
    )
    return here.value(lo, hi, a.posinf | b.posinf, a.neginf | b.neginf, a.nan | b.nan | nan,
                      bounds=scaled(bounds, 1.0))  # fmt: skip


def sub(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the difference; x - max(x) is at most 0, and 0 somewhere."""
    if here.same():
        nan = here.meeting(Mechanism.INF_MINUS_INF, a.infs.where, a.infs)
        zero = np.where(a.empty, np.inf, 0.0)
        return here.value(zero, -zero, NEVER, NEVER, a.nan | nan)
    above = here.bound(1, 0, "above")
    lo, hi = at_corners(np.subtract, a, b)
    clash = (a.posinf.where & b.posinf.where) | (a.neginf.where & b.neginf.where)
    nan = here.meeting(Mechanism.INF_MINUS_INF, clash, a.infs | b.infs)
    posinf, neginf = a.posinf | b.neginf, a.neginf | b.posinf
    peak = None
    if above is not None and above.scale == 1:
        hi = np.where(hi >= lo, np.minimum(hi, 0), hi)
        posinf = NEVER  # x is +inf only where max(x) is, and then the difference is NaN
        if above.is_maximum:
            rows = tuple(i for i, axis in enumerate(above.axes) if axis is None)
            peak = Peak(0.0, rows)
    return here.value(lo, hi, posinf, neginf, a.nan | b.nan | nan, peak=peak)


def mul(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the product."""
    if here.same():
        return square(here, a)
    for index, x in enumerate((a, b)):
        masked = _masked(here, index, x) if x.bad else None
        if masked is not None:
            return masked
    lo, hi = at_corners(np.multiply, a, b)
    a_inf, b_inf = a.infs, b.infs
    clash = (a_inf.where & b.near(0)) | (b_inf.where & a.near(0))
    nan = here.meeting(Mechanism.ZERO_TIMES_INF, clash, a_inf | b_inf)
    makers = a_inf | b_inf
    up = (a.posinf.where & _up(b)) | (b.posinf.where & _up(a))
    up = up | (a.neginf.where & _down(b)) | (b.neginf.where & _down(a))
    down = (a.posinf.where & _down(b)) | (b.posinf.where & _down(a))
    down = down | (a.neginf.where & _up(b)) | (b.neginf.where & _up(a))
    posinf, neginf = standing(makers, up), standing(makers, down)
    for by, bounded in ((0, 1), (1, 0)):
        bound = here.bound(bounded, by, "inverse")
        if bound is not None:
            limit = bound.scale * NORM_SLACK
            lo, hi = np.where(lo <= hi, np.maximum(lo, -limit), lo), np.minimum(hi, limit)
    bounds = ()
    for x, factor in ((a, b), (b, a)):
        if factor.is_point and factor.least > 0:
            bounds = scaled(x.bounds, factor.least / ABOVE_SLACK)
    nonzero = (a.nonzero and _is_large(b)) or (b.nonzero and _is_large(a))
    return here.value(
        lo, hi, posinf, neginf, a.nan | b.nan | nan, bounds=bounds, nonzero=nonzero,
        peak=_masked_peak(a, b) or _masked_peak(b, a),
    )  # fmt: skip


def _masked_peak(x: Abstract, mask: Abstract) -> Peak | None:
    """Return the peak of x, if nothing that may be it becomes smaller by the product."""
    if x.peak is None or x.peak.least <= 0:
        return None
    return x.peak if ((mask.lo >= 1) | (x.hi < x.peak.least)).all() else None


def _masked(here: Here, operand: int, value: Abstract) -> Abstract | None:
    """Return x * mask.astype(float) as XLA compiles it: where(mask, x, 0)."""
    analysis, other = here.analysis, here.root(1 - operand)
    maker = analysis.program.computed_by(other)
    if maker is None or maker.primitive != "convert_element_type":
        return None
    mask = maker.operands[0]
    if analysis.program.values[mask].dtype != np.bool_:
        return None
    facts = analysis.guards.facts(mask, truth=True)
    chosen = analysis.guards.under(here.equation.operands[operand], value, facts)
    lo, hi = np.minimum(chosen.lo, 0), np.maximum(chosen.hi, 0)
    return here.value(lo, hi, chosen.posinf, chosen.neginf, chosen.nan)


def _up(value: Abstract) -> Any:
    return (value.hi > 0) | value.posinf.where


def _down(value: Abstract) -> Any:
    return (value.lo < 0) | value.neginf.where


def _is_large(value: Abstract) -> bool:
    return not value.bad and (value.least >= 1 or value.greatest <= -1)


def div(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the quotient; x / sum(x) is at most 1, and |x| / norm(x) too."""
    if not is_float(here.dtype):
        return integer_quotient(here, a, b)
    found = quotient(here, a, b)
    norm = here.bound(1, 0, "norm")
    if norm is not None:
        limit = NORM_SLACK / norm.scale
        found.lo = np.where(found.empty, np.inf, np.maximum(found.lo, -limit))
        found.hi = np.minimum(found.hi, limit)
    above = here.bound(1, 0, "above")
    if above is not None and not a.least < 0 and above.scale > 0:
        slack = 1 if above.scale == 1 else ABOVE_SLACK
        found.hi = np.minimum(found.hi, slack / above.scale)
    if b.is_point and b.least > 0:
        found.bounds = scaled(a.bounds, 1 / b.least / ABOVE_SLACK)
    return found


def quotient(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return a / b, with its poles."""
    zero = b.near(0)
    both, pole = zero & a.near(0), zero & ~a.empty & ((a.hi > 0) | (a.lo < 0))
    mechanism = Mechanism.POLE if pole.any() else Mechanism.ZERO_OVER_ZERO
    made = here.danger(mechanism, zero & ~a.empty, 1, "can be 0", b)
    meeting = a.infs.where & b.infs.where
    nan = made & both | here.meeting(Mechanism.INF_OVER_INF, meeting, a.infs | b.infs)
    posinf = made & pole
    neginf = made & (pole & ((a.lo < 0) | (b.lo <= 0)))  # the zero may be -0
    lo, hi = _finite_quotient(here, a, b)
    # Close to a zero divisor it is as large as the type allows: the pole, reported above.
    limit = np.where(zero, here.largest, np.inf)
    lo, hi = np.maximum(lo, np.where(lo > hi, -np.inf, -limit)), np.minimum(hi, limit)
    if b.infs:  # x / inf is 0
        lo = np.where(b.infs.where & ~a.empty, np.minimum(lo, 0), lo)
        hi = np.where(b.infs.where & ~a.empty, np.maximum(hi, 0), hi)
    up = (a.posinf.where & _up_or_zero(b)) | (a.neginf.where & (b.lo <= 0))
    down = (a.neginf.where & _up_or_zero(b)) | (a.posinf.where & (b.lo <= 0))
    posinf, neginf = posinf | standing(a.infs, up), neginf | standing(a.infs, down)
    # Where one divisor serves several elements, XLA multiplies by its inverse, which is rounded.
    is_exact = b.is_point and np.frexp(b.least)[0] == 0.5
    roundings = 0 if is_exact else 1
    return here.value(lo, hi, posinf, neginf, a.nan | b.nan | nan, roundings=roundings)


def _up_or_zero(value: Abstract) -> Any:
    return (value.hi >= 0) & ~value.empty


def _finite_quotient(here: Here, a: Abstract, b: Abstract) -> tuple[Any, Any]:
    """Return the range of a / b for divisors that are not zero."""
    above = at_corners(np.divide, a, away_from_zero(b))
    below = at_corners(np.divide, neg(here, a), away_from_zero(neg(here, b)))
    return np.minimum(above[0], below[0]), np.maximum(above[1], below[1])


def rem(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the remainder of a division."""
    if not is_float(here.dtype):
        return integer_remainder(here, a, b)
    nan = here.danger(Mechanism.DOMAIN, b.near(0), 1, "can be 0", b)
    nan = nan | here.meeting(Mechanism.DOMAIN, a.infs.where, a.infs)
    far = np.maximum(np.where(b.empty, 0, np.maximum(abs(b.lo), abs(b.hi))), 0)
    far = np.where(b.infs.where, here.largest, far)
    lo, hi = np.maximum(np.minimum(a.lo, 0), -far), np.minimum(np.maximum(a.hi, 0), far)
    return here.value(lo, hi, NEVER, NEVER, a.nan | b.nan | nan)


def arctangent2(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the angle of a point."""
    return here.value(-np.pi, np.pi, NEVER, NEVER, a.nan | b.nan, ulps=2)


def nextafter(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the next number towards another."""
    kind = float_type(here.dtype)
    lo = a.lo - abs(a.lo) * kind.epsilon - kind.zero_below
    hi = a.hi + abs(a.hi) * kind.epsilon + kind.zero_below
    lo = np.where(
        a.neginf.where, -here.largest, np.where(a.posinf.where & a.empty, here.largest, lo)
    )
    hi = np.where(
        a.posinf.where, here.largest, np.where(a.neginf.where & a.empty, -here.largest, hi)
    )
    return here.value(lo, hi, a.posinf, a.neginf, a.nan | b.nan)


BINARY: dict[str, Callable[..., Any]] = {
    "add": add,
    "add_any": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "rem": rem,
    "atan2": arctangent2,
    "nextafter": nextafter,
}
"""Rules of the elementwise primitives with several operands."""
