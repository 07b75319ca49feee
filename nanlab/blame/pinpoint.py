"""Function, arguments -> Verdict: the public `nanlab.pinpoint`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from nanlab.backend.finiteness import FINITE, INF, NAN, code_of
from nanlab.blame.diagnosis.attribution import CauseFinder, Causes
from nanlab.blame.diagnosis.causal_walk import Event, benign_events, causal_path
from nanlab.blame.diagnosis.contents import (
    Contents,
    any_bad,
    contents,
    contributing_elements,
    first_bad,
    first_bad_shard,
    is_elementwise,
)
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.diagnosis.vmap_lane import lane_of
from nanlab.blame.explain.advice import Chain, advice
from nanlab.blame.explain.expressions import Expressions
from nanlab.blame.explain.reproducer import Evidence
from nanlab.blame.explain.surroundings import Surroundings
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.misuse import traced_call
from nanlab.blame.program.call import Call
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation
from nanlab.blame.single_call import SingleCall, array_on_host
from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Status


def pinpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Verdict:
    """Find the first primitive that made an inf, and the first that made a NaN, in one call.

    The function is compiled as by `jax.jit` and runs once unchanged and once instrumented, then
    again only to fetch numbers from a large program or a while loop. Nothing is donated, no
    configuration is changed, and callbacks (`debug.print`, `io_callback`) run once.

    Limits:

    - A kernel (linear algebra, Pallas, a foreign call) is blamed as a whole, as "opaque".
    - Data flow is followed by array. If two bad values meet in one, the earlier is named.
    - Of a while loop, 64 iterations from the first bad value on are recorded one by one; a later
      fault is found too, but the path to it shows only the first iteration of each step.
    - In a large program (values of more than 32 MiB), matrix products and the like are measured
      first, then what precedes the first bad ones. Of two independent faults the one measured
      first is named, and `benign` covers measured values only.
    - The instrumented program may round differently: `status` says whether it fails the same way.

    Args:
        function: any function that JAX can trace, jitted or not. Arrays are traced; Python
            numbers, strings and other objects are passed unchanged. Flax NNX modules and
            optimizers are read and updated as in a jitted function, on a copy.
        *args: its positional arguments.
        **kwargs: its keyword arguments.

    Returns:
        The verdict; `print` it to read it.

    Raises:
        TypeError: it is not a function, or not one of these arguments.
        ValueError: an argument was deleted because an earlier call donated it.
        Exception: whatever tracing the function raises.

    Example:
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> def softmax(scores):
        ...     return jnp.exp(scores) / jnp.exp(scores).sum()
        >>> verdict = nanlab.pinpoint(softmax, jnp.array([0.0, 1000.0]))
        >>> [f"{site.primitive}: {site.mechanism}" for site in (verdict.origin, verdict.culprit)]
        ['exp: overflow', 'div: inf/inf']
        >>> verdict.culprit.cure
        'exp(x) / sum(exp(x)) overflows: use jax.nn.softmax(x), which subtracts the maximum.'
    """
    with _without_jax_checks():
        call, notes = traced_call(function, args, kwargs)
        return _Pinpointing(call, notes).verdict()


def pinpoint_call(call: Call) -> Verdict:
    """Return the verdict of a call that has been traced."""
    with _without_jax_checks():
        return _Pinpointing(call).verdict()


@contextmanager
def _without_jax_checks() -> Generator[None]:
    """Switch off JAX's NaN and inf checks, which would interrupt the call under examination."""
    with ExitStack() as stack:
        for setting in (jax.debug_nans, jax.debug_infs, jax.disable_jit):
            stack.enter_context(setting(False))
        yield


