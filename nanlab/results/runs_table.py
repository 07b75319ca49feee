"""Plan, results -> the table of runs, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from nanlab.grid.parameters import PARAMETERS
from nanlab.parts.listing import BESIDE_OPTION, readers
from nanlab.plan.plan import Plan
from nanlab.results.schema import BLAME, ENDING

PolarsType = Any
"""A polars type; beartype cannot read the name that polars has for it."""


class RunsTable:
    """The table of a plan's runs: its columns, and any of its rows.

    Args:
        plan: what was asked.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        held = {name: _values(column) for name, column in plan.columns.items()}
        self._kinds = {name: _kind(held[name]) for name in held if _is_told(name, held)}
        self._group = np.empty(len(plan), np.int32)
        for number, group in enumerate(plan.groups):
            self._group[group.runs] = number

    def frame(
        self, results: pl.DataFrame, blames: pl.DataFrame, rows: slice = slice(None)
    ) -> pl.DataFrame:
        """Rows of the table, in the grid's order.

        Args:
            results: rows of RESULT with `blame_id`, one for each run that is asked for, in any
                order.
            blames: with witnesses.
            rows: which; all of them if not given.
        """
        plan = self._plan
        ids = [group.group_id for group in plan.groups]
        asked = pl.DataFrame(
            {
                "run_id": plan.run_ids[rows].tolist(),
                "group_id": [ids[number] for number in self._group[rows].tolist()],
                **{n: _parameter(plan.columns[n][rows], kind) for n, kind in self._kinds.items()},
            }
        )
        told = results.join(blames.select("blame_id", "witness"), on="blame_id", how="left")
        # "steps" is both a parameter and a result's neighbor; it stands among the results.
        parameters = [name for name in asked.columns if name != "steps"]
        ending = list(ENDING)
        before, after = ending[:3], ending[3:]
        blamed = [name for name in BLAME if not name.endswith("_iterations")]
        end = [*after, *blamed, "blame_id", "blame_status", "witness"]
        order = [*parameters, *before, "steps", *end]
        return asked.join(told, on="run_id", how="left", maintain_order="left").select(order)


def _values(column: np.ndarray) -> list[Any]:
    """The different values of a column as plain Python values, in the order they come in."""
    if not any(column.strides):
        return column[:1].tolist()
    if column.dtype == object:
        return list(dict.fromkeys(column))
    return pl.Series(column).unique(maintain_order=True).to_list()


def _is_told(name: str, held: dict[str, list[Any]]) -> bool:
    """Whether a parameter has a column: some run uses it, or sets it to another value.

    Args:
        name: of the parameter.
        held: the values of all.
    """
    parameter = PARAMETERS[name]
    if any(value not in (None, parameter.default) for value in held[name]):
        return True
    if parameter.role == "option":
        return False
    if name in BESIDE_OPTION:
        return _is_told(BESIDE_OPTION[name], held)
    chosen = {key: set(held[key]) for key in readers(name) if key in held}
    return not readers(name) or any(chosen[key] & set(readers(name)[key]) for key in chosen)


def _kind(values: list[Any]) -> PolarsType:
    """The type of a column that holds these."""
    # A batch size is a number or "full": one column has one type.
    if any(isinstance(v, str) for v in values):
        return pl.String()
    return pl.Series(values).dtype


def _parameter(column: np.ndarray, kind: PolarsType) -> pl.Series:
    values = column.tolist()
    if kind == pl.String:
        values = [None if value is None else str(value) for value in values]
    return pl.Series(values, dtype=kind)


def categorical_columns(plan: Plan) -> Iterable[str]:
    """The parameters with a few values that are no number: how a study is looked at."""
    for name, column in plan.columns.items():
        values = set(_values(column)) - {None}
        if len(values) > 1 and {type(value) for value in values} <= {str, bool}:
            yield name
