"""Function -> Program: its jaxpr, flattened to numbered equations and the values between them.

Calls (jit, remat, custom derivatives) are opened in place, so that a shared helper has equations of
its own at each call. A loop's body and a branch become frames: straight lines of equations that run
any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from nanlab.backend import jaxpr as _jax
from nanlab.backend.jaxpr import Jaxpr, JaxprEqn, Literal, Var


@dataclass(slots=True, kw_only=True)
class Value:
    """One array of the program.

    Attributes:
        frame: the frame it belongs to; constants belong to frame 0.
        shape, dtype: of the array.
        equation: the equation that makes it, or None.
        argument: its place among its frame's arguments, or None.
        constant: what it holds, if that is written into the program.
    """

    frame: int
    shape: tuple[int, ...]
    dtype: Any
    equation: int | None = None
    argument: int | None = None
    constant: Any = None

    @property
    def can_be_bad(self) -> bool:
        """Whether it can hold an inf or a NaN at all."""
        return jnp.issubdtype(self.dtype, jnp.inexact) and 0 not in self.shape


@dataclass(slots=True, kw_only=True)
class Equation:
    """One equation, where it stands in the program.

    Attributes:
        index: its number, in the order of the program's text.
        frame: the frame it is in.
        eqn: the equation itself.
        operands, results: values, by number.
        scopes: the named scopes and transformations around it, outermost first.
        callers: the calls that it was opened from, innermost first.
        opened: what is inside it, for a loop or a branching; None otherwise.
        frames: the frames of its body or branches.
    """

    index: int
    frame: int
    eqn: JaxprEqn
    operands: tuple[int, ...]
    results: tuple[int, ...] = ()
    scopes: str
    callers: tuple[JaxprEqn, ...]
    opened: _jax.Opened | None = None
    frames: tuple[int, ...] = ()

    @property
    def primitive(self) -> str:
        """The primitive's name, as JAX prints it."""
        return self.eqn.primitive.name


@dataclass(slots=True, kw_only=True)
class Frame:
    """A straight line of equations: the top, a loop's body, or a branch.

    Attributes:
        index: its number; 0 is the top.
        parent: the equation that runs it, or None for the top.
        kind: "top", "scan", "while", "cond" or "shard_map".
        arguments, results: values, by number.
        equations: by number, in order.
        is_live: whether it is run: nothing needs a loop that is not.
    """

    index: int
    parent: int | None
    kind: str
    arguments: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    equations: list[int] = field(default_factory=list[int])
    is_live: bool = True


@dataclass(slots=True, kw_only=True)
class Program:
    """A function as equations, frames and values; `tree` is the shape of what it returns."""

    equations: list[Equation]
    frames: list[Frame]
    values: list[Value]
    tree: Any

    def around(self, frame: int) -> list[Frame]:
        """The frames around a frame, itself included and the top left out, outermost first."""
        around: list[Frame] = []
        here = self.frames[frame]
        while here.parent is not None:
            around.append(here)
            here = self.frames[self.equations[here.parent].frame]
        return around[::-1]

    def loops(self, frame: int) -> list[int]:
        """The loop bodies around a frame, itself included, outermost first."""
        return [f.index for f in self.around(frame) if f.kind in ("scan", "while")]

    def shards(self, frame: int) -> int:
        """How many `shard_map`s are around a frame."""
        return sum(f.kind == "shard_map" for f in self.around(frame))


def flatten(function: Callable[..., Any], *arguments: Any) -> Program:
    """The program that `function` is on arguments of these shapes; nothing is computed."""
    return _flatten(*_jax.trace(function, *arguments))


def flatten_closed(closed: Any, tree: Any) -> Program:
    """The program of a closed jaxpr, whose results are the leaves of `tree`."""
    return _flatten(*_jax.split_constants(closed), tree)


def _flatten(jaxpr: Jaxpr, constants: Sequence[Any], tree: Any) -> Program:
    flattener = _Flattener(tree)
    flattener.top(jaxpr, constants)
    program = flattener.program
    _drop_unused(program)
    return program


