"""Numbers per seed -> intervals and tests; the unit is the seed, never a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float

RESAMPLES = 10_000
EXACT_SEEDS = 16
"""Up to this many seeds all assignments of signs are tried; beyond, RANDOM_SUBSETS of them."""
RANDOM_SUBSETS = 40_000
CAPS = 17
CAP_ROUNDS = 8
"""Rounds of the search for a cap, each of which tries CAPS of them and leaves an eighth."""
POWER_80 = 0.8416
"""The 80 % quantile of the normal distribution."""


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


def seed_interval(
    values: Float[np.ndarray, "*studies seeds"], *, bounds: tuple[float, float]
) -> tuple[Float[np.ndarray, "*studies"], Float[np.ndarray, "*studies"]]:
    """Return the 95 % interval of the mean of a bounded quantity, honest where seeds agree.

    Each end is the farther of two: that of Student's t, and that of Clopper and Pearson (1934) for
    the quantity with two values, one of them the bound, that has the same mean and standard
    deviation. So it is Clopper and Pearson's for shares of 0 and 1; and where n seeds agree, up to
    1 - 0.025^(1/n) of the seeds not yet seen may lie at the bound. Of the lower end, values above
    a cap count as the cap, the one that makes the end largest: a seed farther up never lowers it.
    The same holds for the upper end, mirrored.

    Args:
        values: a number for each seed.
        bounds: smallest and largest possible value.

    Returns:
        Lower and upper end, within the bounds.
    """
    low, high = bounds
    lower, upper = _lower_end(values - low), high - _lower_end(high - values)
    return np.clip(low + lower, low, high), np.clip(upper, low, high)


def _lower_end(values: Float[np.ndarray, "*studies seeds"]) -> Float[np.ndarray, "*studies"]:
    """Return the lower end for the mean of a quantity that is never negative."""
    n = values.shape[-1]
    studies = values.reshape(-1, n)
    left, right = studies.min(axis=-1), studies.max(axis=-1)
    best = _end_under(studies, right)
    # The end is concave in the values, so as a function of the cap it has one maximum; mostly it
    # is at the largest value, where a cap just below it makes the end no larger.
    below = _end_under(studies, right - 1e-6 * (right - left)) > best
    if below.any():
        best[below] = _best_end(studies[below], left[below], right[below])
    return best.reshape(values.shape[:-1])


def _best_end(
    values: Float[np.ndarray, "studies seeds"],
    left: Float[np.ndarray, " studies"],
    right: Float[np.ndarray, " studies"],
) -> Float[np.ndarray, " studies"]:
    best = np.zeros_like(left)
    for _ in range(CAP_ROUNDS):
        caps = np.linspace(left, right, CAPS)
        ends = np.stack([_end_under(values, cap) for cap in caps])
        at, studies = ends.argmax(axis=0), np.arange(len(left))
        best = np.maximum(best, ends[at, studies])
        left = caps[np.maximum(at - 1, 0), studies]
        right = caps[np.minimum(at + 1, CAPS - 1), studies]
    return best


def _end_under(
    values: Float[np.ndarray, "studies seeds"], cap: Float[np.ndarray, " studies"]
) -> Float[np.ndarray, " studies"]:
    """Return the lower end where values above a cap count as the cap."""
    capped, n = np.minimum(values, cap[:, None]), values.shape[-1]
    return _end_of(capped.mean(axis=-1), capped.std(axis=-1, ddof=min(n - 1, 1)), n)


def _end_of(
    mean: Float[np.ndarray, "*studies"], deviation: Float[np.ndarray, "*studies"], n: int
) -> Float[np.ndarray, "*studies"]:
    """Return the lower end for n seeds with this mean and standard deviation."""
    from scipy.special import betaincinv, stdtrit

    by_t = mean - stdtrit(n - 1, 0.975) * deviation / math.sqrt(n) if n > 1 else mean
    # A share q of seeds at 0 and the rest at one value; the variance without Bessel's correction.
    variance = deviation**2 * (n - 1) / n
    square = mean**2 + variance
    q = np.divide(variance, square, out=np.zeros_like(mean), where=square > 0.0)
    unlike = 1.0 - betaincinv(n * q + 1.0, np.maximum(n - n * q, 1e-9), 0.975)
    by_two_values = np.divide(mean, 1.0 - q, out=np.zeros_like(mean), where=q < 1.0) * unlike
    return np.minimum(by_t, by_two_values)


def detectable(
    values: Float[np.ndarray, " seeds"], threshold: float, *, bounds: tuple[float, float]
) -> float | None:
    """Return the smallest mean whose lower end passes a threshold in 80 % of studies like this one.

    Args:
        values: a number for each seed, from which the standard deviation is taken.
        threshold: what the lower end of `seed_interval` has to reach.
        bounds: smallest and largest possible value.

    Returns:
        The mean, None if it is beyond the bounds.
    """
    n, (low, high) = len(values), bounds
    if n < 2:
        return None
    deviation = values.std(ddof=1)
    means = np.linspace(threshold, high, 1001)
    ends = low + _end_of(means - low, np.full_like(means, deviation), n)
    passing = means[ends >= threshold]
    mean = float(passing[0]) + POWER_80 * float(deviation) / math.sqrt(n) if len(passing) else high
    return mean if mean < high else None


def sign_flip_p(differences: Float[np.ndarray, " seeds"]) -> float:
    """Return the two-sided p value of a mean of 0, by sign-flip permutation (Fisher 1935)."""
    # A flipped sum is as large as the observed one where the flipped values sum to 0 or less, so
    # a value that rises never raises the p value of a positive mean.
    values = differences if differences.sum() >= 0.0 else -differences
    if not values.any():
        return 1.0
    seeds = len(values)
    if seeds <= EXACT_SEEDS:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums, sums + value])
        extra = 0
    else:
        sums = _subsets(seeds) @ values
        extra = 1  # the observed assignment counts
    tolerance = 1e-12 * float(np.abs(values).sum())
    n_extreme = int((sums <= tolerance).sum())
    return min(1.0, 2.0 * (n_extreme + extra) / (len(sums) + extra))


@lru_cache(maxsize=4)
def _subsets(seeds: int) -> Float[np.ndarray, "subsets seeds"]:
    """Return random subsets of the seeds, the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(1))
    return rng.integers(0, 2, (RANDOM_SUBSETS, seeds)).astype(np.float64)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p values, adjusted for multiple tests, in the same order (Holm 1979)."""
    order = np.argsort(ps, kind="stable")
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, i in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted
