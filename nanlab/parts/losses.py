"""Name -> loss: (outputs, targets, knobs) -> one number, with what the best constant gets.

Shapes: outputs and targets are (examples, ..., outputs); targets are one-hot where the task has
classes. A loss is the mean over all axes but the last, unless its entry says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nanlab.backend.lazy import jax, jnp, optax
from nanlab.parts import constants
from nanlab.parts.entry import Entry

if TYPE_CHECKING:
    from jax import Array

Knobs = Mapping[str, "Array"]


@dataclass(frozen=True)
class Loss(Entry):
    """A loss, and what the best predictor that ignores its input gets.

    Attributes:
        apply: (outputs, targets, knobs) -> scalar.
        best_constant: (targets as (n, outputs) float64, knobs as floats, examples in a batch) ->
            the smallest mean loss that one constant output can reach.
        knobs: the knobs that it reads.
        targets: "classes" if they must be shares of classes, "any" if numbers do as well.
    """

    apply: Callable[[Array, Array, Knobs], Array]
    best_constant: constants.BestConstant
    knobs: tuple[str, ...] = ()
    targets: Literal["classes", "any"] = "classes"


def _log_loss(targets: Array, logarithms: Array) -> Array:
    return -jnp.mean(jnp.sum(targets * logarithms, axis=-1))


def _naive(outputs: Array, targets: Array, knobs: Knobs) -> Array:
    exponentials = jnp.exp(outputs)
    probabilities = exponentials / jnp.sum(exponentials, axis=-1, keepdims=True)
    return -jnp.mean(jnp.sum(targets * jnp.log(probabilities), axis=-1))


def _log_sum_exp_naive(outputs: Array, targets: Array, knobs: Knobs) -> Array:
    logarithm = jnp.log(jnp.sum(jnp.exp(outputs), axis=-1, keepdims=True))
    return _log_loss(targets, outputs - logarithm)


def _clipped(p: Array, knobs: Knobs) -> Array:
    return jnp.clip(p, knobs["loss_epsilon"], 1.0 - knobs["loss_epsilon"])


def _masked(outputs: Array, targets: Array, knobs: Knobs) -> Array:
    # As it is written: the branch that is not taken still has a gradient, 0 * inf.
    logarithms = jnp.log(jax.nn.softmax(outputs))
    return -jnp.mean(jnp.sum(jnp.where(targets > 0, targets * logarithms, 0.0), axis=-1))


def _masked_twice(outputs: Array, targets: Array, knobs: Knobs) -> Array:
    p = jax.nn.softmax(outputs)
    counts = (targets > 0) & (p > 0)
    logarithms = jnp.where(counts, jnp.log(jnp.where(counts, p, 1.0)), 0.0)
    return _log_loss(targets, logarithms)


def _binary(p: Array, targets: Array, epsilon: Array | float) -> Array:
    """Binary cross-entropy of probabilities, the mean over the outputs too."""
    return -jnp.mean(targets * jnp.log(p + epsilon) + (1.0 - targets) * jnp.log(1.0 - p + epsilon))


def _kl_naive(outputs: Array, targets: Array, knobs: Knobs) -> Array:
    ratio = targets / jax.nn.softmax(outputs)
    return jnp.mean(jnp.sum(targets * jnp.log(ratio), axis=-1))


def _kl(outputs: Array, targets: Array, knobs: Knobs) -> Array:
    return jnp.mean(optax.losses.kl_divergence(jax.nn.log_softmax(outputs), targets))


def _cosine(outputs: Array, targets: Array, knobs: Knobs) -> Array:
    epsilon = knobs["loss_epsilon"]
    return jnp.mean(optax.losses.cosine_distance(outputs, targets, epsilon=epsilon))


def _cosine_naive(outputs: Array, targets: Array, knobs: Knobs) -> Array:
    lengths = jnp.linalg.norm(outputs, axis=-1) * jnp.linalg.norm(targets, axis=-1)
    return 1.0 - jnp.mean(jnp.sum(outputs * targets, axis=-1) / lengths)


def _contrastive(outputs: Array, targets: Array, knobs: Knobs) -> Array:
    """Supervised contrastive loss: each example against the batch, its class attracts.

    The outputs are embeddings, brought to length 1. The mean is over the examples that another
    of their class is with; 0 where there is none.
    """
    many = outputs.shape[0]
    embeddings, labels = outputs.reshape(many, -1), targets.reshape(many, -1)
    squares = jnp.sum(jnp.square(embeddings), axis=-1, keepdims=True)
    unit = embeddings * jax.lax.rsqrt(squares + knobs["loss_epsilon"])
    similar = unit @ unit.T / knobs["temperature"]
    itself = jnp.eye(many, dtype=bool)
    alike = (labels @ labels.T > 0) & ~itself
    others = jnp.where(itself, jnp.finfo(similar.dtype).min, similar)
    logarithms = similar - jax.nn.logsumexp(others, axis=-1, keepdims=True)
    partners = jnp.sum(alike, axis=-1)
    sums = jnp.sum(jnp.where(alike, logarithms, 0.0), axis=-1)
    means = sums / jnp.maximum(partners, 1).astype(sums.dtype)
    return -jnp.sum(means) / jnp.maximum(jnp.sum(partners > 0), 1).astype(sums.dtype)


LOSSES: dict[str, Loss] = {
    "mse": Loss(
        "Mean squared error over examples and outputs.",
        "Legendre 1805",
        lambda outputs, targets, knobs: jnp.mean(jnp.square(outputs - targets)),
        constants.variance,
        targets="any",
    ),
    "mae": Loss(
        "Mean absolute error over examples and outputs.",
        "Laplace 1774",
        lambda outputs, targets, knobs: jnp.mean(jnp.abs(outputs - targets)),
        constants.absolute_deviation,
        targets="any",
    ),
    "rmse": Loss(
        "Root of the mean squared error: its gradient at 0 is 0/0.",
        "nanlab",
        lambda outputs, targets, knobs: jnp.sqrt(jnp.mean(jnp.square(outputs - targets))),
        constants.deviation,
        targets="any",
    ),
    "huber": Loss(
        "Squared below huber_delta, linear above; the mean over examples and outputs.",
        "Huber 1964; optax.losses.huber_loss",
        lambda outputs, targets, knobs: jnp.mean(
            optax.losses.huber_loss(outputs, targets, delta=knobs["huber_delta"])
        ),
        constants.huber,
        ("huber_delta",),
        "any",
    ),
    "softmax_cross_entropy": Loss(
        "Cross-entropy of the softmax in its stable form, log-sum-exp less the logit.",
        "Bridle 1990; optax.losses.softmax_cross_entropy",
        lambda outputs, targets, knobs: jnp.mean(optax.softmax_cross_entropy(outputs, targets)),
        constants.entropy,
    ),
    "softmax_cross_entropy_naive": Loss(
        "Cross-entropy as people write it: exponentials, their share of the sum, its logarithm.",
        "nanlab",
        _naive,
        constants.entropy,
    ),
    "softmax_cross_entropy_log_sum": Loss(
        "Cross-entropy by log(sum(exp(x))) - x without the largest taken off: exp overflows.",
        "nanlab",
        _log_sum_exp_naive,
        constants.entropy,
    ),
    "softmax_cross_entropy_probabilities": Loss(
        "A stable softmax, then the logarithm of its probabilities: log 0.",
        "nanlab",
        lambda outputs, targets, knobs: _log_loss(targets, jnp.log(jax.nn.softmax(outputs))),
        constants.entropy,
    ),
    "softmax_cross_entropy_epsilon": Loss(
        "A stable softmax, then log(p + loss_epsilon).",
        "nanlab",
        lambda outputs, targets, knobs: _log_loss(
            targets, jnp.log(jax.nn.softmax(outputs) + knobs["loss_epsilon"])
        ),
        constants.entropy,
        ("loss_epsilon",),
    ),
    "softmax_cross_entropy_clipped": Loss(
        "A stable softmax, clipped to [loss_epsilon, 1 - loss_epsilon], then its logarithm.",
        "Keras's categorical_crossentropy",
        lambda outputs, targets, knobs: _log_loss(
            targets, jnp.log(_clipped(jax.nn.softmax(outputs), knobs))
        ),
        constants.entropy,
        ("loss_epsilon",),
    ),
    "softmax_cross_entropy_masked": Loss(
        "Logarithm of the probabilities, then where(target > 0, ..., 0): the gradient is not safe.",
        "nanlab",
        _masked,
        constants.entropy,
    ),
    "softmax_cross_entropy_masked_twice": Loss(
        "The probabilities made safe before the logarithm and masked after it.",
        "nanlab",
        _masked_twice,
        constants.entropy,
    ),
    "sigmoid_cross_entropy": Loss(
        "Binary cross-entropy of each output in its stable form; the mean over the outputs too.",
        "Cox 1958; optax.losses.sigmoid_binary_cross_entropy",
        lambda outputs, targets, knobs: jnp.mean(
            optax.losses.sigmoid_binary_cross_entropy(outputs, targets)
        ),
        constants.binary_entropy,
    ),
    "sigmoid_cross_entropy_probabilities": Loss(
        "Binary cross-entropy on the sigmoid's probabilities: log 0 at a p of exactly 0 or 1.",
        "nanlab",
        lambda outputs, targets, knobs: _binary(jax.nn.sigmoid(outputs), targets, 0.0),
        constants.binary_entropy,
    ),
    "sigmoid_cross_entropy_epsilon": Loss(
        "Binary cross-entropy on probabilities with loss_epsilon inside the logarithms.",
        "nanlab",
        lambda outputs, targets, knobs: _binary(
            jax.nn.sigmoid(outputs), targets, knobs["loss_epsilon"]
        ),
        constants.binary_entropy,
        ("loss_epsilon",),
    ),
    "sigmoid_cross_entropy_clipped": Loss(
        "Binary cross-entropy on probabilities clipped to [loss_epsilon, 1 - loss_epsilon].",
        "Keras's binary_crossentropy",
        lambda outputs, targets, knobs: _binary(
            _clipped(jax.nn.sigmoid(outputs), knobs), targets, 0.0
        ),
        constants.binary_entropy,
        ("loss_epsilon",),
    ),
    "kl_divergence": Loss(
        "Kullback-Leibler divergence of the targets from the softmax, safe where a target is 0.",
        "Kullback and Leibler 1951; optax.losses.kl_divergence",
        _kl,
        constants.divergence,
    ),
    "kl_divergence_naive": Loss(
        "t * log(t / p) as it is written: 0 * log 0 where a target is 0.",
        "nanlab",
        _kl_naive,
        constants.divergence,
    ),
    "cosine": Loss(
        "1 - cosine of outputs and targets, lengths kept above loss_epsilon.",
        "optax.losses.cosine_distance",
        _cosine,
        constants.cosine,
        ("loss_epsilon",),
        "any",
    ),
    "cosine_naive": Loss(
        "1 - cosine as it is written: 0/0 where an output is all 0.",
        "nanlab",
        _cosine_naive,
        constants.cosine,
        targets="any",
    ),
    "contrastive": Loss(
        "Supervised contrastive loss on the outputs as embeddings, at a temperature.",
        "Khosla et al. 2020",
        _contrastive,
        constants.contrastive,
        ("temperature", "loss_epsilon"),
    ),
}
