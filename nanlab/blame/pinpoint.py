"""Function, arguments -> verdict: the public `nanlab.pinpoint`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from nanlab.backend.finiteness import FINITE, INF, NAN
from nanlab.blame.diagnosis.attribution import CauseFinder, Causes
from nanlab.blame.diagnosis.causal_walk import Event, beginnings, strays, way
from nanlab.blame.diagnosis.contents import contents, first_bad, is_elementwise, met_at
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.diagnosis.vmap_lane import lane_of
from nanlab.blame.explain.expressions import Expressions
from nanlab.blame.explain.reproducer import Evidence
from nanlab.blame.explain.sites import any_bad, element_at, one_shard
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.program.call import Call, call_of
from nanlab.blame.program.point import Point
from nanlab.blame.single_call import SingleCall, codes_of
from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Status


def pinpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Verdict:
    """Find the first primitive that made the inf, and the first that made the NaN, in one call.

    The function is traced as `jax.jit` traces it and run compiled: once as it is, once with its
    values kept or measured, and, if there is a fault in a large program or in a while loop, once
    or twice more to fetch the numbers that met there. Nothing is donated, no configuration is
    changed, and callbacks (`debug.print`, `io_callback`) run once.

    What it cannot see, and what it says then:

    - Inside kernels: a linear-algebra routine, a Pallas kernel or a foreign call is blamed as
      itself, with mechanism "opaque".
    - Elements: it follows arrays (and, of a selection, the elements taken). Where two bad values
      meet in one array, the earlier is named.
    - Long while loops: it records the 64 iterations after the first bad value; what begins later
      is found, and what led there within those iterations is told by its first iteration.
    - Large programs, whose values need more than 32 MiB together: matrix products and their like
      are measured first, then what lies before the first bad ones. If two faults are independent,
      the one whose measured value comes first is named, and `benign` holds only what was
      measured.
    - Outside the call: what came in bad is told as `input_faults`, with mechanism "input".
    - Rounding: a program that is instrumented is compiled differently. `status` says whether the
      same outputs are bad in the same way.

    Args:
        function: any that JAX can trace, jitted or not; Python numbers, strings and other objects
            among its arguments stay as they are, arrays are traced. Flax NNX modules and
            optimizers are read and written as by a jitted function, on a copy.
        *args: its arguments.
        **kwargs: its keyword arguments.

    Returns:
        The verdict: print it.

    Raises:
        ValueError: an argument has been deleted because it was donated to an earlier call.
        Exception: whatever tracing the function raises.
    """
    with _plain_mode():
        return _Pinpointing(call_of(function, args, kwargs)).verdict()


def pinpoint_call(call: Call) -> Verdict:
    """Return the verdict of a call that has been traced."""
    with _plain_mode():
        return _Pinpointing(call).verdict()


@contextmanager
def _plain_mode() -> Generator[None]:
    """JAX's own checks off: they would stop the call that is to be looked at."""
    with ExitStack() as stack:
        for setting in (jax.debug_nans, jax.debug_infs, jax.disable_jit):
            stack.enter_context(setting(False))
        yield


