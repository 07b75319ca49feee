"""Rules of comparisons, and of choices between numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nanlab.linting.abstract import NEVER, Abstract, joined
from nanlab.linting.floats import is_float
from nanlab.linting.here import Here
from nanlab.linting.relations import Bound, Peak, scaled
from nanlab.linting.rules.elementwise import neg


def maximum(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the larger number; -inf loses to any."""
    for operand, (value, other) in enumerate(((a, b), (b, a))):
        if _is_neginf(value) and other.shape == here.shape:
            here.analysis.identify_result(here.equation, 1 - operand)
            return other
    lo, hi = _larger(a, b)
    bounds = [*scaled(a.bounds, 1.0), *scaled(b.bounds, 1.0)]
    for operand, value in enumerate((a, b)):
        if value.shape == here.shape:
            axes = tuple(range(len(here.shape)))
            bounds.append(Bound("above", here.root(operand), 1.0, axes))
    return here.value(lo, hi, a.posinf | b.posinf, _both(a.neginf, b.neginf), a.nan | b.nan,
                      bounds=tuple(bounds))  # fmt: skip


def _is_neginf(value: Abstract) -> bool:
    """Return whether every element is -inf."""
    return bool(value.neginf.where.all() and value.empty.all()) and not value.posinf | value.nan


def _larger(a: Abstract, b: Abstract) -> tuple[Any, Any]:
    lo = np.where(a.empty, b.lo, np.where(b.empty, a.lo, np.maximum(a.lo, b.lo)))
    # Where one may be -inf alone, the other's least value is a result.
    lo = np.where(
        a.neginf.where, np.minimum(lo, b.lo), np.where(b.neginf.where, np.minimum(lo, a.lo), lo)
    )
    lo = np.where(a.neginf.where & b.neginf.where, np.minimum(a.lo, b.lo), lo)
    hi = np.maximum(a.hi, b.hi)
    # Without -inf or NaN in the other, nothing finite comes of an operand that has no finite value.
    stuck = (a.empty & ~a.neginf.where) | (b.empty & ~b.neginf.where)
    return np.where(stuck, np.inf, lo), np.where(stuck, -np.inf, hi)


def _both(first: Any, second: Any) -> Any:
    return (first & second.where) | (second & first.where) if first and second else NEVER


def minimum(here: Here, a: Abstract, b: Abstract) -> Abstract:
    """Return the smaller number; +inf loses to any."""
    lo, hi = _larger(neg(here, a), neg(here, b))
    nan = a.nan | b.nan
    return here.value(-hi, -lo, _both(a.posinf, b.posinf), a.neginf | b.neginf, nan)


def clamp(here: Here, least: Abstract, a: Abstract, most: Abstract) -> Abstract:
    """Return a number moved into an interval."""
    lo = np.where(a.neginf.where, -np.inf, np.where(a.posinf.where & a.empty, np.inf, a.lo))
    hi = np.where(a.posinf.where, np.inf, np.where(a.neginf.where & a.empty, -np.inf, a.hi))
    is_stuck = a.empty & ~a.infs.where
    lo, hi = (np.minimum(np.maximum(end, low), high) for end, low, high in
              ((lo, least.lo, most.lo), (hi, least.hi, most.hi)))  # fmt: skip
    lo, hi = np.where(is_stuck, np.inf, lo), np.where(is_stuck, -np.inf, hi)
    unlimited = least.infs | most.infs
    posinf, neginf = a.posinf & unlimited.where, a.neginf & unlimited.where
    if unlimited:
        lo, hi = np.where(np.isinf(lo), -here.largest, lo), np.where(np.isinf(hi), here.largest, hi)
    return here.value(lo, hi, posinf, neginf, a.nan | least.nan | most.nan)


