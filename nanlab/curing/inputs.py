"""Failing arrays -> arrays near them, and arrays like them with which nothing fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax

STEPS = (1e-2, 3e-4, 1e-5, 3e-7)
"""How far nearby inputs are away, relative to the size of each array."""

DIRECTIONS = 4


def is_varied(x: Any) -> bool:
    """Return whether an array holds numbers that may be other ones: no index, key or mask."""
    if _jax.is_key(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return False
    values = np.unique(np.asarray(x, np.float64))
    return not (len(values) == 2 and values[0] == 0 and values[1] == 1)


def _scale(x: np.ndarray) -> float:
    finite = np.abs(x[np.isfinite(x)])
    scale = float(finite.mean()) if finite.size else 0.0
    return scale if scale > 0 else 1.0


def _moved(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return an array moved; one without negative numbers stays so, unless it is all zeros."""
    moved = x + np.where(np.isfinite(x), by, 0)
    return np.abs(moved) if (x >= 0).all() and (x > 0).any() else moved


def nearby(leaves: Sequence[Any], direction: int, step: float, fixed: int) -> list[Any]:
    """Return arrays at this distance in this direction, in float64.

    Args:
        leaves: the failing arrays.
        direction: number of the direction.
        step: distance relative to the size of each array.
        fixed: the number of arrays at the front that stay; all directions but the first two move
            these too.

    Returns:
        The arrays; what is not varied is the same object.
    """
    # Directions come in opposite pairs: a norm's gradient at 0 has a limit in each, and 0 between.
    rng, sign = np.random.default_rng(direction // 2), 1 - 2 * (direction % 2)
    found: list[Any] = []
    for index, leaf in enumerate(leaves):
        is_fixed = index < fixed and direction < DIRECTIONS // 2
        if is_fixed or not is_varied(leaf):
            found.append(leaf)
            continue
        x = np.asarray(leaf, np.float64)
        found.append(_moved(x, sign * step * _scale(x) * rng.standard_normal(x.shape)))
    return found


def like(leaves: Sequence[Any], fixed: int) -> Iterator[list[Any]]:
    """Yield arrays of the same kind with other numbers, from close to the failing ones on.

    Args:
        leaves: the failing arrays.
        fixed: the number of arrays at the front, which stay in every second yield.

    Yields:
        The arrays, in their own types.
    """
    rng = np.random.default_rng(0)

    def close(x: np.ndarray) -> np.ndarray:
        return _moved(x, 0.1 * _scale(x) * rng.standard_normal(x.shape))

    def spread(x: np.ndarray) -> np.ndarray:
        return _moved(x, _scale(x) * rng.standard_normal(x.shape))

    def smaller(x: np.ndarray) -> np.ndarray:
        return _moved(0.01 * x, 0.3 * min(1.0, _scale(x)) * rng.standard_normal(x.shape))

    def between(x: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(x), rng.uniform(0.1, 0.9, x.shape), x)

    def without_bad(x: np.ndarray) -> np.ndarray:
        return close(np.where(np.isfinite(x), x, 0.5))

    for vary in (close, spread, smaller, between, without_bad):
        for n_fixed in (fixed, 0):
            yield [
                jnp.asarray(vary(np.asarray(x, np.float64)), x.dtype)
                if i >= n_fixed and is_varied(x) else x
                for i, x in enumerate(leaves)
            ]  # fmt: skip
