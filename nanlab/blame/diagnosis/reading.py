"""Records -> Reading: the code of each value of a program, and what fed it, point by point.

Everything here is on the host, for one lane. A point is a value in one iteration of each enclosing
loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from nanlab.backend.finiteness import FINITE, INF, NAN, as_numbers, code_of
from nanlab.blame.probes.codes import WINDOW, Probe
from nanlab.blame.probes.values import same_as
from nanlab.blame.program.point import Point
from nanlab.blame.program.primitives import DETAILS, NAN_OF, SAME_AS
from nanlab.blame.program.program import Equation

if TYPE_CHECKING:
    from nanlab.blame.diagnosis.causal_walk import Beginnings


class OutOfTime(Exception):
    """A walk back through a program has taken too long."""


@dataclass(frozen=True)
class Reading:
    """Codes and arrays of one lane, by point.

    Attributes:
        probe: probe that recorded them.
        codes: records of the probe, without a lane axis.
        values: arrays of values by number, stacked by iteration as a `ValueProbe` returns them.
        fetched: arrays at single points, as a `Capture` returns them.
        deadline: time (`time.monotonic`) at which walks stop with `OutOfTime`.
    """

    probe: Probe
    codes: Mapping[str, Int[np.ndarray, "*records"]]
    values: Mapping[int, np.ndarray] = field(default_factory=dict[int, np.ndarray])
    fetched: Mapping[Point, np.ndarray] = field(default_factory=dict[Point, np.ndarray])
    deadline: float = math.inf

    @cached_property
    def walks(self) -> dict[tuple[tuple[Point, ...], int], Beginnings]:
        """Cached backward walks, by their end points and the code that they follow."""
        return {}

    def with_arrays(self, arrays: Mapping[Point, np.ndarray]) -> Reading:
        """Return this reading with more arrays, and what is known of it."""
        more = replace(self, fetched={**self.fetched, **arrays})
        more.walks.update(self.walks)
        return more

    def keep_time(self) -> None:
        """Raise `OutOfTime` after the deadline."""
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def code(self, point: Point) -> int:
        """Return FINITE, INF or NAN; an unmeasured point is as bad as what feeds it."""
        stack = [point]
        while stack:
            self.keep_time()
            top = stack[-1]
            if top in self._known:
                stack.pop()
                continue
            direct = self._direct(top)
            if direct is None:
                feeds = [feed for feed in self.feeds(top) if not self._is_ignored(feed)]
                waiting = [feed for feed in feeds if feed not in self._known]
                if waiting:
                    stack += waiting
                    continue
                direct = max((self._known[feed] for feed in feeds), default=FINITE)
                if self._name(top) in NAN_OF and direct != NAN:
                    direct = FINITE
            self._known[top] = direct
            stack.pop()
        return self._known[point]

    def _direct(self, point: Point) -> int | None:
        """Return the code of a point that was measured or cannot be bad; None otherwise."""
        value = self.probe.program.values[point.value]
        if not value.can_be_bad:
            return FINITE
        if value.is_constant:
            return self._constants[point.value]
        if point in self.fetched:
            return code_of(self.fetched[point])
        if point.value in self.probe.slots:
            return self._recorded(value.frame, point.iterations, self.probe.slots[point.value])
        is_stored = value.frame == 0 and point.value in self.values
        return code_of(self.values[point.value]) if is_stored else None

    def _is_ignored(self, feed: Point) -> bool:
        # A constant NaN is often in a branch of a where() that is never taken: it does not make
        # an unmeasured result bad.
        return self.probe.is_coarse and self.probe.program.values[feed.value].is_constant

    def _name(self, point: Point) -> str:
        equation = self.probe.program.values[point.value].equation
        return "" if equation is None else self.probe.program.equations[equation].primitive

    @cached_property
    def _known(self) -> dict[Point, int]:
        return {}

    def detail(self, equation: Equation, iterations: tuple[int, ...]) -> int:
        """Return the detail that decides an equation's mechanism; 0 if there is none."""
        if equation.primitive not in DETAILS:
            return 0
        values = (*equation.operands, *equation.results)
        stored = [self.array(Point(v, iterations)) for v in values]
        if any(array is None for array in stored):
            slot = self.probe.detail_slots.get(equation.index)
            if slot is None or slot >= self.codes[f"codes{equation.frame}"].shape[-1]:
                return 0
            return self._recorded(equation.frame, iterations, slot)
        arrays = [as_numbers(array) for array in stored if array is not None]
        if not self.probe.program.n_shard_maps(equation.frame):
            return _detail(equation, arrays)
        # The first axis is that of the devices, except in constants.
        ranks = [len(self.probe.program.values[v].shape) for v in values]
        shards = [len(a) for a, rank in zip(arrays, ranks, strict=True) if a.ndim == rank + 1]
        return max(
            (
                _detail(
                    equation,
                    [
                        np.asarray(a[device]) if a.ndim > rank else a
                        for a, rank in zip(arrays, ranks, strict=True)
                    ],
                )
                for device in range(shards[0] if shards else 0)
            ),
            default=0,
        )

    def array(self, point: Point) -> np.ndarray | None:
        """Return the array at a point, of all devices inside a `shard_map`; None if unknown."""
        program = self.probe.program
        value = program.values[point.value]
        if value.is_constant:
            return np.asarray(value.constant, value.dtype)
        if point in self.fetched:
            return self.fetched[point]
        if point.value in self.values:
            rows = iter(point.iterations)
            frames = [f for f in program.enclosing(value.frame) if f.kind != "cond"]
            index = tuple(slice(None) if f.kind == "shard_map" else next(rows) for f in frames)
            return np.asarray(self.values[point.value][index])
        if value.equation is not None:
            equation = program.equations[value.equation]
            if equation.primitive in SAME_AS and not program.n_shard_maps(value.frame):
                operand = self.array(Point(equation.operands[0], point.iterations))
                return None if operand is None else same_as(equation, operand, value.shape)
            return None
        frame = program.frames[value.frame]
        if frame.parent is None or frame.kind in ("while", "shard_map"):
            return None
        if frame.kind == "scan":
            # An argument that is not stored is a constant of the loop.
            (feed,) = self.feeds(point)
            return self.array(feed)
        return self.array(next(iter(self.feeds(point))))

    @cached_property
    def _constants(self) -> dict[int, int]:
        codes: dict[int, int] = {}
        for number, value in enumerate(self.probe.program.values):
            if value.is_constant and value.can_be_bad:
                codes[number] = code_of(np.asarray(value.constant, value.dtype))
        return codes

    def _recorded(self, frame: int, iterations: tuple[int, ...], slot: int) -> int:
        rows = self._rows(frame, iterations)
        if rows is None:
            return FINITE
        code = int(self.codes[f"codes{frame}"][(*rows, slot)])
        for depth, loop in enumerate(self.probe.program.loops(frame)):
            if self.probe.program.frames[loop].kind == "while" and rows[depth] == WINDOW - 1:
                # Several iterations share this row: ignore what began in a later one.
                began = self.codes[f"late{loop}.codes{frame}"]
                at = [began[(*rows[:depth], i, *rows[depth + 1 :], slot)] for i in (0, 1)]
                while code > FINITE and not 0 <= at[code - INF] <= iterations[depth]:
                    code -= 1
        return code

    def _rows(self, frame: int, iterations: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the row of these iterations; None if they precede the first bad value."""
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
        """Return the iterations of a loop, in execution order."""
        program = self.probe.program
        frame = program.frames[loop]
        assert frame.parent is not None
        equation = program.equations[frame.parent]
        if frame.kind == "scan":
            order = range(equation.eqn.params["length"])
            return order[::-1] if equation.eqn.params["reverse"] else order
        rows = self._rows(equation.frame, outer)
        return range(0 if rows is None else int(self.codes[f"trips{loop}"][rows]))

    def feeds(self, point: Point) -> Iterator[Point]:
        """Yield the points from which this one is computed."""
        program = self.probe.program
        value = program.values[point.value]
        if value.argument is not None:
            yield from self._feeds_of_argument(point, value.frame, value.argument)
        elif value.equation is not None:
            equation = program.equations[value.equation]
            if equation.opened is None:
                yield from (Point(v, point.iterations) for v in self._used(equation, point))
            else:
                index = equation.results.index(point.value)
                yield from self._feeds_of_result(equation, index, point.iterations)

    def _used(self, equation: Equation, point: Point) -> Iterable[int]:
        """Return the operands that determine the result; of a selection, the cases selected."""
        code = self._direct(point) if equation.primitive == "select_n" else None
        if code is None:
            return equation.operands
        arrays = [self.array(Point(v, point.iterations)) for v in equation.operands]
        known = [array for array in arrays if array is not None]
        if len(known) < len(arrays):
            return equation.operands
        selector, *cases = known
        used = [equation.operands[0]]
        rank, own = (len(self.probe.program.values[v].shape) for v in (point.value, used[0]))
        wide = selector.reshape(selector.shape + (1,) * (rank - own))  # after a shard_map's axis
        for number, (operand, case) in enumerate(zip(equation.operands[1:], cases, strict=True)):
            if code_of(np.where(wide == number, case, case.dtype.type(0))) >= code:
                used.append(operand)
        return used

    def _feeds_of_argument(self, point: Point, frame_index: int, index: int) -> Iterator[Point]:
        program = self.probe.program
        frame = program.frames[frame_index]
        if frame.parent is None:
            return
        equation = program.equations[frame.parent]
        assert equation.opened is not None
        branch = equation.frames.index(frame_index)
        operand = equation.operands[equation.opened.operands[branch][index]]
        if frame.kind in ("cond", "shard_map"):
            yield Point(operand, point.iterations)
            return
        outer, here = point.iterations[:-1], point.iterations[-1]
        carried = index - equation.opened.consts
        if 0 <= carried < equation.opened.carry:
            trips = self.trips(frame_index, outer)
            at = trips.index(here)
            if at > 0:
                yield Point(frame.results[carried], (*outer, trips[at - 1]))
                return
        yield Point(operand, outer)

    def _feeds_of_result(
        self, equation: Equation, index: int, iterations: tuple[int, ...]
    ) -> Iterator[Point]:
        program, opened = self.probe.program, equation.opened
        assert opened is not None
        if opened.kind == "cond":
            rows = self._rows(equation.frame, iterations)
            for branch in equation.frames:
                if rows is not None and self.codes[f"ran{branch}"][rows]:
                    yield Point(program.frames[branch].results[index], iterations)
            return
        body = program.frames[equation.frames[0]]
        if opened.kind == "shard_map":
            yield Point(body.results[index], iterations)
            return
        trips = self.trips(body.index, iterations)
        if index < opened.carry and not len(trips):
            first = opened.operands[0][opened.consts + index]
            yield Point(equation.operands[first], iterations)
        elif index < opened.carry:
            yield Point(body.results[index], (*iterations, trips[-1]))
        else:
            yield from (Point(body.results[index], (*iterations, trip)) for trip in trips)

    def clock(self, equation: int | None, iterations: tuple[int, ...]) -> tuple[int, ...]:
        """Return when an equation ran (None: before all), as a tuple that sorts in order."""
        program = self.probe.program
        if equation is None:
            return ()
        clock: list[int] = []
        for depth, loop in enumerate(program.loops(program.equations[equation].frame)):
            parent = program.frames[loop].parent
            assert parent is not None
            trips = self.trips(loop, iterations[:depth])
            clock += [parent, trips.index(iterations[depth])]
        return (*clock, equation)


def _detail(equation: Equation, arrays: list[np.ndarray]) -> int:
    """Compute the detail that decides an equation's mechanism from its operands and results."""
    count = len(equation.operands)
    return int(DETAILS[equation.primitive](np, equation.eqn.params, arrays[:count], arrays[count:]))
