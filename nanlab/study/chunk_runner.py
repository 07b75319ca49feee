"""Chunks -> files: run on this process's devices, and kept by whoever ran them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nanlab.backend.jaxpr import Device
from nanlab.engine.block_width import NARROWEST, launch_runs
from nanlab.engine.curves import curves_frame
from nanlab.engine.environment import environment
from nanlab.engine.group_runner import GroupRunner
from nanlab.engine.memory import Need, available_bytes, is_lack_of_memory, launch_need, way_out
from nanlab.engine.placement import lanes_of
from nanlab.engine.witnesses import ask
from nanlab.plan.plan import Plan
from nanlab.problems.user_code import user_code_hashes
from nanlab.results.manifest import Testimony
from nanlab.results.provenance import fingerprint
from nanlab.results.store import Store
from nanlab.study.chunks import Chunk, Crash, Done, Piece, crash_of, cut
from nanlab.study.rows import rows_of

WORKERS_KEPT = 8
"""How many groups' compiled programs are held, for later chunks and the witnesses to use again."""


def study_environment(devices: Sequence[Device], own: set[str]) -> dict[str, Any]:
    """What this process computes a study with.

    Args:
        devices: on which.
        own: what the plan calls a person's own code; that decides the bits too.
    """
    hashes = user_code_hashes(own)
    return environment(list(devices)) | ({"own_code_sha256": hashes} if hashes else {})


def cut_here(
    plan: Plan,
    asked: np.ndarray,
    chunk_runs: int | None,
    devices: Sequence[Device],
    *,
    held: Mapping[str, int] | None = None,
) -> list[Piece]:
    """The runs that are asked for, as chunks that fill the launches of one process's devices.

    Args:
        plan, asked, held: as `chunks.cut` has them.
        chunk_runs: about how many runs a chunk has; None for as many as suit the devices.
        devices: all that the process uses.
    """
    most, unit = chunk_runs or launch_runs(devices), NARROWEST * len(devices)
    return cut(plan, asked, chunk_runs=most, unit=unit, held=held)


class ChunkRunner:
    """Runs chunks on this process's devices and keeps what comes of them.

    Args:
        store: where to.
        devices: on which.
        curves: whether to keep curves too.

    Attributes:
        holds: how many groups' compiled programs are held at most.
    """

    def __init__(self, store: Store, devices: Sequence[Device], *, curves: bool):
        self._store, self._devices, self._curves = store, list(devices), curves
        self.holds = WORKERS_KEPT
        self._workers: OrderedDict[tuple[str, int], GroupRunner] = OrderedDict()
        self._broken: dict[str, Exception] = {}
        self._needs: dict[tuple[str, int], Need] = {}
        self._fitted = set[tuple[str, int]]()
        # What the launches at work need, and what was free before the first of them.
        self._at_work, self._free, self._changed = list[int](), None, Condition()

    def cut(self, plan: Plan, asked: np.ndarray, chunk_runs: int | None) -> list[Piece]:
        """The runs that are asked for, as chunks that fill this process's launches."""
        held = {name: worker.lanes for (name, _), worker in self._workers.items()}
        return cut_here(plan, asked, chunk_runs, self._devices, held=held)

    def run(self, chunk: Chunk) -> Done | Crash:
        """Run a chunk and keep its rows.

        Raises:
            MemoryError: a launch does not fit, with what does.
            StoreError: the rows cannot be kept.
        """
        began = time.perf_counter()
        plan, count = chunk.plan, len(chunk.run_ids)
        worker: GroupRunner | None = None
        try:
            with self._working(chunk) as worker:
                lanes = lanes_of(plan, worker.problem, plan.groups[0].runs)
                outcome = worker.run(lanes, curves=self._curves)
        except Exception as error:
            _check_memory(error, worker)
            return crash_of(count, error)
        rows = rows_of(plan, worker.problem, lanes, outcome)
        curves = curves_frame(plan.run_ids.tolist(), outcome.observations) if self._curves else None
        name, digest = self._store.keep(rows, curves)
        failed = len(outcome.attributions)
        return Done(count, failed, name, digest, time.perf_counter() - began)

    def ask(self, chunk: Chunk) -> list[Testimony]:
        """What the witnesses say of failing runs, one after another."""
        # Of any number of blocks, if it is still held: nothing is compiled for a few runs.
        held = [each for (name, _), each in self._workers.items() if name == chunk.group_id]
        with self._changed:
            worker = held[0] if held else self._worker(chunk)
        plan, runs = chunk.plan, chunk.plan.groups[0].runs
        pieces = [runs[at : at + worker.lanes] for at in range(0, len(runs), worker.lanes)]
        return [
            testimony
            for some in pieces
            for testimony in ask(worker, lanes_of(plan, worker.problem, some))
        ]

    @contextmanager
    def _working(self, chunk: Chunk) -> Generator[GroupRunner]:
        """The chunk's worker; several threads may have one at once."""
        with self._changed:
            worker = self._worker(chunk)
            needed = self._await_memory((chunk.group_id, worker.lanes), worker)
            self._at_work.append(needed)
        try:
            yield worker
        finally:
            with self._changed:
                self._at_work.remove(needed)
                self._changed.notify_all()

    def _worker(self, chunk: Chunk) -> GroupRunner:
        for (name, _), held in self._workers.items():
            if name == chunk.group_id and held.lanes == held.lanes_for(chunk.largest):
                return held
        if chunk.group_id in self._broken:
            raise self._broken[chunk.group_id]
        try:
            worker = GroupRunner(chunk.statics, runs=chunk.largest, devices=self._devices)
            need = launch_need(worker.problem, at_once=worker.smallest)
        except MemoryError:
            raise
        except Exception as error:  # so it would be with every chunk of the group
            self._broken[chunk.group_id] = error
            raise
        key = chunk.group_id, worker.lanes
        self._workers[key], self._needs[key] = worker, need
        while len(self._workers) > self.holds:
            self._workers.popitem(last=False)
        return worker

    def _await_memory(self, key: tuple[str, int], worker: GroupRunner) -> int:
        """The bytes of a launch, once it fits beside those at work.

        A program that has been launched before is alone with its memory when no other is at work,
        most of which this process has kept: nobody else sees that as free.

        Raises:
            MemoryError: it does not fit, even when no other is at work.
        """
        need, is_new = self._needs[key], key not in self._fitted
        while self._at_work or is_new:
            free = available_bytes(self._devices) if is_new else self._free
            if not self._at_work:
                self._free = free
            elif free is not None and self._free is not None:
                # Those at work may not have taken yet what they need.
                free = min(free, self._free - sum(self._at_work))
            try:
                need.check(worker.lanes, free, smallest=worker.smallest)
                break
            except MemoryError:
                if not self._at_work:
                    raise
                self._changed.wait()
        self._fitted.add(key)
        return need.launch(worker.lanes)


