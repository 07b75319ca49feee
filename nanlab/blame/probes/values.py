"""Program -> ValueProbe: the same program, which returns its values themselves.

For programs whose values fit in memory. XLA compiles it in half the time of a `Probe`, which needs
a reduction for every value, and no second run is needed to fetch numbers. The codes are computed
on the host. While loops, whose length is unknown, report codes as a `Probe` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Int, Int8

from nanlab.backend import jaxpr as _jax
from nanlab.backend.finiteness import code_of
from nanlab.blame.probes.codes import Probe
from nanlab.blame.program.interpreter import Records, ResultsAndRecords
from nanlab.blame.program.primitives import SAME_AS
from nanlab.blame.program.program import Equation, Frame, Program

STORED_VALUES_BYTES = 32 * 2**20
"""Largest total size of a program's values, over all iterations, for which they are stored."""


class ValueProbe(Probe):
    """A program that returns its values as "value3", ..., stacked by iteration and by device."""

    def observe(self, frame: Frame, env: Mapping[int, Any]) -> Records:
        """See `Interpreter.observe`."""
        if _is_windowed(self.program, frame):
            return super().observe(frame, env)
        return {f"value{value}": env[value] for value in _stored_values(self.program, frame)}

    def run_shards(self, equation: Equation, operands: Sequence[Any]) -> ResultsAndRecords:
        """See `Interpreter.run_shards`."""
        if _is_windowed(self.program, self.program.frames[equation.frame]):
            return super().run_shards(equation, operands)
        body = self.program.frames[equation.frames[0]]
        return _jax.run_sharded(equation.eqn, lambda *a: self.run(body, a), operands)

    def codes(
        self, records: Mapping[str, np.ndarray], arguments: Sequence[np.ndarray]
    ) -> tuple[dict[str, Int[np.ndarray, "*records"]], dict[int, np.ndarray]]:
        """Return the codes by name and the arrays by value, from a run's records and arguments."""
        values = dict(zip(self.program.frames[0].arguments, arguments, strict=True))
        codes: dict[str, Int[np.ndarray, "*records"]] = {}
        for name, record in records.items():
            if name.startswith("value"):
                values[int(name.removeprefix("value"))] = record
            else:
                codes[name] = record
        for frame in self.program.frames:
            if not _is_windowed(self.program, frame):
                codes[f"codes{frame.index}"] = self._codes_of(frame, values)
        return codes, values

    def _codes_of(
        self, frame: Frame, values: Mapping[int, np.ndarray]
    ) -> Int8[np.ndarray, "*iterations slots"]:
        """Return the frame's vector of codes as a `Probe` has it, without details."""
        frames = [f for f in self.program.enclosing(frame.index) if f.kind != "cond"]
        scans = [axis for axis, f in enumerate(frames) if f.kind == "scan"]
        lengths = _lengths(self.program, frame)
        slots = [value for values in self.measured[frame.index].values() for value in values]
        vector = np.zeros((*lengths, len(slots)), np.int8)
        for slot, value in enumerate(slots):
            array = np.moveaxis(values[value], scans, range(len(scans)))
            if code_of(array):
                for rows in np.ndindex(*lengths):
                    vector[(*rows, slot)] = code_of(np.asarray(array[rows]))
        return vector


def _stored_values(program: Program, frame: Frame) -> list[int]:
    """Return the values of a frame that are returned; the others follow from them."""
    values: list[int] = []
    if frame.parent is not None:
        opened = program.equations[frame.parent].opened
        assert opened is not None
        values += frame.arguments[opened.consts :] if frame.kind == "scan" else ()
        values += frame.arguments if frame.kind == "shard_map" else ()
    for index in frame.equations:
        equation = program.equations[index]
        if equation.primitive not in SAME_AS or program.n_shard_maps(frame.index):
            values += equation.results
    return [v for v in values if isinstance(program.values[v].dtype, np.dtype)]


def is_small(program: Program) -> bool:
    """Return whether all values of a program can be stored."""
    needed = 0
    for frame in program.frames:
        if frame.is_live and not _is_windowed(program, frame):
            trips = prod(_lengths(program, frame))
            values = (program.values[v] for v in _stored_values(program, frame))
            needed += trips * sum(prod(v.shape) * v.dtype.itemsize for v in values)
    return needed <= STORED_VALUES_BYTES


def _is_windowed(program: Program, frame: Frame) -> bool:
    return any(f.kind == "while" for f in program.enclosing(frame.index))


def _lengths(program: Program, frame: Frame) -> list[int]:
    """Return the lengths of the scans around a frame, outermost first."""
    scans = [f for f in program.enclosing(frame.index) if f.kind == "scan"]
    return [program.equations[f.parent].eqn.params["length"] for f in scans if f.parent is not None]


def same_as(equation: Equation, operand: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Compute the result, of this shape, of an equation of `SAME_AS` on the host."""
    name, params = equation.primitive, equation.eqn.params
    if name == "broadcast_in_dim":
        aligned = [1] * len(shape)
        for axis, result_axis in enumerate(params["broadcast_dimensions"]):
            aligned[result_axis] = operand.shape[axis]
        return np.broadcast_to(operand.reshape(aligned), shape)
    if name == "transpose":
        return np.transpose(operand, params["permutation"])
    if name == "rev":
        return np.flip(operand, params["dimensions"])
    if name == "neg":
        return np.asarray(-operand)
    return operand.reshape(shape)
