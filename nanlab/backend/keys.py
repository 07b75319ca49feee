"""(seed, purpose, step) -> key: randomness is addressed, never threaded.

Two runs that differ in one factor draw the same numbers for every purpose, and adding a run
changes no other.
"""

from __future__ import annotations

import zlib

import jax
from jax import Array


def run_key(seed: Array | int) -> Array:
    """The key of a run's seed; always threefry, whatever the process's default is."""
    return jax.random.key(seed, impl="threefry2x32")


def init_key(seed: Array | int) -> Array:
    """The key that a run's `init` gets."""
    return for_purpose(run_key(seed), "init")


def step_key(seed: Array | int) -> Array:
    """The key of which a run's steps' keys are made, by `for_step`."""
    return for_purpose(run_key(seed), "step")


def for_purpose(key: Array, purpose: str) -> Array:
    """The key for one purpose; the purpose's name is hashed with CRC-32, the same everywhere."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def for_step(key: Array, step: Array | int) -> Array:
    """The key of one step, counted from 0."""
    return jax.random.fold_in(key, step)
