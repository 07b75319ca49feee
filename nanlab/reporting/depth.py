"""Runs and curves -> depth: the layer of the first fault, and the growth of gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from nanlab.reporting.groups import rows_of
from nanlab.reporting.layout import Layout, ReportAxis
from nanlab.reporting.theory import DEEP, Prediction, overflow_layer, predicted

SETTLED = 4
"""Earlier layers are left out: there the activations converge to their fixed point."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The hidden layer, counted from 0, of the first inf or NaN of a group of runs.

    Attributes:
        label: settings of the group.
        median: median over the runs.
        lowest: smallest layer of a run.
        highest: largest layer of a run.
        runs: number of runs whose blame names a layer.
        theory: the predicted layer.
    """

    label: str
    median: float
    lowest: float
    highest: float
    runs: int
    theory: Prediction | None


def layers_of(runs: pl.DataFrame, layout: Layout) -> list[Layer]:
    """Return the layers for each point of the maps, none if most networks are not DEEP."""
    if "depth" not in runs.columns or "origin_module" not in runs.columns:
        return []
    number = pl.col("origin_module").str.extract(r"Dense_(\d+)$").cast(pl.Int64)
    known = runs.with_columns(number.alias("_layer")).filter(pl.col("_layer").is_not_null())
    known = known.filter(pl.col("depth") >= DEEP)
    if not known.height or 2 * known.height < runs["origin_module"].drop_nulls().len():
        return []
    axes = [axis for axis in (layout.y, layout.x) if axis.name]
    names = [*layout.facets, *(axis.name for axis in axes)]
    if known.select(names).n_unique() > 24 or not names:
        return []
    layers: list[Layer] = []
    for key, frame in known.group_by(names, maintain_order=True):
        labels = [_value(axis, v) for axis, v in zip(axes, key[len(layout.facets) :], strict=True)]
        panel = layout.panel_label(key[: len(layout.facets)])
        found = frame["_layer"].to_numpy()
        layers.append(
            Layer(
                label=", ".join(part for part in (panel, *labels) if part),
                median=float(np.median(found)), lowest=float(found.min()),
                highest=float(found.max()), runs=frame.height,
                theory=overflow_layer(frame.row(0, named=True)),
            )
        )  # fmt: skip
    return layers


def _value(axis: ReportAxis, value: Any) -> str:
    label = axis.labels[axis.values.index(value)]
    return f"{axis.name.rpartition('.')[2]} = {label}" if axis.is_number else label


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Growth of gradients with depth, for one value of the vertical axis.

    Attributes:
        panel: index of the map.
        row: value of the vertical axis; None where there is no such axis.
        values: values of the horizontal axis.
        rates: ln of the factor by which the norm of the biases' gradient grows per layer towards
            the output, mean over seeds.
        low: smallest rate of a seed.
        high: largest rate of a seed.
        crossing: where the rate is 0, by a straight-line fit; None if outside the values.
        theory: where it is 0 in theory.
    """

    panel: int
    row: Any
    values: Float[np.ndarray, " values"]
    rates: Float[np.ndarray, " values"]
    low: Float[np.ndarray, " values"]
    high: Float[np.ndarray, " values"]
    crossing: float | None
    theory: Prediction | None


def growths_of(runs: pl.DataFrame, curves: pl.DataFrame, layout: Layout) -> list[Growth]:
    """Return the growth for each map and row, if gradients were recorded at step 0."""
    rates = _rates(curves)
    x = layout.x
    if not rates.height or not x.is_number or len(x.values) < 3:
        return []
    known = runs.join(rates, on="run_id", how="inner")
    growths: list[Growth] = []
    for panel, row, frame in rows_of(known, layout):
        rate = pl.col("_rate")
        by_value = frame.group_by(x.name).agg(
            rate.mean().alias("mean"), rate.min().alias("low"), rate.max().alias("high")
        ).sort(x.name)  # fmt: skip
        values, means, low, high = (column.to_numpy() for column in by_value)
        growths.append(
            Growth(
                panel=panel, row=row, values=values, rates=means, low=low, high=high,
                crossing=_crossing(values, means),
                theory=predicted(x.name, frame.row(0, named=True)),
            )
        )  # fmt: skip
    return growths


def _rates(curves: pl.DataFrame) -> pl.DataFrame:
    """Return run_id and the slope of ln(gradient norm) over the layers of DEEP networks."""
    number = pl.col("layer").str.extract(r"^Dense_(\d+)/bias$").cast(pl.Int64)
    norms = curves.filter((pl.col("step") == 0) & (pl.col("observable") == "gradient_norm"))
    norms = norms.with_columns(number.alias("at")).filter(
        (pl.col("at") >= SETTLED) & (pl.col("value") > 0)
    )
    if not norms.height or norms["at"].n_unique() < DEEP:
        return pl.DataFrame(schema={"run_id": pl.String, "_rate": pl.Float64})
    # The last layer is the output, which has a different width.
    norms = norms.filter(pl.col("at") < pl.col("at").max().over("run_id"))
    # Least squares: slope = covariance / variance.
    slope = pl.cov("at", pl.col("value").log()) / pl.col("at").var()
    return norms.group_by("run_id").agg(slope.alias("_rate"))


def _crossing(
    values: Float[np.ndarray, " values"], rates: Float[np.ndarray, " values"]
) -> float | None:
    if rates.min() > 0 or rates.max() < 0:
        return None
    return float(np.polyval(np.polyfit(rates, values, 1), 0.0))
