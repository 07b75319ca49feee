"""Runs and curves -> depth: the layer of the first fault, and the growth of gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from nanlab.reporting.curves import bias_gradients
from nanlab.reporting.groups import divided, rows_of
from nanlab.reporting.layout import Layout, ReportAxis
from nanlab.reporting.theory import DEEP, Prediction, critical_weights, overflow_layer

SETTLED = 4
"""Earlier layers are left out: there the activations converge to their fixed point."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The hidden layer, counted from 0, of the first inf or NaN of a group of runs.

    Attributes:
        label: settings of the group.
        median, lowest, highest: of the runs' layers.
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
    """Return the layers for each point of the maps, none if most networks are not DEEP.

    Of the runs that fail in the forward pass of their first step, as theory's networks do.
    """
    if "depth" not in runs.columns or "origin_module" not in runs.columns:
        return []
    number = pl.col("origin_module").str.extract(r"Dense_(\d+)$").cast(pl.Int64)
    known = runs.with_columns(number.alias("_layer")).filter(
        pl.col("_layer").is_not_null(), pl.col("depth") >= DEEP,
        pl.col("fault_step") <= 0, pl.col("origin_phase") == "forward",
    )  # fmt: skip
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
        low, high: smallest and largest rate of a seed.
        crossing: where the mean is 0, interpolated between the neighbors; None unless it is 0
            once, and so are half of the seeds or more.
        crossings: for each seed whose rate is 0 once, where; in order.
        seeds: number of seeds.
        theory: where it is 0 in theory.
    """

    panel: int
    row: Any
    values: Float[np.ndarray, " values"]
    rates: Float[np.ndarray, " values"]
    low: Float[np.ndarray, " values"]
    high: Float[np.ndarray, " values"]
    crossing: float | None
    crossings: tuple[float, ...]
    seeds: int
    theory: Prediction | None


def growths_of(runs: pl.DataFrame, curves: pl.DataFrame, layout: Layout) -> list[Growth]:
    """Return the growth for each map and row, if gradients were recorded at step 0."""
    rates = _rates(curves)
    x = layout.x
    if not rates.height or not x.is_number or len(x.values) < 3:
        return []
    known = runs.join(rates, on="run_id", how="inner").sort(x.name)
    paths = [*(["seed"] if "seed" in runs.columns else []), *layout.pooled]
    growths: list[Growth] = []
    for panel, row, frame in rows_of(known, layout):
        rate = pl.col("_rate")
        by_value = frame.group_by(x.name).agg(
            rate.mean().alias("mean"), rate.min().alias("low"), rate.max().alias("high")
        ).sort(x.name)  # fmt: skip
        values, means, low, high = (column.to_numpy() for column in by_value)
        seeds = [_zeros(path[x.name].to_numpy(), path["_rate"].to_numpy())
                 for _, path in divided(frame, paths)]  # fmt: skip
        once, zeros = sorted(z[0] for z in seeds if len(z) == 1), _zeros(values, means)
        growths.append(
            Growth(
                panel=panel, row=row, values=values, rates=means, low=low, high=high,
                crossing=zeros[0] if len(zeros) == 1 and 2 * len(once) >= len(seeds) else None,
                crossings=tuple(once), seeds=len(seeds),
                theory=critical_weights(x.name, frame.row(0, named=True)),
            )
        )  # fmt: skip
    return growths


def _rates(curves: pl.DataFrame) -> pl.DataFrame:
    """Return run_id and the slope of ln(gradient norm) over the layers of DEEP networks."""
    norms, last = bias_gradients(curves), pl.col("at").max().over("run_id")
    # The last layer is the output, which has a different width. A norm that is 0 or not finite has
    # no logarithm, and the rest of its network no slope.
    norms = norms.filter(last >= DEEP, pl.col("at") >= SETTLED, pl.col("at") < last)
    norms = norms.filter((pl.col("value") > 0).fill_null(value=False).all().over("run_id"))
    # Least squares: slope = covariance / variance.
    slope = pl.cov("at", pl.col("value").log()) / pl.col("at").var()
    return norms.group_by("run_id", maintain_order=True).agg(slope.alias("_rate"))


def _zeros(
    values: Float[np.ndarray, " values"], rates: Float[np.ndarray, " values"]
) -> list[float]:
    """Return where a polygon is 0; on axes of positive values it is drawn over ln(value)."""
    is_log = bool((values > 0).all())
    at = np.log(values) if is_log else values
    zeros = [float(at[i]) for i in np.flatnonzero(rates == 0)]
    for i in np.flatnonzero(rates[:-1] * rates[1:] < 0):
        part = rates[i] / (rates[i] - rates[i + 1])
        zeros.append(float(at[i] + part * (at[i + 1] - at[i])))
    return [float(np.exp(zero)) for zero in zeros] if is_log else zeros
