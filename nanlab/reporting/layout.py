"""Runs -> Layout: the parameters that vary, and those that span the maps of a study."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from nanlab.reporting.words import exact, settings_label

MAX_PANELS = 12
LOG_FROM = 20.0
"""Ratio of its largest to its smallest value from which a numeric axis is logarithmic."""
EVEN = 0.15
"""A numeric axis is drawn to scale if no gap is below this share of the mean gap."""

AxisScale = Literal["log", "linear", "ordinal"]


@dataclass(frozen=True, kw_only=True)
class ReportAxis:
    """A parameter as an axis of a map or chart.

    Attributes:
        name: the parameter; "" for an axis with a single position.
        values: values in order.
        scale: position of a value: its log10, itself, or its index.
        labels: tick labels, with the value of a tied parameter if there is one.
    """

    name: str
    values: tuple[Any, ...]
    scale: AxisScale
    labels: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)

    def position(self, value: Any) -> float:
        """Return the position of a value; on an ordinal axis it is interpolated if necessary."""
        if self.scale == "log":
            return math.log10(value)
        if self.scale == "linear":
            return float(value)
        if value in self.values:
            return float(self.values.index(value))
        right = bisect.bisect(self.values, value)
        if right in (0, len(self.values)):
            return -1.0 if right == 0 else float(len(self.values))
        low, high = self.values[right - 1], self.values[right]
        return right - 1 + (value - low) / (high - low)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The maps of a study.

    Attributes:
        x: horizontal axis.
        y: vertical axis; it has one position if only one parameter varies.
        facets: parameters with a map for each of their combinations.
        panels: these combinations, in the grid's order.
        pooled: varying parameters that share a cell, besides the seed.
        finer: axes that were refined where the outcome changes.
        tied: parameters determined by another one, and that parameter.
    """

    x: ReportAxis
    y: ReportAxis
    facets: tuple[str, ...]
    panels: tuple[tuple[Any, ...], ...]
    pooled: tuple[str, ...]
    finer: tuple[str, ...]
    tied: dict[str, str]

    def panel_label(self, panel: Sequence[Any]) -> str:
        """Return a map's title, such as `relu, mse`; "" for the only map."""
        return settings_label(self.facets, panel)


def parameters_of(runs: pl.DataFrame) -> list[str]:
    """Return the columns of parameters."""
    return [*runs.columns[2 : runs.columns.index("outcome")], "steps"]


def layout_of(runs: pl.DataFrame, finer: Collection[str] = ()) -> Layout:
    """Choose the main axes, the maps and the pooled parameters.

    The horizontal axis is a refined one, or else a learning rate or another number with three
    values or more; the vertical axis is the next of them, or else a choice. The others span the
    maps; of too many the least informative are pooled.

    Args:
        runs: the table of runs.
        finer: axes that were refined where the outcome changes; they are drawn to scale however
            close some of their values are.

    Returns:
        The layout.
    """
    varying = [c for c in parameters_of(runs) if c != "seed" and runs[c].n_unique() > 1]
    tied = _tied(runs, varying)

    def rank(name: str) -> tuple[bool | int, ...]:
        values, is_number = runs[name].n_unique(), _is_number(runs, name)
        axis = is_number and values > 2
        return (name in finer, axis, axis and is_learning_rate(name),
                axis and name == "init_scale", not is_number, values)  # fmt: skip

    ranked = sorted((name for name in varying if name not in tied), key=rank, reverse=True)
    main = sorted(ranked[:2], key=lambda name: not _is_number(runs, name))
    x, y = (*main, "", "")[:2]
    facets = [name for name in varying if name in ranked[2:]]
    pooled: list[str] = []
    while facets and runs.select(facets).n_unique() > MAX_PANELS:
        pooled.append(min(facets, key=lambda name: (information(runs, name), name)))
        facets.remove(pooled[-1])
    panels = runs.select(facets).unique(maintain_order=True).rows() if facets else [()]
    return Layout(
        x=_axis(runs, x, [*facets, *filter(None, [y])], tied, even=x not in finer),
        y=_axis(runs, y, facets, tied, even=y not in finer),
        facets=tuple(facets), panels=tuple(panels), pooled=tuple(pooled), finer=tuple(finer),
        tied=tied,
    )  # fmt: skip


def is_learning_rate(name: str) -> bool:
    """Return whether a parameter is a learning rate, by its name."""
    last = name.rpartition(".")[2]
    return last in ("lr", "learning_rate", "step_size") or last.startswith("lr_")


def _is_number(runs: pl.DataFrame, name: str) -> bool:
    return runs.schema[name].is_numeric() and not runs[name].null_count()


def _tied(runs: pl.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Return parameters that another one determines, and that one.

    Their values correspond one to one, or two values of a number follow from another number. The
    first of several choices determines the others.
    """
    tied: dict[str, str] = {}
    for name in sorted(names[::-1], key=lambda n: (not _is_number(runs, n), is_learning_rate(n))):
        mine, is_number = runs[name].n_unique(), _is_number(runs, name)
        for other in sorted(names, key=lambda n: runs[n].n_unique()):
            its = runs[other].n_unique()
            may_follow = (mine == its and (mine == 2 or not is_number)) or (
                mine == 2 < its and is_number and _is_number(runs, other)
            )
            if other == name or other in tied or is_learning_rate(name) or not may_follow:
                continue
            if runs.select(name, other).unique().height == its:
                tied[name] = other
                break
    return tied


def information(runs: pl.DataFrame, name: str) -> float:
    """Return the mutual information of a parameter and the outcome, in bits."""
    counts = runs.group_by(name, "outcome").len()
    table = counts.pivot(on="outcome", index=name, values="len").fill_null(0).drop(name)
    joint = table.to_numpy().astype(np.float64)
    joint /= joint.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    positive = joint > 0
    return float((joint[positive] * np.log2(joint[positive] / apart[positive])).sum())


def _axis(
    runs: pl.DataFrame, name: str, rows: Sequence[str], tied: Mapping[str, str], *, even: bool
) -> ReportAxis:
    if not name:
        return ReportAxis(name="", values=("",), scale="ordinal", labels=("",))
    values = runs[name].unique(maintain_order=True).to_list()
    scale: AxisScale = "ordinal"
    if _is_number(runs, name):
        values.sort()
        scale = _scale(runs, name, values, rows, EVEN if even else 0.0)
    labels = [exact(value) for value in values]
    for other in [other for other, by in tied.items() if by == name and len(values) < 5]:
        pairs = dict(runs.select(name, other).unique().rows())
        short = other.rpartition(".")[2]
        for i, value in enumerate(values):
            labels[i] += f", {short} {exact(pairs[value])}"
    return ReportAxis(name=name, values=tuple(values), scale=scale, labels=tuple(labels))


def _scale(
    runs: pl.DataFrame, name: str, values: Sequence[Any], rows: Sequence[str], least: float
) -> AxisScale:
    if len(values) < 3:
        return "ordinal"
    is_log = values[0] > 0 and values[-1] / values[0] >= LOG_FROM
    position = pl.col(name).log10() if is_log else pl.col(name).cast(pl.Float64)
    apart = runs.select(*rows, position.alias("at")).unique()
    by_row = [frame for _, frame in apart.group_by(list(rows))] if rows else [apart]
    gaps = np.concatenate([np.diff(np.sort(frame["at"].to_numpy())) for frame in by_row])
    places = apart["at"].to_numpy()
    span = float(places.max() - places.min())
    if not len(gaps) or gaps.min() < least * span / (len(values) - 1):
        return "ordinal"
    return "log" if is_log else "linear"
