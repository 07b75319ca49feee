"""A policy gradient with a squashed Gaussian: log(1 - tanh(u)^2) at a saturated action.

    python -m nanlab.sweep examples/squashed_gaussian.toml

The policy's action is a = tanh(u) with normal u; its log-probability subtracts log(1 - a^2), which
is log 0 if a rounds to 1. `correction` selects how this term is computed: "naive" as it stands,
"epsilon" with 1e-6 added inside the log, "stable" as 2 (log 2 - u - softplus(-2 u)).
"""

import math

import jax
import jax.numpy as jnp

import nanlab

CORRECTIONS = {
    "naive": lambda u: jnp.log(1.0 - jnp.tanh(u) ** 2),
    "epsilon": lambda u: jnp.log(1.0 - jnp.tanh(u) ** 2 + 1e-6),
    "stable": lambda u: 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u)),
}


def make_problem(correction: str = "naive", batch: int = 64) -> nanlab.Problem:
    """Build a linear policy rewarded for large actions, with knobs lr and spread (initial std)."""
    correct = CORRECTIONS[correction]

    def init(knobs, key):
        weights = 0.1 * jax.random.normal(key, (4,), jnp.float32)
        return {"weights": weights, "log_std": jnp.log(knobs["spread"]).astype(jnp.float32)}

    def step(state, knobs, key):
        seen, noise = jax.random.split(key)
        observations = jax.random.normal(seen, (batch, 4), jnp.float32)
        draws = jax.random.normal(noise, (batch,), jnp.float32)

        def loss_of(policy):
            mean, deviation = observations @ policy["weights"], jnp.exp(policy["log_std"])
            u = jax.lax.stop_gradient(mean + deviation * draws)
            reward = jnp.tanh(u)
            normal = -0.5 * ((u - mean) / deviation) ** 2 - policy["log_std"]
            log_probability = normal - 0.5 * math.log(2 * math.pi) - correct(u)
            return -jnp.mean(reward * log_probability)

        loss, gradient = jax.value_and_grad(loss_of)(state)
        with jax.named_scope("update"):
            state = jax.tree.map(lambda p, g: p - knobs["lr"] * g, state, gradient)
        return state, nanlab.Metrics(loss)

    return nanlab.Problem(init=init, step=step, knobs={"lr": 0.01, "spread": 1.0})
