"""Targets -> the loss of the best constant: what a predictor that ignores its input gets.

Each takes targets (n, outputs) float64, the knobs as floats and the examples in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

BestConstant = Callable[[np.ndarray, Mapping[str, float], int], float]


def variance(targets: np.ndarray, knobs: Mapping[str, float], batch: int) -> float:
    """Of the mean, under the squared error."""
    return float(np.mean(np.var(targets, axis=0)))


def deviation(targets: np.ndarray, knobs: Mapping[str, float], batch: int) -> float:
    """Of the mean, under the root of the mean squared error of all the data."""
    return math.sqrt(variance(targets, knobs, batch))


def absolute_deviation(targets: np.ndarray, knobs: Mapping[str, float], batch: int) -> float:
    """Of the median, under the absolute error."""
    return float(np.mean(np.abs(targets - np.median(targets, axis=0))))


def huber(targets: np.ndarray, knobs: Mapping[str, float], batch: int) -> float:
    """Of the Huber location, found by bisection: the loss's derivative in the constant rises."""
    delta = knobs["huber_delta"]
    low, high = targets.min(axis=0), targets.max(axis=0)
    for _ in range(60):
        middle = (low + high) / 2
        is_high = np.sum(np.clip(middle - targets, -delta, delta), axis=0) > 0
        low, high = np.where(is_high, low, middle), np.where(is_high, middle, high)
    distance = np.abs(targets - (low + high) / 2)
    linear = delta * (distance - delta / 2)
    return float(np.mean(np.where(distance < delta, distance**2 / 2, linear)))


def _shares_entropy(shares: np.ndarray) -> float:
    present = shares[shares > 0]
    return float(-np.sum(present * np.log(present)))


def entropy(targets: np.ndarray, knobs: Mapping[str, float], batch: int) -> float:
    """Of the classes' shares, under the cross-entropy."""
    return _shares_entropy(np.mean(targets, axis=0))


def divergence(targets: np.ndarray, knobs: Mapping[str, float], batch: int) -> float:
    """Of the classes' shares, under the divergence: their entropy less the targets' own."""
    own = float(np.mean([_shares_entropy(target) for target in np.unique(targets, axis=0)]))
    return _shares_entropy(np.mean(targets, axis=0)) - own


def binary_entropy(targets: np.ndarray, knobs: Mapping[str, float], batch: int) -> float:
    """Of each class's share, under the binary cross-entropy."""
    shares = np.mean(targets, axis=0)
    return float(np.mean([_shares_entropy(np.array([p, 1.0 - p])) for p in shares]))


def cosine(targets: np.ndarray, knobs: Mapping[str, float], batch: int) -> float:
    """Of the mean direction, under 1 - cosine."""
    lengths = np.linalg.norm(targets, axis=1, keepdims=True)
    unit = targets / np.where(lengths > 0, lengths, 1.0)
    return float(1.0 - np.linalg.norm(np.mean(unit, axis=0)))


def contrastive(targets: np.ndarray, knobs: Mapping[str, float], batch: int) -> float:
    """Of one embedding for all: each partner is one among the batch's others."""
    return math.log(max(batch - 1, 1))
