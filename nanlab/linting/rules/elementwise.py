"""Rules of functions of one number, element by element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import NEVER, Abstract, May
from nanlab.linting.floats import Number, float_type
from nanlab.linting.here import Here
from nanlab.linting.relations import Bound, Peak

RuleFunction = Callable[..., Any]

ULPS = 8
"""Error of XLA's elementary functions, in units of the last place."""

ROUGH = 256
"""Error of its special functions and of pow."""


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def increasing(
    function: Callable[[Any], Any], *, ulps: Number = ULPS, least: float = -np.inf,
    most: float = np.inf,
) -> RuleFunction:  # fmt: skip
    """Return the rule of an increasing function that is finite for all finite numbers.

    Args:
        function: the function, for NumPy.
        ulps: error of its computation.
        least: least value that the computation returns.
        most: greatest value that it returns.

    Returns:
        The rule.
    """
    at_neginf, at_posinf = function(np.float64(-np.inf)), function(np.float64(np.inf))

    def rule(here: Here, a: Abstract) -> Abstract:
        lo, hi, posinf, neginf = a.lo, a.hi, a.posinf, a.neginf
        if np.isfinite(at_neginf):
            lo, neginf = np.where(neginf.where, -np.inf, lo), NEVER
        if np.isfinite(at_posinf):
            hi, posinf = np.where(posinf.where, np.inf, hi), NEVER
        peak = a.peak and Peak(
            float(function(a.peak.least)) * (1 - ulps * here.epsilon), a.peak.axes
        )
        if a.peak and a.peak.least == 0:  # exact there
            peak = Peak(float(function(0.0)), a.peak.axes)
        found = here.value(function(lo), function(hi), posinf, neginf, a.nan, ulps=ulps, peak=peak)
        # The function's range limits finite values, not the overflow that marks an inf.
        found.lo = np.where(found.empty, np.inf, np.maximum(found.lo, least))
        found.hi = np.where(found.lo > found.hi, -np.inf, np.minimum(found.hi, most))
        return found

    return rule


def bounded(least: float, most: float) -> RuleFunction:
    """Return the rule of a function with this range that is NaN of an inf: sine, cosine."""

    def rule(here: Here, a: Abstract) -> Abstract:
        nan = a.nan | here.meeting(Mechanism.DOMAIN, a.infs.where, a.infs)
        found = here.value(least, most, NEVER, NEVER, nan)
        return finite_where(found, ~a.empty)

    return rule


def finite_where(value: Abstract, mask: Any) -> Abstract:
    """Return a value that is finite only inside a mask."""
    return replace(value, lo=np.where(mask, value.lo, np.inf), hi=np.where(mask, value.hi, -np.inf))


def standing(infs: May, where: Any) -> May:
    """Return infs of these makers, elsewhere."""
    return May(np.asarray(where), infs.makers) if infs and where.any() else NEVER


def neg(here: Here, a: Abstract) -> Abstract:
    """Negate."""
    return here.value(-a.hi, -a.lo, a.neginf, a.posinf, a.nan, nonzero=a.nonzero)


def absolute(here: Here, a: Abstract) -> Abstract:
    """Return the absolute value."""
    axes = tuple(range(len(a.shape)))
    lo = np.maximum(np.maximum(a.lo, -a.hi), 0)
    hi = np.where(a.empty, -np.inf, np.maximum(a.hi, -a.lo))
    lo = np.where(a.empty, np.inf, lo)
    bounds = (Bound("norm", here.root(0), 1.0, axes), Bound("above", here.root(0), 1.0, axes))
    return here.value(lo, hi, a.infs, NEVER, a.nan, bounds=bounds, nonzero=a.nonzero)


def sign(here: Here, a: Abstract) -> Abstract:
    """Return the sign."""
    found = increasing(np.sign, ulps=0)(here, a)
    return replace(found, nonzero=a.nonzero)


