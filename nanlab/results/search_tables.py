"""Crossings, cells -> the tables `boundaries` and `cells`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanlab.plan.bisection import AxisSearch, Crossing, NodeOutcomes
from nanlab.plan.lattice import Lattice, Node
from nanlab.plan.quadtree import PlaneRefinement
from nanlab.plan.rounds import Rounds
from nanlab.results.files import write_atomically, write_csv, write_parquet
from nanlab.results.frames import parameter_series
from nanlab.results.schema import BOUNDARIES, CELLS, ENDS, types_of


def boundaries_frame(
    lattice: Lattice, search: AxisSearch, outcomes: NodeOutcomes, run_ids: Mapping[Node, str]
) -> pl.DataFrame:
    """Return a row for each crossing that the coarse pass saw, in the grid's order."""
    # A point whose answer is no crossing has one more row, whose bracket is open at one end.
    by_point: dict[int, list[Crossing]] = {}
    for crossing in search.crossings or ():
        by_point.setdefault(crossing.point, []).append(crossing)
    visited: dict[int, list[int]] = {}
    for point, (tick,) in run_ids:
        visited.setdefault(point, []).append(tick)
    points: list[int] = []
    rows: list[dict[str, Any]] = []
    for point, ticks in sorted(visited.items()):
        brackets = list(_brackets(point, by_point.get(point, []), sorted(ticks), search, outcomes))
        rows += (
            _row(point, bracket, lattice, outcomes, run_ids) | {"point_runs": len(ticks)}
            for bracket in brackets
        )
        points += [point] * len(brackets)
    columns = {name: [row[name] for row in rows] for name in BOUNDARIES}
    frame = pl.DataFrame(columns, schema=types_of(BOUNDARIES))
    return _others(lattice, points).hstack(frame)


def _brackets(
    point: int,
    crossings: list[Crossing],
    ticks: list[int],
    search: AxisSearch,
    outcomes: NodeOutcomes,
) -> Iterator[dict[str, Any]]:
    """Yield a point's rows, with numbers of the axis still as ticks."""
    known = search.known(point, outcomes)
    if not known:
        return
    answer = search.answer(crossings, known)
    is_open = not isinstance(answer, Crossing)
    trained = [(tick, search.trains((point, (tick,)), outcomes)) for tick in ticks]
    for each in crossings:
        low, high = each.coarse
        between = [trains for tick, trains in trained if low <= tick <= high and trains is not None]
        yield {
            "crossing": each.number, "crossings": len(crossings),
            "only": len(crossings) == 1 and not is_open, "answer": each is answer,
            "lower": each.lower, "upper": each.upper, "coarse_lower": low, "coarse_upper": high,
            "trains": "below" if each.below else "above",
            "value": each.lower if each.below == search.wanted else each.upper,
            "seen": sum(a != b for a, b in pairwise(between)), "runs": len(each.requested),
        }  # fmt: skip
    if not isinstance(answer, Crossing):
        lower, upper = answer
        end = known[0][2] if lower is None else not known[-1][2]
        yield {
            "crossing": 0, "crossings": len(crossings), "only": not crossings, "answer": True,
            "lower": lower, "upper": upper, "coarse_lower": lower, "coarse_upper": upper,
            "trains": "above" if end else "below", "value": None, "seen": 0, "runs": 0,
        }  # fmt: skip


def _row(
    point: int, bracket: dict[str, Any], lattice: Lattice, outcomes: NodeOutcomes,
    run_ids: Mapping[Node, str],
) -> dict[str, Any]:  # fmt: skip
    """Return a row of `boundaries`: ticks as numbers of the axis, and runs by id."""
    (direction,) = lattice.searched
    row: dict[str, Any] = dict(bracket)
    for end in ("lower", "upper"):
        spot = None if bracket[end] is None else (point, (bracket[end],))
        row[f"{end}_outcome"] = None if spot is None else outcomes[spot]
        row[f"{end}_run"] = None if spot is None else run_ids[spot]
    for name in ("value", "lower", "upper", "coarse_lower", "coarse_upper"):
        row[name] = None if bracket[name] is None else direction.number(bracket[name])
    if row["lower"] is None or row["upper"] is None:
        return row | {"width": None, "within_tolerance": False}
    width = direction.scale.width(row["lower"], row["upper"])
    return row | {"width": width, "within_tolerance": bracket["upper"] - bracket["lower"] == 1}


def cells_frame(
    lattice: Lattice, plane: PlaneRefinement, run_ids: Mapping[Node, str]
) -> pl.DataFrame:
    """Return a row for each cell; together the cells tile the plane."""
    cells = plane.cells
    columns: dict[str, Any] = {}
    for i, direction in enumerate(lattice.searched):
        for end in ENDS:
            ticks = [getattr(cell, end)[i] for cell in cells]
            columns[f"{direction.name}_{end}"] = [direction.number(tick) for tick in ticks]
    columns["kind"] = [_kind(plane.kinds(cell)) for cell in cells]
    columns["corner_run"] = [run_ids[cell.point, cell.lower] for cell in cells]
    schema = {**dict.fromkeys(columns, pl.Float64), **types_of(CELLS)}
    others = _others(lattice, [cell.point for cell in cells])
    return others.hstack(pl.DataFrame(columns, schema=schema))


def _kind(kinds: set[str | bool | None]) -> str | None:
    if len(kinds) > 1:
        return None
    (kind,) = kinds
    return ("fails", "trains")[kind] if isinstance(kind, bool) else kind


def _others(lattice: Lattice, points: list[int]) -> pl.DataFrame:
    """Return the parameters of the other axes at some points, a column each."""
    if not lattice.others:
        return pl.DataFrame(height=len(points))
    indices = np.unravel_index(np.array(points, np.int64), [a.size for a in lattice.others])
    columns: dict[str, pl.Series] = {}
    for axis, along in zip(lattice.others, indices, strict=True):
        for name, values in axis.values.items():
            columns[name] = parameter_series([values[i] for i in along.tolist()])
    return pl.DataFrame(columns)


def search_frames(rounds: Rounds, runs: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return `boundaries` or `cells` by name, after the rounds so far; {} for a plain grid.

    Args:
        rounds: the rounds of a search, or of a finished refinement.
        runs: run_id and outcome of all runs of these rounds.
    """
    lattice, search = rounds.lattice, rounds.search
    if lattice is not None and isinstance(search, AxisSearch):
        outcomes = rounds.outcomes(runs)
        return {"boundaries": boundaries_frame(lattice, search, outcomes, rounds.run_ids)}
    if lattice is not None and isinstance(search, PlaneRefinement):
        return {"cells": cells_frame(lattice, search, rounds.run_ids)}
    return {}


def write_search_tables(rounds: Rounds, folder: Path, runs: pl.DataFrame) -> list[str]:
    """Write `boundaries` or `cells` as Parquet and CSV, and remove the other table.

    Args:
        rounds: the finished search; a plain grid has neither table.
        folder: the results folder.
        runs: run_id and outcome of all runs.

    Returns:
        The names of the files written.
    """
    frames = search_frames(rounds, runs)
    written: list[str] = []
    for table in ("boundaries", "cells"):
        names = f"{table}.parquet", f"{table}.csv"
        for name, write in zip(names, (write_parquet, write_csv), strict=True):
            if table in frames:
                write_atomically(folder / name, lambda p, t=table, w=write: w(frames[t], p))
                written.append(name)
            elif (folder / name).exists():
                (folder / name).unlink()
    return written
