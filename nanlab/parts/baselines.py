"""Loss of the best constant predictor, which ignores its input, for each loss.

Each function takes targets, knobs and the number of examples in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64

Targets = Float64[np.ndarray, "n outputs"]
KnobValues = Mapping[str, float]
BestConstant = Callable[[Targets, KnobValues, int], float]


def variance(targets: Targets, knobs: KnobValues, batch: int) -> float:
    """Return the squared error of the mean."""
    return float(np.mean(np.var(targets, axis=0)))


def deviation(targets: Targets, knobs: KnobValues, batch: int) -> float:
    """Return the root of the mean squared error of the mean."""
    return math.sqrt(variance(targets, knobs, batch))


def absolute_deviation(targets: Targets, knobs: KnobValues, batch: int) -> float:
    """Return the absolute error of the median."""
    return float(np.mean(np.abs(targets - np.median(targets, axis=0))))


def huber(targets: Targets, knobs: KnobValues, batch: int) -> float:
    """Return the Huber loss of its minimizer, found by bisection of the monotone derivative."""
    delta = knobs["huber_delta"]
    low, high = targets.min(axis=0), targets.max(axis=0)
    for _ in range(60):
        middle = (low + high) / 2
        is_high = np.sum(np.clip(middle - targets, -delta, delta), axis=0) > 0
        low, high = np.where(is_high, low, middle), np.where(is_high, middle, high)
    distance = np.abs(targets - (low + high) / 2)
    linear = delta * (distance - delta / 2)
    return float(np.mean(np.where(distance < delta, distance**2 / 2, linear)))


def _shares_entropy(shares: Float64[np.ndarray, " classes"]) -> float:
    present = shares[shares > 0]
    return float(-np.sum(present * np.log(present)))


def entropy(targets: Targets, knobs: KnobValues, batch: int) -> float:
    """Return the cross-entropy of the classes' shares."""
    return _shares_entropy(np.mean(targets, axis=0))


def divergence(targets: Targets, knobs: KnobValues, batch: int) -> float:
    """Return the divergence of the classes' shares: their entropy minus the targets' mean."""
    own = float(np.mean([_shares_entropy(target) for target in np.unique(targets, axis=0)]))
    return _shares_entropy(np.mean(targets, axis=0)) - own


def binary_entropy(targets: Targets, knobs: KnobValues, batch: int) -> float:
    """Return the binary cross-entropy of each class's share."""
    shares = np.mean(targets, axis=0)
    return float(np.mean([_shares_entropy(np.array([p, 1.0 - p])) for p in shares]))


def cosine(targets: Targets, knobs: KnobValues, batch: int) -> float:
    """Return 1 - cosine of the mean direction."""
    lengths = np.linalg.norm(targets, axis=1, keepdims=True)
    unit = targets / np.where(lengths > 0, lengths, 1.0)
    return float(1.0 - np.linalg.norm(np.mean(unit, axis=0)))


def contrastive(targets: Targets, knobs: KnobValues, batch: int) -> float:
    """Return the loss of equal embeddings: a partner is one of the other examples of the batch."""
    return math.log(max(batch - 1, 1))
