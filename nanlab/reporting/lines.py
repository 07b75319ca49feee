"""Runs and a layout -> the boundaries that theory predicts, and fault steps along an axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from nanlab.reporting.groups import groups_of
from nanlab.reporting.layout import Layout, ReportAxis
from nanlab.reporting.theory import (
    Fixed,
    Prediction,
    critical_weights,
    predicted,
    predicted_fault_step,
)

CURVE_POINTS = 80
MIN_VALUES = 5
"""Number of values of the axis from which fault steps are shown along it."""
MAX_GROUPS = 4
"""Number of groups whose fault steps can be distinguished in one figure."""


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """A predicted boundary on one map.

    Attributes:
        panel: index of the map.
        points: (x, y) in positions of the axes.
        rows: whether each point is about one row of the map rather than on a curve.
        predictions: the distinct predictions among the points.
    """

    panel: int
    points: list[tuple[float, float]]
    rows: bool
    predictions: tuple[Prediction, ...]

    def lines(self) -> list[list[tuple[float, float]]]:
        """Return the curve, or a vertical line across each row."""
        if not self.rows:
            return [self.points]
        return [[(x, row - 0.5), (x, row + 0.5)] for x, row in self.points]


def boundaries_of(runs: pl.DataFrame, layout: Layout) -> list[Boundary]:
    """Return the prediction for the horizontal axis on each map that has one."""
    x, y = layout.x, layout.y
    if not x.name or not x.is_number:
        return []
    rows = not y.name or not y.is_number or y.scale == "ordinal"
    boundaries: list[Boundary] = []
    for panel, key in enumerate(layout.panels):
        frame = _with(runs, dict(zip(layout.facets, key, strict=True)))
        found = [
            (position, prediction)
            for position, fixed in (_rows(frame, y) if rows else _curve(frame, y))
            for prediction in (predicted(x.name, fixed), critical_weights(x.name, fixed))
            if prediction and x.values[0] <= prediction.value <= x.values[-1]
        ]
        if found:
            distinct = {(p.label, p.source): p for _, p in reversed(found)}
            boundaries.append(
                Boundary(
                    panel=panel, rows=rows, predictions=tuple(reversed(distinct.values())),
                    points=[(x.position(p.value), position) for position, p in found],
                )
            )  # fmt: skip
    return boundaries


def _with(runs: pl.DataFrame, settings: Mapping[str, Any]) -> pl.DataFrame:
    return runs.filter(*(pl.col(n).eq_missing(pl.lit(v)) for n, v in settings.items()))


def _rows(frame: pl.DataFrame, y: ReportAxis) -> Iterator[tuple[float, Fixed]]:
    for row, value in enumerate(y.values):
        for fixed in _with(frame, {y.name: value} if y.name else {}).head(1).iter_rows(named=True):
            yield float(row), fixed


def _curve(frame: pl.DataFrame, y: ReportAxis) -> Iterator[tuple[float, Fixed]]:
    ends = y.position(y.values[0]), y.position(y.values[-1])
    for fixed in frame.head(1).iter_rows(named=True):
        for position in np.linspace(*ends, CURVE_POINTS).tolist():
            yield position, {**fixed, y.name: 10.0**position if y.scale == "log" else position}


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Fault steps along the only numeric axis, everything else being equal.

    Attributes:
        label: label of the group.
        values: values of the axis at which runs have a fault.
        fault, nan: median fault step and NaN step over seeds; NaN where there is none.
        theory: (value, predicted step) where theory has one.
    """

    label: str
    values: Float[np.ndarray, " values"]
    fault: Float[np.ndarray, " values"]
    nan: Float[np.ndarray, " values"]
    theory: list[tuple[float, float]]


def steps_of(runs: pl.DataFrame, layout: Layout) -> list[Steps]:
    """Return the fault steps of each group, if only the horizontal axis is numeric."""
    x, y = layout.x, layout.y
    if not x.is_number or len(x.values) < MIN_VALUES or (y.name and y.is_number) or layout.pooled:
        return []
    groups = groups_of(runs, layout)
    if len(groups) > MAX_GROUPS:
        return []
    steps: list[Steps] = []
    for label, frame in groups:
        failed = frame.filter(pl.col("fault_step").is_not_null())
        if not failed.height:
            continue
        by_value = failed.group_by(x.name).agg(
            pl.median("fault_step"), pl.median("nan_step").fill_null(float("nan"))
        ).sort(x.name)  # fmt: skip
        values, fault, nan = (column.to_numpy() for column in by_value)
        theory = [
            (row[x.name], step)
            for row in failed.unique(x.name).sort(x.name).iter_rows(named=True)
            if (step := predicted_fault_step(row)) is not None
        ]
        steps.append(Steps(label=label, values=values, fault=fault, nan=nan, theory=theory))
    return steps
