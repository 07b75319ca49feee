"""A schedule that takes minimum for maximum divides 0 by sqrt(0) in step 0, under pmap."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import jax_utils
from flax.training.train_state import TrainState

WARMUP = 10


def schedule(step):
    rate = 0.05
    rate = rate * jnp.minimum(1.0, step / WARMUP)
    rate = rate / jnp.sqrt(jnp.minimum(step, WARMUP))  # <-- culprit
    return rate


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.gelu(nn.Dense(32)(x)))


@functools.partial(jax.pmap, axis_name="batch", donate_argnums=0)
def train_step(state, batch):
    def loss_fn(params):
        logits = state.apply_fn({"params": params}, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    grads = jax.lax.pmean(grads, "batch")
    return state.apply_gradients(grads=grads), jax.lax.pmean(loss, "batch")


def setup():
    model = Model()
    params = model.init(jax.random.key(0), jnp.ones((1, 8)))["params"]
    state = TrainState.create(
        apply_fn=model.apply, params=params, tx=optax.adamw(schedule, weight_decay=0.01)
    )
    return jax_utils.replicate(state)


def batch(i):
    x = jax.random.normal(jax.random.key(i), (4, 16, 8))
    return {"x": x, "y": jnp.argmax(x[..., :5], -1)}


if __name__ == "__main__":
    state = setup()
    for i in range(3):
        state, loss = train_step(state, batch(i))
        print(i, loss[0])
