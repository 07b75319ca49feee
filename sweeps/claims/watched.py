"""A training monitored at every step, which reports the monitored quantity as its loss.

The claims A4, B3, B16, D4 and E12 are about quantities of a running training. The problem's loss is
that quantity; the training's own loss is part of the state, so that a non-finite loss is a fault as
in any training.
"""

import jax
import jax.numpy as jnp
import numpy as np

import nanlab
from nanlab.grid.parameters import PARAMETERS
from nanlab.problems.training import make_training

DEPTH = 3
WARN_AT = 10.0
"""The monitor warns if the loss or the largest activation exceeds its first value by this factor,
which is also the factor from which a finite run counts as diverged."""

BEYOND = 1e300
"""Replaces non-finite values, so that the reported quantity is not a fault itself."""

KNOBS = ("lr", "init_scale", "optimizer_epsilon")
"""The training's knobs that a grid may set, in addition to hidden_bias and output_bias."""


def watched(
    told: str = "loss",
    task: str = "digits",
    activation: str = "relu",
    loss: str = "softmax_cross_entropy",
    precision: str = "float32",
    optimizer: str = "sgd",
):
    """Train an MLP of 3 x 32 in batches of 64, on 1,000 digits per seed or all of another task.

    The reported quantity (`told`):
        "loss", "activations": the largest loss, or output of a hidden layer, so far, divided by the
            first one; BEYOND if it is not finite.
        "gradient", "first layer": the norm of the whole gradient, or of the first layer's, divided
            by the first one.
        "dead": the share of hidden units whose slope is 0 on every example of the batch.
        "warning": 1 if a monitor is right. It reads the loss and the largest activation of every
            step, and a warning is permanent. It is right if it has warned before a step that ends
            in a NaN or with a large loss, or if it has not warned before any other step.

    The knobs hidden_bias and output_bias are added to the biases of the initial state.
    """
    statics = {"task": task, "activation": activation, "loss": loss, "precision": precision,
               "optimizer": optimizer, "depth": DEPTH, "width": 32, "batch_size": 64,
               "train_examples": 1000 if task == "digits" else 0}  # fmt: skip
    training = make_training(statics)

    def all_knobs(knobs):
        defaults = {name: jnp.float64(PARAMETERS[name].default) for name in training.knobs}
        return {**defaults, **{name: knobs[name] for name in KNOBS}}

    def init(knobs, key):
        state = training.init(all_knobs(knobs), key)
        layers = dict(state.params["params"])
        for number in range(DEPTH + 1):
            layer, shift = layers[f"Dense_{number}"], knobs["hidden_bias"]
            shift = knobs["output_bias"] if number == DEPTH else shift
            bias = layer["bias"] + jnp.asarray(shift).astype(layer["bias"].dtype)
            layers[f"Dense_{number}"] = {**layer, "bias": bias}
        zero = jnp.float64(0.0)
        return {"training": state._replace(params={"params": layers}), "step": jnp.int32(0),
                "loss": zero, "first": (zero, zero), "most": zero, "warned": zero}  # fmt: skip

    def step(state, knobs, key):
        after, metrics = training.step(state["training"], all_knobs(knobs), key)
        seen = {("gradient_norm", ""): metrics.grad_norm}
        if told not in ("loss", "gradient"):  # the step itself returns these
            seen = training.observe(state["training"], all_knobs(knobs), key)
        now, is_first = metrics.loss.astype(jnp.float64), state["step"] == 0
        shown = _shown("activations" if told == "warning" else told, seen, now)
        first = tuple(
            jnp.where(is_first, _finite(new), old)
            for new, old in zip((now, shown), state["first"], strict=True)
        )
        grown = _finite(shown / jnp.where(first[1] > 0, first[1], 1.0))
        most = jnp.maximum(grown, state["most"])
        large = ~(now < WARN_AT * first[0])
        word = {"loss": most, "activations": most, "gradient": grown, "first layer": grown}
        if told == "dead":
            number = shown
        elif told == "warning":
            bad = large | ~_all_finite(after)
            number = (bad == (state["warned"] > 0)).astype(jnp.float64)
        else:
            number = word[told]
        warns = large | (grown > WARN_AT)
        warned = jnp.maximum(state["warned"], warns.astype(jnp.float64))
        return {"training": after, "step": state["step"] + 1, "loss": now, "first": first,
                "most": most, "warned": warned}, number  # fmt: skip

    defaults = {name: PARAMETERS[name].default for name in KNOBS}
    return nanlab.Problem(
        init=init,
        step=step,
        knobs={**defaults, "hidden_bias": 0.0, "output_bias": 0.0},
        # No run counts as trained: the reported quantity is not a loss.
        baseline_losses=lambda knobs: np.zeros(len(knobs["lr"])),
    )


def _shown(told, seen, loss):
    if told == "loss":
        return loss
    if told == "gradient":
        return seen["gradient_norm", ""]
    if told == "first layer":
        return seen["gradient_norm", "Dense_0/kernel"]
    name = "dead_units" if told == "dead" else "largest_activation"
    layers = jnp.stack([seen[name, f"hidden_{number}"] for number in range(DEPTH)])
    return jnp.mean(layers) if told == "dead" else jnp.max(_finite(layers))


def _finite(x):
    return jnp.where(jnp.isfinite(x), x, BEYOND)


def _all_finite(tree):
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]))
