"""Runs chunks on this process's devices and saves their rows."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import Any

import numpy as np
from jaxtyping import Bool

from nanlab.backend.jaxpr import Device
from nanlab.engine.block_width import NARROWEST, launch_runs
from nanlab.engine.curves import curves_frame
from nanlab.engine.environment import environment
from nanlab.engine.group_runner import ChunkOutcome, GroupRunner
from nanlab.engine.lanes import Lanes
from nanlab.engine.memory import Need, available_bytes, is_lack_of_memory, launch_need, way_out
from nanlab.engine.placement import lanes_of, take_rows
from nanlab.engine.witnesses import ask
from nanlab.grid.parameter_types import USER_CODE
from nanlab.plan.plan import Plan
from nanlab.problems.build import user_specs
from nanlab.problems.user_code import end_fork_of, user_code_hashes
from nanlab.results.manifest import Testimony
from nanlab.results.provenance import fingerprint
from nanlab.results.store import Store
from nanlab.study.chunks import Chunk, Crash, Done, Piece, crash_of, cut
from nanlab.study.rows import rows_of

RUNNERS_CACHED = 8
"""Groups whose compiled programs are cached for later chunks and the witnesses."""


def study_environment(devices: Sequence[Device], user_code: set[str]) -> dict[str, Any]:
    """Return this process's environment, with hashes of the user-defined code."""
    hashes = user_code_hashes(user_code)
    return environment(list(devices)) | ({"own_code_sha256": hashes} if hashes else {})


def cut_here(
    plan: Plan,
    pending: Bool[np.ndarray, " runs"],
    chunk_runs: int | None,
    devices: Sequence[Device],
    *,
    cached: Mapping[str, int] | None = None,
) -> list[Piece]:
    """Cut the pending runs into chunks that fill one process's launches; see `chunks.cut`."""
    target, unit = chunk_runs or launch_runs(devices), NARROWEST * len(devices)
    return cut(plan, pending, chunk_runs=target, unit=unit, cached=cached)


class NotRepeatableError(Exception):
    """User-defined code gives other numbers when it is run again."""

    def __init__(self, specs: Sequence[str], column: str) -> None:
        super().__init__(
            f"{', '.join(specs)} is not deterministic: the same runs, run twice, have another "
            f"{column}. Draw random numbers from the key argument of init and step, and let "
            "callbacks read no clock, file or global state"
        )


