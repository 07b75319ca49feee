"""Plan -> results: run the missing chunks, then write the tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from nanlab.backend.jaxpr import Device
from nanlab.grid import Grid
from nanlab.plan.plan import Plan
from nanlab.plan.rounds import Rounds
from nanlab.results import frames
from nanlab.results.chunk_index import ChunkIndex
from nanlab.results.errors import ReportError, writing
from nanlab.results.files import remove
from nanlab.results.manifest import MANIFEST, Testimony, command_line, write_manifest
from nanlab.results.ownership import owned
from nanlab.results.runs_table import RunsTable
from nanlab.results.search_tables import write_search_tables
from nanlab.results.store import CURVES_FILE, DEVICE, prepared_grid
from nanlab.results.streaming import SLICE, indices, slices, write_curves, write_tables
from nanlab.study.chunks import Crash, Piece, chunk_of
from nanlab.study.events import StudyCallbacks
from nanlab.study.executors import executor_of
from nanlab.study.shared_folder import prepare

CRASHES = "crashes.log"
"""Name of the log with the traceback of each chunk that crashed."""


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A finished study.

    Attributes:
        folder: results folder.
        plan: plan of all runs, with those of a search's rounds.
        runs: table of runs, lazy because it may not fit into memory.
        blames: table of blames.
        manifest: manifest.
    """

    folder: Path
    plan: Plan
    runs: pl.LazyFrame
    blames: pl.DataFrame
    manifest: dict[str, Any]


