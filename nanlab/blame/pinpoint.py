"""Function, arguments -> Verdict: the public `nanlab.pinpoint`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nanlab.backend.config import standard_promotion, without_checks
from nanlab.backend.finiteness import FINITE, INF, NAN
from nanlab.blame.diagnosis import location
from nanlab.blame.diagnosis.attribution import CauseFinder, Causes
from nanlab.blame.diagnosis.causal_walk import Event, benign_events, causal_path
from nanlab.blame.diagnosis.contents import (
    any_bad,
    contents,
    contributing_elements,
    first_bad,
    first_bad_shard,
)
from nanlab.blame.diagnosis.inside_scan import InsideScans, ScanReading, long_scans
from nanlab.blame.diagnosis.large_programs import (
    OUT_OF_TIME,
    SEARCH_SECONDS,
    first_bad_iteration,
)
from nanlab.blame.diagnosis.op_by_op import ALONE, fusion_note
from nanlab.blame.diagnosis.reading import OutOfTime, Reading
from nanlab.blame.diagnosis.vmap_lane import lane_of
from nanlab.blame.explain.advice import Chain, advice
from nanlab.blame.explain.expressions import Expressions
from nanlab.blame.explain.reproducer import Evidence
from nanlab.blame.explain.surroundings import Surroundings
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.misuse import traced_call
from nanlab.blame.program.call import Call
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation, Program, flatten_closed
from nanlab.blame.program.scan_split import with_closed
from nanlab.blame.single_call import SingleCall, status_of
from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Phase, Status

Paths = dict[Event, list[Point]]


def pinpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Verdict:
    """Find the first primitive that made an inf, and the first that made a NaN, in one call.

    The function is compiled as by `jax.jit` and runs once unchanged and once instrumented, then
    again only to fetch numbers from a large program or a while loop. Nothing is donated, no
    configuration is changed, and callbacks (`debug.print`, `io_callback`) run once.

    Limits:

    - A kernel (linear algebra, Pallas, a foreign call) is blamed as a whole, as "opaque".
    - Data flow is followed by element where the arrays are recorded, by array in while loops.
    - A scan at the top level that runs more than 200,000 operations runs in parts until it is known
      in which iteration a bad value began; that iteration alone is recorded. Walks back through
      the program stop after 60 s, and the verdict says so.
    - Of a while loop, 64 iterations from the first bad value on are recorded one by one; a later
      fault is found too, but the path to it shows only the first iteration of each step.
    - In a large program (values of more than 32 MiB), of two independent faults the one measured
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
    with without_checks():
        call, notes = traced_call(function, args, kwargs)
        return replace(pinpoint_call(call, notes), call=(function, args, kwargs))


def pinpoint_call(call: Call, notes: Sequence[str] = ()) -> Verdict:
    """Return the verdict of a call that has been traced; `notes` come before its own."""
    with without_checks(), standard_promotion():
        program = flatten_closed(call.closed, call.traced.out_info)
        verdict = _find(call, program, location.phases_of(program))
        return replace(verdict, notes=(*notes, *verdict.notes))


def _find(call: Call, program: Program, phases: Mapping[int, Phase]) -> Verdict:
    """Return the verdict of a call of a program, whose long scans are searched by iteration."""
    long = long_scans(program)
    found = _Pinpointing(call, with_closed(program, long), phases)
    verdict = found.verdict()
    if not long or found.found is None:
        return verdict
    return InsideScans(call, program, phases, _find).verdict(verdict, found.found)


