"""A convolutional network; imported only when a model is built."""

from __future__ import annotations

import math

from flax import linen as nn
from jax import Array
from jaxtyping import Float

from nanlab.parts.layers import Network
from nanlab.parts.poolings import POOLINGS

SIDE = 3
"""Size of every convolution's kernel."""


class CNN(Network):
    """Convolutions, each with activation and pooling, then a dense layer.

    Convolutions are two-dimensional over images, (examples, rows, columns, channels), and
    one-dimensional over anything else, (examples, steps, channels).
    """

    @nn.compact
    def __call__(self, x: Float[Array, "examples ..."]) -> Float[Array, "examples ..."]:
        """Return the outputs, (examples, *outputs)."""
        x = self.natural(x)
        x = x[..., None] if x.ndim == 2 else x
        for _ in range(self.shape.depth):
            inside = self._convolved(x, self.shape.width * self.pieces.activation_inputs)
            x = self._pooled(self.joined(x, self.dropped(self.activated(inside))))
        return self.head(x.reshape(x.shape[0], -1))

    @nn.nowrap
    def _convolved(self, x: Array, units: int) -> Array:
        size = (SIDE,) * (x.ndim - 2)
        layer = nn.Conv(
            units,
            size,
            kernel_init=self.pieces.kernel_init,
            bias_init=self.pieces.bias_init(math.prod(size) * x.shape[-1]),
            dtype=self.pieces.dtype,
            param_dtype=self.pieces.param_dtype,
        )
        return self.weighted(layer)(x)

    @nn.nowrap
    def _pooled(self, x: Array) -> Array:
        apply = POOLINGS[self.pieces.pooling].apply
        sides = x.shape[1:-1]
        return x if apply is None or min(sides) < 2 else apply(x, (2,) * len(sides))