class _Pinpointing:
    """The analysis of one call."""

    def __init__(self, call: Call, notes: Sequence[str] = ()) -> None:
        self._call, self._runs = call, SingleCall(call)
        self._program = self._runs.program
        self._causes = CauseFinder(self._program)
        self._expressions = Expressions(self._program, call.names)
        self._notes = [*notes]
        self._evidence: Evidence | None = None
        self._behind: Equation | None = None  # its derivative is at fault

    def verdict(self) -> Verdict:
        """Run the call and return the verdict."""
        compiled, reading = self._runs.run()
        results = self._program.frames[0].results
        shown = [reading.code(Point(value)) for value in results]
        if any(compiled) and compiled != shown and (other := self._runs.simplified()) is not None:
            # XLA's rewriting makes the fault: examine the rewritten program.
            reading, shown = other, [other.code(Point(value)) for value in results]
        status, is_faulty = _status(compiled, shown)
        outputs = [Point(v) for v, is_bad in zip(results, is_faulty, strict=True) if is_bad]
        reading = self._runs.refined(reading, outputs)
        causes = self._causes.causes(reading, outputs)
        arrays = self._arrays_at(reading, causes)
        paths = self._paths(reading, outputs, causes)
        sites = {event: self._site(reading, event, arrays, paths[event]) for event in paths}
        cured = self._cured(reading, causes, sites, paths)
        origin, culprit = (event and cured[event] for event in causes)
        self._note_other_fault(reading, outputs, causes)
        codes = shown if status == Status.REWRITTEN_AWAY else compiled
        named = zip(self._call.outputs, codes, strict=True)
        inputs = self._bad_inputs(causes.origin)
        names, bad = (*self._call.names, *self._call.numbers), {c.expression for c in inputs}
        faults = {name: code for name, code in named if code != FINITE}
        return Verdict(
            status=status,
            origin=origin,
            culprit=culprit,
            chain=self._chain(reading, [p for path in paths.values() for p in path]),
            benign=self._benign(reading, outputs),
            input_faults=tuple(name for name in names if name in bad),
            inputs=tuple(inputs),
            output_faults=tuple(faults),
            nan_outputs=tuple(name for name, code in faults.items() if code == NAN),
            notes=tuple(self._notes),
            evidence=self._evidence,
        )

    def _arrays_at(self, reading: Reading, causes: Causes) -> dict[Point, np.ndarray]:
        """Return the operands and the results of the causes, fetched where they are not stored."""
        points: dict[Point, None] = {}
        for event in causes:
            if event is not None and event.equation is not None:
                equation = self._program.equations[event.equation]
                for value in (*equation.operands, *equation.results):
                    points[self._point(value, event)] = None
        stored = {point: reading.array(point) for point in points}
        fetched = self._runs.fetch_arrays([p for p, array in stored.items() if array is None])
        return {p: array for p, array in stored.items() if array is not None} | fetched

    def _point(self, value: int, event: Event) -> Point:
        iterations = () if self._program.values[value].is_constant else event.iterations
        return Point(value, iterations)

    def _site(
        self, reading: Reading, event: Event, arrays: dict[Point, np.ndarray], path: list[Point]
    ) -> Site:
        """Return the site of an event with the numbers involved, and record its evidence."""
        if event.equation is None:
            return self._causes.site(reading, event)
        equation = self._program.equations[event.equation]
        operands = [arrays[self._point(value, event)] for value in equation.operands]
        results = [arrays[self._point(value, event)] for value in equation.results]
        operands, results = first_bad_shard(self._program, equation, operands, results)
        bad = None
        if results:
            later = self._elementwise_on(reading, path, results[0].shape)
            bad = first_bad(results[0], event.worst, later)
        if event.is_computed:
            self._evidence = Evidence(eqn=equation.eqn, operands=operands, worst=event.worst)
            if bad is None and not any_bad(results):
                self._notes.append(
                    f"the result of {equation.primitive} was finite when it was computed again to "
                    "fetch its numbers: the program rounds differently each time it is compiled"
                )
        there = None if bad is None else np.asarray(results[0][bad])
        elements = [None for _ in operands]
        if bad is not None:
            elements = contributing_elements(equation, operands, bad)
        names = map(self._expressions.of, equation.operands)
        return self._causes.site(
            reading,
            event,
            lane=lane_of(reading, equation, path, bad),
            element=bad,
            operands=tuple(map(contents, names, operands, elements)),
            results=tuple(
                contents("", x, there if i == 0 else None) for i, x in enumerate(results)
            ),
        )

    def _paths(
        self, reading: Reading, outputs: list[Point], causes: Causes
    ) -> dict[Event, list[Point]]:
        """Return the causal paths from the origin to the culprit, and from there to an output."""
        origin, culprit = causes
        paths: dict[Event, list[Point]] = {}
        if origin is not None and origin != culprit:
            goals = outputs
            if culprit is not None and culprit.equation is not None:
                operands = self._program.equations[culprit.equation].operands
                goals = [Point(value, culprit.iterations) for value in operands]
            paths[origin] = causal_path(reading, goals, origin)
        if culprit is not None:
            paths[culprit] = causal_path(reading, outputs, culprit)
        return paths

    def _cured(
        self,
        reading: Reading,
        causes: Causes,
        sites: dict[Event, Site],
        paths: dict[Event, list[Point]],
    ) -> dict[Event, Site]:
        """Return the sites with advice on the fault, which is about all of its chain."""
        origin, culprit = causes
        if origin is None:
            return sites
        equations = [self._program.computed_by(p.value) for path in paths.values() for p in path]
        chain = Chain(
            origin=origin,
            culprit=culprit or origin,
            sites=sites,
            equations=[equation for equation in equations if equation is not None],
            phase=self._causes.phase,
        )
        sentence, self._behind = advice(chain, Surroundings(reading))
        return {event: replace(site, cure=sentence) for event, site in sites.items()}

    def _elementwise_on(
        self, reading: Reading, path: list[Point], shape: tuple[int, ...]
    ) -> list[np.ndarray]:
        """Return the arrays along a path, up to where elements no longer correspond."""
        arrays: list[np.ndarray] = []
        for point in path[1:]:
            equation = self._program.computed_by(point.value)
            if equation is None or not is_elementwise(equation):
                break
            array = reading.array(point)
            if array is None or array.shape != shape:
                break
            arrays.append(array)
        return arrays

    def _chain(self, reading: Reading, points: list[Point]) -> tuple[Site, ...]:
        links: list[Site] = []
        known: dict[tuple[int, int], Site] = {}  # a loop's equations recur in every iteration
        for point in points:
            equation = self._program.computed_by(point.value)
            if equation is not None:
                event = Event(equation.index, point.iterations, "computed", reading.code(point))
                key = (equation.index, event.worst)
                if key not in known:
                    known[key] = self._causes.site(reading, event)
                links.append(replace(known[key], iterations=point.iterations))
        return tuple(links)

    def _benign(self, reading: Reading, outputs: list[Point]) -> tuple[Site, ...]:
        # What a masked log(0) makes reaches no output, but its derivative does: it is not harmless.
        behind = None if self._behind is None else self._behind.index
        events = [e for e in benign_events(reading, outputs) if e.equation != behind]
        return tuple(self._causes.site(reading, event) for event in events)

    def _note_other_fault(self, reading: Reading, outputs: list[Point], causes: Causes) -> None:
        """Add a note if outputs without a NaN hold infs that another fault made."""
        infs = [point for point in outputs if reading.code(point) == INF]
        origin = self._causes.causes(reading, infs).origin if causes.culprit else None
        if origin is None or origin in causes:
            return
        site = self._causes.site(reading, origin)
        line = f" at {site.source}" if site.source else ""
        self._notes.append(
            "the inf in outputs without a NaN has another cause: "
            f"{site.primitive or 'no operation'}, {site.mechanism}, {site.phase}{line}"
        )

    def _bad_inputs(self, origin: Event | None) -> list[Contents]:
        """Return the arguments that are not finite, first the one with which the fault began."""
        arguments = self._program.frames[0].arguments
        named = zip(self._call.names, map(array_on_host, self._call.arrays), arguments, strict=True)
        bad = [(name, x, value) for name, x, value in named if code_of(x) != FINITE]
        numbers = ((name, np.asarray(x), -1) for name, x in self._call.numbers.items())
        bad += [(name, x, value) for name, x, value in numbers if not np.isfinite(x)]
        first = None if origin is None or origin.is_computed else origin.value
        bad.sort(key=lambda argument: argument[2] != first)
        return [contents(name, x) for name, x, _ in bad]


def _status(compiled: list[int], shown: list[int]) -> tuple[Status, list[bool]]:
    """Return the verdict's status, and for which outputs to look for causes."""
    if compiled == shown:
        is_bad = [code != FINITE for code in shown]
        return (Status.REPRODUCED if any(is_bad) else Status.CLEAN), is_bad
    if any(compiled):
        both = [a != FINITE and b != FINITE for a, b in zip(compiled, shown, strict=True)]
        return Status.COMPILED_ONLY, both
    return Status.REWRITTEN_AWAY, [code != FINITE for code in shown]
