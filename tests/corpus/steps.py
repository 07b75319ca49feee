"""Training steps, each line marked with the phases that its operations have."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

F32 = np.float32
WEIGHT, X, Y = np.ones(3, F32), np.ones((4, 3), F32), np.zeros(4, F32)


def plain(weight, x, y):
    x = x / 255  # <-- forward

    def loss(weight):
        residual = x @ weight - y  # <-- forward, backward
        return jnp.mean(residual**2)  # <-- forward, backward

    value, gradient = jax.value_and_grad(loss)(weight)
    return weight - 0.1 * gradient, value  # <-- update


def only_the_gradient(weight, x, y):
    def loss(weight):
        root = jnp.sqrt(x @ weight)  # <-- forward, backward
        return jnp.sum(root * y)  # <-- backward

    gradient = jax.grad(loss)(weight)
    return weight - 0.1 * gradient  # <-- update


def residual_of_a_derivative(weight, x):
    # The derivative of atan2 divides during the forward sweep; atan2 itself is not needed.
    def loss(weight):
        angle = jnp.arctan2(weight, x)  # <-- backward
        return jnp.sum(angle)  # <-- backward

    return jax.grad(loss)(weight)


def decayed(weight, momentum, x, y):
    def loss(weight):
        return jnp.sum((x @ weight - y) ** 2)  # <-- forward, backward

    value, gradient = jax.value_and_grad(loss)(weight)
    decay = 1e-2 * jnp.sqrt(jnp.abs(weight)) * weight  # <-- update
    momentum = 0.9 * momentum + gradient + decay  # <-- update
    return weight - 0.1 * momentum, momentum, value  # <-- update


def with_optax(weight, state, x, y):
    def loss(weight):
        return jnp.sum((x @ weight - y) ** 2)  # <-- forward, backward

    value, gradient = jax.value_and_grad(loss)(weight)
    updates, state = ADAM.update(gradient, state, weight)  # <-- update
    return optax.apply_updates(weight, updates), state, value  # <-- update


ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def with_accuracy(weight, x, y):
    def loss(weight):
        logits = x @ weight  # <-- forward, backward
        return jnp.mean((logits - y) ** 2), logits  # <-- forward, backward

    (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(weight)
    accuracy = jnp.mean(jnp.float32(logits > y))  # <-- forward
    return weight - 0.1 * gradient, value, accuracy  # <-- update


def scanned(weight, x, y):
    def loss(weight, x, y):
        return jnp.sum((x @ weight - y) ** 2)  # <-- forward, backward

    def step(weight, xy):
        x, y = xy
        x = x - jnp.mean(x)  # <-- forward
        value, gradient = jax.value_and_grad(loss)(weight, x, y)
        return weight - 0.1 * gradient, value  # <-- update

    return lax.scan(step, weight, (x, y))


def unrolled(weight, x, y):
    def loss(weight, x):
        return jnp.sum((x @ weight - y) ** 2)  # <-- forward, backward

    value = None
    for _ in range(3):
        shifted = x + 1.0  # <-- forward
        value, gradient = jax.value_and_grad(loss)(weight, shifted)
        weight = weight - 0.1 * gradient - 1e-3 * weight  # <-- update
    return weight, value


def two_networks(first, second, x):
    # Of the first the loss is returned, of the second only the gradient.
    def critic(first, second):
        return jnp.sum(jnp.tanh(x @ first) * (x @ second))  # <-- forward, backward

    def generator(second, first):
        return -jnp.sum(jnp.tanh(x @ second) * jnp.exp(x @ first))  # <-- forward, backward

    value, gradient = jax.value_and_grad(critic)(first, second)
    first = first - 0.1 * gradient  # <-- update
    second = second - 0.1 * jax.grad(generator)(second, first)  # <-- update
    return first, second, value


def accumulated(weight, x, y):
    def loss(weight, x, y):
        return (x @ weight - y) ** 2  # <-- forward, backward

    def add(total, xy):
        value, gradient = jax.value_and_grad(loss)(weight, *xy)
        return 0.5 * total + gradient, value  # <-- update

    total, values = lax.scan(add, jnp.zeros_like(weight), (x, y))  # <-- update
    return weight - 0.1 * total, jnp.mean(values)  # <-- update, forward


def guarded(weight, x, y):
    def loss(weight):
        return jnp.sum((x @ weight - y) ** 2)  # <-- forward, backward

    value, gradient = jax.value_and_grad(loss)(weight)
    clipped = lax.cond(  # <-- update
        jnp.sum(gradient**2) > 1,  # <-- update
        lambda g: g / 2,  # <-- update
        lambda g: g * 3,  # <-- update
        gradient,
    )
    return weight - clipped, value  # <-- update


def with_own_derivative(weight, x):
    @jax.custom_vjp
    def exponential(z):
        return jnp.exp(z)  # <-- forward

    def ahead(z):
        out = jnp.exp(z)  # <-- forward
        return out, out

    def back(out, cotangent):
        return (cotangent * jnp.sin(out),)  # <-- backward

    exponential.defvjp(ahead, back)

    def loss(weight):
        return jnp.sum(exponential(x @ weight))  # <-- forward, backward

    value, gradient = jax.value_and_grad(loss)(weight)
    return weight - gradient, value  # <-- update


def recomputed(weight, x):
    @jax.checkpoint
    def layer(z):
        return jnp.sin(jnp.exp(z))  # <-- forward, backward

    def loss(weight):
        return jnp.sum(layer(x @ weight))  # <-- forward, backward

    value, gradient = jax.value_and_grad(loss)(weight)
    return weight - gradient, value  # <-- update


def marked_by_hand(weight, x):
    with jax.named_scope("data"):
        x = x / 255  # <-- data
    with jax.named_scope("forward"):
        value = jnp.sum((x @ weight) ** 2)  # <-- forward
    with jax.named_scope("backward"):
        gradient = 2 * (x @ weight) @ x  # <-- backward
    with jax.named_scope("update"):
        return weight - 0.1 * gradient, value  # <-- update


def without_derivatives(weight, x):
    return jnp.tanh(x @ weight) + 1  # <-- forward


def forward_mode(weight, x):
    return jax.jvp(partial(without_derivatives, x=x), (weight,), (weight,))  # <-- forward


STEPS = {
    plain: (WEIGHT, X, Y),
    only_the_gradient: (WEIGHT, X, Y),
    residual_of_a_derivative: (WEIGHT, WEIGHT),
    decayed: (WEIGHT, WEIGHT, X, Y),
    with_optax: (WEIGHT, jax.eval_shape(ADAM.init, WEIGHT), X, Y),
    with_accuracy: (WEIGHT, X, Y),
    scanned: (WEIGHT, np.ones((5, 4, 3), F32), np.zeros((5, 4), F32)),
    unrolled: (WEIGHT, X, Y),
    two_networks: (WEIGHT, WEIGHT, X),
    accumulated: (WEIGHT, X, Y),
    guarded: (WEIGHT, X, Y),
    with_own_derivative: (WEIGHT, X),
    recomputed: (WEIGHT, X),
    marked_by_hand: (WEIGHT, X),
    without_derivatives: (WEIGHT, X),
    forward_mode: (WEIGHT, X),
}
