"""Calls as they are made -> the tape, and the judgement of what they return."""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax

from nanlab.recorder.arrays import is_array
from nanlab.recorder.bundle import save
from nanlab.recorder.detect import InHand, Logged, SmallOutputs, state_is_bad, verify
from nanlab.recorder.fault import Fault
from nanlab.recorder.investigate import investigate
from nanlab.recorder.plan import flatten
from nanlab.recorder.policies import call_at, repaired_leaves
from nanlab.recorder.replay import CannotRepair
from nanlab.recorder.scan_calls import FIRST_EVERY, call_in_chunks
from nanlab.recorder.tape import LostArgument, Tape
from nanlab.recorder.watched import WatchedFunction

Policy: TypeAlias = Literal["raise", "skip", "rollback"]

_LOG = logging.getLogger("nanlab")
_LOOK_EVERY, _LOOK_EVERY_QUICK, _QUICK_S = 4, 16, 0.005  # calls; if they take less than this
# every="auto": a copy costs this share of the time between two, with about 20 microseconds a leaf
# and 4 GB/s (measured on 2 cores; an accelerator's is less).
_SHARE, _LEAF_S, _BYTES_A_SECOND = 0.005, 20e-6, 4e9


@dataclass(frozen=True, kw_only=True)
class RecorderOptions:
    """The options of `nanlab.Recorder`."""

    folder: Path | None
    every: int | Literal["auto"]
    lag: int
    history: int
    memory: int
    on_host: bool
    on_fault: Policy | Callable[[Fault], Policy | None]
    strict: bool
    long_scan: int
    observe: bool