class _Pinpointing:
    """One call, looked at."""

    def __init__(self, call: Call) -> None:
        self._call, self._looks = call, SingleCall(call)
        self._program = self._looks.program
        self._judge = CauseFinder(self._program)
        self._expressions = Expressions(self._program, call.names)
        self._notes: list[str] = []
        self._evidence: Evidence | None = None

    def verdict(self) -> Verdict:
        """What is found."""
        compiled, reading = self._looks.first()
        results = self._program.frames[0].results
        shown = [reading.code(Point(value)) for value in results]
        if any(compiled) and compiled != shown and (other := self._looks.simplified()) is not None:
            # A fault of XLA's own making: look at the program as XLA rewrites it.
            reading, shown = other, [other.code(Point(value)) for value in results]
        status, faulty = _status(compiled, shown)
        bad = [value for value, is_bad in zip(results, faulty, strict=True) if is_bad]
        reading = self._looks.behind(reading, bad)
        causes = self._judge.causes(reading, bad)
        seen = self._second_look(reading, causes)
        ways = self._ways(reading, bad, causes)
        told = {event: self._site(reading, event, seen, ways[event]) for event in ways}
        origin, culprit = (event and told[event] for event in causes)
        self._note_others(reading, bad, causes)
        codes = shown if status == Status.REWRITTEN_AWAY else compiled
        named = zip(self._call.outputs, codes, strict=True)
        faults = {name: code for name, code in named if code != FINITE}
        return Verdict(
            status=status,
            origin=origin,
            culprit=culprit,
            chain=self._chain(reading, [p for points in ways.values() for p in points]),
            benign=self._benign(reading, bad),
            input_faults=self._input_faults(),
            output_faults=tuple(faults),
            nan_outputs=tuple(name for name, code in faults.items() if code == NAN),
            notes=tuple(self._notes),
            evidence=self._evidence,
        )

    # The second look.

    def _second_look(self, reading: Reading, causes: Causes) -> dict[Point, np.ndarray]:
        """What the operands and the results of the causes held."""
        points: dict[Point, None] = {}
        for event in causes:
            if event is not None and event.site is not None:
                site = self._program.sites[event.site]
                for value in (*site.operands, *site.results):
                    points[self._point(value, event)] = None
        held: dict[Point, np.ndarray] = {}
        fetched: list[Point] = []
        for point in points:
            array = reading.held(point)
            if array is None:
                fetched.append(point)
            else:
                held[point] = array
        return held | self._looks.fetch(fetched)

    def _point(self, value: int, event: Event) -> Point:
        about = self._program.values[value]
        is_constant = about.site is None and about.argument is None
        return Point(value, () if is_constant else event.iterations)

    def _site(
        self, reading: Reading, event: Event, held: dict[Point, np.ndarray], out: list[Point]
    ) -> Site:
        """An event as it is told, with the numbers that met there.

        Args:
            reading: of the first look.
            event: the event.
            held: what its operands and results held.
            out: the way from there.
        """
        if event.site is None:
            return self._judge.site(reading, event)
        site = self._program.sites[event.site]
        operands = [held[self._point(value, event)] for value in site.operands]
        results = [held[self._point(value, event)] for value in site.results]
        operands, results = one_shard(self._program, event.site, operands, results)
        bad = None
        if results:
            bad = first_bad(results[0], event.worst, self._later(reading, out, results[0].shape))
        if bad is None and event.source == "made" and not any_bad(results):
            self._notes.append(
                f"the numbers at {site.primitive} came out finite when they were fetched: the "
                "program rounds differently each time that it is compiled"
            )
        met = met_at(site, operands, bad) if bad is not None else [None for _ in operands]
        if event.source == "made":
            self._evidence = Evidence(eqn=site.eqn, operands=operands, worst=event.worst)
        names = map(self._expressions.of, site.operands)
        return self._judge.site(
            reading,
            event,
            lane=lane_of(reading, site, out, bad),
            element=bad,
            operands=tuple(
                contents(name, array, there)
                for name, array, there in zip(names, operands, met, strict=True)
            ),
            results=tuple(
                contents("", array, element_at(array, bad) if place == 0 else None)
                for place, array in enumerate(results)
            ),
        )

    # What is around it.

    def _ways(self, reading: Reading, bad: list[int], causes: Causes) -> dict[Event, list[Point]]:
        """From each cause, the way out: of the origin, to the culprit."""
        outputs = [Point(value) for value in bad]
        origin, culprit = causes
        ways: dict[Event, list[Point]] = {}
        if origin is not None and origin != culprit:
            goal = outputs
            if culprit is not None and culprit.site is not None:
                read = self._program.sites[culprit.site].operands
                goal = [Point(value, culprit.iterations) for value in read]
            ways[origin] = way(reading, goal, origin)
        if culprit is not None:
            ways[culprit] = way(reading, outputs, culprit)
        return ways

    def _later(
        self, reading: Reading, out: list[Point], shape: tuple[int, ...]
    ) -> list[np.ndarray]:
        """What was held on the way, as long as elements stay in their places."""
        arrays: list[np.ndarray] = []
        for point in out[1:]:
            index = self._program.values[point.value].site
            array = None if index is None else reading.held(point)
            if index is None or array is None or array.shape != shape:
                break
            if not is_elementwise(self._program.sites[index]):
                break
            arrays.append(array)
        return arrays

    def _chain(self, reading: Reading, points: list[Point]) -> tuple[Site, ...]:
        links: list[Site] = []
        told: dict[tuple[int, int], Site] = {}  # a loop's sites come again and again
        for point in points:
            index = self._program.values[point.value].site
            if index is not None and self._program.sites[index].opened is None:
                worst = reading.code(point)
                if (index, worst) not in told:
                    told[index, worst] = self._judge.site(
                        reading, Event(index, point.iterations, "made", worst)
                    )
                links.append(replace(told[index, worst], iterations=point.iterations))
        return tuple(links)

    def _note_others(self, reading: Reading, bad: list[int], causes: Causes) -> None:
        """Say what made the infs in outputs that have no NaN, if the fault told is another."""
        infs = [v for v in bad if reading.code(Point(v)) == INF]
        origin = self._judge.causes(reading, infs).origin if causes.culprit else None
        if origin is None or origin in causes:
            return
        site = self._judge.site(reading, origin)
        place = f" at {site.source}" if site.source else ""
        self._notes.append(
            "another fault makes the inf in outputs without a NaN: "
            f"{site.primitive or 'no operation'}, {site.mechanism}, {site.phase}{place}"
        )

    def _benign(self, reading: Reading, bad: list[int]) -> tuple[Site, ...]:
        outputs = [Point(value) for value in bad]
        causal = {
            (event.site, event.worst)
            for worst in (NAN, INF)
            for event in beginnings(reading, outputs, worst).events
        }
        sites: list[Site] = []
        for event in strays(reading):
            if event.site is not None and not causal & {(event.site, INF), (event.site, NAN)}:
                sites.append(self._judge.site(reading, event))
        return tuple(sites)

    def _input_faults(self) -> tuple[str, ...]:
        codes = codes_of(self._call.arrays)
        named = zip(self._call.names, codes, strict=True)
        arrays = [name for name, code in named if code != FINITE]
        numbers = [name for name, x in self._call.numbers.items() if not np.isfinite(x)]
        return (*arrays, *numbers)


def _status(compiled: list[int], shown: list[int]) -> tuple[Status, list[bool]]:
    """The verdict's status, and in which outputs the causes are to be looked for."""
    if compiled == shown:
        bad = [code != FINITE for code in shown]
        return (Status.REPRODUCED if any(bad) else Status.CLEAN), bad
    if any(compiled):
        both = [a != FINITE and b != FINITE for a, b in zip(compiled, shown, strict=True)]
        return Status.COMPILED_ONLY, both
    return Status.REWRITTEN_AWAY, [code != FINITE for code in shown]
