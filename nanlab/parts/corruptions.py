"""Clean examples -> corrupted examples.

The corruption of an example is a function of (seed, purpose, row) alone, and so the same in every
step: each function takes a run's key and the rows of the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from nanlab.backend import keys
from nanlab.backend.keys import RandomKey

Batch = Float[Array, "examples ..."]
RowNumbers = Int[Array, " examples"]


def _by_row(
    key: RandomKey, purpose: str, rows: RowNumbers, draw: Callable[[Array], Array]
) -> Array:
    base = keys.for_purpose(key, purpose)
    return jax.vmap(lambda row: draw(keys.for_step(base, row)))(rows)


def outliers(x: Batch, fraction: Array, scale: Array, key: RandomKey, rows: RowNumbers) -> Batch:
    """Multiply the share `fraction` of all entries by `scale`."""
    shape = x.shape[1:]
    hit = _by_row(key, "outliers", rows, lambda k: jax.random.bernoulli(k, fraction, shape))
    return jnp.where(hit, x * scale, x)


def missing(x: Batch, fraction: Array, key: RandomKey, rows: RowNumbers) -> Batch:
    """Replace the share `fraction` of all entries by NaN."""
    shape = x.shape[1:]
    hit = _by_row(key, "missing", rows, lambda k: jax.random.bernoulli(k, fraction, shape))
    return jnp.where(hit, jnp.full_like(x, jnp.nan), x)


def constant(x: Batch, fraction: Array, key: RandomKey) -> Batch:
    """Set the share `fraction` of features to 1 in every example: their variance is 0."""
    hit = jax.random.bernoulli(keys.for_purpose(key, "constant"), fraction, x.shape[1:])
    return jnp.where(hit, jnp.ones_like(x), x)


def wrong_classes(targets: Batch, fraction: Array, key: RandomKey, rows: RowNumbers) -> Batch:
    """Replace the class of the share `fraction` of examples; targets are one-hot."""
    classes = targets.shape[-1]

    def shift(k: Array) -> Array:
        hit, by = jax.random.split(k)
        other = jax.random.randint(by, (), 1, max(classes, 2), jnp.int32)
        return jnp.where(jax.random.bernoulli(hit, fraction), other, 0)

    shifts = _by_row(key, "labels", rows, shift)
    return jax.vmap(lambda target, by: jnp.roll(target, by, axis=-1))(targets, shifts)


def wrong_numbers(targets: Batch, fraction: Array, key: RandomKey, rows: RowNumbers) -> Batch:
    """Negate the targets of the share `fraction` of examples."""
    hit = _by_row(key, "labels", rows, lambda k: jax.random.bernoulli(k, fraction))
    return jnp.where(hit.reshape(-1, *(1,) * (targets.ndim - 1)), -targets, targets)


def unequal(shares: Float[Array, "rows classes"], imbalance: Array) -> Float[Array, " rows"]:
    """Return each row's weight if class k is (1 - imbalance)^k as frequent as class 0."""
    classes = jnp.arange(shares.shape[-1], dtype=jnp.float32)
    weights = (1.0 - imbalance.astype(jnp.float32)) ** classes
    return shares.astype(jnp.float32) @ weights


def corrupted(
    x: Batch, targets: Batch, rows: RowNumbers, key: RandomKey,
    knobs: Mapping[str, Array], statics: Mapping[str, Any], *, classes: bool,
) -> tuple[Batch, Batch]:  # fmt: skip
    """Apply to a batch the corruptions that `statics` switch on, with the sizes in `knobs`."""
    if statics["constant_fraction"]:
        x = constant(x, knobs["constant_fraction"], key)
    if statics["outlier_fraction"]:
        x = outliers(x, knobs["outlier_fraction"], knobs["outlier_scale"], key, rows)
    if statics["nan_fraction"]:
        x = missing(x, knobs["nan_fraction"], key, rows)
    if statics["label_noise"]:
        wrong = wrong_classes if classes else wrong_numbers
        targets = wrong(targets, knobs["label_noise"], key, rows)
    return x, targets
