"""Choose the width of a problem's blocks: the number of lanes of one vmap.

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
"""Widest block for each kind of accelerator. CPU and GPU are measured; a TPU's is not yet."""

LAUNCH_RUNS = {"cpu": 1024, "gpu": 4096, "tpu": 1024}
"""Default number of runs in a launch, roughly; at least a block on each device."""

NARROWEST = 8

WORKING_SET = {"cpu": 512 * 1024, "gpu": 128 * 1024**2}
"""Working-set budget of a block in bytes: states plus the largest intermediate of one step, but
never fewer than 8 lanes (benchmarks/README.md). CPU: L2 size. There, 64 lanes are fastest, or tie,
for MLPs of width 16 and 32; relative time of 8 lanes against 64: 0.79 (width 64), 0.69 (width 128),
0.7 (width 16, 272 examples), 0.5 (CNN). A GPU gains little from more, once a block fills it."""


def block_of(device: Device) -> int:
    """Return the widest block on this kind of device."""
    return BLOCK.get(device.platform, BLOCK["tpu"])


def launch_runs(devices: Sequence[Device]) -> int:
    """Return the default number of runs in a launch on these devices, roughly."""
    usual = LAUNCH_RUNS.get(devices[0].platform, LAUNCH_RUNS["tpu"])
    return max(usual, block_of(devices[0]) * len(devices))


def block_bytes(device: Device) -> int | None:
    """Return the working-set budget of a block; None if the device has none."""
    return WORKING_SET.get(device.platform)


def block_for(problem: Problem, device: Device) -> int:
    """Return the width of this problem's blocks on this kind of device; it divides `block_of`."""
    widest, budget = block_of(device), block_bytes(device)
    if budget is None:
        return widest
    fit = budget // max(1, state_bytes(problem), *map(array_bytes, step_arrays(problem)[0]))
    return min(widest, max(NARROWEST, 1 << max(0, fit.bit_length() - 1)))


def launch_lanes(runs: int, *, block: int, devices: int) -> int:
    """Return the number of lanes of a launch that holds `runs`: whole blocks on each device."""
    smallest = block * devices
    return -(-runs // smallest) * smallest


def state_shape(problem: Problem) -> State:
    """Return the shapes and dtypes of one lane's state, without computing it."""
    knobs = {name: jax.ShapeDtypeStruct((), np.float64) for name in problem.knobs}
    return jax.eval_shape(problem.init, knobs, key_shape())


def step_arrays(problem: Problem) -> tuple[list[_jax.Aval], Sequence[_jax.JaxValue]]:
    """Return the shapes of all intermediates of one lane's step, and the constants it reads."""
    knobs = {name: jax.ShapeDtypeStruct((), np.float64) for name in problem.knobs}
    jaxpr, constants, _ = _jax.trace(problem.step, state_shape(problem), knobs, key_shape())
    return [v.aval for eqn in jaxpr.eqns for v in eqn.outvars], constants


def key_shape() -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of a run's key."""
    return jax.eval_shape(init_key, jax.ShapeDtypeStruct((), np.int64))


def state_bytes(problem: Problem) -> int:
    """Return the size of one lane's state in bytes."""
    return sum(array_bytes(leaf) for leaf in jax.tree.leaves(state_shape(problem)))


def array_bytes(array: Any) -> int:
    """Return the size in bytes of an array or shape; 8 bytes an element if its dtype is unknown."""
    shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 8)
