"""Infs and NaNs that eager operations made: where each began, and whether it was masked.

Inside a jitted function a bad value that reaches no output is harmless. Between eager operations
nothing says what an output is, so each bad array is followed: it is harmless once an operation
that reads it returns finite numbers (`where`, `nan_to_num`), lives on where the result is bad
again, and is a fault if nothing has masked it when the program ends. Of several bad arrays that
one operation returns, as a loss and what its derivative needs, each is masked by itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nanlab.backend.finiteness import INF
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.watch.fault import WatchedFault, traced_back


@dataclass(eq=False, kw_only=True)
class BadValue:
    """What one operation returned.

    Attributes:
        number: its place in the order of bad values.
        name: of the operation.
        kind: of the operation, as in `WatchedFault`.
        place: file and line of the user's that called it.
        code: INF or NAN.
        is_meant: whether it comes of a number that the user wrote; it is no fault.
        is_made: whether it was made, and not handed in by the user.
        origin: the bad value that it came from, at the very beginning; None if it is the first.
        culprit: the first bad value on its way that is a NaN; itself, if it is the first.
        depth: the number of operations that it has gone through.
        verdict: what made it; None if that was not looked into.
    """

    number: int
    name: str
    kind: str
    place: str
    code: int
    is_meant: bool = False
    is_made: bool = True
    origin: BadValue | None = None
    culprit: BadValue | None = None
    depth: int = 0
    verdict: Verdict | None = None


class BadValues:
    """The bad values that nothing has masked so far."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[weakref.ref[Any], BadValue]] = {}
        # The arrays of each, by identity, that no operation has read.
        self._open: dict[BadValue, set[int]] = {}

    def behind(self, arguments: Iterable[Any]) -> list[BadValue]:
        """Return the bad values among the arguments of an operation, the earliest first."""
        if not self._of:
            return []
        values = {value for _, value in self._held(arguments)}
        return sorted(values, key=lambda value: value.number)

    def _held(self, arrays: Iterable[Any]) -> Iterator[tuple[int, BadValue]]:
        for array in arrays:
            entry = self._of.get(id(array))
            if entry is not None and entry[0]() is array:
                yield id(array), entry[1]

    def read(self, arguments: Iterable[Any]) -> None:
        """An operation with numbers for results has read these."""
        for key, value in self._held(arguments) if self._open else ():
            unread = self._open.get(value, set())
            unread.discard(key)
            if not unread:
                self._open.pop(value, None)

    def add(self, value: BadValue, arrays: Sequence[Any], internal: Sequence[Any] = ()) -> None:
        """Record the arrays that hold a bad value.

        Args:
            value: the bad value.
            arrays: those that the program can read.
            internal: those that only a derivative reads; unread, they are harmless.
        """
        if arrays and not value.is_meant:
            self._open[value] = {id(array) for array in arrays}
        for array in (*arrays, *internal):
            key = id(array)
            self._of[key] = (weakref.ref(array, lambda _, key=key: self._of.pop(key, None)), value)

    def first(self) -> BadValue | None:
        """Return the earliest bad value that nothing has masked; NaNs before infs."""
        return min(self._open, key=lambda v: (-v.code, v.number), default=None)


def fault_of(value: BadValue) -> WatchedFault:
    """Return the fault that a bad value is: where its NaN began, or its inf if it has no NaN."""
    first = value if value.code == INF or value.culprit is None else value.culprit
    origin = value.origin or value
    if first.code == INF:
        first = origin
    fault = WatchedFault(
        name=first.name,
        kind=first.kind,
        call=0,
        code=first.code,
        place=first.place,
        verdict=traced_back(first.verdict, origin.verdict),
    )
    if origin is not first:
        fault.notes.append(made_by(origin))
    return fault


def made_by(origin: BadValue) -> str:
    """Say which operation made the inf behind a NaN."""
    at = f" at {origin.place}" if origin.place else ""
    return f"the inf behind it was made by {origin.name}{at}"
