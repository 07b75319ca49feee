"""The small outputs of each call, read when they are ready: history, alarms, events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import asarray

from nanlab.backend.finiteness import FINITE
from nanlab.recorder.arrays import ArrayCodes, is_bad, is_inexact, is_ready
from nanlab.recorder.tape import Cell, Epoch, Tape, TapeEntry

if TYPE_CHECKING:
    from nanlab.recorder.watched import WatchedFunction

_CHECKS_BEFORE_MUTED = 3


class Logged(NamedTuple):
    """The small outputs of a call that were read: (index, value) of each."""

    number: int
    step: int
    watched: WatchedFunction
    values: list[tuple[int, np.ndarray[Any, Any]]]

    def row(self) -> dict[str, Any]:
        """Return it as a row of `Fault.history`."""
        names = self.watched.names
        about = {"call": self.number, "step": self.step, "function": self.watched.name}
        return about | {names[i]: v.item() if v.size == 1 else v.copy() for i, v in self.values}


_logged = partial(tuple.__new__, Logged)  # quicker than the class, which is called for each call


@dataclass(frozen=True, kw_only=True)
class MetricEvent:
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


class SmallOutputs:
    """Small outputs that are not fed back, from the call to the reading.

    Args:
        lag: calls that are waited before an output is read.
        history: number of calls that are remembered.
        say: prints a remark.
    """

    def __init__(self, lag: int, history: int, say: Callable[[str], None]) -> None:
        self.lag, self._say = lag, say
        self.history: deque[Logged] = deque(maxlen=history)
        self.events: list[MetricEvent] = []
        self._pending: deque[tuple[TapeEntry, list[int], list[Any]]] = deque()

    def add(self, entry: TapeEntry, leaves: list[Any]) -> None:
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

    def drain(self, before: int) -> None:
        """Read the calls before this one, bad values or not: the history of a fault."""
        while self.first_unread(before) < before:
            self.read(before, wait=True)

    def read(self, before: int, *, wait: bool) -> Logged | None:
        """Read what is ready of the calls before this one; stop at the first bad value."""
        pending, remember = self._pending, self.history.append
        while pending:
            entry, indices, arrays = pending[0]
            number, step, watched, *_ = entry
            if number >= before or not (wait or is_ready(arrays[-1])):
                return None
            pending.popleft()
            try:
                numbers = list(map(asarray, arrays))
                logged = _logged((number, step, watched, list(zip(indices, numbers, strict=True))))
            except RuntimeError:
                logged = self._of_what_is_left(entry, indices, arrays)
                numbers = [x for _, x in logged.values]
            remember(logged)
            if any(map(is_bad, numbers)) and self._bad(logged):
                return logged
        return None

    def _bad(self, logged: Logged) -> list[int]:
        muted = logged.watched.muted
        return [i for i, x in logged.values if muted.get(i, 0) < _CHECKS_BEFORE_MUTED and is_bad(x)]

    def _of_what_is_left(self, entry: TapeEntry, indices: list[int], arrays: list[Any]) -> Logged:
        """Read outputs that are small, but state: a bias that was fed back and donated."""
        gone = {i for i, x in zip(indices, arrays, strict=True) if x.is_deleted()}
        watched = entry.watched
        watched.metrics = [i for i in watched.metrics if i not in gone]
        pairs = zip(indices, arrays, strict=True)
        values = [(i, np.asarray(x)) for i, x in pairs if i not in gone]
        return Logged(entry.number, entry.step, watched, values)

    def pass_over(self, logged: Logged) -> None:
        """Record an event: the metric was bad and the state is good."""
        watched = logged.watched
        bad = self._bad(logged)
        names = tuple(watched.names[i] for i in bad)
        self.events.append(
            MetricEvent(call=logged.number, step=logged.step, function=watched.name, names=names)
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


class InHand(NamedTuple):
    """The call that is about to be made: the function, and its arguments."""

    watched: WatchedFunction
    tree: Any
    leaves: list[Any]


def state_is_bad(tape: Tape, call: InHand | None) -> bool | None:
    """Return whether the state holds an inf or a NaN that it did not hold from the start.

    The state is what the call in hand takes, and what the last calls returned for others to take.
    None: what the last call returned is bad, and it is not known yet whether anybody takes it.

    If no function returns state, because code between the calls updates it, it is what the call in
    hand takes; at the end, what the last call took.

    Args:
        tape: the calls.
        call: the call in hand; None at the end.
    """
    functions = tape.functions
    found: list[tuple[Any, int, bool]] = []  # array, what it may hold, whether it is taken
    taken: set[int] = set() if call is None else {id(x) for x in call.leaves}
    for function in functions:
        for _, index, x in function.last_outputs():
            if index in function.state and id(x) not in taken and is_inexact(x):
                is_open = call is not None and call.watched in function.takers(index)
                found.append((x, function.allowed(index), not is_open))
    is_known = any(function.state for function in functions)
    if call is None and not is_known:
        call = _last_call(tape)
    if call is not None and call.tree in call.watched.layouts:
        found += [
            (x, call.watched.allowed_in(call.tree, place), True)
            for place, x in enumerate(call.leaves)
            if is_inexact(x)
            and not x.is_deleted()
            and (not is_known or call.watched.is_state(call.tree, place))
        ]
    if not found:
        return False
    codes = ArrayCodes([x for x, _, _ in found]).read()
    bad = [
        is_taken for (_, limit, is_taken), code in zip(found, codes, strict=True) if code > limit
    ]
    return any(bad) or (None if bad else False)


def _last_call(tape: Tape) -> InHand | None:
    """Return the last call with those of its arguments that came from outside."""
    entries = [epoch.entries[-1] for epoch in tape.epochs if epoch.entries]
    if not entries:
        return None
    *_, entry = entries
    stored = [entry.stored.get(place) for place in range(len(entry.plan.donated))]
    leaves = [x.value if isinstance(x, Cell) else x for x in stored]
    return InHand(entry.watched, entry.plan.tree, leaves)


def fed_on(functions: list[WatchedFunction], call: InHand | None) -> set[int]:
    """Return the numbers of the last outputs that are going to be taken, as far as is known."""
    taken: set[int] = set() if call is None else {id(x) for x in call.leaves}
    return {
        number
        for function in functions
        for number, index, x in function.last_outputs()
        if id(x) in taken or call is None or call.watched not in function.takers(index)
    }
