"""Numbers of seeds -> intervals and tests; the seed is the unit, never a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
EXACT_SEEDS = 20
"""Up to so many seeds every assignment of signs is tried; beyond, RANDOM_SIGNS of them."""
RANDOM_SIGNS = 200_000


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of `values`, (seeds,).

    The resamples are the same on every machine (Efron and Tibshirani 1993, chapter 13).
    """
    rng = np.random.Generator(np.random.PCG64(0))
    rows = rng.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def share_interval(shares: np.ndarray) -> tuple[float, float]:
    """The same for shares of seeds; none or all of n seeds leave 3/n open (rule of three).

    Hanley and Lippman-Hand 1983.
    """
    low, high = interval(shares)
    open_ = min(1.0, 3.0 / len(shares))
    if np.all(shares == 0.0):
        return 0.0, open_
    return (1.0 - open_, 1.0) if np.all(shares == 1.0) else (low, high)


def sign_flip_p(differences: np.ndarray) -> float:
    """The two-sided p of a mean of 0, by flipping the signs of seeds' differences (Fisher 1935)."""
    nonzero = differences[differences != 0.0]
    if not len(nonzero):
        return 1.0
    if len(nonzero) <= EXACT_SEEDS:
        sums = np.zeros(1)
        for value in nonzero:
            sums = np.concatenate([sums + value, sums - value])
        extra = 0
    else:
        rng = np.random.Generator(np.random.PCG64(1))
        sums = np.concatenate(
            [
                rng.choice([-1.0, 1.0], (RANDOM_SIGNS // 20, len(nonzero))) @ nonzero
                for _ in range(20)
            ]
        )
        extra = 1  # the assignment that was seen counts
    seen = abs(float(nonzero.sum()))
    many = int((np.abs(sums) >= seen * (1.0 - 1e-12)).sum())
    return min(1.0, (many + extra) / (len(sums) + extra))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p values, in the same order (Holm 1979)."""
    order = np.argsort(ps, kind="stable")
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, i in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted
