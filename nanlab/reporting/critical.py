"""Runs and a layout -> critical values: up to which learning rate runs stay stable, by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import polars as pl

from nanlab.reporting.groups import divided
from nanlab.reporting.layout import Layout
from nanlab.reporting.theory import Prediction, predicted
from nanlab.results.statistics import RESAMPLES

STABLE = ("trained", "stalled")
"""Finite, and the loss did not grow beyond the factor."""

MOST_ROWS = 200
"""With more values on the vertical axis so many of them are looked at, evenly spaced."""

Side = Literal["between", "above", "below"]


@dataclass(frozen=True, kw_only=True)
class Critical:
    """Where along the horizontal axis runs stop being stable, all else alike but the seed.

    Attributes:
        panel: number of the map, -1 where maps are put together.
        label: of its map.
        row: value of the vertical axis; None where there is none.
        value: the mean over seeds (geometric on a logarithmic axis) of the middle between the last
            stable value and the first that is not; None where most seeds never change.
        low, high: its 95 % interval: a bootstrap over seeds of the last stable value's mean (its
            lower end) and of the first unstable one's (its upper end), so that the grid's spacing
            is part of it. With one seed, these two values themselves.
        side: `above` where most seeds are stable all along, `below` where they never are.
        bound: the axis' last value then, or its first.
        seeds: paths along the axis.
        mixed: of them, those that are stable again above an unstable value.
        theory: what is predicted, if there is such a thing.
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
    """One for each map and row; nothing where the horizontal axis has no numbers to speak of.

    Of more than MOST_ROWS rows a map has so many, the first and the last among them.

    What is pooled in the maps makes paths of its own, so that a path has one run at each value.
    """
    x = layout.x
    if not x.name or not x.is_number or len(x.values) < 3:
        return []
    ran = runs.filter(pl.col("outcome") != "crashed")
    if is_thinned(layout):
        places = np.linspace(0, len(layout.y.values) - 1, MOST_ROWS).round().astype(int)
        kept = [layout.y.values[place] for place in places]
        ran = ran.filter(pl.col(layout.y.name).is_in(kept))
    names = [*layout.facets, *([layout.y.name] if layout.y.name else [])]
    paths = [*(["seed"] if "seed" in runs.columns else []), *layout.pooled]
    panels = {panel: i for i, panel in enumerate(layout.panels)}
    rows = {value: i for i, value in enumerate(layout.y.values)}
    found: list[Critical] = []
    for key, frame in divided(ran, names):
        panel = key[: len(layout.facets)]
        row = key[len(layout.facets)] if layout.y.name else None
        fixed = frame.row(0, named=True)
        found.append(
            _critical(
                frame, layout, paths, panel=panels[panel], row=row,
                theory=predicted(x.name, fixed),
            )
        )  # fmt: skip
    return sorted(found, key=lambda each: (each.panel, rows.get(each.row, 0)))


def is_thinned(layout: Layout) -> bool:
    """Whether there are more rows than are looked at."""
    return bool(layout.y.name) and len(layout.y.values) > MOST_ROWS


def _critical(
    frame: pl.DataFrame,
    layout: Layout,
    paths: Sequence[str],
    *,
    panel: int,
    row: Any,
    theory: Prediction | None,
) -> Critical:
    x = layout.x
    ends = _ends(frame.sort(*paths, x.name), paths, x.name)
    mixed = sum(again for _, _, again in ends)
    never = sum(first is None for _, first, _ in ends)
    at_once = sum(last is None for last, _, _ in ends)
    values = frame[x.name]
    smallest, largest = float(values.min()), float(values.max())  # type: ignore[arg-type]
    common: Mapping[str, Any] = {
        "panel": panel, "label": layout.panel_label(layout.panels[panel]), "row": row,
        "seeds": len(ends), "mixed": mixed, "theory": theory,
    }  # fmt: skip
    if 2 * max(never, at_once) >= len(ends):
        above = never >= at_once
        return Critical(
            **common, value=None, low=None, high=None,
            side="above" if above else "below", bound=largest if above else smallest,
        )  # fmt: skip
    value, low, high = _middle(
        np.array([smallest if last is None else last for last, _, _ in ends]),
        np.array([largest if first is None else first for _, first, _ in ends]),
        geometric=smallest > 0 and x.scale != "linear",
    )
    return Critical(**common, value=value, low=low, high=high, side="between", bound=value)


def _middle(
    lasts: np.ndarray, firsts: np.ndarray, *, geometric: bool
) -> tuple[float, float, float]:
    """The mean middle over seeds, and its interval; see `Critical`."""
    turned, back = (np.log, math.exp) if geometric else (np.asarray, float)
    middle = back(float((turned(lasts) + turned(firsts)).mean() / 2))
    if len(lasts) == 1:
        return middle, float(lasts[0]), float(firsts[0])
    weights = _weights(len(lasts))
    low = float(np.quantile(weights @ turned(lasts), 0.025))
    return middle, back(low), back(float(np.quantile(weights @ turned(firsts), 0.975)))


@lru_cache(maxsize=8)
def _weights(n: int) -> np.ndarray:
    """The resamples of `ledger.statistics.interval`, as weights: (RESAMPLES, n)."""
    rng = np.random.Generator(np.random.PCG64(0))
    rows = rng.integers(0, n, (RESAMPLES, n))
    weights = np.zeros((RESAMPLES, n))
    np.add.at(weights, (np.arange(RESAMPLES)[:, None], rows), 1.0 / n)
    return weights


def _ends(
    ordered: pl.DataFrame, paths: Sequence[str], name: str
) -> list[tuple[float | None, float | None, bool]]:
    """For each path: the last stable value before the first unstable one; that; if stable again."""
    stable = ordered["outcome"].is_in(STABLE).to_numpy()
    values = ordered[name].cast(pl.Float64).to_numpy()
    starts = np.zeros(1, np.int64)
    if paths:
        keys = ordered.select(pl.struct(paths).rle_id().alias("at"))["at"].to_numpy()
        starts = np.concatenate([starts, np.flatnonzero(np.diff(keys)) + 1])
    ends: list[tuple[float | None, float | None, bool]] = []
    for start, stop in zip(starts, [*starts[1:], len(values)], strict=True):
        unstable = np.flatnonzero(~stable[start:stop])
        if not len(unstable):
            ends.append((float(values[stop - 1]), None, False))
            continue
        first = start + int(unstable[0])
        before = float(values[first - 1]) if first > start else None
        ends.append((before, float(values[first]), bool(stable[first:stop].any())))
    return ends


def critical_text(each: Critical, number: Callable[[float], str]) -> str:
    """`0.12`, `above 10` or `below 0.001`."""
    if each.value is None:
        return f"{each.side} {number(each.bound)}"
    return number(each.value)
