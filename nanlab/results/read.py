"""Results folder -> Results: the tables of a study, finished or running."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanlab.grid import Grid, GridError, load_grid
from nanlab.plan.bisection import AxisSearch
from nanlab.plan.plan import Plan, make_plan
from nanlab.plan.rounds import Rounds, finished_plan
from nanlab.results.chunk_index import ChunkIndex, curves_path
from nanlab.results.errors import ReportError
from nanlab.results.frames import blames_frame, with_blame_ids, with_witnesses
from nanlab.results.manifest import MANIFEST, REPAIR, read_manifest
from nanlab.results.runs_table import RunsTable
from nanlab.results.schema import CURVES
from nanlab.results.search_tables import search_frames
from nanlab.results.snapshot import changes, first_line, snapshot, when_still
from nanlab.results.store import (
    CHUNK_FILES,
    CHUNKS,
    CURVES_FILE,
    HASHED_FILES,
    PLAN,
    is_intact,
    prepared_grid,
)

SEARCH_FILES = ("boundaries.parquet", "cells.parquet")


@dataclass(frozen=True, kw_only=True)
class Results:
    """The tables and the manifest of a study.

    Attributes:
        folder: results folder, named like the study.
        resolved: resolved grid.
        grid_sha256: hash of the resolved grid's text.
        runs: finished runs, in the grid's order.
        blames: distinct blames of these runs.
        curves: rows of CURVES, empty for a study without curves.
        manifest: manifest, empty while the study runs.
        planned: number of runs requested; of a running search, by its rounds so far.
        search: the table of a search or refinement, by its name; of a running search, so far.
        notes: sentences about problems of the folder.
    """

    folder: Path
    resolved: Mapping[str, Any]
    grid_sha256: str
    runs: pl.DataFrame
    blames: pl.DataFrame
    curves: pl.DataFrame
    manifest: Mapping[str, Any]
    planned: int
    search: Mapping[str, pl.DataFrame] = field(default_factory=dict[str, pl.DataFrame])
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.resolve().name

    @property
    def study_id(self) -> str:
        """The study's name and the first digits of its grid's hash."""
        return f"{self.name}-{self.grid_sha256[:8]}"

    @property
    def title(self) -> str:
        """The question, or the study's name where the grid has none."""
        return str(self.resolved.get("title") or self.manifest.get("title") or self.name)

    @property
    def finer(self) -> tuple[str, ...]:
        """The axes of the search or refinement, in the grid's order."""
        table = {**self.resolved.get("search", {}), **self.resolved.get("refine", {})}
        return tuple(table.get("axes", ())) or tuple(filter(None, [table.get("axis")]))

    @property
    def missing(self) -> int:
        """The number of runs that are not finished."""
        return self.planned - self.runs.height

    @property
    def seeds(self) -> int:
        """The number of seeds; 1 if the seed was not varied."""
        return self.runs.get_column("seed").n_unique() if "seed" in self.runs.columns else 1


def read_results(folder: Path) -> Results:
    """Read the tables of a study.

    Args:
        folder: the results folder.

    Returns:
        The finished tables, or those of the finished runs while the study runs.

    Raises:
        ReportError: it is no results folder, no run is finished yet, or a file is damaged.
    """

    def read() -> Results:
        resolved = running_grid(folder)
        return _finished(folder) if resolved is None else read_running(folder, resolved)

    return when_still(folder, read)


def running_grid(folder: Path) -> str | None:
    """Return the grid of a study that runs or was stopped, as TOML; None if it is finished.

    Raises:
        ReportError: it is no results folder, or a file is damaged.
    """
    resolved = prepared_grid(folder)
    if (folder / MANIFEST).exists():
        if resolved is None or _sha256(resolved) == read_manifest(folder)["grid_sha256"]:
            return None
    elif resolved is None and (folder / CHUNKS).is_dir():
        raise ReportError(f"{folder / CHUNKS / PLAN} is missing; {REPAIR}")
    elif resolved is None:
        raise ReportError(
            f"{folder}: this is no results folder: it has neither {MANIFEST} nor the chunks of a "
            "running study"
        )
    return resolved


