"""Equation -> its surroundings: what feeds it, what uses it, and whose derivative it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from functools import cached_property

import numpy as np

from nanlab.blame.diagnosis.causal_walk import Event
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.explain.library import functions_around, library_functions
from nanlab.blame.program.dataflow import downstream, upstream
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation

SEARCH_DEPTH = 8
"""Number of operations between an equation and what is still a part of its surroundings."""

_SILENT = {
    "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy",
    "copy_p", "stop_gradient", "pvary", "reduce_precision", "transpose", "optimization_barrier",
    "sharding_constraint", "rev",
}  # fmt: skip
_USES_OF_MASKS = {
    "mul", "sub", "select_n", "reduce_sum", "dot_general", "eq", "ne", "gt", "ge", "lt", "le",
    "reduce_max", "slice", "dynamic_slice", "gather",
}  # fmt: skip
_SELECTIONS = {"where", "_where", "select", "piecewise", "nan_to_num", "<locals>", "op"}
_ACTIVATIONS = {
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "hard_tanh", "hard_sigmoid", "hard_silu",
    "squareplus", "softplus", "logaddexp", "log_sigmoid", "abs", "sinc", "logsumexp",
}  # fmt: skip
_WHERE, _PRODUCT, _CLIP, _NONE = "where", "product", "clip", ""


class Surroundings:
    """Answers questions about the neighborhood of an equation, whatever its values are.

    Args:
        reading: codes and arrays of the program.

    Attributes:
        program: the program.
    """

    def __init__(self, reading: Reading) -> None:
        self.program, self._reading = reading.probe.program, reading

    def at(self, event: Event) -> Equation | None:
        """Return the equation of an event, or None."""
        return None if event.equation is None else self.program.equations[event.equation]

    # ---- What feeds a value ----------------------------------------------------------------------

    def root(self, value: int) -> int:
        """Return the value whose elements this one has, in another type or shape."""
        for _ in range(len(self.program.values)):
            before = self._before(value)
            if before is None:
                break
            value = before
        return value

    def _before(self, value: int) -> int | None:
        info = self.program.values[value]
        if info.argument is not None:
            frame = self.program.frames[info.frame]
            if frame.parent is None:
                return None
            equation = self.program.equations[frame.parent]
            assert equation.opened is not None
            carried = info.argument - equation.opened.consts
            if frame.kind in ("scan", "while") and 0 <= carried < equation.opened.carry:
                return None
            operands = equation.opened.operands[equation.frames.index(frame.index)]
            return equation.operands[operands[info.argument]]
        if info.equation is None:
            return None
        equation = self.program.equations[info.equation]
        index = equation.results.index(value)
        if equation.opened is None:
            silent = equation.primitive in _SILENT
            return equation.operands[min(index, len(equation.operands) - 1)] if silent else None
        if equation.opened.kind == "cond":
            # What one branch computes for the backward pass, the others fill in.
            results = [self.program.frames[frame].results[index] for frame in equation.frames]
            fillers = ("empty", "empty2")
            computed = [
                v for v in results if self.constant(v) is None and not self.made_by(v, *fillers)
            ]
            return computed[0] if len(computed) == 1 else None
        is_stacked = equation.opened.kind == "scan" and index >= equation.opened.carry
        if is_stacked or equation.opened.kind == "shard_map":
            return self.program.frames[equation.frames[0]].results[index]
        return None

    def maker(self, value: int) -> Equation | None:
        """Return the equation that computes a value, in whatever type or shape."""
        return self.program.computed_by(self.root(value))

    def made_by(self, value: int, *names: str) -> Equation | None:
        """Return the equation that computes a value if it has one of these names."""
        maker = self.maker(value)
        return maker if maker is not None and maker.primitive in names else None

    def constant(self, value: int) -> float | None:
        """Return the number that a value is throughout; None if it is no constant."""
        info = self.program.values[self.root(value)]
        if not info.is_constant or np.size(info.constant) == 0:
            return None
        first = np.asarray(info.constant, np.complex128).reshape(-1)
        return float(first[0].real) if bool((first == first[0]).all()) else None

    def is_mask(self, value: int) -> bool:
        """Return whether a value is a mask: a cast bool, or zeros and ones alone."""
        root = self.root(value)
        if self.program.values[root].dtype == np.bool_:
            return True
        maker = self.maker(value)
        if maker is not None and maker.primitive in ("sub", "mul"):
            # 1 - mask, or two masks.
            parts = [self.is_mask(v) or self.constant(v) == 1 for v in maker.operands]
            return all(parts)
        is_given = maker is None and self.program.values[root].frame == 0
        is_given &= all(user.primitive in _USES_OF_MASKS for user in self.users(root))
        array = self._reading.array(Point(root)) if is_given else None
        if array is None or array.size < 2:
            return False
        return {*np.unique(np.asarray(array, np.float64))} == {0.0, 1.0}

    def is_masked_product(self, equation: Equation) -> bool:
        """Return whether an equation multiplies by a mask."""
        return equation.primitive == "mul" and any(map(self.is_mask, equation.operands))

    def are_same(self, one: int, other: int, depth: int = 3) -> bool:
        """Return whether two values are computed alike, as if written out twice."""
        if self.root(one) == self.root(other):
            return True
        left, right = self.maker(one), self.maker(other)
        if left is None or right is None:
            number = self.constant(one)
            return number is not None and number == self.constant(other)
        if left.primitive != right.primitive or depth == 0:
            return False
        pairs = zip(left.operands, right.operands, strict=False)
        return all(self.are_same(a, b, depth - 1) for a, b in pairs)

    def twins(self, equation: Equation) -> Iterator[Equation]:
        """Yield an equation and those that compute the same, as if written out twice."""
        for other in self.program.equations:
            is_alike = other.primitive == equation.primitive and bool(other.results)
            if is_alike and self.are_same(other.results[0], equation.results[0]):
                yield other

    def is_empty(self, value: int) -> bool:
        """Return whether a value sums or averages no elements."""
        for _ in range(SEARCH_DEPTH):
            maker = self.maker(value)
            if maker is None or not maker.operands:
                return False
            value = maker.operands[0]
            if 0 in self.program.values[value].shape:
                return True
        return False

    # ---- What uses a value -----------------------------------------------------------------------

    @cached_property
    def _users(self) -> dict[int, list[Equation]]:
        users: dict[int, list[Equation]] = {}
        for equation in self.program.equations:
            if equation.opened is None and equation.primitive not in _SILENT:
                for value in dict.fromkeys(map(self.root, equation.operands)):
                    users.setdefault(value, []).append(equation)
        return users

    def users(self, value: int) -> list[Equation]:
        """Return the equations that read a value, in whatever type or shape."""
        return self._users.get(self.root(value), [])

    def forward_users(self, value: int) -> Iterator[Equation]:
        """Yield the equations outside a transposition that read a value."""
        return (e for e in self.users(value) if "transpose(" not in e.scopes)

    def guard(self, made: Equation, passed: Collection[int]) -> str:
        """Return how the forward pass masks a result: "where", "product", "clip", or "".

        Args:
            made: the equation that computes it.
            passed: numbers of equations that the bad elements pass, which mask nothing.
        """
        library = {*library_functions(made)}
        start = self.root(made.results[0])
        queue, seen = deque([(start, 0)]), {start}
        while queue:
            current, depth = queue.popleft()
            for equation in self.forward_users(current):
                found = "" if equation.index in passed else self._guard_by(equation, current)
                if found == _CLIP and depth > 0:
                    found = _NONE  # relu and the like clip other values than this one
                # A mask inside the library function that also computes it is not the user's.
                if found and library.isdisjoint(library_functions(equation)):
                    return found
                for result in map(self.root, equation.results):
                    if result not in seen and depth < SEARCH_DEPTH:
                        seen.add(result)
                        queue.append((result, depth + 1))
        return _NONE

    def _guard_by(self, equation: Equation, value: int) -> str:
        roots = [*map(self.root, equation.operands)]
        if equation.primitive == "select_n" and value in roots[1:] and _is_where(equation):
            return _WHERE
        if equation.primitive == "mul":
            others = [v for v in equation.operands if self.root(v) != value]
            return _PRODUCT if any(map(self.is_mask, others)) else _NONE
        if equation.primitive in ("max", "min", "clamp"):
            others = [v for v in roots if v != value]
            return _CLIP if any(self.constant(v) is not None for v in others) else _NONE
        return _NONE

    def zero_from(self, value: int, made: Equation) -> str:
        """Return what makes the zeros of a cotangent: "where", "product", or "".

        Args:
            value: the cotangent.
            made: the equation whose derivative it meets.
        """
        library = {*library_functions(made)}
        queue, seen = deque([(self.root(value), 0)]), {self.root(value)}
        while queue:
            current, depth = queue.popleft()
            maker = self.program.computed_by(current)
            if maker is None or "transpose(" not in maker.scopes:
                continue
            if not library.isdisjoint(library_functions(maker)):
                return _NONE
            if maker.primitive == "select_n" and _is_where(maker):
                return _WHERE
            if self.is_masked_product(maker):
                return _PRODUCT
            for operand in map(self.root, maker.operands):
                if operand not in seen and depth < SEARCH_DEPTH:
                    seen.add(operand)
                    queue.append((operand, depth + 1))
        return _NONE

    def feeds_itself(self, equation: Equation) -> bool:
        """Return whether an iteration of a loop computes this from its result in the one before."""
        program = self.program
        for loop in program.loops(equation.frame):
            frame = program.frames[loop]
            assert frame.parent is not None
            opened = program.equations[frame.parent].opened
            assert opened is not None
            before = upstream(program, equation.operands, through=lambda _: True, iterated=True)
            after = downstream(program, equation.results)
            carried = range(opened.consts, opened.consts + opened.carry)
            for slot, argument in enumerate(carried):
                if frame.arguments[argument] in before and frame.results[slot] in after:
                    return True
        return False


def _is_where(selection: Equation) -> bool:
    """Return whether a selection is a where() of the user's, and not inside relu and the like."""
    names = {name.rpartition(".")[2] for name in library_functions(selection)}
    around = {name.rpartition(".")[2] for name in functions_around(selection)}
    return names <= _SELECTIONS and around.isdisjoint(_ACTIVATIONS)
