"""What lanes showed -> curves: a row for a run, a step and an observable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from nanlab.results.schema import CURVES


class Observation(NamedTuple):
    """What some runs of a chunk showed.

    Attributes:
        rows: which runs they are.
        steps: the number of the step that each would take next.
        values: (observable, layer) -> float64 for each of them.
    """

    rows: np.ndarray
    steps: np.ndarray
    values: Mapping[tuple[str, str], np.ndarray]


def is_log_step(step: int) -> bool:
    """Whether every run is looked at before this step: 0, 1, 2, 4, 8, ..."""
    return step & (step - 1) == 0


def log_steps(steps: np.ndarray) -> list[int]:
    """The steps before which some run is looked at: log-spaced ones, and each run's end.

    Args:
        steps: how many each run has, (runs,).
    """
    longest = int(steps.max())
    powers = {2**power for power in range(longest.bit_length())}
    return sorted({0, *powers, *steps.tolist()})


def curves_frame(run_ids: Sequence[str], observed: Sequence[Observation]) -> pl.DataFrame:
    """Rows of CURVES, each (run, step, observable, layer) once, in that order.

    Args:
        run_ids: of the chunk's runs, by row.
        observed: what they showed.
    """
    names = np.array(run_ids, object)
    frames = [
        pl.DataFrame(
            {
                "row": seen.rows,
                "run_id": names[seen.rows].tolist(),
                "step": seen.steps.astype(np.int64),
                "observable": [observable] * len(seen.rows),
                "layer": [layer] * len(seen.rows),
                "value": values,
            },
            schema={"row": pl.Int64, **CURVES},
        )
        for seen in observed
        for (observable, layer), values in seen.values.items()
    ]
    if not frames:
        return pl.DataFrame(schema=CURVES)
    # A fault at a step that is looked at anyway is one look.
    every = pl.concat(frames).unique(["row", "step", "observable", "layer"], keep="first")
    finite = pl.when(pl.col("value").is_finite()).then(pl.col("value"))
    every = every.sort(["row", "step", "observable", "layer"])
    return every.with_columns(finite.alias("value")).drop("row")
