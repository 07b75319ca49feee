"""Runs and a layout -> cells: for each place of the maps, how its runs ended and by which blame."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from nanlab.grid.outcome import Outcome
from nanlab.reporting.layout import Layout, ReportAxis

MOST_CELLS = 9000
"""Beyond so many the values of an axis are put together in pairs, until they are fewer."""
WIDEST = 1.3
"""A cell reaches at most so much further than half the usual gap of its row."""


@dataclass(frozen=True, kw_only=True)
class MapCell:
    """Runs that are alike but for the seed and what is pooled.

    Attributes:
        panel: the number of its map.
        column, row: its place among the values of the axes.
        left, right, bottom, top: where it is, in positions of the axes.
        counts: outcome -> runs, in the order of Outcome.
        blames: (blame_id, runs) of those that failed, most frequent first.
        fault_step: the median over those that have one.
        example: a run_id, of the most frequent blame if there is one.
    """

    panel: int
    column: int
    row: int
    left: float
    right: float
    bottom: float
    top: float
    counts: dict[str, int]
    blames: tuple[tuple[str, int], ...]
    fault_step: float | None
    example: str

    @property
    def runs(self) -> int:
        """How many runs it holds."""
        return sum(self.counts.values())

    def slices(self) -> Iterator[tuple[str, float, float]]:
        """(outcome, left, right): the cell divided from left to right by how its runs ended."""
        at, width = self.left, (self.right - self.left) / self.runs
        for outcome, n in self.counts.items():
            yield outcome, at, at + n * width
            at += n * width


@dataclass(frozen=True, kw_only=True)
class Maps:
    """All cells of a study's maps.

    Attributes:
        layout: what they are cells of.
        cells: by panel, row and column.
        together: how many neighboring values of x and of y a cell holds; (1, 1) mostly.
        placed: each run's `_panel`, `_row` and `_column`, with its run_id and outcome.
    """

    layout: Layout
    cells: tuple[MapCell, ...]
    together: tuple[int, int]
    placed: pl.DataFrame

    def of_panel(self, panel: int) -> list[MapCell]:
        """The cells of one map."""
        return [cell for cell in self.cells if cell.panel == panel]

    def boxes(self, panel: int) -> dict[str, list[tuple[float, float, float, float]]]:
        """Outcome -> (left, right, bottom, top) of what it covers on one map, neighbors joined."""
        boxes: dict[str, list[tuple[float, float, float, float]]] = {}
        for cell in self.of_panel(panel):
            for outcome, left, right in cell.slices():
                some = boxes.setdefault(outcome, [])
                before = some[-1] if some else None
                if before and before[2] == cell.bottom and abs(before[1] - left) < 1e-9:
                    some[-1] = (before[0], right, cell.bottom, cell.top)
                else:
                    some.append((left, right, cell.bottom, cell.top))
        return boxes

    @property
    def downwards(self) -> bool:
        """Whether the vertical axis is read from top to bottom, as choices are."""
        return not self.layout.y.is_number

    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of all maps, in positions; as they are drawn."""
        ends = min(cell.bottom for cell in self.cells), max(cell.top for cell in self.cells)
        bottom, top = reversed(ends) if self.downwards else ends
        return (
            min(cell.left for cell in self.cells),
            max(cell.right for cell in self.cells),
            bottom,
            top,
        )


