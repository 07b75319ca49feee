"""Program with callbacks -> the same program twice, its effects once.

The plain program is run first and has the effects; what the callbacks returned is kept, and the
instrumented programs get it again without calling anybody.
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
"""Effects without a result: left out of the instrumented programs."""

REPLAYED = "io_callback"


def has_effects(program: Program) -> bool:
    """Whether running the program does something beside returning."""
    names = {equation.primitive for equation in program.equations}
    return bool(names & (SILENCED | {REPLAYED}))


class Effects:
    """Runs a program's effects once and replays them.

    Args:
        program: the program.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._returned: dict[int, list[list[np.ndarray]]] = {}

    def recording(self) -> Callable[..., list[Array]]:
        """The program's flat function, which has its effects and keeps what they return."""
        results = [Point(value) for value in self._program.frames[0].results]
        return Capture(self._program, results, self._record)

    def replay(self) -> Callable[[Equation, Sequence[Any]], Sequence[Any]]:
        """Return a `bind_equation` with which each callback returns what it did before."""
        queues = {equation: deque(returned) for equation, returned in self._returned.items()}

        def replayed(equation: Equation, operands: Sequence[Any]) -> Sequence[Any]:
            if equation.primitive in SILENCED:
                return []
            if equation.primitive != REPLAYED:
                return bind_equation(equation, operands)
            queue = queues.setdefault(equation.index, deque())

            def again(*_: Any) -> list[np.ndarray]:
                return queue.popleft()

            return _jax.bind(equation.eqn, operands, callback=again)

        return replayed

    def _record(self, equation: Equation, operands: Sequence[Any]) -> Sequence[Any]:
        if equation.primitive != REPLAYED:
            return bind_equation(equation, operands)
        returned = self._returned.setdefault(equation.index, [])
        call = equation.eqn.params["callback"]

        def kept(*arguments: Any) -> list[np.ndarray]:
            results = [np.array(leaf) for leaf in jax.tree.leaves(call(*arguments))]
            returned.append(results)
            return results

        return _jax.bind(equation.eqn, operands, callback=kept)
