"""Calls of a jitted function that is one long scan -> run in chunks, with the iteration at fault.

A training in one call leaves a tape nothing but its arguments, and would be over before anybody
looks. So its scan runs in chunks from the host; `scan_chunks` does that for one program.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from nanlab.backend.dispatch import traced_leaves
from nanlab.backend.jaxpr import open_equation, split_constants
from nanlab.blame.program.program import flatten_closed, work_of
from nanlab.blame.program.scan_split import ScanSplit
from nanlab.recorder.arrays import ArrayCodes, is_array, is_inexact
from nanlab.recorder.bad_iteration import BadIteration
from nanlab.recorder.detect import MetricEvent
from nanlab.recorder.fault import Detection, Fault
from nanlab.recorder.run_up import argument_name
from nanlab.recorder.scan_chunks import ScanChunks, TracedCall

if TYPE_CHECKING:
    from nanlab.recorder.recording import RecorderOptions, Recording
    from nanlab.recorder.watched import WatchedFunction

FIRST_EVERY = 64
"""Calls or iterations between two copies of the state, before it is known what they cost."""
_MOST_CHUNKS = 64
_SHARE = 0.8
"""Share of a program's work that its scan has to do: a step with a loop in it is no training."""
STEP_S = 1.0
"""A call that takes less, in seconds, is a step of a training: nothing may wait for it."""


