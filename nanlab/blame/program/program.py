"""Function -> Program: its jaxpr, flattened to numbered equations and the values between them.

Calls (jit, remat, custom derivatives) are inlined, so that a shared helper has separate equations
at each call. The body of a loop and a branch become frames: straight-line code that runs any
number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import jax.numpy as jnp

from nanlab.backend import jaxpr as _jax
from nanlab.backend.jaxpr import Jaxpr, JaxprEqn, Literal, Var
from nanlab.blame.program.rule_lines import rules_located
from nanlab.blame.source_path import is_installed, is_nanlab


@dataclass(slots=True, kw_only=True)
class Value:
    """One array of the program.

    Attributes:
        frame: frame that it belongs to; 0 for constants.
        shape: shape of the array.
        dtype: type of the array.
        equation: equation that computes it, or None.
        argument: position among its frame's arguments, or None.
        constant: the array, if it is a constant of the program.
    """

    frame: int
    shape: tuple[int, ...]
    dtype: Any
    equation: int | None = None
    argument: int | None = None
    constant: Any = None

    @property
    def can_be_bad(self) -> bool:
        """Whether it can contain an inf or a NaN at all."""
        return jnp.issubdtype(self.dtype, jnp.inexact) and 0 not in self.shape

    @property
    def is_constant(self) -> bool:
        """Whether it is a constant of the program."""
        return self.equation is None and self.argument is None


@dataclass(slots=True, kw_only=True)
class Equation:
    """One equation of the flattened program.

    Attributes:
        index: number of the equation, in program order.
        frame: frame that contains it.
        eqn: JAX's equation.
        operands: numbers of the values that it reads.
        results: numbers of the values that it computes.
        scopes: enclosing named scopes and transformations, outermost first.
        callers: calls that it was inlined from, innermost first.
        opened: contents of a loop, a branching or a `shard_map`; None for other equations.
        frames: frames of its body or branches.
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
        """Name of the primitive, as JAX prints it."""
        return self.eqn.primitive.name

    @property
    def is_closed(self) -> bool:
        """Whether it is a scan that is run whole, to be searched by iteration."""
        return self.primitive == "scan" and self.opened is None


