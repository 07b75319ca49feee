"""(problem, device) -> the block's width: how many lanes one vmap takes.

A lane's bits depend on its block's width and on nothing else of the launch, so the width follows
from the shapes of the problem's state and the kind of accelerator alone: it is the same on every
machine, in a replay, and for any number of runs.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from nanlab._jax import Device
from nanlab.keys import init_key
from nanlab.problem import Problem, State

BLOCK = {"cpu": 64, "gpu": 1024, "tpu": 1024}
"""The widest block for each kind of accelerator, of which a launch is a multiple. 64 is measured;
those of GPU and TPU are not yet."""

NARROWEST, CACHE_BYTES = 8, 512 * 1024
"""On a CPU the states of a block fit a core's second cache, as far as 8 lanes do. Measured with
networks of 3 layers on a core with 512 KiB (benchmarks/README.md): 64 lanes are the fastest, or no
slower, at 16 and 32 units a layer; 8 and 16 lanes take 0.79 of the time of 64 at 64 units, and 8
take 0.69 at 128."""


def block_of(device: Device) -> int:
    """The widest block on such a device."""
    return BLOCK.get(device.platform, BLOCK["gpu"])


def block_bytes(device: Device) -> int | None:
    """Into how many bytes the states of a block should fit; None where no width follows from it."""
    return CACHE_BYTES if device.platform == "cpu" else None


def block_for(problem: Problem, device: Device) -> int:
    """How many lanes of this problem a block has on such a device; it divides `block_of`."""
    widest, room = block_of(device), block_bytes(device)
    if room is None:
        return widest
    fit = room // max(1, state_bytes(problem))
    return min(widest, max(NARROWEST, 1 << max(0, fit.bit_length() - 1)))


def state_shape(problem: Problem) -> State:
    """The shapes and types of one lane's state; nothing is computed."""
    knobs = {name: jax.ShapeDtypeStruct((), np.float64) for name in problem.knobs}
    return jax.eval_shape(problem.init, knobs, key_shape())


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
