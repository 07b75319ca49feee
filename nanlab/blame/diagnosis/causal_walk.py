"""Reading -> events: walk back from a bad output, through bad values, to where they began."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from nanlab.backend.finiteness import FINITE
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.program.point import Point

LOOKED_AT = 1000
"""How many bad iterations of one value are looked at for harmless events."""


class Event(NamedTuple):
    """Where something bad began: at an equation, or before any.

    Attributes:
        equation: the equation, by number; None for an argument or a constant that is an output as it is.
        iterations: of the loops around it, outermost first.
        source: "made" there out of good operands, or the "input" or "constant" that it read.
        worst: what began, INF or NAN.
        value: the argument or constant that was read, or None.
    """

    equation: int | None
    iterations: tuple[int, ...]
    source: str
    worst: int
    value: int | None = None


def time_of(reading: Reading, event: Event) -> tuple[int, ...]:
    """When an event came: compares as the program ran; before any equation, at once."""
    return () if event.equation is None else reading.clock(event.equation, event.iterations)


class Beginnings(NamedTuple):
    """Where bad values began.

    Attributes:
        events: in the order in which they came; those before any equation come last.
        fed_by: for each bad point on the way from there, the bad points that fed it.
    """

    events: list[Event]
    fed_by: dict[Point, list[Point]]


def beginnings(reading: Reading, outputs: Iterable[Point], worst: int) -> Beginnings:
    """Where the bad values that reach `outputs` began.

    Args:
        reading: one lane's codes.
        outputs: points to walk back from.
        worst: NAN follows NaNs only, to the equations that made one of NaN-free operands; INF
            follows whatever is not finite, to the equations that made it of finite operands.
    """
    program = reading.probe.program
    stack = [point for point in outputs if reading.code(point) >= worst]
    fed_by: dict[Point, list[Point]] = {}
    while stack:
        point = stack.pop()
        if point not in fed_by:
            feeds = reading.feeds(point)
            fed_by[point] = [feed for feed in feeds if reading.code(feed) >= worst]
            stack += fed_by[point]
    events: set[Event] = set()
    unread: list[Event] = []
    readers = _readers(reading, fed_by, worst)
    for point in (point for point, feeds in fed_by.items() if not feeds):
        value = program.values[point.value]
        source = "constant" if value.equation is None and value.argument is None else "input"
        if value.equation is not None and program.equations[value.equation].opened is None:
            events.add(Event(value.equation, point.iterations, "made", worst))
        elif point in readers:
            events.add(readers[point]._replace(source=source, value=point.value))
        else:
            unread.append(Event(None, (), source, worst, point.value))
    return Beginnings(sorted(events, key=lambda event: time_of(reading, event)) + unread, fed_by)


def _readers(
    reading: Reading, fed_by: Mapping[Point, list[Point]], worst: int
) -> dict[Point, Event]:
    """The first equation to read each point that no equation makes: it stands for the point.

    Loops and branches hand values on without reading them.
    """
    program = reading.probe.program
    reads: list[tuple[Event, Point]] = []
    for point, feeds in fed_by.items():
        equation = program.values[point.value].equation
        if equation is not None and program.equations[equation].opened is None:
            event = Event(equation, point.iterations, "input", worst)
            reads += [(event, feed) for feed in feeds]
    readers: dict[Point, Event] = {}
    for event, read in sorted(reads, key=lambda pair: time_of(reading, pair[0])):
        stack = [read]
        while stack:
            point = stack.pop()
            equation = program.values[point.value].equation
            is_made = equation is not None and program.equations[equation].opened is None
            if point not in readers and not is_made:
                readers[point] = event
                stack += fed_by[point]
    return readers


def way(reading: Reading, outputs: Iterable[Point], event: Event) -> list[Point]:
    """The shortest way from where something bad began to one of `outputs`, by bad points."""
    goals = set(outputs)
    fed_by = beginnings(reading, goals, event.worst).fed_by
    into: dict[Point, list[Point]] = {}
    for point, feeds in fed_by.items():
        for feed in feeds:
            into.setdefault(feed, []).append(point)
    if event.equation is None:
        starts = [point for point in fed_by if point.value == event.value]
    else:
        made = (
            Point(v, event.iterations)
            for v in reading.probe.program.equations[event.equation].results
        )
        starts = [point for point in made if point in fed_by]
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


def strays(reading: Reading) -> list[Event]:
    """The first event at each equation that made something bad, whether it reaches an output or not."""
    program = reading.probe.program
    found: dict[int, Event] = {}
    for value, slot in reading.probe.slots.items():
        index = program.values[value].equation
        if index is None or program.equations[index].opened is not None:
            continue
        for iterations in _bad_iterations(reading, program.values[value].frame, slot):
            point = Point(value, iterations)
            code, feeds = reading.code(point), [reading.code(feed) for feed in reading.feeds(point)]
            if code > max(feeds, default=FINITE):
                event = Event(index, iterations, "made", code)
                if index not in found or time_of(reading, event) < time_of(reading, found[index]):
                    found[index] = event
    return sorted(found.values(), key=lambda event: time_of(reading, event))


def _bad_iterations(reading: Reading, frame: int, slot: int) -> Iterator[tuple[int, ...]]:
    """The iterations, of the loops around a frame, in which a recorded value was bad."""
    program, loops = reading.probe.program, reading.probe.program.loops(frame)
    rows: tuple[int, ...]
    for rows in map(
        tuple, np.argwhere(reading.codes[f"codes{frame}"][..., slot] > FINITE)[:LOOKED_AT]
    ):
        iterations: list[int] = []
        for depth, loop in enumerate(loops):
            is_window = program.frames[loop].kind == "while"
            first = int(reading.codes[f"first{loop}"][rows[:depth]]) if is_window else 0
            iterations.append(first + int(rows[depth]))
        yield tuple(iterations)


def first_in_time(reading: Reading, worst: int) -> Event | None:
    """The first equation, as the program ran, whose result is as bad as `worst`, harmless or not."""
    program = reading.probe.program

    def first(frame: int, iterations: tuple[int, ...]) -> Event | None:
        for index in program.frames[frame].equations:
            equation = program.equations[index]
            bad = [v for v in equation.results if reading.code(Point(v, iterations)) >= worst]
            if equation.opened is None:
                if bad:
                    return Event(index, iterations, "made", worst)
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