def comparison(name: str) -> Callable[..., Abstract]:
    """Return the rule of a comparison."""

    def rule(here: Here, a: Abstract, b: Abstract) -> Abstract:
        if here.same() and name in ("eq", "ne") and is_float(a.dtype):
            differs = np.where(a.nan.where, 1.0, 0.0)
            return here.value(0.0, differs) if name == "ne" else here.value(1 - differs, 1.0)
        a_lo, a_hi, b_lo, b_hi = _extended(a), _extended(a, 1), _extended(b), _extended(b, 1)
        apart = (a_hi < b_lo) | (b_hi < a_lo)
        same = (a_lo == a_hi) & (b_lo == b_hi) & (a_lo == b_lo)
        always, never = {
            "lt": (a_hi < b_lo, a_lo >= b_hi),
            "le": (a_hi <= b_lo, a_lo > b_hi),
            "gt": (a_lo > b_hi, a_hi <= b_lo),
            "ge": (a_lo >= b_hi, a_hi < b_lo),
            "eq": (same, apart),
            "ne": (apart, same),
        }[name]
        # A comparison with NaN is false, and != is true.
        nan = a.nan.where | b.nan.where
        always, never = (always, never & ~nan) if name == "ne" else (always & ~nan, never)
        peak = None
        if name == "eq" and not nan.any():  # x == max(x) somewhere
            maximum = here.bound(0, 1, "above") or here.bound(1, 0, "above")
            if maximum is not None and maximum.is_maximum:
                peak = Peak(1.0, tuple(i for i, axis in enumerate(maximum.axes) if axis is None))
        return here.value(np.where(always, 1.0, 0.0), np.where(never, 0.0, 1.0), peak=peak)

    return rule


def _extended(value: Abstract, end: int = 0) -> Any:
    """Return an end of a value with its infs."""
    if end == 0:
        lo = np.where(value.neginf.where, -np.inf, value.lo)
        return lo
    return np.where(value.posinf.where, np.inf, value.hi)


def select(here: Here, predicate: Abstract, *cases: Abstract) -> Abstract:
    """Return where(predicate, x, y), each case where it is used."""
    if len(cases) != 2:
        return joined(*(case.alone() for case in cases))
    guards, operands = here.analysis.guards, here.equation.operands
    first, second = (
        guards.under(operands[k + 1], case, guards.facts(operands[0], truth=bool(k)))
        for k, case in enumerate(cases)
    )
    may_first, may_second = predicate.lo < 1, predicate.hi > 0
    if predicate.shape == () and here.shape:
        ones = (1,) * len(here.shape)
        may_first, may_second = may_first.reshape(ones), may_second.reshape(ones)
    if may_first.any() != may_second.any():
        taken = first if may_first.any() else second
        here.analysis.identify_result(here.equation, 1 if may_first.any() else 2)
        return taken
    lo = np.minimum(np.where(may_first, first.lo, np.inf), np.where(may_second, second.lo, np.inf))
    hi = np.maximum(
        np.where(may_first, first.hi, -np.inf), np.where(may_second, second.hi, -np.inf)
    )
    mays = [
        getattr(first, name) & may_first | getattr(second, name) & may_second
        for name in ("posinf", "neginf", "nan")
    ]
    nonzero = (first.nonzero or not first.near(0).any()) and (
        second.nonzero or not second.near(0).any()
    )
    return here.value(
        lo, hi, *mays, bounds=_chosen_bounds(here, cases, first, second), nonzero=nonzero,
        peak=_chosen_peak(here, (may_first, may_second), cases),
    )  # fmt: skip


def _chosen_peak(here: Here, chosen: tuple[Any, Any], cases: Sequence[Abstract]) -> Peak | None:
    """Return the peak of a case, if it cannot be where the other case is chosen."""
    guards, operands = here.analysis.guards, here.equation.operands
    for k, case in enumerate(cases):
        if case.peak is not None:
            facts = guards.facts(operands[0], truth=not k)
            elsewhere = guards.under(operands[k + 1], case, facts)
            if (~chosen[1 - k] | (elsewhere.hi < case.peak.least)).all():
                return case.peak
    return None


def _chosen_bounds(
    here: Here, cases: Sequence[Abstract], first: Abstract, second: Abstract
) -> tuple[Bound, ...]:
    """Return the bounds of both cases, or of the one that replaces an inf or a NaN."""
    program = here.analysis.program
    maker = program.computed_by(here.analysis.guards.source(here.equation.operands[0]))
    both = tuple(bound for bound in first.bounds if bound in second.bounds)
    if maker is None or maker.primitive != "is_finite" or cases[1].posinf or cases[1].nan:
        return both
    # where(isfinite(m), m, 0) for m = max(x): if m is -inf, so is x, and stays below 0.
    is_maximum = not cases[1].neginf
    if not first.least >= 0:
        return both
    return tuple(replace(b, is_maximum=b.is_maximum and is_maximum) for b in second.bounds)


CHOICES: dict[str, Callable[..., Any]] = {
    "max": maximum,
    "min": minimum,
    "clamp": clamp,
    "select_n": select,
    **{name: comparison(name) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    **dict.fromkeys(("eq_to", "lt_to", "le_to"), lambda here, *operands: here.value(0.0, 1.0)),
}
"""Rules of comparisons and choices."""
