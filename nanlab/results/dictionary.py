"""The data dictionary: the title, type, unit and meaning of any column of any table."""

from __future__ import annotations

from typing import Any

import polars as pl

from nanlab.grid.outcome import Outcome
from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.results.schema import ENDS, TABLES


def meaning_of(column: str, table: str = "") -> tuple[str, str]:
    """Return a sentence on what a column means, and its unit ("" for none).

    Args:
        column: name of the column.
        table: the table it is in; "" to take the first table that has such a column.

    Returns:
        Meaning and unit, both "" for a column that is not nanlab's.
    """
    axis, _, end = column.rpartition("_")
    if table == "cells" and axis and end in ENDS:
        return ENDS[end], f"as {axis}"
    first = TABLES[table].columns if table else {}
    for columns in (first, *(TABLES[name].columns for name in ("runs", "blames", "curves"))):
        if column in columns:
            return columns[column].meaning, columns[column].unit
    if column in PARAMETERS or is_user_defined(column):
        return PARAMETERS[column].doc, ""
    return "", ""


def field_of(column: str, kind: Any, table: str) -> dict[str, Any]:
    """Return a column as a Frictionless field descriptor."""
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
    """Return Frictionless' name for a Polars type."""
    if kind == pl.Boolean:
        return "boolean"
    if kind.is_integer():
        return "integer"
    return "number" if kind.is_float() else "string"
