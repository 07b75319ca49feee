"""The small outputs of each call, read when they are ready: history, alarms, events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nanlab.backend.finiteness import FINITE
from nanlab.recorder.arrays import Codes, is_bad, is_inexact, is_ready, on_host
from nanlab.recorder.tape import Entry, Epoch

if TYPE_CHECKING:
    from nanlab.recorder.watched import Watched

_CHECKS_BEFORE_MUTED = 3


class Logged(NamedTuple):
    """The small outputs of a call that were read: (index, value) of each."""

    number: int
    step: int
    watched: Watched
    values: list[tuple[int, np.ndarray[Any, Any]]]

    def row(self) -> dict[str, Any]:
        """Return it as a row of `Fault.history`."""
        names = self.watched.names
        about = {"call": self.number, "step": self.step, "function": self.watched.name}
        return about | {names[i]: v.item() if v.size == 1 else v.copy() for i, v in self.values}


@dataclass(frozen=True, kw_only=True)
class Event:
    """A metric that was not finite while the state was.

    Attributes:
        call: number of the call among the calls of all watched functions.
        step: its number among the calls of its function.
        function: qualified name of the function.
        names: the outputs that were not finite.
    """

    call: int
    step: int
    function: str
    names: tuple[str, ...]


class Metrics:
    """Small outputs that are not fed back, from the call to the reading.

    Args:
        lag: calls that are waited before an output is read.
        history: number of calls that are remembered.
        say: prints a remark.
    """

    def __init__(self, lag: int, history: int, say: Callable[[str], None]) -> None:
        self.lag, self._say = lag, say
        self.history: deque[Logged] = deque(maxlen=history)
        self.events: list[Event] = []
        self._pending: deque[tuple[Entry, list[int], list[Any]]] = deque()

    def add(self, entry: Entry, leaves: list[Any]) -> None:
        """Remember the small outputs of a call."""
        metrics = entry.watched.metrics
        if metrics:
            self._pending.append((entry, metrics, [leaves[i] for i in metrics]))

    def clear(self) -> None:
        """Forget what was not read yet."""
        self._pending.clear()

    def first_unread(self, number: int) -> int:
        """Return the number of the first call that was not looked at; `number` if all were."""
        return self._pending[0][0].number if self._pending else number

    def read(self, before: int, *, wait: bool) -> Logged | None:
        """Read what is ready of the calls before this one; stop at the first bad value."""
        while self._pending and self._pending[0][0].number < before:
            entry, indices, arrays = self._pending[0]
            if not wait and not all(map(is_ready, arrays)):
                return None
            self._pending.popleft()
            logged = self._value_of(entry, indices, arrays)
            self.history.append(logged)
            if any(is_bad(value) for _, value in logged.values):
                return logged
        return None

    def _value_of(self, entry: Entry, indices: list[int], arrays: list[Any]) -> Logged:
        gone = {i for i, x in zip(indices, arrays, strict=True) if x.is_deleted()}
        if gone:  # small, but state: a bias that was fed back and donated
            entry.watched.metrics = [i for i in entry.watched.metrics if i not in gone]
        values = [
            (i, on_host(x)) for i, x in zip(indices, arrays, strict=True) if not x.is_deleted()
        ]
        return Logged(entry.number, entry.step, entry.watched, values)

    def pass_over(self, logged: Logged) -> None:
        """Record an event: the metric was bad and the state is good."""
        watched = logged.watched
        bad = [i for i, value in logged.values if is_bad(value)]
        names = tuple(watched.names[i] for i in bad)
        self.events.append(
            Event(call=logged.number, step=logged.step, function=watched.name, names=names)
        )
        for index in {i for i, _ in logged.values} - set(bad):
            watched.muted.pop(index, None)
        for index in bad:
            watched.muted[index] = watched.muted.get(index, 0) + 1
            if watched.muted[index] == _CHECKS_BEFORE_MUTED and index in watched.metrics:
                watched.metrics = [i for i in watched.metrics if i != index]
                self._say(
                    f"{watched.names[index]} of {watched.name} was not finite "
                    f"{_CHECKS_BEFORE_MUTED} times while the state was: it is no longer looked at"
                )


def verify(epoch: Epoch, *, wait: bool) -> bool | None:
    """Return whether the state is good at an epoch's beginning; None if not known yet."""
    if epoch.is_clean is None:
        if not wait and not all(check.codes.is_ready() for check in epoch.checks):
            return None
        epoch.is_clean = not any(
            code > check.watched.allowed_in(check.tree, place)
            for check in epoch.checks
            for place, code in zip(check.places, check.codes.read(), strict=True)
            if code != FINITE and check.watched.is_state(check.tree, place)
        )
    return epoch.is_clean


def state_is_bad(functions: list[Watched], call: tuple[Watched, Any, list[Any]] | None) -> bool:
    """Return whether the state holds an inf or a NaN that it did not hold from the start.

    Args:
        functions: the watched functions, whose last outputs are looked at.
        call: the call that is about to be made: function, structure and leaves of its arguments.
    """
    arrays: list[Any] = []
    allowed: list[int] = []
    is_known = any(function.state for function in functions)
    for function in functions:
        for outputs in function.recent:
            for index in function.state:
                x: Any = outputs.leaves[index] if index < len(outputs.leaves) else None
                if is_inexact(x) and not x.is_deleted():
                    arrays.append(x)
                    allowed.append(function.allowed(index))
    if call is not None:
        watched, tree, leaves = call
        for place, x in enumerate(leaves):
            is_known_place = tree in watched.layouts and (
                not is_known or watched.is_state(tree, place)
            )
            if is_known_place and is_inexact(x) and not x.is_deleted():
                arrays.append(x)
                allowed.append(watched.allowed_in(tree, place))
    if not arrays:
        return False
    found = zip(Codes(arrays).read(), allowed, strict=True)
    return any(code != FINITE and code > limit for code, limit in found)
