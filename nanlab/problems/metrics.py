"""Gradient, outputs -> what a training's step says of itself, computed so that it is safe."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nanlab.backend.finiteness import largest_magnitude


def gradient_norm(gradient: Any) -> Array:
    """The Euclidean norm of all leaves, summed in float64, in which squares of float32 fit.

    NaN where the gradient holds a NaN, inf where it holds an inf and no NaN.
    """
    leaves: list[Array] = jax.tree.leaves(gradient)
    if any(leaf.dtype.itemsize == 8 for leaf in leaves):
        return _scaled_norm(leaves)
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float64))) for leaf in leaves]
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))


def _scaled_norm(leaves: list[Array]) -> Array:
    """The norm by way of the leaves' largest entry, so that squares of float64 fit."""
    largest = largest_magnitude(jnp.stack([largest_magnitude(leaf) for leaf in leaves]))
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    # One reciprocal of our own: XLA divides or multiplies by it as it likes, to other bits. It must
    # not be subnormal, which is flushed to 0.
    safe = jnp.minimum(safe, 1 / jnp.finfo(largest.dtype).tiny)
    scale = 1 / safe
    squares = sum(
        jnp.sum(jnp.square((leaf * scale).astype(jnp.promote_types(leaf.dtype, jnp.float32))))
        for leaf in leaves
    )
    norm = safe.astype(jnp.float64) * jnp.sqrt(jnp.asarray(squares, jnp.float64))
    return jnp.where(jnp.isfinite(largest), norm, largest.astype(jnp.float64))


def accuracy(outputs: Array, targets: Array) -> Array:
    """Share of examples whose right class has the largest output (a tie counts as right)."""
    right = jnp.sum(jnp.where(targets > 0, outputs, jnp.zeros_like(outputs)), axis=-1)
    return jnp.mean((right >= jnp.max(outputs, axis=-1)).astype(jnp.float32))
