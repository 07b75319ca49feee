"""A two-layer ReLU network on digits; its learning rate is given in units of 1 / curvature."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import nanlab


def relu_network(width: int = 512, examples: int = 100):
    """Train v.relu(x W) on even against odd digits with full batches and half the squared error.

    The knob `product` is the learning rate times lambda_0, the largest eigenvalue of J J^T /
    examples at initialization, J the outputs' derivatives by the weights.
    """
    images, labels = load_digits(return_X_y=True)
    images = (images[:examples] / 16.0).astype(np.float32)
    images = images - images.mean(axis=0)
    targets = np.where(labels[:examples] % 2 == 0, 1.0, -1.0).astype(np.float32)

    def outputs(weights):
        return jax.nn.relu(images @ weights["first"]) @ weights["second"]

    def loss_of(weights):
        return 0.5 * jnp.mean((outputs(weights) - targets) ** 2)

    def curvature(weights):
        """Return lambda_0, by the power method."""
        _, backward = jax.vjp(outputs, weights)

        def multiplied(vector, _):
            (tangent,) = backward(vector)
            product = jax.jvp(outputs, (weights,), (tangent,))[1] / examples
            norm = jnp.linalg.norm(product)
            return product / norm, norm

        start = jnp.full(examples, 1.0 / math.sqrt(examples), jnp.float32)
        return jax.lax.scan(multiplied, start, None, length=50)[1][-1]

    def init(knobs, key):
        first, second = jax.random.split(key)
        weights = {
            "first": jax.random.normal(first, (64, width), jnp.float32) * math.sqrt(2.0 / 64.0),
            "second": jax.random.normal(second, (width,), jnp.float32) / math.sqrt(width),
        }
        return weights, (knobs["product"] / curvature(weights)).astype(jnp.float32)

    def step(state, knobs, key):
        weights, rate = state
        loss, gradient = jax.value_and_grad(loss_of)(weights)
        weights = jax.tree.map(lambda w, g: w - rate * g, weights, gradient)
        return (weights, rate), loss

    return nanlab.Problem(init=init, step=step, knobs={"product": 1.0})
