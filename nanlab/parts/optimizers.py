"""Tables of optimizers and of gradient clipping; the update of a step, by Optax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanlab.backend.lazy import optax
from nanlab.parts.entry import Entry, Knobs
from nanlab.parts.schedules import SCHEDULES

if TYPE_CHECKING:
    from optax import GradientTransformation

LearningRate = Any
"""A traced number, or a function of the number of updates so far."""


@dataclass(frozen=True)
class Optimizer(Entry):
    """An optimizer.

    Attributes:
        build: (lr, knobs) -> Optax's transformation.
        knobs: knobs that it reads besides lr.
        decays_weights: whether it decouples weight decay from the gradient; if not, weight_decay
            times the parameters is added to the gradient.
    """

    build: Callable[[LearningRate, Knobs], GradientTransformation]
    knobs: tuple[str, ...] = ()
    decays_weights: bool = False


@dataclass(frozen=True)
class Clip(Entry):
    """A clipping of the gradient.

    Attributes:
        build: knobs -> Optax's transformation; None for no clipping.
        knobs: knobs that it reads.
    """

    build: Callable[[Knobs], GradientTransformation] | None
    knobs: tuple[str, ...] = ()


_MOMENTS = ("b1", "b2", "optimizer_epsilon")

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(
        "Plain gradient descent.", "Robbins and Monro 1951; optax.sgd", lambda lr, k: optax.sgd(lr)
    ),
    "momentum": Optimizer(
        "Heavy ball.",
        "Polyak 1964; optax.sgd",
        lambda lr, k: optax.sgd(lr, momentum=k["momentum"]),
        ("momentum",),
    ),
    "nesterov": Optimizer(
        "Momentum that looks ahead.",
        "Nesterov 1983; optax.sgd",
        lambda lr, k: optax.sgd(lr, momentum=k["momentum"], nesterov=True),
        ("momentum",),
    ),
    "adagrad": Optimizer(
        "Divides by the root of the sum of all squared gradients, which starts at 0.1.",
        "Duchi et al. 2011; optax.adagrad",
        lambda lr, k: optax.adagrad(lr, eps=k["optimizer_epsilon"]),
        ("optimizer_epsilon",),
    ),
    "rmsprop": Optimizer(
        "Divides by the root of a decaying mean of squared gradients.",
        "Hinton 2012; optax.rmsprop",
        lambda lr, k: optax.rmsprop(lr, decay=k["decay"], eps=k["optimizer_epsilon"]),
        ("decay", "optimizer_epsilon"),
    ),
    "adam": Optimizer(
        "Decaying means of the gradient and of its square, corrected for their start.",
        "Kingma and Ba 2015; optax.adam",
        lambda lr, k: optax.adam(lr, b1=k["b1"], b2=k["b2"], eps=k["optimizer_epsilon"]),
        _MOMENTS,
    ),
    "adamw": Optimizer(
        "Adam with decoupled weight decay.",
        "Loshchilov and Hutter 2019; optax.adamw",
        lambda lr, k: optax.adamw(
            lr, k["b1"], k["b2"], k["optimizer_epsilon"], weight_decay=k["weight_decay"]
        ),
        _MOMENTS,
        decays_weights=True,
    ),
    "amsgrad": Optimizer(
        "Adam with the largest second moment so far.",
        "Reddi et al. 2018; optax.amsgrad",
        lambda lr, k: optax.amsgrad(lr, b1=k["b1"], b2=k["b2"], eps=k["optimizer_epsilon"]),
        _MOMENTS,
    ),
    "adafactor": Optimizer(
        "Adam with factored second moments, relative steps and clipped updates.",
        "Shazeer and Stern 2018; optax.adafactor",
        lambda lr, k: optax.adafactor(lr, weight_decay_rate=k.get("weight_decay")),
        decays_weights=True,
    ),
    "lion": Optimizer(
        "The sign of an interpolated momentum.",
        "Chen et al. 2023; optax.lion",
        lambda lr, k: optax.lion(lr, b1=k["b1"], b2=k["b2"], weight_decay=k["weight_decay"]),
        ("b1", "b2"),
        decays_weights=True,
    ),
    "lamb": Optimizer(
        "Adam with the step of each array scaled to the array's norm.",
        "You et al. 2020; optax.lamb",
        lambda lr, k: optax.lamb(
            lr, k["b1"], k["b2"], k["optimizer_epsilon"], weight_decay=k["weight_decay"]
        ),
        _MOMENTS,
        decays_weights=True,
    ),
    "muon": Optimizer(
        "Momentum orthogonalized by Newton-Schulz for matrices, Adam for the rest.",
        "Jordan et al. 2024; optax.contrib.muon",
        lambda lr, k: optax.contrib.muon(
            lr, beta=k["momentum"], eps=k["optimizer_epsilon"], weight_decay=k["weight_decay"],
            adam_b1=k["b1"], adam_b2=k["b2"],
        ),
        ("momentum", *_MOMENTS),
        decays_weights=True,
    ),
}  # fmt: skip

CLIPS: dict[str, Clip] = {
    "none": Clip("The gradient as it is.", "nanlab", None),
    "global_norm": Clip(
        "Scales the whole gradient down to norm clip_at.",
        "Pascanu et al. 2013; optax.clip_by_global_norm",
        lambda k: optax.clip_by_global_norm(k["clip_at"]),
        ("clip_at",),
    ),
    "value": Clip(
        "Clips each entry to [-clip_at, clip_at].",
        "Mikolov 2012; optax.clip",
        lambda k: optax.clip(k["clip_at"]),
        ("clip_at",),
    ),
    "adaptive": Clip(
        "Scales each unit's gradient (all of a vector) down to clip_at times its weights' norm.",
        "Brock et al. 2021; optax.adaptive_grad_clip",
        lambda k: optax.adaptive_grad_clip(k["clip_at"], eps=k["clip_epsilon"]),
        ("clip_at", "clip_epsilon"),
    ),
    "normalized": Clip(
        "Divides the whole gradient by its norm + clip_epsilon, and multiplies by clip_at.",
        "Hazan et al. 2015; optax.normalize_by_update_norm",
        lambda k: optax.normalize_by_update_norm(k["clip_at"], eps=k["clip_epsilon"]),
        ("clip_at", "clip_epsilon"),
    ),
}


def build_update(statics: Mapping[str, Any], knobs: Knobs) -> GradientTransformation:
    """Build the update: clipping, weight decay, the optimizer with its schedule, in that order.

    Args:
        statics: optimizer, clip, schedule, apply_if_finite, and whether weight_decay is used.
        knobs: knobs in the dtypes in which they are traced.

    Returns:
        Optax's transformation of the gradient.
    """
    optimizer, clip = OPTIMIZERS[statics["optimizer"]], CLIPS[statics["clip"]]
    before: list[GradientTransformation] = []
    if clip.build is not None:
        before.append(clip.build(knobs))
    if statics["weight_decay"] and not optimizer.decays_weights:
        before.append(optax.add_decayed_weights(knobs["weight_decay"]))
    # An unused knob would be traced as an array; the number 0 leaves no trace in the program.
    decay = knobs["weight_decay"] if statics["weight_decay"] else 0.0
    read: Mapping[str, Any] = {**knobs, "weight_decay": decay}
    update = optimizer.build(_learning_rate(statics, knobs), read)
    if before:
        update = optax.chain(*before, update)
    if statics["apply_if_finite"]:
        update = optax.apply_if_finite(update, statics["apply_if_finite"])
    return update


def _learning_rate(statics: Mapping[str, Any], knobs: Knobs) -> LearningRate:
    factor = SCHEDULES[statics["schedule"]].factor
    if factor is None:
        return knobs["lr"]
    return lambda count: knobs["lr"] * factor(count, knobs)
