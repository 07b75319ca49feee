"""Runs and a layout -> cells: outcomes and blames at each point of the maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from nanlab.grid.outcome import Outcome
from nanlab.reporting.layout import Layout, ReportAxis

MAX_CELLS = 9000
"""Of more cells neighbors are merged, by powers of two."""
WIDEST = 1.3
"""Half a cell is at most this multiple of half the median gap of its row."""


@dataclass(frozen=True, kw_only=True)
class MapCell:
    """Runs that differ only in the seed and the pooled parameters.

    Attributes:
        panel: index of the map.
        column: index along the horizontal axis.
        row: index along the vertical axis.
        left: left edge, in positions of the axes like the other edges.
        right: right edge.
        bottom: lower edge.
        top: upper edge.
        counts: number of runs by outcome, in the order of Outcome.
        blames: (blame_id, runs), most frequent first.
        fault_step: median over the runs with a fault.
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
        """The number of runs."""
        return sum(self.counts.values())

    def slices(self) -> Iterator[tuple[str, float, float]]:
        """Yield (outcome, left, right): the cell divided from left to right by outcome."""
        at, width = self.left, (self.right - self.left) / self.runs
        for outcome, n in self.counts.items():
            yield outcome, at, at + n * width
            at += n * width


@dataclass(frozen=True, kw_only=True)
class Maps:
    """All cells of a study's maps.

    Attributes:
        layout: the layout.
        cells: cells ordered by panel, row and column.
        merged: number of neighboring values of x and of y in a cell; (1, 1) mostly.
        placed: `_panel`, `_row` and `_column` of each run, with its run_id and outcome.
    """

    layout: Layout
    cells: tuple[MapCell, ...]
    merged: tuple[int, int]
    placed: pl.DataFrame

    def of_panel(self, panel: int) -> list[MapCell]:
        """Return the cells of one map."""
        return [cell for cell in self.cells if cell.panel == panel]

    def boxes(self, panel: int) -> dict[str, list[tuple[float, float, float, float]]]:
        """Return boxes (left, right, bottom, top) by outcome on a map, neighbors joined."""
        boxes: dict[str, list[tuple[float, float, float, float]]] = {}
        for cell in self.of_panel(panel):
            for outcome, left, right in cell.slices():
                own = boxes.setdefault(outcome, [])
                if own and own[-1][2] == cell.bottom and abs(own[-1][1] - left) < 1e-9:
                    left = own.pop()[0]
                own.append((left, right, cell.bottom, cell.top))
        return boxes

    @property
    def downwards(self) -> bool:
        """Whether the vertical axis is read from top to bottom, as choices are."""
        return not self.layout.y.is_number

    def extent(self) -> tuple[float, float, float, float]:
        """Return left, right, bottom and top of all maps as drawn, in positions."""
        ends = min(cell.bottom for cell in self.cells), max(cell.top for cell in self.cells)
        bottom, top = reversed(ends) if self.downwards else ends
        return (
            min(cell.left for cell in self.cells),
            max(cell.right for cell in self.cells),
            bottom,
            top,
        )


def maps_of(runs: pl.DataFrame, layout: Layout) -> Maps:
    """Assign the runs to cells."""
    merged = _merged(runs, layout)
    frame = runs.with_columns(
        _numbered(runs, layout.facets, layout.panels).alias("_panel"),
        _index(runs, layout.x, merged[0]).alias("_column"),
        _index(runs, layout.y, merged[1]).alias("_row"),
    )
    where = ["_panel", "_row", "_column"]
    counted = frame.group_by(where).agg(
        *((pl.col("outcome") == o).sum().alias(o) for o in Outcome),
        pl.col("fault_step").median().alias("fault"),
        pl.col("run_id").first().alias("example"),
    )
    blames = _blames(frame, where)
    # Between the values of a refined axis the outcome is that of the neighbors: no gap.
    widest = math.inf if layout.x.name in layout.finer else WIDEST
    across = {
        key: _edges([_position(layout.x, c, merged[0]) for c in sorted(columns)], widest)
        for key, columns in _columns(counted).items()
    }
    rows = sorted(counted["_row"].unique())
    up = dict(zip(rows, _edges([_position(layout.y, r, merged[1]) for r in rows]), strict=True))
    columns = _columns(counted)
    cells: list[MapCell] = []
    for row in counted.sort(where).iter_rows(named=True):
        panel, y, x = (row[name] for name in where)
        left, right = across[panel, y][sorted(columns[panel, y]).index(x)]
        own = blames.get((panel, y, x), [])
        cells.append(
            MapCell(
                panel=panel, column=x, row=y, left=left, right=right, bottom=up[y][0],
                top=up[y][1], counts={o: row[o] for o in Outcome if row[o]},
                blames=tuple((i, n) for i, n, _ in own), fault_step=row["fault"],
                example=own[0][2] if own else row["example"],
            )
        )  # fmt: skip
    placed = frame.select(*where, "run_id", "outcome")
    return Maps(layout=layout, cells=tuple(cells), merged=merged, placed=placed)


