"""Pieces -> layers: what every model here is built of, for one lane; imports Flax.

What a model sows (`preactivations`, `activations`, `attention_logits`) is computed only where an
observer asks for it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from nanlab.parts.norms import NORMS
from nanlab.parts.pieces import Pieces, Shape


class Network(nn.Module):
    """A model's sizes and pieces, and the layers that they make."""

    shape: Shape
    pieces: Pieces

    @nn.nowrap
    def dense(self, x: Array, units: int) -> Array:
        """A dense layer: (..., features) -> (..., units)."""
        layer = nn.Dense(
            units,
            kernel_init=self.pieces.kernel_init,
            bias_init=self.pieces.bias_init(x.shape[-1]),
            dtype=self.pieces.dtype,
            param_dtype=self.pieces.param_dtype,
        )
        return self.weighted(layer)(x)

    @nn.nowrap
    def weighted(self, layer: nn.Module) -> nn.Module:
        """The layer, its weights normalized if that is asked for."""
        if not NORMS[self.pieces.norm].of_weights:
            return layer
        return nn.WeightNorm(
            layer,
            epsilon=self.pieces.norm_epsilon,
            dtype=self.pieces.dtype,
            param_dtype=self.pieces.param_dtype,
        )

    @nn.nowrap
    def normed(self, x: Array) -> Array:
        """The units normalized, if that is asked for."""
        build = NORMS[self.pieces.norm].build
        return x if build is None else build(self.pieces)(x)

    @nn.nowrap
    def activated(self, x: Array) -> Array:
        """The activation of x, between its norms."""
        pieces = self.pieces
        x = self.normed(x) if pieces.norm_first else x
        self.sow("preactivations", "hidden", x)
        x = pieces.activation(x)
        self.sow("activations", "hidden", x)
        return x if pieces.norm_first else self.normed(x)

    @nn.nowrap
    def dropped(self, x: Array) -> Array:
        """Some of the units set to 0 and the rest scaled up, if that is asked for.

        Flax's Dropout does not take a rate that is traced.
        """
        rate = self.pieces.dropout
        if rate is None:
            return x
        with jax.named_scope("dropout"):
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, x.shape)
            return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))

    @nn.nowrap
    def hidden(self, x: Array, units: int) -> Array:
        """A hidden dense layer: dense, norm, activation, dropout and the residual."""
        inside = self.dense(x, units * self.pieces.activation_inputs)
        return self.joined(x, self.dropped(self.activated(inside)))

    @nn.nowrap
    def joined(self, x: Array, branch: Array) -> Array:
        """The branch, plus what it came from if that is asked for and the shapes agree."""
        return x + branch if self.pieces.residual and x.shape == branch.shape else branch

    @nn.nowrap
    def head(self, x: Array) -> Array:
        """All outputs from all features: (examples, ...) -> (examples, *outputs)."""
        flat = x.reshape(x.shape[0], -1) if x.ndim > 2 else x
        outputs = self.dense(flat, math.prod(self.shape.outputs))
        return outputs if len(self.shape.outputs) == 1 else outputs.reshape(-1, *self.shape.outputs)

    @nn.nowrap
    def head_of_steps(self, x: Array) -> Array:
        """Outputs from (examples, steps, features): of each step, or of the last alone."""
        if len(self.shape.outputs) == 1:
            return self.dense(x[:, -1], self.shape.outputs[0])
        return self.dense(x, self.shape.outputs[-1])

    @nn.nowrap
    def natural(self, x: Array) -> Array:
        """The inputs in their natural shape."""
        return x if x.shape[1:] == self.shape.inputs else x.reshape(-1, *self.shape.inputs)

    @nn.nowrap
    def as_steps(self, x: Array) -> Array:
        """The inputs as a sequence, (examples, steps, features): of a picture its rows."""
        x = self.natural(x)
        if x.ndim == 2:
            return x[..., None]
        return x if x.ndim == 3 else x.reshape(*x.shape[:2], -1)
