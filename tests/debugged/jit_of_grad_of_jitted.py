"""A jitted gradient of a jitted loss, which is finite."""

import jax
import jax.numpy as jnp


@jax.jit
def loss(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


grad_fn = jax.jit(jax.value_and_grad(loss))
w = jnp.zeros(3)
x = jnp.ones((5, 3))
y = jnp.ones(5)
for i in range(3):
    value, g = grad_fn(w, x, y)
    w = w - 0.1 * g
    print(i, value, w)