def _merged(runs: pl.DataFrame, layout: Layout) -> tuple[int, int]:
    names = [name for name in (*layout.facets, layout.x.name, layout.y.name) if name]
    cells = runs.select(names).n_unique() if names else 1
    x = y = 1
    while cells / (x * y) > MAX_CELLS:
        longer = len(layout.x.values) / x >= len(layout.y.values) / y
        x, y = (2 * x, y) if longer else (x, 2 * y)
    return x, y


def _numbered(runs: pl.DataFrame, names: Sequence[str], values: Sequence[Any]) -> pl.Series:
    if not names:
        return pl.Series([0] * runs.height, dtype=pl.Int64)
    index = {value: i for i, value in enumerate(values)}
    return pl.Series([index[row] for row in runs.select(names).iter_rows()], dtype=pl.Int64)


def _index(runs: pl.DataFrame, axis: ReportAxis, merged: int) -> pl.Series:
    if not axis.name:
        return pl.Series([0] * runs.height, dtype=pl.Int64)
    index = {value: i // merged for i, value in enumerate(axis.values)}
    return pl.Series([index[value] for value in runs[axis.name]], dtype=pl.Int64)


def _position(axis: ReportAxis, index: int, merged: int) -> float:
    values = axis.values[index * merged : (index + 1) * merged]
    return float(np.mean([axis.position(value) for value in values]))


def _columns(counted: pl.DataFrame) -> dict[tuple[int, int], list[int]]:
    columns: dict[tuple[int, int], list[int]] = {}
    for panel, row, column in counted.select("_panel", "_row", "_column").iter_rows():
        columns.setdefault((panel, row), []).append(column)
    return columns


def _edges(positions: Sequence[float], widest: float = WIDEST) -> list[tuple[float, float]]:
    """Return (left, right): neighbors meet halfway; cells at gaps have the usual width."""
    if len(positions) == 1:
        return [(positions[0] - 0.5, positions[0] + 0.5)]
    halves = np.diff(np.asarray(positions)) / 2
    usual = float(np.median(halves))
    capped = np.minimum(halves, widest * usual)
    first, last = min(capped[0], usual), min(capped[-1], usual)
    left = np.concatenate([[first], capped])
    right = np.concatenate([capped, [last]])
    return [
        (p - a, p + b) for p, a, b in zip(positions, left.tolist(), right.tolist(), strict=True)
    ]


def _blames(
    frame: pl.DataFrame, where: list[str]
) -> dict[tuple[Any, ...], list[tuple[str, int, str]]]:
    failed = frame.filter(pl.col("blame_id").is_not_null())
    counted = failed.group_by([*where, "blame_id"], maintain_order=True).agg(
        pl.len().alias("n"), pl.col("run_id").first().alias("example")
    )
    blames: dict[tuple[Any, ...], list[tuple[str, int, str]]] = {}
    for row in counted.sort("n", "blame_id", descending=[True, False]).iter_rows(named=True):
        key = tuple(row[name] for name in where)
        blames.setdefault(key, []).append((row["blame_id"], row["n"], row["example"]))
    return blames