@dataclass(kw_only=True)
class Study:
    """The study of one grid, computed into one folder.

    Attributes:
        grid: grid.
        plan: plan of the grid; the rounds of a search add runs to it.
        folder: results folder.
        devices: devices to compute on.
        listener: progress callbacks.
        arguments: arguments of the command, for the manifest.
        engine: engine that runs the chunks, by default that of [exec].
        rules: claim -> hashes of its rule, of now and of earlier results, for the manifest.
        seconds: wall-clock time of each stage.
        store: store of the rows.
    """

    grid: Grid
    plan: Plan
    folder: Path
    devices: Sequence[Device]
    listener: StudyCallbacks
    arguments: Sequence[str] = ()
    engine: str | None = None
    rules: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        engine = self.engine or self.grid.exec.engine
        # While workers run this very grid, a sweep may look whether they have finished.
        self._shares = engine == "files" and self._is_prepared()
        with ExitStack() as owning:
            owning.enter_context(owned(self.folder, "collect" if self._shares else "sweep"))
            self._executor, self.store = executor_of(
                self.grid, self.plan, self.folder, self.devices, engine
            )
            self._owning = owning.pop_all()

    def close(self) -> None:
        """Release what runs the chunks, and the folder."""
        with self._owning:
            self._executor.close()

    def _is_prepared(self) -> bool:
        with suppress(ReportError):
            return prepared_grid(self.folder) == self.grid.resolved_toml()
        return False

    def is_finished(self) -> bool:
        """Return whether the folder already holds the results of this grid."""
        return self.store.is_finished(self.grid.resolved_toml())

    def finished(self) -> StudyResult:
        """Return the results of a finished study from its folder."""
        return StudyResult(
            folder=self.folder,
            plan=self.plan,
            runs=pl.scan_parquet(self.folder / "runs.parquet"),
            blames=frames.read_blames(self.folder / "blames.csv"),
            manifest=self.store.manifest(),
        )

    def clear_away(self) -> None:
        """Delete what a finished study does not need; what cannot be deleted is a remark."""
        for remark in [*self.store.remove_chunks(), *remove([self.folder / CRASHES])]:
            self.listener.say(remark)

    def prepare(self, *, force: bool = False) -> bool:
        """Prepare the folder for workers; return whether there is something new to run."""
        with writing(self.folder):
            if force:
                if self._shares:
                    self._owning.close()
                    self._owning.enter_context(owned(self.folder, "sweep"))
                self.store.forget()
                (self.folder / MANIFEST).unlink(missing_ok=True)
        return prepare(self.folder, self.grid.resolved_toml())

    def run(self, *, force: bool = False) -> StudyResult:
        """Run what is missing, or everything, and write the tables."""
        started = time.perf_counter()
        rounds = Rounds(self.grid, self.plan)
        plan, index = self._run_rounds(rounds, force=force)
        blames = frames.merged_blames(
            frames.blames_frame(_results(index, rows)) for rows in slices(len(plan), SLICE)
        )
        said = self._testimonies(plan, blames)
        answers = {
            i: {"origin_witness": t.origin, "culprit_witness": t.culprit} for i, t in said.items()
        }
        self.seconds["all"] = time.perf_counter() - started
        return self._finish(rounds, plan, index, frames.with_witnesses(blames, answers), said)

    def _finish(
        self, rounds: Rounds, plan: Plan, index: ChunkIndex, blames: pl.DataFrame,
        said: Mapping[str, Testimony],
    ) -> StudyResult:  # fmt: skip
        """Write the tables and the manifest, and remove the chunks."""
        with writing(self.folder):
            files = self._write_tables(plan, index, blames)
            runs = pl.scan_parquet(self.folder / "runs.parquet")
            ends = runs.select("run_id", "outcome")
            if self.grid.document.refinement is None:
                ends = ends.head(0)  # unused, and all of them may not fit into memory
            files += write_search_tables(rounds, self.folder, ends.collect())
            manifest = write_manifest(
                self.folder,
                about={
                    "title": self.grid.title,
                    "rules": dict(self.rules),
                    "search": rounds.summary(),
                    "command": command_line(self.arguments),
                    "groups": len(plan.groups),
                    "witness_cap": self.grid.exec.witnesses,
                    "wall_s": {name: round(spent, 3) for name, spent in self.seconds.items()},
                },
                environment=self._executor.environment,
                environments=self.store.environments(),
                resolved=self.grid.resolved_toml(),
                runs=runs,
                blames=blames,
                said=said,
                files=files,
            )
        if not manifest["crashed"]:
            self.clear_away()
        return StudyResult(
            folder=self.folder, plan=plan, runs=runs, blames=blames, manifest=manifest
        )

    def _run_rounds(self, rounds: Rounds, *, force: bool) -> tuple[Plan, ChunkIndex]:
        """Run the grid's plan, then the rounds of its search; return all runs and their index."""
        if force:
            self.store.forget()
        index = self._run_missing(self.plan, rounds, force=force)
        if self.grid.document.refinement is None:
            return self.plan, index
        ends = [_outcomes(self.plan, index)]
        while (following := rounds.after(pl.concat(ends))) is not None:
            index = self._run_missing(following, rounds, force=force)
            ends.append(_outcomes(following, index))
        plan = rounds.plan() if rounds.number else self.plan
        return plan, self.store.stored(plan.run_ids, curves=self.grid.exec.curves)

    def _run_missing(self, plan: Plan, rounds: Rounds, *, force: bool) -> ChunkIndex:
        """Run the missing runs of a round; those missing from the returned index have crashed."""
        run_ids, curves = plan.run_ids, self.grid.exec.curves
        if not force:
            self.store.unpack(run_ids, curves=curves)
        with writing(self.folder):
            # The report of a running study reads its grid from the folder of the chunks.
            prepare(self.folder, self.grid.resolved_toml())
        done = self.store.stored(run_ids, curves=curves).done
        n_runs, reused = len(plan), int(done.sum())
        if rounds.number:
            self.listener.searching(rounds.number, rounds.open, n_runs, reused)
        else:
            self.listener.started(n_runs, reused)
        while self.store.damaged:
            self.listener.damaged(self.store.damaged.pop())
        for name in () if rounds.number else self.store.unused:
            self.listener.say(f"{self.folder / name} is damaged or missing: its runs are repeated")
        began, entered = time.perf_counter(), set[int]()

        def begin(piece: Piece) -> None:
            if piece.group not in entered:
                entered.add(piece.group)
                group = plan.groups[piece.group]
                self.listener.entered(group, piece.group, len(plan.groups))

        pieces = self._executor.cut(plan, ~done, self.grid.exec.chunk_runs)
        for report in self._executor.run(plan, pieces, begin):
            if isinstance(report, Crash):
                self._crashed(report)
            else:
                self.listener.advanced(report.runs, report.failed)
        if pieces:
            spent = self.seconds.get("runs", 0.0)
            self.seconds["runs"] = spent + time.perf_counter() - began
        return self.store.stored(run_ids, curves=curves)

    def _crashed(self, crash: Crash) -> None:
        self.listener.crashed(crash.runs, crash.error)
        path = self.folder / CRASHES
        with writing(path), path.open("a", encoding="utf-8") as log:
            log.write(crash.trace + "\n")

    def _write_tables(self, plan: Plan, index: ChunkIndex, blames: pl.DataFrame) -> list[str]:
        """Write the tables, a slice of rows at a time, and return their names."""
        table, count, options = RunsTable(plan), len(plan), self.grid.exec

        def runs(rows: slice) -> pl.DataFrame:
            frame = table.frame(_results(index, rows), blames, rows)
            if not options.mixed_devices:
                return frame
            devices = pl.Series(DEVICE, index.devices(indices(rows)), dtype=pl.String)
            return frame.with_columns(devices)

        def curves(rows: slice) -> pl.DataFrame:
            return index.curves(indices(rows))

        written = write_tables(self.folder, runs, count, blames, csv_runs=options.csv_runs)
        if options.curves:
            write_curves(self.folder / CURVES_FILE, curves, count)
            written.append(CURVES_FILE)
        return written

    def _testimonies(self, plan: Plan, blames: pl.DataFrame) -> dict[str, Testimony]:
        """Return the witnesses' answers about the most frequent blames' example runs, by blame."""
        began = time.perf_counter()
        examples = blames.head(self.grid.exec.witnesses).select("example_run", "blame_id").rows()
        if examples:
            self.listener.cross_checking(len(examples))
        blame_of = dict(examples)
        is_example = plan.is_among(blame_of)
        said: dict[str, Testimony] = {}
        for group in plan.groups:
            runs = group.runs[is_example[group.runs]]
            if not len(runs):
                continue
            chunk = chunk_of(plan, group, runs)
            try:
                testimonies = self._executor.cross_check(chunk)
            except Exception as error:  # the blames are reported without a witness
                self.listener.cross_check_failed(error)
                continue
            for run_id, testimony in zip(chunk.plan.run_ids.tolist(), testimonies, strict=True):
                said[blame_of[run_id]] = testimony
        self.seconds["witnesses"] = time.perf_counter() - began
        return said


def _results(index: ChunkIndex, rows: slice) -> pl.DataFrame:
    return frames.with_blame_ids(index.rows(indices(rows)))


def _outcomes(plan: Plan, index: ChunkIndex) -> pl.DataFrame:
    return index.rows(indices(slice(0, len(plan)))).select("run_id", "outcome")
