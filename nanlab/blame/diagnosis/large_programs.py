"""Program too large to measure every value -> first a few of them, then what lies before a fault.

Each measured value costs a kernel to compile. So the first look measures the results of matrix
products and their like, which XLA has to keep anyway, and the second fetches what lies between
those that are finite and the first that are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from nanlab.backend.finiteness import INF, NAN
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Program

SEARCH_DEPTH = 40
"""How many operations may follow each other without a measured value."""

LOOKED_BEHIND = 4
"""Behind how many of the first bad values, of each kind, the second look goes."""

LARGE_PROGRAM_BYTES = 2**30
"""The second look fetches no more than this."""

_KEPT = {
    "dot_general", "conv_general_dilated", "scan", "while", "cond", "shard_map", "sort", "cumsum",
    "cholesky", "eigh", "svd", "lu", "qr", "triangular_solve", "fft", "pallas_call",
}  # fmt: skip


def coarse_values(program: Program) -> set[int]:
    """The values that the first look measures."""
    chosen: set[int] = set()
    for frame in program.frames:
        in_while = any(f.kind == "while" for f in program.around(frame.index))
        depth: dict[int, int] = {}
        if in_while:
            # Its record begins with the first bad value: all have to be seen.
            chosen.update(frame.arguments)
        for index in frame.equations:
            equation = program.equations[index]
            deep = 1 + max((depth.get(value, 0) for value in equation.operands), default=0)
            is_chosen = in_while or equation.primitive in _KEPT or deep > SEARCH_DEPTH
            if is_chosen:
                chosen.update(equation.results)
            depth |= dict.fromkeys(equation.results, 0 if is_chosen else deep)
    return chosen


def behind(reading: Reading, outputs: Iterable[Point]) -> list[Point]:
    """The unmeasured points right before the first bad values that reach `outputs`.

    Args:
        reading: of the first look.
        outputs: points of the top frame.
    """
    goals = list(outputs)
    found: dict[Point, None] = {}
    for worst in (NAN, INF):
        firsts = _first_bad(reading, goals, worst)
        for point in sorted(firsts, key=lambda p: _time(reading, p))[:LOOKED_BEHIND]:
            found |= dict.fromkeys(firsts[point])
    return _as_fits(reading.probe.program, list(found))


def _first_bad(reading: Reading, outputs: Iterable[Point], worst: int) -> dict[Point, list[Point]]:
    """The bad measured points that no bad measured point precedes, with what lies before each."""
    firsts: dict[Point, list[Point]] = {}
    stack = [point for point in outputs if reading.code(point) >= worst]
    seen = set(stack)
    while stack:
        point = stack.pop()
        between, edge = _before(reading, point)
        bad = [feed for feed in edge if reading.code(feed) >= worst]
        if not bad:
            firsts[point] = between
        stack += [feed for feed in bad if feed not in seen]
        seen.update(bad)
    return firsts


def _before(reading: Reading, point: Point) -> tuple[list[Point], list[Point]]:
    """The unmeasured points before a point, it included, and the measured ones before those."""
    program = reading.probe.program
    between: dict[Point, None] = {point: None}
    edge: dict[Point, None] = {}
    stack = list(reading.feeds(point))
    while stack:
        feed = stack.pop()
        value = program.values[feed.value]
        is_constant = value.equation is None and value.argument is None
        if feed in between or feed in edge or is_constant or 0 in value.shape:
            continue
        is_argument = value.argument is not None and value.frame == 0
        if is_argument or feed.value in reading.probe.slots:
            edge[feed] = None
        else:
            between[feed] = None
            stack += reading.feeds(feed)
    if program.values[point.value].equation is None:
        del between[point]  # an argument that is an output as it is
    # What the numbers are compared with: the operands of those between.
    return [*between, *(feed for feed in edge if not _is_given(program, feed))], list(edge)


def _is_given(program: Program, point: Point) -> bool:
    value = program.values[point.value]
    return value.argument is not None and value.frame == 0


def _time(reading: Reading, point: Point) -> tuple[int, ...]:
    equation = reading.probe.program.values[point.value].equation
    return () if equation is None else reading.clock(equation, point.iterations)


def _as_fits(program: Program, points: list[Point]) -> list[Point]:
    """As many of the points, in order, as may be fetched."""
    fitting: list[Point] = []
    left = LARGE_PROGRAM_BYTES
    for point in points:
        value = program.values[point.value]
        left -= prod(value.shape) * getattr(value.dtype, "itemsize", 8)
        if left < 0:
            break
        fitting.append(point)
    return fitting
