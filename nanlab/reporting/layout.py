"""Runs -> Layout: which parameters vary, and along which of them the study is looked at."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from nanlab.reporting.words import exact, setting

MOST_PANELS = 12
LOG_FROM = 20.0
"""A numeric axis is logarithmic where its largest value is so many times its smallest."""
EVEN = 0.15
"""A numeric axis is drawn to scale where no gap is below this share of the mean one."""

AxisScale = Literal["log", "linear", "ordinal"]


@dataclass(frozen=True, kw_only=True)
class ReportAxis:
    """A parameter as an axis of a picture.

    Attributes:
        name: the parameter; "" for an axis that holds everything in one place.
        values: in order.
        scale: how values become positions: log10, themselves, or their place in the order.
        labels: the values as ticks have them; with that of a tied parameter, if there is one.
    """

    name: str
    values: tuple[Any, ...]
    scale: AxisScale
    labels: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether it has numbers, and so a direction."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)

    def position(self, value: Any) -> float:
        """Where a value stands; on an ordinal axis of numbers, also between two of them."""
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
    """How a study is looked at.

    Attributes:
        x, y: the main axes; `y` has one place where only one parameter is left for them.
        facets: the parameters whose combinations each have a map of their own.
        panels: these combinations, in the grid's order.
        pooled: varying parameters that are put together in every map, the seed apart.
        finer: axes that were made finer where the outcome changes.
        tied: parameters that vary with another of the same number of values, and so say nothing
            more: tied parameter -> the one that stands for it.
    """

    x: ReportAxis
    y: ReportAxis
    facets: tuple[str, ...]
    panels: tuple[tuple[Any, ...], ...]
    pooled: tuple[str, ...]
    finer: tuple[str, ...]
    tied: dict[str, str]

    def panel_label(self, panel: Sequence[Any]) -> str:
        """A map's title, such as `relu, mse`; "" where there is only one map."""
        told = [setting(f, v) for f, v in zip(self.facets, panel, strict=True) if v is not None]
        return ", ".join(told)


NO_AXIS = ReportAxis(name="", values=("",), scale="ordinal", labels=("",))


def parameters_of(runs: pl.DataFrame) -> list[str]:
    """The columns that hold parameters."""
    return [*runs.columns[2 : runs.columns.index("outcome")], "steps"]


def layout_of(runs: pl.DataFrame, finer: Collection[str] = ()) -> Layout:
    """Choose the main axes, the maps and what is pooled.

    Args:
        runs: the table.
        finer: axes that were made finer where the outcome changes; these come first, and are drawn
            to scale however near to each other some of their values are.

    The horizontal axis is a learning rate where one is varied; the vertical one the next number
    with three values or more, or else a choice. The rest make maps, the least telling of them
    pooled where there would be too many.
    """
    varying = [c for c in parameters_of(runs) if c != "seed" and runs[c].n_unique() > 1]
    tied = _tied(runs, varying)
    varying = [name for name in varying if name not in tied]
    numbers = [name for name in varying if _is_number(runs, name)]
    numbers.sort(key=lambda name: (name in finer, *_rank(runs, name)), reverse=True)
    long = [name for name in numbers if runs[name].n_unique() >= 3]
    choices = sorted(
        (name for name in varying if name not in numbers),
        key=lambda name: -runs[name].n_unique(),
    )
    candidates = [*long[:2], *choices[:1], *numbers, *choices]
    if len(long) < 2 and not choices:
        candidates = numbers
    main = list(dict.fromkeys(candidates))[:2]
    if main and main[0] in choices and len(main) > 1 and main[1] in numbers:
        main.reverse()
    x_name, y_name = (*main, "", "")[:2]
    facets = [name for name in varying if name not in main]
    facets, pooled = _few(runs, facets)
    panels = runs.select(facets).unique(maintain_order=True).rows() if facets else [()]
    rows = [*facets, y_name] if y_name else list(facets)
    return Layout(
        x=_axis(runs, x_name, rows, tied, even=x_name not in finer) if x_name else NO_AXIS,
        y=_axis(runs, y_name, facets, tied, even=y_name not in finer) if y_name else NO_AXIS,
        facets=tuple(facets),
        panels=tuple(panels),
        pooled=tuple(pooled),
        finer=tuple(finer),
        tied=tied,
    )


def is_learning_rate(name: str) -> bool:
    """Whether a parameter is a learning rate, by its name."""
    last = name.rpartition(".")[2]
    return last in ("lr", "learning_rate", "step_size") or last.startswith("lr_")


def _is_number(runs: pl.DataFrame, name: str) -> bool:
    return runs.schema[name].is_numeric() and not runs[name].null_count()


def _rank(runs: pl.DataFrame, name: str) -> tuple[Any, ...]:
    values = runs[name].n_unique()
    return (values >= 3, is_learning_rate(name), name == "init_scale", values)


def _tied(runs: pl.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Parameters that another one tells: as many values, always the same pairs.

    A number of two values that follows another number is tied too: it only accompanies it.
    """
    tied: dict[str, str] = {}
    for name in sorted(names, key=lambda n: (not _is_number(runs, n), is_learning_rate(n))):
        for other in sorted(names, key=lambda n: runs[n].n_unique()):
            if other == name or other in tied or is_learning_rate(name):
                continue
            mine, its = runs[name].n_unique(), runs[other].n_unique()
            follows = runs.select(name, other).unique().height == its
            accompanies = mine == 2 < its and _is_number(runs, name) and _is_number(runs, other)
            bigger_tells = mine == its and not (_is_number(runs, name) and mine > 2)
            if follows and (bigger_tells or accompanies):
                tied[name] = other
                break
    return tied


def _few(runs: pl.DataFrame, facets: list[str]) -> tuple[list[str], list[str]]:
    """Facets with at most MOST_PANELS combinations; the least telling are pooled."""
    kept, pooled = list(facets), list[str]()
    while kept and runs.select(kept).n_unique() > MOST_PANELS:
        least = min(kept, key=lambda name: (information(runs, name), name))
        kept.remove(least)
        pooled.append(least)
    return kept, pooled


def information(runs: pl.DataFrame, name: str) -> float:
    """How much a parameter tells of the outcome: their mutual information, in bits."""
    counts = runs.group_by(name, "outcome").len()
    table = counts.pivot(on="outcome", index=name, values="len").fill_null(0).drop(name)
    joint = table.to_numpy().astype(np.float64)
    joint /= joint.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    told = joint > 0
    return float((joint[told] * np.log2(joint[told] / apart[told])).sum())


def _axis(
    runs: pl.DataFrame,
    name: str,
    rows: Sequence[str],
    tied: Mapping[str, str],
    *,
    even: bool,
) -> ReportAxis:
    values = runs[name].unique(maintain_order=True).to_list()
    scale: AxisScale = "ordinal"
    if _is_number(runs, name):
        values.sort()
        scale = _scale(runs, name, values, rows, EVEN if even else 0.0)
    labels = [exact(value) for value in values]
    for other in [other for other, standing in tied.items() if standing == name]:
        pairs = dict(runs.select(name, other).unique().rows())
        short = other.rpartition(".")[2]
        told = [f"{short} {exact(pairs[value])}" for value in values]
        if len(values) < 5:  # beside more of them there is no room for a second value
            labels = [f"{label}, {more}" for label, more in zip(labels, told, strict=True)]
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
