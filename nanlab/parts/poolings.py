"""Table of poolings of a convolution's output; each halves the spatial sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanlab.backend.lazy import nn
from nanlab.parts.entry import Entry

if TYPE_CHECKING:
    from jax import Array


@dataclass(frozen=True)
class Pooling(Entry):
    """A pooling; `apply` divides each side of x by that of the window, None does nothing."""

    apply: Callable[[Array, tuple[int, ...]], Array] | None


POOLINGS: dict[str, Pooling] = {
    "max": Pooling(
        "The largest of each 2 or 2 x 2.",
        "Zhou and Chellappa 1988; flax.linen.max_pool",
        lambda x, window: nn.max_pool(x, window, strides=window),
    ),
    "average": Pooling(
        "The mean of each 2 or 2 x 2.",
        "LeCun et al. 1989; flax.linen.avg_pool",
        lambda x, window: nn.avg_pool(x, window, strides=window),
    ),
    "none": Pooling("No pooling.", "nanlab", None),
}