class ChunkRunner:
    """Runs chunks on this process's devices and saves their rows.

    Args:
        store: the store to save to.
        devices: the devices to compute on.
        curves: whether to save curves too.

    Attributes:
        capacity: maximum number of groups whose compiled programs are cached.
    """

    def __init__(self, store: Store, devices: Sequence[Device], *, curves: bool):
        self._store, self._devices, self._curves = store, list(devices), curves
        self.capacity = RUNNERS_CACHED
        self._runners: OrderedDict[tuple[str, int], GroupRunner] = OrderedDict()
        self._repeated = set[str]()
        self._broken: dict[str, Exception] = {}
        self._needs: dict[tuple[str, int], Need] = {}
        self._fitted = set[tuple[str, int]]()
        # Bytes of the launches in progress, and free bytes before the first of them.
        self._in_use, self._free, self._changed = list[int](), None, Condition()

    def cut(
        self, plan: Plan, pending: Bool[np.ndarray, " runs"], chunk_runs: int | None
    ) -> list[Piece]:
        """Cut the pending runs into chunks that fill this process's launches."""
        cached = {name: runner.lanes for (name, _), runner in self._runners.items()}
        return cut_here(plan, pending, chunk_runs, self._devices, cached=cached)

    def run(self, chunk: Chunk) -> Done | Crash:
        """Run a chunk and save its rows; if memory is short, the MemoryError says what fits."""
        began = time.perf_counter()
        plan, count = chunk.plan, len(chunk.plan)
        runner: GroupRunner | None = None
        process = os.getpid()
        try:
            with self._launching(chunk) as runner:
                lanes = lanes_of(plan, runner.problem, plan.groups[0].runs)
                outcome = runner.run(lanes, curves=self._curves)
                self._check_repeats(plan, runner, lanes, outcome)
        except NotRepeatableError:
            raise
        except Exception as error:
            _check_memory(error, runner)
            return crash_of(count, error)
        finally:
            end_fork_of(process)
        rows = rows_of(plan, runner.problem, lanes, outcome)
        curves = curves_frame(plan.run_ids.tolist(), outcome.observations) if self._curves else None
        name = self._store.save(rows, curves)
        failed = len(outcome.attributions)
        return Done(count, failed, name, time.perf_counter() - began)

    def _check_repeats(
        self, plan: Plan, runner: GroupRunner, lanes: Lanes, outcome: ChunkOutcome
    ) -> None:
        """Run a block of user-defined code a second time, the first time that the code is run.

        Raises:
            NotRepeatableError: a number has come out differently.
        """
        specs = {spec for spec in user_specs(plan) if USER_CODE.match(spec)} - self._repeated
        if not specs:
            return
        self._repeated |= specs
        rows = np.arange(min(len(lanes.seed), runner.smallest))
        again = runner.run(take_rows(lanes, rows)).endings
        for name, first in take_rows(outcome.endings, rows)._asdict().items():
            if first.tobytes() != np.asarray(getattr(again, name)).tobytes():
                raise NotRepeatableError(sorted(specs), name)

    def cross_check(self, chunk: Chunk) -> list[Testimony]:
        """Return the witnesses' answers about failing runs, in their order."""
        # A cached program of any width will do: nothing is compiled for a few runs.
        with self._changed:
            cached = [
                each for (name, _), each in self._runners.items() if name == chunk.group.group_id
            ]
            runner = cached[0] if cached else self._runner(chunk)
        plan, runs = chunk.plan, chunk.group.runs
        launches = [runs[at : at + runner.lanes] for at in range(0, len(runs), runner.lanes)]
        return [
            testimony
            for launch in launches
            for testimony in ask(runner, lanes_of(plan, runner.problem, launch))
        ]

    @contextmanager
    def _launching(self, chunk: Chunk) -> Generator[GroupRunner]:
        """Yield the chunk's runner once its memory is reserved; several threads may have one."""
        with self._changed:
            runner = self._runner(chunk)
            reserved = self._await_memory((chunk.group.group_id, runner.lanes), runner)
            self._in_use.append(reserved)
        try:
            yield runner
        finally:
            with self._changed:
                self._in_use.remove(reserved)
                self._changed.notify_all()

    def _runner(self, chunk: Chunk) -> GroupRunner:
        group_id = chunk.group.group_id
        for (name, _), cached in self._runners.items():
            if name == group_id and cached.lanes == cached.lanes_for(chunk.largest):
                return cached
        if group_id in self._broken:
            raise self._broken[group_id]
        try:
            runner = GroupRunner(chunk.group.statics, runs=chunk.largest, devices=self._devices)
            need = launch_need(runner.problem, at_once=runner.smallest)
        except MemoryError:
            raise
        except Exception as error:  # every chunk of the group would raise it
            self._broken[group_id] = error
            raise
        key = group_id, runner.lanes
        self._runners[key], self._needs[key] = runner, need
        while len(self._runners) > self.capacity:
            self._runners.popitem(last=False)
        return runner

    def _await_memory(self, key: tuple[str, int], runner: GroupRunner) -> int:
        """Wait until a launch fits next to those in progress.

        A program that has been launched before, and runs alone, is not checked: this process still
        holds most of the memory it had then, which the system does not report as free.

        Returns:
            The bytes of the launch.

        Raises:
            MemoryError: it does not fit, even when nothing else runs.
        """
        need, is_new = self._needs[key], key not in self._fitted
        while self._in_use or is_new:
            free = available_bytes(self._devices) if is_new else self._free
            if not self._in_use:
                self._free = free
            elif free is not None and self._free is not None:
                # Launches in progress may not have allocated all their memory yet.
                free = min(free, self._free - sum(self._in_use))
            try:
                need.check(runner.lanes, free, smallest=runner.smallest)
                break
            except MemoryError:
                if not self._in_use:
                    raise
                self._changed.wait()
        self._fitted.add(key)
        return need.launch(runner.lanes)


def _check_memory(error: Exception, runner: GroupRunner | None) -> None:
    """Raise a MemoryError that says what may fit, if `error` is a lack of memory."""
    if isinstance(error, MemoryError) and "--set" in str(error):
        raise error
    if not is_lack_of_memory(error):
        return
    if runner is None:
        raise MemoryError(
            "a group's model and data do not fit into memory; make them smaller"
        ) from error
    raise MemoryError(
        f"a launch of {runner.lanes:,} lanes does not fit into memory; "
        f"{way_out(runner.lanes // 2, smallest=runner.smallest)}"
    ) from error


def chunk_runner_on(
    folder: Path, user_code: set[str], devices: Sequence[Device], *, curves: bool, mixed: bool
) -> tuple[ChunkRunner, Store, dict[str, Any]]:
    """Return a runner on this process's devices, its store, and this environment."""
    here = study_environment(devices, user_code)
    store = Store(folder, fingerprint(here), mixed=here if mixed else None)
    return ChunkRunner(store, devices, curves=curves), store, here
