"""Program, points -> Capture: the same program, which also hands out what those points held.

The second look: the probe says where to look, and this one brings the numbers.
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
    bind_equation,
    kept,
    split_scan,
    split_while,
    switch,
)
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation, Frame, Program


class Capture(Interpreter):
    """A program that returns what its values held at some points, and nothing else.

    Args:
        program: what is run; of its top frame only what the points need.
        points: where to look.
        bind: runs an equation that is not opened.
    """

    def __init__(
        self, program: Program, points: Sequence[Point], bind_equation: Bind = bind_equation
    ) -> None:
        super().__init__(program, bind_equation)
        self._points = points
        self._wanted: dict[int, list[int]] = {}
        for number, point in enumerate(points):
            frame: int | None = program.values[point.value].frame
            # A loop is run step by step only if there is something to see in it.
            self._wanted.setdefault(program.values[point.value].frame, []).append(number)
            while frame is not None:
                self._wanted.setdefault(frame, [])
                parent = program.frames[frame].parent
                frame = None if parent is None else program.equations[parent].frame
        self._top = self._needed()

    def _needed(self) -> list[int]:
        """The equations of the top frame that the points need, in order."""
        program = self.program
        needed = {point.value for point in self._points}
        equations: list[int] = []
        for index in reversed(program.frames[0].equations):
            equation = program.equations[index]
            is_needed = equation.eqn.effects or not needed.isdisjoint(equation.results)
            if is_needed or self._is_watched(equation):
                needed.update(equation.operands)
                equations.append(index)
        return equations[::-1]

    def _is_watched(self, equation: Equation) -> bool:
        return any(frame in self._wanted for frame in equation.frames)

    def __call__(self, *arguments: Any) -> list[Array]:
        """What each point held; arguments as the program's function had.

        Inside a `shard_map` each device's, in a new first axis.
        """
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

    def _whole(self, equation: Equation) -> bool:
        # What has effects is always run step by step: `bind_equation` says what becomes of them.
        return not self._is_watched(equation) and not equation.eqn.effects

    def _keep(self, frame: Frame, index: Any, records: Records, slots: Records) -> Records:
        """The slots, with what this iteration of a loop's body recorded if it is the one."""
        depth = len(self.program.loops(frame.index)) - 1
        wanted = {k: index == self._points[int(k)].iterations[depth] for k in records}
        return {k: jnp.where(wanted[k], record, slots[k]) for k, record in records.items()}

    def _nothing(self, run: Callable[..., Any], *arguments: Any) -> Records:
        shapes: Records = jax.eval_shape(lambda *a: run(*a)[1], *arguments)
        return {k: jnp.zeros(s.shape, s.dtype) for k, s in shapes.items()}

    def run_scan(
        self, equation: Equation, operands: Sequence[Any]
    ) -> tuple[Sequence[Any], Records]:
        """See `Interpreter.run_scan`."""
        if self._whole(equation):
            return bind_equation(equation, operands), {}
        params, body = equation.eqn.params, self.program.frames[equation.frames[0]]
        consts, first, sliced = split_scan(equation, operands)

        def run(carried: Any, slices: Any) -> tuple[Any, Records]:
            return self.run(body, [*consts, *carried, *slices])

        def step(loop: Any, slices: Any) -> tuple[Any, Any]:
            carried, slots = loop
            index, own = slices
            results, records = run(carried, own)
            slots = self._keep(body, index, records, slots)
            return (results[: len(first)], slots), results[len(first) :]

        slices = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in sliced]
        start = (first, self._nothing(run, first, slices))
        numbered = (jnp.arange(params["length"], dtype=jnp.int32), sliced)
        (carried, slots), stacked = lax.scan(
            step, start, numbered, length=params["length"], reverse=params["reverse"]
        )
        return [*carried, *stacked], slots

    def run_while(
        self, equation: Equation, operands: Sequence[Any]
    ) -> tuple[Sequence[Any], Records]:
        """See `Interpreter.run_while`."""
        if self._whole(equation):
            return bind_equation(equation, operands), {}
        body = self.program.frames[equation.frames[0]]
        going, consts, first = split_while(equation, operands)

        def run(carried: Any) -> tuple[Any, Records]:
            return self.run(body, [*consts, *carried])

        def step(loop: Any) -> Any:
            carried, trips, slots = loop
            results, records = run(carried)
            slots = self._keep(body, trips, records, slots)
            return kept(going(carried), results, carried), trips + 1, slots

        results, _, slots = lax.while_loop(
            lambda loop: jnp.any(going(loop[0])),
            step,
            (first, jnp.int32(0), self._nothing(run, first)),
        )
        return results, slots

    def run_cond(
        self, equation: Equation, operands: Sequence[Any]
    ) -> tuple[Sequence[Any], Records]:
        """See `Interpreter.run_cond`."""
        if self._whole(equation):
            return bind_equation(equation, operands), {}

        def branch(frame: Frame) -> Callable[[Any], tuple[Any, Records]]:
            return lambda inputs: self.run(frame, inputs)

        branches, inputs = (
            [branch(self.program.frames[i]) for i in equation.frames],
            list(operands[1:]),
        )
        nothing: Records = {}
        for each in branches:
            nothing |= self._nothing(each, inputs)
        return switch(operands[0], branches, inputs, nothing)

    def run_shards(
        self, equation: Equation, operands: Sequence[Any]
    ) -> tuple[Sequence[Any], Records]:
        """See `Interpreter.run_shards`."""
        if self._whole(equation):
            return bind_equation(equation, operands), {}
        body = self.program.frames[equation.frames[0]]

        def shard(*arguments: Any) -> tuple[Any, Records]:
            return self.run(body, arguments)

        return _jax.run_sharded(equation.eqn, shard, operands)
