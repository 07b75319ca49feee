"""Clean examples -> examples with faults of the data, the same of an example at every step.

Each function takes a run's own key and the examples' rows: what happens to an example is a
function of (seed, purpose, row), and of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nanlab.backend import keys


def _by_row(key: Array, purpose: str, rows: Array, draw: Callable[[Array], Array]) -> Array:
    base = keys.for_purpose(key, purpose)
    return jax.vmap(lambda row: draw(keys.for_step(base, row)))(rows)


def outliers(x: Array, fraction: Array, scale: Array, key: Array, rows: Array) -> Array:
    """The share `fraction` of all entries multiplied by `scale`."""
    shape = x.shape[1:]
    hit = _by_row(key, "outliers", rows, lambda k: jax.random.bernoulli(k, fraction, shape))
    return jnp.where(hit, x * scale, x)


def missing(x: Array, fraction: Array, key: Array, rows: Array) -> Array:
    """The share `fraction` of all entries NaN."""
    shape = x.shape[1:]
    hit = _by_row(key, "missing", rows, lambda k: jax.random.bernoulli(k, fraction, shape))
    return jnp.where(hit, jnp.full_like(x, jnp.nan), x)


def constant(x: Array, fraction: Array, key: Array) -> Array:
    """The share `fraction` of features 1 in every example: their variance is 0."""
    hit = jax.random.bernoulli(keys.for_purpose(key, "constant"), fraction, x.shape[1:])
    return jnp.where(hit, jnp.ones_like(x), x)


def wrong_classes(targets: Array, fraction: Array, key: Array, rows: Array) -> Array:
    """The share `fraction` of examples with another class; targets are one-hot."""
    classes = targets.shape[-1]

    def shift(k: Array) -> Array:
        hit, by = jax.random.split(k)
        other = jax.random.randint(by, (), 1, max(classes, 2), jnp.int32)
        return jnp.where(jax.random.bernoulli(hit, fraction), other, 0)

    shifts = _by_row(key, "labels", rows, shift)
    return jax.vmap(lambda target, by: jnp.roll(target, by, axis=-1))(targets, shifts)


def wrong_numbers(targets: Array, fraction: Array, key: Array, rows: Array) -> Array:
    """The share `fraction` of examples with their numbers' signs turned."""
    hit = _by_row(key, "labels", rows, lambda k: jax.random.bernoulli(k, fraction))
    return jnp.where(hit.reshape(-1, *(1,) * (targets.ndim - 1)), -targets, targets)


def unequal(shares: Array, imbalance: Array) -> Array:
    """Each row's weight where class k comes (1 - imbalance)^k as often; shares: (rows, classes)."""
    classes = jnp.arange(shares.shape[-1], dtype=jnp.float32)
    each = (1.0 - imbalance.astype(jnp.float32)) ** classes
    return shares.astype(jnp.float32) @ each


def corrupted(
    x: Array, targets: Array, rows: Array, key: Array,
    knobs: Mapping[str, Array], statics: Mapping[str, Any], *, classes: bool,
) -> tuple[Array, Array]:  # fmt: skip
    """A batch with all the faults that `statics` say are used, of the sizes that `knobs` say."""
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
