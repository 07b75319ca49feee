"""The most frequently reported NaN: a where() guards a square root, but not its gradient.

python -m nanlab.debug examples/nan_in_a_where.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class Distances(nn.Module):
    """Distances between all pairs of points in a batch, also from each point to itself."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(8)(x))
        squared = jnp.sum((h[:, None] - h[None]) ** 2, axis=-1)
        return jnp.where(squared > 0, jnp.sqrt(squared), 0.0)


model, optimizer = Distances(), optax.adam(1e-2)
x = jax.random.normal(jax.random.key(0), (16, 4))
params = model.init(jax.random.key(1), x)
state = optimizer.init(params)


@jax.jit
def train_step(params, state, x):
    def loss(params):
        return jnp.mean((model.apply(params, x) - 1.0) ** 2)

    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state, value


for step in range(20):
    params, state, value = train_step(params, state, x)
    print(f"step {step}: loss {value:.4f}")