@dataclass(slots=True, kw_only=True)
class Frame:
    """Straight-line code: the top level, the body of a loop, or a branch.

    Attributes:
        index: number of the frame; 0 is the top.
        parent: equation that runs it, or None for the top.
        kind: "top", "scan", "while", "cond" or "shard_map".
        arguments: numbers of its argument values.
        results: numbers of its result values.
        equations: numbers of its equations, in order.
        is_live: whether a result of the program needs it.
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
    """A function as equations, frames and values.

    Attributes:
        equations: all equations, by number.
        frames: all frames, by number.
        values: all values, by number.
        tree: pytree of the function's outputs.
    """

    equations: list[Equation]
    frames: list[Frame]
    values: list[Value]
    tree: Any

    def enclosing(self, frame: int) -> list[Frame]:
        """Return the frames around a frame, outermost first, with the frame and without the top."""
        frames: list[Frame] = []
        current = self.frames[frame]
        while current.parent is not None:
            frames.append(current)
            current = self.frames[self.equations[current.parent].frame]
        return frames[::-1]

    def loops(self, frame: int) -> list[int]:
        """Return the loop bodies around a frame, the frame included, outermost first."""
        return [f.index for f in self.enclosing(frame) if f.kind in ("scan", "while")]

    def computed_by(self, value: int) -> Equation | None:
        """Return the equation that computes a value itself, not a loop or a branch inside it."""
        index = self.values[value].equation
        equation = None if index is None else self.equations[index]
        return None if equation is None or equation.opened is not None else equation

    def n_shard_maps(self, frame: int) -> int:
        """Return the number of `shard_map`s around a frame."""
        return sum(f.kind == "shard_map" for f in self.enclosing(frame))


def flatten(function: Callable[..., Any], *arguments: Any) -> Program:
    """Trace a function of arguments of these shapes and flatten it; nothing is computed."""
    with rules_located():
        return _flatten(*_jax.trace(function, *arguments))


def flatten_closed(closed: Any, tree: Any) -> Program:
    """Flatten a closed jaxpr whose results are the leaves of `tree`."""
    return _flatten(*_jax.split_constants(closed), tree)


def _flatten(jaxpr: Jaxpr, constants: Sequence[Any], tree: Any) -> Program:
    flattener = _Flattener(tree)
    flattener.top(jaxpr, constants)
    program = flattener.program
    _drop_unused(program)
    return program


def flatten_body(scan: Equation, results: Sequence[int]) -> Program:
    """Flatten one iteration of a scan; keep what the results with these indices need."""
    assert scan.opened is not None
    jaxpr, constants = scan.opened.bodies[0]
    flattener = _Flattener(list(results))
    top = flattener.top(jaxpr, constants, scan.scopes, (scan.eqn, *scan.callers))
    top.results = tuple(top.results[index] for index in results)
    _drop_unused(flattener.program)
    return flattener.program


class _Flattener:
    def __init__(self, tree: Any) -> None:
        self.program = Program(equations=[], frames=[], values=[], tree=tree)

    def top(
        self,
        jaxpr: Jaxpr,
        constants: Sequence[Any],
        scopes: str = "",
        callers: tuple[JaxprEqn, ...] = (),
    ) -> Frame:
        frame = self._new_frame(None, "top", jaxpr)
        frame.results = self._walk(jaxpr, constants, frame.arguments, frame, scopes, callers)
        return frame

    def _value(self, frame: int, aval: Any, **fields: Any) -> int:
        value = Value(frame=frame, shape=aval.shape, dtype=aval.dtype, **fields)
        self.program.values.append(value)
        return len(self.program.values) - 1

    def _constant(self, constant: Any, aval: Any) -> int:
        return self._value(0, aval, constant=constant)

    def _new_frame(self, parent: int | None, kind: str, jaxpr: Jaxpr) -> Frame:
        frame = Frame(index=len(self.program.frames), parent=parent, kind=kind)
        self.program.frames.append(frame)
        frame.arguments = tuple(
            self._value(frame.index, v.aval, argument=i) for i, v in enumerate(jaxpr.invars)
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
        """Add the equations of a jaxpr to `frame` and return the values of its outputs."""
        known = [self._constant(c, v.aval) for c, v in zip(constants, jaxpr.constvars, strict=True)]
        names = _jax.argument_variables(jaxpr)
        env: dict[Var, int] = dict(zip(names, (*known, *arguments), strict=True))

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self._constant(atom.val, atom.aval)
            return env[atom]

        for position, eqn in enumerate(jaxpr.eqns):
            operands = tuple(read(v) for v in eqn.invars)
            inner = "/".join(part for part in (scopes, _jax.equation_scopes(eqn)) if part)
            by = callers
            if _is_traced_apart(eqn):
                later = (e for e in jaxpr.eqns[position + 1 :] if not _is_traced_apart(e))
                by = (*islice(later, 1), *callers)
            results = self._equation(eqn, operands, frame, inner, by)
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
        if opened is not None and opened.kind == "call":
            (jaxpr, constants), (indices,) = opened.bodies[0], opened.operands
            arguments = [operands[index] for index in indices]
            return self._walk(jaxpr, constants, arguments, frame, scopes, (eqn, *callers))
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
                body.results = self._walk(
                    jaxpr, constants, body.arguments, body, scopes, (eqn, *callers)
                )
        equation.results = tuple(
            self._value(frame.index, v.aval, equation=equation.index) for v in eqn.outvars
        )
        return equation.results


def _is_traced_apart(eqn: JaxprEqn) -> bool:
    """Return whether no frame of an equation is outside JAX.

    So is a function of JAX's that is itself a branch of a vmapped switch: what comes next, the
    selection of the branch, has the line of the switch.
    """
    codes = _jax.equation_codes(eqn)
    file = codes[-1][0].co_filename if codes else ""
    return is_installed(file) and not is_nanlab(file)


def _drop_unused(program: Program) -> None:
    """Remove from each frame the equations that no result of the frame needs."""
    live = {0}
    for frame in program.frames:  # an enclosing frame comes before its inner ones
        frame.is_live = frame.index in live
        needed = set(frame.results)
        needed_equations: list[int] = []
        for index in reversed(frame.equations if frame.is_live else []):
            equation = program.equations[index]
            if equation.eqn.effects or not needed.isdisjoint(equation.results):
                needed.update(equation.operands)
                live.update(equation.frames)
                needed_equations.append(index)
        frame.equations = needed_equations[::-1]


def work_of(program: Program, equation: Equation) -> int:
    """Return how many equations run when this one does, a while loop's body once."""
    if equation.opened is None:
        return 1
    frames = (program.frames[frame].equations for frame in equation.frames)
    inner = [sum(work_of(program, program.equations[i]) for i in indices) for indices in frames]
    return equation.eqn.params.get("length", 1) * max(1, *inner)
