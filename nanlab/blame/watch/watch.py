"""A running program -> its first fault: `Watch` looks at every computation of JAX."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import jax
import numpy as np

from nanlab.backend.dispatch import dispatch_hooked, has_local_settings, settings
from nanlab.backend.finiteness import INF, NAN
from nanlab.blame.watch.bad_values import BadValue, BadValues, fault_of
from nanlab.blame.watch.compiled import compiled_hooked, donated_leaves
from nanlab.blame.watch.computation import Computation, JitCall
from nanlab.blame.watch.fault import Fault, found, mechanism
from nanlab.blame.watch.outputs import OutputReader, Reading, inexact, is_deleted, plain_settings
from nanlab.blame.watch.pending import Layouts, Pending, Queue

# A bad value that this many operations have handed on is masked by none that comes.
HANDED_ON = 200
# The eager operations that are looked into; of others the line alone is known.
LOOKED_INTO = 8
# Operations that put the user's numbers into an array.
_PASSIVE = ("convert_element_type", "copy", "broadcast_in_dim", "reshape")
_NOT_MADE = ("input", "constant")


class Watch:
    """Looks at what each computation returns, and stops the program at the first fault.

    What is computed stays the same, to the bit: no function is replaced, programs are compiled and
    run as they are, and arguments that are donated are copied before. After a fault nothing is
    watched any more, whether or not the program catches the exception.

    Args:
        after: calls of functions that are left out at the beginning.

    Attributes:
        calls: number of outermost calls of jitted, pmapped and compiled functions.
        operations: number of other computations: eager operations, and the pieces of functions
            that are transformed and not jitted.
        masked: whether operations made an inf or a NaN, harmless ones included.
        unread: number of computations whose outputs could not be read.
        fault: the first fault.
    """

    def __init__(self, after: int = 0) -> None:
        self.after = after
        self.calls = self.operations = self.unread = 0
        self.masked = False
        self.fault: Fault | None = None
        self._calls_of: Counter[str] = Counter()
        self._bad_values = BadValues()
        self._looks_left, self._numbered = LOOKED_INTO, 0
        self._reader, self._queue, self._layouts = OutputReader(), Queue(), Layouts()
        self._plain = settings()
        self._meant: set[tuple[Any, ...]] = set()
        self._here = threading.local()
        self._lock, self._reads = threading.RLock(), threading.RLock()

    @contextmanager
    def watching(self) -> Generator[None]:
        """Watch everything that JAX computes while this is open."""
        with ExitStack() as stack:
            stack.enter_context(dispatch_hooked(self._called, self._executed, self._is_direct))
            stack.enter_context(compiled_hooked(self._executed_compiled))
            yield

    def finish(self) -> None:
        """Read what is left and judge what operations made, when the program has ended."""
        self._in_quiet(lambda: self._drain(wait=True))
        value = self._bad_values.first()
        with self._lock:
            if value is not None and self.fault is None:
                self.fault = fault_of(value)

    @property
    def watched(self) -> bool:
        """Whether anything was looked at."""
        return self.calls > self.after or self.operations > 0

    # What JAX calls.

    def _is_idle(self) -> bool:
        return self.fault is not None or getattr(self._here, "inside", False)

    def _is_direct(self) -> bool:
        return self.fault is not None or getattr(self._here, "reading", False)

    def _called(
        self,
        go: Callable[[], Any],
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Callable[[], dict[str, Any]],
    ) -> Any:
        __tracebackhide__ = True
        if self._is_idle():
            return go()
        self._here.call = JitCall(function=function, args=args, kwargs=kwargs, options=options)
        try:
            return go()
        finally:
            self._here.call = None

    def _executed(
        self,
        go: Callable[[Any], Any],
        closed: Any,
        arguments: Sequence[Any],
        name: str,
        donated: Sequence[bool],
    ) -> Any:
        __tracebackhide__ = True
        if self._is_idle():
            return go(arguments)
        call, self._here.call = getattr(self._here, "call", None), None
        computation = Computation(
            closed=closed, arguments=arguments, name=name, donated=donated, call=call
        )
        return self._run(computation, go, lambda result: result[0])

    def _executed_compiled(
        self, go: Callable[[Any], Any], executable: Any, leaves: Sequence[Any], program: Any
    ) -> Any:
        __tracebackhide__ = True
        if self._is_idle():
            return go(leaves)
        closed, name = program or (None, "of unknown source")
        computation = Computation(
            closed=closed,
            arguments=leaves,
            name=name,
            donated=donated_leaves(executable),
            is_compiled=True,
        )
        return self._run(computation, go, jax.tree.leaves)

    # What is done with it.

    def _run(
        self, computation: Computation, go: Callable[[Any], Any], leaves: Callable[[Any], Any]
    ) -> Any:
        __tracebackhide__ = True
        is_call, number = not computation.is_operation, 0
        computation.locate()
        with self._lock:
            if is_call:
                self.calls += 1
                self._calls_of[computation.qualified_name] += 1
                number = self._calls_of[computation.qualified_name]
            elif self.calls >= self.after:
                self.operations += 1
            if self.calls < self.after + is_call:
                return go(computation.arguments)
        self._here.inside = True
        try:
            fault, result = self._drain(), None
            if fault is None:
                arguments = self._prepare(computation)
                try:
                    result = go(arguments)
                except Exception as error:
                    self._failed(computation, error, number)
                    raise
                fault = self._take(computation, leaves(result), number)
        finally:
            self._here.inside = False
        if fault is not None:
            raise found(fault)
        return result

    def _failed(self, computation: Computation, error: Exception, number: int) -> None:
        """A computation raised: JAX's own jax_debug_nans is a fault, and the program sees it."""
        if "FloatingPointError" in type(error).__name__ and not self._drain(wait=True):
            self._judge(computation, NAN, number)
        with self._lock:
            self.calls -= number > 0
            self.operations -= not number

    def _prepare(self, computation: Computation) -> Sequence[Any]:
        """Return the arguments to run it on; NumPy arrays are copied, as the program owns them."""
        given, donated = computation.arguments, computation.donated
        saved = {id(x): x.copy() for x in given if type(x) is np.ndarray}
        lost = [x for x, d in zip(given, donated, strict=False) if d and isinstance(x, jax.Array)]
        lost = [x for x in lost if not x.is_deleted()] if True in donated else []
        if lost:
            with self._reading(), self._reads, suppress(Exception):
                copy = self._reader.copies(lost)
                computation.saved = lambda: {**saved, **{id(x): copy(x) for x in lost}}
        elif saved:
            computation.saved = lambda: saved
        return [saved.get(id(x), x) for x in given] if saved else given

    @contextmanager
    def _reading(self) -> Generator[None]:
        """Run programs of the watch's own."""
        self._here.reading = True
        try:
            if settings() == self._plain:
                yield
            else:
                with plain_settings():
                    yield
        finally:
            self._here.reading = False

    def _take(self, computation: Computation, outputs: Any, number: int) -> Fault | None:
        """Begin to read what a computation returned, and read what is ready."""
        known = computation.closed, computation.arguments, outputs
        layout, n_bytes = self._layouts.of(*known)
        results = [outputs[i] for i in layout.inexact]
        if not results:
            return None
        reading = Reading(leaves=results, on_host=results, waiting=results)
        with self._reading(), suppress(Exception):
            reading = self._reader.begin(outputs, layout)
        self._queue.add(
            Pending(computation=computation, number=number, reading=reading, n_bytes=n_bytes)
        )
        return self._drain(wait=computation.is_prompt or not self._is_plain())

    def _is_plain(self) -> bool:
        """Whether a later call can look into this one: no `with` block has changed JAX here."""
        now = settings()
        if now != self._plain:
            if has_local_settings():
                return False
            self._plain = now
        return True

    def _in_quiet(self, act: Callable[[], Any]) -> Any:
        before, self._here.inside = getattr(self._here, "inside", False), True
        try:
            return act()
        finally:
            self._here.inside = before

    def _drain(self, *, wait: bool = False) -> Fault | None:
        """Read the outputs that are ready; returns the fault if there is one among them."""
        with self._reads:
            while self.fault is None and (entry := self._queue.next(wait=wait)) is not None:
                fault = self._check(entry)
                if fault is not None:
                    self._queue.clear()
                    return fault
        return None

    def _original(self, leaf: Any) -> Any:
        """Return the copy of an array that was donated since."""
        copy = self._reader.packed_copy(leaf)
        saved = (entry.computation.saved() for entry in self._queue if copy is None)
        return next((s[id(leaf)] for s in saved if id(leaf) in s), copy)

    def _code(self, leaves: Sequence[Any]) -> int | None:
        with self._reading():
            return self._reader.code([self._original(x) if is_deleted(x) else x for x in leaves])

    def _check(self, entry: Pending) -> Fault | None:
        computation, results = entry.computation, entry.reading.leaves
        with self._reading():
            code = self._reader.finish(entry.reading, self._original)
        if code is None:
            with self._lock:
                self.unread += 1
            return None
        with self._lock:
            behind = self._bad_values.behind(computation.arguments)
            self._bad_values.read(behind)
        if not code:
            return None
        if entry.number:
            saved = computation.saved()
            given = inexact(saved.get(id(x), x) for x in computation.arguments)
            return self._judge(computation, code, entry.number, [*given, *results], behind)
        return self._follow(computation, code, results, behind)

    def _judge(
        self,
        computation: Computation,
        code: int,
        number: int,
        leaves: Sequence[Any] = (),
        behind: Sequence[BadValue] = (),
    ) -> Fault | None:
        """Return the fault that a call is, if it is one; it is recorded before it is explained."""
        behind = [value for value in behind if not value.is_meant]
        fault = Fault(
            name=computation.qualified_name,
            kind=computation.kind,
            call=number,
            code=code,
            place=computation.caller.place if computation.caller else "",
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
        behind = [value for value in behind if (value.origin or value).is_made]
        if behind and mechanism(fault.verdict) in _NOT_MADE:
            # The call was handed what an eager operation had made.
            came_in = fault.verdict.input_faults if fault.verdict else ()
            reached = f"It reached call {number} of the {fault.kind} {fault.name}"
            reached += f" as {', '.join(came_in)}." * bool(came_in)
            with self._lock:
                fault = self.fault = fault_of(behind[0])
                fault.notes.append(reached)
        return fault

    def _record(self, fault: Fault) -> bool:
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
    ) -> Fault | None:
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
        self.masked = self.masked or not value.is_meant
        with self._lock:
            self._bad_values.add(value, arrays)
