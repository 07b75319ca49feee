"""Codes -> events: walk back from a bad output, through bad values, to where they began.

Everything here is on the host, for one lane's codes. A point is a value in one iteration of each
loop around it; the walk goes from a point to the points that fed it and were bad too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nanlab.blame.contents import as_numbers, code_of
from nanlab.blame.keeper import same_as
from nanlab.blame.mechanism import DETAILS, SAME_AS
from nanlab.blame.probe import WINDOW, Probe
from nanlab.blame.sites import Site
from nanlab.codes import FINITE, INF, NAN

LOOKED_AT = 1000
"""How many bad iterations of one value are looked at for harmless events."""


class Point(NamedTuple):
    """A value, and the iterations of the loops around it, outermost first."""

    value: int
    iterations: tuple[int, ...] = ()


class Event(NamedTuple):
    """Where something bad began: at a site, or before any.

    Attributes:
        site: the site, by number; None for an argument or a constant that is an output as it is.
        iterations: of the loops around it, outermost first.
        source: "made" there out of good operands, or the "input" or "constant" that it read.
        worst: what began, INF or NAN.
        value: the argument or constant that was read, or None.
    """

    site: int | None
    iterations: tuple[int, ...]
    source: str
    worst: int
    value: int | None = None


@dataclass(frozen=True)
class Reading:
    """One lane's codes, by point.

    Attributes:
        probe: the probe that recorded them.
        codes: its record, without a lane axis, as NumPy arrays.
        values: what values held, by number, as `keeper.Keeper` has them.
    """

    probe: Probe
    codes: Mapping[str, np.ndarray]
    values: Mapping[int, np.ndarray] = field(default_factory=dict[int, np.ndarray])

    def code(self, point: Point) -> int:
        """FINITE, INF or NAN."""
        program = self.probe.program
        value = program.values[point.value]
        if not value.can_be_bad:
            return FINITE
        if value.site is None and value.argument is None:
            return self._constants[point.value]
        if point.value in self.probe.slots:
            return self._recorded(value.frame, point.iterations, self.probe.slots[point.value])
        if value.site is not None:
            site = program.sites[value.site]
            fed = self.code(Point(site.operands[0], point.iterations))
            return fed if site.primitive in SAME_AS or fed == NAN else FINITE
        # An argument of a loop or a branch holds what feeds it.
        return max((self.code(p) for p in self.feeds(point)), default=FINITE)

    def detail(self, site: Site, iterations: tuple[int, ...]) -> int:
        """What was computed to settle the site's mechanism; 0 if nothing."""
        slot = self.probe.detail_slots.get(site.index)
        if slot is None:
            return 0
        if f"codes{site.frame}" in self.codes and not self._is_kept(site):
            return self._recorded(site.frame, iterations, slot)
        held = [self.held(Point(v, iterations)) for v in (*site.operands, *site.results)]
        if any(array is None for array in held):
            return 0
        arrays = [as_numbers(array) for array in held if array is not None]
        count = len(site.operands)
        params = site.eqn.params
        return int(DETAILS[site.primitive](np, params, arrays[:count], arrays[count:]))

    def _is_kept(self, site: Site) -> bool:
        return any(value in self.values for value in site.results)

    def held(self, point: Point) -> np.ndarray | None:
        """What a point held; None if that is not known.

        Inside a `shard_map` each device's, in a new first axis.
        """
        program = self.probe.program
        value = program.values[point.value]
        if value.site is None and value.argument is None:
            return np.asarray(value.constant)
        if point.value in self.values:
            rows = iter(point.iterations)
            around = [f for f in program.around(value.frame) if f.kind != "cond"]
            place = tuple(slice(None) if f.kind == "shard_map" else next(rows) for f in around)
            return self.values[point.value][place]
        if value.site is not None:
            site = program.sites[value.site]
            if site.primitive in SAME_AS and not program.shards(value.frame):
                operand = self.held(Point(site.operands[0], point.iterations))
                return None if operand is None else same_as(site, operand, value.shape)
            return None
        frame = program.frames[value.frame]
        if frame.parent is None or frame.kind in ("while", "shard_map"):
            return None
        if frame.kind == "scan":
            # An argument that is not kept is a constant of the loop.
            (feed,) = self.feeds(point)
            return self.held(feed)
        return self.held(next(iter(self.feeds(point))))

    @cached_property
    def _constants(self) -> dict[int, int]:
        codes: dict[int, int] = {}
        for number, value in enumerate(self.probe.program.values):
            if value.site is None and value.argument is None and value.can_be_bad:
                held = np.asarray(value.constant)
                if held.dtype.kind not in "fc":  # bfloat16 and the like
                    held = held.astype(np.float32)
                bad = NAN if np.isnan(held).any() else INF if np.isinf(held).any() else FINITE
                codes[number] = bad
        return codes

    def _recorded(self, frame: int, iterations: tuple[int, ...], slot: int) -> int:
        rows = self._rows(frame, iterations)
        if rows is None:
            return FINITE
        code = int(self.codes[f"codes{frame}"][(*rows, slot)])
        for depth, loop in enumerate(self.probe.program.loops(frame)):
            if self.probe.program.frames[loop].kind == "while" and rows[depth] == WINDOW - 1:
                # Many iterations share this row: what began in a later one is not here yet.
                began = self.codes[f"late{loop}.codes{frame}"]
                at = [began[(*rows[:depth], i, *rows[depth + 1 :], slot)] for i in (0, 1)]
                while code > FINITE and not 0 <= at[code - INF] <= iterations[depth]:
                    code -= 1
        return code

    def _rows(self, frame: int, iterations: tuple[int, ...]) -> tuple[int, ...] | None:
        """Where these iterations are recorded; None if they came before anything was bad."""
        rows: list[int] = []
        loops = self.probe.program.loops(frame)
        for loop, iteration in zip(loops, iterations, strict=True):
            row = iteration
            if self.probe.program.frames[loop].kind == "while":
                first = int(self.codes[f"first{loop}"][tuple(rows)])
                row = min(iteration - first, WINDOW - 1)
                if first < 0 or row < 0:
                    return None
            rows.append(row)
        return tuple(rows)

    def trips(self, loop: int, outer: tuple[int, ...]) -> range:
        """The iterations that a loop made, in the order in which they ran."""
        program = self.probe.program
        frame = program.frames[loop]
        assert frame.parent is not None
        site = program.sites[frame.parent]
        if frame.kind == "scan":
            order = range(site.eqn.params["length"])
            return order[::-1] if site.eqn.params["reverse"] else order
        rows = self._rows(site.frame, outer)
        ran = 0 if rows is None else int(self.codes[f"trips{loop}"][rows])
        return range(ran)

    def feeds(self, point: Point) -> Iterator[Point]:
        """The points whose contents go into this one."""
        program = self.probe.program
        value = program.values[point.value]
        if value.argument is not None:
            yield from self._feeds_of_argument(point, value.frame, value.argument)
        elif value.site is not None:
            site = program.sites[value.site]
            if site.opened is None:
                yield from (Point(v, point.iterations) for v in self._taken(site, point))
            else:
                place = site.results.index(point.value)
                yield from self._feeds_of_result(site, place, point.iterations)

    def _taken(self, site: Site, point: Point) -> Iterable[int]:
        """The operands whose elements go into the result: of a selection those that it takes."""
        if site.primitive != "select_n" or point.value not in self.values:
            return site.operands
        held = [self.held(Point(v, point.iterations)) for v in site.operands]
        which, cases = held[0], held[1:]
        if which is None or any(case is None for case in cases):
            return site.operands
        taken = [site.operands[0]]
        for number, (operand, case) in enumerate(zip(site.operands[1:], cases, strict=True)):
            assert case is not None
            is_here = np.broadcast_to(which == number, case.shape)
            if code_of(case[is_here]) >= self.code(point):
                taken.append(operand)
        return taken

    def _feeds_of_argument(self, point: Point, frame_index: int, place: int) -> Iterator[Point]:
        program = self.probe.program
        frame = program.frames[frame_index]
        if frame.parent is None:
            return
        site = program.sites[frame.parent]
        assert site.opened is not None
        branch = site.frames.index(frame_index)
        operand = site.operands[site.opened.operands[branch][place]]
        if frame.kind in ("cond", "shard_map"):
            yield Point(operand, point.iterations)
            return
        # A while loop's condition has constants of its own, before the body's.
        outer, here = point.iterations[:-1], point.iterations[-1]
        carried = place - site.opened.consts
        if 0 <= carried < site.opened.carry:
            trips = self.trips(frame_index, outer)
            at = trips.index(here)
            if at > 0:
                yield Point(frame.results[carried], (*outer, trips[at - 1]))
                return
        yield Point(operand, outer)

    def _feeds_of_result(
        self, site: Site, place: int, iterations: tuple[int, ...]
    ) -> Iterator[Point]:
        program, opened = self.probe.program, site.opened
        assert opened is not None
        if opened.kind == "cond":
            rows = self._rows(site.frame, iterations)
            for index in site.frames:
                if rows is not None and self.codes[f"ran{index}"][rows]:
                    yield Point(program.frames[index].results[place], iterations)
            return
        body = program.frames[site.frames[0]]
        if opened.kind == "shard_map":
            yield Point(body.results[place], iterations)
            return
        trips = self.trips(body.index, iterations)
        if place < opened.carry and not len(trips):
            first = opened.operands[0][opened.consts + place]
            yield Point(site.operands[first], iterations)
        elif place < opened.carry:
            yield Point(body.results[place], (*iterations, trips[-1]))
        else:
            yield from (Point(body.results[place], (*iterations, trip)) for trip in trips)

    def order(self, event: Event) -> tuple[int, ...]:
        """When an event came: compares as the program ran."""
        program = self.probe.program
        if event.site is None:
            return ()
        loops = program.loops(program.sites[event.site].frame)
        clock: list[int] = []
        for depth, loop in enumerate(loops):
            parent = program.frames[loop].parent
            assert parent is not None
            trips = self.trips(loop, event.iterations[:depth])
            clock += [parent, trips.index(event.iterations[depth])]
        return (*clock, event.site)


