"""The columns of the result tables: names, types and meanings."""

from __future__ import annotations

from typing import Any

import polars as pl

SITE = ("primitive", "phase", "module", "source", "library", "function", "mechanism")
"""What is told of a site, in the tables' order."""


ENDING: dict[str, Any] = {
    "outcome": pl.String,
    "fault_step": pl.Int64,
    "nan_step": pl.Int64,
    "initial_loss": pl.Float64,
    "best_loss": pl.Float64,
    "final_loss": pl.Float64,
    "final_accuracy": pl.Float64,
    "grad_norm_max": pl.Float64,
    "nonfinite_gradient_steps": pl.Int64,
}


BLAME: dict[str, Any] = {
    f"{role}_{name}": pl.String for role in ("origin", "culprit") for name in (*SITE, "iterations")
}


RESULT: dict[str, Any] = {"run_id": pl.String, **ENDING, **BLAME, "blame_status": pl.String}
"""What a chunk keeps of a run; null where there is nothing to tell."""


CURVES: dict[str, Any] = {
    "run_id": pl.String,
    "step": pl.Int64,
    "observable": pl.String,
    "layer": pl.String,
    "value": pl.Float64,
}
"""The columns of `curves.parquet`; `value` is null where it is not finite."""


BOUNDARIES: dict[str, tuple[Any, str]] = {
    "crossing": (
        pl.Int64,
        "Number of the crossing along the axis, from 1; 0 where the answer is no crossing: it "
        "lies beyond an end of the axis, and the bracket is open there.",
    ),
    "crossings": (pl.Int64, "How many crossings the coarse pass saw for this point."),
    "only": (pl.Boolean, "Whether the point has this row alone: one crossing, and it the answer."),
    "answer": (pl.Boolean, "Whether this row holds the value that `finds` asks for; one a point."),
    "value": (
        pl.Float64,
        "The value that `finds` asks for, if this row were its answer: the end of the bracket "
        "that trains, or that fails. Null where the bracket is open there.",
    ),
    "lower": (pl.Float64, "The bracket's lower end; null where it lies below the axis."),
    "upper": (pl.Float64, "The bracket's upper end; null where it lies above the axis."),
    "width": (
        pl.Float64,
        "The bracket's width: in log10 on a log scale, otherwise in the axis's unit.",
    ),
    "within_tolerance": (
        pl.Boolean,
        "Whether the width is at most the tolerance; it is not where a run crashed, or where what "
        "lies between is excluded.",
    ),
    "trains": (pl.String, "On which side of the bracket runs train: `below` or `above`."),
    "lower_outcome": (pl.String, "How the run at the lower end ended."),
    "upper_outcome": (pl.String, "How the run at the upper end ended."),
    "lower_run": (pl.String, "The run_id of the run at the lower end."),
    "upper_run": (pl.String, "The run_id of the run at the upper end."),
    "coarse_lower": (pl.Float64, "The lower of the two neighbors of the coarse pass."),
    "coarse_upper": (pl.Float64, "The upper of the two neighbors of the coarse pass."),
    "seen": (
        pl.Int64,
        "How often training begins or ceases among all runs between these two neighbors: more "
        "than 1 says that the boundary is not simple there, and the answer the furthest found.",
    ),
    "runs": (pl.Int64, "How many runs the search took between these two neighbors."),
    "point_runs": (pl.Int64, "How many runs this point took in all, the coarse pass included."),
}
"""Columns of `boundaries` after one for each other axis: type and meaning."""


CELLS: dict[str, tuple[Any, str]] = {
    "kind": (
        pl.String,
        "What all runs on the cell's rim are: `trains`, `fails`, or the outcome that they share; "
        "null where they differ, and the boundary goes through the cell.",
    ),
    "corner_run": (pl.String, "The run_id of the run at the lower end of both axes."),
}
"""Columns of `cells` after one for each other axis and two for each refined one."""


ENDS = {
    "lower": "The cell's lower end on this axis.",
    "upper": "The cell's upper end on this axis.",
}
