"""Program, points -> Capture: the same program, which returns the arrays at those points.

A probe finds the points; this second run fetches the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.interpreter import (
    Bind,
    Interpreter,
    Records,
    ResultsAndRecords,
    bind_equation,
    next_carry,
    split_scan,
    split_while,
    switch,
)
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation, Frame, Program


class Capture(Interpreter):
    """A program that returns the arrays at given points, and nothing else.

    Args:
        program: program to run; of its top frame, only what the points need is run.
        points: the points.
        bind_equation: function that runs an equation that contains no frames.
    """

    def __init__(
        self, program: Program, points: Sequence[Point], bind_equation: Bind = bind_equation
    ) -> None:
        super().__init__(program, bind_equation)
        self._points = points
        self._wanted: dict[int, list[int]] = {}
        for number, point in enumerate(points):
            frame: int | None = program.values[point.value].frame
            # A loop is interpreted only if it contains a point.
            self._wanted.setdefault(program.values[point.value].frame, []).append(number)
            while frame is not None:
                self._wanted.setdefault(frame, [])
                parent = program.frames[frame].parent
                frame = None if parent is None else program.equations[parent].frame
        self._top = self._needed()

    def _needed(self) -> list[int]:
        """Return the equations of the top frame that the points need, in order."""
        program = self.program
        needed = {point.value for point in self._points}
        equations: list[int] = []
        for index in reversed(program.frames[0].equations):
            equation = program.equations[index]
            is_needed = equation.eqn.effects or not needed.isdisjoint(equation.results)
            if is_needed or self._contains_points(equation):
                needed.update(equation.operands)
                equations.append(index)
        return equations[::-1]

    def _contains_points(self, equation: Equation) -> bool:
        return any(frame in self._wanted for frame in equation.frames)

    def __call__(self, *arguments: Any) -> list[Array]:
        """Return the array at each point, inside a `shard_map` with a first axis of devices."""
        flat = [jnp.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
        _, records = self.run(self.program.frames[0], flat)
        return [records[str(number)] for number in range(len(self._points))]

    def equations_of(self, frame: Frame) -> Iterable[int]:
        """See `Interpreter.equations_of`."""
        return self._top if frame.index == 0 else frame.equations

    def observe(self, frame: Frame, env: Mapping[int, Any]) -> Records:
        """See `Interpreter.observe`."""
        numbers = self._wanted.get(frame.index, [])
        return {str(n): jnp.asarray(self.read(env, self._points[n].value)) for n in numbers}

    def run_opened(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_opened`; what contains no point is run unchanged."""
        # Side effects are always interpreted, so that the given `bind_equation` handles them.
        if self._contains_points(equation) or equation.eqn.effects:
            return super().run_opened(equation, operands)
        return bind_equation(equation, operands), {}

    def _store(self, frame: Frame, index: Any, records: Records, slots: Records) -> Records:
        """Store the records of a loop iteration in those slots whose points are in it."""
        depth = len(self.program.loops(frame.index)) - 1
        wanted = {k: index == self._points[int(k)].iterations[depth] for k in records}
        return {k: jnp.where(wanted[k], record, slots[k]) for k, record in records.items()}

    def _empty(self, run: Callable[..., Any], *arguments: Any) -> Records:
        shapes: Records = jax.eval_shape(lambda *a: run(*a)[1], *arguments)
        return {k: jnp.zeros(s.shape, s.dtype) for k, s in shapes.items()}

    def run_scan(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_scan`."""
        params, body = equation.eqn.params, self.program.frames[equation.frames[0]]
        consts, first, sliced = split_scan(equation, operands)

        def run(carry: Any, slices: Any) -> tuple[Any, Records]:
            return self.run(body, [*consts, *carry, *slices])

        def step(loop: Any, slices: Any) -> tuple[Any, Any]:
            carry, slots = loop
            index, scanned = slices
            results, records = run(carry, scanned)
            slots = self._store(body, index, records, slots)
            return (results[: len(first)], slots), results[len(first) :]

        slices = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in sliced]
        start = (first, self._empty(run, first, slices))
        numbered = (jnp.arange(params["length"], dtype=jnp.int32), sliced)
        (carry, slots), stacked = lax.scan(
            step, start, numbered, length=params["length"], reverse=params["reverse"]
        )
        return [*carry, *stacked], slots

    def run_while(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_while`."""
        body = self.program.frames[equation.frames[0]]
        is_running, consts, first = split_while(equation, operands)

        def run(carry: Any) -> tuple[Any, Records]:
            return self.run(body, [*consts, *carry])

        def step(loop: Any) -> Any:
            carry, trips, slots = loop
            results, records = run(carry)
            slots = self._store(body, trips, records, slots)
            return next_carry(is_running(carry), results, carry), trips + 1, slots

        results, _, slots = lax.while_loop(
            lambda loop: jnp.any(is_running(loop[0])),
            step,
            (first, jnp.int32(0), self._empty(run, first)),
        )
        return results, slots

    def run_cond(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_cond`."""

        def branch(frame: Frame) -> Callable[[Any], tuple[Any, Records]]:
            return lambda inputs: self.run(frame, inputs)

        branches, inputs = (
            [branch(self.program.frames[i]) for i in equation.frames],
            list(operands[1:]),
        )
        nothing: Records = {}
        for run in branches:
            nothing |= self._empty(run, inputs)
        return switch(operands[0], branches, inputs, nothing)

    def run_shards(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_shards`."""
        body = self.program.frames[equation.frames[0]]

        def shard(*arguments: Any) -> tuple[Any, Records]:
            return self.run(body, arguments)

        return _jax.run_sharded(equation.eqn, shard, operands)
