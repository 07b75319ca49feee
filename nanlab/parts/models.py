"""Name -> model: a builder of a Flax Linen module from sizes, activation and initializer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from flax import linen
    from jax import Array


class Shape(NamedTuple):
    """The sizes of a model: hidden layers, units in each, outputs."""

    depth: int
    width: int
    outputs: int


class Pieces(NamedTuple):
    """What a model is built of, each already closed over the run's knobs."""

    activation: Callable[[Array], Array]
    kernel_init: Callable[..., Array]
    dtype: Any


ModelBuilder = Callable[[Shape, Pieces], "linen.Module"]


def mlp(shape: Shape, pieces: Pieces) -> linen.Module:
    """`depth` hidden layers of `width` units, dense, then a dense layer without activation."""
    from nanlab.parts.networks import MLP

    return MLP(shape=shape, pieces=pieces)


def neuron(shape: Shape, pieces: Pieces) -> linen.Module:
    """One weight and one bias on the first feature; the second class's logit against 0."""
    from nanlab.parts.networks import Neuron

    if shape.outputs != 2:
        raise ValueError(
            f"model 'neuron' has one output, so it needs a task with 2 classes, "
            f"not {shape.outputs}; task 'breast_cancer' has 2"
        )
    return Neuron(pieces=pieces)


MODELS: dict[str, ModelBuilder] = {"mlp": mlp, "neuron": neuron}
