"""Program -> ScanSplit: what precedes its longest scan, that scan in parts, and what follows it.

A training that is one compiled function is a scan over updates. Split, it runs from the host a few
iterations at a time, and any iteration can run again from its carry. An iteration's bits stay
those of the whole scan, as the body is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from nanlab.blame.program.interpreter import bind_equation, split_scan
from nanlab.blame.program.program import Equation, Program, work_of


class Start(NamedTuple):
    """What a scan starts from; a pytree of arrays.

    Attributes:
        consts: arrays that every iteration reads.
        carry: the carry before the first iteration.
        xs: scanned arrays; the first axis is that of the iterations.
        rest: arrays from before the scan that are needed after it.
    """

    consts: list[Array]
    carry: list[Array]
    xs: list[Array]
    rest: list[Array]


class ScanSplit:
    """A program split at the top-level scan that does most of its work.

    All methods are pure functions of flat lists of arrays: jit them. Iterations are counted in
    execution order, from 0; a reversed scan reads its slices from the end.

    Args:
        program: the program.

    Attributes:
        equation: the scan's equation.
        length: number of its iterations.

    Raises:
        LookupError: there is no scan at the top level. Calls are inlined; loops, branches and
            `shard_map` are not.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from nanlab.blame.program.program import flatten
        >>> def train(x):
        ...     factors = jnp.arange(1, 6, dtype=x.dtype)
        ...     return jax.lax.scan(lambda c, k: (c * k, c), x + 1, factors)
        >>> split = ScanSplit(flatten(train, jnp.float32(1)))
        >>> start = split.before(jnp.float32(1))
        >>> middle, early = split.iterations(start, start.carry, first=0, count=3)
        >>> end, late = split.iterations(start, middle, first=3, count=2)
        >>> [x.tolist() for x in split.after(start, end, split.joined([early, late]))]
        [240.0, [2.0, 2.0, 4.0, 12.0, 48.0]]
    """

    def __init__(self, program: Program) -> None:
        equations = (program.equations[index] for index in program.frames[0].equations)
        scans = [e for e in equations if e.opened is not None and e.opened.kind == "scan"]
        if not scans:
            raise LookupError("no scan at the top level")
        self._program = program
        self.equation: Equation = max(scans, key=lambda scan: work_of(program, scan))
        self._is_reversed: bool = self.equation.eqn.params["reverse"]
        self.length: int = self.equation.eqn.params["length"]
        order = program.frames[0].equations
        at = order.index(self.equation.index)
        self._before, self._after = order[:at], order[at + 1 :]
        self._rest = self._values_across()

    def _values_across(self) -> list[int]:
        """Return the values from before the scan that are read after it."""
        program = self._program
        known = set(program.frames[0].arguments)
        known.update(v for index in self._before for v in program.equations[index].results)
        read = [v for index in self._after for v in program.equations[index].operands]
        return [v for v in dict.fromkeys([*read, *program.frames[0].results]) if v in known]

    def before(self, *arguments: Array) -> Start:
        """Run what precedes the scan, on the leaves of the function's arguments."""
        env = dict(zip(self._program.frames[0].arguments, arguments, strict=True))
        self._run(self._before, env)
        operands = [jnp.asarray(self._read(env, v)) for v in self.equation.operands]
        return Start(*split_scan(self.equation, operands), [env[v] for v in self._rest])

    def iterations(
        self, start: Start, carry: Sequence[Array], *, first: int | Array, count: int
    ) -> tuple[list[Array], list[Array]]:
        """Run some iterations.

        Args:
            start: result of `before`.
            carry: carry before iteration `first`.
            first: number of the first iteration; may be traced.
            count: number of iterations.

        Returns:
            The carry after them, and the stacked outputs of these iterations.
        """
        low = self.length - first - count if self._is_reversed else first
        xs = [lax.dynamic_slice_in_dim(x, low, count) for x in start.xs]
        operands = [*start.consts, *carry, *xs]
        results = list(bind_equation(self.equation, operands, length=count))
        return results[: len(carry)], results[len(carry) :]

    def slices(self, start: Start, iteration: int | Array) -> list[Array]:
        """Return the slices of the scanned arrays that an iteration reads."""
        index = self.length - 1 - iteration if self._is_reversed else iteration
        return [lax.dynamic_index_in_dim(x, index, keepdims=False) for x in start.xs]

    def joined(self, parts: Iterable[Sequence[Array]]) -> list[Array]:
        """Return the scan's stacked outputs from those of its parts, in execution order."""
        ordered = list(parts)[:: -1 if self._is_reversed else 1]
        return [jnp.concatenate(arrays) for arrays in zip(*ordered, strict=True)]

    def after(self, start: Start, carry: Sequence[Array], stacked: Sequence[Array]) -> list[Array]:
        """Run what follows the scan; return the leaves of the function's result."""
        env = dict(zip(self._rest, start.rest, strict=True))
        env |= zip(self.equation.results, [*carry, *stacked], strict=True)
        self._run(self._after, env)
        return [jnp.asarray(self._read(env, v)) for v in self._program.frames[0].results]

    def _run(self, equations: Iterable[int], env: dict[int, Any]) -> None:
        for index in equations:
            equation = self._program.equations[index]
            results = bind_equation(equation, [self._read(env, v) for v in equation.operands])
            env.update(zip(equation.results, results, strict=True))

    def _read(self, env: dict[int, Any], value: int) -> Any:
        return env[value] if value in env else self._program.values[value].constant
