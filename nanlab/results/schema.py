"""Every column of every table, with its type, meaning and unit.

Frames, the data dictionary, the documentation and the report are derived from these columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import polars as pl

from nanlab.blame.vocabulary import Phase, Status
from nanlab.grid.outcome import Outcome


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        type: Polars type.
        meaning: a sentence.
        unit: unit of the values, "" for none.
    """

    type: Any
    meaning: str
    unit: str = ""


class Table(NamedTuple):
    """One table of a study.

    Attributes:
        meaning: what one row is, as a sentence.
        columns: the columns in order, without those of the parameters.
    """

    meaning: str
    columns: Mapping[str, Column]


def types_of(columns: Mapping[str, Column]) -> dict[str, Any]:
    """Return the Polars schema of some columns."""
    return {name: column.type for name, column in columns.items()}


def _either(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


_STEP = "step, counted from 0"
_AXIS = "as the axis"

ROLES = {
    "origin": "The first site that makes an inf or a NaN from finite inputs",
    "culprit": "The first site that makes a NaN from inputs without one",
}
"""The two sites of a blame, and the prefixes of their columns."""

_SITE = {
    "primitive": "the operation (JAX primitive)",
    "phase": f"the phase of a step: {_either(Phase)}",
    "module": "the path of the network's module",
    "source": "file and line of the innermost frame outside installed libraries",
    "library": "file and line inside the installed library, if the site is in one",
    "function": "the name of the function on that line",
    "mechanism": "the arithmetic, such as overflow, inf-inf, 0*inf, 0/0, pole or domain",
    "iterations": "iterations of the loops around it, outermost first",
}
SITE = tuple(name for name in _SITE if name != "iterations")
"""The text columns of a site, in the tables' order; `iterations` follows them."""

_RUN_ID = Column(pl.String, "The run: a hash of its parameters.")
_BLAME_ID = Column(
    pl.String, "The row of blames.csv: a hash of all columns of the origin and the culprit."
)
_WITNESS = Column(pl.String, "The worse answer of the two independent witnesses.")
_STATUS = Column(
    pl.String,
    f"How sure the blame is: {_either(s for s in Status if s != Status.CLEAN)}.",
)

_ENDING = {
    "outcome": Column(pl.String, f"How the run ended: {', '.join(Outcome)}."),
    "fault_step": Column(
        pl.Int64, "The first step with a fault; -1 is the initial state.", _STEP
    ),
    "nan_step": Column(
        pl.Int64, "The first step whose outputs hold a NaN; -1 is the initial state.", _STEP
    ),
    "steps": Column(pl.Int64, "The number of steps requested.", "steps"),
    "initial_loss": Column(pl.Float64, "Loss before the first step.", "loss"),
    "best_loss": Column(pl.Float64, "The smallest finite loss.", "loss"),
    "final_loss": Column(
        pl.Float64, "Loss at the end; of a run that failed, its last finite one.", "loss"
    ),
    "final_accuracy": Column(
        pl.Float64, "Share of the examples of the last batch that are classified correctly.",
        "share, 0 to 1",
    ),
    "grad_norm_max": Column(
        pl.Float64, "The largest gradient norm; computing it does not overflow.", "norm"
    ),
    "nonfinite_gradient_steps": Column(
        pl.Int64, "Steps whose gradient had an inf or a NaN.", "steps"
    ),
}  # fmt: skip

_SITES = {
    f"{role}_{name}": Column(pl.String, f"{which}: {meaning}.")
    for role, which in ROLES.items()
    for name, meaning in _SITE.items()
}
_WITNESSES = {
    f"{role}_witness": Column(
        pl.String, f"{which}: the answer of jax.debug_nans or jax.debug_infs."
    )
    for role, which in ROLES.items()
}

RUNS = {
    "run_id": _RUN_ID,
    "group_id": Column(pl.String, "The runs that share one compiled program."),
    **_ENDING,
    **{name: column for name, column in _SITES.items() if not name.endswith("_iterations")},
    "blame_id": _BLAME_ID,
    "blame_status": _STATUS,
    "witness": _WITNESS,
    "device": Column(pl.String, "The device that the run was computed on."),
}
"""Columns of `runs`; the parameters stand after `group_id`."""

BLAMES = {
    "blame_id": _BLAME_ID,
    "runs": Column(pl.Int64, "The number of runs that share the blame.", "runs"),
    "reproduced": Column(
        pl.Int64, "The number of these runs that the instrumented step reproduces.", "runs"
    ),
    "example_run": Column(pl.String, "The first of these runs in the grid's order."),
    **_SITES,
    **_WITNESSES,
    "witness": _WITNESS,
}

_CURVES = {
    "run_id": _RUN_ID,
    "step": Column(pl.Int64, "The step that the run would take next.", _STEP),
    "observable": Column(pl.String, "The quantity measured."),
    "layer": Column(pl.String, "The array of parameters or the layer it was measured on."),
    "value": Column(
        pl.Float64, "The measured value; null where it is not finite.", "as the observable"
    ),
}

BOUNDARIES = {
    "crossing": Column(
        pl.Int64,
        "Number of the crossing along the axis, from 1; 0 where the answer is no crossing: it "
        "lies beyond an end of the axis, and the bracket is open there.",
    ),
    "crossings": Column(pl.Int64, "How many crossings the coarse pass saw for this point."),
    "only": Column(
        pl.Boolean, "Whether this is the point's only row: its one crossing is the answer."
    ),
    "answer": Column(
        pl.Boolean, "Whether this row holds the value that `finds` requests: one row of each point."
    ),
    "value": Column(
        pl.Float64,
        "The value that `finds` would request of this row: the end of the bracket that trains, or "
        "that fails. Null where the bracket is open there.",
        _AXIS,
    ),
    "lower": Column(
        pl.Float64, "The bracket's lower end; null where it lies below the axis.", _AXIS
    ),
    "upper": Column(
        pl.Float64, "The bracket's upper end; null where it lies above the axis.", _AXIS
    ),
    "width": Column(
        pl.Float64,
        "The bracket's width: in log10 on a log scale, otherwise in the axis's unit.",
    ),
    "within_tolerance": Column(
        pl.Boolean,
        "Whether the width is at most the tolerance; false where a run crashed, or where the "
        "points between are excluded.",
    ),
    "trains": Column(pl.String, "On which side of the bracket runs train: `below` or `above`."),
    "lower_outcome": Column(pl.String, "How the run at the lower end ended."),
    "upper_outcome": Column(pl.String, "How the run at the upper end ended."),
    "lower_run": Column(pl.String, "The run_id of the run at the lower end."),
    "upper_run": Column(pl.String, "The run_id of the run at the upper end."),
    "coarse_lower": Column(pl.Float64, "The lower of the two neighbors of the coarse pass.", _AXIS),
    "coarse_upper": Column(pl.Float64, "The upper of the two neighbors of the coarse pass.", _AXIS),
    "seen": Column(
        pl.Int64,
        "How often training begins or ceases among all runs between these two neighbors. More "
        "than 1: the boundary is not simple there, and the answer is the furthest crossing found.",
    ),
    "runs": Column(pl.Int64, "How many runs the search took between these two neighbors."),
    "point_runs": Column(
        pl.Int64, "How many runs this point took in all, the coarse pass included."
    ),
}
"""Columns of `boundaries`, after one for each other axis."""

CELLS = {
    "kind": Column(
        pl.String,
        "What all runs on the cell's rim are: `trains`, `fails`, or the outcome that they share; "
        "null where they differ, and the boundary goes through the cell.",
    ),
    "corner_run": Column(pl.String, "The run_id of the run at the lower end of both axes."),
}
"""Columns of `cells`, after one for each other axis and two for each refined one."""

ENDS = {
    "lower": "The cell's lower end on this axis.",
    "upper": "The cell's upper end on this axis.",
}
"""The two columns of a refined axis in `cells`, `AXIS_lower` and `AXIS_upper`."""

TABLES = {
    "runs": Table("A row for each run.", RUNS),
    "blames": Table("A row for each distinct blame.", BLAMES),
    "curves": Table("A row for each run, step, observable and layer.", _CURVES),
    "boundaries": Table(
        "A row for each point of a search and each value at which training begins or ceases.",
        BOUNDARIES,
    ),
    "cells": Table(
        "A row for each cell of a refined plane.",
        {f"AXIS_{end}": Column(pl.Float64, text, "as AXIS") for end, text in ENDS.items()} | CELLS,
    ),
}
"""The tables of a study; `AXIS` stands for the name of a refined axis."""

CURVES = types_of(_CURVES)
ENDING = {name: kind for name, kind in types_of(_ENDING).items() if name != "steps"}
"""Types of what the engine finds about a run's ending."""
BLAME = types_of(_SITES)
RESULT = {"run_id": pl.String, **ENDING, **BLAME, "blame_status": pl.String}
"""Types of a run's columns in a chunk; null where there is no value."""
