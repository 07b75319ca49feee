"""parts -> Problem: the supervised training step, for one lane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from nanlab import keys
from nanlab._jax import weak
from nanlab.codes import largest_magnitude
from nanlab.parts.activations import ACTIVATIONS
from nanlab.parts.initializers import INITIALIZERS
from nanlab.parts.losses import LOSSES
from nanlab.parts.models import MODELS, Pieces, Shape
from nanlab.parts.optimizers import OPTIMIZERS
from nanlab.parts.precision import PRECISIONS
from nanlab.parts.tasks import Examples, load_examples
from nanlab.problem import Knobs, Metrics, Problem


class TrainState(NamedTuple):
    """What a training carries from step to step: Linen parameters, Optax's state."""

    params: Any
    opt_state: Any


KNOBS = (
    "lr", "momentum", "decay", "b1", "b2", "optimizer_epsilon",
    "input_scale", "negative_slope", "init_scale",
)  # fmt: skip


def gradient_norm(gradient: Any) -> Array:
    """The Euclidean norm of all leaves, float64; scaled by the maximum, so that squares fit.

    NaN where the gradient holds a NaN, inf where it holds an inf and no NaN.
    """
    leaves = jax.tree.leaves(gradient)
    largest = largest_magnitude(jnp.stack([largest_magnitude(leaf) for leaf in leaves]))
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    # One reciprocal of our own: XLA divides or multiplies by it as it likes, to other bits. It must
    # not be subnormal, which is flushed to 0.
    safe = jnp.minimum(safe, 1 / jnp.finfo(largest.dtype).tiny)
    scale = 1 / safe
    squares = sum(
        jnp.sum(jnp.square((leaf * scale).astype(jnp.promote_types(leaf.dtype, jnp.float32))))
        for leaf in leaves
    )
    norm = safe.astype(jnp.float64) * jnp.sqrt(jnp.asarray(squares, jnp.float64))
    return jnp.where(jnp.isfinite(largest), norm, largest.astype(jnp.float64))


def make_training(statics: Mapping[str, Any], examples: Examples | None = None) -> Problem:
    """The training that `statics` (a group's static parameters) describe.

    Args:
        statics: task, standardize, model, depth, width, activation, initializer, loss,
            optimizer, precision, batch_size.
        examples: data to train on in place of the task's.
    """
    if examples is None:
        examples = load_examples(statics["task"], standardize=statics["standardize"])
    shares = np.bincount(examples.labels) / len(examples.labels)
    training = _Training(statics, examples, classes=len(shares))
    return Problem(
        init=training.init,
        step=training.step,
        knobs=KNOBS,
        baseline_loss=LOSSES[statics["loss"]].best_constant(shares),
        batch=training.batch,
    )


class _Training:
    """The pure functions of one choice of statics; holds the data, on the host."""

    def __init__(self, statics: Mapping[str, Any], examples: Examples, *, classes: int) -> None:
        self._statics = statics
        self._precision = PRECISIONS[statics["precision"]]
        self._classes = classes
        self._inputs = examples.inputs.astype(jnp.dtype(self._precision.dtype))
        self._targets = np.eye(classes, dtype=self._inputs.dtype)[examples.labels]
        self._loss = LOSSES[statics["loss"]].apply

    def init(self, knobs: Knobs, key: Array) -> TrainState:
        knobs = self._weak(knobs)
        inputs = jnp.zeros((1, self._inputs.shape[1]), self._inputs.dtype)
        params = self._model(knobs).init(keys.for_purpose(key, "parameters"), inputs)
        return TrainState(params, OPTIMIZERS[self._statics["optimizer"]](knobs).init(params))

    def step(self, state: TrainState, knobs: Knobs, key: Array) -> tuple[TrainState, Metrics]:
        inputs, targets = self.batch(knobs, key)
        knobs = self._weak(knobs)
        model, optimizer = self._model(knobs), OPTIMIZERS[self._statics["optimizer"]](knobs)

        def loss_of(params: Any) -> tuple[Array, Array]:
            outputs = jnp.asarray(model.apply(params, inputs))
            return self._loss(outputs, targets), outputs

        (loss, outputs), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        with jax.named_scope("update"):
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        with jax.named_scope("metrics"):
            metrics = Metrics(loss, gradient_norm(gradient), _accuracy(outputs, targets))
        return TrainState(params, opt_state), metrics

    def batch(self, knobs: Knobs, key: Array) -> tuple[Array, Array]:
        """Inputs (examples, features) and one-hot targets (examples, classes) of one step."""
        with jax.named_scope("data"):
            inputs, targets = jnp.asarray(self._inputs), jnp.asarray(self._targets)
            size = self._statics["batch_size"]
            if size != "full":
                shape, key = (size,), keys.for_purpose(key, "batch")
                chosen = jax.random.randint(key, shape, 0, inputs.shape[0], jnp.int32)
                inputs = inputs.at[chosen].get(mode="promise_in_bounds")
                targets = targets.at[chosen].get(mode="promise_in_bounds")
            return inputs * self._weak(knobs)["input_scale"], targets

    def _weak(self, knobs: Knobs) -> dict[str, Array]:
        return {name: weak(value, self._precision.traced) for name, value in knobs.items()}

    def _model(self, knobs: Mapping[str, Array]) -> nn.Module:
        statics = self._statics
        draw = INITIALIZERS[statics["initializer"]]

        def kernel_init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return draw(key, shape).astype(dtype) * knobs["init_scale"]

        apply = ACTIVATIONS[statics["activation"]]
        pieces = Pieces(lambda x: apply(x, knobs), kernel_init, self._inputs.dtype)
        shape = Shape(statics["depth"], statics["width"], self._classes)
        return MODELS[statics["model"]](shape, pieces)


def _accuracy(outputs: Array, targets: Array) -> Array:
    """Share of examples whose right class has the largest output (a tie counts as right)."""
    right = jnp.sum(jnp.where(targets > 0, outputs, jnp.zeros_like(outputs)), axis=-1)
    return jnp.mean((right >= jnp.max(outputs, axis=-1)).astype(jnp.float32))
