"""Table of models: builders of Flax Linen modules from sizes and pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanlab.parts.entry import Entry
from nanlab.parts.pieces import Pieces, Shape

if TYPE_CHECKING:
    from flax import linen


@dataclass(frozen=True)
class Model(Entry):
    """A model.

    Attributes:
        build: (shape, pieces) -> Linen module of a batch of inputs.
        one_output: whether it has only one output: a number, or the logit of the second class.
        any_activation: whether it supports activations that take several units as input.
        knobs: knobs that other models do not read.
        statics: statics that other models do not read.
    """

    build: Callable[[Shape, Pieces], linen.Module]
    one_output: bool = False
    any_activation: bool = True
    knobs: tuple[str, ...] = ()
    statics: tuple[str, ...] = ()


def _neuron(shape: Shape, pieces: Pieces) -> linen.Module:
    from nanlab.parts.networks import Neuron

    if shape.outputs not in ((1,), (2,)):
        raise ValueError(
            f"model 'neuron' has one output, so it needs a task with 2 classes or one number, "
            f"not {shape.outputs}; task 'breast_cancer' has 2 classes"
        )
    return Neuron(shape=shape, pieces=pieces)


def _mlp(shape: Shape, pieces: Pieces) -> linen.Module:
    from nanlab.parts.networks import MLP

    return MLP(shape=shape, pieces=pieces)


def _cnn(shape: Shape, pieces: Pieces) -> linen.Module:
    from nanlab.parts.convolutions import CNN

    return CNN(shape=shape, pieces=pieces)


def _recurrent(cell: str) -> Callable[[Shape, Pieces], linen.Module]:
    def build(shape: Shape, pieces: Pieces) -> linen.Module:
        from nanlab.parts.recurrent import Recurrent

        return Recurrent(shape=shape, pieces=pieces, cell=cell)

    return build


def _transformer(shape: Shape, pieces: Pieces) -> linen.Module:
    from nanlab.parts.attention import Transformer

    return Transformer(shape=shape, pieces=pieces)


MODELS: dict[str, Model] = {
    "mlp": Model(
        "depth hidden layers of width units, then a dense layer without activation.",
        "Rumelhart et al. 1986; flax.linen.Dense",
        _mlp,
    ),
    "neuron": Model(
        "One weight and one bias on the first feature; of two classes, the second's logit.",
        "McCulloch and Pitts 1943",
        _neuron,
        one_output=True,
        any_activation=False,
    ),
    "cnn": Model(
        "depth convolutions of size 3 with width channels, each pooled, then a dense layer; "
        "one-dimensional on anything but images.",
        "LeCun et al. 1989; flax.linen.Conv",
        _cnn,
        statics=("pooling",),
    ),
    "rnn": Model(
        "depth simple recurrent layers over the steps (of an image, its rows).",
        "Elman 1990; flax.linen.SimpleCell",
        _recurrent("rnn"),
        any_activation=False,
    ),
    "lstm": Model(
        "depth long short-term memory layers; activation is the cell's own, usually tanh.",
        "Hochreiter and Schmidhuber 1997; flax.linen.LSTMCell",
        _recurrent("lstm"),
        any_activation=False,
    ),
    "gru": Model(
        "depth gated recurrent layers; activation is the cell's own, usually tanh.",
        "Cho et al. 2014; flax.linen.GRUCell",
        _recurrent("gru"),
        any_activation=False,
    ),
    "transformer": Model(
        "depth causal blocks of attention and a dense layer of 4 * width, over the steps.",
        "Vaswani et al. 2017; flax.linen.MultiHeadDotProductAttention",
        _transformer,
        knobs=("attention_scale",),
        statics=("heads", "query_key_norm"),
    ),
}
