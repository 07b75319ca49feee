"""Runs -> survival curves: the share of runs without a fault after a number of steps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from nanlab.reporting.groups import groups_of
from nanlab.reporting.layout import Layout

MIN_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Survival:
    """A Kaplan-Meier curve of the fault step (Kaplan and Meier 1958).

    A run without a fault is censored after its `steps`. After k steps a run has survived those
    numbered 0 to k - 1; one with a fault in its first step has survived none.

    Attributes:
        label: label of the group; "" for the only one.
        steps: numbers of steps at which the curve drops, ascending.
        share: share of runs without a fault after these steps.
        low, high: 95 % interval, by the log-log transform of Greenwood's variance.
        runs, faults: number of runs, and of those with a fault.
        followed: largest number of steps of a run.
    """

    label: str
    steps: Float[np.ndarray, " drops"]
    share: Float[np.ndarray, " drops"]
    low: Float[np.ndarray, " drops"]
    high: Float[np.ndarray, " drops"]
    runs: int
    faults: int
    followed: int


def survivals_of(runs: pl.DataFrame, layout: Layout) -> list[Survival]:
    """Return a curve for each group, none if no run had a fault; crashed runs are left out."""
    ran = runs.filter((pl.col("outcome") != "crashed") & (pl.col("steps") >= MIN_STEPS))
    if not ran.height or ran["fault_step"].null_count() == ran.height:
        return []
    return [_survival(label, frame) for label, frame in groups_of(ran, layout)]


def _survival(label: str, runs: pl.DataFrame) -> Survival:
    from scipy import stats

    failed = runs["fault_step"].is_not_null().to_numpy()
    # A fault at step k, counted from 0, occurs in the step after k were taken.
    taken = runs["fault_step"].fill_null(0).clip(0, None).to_numpy() + 1
    followed = runs["steps"].to_numpy()
    censored = stats.CensoredData(
        uncensored=taken[failed].astype(float), right=followed[~failed].astype(float)
    )
    curve = stats.ecdf(censored).sf
    # At 0 and 1 the transform is undefined: SciPy warns and returns NaN.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = curve.confidence_interval(method="log-log")
    drops = np.diff(curve.probabilities, prepend=1.0) < 0
    share = curve.probabilities[drops]
    inside = (share > 0) & (share < 1)
    ends = (interval.low.probabilities[drops], interval.high.probabilities[drops])
    low, high = (np.where(inside, end, np.nan) for end in ends)
    return Survival(
        label=label, steps=curve.quantiles[drops], share=share, low=low, high=high,
        runs=runs.height, faults=int(failed.sum()), followed=int(followed.max()),
    )  # fmt: skip
