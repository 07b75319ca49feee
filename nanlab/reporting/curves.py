"""Curves -> loss over steps, and gradients over layers: medians and ranges over runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from nanlab.reporting.groups import divided, rows_of
from nanlab.reporting.layout import Layout, ReportAxis, is_learning_rate
from nanlab.reporting.words import setting

MAX_PANELS = 6
MAX_LINES = 6
"""Of more values of the horizontal axis a panel shows this many, evenly spaced."""
MIN_POINTS = 3


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A quantity along an axis: median and range over runs.

    Attributes:
        label: value of the maps' horizontal axis; "" where there is none.
        at: steps or layers.
        median: median over the runs that are finite there, like the others.
        low, high: smallest and largest value.
    """

    label: str
    at: Float[np.ndarray, " points"]
    median: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]


Panels = list[tuple[str, list[Curve]]]
"""The label of each panel, and its curves."""


def losses_of(runs: pl.DataFrame, curves: pl.DataFrame, layout: Layout) -> Panels:
    """Return the loss over steps, a panel for each map and row; [] without curves."""
    losses = curves.filter((pl.col("observable") == "loss") & (pl.col("value") > 0))
    return _panels(runs, losses.rename({"step": "at"}), layout)


def gradients_of(runs: pl.DataFrame, curves: pl.DataFrame, layout: Layout) -> Panels:
    """Return the norm of the biases' gradients over layers at step 0; [] without curves."""
    gradients = bias_gradients(curves).filter(pl.col("value") > 0)
    # Before the first update, a learning rate has had no effect.
    nothing = ReportAxis(name="", values=("",), scale="ordinal", labels=("",))
    return _panels(
        runs, gradients, replace(layout, x=nothing) if is_learning_rate(layout.x.name) else layout
    )


def bias_gradients(curves: pl.DataFrame) -> pl.DataFrame:
    """Return the norms of the biases' gradients at step 0, with the layer's number as `at`."""
    number = pl.col("layer").str.extract(r"_(\d+)/bias$").cast(pl.Int64).alias("at")
    norms = curves.filter((pl.col("step") == 0) & (pl.col("observable") == "gradient_norm"))
    return norms.with_columns(number).filter(pl.col("at").is_not_null())


def _panels(runs: pl.DataFrame, values: pl.DataFrame, layout: Layout) -> Panels:
    if values["at"].n_unique() < MIN_POINTS:
        return []
    x, y = layout.x, layout.y
    shown = _spread(x.values, MAX_LINES)
    known = runs.filter(pl.col(x.name).is_in(shown)) if x.name and x.is_number else runs
    joined = known.join(values.select("run_id", "at", "value"), on="run_id")
    panels: Panels = []
    for panel, row, frame in rows_of(joined, layout):
        own = setting(y.name, row) if y.name else ""
        title = ", ".join(filter(None, (layout.panel_label(layout.panels[panel]), own)))
        groups = divided(frame.sort(x.name) if x.name else frame, [x.name] if x.name else [])
        panels.append((title, [_curve(setting(x.name, k[0]) if k else "", f) for k, f in groups]))
    return [panels[i] for i in _spread(range(len(panels)), MAX_PANELS)]


def _curve(label: str, frame: pl.DataFrame) -> Curve:
    value = pl.col("value")
    along = frame.group_by("at").agg(value.median().alias("m"), value.min().alias("low"),
                                     value.max().alias("high")).sort("at")  # fmt: skip
    at, median, low, high = (along[name].to_numpy() for name in ("at", "m", "low", "high"))
    return Curve(label=label, at=at, median=median, low=low, high=high)


def _spread(values: Sequence[Any], most: int) -> list[Any]:
    indices = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[i] for i in indices.tolist()]
