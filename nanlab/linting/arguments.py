"""Example arguments, assumptions -> abstract arguments."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.linting.abstract import INPUT, NEVER, Abstract, May, anything, interval
from nanlab.linting.floats import float_type, is_complex, is_float

REACH = 10.0
"""Numbers are assumed to reach at least this far from zero."""

_POSITIVE = (".nu", "['nu']", ".sum_of_squares", ".v[", ".v_row", ".v_col", ".vv", ".second_moment")
"""Endings of the names of second moments, whose first values are all zero."""

_COUNTS = ("count", "step")
MOST_STEPS = 1e6


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """What is assumed of an argument.

    Attributes:
        name: name of the argument, such as "params['w']".
        lo: its least number.
        hi: its greatest number.
        source: "example" or "assume".
    """

    name: str
    lo: float
    hi: float
    source: str

    def __str__(self) -> str:
        return f"{self.name} in [{self.lo:g}, {self.hi:g}]"


def assumptions_of(
    names: Sequence[str], arrays: Sequence[Any], assume: Mapping[str, Any] | None
) -> list[Assumption | None]:
    """Return what to assume of each array; None for random keys and booleans.

    Args:
        names: names of the arrays.
        arrays: examples.
        assume: ranges by the name of an argument or of a part of it.

    Returns:
        What to assume.

    Raises:
        ValueError: a name fits no argument, a range is empty, or an example lies outside of its
            range. All problems are reported at once.
    """
    problems: list[str] = []
    ranges = ranges_of("assume", assume or {}, names, problems)
    assumptions: list[Assumption | None] = []
    for name, array in zip(names, arrays, strict=True):
        keys = [key for key in ranges if fits(key, name)]
        if not is_number(array):
            assumptions.append(None)
        elif not keys:
            lo, hi = range_of_example(name, np.asarray(array))
            assumptions.append(Assumption(name=name, lo=lo, hi=hi, source="example"))
        else:
            key = max(keys, key=len)
            lo, hi = ranges[key]
            compare(name, np.asarray(array), lo, hi, problems)
            assumptions.append(Assumption(name=name, lo=lo, hi=hi, source="assume"))
    if problems:
        raise ValueError("\n  ".join(["nanlab.lint: the assumptions do not fit", *problems]))
    return assumptions


def ranges_of(
    parameter: str, given: Mapping[Any, Any], names: Sequence[str], problems: list[str]
) -> dict[str, tuple[float, float]]:
    """Return the ranges that a mapping gives by name, and add what is wrong with them."""
    for key in given:
        unknown_name(f"{parameter}[{key!r}]", key, names, problems)
    named = {key: x for key, x in given.items() if isinstance(key, str)}
    return {key: _range(f"{parameter}[{key!r}]", x, problems) for key, x in named.items()}


def unknown_name(where: str, key: Any, names: Sequence[str], problems: list[str]) -> None:
    """Add a problem if no argument has this name or lies below it."""
    if not isinstance(key, str):
        problems.append(f"{where}: must be the name of an argument, as {names[:1]}")
    elif not any(fits(key, name) for name in names):
        near = difflib.get_close_matches(key, [*names, *map(_head, names)], n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(names[:8])}"
        problems.append(f"{where}: no argument has this name; {hint}")


def is_number(array: Any) -> bool:
    """Return whether an array holds real numbers, and neither keys nor booleans."""
    return not _jax.is_key(array) and (is_float(array.dtype) or array.dtype.kind in "iu")


def fits(key: str, name: str) -> bool:
    """Return whether a name is that of an argument, or of a part of it, that `key` names."""
    return name == key or (name.startswith(key) and name[len(key)] in ".[")


def _head(name: str) -> str:
    return name.partition("[")[0].partition(".")[0]


def _range(where: str, given: Any, problems: list[str]) -> tuple[float, float]:
    try:
        lo, hi = given if isinstance(given, Sequence) else (-abs(given), abs(given))
        lo, hi = float(lo), float(hi)
    except (TypeError, ValueError):
        problems.append(f"{where} = {given!r}: must be a number or a pair (least, most)")
        return 0.0, 0.0
    if not lo <= hi or np.isinf(lo) or np.isinf(hi):
        problems.append(f"{where} = {given!r}: must be finite, the least number first")
    return lo, hi


def compare(name: str, array: np.ndarray, lo: float, hi: float, problems: list[str]) -> None:
    """Add a problem if an example lies outside of its range."""
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if finite.size and not (lo <= finite.min() and finite.max() <= hi):
        problems.append(
            f"{name}: the example lies in [{finite.min():g}, {finite.max():g}], outside of the "
            f"assumed [{lo:g}, {hi:g}]; widen the range, or pass another example"
        )


def range_of_example(name: str, array: np.ndarray) -> tuple[float, float]:
    """Return a range that contains the example with room around it."""
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    least, most = float(finite.min(initial=0.0)), float(finite.max(initial=0.0))
    if not is_float(array.dtype):
        is_count = array.ndim == 0 and any(word in name for word in _COUNTS)
        return least, max(most, MOST_STEPS if is_count else 1.0)
    reach = min(max(REACH, 2 * max(-least, most)), float_type(array.dtype).largest)
    is_positive = finite.size and finite.min() >= 0 and most > 0
    return 0.0 if is_positive or any(part in name for part in _POSITIVE) else -reach, reach


def abstract_argument(array: Any, assumption: Assumption | None) -> Abstract:
    """Return what an argument may be; an inf or a NaN may stand where the example has one."""
    if assumption is None:
        if _jax.is_key(array):
            return interval(array.shape, array.dtype, 0, 0)
        bad = ~np.isfinite(array) if is_complex(array.dtype) else np.zeros((), bool)
        nan = May(np.asarray(bad), frozenset({INPUT})) if bad.any() else NEVER
        return anything(array.shape, array.dtype, nan=nan)
    numbers = np.asarray(array).astype(np.float64)

    def standing(test: Any) -> May:
        where = test(numbers)
        return May(where, frozenset({INPUT})) if where.any() else NEVER

    return interval(
        array.shape, array.dtype, assumption.lo, assumption.hi,
        posinf=standing(np.isposinf), neginf=standing(np.isneginf), nan=standing(np.isnan),
    )  # fmt: skip