def _check_memory(error: Exception, worker: GroupRunner | None) -> None:
    """Raise a MemoryError with what may fit, if that is what `error` is about."""
    if isinstance(error, MemoryError) and "--set" in str(error):
        raise error
    if not is_lack_of_memory(error):
        return
    if worker is None:
        raise MemoryError(
            "a group's model and data do not fit the memory; make them smaller"
        ) from error
    raise MemoryError(
        f"a launch of {worker.lanes:,} lanes does not fit the memory; "
        f"{way_out(worker.lanes // 2, smallest=worker.smallest)}"
    ) from error


def chunk_runner_on(
    folder: Path, own: set[str], devices: Sequence[Device], *, curves: bool, mixed: bool
) -> tuple[ChunkRunner, Store, dict[str, Any]]:
    """A bench on this process's devices, the store that it fills, and its environment.

    Args:
        folder: of the results.
        own: what the plan calls a person's own code.
        devices: to compute on.
        curves, mixed: as [exec] has them.

    Raises:
        FolderError: the folder cannot be made or written to.
    """
    made = study_environment(devices, own)
    store = Store(folder, fingerprint(made), mixed=made if mixed else None)
    return ChunkRunner(store, devices, curves=curves), store, made


@runtime_checkable
class Executor(Protocol):
    """Where chunks run."""

    @property
    def environment(self) -> dict[str, Any]:
        """What they are computed with, as `study_environment` has it."""
        ...

    def cut(self, plan: Plan, asked: np.ndarray, chunk_runs: int | None) -> list[Piece]:
        """The runs that are asked for as chunks; None: of as many as suit where they run."""
        ...

    def run(
        self, plan: Plan, pieces: Sequence[Piece], begin: Callable[[Piece], None]
    ) -> Iterator[Done | Crash]:
        """Run chunks of a plan, in any order, and keep what comes of them.

        Args:
            plan: what is asked.
            pieces: the chunks.
            begin: is told of each before it runs.

        Raises:
            MemoryError: a launch does not fit, with what does.
        """
        ...

    def ask(self, chunk: Chunk) -> list[Testimony]:
        """What the witnesses say of failing runs, one after another."""
        ...

    def close(self) -> None:
        """Let go of what runs the chunks."""
        ...
