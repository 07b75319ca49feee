"""What outputs tend to, number by number, and whether those of a rewritten program agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax

Results = list[np.ndarray]
LAST = 1e-4
"""The share of a type's largest number from which on a result is next to overflow."""
WIDE = 1e30
"""A type with larger numbers has decades to spare for that."""


def numbers(results: Sequence[Any]) -> Results:
    """Return results as float64 arrays; keys and the like as empty ones."""
    found: Results = []
    for x in results:
        if _jax.is_key(x):
            found.append(np.zeros(0))
        elif jnp.issubdtype(x.dtype, jnp.complexfloating):
            array: Any = np.asarray(x)
            found.append(np.stack([array.real, array.imag]).astype(np.float64))
        else:
            found.append(np.asarray(x).astype(np.float64))
    return found


@dataclass(frozen=True)
class Limit:
    """What one output tends to, number by number.

    Attributes:
        low, high: the smallest and the largest limit over the directions; NaN without one.
        grown: how large it was at some distance where it grows without bound, with its sign; 0
            where it does not.
        exact: whether the number is that of float64 at the failing input itself.
        open: whether the limit depends on the direction, so that any number between those of the
            directions and 0 will do.
        shifted: what it tends to if a number that tends to 0 is put in place of each 0 at a pole;
            NaN without one.
    """

    low: np.ndarray
    high: np.ndarray
    grown: np.ndarray
    exact: np.ndarray
    open: np.ndarray
    shifted: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """What counts as the same number.

    Attributes:
        limit: largest relative deviation from a limit.
        unchanged: largest relative change of what was finite.
        floor: size below which numbers count as this large.
        values: for each output, whether it is a value, which has to be large where it grows
            without a limit; a gradient there is a choice.
        n_values: the number of outputs, before the gradients that were added.
    """

    limit: float
    unchanged: float
    floor: float
    values: Sequence[bool]
    n_values: int


class Limits:
    """What the outputs tend to.

    Args:
        found: for each output, its limit; None if the program does not run in float64.
        is_steep: whether an optimizer makes something of gradients beyond the range of the
            outputs' types, so that no rewrite can do the same.
    """

    def __init__(self, found: Sequence[Limit] | None, *, is_steep: bool = False) -> None:
        self._found, self._is_steep = found, is_steep

    def are_known(self, failing: Sequence[np.ndarray]) -> bool:
        """Return whether any output that is not finite has a limit, or grows without one."""
        if self._found is None:
            return False
        for limit, old in zip(self._found, failing, strict=True):
            has_limit = (np.isfinite(limit.low) & ~limit.open) | np.isfinite(limit.shifted)
            if (~np.isfinite(old) & (has_limit | (limit.grown != 0))).any():
                return True
        return False

    def compare(
        self, results: Sequence[np.ndarray], failing: Sequence[np.ndarray], tolerances: Tolerances
    ) -> dict[str, Any]:
        """Compare the outputs of a rewritten program with the limits.

        Args:
            results: the outputs.
            failing: the outputs of the original.
            tolerances: what counts as the same.

        Returns:
            `limit`, `error` and `failure`, as `Checks` has them.
        """
        error, kinds, grown = math.nan, set[str](), list[bool]()
        for index, (new, old) in enumerate(zip(results, failing, strict=True)):
            if not new.size:
                continue
            limit = self._found[index] if self._found is not None else _unknown(old)
            bad, known, is_value = (
                ~np.isfinite(old),
                np.isfinite(limit.low),
                tolerances.values[index],
            )
            is_near, is_shifted, away = _agreement(limit, new, tolerances)
            is_right = is_near | is_shifted
            changed = _deviation(new, old, old, tolerances.floor) > 10 * tolerances.unchanged
            if index < tolerances.n_values and (~bad & changed & ~is_right).any():
                return {"failure": "finite outputs change"}
            kind = "float64" if limit.exact[bad].any() else "limit"
            wrong = (bad & known & ~is_right).any()
            if wrong and (is_value or not self._is_steep):
                return {"limit": kind, "failure": "another number than the limit"}
            counted = bad & is_near & ~limit.open
            if counted.any() and not wrong:
                kinds.add(kind)
                error = float(np.fmax(error, away[counted].max()))
            if (bad & is_shifted & ~counted).any():
                kinds.add("eps limit")
            is_grown = bad & (limit.grown != 0) & ~known
            follows = (np.sign(new) == np.sign(limit.grown)) & (np.abs(new) >= np.abs(limit.grown))
            if is_value:
                grown += [bool(x) for x in follows[is_grown]]
        if grown:
            # A clip has no derivative where it clips, so that the gradient need not be large.
            if not all(grown):
                return {"limit": "infinite limit", "failure": "small where the limit is infinite"}
            kinds.add("infinite limit")
        return {"limit": " and ".join(sorted(kinds)), "error": error}