class Recording:
    """What a recorder does at each call of a watched function.

    Args:
        options: the recorder's.

    Attributes:
        tape: the calls.
        metrics: the small outputs.
        faults: the faults so far.
        remarks: what was said about the recording.
        is_idle: whether calls are not recorded now.
    """

    def __init__(self, options: RecorderOptions) -> None:
        self.options = options
        self.remarks: list[str] = []
        self.faults: list[Fault] = []
        self.tape = Tape(on_host=options.on_host)
        self.metrics = SmallOutputs(options.lag, options.history, self.say)
        self.is_idle = False
        self._waits = jax.process_count() > 1  # every process must decide the same at the same call
        self._every = FIRST_EVERY if options.every == "auto" else options.every
        self._look_every = 1 if self._waits else _LOOK_EVERY
        self._turned: tuple[int, float] | None = None  # number of the call, time
        self._turn_at, self._look_at, self._flying = self._every, 0, 0
        self._head: WatchedFunction | None = None  # the function that a step begins with
        # id of a leaf as the program has it -> a weak reference to it, what to hand on for it
        self._repaired: dict[int, tuple[weakref.ref[Any], Any]] = {}
        self._undecided: Logged | None = None
        self._lock = threading.RLock()

    def say(self, remark: str) -> None:
        """Print a remark, once."""
        if remark not in self.remarks:
            self.remarks.append(remark)
            _LOG.warning("nanlab.Recorder: %s", remark)

    # A call.

    def call(self, watched: WatchedFunction, args: Any, kwargs: Any) -> Any:
        """Make a call of a watched function and record it."""
        __tracebackhide__ = True
        if watched.scans is not None and not watched.scans.are_steps:
            done = call_in_chunks(self, watched, args, kwargs)
            if done is not None:
                return done[0]
        with self._lock:
            leaves, tree = flatten((args, kwargs))
            number = self.tape.number
            self._head = self._head or watched
            if number >= self._look_at and (
                watched is self._head or self.options.on_fault == "raise"
            ):
                self._look_at = number + self._look_every
                self._look(InHand(watched, tree, leaves))
            if number >= self._turn_at or self.tape.epoch.nbytes > self.options.memory:
                self._turn(InHand(watched, tree, leaves))
            if self._repaired:
                leaves, args, kwargs = self._with_repaired(leaves, tree, args, kwargs)
            try:
                taken = self.tape.before(watched, leaves, tree)
            except Exception as error:
                if not any(is_array(x) and x.is_deleted() for x in leaves):
                    self._give_up(error)  # else the call itself says what is wrong
                return watched.jitted(*args, **kwargs)
            if taken.owned:
                for place in taken.owned:
                    leaves[place] = taken.stored[place]
                args, kwargs = taken.plan.with_leaves(args, kwargs, leaves, taken.owned)
            self._flying += 1
        try:
            out = watched.jitted(*args, **kwargs)
        except BaseException:
            self._flying -= 1
            raise
        with self._lock:
            self._flying -= 1
            outputs = flatten(out)[0]
            if len(outputs) != watched.count:
                watched.learn(out, outputs)
            self.metrics.add(self.tape.after(watched, taken, outputs), outputs)
        return out

    def _give_up(self, error: Exception) -> None:
        """Stop recording, and let the training go on."""
        self.is_idle = True
        self.say(f"recording has stopped: {type(error).__name__}: {error}")
        self.tape.forget()
        self.metrics.clear()

    def _turn(self, call: InHand) -> None:
        is_late = self.tape.number >= self._turn_at + 8 * len(self.tape.functions)
        if self._flying or (call.watched is not self._head and not is_late):
            return
        if verify(self.tape.epoch, wait=True) is False:
            self._alarm(None, call)
        if self.options.on_host:
            self._read_all(call)
        if not self._waits:
            self._adapt()
        # In the host's memory lies one copy, and not two: the last one goes before the next comes.
        is_good = self.options.on_host and state_is_bad(self.tape, call) is False
        self.tape.turn(is_clean=is_good or None)
        self._repaired = {i: pair for i, pair in self._repaired.items() if pair[0]() is not None}
        self._turn_at = self.tape.number + self._every
        self.tape.drop(self.metrics.first_unread(self.tape.number))

    def _adapt(self) -> None:
        """Choose how often outputs are read and the state is copied, as calls are quick or slow."""
        now, number = time.perf_counter(), self.tape.number
        if self._turned is not None:  # before the first turn the program was compiled
            taken = (now - self._turned[1]) / max(1, number - self._turned[0])
            self._look_every = _LOOK_EVERY_QUICK if taken < _QUICK_S else _LOOK_EVERY
            if self.options.every == "auto":
                copied = [cell.original for cell in self.tape.epoch.cells.values()]
                cost = _LEAF_S * len(copied) + sum(x.nbytes for x in copied) / _BYTES_A_SECOND
                self._every = min(1024, max(16, math.ceil(cost / (_SHARE * max(taken, 1e-6)))))
        self._turned = number, now

    def _look(self, call: InHand) -> None:
        number, lag = self.tape.number, self.metrics.lag
        epoch = self.tape.epoch
        if (
            epoch.is_clean is None
            and number >= epoch.first + lag
            and verify(epoch, wait=self._waits) is False
        ):
            self._alarm(None, call)
        if (logged := self._undecided) is not None:
            self._undecided = None
            self._alarm(logged, call)
        while self._undecided is None and (
            logged := self.metrics.read(number - lag + 1, wait=self._waits)
        ):
            self._alarm(logged, call)
        if len(self.tape.epochs) > 1:
            self.tape.drop(self.metrics.first_unread(number))

    def _read_all(self, call: InHand | None) -> None:
        while (logged := self.metrics.read(self.tape.number, wait=True)) is not None:
            self._alarm(logged, call)

    def _alarm(self, logged: Logged | None, call: InHand | None) -> None:
        """Judge a bad metric, or a bad state at an epoch's beginning (without a metric)."""
        is_faulty = self.options.strict or state_is_bad(self.tape, call)
        if is_faulty is None:
            self._undecided = logged
            self._look_at = self.tape.number + 1
            return
        if not is_faulty:
            self._pass_over(logged)
            return
        self.is_idle = True
        try:
            fault = investigate(self, logged, call)
            if fault is None:
                self._pass_over(logged)
                return
            policy = self.policy_on(fault)
            if policy == "raise":
                raise fault
            if call is None:
                is_empty = isinstance(fault.state, tuple) and not fault.state
                fault.notes.append(
                    f"{policy} was not possible: the training was over before the fault was found"
                    + ("" if is_empty else "; fault.state holds the state before it")
                )
                raise fault
            self._repair(fault, policy)
        except Fault:
            self.forget()
            raise
        finally:
            self.is_idle = False

    def policy_on(self, fault: Fault) -> Policy:
        """Remember a fault, and return what the user wants to happen."""
        chosen = self.options.on_fault
        policy = chosen(fault) if callable(chosen) else chosen
        self.faults.append(fault)
        return policy if policy in ("skip", "rollback") else "raise"

    def saved(self, fault: Fault) -> Fault:
        """Write a fault's bundle, and return the fault."""
        if self.options.folder is not None:
            try:
                fault.folder = save(fault.finding, self.options.folder)
            except OSError as error:
                self.say(f"the fault could not be saved in {self.options.folder}: {error}")
        return fault

    def _pass_over(self, logged: Logged | None) -> None:
        """The state is good after all."""
        if logged is not None:
            self.metrics.pass_over(logged)
        else:
            self.tape.epoch.is_clean = True

    def _repair(self, fault: Fault, policy: Policy) -> None:
        try:
            pairs, left_out = repaired_leaves(self.tape, fault.call, policy == "rollback")
        except (CannotRepair, LostArgument) as error:
            fault.notes.append(f"{policy} was not possible: {error}")
            raise fault from None
        # The program may still have leaves from before an earlier repair.
        self._repaired |= {id(old): (weakref.ref(old), new) for old, new in pairs}
        self._undecided = None
        count = len(left_out)
        self.say(
            f"step {fault.step} of {fault.function} is not finite: {policy} left out {count} "
            f"call{'s' * (count != 1)}" + (f", saved in {fault.folder}" if fault.folder else "")
        )
        self.metrics.clear()
        self.tape.turn()
        while len(self.tape.epochs) > 1:
            self.tape.epochs.popleft()
        self._turn_at, self._turned = self.tape.number + self._every, None

    def _with_repaired(self, leaves: list[Any], tree: Any, args: Any, kwargs: Any) -> Any:
        """Hand on the repaired state where the program hands on the bad one."""
        found = [(x, self._repaired.get(id(x))) for x in leaves]
        if not any(pair for _, pair in found):
            return leaves, args, kwargs
        leaves = [pair[1] if pair is not None and pair[0]() is x else x for x, pair in found]
        args, kwargs = tree.unflatten(leaves)
        return leaves, args, kwargs

    def forget(self) -> None:
        """Begin again, as if nothing had been called before."""
        self.tape.forget()
        self.metrics.clear()
        self.metrics.history.clear()
        self._head, self._turn_at, self._turned = None, self.tape.number + self._every, None
        self._repaired, self._undecided = {}, None

    def flush(self) -> None:
        """Look at everything that has been computed, and wait for it.

        Raises:
            Fault: something was not finite.
        """
        with self._lock:
            if self.is_idle:
                return
            if verify(self.tape.epoch, wait=True) is False:
                self._alarm(None, None)
            if self._undecided is not None:
                self._alarm(self._undecided, None)
            self._read_all(None)
            if self.tape.epoch.entries and state_is_bad(self.tape, None):
                self._alarm(None, None)

    def at(self, call: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the exact (args, kwargs) of a call that is still on the tape.

        Raises:
            LookupError: the call is no longer on the tape.
        """
        with self._lock:
            self.is_idle = True
            try:
                entry, leaves = call_at(self.tape.epochs, call)
            finally:
                self.is_idle = False
        return entry.plan.tree.unflatten(leaves)
