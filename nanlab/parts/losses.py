"""Table of losses, each with the loss of the best constant predictor.

Targets are one-hot if the task has classes. A loss is the mean over all axes but the last, unless
its entry says differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nanlab.backend.lazy import jax, jnp, optax
from nanlab.parts import baselines
from nanlab.parts.entry import Entry, Knobs

if TYPE_CHECKING:
    from jax import Array
    from jaxtyping import Float

    Outputs = Float[Array, "*examples outputs"]
    Scalar = Float[Array, ""]


@dataclass(frozen=True)
class Loss(Entry):
    """A loss.

    Attributes:
        apply: (outputs, targets, knobs) -> loss.
        best_constant: smallest mean loss of a predictor that ignores its input.
        knobs: knobs that it reads.
        targets: "classes" if targets must be shares of classes, "any" if numbers are allowed.
    """

    apply: Callable[[Outputs, Outputs, Knobs], Scalar]
    best_constant: baselines.BestConstant
    knobs: tuple[str, ...] = ()
    targets: Literal["classes", "any"] = "classes"


def _log_loss(targets: Outputs, logarithms: Outputs) -> Scalar:
    return -jnp.mean(jnp.sum(targets * logarithms, axis=-1))


def _naive(outputs: Outputs, targets: Outputs, knobs: Knobs) -> Scalar:
    exponentials = jnp.exp(outputs)
    probabilities = exponentials / jnp.sum(exponentials, axis=-1, keepdims=True)
    return -jnp.mean(jnp.sum(targets * jnp.log(probabilities), axis=-1))


def _log_sum_exp_naive(outputs: Outputs, targets: Outputs, knobs: Knobs) -> Scalar:
    logarithm = jnp.log(jnp.sum(jnp.exp(outputs), axis=-1, keepdims=True))
    return _log_loss(targets, outputs - logarithm)


def _clipped(p: Outputs, knobs: Knobs) -> Outputs:
    return jnp.clip(p, knobs["loss_epsilon"], 1.0 - knobs["loss_epsilon"])


def _masked(outputs: Outputs, targets: Outputs, knobs: Knobs) -> Scalar:
    # Deliberately naive: the branch not taken still has a gradient, 0 * inf.
    logarithms = jnp.log(jax.nn.softmax(outputs))
    return -jnp.mean(jnp.sum(jnp.where(targets > 0, targets * logarithms, 0.0), axis=-1))


def _masked_twice(outputs: Outputs, targets: Outputs, knobs: Knobs) -> Scalar:
    p = jax.nn.softmax(outputs)
    counts = (targets > 0) & (p > 0)
    logarithms = jnp.where(counts, jnp.log(jnp.where(counts, p, 1.0)), 0.0)
    return _log_loss(targets, logarithms)


def _binary(p: Outputs, targets: Outputs, epsilon: Scalar | float) -> Scalar:
    """Compute the binary cross-entropy of probabilities, averaged over the outputs too."""
    return -jnp.mean(targets * jnp.log(p + epsilon) + (1.0 - targets) * jnp.log(1.0 - p + epsilon))


def _kl_naive(outputs: Outputs, targets: Outputs, knobs: Knobs) -> Scalar:
    ratio = targets / jax.nn.softmax(outputs)
    return jnp.mean(jnp.sum(targets * jnp.log(ratio), axis=-1))


def _kl(outputs: Outputs, targets: Outputs, knobs: Knobs) -> Scalar:
    return jnp.mean(optax.losses.kl_divergence(jax.nn.log_softmax(outputs), targets))


def _cosine(outputs: Outputs, targets: Outputs, knobs: Knobs) -> Scalar:
    epsilon = knobs["loss_epsilon"]
    return jnp.mean(optax.losses.cosine_distance(outputs, targets, epsilon=epsilon))


def _cosine_naive(outputs: Outputs, targets: Outputs, knobs: Knobs) -> Scalar:
    lengths = jnp.linalg.norm(outputs, axis=-1) * jnp.linalg.norm(targets, axis=-1)
    return 1.0 - jnp.mean(jnp.sum(outputs * targets, axis=-1) / lengths)


def _contrastive(outputs: Outputs, targets: Outputs, knobs: Knobs) -> Scalar:
    """Compute the mean over examples with a partner of their class in the batch; 0 if none has."""
    count = outputs.shape[0]
    embeddings, labels = outputs.reshape(count, -1), targets.reshape(count, -1)
    squares = jnp.sum(jnp.square(embeddings), axis=-1, keepdims=True)
    unit = embeddings * jax.lax.rsqrt(squares + knobs["loss_epsilon"])
    similar = unit @ unit.T / knobs["temperature"]
    itself = jnp.eye(count, dtype=bool)
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
        baselines.variance,
        targets="any",
    ),
    "mae": Loss(
        "Mean absolute error over examples and outputs.",
        "Laplace 1774",
        lambda outputs, targets, knobs: jnp.mean(jnp.abs(outputs - targets)),
        baselines.absolute_deviation,
        targets="any",
    ),
    "rmse": Loss(
        "Root of the mean squared error: its gradient at 0 is 0/0.",
        "nanlab",
        lambda outputs, targets, knobs: jnp.sqrt(jnp.mean(jnp.square(outputs - targets))),
        baselines.deviation,
        targets="any",
    ),
    "huber": Loss(
        "Squared below huber_delta, linear above; the mean over examples and outputs.",
        "Huber 1964; optax.losses.huber_loss",
        lambda outputs, targets, knobs: jnp.mean(
            optax.losses.huber_loss(outputs, targets, delta=knobs["huber_delta"])
        ),
        baselines.huber,
        ("huber_delta",),
        "any",
    ),
    "softmax_cross_entropy": Loss(
        "Cross-entropy of the softmax in its stable form, log-sum-exp less the logit.",
        "Bridle 1990; optax.losses.softmax_cross_entropy",
        lambda outputs, targets, knobs: jnp.mean(optax.softmax_cross_entropy(outputs, targets)),
        baselines.entropy,
    ),
    "softmax_cross_entropy_naive": Loss(
        "Cross-entropy as commonly written: exponentials, their share of the sum, its logarithm.",
        "nanlab",
        _naive,
        baselines.entropy,
    ),
    "softmax_cross_entropy_log_sum": Loss(
        "Cross-entropy by log(sum(exp(x))) - x without subtracting the maximum: exp overflows.",
        "nanlab",
        _log_sum_exp_naive,
        baselines.entropy,
    ),
    "softmax_cross_entropy_probabilities": Loss(
        "A stable softmax, then the logarithm of its probabilities: log 0.",
        "nanlab",
        lambda outputs, targets, knobs: _log_loss(targets, jnp.log(jax.nn.softmax(outputs))),
        baselines.entropy,
    ),
    "softmax_cross_entropy_epsilon": Loss(
        "A stable softmax, then log(p + loss_epsilon).",
        "nanlab",
        lambda outputs, targets, knobs: _log_loss(
            targets, jnp.log(jax.nn.softmax(outputs) + knobs["loss_epsilon"])
        ),
        baselines.entropy,
        ("loss_epsilon",),
    ),
    "softmax_cross_entropy_clipped": Loss(
        "A stable softmax, clipped to [loss_epsilon, 1 - loss_epsilon], then its logarithm.",
        "Keras's categorical_crossentropy",
        lambda outputs, targets, knobs: _log_loss(
            targets, jnp.log(_clipped(jax.nn.softmax(outputs), knobs))
        ),
        baselines.entropy,
        ("loss_epsilon",),
    ),
    "softmax_cross_entropy_masked": Loss(
        "Logarithm of the probabilities, then where(target > 0, ..., 0): the gradient is not safe.",
        "nanlab",
        _masked,
        baselines.entropy,
    ),
    "softmax_cross_entropy_masked_twice": Loss(
        "Probabilities made safe before the logarithm and masked after it.",
        "nanlab",
        _masked_twice,
        baselines.entropy,
    ),
    "sigmoid_cross_entropy": Loss(
        "Binary cross-entropy of each output in its stable form; the mean over the outputs too.",
        "Cox 1958; optax.losses.sigmoid_binary_cross_entropy",
        lambda outputs, targets, knobs: jnp.mean(
            optax.losses.sigmoid_binary_cross_entropy(outputs, targets)
        ),
        baselines.binary_entropy,
    ),
    "sigmoid_cross_entropy_probabilities": Loss(
        "Binary cross-entropy on the sigmoid's probabilities: log 0 at a p of exactly 0 or 1.",
        "nanlab",
        lambda outputs, targets, knobs: _binary(jax.nn.sigmoid(outputs), targets, 0.0),
        baselines.binary_entropy,
    ),
    "sigmoid_cross_entropy_epsilon": Loss(
        "Binary cross-entropy on probabilities with loss_epsilon inside the logarithms.",
        "nanlab",
        lambda outputs, targets, knobs: _binary(
            jax.nn.sigmoid(outputs), targets, knobs["loss_epsilon"]
        ),
        baselines.binary_entropy,
        ("loss_epsilon",),
    ),
    "sigmoid_cross_entropy_clipped": Loss(
        "Binary cross-entropy on probabilities clipped to [loss_epsilon, 1 - loss_epsilon].",
        "Keras's binary_crossentropy",
        lambda outputs, targets, knobs: _binary(
            _clipped(jax.nn.sigmoid(outputs), knobs), targets, 0.0
        ),
        baselines.binary_entropy,
        ("loss_epsilon",),
    ),
    "kl_divergence": Loss(
        "Kullback-Leibler divergence of the targets from the softmax, safe where a target is 0.",
        "Kullback and Leibler 1951; optax.losses.kl_divergence",
        _kl,
        baselines.divergence,
    ),
    "kl_divergence_naive": Loss(
        "t * log(t / p) as written: 0 * log 0 where a target is 0.",
        "nanlab",
        _kl_naive,
        baselines.divergence,
    ),
    "cosine": Loss(
        "1 - cosine of outputs and targets, lengths clamped to at least loss_epsilon.",
        "optax.losses.cosine_distance",
        _cosine,
        baselines.cosine,
        ("loss_epsilon",),
        "any",
    ),
    "cosine_naive": Loss(
        "1 - cosine as written: 0/0 where an output is all 0.",
        "nanlab",
        _cosine_naive,
        baselines.cosine,
        targets="any",
    ),
    "contrastive": Loss(
        "Supervised contrastive loss on the outputs as embeddings, at a temperature.",
        "Khosla et al. 2020",
        _contrastive,
        baselines.contrastive,
        ("temperature", "loss_epsilon"),
    ),
}
