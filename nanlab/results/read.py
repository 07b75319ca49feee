"""Results folder -> Results: the tables of a study, finished or running; it only reads."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanlab.grid import GridError, load_grid
from nanlab.plan.plan import make_plan
from nanlab.results.chunk_index import ChunkIndex, curves_beside
from nanlab.results.frames import blames_frame, read_blames, with_blame_ids, with_witnesses
from nanlab.results.provenance import file_hash
from nanlab.results.runs_table import RunsTable
from nanlab.results.schema import CURVES
from nanlab.results.store import CHUNKS, CURVES_FILE, HASHED_FILES, PLAN


class ReportError(Exception):
    """There is nothing to report on; the message is a sentence for a person."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a results folder holds of a study.

    Attributes:
        folder: where it is; its name is the study's.
        asked: the resolved grid.
        grid_sha256: of the resolved grid's text.
        runs: the runs that are there, in the grid's order.
        blames: the distinct blames of these runs.
        curves: rows of `curves.CURVES`; none where the study has no curves.
        manifest: what made it; empty while the study runs.
        planned: how many runs were asked for.
        notes: sentences on what is amiss with the folder.
    """

    folder: Path
    asked: Mapping[str, Any]
    grid_sha256: str
    runs: pl.DataFrame
    blames: pl.DataFrame
    curves: pl.DataFrame
    manifest: Mapping[str, Any]
    planned: int
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.resolve().name

    @property
    def study_id(self) -> str:
        """Its name, and the first digits of the hash of what was asked."""
        return f"{self.name}-{self.grid_sha256[:8]}"

    @property
    def title(self) -> str:
        """The question, or the study's name where the grid has none."""
        return str(self.asked.get("title") or self.manifest.get("title") or self.name)

    @property
    def finer(self) -> tuple[str, ...]:
        """The axes that were made finer where the outcome changes, the first one first."""
        table = {**self.asked.get("search", {}), **self.asked.get("refine", {})}
        return tuple(table.get("axes", ())) or tuple(filter(None, [table.get("axis")]))

    @property
    def missing(self) -> int:
        """How many runs are not there yet."""
        return self.planned - self.runs.height

    @property
    def seeds(self) -> int:
        """How many seeds the runs have; 1 where the seed was not varied."""
        return self.runs.get_column("seed").n_unique() if "seed" in self.runs.columns else 1


def read_results(folder: Path) -> Results:
    """Read what a folder holds of a study.

    Raises:
        ReportError: it is no folder of results, no run is finished yet, or a file is damaged.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder}: there is no such folder; a sweep makes one, results/<name>")
    running = _asked_of_running(folder)
    manifest = _manifest(folder)
    if running is not None and not _is_of(manifest, running):
        return _running(folder, running)
    if manifest:
        return _finished(folder, manifest)
    raise ReportError(
        f"{folder}: this is no folder of results: it has neither manifest.json nor chunks of a "
        "study that is running"
    )


def _asked_of_running(folder: Path) -> str | None:
    """The resolved grid of a study that is running or was stopped, as TOML."""
    try:
        return (folder / CHUNKS / PLAN).read_text(encoding="utf-8")
    except OSError:
        return None  # there is none, or it has just been finished, and its chunks are gone


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: it cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise ReportError(f"{path}: it does not hold a table of names and values")
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
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ReportError(f"{folder}: a table cannot be read: {first}") from error
    hashes = manifest.get("files", {})
    changed = [name for name in HASHED_FILES if file_hash(folder / name) != hashes.get(name)]
    notes = tuple(
        f"{name} is not the file that manifest.json tells of: it was changed after the study."
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
        notes=notes,
    )


def _running(folder: Path, resolved: str) -> Results:
    try:
        grid = load_grid(folder / CHUNKS / PLAN)
        plan = make_plan(grid)
        paths = _chunks(folder, mixed=grid.exec.mixed_devices)
        kept = ChunkIndex(plan.run_ids, paths, [None] * len(paths))
        places = np.flatnonzero(kept.done)
        rows = with_blame_ids(kept.rows(places))
        curves = [pl.read_parquet(p) for p in map(curves_beside, paths) if p.is_file()]
    except (GridError, OSError, pl.exceptions.PolarsError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ReportError(
            f"{folder}: what is there of a running study cannot be read: {first}; look again"
        ) from error
    if not rows.height:
        raise ReportError(
            f"{folder}: no run is finished yet, all {len(plan):,} are missing; look again when "
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
    )


def _chunks(folder: Path, *, mixed: bool) -> list[Path]:
    """The chunks that are there; of one environment, the latest to write, unless they are mixed."""
    every = sorted((folder / CHUNKS).glob("[0-9a-f]*-*.parquet"))
    if mixed or not every:
        return every
    latest = max(every, key=lambda path: path.stat().st_mtime)
    maker = latest.name.partition("-")[0]
    return [path for path in every if path.name.startswith(f"{maker}-")]
