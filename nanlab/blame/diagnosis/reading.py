"""Records -> Reading: what each value of a program held, point by point.

Everything here is on the host, for one lane. A point is a value in one iteration of each loop
around it; what fed it are points again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nanlab.backend.finiteness import FINITE, INF, NAN, as_numbers, code_of
from nanlab.blame.probes.codes import WINDOW, Probe
from nanlab.blame.probes.values import same_as
from nanlab.blame.program.point import Point
from nanlab.blame.program.primitives import DETAILS, NAN_OF, SAME_AS
from nanlab.blame.program.program import Equation


@dataclass(frozen=True)
class Reading:
    """One lane's codes, by point.

    Attributes:
        probe: the probe that recorded them.
        codes: its record, without a lane axis, as NumPy arrays.
        values: what values held, by number, as `keeper.Keeper` has them.
        looked_at: what single points held, as `capture.Capture` has them.
    """

    probe: Probe
    codes: Mapping[str, np.ndarray]
    values: Mapping[int, np.ndarray] = field(default_factory=dict[int, np.ndarray])
    looked_at: Mapping[Point, np.ndarray] = field(default_factory=dict[Point, np.ndarray])

    def code(self, point: Point) -> int:
        """FINITE, INF or NAN; what was not measured is as bad as what went into it."""
        stack = [point]
        while stack:
            top = stack[-1]
            if top in self._known:
                stack.pop()
                continue
            direct = self._direct(top)
            if direct is None:
                feeds = [feed for feed in self.feeds(top) if not self._is_passed_over(feed)]
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
        """The code of a point if it was measured, or cannot be bad."""
        value = self.probe.program.values[point.value]
        if not value.can_be_bad:
            return FINITE
        if value.equation is None and value.argument is None:
            return self._constants[point.value]
        if point in self.looked_at:
            return code_of(self.looked_at[point])
        if point.value in self.probe.slots:
            return self._recorded(value.frame, point.iterations, self.probe.slots[point.value])
        is_held = value.frame == 0 and point.value in self.values
        return code_of(self.values[point.value]) if is_held else None

    def _is_passed_over(self, feed: Point) -> bool:
        # Many a where() has a NaN in the branch that it never takes: it says nothing of a result
        # that was not measured.
        value = self.probe.program.values[feed.value]
        return self.probe.is_coarse and value.equation is None and value.argument is None

    def _name(self, point: Point) -> str:
        equation = self.probe.program.values[point.value].equation
        return "" if equation is None else self.probe.program.equations[equation].primitive

    @cached_property
    def _known(self) -> dict[Point, int]:
        return {}

    def detail(self, equation: Equation, iterations: tuple[int, ...]) -> int:
        """What was computed to settle the equation's mechanism; 0 if nothing."""
        if equation.primitive not in DETAILS:
            return 0
        values = (*equation.operands, *equation.results)
        held = [self.held(Point(v, iterations)) for v in values]
        if any(array is None for array in held):
            slot = self.probe.detail_slots.get(equation.index)
            if slot is None or slot >= self.codes[f"codes{equation.frame}"].shape[-1]:
                return 0
            return self._recorded(equation.frame, iterations, slot)
        arrays = [as_numbers(array) for array in held if array is not None]
        if not self.probe.program.shards(equation.frame):
            return _detail(equation, arrays)
        # The first axis is that of the devices, but of constants.
        ranks = [len(self.probe.program.values[v].shape) for v in values]
        each = [range(len(a)) for a, rank in zip(arrays, ranks, strict=True) if a.ndim == rank + 1]
        return max(
            (
                _detail(
                    equation,
                    [
                        np.asarray(a[device]) if a.ndim > rank else a
                        for a, rank in zip(arrays, ranks, strict=True)
                    ],
                )
                for device in (each[0] if each else ())
            ),
            default=0,
        )

    def held(self, point: Point) -> np.ndarray | None:
        """What a point held; None if that is not known.

        Inside a `shard_map` each device's, in a new first axis.
        """
        program = self.probe.program
        value = program.values[point.value]
        if value.equation is None and value.argument is None:
            return np.asarray(value.constant, value.dtype)
        if point in self.looked_at:
            return self.looked_at[point]
        if point.value in self.values:
            rows = iter(point.iterations)
            around = [f for f in program.around(value.frame) if f.kind != "cond"]
            place = tuple(slice(None) if f.kind == "shard_map" else next(rows) for f in around)
            return np.asarray(self.values[point.value][place])
        if value.equation is not None:
            equation = program.equations[value.equation]
            if equation.primitive in SAME_AS and not program.shards(value.frame):
                operand = self.held(Point(equation.operands[0], point.iterations))
                return None if operand is None else same_as(equation, operand, value.shape)
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
            if value.equation is None and value.argument is None and value.can_be_bad:
                codes[number] = code_of(np.asarray(value.constant, value.dtype))
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
        equation = program.equations[frame.parent]
        if frame.kind == "scan":
            order = range(equation.eqn.params["length"])
            return order[::-1] if equation.eqn.params["reverse"] else order
        rows = self._rows(equation.frame, outer)
        ran = 0 if rows is None else int(self.codes[f"trips{loop}"][rows])
        return range(ran)

    def feeds(self, point: Point) -> Iterator[Point]:
        """The points whose contents go into this one."""
        program = self.probe.program
        value = program.values[point.value]
        if value.argument is not None:
            yield from self._feeds_of_argument(point, value.frame, value.argument)
        elif value.equation is not None:
            equation = program.equations[value.equation]
            if equation.opened is None:
                yield from (Point(v, point.iterations) for v in self._taken(equation, point))
            else:
                place = equation.results.index(point.value)
                yield from self._feeds_of_result(equation, place, point.iterations)

    def _taken(self, equation: Equation, point: Point) -> Iterable[int]:
        """The operands whose elements go into the result: of a selection those that it takes."""
        code = self._direct(point) if equation.primitive == "select_n" else None
        if code is None:
            return equation.operands
        held = [self.held(Point(v, point.iterations)) for v in equation.operands]
        which, cases = held[0], held[1:]
        if which is None or any(case is None for case in cases):
            return equation.operands
        taken = [equation.operands[0]]
        for number, (operand, case) in enumerate(zip(equation.operands[1:], cases, strict=True)):
            assert case is not None
            is_here = np.broadcast_to(which == number, case.shape)
            if code_of(case[is_here]) >= code:
                taken.append(operand)
        return taken

    def _feeds_of_argument(self, point: Point, frame_index: int, place: int) -> Iterator[Point]:
        program = self.probe.program
        frame = program.frames[frame_index]
        if frame.parent is None:
            return
        equation = program.equations[frame.parent]
        assert equation.opened is not None
        branch = equation.frames.index(frame_index)
        operand = equation.operands[equation.opened.operands[branch][place]]
        if frame.kind in ("cond", "shard_map"):
            yield Point(operand, point.iterations)
            return
        # A while loop's condition has constants of its own, before the body's.
        outer, here = point.iterations[:-1], point.iterations[-1]
        carried = place - equation.opened.consts
        if 0 <= carried < equation.opened.carry:
            trips = self.trips(frame_index, outer)
            at = trips.index(here)
            if at > 0:
                yield Point(frame.results[carried], (*outer, trips[at - 1]))
                return
        yield Point(operand, outer)

    def _feeds_of_result(
        self, equation: Equation, place: int, iterations: tuple[int, ...]
    ) -> Iterator[Point]:
        program, opened = self.probe.program, equation.opened
        assert opened is not None
        if opened.kind == "cond":
            rows = self._rows(equation.frame, iterations)
            for index in equation.frames:
                if rows is not None and self.codes[f"ran{index}"][rows]:
                    yield Point(program.frames[index].results[place], iterations)
            return
        body = program.frames[equation.frames[0]]
        if opened.kind == "shard_map":
            yield Point(body.results[place], iterations)
            return
        trips = self.trips(body.index, iterations)
        if place < opened.carry and not len(trips):
            first = opened.operands[0][opened.consts + place]
            yield Point(equation.operands[first], iterations)
        elif place < opened.carry:
            yield Point(body.results[place], (*iterations, trips[-1]))
        else:
            yield from (Point(body.results[place], (*iterations, trip)) for trip in trips)

    def clock(self, equation: int, iterations: tuple[int, ...]) -> tuple[int, ...]:
        """When an equation ran in these iterations: compares as the program ran."""
        program = self.probe.program
        clock: list[int] = []
        for depth, loop in enumerate(program.loops(program.equations[equation].frame)):
            parent = program.frames[loop].parent
            assert parent is not None
            trips = self.trips(loop, iterations[:depth])
            clock += [parent, trips.index(iterations[depth])]
        return (*clock, equation)


def _detail(equation: Equation, arrays: list[np.ndarray]) -> int:
    """What settles an equation's mechanism, of its operands and then its results."""
    count = len(equation.operands)
    return int(DETAILS[equation.primitive](np, equation.eqn.params, arrays[:count], arrays[count:]))
