"""A fault that a long scan made -> the fault inside the iteration in which it began.

Recording every iteration of a whole training takes too long. The scan runs in parts instead, until
it is known in which iteration a bad value began; that iteration alone is then looked into.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from nanlab.backend import jaxpr as _jax
from nanlab.backend.finiteness import INF
from nanlab.blame.diagnosis.attribution import Causes
from nanlab.blame.diagnosis.causal_walk import Event, beginnings
from nanlab.blame.diagnosis.large_programs import SEARCH_SECONDS
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.diagnosis.scan_search import LONG, Beginning, ScanSearch
from nanlab.blame.explain.expressions import Expressions
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.program.call import Call
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Program, flatten_body, work_of
from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Mechanism, Phase

Find = Callable[[Call, Program, Mapping[int, Phase]], Verdict]


class ScanReading(NamedTuple):
    """What was found in a program whose long scans are run whole."""

    reading: Reading
    outputs: list[Point]
    causes: Causes


def long_scans(program: Program) -> set[int]:
    """Return the scans at the top level that are searched by iteration instead of recorded."""
    return {
        index
        for index in program.frames[0].equations
        if (equation := program.equations[index]).opened is not None
        and equation.opened.kind == "scan"
        and not equation.eqn.effects
        and work_of(program, equation) > LONG
    }


class InsideScans:
    """Looks into the long scans of one program.

    Args:
        call: call of the program.
        program: the program, with its scans opened.
        phases: phases of its equations.
        find: returns the verdict of a call of a program, given its phases.
    """

    def __init__(
        self, call: Call, program: Program, phases: Mapping[int, Phase], find: Find
    ) -> None:
        self._call, self._program, self._phases, self._find = call, program, phases, find
        self._deadline = time.monotonic() + SEARCH_SECONDS
        self._searches: dict[int, ScanSearch] = {}

    def verdict(self, whole: Verdict, found: ScanReading) -> Verdict:
        """Return the verdict of the whole program, with what began inside its scans."""
        origin, culprit = found.causes
        event = culprit or origin
        if event is None:
            return whole
        inside = self._of_event(event, found)
        late = tuple(note for search in self._searches.values() for note in self._late(search))
        if inside is None and late:
            return replace(whole, notes=(*whole.notes, *late))
        if inside is not None:
            verdict = _combined(whole, inside, is_culprit=culprit is not None)
            if not (origin != culprit and origin and inside.origin and _is_read(inside.origin)):
                return verdict
            whole = verdict
        if origin is None or origin == event or (inside is None and not self._is_long(origin)):
            return whole
        before = self._of_event(origin, found)
        return _with_origin(whole, before) if before is not None else whole

    def _is_long(self, event: Event) -> bool:
        return event.equation in long_scans(self._program)

    def _of_event(self, event: Event, found: ScanReading) -> Verdict | None:
        """Return the verdict of the iteration in which an event of a scan began."""
        if event.equation is None or not (self._is_long(event) and event.is_computed):
            return None
        search = self._search(event.equation)
        fed_by = beginnings(found.reading, found.outputs, event.worst).fed_by
        results = search.split.equation.results
        bad = [i for i, value in enumerate(results) if Point(value) in fed_by] or [
            i for i, v in enumerate(results) if found.reading.code(Point(v)) >= event.worst
        ]
        began = search.beginning(bad, event.worst)
        if began is None:
            return None
        inside = self._iteration(search, began)
        if inside.culprit is None or inside.origin is None or not _is_read(inside.origin):
            return inside
        # The NaN is made of an inf that was carried into the iteration.
        infs = search.infs_before(began.iteration, began.results)
        earlier = search.beginning(infs, INF, began.iteration) if infs else None
        if earlier is None:
            return inside
        return _with_origin(inside, self._iteration(search, earlier))

    def _late(self, search: ScanSearch) -> list[str]:
        """Return a note if there was no time to search all of a scan."""
        length = search.split.length
        if search.n_run == length:
            return []
        return [
            f"the search of a scan of {length} iterations was stopped after {SEARCH_SECONDS} s, in "
            f"iteration {search.n_run}"
        ]

    def _search(self, index: int) -> ScanSearch:
        if index not in self._searches:
            equation = self._program.equations[index]
            self._searches[index] = ScanSearch(
                self._program, equation, self._call.arrays, self._deadline
            )
        return self._searches[index]

    def _iteration(self, search: ScanSearch, began: Beginning) -> Verdict:
        """Return the verdict of one iteration, as part of the whole program."""
        scan = search.split.equation
        assert scan.opened is not None
        jaxpr, constants = scan.opened.bodies[0]
        arrays = search.arguments(began.iteration)

        def body(*arguments: Any) -> list[Any]:
            results = _jax.run_jaxpr(jaxpr, constants, arguments)
            return [results[index] for index in began.results]

        expressions = Expressions(self._program, self._call.names)
        frame = self._program.frames[scan.frames[0]]
        call = Call(
            traced=jax.jit(body).trace(*arrays),
            arrays=arrays,
            names=[expressions.of(value) for value in frame.arguments],
            numbers={},
            outputs=[f"result {index}" for index in began.results],
        )
        program = flatten_body(scan, began.results)
        first = scan.index + 1
        phases = {e.index: self._phases[first + e.index] for e in program.equations}
        verdict = self._find(call, program, phases)
        index = search.index(began.iteration)
        notes = list(verdict.notes)
        if verdict.origin is None:
            notes.append(
                f"iteration {index} of a scan of {search.split.length} is the first with a bad "
                "value; computed by itself it is finite, as its program rounds differently"
            )
        notes += self._late(search)
        return replace(
            verdict,
            origin=_placed(verdict.origin, index),
            culprit=_placed(verdict.culprit, index),
            chain=tuple(s for s in map(lambda s: _placed(s, index), verdict.chain) if s),
            benign=tuple(s for s in map(lambda s: _placed(s, index), verdict.benign) if s),
            notes=tuple(notes),
        )


def _is_read(site: Site) -> bool:
    return site.mechanism == Mechanism.INPUT


def _placed(site: Site | None, iteration: int) -> Site | None:
    return site and replace(site, iterations=(iteration, *site.iterations))


def _combined(whole: Verdict, inside: Verdict, *, is_culprit: bool) -> Verdict:
    """Return the verdict of a program with what was found inside its scan."""
    sites: dict[str, Any] = {"origin": inside.origin}
    if is_culprit:
        sites["culprit"] = inside.culprit or whole.culprit
        sites["origin"] = inside.origin or whole.origin
    return replace(
        whole,
        **sites,
        chain=(*inside.chain, *whole.chain),
        notes=(*whole.notes, *inside.notes),
        evidence=inside.evidence,
    )


def _with_origin(later: Verdict, earlier: Verdict) -> Verdict:
    """Return a verdict whose NaN is made of an inf that another verdict explains."""
    if earlier.origin is None:
        return later
    return replace(
        later,
        origin=earlier.origin,
        chain=(*earlier.chain, *later.chain),
        notes=(*later.notes, *earlier.notes),
    )
