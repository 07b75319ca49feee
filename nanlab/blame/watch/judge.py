"""What a computation returned -> whether it is the program's fault."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax

from nanlab.backend.finiteness import FINITE, INF, NAN
from nanlab.blame.watch.arrays import inexact
from nanlab.blame.watch.bad_values import BadValue, BadValues, fault_of, made_by
from nanlab.blame.watch.computation import Computation
from nanlab.blame.watch.fault import WatchedFault, mechanism, traced_back

# A bad value that this many operations have handed on is masked by none that comes.
HANDED_ON = 200
# The eager operations that are looked into; of others the line alone is known.
LOOKED_INTO = 8
# Operations that put the user's numbers into an array.
_PASSIVE = ("convert_element_type", "copy", "broadcast_in_dim", "reshape")
_NOT_MADE = ("input", "constant")


class Judge:
    """Judges the computations of a program, in the order in which it ran them.

    Args:
        code_of: returns what arrays hold, INF or NAN for the worst; None if it cannot be read.

    Attributes:
        masked: number of results of operations that were not finite, harmless ones included.
        fault: the first fault.
    """

    def __init__(self, code_of: Callable[[Sequence[Any]], int | None]) -> None:
        self.masked = 0
        self.fault: WatchedFault | None = None
        self._code = code_of
        self._bad_values = BadValues()
        self._looks_left, self._numbered = LOOKED_INTO, 0
        self._meant: set[tuple[Any, ...]] = set()
        self._last_call = ""
        self._lock = threading.RLock()

    def finish(self) -> None:
        """Judge what the operations have left, when the program has ended."""
        value = self._bad_values.first()
        with self._lock:
            if value is not None and self.fault is None:
                self.fault = fault_of(value)

    def judged(
        self, computation: Computation, code: int, number: int, results: Sequence[Any]
    ) -> WatchedFault | None:
        """Return the fault that a computation is, if it is one.

        Args:
            computation: the computation.
            code: FINITE, INF or NAN, what its outputs hold.
            number: its number among the calls of its function; 0 for an operation.
            results: those of its outputs that can be bad.

        Returns:
            The fault, or None.
        """
        with self._lock:
            behind = self._bad_values.behind(computation.arguments)
            self._bad_values.read(computation.arguments)
        fault = None
        if code and number:
            saved = computation.saved()
            given = inexact(saved.get(id(x), x) for x in computation.arguments)
            fault = self.call(computation, code, number, [*given, *results], behind)
        elif code:
            fault = self._follow(computation, code, results, behind)
        if number and not code:
            self._last_call = f"call {number} of {computation.qualified_name}"
        return fault

    def call(
        self,
        computation: Computation,
        code: int,
        number: int,
        leaves: Sequence[Any] = (),
        behind: Sequence[BadValue] = (),
    ) -> WatchedFault | None:
        """Return the fault that a call is, if it is one; it is recorded before it is explained.

        Args:
            computation: the call.
            code: INF or NAN, what its outputs hold.
            number: its number among the calls of its function.
            leaves: those of its arguments and outputs that can be bad.
            behind: bad values of operations among its arguments.

        Returns:
            The fault, or None.
        """
        behind = [value for value in behind if not value.is_meant]
        fault = WatchedFault(
            name=computation.qualified_name,
            kind=computation.kind,
            call=number,
            code=code,
            place=computation.caller.place if computation.caller else "",
            arguments=computation.named_arguments,
        )
        if code == NAN and not self._record(fault):
            return None
        # An inf in a state, such as a first "best loss", comes again in every call.
        pattern = () if code == NAN else (computation.closed, *(self._code([x]) for x in leaves))
        if pattern in self._meant:
            return None
        fault.verdict, problem = computation.verdict(code)
        if problem:
            fault.notes.append(problem)
        if code == INF and mechanism(fault.verdict) in _NOT_MADE and not behind:
            self._meant.add(pattern)
            return None
        if code == INF and not self._record(fault):
            return None
        if mechanism(fault.verdict) == "input":
            return self._handed_on(fault, behind)
        return _with_maker(fault, behind)

    def _handed_on(self, fault: WatchedFault, behind: Sequence[BadValue]) -> WatchedFault:
        """Return the fault of the operation behind a call that was handed a bad value, if any."""
        behind = [value for value in behind if (value.origin or value).is_made]
        came_in = ", ".join(fault.verdict.input_faults if fault.verdict else ())
        if not behind:
            fault.notes.append(self._came_from_outside(fault, came_in))
            return fault
        reached = f"It reached call {fault.call} of the {fault.kind} {fault.name}"
        reached += f" as {came_in}." if came_in else "."
        with self._lock:
            fault = self.fault = fault_of(behind[0])
            fault.notes.append(reached)
        return fault

    def _came_from_outside(self, fault: WatchedFault, came_in: str) -> str:
        """Say that no computation of JAX made what a call was handed."""
        at = f", called at {fault.place}," if fault.place else ""
        said = f"{came_in or 'An argument'} was bad when call {fault.call} of {fault.name}{at} got "
        said += "it, and nothing that JAX computed before had made it: it comes from outside JAX "
        said += "(NumPy, a file, a loader)."
        if self._last_call:
            said += f" The outputs of {self._last_call}, the last one before, were finite: if the "
            said += "value was computed from them, compute it in jax.numpy to have it watched."
        return said

    def _record(self, fault: WatchedFault) -> bool:
        with self._lock:
            is_first = self.fault is None
            self.fault = self.fault or fault
        return is_first

    def _follow(
        self,
        computation: Computation,
        code: int,
        results: Sequence[Any],
        behind: Sequence[BadValue],
    ) -> WatchedFault | None:
        """Keep track of what an eager operation returned."""
        given = inexact(computation.arguments)
        arrays = [x for x in results if isinstance(x, jax.Array)]
        came_in = max((v.code for v in behind), default=0) or self._code(given) or 0
        behind = [value for value in behind if not value.is_meant]
        is_handed_in = not behind and came_in >= code
        with self._lock:
            self._numbered += 1
            origin = min((v.origin or v for v in behind), key=lambda v: v.number, default=None)
            culprits = [v.culprit or v for v in behind if v.code == NAN]
            value = BadValue(
                number=self._numbered,
                name=computation.qualified_name,
                kind=computation.kind,
                place=computation.caller.place if computation.caller else "",
                code=code,
                is_made=not is_handed_in,
                origin=origin,
                culprit=min(culprits, key=lambda v: v.number, default=None),
                depth=1 + max((v.depth for v in behind), default=0),
            )
        if is_handed_in:
            # Single numbers are written on purpose, a NaN among data is not.
            is_data = any(getattr(x, "size", 1) > 1 and self._code([x]) == NAN for x in given)
            value.is_meant = code == INF or not is_data or bool(self._bad_values.behind(given))
            if computation.name in _PASSIVE and not value.is_meant:
                return None
        self._add(computation, value, arrays)
        with self._lock:
            if value.depth < HANDED_ON or self.fault is not None:
                return None
            self.fault = fault_of(value)
            return self.fault

    def _add(self, computation: Computation, value: BadValue, arrays: Sequence[Any]) -> None:
        """Look into a bad value if it is the first of its kind on its way, and note it."""
        is_first = value.origin is None or (value.code == NAN and value.culprit is None)
        if is_first and not value.is_meant and self._looks_left:
            self._looks_left -= 1
            value.verdict, _ = computation.verdict(value.code)
            is_inf = value.code == INF and value.origin is None
            value.is_meant = is_inf and mechanism(value.verdict) in _NOT_MADE
        self.masked += not value.is_meant
        with self._lock:
            self._bad_values.add(value, *self._bad_among(computation, arrays))

    def _bad_among(
        self, computation: Computation, arrays: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Return the bad arrays that the program can read, and those for a derivative alone."""
        bad = [x for x in arrays if self._code([x]) != FINITE] or arrays
        internal = computation.internal
        return [x for x in bad if id(x) not in internal], [x for x in bad if id(x) in internal]


def _with_maker(fault: WatchedFault, behind: Sequence[BadValue]) -> WatchedFault:
    """Add to a call's NaN which operation made the inf that it was made of, if one did."""
    for origin in (value.origin or value for value in behind):
        traced = traced_back(fault.verdict, origin.verdict)
        if traced is not fault.verdict:
            fault.verdict = traced
            fault.notes.append(made_by(origin))
            break
    return fault
