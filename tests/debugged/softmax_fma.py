"""The compiled program alone rounds x - max(x) above 0, and exp overflows."""

import jax
import jax.numpy as jnp

TEMPERATURE = 0.07


@jax.jit
def act(weights, observation, scale):
    logits = scale * (observation @ weights)
    policy = jax.nn.softmax(logits / TEMPERATURE, axis=-1)  # <-- culprit
    return policy


if __name__ == "__main__":
    k1, k2 = jax.random.split(jax.random.key(1))
    weights = jax.random.normal(k1, (16, 37))
    observation = jax.random.normal(k2, (64, 16))
    for step in range(6):
        policy = act(weights, observation, 10.0 ** (step + 4))
        print(step, bool(jnp.isfinite(policy).all()))
