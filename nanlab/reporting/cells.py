"""Runs and a layout -> cells: outcomes and blames at each point of the maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from nanlab.grid.outcome import Outcome
from nanlab.reporting.layout import Layout, ReportAxis

MAX_CELLS = 9000
"""Of more cells neighbors are merged, by powers of two."""

Box = tuple[float, float, float, float]
"""Left, right, bottom and top, in positions of the axes."""


@dataclass(frozen=True, kw_only=True)
class MapCell:
    """Runs that differ only in the seed and the pooled parameters.

    Attributes:
        panel: index of the map.
        column: index along the horizontal axis.
        row: index along the vertical axis.
        left, right, bottom, top: edges, in positions of the axes.
        run_ids: the runs.
        outcomes: their outcomes.
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
    run_ids: list[str]
    outcomes: list[str]
    blames: list[tuple[str, int]]
    fault_step: float | None
    example: str

    @property
    def runs(self) -> int:
        """The number of runs."""
        return len(self.run_ids)

    @property
    def counts(self) -> dict[str, int]:
        """The number of runs by outcome, in the order of Outcome."""
        counts = Counter(self.outcomes)
        return {outcome: counts[outcome] for outcome in Outcome if counts[outcome]}


@dataclass(frozen=True, kw_only=True)
class Maps:
    """All cells of a study's maps.

    Attributes:
        layout: the layout.
        cells: cells ordered by panel, row and column.
        merged: number of neighboring values of x and of y in a cell; (1, 1) mostly.
    """

    layout: Layout
    cells: list[MapCell]
    merged: tuple[int, int]

    def of_panel(self, panel: int) -> list[MapCell]:
        """Return the cells of one map."""
        return [cell for cell in self.cells if cell.panel == panel]

    def boxes(self, panel: int) -> dict[str, list[Box]]:
        """Return boxes by outcome: cells divided from left to right, neighbors joined."""
        boxes: dict[str, list[Box]] = {}
        for cell in self.of_panel(panel):
            right, width = cell.left, (cell.right - cell.left) / cell.runs
            for outcome, n in cell.counts.items():
                left, right = right, right + n * width
                own = boxes.setdefault(outcome, [])
                row = cell.bottom, cell.top
                if own and own[-1][2:] == row and abs(own[-1][1] - left) < 1e-9:
                    own.append((own.pop()[0], right, *row))
                else:
                    own.append((left, right, *row))
        return boxes

    @property
    def downwards(self) -> bool:
        """Whether the vertical axis is read from top to bottom, as choices are."""
        return not self.layout.y.is_number

    def extent(self) -> Box:
        """Return the box of all maps as drawn; bottom > top if read downwards."""
        left, right = min(c.left for c in self.cells), max(c.right for c in self.cells)
        bottom, top = min(c.bottom for c in self.cells), max(c.top for c in self.cells)
        return (left, right, top, bottom) if self.downwards else (left, right, bottom, top)


def maps_of(runs: pl.DataFrame, layout: Layout) -> Maps:
    """Assign the runs to cells."""
    x, y = layout.x, layout.y
    merged = _merged(runs, layout)
    where = ["panel", "row", "column"]
    frame = runs.select(
        _indices(runs, layout.facets, layout.panels).alias("panel"),
        _indices(runs, [y.name], [(v,) for v in y.values], merged[1]).alias("row"),
        _indices(runs, [x.name], [(v,) for v in x.values], merged[0]).alias("column"),
        *("run_id", "outcome", "blame_id", "fault_step"),
    )
    grouped = frame.group_by(where).agg(
        *("run_id", "outcome", "blame_id"), pl.col("fault_step").median()
    ).sort(where)  # fmt: skip
    lines = [(key, line["column"].sort().to_list())
             for key, line in grouped.group_by("panel", "row")]  # fmt: skip
    rasters = {tuple(columns) for _, columns in lines} if x.name not in layout.finer else set()
    across: dict[tuple[int, ...], tuple[float, float]] = {}
    for (panel, row), columns in lines:
        ends = [_position(x, column, merged[0]) for column in _with_gaps(columns, rasters)]
        edges = dict(zip(_with_gaps(columns, rasters), _edges(ends), strict=True))
        across |= {(panel, row, c): edges[c] for c in columns}
    rows = grouped["row"].unique().sort().to_list()
    up = dict(zip(rows, _edges([_position(y, row, merged[1]) for row in rows]), strict=True))
    cells: list[MapCell] = []
    for panel, row, column, run_ids, outcomes, blame_ids, fault_step in grouped.rows():
        box = (*across[panel, row, column], *up[row])
        cells.append(_cell((panel, row, column), box, run_ids, outcomes, blame_ids, fault_step))
    return Maps(layout=layout, cells=cells, merged=merged)


