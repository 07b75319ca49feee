"""Reading -> events: walk back from a bad output, through bad values, to where they began."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from nanlab.backend.finiteness import FINITE, INF, NAN
from nanlab.blame.diagnosis.element_walk import ElementWalk
from nanlab.blame.diagnosis.elements import Mask
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.program.point import Point

MAX_BAD_ITERATIONS = 1000
"""Number of bad iterations of one value that are searched for harmless events."""


class Event(NamedTuple):
    """Where something bad began: at an equation, or before the first one.

    Attributes:
        equation: number of the equation; None for an argument or a constant that is returned as
            it is.
        iterations: iterations of the enclosing loops, outermost first.
        source: "computed" from good operands, or read from an "input" or a "constant".
        worst: what began, INF or NAN.
        value: the argument or constant that was read, or None.
        element: index of a bad element of the first result; None if it is not known.
    """

    equation: int | None
    iterations: tuple[int, ...]
    source: Literal["computed", "input", "constant"]
    worst: int
    value: int | None = None
    element: tuple[int, ...] | None = None

    @property
    def is_computed(self) -> bool:
        """Whether the equation made it from good operands."""
        return self.source == "computed"


def _in_time(reading: Reading, events: Iterable[Event]) -> list[Event]:
    """Sort events in execution order."""
    return sorted(events, key=lambda event: reading.clock(event.equation, event.iterations))


class Beginnings(NamedTuple):
    """Where bad values began.

    Attributes:
        events: events in execution order; those before the first equation come last.
        fed_by: for each bad point on the way from there, the bad points that fed it.
        masks: elements of those points through which bad values reached the outputs; None where
            they are not known.
    """

    events: list[Event]
    fed_by: dict[Point, list[Point]]
    masks: dict[Point, Mask | None]


def beginnings(
    reading: Reading,
    outputs: Iterable[Point],
    worst: int,
    masks: Mapping[Point, Mask] | None = None,
) -> Beginnings:
    """Return where the bad values that reach `outputs` began; cached in the reading.

    Args:
        reading: codes of one lane.
        outputs: points to walk back from.
        worst: NAN follows NaNs only, to the equations that made one from NaN-free operands; INF
            follows all non-finite values, to the equations that made one from finite operands.
        masks: elements of the outputs to walk back from; all bad ones of an output without.

    Returns:
        The events, and the bad points on the way.
    """
    goals = tuple(outputs)
    if masks:
        return _walk_back(reading, goals, worst, masks)
    if (goals, worst) not in reading.walks:
        reading.walks[goals, worst] = _walk_back(reading, goals, worst, {})
    return reading.walks[goals, worst]


def _walk_back(
    reading: Reading, outputs: Iterable[Point], worst: int, masks: Mapping[Point, Mask]
) -> Beginnings:
    program, walk = reading.probe.program, ElementWalk(reading, worst)
    for point in outputs:
        if reading.code(point) >= worst:
            walk.reach(point, masks.get(point))
    fed_by = walk.run()
    events: set[Event] = set()
    unread: list[Event] = []
    readers = _readers(reading, fed_by, worst)
    for point in (point for point, feeds in fed_by.items() if not feeds):
        source = "constant" if program.values[point.value].is_constant else "input"
        if (equation := program.computed_by(point.value)) is not None:
            events.add(Event(equation.index, point.iterations, "computed", worst))
        elif point in readers:
            events.add(readers[point]._replace(source=source, value=point.value))
        else:
            unread.append(Event(None, (), source, worst, point.value))
    return Beginnings(_in_time(reading, events) + unread, fed_by, walk.masks)


def _readers(
    reading: Reading, fed_by: Mapping[Point, list[Point]], worst: int
) -> dict[Point, Event]:
    """Map each point that no equation computes to the first equation that reads it."""
    program = reading.probe.program
    reads: dict[Event, list[Point]] = {}
    for point, feeds in fed_by.items():
        if (equation := program.computed_by(point.value)) is not None:
            event = Event(equation.index, point.iterations, "input", worst)
            reads.setdefault(event, []).extend(feeds)
    readers: dict[Point, Event] = {}
    for event in _in_time(reading, reads):
        stack = reads[event]
        while stack:
            point = stack.pop()
            # Loops and branches pass values on without reading them.
            if point not in readers and program.computed_by(point.value) is None:
                readers[point] = event
                stack += fed_by[point]
    return readers


def causal_path(reading: Reading, outputs: Iterable[Point], event: Event) -> list[Point]:
    """Return the shortest path of bad points from an event to one of `outputs`; [] if none."""
    goals = dict.fromkeys(outputs)
    fed_by = beginnings(reading, goals, event.worst).fed_by
    into: dict[Point, list[Point]] = {}
    for point, feeds in fed_by.items():
        for feed in feeds:
            into.setdefault(feed, []).append(point)
    if event.equation is None:
        starts = [point for point in fed_by if point.value == event.value]
    else:
        results = reading.probe.program.equations[event.equation].results
        points = (Point(value, event.iterations) for value in results)
        starts = [point for point in points if point in fed_by]
    came_from: dict[Point, Point | None] = dict.fromkeys(starts)
    queue = deque(starts)
    while queue:
        point = queue.popleft()
        if point in goals:
            path = [point]
            while (before := came_from[path[-1]]) is not None:
                path.append(before)
            return path[::-1]
        for following in into.get(point, []):
            if following not in came_from:
                came_from[following] = point
                queue.append(following)
    return []


def benign_events(reading: Reading, outputs: Iterable[Point]) -> list[Event]:
    """Return, in execution order, first bad events that do not cause the bad `outputs`."""
    goals, program = list(outputs), reading.probe.program
    causal = {e.equation for worst in (NAN, INF) for e in beginnings(reading, goals, worst).events}
    found: list[Event] = []
    for value, slot in reading.probe.slots.items():
        equation = program.computed_by(value)
        if equation is None or equation.index in causal:
            continue
        for iterations in _bad_iterations(reading, program.values[value].frame, slot):
            point = Point(value, iterations)
            code, feeds = reading.code(point), [reading.code(feed) for feed in reading.feeds(point)]
            if code > max(feeds, default=FINITE):
                found.append(Event(equation.index, iterations, "computed", code))
    # Of each equation the first: a dict keeps the last entry for a key.
    first = {event.equation: event for event in reversed(_in_time(reading, found))}
    return _in_time(reading, first.values())


def _bad_iterations(reading: Reading, frame: int, slot: int) -> Iterator[tuple[int, ...]]:
    """Yield the iterations of a frame's loops in which a recorded value was bad."""
    program, loops = reading.probe.program, reading.probe.program.loops(frame)
    is_bad = reading.codes[f"codes{frame}"][..., slot] > FINITE
    rows: tuple[int, ...]
    for rows in map(tuple, np.argwhere(is_bad)[:MAX_BAD_ITERATIONS]):
        iterations: list[int] = []
        for depth, loop in enumerate(loops):
            is_window = program.frames[loop].kind == "while"
            first = int(reading.codes[f"first{loop}"][rows[:depth]]) if is_window else 0
            iterations.append(first + int(rows[depth]))
        yield tuple(iterations)


def first_in_time(reading: Reading, worst: int) -> Event | None:
    """Return the first equation in execution order whose result is as bad as `worst`, if any."""
    program = reading.probe.program

    def first(frame: int, iterations: tuple[int, ...]) -> Event | None:
        for index in program.frames[frame].equations:
            equation = program.equations[index]
            if equation.opened is None:
                if any(reading.code(Point(v, iterations)) >= worst for v in equation.results):
                    return Event(index, iterations, "computed", worst)
                continue
            for inner in equation.frames:
                is_loop = program.frames[inner].kind in ("scan", "while")
                trips = [(t,) for t in reading.trips(inner, iterations)] if is_loop else [()]
                found = (first(inner, (*iterations, *trip)) for trip in trips)
                event = next((e for e in found if e is not None), None)
                if event is not None:
                    return event
        return None

    return first(0, ())