class _Flattener:
    def __init__(self, tree: Any) -> None:
        self.program = Program(equations=[], frames=[], values=[], tree=tree)

    def top(self, jaxpr: Jaxpr, constants: Sequence[Any]) -> None:
        frame = self._new_frame(None, "top", jaxpr)
        frame.results = self._walk(jaxpr, constants, frame.arguments, frame, "", ())

    def _value(self, frame: int, aval: Any, **about: Any) -> int:
        value = Value(frame=frame, shape=aval.shape, dtype=aval.dtype, **about)
        self.program.values.append(value)
        return len(self.program.values) - 1

    def _constant(self, constant: Any, aval: Any) -> int:
        return self._value(0, aval, constant=constant)

    def _new_frame(self, parent: int | None, kind: str, jaxpr: Jaxpr) -> Frame:
        frame = Frame(index=len(self.program.frames), parent=parent, kind=kind)
        self.program.frames.append(frame)
        frame.arguments = tuple(
            self._value(frame.index, v.aval, argument=place) for place, v in enumerate(jaxpr.invars)
        )
        return frame

    def _walk(
        self,
        jaxpr: Jaxpr,
        constants: Sequence[Any],
        arguments: Sequence[int],
        frame: Frame,
        scopes: str,
        callers: tuple[JaxprEqn, ...],
    ) -> tuple[int, ...]:
        """Add a jaxpr's equations to `frame`; the values of its outputs."""
        known = [self._constant(c, v.aval) for c, v in zip(constants, jaxpr.constvars, strict=True)]
        names = _jax.argument_variables(jaxpr)
        env: dict[Var, int] = dict(zip(names, (*known, *arguments), strict=True))

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self._constant(atom.val, atom.aval)
            return env[atom]

        for eqn in jaxpr.eqns:
            operands = tuple(read(v) for v in eqn.invars)
            inner = "/".join(part for part in (scopes, _jax.equation_scopes(eqn)) if part)
            results = self._equation(eqn, operands, frame, inner, callers)
            env.update(zip(eqn.outvars, results, strict=True))
        return tuple(read(v) for v in jaxpr.outvars)

    def _equation(
        self,
        eqn: JaxprEqn,
        operands: tuple[int, ...],
        frame: Frame,
        scopes: str,
        callers: tuple[JaxprEqn, ...],
    ) -> tuple[int, ...]:
        opened = _jax.open_equation(eqn)
        around = (eqn, *callers)
        if opened is not None and opened.kind == "call":
            (jaxpr, constants), (places,) = opened.bodies[0], opened.operands
            arguments = [operands[place] for place in places]
            return self._walk(jaxpr, constants, arguments, frame, scopes, around)
        equations = self.program.equations
        equation = Equation(
            index=len(equations), frame=frame.index, eqn=eqn, operands=operands, scopes=scopes,
            callers=callers, opened=opened,
        )  # fmt: skip
        equations.append(equation)
        frame.equations.append(equation.index)
        if opened is not None:
            for jaxpr, constants in opened.bodies:
                body = self._new_frame(equation.index, opened.kind, jaxpr)
                equation.frames += (body.index,)
                body.results = self._walk(jaxpr, constants, body.arguments, body, scopes, around)
        equation.results = tuple(
            self._value(frame.index, v.aval, equation=equation.index) for v in eqn.outvars
        )
        return equation.results


def _drop_unused(program: Program) -> None:
    """Take out of each frame the equations that no result of the frame needs."""
    live = {0}
    for frame in program.frames:  # a frame comes after the one around it
        frame.is_live = frame.index in live
        needed = set(frame.results)
        kept: list[int] = []
        for index in reversed(frame.equations if frame.is_live else []):
            equation = program.equations[index]
            if equation.eqn.effects or not needed.isdisjoint(equation.results):
                needed.update(equation.operands)
                live.update(equation.frames)
                kept.append(index)
        frame.equations = kept[::-1]
