"""Results folder -> Results: the tables of a study, finished or running."""

from __future__ import annotations

import hashlib
import json
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
from nanlab.results.frames import blames_frame, read_blames, with_blame_ids, with_witnesses
from nanlab.results.provenance import file_hash
from nanlab.results.runs_table import RunsTable
from nanlab.results.schema import CURVES
from nanlab.results.search_tables import search_frames
from nanlab.results.store import (
    CHUNK_FILES,
    CHUNKS,
    CURVES_FILE,
    HASHED_FILES,
    PLAN,
    is_intact,
)

SEARCH_FILES = ("boundaries.parquet", "cells.parquet")


class ReportError(Exception):
    """A folder holds no results; the message is a sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """The tables and the manifest of a study.

    Attributes:
        folder: results folder, named like the study.
        asked: resolved grid.
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
    asked: Mapping[str, Any]
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
        return str(self.asked.get("title") or self.manifest.get("title") or self.name)

    @property
    def finer(self) -> tuple[str, ...]:
        """The axes of the search or refinement, in the grid's order."""
        table = {**self.asked.get("search", {}), **self.asked.get("refine", {})}
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
    if not folder.is_dir():
        raise ReportError(f"{folder}: there is no such folder; a sweep creates one, results/<name>")
    running = _running_grid(folder)
    manifest = _manifest(folder)
    if running is not None and not _is_of(manifest, running):
        return _running(folder, running)
    if manifest:
        return _finished(folder, manifest)
    raise ReportError(
        f"{folder}: this is no results folder: it has neither manifest.json nor the chunks of a "
        "running study"
    )


def _running_grid(folder: Path) -> str | None:
    """Return the resolved grid of a running or stopped study as TOML; None if there is none."""
    try:
        return (folder / CHUNKS / PLAN).read_text(encoding="utf-8")
    except OSError:
        return None  # it may just have finished, and removed its chunks


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: it cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise ReportError(f"{path}: it does not hold a JSON object")
    return manifest


def _is_of(manifest: Mapping[str, Any], resolved: str) -> bool:
    return manifest.get("grid_sha256") == hashlib.sha256(resolved.encode()).hexdigest()


def _finished(folder: Path, manifest: Mapping[str, Any]) -> Results:
    try:
        runs = pl.read_parquet(folder / "runs.parquet")
        blames = read_blames(folder / "blames.csv")
        text = (folder / "grid.resolved.toml").read_text(encoding="utf-8")
        asked = tomllib.loads(text)
        curves = pl.DataFrame(schema=CURVES)
        if (folder / CURVES_FILE).is_file():
            curves = pl.read_parquet(folder / CURVES_FILE)
        search = {
            Path(name).stem: pl.read_parquet(folder / name)
            for name in SEARCH_FILES
            if (folder / name).is_file()
        }
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ReportError(f"{folder}: a table cannot be read: {first}") from error
    hashes = manifest.get("files", {})
    changed = [name for name in HASHED_FILES if file_hash(folder / name) != hashes.get(name)]
    notes = tuple(
        f"{name} was changed after the study: its hash is not that in manifest.json."
        for name in changed
    )
    return Results(
        folder=folder,
        asked=asked,
        grid_sha256=hashlib.sha256(text.encode()).hexdigest(),
        runs=runs,
        blames=blames,
        curves=curves,
        manifest=manifest,
        planned=runs.height,
        search=search,
        notes=notes,
    )


def _running(folder: Path, resolved: str) -> Results:
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
        first = (str(error).splitlines() or [""])[0]
        raise ReportError(
            f"{folder}: the chunks of the running study cannot be read: {first}; try again"
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
        asked=tomllib.loads(resolved),
        grid_sha256=hashlib.sha256(resolved.encode()).hexdigest(),
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


def finished_study(folder: Path, *, sets: Sequence[str] = ()) -> tuple[Grid, Plan]:
    """Read the grid of a finished study and rebuild its plan, with the rounds of its search.

    Args:
        folder: the results folder.
        sets: overrides of the grid, as `--set` takes them.

    Returns:
        The grid and the plan.

    Raises:
        GridError: the grid is not valid for this version of nanlab.
        ReportError: the folder holds no finished study.
    """
    if not (folder / "manifest.json").is_file() or not (folder / PLAN).is_file():
        raise ReportError(f"{folder} holds no finished study: manifest.json or {PLAN} is missing")
    grid = load_grid(folder / PLAN, sets=sets)
    if grid.document.refinement is None:
        return grid, make_plan(grid)
    return grid, finished_plan(grid, pl.read_parquet(folder / "runs.parquet"))
