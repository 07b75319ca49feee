"""Plan -> results: run what is not there yet, chunk by chunk, then write the tables."""

from __future__ import annotations

import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl

from nanlab import tables
from nanlab._jax import Device
from nanlab.curves import curves_frame
from nanlab.engines import ChunkOutcome, GroupWorker
from nanlab.faults import outcomes
from nanlab.grid import Grid
from nanlab.lanes import NEVER, Lanes
from nanlab.launches import lanes_of
from nanlab.manifest import command_line, write_manifest
from nanlab.memory import available_bytes, launch_need, way_out
from nanlab.own import own_code_hashes
from nanlab.plan import Group, Plan, chunks
from nanlab.problems import own_specs
from nanlab.provenance import environment, fingerprint
from nanlab.store import CURVES_FILE, Store, writing
from nanlab.witnesses import Testimony, ask

CRASHES = "crashes.log"
"""In the results folder: the whole traceback of each chunk that crashed."""

WORKERS_KEPT = 8
"""How many groups' compiled programs are held, for the witnesses to use again."""


@runtime_checkable
class Listener(Protocol):
    """Who is told how a study goes; called from the thread that runs it."""

    def started(self, total: int, reused: int) -> None:
        """So many runs are asked for, and so many of them are there."""

    def entered(self, group: Group, number: int, groups: int) -> None:
        """A group's chunks are next; its programs are compiled first."""

    def advanced(self, runs: int, failed: int) -> None:
        """A chunk is done and kept."""

    def crashed(self, runs: int, error: BaseException) -> None:
        """A chunk raised; its runs are recorded as crashed."""

    def asking(self, blames: int) -> None:
        """The witnesses are asked about so many distinct blames."""

    def unheard(self, error: BaseException) -> None:
        """The witnesses of a group could not be asked; its blames stay without."""


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A finished study: its tables, its manifest and where they are."""

    folder: Path
    runs: pl.DataFrame
    blames: pl.DataFrame
    manifest: dict[str, Any]


@dataclass(kw_only=True)
class Study:
    """One grid's runs on this process's devices, into one folder.

    Attributes:
        grid, plan: what is asked.
        folder: where the results go.
        devices: on which to run.
        listener: who is told.
        arguments: of the command that asked for it, for the manifest.
        rules: hashes of the claims' rules that it is run for, for the manifest.
    """

    grid: Grid
    plan: Plan
    folder: Path
    devices: Sequence[Device]
    listener: Listener
    arguments: Sequence[str] = ()
    rules: Mapping[str, str] = field(default_factory=dict[str, str])
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        self._environment = environment(list(self.devices))
        own_code = own_code_hashes(own_specs(self.plan))
        if own_code:
            # What a person has written decides the bits too.
            self._environment["own_code_sha256"] = own_code
        self._workers: OrderedDict[tuple[str, int], GroupWorker] = OrderedDict()
        self.store = Store(self.folder, fingerprint(self._environment))

    def is_finished(self) -> bool:
        """Whether the folder already holds just what is asked."""
        return self.store.is_finished(self.grid.resolved_toml())

    def finished(self) -> StudyResult:
        """What the folder holds of a study that is finished."""
        return StudyResult(
            folder=self.folder,
            runs=pl.read_parquet(self.folder / "runs.parquet"),
            blames=tables.read_blames(self.folder / "blames.csv"),
            manifest=self.store.manifest(),
        )

    def run(self, *, force: bool = False) -> StudyResult:
        """Run what is missing, and write the tables.

        Args:
            force: run everything, whatever is there.

        Raises:
            StoreError: the folder cannot be written to, or the disk is full.
            MemoryError: a launch does not fit, with what does.
        """
        started = time.perf_counter()
        self.store.begin(tables.asked_frame(self.plan), self.grid.resolved_toml())
        results = self._results(force=force)
        results = tables.with_blame_ids(_in_order(results, self.plan))
        blames = tables.blames_frame(results)
        said = self._testimonies(blames)
        words = {
            i: {"origin_witness": t.origin, "culprit_witness": t.culprit} for i, t in said.items()
        }
        blames = tables.with_witnesses(blames, words)
        runs = tables.runs_frame(self.plan, results, blames)
        self.seconds["all"] = time.perf_counter() - started
        with writing(self.folder):
            files = tables.write_tables(self.folder, runs, blames, csv_runs=self.grid.exec.csv_runs)
            if self.grid.exec.curves:
                self._write_curves()
                files.append(CURVES_FILE)
            manifest = write_manifest(
                self.folder,
                about={
                    "title": self.grid.title,
                    "rules": dict(self.rules),
                    "command": command_line(self.arguments),
                    "groups": len(self.plan.groups),
                    "witness_cap": self.grid.exec.witnesses,
                    "wall_s": {name: round(spent, 3) for name, spent in self.seconds.items()},
                },
                environment=self._environment,
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

    def _write_curves(self) -> None:
        curves = self.store.kept_curves(self.plan.run_ids.tolist())
        path = self.folder / CURVES_FILE
        tables.write_atomically(path, lambda p: tables.write_parquet(curves, p))

    def _results(self, *, force: bool) -> pl.DataFrame:
        curves = self.grid.exec.curves
        kept = pl.DataFrame(schema=tables.RESULT) if force else self.store.kept(curves=curves)
        kept = kept.filter(pl.col("run_id").is_in(self.plan.run_ids.tolist()))
        done = np.isin(self.plan.run_ids, kept.get_column("run_id").to_numpy())
        self.listener.started(len(self.plan), int(done.sum()))
        frames = [kept]
        for number, group in enumerate(self.plan.groups):
            missing = group.runs[~done[group.runs]]
            if len(missing):
                self.listener.entered(group, number, len(self.plan.groups))
                frames += self._run_group(group, missing)
        return pl.concat(frames)

    def _run_group(self, group: Group, runs: np.ndarray) -> list[pl.DataFrame]:
        began = time.perf_counter()
        try:
            worker, pieces = self._worker(group, len(runs))
        except MemoryError:
            raise
        except Exception as error:  # as below, of all the group's runs
            return [self._crashed(runs, error)]
        frames: list[pl.DataFrame] = []
        for piece in pieces:
            chunk = runs[piece]
            try:
                lanes = lanes_of(self.plan, worker.problem, chunk)
                outcome = worker.run(lanes, curves=self.grid.exec.curves)
            except Exception as error:  # the chunk is a row of the tables, the rest goes on
                check_memory(error, worker.lanes, smallest=self._smallest)
                frames.append(self._crashed(chunk, error))
                continue
            rows = self._rows(worker, chunk, lanes, outcome)
            curves = None
            if self.grid.exec.curves:
                curves = curves_frame(self.plan.run_ids[chunk].tolist(), outcome.observed)
            self.store.keep(rows, curves)
            frames.append(rows)
            self.listener.advanced(len(chunk), len(outcome.attributions))
        spent = self.seconds.get("runs", 0.0)
        self.seconds["runs"] = spent + time.perf_counter() - began
        return frames

    def _crashed(self, runs: np.ndarray, error: Exception) -> pl.DataFrame:
        self.listener.crashed(len(runs), error)
        with writing(self.folder), (self.folder / CRASHES).open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)) + "\n")
        return tables.crashed_frame(self.plan.run_ids[runs].tolist())

    @property
    def _smallest(self) -> int:
        """How many lanes a launch has at least: a block on each device."""
        return self._environment["block"] * len(self.devices)

    def _worker(self, group: Group, count: int) -> tuple[GroupWorker, list[slice]]:
        block = self._environment["block"]
        blocks, pieces = chunks(
            count, block=block, devices=len(self.devices), chunk_runs=self.grid.exec.chunk_runs
        )
        at = (group.group_id, blocks)
        if at not in self._workers:
            worker = GroupWorker(group.statics, blocks=blocks, devices=self.devices)
            need = launch_need(worker.problem, block=block, devices=len(self.devices))
            need.check(worker.lanes, available_bytes(self.devices[0]), smallest=self._smallest)
            self._workers[at] = worker
            while len(self._workers) > WORKERS_KEPT:
                self._workers.popitem(last=False)
        return self._workers[at], pieces

    def _rows(
        self, worker: GroupWorker, runs: np.ndarray, lanes: Lanes, outcome: ChunkOutcome
    ) -> pl.DataFrame:
        endings, columns = outcome.endings, self.plan.columns
        baselines = worker.problem.baseline_losses
        words = outcomes(
            endings,
            baseline_losses=None if baselines is None else baselines(lanes.knobs),
            trained_margin=columns["trained_margin"][runs].astype(np.float64),
            diverged_factor=columns["diverged_factor"][runs].astype(np.float64),
        )
        rows: dict[str, Any] = {k: v for k, v in endings._asdict().items() if k in tables.ENDING}
        for name in ("fault_step", "nan_step"):
            rows[name] = [None if step == NEVER else int(step) for step in rows[name]]
        told: list[Mapping[str, Any]] = []
        for row in range(len(runs)):
            blame = outcome.attributions.get(row)
            told.append(
                {
                    **tables.finding_columns("origin", blame.origin if blame else None),
                    **tables.finding_columns("culprit", blame.culprit if blame else None),
                    "blame_status": blame.status if blame else None,
                }
            )
        names = [*tables.BLAME, "blame_status"]
        rows |= {name: [row[name] for row in told] for name in names}
        rows |= {"run_id": self.plan.run_ids[runs].tolist(), "outcome": words.tolist()}
        return tables.result_frame(rows)

    def _testimonies(self, blames: pl.DataFrame) -> dict[str, Testimony]:
        """What the witnesses say of the most frequent blames, each by its example run."""
        began = time.perf_counter()
        asked = blames.head(self.grid.exec.witnesses).select("blame_id", "example_run").rows()
        if asked:
            self.listener.asking(len(asked))
        place = {run_id: i for i, run_id in enumerate(self.plan.run_ids.tolist())}
        blame_of = {place[run_id]: blame_id for blame_id, run_id in asked}
        said: dict[str, Testimony] = {}
        for group in self.plan.groups:
            examples = group.runs[np.isin(group.runs, list(blame_of))]
            if not len(examples):
                continue
            worker = self._any_worker(group, len(examples))
            for piece in range(0, len(examples), worker.lanes):
                some = examples[piece : piece + worker.lanes]
                try:
                    words = ask(worker, lanes_of(self.plan, worker.problem, some))
                except Exception as error:  # the blames stand without a witness
                    self.listener.unheard(error)
                    continue
                for run, testimony in zip(some.tolist(), words, strict=True):
                    said[blame_of[run]] = testimony
        self.seconds["witnesses"] = time.perf_counter() - began
        return said

    def _any_worker(self, group: Group, count: int) -> GroupWorker:
        """The group's worker, of any number of blocks, if it is still held; else a new one."""
        held = [worker for (name, _), worker in self._workers.items() if name == group.group_id]
        return held[0] if held else self._worker(group, count)[0]


def check_memory(error: BaseException, lanes: int, *, smallest: int) -> None:
    """Raise a MemoryError with what may fit, if that is what `error` is about."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        raise MemoryError(
            f"a launch of {lanes:,} lanes does not fit the memory; "
            f"{way_out(lanes // 2, smallest=smallest)}"
        ) from error


def _in_order(results: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    order = pl.DataFrame({"run_id": plan.run_ids.tolist()})
    return order.join(results, on="run_id", how="left", maintain_order="left")
