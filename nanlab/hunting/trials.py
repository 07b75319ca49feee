"""Values -> whether the compiled function fails on them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from nanlab.backend.config import standard_promotion
from nanlab.backend.finiteness import FINITE
from nanlab.blame.probes.callbacks import Effects, has_effects
from nanlab.blame.probes.capture import Capture
from nanlab.blame.program.call import Call
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Program
from nanlab.blame.single_call import codes_of
from nanlab.hunting.space import Variable


class Trials:
    """Runs the function on other inputs, compiled as by `jax.jit`, one input at a time.

    Side effects happen once, on the given input.

    Args:
        call: the traced call, with the given input.
        program: its program.
        variables: the arrays that change.

    Attributes:
        variables: the arrays that change.
        given: whether the function fails on the given input.
        tried: number of other inputs on which it has run.
        errors: number of those on which it has raised an error.
        deadline: when to stop, by `time.monotonic`.
        compile_s: seconds that it took to compile the function.
    """

    def __init__(self, call: Call, program: Program, variables: Sequence[Variable]) -> None:
        self._call, self.variables = call, variables
        self.tried, self.errors, self.deadline = 0, 0, math.inf
        begin = time.monotonic()
        if has_effects(program):
            effects = Effects(program)
            with standard_promotion():
                plain = jax.jit(effects.recording()).lower(*call.arrays).compile()
                self.given = _is_bad(plain(*call.arrays))
                results = [Point(value) for value in program.frames[0].results]
                silent = Capture(program, results, effects.replay())
                self._run: Any = jax.jit(silent).lower(*call.arrays).compile()
        else:
            self._run = call.traced.lower().compile()
            self.given = _is_bad(self._run(*call.arrays))
        self.compile_s = time.monotonic() - begin

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.deadline

    @property
    def memory(self) -> int:
        """Memory in bytes that the compiled function takes beyond arguments and outputs."""
        analysis = self._run.memory_analysis()
        return 0 if analysis is None else analysis.temp_size_in_bytes

    def call_with(self, values: Mapping[int, np.ndarray]) -> Call:
        """Return the call with these numbers in place of the given ones."""
        arrays = list(self._call.arrays)
        for position, numbers in values.items():
            variable = self.variables[position]
            arrays[variable.index] = variable.on_device(numbers)
        return replace(self._call, arrays=arrays)

    def fails(self, values: Mapping[int, np.ndarray]) -> bool:
        """Return whether an output is not finite."""
        self.tried += 1
        try:
            return _is_bad(self._run(*self.call_with(values).arrays))
        except Exception:  # the function refuses this input, as by equinox.error_if
            self.errors += 1
            return False


def _is_bad(outputs: Any) -> bool:
    return any(code != FINITE for code in codes_of(outputs))
