"""Examples -> batches of one lane: its subset of the examples, with its data faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int32, UInt32

from nanlab.backend import keys
from nanlab.backend.keys import RandomKey
from nanlab.parts.corruptions import corrupted, unequal
from nanlab.parts.tasks import Examples
from nanlab.problems.problem import Knobs

FAULTS = ("outlier_fraction", "label_noise", "nan_fraction", "constant_fraction")
"""The options that corrupt examples."""


class DataState(NamedTuple):
    """What a run draws once for its data; it holds no float, so it is never at fault.

    Attributes:
        rows: indices of the run's examples in the task; None for all.
        key: key data of its data faults; None if there are none.
    """

    rows: Int32[Array, " examples"] | None
    key: UInt32[Array, " 2"] | None


class Data:
    """The data of a group: examples shared by all runs, and how a run draws its batches from them.

    Args:
        statics: static parameters of the group.
        examples: examples on the host.
        dtype: dtype of the batches.
        traced: casts knobs to the dtype in which they are traced.

    Attributes:
        has_classes: whether targets are classes, one-hot in a batch.
        input_shape: shape of an example as it is stored.
        natural_shape: natural shape of an example.
        output_shape: shape of a model's output for an example.
        batch_examples: number of examples in a batch.
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
            targets = examples.targets[..., None] == np.arange(examples.classes)
        self._targets = targets.astype(dtype)
        self.input_shape = self._inputs.shape[1:]
        self.natural_shape = examples.natural or self.input_shape
        self.output_shape = examples.outputs
        self._count = statics["train_examples"] or len(self._inputs)
        if self._count > len(self._inputs):
            raise ValueError(
                f"train_examples = {self._count}: the task has {len(self._inputs)} examples"
            )
        size = statics["batch_size"]
        self.batch_examples = self._count if size == "full" else int(size)

    def host_targets(self) -> Float[np.ndarray, "targets outputs"]:
        """Return all targets, those of a sequence's steps as rows of their own."""
        return self._targets.astype(np.float64).reshape(-1, self._targets.shape[-1])

    def drawn(self, key: RandomKey) -> DataState | None:
        """Draw a run's data state from its `init` key; None if it needs none."""
        rows, faults = None, None
        if self._statics["train_examples"]:
            order = jax.random.permutation(keys.for_purpose(key, "examples"), len(self._inputs))
            rows = order[: self._count].astype(jnp.int32)
        if any(self._statics[name] for name in FAULTS):
            faults = jax.random.key_data(keys.for_purpose(key, "data"))
        return None if rows is None and faults is None else DataState(rows, faults)

    def batch(
        self, data: DataState | None, knobs: Knobs, key: RandomKey
    ) -> tuple[Float[Array, "examples ..."], Float[Array, "examples ..."]]:
        """Return the inputs and targets of one step.

        Args:
            data: the run's data state.
            knobs: the run's knobs, float64.
            key: key of the step.

        Returns:
            Inputs and targets, with the run's data faults.
        """
        with jax.named_scope("data"):
            inputs, targets = jnp.asarray(self._inputs), jnp.asarray(self._targets)
            traced = self._traced(knobs)
            rows = self._rows(data, traced, keys.for_purpose(key, "batch"))
            if rows is not None:
                inputs = inputs.at[rows].get(mode="promise_in_bounds")
                targets = targets.at[rows].get(mode="promise_in_bounds")
            if data is not None and data.key is not None:
                faults = jax.random.wrap_key_data(data.key, impl="threefry2x32")
                rows = jnp.arange(len(self._inputs), dtype=jnp.int32) if rows is None else rows
                inputs, targets = corrupted(
                    inputs, targets, rows, faults, traced, self._statics, classes=self.has_classes
                )
            if self._statics["label_smoothing"] and self.has_classes:
                targets = optax.smooth_labels(targets, traced["label_smoothing"])
            return inputs * traced["input_scale"], targets

    def _rows(
        self, data: DataState | None, knobs: Mapping[str, Array], key: RandomKey
    ) -> Int32[Array, " examples"] | None:
        """Return the indices of a batch's examples; None for all of the task's, in order."""
        own = None if data is None else data.rows
        is_full = self._statics["batch_size"] == "full"
        if self._statics["imbalance"]:
            return self._unequal_rows(own, knobs["imbalance"], key)
        if is_full:
            return own
        shape = (self.batch_examples,)
        chosen = jax.random.randint(key, shape, 0, self._count, jnp.int32)
        return chosen if own is None else own.at[chosen].get(mode="promise_in_bounds")

    def _unequal_rows(
        self, own: Array | None, imbalance: Array, key: RandomKey
    ) -> Int32[Array, " examples"]:
        # Inverse transform sampling of rows by the weights of their classes.
        classes = self._targets.shape[-1]
        targets = jnp.asarray(self._targets.reshape(len(self._targets), -1, classes)[:, 0])
        weights = unequal(targets if own is None else targets[own], imbalance)
        below = jnp.cumsum(weights)
        drawn = jax.random.uniform(key, (self.batch_examples,), jnp.float32) * below[-1]
        chosen = jnp.minimum(jnp.searchsorted(below, drawn, side="right"), self._count - 1)
        chosen = chosen.astype(jnp.int32)
        return chosen if own is None else own.at[chosen].get(mode="promise_in_bounds")
