"""Run a program with callbacks several times while its side effects happen once.

The plain program runs first, with side effects. What its callbacks return is recorded and replayed
in the instrumented programs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from nanlab.backend import jaxpr as _jax
from nanlab.blame.probes.capture import Capture
from nanlab.blame.program.interpreter import bind_equation
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation, Program

SILENCED = {"debug_callback", "debug_print"}
"""Side effects without a result, omitted from the instrumented programs."""

REPLAYED = "io_callback"


def has_effects(program: Program) -> bool:
    """Return whether a program has side effects."""
    names = {equation.primitive for equation in program.equations}
    return bool(names & (SILENCED | {REPLAYED}))


class Effects:
    """Runs a program's side effects once and replays their results.

    Args:
        program: the program.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._returned: dict[int, list[list[np.ndarray]]] = {}

    def recording(self) -> Callable[..., list[Array]]:
        """Return the program as a flat function that records what its callbacks return."""
        results = [Point(value) for value in self._program.frames[0].results]
        return Capture(self._program, results, self._record)

    def replay(self) -> Callable[[Equation, Sequence[Any]], Sequence[Any]]:
        """Return a `bind_equation` with which each callback returns its recorded results."""
        queues = {equation: deque(returned) for equation, returned in self._returned.items()}

        def replayed(equation: Equation, operands: Sequence[Any]) -> Sequence[Any]:
            if equation.primitive in SILENCED:
                return []
            if equation.primitive != REPLAYED:
                return bind_equation(equation, operands)
            queue = queues.setdefault(equation.index, deque())

            def next_recorded(*_: Any) -> list[np.ndarray]:
                queue.rotate(-1)  # they serve again where the program runs again
                return queue[-1]

            return _jax.bind(equation.eqn, operands, callback=next_recorded)

        return replayed

    def _record(self, equation: Equation, operands: Sequence[Any]) -> Sequence[Any]:
        if equation.primitive != REPLAYED:
            return bind_equation(equation, operands)
        returned = self._returned.setdefault(equation.index, [])
        call = equation.eqn.params["callback"]

        def recording(*arguments: Any) -> list[np.ndarray]:
            results = [np.array(leaf) for leaf in jax.tree.leaves(call(*arguments))]
            returned.append(results)
            return results

        return _jax.bind(equation.eqn, operands, callback=recording)
