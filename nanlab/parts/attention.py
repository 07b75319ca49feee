"""A small causal transformer; imported only when a model is built."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float

from nanlab.parts.layers import Network

Heads = Float[Array, "examples steps heads features"]
AttentionMask = Bool[Array, "examples 1 steps steps"]


class Transformer(Network):
    """Causal attention blocks over the steps, projected to width units with learned positions.

    The outputs are those of the last step, or of each step if each has a target.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "examples ..."]) -> Float[Array, "examples ..."]:
        """Return the outputs, (examples, *outputs)."""
        pieces, width = self.pieces, self.shape.width
        x = self.dense(self.as_steps(x), width)
        positions = self.param(
            "positions", pieces.kernel_init, (x.shape[1], width), pieces.param_dtype
        )
        x = x + positions.astype(pieces.dtype)
        for _ in range(self.shape.depth):
            x = self._block(x, self._attended)
            x = self._block(x, self._transformed)
        return self.head_of_steps(self.normed(x) if pieces.norm_first else x)

    @nn.nowrap
    def _block(self, x: Array, branch: Callable[[Array], Array]) -> Array:
        """Return x plus its branch, normalized before the branch or after the sum."""
        if self.pieces.norm_first:
            return x + self.dropped(branch(self.normed(x)))
        return self.normed(x + self.dropped(branch(x)))

    @nn.nowrap
    def _attended(self, x: Array) -> Array:
        pieces = self.pieces
        layer = nn.MultiHeadDotProductAttention(
            num_heads=pieces.heads,
            kernel_init=pieces.kernel_init,
            bias_init=pieces.bias_init(x.shape[-1]),
            normalize_qk=pieces.query_key_norm,
            attention_fn=self._attention,
            deterministic=True,
            dtype=pieces.dtype,
            param_dtype=pieces.param_dtype,
        )
        steps = jnp.ones(x.shape[:2], bool)
        return layer(x, mask=nn.make_causal_mask(steps, dtype=jnp.bool_))

    @nn.nowrap
    def _attention(self, query: Heads, key: Heads, value: Heads, *, mask: AttentionMask) -> Heads:
        # Flax passes the arguments named by the signature, and silently drops the others.
        query = query * self.pieces.attention_scale
        logits = jnp.einsum("...qhd,...khd->...hqk", query, key) / jnp.sqrt(
            jnp.asarray(query.shape[-1], query.dtype)
        )
        self.sow("attention_logits", "hidden", logits)
        return nn.dot_product_attention(query, key, value, mask=mask)

    @nn.nowrap
    def _transformed(self, x: Array) -> Array:
        units = 4 * self.shape.width * self.pieces.activation_inputs
        inside = self.dense(x, units)
        self.sow("preactivations", "hidden", inside)
        inside = self.pieces.activation(inside)
        self.sow("activations", "hidden", inside)
        return self.dense(inside, self.shape.width)
