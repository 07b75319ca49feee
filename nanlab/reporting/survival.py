"""Runs -> survival curves: which share of them has had no fault after so many steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from nanlab.reporting.groups import groups_of
from nanlab.reporting.layout import Layout

FEWEST_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Survival:
    """A Kaplan-Meier curve of the fault step (Kaplan and Meier 1958).

    A run is followed for its `steps` and is censored there if it has had no fault. After k steps
    it has survived those numbered 0 to k - 1; one that is faulty at once has survived none.

    Attributes:
        label: of the group; "" where there is only one.
        steps: how many were taken, where the curve drops, rising.
        share: without a fault after so many.
        low, high: its 95 % interval, by the log-log transform of Greenwood's variance.
        runs, faults: how many there are, and how many had a fault.
        followed: after how many steps the last run was censored.
    """

    label: str
    steps: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int
    faults: int
    followed: int


def survivals_of(runs: pl.DataFrame, layout: Layout) -> list[Survival]:
    """A curve for each group; crashed runs are left out.

    Nothing where no run had a fault, or where there are too few steps for a curve.
    """
    ran = runs.filter((pl.col("outcome") != "crashed") & (pl.col("steps") >= FEWEST_STEPS))
    if not ran.height or ran["fault_step"].null_count() == ran.height:
        return []
    return [_survival(label, frame) for label, frame in groups_of(ran, layout)]


def _survival(label: str, runs: pl.DataFrame) -> Survival:
    from scipy import stats

    had = runs["fault_step"].is_not_null().to_numpy()
    # A fault at step k was made by the step after k were taken.
    taken = runs["fault_step"].fill_null(0).clip(0, None).to_numpy() + 1
    followed = runs["steps"].to_numpy()
    censored = stats.CensoredData(
        uncensored=taken[had].astype(float), right=followed[~had].astype(float)
    )
    curve = stats.ecdf(censored).sf
    drops = np.diff(curve.probabilities, prepend=1.0) < 0
    steps, share = curve.quantiles[drops], curve.probabilities[drops]
    low, high = np.full_like(share, np.nan), np.full_like(share, np.nan)
    inside = (share > 0) & (share < 1)
    if inside.any():
        # At 0 and 1 the transform has no value: SciPy warns and says NaN, and no band is drawn.
        with np.errstate(all="ignore"):
            interval = _interval(curve)
        low[inside] = interval[0][drops][inside]
        high[inside] = interval[1][drops][inside]
    return Survival(
        label=label, steps=steps, share=share, low=low, high=high, runs=runs.height,
        faults=int(had.sum()), followed=int(followed.max()),
    )  # fmt: skip


def _interval(curve: object) -> tuple[np.ndarray, np.ndarray]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = curve.confidence_interval(method="log-log")  # type: ignore[attr-defined]
    return interval.low.probabilities, interval.high.probabilities