def maps_of(runs: pl.DataFrame, layout: Layout) -> Maps:
    """Put the runs into cells."""
    together = _together(runs, layout)
    frame = runs.with_columns(
        _numbered(runs, layout.facets, layout.panels).alias("_panel"),
        _place(runs, layout.x, together[0]).alias("_column"),
        _place(runs, layout.y, together[1]).alias("_row"),
    )
    where = ["_panel", "_row", "_column"]
    counted = frame.group_by(where).agg(
        *((pl.col("outcome") == o).sum().alias(o) for o in Outcome),
        pl.col("fault_step").median().alias("fault"),
        pl.col("run_id").first().alias("example"),
    )
    blames = _blames(frame, where)
    # Between the values of a finer axis the outcome is that of the neighbors: no gap is left.
    widest = math.inf if layout.x.name in layout.finer else WIDEST
    across = {
        key: _edges([_position(layout.x, c, together[0]) for c in sorted(columns)], widest)
        for key, columns in _columns(counted).items()
    }
    rows = sorted(counted["_row"].unique())
    up = dict(zip(rows, _edges([_position(layout.y, r, together[1]) for r in rows]), strict=True))
    columns = _columns(counted)
    cells: list[MapCell] = []
    for row in counted.sort(where).iter_rows(named=True):
        panel, y, x = (row[name] for name in where)
        left, right = across[panel, y][sorted(columns[panel, y]).index(x)]
        told = blames.get((panel, y, x), [])
        cells.append(
            MapCell(
                panel=panel, column=x, row=y, left=left, right=right, bottom=up[y][0],
                top=up[y][1], counts={o: row[o] for o in Outcome if row[o]},
                blames=tuple((i, n) for i, n, _ in told), fault_step=row["fault"],
                example=told[0][2] if told else row["example"],
            )
        )  # fmt: skip
    placed = frame.select(*where, "run_id", "outcome")
    return Maps(layout=layout, cells=tuple(cells), together=together, placed=placed)


def _together(runs: pl.DataFrame, layout: Layout) -> tuple[int, int]:
    names = [name for name in (*layout.facets, layout.x.name, layout.y.name) if name]
    cells = runs.select(names).n_unique() if names else 1
    x = y = 1
    while cells / (x * y) > MOST_CELLS:
        longer = len(layout.x.values) / x >= len(layout.y.values) / y
        x, y = (2 * x, y) if longer else (x, 2 * y)
    return x, y


def _numbered(runs: pl.DataFrame, names: Sequence[str], values: Sequence[Any]) -> pl.Series:
    if not names:
        return pl.Series([0] * runs.height, dtype=pl.Int64)
    place = {value: i for i, value in enumerate(values)}
    return pl.Series([place[row] for row in runs.select(names).iter_rows()], dtype=pl.Int64)


def _place(runs: pl.DataFrame, axis: ReportAxis, together: int) -> pl.Series:
    if not axis.name:
        return pl.Series([0] * runs.height, dtype=pl.Int64)
    place = {value: i // together for i, value in enumerate(axis.values)}
    return pl.Series([place[value] for value in runs[axis.name]], dtype=pl.Int64)


def _position(axis: ReportAxis, place: int, together: int) -> float:
    held = axis.values[place * together : (place + 1) * together]
    return float(np.mean([axis.position(value) for value in held]))


def _columns(counted: pl.DataFrame) -> dict[tuple[int, int], list[int]]:
    held: dict[tuple[int, int], list[int]] = {}
    for panel, row, column in counted.select("_panel", "_row", "_column").iter_rows():
        held.setdefault((panel, row), []).append(column)
    return held


def _edges(places: Sequence[float], widest: float = WIDEST) -> list[tuple[float, float]]:
    """Where neighbors meet, halfway; at a gap and at the ends a cell is as wide as is usual."""
    if len(places) == 1:
        return [(places[0] - 0.5, places[0] + 0.5)]
    halves = np.diff(np.asarray(places)) / 2
    usual = float(np.median(halves))
    capped = np.minimum(halves, widest * usual)
    first, last = min(capped[0], usual), min(capped[-1], usual)
    left = np.concatenate([[first], capped])
    right = np.concatenate([capped, [last]])
    return [(p - a, p + b) for p, a, b in zip(places, left.tolist(), right.tolist(), strict=True)]


def _blames(
    frame: pl.DataFrame, where: list[str]
) -> dict[tuple[Any, ...], list[tuple[str, int, str]]]:
    failed = frame.filter(pl.col("blame_id").is_not_null())
    counted = failed.group_by([*where, "blame_id"], maintain_order=True).agg(
        pl.len().alias("n"), pl.col("run_id").first().alias("example")
    )
    told: dict[tuple[Any, ...], list[tuple[str, int, str]]] = {}
    for row in counted.sort("n", "blame_id", descending=[True, False]).iter_rows(named=True):
        key = tuple(row[name] for name in where)
        told.setdefault(key, []).append((row["blame_id"], row["n"], row["example"]))
    return told
