"""(problem, device) -> the block's width: how many lanes one vmap takes.

A lane's bits depend on its block's width and on nothing else of the launch, so the width follows
from the shapes of the problem's state and step and the kind of accelerator alone: it is the same
on every machine, in a replay, and for any number of runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.backend.jaxpr import Device
from nanlab.backend.keys import init_key
from nanlab.problems.problem import Problem, State

BLOCK = {"cpu": 64, "gpu": 4096, "tpu": 1024}
"""The widest block for each kind of accelerator. CPU and GPU are measured; a TPU's is not yet."""

LAUNCH_RUNS = {"cpu": 1024, "gpu": 4096, "tpu": 1024}
"""About how many runs one process launches at a time if nobody says; a block a device at least."""

NARROWEST = 8

ROOM = {"cpu": 512 * 1024, "gpu": 128 * 1024**2}
"""What a block's lanes work on fits in so many bytes, as far as 8 lanes do: their states, and the
largest array of their step (benchmarks/README.md). On a CPU it is a core's second cache: 64 lanes
are the fastest, or no slower, of MLPs of 16 and 32 units a layer; 8 lanes take 0.79 of the time of
64 at 64 units, and 0.69 at 128; 0.7 where 272 examples go through 16 units, 0.5 of a CNN. A GPU
gains little by more, once a block fills it."""


def block_of(device: Device) -> int:
    """The widest block on such a device."""
    return BLOCK.get(device.platform, BLOCK["tpu"])


def launch_runs(devices: Sequence[Device]) -> int:
    """About how many runs to launch at a time on these devices, if nobody says."""
    usual = LAUNCH_RUNS.get(devices[0].platform, LAUNCH_RUNS["tpu"])
    return max(usual, block_of(devices[0]) * len(devices))


def block_bytes(device: Device) -> int | None:
    """What a block's states, and each array of its step, should fit; None: no width follows."""
    return ROOM.get(device.platform)


def block_for(problem: Problem, device: Device) -> int:
    """How many lanes of this problem a block has on such a device; it divides `block_of`."""
    widest, room = block_of(device), block_bytes(device)
    if room is None:
        return widest
    fit = room // max(1, state_bytes(problem), *map(array_bytes, step_arrays(problem)[0]))
    return min(widest, max(NARROWEST, 1 << max(0, fit.bit_length() - 1)))


def launch_lanes(runs: int, *, block: int, devices: int) -> int:
    """How many lanes a launch has that holds so many runs: whole blocks, on each device."""
    smallest = block * devices
    return -(-runs // smallest) * smallest


def state_shape(problem: Problem) -> State:
    """The shapes and types of one lane's state; nothing is computed."""
    knobs = {name: jax.ShapeDtypeStruct((), np.float64) for name in problem.knobs}
    return jax.eval_shape(problem.init, knobs, key_shape())


def step_arrays(problem: Problem) -> tuple[list[Any], Sequence[Any]]:
    """What one lane's step computes, as shapes and types, and the constants that it reads."""
    knobs = {name: jax.ShapeDtypeStruct((), np.float64) for name in problem.knobs}
    jaxpr, constants, _ = _jax.trace(problem.step, state_shape(problem), knobs, key_shape())
    return [v.aval for eqn in jaxpr.eqns for v in eqn.outvars], constants


def key_shape() -> Any:
    """The shape and type of a run's key."""
    return jax.eval_shape(init_key, jax.ShapeDtypeStruct((), np.int64))


def state_bytes(problem: Problem) -> int:
    """The bytes of one lane's state."""
    return sum(array_bytes(leaf) for leaf in jax.tree.leaves(state_shape(problem)))


def array_bytes(array: Any) -> int:
    """The bytes of an array, or of what stands for its shape and type; 8 an element if untold."""
    shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 8)
