"""Failing arrays -> arrays near them, and arrays like them with which nothing fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.call import Call
from nanlab.blame.program.program import Program
from nanlab.hunting.space import variables_of
from nanlab.hunting.starts import ROUND, Starts
from nanlab.linting.arguments import range_of_example

STEPS = (1e-2, 3e-4, 1e-5, 3e-7)
"""How far nearby inputs are away, relative to the size of each array."""

DIRECTIONS = 4

ROUNDS = 3
"""Rounds of structured inputs among which healthy ones are looked for."""


MOST_SIBLINGS = 4


def is_varied(x: Any, *, masks: bool = False) -> bool:
    """Return whether an array holds numbers that may be other ones: no index, key or mask."""
    if _jax.is_key(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return False
    if masks:
        return True
    values = np.unique(np.asarray(x, np.float64))
    return not (len(values) == 2 and values[0] == 0 and values[1] == 1)


def _scale(x: np.ndarray) -> float:
    finite = np.abs(x[np.isfinite(x)])
    scale = float(finite.mean()) if finite.size else 0.0
    return scale if scale > 0 else 1.0


class Inputs:
    """Arrays like those of a failing call.

    Args:
        call: the failing call.
        program: its program.
        constants: values of the program's constants, which may be others as well.

    Attributes:
        leaves: the failing arrays: constants, then arguments.
        fixed: the number of constants.
    """

    def __init__(self, call: Call, program: Program, constants: Sequence[Any]) -> None:
        self.leaves: list[Any] = [*constants, *call.arrays]
        self.fixed = len(constants)
        names = [*(f"constant {i}" for i in range(self.fixed)), *call.names]
        self._whole = replace(call, arrays=self.leaves, names=names, restored=None)
        self._program = program

    def _signed(self, index: int, values: np.ndarray) -> np.ndarray:
        """Return numbers for an array; one that is nowhere negative stays so."""
        return np.abs(values) if self._is_positive(index) else values

    def _is_positive(self, index: int) -> bool:
        name, given = self._whole.names[index], np.asarray(self.leaves[index])
        return range_of_example(name, given)[0] == 0

    def nearby(
        self,
        direction: int,
        step: float,
        leaves: Sequence[Any] | None = None,
        *,
        masks: bool = False,
    ) -> list[Any]:
        """Return arrays at this distance in this direction, in float64.

        Args:
            direction: number of the direction. All but the first two move constants as well.
            step: distance relative to the size of each array.
            leaves: the arrays; the failing ones if there are none.
            masks: whether arrays of zeros and ones move as well.

        Returns:
            The arrays; what is not varied is the same object.
        """
        # Opposite pairs: a norm's gradient at 0 has a limit in each direction, and 0 between.
        rng, sign = np.random.default_rng(direction // 2), 1 - 2 * (direction % 2)
        sizes = np.random.default_rng(direction // 2)
        found: list[Any] = []
        for index, leaf in enumerate(self.leaves if leaves is None else leaves):
            is_fixed = index < self.fixed and direction < DIRECTIONS // 2
            if is_fixed or not is_varied(leaf, masks=masks):
                found.append(leaf)
                continue
            x = np.asarray(leaf, np.float64)
            by = rng.standard_normal(x.shape)
            if sign < 0 and self._is_positive(index):  # the opposite is not
                by = rng.standard_normal(x.shape)
            if direction >= DIRECTIONS // 2:
                # Of many normal numbers all means and ratios of norms are alike.
                by = by * 4.0 ** (sizes.uniform(-1, 1) + sizes.uniform(-1, 1, x.shape))
            found.append(self._signed(index, _plus(x, sign * step * _scale(x) * by)))
        return found

    def siblings(self) -> Iterator[list[Any]]:
        """Yield the failing arrays with other numbers in one that has one number, or 0 and 1.

        Yields:
            The arrays, which may fail as well or not.
        """
        rng, found = np.random.default_rng(1), 0
        for index, leaf in enumerate(self.leaves):
            if index < self.fixed or not is_varied(leaf, masks=True) or not leaf.size:
                continue
            x = np.asarray(leaf, np.float64)
            is_alike = np.isfinite(x).all() and (x == x.flat[0]).all()
            if found < MOST_SIBLINGS and (is_alike or not is_varied(leaf)):
                found += 1
                other = _scale(x) * rng.uniform(0.2, 0.9, x.shape)
                yield [*self.leaves[:index], other, *self.leaves[index + 1 :]]

    def like(self) -> Iterator[list[Any]]:
        """Yield arrays of the same kind with other numbers, from close to the failing ones on.

        Yields:
            The arrays, in their own types; the constants stay in every second of the first twelve.
        """
        rng = np.random.default_rng(0)
        for vary in (_close, _spread, _smaller, _between, _without_bad, _tiny):
            for first in (self.fixed, 0):
                yield [
                    jnp.asarray(self._signed(i, vary(np.asarray(x, np.float64), rng)), x.dtype)
                    if i >= first and is_varied(x) else x
                    for i, x in enumerate(self.leaves)
                ]  # fmt: skip
        # Masks, indices and classes as well.
        try:
            variables = variables_of(self._whole, self._whole.names, 10.0)
        except ValueError:  # nothing can be varied
            return
        starts = Starts(variables, self._program, 0)
        for number in range(ROUNDS * ROUND):
            leaves = list(self.leaves)
            for position, values in starts[number].items():
                variable = variables[position]
                leaves[variable.index] = variable.on_device(values)
            yield leaves


def _plus(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return an array moved where it is finite."""
    return x + np.where(np.isfinite(x), by, 0)


def _close(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _plus(x, 0.1 * _scale(x) * rng.standard_normal(x.shape))


def _spread(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _plus(x, _scale(x) * rng.standard_normal(x.shape))


def _smaller(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _plus(0.01 * x, 0.3 * min(1.0, _scale(x)) * rng.standard_normal(x.shape))


def _tiny(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _close(1e-4 * x, rng)


def _between(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(np.isfinite(x), rng.uniform(0.1, 0.9, x.shape), x)


def _without_bad(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _close(np.where(np.isfinite(x), x, 0.5), rng)
