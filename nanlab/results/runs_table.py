"""Plan, results -> the table of runs, a slice of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from nanlab.grid.defaults import is_default
from nanlab.grid.parameters import PARAMETERS
from nanlab.parts.listing import BESIDE_OPTION, readers
from nanlab.plan.plan import Plan
from nanlab.results.schema import RUNS

if TYPE_CHECKING:
    from jaxtyping import Shaped

PolarsType = Any
"""A Polars type; beartype cannot resolve the name that Polars gives it."""


class RunsTable:
    """The table of a plan's runs.

    Args:
        plan: the plan of the study.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        values = {name: _values(column) for name, column in plan.columns.items()}
        self._types = {name: _type(values[name]) for name in values if _has_column(name, values)}
        self._group = np.empty(len(plan), np.int32)
        for number, group in enumerate(plan.groups):
            self._group[group.runs] = number

    def frame(
        self, results: pl.DataFrame, blames: pl.DataFrame, rows: slice = slice(None)
    ) -> pl.DataFrame:
        """Return rows of the table, in the grid's order.

        Args:
            results: rows of RESULT with `blame_id`, one for each of the runs, in any order.
            blames: the blames with their witnesses.
            rows: the runs to return.

        Returns:
            The columns of `schema.RUNS` with those of the parameters, without `device`.
        """
        plan = self._plan
        ids = [group.group_id for group in plan.groups]
        parameters = pl.DataFrame(
            {
                "run_id": plan.run_ids[rows].tolist(),
                "group_id": [ids[number] for number in self._group[rows].tolist()],
                **{n: _parameter(plan.columns[n][rows], kind) for n, kind in self._types.items()},
            }
        )
        findings = results.join(blames.select("blame_id", "witness"), on="blame_id", how="left")
        # `steps` is a parameter, but RUNS has it among the results.
        first = [name for name in parameters.columns if name != "steps"]
        rest = [name for name in RUNS if name not in (*first, "device")]
        joined = parameters.join(findings, on="run_id", how="left", maintain_order="left")
        return joined.select(*first, *rest)


def _values(column: Shaped[np.ndarray, " runs"]) -> list[Any]:
    """Return the distinct values of a column as Python values, in order of appearance."""
    if not any(column.strides):
        return column[:1].tolist()
    if column.dtype == object:
        return list(dict.fromkeys(column))
    return pl.Series(column).unique(maintain_order=True).to_list()


def _has_column(name: str, values: dict[str, list[Any]]) -> bool:
    """Return whether some run reads a parameter, or sets it to something but the default."""
    if any(value is not None and not is_default(name, value) for value in values[name]):
        return True
    if PARAMETERS[name].role == "option":
        return False
    if name in BESIDE_OPTION:
        return _has_column(BESIDE_OPTION[name], values)
    chosen = {key: set(values[key]) for key in readers(name) if key in values}
    return not readers(name) or any(chosen[key] & set(readers(name)[key]) for key in chosen)


def _type(values: list[Any]) -> PolarsType:
    # A batch size is a number or "full", and a column has one type.
    if any(isinstance(v, str) for v in values):
        return pl.String()
    return pl.Series(values).dtype


def _parameter(column: Shaped[np.ndarray, " runs"], kind: PolarsType) -> pl.Series:
    values = column.tolist()
    if kind == pl.String:
        values = [None if value is None else str(value) for value in values]
    return pl.Series(values, dtype=kind)


def categorical_columns(plan: Plan) -> Iterable[str]:
    """Yield the parameters that take several text or boolean values."""
    for name, column in plan.columns.items():
        values = set(_values(column)) - {None}
        if len(values) > 1 and {type(value) for value in values} <= {str, bool}:
            yield name
