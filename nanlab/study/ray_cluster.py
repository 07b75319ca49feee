"""Runs chunks on a Ray cluster, each as a task that may be retried.

Ray carries a chunk's specification to a worker and the name of its file back; the rows go through
the study's folder, which all machines share.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from jaxtyping import Bool

from nanlab.engine.block_width import NARROWEST, launch_lanes
from nanlab.engine.memory import way_out
from nanlab.grid import Exec
from nanlab.plan.plan import Plan
from nanlab.results.environments import DevicesError, sign
from nanlab.results.errors import StoreError
from nanlab.results.manifest import Testimony
from nanlab.results.provenance import fingerprint
from nanlab.results.store import Store, is_intact
from nanlab.study.chunks import Chunk, Crash, Done, Piece, chunk_of, cut
from nanlab.study.ray_worker import Failed, Job, cross_check_there, environment_there, run_there

MAX_RETRIES = 3
"""Attempts to run a chunk that kills its worker."""

ARRIVAL_S = 30.0
"""Timeout for a file of a worker to become visible here, on a shared file system."""


class ClusterError(Exception):
    """Ray is not installed, or there is no cluster; the message is a sentence for the user."""


def ray_executor(folder: Path, user_code: set[str], options: Exec) -> tuple[RayExecutor, Store]:
    """Return an executor on the cluster at RAY_ADDRESS, else a running one, else a new one."""
    ray, is_own = _ray()
    try:
        share, slots = _share(ray.cluster_resources(), options.devices or 1)
        job = Job(
            folder=str(folder.resolve()), cwd=str(Path.cwd()), user_code=tuple(sorted(user_code)),
            devices=options.devices or 1, curves=options.curves, mixed=options.mixed_devices,
            study_id=uuid4().hex, first=None,
        )  # fmt: skip
        first = _resilient(
            ray, ray.remote(max_retries=0, max_calls=0, **share)(environment_there), job,
            devices=job.devices,
        )  # fmt: skip
        store = Store(folder, fingerprint(first), mixed=first if job.mixed else None)
        if job.mixed:
            sign(store.chunks, first)
        job = job._replace(first=first)
        return RayExecutor(ray, job, store, share, slots, is_own=is_own), store
    except BaseException:
        if is_own:
            ray.shutdown()
        raise


def _ray() -> tuple[Any, bool]:
    """Return the module `ray`, connected to a cluster, and whether this call connected it."""
    # Ray reads both when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            'exec.engine = "ray" needs Ray, which is not installed: pip install "nanlab[ray]"'
        ) from error
    if ray.is_initialized():
        return ray, False
    try:
        with warnings.catch_warnings():
            # Ray starts its servers by fork and exec, and JAX warns about any fork.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ClusterError(f"cannot connect to a Ray cluster: {first}") from error
    return ray, True


def _share(resources: Mapping[str, float], devices: int) -> tuple[dict[str, Any], int]:
    """Return the options of a worker, accelerators or else cores, and how many workers fit."""
    on_gpu = resources.get("GPU", 0) > 0 and os.environ.get("JAX_PLATFORMS", "") != "cpu"
    kind, there = ("num_gpus", "GPU") if on_gpu else ("num_cpus", "CPU")
    have = int(resources.get(there, 0))
    if have < devices:
        raise ClusterError(
            f"exec.devices = {devices}: each worker needs this many, and the Ray cluster has "
            f"{have} of kind {there}"
        )
    # Ray reuses the processes of equal environments, and JAX cannot change its number of devices.
    apart = {"env_vars": {"NANLAB_DEVICES": str(devices)}}
    return {kind: devices, "runtime_env": apart}, have // devices


class RayExecutor:
    """Runs chunks on a Ray cluster.

    Args:
        ray: the module `ray`, connected.
        job: data that the tasks share.
        store: the store of the results.
        share: Ray's options of a worker: resources and environment.
        slots: number of workers that fit.
        is_own: whether to shut the cluster down when the study ends.
    """

    def __init__(
        self, ray: Any, job: Job, store: Store, share: dict[str, Any], slots: int, *,
        is_own: bool,
    ) -> None:  # fmt: skip
        self._ray, self._job, self._store = ray, job, store
        self._is_own, self._ahead = is_own, 2 * slots
        # Ray's own retries would be silent, and endless if memory is too small. By default
        # (max_calls) a worker on a GPU would end after each task, and compile again.
        remote = ray.remote(max_retries=0, max_calls=0, **share)
        self._run_there, self._check_there = remote(run_there), remote(cross_check_there)
        assert job.first is not None
        self.environment = job.first

    def cut(
        self, plan: Plan, pending: Bool[np.ndarray, " runs"], chunk_runs: int | None
    ) -> list[Piece]:
        """Cut the pending runs into chunks that do not depend on the machines."""
        return cut(plan, pending, chunk_runs=chunk_runs)

    def run(
        self, plan: Plan, pieces: Sequence[Piece], begin: Callable[[Piece], None]
    ) -> Iterator[Done | Crash]:
        """Run chunks of a plan, with a few more tasks at a time than workers."""
        waiting, submitted = iter(pieces), dict[Any, tuple[Piece, int]]()

        def send(piece: Piece, tries: int) -> None:
            chunk = chunk_of(plan, plan.groups[piece.group], piece.runs, piece.largest)
            submitted[self._run_there.remote(self._job, chunk)] = (piece, tries)

        try:
            while True:
                for piece in islice(waiting, self._ahead - len(submitted)):
                    begin(piece)
                    send(piece, 1)
                if not submitted:
                    return
                (ready, *_), _ = self._ray.wait(list(submitted), num_returns=1)
                piece, tries = submitted.pop(ready)
                report = self._report(ready, piece)
                if isinstance(report, Crash) and report.is_lost and tries < MAX_RETRIES:
                    send(piece, tries + 1)
                else:
                    yield report
        finally:
            for task in submitted:
                self._ray.cancel(task, force=True)

    def _report(self, ready: Any, piece: Piece) -> Done | Crash:
        """Return the report of a finished task, once its file is visible here."""
        runs = len(piece.runs)
        try:
            report = _result(self._ray, ready, _less(piece.largest, self._job.devices))
        except LostError as error:
            return Crash(runs, str(error), str(error), is_lost=True)
        if isinstance(report, Done) and not self._arrives(report):
            sentence = f"{report.name}, written by a worker, is not visible in the folder here"
            return Crash(runs, sentence, sentence, is_lost=True)
        return report

    def _arrives(self, done: Done) -> bool:
        until = time.monotonic() + ARRIVAL_S
        while not is_intact(self._store.chunks / done.name):
            if time.monotonic() > until:
                return False
            time.sleep(0.5)
        return True

    def cross_check(self, chunk: Chunk) -> list[Testimony]:
        """Return the witnesses' answers about failing runs, found on the cluster."""
        devices = self._job.devices
        return _resilient(
            self._ray, self._check_there, self._job, chunk, runs=chunk.largest, devices=devices
        )

    def close(self) -> None:
        """Disconnect, which shuts down a cluster that was started here."""
        if self._is_own:
            self._ray.shutdown()


