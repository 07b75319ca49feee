"""A running program -> its first fault: `Watch` looks at every computation of JAX."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import jax
import numpy as np

from nanlab.backend.config import is_examining
from nanlab.backend.dispatch import dispatch_hooked, has_local_settings, settings
from nanlab.backend.finiteness import NAN
from nanlab.blame.watch.compiled import compiled_hooked, donated_leaves
from nanlab.blame.watch.computation import Computation, JitCall
from nanlab.blame.watch.fault import WatchedFault, found
from nanlab.blame.watch.judge import Judge
from nanlab.blame.watch.outputs import OutputReader, OutputReading, is_deleted, plain_settings
from nanlab.blame.watch.pending import Layouts, Pending, Queue
from nanlab.blame.watch.replays import Replay, Replays
from nanlab.blame.watch.summary import summary_text


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
        unread: number of computations whose outputs could not be read.
    """

    def __init__(self, after: int = 0) -> None:
        self.after = after
        self.calls = self.operations = self.unread = 0
        self._calls_of: Counter[str] = Counter()
        self._judge = Judge(self._code)
        self._reader, self._queue, self._layouts = OutputReader(), Queue(), Layouts()
        self._replays = Replays()
        self._plain = settings()
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
        self._judge.finish()

    @property
    def fault(self) -> WatchedFault | None:
        """The first fault."""
        return self._judge.fault

    @property
    def masked(self) -> int:
        """Number of results of operations that were not finite, harmless ones included."""
        return self._judge.masked

    @property
    def watched(self) -> bool:
        """Whether anything was looked at."""
        return self.calls > self.after or self.operations > 0

    def summary(self, subject: str, stopped: str = "") -> str:
        """Return the sentence for a program without a fault; see `summary_text`."""
        return summary_text(self, subject, stopped)

    # What JAX calls.

    def _is_idle(self) -> bool:
        is_inside = getattr(self._here, "inside", False) or is_examining()
        return self.fault is not None or is_inside

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
            donates = True in computation.donated
            fault, result = self._drain(wait=donates and self._queue.is_borrowed), None
            if fault is None:
                arguments, replay = self._prepare(computation, go, leaves)
                try:
                    result = go(arguments)
                except Exception as error:
                    self._failed(computation, error, number)
                    raise
                fault = self._take(computation, leaves(result), number, replay)
        finally:
            self._here.inside = False
        if fault is not None:
            raise found(fault)
        return result

    def _failed(self, computation: Computation, error: Exception, number: int) -> None:
        """A computation raised: JAX's own jax_debug_nans is a fault, and the program sees it."""
        if "FloatingPointError" in type(error).__name__ and not self._drain(wait=True):
            self._judge.call(computation, NAN, number)
        with self._lock:
            self.calls -= number > 0
            self.operations -= not number

    def _prepare(
        self,
        computation: Computation,
        go: Callable[[Any], Any],
        leaves: Callable[[Any], Sequence[Any]],
    ) -> tuple[Sequence[Any], Replay | None]:
        """Return the arguments to run it on, and how it can be run again if it donates some.

        NumPy arrays are copied, as the program owns them.
        """
        given, donated = computation.arguments, computation.donated
        saved = {id(x): x.copy() for x in given if type(x) is np.ndarray}
        arguments = [saved.get(id(x), x) for x in given] if saved else given
        lost = [x for x, d in zip(given, donated, strict=False) if d and isinstance(x, jax.Array)]
        lost = [x for x in lost if not x.is_deleted()] if True in donated else []
        replay: Replay | None = None
        if lost:
            with self._reading(), self._reads, suppress(Exception):
                copy, sources = self._reader.copies(lost, self._replays)
                replay = Replay(
                    run=lambda again: self._in_plain(lambda: leaves(go(again))),
                    arguments=arguments,
                    donated=donated,
                    copies=[copy],
                    sources=sources,
                )
                for entry in self._queue:
                    entry.computation.later.append(replay)

        def values() -> dict[int, Any]:
            done = dict[Replay, Sequence[Any]]()
            deleted = [x for x in given if is_deleted(x) and id(x) not in saved]
            with suppress(Exception):
                replays = [*([] if replay is None else [replay]), *computation.later]
                pairs = [(x, r.argument(x, done)) for x in deleted for r in replays]
                saved.update({id(x): value for x, value in pairs if value is not None})
            return saved

        computation.saved = values
        return arguments, replay

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

    def _in_plain(self, act: Callable[[], Any]) -> Any:
        with self._reading():
            return act()

    def _take(
        self, computation: Computation, outputs: Any, number: int, replay: Replay | None
    ) -> WatchedFault | None:
        """Begin to read what a computation returned, and read what is ready."""
        known = computation.closed, computation.arguments, outputs
        layout, n_bytes = self._layouts.of(*known)
        results = [outputs[i] for i in layout.inexact]
        residuals = computation.residuals
        computation.internal = frozenset(id(x) for i, x in enumerate(outputs) if i in residuals)
        if not results:
            return None
        reading = OutputReading(leaves=results, on_host=results, waiting=results)
        with self._reading():  # S
            is_donating = replay is not None
            reading = self._reader.begin(outputs, layout, is_donating=is_donating)
            is_pure = not getattr(computation.closed, "effects", True)
            if replay is not None and is_pure and layout.loose:
                self._replays.add(replay, outputs, layout.loose)
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

    def _drain(self, *, wait: bool = False) -> WatchedFault | None:
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
        found = self._reader.packed_copy(leaf)
        saved = (entry.computation.saved() for entry in self._queue if found is None)
        found = next((s[id(leaf)] for s in saved if id(leaf) in s), found)
        return self._replays.value(leaf) if found is None else found

    def _code(self, leaves: Sequence[Any]) -> int | None:
        with self._reading():
            return self._reader.code([self._original(x) if is_deleted(x) else x for x in leaves])

    def _check(self, entry: Pending) -> WatchedFault | None:
        computation, results = entry.computation, entry.reading.leaves
        with self._reading():
            code = self._reader.finish(entry.reading, self._original)
        if code is None:
            with self._lock:
                self.unread += 1
            return None
        fault = self._judge.judged(computation, code, entry.number, results)
        if code and fault is None and entry.number:
            self._replays.is_on = False  # a state with an inf in it is looked at in each call
        return fault
