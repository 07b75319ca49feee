"""Column -> its title, type, unit and meaning: the data dictionary of the tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from nanlab.blame.vocabulary import Phase, Status
from nanlab.grid.outcome import Outcome
from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.results.schema import BOUNDARIES, CELLS, ENDS


def alternatives(words: Iterable[str]) -> str:
    """Format alternatives: "a, b or c"."""
    *others, last = words
    return f"{', '.join(others)} or {last}"


_STATUSES = [status for status in Status if status != Status.CLEAN]

_SITE = {
    "primitive": "the operation (JAX primitive)",
    "phase": f"the phase of a step: {alternatives(Phase)}",
    "module": "the path of the network's module",
    "source": "file and line of the innermost frame outside installed libraries",
    "library": "file and line inside the installed library, if it was made there",
    "function": "the name of the function on that line",
    "mechanism": "the arithmetic, such as overflow, inf-inf, 0*inf, 0/0, pole or domain",
    "iterations": "iterations of the loops around it, outermost first",
    "witness": "what jax.debug_nans or jax.debug_infs says of it",
}
_ROLE = {
    "origin": "The first site that makes an inf or a NaN from finite inputs",
    "culprit": "The first site that makes a NaN from inputs without one",
}

TABLE_MEANINGS = {
    "runs": "A row for each run.",
    "blames": "A row for each distinct blame.",
    "curves": "A row for each run, step, observable and layer.",
    "boundaries": "A row for each point of a search and each value at which training begins or "
    "ceases.",
    "cells": "A row for each cell of a refined plane.",
}
"""What the tables hold."""

_MEANING: dict[str, tuple[str, str]] = {
    "run_id": ("The run: a hash of its parameters.", ""),
    "group_id": ("The runs that share one compiled program.", ""),
    "outcome": (f"How the run ended: {', '.join(Outcome)}.", ""),
    "fault_step": ("The first step with a fault; -1 is the initial state.", "step, counted from 0"),
    "nan_step": ("The first step whose outputs hold a NaN; -1 is the initial state.",
                 "step, counted from 0"),
    "steps": ("How many steps were asked for.", "steps"),
    "initial_loss": ("Loss before the first step.", "loss"),
    "best_loss": ("The smallest finite loss.", "loss"),
    "final_loss": ("Loss at the end; of a run that failed, its last finite one.", "loss"),
    "final_accuracy": ("Share of the examples of the last batch that are classified right.",
                       "share, 0 to 1"),
    "grad_norm_max": ("The largest gradient norm, computed so that it does not overflow itself.",
                      "norm"),
    "nonfinite_gradient_steps": ("Steps whose gradient had an inf or a NaN.", "steps"),
    "blame_id": ("The row of blames.csv: a hash of all that is told of origin and culprit.", ""),
    "blame_status": (f"How sure the blame is: {alternatives(_STATUSES)}.", ""),
    "witness": ("What the independent witnesses say, the worse of the two.", ""),
    "runs": ("How many runs share the blame.", "runs"),
    "reproduced": ("How many of them the instrumented step reproduces.", "runs"),
    "example_run": ("The first of these runs in the grid's order.", ""),
    "device": ("What the run was computed on.", ""),
    "step": ("The step that the run would take next.", "step, counted from 0"),
    "observable": ("What was measured.", ""),
    "layer": ("The array of parameters or the layer it was measured on.", ""),
    "value": ("What was found; null where it is not finite.", "as the observable"),
}  # fmt: skip


_OF_THE_AXIS = ("value", "lower", "upper", "coarse_lower", "coarse_upper")
"""Columns of `boundaries` that hold values of the axis that was searched."""


def meaning_of(column: str, table: str = "runs") -> tuple[str, str]:
    """A sentence on what a column of a table means, and its unit ("" for none)."""
    if table == "boundaries" and column in BOUNDARIES:
        return BOUNDARIES[column][1], "as the axis" if column in _OF_THE_AXIS else ""
    if table == "cells":
        axis, _, end = column.rpartition("_")
        if axis and end in ENDS:
            return ENDS[end], f"as {axis}"
        if column in CELLS:
            return CELLS[column][1], ""
    if column in _MEANING:
        return _MEANING[column]
    role, _, rest = column.partition("_")
    if role in _ROLE and rest in _SITE:
        return f"{_ROLE[role]}: {_SITE[rest]}.", ""
    if column in PARAMETERS or is_user_defined(column):
        return PARAMETERS[column].doc, ""
    return "", ""


def field_of(column: str, kind: Any, table: str) -> dict[str, Any]:
    """A column as Frictionless describes it: name, type, unit, meaning, constraints."""
    description, unit = meaning_of(column, table)
    field: dict[str, Any] = {"name": column, "type": type_of(kind), "description": description}
    if unit:
        field["unit"] = unit
    if column == "outcome":
        field["constraints"] = {"required": True, "enum": [outcome.value for outcome in Outcome]}
    if column == "run_id":
        field["constraints"] = {"required": True}
    return field


def type_of(kind: Any) -> str:
    """The name that Frictionless has for a Polars type."""
    if kind == pl.Boolean:
        return "boolean"
    if kind.is_integer():
        return "integer"
    return "number" if kind.is_float() else "string"
