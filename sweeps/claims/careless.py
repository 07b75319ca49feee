"""Layers and losses as they are first written, and with their edge cases handled (E10).

Each kind has two forms that are equal wherever both are finite (or nearly so, where an epsilon
stands in a root).
"""

import jax
import jax.numpy as jnp

import nanlab


def _scaled(z):
    """Divide by the largest magnitude, or by 1 where all of z is 0; (the quotient, the divisor)."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z), axis=-1, keepdims=True))
    largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    return z / largest, largest


def _safe_length(z):
    return jnp.sqrt(jnp.sum(z**2, axis=-1, keepdims=True) + jnp.finfo(z.dtype).eps)


def _mse(z, target, classes):
    return jnp.mean((z - target) ** 2)


def _after(layer):
    return lambda z, target, classes: _mse(layer(z), target, classes)


def _root_mean_square(z, target, classes):
    return jnp.sqrt(jnp.mean((z - target) ** 2))


def _safe_root_mean_square(z, target, classes):
    error, largest = _scaled((z - target).reshape(1, -1))
    return (largest * jnp.sqrt(jnp.mean(error**2) + jnp.finfo(z.dtype).eps))[0, 0]


def _safe_standard(z):
    unit, _ = _scaled(z - jnp.mean(z, axis=-1, keepdims=True))
    return unit / jnp.sqrt(jnp.mean(unit**2, axis=-1, keepdims=True) + jnp.finfo(z.dtype).eps)


def _picked(table, classes):
    return jnp.mean(jnp.take_along_axis(table, classes[:, None], axis=-1))


KINDS = {
    "sigmoid": (
        _after(lambda z: 1 / (1 + jnp.exp(-z))),
        _after(jax.nn.sigmoid),
    ),
    "softmax": (
        _after(lambda z: jnp.exp(z) / jnp.sum(jnp.exp(z), axis=-1, keepdims=True)),
        _after(jax.nn.softmax),
    ),
    "unit length": (
        _after(lambda z: z / jnp.sqrt(jnp.sum(z**2, axis=-1, keepdims=True))),
        _after(lambda z: _scaled(z)[0] / _safe_length(_scaled(z)[0])),
    ),
    "standard score": (
        _after(
            lambda z: (z - jnp.mean(z, axis=-1, keepdims=True)) / jnp.std(z, axis=-1, keepdims=True)
        ),
        _after(_safe_standard),
    ),
    "cross-entropy": (
        lambda z, target, classes: -_picked(jnp.log(jax.nn.softmax(z)), classes),
        lambda z, target, classes: -_picked(jax.nn.log_softmax(z), classes),
    ),
    "relative error": (
        lambda z, target, classes: jnp.mean(jnp.abs(z - target) / jnp.abs(target)),
        lambda z, target, classes: jnp.mean(
            jnp.abs(z - target) / jnp.maximum(jnp.abs(target), jnp.finfo(z.dtype).eps)
        ),
    ),
    "root mean square error": (_root_mean_square, _safe_root_mean_square),
}
"""Kind -> (as it is written, guarded), each (outputs, targets, classes) -> loss."""


def careless(kind: str = "softmax", form: str = "as written", precision: str = "float32"):
    """Sixteen examples through one matrix and one of KINDS, by gradient descent.

    The knob `numbers` multiplies the inputs, and the targets too of the errors that compare the
    outputs with them: 0 makes them all 0, 1000 large.
    """
    loss_of = KINDS[kind][0 if form == "as written" else 1]
    compares = kind in ("relative error", "root mean square error")

    def init(knobs, key):
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        scale = jnp.asarray(knobs["numbers"]).astype(precision)
        weights = jax.random.normal(keys[0], (8, 4), jnp.float32) / 8**0.5
        inputs = jax.random.normal(keys[1], (16, 8), jnp.float32).astype(precision) * scale
        target = jax.random.normal(keys[2], (16, 4), jnp.float32).astype(precision)
        target = target * scale if compares else target
        classes = jax.random.randint(keys[3], (16,), 0, 4, jnp.int32)
        data = {"inputs": inputs, "target": target, "classes": classes}
        return {"weights": weights.astype(precision), **data}

    def step(state, knobs, key):
        def loss(weights):
            return loss_of(state["inputs"] @ weights, state["target"], state["classes"])

        value, gradient = jax.value_and_grad(loss)(state["weights"])
        with jax.named_scope("update"):
            weights = state["weights"] - jnp.asarray(knobs["lr"]).astype(precision) * gradient
        return {**state, "weights": weights}, value

    return nanlab.Problem(init=init, step=step, knobs={"lr": 1e-4, "numbers": 1.0})