def current_study(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Return what `Results` would have as grid_sha256 and manifest now.

    Raises:
        ReportError: it is no results folder, or a file is damaged.
    """

    def read() -> tuple[str, Mapping[str, Any]]:
        resolved = running_grid(folder)
        if resolved is not None:
            return _sha256(resolved), {}
        manifest = read_manifest(folder)
        return manifest["grid_sha256"], manifest

    return when_still(folder, read)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _finished(folder: Path) -> Results:
    found = snapshot(folder, (*HASHED_FILES, PLAN), optional=(CURVES_FILE, *SEARCH_FILES))
    manifest, runs = found.manifest, found.table("runs.parquet")
    has_curves = CURVES_FILE in found.contents
    curves = found.table(CURVES_FILE) if has_curves else pl.DataFrame(schema=CURVES)
    others = {k: v for k, v in manifest["files"].items() if k not in found.contents}
    return Results(
        folder=folder,
        resolved=tomllib.loads(found.contents[PLAN].decode()),
        grid_sha256=manifest["grid_sha256"],
        runs=runs,
        blames=found.table("blames.csv"),
        curves=curves,
        manifest=manifest,
        planned=runs.height,
        search={Path(n).stem: found.table(n) for n in SEARCH_FILES if n in found.contents},
        notes=tuple(f"{sentence}." for sentence in changes(folder, others)),
    )


def read_running(folder: Path, resolved: str) -> Results:
    """Read the finished runs of a study that runs or was stopped.

    Args:
        folder: the results folder.
        resolved: grid of the study, as TOML.

    Returns:
        The tables of the runs that are finished.

    Raises:
        ReportError: no run is finished yet, or the chunks cannot be read.
    """
    try:
        grid = load_grid(folder / CHUNKS / PLAN)
        plan = make_plan(grid)
        paths = _chunks(folder, mixed=grid.exec.mixed_devices)
        rounds, rows = Rounds(grid, plan), _rows(plan, paths)
        # The chunks of a search belong to several rounds.
        while rows.height == len(plan) and rounds.after(rows) is not None:
            plan = rounds.plan()
            rows = _rows(plan, paths)
        # The cells of a refinement need the outcomes of the round that is running.
        begun = rounds.number and isinstance(rounds.search, AxisSearch)
        rows, search = with_blame_ids(rows), search_frames(rounds, rows) if begun else {}
        curves = [pl.read_parquet(p) for p in map(curves_path, paths) if p.is_file()]
    except (GridError, OSError, pl.exceptions.PolarsError) as error:
        raise ReportError(
            f"{folder}: the chunks of the running study cannot be read: {first_line(error)}; try "
            "again"
        ) from error
    if not rows.height:
        raise ReportError(
            f"{folder}: no run is finished yet, all {len(plan):,} are missing; try again when "
            "the first chunk is done"
        )
    blames = with_witnesses(blames_frame(rows), {})
    runs = RunsTable(plan).frame(rows, blames).filter(pl.col("outcome").is_not_null())
    return Results(
        folder=folder,
        resolved=tomllib.loads(resolved),
        grid_sha256=_sha256(resolved),
        runs=runs,
        blames=blames,
        curves=pl.concat([pl.DataFrame(schema=CURVES), *curves]),
        manifest={},
        planned=len(plan),
        search=search,
    )


def _rows(plan: Plan, paths: Sequence[Path]) -> pl.DataFrame:
    index = ChunkIndex(plan.run_ids, paths, [None] * len(paths))
    return index.rows(np.flatnonzero(index.done))


def _chunks(folder: Path, *, mixed: bool) -> list[Path]:
    """Return the intact chunks, unless `mixed` only those of the environment that wrote last."""
    chunks = [path for path in sorted((folder / CHUNKS).glob(CHUNK_FILES)) if is_intact(path)]
    if mixed or not chunks:
        return chunks
    latest = max(chunks, key=lambda path: path.stat().st_mtime)
    fingerprint = latest.name.partition("-")[0]
    return [path for path in chunks if path.name.startswith(f"{fingerprint}-")]


@dataclass(frozen=True, kw_only=True)
class FinishedStudy:
    """A finished study, ready to be run again.

    Attributes:
        grid: resolved grid.
        plan: plan of all runs, with those of a search's rounds.
        manifest: manifest.
        runs: table of runs.
    """

    grid: Grid
    plan: Plan
    manifest: Mapping[str, Any]
    runs: pl.DataFrame


def finished_study(folder: Path, *, sets: Sequence[str] = ()) -> FinishedStudy:
    """Read a finished study and rebuild its plan.

    Args:
        folder: the results folder.
        sets: overrides of the grid, as `--set` takes them.

    Returns:
        The study.

    Raises:
        GridError: the grid is not valid for this version of nanlab.
        ReportError: the folder holds no finished study, or a damaged one.
    """

    def read() -> FinishedStudy:
        found = snapshot(folder, ("runs.parquet", PLAN))
        grid, runs = load_grid(folder / PLAN, sets=sets), found.table("runs.parquet")
        if _sha256(grid.source.text) != found.manifest["grid_sha256"]:
            raise ReportError(f"{folder / PLAN} has just been changed; try again")
        plan = make_plan(grid) if grid.document.refinement is None else finished_plan(grid, runs)
        return FinishedStudy(grid=grid, plan=plan, manifest=found.manifest, runs=runs)

    return when_still(folder, read)
