"""The Problem that the engine runs: two pure functions of one lane, init and step.

A supervised training is one kind of problem (`training.py`), gradient descent on one number is
another (`quadratic.py`), user-defined code a third (`user_code.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Float64

from nanlab.backend.keys import RandomKey

AnyArray = Any
"""An array on the device (JAX) or on the host (NumPy)."""

State = Any
Knobs = Mapping[str, AnyArray]


class Metrics(NamedTuple):
    """Measurements of one step; only a non-finite `loss` is a fault.

    Attributes:
        loss: unscaled loss before the step's update.
        grad_norm: Euclidean norm of the gradient, non-finite only if the gradient is; None if
            there is no gradient.
        accuracy: share of the batch that is classified correctly; None without classes.
    """

    loss: Float[Array, ""]
    grad_norm: Float64[Array, ""] | None = None
    accuracy: Float32[Array, ""] | None = None


OBSERVABLES = {
    "loss": "The unscaled loss.",
    "accuracy": "Share of the batch that is classified right.",
    "gradient_norm": "Euclidean norm of the gradient.",
    "parameter_norm": "Euclidean norm of the parameters.",
    "update_ratio": "Norm of the update over that of the parameters.",
    "zero_gradients": "Share of the gradient's entries that are exactly 0.",
    "largest_activation": "Largest magnitude of a hidden layer's outputs.",
    "dead_units": "Share of units whose activation has slope 0 on every example of the batch.",
    "saturated_units": "Share of entries where the activation's slope is below 0.01.",
    "headroom": "log10 of the type's maximum over the largest magnitude of all of these arrays.",
}
"""Observables of the curves, with their descriptions."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The pure functions of one run.

    Attributes:
        init: (knobs, key) -> state, a pytree of arrays.
        step: (state, knobs, key) -> (state, metrics); it preserves the state's shapes and dtypes.
        knobs: names of the knobs, or their names and defaults; each is traced as a float64 scalar.
        baseline_losses: knobs of runs -> the loss of the best constant predictor of each, on the
            host; None to compare with each run's first loss.
        batch: (state, knobs, key) -> the data that `step` uses with that key, or None.
        observe: (state, knobs, key) -> {(observable, layer): scalar} of the next step; None to
            record the metrics in the curves.
    """

    init: Callable[[Knobs, RandomKey], State]
    step: Callable[[State, Knobs, RandomKey], tuple[State, Metrics]]
    knobs: tuple[str, ...] | Mapping[str, float | None]
    baseline_losses: (
        Callable[[Mapping[str, Float[np.ndarray, " runs"]]], Float[np.ndarray, " runs"]] | None
    ) = None
    batch: Callable[[State, Knobs, RandomKey], Any] | None = None
    observe: Callable[[State, Knobs, RandomKey], Mapping[tuple[str, str], Array]] | None = None
