"""Table of loss scalings: factors of the loss before its gradient is taken.

Flax's DynamicScale is not used: it returns the scaled loss over the scale, which is non-finite if
the scaled loss overflows, as it is meant to; and its interval cannot be traced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from nanlab.backend.lazy import jax, jnp
from nanlab.parts.entry import Entry, Knobs

if TYPE_CHECKING:
    from jax import Array
    from jaxtyping import Bool, Float32, Int32


@dataclass(frozen=True)
class LossScaling(Entry):
    """A way to scale the loss.

    Attributes:
        is_used: whether the loss is scaled.
        is_dynamic: whether the scale changes during a training.
        knobs: knobs that it reads.
    """

    is_used: bool
    is_dynamic: bool = False
    knobs: tuple[str, ...] = ()


LOSS_SCALINGS: dict[str, LossScaling] = {
    "none": LossScaling("The loss as it is.", "nanlab", is_used=False),
    "static": LossScaling(
        "Always times loss_scale; the gradient is divided by it.",
        "Micikevicius et al. 2018",
        is_used=True,
        knobs=("loss_scale",),
    ),
    "dynamic": LossScaling(
        "Halved when a gradient is not finite, and that step is skipped; doubled after "
        "loss_scale_period steps without that.",
        "Micikevicius et al. 2018",
        is_used=True,
        is_dynamic=True,
        knobs=("loss_scale", "loss_scale_period"),
    ),
}


class ScaleState(NamedTuple):
    """A dynamic scale, and the number of consecutive steps with a finite gradient."""

    scale: Float32[Array, ""]
    finite_steps: Int32[Array, ""]


def first_scale(knobs: Knobs) -> ScaleState:
    """Return the initial scale."""
    return ScaleState(jnp.asarray(knobs["loss_scale"], jnp.float32), jnp.int32(0))


def next_scale(state: ScaleState, is_finite: Bool[Array, ""], knobs: Knobs) -> ScaleState:
    """Return the scale after a step whose gradient was finite or not."""
    steps = jnp.where(is_finite, state.finite_steps + 1, 0)
    grows = steps >= knobs["loss_scale_period"]
    larger = jnp.minimum(state.scale * 2, jnp.finfo(jnp.float32).max / 2)
    smaller = jnp.maximum(state.scale / 2, jnp.finfo(jnp.float32).tiny)
    scale = jnp.where(is_finite, jnp.where(grows, larger, state.scale), smaller)
    return ScaleState(scale, jnp.where(grows, 0, steps).astype(jnp.int32))


def unscaled(gradient: Any, scale: Array) -> Any:
    """Return the gradient of the unscaled loss from that of the scaled loss."""
    return jax.tree.map(lambda g: (g / scale.astype(g.dtype)).astype(g.dtype), gradient)


def is_finite(gradient: Any) -> Bool[Array, ""]:
    """Return whether every entry of a gradient is finite."""
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient)]
    return jnp.all(jnp.stack(flags))
