"""Which pairs of learning rates converge? The trainability fractal (Sohl-Dickstein 2024).

    python -m nanlab.sweep examples/fractal.toml

One hidden layer of 16 tanh units with mean-field scaling learns 272 normal points, as many as it
has weights, on full batches; each layer has its own learning rate. A run has converged if the mean
of its last 20 losses is below its first loss. This mean is the loss reported here, so that with
trained_margin = 0 the outcome `trained` means exactly that.
"""

import jax
import jax.numpy as jnp
import numpy as np

import nanlab

WINDOW = 20


def make_problem(width: int = 16, examples: int = 272) -> nanlab.Problem:
    """Build the training in float64, with knobs lr_hidden and lr_output."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((examples, width))
    targets = rng.standard_normal((examples, 1))

    def init(knobs, key):
        hidden, output = jax.random.split(key)
        weights = (
            jax.random.normal(hidden, (width, width), jnp.float64),
            jax.random.normal(output, (width, 1), jnp.float64),
        )
        return weights, jnp.zeros(WINDOW, jnp.float64), jnp.int32(0)

    def loss_of(weights):
        hidden = jnp.tanh(inputs @ weights[0] / np.sqrt(width))
        return jnp.mean(jnp.square(hidden @ weights[1] / width - targets))

    def step(state, knobs, key):
        weights, losses, taken = state
        loss, gradient = jax.value_and_grad(loss_of)(weights)
        with jax.named_scope("update"):
            rates = (knobs["lr_hidden"], knobs["lr_output"])
            weights = tuple(
                w - rate * g for w, rate, g in zip(weights, rates, gradient, strict=True)
            )
        losses = losses.at[taken % WINDOW].set(loss)
        mean = jnp.sum(losses) / jnp.minimum(taken + 1, WINDOW)
        return (weights, losses, taken + 1), nanlab.Metrics(mean)

    return nanlab.Problem(init=init, step=step, knobs={"lr_hidden": 1.0, "lr_output": 1.0})
