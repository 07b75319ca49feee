"""Numbers per seed -> intervals and tests; the unit is the seed, never a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

RESAMPLES = 10_000
EXACT_SEEDS = 20
"""Up to this many seeds all assignments of signs are tried; beyond, RANDOM_SIGNS of them."""
RANDOM_SIGNS = 200_000


def interval(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean.

    The resamples are the same on every machine (Efron and Tibshirani 1993, chapter 13).

    Returns:
        Lower and upper end.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    rows = rng.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """Return the 95 % interval of the mean, by Student's t; the value itself if there is one."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def share_interval(shares: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of shares.

    If all n shares are 0, or all are 1, it is 3/n wide (rule of three, Hanley and Lippman-Hand
    1983); otherwise it is that of `interval`.

    Returns:
        Lower and upper end.
    """
    low, high = interval(shares)
    width = min(1.0, 3.0 / len(shares))
    if np.all(shares == 0.0):
        return 0.0, width
    return (1.0 - width, 1.0) if np.all(shares == 1.0) else (low, high)


def sign_flip_p(differences: Float[np.ndarray, " seeds"]) -> float:
    """Return the two-sided p value of a mean of 0, by sign-flip permutation (Fisher 1935)."""
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
        extra = 1  # the observed assignment counts
    observed = abs(float(nonzero.sum()))
    n_extreme = int((np.abs(sums) >= observed * (1.0 - 1e-12)).sum())
    return min(1.0, (n_extreme + extra) / (len(sums) + extra))


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p values, adjusted for multiple tests, in the same order (Holm 1979)."""
    order = np.argsort(ps, kind="stable")
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, i in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted
