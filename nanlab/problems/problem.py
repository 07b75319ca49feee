"""init, step -> Problem: what the engine runs, for one lane.

A problem is a pair of pure functions. A supervised training is one kind (`training.py`), plain
iteration of one number is another (`quadratic.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax import Array

AnyArray = Any
"""An array on the device (JAX) or on the host (NumPy): the same tuple holds it in both places."""

State = Any
Knobs = Mapping[str, AnyArray]


class Metrics(NamedTuple):
    """What a step says of itself; only a non-finite `loss` can make a fault.

    Attributes:
        loss: the unscaled loss, before the step's update; scalar.
        grad_norm: the gradient's Euclidean norm, float64, computed so that it does not overflow
            by itself; NaN or inf only where the gradient itself is. None if there is no gradient.
        accuracy: share of the batch that is classified right; None where nothing is classified.
    """

    loss: Array
    grad_norm: Array | None = None
    accuracy: Array | None = None


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
"""What `curves` may tell of a run at a step."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Two pure functions of one run, and what is known of it beforehand.

    Attributes:
        init: (knobs, key) -> state, a pytree of arrays.
        step: (state, knobs, key) -> (state, metrics); the shapes of state do not change.
        knobs: names of the numbers in `knobs`, or their names and defaults; each is traced as a
            float64 scalar.
        baseline_losses: knobs of runs, each (runs,) -> what the best constant predictor of each
            gets, (runs,), on the host; None to take a run's own first loss.
        batch: (state, knobs, key) -> the data that `step` sees with that key, or None.
        observe: (state, knobs, key) -> {(observable, layer): scalar} of the step that would be
            next, or None: then `curves` has what its metrics tell.
    """

    init: Callable[[Knobs, Array], State]
    step: Callable[[State, Knobs, Array], tuple[State, Metrics]]
    knobs: tuple[str, ...] | Mapping[str, float | None]
    baseline_losses: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None
    batch: Callable[[State, Knobs, Array], Any] | None = None
    observe: Callable[[State, Knobs, Array], dict[tuple[str, str], Array]] | None = None
