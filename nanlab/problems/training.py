"""The supervised training step of one lane: parts -> Problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Float64

from nanlab.backend import keys
from nanlab.backend.jaxpr import weak
from nanlab.backend.keys import RandomKey
from nanlab.grid.defaults import default_statics, traced_parameters
from nanlab.parts.activations import ACTIVATIONS
from nanlab.parts.initializers import BIAS_INITIALIZERS, INITIALIZERS
from nanlab.parts.losses import LOSSES
from nanlab.parts.optimizers import build_update
from nanlab.parts.pieces import Pieces, Shape
from nanlab.parts.precision import MATMUL_PRECISIONS, PRECISIONS, STORAGES
from nanlab.parts.scaling import LOSS_SCALINGS, first_scale, is_finite, next_scale, unscaled
from nanlab.parts.tasks import Examples
from nanlab.problems.batches import Data, DataState
from nanlab.problems.metrics import accuracy, gradient_norm
from nanlab.problems.observables import ObservedValues, as_float64, headroom, of_arrays, of_units
from nanlab.problems.problem import Knobs, Metrics, Problem
from nanlab.problems.user_parts import UserModel, build_model, examples_of, is_user_part

SOWN = ("preactivations", "activations", "attention_logits")
"""Collections that models sow."""


class TrainState(NamedTuple):
    """State of a training; None for what it does not use.

    Attributes:
        params: Linen parameters, as they are stored.
        opt_state: Optax's state.
        batch_stats: running statistics of batch normalization.
        scale: dynamic loss scale.
        average: moving average of the parameters.
        data: the run's examples and data faults.
    """

    params: Any
    opt_state: Any
    batch_stats: Any = None
    scale: Any = None
    average: Any = None
    data: DataState | None = None


TRAINING_KNOBS = traced_parameters("training")


def make_training(statics: Mapping[str, Any], examples: Examples | None = None) -> Problem:
    """Build the training described by a group's static parameters.

    Args:
        statics: statics that differ from their defaults; see `grid.defaults`.
        examples: data to use in place of the task's.

    Returns:
        The training of one lane.
    """
    statics = {**default_statics("training"), **statics}
    if examples is None:
        examples = examples_of(statics)
    training = _Training(statics, examples)
    return Problem(
        init=training.init,
        step=training.step,
        knobs=TRAINING_KNOBS,
        baseline_losses=training.baseline_losses,
        batch=lambda state, knobs, key: training.data.batch(state.data, knobs, key),
        observe=training.observe,
    )


class _Training:
    """The pure functions of one choice of statics, with the data on the host."""

    def __init__(self, statics: Mapping[str, Any], examples: Examples) -> None:
        self._statics = statics
        self._precision = PRECISIONS[statics["precision"]]
        self._dtype = jnp.dtype(self._precision.dtype)
        storage = STORAGES[statics["parameter_precision"]]
        self._stored = jnp.dtype(storage.dtype or self._dtype)
        # The optimizer's dtype: 8-bit floats are for storage only.
        self._worked = self._stored if storage.updates else self._dtype
        self._statistics = jnp.promote_types(self._dtype, jnp.float32)
        self._loss = LOSSES[statics["loss"]]
        self._scaling = LOSS_SCALINGS[statics["loss_scaling"]]
        self.data = Data(statics, examples, self._dtype, self._weak)

    def baseline_losses(
        self, knobs: Mapping[str, Float64[np.ndarray, " runs"]]
    ) -> Float64[np.ndarray, " runs"]:
        """Return the loss of the best constant predictor under each run's knobs."""
        names = (*self._loss.knobs, "label_smoothing")
        rows = np.stack([knobs[name] for name in names], axis=-1)
        distinct, index = np.unique(rows, axis=0, return_inverse=True)
        losses = [self._baseline_loss(dict(zip(names, row, strict=True))) for row in distinct]
        return np.array(losses)[index.reshape(-1)]

    def _baseline_loss(self, knobs: Mapping[str, float]) -> float:
        targets = self.data.host_targets()
        if self._statics["label_smoothing"]:
            share = knobs["label_smoothing"]
            targets = (1.0 - share) * targets + share / targets.shape[-1]
        return self._loss.best_constant(targets, knobs, self.data.batch_examples)

    def init(self, knobs: Knobs, key: RandomKey) -> TrainState:
        knobs = self._weak(knobs)
        rngs = {"params": keys.for_purpose(key, "parameters")}
        rngs |= self._rngs(key) or {}
        inputs = jnp.zeros((1, *self.data.input_shape), self._dtype)
        variables = dict(self._model(knobs).init(rngs, inputs))
        params = {"params": variables["params"]}
        return TrainState(
            params=self._cast(params, self._stored),
            opt_state=build_update(self._statics, knobs).init(self._cast(params, self._worked)),
            batch_stats=self._cast(variables["batch_stats"], self._statistics)
            if "batch_stats" in variables
            else None,
            scale=first_scale(knobs) if self._scaling.is_dynamic else None,
            average=self._cast(params, self._worked) if self._statics["ema_decay"] else None,
            data=self.data.drawn(key),
        )

    def step(self, state: TrainState, knobs: Knobs, key: RandomKey) -> tuple[TrainState, Metrics]:
        inputs, targets = self.data.batch(state.data, knobs, key)
        knobs = self._weak(knobs)
        with self._products():
            gradient, loss, outputs, batch_stats = self._gradient(
                state, inputs, targets, knobs, key
            )
        with jax.named_scope("update"):
            after = self._updated(state, gradient, knobs)._replace(batch_stats=batch_stats)
        with jax.named_scope("metrics"):
            share = accuracy(outputs, targets) if self.data.has_classes else None
            metrics = Metrics(loss, gradient_norm(gradient), share)
        return after, metrics

    def observe(self, state: TrainState, knobs: Knobs, key: RandomKey) -> ObservedValues:
        """Measure the next step without taking it."""
        inputs, targets = self.data.batch(state.data, knobs, key)
        knobs = self._weak(knobs)
        with self._products():
            gradient, loss, outputs, _ = self._gradient(state, inputs, targets, knobs, key)
            worked = self._cast(state.params, self._worked)
            variables = dict(worked)
            if state.batch_stats is not None:
                variables["batch_stats"] = state.batch_stats
            _, sown = self._model(knobs).apply(
                variables, inputs, rngs=self._rngs(key), mutable=[*SOWN, "batch_stats"]
            )
        optimizer = build_update(self._statics, knobs)
        update, _ = optimizer.update(gradient, state.opt_state, worked)
        activation = ACTIVATIONS[self._statics["activation"]]
        slope = (lambda x: activation.apply(x, knobs)) if activation.is_elementwise else None
        values: ObservedValues = {("loss", ""): loss}
        if self.data.has_classes:
            values["accuracy", ""] = accuracy(outputs, targets)
        values |= of_arrays(worked, gradient, update) | of_units(sown, slope)
        hidden = {name: sown[name] for name in SOWN if name in sown}
        values["headroom", ""] = headroom((worked, gradient, hidden, outputs), self._dtype)
        return as_float64(values)

    def _rngs(self, key: RandomKey) -> dict[str, Array] | None:
        if self._statics["dropout"] or is_user_part(self._statics["model"]):
            return {"dropout": keys.for_purpose(key, "dropout")}
        return None

    def _gradient(
        self, state: TrainState, inputs: Array, targets: Array, knobs: dict[str, Array], key: Array
    ) -> tuple[Any, Float[Array, ""], Array, Any]:
        """Return the unscaled gradient and loss, the outputs and the running statistics."""
        model = self._model(knobs)
        scale = self._scale(state, knobs)
        rngs = self._rngs(key)

        def loss_of(params: Any) -> tuple[Array, Any]:
            outputs, batch_stats = _applied(model, params, state.batch_stats, inputs, rngs)
            loss = self._loss.apply(outputs, targets, knobs)
            if self._statics["z_loss"]:
                logarithm = jax.nn.logsumexp(outputs, axis=-1)
                loss = loss + knobs["z_loss"] * jnp.mean(jnp.square(logarithm))
            return loss if scale is None else loss * scale.astype(loss.dtype), (
                loss, outputs, batch_stats,
            )  # fmt: skip

        worked = self._cast(state.params, self._worked)
        (_, aux), gradient = jax.value_and_grad(loss_of, has_aux=True)(worked)
        if scale is not None:
            gradient = unscaled(gradient, scale)
        return gradient, *aux

    def _scale(self, state: TrainState, knobs: dict[str, Array]) -> Array | None:
        if not self._scaling.is_used:
            return None
        if self._scaling.is_dynamic:
            return state.scale.scale
        return jnp.asarray(knobs["loss_scale"])

    def _updated(self, state: TrainState, gradient: Any, knobs: dict[str, Array]) -> TrainState:
        worked = self._cast(state.params, self._worked)
        optimizer = build_update(self._statics, knobs)
        updates, opt_state = optimizer.update(gradient, state.opt_state, worked)
        params = optax.apply_updates(worked, updates)
        after = state._replace(params=self._cast(params, self._stored), opt_state=opt_state)
        if self._scaling.is_dynamic:
            finite = is_finite(gradient)
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
            after = after._replace(scale=next_scale(state.scale, finite, knobs))
        if self._statics["ema_decay"]:
            rate = 1.0 - knobs["ema_decay"]
            worked = self._cast(after.params, self._worked)
            average = optax.incremental_update(worked, state.average, rate)
            after = after._replace(average=average)
        return after

    def _cast(self, tree: Any, dtype: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

    def _products(self) -> AbstractContextManager[Any]:
        name = MATMUL_PRECISIONS[self._statics["matmul_precision"]].name
        return nullcontext() if name is None else jax.default_matmul_precision(name)

    def _weak(self, knobs: Knobs) -> dict[str, Array]:
        return {name: weak(value, self._precision.traced) for name, value in knobs.items()}

    def _model(self, knobs: Mapping[str, Array]) -> nn.Module | UserModel:
        statics = self._statics
        shape = Shape(
            statics["depth"], statics["width"], self.data.output_shape, self.data.natural_shape
        )
        return build_model(statics["model"], shape, self._pieces(knobs))

    def _pieces(self, knobs: Mapping[str, Array]) -> Pieces:
        statics = self._statics
        activation = ACTIVATIONS[statics["activation"]]
        return Pieces(
            activation=lambda x: activation.apply(x, knobs),
            activation_inputs=activation.inputs,
            kernel_init=_kernel_init(statics["initializer"], knobs),
            bias_init=_bias_init(statics["bias_initializer"], knobs),
            dtype=self._dtype,
            param_dtype=self._worked,
            norm=statics["norm"],
            norm_epsilon=knobs["norm_epsilon"],
            norm_first=statics["norm_first"],
            dropout=knobs["dropout"] if statics["dropout"] else None,
            residual=statics["residual"],
            pooling=statics["pooling"],
            heads=statics["heads"],
            query_key_norm=statics["query_key_norm"],
            attention_scale=knobs["attention_scale"],
        )


def _kernel_init(name: str, knobs: Mapping[str, Array]) -> Callable[..., Array]:
    draw = INITIALIZERS[name].draw

    def kernel_init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return draw(key, shape).astype(dtype) * knobs["init_scale"]

    return kernel_init


def _bias_init(name: str, knobs: Mapping[str, Array]) -> Callable[[int], Callable[..., Array]]:
    def of_fan_in(fan_in: int) -> Callable[..., Array]:
        if name == "zeros":
            return nn.initializers.zeros
        draw = BIAS_INITIALIZERS[name].draw
        return lambda key, shape, dtype: (
            draw(key, shape, fan_in).astype(dtype) * knobs["bias_scale"]
        )

    return of_fan_in


def _applied(
    model: nn.Module | UserModel, params: Any, batch_stats: Any, inputs: Array, rngs: Any
) -> tuple[Array, Any]:
    """Return the outputs, and the running statistics after them (None where there are none)."""
    if batch_stats is None:
        return jnp.asarray(model.apply(params, inputs, rngs=rngs)), None
    variables = {**params, "batch_stats": batch_stats}
    outputs, changed = model.apply(variables, inputs, rngs=rngs, mutable=["batch_stats"])
    # Flax may return them in the dtype of the inputs.
    stats = jax.tree.map(
        lambda new, old: new.astype(old.dtype), changed["batch_stats"], batch_stats
    )
    return jnp.asarray(outputs), stats
