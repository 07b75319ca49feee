"""Observations of lanes at log-spaced steps -> the table of curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64, Int

from nanlab.results.schema import CURVES


class Observation(NamedTuple):
    """Values measured in some runs of a chunk.

    Attributes:
        rows: rows of the runs in the chunk.
        steps: number of each run's next step.
        values: (observable, layer) -> one value a run.
    """

    rows: Int[np.ndarray, " runs"]
    steps: Int[np.ndarray, " runs"]
    values: Mapping[tuple[str, str], Float64[np.ndarray, " runs"]]


def is_log_step(step: int) -> bool:
    """Return whether every run is observed before this step: 0, 1, 2, 4, 8, ..."""
    return step & (step - 1) == 0


def log_steps(steps: Int[np.ndarray, " runs"]) -> list[int]:
    """Return the steps before which a run is observed: log-spaced ones, and the end of each run."""
    longest = int(steps.max())
    powers = {2**power for power in range(longest.bit_length())}
    return sorted({0, *powers, *steps.tolist()})


def curves_frame(run_ids: Sequence[str], observations: Sequence[Observation]) -> pl.DataFrame:
    """Return the rows of CURVES, sorted, one for each (run, step, observable, layer).

    Args:
        run_ids: ids of the chunk's runs, by row.
        observations: values measured in them, in any order.

    Returns:
        A frame with CURVES' columns; non-finite values are null.
    """
    names = np.array(run_ids, object)
    frames = [
        pl.DataFrame(
            {
                "row": observation.rows,
                "run_id": names[observation.rows].tolist(),
                "step": observation.steps.astype(np.int64),
                "observable": [observable] * len(observation.rows),
                "layer": [layer] * len(observation.rows),
                "value": values,
            },
            schema={"row": pl.Int64, **CURVES},
        )
        for observation in observations
        for (observable, layer), values in observation.values.items()
    ]
    if not frames:
        return pl.DataFrame(schema=CURVES)
    # The step of a fault may also be a log-spaced one.
    rows = pl.concat(frames).unique(["row", "step", "observable", "layer"], keep="first")
    finite = pl.when(pl.col("value").is_finite()).then(pl.col("value"))
    rows = rows.sort(["row", "step", "observable", "layer"])
    return rows.with_columns(finite.alias("value")).drop("row")
