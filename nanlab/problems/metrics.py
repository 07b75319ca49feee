"""Gradient and outputs of a step -> metrics that do not overflow by themselves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Float64

from nanlab.backend.finiteness import largest_magnitude


def gradient_norm(gradient: Any) -> Float64[Array, ""]:
    """Return the Euclidean norm of all leaves; NaN if they hold a NaN, inf if only an inf."""
    # Summed in float64, in which squares of float32 fit.
    leaves: list[Array] = jax.tree.leaves(gradient)
    if any(leaf.dtype.itemsize == 8 for leaf in leaves):
        return _scaled_norm(leaves)
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float64))) for leaf in leaves]
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))


def _scaled_norm(leaves: list[Array]) -> Float64[Array, ""]:
    """Return the norm, scaled by the largest entry, so that squares of float64 fit."""
    largest = largest_magnitude(jnp.stack([largest_magnitude(leaf) for leaf in leaves]))
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    # An explicit reciprocal: left to itself XLA divides in one program and multiplies by the
    # reciprocal in another, to other bits. It must not be subnormal, which is flushed to 0.
    safe = jnp.minimum(safe, 1 / jnp.finfo(largest.dtype).tiny)
    scale = 1 / safe
    squares = sum(
        jnp.sum(jnp.square((leaf * scale).astype(jnp.promote_types(leaf.dtype, jnp.float32))))
        for leaf in leaves
    )
    norm = safe.astype(jnp.float64) * jnp.sqrt(jnp.asarray(squares, jnp.float64))
    return jnp.where(jnp.isfinite(largest), norm, largest.astype(jnp.float64))


def accuracy(
    outputs: Float[Array, "*examples classes"], targets: Float[Array, "*examples classes"]
) -> Float32[Array, ""]:
    """Return the share of examples whose class has the largest output (a tie counts)."""
    right = jnp.sum(jnp.where(targets > 0, outputs, jnp.zeros_like(outputs)), axis=-1)
    return jnp.mean((right >= jnp.max(outputs, axis=-1)).astype(jnp.float32))
