"""Sizes and pieces -> recurrent networks; imported only when a model is built."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from nanlab.parts.layers import Network


class Recurrent(Network):
    """Recurrent layers over the steps: (examples, steps, features) -> outputs.

    The outputs are of the last step, or of each step where each has a target. Anything but a
    sequence is read as one: a picture row by row, features one by one.
    """

    cell: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The outputs."""
        x = self.as_steps(x)
        for _ in range(self.shape.depth):
            cell = self._cell(x.shape[-1])
            # Flax makes the first carry in the parameters' type; the steps work in the other.
            carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
            carry = jax.tree.map(lambda each: each.astype(self.pieces.dtype), carry)
            over_steps = jnp.asarray(nn.RNN(cell)(x, initial_carry=carry))
            self.sow("activations", "hidden", over_steps)
            x = self.joined(x, self.dropped(self.normed(over_steps)))
        return self.head_of_steps(x)

    @nn.nowrap
    def _cell(self, features: int) -> nn.RNNCellBase:
        pieces, units = self.pieces, self.shape.width
        kinds = {"rnn": nn.SimpleCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}
        return kinds[self.cell](
            units,
            activation_fn=pieces.activation,
            kernel_init=pieces.kernel_init,
            recurrent_kernel_init=pieces.kernel_init,
            bias_init=pieces.bias_init(features + units),
            dtype=pieces.dtype,
            param_dtype=pieces.param_dtype,
        )
