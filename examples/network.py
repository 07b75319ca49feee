"""A user-defined network and data set in a grid, trained by nanlab.

    python -m nanlab.sweep examples/network.toml

The fields `width`, `outputs`, `activation` and `kernel_init` are filled in from the grid, so
`width`, `activation`, `initializer` and `init_scale` are axes of this network too.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class Gated(nn.Module):
    """Two layers whose units are multiplied by gates, as in gated linear units."""

    width: int
    outputs: int
    activation: Callable = nn.silu
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            units = nn.Dense(self.width, kernel_init=self.kernel_init)(x)
            gates = nn.Dense(self.width, kernel_init=self.kernel_init)(x)
            x = units * self.activation(gates)
        # A norm without an epsilon: 0/0 if all gates are closed.
        x = x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True))
        return nn.Dense(self.outputs, kernel_init=self.kernel_init)(x)


def spirals():
    """Return 300 points of three spirals: inputs (300, 2) and classes (300,)."""
    turn = np.linspace(0.0, 1.0, 100)
    points = [
        turn[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        for angle in (4.0 * turn + 2.0 * np.pi * k / 3.0 for k in range(3))
    ]
    return np.concatenate(points), np.repeat(np.arange(3), 100)
