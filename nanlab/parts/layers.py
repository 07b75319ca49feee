"""Layers shared by the models, for one lane; imports Flax.

What a model sows (`preactivations`, `activations`, `attention_logits`) is computed only if those
collections are mutable.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from nanlab.parts.norms import NORMS
from nanlab.parts.pieces import Pieces, Shape


class Network(nn.Module):
    """Base of the models: builds layers from sizes and pieces."""

    shape: Shape
    pieces: Pieces

    @nn.nowrap
    def dense(self, x: Float[Array, "*batch features"], units: int) -> Float[Array, "*batch units"]:
        """Apply a dense layer."""
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
        """Return the layer, its weights normalized if the norm is one of weights."""
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
        """Normalize the units, if the norm is one of units."""
        build = NORMS[self.pieces.norm].build
        return x if build is None else build(self.pieces)(x)

    @nn.nowrap
    def activated(self, x: Array) -> Array:
        """Apply the norm and the activation, in the configured order."""
        pieces = self.pieces
        x = self.normed(x) if pieces.norm_first else x
        self.sow("preactivations", "hidden", x)
        x = pieces.activation(x)
        self.sow("activations", "hidden", x)
        return x if pieces.norm_first else self.normed(x)

    @nn.nowrap
    def dropped(self, x: Array) -> Array:
        """Apply dropout, if configured; Flax's Dropout does not accept a traced rate."""
        rate = self.pieces.dropout
        if rate is None:
            return x
        with jax.named_scope("dropout"):
            mask = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, x.shape)
            return jnp.where(mask, x / (1.0 - rate), jnp.zeros_like(x))

    @nn.nowrap
    def hidden(self, x: Array, units: int) -> Array:
        """Apply a hidden layer: dense, norm, activation, dropout and the residual."""
        inside = self.dense(x, units * self.pieces.activation_inputs)
        return self.joined(x, self.dropped(self.activated(inside)))

    @nn.nowrap
    def joined(self, x: Array, branch: Array) -> Array:
        """Return the branch, plus x if residuals are configured and the shapes agree."""
        return x + branch if self.pieces.residual and x.shape == branch.shape else branch

    @nn.nowrap
    def head(self, x: Float[Array, "examples ..."]) -> Float[Array, "examples ..."]:
        """Compute all outputs from all features."""
        flat = x.reshape(x.shape[0], -1) if x.ndim > 2 else x
        outputs = self.dense(flat, math.prod(self.shape.outputs))
        return outputs if len(self.shape.outputs) == 1 else outputs.reshape(-1, *self.shape.outputs)

    @nn.nowrap
    def head_of_steps(
        self, x: Float[Array, "examples steps features"]
    ) -> Float[Array, "examples *steps outputs"]:
        """Compute the outputs of each step, or of the last one."""
        if len(self.shape.outputs) == 1:
            return self.dense(x[:, -1], self.shape.outputs[0])
        return self.dense(x, self.shape.outputs[-1])

    @nn.nowrap
    def natural(self, x: Array) -> Array:
        """Return the inputs in their natural shape."""
        return x if x.shape[1:] == self.shape.inputs else x.reshape(-1, *self.shape.inputs)

    @nn.nowrap
    def as_steps(self, x: Float[Array, "examples ..."]) -> Float[Array, "examples steps features"]:
        """Return the inputs as a sequence; an image becomes the sequence of its rows."""
        x = self.natural(x)
        if x.ndim == 2:
            return x[..., None]
        return x if x.ndim == 3 else x.reshape(*x.shape[:2], -1)
