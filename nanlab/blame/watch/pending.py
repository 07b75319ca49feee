"""The computations whose outputs are not read yet, in the order in which the program ran them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanlab.blame.watch.arrays import PackLayout, pack_layout
from nanlab.blame.watch.computation import Computation
from nanlab.blame.watch.outputs import OutputReading

# A computation is read this number of calls later at the latest.
CALLS = 2
# Operations among them.
COMPUTATIONS = 64
# Bytes of arguments and outputs that are retained for them, besides those of the last call.
RETAINED = 1 << 30
# Programs about which the watch knows how they are read; each is retained.
_STORED = 4096


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A computation that has started.

    Attributes:
        computation: what it is, with its arguments.
        number: its number among the calls of its function; 0 for an operation.
        reading: its outputs that can be bad.
        n_bytes: of its arguments and outputs.
    """

    computation: Computation
    number: int
    reading: OutputReading
    n_bytes: int


class Queue:
    """Computations that have started, the oldest first."""

    def __init__(self) -> None:
        self._entries = deque[Pending]()

    def __iter__(self) -> Any:
        return iter(tuple(self._entries))

    def add(self, entry: Pending) -> None:
        """Append a computation."""
        self._entries.append(entry)

    def clear(self) -> None:
        """Forget all of them."""
        self._entries.clear()

    @property
    def is_borrowed(self) -> bool:
        """Whether arrays are to be read that a call which donates them would delete."""
        return any(entry.reading.is_borrowed for entry in self)

    def next(self, *, wait: bool) -> Pending | None:
        """Remove and return the oldest if it is ready, or if it is to be waited for.

        Args:
            wait: whether to wait for each; else only for those that there are too many of.

        Returns:
            The oldest that can be read, or None.
        """
        if not self._entries:
            return None
        if wait or self._entries[0].reading.is_ready or self._is_full():
            return self._entries.popleft()
        return None

    def _is_full(self) -> bool:
        entries = self._entries
        n_bytes = sum(entry.n_bytes for entry in entries)
        return (
            len(entries) > COMPUTATIONS
            or sum(entry.number > 0 for entry in entries) > CALLS
            or (n_bytes > RETAINED and len(entries) > 1)
        )


class Layouts:
    """How the outputs of each program are read, and what it holds on to."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[Any, PackLayout, int]] = {}

    def of(self, closed: Any, arguments: Sequence[Any], outputs: Sequence[Any]) -> tuple[Any, int]:
        """Return the layout of a program's outputs, and the bytes of a call."""
        stored = self._of.get(id(closed))
        if stored is not None and stored[0] is closed:
            return stored[1:]
        layout, n_bytes = pack_layout(outputs), sum(map(_n_bytes, (*arguments, *outputs)))
        if closed is not None:
            while len(self._of) >= _STORED:
                self._of.pop(next(iter(self._of)), None)
            self._of[id(closed)] = closed, layout, n_bytes
        return layout, n_bytes


def _n_bytes(leaf: Any) -> int:
    shape, dtype = getattr(leaf, "shape", ()), getattr(leaf, "dtype", None)
    return int(np.prod(shape)) * getattr(dtype, "itemsize", 8)
