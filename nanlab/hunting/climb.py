"""Values -> values on which the outputs are greater, or less: steps along a gradient.

On the way to a pole or an overflow an output goes to one end of its range, and mostly to one end as
well on the way to where a logarithm or a root has no value: so a gradient of the outputs leads to
failures in many dimensions, which random numbers miss.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.backend.config import standard_promotion
from nanlab.blame.program.call import Call
from nanlab.hunting.space import Kind, Variable
from nanlab.hunting.starts import Values
from nanlab.hunting.trials import Trials

STEPS = 12
MEMORY = 2 << 30
"""Memory in bytes that the gradient may take beyond that of the function."""
_COMPILES = 3
"""Times that compiling the gradient may take what compiling the function took."""


class Climb:
    """Follows the gradient of a weighted sum of the outputs.

    Args:
        call: the traced call.
        variables: what may be moved.
        trials: runs the function.
    """

    def __init__(self, call: Call, variables: Sequence[Variable], trials: Trials) -> None:
        self._trials = trials
        self._moved = [
            i for i, v in enumerate(variables)
            if v.kind == Kind.NUMBERS and jnp.issubdtype(v.array.dtype, jnp.floating)
        ]  # fmt: skip
        self._indices = tuple(variables[i].index for i in self._moved)
        gradient: Any = None
        remaining = trials.deadline - time.monotonic()
        # The gradient would repeat side effects.
        is_pure = not call.closed.effects
        if is_pure and self._moved and trials.compile_s * _COMPILES < remaining:
            try:
                gradient = self._compiled(call)
            except Exception:  # it has no gradient
                gradient = None
        self._gradient: Any = gradient

    def _compiled(self, call: Call) -> Any:
        jaxpr, constants = _jax.split_constants(call.closed)

        def total(moved: Sequence[Any], arrays: Sequence[Any], phase: Any) -> Any:
            arguments = list(arrays)
            for index, array in zip(self._indices, moved, strict=True):
                arguments[index] = array
            outputs = _jax.run_jaxpr(jaxpr, constants, arguments)
            floats = [x.real.ravel() for x in outputs if jnp.issubdtype(x.dtype, jnp.inexact)]
            weights = [jnp.cos(phase * jnp.arange(x.size)) for x in floats]
            sums = [jnp.sum(w * x) for w, x in zip(weights, floats, strict=True)]
            return sum(jnp.arcsinh(x.astype(jnp.float32)) for x in sums)

        moved = [call.arrays[index] for index in self._indices]
        with standard_promotion():
            compiled = jax.jit(jax.grad(total)).lower(moved, call.arrays, np.float32(0)).compile()
        own = self._trials.memory
        memory: Any = compiled.memory_analysis()
        if memory is not None and memory.temp_size_in_bytes > own + MEMORY:
            return None
        return compiled

    def steps(
        self, start: Values, variables: Sequence[Variable], direction: int, phase: float
    ) -> Iterator[Values]:
        """Yield values on the way from a start.

        Args:
            start: where to begin.
            variables: what may be moved, with the limits to respect.
            direction: 1 for greater outputs, -1 for less.
            phase: of the weights of an output's elements, which are equal if it is 0.

        Yields:
            Values; none if the function has no gradient.
        """
        if self._gradient is None:
            return
        values = dict(start)
        for step in range(STEPS):
            arrays = self._trials.call_with(values).arrays
            moved = [arrays[index] for index in self._indices]
            slopes = self._gradient(moved, arrays, np.float32(phase))
            length = direction * 0.5 / (1 + step // 2)
            for position, slope in zip(self._moved, slopes, strict=True):
                variable = variables[position]
                there = values.get(position, variable.given)
                signs = np.sign(np.nan_to_num(np.asarray(slope).astype(there.dtype)))
                reach = length * (variable.hi - variable.lo)
                values[position] = variable.bounded(there + reach * signs)
            yield dict(values)
