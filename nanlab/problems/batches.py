"""Examples -> batches: which examples a run has, and with what faults, for one lane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from nanlab.backend import keys
from nanlab.parts.corruptions import corrupted, unequal
from nanlab.parts.tasks import Examples
from nanlab.problems.problem import Knobs

FAULTS = ("outlier_fraction", "label_noise", "nan_fraction", "constant_fraction")
"""The options that change examples."""


class DataState(NamedTuple):
    """A run's own part of its data, drawn once; never a float, so never at fault.

    Attributes:
        rows: which of the task's examples it has, int32, or None for all.
        key: of its own faults of the data, as uint32, or None where there are none.
    """

    rows: Array | None
    key: Array | None


class Data:
    """The data of a group's runs: the same examples, of which each run sees its own.

    Args:
        statics: the group's.
        examples: on the host.
        dtype: in which batches are.
        traced: puts knobs into the type in which they are traced.

    Attributes:
        has_classes: whether targets are classes, one-hot in a batch.
        input_shape, natural_shape, output_shape: of one example.
        batch_examples: how many examples a batch has.
    """

    def __init__(
        self,
        statics: Mapping[str, Any],
        examples: Examples,
        dtype: Any,
        traced: Callable[[Knobs], dict[str, Array]],
    ) -> None:
        self._statics, self._traced = statics, traced
        self._inputs = examples.inputs.astype(dtype)
        self.has_classes = bool(examples.classes)
        targets = examples.targets
        if self.has_classes:
            targets = np.eye(examples.classes)[examples.targets]
        self._targets = targets.astype(dtype)
        self.input_shape = self._inputs.shape[1:]
        self.natural_shape = examples.natural or self.input_shape
        self.output_shape = examples.outputs
        self._many = statics["train_examples"] or len(self._inputs)
        if self._many > len(self._inputs):
            raise ValueError(
                f"train_examples = {self._many}: the task has {len(self._inputs)} examples"
            )
        size = statics["batch_size"]
        self.batch_examples = self._many if size == "full" else int(size)

    def host_targets(self) -> np.ndarray:
        """All targets, (n, outputs) float64: those of a sequence's steps one below another."""
        return self._targets.astype(np.float64).reshape(-1, self._targets.shape[-1])

    def drawn(self, key: Array) -> DataState | None:
        """A run's own part of the data, from its `init` key; None if it has none."""
        rows, own = None, None
        if self._statics["train_examples"]:
            order = jax.random.permutation(keys.for_purpose(key, "examples"), len(self._inputs))
            rows = order[: self._many].astype(jnp.int32)
        if any(self._statics[name] for name in FAULTS):
            own = jax.random.key_data(keys.for_purpose(key, "data"))
        return None if rows is None and own is None else DataState(rows, own)

    def batch(self, data: DataState | None, knobs: Knobs, key: Array) -> tuple[Array, Array]:
        """Inputs (examples, ...) and targets (examples, ...) of one step.

        Args:
            data: the run's own part of the data.
            knobs: as they come.
            key: the step's.
        """
        with jax.named_scope("data"):
            inputs, targets = jnp.asarray(self._inputs), jnp.asarray(self._targets)
            traced = self._traced(knobs)
            rows = self._rows(data, traced, keys.for_purpose(key, "batch"))
            if rows is not None:
                inputs = inputs.at[rows].get(mode="promise_in_bounds")
                targets = targets.at[rows].get(mode="promise_in_bounds")
            if data is not None and data.key is not None:
                own = jax.random.wrap_key_data(data.key, impl="threefry2x32")
                rows = jnp.arange(len(self._inputs), dtype=jnp.int32) if rows is None else rows
                inputs, targets = corrupted(
                    inputs, targets, rows, own, traced, self._statics, classes=self.has_classes
                )
            if self._statics["label_smoothing"] and self.has_classes:
                targets = optax.smooth_labels(targets, traced["label_smoothing"])
            return inputs * traced["input_scale"], targets

    def _rows(self, data: DataState | None, knobs: Mapping[str, Array], key: Array) -> Array | None:
        """The examples of a batch, (examples,) int32; None for all of the task's, in order."""
        own = None if data is None else data.rows
        is_full = self._statics["batch_size"] == "full"
        if self._statics["imbalance"]:
            return self._unequal_rows(own, knobs["imbalance"], key)
        if is_full:
            return own
        shape = (self.batch_examples,)
        chosen = jax.random.randint(key, shape, 0, self._many, jnp.int32)
        return chosen if own is None else own.at[chosen].get(mode="promise_in_bounds")

    def _unequal_rows(self, own: Array | None, imbalance: Array, key: Array) -> Array:
        """Rows drawn by their classes' weights, by the inverse of the distribution."""
        targets = jnp.asarray(self._targets.reshape(len(self._targets), -1, self._classes)[:, 0])
        weights = unequal(targets if own is None else targets[own], imbalance)
        below = jnp.cumsum(weights)
        where = jax.random.uniform(key, (self.batch_examples,), jnp.float32) * below[-1]
        chosen = jnp.minimum(jnp.searchsorted(below, where, side="right"), self._many - 1)
        chosen = chosen.astype(jnp.int32)
        return chosen if own is None else own.at[chosen].get(mode="promise_in_bounds")

    @property
    def _classes(self) -> int:
        return self._targets.shape[-1]
