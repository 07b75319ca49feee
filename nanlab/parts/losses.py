"""Name -> loss, a function of (outputs, one-hot targets) to one number, with its best constant.

Shapes: outputs and targets are (examples, classes); a loss is the mean over the examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nanlab._lazy import jnp, optax

if TYPE_CHECKING:
    from jax import Array


class Loss(NamedTuple):
    """A loss, and what the best predictor that ignores its input gets.

    `best_constant` takes the classes' shares of the data, shape (classes,), and returns the
    smallest mean loss that one constant output can reach.
    """

    apply: Callable[[Array, Array], Array]
    best_constant: Callable[[np.ndarray], float]


def mse(outputs: Array, targets: Array) -> Array:
    """Mean squared error over examples and classes."""
    return jnp.mean(jnp.square(outputs - targets))


def softmax_cross_entropy(outputs: Array, targets: Array) -> Array:
    """Cross-entropy of the softmax in its stable form, log-sum-exp less the logit (Optax)."""
    return jnp.mean(optax.softmax_cross_entropy(outputs, targets))


def softmax_cross_entropy_naive(outputs: Array, targets: Array) -> Array:
    """Cross-entropy as people write it: exponentials, their share of the sum, its logarithm."""
    exponentials = jnp.exp(outputs)
    probabilities = exponentials / jnp.sum(exponentials, axis=-1, keepdims=True)
    return -jnp.mean(jnp.sum(targets * jnp.log(probabilities), axis=-1))


def _variance(shares: np.ndarray) -> float:
    return float(np.mean(shares * (1.0 - shares)))


def _entropy(shares: np.ndarray) -> float:
    present = shares[shares > 0]
    return float(-np.sum(present * np.log(present)))


LOSSES: dict[str, Loss] = {
    "mse": Loss(mse, _variance),
    "softmax_cross_entropy": Loss(softmax_cross_entropy, _entropy),
    "softmax_cross_entropy_naive": Loss(softmax_cross_entropy_naive, _entropy),
}
