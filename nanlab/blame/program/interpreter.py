"""Program, arguments -> results, and records of what went by: the program run with an observer.

What it runs is pure and traced: jit it, vmap it. Subclasses say what is recorded of a frame, and
how records leave a loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.program import Equation, Frame, Program

Records = dict[str, Any]
Bind = Callable[[Equation, Sequence[Any]], Sequence[Any]]


def bind_equation(equation: Equation, operands: Sequence[Any]) -> Sequence[Any]:
    """Run an equation as it is."""
    return _jax.bind(equation.eqn, operands)


class Interpreter(ABC):
    """Runs a program and records.

    Args:
        program: what is run.
        bind: runs an equation that is not opened.
    """

    def __init__(self, program: Program, bind_equation: Bind = bind_equation) -> None:
        self.program = program
        self._bind = bind_equation

    @abstractmethod
    def observe(self, frame: Frame, env: Mapping[int, Any]) -> Records:
        """The records of a frame that has run.

        Args:
            frame: the frame.
            env: what its values hold, but for constants.
        """

    @abstractmethod
    def run_scan(
        self, equation: Equation, operands: Sequence[Any]
    ) -> tuple[Sequence[Any], Records]:
        """Run a scan."""

    @abstractmethod
    def run_while(
        self, equation: Equation, operands: Sequence[Any]
    ) -> tuple[Sequence[Any], Records]:
        """Run a while loop."""

    @abstractmethod
    def run_cond(
        self, equation: Equation, operands: Sequence[Any]
    ) -> tuple[Sequence[Any], Records]:
        """Run a branching."""

    @abstractmethod
    def run_shards(
        self, equation: Equation, operands: Sequence[Any]
    ) -> tuple[Sequence[Any], Records]:
        """Run a `shard_map`."""

    def equations_of(self, frame: Frame) -> Iterable[int]:
        """The equations of a frame that are run, in order."""
        return frame.equations

    def run(self, frame: Frame, arguments: Sequence[Any]) -> tuple[list[Any], Records]:
        """What a frame results in (None where it was not run), and the records."""
        program = self.program
        env: dict[int, Any] = dict(zip(frame.arguments, arguments, strict=True))
        inner: Records = {}
        runs = {
            "scan": self.run_scan,
            "while": self.run_while,
            "cond": self.run_cond,
            "shard_map": self.run_shards,
        }
        for index in self.equations_of(frame):
            equation = program.equations[index]
            operands = [self.read(env, value) for value in equation.operands]
            if equation.opened is None:
                results = self._bind(equation, operands)
            else:
                results, records = runs[equation.opened.kind](equation, operands)
                inner.update(records)
            env.update(zip(equation.results, results, strict=True))
        results = [self.read(env, value) for value in frame.results]
        return results, {**self.observe(frame, env), **inner}

    def read(self, env: Mapping[int, Any], value: int) -> Any:
        """What a value holds."""
        return env[value] if value in env else self.program.values[value].constant


def split_scan(
    equation: Equation, operands: Sequence[Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """A scan's operands: constants, what is carried first, what is sliced."""
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
) -> tuple[Callable[[Sequence[Any]], Array], list[Any], list[Any]]:
    """A while loop's condition, of what is carried; its body's constants; what is carried first."""
    opened = equation.opened
    assert opened is not None
    assert opened.condition is not None
    (condition, constants), own = opened.condition

    def going(carried: Sequence[Any]) -> Array:
        return _jax.run_jaxpr(condition, constants, [*operands[:own], *carried])[0]

    split = own + opened.consts
    return going, list(operands[own:split]), list(operands[split:])


def kept(going: Array, results: Sequence[Any], carried: Sequence[Any]) -> list[Any]:
    """What a while loop carries on: under vmap, elements that are done keep what they had."""
    if not going.ndim:
        return list(results)

    def keep(new: Any, old: Any) -> Any:
        return jnp.where(going.reshape(going.shape + (1,) * (new.ndim - going.ndim)), new, old)

    return [keep(new, old) for new, old in zip(results, carried, strict=True)]


def switch(
    index: Any, branches: Sequence[Callable[[Any], tuple[Any, Records]]], inputs: Sequence[Any],
    nothing: Records,
) -> tuple[Any, Records]:  # fmt: skip
    """Run one branch; of the others the records are `nothing`."""

    def whole(branch: Callable[[Any], tuple[Any, Records]]) -> Any:
        def run(*inputs: Any) -> tuple[Any, Records]:
            results, records = branch(inputs)
            return results, {**nothing, **records}

        return run

    chosen = jnp.clip(index, 0, len(branches) - 1)
    return lax.switch(chosen, [whole(branch) for branch in branches], *inputs)
