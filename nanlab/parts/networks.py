"""Sizes and pieces -> Linen modules; imported only when a model is built."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from nanlab.parts.models import Pieces, Shape


class MLP(nn.Module):
    """Dense layers with an activation between them: (examples, features) -> (examples, outputs)."""

    shape: Shape
    pieces: Pieces

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The logits."""
        for _ in range(self.shape.depth):
            x = self.pieces.activation(self._dense(self.shape.width)(x))
        return self._dense(self.shape.outputs)(x)

    def _dense(self, units: int) -> nn.Dense:
        dtype = self.pieces.dtype
        return nn.Dense(units, kernel_init=self.pieces.kernel_init, dtype=dtype, param_dtype=dtype)


class Neuron(nn.Module):
    """One weight, one bias, one activation: (examples, features) -> (examples, 2).

    The neuron sees the first feature and its output is the logit of the second class; the first
    class's logit is 0. With one neuron there is nothing else that could overflow.
    """

    pieces: Pieces

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The logits (0, neuron)."""
        dtype = self.pieces.dtype
        weight = self.param("weight", self.pieces.kernel_init, (1, 1), dtype)
        bias = self.param("bias", nn.initializers.zeros, (), dtype)
        output = self.pieces.activation(x[:, 0] * weight[0, 0] + bias)
        return jnp.stack([jnp.zeros_like(output), output], axis=-1)