def tiles_of(runs: pl.DataFrame, cells: pl.DataFrame, layout: Layout) -> Maps:
    """Return the cells of a refined plane, each with the run at its lower corner, of one seed."""
    x, y = layout.x, layout.y
    names = [n for n in (*layout.pooled, "seed") if n in cells.columns]
    first = cells.filter(*(pl.col(n).eq_missing(pl.col(n).first()) for n in names))
    columns = ("run_id", "outcome", "blame_id", "fault_step")
    joined = first.join(runs.select(columns), left_on="corner_run", right_on="run_id")
    tiles: list[MapCell] = []
    for row in joined.iter_rows(named=True):
        where = (
            layout.panels.index(tuple(row[n] for n in layout.facets)),
            y.values.index(row[f"{y.name}_lower"]),
            x.values.index(row[f"{x.name}_lower"]),
        )
        box = [axis.position(row[f"{axis.name}_{end}"]) for axis in (x, y)
               for end in ("lower", "upper")]  # fmt: skip
        run, outcome, blame = ([row[name]] for name in ("corner_run", "outcome", "blame_id"))
        tiles.append(_cell(where, (box[0], box[1], box[2], box[3]), run, outcome, blame,
                           row["fault_step"]))  # fmt: skip
    tiles.sort(key=lambda tile: (tile.panel, tile.row, tile.column))
    return Maps(layout=layout, cells=tiles, merged=(1, 1))


def _cell(
    where: tuple[int, int, int], box: Box, run_ids: list[str], outcomes: list[str],
    blame_ids: list[str | None], fault_step: float | None,
) -> MapCell:  # fmt: skip
    blames = Counter(blame_id for blame_id in blame_ids if blame_id is not None)
    ordered = sorted(blames.items(), key=lambda pair: (-pair[1], pair[0]))
    return MapCell(
        panel=where[0], row=where[1], column=where[2], left=box[0], right=box[1], bottom=box[2],
        top=box[3], run_ids=run_ids, outcomes=outcomes, blames=ordered, fault_step=fault_step,
        example=run_ids[blame_ids.index(ordered[0][0]) if ordered else 0],
    )  # fmt: skip


def _merged(runs: pl.DataFrame, layout: Layout) -> tuple[int, int]:
    names = [name for name in (*layout.facets, layout.x.name, layout.y.name) if name]
    cells = runs.select(names).n_unique() if names else 1
    x = y = 1
    while cells / (x * y) > MAX_CELLS:
        longer = len(layout.x.values) / x >= len(layout.y.values) / y
        x, y = (2 * x, y) if longer else (x, 2 * y)
    return x, y


def _indices(
    runs: pl.DataFrame, names: Sequence[str], keys: Sequence[tuple[Any, ...]], merged: int = 1
) -> pl.Series:
    if not any(names):
        return pl.Series([0] * runs.height, dtype=pl.Int64)
    index = {key: i // merged for i, key in enumerate(keys)}
    return pl.Series([index[key] for key in runs.select(names).iter_rows()], dtype=pl.Int64)


def _position(axis: ReportAxis, index: int, merged: int) -> float:
    values = axis.values[index * merged : (index + 1) * merged]
    return float(np.mean([axis.position(value) for value in values]))


def _with_gaps(columns: Sequence[int], others: Iterable[Sequence[int]]) -> list[int]:
    """Return a row's columns, and those between two of them that a row with both has as well."""
    between: set[int] = set()
    for other in others:
        common = sorted({*columns} & {*other})
        between |= {c for a, b in pairwise(common) for c in other if a < c < b}
    return sorted({*columns, *between})


def _edges(positions: Sequence[float]) -> list[tuple[float, float]]:
    """Return (left, right): neighbors meet halfway; the first and the last have the usual width."""
    if len(positions) == 1:
        return [(positions[0] - 0.5, positions[0] + 0.5)]
    halves = np.diff(np.asarray(positions)) / 2
    usual = float(np.median(halves))
    left = [min(halves[0], usual), *halves.tolist()]
    right = [*halves.tolist(), min(halves[-1], usual)]
    return [(p - a, p + b) for p, a, b in zip(positions, left, right, strict=True)]
