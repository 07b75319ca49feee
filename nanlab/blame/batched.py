"""Function, arguments of many lanes -> readings: a probe vmapped over padded blocks of lanes.

Lanes with the same codes share one reading, and so one backward walk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from nanlab.backend.jaxpr import Device
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.probes.codes import Probe
from nanlab.blame.program.program import Program, flatten

# A probe runs once per chunk and has five times its function's operations: at LLVM's level 1 it
# compiles in less than half the time (3.8 s instead of 8.3 s of a core for an MLP of 3 x 32), with
# the same findings.
_QUICK_COMPILE = {"xla_backend_optimization_level": 1}


class BlockProbe:
    """A probe of a function of one lane, run on many lanes at once.

    Args:
        function: function of one lane's arguments.
        arguments: one lane's arguments, as arrays or shapes.
        block: width of the vmap; a partial block is padded with its first lane.
        devices: devices among which blocks are divided.

    Attributes:
        function: function of one lane's arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        block: int,
        devices: list[Device],
    ) -> None:
        self.function = function
        self._shapes = jax.eval_shape(lambda *a: a, *arguments)
        self._width = block * len(devices)
        self._mesh = Mesh(np.array(devices), ("lanes",))

    @cached_property
    def program(self) -> Program:
        """Flattened program of the function."""
        return flatten(self.function, *self._shapes)

    @cached_property
    def _probe(self) -> Probe:
        return Probe(self.program)

    @cached_property
    def _compiled(self) -> Callable[..., dict[str, jax.Array]]:
        lanes = PartitionSpec("lanes")

        def codes_only(*arguments: Any) -> dict[str, jax.Array]:
            return jax.vmap(lambda *a: self._probe(*a)[1])(*arguments)

        specs = (lanes,) * len(self._shapes)
        sharded = jax.shard_map(
            codes_only, mesh=self._mesh, in_specs=specs, out_specs=lanes, check_vma=False
        )
        on_cpu = self._mesh.devices.flat[0].platform == "cpu"
        # jit places a block's dozen leaves in less than half the time that device_put takes.
        return jax.jit(
            sharded,
            in_shardings=NamedSharding(self._mesh, lanes),
            compiler_options=_QUICK_COMPILE if on_cpu else None,
        )

    def read_op_by_op(self, *arguments: Any) -> Reading:
        """Return the reading of one lane, each equation run on its own and nothing compiled."""
        _, codes = self._probe(*arguments)
        return Reading(self._probe, {name: np.asarray(code) for name, code in codes.items()})

    def read(self, *arguments: Any) -> tuple[list[Reading], Int[np.ndarray, " lanes"]]:
        """Return the distinct readings of the lanes (first axis), and the index of each lane's."""
        n_lanes = len(jax.tree.leaves(arguments)[0])
        parts: list[dict[str, np.ndarray]] = []
        for start in range(0, n_lanes, self._width):
            lanes = np.arange(start, start + self._width)
            chosen = np.where(lanes < n_lanes, lanes, start)
            codes = self._compiled(*jax.tree.map(lambda x, c=chosen: x[c], arguments))
            parts.append({k: np.asarray(v)[: n_lanes - start] for k, v in codes.items()})
        names = sorted(parts[0])
        whole = {name: np.concatenate([part[name] for part in parts]) for name in names}
        rows = np.concatenate(
            [whole[name].reshape(n_lanes, -1).astype(np.int32) for name in names], axis=1
        )
        _, first, index = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        readings = [Reading(self._probe, {k: v[i] for k, v in whole.items()}) for i in first]
        return readings, index.reshape(-1)
