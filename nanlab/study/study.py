"""Plan -> results: run what is not there yet, chunk by chunk, then write the tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from nanlab.backend.jaxpr import Device
from nanlab.grid import Grid
from nanlab.plan.plan import Plan
from nanlab.plan.rounds import Rounds
from nanlab.results import frames as tables
from nanlab.results.chunk_index import ChunkIndex
from nanlab.results.manifest import Testimony, command_line, write_manifest
from nanlab.results.runs_table import RunsTable
from nanlab.results.search_tables import write_search_tables
from nanlab.results.store import CURVES_FILE, DEVICE, writing
from nanlab.results.streaming import SLICE, places, slices, write_curves, write_tables
from nanlab.study.chunks import Crash, Piece, chunk_of
from nanlab.study.events import StudyCallbacks
from nanlab.study.executors import executor_of
from nanlab.study.shared_folder import prepare

CRASHES = "crashes.log"
"""In the results folder: the whole traceback of each chunk that crashed."""


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A finished study: its tables, its manifest and where they are.

    `runs` is read from its file when it is asked for something: it may be larger than the memory.
    """

    folder: Path
    runs: pl.LazyFrame
    blames: pl.DataFrame
    manifest: dict[str, Any]


@dataclass(kw_only=True)
class Study:
    """One grid's runs on this process's devices, into one folder.

    Attributes:
        grid, plan: what is asked; the rounds of a search add to the plan.
        folder: where the results go.
        devices: on which to run.
        listener: who is told.
        arguments: of the command that asked for it, for the manifest.
        engine: where chunks run; as [exec] has it if not given.
        rules: of the claims that it is run for, the hashes of each's rule, of now and of earlier
            results, for the manifest.
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
        made = executor_of(self.grid, self.plan, self.folder, self.devices, engine)
        self._engine, self.store = made

    def close(self) -> None:
        """Let go of what runs the chunks."""
        self._engine.close()

    def is_finished(self) -> bool:
        """Whether the folder already holds just what is asked."""
        return self.store.is_finished(self.grid.resolved_toml())

    def finished(self) -> StudyResult:
        """What the folder holds of a study that is finished."""
        return StudyResult(
            folder=self.folder,
            runs=pl.scan_parquet(self.folder / "runs.parquet"),
            blames=tables.read_blames(self.folder / "blames.csv"),
            manifest=self.store.manifest(),
        )

    def prepare(self, *, force: bool = False) -> bool:
        """Leave word for the workers of engine files; whether there is news for them.

        Args:
            force: they are to run everything, whatever is there.

        Raises:
            StoreError: the folder cannot be written to.
        """
        with writing(self.folder):
            if force:
                self.store.forget_chunks(folder=False)
                (self.folder / "manifest.json").unlink(missing_ok=True)
        return prepare(self.folder, self.grid.resolved_toml())

    def run(self, *, force: bool = False) -> StudyResult:
        """Run what is missing, and write the tables.

        Args:
            force: run everything, whatever is there.

        Raises:
            StoreError: the folder cannot be written to, or the disk is full.
            MemoryError: a launch does not fit, with what does.
        """
        started = time.perf_counter()
        rounds = Rounds(self.grid, self.plan)
        kept = self._run_rounds(rounds, force=force)
        blames = self._blames(kept)
        said = self._testimonies(blames)
        words = {
            i: {"origin_witness": t.origin, "culprit_witness": t.culprit} for i, t in said.items()
        }
        blames = tables.with_witnesses(blames, words)
        self.seconds["all"] = time.perf_counter() - started
        with writing(self.folder):
            files = self._write_tables(kept, blames)
            runs = pl.scan_parquet(self.folder / "runs.parquet")
            ends = runs.select("run_id", "outcome")
            if self.grid.document.refinement is None:
                ends = ends.head(0)  # nothing is asked of them, and they may not fit the memory
            files += write_search_tables(rounds, self.folder, ends.collect())
            manifest = write_manifest(
                self.folder,
                about={
                    "title": self.grid.title,
                    "rules": dict(self.rules),
                    "search": rounds.summary(),
                    "command": command_line(self.arguments),
                    "groups": len(self.plan.groups),
                    "witness_cap": self.grid.exec.witnesses,
                    "wall_s": {name: round(spent, 3) for name, spent in self.seconds.items()},
                },
                environment=self._engine.environment,
                environments=self.store.makers(),
                resolved=self.grid.resolved_toml(),
                runs=runs,
                blames=blames,
                said=said,
                files=files,
            )
        if not manifest["crashed"]:
            self.store.forget_chunks()
            (self.folder / CRASHES).unlink(missing_ok=True)
        return StudyResult(folder=self.folder, runs=runs, blames=blames, manifest=manifest)

    def _run_rounds(self, rounds: Rounds, *, force: bool) -> ChunkIndex:
        """Run the plan, and then what its outcomes ask for, round by round."""
        if force:
            self.store.forget_chunks(folder=False)
        kept = self._run_missing(rounds, force=force)
        if self.grid.document.refinement is None:
            return kept
        ends = [self._outcomes(kept)]
        while (following := rounds.after(pl.concat(ends))) is not None:
            self.plan = following
            ends.append(self._outcomes(self._run_missing(rounds, force=force)))
        self.plan = rounds.plan() if rounds.number else self.plan
        return self.store.kept(self.plan.run_ids, curves=self.grid.exec.curves)

    def _outcomes(self, kept: ChunkIndex) -> pl.DataFrame:
        return kept.rows(places(slice(0, len(self.plan)))).select("run_id", "outcome")

    def _run_missing(self, rounds: Rounds, *, force: bool) -> ChunkIndex:
        """Run what is not kept of a round; then nearly all is, and the rest has crashed."""
        run_ids, curves = self.plan.run_ids, self.grid.exec.curves
        if not force:
            self.store.unpack(run_ids, curves=curves)
        with writing(self.folder):
            # A study that is running can be looked at: what it asks stands among its chunks.
            prepare(self.folder, self.grid.resolved_toml())
        done = self.store.kept(run_ids, curves=curves).done
        many, reused = len(self.plan), int(done.sum())
        if rounds.number:
            self.listener.searching(rounds.number, rounds.open, many, reused)
        else:
            self.listener.started(many, reused)
        began, entered = time.perf_counter(), set[int]()

        def begin(piece: Piece) -> None:
            if piece.group not in entered:
                entered.add(piece.group)
                group = self.plan.groups[piece.group]
                self.listener.entered(group, piece.group, len(self.plan.groups))

        pieces = self._engine.cut(self.plan, ~done, self.grid.exec.chunk_runs)
        for report in self._engine.run(self.plan, pieces, begin):
            if isinstance(report, Crash):
                self._crashed(report)
            else:
                self.listener.advanced(report.runs, report.failed)
        if pieces:
            spent = self.seconds.get("runs", 0.0)
            self.seconds["runs"] = spent + time.perf_counter() - began
        return self.store.kept(run_ids, curves=curves)

    def _crashed(self, crash: Crash) -> None:
        self.listener.crashed(crash.runs, crash.error)
        with writing(self.folder), (self.folder / CRASHES).open("a", encoding="utf-8") as log:
            log.write(crash.trace + "\n")

    def _results(self, kept: ChunkIndex, rows: slice) -> pl.DataFrame:
        return tables.with_blame_ids(kept.rows(places(rows)))

    def _blames(self, kept: ChunkIndex) -> pl.DataFrame:
        """The table of blames, without witnesses."""
        parts = slices(len(self.plan), SLICE)
        return tables.merged_blames(tables.blames_frame(self._results(kept, p)) for p in parts)

    def _write_tables(self, kept: ChunkIndex, blames: pl.DataFrame) -> list[str]:
        """Write the tables, some rows at a time; the names of those written."""
        table, count = RunsTable(self.plan), len(self.plan)

        def runs(rows: slice) -> pl.DataFrame:
            frame = table.frame(self._results(kept, rows), blames, rows)
            if not self.grid.exec.mixed_devices:
                return frame
            devices = pl.Series(DEVICE, kept.devices(places(rows)), dtype=pl.String)
            return frame.with_columns(devices)

        def curves(rows: slice) -> pl.DataFrame:
            return kept.curves(places(rows))

        exec = self.grid.exec
        written = write_tables(self.folder, runs, count, blames, csv_runs=exec.csv_runs)
        if exec.curves:
            write_curves(self.folder / CURVES_FILE, curves, count)
            written.append(CURVES_FILE)
        return written

    def _testimonies(self, blames: pl.DataFrame) -> dict[str, Testimony]:
        """What the witnesses say of the most frequent blames, each by its example run."""
        began = time.perf_counter()
        asked = blames.head(self.grid.exec.witnesses).select("blame_id", "example_run").rows()
        if asked:
            self.listener.asking(len(asked))
        blame_of = {run_id: blame_id for blame_id, run_id in asked}
        is_asked = self.plan.is_among(blame_of)
        said: dict[str, Testimony] = {}
        for group in self.plan.groups:
            some = group.runs[is_asked[group.runs]]
            if not len(some):
                continue
            chunk = chunk_of(self.plan, group, some)
            try:
                words = self._engine.ask(chunk)
            except Exception as error:  # the blames stand without a witness
                self.listener.unheard(error)
                continue
            for run_id, testimony in zip(chunk.run_ids.tolist(), words, strict=True):
                said[blame_of[run_id]] = testimony
        self.seconds["witnesses"] = time.perf_counter() - began
        return said