def _agreement(
    limit: Limit, new: np.ndarray, tolerances: Tolerances
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where an output agrees with its limit, where with moved poles, and how far it is off.

    Args:
        limit: the limit.
        new: the output of a rewritten program.
        tolerances: what counts as the same.

    Returns:
        Two masks, and the deviation from the limit.
    """
    known, has_shifted = np.isfinite(limit.low), np.isfinite(limit.shifted)
    away = _deviation(new, limit.low, limit.high, tolerances.floor)
    # Between the limits of the directions everything would pass, so that one of them is chosen.
    is_near = known & (away <= tolerances.limit) & ~(limit.open & has_shifted)
    may_shift = has_shifted & (~known | limit.open) & ~limit.exact
    off = _deviation(new, limit.shifted, limit.shifted, tolerances.floor)
    return is_near, may_shift & (off <= tolerances.limit), away


def _unknown(output: np.ndarray) -> Limit:
    nothing, no = np.full(output.shape, np.nan), np.zeros(output.shape, bool)
    return Limit(nothing, nothing, np.zeros(output.shape), no, no, nothing)


def _deviation(new: np.ndarray, low: np.ndarray, high: np.ndarray, floor: float) -> np.ndarray:
    """Return how far numbers are outside an interval, relative to its size and the array's."""
    with np.errstate(all="ignore"):
        # Differences of a few roundings of 1 do not count, for example where a gradient cancels.
        outside = np.maximum(np.maximum(low - new, new - high) - 4 * floor, 0)
        size = np.maximum(np.abs(low), np.abs(high))
        known = size[np.isfinite(size)]
        scale = np.maximum(size, 0.1 * known.max(initial=0))
        return outside / np.maximum(scale, floor)


def is_known(x: np.ndarray, largest: float) -> np.ndarray:
    """Return which numbers are finite and fit into a type."""
    return np.isfinite(x) & (np.abs(x) <= largest)


def exact_limit(x: np.ndarray, largest: float) -> Limit:
    """Return an output that float64 computes at the failing input itself."""
    known = is_known(x, largest)
    # What is next to overflow may saturate, somewhat below.
    is_last = known & (np.abs(x) > LAST * largest) & (largest > WIDE)
    settled = np.where(is_last, np.nan, x)
    return Limit(settled, settled, np.where(is_last, LAST * x, 0.0), known & ~is_last,
                 np.zeros(x.shape, bool), np.full(x.shape, np.nan))  # fmt: skip


def limit_along(here: np.ndarray, near: np.ndarray, largest: float, shifted: np.ndarray) -> Limit:
    """Return the limit of an output from its numbers by direction and step."""
    with np.errstate(all="ignore"):
        finite = is_known(near, largest).all(axis=1)
        last, before, first = near[:, -1], near[:, -2], near[:, 0]
        change, ratio = last - before, (last - before) / (before - near[:, -3])
        size = np.maximum(np.abs(last), np.abs(before))
        settles = finite & ((np.abs(ratio) <= 0.5) | (np.abs(change) <= 1e-3 * size))
        more = np.diff(np.abs(near), axis=1)
        # A power goes up by a factor, a logarithm by as much each time; rounding by far more.
        is_even = (np.abs(last) > 1.5 * np.abs(before)) | (more[:, -1] <= 5 * more[:, -2])
        grows = finite & ~settles & (more > 0).all(axis=1) & is_even
        ratio = np.where(np.abs(ratio) <= 0.5, ratio, 0)
        ends = last + change * ratio / (1 - ratio)  # as if the steps went on to shrink so
        # Next to an inf a number may be what float64 rounds to: tanh(19) is 1 but for 7 roundings.
        only_settles = settles.any(axis=0) & ~(grows.any(axis=0) | np.isinf(last).any(axis=0))
        low = np.where(settles, ends, np.inf).min(axis=0)
        high = np.where(settles, ends, -np.inf).max(axis=0)
        spread, further = high - low, np.where(settles, np.abs(change), 0).max(axis=0)
        differs = spread > 0.02 * np.maximum(np.abs(low), np.abs(high))
        is_open = only_settles & differs & (spread > 3 * further)  # not just on its way to 0
        further += np.where(differs & ~is_open, spread, 0)
        low, high = (
            np.where(is_open, f(x, 0), x) for f, x in ((np.minimum, low), (np.maximum, high))
        )
        low, high = (np.where(only_settles, x, np.nan) for x in (low - further, high + further))
        signs = np.where(grows, np.sign(last), 0)
        one_sign = np.abs(signs.sum(axis=0)) == grows.sum(axis=0)
        sizes = np.where(np.sign(first) == np.sign(last), 0.99 * np.abs(first), 1e-30)
        grown = np.where(grows, sizes, np.inf).min(axis=0)
        is_grown = grows.any(axis=0) & ~settles.any(axis=0) & one_sign
        grown = np.where(is_grown, grown * np.sign(signs.sum(axis=0)), 0.0)
    exact = is_known(here, largest)
    # Of an inf in float64 as well, only the sign is known: log(1 - sigmoid(200)) is -200.
    is_large = ~np.isnan(here) & ~exact & (grown == 0)
    grown = np.where(is_large, np.sign(here) * np.where(np.isinf(here), 1e-30, 1e3), grown)
    return Limit(np.where(exact, here, low), np.where(exact, here, high),
                 np.where(exact, 0.0, grown), exact, is_open & ~exact, shifted)  # fmt: skip


def opened(limit: Limit, where: np.ndarray, to: float = 0.0) -> Limit:
    """Return a limit that depends on the direction in some places, and that is none for NaN."""
    low, high = np.minimum(limit.low, to), np.maximum(limit.high, to)
    return replace(
        limit, low=np.where(where, low, limit.low), high=np.where(where, high, limit.high),
        open=limit.open | where,
    )  # fmt: skip
