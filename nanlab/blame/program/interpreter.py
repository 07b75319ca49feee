"""Program, arguments -> results and records: a program run under an observer.

An interpreter is a pure function: jit it, vmap it. Subclasses define what is recorded of a frame,
and how records leave a loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.program import Equation, Frame, Program

Records = dict[str, Any]
"""Recorded arrays, by name."""

IsRunning = Bool[Array, "*lanes"]
ResultsAndRecords = tuple[Sequence[Any], Records]

Bind = Callable[[Equation, Sequence[Any]], Sequence[Any]]


def bind_equation(equation: Equation, operands: Sequence[Any], **changed: Any) -> Sequence[Any]:
    """Run an equation, with some parameters changed."""
    return _jax.bind(equation.eqn, operands, **changed)


class Interpreter(ABC):
    """Runs a program and records its values.

    Args:
        program: program to run.
        bind_equation: function that runs an equation that contains no frames.

    Attributes:
        program: program to run.
    """

    def __init__(self, program: Program, bind_equation: Bind = bind_equation) -> None:
        self.program = program
        self._bind = bind_equation

    @abstractmethod
    def observe(self, frame: Frame, env: Mapping[int, Any]) -> Records:
        """Return the records of a frame that has run, given its values without constants."""

    @abstractmethod
    def run_scan(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """Run a scan."""

    @abstractmethod
    def run_while(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """Run a while loop."""

    @abstractmethod
    def run_cond(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """Run a `cond`."""

    @abstractmethod
    def run_shards(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """Run a `shard_map`."""

    def equations_of(self, frame: Frame) -> Iterable[int]:
        """Return the equations of a frame to run, in order."""
        return frame.equations

    def dead_after(self, frame: Frame) -> Mapping[int, Iterable[int]]:
        """Return equation -> values that neither later equations nor `observe` need."""
        del frame
        return {}

    def run(self, frame: Frame, arguments: Sequence[Any]) -> tuple[list[Any], Records]:
        """Run a frame; return its results (None for what was not run) and its records."""
        program, dead = self.program, self.dead_after(frame)
        env: dict[int, Any] = dict(zip(frame.arguments, arguments, strict=True))
        inner: Records = {}
        for index in self.equations_of(frame):
            equation = program.equations[index]
            operands = [self.read(env, value) for value in equation.operands]
            if equation.opened is None:
                results = self._bind(equation, operands)
            else:
                results, records = self.run_opened(equation, operands)
                inner.update(records)
            env.update(zip(equation.results, results, strict=True))
            del operands, results
            for value in dead.get(index, ()):
                env.pop(value, None)
        results = [self.read(env, value) for value in frame.results]
        return results, {**self.observe(frame, env), **inner}

    def run_opened(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """Run an equation that contains frames."""
        assert equation.opened is not None
        runs = {
            "scan": self.run_scan,
            "while": self.run_while,
            "cond": self.run_cond,
            "shard_map": self.run_shards,
        }
        return runs[equation.opened.kind](equation, operands)

    def read(self, env: Mapping[int, Any], value: int) -> Any:
        """Return the array of a value."""
        return env[value] if value in env else self.program.values[value].constant


def split_scan(
    equation: Equation, operands: Sequence[Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Split the operands of a scan: constants, initial carry, scanned arrays."""
    opened = equation.opened
    assert opened is not None
    split = opened.consts + opened.carry
    return (
        list(operands[: opened.consts]),
        list(operands[opened.consts : split]),
        list(operands[split:]),
    )


def split_while(
    equation: Equation, operands: Sequence[Any]
) -> tuple[Callable[[Sequence[Any]], IsRunning], list[Any], list[Any]]:
    """Return a while loop's condition (of the carry), its body's constants, its initial carry."""
    opened = equation.opened
    assert opened is not None
    assert opened.condition is not None
    (condition, constants), n_consts = opened.condition

    def is_running(carry: Sequence[Any]) -> IsRunning:
        return _jax.run_jaxpr(condition, constants, [*operands[:n_consts], *carry])[0]

    split = n_consts + opened.consts
    return is_running, list(operands[n_consts:split]), list(operands[split:])


def next_carry(is_running: IsRunning, results: Sequence[Any], carry: Sequence[Any]) -> list[Any]:
    """Return a while loop's next carry: under vmap, lanes that are done keep their carry."""
    if not is_running.ndim:
        return list(results)

    def select(new: Any, old: Any) -> Any:
        mask = is_running.reshape(is_running.shape + (1,) * (new.ndim - is_running.ndim))
        return jnp.where(mask, new, old)

    return [select(new, old) for new, old in zip(results, carry, strict=True)]


def switch(
    index: Any, branches: Sequence[Callable[[Any], tuple[Any, Records]]], inputs: Sequence[Any],
    nothing: Records,
) -> tuple[Any, Records]:  # fmt: skip
    """Run one branch; the records of the others are `nothing`."""

    def with_all_records(branch: Callable[[Any], tuple[Any, Records]]) -> Any:
        def run(*inputs: Any) -> tuple[Any, Records]:
            results, records = branch(inputs)
            return results, {**nothing, **records}

        return run

    chosen = jnp.clip(index, 0, len(branches) - 1)
    return lax.switch(chosen, [with_all_records(branch) for branch in branches], *inputs)
