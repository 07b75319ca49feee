"""The flight recorder: `nanlab.Recorder` and `nanlab.watch`."""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from nanlab.recorder.detect import MetricEvent
from nanlab.recorder.fault import Fault
from nanlab.recorder.policies import POLICIES
from nanlab.recorder.recording import Policy, RecorderOptions, Recording
from nanlab.recorder.scan_calls import FIRST_EVERY
from nanlab.recorder.watched import watched_function

_LOG = logging.getLogger("nanlab")


class Recorder:
    """Records the calls of jitted functions, so that the first faulty one is at hand afterwards.

    Nothing is added to the functions and nothing waits for them: what they compute stays the same,
    to the bit, and donation stays on. What the tape needs is one more copy of the state, and the
    batches since that copy.

    Args:
        folder: where the faulty call is saved; None for nowhere.
        every: number of calls between two copies of the state; "auto" for one of 16 to 1,024 at
            which they cost about half a percent of the time. With several processes that is 64.
        lag: number of calls after which small outputs (losses, norms) are read.
        history: number of calls whose small outputs are remembered.
        memory: bytes of batches after which the state is copied early.
        on_host: whether copies of the state are stored in the host's memory.
        on_fault: "raise" `nanlab.Fault`; "skip": compute the state again without the faulty call
            and those that need more of it than state, and go on; "rollback": go on from the state
            before it; or a function of the fault that returns one of these. A fault that is found
            after the last call is raised in any case.
        strict: whether any output that is not finite is a fault, not only state.
        long_scan: number of iterations from which a scan that is most of a call runs in chunks, so
            that the iteration at fault is known; 0 for never.
        observe: whether a fault's run-up also says what was inside the last calls: activations by
            layer, the gradient's norm, since when an inf was there. It is computed after the fault.

    Attributes:
        events: metrics that were not finite while the state was.
        faults: the faults so far.
        remarks: what was said about the recording.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import nanlab
        >>> @jax.jit
        ... def step(w, x):
        ...     return w - jnp.log(x), w.sum()
        >>> w = jnp.ones(2)
        >>> try:
        ...     with nanlab.Recorder() as recorder:
        ...         step = recorder.watch(step)
        ...         for x in (1.0, 2.0, -1.0, 3.0):
        ...             w, loss = step(w, x)
        ... except nanlab.Fault as fault:
        ...     print(fault.step, fault.batch, fault.verdict.culprit.primitive)
        2 -1.0 log
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        every: int | Literal["auto"] = "auto",
        lag: int = 2,
        history: int = 64,
        memory: int = 1 << 30,
        on_host: bool = False,
        on_fault: Policy | Callable[[Fault], Policy | None] = "raise",
        strict: bool = False,
        long_scan: int = 256,
        observe: bool = False,
    ) -> None:
        chosen: Any = every
        if isinstance(chosen, str) and chosen != "auto":
            raise ValueError(f'every = {every!r}: must be a number of calls or "auto"')
        for name, number, least in (
            ("every", FIRST_EVERY if every == "auto" else every, 1),
            ("lag", lag, 0),
            ("history", history, 1),
            ("long_scan", long_scan, 0),
        ):
            if number < least:
                raise ValueError(f"{name} = {number}: must be {least} or more")
        if not callable(on_fault) and on_fault not in POLICIES:
            raise ValueError(
                f"on_fault = {on_fault!r}: must be {', '.join(map(repr, POLICIES))} or a function"
            )
        options = RecorderOptions(
            folder=None if folder is None else Path(folder),
            every=every,
            lag=lag,
            history=history,
            memory=memory,
            on_host=on_host,
            on_fault=on_fault,
            strict=strict,
            long_scan=long_scan,
            observe=observe,
        )
        self.recording = Recording(options)
        _flush_at_exit(self.recording)

    @property
    def faults(self) -> list[Fault]:
        """The faults so far."""
        return self.recording.faults

    @property
    def remarks(self) -> list[str]:
        """What was said about the recording."""
        return self.recording.remarks

    @property
    def events(self) -> list[MetricEvent]:
        """SmallOutputs that were not finite while the state was."""
        return self.recording.metrics.events

    def watch(self, function: Any, *, source: Any = None) -> Any:
        """Return a function like this one whose calls are recorded.

        Args:
            function: what `jax.jit`, `jax.pmap`, `nnx.jit`, `eqx.filter_jit` or
                `jit(f).lower(...).compile()` returned.
            source: the function that a verdict is made of; a compiled function has none itself.

        Returns:
            The function to call in its place.
        """
        return watched_function(self.recording, function, source)

    def flush(self) -> None:
        """Look at everything that has been computed, and wait for it.

        Raises:
            Fault: something was not finite.
        """
        self.recording.flush()

    def at(self, call: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the exact (args, kwargs) of a call that is still on the tape.

        Args:
            call: its number among the calls of all watched functions.

        Raises:
            LookupError: the call is no longer on the tape.
        """
        return self.recording.at(call)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.flush()
            elif (fault := _last_fault(self.recording)) is not None:
                error.add_note(f"nanlab.Recorder: {fault}")
        finally:
            self.recording.forget()
            self.recording.is_idle = True


def _last_fault(recording: Recording) -> Fault | None:
    """Return the fault in what has not been looked at yet; None without one."""
    try:
        recording.flush()
    except Fault as fault:
        return fault
    except Exception as error:
        recording.say(f"the last calls could not be looked at: {type(error).__name__}: {error}")
    return None


def _flush_at_exit(recording: Recording) -> None:
    reference = weakref.ref(recording)

    def flush() -> None:
        alive = reference()
        fault = None if alive is None else _last_fault(alive)
        if fault is not None:
            _LOG.error("%s", fault)

    atexit.register(flush)
    # Without this, the program's end would unregister it first.
    weakref.finalize(recording, atexit.unregister, flush).atexit = False


_DEFAULT: list[Recorder] = []


def watch(function: Any, *, source: Any = None) -> Any:
    """Record the calls of a jitted function, and raise `nanlab.Fault` when a step goes bad.

    All functions that are watched so share one `nanlab.Recorder` with its default settings.

    Args:
        function: what `jax.jit`, `jax.pmap`, `nnx.jit`, `eqx.filter_jit` or
            `jit(f).lower(...).compile()` returned.
        source: the function that a verdict is made of; a compiled function has none itself.

    Returns:
        The function to call in its place.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import nanlab
        >>> step = nanlab.watch(jax.jit(lambda w, x: w - x))
        >>> step(jnp.ones(2), 1.0)
        Array([0., 0.], dtype=float32)
    """
    if not _DEFAULT:
        _DEFAULT.append(Recorder())
    return _DEFAULT[0].watch(function, source=source)
