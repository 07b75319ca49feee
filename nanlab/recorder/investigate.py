"""A bad state -> the fault: where it began, the exact arguments, the verdict, the bundle."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
from jax.tree_util import tree_flatten_with_path

from nanlab.backend.config import without_checks
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.misuse import traced_call
from nanlab.blame.pinpoint import pinpoint_call
from nanlab.blame.site import Site
from nanlab.recorder.arrays import gathered
from nanlab.recorder.bad_iteration import BadIteration
from nanlab.recorder.detect import InHand, Logged, fed_on, verify
from nanlab.recorder.fault import Detection, Fault
from nanlab.recorder.frameworks import judged_outputs
from nanlab.recorder.inside import Inside
from nanlab.recorder.replay import Criterion, Located, arguments_of, locate
from nanlab.recorder.run_up import RunUp, argument_name
from nanlab.recorder.structure import only
from nanlab.recorder.tape import Epoch, LostArgument, TapeEntry

if TYPE_CHECKING:
    from nanlab.recorder.recording import Recording

_RUN_UP = 16  # calls before the faulty one that are measured
_NOT_REPRODUCED = (
    "the replay is finite where the run was not: the step is not deterministic, or the hardware "
    "computed something else"
)


def investigate(recording: Recording, logged: Logged | None, call: InHand | None) -> Fault | None:
    """Return the fault behind a bad metric, or behind a bad state (without a metric).

    None if the program has gone on with another state.
    """
    tape, notes = recording.tape, list[str]()
    number = tape.number - 1 if logged is None else logged.number
    if logged is None:
        recording.metrics.drain(tape.epoch.first)
    epochs = _from_good_state(list(tape.epochs), number)
    if not epochs:
        notes.append("the state was not finite when recording began")
        return _fault(recording, notes, list(tape.epochs)[:1], None, None, logged)
    history = {row.number: row.values for row in recording.metrics.history}
    criterion = Criterion(
        is_strict=recording.options.strict,
        fed=fed_on(tape.functions, call),
        is_over=call is None,
    )
    located = Located()
    try:
        for _ in range(2):
            located = locate(epochs, history, criterion)
            if located.entry is not None:
                break
            if located.is_rejected:
                return None
        else:
            notes.append(_NOT_REPRODUCED)
    except LostArgument as error:
        notes.append(str(error))
        return _fault(recording, notes, [], None, located, logged)
    return _fault(recording, notes, epochs, located.entry, located, logged)


def _from_good_state(epochs: list[Epoch], number: int) -> list[Epoch]:
    """Return the epochs from the last one on that began, with a good state, before a call."""
    good = [
        i
        for i, epoch in enumerate(epochs)
        if epoch.first <= number and epoch.entries and verify(epoch, wait=True)
    ]
    return epochs[good[-1] :] if good else []


def _fault(
    recording: Recording,
    notes: list[str],
    epochs: list[Epoch],
    entry: TapeEntry | None,
    located: Located | None,
    logged: Logged | None,
) -> Fault:
    history = [row.row() for row in recording.metrics.history]
    about: dict[str, Any] = {"detected": recording.tape.number, "history": history}
    if located is not None and located.compared:
        about |= {"compared": located.compared, "exact": not located.differing}
        if located.differing:
            notes.append(
                f"{located.differing} of {located.compared} logged values differ in the replay: "
                "the step is not deterministic, or reads something that is not an argument"
            )
    number = logged.number if entry is None and logged is not None else entry and entry.number
    if number is None:
        number = epochs[0].first if epochs else recording.tape.number - 1
    call: Any = None
    run_up, inside = RunUp(number - _RUN_UP), None
    if recording.options.observe and (seen := entry or logged) is not None:
        inside = Inside(seen.watched, number - _RUN_UP)
    try:
        call = arguments_of(epochs, number, partial(_observed, run_up, inside, notes))
        rows = {} if inside is None else inside.rows()
        about["run_up"] = [row | rows.get(row["call"], {}) for row in run_up.rows()]
    except (LookupError, LostArgument) as error:
        notes.append(str(error))
    if call is not None:
        made, leaves = call
        about |= _arguments(made, leaves)
        if _calls_back(made, leaves):
            about["exact"] = False
            notes.append(
                f"{made.watched.name} calls back into Python (io_callback): the replay called it "
                "again, and may have received something else"
            )
        outputs = located.outputs if located is not None and located.entry is made else ()
        about |= _examined(made, leaves, outputs, notes)
        about |= {"module": made.watched.module, "judged": [made.watched.names[i] for i in outputs]}
        began = "" if inside is None else inside.began(_origin_of(about["verdict"]))
        notes += [began] if began else []
        step, function = made.step, made.watched.name
    else:
        step, function = (logged.step, logged.watched.name) if logged else (number, "the training")
    finding = Detection(step=step, call=number, function=function, notes=notes, **about)
    return recording.saved(Fault(finding))


def _observed(
    run_up: RunUp, inside: Inside | None, notes: list[str], entry: TapeEntry, leaves: list[Any]
) -> None:
    """Measure a call of the replay."""
    run_up.measure(entry, leaves)
    if inside is not None:
        try:
            inside.measure(entry, leaves)
        except LookupError as reason:
            notes += [] if str(reason) in notes else [str(reason)]


def _origin_of(verdict: Verdict | None) -> Site | None:
    return None if verdict is None else verdict.origin or verdict.culprit


def _arguments(entry: TapeEntry, leaves: list[Any]) -> dict[str, Any]:
    """Return the arguments as the user has them, and which of them are state."""
    tree = entry.plan.tree
    args, kwargs = tree.unflatten(leaves)
    rebuild = entry.watched.layouts[tree].user_call
    if rebuild is not None:
        _, args, kwargs = rebuild(leaves)
    state = {id(x) for place, x in enumerate(leaves) if entry.watched.is_state(tree, place)}
    named = tree_flatten_with_path((args, kwargs))[0]
    return {
        "args": tuple(args),
        "kwargs": kwargs,
        "is_state": [any(id(x) in state for x in jax.tree.leaves(arg)) for arg in args],
        "names": [argument_name(path) for path, _ in named],
        "leaves": [x for _, x in named],
    }


def _examined(
    entry: TapeEntry, leaves: list[Any], outputs: Collection[int], notes: list[str]
) -> dict[str, Any]:
    """Return the verdict on a call, and the faulty iteration if it is one long scan."""
    bad = _bad_iteration(entry, leaves)
    if bad is None:
        return {"verdict": _verdict(entry, leaves, outputs, notes)}
    return {"verdict": bad.verdict, "iteration": bad.iteration, "length": bad.length}


def _bad_iteration(entry: TapeEntry, leaves: list[Any]) -> BadIteration | None:
    """Return the faulty iteration of a call that is one long scan."""
    if entry.watched.scans is None:
        return None
    args, kwargs = entry.plan.tree.unflatten(leaves)
    try:
        found = entry.watched.scans.run(args, kwargs)
    except Exception:  # it cannot be divided, or a callback of the user's failed this time
        return None
    is_found = isinstance(found, BadIteration) and found.verdict is not None
    return found if is_found and found.iteration >= 0 else None


def _verdict(
    entry: TapeEntry, leaves: list[Any], outputs: Collection[int], notes: list[str]
) -> Verdict | None:
    """Return what is wrong with a call, of the user's own function where that is another."""
    watched, tree = entry.watched, entry.plan.tree
    leaves = [gathered(leaf) for leaf in leaves]
    names = [watched.names[i] for i in outputs]
    rebuild = watched.layouts[tree].user_call
    attempts: list[Any] = [] if rebuild is None else [rebuild]
    source = watched.jitted if watched.source is None or rebuild else watched.source
    if isinstance(source, jax.stages.Compiled):
        notes.append(
            f"{watched.name} was compiled ahead of time, so that its program cannot be read: give "
            "the jitted function too, as watch(compiled, source=jitted)"
        )
        return None
    attempts += [partial(_called, function, tree) for function in (source, watched.jitted)]
    problem = ""
    for attempt in attempts:
        try:
            verdict = _pinpointed(attempt(leaves), names, is_inner=attempt is rebuild)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".partition("\n")[0]
            continue
        return verdict
    notes.append(f"the call could not be looked into: {problem}")
    return None


