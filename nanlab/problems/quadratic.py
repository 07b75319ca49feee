"""Gradient descent on curvature * x^2 / 2 of one number, the exact oracle.

Plain iteration in the run's precision predicts each of its events: the loss overflows in the
forward square, later x in the update, later still the update is inf - inf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from nanlab.backend.jaxpr import weak
from nanlab.backend.keys import RandomKey
from nanlab.grid.defaults import default_statics, traced_parameters
from nanlab.parts.optimizers import build_update
from nanlab.parts.precision import PRECISIONS
from nanlab.problems.problem import Knobs, Metrics, Problem

QUADRATIC_KNOBS = traced_parameters("quadratic")


class QuadraticState(NamedTuple):
    """State of the descent.

    Attributes:
        x: the number.
        opt_state: Optax's state.
    """

    x: Float[Array, ""]
    opt_state: Any


def _one(knobs: Knobs, dtype: str) -> Float[Array, ""]:
    """Return a 1 that XLA cannot fold."""
    # XLA:CPU contracts x - lr * x to a fused multiply-add, which rounds once and whose product does
    # not overflow; plain iteration rounds twice. With a factor of 1 between, the fused operation
    # rounds as the plain addition does. (JAX 0.10's optimization_barrier does not help.)
    return (knobs["lr"] * 0 + 1).astype(dtype)


def make_quadratic(statics: Mapping[str, Any]) -> Problem:
    """Build the descent from x0, with any optimizer, in `statics["precision"]`."""
    # The gradient is curvature * x in closed form: autodiff would multiply by 2, and overflow a
    # factor of two early.
    statics = {**default_statics("quadratic"), **statics}
    precision = PRECISIONS[statics["precision"]]

    def traced(knobs: Knobs) -> dict[str, Array]:
        return {name: weak(value, precision.traced) for name, value in knobs.items()}

    def init(knobs: Knobs, key: RandomKey) -> QuadraticState:
        x = jnp.asarray(knobs["x0"]).astype(precision.dtype)
        return QuadraticState(x, build_update(statics, traced(knobs)).init(x))

    def step(state: QuadraticState, knobs: Knobs, key: RandomKey) -> tuple[QuadraticState, Metrics]:
        weak_knobs = traced(knobs)
        with jax.named_scope("forward"):
            # In this order the loss overflows exactly when curvature * x^2 / 2 does.
            loss = 0.5 * weak_knobs["curvature"] * state.x * state.x
        with jax.named_scope("backward"):
            gradient = weak_knobs["curvature"] * state.x
        with jax.named_scope("update"):
            optimizer = build_update(statics, weak_knobs)
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.x)
            rounded = jnp.asarray(updates) * _one(knobs, precision.dtype)
            x = optax.apply_updates(state.x, rounded)
        with jax.named_scope("metrics"):
            norm = jnp.abs(gradient).astype(jnp.float64)
        return QuadraticState(jnp.asarray(x), opt_state), Metrics(loss, norm)

    return Problem(init=init, step=step, knobs=QUADRATIC_KNOBS)
