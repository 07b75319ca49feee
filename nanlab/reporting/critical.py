"""Runs and a layout -> critical values: the stability boundary along the horizontal axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float

from nanlab.reporting.groups import divided, rows_of
from nanlab.reporting.layout import Layout
from nanlab.reporting.theory import Prediction, predicted
from nanlab.reporting.words import number
from nanlab.results.statistics import interval

STABLE = ("trained", "stalled")
"""Finite, and the loss did not grow beyond the factor."""

MAX_ROWS = 200
"""Of more values on the vertical axis this many are analyzed, evenly spaced."""

Side = Literal["between", "above", "below"]


@dataclass(frozen=True, kw_only=True)
class Critical:
    """The value along the horizontal axis at which runs stop being stable.

    Attributes:
        panel, label: index and label of the map.
        row: value of the vertical axis; None where there is no such axis.
        value: mean over seeds (geometric on a logarithmic axis) of the midpoint between the last
            stable value and the first unstable one; None where most seeds never change. Of a
            search, the median of its answers.
        low: lower end of the 95 % interval: that of a bootstrap over seeds of the mean last stable
            value, so that the interval includes the grid's spacing. Of one seed, the value.
        high: upper end, the same for the first unstable value. Of a search, `low` and `high` are
            the range over seeds.
        side: `above` where most seeds are stable everywhere, `below` where they are nowhere.
        bound: the last value of the axis if `above`, the first if `below`, otherwise `value`.
        seeds: number of paths along the axis.
        mixed: number of paths that are stable again above an unstable value.
        theory: the predicted value, if there is one.
    """

    panel: int
    label: str
    row: Any
    value: float | None
    low: float | None
    high: float | None
    side: Side
    bound: float
    seeds: int
    mixed: int
    theory: Prediction | None


def criticals_of(runs: pl.DataFrame, layout: Layout) -> list[Critical]:
    """Return a critical value for each map and row, none unless the axis has three numbers.

    A path goes along the horizontal axis with a fixed seed and fixed pooled parameters. A search
    has its own answers.

    Args:
        runs: the table of runs.
        layout: the maps of the study.

    Returns:
        Critical values by map and row; of more than MAX_ROWS rows a map has MAX_ROWS.
    """
    x, y = layout.x, layout.y
    if not x.name or not x.is_number or len(x.values) < 3 or layout.finer:
        return []
    ran = runs.filter(pl.col("outcome") != "crashed")
    if is_thinned(layout):
        indices = np.linspace(0, len(y.values) - 1, MAX_ROWS).round().astype(int)
        ran = ran.filter(pl.col(y.name).is_in([y.values[index] for index in indices]))
    return [_critical(frame, layout, panel, row) for panel, row, frame in rows_of(ran, layout)]


def is_thinned(layout: Layout) -> bool:
    """Return whether the maps have more rows than are analyzed."""
    return bool(layout.y.name) and len(layout.y.values) > MAX_ROWS


def _critical(frame: pl.DataFrame, layout: Layout, panel: int, row: Any) -> Critical:
    x = layout.x
    paths = [*(["seed"] if "seed" in frame.columns else []), *layout.pooled]
    ends = _ends(frame.sort(*paths, x.name), paths, x.name)
    theory = predicted(x.name, frame.row(0, named=True))
    if theory and theory.at_start and frame["fault_step"].max() not in (None, -1, 0):
        theory = None  # these runs fail in training, of which the rule says nothing
    never = sum(first is None for _, first, _ in ends)
    at_once = sum(last is None for last, _, _ in ends)
    smallest, largest = float(frame[x.name].min()), float(frame[x.name].max())  # type: ignore[arg-type]
    side: Side = "between"
    value, low, high = None, None, None
    if 2 * max(never, at_once) >= len(ends):
        side = "above" if never >= at_once else "below"
        bound = largest if side == "above" else smallest
    else:
        value, low, high = _midpoint(
            np.array([smallest if last is None else last for last, _, _ in ends]),
            np.array([largest if first is None else first for _, first, _ in ends]),
            geometric=smallest > 0 and x.scale != "linear",
        )
        bound = value
    return Critical(
        panel=panel, label=layout.panel_label(layout.panels[panel]), row=row,
        value=value, low=low, high=high, side=side, bound=bound, seeds=len(ends),
        mixed=sum(again for _, _, again in ends), theory=theory,
    )  # fmt: skip


def _midpoint(
    lasts: Float[np.ndarray, " seeds"], firsts: Float[np.ndarray, " seeds"], *, geometric: bool
) -> tuple[float, float, float]:
    """Return the mean midpoint over seeds, and its interval; see `Critical`."""
    scaled, back = (np.log, math.exp) if geometric else (np.asarray, float)
    middle = back(float((scaled(lasts) + scaled(firsts)).mean() / 2))
    if len(lasts) == 1:
        return middle, float(lasts[0]), float(firsts[0])
    return middle, back(interval(scaled(lasts))[0]), back(interval(scaled(firsts))[1])


def _ends(
    ordered: pl.DataFrame, paths: Sequence[str], name: str
) -> list[tuple[float | None, float | None, bool]]:
    """Return the last stable and first unstable value of each path, and if it is stable again."""
    ends: list[tuple[float | None, float | None, bool]] = []
    for _, path in divided(ordered, paths):
        stable = path["outcome"].is_in(STABLE).to_numpy()
        values = [None, *path[name].cast(pl.Float64), None]
        first = len(stable) if stable.all() else int(stable.argmin())
        ends.append((values[first], values[first + 1], bool(stable[first:].any())))
    return ends


def critical_text(c: Critical, digits: int = 3) -> str:
    """Return `0.12`, `above 10` or `below 0.001`."""
    text = number(c.bound, digits)
    return text if c.value is not None else f"{c.side} {text}"
