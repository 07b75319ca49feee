"""Table of schedules: factors of the learning rate at each update, counted from 0.

Those of Optax's schedules, written out because Optax does not accept traced lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanlab.backend.lazy import jnp
from nanlab.parts.entry import Entry, Knobs

if TYPE_CHECKING:
    from jax import Array


@dataclass(frozen=True)
class Schedule(Entry):
    """A schedule; `factor` is (count, knobs) -> factor of lr, None for a constant 1."""

    factor: Callable[[Array, Knobs], Array] | None
    knobs: tuple[str, ...] = ()


def _ramp(count: Array, length: Array) -> Array:
    """Rise from 0 to 1 in `length` updates and stay there; 1 at once if `length` is 0."""
    return jnp.minimum(count / jnp.maximum(length, 1e-9), 1.0)


def _warmup(count: Array, knobs: Knobs) -> Array:
    # Optax's ramp starts at 0; here the first update already has an effect.
    return _ramp(count + 1, knobs["warmup_steps"])


def _cosine(count: Array, knobs: Knobs) -> Array:
    share = _ramp(jnp.maximum(count, 0), knobs["decay_steps"])
    wave = 0.5 * (1.0 + jnp.cos(math.pi * share))
    return (1.0 - knobs["decay_floor"]) * wave + knobs["decay_floor"]


def _warmup_cosine(count: Array, knobs: Knobs) -> Array:
    return _warmup(count, knobs) * _cosine(count - knobs["warmup_steps"], knobs)


def _steps(count: Array, knobs: Knobs) -> Array:
    drops = jnp.floor(count / jnp.maximum(knobs["drop_every"], 1.0))
    return knobs["drop_factor"] ** drops


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule("lr at every step.", "Robbins and Monro 1951", None),
    "warmup": Schedule(
        "Rises linearly to lr in warmup_steps.", "Goyal et al. 2017", _warmup, ("warmup_steps",)
    ),
    "cosine": Schedule(
        "Falls from lr to decay_floor * lr in decay_steps, along half a cosine.",
        "Loshchilov and Hutter 2017; optax.cosine_decay_schedule",
        _cosine,
        ("decay_steps", "decay_floor"),
    ),
    "warmup_cosine": Schedule(
        "Warm-up, then cosine.",
        "Goyal et al. 2017; Loshchilov and Hutter 2017",
        _warmup_cosine,
        ("warmup_steps", "decay_steps", "decay_floor"),
    ),
    "step_decay": Schedule(
        "lr times drop_factor for every drop_every steps completed.",
        "Krizhevsky et al. 2012; optax.exponential_decay with staircase",
        _steps,
        ("drop_every", "drop_factor"),
    ),
}
