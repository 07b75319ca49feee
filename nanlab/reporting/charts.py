"""Analysis -> charts: what stands where in each picture that is no map, for either pen to draw.

All is in positions: on a logarithmic axis these are powers of ten, on an ordinal one places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.captions import critical_name
from nanlab.reporting.critical import Critical
from nanlab.reporting.layout import ReportAxis
from nanlab.reporting.ticks import linear_ticks, log_ticks, ticks
from nanlab.reporting.words import name_of

Shape = Literal["line", "step", "points", "ranges"]
"""`line` joins its points; `step` holds each until the next; `points` have marks only; `ranges` are
thick lines from low to high along the horizontal axis, with a mark."""
Mark = Literal["full", "open", "square", "up", "down", "dash", "none"]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one kind.

    Attributes:
        label: in the legend; "" for none.
        x, y: positions.
        low, high: of a band around a step line, or of bars; along y, in `ranges` along x.
        shape, mark: how it is drawn.
        color: number of the color and of the dashes; -1 for black.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    shape: Shape = "line"
    mark: Mark = "none"
    color: int = 0


@dataclass(frozen=True, kw_only=True)
class Side:
    """An axis of a chart: its title, its ends and its ticks."""

    title: str
    low: float
    high: float
    ticks: list[tuple[float, str]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with two axes.

    Attributes:
        x, y: the axes.
        series: what is drawn, in order.
        verticals: (x, color) of dashed lines.
        zero: whether a thin line marks y = 0.
        legend: title of the legend.
        rows: how many rows of words a chart has along y; 0 for a chart of any height.
    """

    x: Side
    y: Side
    series: list[Series]
    verticals: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    zero: bool = False
    legend: str = ""
    rows: int = 0


def chart_of(analysis: Analysis, name: str, *, most: int) -> Chart:
    """The chart of that name, with at most about so many ticks along the horizontal axis."""
    return CHARTS[name](analysis, most)


def _survival(analysis: Analysis, most: int) -> Chart:
    last = math.log10(max(2, *(curve.followed for curve in analysis.survivals)))
    series: list[Series] = []
    for i, curve in enumerate(analysis.survivals):
        x = [0.0, *np.log10(curve.steps).tolist(), math.log10(curve.followed)]
        y = [1.0, *curve.share.tolist()]
        low, high = ([math.nan, *b.tolist()] for b in (curve.low, curve.high))
        series.append(
            Series(
                label=f"{curve.label or 'all runs'} ({curve.faults:,} of {curve.runs:,})",
                x=x, y=[*y, y[-1]], low=[*low, low[-1]], high=[*high, high[-1]],
                shape="step", color=i,
            )
        )  # fmt: skip
    return Chart(
        x=Side(title="steps taken", low=-0.03 * last, high=last, ticks=log_ticks(0.0, last, most)),
        y=Side(title="share of runs without a fault", low=0.0, high=1.02,
               ticks=linear_ticks(0.0, 1.0, 6)),
        series=series,
    )  # fmt: skip


def _critical(analysis: Analysis, most: int) -> Chart:
    layout = analysis.layout
    panels = sorted({each.panel for each in analysis.criticals})
    series: list[Series] = []
    width = _span(layout.y)
    for i, panel in enumerate(panels):
        some = [each for each in analysis.criticals if each.panel == panel]
        label = layout.panel_label(layout.panels[panel]) or "all runs"
        shift = min(0.012, 0.05 / len(panels)) * width * (i - (len(panels) - 1) / 2)
        series += _critical_series(analysis, some, i, label, shift)
    seen = [v for s in series for v in (*s.y, *s.low, *s.high)]
    ends = [layout.x.position(layout.x.values[i]) for i in (0, -1)]
    low, high = min([*ends, *seen]), max([*ends, *seen])
    room = 0.05 * (high - low)
    find = log_ticks if layout.x.scale == "log" else linear_ticks
    y_ticks = ticks(layout.x, 6) if layout.x.scale == "ordinal" else find(low, high, 6)
    first, last = (layout.y.position(layout.y.values[i]) for i in (0, -1))
    return Chart(
        x=Side(title=name_of(layout.y.name), low=first - 0.06 * width, high=last + 0.06 * width,
               ticks=ticks(layout.y, most)),
        y=Side(title=critical_name(analysis), low=low - room, high=high + room, ticks=y_ticks),
        series=series,
    )  # fmt: skip


def _span(axis: ReportAxis) -> float:
    first, last = (axis.position(axis.values[i]) for i in (0, -1))
    return max(last - first, 1.0 if axis.scale == "ordinal" else last - first)


