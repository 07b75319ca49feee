"""Dense networks; imported only when a model is built."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from nanlab.parts.layers import Network


class MLP(Network):
    """Dense layers with activations between them."""

    @nn.compact
    def __call__(self, x: Float[Array, "examples ..."]) -> Float[Array, "examples ..."]:
        """Return the outputs, (examples, *outputs)."""
        if x.ndim > 2:
            x = x.reshape(x.shape[0], -1)
        for _ in range(self.shape.depth):
            x = self.hidden(x, self.shape.width)
        return self.head(x)


class Neuron(Network):
    """One weight, one bias, one activation, on the first feature: nothing else can overflow."""

    @nn.compact
    def __call__(self, x: Float[Array, "examples ..."]) -> Float[Array, "examples outputs"]:
        """Return the neuron's output, or the logits (0, output) of two classes."""
        pieces = self.pieces
        x = x.reshape(x.shape[0], -1) if x.ndim > 2 else x
        weight = self.param("weight", pieces.kernel_init, (1, 1), pieces.param_dtype)
        bias = self.param("bias", pieces.bias_init(1), (), pieces.param_dtype)
        weight, bias = weight.astype(pieces.dtype), bias.astype(pieces.dtype)
        output = self.activated((x[:, 0] * weight[0, 0] + bias)[:, None])[:, 0]
        if self.shape.outputs == (1,):
            return output[:, None]
        return jnp.stack([jnp.zeros_like(output), output], axis=-1)
