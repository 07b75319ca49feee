"""Traces -> outcomes: how each run ended, in one word."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nanlab.engine.lanes import NEVER
from nanlab.grid.outcome import Outcome


class Endings(NamedTuple):
    """How runs ended; arrays over runs.

    Attributes:
        fault_step, nan_step: int64, NEVER (-2) where there was none.
        bad_at_end: bool, whether the outputs of the last step tried were not finite.
        initial_loss, best_loss, final_loss, final_accuracy, grad_norm_max: float64, as
            `lanes.Trace` has them.
        nonfinite_gradient_steps: int64.
    """

    fault_step: np.ndarray
    nan_step: np.ndarray
    bad_at_end: np.ndarray
    initial_loss: np.ndarray
    best_loss: np.ndarray
    final_loss: np.ndarray
    final_accuracy: np.ndarray
    grad_norm_max: np.ndarray
    nonfinite_gradient_steps: np.ndarray


def outcomes(
    endings: Endings,
    *,
    baseline_losses: np.ndarray | None,
    trained_margin: np.ndarray,
    diverged_factor: np.ndarray,
) -> np.ndarray:
    """Return the outcome of each run, an array of str.

    Args:
        endings: of the runs.
        baseline_losses: what the best constant predictor of each gets; None for its own first
            loss.
        trained_margin: by which share a loss must lie below the baseline to count as trained.
        diverged_factor: by which factor a loss must lie above the run's first to be diverged.
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
