"""Runs and a layout -> lines: theory's boundaries on the maps, and fault steps along an axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from nanlab.reporting.groups import groups_of
from nanlab.reporting.layout import Layout, ReportAxis
from nanlab.reporting.theory import Prediction, predicted, predicted_fault_step

POINTS = 80
"""How many points a curve of theory has."""
MOST_LINES = 4
"""How many groups' steps can be told apart in one picture."""


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """A predicted boundary on one map.

    Attributes:
        panel: number of the map.
        points: (x, y) in positions of the axes; y from 0 to 1 across a place of the vertical axis
            where that has no numbers to go along.
        rows: the places of an ordinal vertical axis that the points belong to; empty otherwise.
        predictions: the different ones among the points.
    """

    panel: int
    points: list[tuple[float, float]]
    rows: list[int]
    predictions: tuple[Prediction, ...]


def boundaries_of(runs: pl.DataFrame, layout: Layout) -> list[Boundary]:
    """What theory says of the horizontal axis, for each map, where it says anything."""
    x, y = layout.x, layout.y
    if not x.name or not x.is_number:
        return []
    found: list[Boundary] = []
    for panel, key in enumerate(layout.panels):
        alike = [
            pl.col(name).eq_missing(pl.lit(value))
            for name, value in zip(layout.facets, key, strict=True)
        ]
        frame = runs.filter(*alike)
        if not frame.height:
            continue
        along = y.name != "" and y.is_number and y.scale != "ordinal"
        told = _along(frame, x, y) if along else _across(frame, x, y)
        if told is not None:
            points, rows, said = told
            found.append(Boundary(panel=panel, points=points, rows=rows, predictions=said))
    return found


_Told = tuple[list[tuple[float, float]], list[int], tuple[Prediction, ...]] | None


def _along(frame: pl.DataFrame, x: ReportAxis, y: ReportAxis) -> _Told:
    fixed = frame.row(0, named=True)
    ends = y.position(y.values[0]), y.position(y.values[-1])
    points: list[tuple[float, float]] = []
    said: dict[tuple[str, str], Prediction] = {}
    for place in np.linspace(*ends, POINTS).tolist():
        value = 10.0**place if y.scale == "log" else place
        prediction = predicted(x.name, {**fixed, y.name: value})
        if prediction is not None and _within(x, prediction.value):
            said.setdefault((prediction.label, prediction.source), prediction)
            points.append((x.position(prediction.value), place))
    return (points, [], tuple(said.values())) if said else None


def _across(frame: pl.DataFrame, x: ReportAxis, y: ReportAxis) -> _Told:
    points: list[tuple[float, float]] = []
    rows: list[int] = []
    said: dict[tuple[str, str], Prediction] = {}
    for row, value in enumerate(y.values):
        some = frame.filter(pl.col(y.name).eq_missing(pl.lit(value))) if y.name else frame
        if not some.height:
            continue
        prediction = predicted(x.name, some.row(0, named=True))
        if prediction is not None and _within(x, prediction.value):
            said.setdefault((prediction.label, prediction.source), prediction)
            points.append((x.position(prediction.value), float(row)))
            rows.append(row)
    return (points, rows, tuple(said.values())) if said else None


def _within(x: ReportAxis, value: float) -> bool:
    return x.values[0] <= value <= x.values[-1]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """When runs fail along the only axis of numbers, all else alike.

    Attributes:
        label: of the group.
        values: of the axis, of runs with a fault.
        fault, nan: the steps, medians over seeds; NaN where there is none.
        theory: (value, step) where the oracle says it.
    """

    label: str
    values: np.ndarray
    fault: np.ndarray
    nan: np.ndarray
    theory: list[tuple[float, float]]


def steps_of(runs: pl.DataFrame, layout: Layout) -> list[Steps]:
    """For each group, where the horizontal axis alone has numbers, five or more; few groups."""
    x, y = layout.x, layout.y
    if not x.is_number or len(x.values) < 5 or (y.name and y.is_number) or layout.pooled:
        return []
    found: list[Steps] = []
    groups = groups_of(runs, layout)
    if len(groups) > MOST_LINES:
        return []
    for label, frame in groups:
        failed = frame.filter(pl.col("fault_step").is_not_null())
        if not failed.height:
            continue
        by_value = failed.group_by(x.name).agg(
            pl.col("fault_step").median(), pl.col("nan_step").median()
        ).sort(x.name)  # fmt: skip
        theory: list[tuple[float, float]] = []
        for row in failed.unique(x.name).sort(x.name).iter_rows(named=True):
            step = predicted_fault_step(row)
            if step is not None:
                theory.append((row[x.name], step))
        found.append(
            Steps(
                label=label, values=by_value[x.name].to_numpy(),
                fault=by_value["fault_step"].to_numpy(),
                nan=by_value["nan_step"].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
                theory=theory,
            )
        )  # fmt: skip
    return found
