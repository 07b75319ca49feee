"""Table of normalizations; Flax is imported only when one is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanlab.backend.lazy import nn
from nanlab.parts.entry import Entry

if TYPE_CHECKING:
    from flax import linen

    from nanlab.parts.pieces import Pieces


@dataclass(frozen=True)
class Norm(Entry):
    """A normalization.

    Attributes:
        build: pieces -> Linen module that normalizes units; None if units stay as they are.
        of_weights: whether it normalizes the weights instead of the units.
        knobs: knobs that it reads.
        statics: statics that it reads.
    """

    build: Callable[[Pieces], linen.Module] | None
    of_weights: bool = False
    knobs: tuple[str, ...] = ("norm_epsilon",)
    statics: tuple[str, ...] = ("norm_first",)


def _batch(p: Pieces) -> linen.Module:
    return nn.BatchNorm(
        use_running_average=False, epsilon=p.norm_epsilon, dtype=p.dtype, param_dtype=p.param_dtype
    )


def _layer(p: Pieces) -> linen.Module:
    return nn.LayerNorm(epsilon=p.norm_epsilon, dtype=p.dtype, param_dtype=p.param_dtype)


def _rms(p: Pieces) -> linen.Module:
    return nn.RMSNorm(epsilon=p.norm_epsilon, dtype=p.dtype, param_dtype=p.param_dtype)


NORMS: dict[str, Norm] = {
    "none": Norm("No normalization.", "nanlab", None, knobs=(), statics=()),
    "batch": Norm(
        "By the batch's mean and variance of each unit; running statistics are in the state.",
        "Ioffe and Szegedy 2015; flax.linen.BatchNorm",
        _batch,
    ),
    "layer": Norm(
        "By each example's mean and variance over the units.",
        "Ba et al. 2016; flax.linen.LayerNorm",
        _layer,
    ),
    "rms": Norm(
        "By each example's root mean square over the units.",
        "Zhang and Sennrich 2019; flax.linen.RMSNorm",
        _rms,
    ),
    "weight": Norm(
        "Each unit's weights divided by their norm and multiplied by a scale.",
        "Salimans and Kingma 2016; flax.linen.WeightNorm",
        None,
        of_weights=True,
        statics=(),
    ),
}
