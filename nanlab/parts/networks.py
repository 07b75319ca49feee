"""Sizes and pieces -> dense networks; imported only when a model is built."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from nanlab.parts.layers import Network


class MLP(Network):
    """Dense layers with an activation between them: (examples, ...) -> (examples, *outputs)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The outputs."""
        if x.ndim > 2:
            x = x.reshape(x.shape[0], -1)
        for _ in range(self.shape.depth):
            x = self.hidden(x, self.shape.width)
        return self.head(x)


class Neuron(Network):
    """One weight, one bias, one activation: (examples, ...) -> (examples, 1 or 2).

    The neuron sees the first feature. Its output is the one number, or the logit of the second
    class beside a 0 for the first. With one neuron there is nothing else that could overflow.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The number, or the logits (0, neuron)."""
        pieces = self.pieces
        x = x.reshape(x.shape[0], -1) if x.ndim > 2 else x
        weight = self.param("weight", pieces.kernel_init, (1, 1), pieces.param_dtype)
        bias = self.param("bias", pieces.bias_init(1), (), pieces.param_dtype)
        weight, bias = weight.astype(pieces.dtype), bias.astype(pieces.dtype)
        output = self.activated((x[:, 0] * weight[0, 0] + bias)[:, None])[:, 0]
        if self.shape.outputs == (1,):
            return output[:, None]
        return jnp.stack([jnp.zeros_like(output), output], axis=-1)