class _Pinpointing:
    """The analysis of one call."""

    def __init__(self, call: Call, program: Program, phases: Mapping[int, Phase]) -> None:
        self._call, self._runs = call, SingleCall(call, program)
        self._program = program
        self._causes = CauseFinder(program, phases=phases)
        self._expressions = Expressions(program, call.names)
        self._notes = self._runs.notes
        self._evidence: Evidence | None = None
        self._behind: Equation | None = None  # its derivative is at fault
        self.found: ScanReading | None = None

    def verdict(self) -> Verdict:
        """Run the call and return the verdict."""
        compiled, reading = self._runs.run()
        shown = self._runs.shown(reading)
        is_alone = not any(shown)
        if any(compiled) and compiled != shown and (other := self._runs.simplified()) is not None:
            # XLA's rewriting makes the fault: examine the rewritten program.
            reading, shown = other, self._runs.shown(other)
        reading = replace(reading, deadline=time.monotonic() + SEARCH_SECONDS)
        status, is_faulty = status_of(compiled, shown)
        results = self._program.frames[0].results
        outputs = [Point(v) for v, is_bad in zip(results, is_faulty, strict=True) if is_bad]
        codes = shown if status == Status.REWRITTEN_AWAY else compiled
        faults = {n: c for n, c in zip(self._call.outputs, codes, strict=True) if c != FINITE}
        try:
            sites: dict[str, Any] = self._sites(reading, outputs)
        except OutOfTime:
            sites = {"origin": self._first_loop(replace(reading, deadline=math.inf))}
            self._notes.append(OUT_OF_TIME)
        if status == Status.REPRODUCED:
            note = ALONE if is_alone else self._fusion_note()
            status = Status.COMPILED_ONLY if note == ALONE else status
            self._notes += filter(None, [note])
        began = None if self.found is None else self.found.causes.origin
        inputs = self._runs.bad_arguments(None if began is None else began.value)
        names, bad = (*self._call.names, *self._call.numbers), {c.expression for c in inputs}
        return Verdict(
            status=status,
            **sites,
            input_faults=tuple(name for name in names if name in bad),
            inputs=tuple(inputs),
            output_faults=tuple(faults),
            nan_outputs=tuple(name for name, code in faults.items() if code == NAN),
            notes=tuple(self._notes),
            evidence=self._evidence,
        )

    def _sites(self, reading: Reading, outputs: list[Point]) -> dict[str, Any]:
        """Return the verdict's sites."""
        reading = self._runs.refined(reading, outputs)
        causes = self._causes.causes(reading, outputs)
        arrays = self._arrays_at(reading, causes)
        reading = reading.with_arrays(arrays)
        causes = self._causes.at_elements(reading, causes)
        self.found = ScanReading(reading, outputs, causes)
        paths = self._paths(reading, outputs, causes)
        sites = {event: self._site(reading, event, arrays, paths[event]) for event in paths}
        cured = self._cured(reading, causes, sites, paths)
        origin, culprit = (event and cured[event] for event in causes)
        self._note_other_fault(reading, outputs, causes)
        return {
            "origin": origin,
            "culprit": culprit,
            "chain": self._chain(reading, [p for path in paths.values() for p in path]),
            "benign": self._benign(reading),
        }

    def _fusion_note(self) -> str:
        if self.found is None:
            return ""
        events = [event for event in self.found.causes if event is not None]
        return fusion_note(self.found.reading, events, self._call.arrays)

    def _benign(self, reading: Reading) -> tuple[Site, ...]:
        try:
            events = benign_events(reading, map(Point, self._program.frames[0].results))
        except OutOfTime:
            return ()
        # What a masked log(0) makes reaches no output, but its derivative does: it is not harmless.
        behind = self._behind and self._behind.index
        return tuple(self._causes.site(reading, e) for e in events if e.equation != behind)

    def _first_loop(self, reading: Reading) -> Site | None:
        """Return the first loop with a bad value as a site, with the iteration."""
        first = first_bad_iteration(reading)
        if first is None:
            return None
        site = self._causes.site(reading, first._replace(iterations=()))
        return replace(site, iterations=first.iterations)

    def _arrays_at(self, reading: Reading, causes: Causes) -> dict[Point, np.ndarray]:
        """Return the operands and the results of the causes, fetched where they are not stored."""
        points: dict[Point, None] = {}
        for event in causes:
            if event is not None and event.equation is not None:
                equation = self._program.equations[event.equation]
                values = () if equation.is_closed else (*equation.operands, *equation.results)
                points |= {self._point(value, event): None for value in values}
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
        if event.equation is None or self._program.equations[event.equation].is_closed:
            return self._causes.site(reading, event)
        equation = self._program.equations[event.equation]
        operands = [arrays[self._point(value, event)] for value in equation.operands]
        results = [arrays[self._point(value, event)] for value in equation.results]
        operands, results = first_bad_shard(self._program, equation, operands, results)
        bad = event.element
        if results and bad is None:
            bad = first_bad(results[0], event.worst)
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

    def _paths(self, reading: Reading, outputs: list[Point], causes: Causes) -> Paths:
        """Return the causal paths from the origin to the culprit, and from there to an output."""
        origin, culprit = causes
        paths: Paths = {}
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
        self, reading: Reading, causes: Causes, sites: dict[Event, Site], paths: Paths
    ) -> dict[Event, Site]:
        """Return the sites with advice on the fault, which is about all of its chain."""
        origin, culprit = causes
        if origin is None:
            return sites
        equations = [self._program.computed_by(p.value) for path in paths.values() for p in path]
        known = [equation for equation in equations if equation is not None]
        chain = Chain(
            origin=origin, culprit=culprit or origin, sites=sites, equations=known,
            phase=self._causes.phase,
        )  # fmt: skip
        sentence, self._behind = advice(chain, Surroundings(reading))
        return {event: replace(site, cure=sentence) for event, site in sites.items()}

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

    def _note_other_fault(self, reading: Reading, outputs: list[Point], causes: Causes) -> None:
        """Add a note if outputs without a NaN hold infs that another fault made."""
        infs = [point for point in outputs if reading.code(point) == INF]
        origin = self._causes.causes(reading, infs).origin if causes.culprit else None
        known = [(event.equation, event.iterations) for event in causes if event]
        if origin is None or (origin.equation, origin.iterations) in known:
            return
        site = self._causes.site(reading, origin)
        line = f" at {site.source}" if site.source else ""
        self._notes.append(
            "the inf in outputs without a NaN has another cause: "
            f"{site.primitive or 'no operation'}, {site.mechanism}, {site.phase}{line}"
        )
