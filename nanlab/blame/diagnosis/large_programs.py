"""Choose what to measure in programs that are too large to measure every value.

Each measured value costs a kernel to compile. So the first run measures the results of matrix
products and similar operations, which XLA materializes anyway, and the second fetches what lies
between the finite ones and the first that are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from nanlab.backend.finiteness import FINITE, INF, NAN
from nanlab.blame.diagnosis.causal_walk import Event
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Program

SEARCH_DEPTH = 40
"""Maximum number of consecutive operations without a measured value."""

N_REFINED = 4
"""Number of first bad values, NaN and inf each, whose surroundings the second run fetches."""

SEARCH_SECONDS = 60
"""Longest time for which what lies before a bad output is searched."""

OUT_OF_TIME = (
    f"the search for what lies before the bad output was stopped after {SEARCH_SECONDS} s; known "
    "is the first loop that holds a bad value, and its iteration"
)

FETCH_BUDGET_BYTES = 2**30
"""Most that the second run fetches."""

_MATERIALIZED = {
    "dot_general", "conv_general_dilated", "scan", "while", "cond", "shard_map", "sort", "cumsum",
    "cholesky", "eigh", "svd", "lu", "qr", "triangular_solve", "fft", "pallas_call",
}  # fmt: skip


def coarse_values(program: Program) -> set[int]:
    """Return the values that the first run measures."""
    chosen: set[int] = set()
    for frame in program.frames:
        in_while = any(f.kind == "while" for f in program.enclosing(frame.index))
        depth: dict[int, int] = {}
        if in_while:
            # Recording starts at the first bad value, so every value must be measured.
            chosen.update(frame.arguments)
        for index in frame.equations:
            equation = program.equations[index]
            deep = 1 + max((depth.get(value, 0) for value in equation.operands), default=0)
            is_chosen = in_while or equation.primitive in _MATERIALIZED or deep > SEARCH_DEPTH
            if is_chosen:
                chosen.update(equation.results)
            depth |= dict.fromkeys(equation.results, 0 if is_chosen else deep)
    return chosen


def points_to_fetch(reading: Reading, outputs: Iterable[Point]) -> list[Point]:
    """Return the unmeasured points right before the first bad values that reach `outputs`."""
    goals, program = list(outputs), reading.probe.program
    found: dict[Point, None] = {}

    def time(point: Point) -> tuple[int, ...]:
        return reading.clock(program.values[point.value].equation, point.iterations)

    for worst in (NAN, INF):
        firsts = _first_bad(reading, goals, worst)
        for point in sorted(firsts, key=time)[:N_REFINED]:
            found |= dict.fromkeys(firsts[point])
    # What a long scan returns is not computed again: its iterations are searched.
    searched = [p for p in found if not _is_of_long_scan(program, p)]
    return _within_budget(program, searched)


def _is_of_long_scan(program: Program, point: Point) -> bool:
    equation = program.computed_by(point.value)
    return equation is not None and equation.is_closed


def first_bad_iteration(reading: Reading) -> Event | None:
    """Return the first loop of the top level whose results go bad, and in which iteration."""
    program, slots = reading.probe.program, reading.probe.slots
    for equation in map(program.equations.__getitem__, program.frames[0].equations):
        if equation.opened is None or equation.opened.kind not in ("scan", "while"):
            continue
        (body,) = equation.frames
        first = int(reading.codes[f"first{body}"]) if equation.opened.kind == "while" else 0
        columns = [slots[value] for value in program.frames[body].results if value in slots]
        worst = reading.codes[f"codes{body}"][:, columns].max(1, initial=FINITE)
        order = reading.trips(body, ()) if equation.opened.kind == "scan" else range(len(worst))
        row = next((row for row in order if worst[row] > FINITE), None)
        if row is not None:
            return Event(equation.index, (first + row,), "computed", INF)
    return None


def _first_bad(reading: Reading, outputs: Iterable[Point], worst: int) -> dict[Point, list[Point]]:
    """Map each bad measured point that no other precedes to the points to fetch before it."""
    firsts: dict[Point, list[Point]] = {}
    stack = [point for point in outputs if reading.code(point) >= worst]
    seen = set(stack)
    while stack:
        reading.keep_time()
        point = stack.pop()
        between, edge = _before(reading, point)
        bad = [feed for feed in edge if reading.code(feed) >= worst]
        if not bad:
            firsts[point] = between
        stack += [feed for feed in bad if feed not in seen]
        seen.update(bad)
    return firsts


def _before(reading: Reading, point: Point) -> tuple[list[Point], list[Point]]:
    """Return the unmeasured points up to a point, inclusive, and the measured ones before those."""
    program = reading.probe.program
    between: dict[Point, None] = {point: None}
    edge: dict[Point, None] = {}
    stack = list(reading.feeds(point))
    while stack:
        reading.keep_time()
        feed = stack.pop()
        value = program.values[feed.value]
        if feed in between or feed in edge or value.is_constant or 0 in value.shape:
            continue
        if _is_top_argument(program, feed) or feed.value in reading.probe.slots:
            edge[feed] = None
        else:
            between[feed] = None
            stack += reading.feeds(feed)
    if program.values[point.value].equation is None:
        del between[point]  # an argument that is returned as it is
    # The edge is fetched too: it holds the operands of the points between.
    return [*between, *(p for p in edge if not _is_top_argument(program, p))], list(edge)


def _is_top_argument(program: Program, point: Point) -> bool:
    value = program.values[point.value]
    return value.argument is not None and value.frame == 0


def _within_budget(program: Program, points: list[Point]) -> list[Point]:
    """Return the leading points whose arrays fit in the budget."""
    fitting: list[Point] = []
    left = FETCH_BUDGET_BYTES
    for point in points:
        value = program.values[point.value]
        left -= prod(value.shape) * getattr(value.dtype, "itemsize", 8)
        if left < 0:
            break
        fitting.append(point)
    return fitting
