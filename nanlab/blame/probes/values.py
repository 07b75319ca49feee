"""Program -> Keeper: the same program, which hands out its values themselves.

For programs that are small enough to keep: XLA compiles it in half the time of the probe, whose
every value needs a reduction, and nothing has to be fetched in a second look. The codes are made
on the host. Of while loops, whose length is not known, it reports codes as the probe does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.backend.finiteness import code_of
from nanlab.blame.probes.codes import Probe
from nanlab.blame.program.interpreter import Records
from nanlab.blame.program.primitives import SAME_AS
from nanlab.blame.program.program import Equation, Frame, Program

STORED_VALUES_BYTES = 32 * 2**20
"""Programs whose values need more than this, all iterations together, are probed."""


class ValueProbe(Probe):
    """A program that returns its values: "value3" ..., stacked by iteration and by device."""

    def observe(self, frame: Frame, env: Mapping[int, Any]) -> Records:
        """See `Interpreter.observe`."""
        if _is_windowed(self.program, frame):
            return super().observe(frame, env)
        return {f"value{value}": env[value] for value in _kept(self.program, frame)}

    def run_shards(
        self, equation: Equation, operands: Sequence[Any]
    ) -> tuple[Sequence[Any], Records]:
        """See `Interpreter.run_shards`."""
        if _is_windowed(self.program, self.program.frames[equation.frame]):
            return super().run_shards(equation, operands)
        body = self.program.frames[equation.frames[0]]
        return _jax.run_sharded(equation.eqn, lambda *a: self.run(body, a), operands)

    def codes(
        self, records: Mapping[str, np.ndarray], arguments: Sequence[np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
        """What a `Reading` needs: the codes, and what the values held.

        Args:
            records: what the keeper returned, on the host.
            arguments: what it was given.
        """
        values = dict(zip(self.program.frames[0].arguments, arguments, strict=True))
        codes: dict[str, np.ndarray] = {}
        for name, record in records.items():
            if name.startswith("value"):
                values[int(name.removeprefix("value"))] = record
            else:
                codes[name] = record
        for frame in self.program.frames:
            if not _is_windowed(self.program, frame):
                codes[f"codes{frame.index}"] = self._codes_of(frame, values)
        return codes, values

    def _codes_of(self, frame: Frame, values: Mapping[int, np.ndarray]) -> np.ndarray:
        """As the probe's vector of the frame, without the details."""
        around = [f for f in self.program.around(frame.index) if f.kind != "cond"]
        scans = [axis for axis, f in enumerate(around) if f.kind == "scan"]
        lengths = _lengths(self.program, frame)
        slots = [value for values in self.measured[frame.index].values() for value in values]
        vector = np.zeros((*lengths, len(slots)), np.int8)
        for slot, value in enumerate(slots):
            array = np.moveaxis(values[value], scans, range(len(scans)))
            if code_of(array):
                for rows in np.ndindex(*lengths):
                    vector[(*rows, slot)] = code_of(np.asarray(array[rows]))
        return vector


def _kept(program: Program, frame: Frame) -> list[int]:
    """The values that a keeper hands out of one frame; the others follow from them."""
    values: list[int] = []
    if frame.parent is not None:
        opened = program.equations[frame.parent].opened
        assert opened is not None
        is_scan = frame.kind == "scan"
        values += [
            v for place, v in enumerate(frame.arguments) if is_scan and place >= opened.consts
        ]
        values += frame.arguments if frame.kind == "shard_map" else ()
    for index in frame.equations:
        equation = program.equations[index]
        if equation.primitive not in SAME_AS or program.shards(frame.index):
            values += equation.results
    return [v for v in values if isinstance(program.values[v].dtype, np.dtype)]


def is_small(program: Program) -> bool:
    """Whether a program's values can all be kept."""
    needed = 0
    for frame in program.frames:
        if frame.is_live and not _is_windowed(program, frame):
            trips = prod(_lengths(program, frame))
            kept = (program.values[v] for v in _kept(program, frame))
            needed += trips * sum(prod(v.shape) * v.dtype.itemsize for v in kept)
    return needed <= STORED_VALUES_BYTES


def _is_windowed(program: Program, frame: Frame) -> bool:
    return any(f.kind == "while" for f in program.around(frame.index))


def _lengths(program: Program, frame: Frame) -> list[int]:
    """How often each of the scans around a frame runs, outermost first."""
    scans = [f for f in program.around(frame.index) if f.kind == "scan"]
    return [program.equations[f.parent].eqn.params["length"] for f in scans if f.parent is not None]


def same_as(equation: Equation, operand: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The result of an equation of `SAME_AS`, which holds just what its operand holds.

    Args:
        equation: the equation.
        operand: what its operand held.
        shape: of the result.
    """
    name, params = equation.primitive, equation.eqn.params
    if name == "broadcast_in_dim":
        aligned = [1] * len(shape)
        for axis, place in enumerate(params["broadcast_dimensions"]):
            aligned[place] = operand.shape[axis]
        return np.broadcast_to(operand.reshape(aligned), shape)
    if name == "transpose":
        return np.transpose(operand, params["permutation"])
    if name == "rev":
        return np.flip(operand, params["dimensions"])
    if name == "neg":
        return np.asarray(-operand)
    return operand.reshape(shape)
