"""The sizes and pieces that a model is built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jax import Array
    from jaxtyping import Float


class Shape(NamedTuple):
    """Sizes of a model.

    Attributes:
        depth: number of hidden layers.
        width: units in each (channels of a convolution).
        outputs: output shape of an example, (classes,), or (steps, classes) if each step has a
            target.
        inputs: natural shape of an example: (features,), (rows, columns, channels) of an image, or
            (steps, features) of a sequence; the array itself may be flat.
    """

    depth: int
    width: int
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


class Pieces(NamedTuple):
    """Building blocks of a model, closed over the run's knobs.

    Attributes:
        activation: activation, elementwise or over the last axis.
        activation_inputs: number of units that one output of the activation takes.
        kernel_init: (key, shape, dtype) -> weights.
        bias_init: fan_in -> (key, shape, dtype) -> biases.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
        norm: key of `norms.NORMS`.
        norm_epsilon: epsilon of the norm, a scalar (Flax declares a float).
        norm_first: whether the norm precedes the activation (or a transformer's branch).
        dropout: share of units to drop; None for no dropout.
        residual: whether a hidden layer's input is added to its output if the shapes agree.
        pooling: key of `poolings.POOLINGS`.
        heads: heads of a transformer's attention.
        query_key_norm: whether queries and keys are normalized.
        attention_scale: factor of the attention's logits.
    """

    activation: Callable[[Array], Array]
    activation_inputs: int
    kernel_init: Callable[..., Array]
    bias_init: Callable[[int], Callable[..., Array]]
    dtype: Any
    param_dtype: Any
    norm: str
    norm_epsilon: Any
    norm_first: bool
    dropout: Float[Array, ""] | None
    residual: bool
    pooling: str
    heads: int
    query_key_norm: bool
    attention_scale: Float[Array, ""]
