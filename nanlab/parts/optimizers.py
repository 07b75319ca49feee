"""Name -> Optax optimizer, built of the run's knobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from nanlab._lazy import optax

if TYPE_CHECKING:
    from jax import Array
    from optax import GradientTransformation

OptimizerBuilder = Callable[[Mapping[str, "Array"]], "GradientTransformation"]

OPTIMIZERS: dict[str, OptimizerBuilder] = {
    "sgd": lambda knobs: optax.sgd(knobs["lr"]),
    "momentum": lambda knobs: optax.sgd(knobs["lr"], momentum=knobs["momentum"]),
    "rmsprop": lambda knobs: optax.rmsprop(
        knobs["lr"], decay=knobs["decay"], eps=knobs["optimizer_epsilon"]
    ),
    "adam": lambda knobs: optax.adam(
        knobs["lr"], b1=knobs["b1"], b2=knobs["b2"], eps=knobs["optimizer_epsilon"]
    ),
}
