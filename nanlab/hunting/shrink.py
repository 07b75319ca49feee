"""Values that fail -> values that fail with less of the given input changed, and by less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nanlab.hunting.found import differs
from nanlab.hunting.space import Kind, Variable
from nanlab.hunting.starts import Values
from nanlab.hunting.trials import Trials

MAX_RUNS = 300
_HALVINGS = 10
_TINY = 1e-6


class Shrinking:
    """Brings an input on which the function fails back towards the given one.

    First whole arrays become the given ones again, then rows and elements, in groups that are
    halved; then the distance of what is left is halved, and its numbers are rounded.

    Args:
        trials: runs the function.
        variables: what may be moved.
        values: the input, which fails.
    """

    def __init__(self, trials: Trials, variables: Sequence[Variable], values: Values) -> None:
        self._trials, self._variables = trials, variables
        self._most = trials.tried + MAX_RUNS
        moved = {i: differs(variables[i].given, x).any() for i, x in values.items()}
        self._values = {i: x for i, x in values.items() if moved[i]}

    def shrunk(self) -> Values:
        """Return the values that are left."""
        self._revert_arrays()
        for position in list(self._values):
            self._revert_elements(position)
        for position in list(self._values):
            if self._variables[position].kind == Kind.NUMBERS:
                self._approach(position)
                self._round(position)
        return self._values

    def _take(self, values: Values) -> bool:
        """Go on from these values if they fail."""
        is_over = self._trials.tried >= self._most or self._trials.is_over
        if is_over or not self._trials.fails(values):
            return False
        self._values = values
        return True

    def _take_in(self, position: int, values: np.ndarray) -> bool:
        return self._take({**self._values, position: values})

    def _revert_arrays(self) -> None:
        for group in _groups(np.array(sorted(self._values))):
            left = {i: x for i, x in self._values.items() if i not in group}
            if len(left) < len(self._values):
                self._take(left)

    def _revert_elements(self, position: int) -> None:
        variable = self._variables[position]
        # One-hot rows stay one-hot, so they go back as a whole.
        size = variable.given.shape[-1] if variable.kind == Kind.ONE_HOT else 1
        given = variable.given.reshape(-1, size)
        moved = differs(given, self._values[position].reshape(-1, size)).any(1)
        for group in _groups(np.flatnonzero(moved)):
            rows = self._values[position].reshape(-1, size).copy()
            if differs(rows[group], given[group]).any():
                rows[group] = given[group]
                self._take_in(position, rows.reshape(variable.given.shape))

    def _approach(self, position: int) -> None:
        """Halve the distance from the given numbers."""
        variable, far = self._variables[position], self._values[position]
        least, most = 0.0, 1.0
        for _ in range(_HALVINGS):
            share = (least + most) / 2
            with np.errstate(all="ignore"):
                nearer = variable.bounded(variable.given + share * (far - variable.given))
            nearer = np.where(far == variable.given, far, nearer)
            if self._take_in(position, nearer):
                most = share
            else:
                least = share

    def _round(self, position: int) -> None:
        """Round the numbers that have been moved, so that they are easy to read."""
        variable, values = self._variables[position], self._values[position]
        is_tiny = (np.abs(values) < _TINY) & (values != 0)
        if is_tiny.any():
            self._take_in(position, np.where(is_tiny, 0, values).astype(values.dtype))
            values = self._values[position]
        for digits in (0, 1, 2):
            with np.errstate(all="ignore"):
                scale = 10.0 ** (digits - np.floor(np.log10(np.abs(values, dtype=np.float64))))
                rounded = np.where(values == 0, values, np.round(values * scale) / scale)
            rounded = variable.bounded(np.where(values == variable.given, values, rounded))
            if self._take_in(position, rounded):
                return


def _groups(items: np.ndarray) -> Iterator[np.ndarray]:
    """Yield groups of items: the first and the second half, the quarters, down to single ones."""
    size = (len(items) + 1) // 2
    while size and len(items) > 1:  # all of them are the given input
        for start in range(0, len(items), size):
            yield items[start : start + size]
        size = (size + 1) // 2 if size > 1 else 0