def _critical_series(
    analysis: Analysis, some: list[Critical], i: int, label: str, shift: float
) -> list[Series]:
    x, y = analysis.layout.x, analysis.layout.y
    told = [c for c in some if c.value is not None and c.low is not None and c.high is not None]

    def at(some: Sequence[Critical]) -> list[float]:
        return [y.position(c.row) + shift for c in some]

    series = [
        Series(
            label=label, x=at(told), y=[x.position(c.value) for c in told],
            low=[x.position(c.low) for c in told], high=[x.position(c.high) for c in told],
            shape="line" if y.is_number else "points", mark="full", color=i,
        )
    ]  # fmt: skip
    for side, mark in (("above", "up"), ("below", "down")):
        beyond = [c for c in some if c.value is None and c.side == side]
        if beyond:
            series.append(
                Series(label="", x=at(beyond), y=[x.position(c.bound) for c in beyond],
                       shape="points", mark="up" if mark == "up" else "down", color=i)
            )  # fmt: skip
    theory = [c for c in some if c.theory is not None]
    if theory:
        places = [x.position(c.theory.value) for c in theory if c.theory]
        series.append(
            Series(label="theory" if i == 0 else "", x=at(theory), y=places, shape="points",
                   mark="dash", color=-1)
        )  # fmt: skip
    return series


def _steps(analysis: Analysis, most: int) -> Chart:
    x, series, highest = analysis.layout.x, list[Series](), math.log10(2)
    for i, steps in enumerate(analysis.steps):
        at = np.array([x.position(value) for value in steps.values])
        before = f"{steps.label}: " if len(analysis.steps) > 1 else ""
        for values, mark, word in ((steps.fault, "full", "fault"), (steps.nan, "open", "NaN")):
            there = ~np.isnan(values)
            if not there.any():
                continue
            y = np.log10(values[there] + 1)
            highest = max(highest, float(y.max()))
            series.append(
                Series(label=f"{before}first {word}", x=at[there].tolist(), y=y.tolist(),
                       shape="points", mark="full" if mark == "full" else "open", color=i)
            )  # fmt: skip
        if steps.theory:
            places = [x.position(value) for value, _ in steps.theory]
            y = [math.log10(step + 1) for _, step in steps.theory]
            series.append(Series(label="theory" if i == 0 else "", x=places, y=y, color=-1))
    room = 0.03 * _span(x)
    first, last = (x.position(x.values[i]) for i in (0, -1))
    return Chart(
        x=Side(title=name_of(x.name), low=first - room, high=last + room, ticks=ticks(x, most)),
        y=Side(title="step, plus 1", low=-0.04 * highest, high=1.04 * highest,
               ticks=log_ticks(0.0, highest, 6)),
        series=series,
    )  # fmt: skip


def _layers(analysis: Analysis, most: int) -> Chart:
    layers = analysis.layers
    places = [-float(i) for i in range(len(layers))]
    theory = [(la.theory.value, at) for la, at in zip(layers, places, strict=True) if la.theory]
    high = max([*(la.highest for la in layers), *(value for value, _ in theory)])
    series = [
        Series(
            label="median and range", x=[la.median for la in layers], y=places,
            low=[la.lowest for la in layers], high=[la.highest for la in layers],
            shape="ranges", mark="full",
        )
    ]  # fmt: skip
    if theory:
        x, y = (list(side) for side in zip(*theory, strict=True))
        series.append(Series(label="theory", x=x, y=y, shape="points", mark="square", color=-1))
    return Chart(
        x=Side(title="layer, counted from 0", low=0.0, high=1.05 * high,
               ticks=linear_ticks(0.0, high, most)),
        y=Side(title="", low=0.5 - len(layers), high=0.5,
               ticks=[(at, la.label) for la, at in zip(layers, places, strict=True)]),
        series=series,
        rows=len(layers),
    )  # fmt: skip


def _growth(analysis: Analysis, most: int) -> Chart:
    x, y = analysis.layout.x, analysis.layout.y
    series: list[Series] = []
    for i, growth in enumerate(analysis.growths):
        label = "all runs" if growth.row is None else y.labels[y.values.index(growth.row)]
        series.append(
            Series(
                label=label, x=growth.values.tolist(), y=growth.rates.tolist(),
                low=growth.low.tolist(), high=growth.high.tolist(), mark="full", color=i,
            )
        )  # fmt: skip
    low = min(min(s.low) for s in series)
    high = max(max(s.high) for s in series)
    ends = [at for s in series for at in s.x]
    room, across = 0.05 * (high - low), 0.03 * (max(ends) - min(ends))
    return Chart(
        x=Side(title=name_of(x.name), low=min(ends) - across, high=max(ends) + across,
               ticks=linear_ticks(min(ends), max(ends), most)),
        y=Side(title="growth of gradients a layer, ln", low=low - room, high=high + room,
               ticks=linear_ticks(low, high, 6)),
        series=series,
        verticals=[(g.theory.value, i) for i, g in enumerate(analysis.growths) if g.theory],
        zero=True,
        legend=name_of(y.name) if y.name else "",
    )  # fmt: skip


CHARTS: dict[str, Callable[[Analysis, int], Chart]] = {
    "critical": _critical,
    "growth": _growth,
    "layers": _layers,
    "steps": _steps,
    "survival": _survival,
}