def _pinpointed(
    called: tuple[Any, Any, Any], outputs: Collection[str], *, is_inner: bool
) -> Verdict:
    """Return the verdict on a call, about these outputs; see `judged_outputs`."""
    function, args, kwargs = called
    with without_checks():
        call, notes = traced_call(function, args, kwargs)
        if outputs:
            call = replace(call, judged=judged_outputs(call.outputs, outputs, is_inner=is_inner))
        verdict = pinpoint_call(call, notes)
    judged = call.judged or ()
    if any(call.outputs[i] in verdict.output_faults for i in judged):
        function = only(function, judged)  # for cures, the other outputs may stay as they are
    return replace(verdict, call=(function, args, kwargs))


def _called(function: Any, tree: Any, leaves: list[Any]) -> tuple[Any, Any, Any]:
    args, kwargs = tree.unflatten(leaves)
    return function, args, kwargs


def _calls_back(entry: TapeEntry, leaves: list[Any]) -> bool:
    """Return whether a call hands values to Python and takes others back (`io_callback`)."""
    args, kwargs = entry.plan.tree.unflatten(leaves)
    try:
        effects = entry.watched.jitted.trace(*args, **kwargs).jaxpr.effects
    except Exception:  # a function of pmap, a compiled one
        return False
    return any("IO" in type(effect).__name__ for effect in effects)