class LostError(Exception):
    """A task's worker died."""


def _less(runs: int, devices: int) -> str:
    """Return what to do if a launch of these runs ran out of a machine's memory."""
    # Only the worker knows its block width; that of a group that fills the memory is the narrowest.
    smallest = NARROWEST * devices
    half = launch_lanes(runs, block=NARROWEST, devices=devices) // 2
    # Other workers share the machine, so the smallest launch may still fit.
    less = way_out(half, smallest=smallest) if half >= smallest else "make the model smaller"
    return f"{less}, or give a worker more of its machine (--set exec.devices={2 * devices})"


def _result(ray: Any, task: Any, less: str) -> Any:
    """Wait for a task.

    Args:
        ray: the module `ray`.
        task: reference of the task.
        less: what to do if it ran out of memory.

    Returns:
        What the task returned.

    Raises:
        LostError: its worker died.
        ClusterError: it could not start, for example because user-defined code is missing.
        MemoryError: Ray killed its worker, because the machine ran out of memory.
    """
    try:
        value = ray.get(task)
    except ray.exceptions.OutOfMemoryError as error:
        raise MemoryError(
            f"a worker ran out of its machine's memory, and Ray killed it; {less}"
        ) from error
    except ray.exceptions.RayTaskError as error:
        first = (str(error.cause).splitlines() or [""])[0]
        raise ClusterError(
            f"a worker cannot start: {type(error.cause).__name__}: {first}"
        ) from error
    except ray.exceptions.RayError as error:
        first = (str(error).splitlines() or [""])[0]
        sentence = f"a worker died: {type(error).__name__}: {first}"
        if isinstance(error, ray.exceptions.WorkerCrashedError):
            # The system kills a process that is out of memory without a message.
            sentence += f"; most likely its machine ran out of memory: {less}"
        raise LostError(sentence) from error
    if isinstance(value, Failed):
        kinds = {"memory": MemoryError, "devices": DevicesError, "store": StoreError}
        raise kinds[value.kind](value.sentence)
    return value


def _resilient(ray: Any, function: Any, *arguments: Any, devices: int, runs: int = 1) -> Any:
    """Run a task of `runs` runs, and retry if its worker dies."""
    less = _less(runs, devices)
    for tries in range(1, MAX_RETRIES + 1):
        try:
            return _result(ray, function.remote(*arguments), less)
        except LostError as error:
            if tries == MAX_RETRIES:
                raise ClusterError(f"{MAX_RETRIES} times in a row, {error}") from error
    raise AssertionError("unreachable")
