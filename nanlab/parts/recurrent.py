"""Recurrent networks; imported only when a model is built."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from nanlab.parts.layers import Network


class Recurrent(Network):
    """Recurrent layers over the steps; an image is read row by row, features one by one.

    The outputs are those of the last step, or of each step if each has a target.
    """

    cell: str

    @nn.compact
    def __call__(self, x: Float[Array, "examples ..."]) -> Float[Array, "examples ..."]:
        """Return the outputs, (examples, *outputs)."""
        x = self.as_steps(x)
        for number in range(self.shape.depth):
            cell = self._cell(x.shape[-1], number)
            # Flax initializes the carry in the parameters' dtype; the steps use the computation's.
            carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
            carry = jax.tree.map(lambda leaf: leaf.astype(self.pieces.dtype), carry)
            over_steps = jnp.asarray(
                nn.RNN(cell, variable_axes={"preactivations": 1})(x, initial_carry=carry)
            )
            self.sow("activations", "hidden", over_steps)
            x = self.joined(x, self.dropped(self.normed(over_steps)))
        return self.head_of_steps(x)

    @nn.nowrap
    def _cell(self, features: int, number: int) -> nn.RNNCellBase:
        pieces, units = self.pieces, self.shape.width
        activation = pieces.activation
        # A unit of the other cells has two activations, and gates.
        if self.cell == "rnn":
            activation = Sowing(activation, name=f"hidden_{number}")
        kinds = {"rnn": nn.SimpleCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}
        return kinds[self.cell](
            units,
            activation_fn=activation,
            kernel_init=pieces.kernel_init,
            recurrent_kernel_init=pieces.kernel_init,
            bias_init=pieces.bias_init(features + units),
            dtype=pieces.dtype,
            param_dtype=pieces.param_dtype,
        )


class Sowing(nn.Module):
    """An activation that sows its input, which a cell does not expose.

    If that collection is not mutable, the program equals that of the activation alone: nowrap keeps
    this module's name out of its equations' scopes.
    """

    activation: Callable[[Array], Array]

    @nn.nowrap
    def __call__(self, x: Array) -> Array:
        """Return the activation of x."""
        self.sow("preactivations", "hidden", x)
        return self.activation(x)
