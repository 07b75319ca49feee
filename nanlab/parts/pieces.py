"""The sizes and pieces that a model is built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jax import Array


class Shape(NamedTuple):
    """The sizes of a model.

    Attributes:
        depth: hidden layers.
        width: units in each (channels of a convolution).
        outputs: of one example: (classes,), or (steps, classes) where each step has a target.
        inputs: the natural shape of one example: (features,), (rows, columns, channels) of a
            picture or (steps, features) of a sequence. The array itself may be flat.
    """

    depth: int
    width: int
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


class Pieces(NamedTuple):
    """What a model is built of, each already closed over the run's knobs.

    Attributes:
        activation: elementwise, or over the last axis.
        activation_inputs: how many units make one of the activation's.
        kernel_init: (key, shape, dtype) -> weights.
        bias_init: fan_in -> (key, shape, dtype) -> biases.
        dtype, param_dtype: of the computation, and of the parameters.
        norm: a name of `norms.NORMS`.
        norm_epsilon: a scalar.
        norm_first: whether a norm stands before the activation (or a transformer's branch).
        dropout: the share of units dropped, or None for none.
        residual: whether a hidden layer's input is added to its output where shapes agree.
        pooling: a name of `convolutions.POOLINGS`.
        heads: of a transformer's attention.
        query_key_norm: whether queries and keys are normalized.
        attention_scale: multiplies the attention's logits.
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
    dropout: Array | None
    residual: bool
    pooling: str
    heads: int
    query_key_norm: bool
    attention_scale: Any
