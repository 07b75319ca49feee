"""Name -> activation, an elementwise function of (x, knobs)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from nanlab._lazy import jax

if TYPE_CHECKING:
    from jax import Array

Activation = Callable[["Array", Mapping[str, "Array"]], "Array"]

ACTIVATIONS: dict[str, Activation] = {
    "relu": lambda x, knobs: jax.nn.relu(x),
    "leaky_relu": lambda x, knobs: jax.nn.leaky_relu(x, knobs["negative_slope"]),
    "elu": lambda x, knobs: jax.nn.elu(x),
    "gelu": lambda x, knobs: jax.nn.gelu(x),
    "tanh": lambda x, knobs: jax.nn.tanh(x),
    "sigmoid": lambda x, knobs: jax.nn.sigmoid(x),
    "softplus": lambda x, knobs: jax.nn.softplus(x),
    "identity": lambda x, knobs: x,
}
