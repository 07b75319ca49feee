"""(seed, purpose, step) -> key: randomness is addressed, never threaded.

Two runs that differ in one factor draw the same numbers for each purpose, and a new run changes no
other.
"""

from __future__ import annotations

import zlib

import jax
from jax import Array
from jaxtyping import Int, Key

RandomKey = Key[Array, ""]
KeyNumber = Int[Array, ""] | int


def run_key(seed: KeyNumber) -> RandomKey:
    """Return the key of a run's seed; always threefry, whatever JAX's default is."""
    return jax.random.key(seed, impl="threefry2x32")


def init_key(seed: KeyNumber) -> RandomKey:
    """Return the key of a run's `init`."""
    return for_purpose(run_key(seed), "init")


def step_key(seed: KeyNumber) -> RandomKey:
    """Return the key from which `for_step` derives those of a run's steps."""
    return for_purpose(run_key(seed), "step")


def for_purpose(key: RandomKey, purpose: str) -> RandomKey:
    """Return the key for one purpose, whose name is hashed with CRC-32."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def for_step(key: RandomKey, step: KeyNumber) -> RandomKey:
    """Return the key of one step, counted from 0."""
    return jax.random.fold_in(key, step)