class Beginnings(NamedTuple):
    """Where bad values began.

    Attributes:
        events: in the order in which they came; those before any site come last.
        fed_by: for each bad point on the way from there, the bad points that fed it.
    """

    events: list[Event]
    fed_by: dict[Point, list[Point]]


def beginnings(reading: Reading, outputs: Iterable[Point], worst: int) -> Beginnings:
    """Where the bad values that reach `outputs` began.

    Args:
        reading: one lane's codes.
        outputs: points to walk back from.
        worst: NAN follows NaNs only, to the sites that made one of NaN-free operands; INF
            follows whatever is not finite, to the sites that made it of finite operands.
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
        source = "constant" if value.site is None and value.argument is None else "input"
        if value.site is not None and program.sites[value.site].opened is None:
            events.add(Event(value.site, point.iterations, "made", worst))
        elif point in readers:
            events.add(readers[point]._replace(source=source, value=point.value))
        else:
            unread.append(Event(None, (), source, worst, point.value))
    return Beginnings(sorted(events, key=reading.order) + unread, fed_by)


def _readers(
    reading: Reading, fed_by: Mapping[Point, list[Point]], worst: int
) -> dict[Point, Event]:
    """The first site to read each point that no site makes: it stands for the point.

    Loops and branches hand values on without reading them.
    """
    program = reading.probe.program
    reads: list[tuple[Event, Point]] = []
    for point, feeds in fed_by.items():
        site = program.values[point.value].site
        if site is not None and program.sites[site].opened is None:
            event = Event(site, point.iterations, "input", worst)
            reads += [(event, feed) for feed in feeds]
    readers: dict[Point, Event] = {}
    for event, read in sorted(reads, key=lambda pair: reading.order(pair[0])):
        stack = [read]
        while stack:
            point = stack.pop()
            site = program.values[point.value].site
            is_made = site is not None and program.sites[site].opened is None
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
    if event.site is None:
        starts = [point for point in fed_by if point.value == event.value]
    else:
        made = (Point(v, event.iterations) for v in reading.probe.program.sites[event.site].results)
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
    """The first event at each site that made something bad, whether it reaches an output or not."""
    program = reading.probe.program
    found: dict[int, Event] = {}
    for value, slot in reading.probe.slots.items():
        index = program.values[value].site
        if index is None or program.sites[index].opened is not None:
            continue
        for iterations in _bad_iterations(reading, program.values[value].frame, slot):
            point = Point(value, iterations)
            code, feeds = reading.code(point), [reading.code(feed) for feed in reading.feeds(point)]
            if code > max(feeds, default=FINITE):
                event = Event(index, iterations, "made", code)
                if index not in found or reading.order(event) < reading.order(found[index]):
                    found[index] = event
    return sorted(found.values(), key=reading.order)


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
    """The first site, as the program ran, whose result is as bad as `worst`, harmless or not."""
    program = reading.probe.program

    def first(frame: int, iterations: tuple[int, ...]) -> Event | None:
        for index in program.frames[frame].sites:
            site = program.sites[index]
            bad = [v for v in site.results if reading.code(Point(v, iterations)) >= worst]
            if site.opened is None:
                if bad:
                    return Event(index, iterations, "made", worst)
                continue
            for inner in site.frames:
                is_loop = program.frames[inner].kind in ("scan", "while")
                trips = [(t,) for t in reading.trips(inner, iterations)] if is_loop else [()]
                found = (first(inner, (*iterations, *trip)) for trip in trips)
                event = next((e for e in found if e is not None), None)
                if event is not None:
                    return event
        return None

    return first(0, ())
