"""Endings of runs -> outcomes: how each run ended, in one word."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from nanlab.engine.lanes import NEVER
from nanlab.grid.outcome import Outcome


class Endings(NamedTuple):
    """How the runs of a chunk ended.

    Attributes:
        fault_step: step of the first fault, NEVER (-2) if there was none.
        nan_step: step of the first NaN, NEVER (-2) if there was none.
        bad_at_end: whether the outputs of the last step tried were not finite.
        initial_loss: see `LaneState`.
        best_loss: see `LaneState`.
        final_loss: see `LaneState`.
        final_accuracy: `LaneState.accuracy`.
        grad_norm_max: see `LaneState`.
        nonfinite_gradient_steps: see `LaneState`.
    """

    fault_step: Int[np.ndarray, " runs"]
    nan_step: Int[np.ndarray, " runs"]
    bad_at_end: Bool[np.ndarray, " runs"]
    initial_loss: Float64[np.ndarray, " runs"]
    best_loss: Float64[np.ndarray, " runs"]
    final_loss: Float64[np.ndarray, " runs"]
    final_accuracy: Float64[np.ndarray, " runs"]
    grad_norm_max: Float64[np.ndarray, " runs"]
    nonfinite_gradient_steps: Int[np.ndarray, " runs"]


def outcomes(
    endings: Endings,
    *,
    baseline_losses: Float64[np.ndarray, " runs"] | None,
    trained_margin: Float64[np.ndarray, " runs"],
    diverged_factor: Float64[np.ndarray, " runs"],
) -> np.ndarray:
    """Classify how each run ended.

    Args:
        endings: the endings of the runs.
        baseline_losses: loss of the best constant predictor; None for the run's first loss.
        trained_margin: share by which the final loss of a trained run is below the baseline.
        diverged_factor: factor by which the final loss of a diverged run exceeds its first.

    Returns:
        The words of `Outcome`, an array of str, (runs,).
    """
    initial, final = endings.initial_loss, endings.final_loss
    baseline = initial if baseline_losses is None else baseline_losses
    trained = final < (1.0 - trained_margin) * baseline
    diverged = final > diverged_factor * initial
    healthy = np.where(
        trained, Outcome.TRAINED, np.where(diverged, Outcome.DIVERGED, Outcome.STALLED)
    )
    failed = np.where(endings.bad_at_end, Outcome.INF, Outcome.RECOVERED)
    fault, nan = endings.fault_step != NEVER, endings.nan_step != NEVER
    return np.where(nan, Outcome.NAN, np.where(fault, failed, healthy))
