"""Program -> Probe: the same program, which also returns whether each value is finite.

Each value that can be bad costs one reduction; the reductions of a frame form one int8 vector of
codes (FINITE, INF, NAN). Values whose code follows from another's (a reshape, a tanh) cost
nothing. A loop's codes are stacked by iteration. The probe is a pure function: vmap it over lanes,
jit it once.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Int, Int8

from nanlab.backend import jaxpr as _jax
from nanlab.backend.finiteness import FINITE, INF, NAN, codes_of_bits, largest_bits, measured_as
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
from nanlab.blame.program.primitives import DETAILS, NAN_OF, SAME_AS
from nanlab.blame.program.program import Equation, Frame, Program

WINDOW = 64
"""Number of iterations of a while loop that are recorded, from the first with a bad value on."""

Codes = dict[str, Int[Array, "..."]]
"""Records by name. "codes4": the codes of frame 4. For a while loop with body 3: "first3", the
iteration in which the window begins; "trips3", the number of iterations; and "late3.codes4", the
iterations in which an INF and a NAN began that share the last row. "ran5": whether branch 5 ran."""


class Probe(Interpreter):
    """A program that returns the codes of its values.

    Args:
        program: program to run.
        bind_equation: function that runs an equation that contains no frames.
        only: values to measure, without details; None for all that do not follow from others.

    Attributes:
        program: program to run.
        slots: position of each measured value in its frame's vector of codes.
        detail_slots: position of each equation's detail in its frame's vector.
        is_coarse: whether some values are neither measured nor follow from others.
        measured: measured values of each frame, by the type that they are measured in.
    """

    def __init__(
        self,
        program: Program,
        bind_equation: Bind = bind_equation,
        only: Container[int] | None = None,
    ) -> None:
        super().__init__(program, bind_equation)
        self._only = only
        self.is_coarse = only is not None
        self.slots: dict[int, int] = {}
        self.detail_slots: dict[int, int] = {}
        self.measured: list[dict[Any, list[int]]] = []
        for frame in program.frames:
            self._number(frame)

    def _number(self, frame: Frame) -> None:
        """Assign slots to a frame's measured values, by type, then to its details."""
        program = self.program
        # A branch's arguments and a loop's constants have the codes of their operands.
        measured = [v for i, v in enumerate(frame.arguments) if self._varies(frame, i)]
        for index in frame.equations:
            equation = program.equations[index]
            if equation.primitive not in SAME_AS and equation.primitive not in NAN_OF:
                measured += equation.results
        by_type: dict[Any, list[int]] = {}
        for value in measured:
            info = program.values[value]
            if info.can_be_bad and (self._only is None or value in self._only):
                by_type.setdefault(measured_as(info.dtype), []).append(value)
        self.measured.append(by_type)
        ordered = [value for values in by_type.values() for value in values]
        self.slots |= {value: slot for slot, value in enumerate(ordered)}
        count = len(ordered)
        for index in frame.equations:
            equation = program.equations[index]
            bad = any(program.values[v].can_be_bad for v in equation.results)
            if equation.primitive in DETAILS and bad and self._only is None:
                self.detail_slots[index] = count
                count += 1

    def _varies(self, frame: Frame, argument: int) -> bool:
        """Return whether an argument can differ from its operand in the enclosing frame."""
        if not frame.is_live:
            return False
        if frame.parent is None:
            return True
        opened = self.program.equations[frame.parent].opened
        assert opened is not None
        return frame.kind in ("scan", "while") and argument >= opened.consts

    def __call__(self, *arguments: Any) -> tuple[Any, Records]:
        """Return the output of the program's function for these arguments, and the records."""
        flat = [jnp.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
        results, codes = self.run(self.program.frames[0], flat)
        tree = jax.tree.structure(self.program.tree)
        return jax.tree.unflatten(tree, [jnp.asarray(r) for r in results]), codes

    def observe(self, frame: Frame, env: Mapping[int, Any]) -> Codes:
        """See `Interpreter.observe`."""
        parts = [
            codes_of_bits(jnp.stack([largest_bits(env[value]) for value in values]), dtype)
            for dtype, values in self.measured[frame.index].items()
        ]
        details = [self._detail(i, env) for i in frame.equations if i in self.detail_slots]
        if details:
            parts.append(jnp.stack(details))
        together = jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.int8)
        return {f"codes{frame.index}": together}

    def _detail(self, index: int, env: Mapping[int, Any]) -> Int8[Array, ""]:
        equation = self.program.equations[index]
        operands = [jnp.asarray(self.read(env, value)) for value in equation.operands]
        results = [env[value] for value in equation.results]
        detail = DETAILS[equation.primitive](jnp, equation.eqn.params, operands, results)
        return jnp.asarray(detail, jnp.int8)

    def run_scan(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_scan`."""
        params, body = equation.eqn.params, self.program.frames[equation.frames[0]]
        consts, first, sliced = split_scan(equation, operands)

        def step(carry: Any, slices: Any) -> tuple[Any, Any]:
            results, codes = self.run(body, [*consts, *carry, *slices])
            return results[: len(first)], (results[len(first) :], codes)

        carry, (stacked, codes) = lax.scan(
            step, first, sliced, length=params["length"], reverse=params["reverse"]
        )
        return [*carry, *stacked], codes

    def run_while(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_while`."""
        body = self.program.frames[equation.frames[0]]
        is_running, consts, first_carry = split_while(equation, operands)
        shapes = jax.eval_shape(lambda c: self.run(body, [*consts, *c])[1], first_carry)
        window = {k: jnp.zeros((WINDOW, *s.shape), s.dtype) for k, s in shapes.items()}
        recorded = [k for k in shapes if k.startswith("codes")]
        late = {k: jnp.full((2, *shapes[k].shape), -1, jnp.int32) for k in recorded}

        def step(loop: Any) -> Any:
            carry, trips, first, window, late = loop
            results, codes = self.run(body, [*consts, *carry])
            bad = [jnp.any(codes[k] > FINITE) for k in recorded]
            first = jnp.where((first < 0) & jnp.any(jnp.stack(bad)), trips, first)
            row = jnp.clip(jnp.where(first < 0, 0, trips - first), 0, WINDOW - 1)
            # Later iterations are merged into the last row; `late` records when each code began.
            window = {k: w.at[row].max(codes[k]) for k, w in window.items()}
            is_late = row == WINDOW - 1
            began = {k: jnp.stack([codes[k] >= INF, codes[k] >= NAN]) & is_late for k in recorded}
            late = {k: jnp.where((late[k] < 0) & began[k], trips, late[k]) for k in recorded}
            return next_carry(is_running(carry), results, carry), trips + 1, first, window, late

        start = (first_carry, jnp.int32(0), jnp.int32(-1), window, late)
        results, trips, first, window, late = lax.while_loop(
            lambda loop: jnp.any(is_running(loop[0])), step, start
        )
        extent = {f"first{body.index}": first, f"trips{body.index}": trips}
        extent |= {f"late{body.index}.{k}": began for k, began in late.items()}
        return results, {**window, **extent}

    def run_cond(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_cond`."""

        def branch(frame: Frame) -> Any:
            def run(inputs: Any) -> tuple[Any, Codes]:
                results, codes = self.run(frame, inputs)
                return results, {**codes, f"ran{frame.index}": jnp.int8(1)}

            return run

        branches, inputs = (
            [branch(self.program.frames[i]) for i in equation.frames],
            list(operands[1:]),
        )
        shapes = [jax.eval_shape(lambda i, b=b: b(i)[1], inputs) for b in branches]
        nothing = {k: jnp.zeros(s.shape, s.dtype) for codes in shapes for k, s in codes.items()}
        return switch(operands[0], branches, inputs, nothing)

    def run_shards(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_shards`."""
        body = self.program.frames[equation.frames[0]]

        def shard(*arguments: Any) -> tuple[Any, Codes]:
            return self.run(body, arguments)

        # The code of a value is that of its worst shard.
        results, codes = _jax.run_sharded(equation.eqn, shard, operands)
        return results, {name: jnp.max(code, axis=0) for name, code in codes.items()}