def even_growth(function: Callable[[Any], Any], least: float) -> RuleFunction:
    """Return the rule of an even function that grows with |x|: cosh."""

    def rule(here: Here, a: Abstract) -> Abstract:
        far = np.where(a.empty, 0, np.maximum(abs(a.lo), abs(a.hi)))
        found = here.value(least, function(far), a.infs, NEVER, a.nan, ulps=ROUGH)
        return finite_where(found, ~a.empty)

    return rule


def logistic(here: Here, a: Abstract) -> Abstract:
    """Return 1 / (1 + exp(-x)), which is 0 where exp(-x) overflows."""
    found = increasing(_logistic, least=0.0, most=1.0)(here, a)
    return replace(found, lo=np.where(found.lo < 2 / here.largest, 0.0, found.lo))


def exp2(here: Here, a: Abstract) -> Abstract:
    """Return 2 to the power x, computed as exp(log(2) * x)."""
    error = float_type(here.dtype).epsilon
    stretched = replace(a, lo=a.lo - error * abs(a.lo), hi=a.hi + error * abs(a.hi))
    return increasing(np.exp2, least=0.0)(here, finite_where(stretched, ~a.empty))


def cbrt(here: Here, a: Abstract) -> Abstract:
    """Return the cube root; that of a subnormal is a tiny number of any sign."""
    found = increasing(np.cbrt)(here, a)
    near = a.near(0)
    return replace(
        found,
        lo=np.where(near, np.minimum(found.lo, -1e-12), found.lo),
        hi=np.where(near, np.maximum(found.hi, 1e-12), found.hi),
    )


def is_finite(here: Here, a: Abstract) -> Abstract:
    """Return whether a number is finite."""
    return here.value(np.where(a.bad.where, 0.0, 1.0), np.where(a.empty, 0.0, 1.0))


def tan(here: Here, a: Abstract) -> Abstract:
    """Return the tangent; its poles are no numbers of any type."""
    half = np.pi / 2 - 1e-3
    is_small = (a.lo > -half) & (a.hi < half)
    edge = np.clip(a.lo, -half, half), np.clip(a.hi, -half, half)
    far = here.largest
    nan = a.nan | here.meeting(Mechanism.DOMAIN, a.infs.where, a.infs)
    lo = np.where(is_small, np.tan(edge[0]), -far)
    found = here.value(lo, np.where(is_small, np.tan(edge[1]), far), NEVER, NEVER, nan, ulps=ULPS)
    return finite_where(found, ~a.empty)


def erfc(here: Here, a: Abstract) -> Abstract:
    """Return 1 - erf(x)."""
    lo, hi = (
        special.erfc(np.where(a.posinf.where, np.inf, a.hi)),
        special.erfc(np.where(a.neginf.where, -np.inf, a.lo)),
    )
    return here.value(lo, hi, NEVER, NEVER, a.nan, ulps=ROUGH)


UNARY: dict[str, RuleFunction] = {
    "neg": neg,
    "abs": absolute,
    "sign": sign,
    "floor": increasing(np.floor, ulps=0),
    "ceil": increasing(np.ceil, ulps=0),
    "round": increasing(np.round, ulps=0),
    "exp": increasing(np.exp, least=0.0),
    "exp2": exp2,
    "expm1": increasing(np.expm1, least=-1.0),
    "tanh": increasing(np.tanh, least=-1.0, most=1.0),
    "logistic": logistic,
    "erf": increasing(special.erf, least=-1.0, most=1.0),
    "erfc": erfc,
    "atan": increasing(np.arctan),
    "sinh": increasing(np.sinh, ulps=ROUGH),
    "asinh": increasing(np.arcsinh),
    "cbrt": cbrt,
    "cosh": even_growth(np.cosh, 1.0),
    "sin": bounded(-1.0, 1.0),
    "cos": bounded(-1.0, 1.0),
    "tan": tan,
    "is_finite": is_finite,
}
"""Rules of the primitives with one operand."""
