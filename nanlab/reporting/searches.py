"""The tables of a search or refinement -> the values that it found, and shares of the plane."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from nanlab.grid.outcome import Outcome
from nanlab.grid.search import FINDS
from nanlab.reporting.critical import Critical, Side
from nanlab.reporting.groups import divided, rows_of
from nanlab.reporting.layout import Layout
from nanlab.reporting.theory import predicted
from nanlab.results.read import Results

KINDS = ("trains", "fails", "boundary")


def found_of(results: Results, layout: Layout) -> list[Critical]:
    """Return the answers of a search for each map and row: median and range over seeds."""
    boundaries = results.search.get("boundaries")
    if boundaries is None or layout.x.name != results.resolved["search"]["axis"]:
        return []
    is_stability = results.resolved["search"].get("finds", FINDS[0]) in (FINDS[0], FINDS[-1])
    answers, criticals = boundaries.filter("answer"), list[Critical]()
    for panel, row, frame in rows_of(answers, layout):
        lows, values, highs = (frame[name].to_list() for name in ("lower", "value", "upper"))
        # Beyond an end of the axis: the bracket is open there.
        ranks = [
            value if value is not None else -math.inf if low is None else math.inf
            for low, value in zip(lows, values, strict=True)
        ]
        value, side = _median(ranks, geometric=layout.x.scale == "log")
        bound = value if value is not None else layout.x.values[-1 if side == "above" else 0]
        end = frame.select(pl.coalesce("lower_run", "upper_run")).item(0, 0)
        same = results.runs.filter(pl.col("run_id").eq_missing(pl.lit(end)))
        fixed = same.to_dicts() if is_stability else []
        criticals.append(
            Critical(
                panel=panel, label=layout.panel_label(layout.panels[panel]), row=row,
                value=value, side=side, bound=bound, seeds=frame.height,
                low=None if None in lows or value is None else min(lows),
                high=None if None in highs or value is None else max(highs),
                mixed=int((frame["seen"] > 1).sum()),
                theory=predicted(layout.x.name, fixed[0]) if fixed else None,
            )
        )  # fmt: skip
    return criticals


def _median(ranks: list[float], *, geometric: bool) -> tuple[float | None, Side]:
    low, high = (np.quantile(ranks, 0.5, method=end) for end in ("lower", "higher"))
    if math.isinf(high) and high > 0:
        return None, "above"
    if math.isinf(low):
        return None, "below"
    return (math.sqrt(low * high) if geometric and low > 0 else (low + high) / 2), "between"


def areas_of(results: Results, layout: Layout) -> list[tuple[str, dict[str, float]]]:
    """Return each map's label and its shares of KINDS, means over seeds and pooled parameters.

    Areas are measured on the axes' own scales, so they do not depend on where runs were added.
    """
    cells = results.search.get("cells")
    if cells is None:
        return []
    area = pl.lit(1.0)
    for axis in results.manifest["search"]["axes"]:
        low, high = (pl.col(f"{axis['axis']}_{end}") for end in ("lower", "upper"))
        area = area * ((high / low).log() if axis["scale"] == "log" else high - low)
    trains = ["trains", *results.resolved["refine"].get("trains", [Outcome.TRAINED.value])]
    kind = pl.when(pl.col("kind").is_null()).then(pl.lit("boundary"))
    kind = kind.when(pl.col("kind").is_in(trains)).then(pl.lit("trains")).otherwise(pl.lit("fails"))
    sized, areas = cells.with_columns(area.alias("_area"), kind.alias("_kind")), []
    for key, frame in divided(sized, layout.facets):
        sums = dict(frame.group_by("_kind").agg(pl.col("_area").sum()).rows())
        whole = sum(sums.values())
        areas.append((layout.panel_label(key), {k: sums.get(k, 0.0) / whole for k in KINDS}))
    return sorted(areas, key=lambda area: area[1]["trains"])