class ScanCalls:
    """The chunks of a function's calls.

    Args:
        jitted: the function.
        options: the recorder's.

    Attributes:
        are_steps: whether they take so little time that they go on the tape.
    """

    def __init__(self, jitted: Any, options: RecorderOptions) -> None:
        self._jitted, self._options, self.are_steps = jitted, options, False
        # JAX has one jaxpr for all calls of the same types.
        self._of: dict[int, tuple[Any, ScanChunks]] = {}
        self._timed: set[int] = set()  # programs that have been compiled

    def _chunks_of(self, args: Any, kwargs: Any) -> tuple[ScanChunks, list[Any]]:
        """Return the chunks of a call and its leaves.

        Raises:
            LookupError: it has to run as a whole.
        """
        if not self._options.long_scan:
            raise LookupError("long_scan = 0")
        leaves = traced_leaves(self._jitted, args, kwargs)
        if leaves is None:
            raise LookupError("it is no plain function of jax.jit, or has shardings of its own")
        if any(is_array(x) and len(x.sharding.device_set) > 1 for x in leaves):
            raise LookupError("its arguments lie on several devices")
        traced = self._jitted.trace(*args, **kwargs)
        if id(traced.jaxpr) not in self._of:
            self._of[id(traced.jaxpr)] = traced.jaxpr, self._divided(traced, len(leaves))
        # JAX may read an array of NumPy after the loader has gone on to write to it.
        leaves = [x.copy() if isinstance(x, np.ndarray) else x for x in leaves]
        return self._of[id(traced.jaxpr)][1], leaves

    def _divided(self, traced: Any, n_leaves: int) -> ScanChunks:
        least = self._options.long_scan
        lengths, has_while = _loops(split_constants(traced.jaxpr)[0])
        if max(lengths, default=0) < least:
            more = ", and a while loop's iterations cannot be divided" if has_while else ""
            raise LookupError(f"it has no scan of {least} iterations at its top level{more}")
        if any("IO" in type(effect).__name__ for effect in traced.jaxpr.effects):
            raise LookupError("it calls back into Python (io_callback)")
        program = flatten_closed(traced.jaxpr, traced.out_info)
        split = ScanSplit(program)
        work = [work_of(program, program.equations[i]) for i in program.frames[0].equations]
        if split.length < least or work_of(program, split.equation) < _SHARE * sum(work):
            raise LookupError("no single scan does most of its work")
        if len(program.frames[0].arguments) != n_leaves:
            raise LookupError("JAX gives it arguments of its own")
        own = split_constants(traced.jaxpr)[0].debug_info.arg_names or ()
        names = [str(name) or f"argument[{i}]" for i, name in enumerate(own)]
        if len(names) != n_leaves:
            paths = tree_flatten_with_path(traced.args_info)[0]
            names = [argument_name(path) for path, _ in paths]
        call = TracedCall(program, names, jax.tree.structure(traced.out_info))
        every = FIRST_EVERY if self._options.every == "auto" else self._options.every
        every = max(2, every, -(-split.length // _MOST_CHUNKS))
        return ScanChunks(call, split, every, self._options.strict, self._options.history)

    def run(self, args: Any, kwargs: Any) -> Any:
        """Return the result of a call, or its `BadIteration`.

        Raises:
            LookupError: it has to run as a whole.
        """
        is_timed, chunks = False, None
        try:
            chunks, leaves = self._chunks_of(args, kwargs)
            is_timed = id(chunks) in self._timed
            begin = time.perf_counter()
            result = chunks.run(leaves)
        except Exception as error:
            is_over = is_timed or (chunks is not None and chunks.has_called_back)
            if is_over or isinstance(error, LookupError):
                raise
            # The call itself says what is wrong with it; if nothing is, it runs as a whole.
            raise LookupError(f"{type(error).__name__}: {error}") from None
        if not isinstance(result, BadIteration):
            self.are_steps = is_timed and time.perf_counter() - begin < STEP_S
            self._timed.add(id(chunks))
        return result


def _loops(jaxpr: Any) -> tuple[list[int], bool]:
    """Return the lengths of the scans at the top level, and whether there is a while loop."""
    lengths, has_while = list[int](), False
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            lengths.append(eqn.params["length"])
        elif eqn.primitive.name == "while":
            has_while = True
        elif eqn.primitive.name != "cond" and (opened := open_equation(eqn)) is not None:
            inner, has_inner = _loops(opened.bodies[0][0]) if opened.kind == "call" else ([], False)
            lengths, has_while = lengths + inner, has_while or has_inner
    return lengths, has_while


def call_in_chunks(
    recording: Recording, watched: WatchedFunction, args: Any, kwargs: Any
) -> tuple[Any] | None:
    """Make a call in chunks.

    Returns:
        (Its result,); None if it has to run as a whole.

    Raises:
        Fault: an iteration is at fault.
    """
    scans = watched.scans
    assert scans is not None
    try:
        result = scans.run(args, kwargs)
    except LookupError as reason:
        watched.scans, watched.whole = None, str(reason)
        return None
    watched.whole = f"its calls take less than {STEP_S} s" if scans.are_steps else ""
    if isinstance(result, BadIteration):
        fault = _fault(recording, watched, result)
        raise fault
    _note_events(recording, watched, result)
    watched.calls += 1
    return (result,)


def _fault(recording: Recording, watched: WatchedFunction, bad: BadIteration) -> Fault:
    about: dict[str, Any] = {
        "call": recording.tape.number,
        "step": watched.calls,
        "function": watched.name,
    }
    notes: list[str] = []
    if bad.verdict is None:
        notes.append(
            f"the fault is in this iteration or soon after it: run again one by one, from "
            f"{bad.iteration} on, the iterations are finite"
        )
    if bad.differing:
        notes.append(
            f"{bad.differing} of {bad.compared} outputs of iterations differ in the replay"
        )
    detection = Detection(
        **about,
        detected=recording.tape.number,
        iteration=bad.iteration,
        length=bad.length,
        args=bad.parts,
        is_state=(False, True, False),
        names=bad.names,
        leaves=[x for part in bad.parts for x in part],
        history=[about | row for row in bad.history],
        run_up=[about | row for row in bad.run_up],
        compared=bad.compared,
        exact=not bad.differing if bad.compared else None,
        verdict=bad.verdict,
        notes=notes,
    )
    fault = recording.saved(Fault(detection))
    if recording.policy_on(fault) != "raise":
        fault.notes.append("an iteration of a scan cannot be left out: its outputs are the result")
    return fault


def _note_events(recording: Recording, watched: WatchedFunction, result: Any) -> None:
    """Record outputs that are not finite while the scan's carry is."""
    outputs = [(path, x) for path, x in tree_flatten_with_path(result)[0] if is_inexact(x)]
    codes = ArrayCodes([x for _, x in outputs]).read() if outputs else []
    bad = tuple(keystr(p) or "output" for (p, _), code in zip(outputs, codes, strict=True) if code)
    if bad:
        recording.metrics.events.append(
            MetricEvent(
                call=recording.tape.number, step=watched.calls, function=watched.name, names=bad
            )
        )
