"""Chunks -> a Ray cluster: each a task that a worker process runs, keeps, and may run again.

Ray carries what is asked of a chunk there, and the name and hash of its file back; the rows
themselves go through the study's folder, which all machines see.
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

from nanlab.engine.block_width import NARROWEST, launch_lanes
from nanlab.engine.memory import way_out
from nanlab.grid import Exec
from nanlab.plan.plan import Plan
from nanlab.results.environments import DevicesError, sign
from nanlab.results.manifest import Testimony
from nanlab.results.provenance import file_hash, fingerprint
from nanlab.results.store import Store, StoreError
from nanlab.study.chunks import Chunk, Crash, Done, Piece, chunk_of, cut
from nanlab.study.ray_worker import Failed, Job, ask_there, environment_there, run_there

MAX_RETRIES = 3
"""How often a chunk is run whose worker dies."""

ARRIVAL_S = 30.0
"""How long a file that a worker has written may take to be seen here, on a shared file system."""


class ClusterError(Exception):
    """There is no Ray, or no cluster; the message is a sentence for a person."""


def ray_executor(folder: Path, own: set[str], how: Exec) -> tuple[RayExecutor, Store]:
    """An engine on the cluster that RAY_ADDRESS names, or that runs here, or on a new one here.

    Args:
        folder: of the results.
        own: what the plan calls a person's own code.
        how: [exec].

    Raises:
        ClusterError: there is no Ray, or no cluster.
        StoreError: the folder cannot be written to.
    """
    ray, is_mine = _ray()
    try:
        share, slots = _share(ray.cluster_resources(), how.devices or 1)
        job = Job(
            folder=str(folder.resolve()), here=str(Path.cwd()), own=tuple(sorted(own)),
            devices=how.devices or 1, curves=how.curves, mixed=how.mixed_devices,
            begun=uuid4().hex, first=None,
        )  # fmt: skip
        made = _resilient(
            ray, ray.remote(max_retries=0, max_calls=0, **share)(environment_there), job,
            devices=job.devices,
        )  # fmt: skip
        store = Store(folder, fingerprint(made), mixed=made if how.mixed_devices else None)
        if how.mixed_devices:
            sign(store.chunks, made)
        return RayExecutor(
            ray, job._replace(first=made), store, share, slots, is_mine=is_mine
        ), store
    except BaseException:
        if is_mine:
            ray.shutdown()
        raise


def _ray() -> tuple[Any, bool]:
    """The module, connected to a cluster; and whether that was done here."""
    # Both are read when Ray is imported.
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
            # Ray starts its servers by fork and exec; JAX warns of any fork of a process of its.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ClusterError(f"there is no Ray cluster to work on: {first}") from error
    return ray, True


def _share(resources: Mapping[str, float], devices: int) -> tuple[dict[str, int], int]:
    """What a worker asks for, and how many workers have room: accelerators, else cores."""
    on_gpu = resources.get("GPU", 0) > 0 and os.environ.get("JAX_PLATFORMS", "") != "cpu"
    kind, there = ("num_gpus", "GPU") if on_gpu else ("num_cpus", "CPU")
    have = int(resources.get(there, 0))
    if have < devices:
        raise ClusterError(
            f"exec.devices = {devices}: the Ray cluster has {have} of kind {there}, and a worker "
            "takes so many at a time"
        )
    return {kind: devices}, have // devices


class RayExecutor:
    """Runs chunks on a Ray cluster.

    Args:
        ray: the module, connected.
        job: what the tasks share.
        store: of the results.
        share: what of the cluster's resources a worker asks for.
        slots: how many workers have room.
        is_mine: whether to leave the cluster when the study ends.
    """

    def __init__(
        self, ray: Any, job: Job, store: Store, share: dict[str, int], slots: int, *,
        is_mine: bool,
    ) -> None:  # fmt: skip
        self._ray, self._job, self._store = ray, job, store
        self._is_mine, self._ahead = is_mine, 2 * slots
        # Ray's own retries would be silent, and endless where the memory is too small.
        # max_calls: a worker on a GPU would end after each task, and compile again.
        remote = ray.remote(max_retries=0, max_calls=0, **share)
        self._run_there, self._ask_there = remote(run_there), remote(ask_there)
        assert job.first is not None
        self.environment = job.first

    def cut(self, plan: Plan, asked: np.ndarray, chunk_runs: int | None) -> list[Piece]:
        """The runs that are asked for as chunks, the same whoever runs them."""
        return cut(plan, asked, chunk_runs=chunk_runs)

    def run(
        self, plan: Plan, pieces: Sequence[Piece], begin: Callable[[Piece], None]
    ) -> Iterator[Done | Crash]:
        """Run chunks of a plan on the cluster, a few more at a time than it has workers.

        Raises:
            MemoryError: a launch does not fit, with what does.
            DevicesError: a worker's device is of another kind.
            StoreError: a worker could not write.
        """
        waiting, flying = iter(pieces), dict[Any, tuple[Piece, int]]()

        def send(piece: Piece, tries: int) -> None:
            chunk = chunk_of(plan, plan.groups[piece.group], piece.runs, piece.largest)
            flying[self._run_there.remote(self._job, chunk)] = (piece, tries)

        try:
            while True:
                for piece in islice(waiting, self._ahead - len(flying)):
                    begin(piece)
                    send(piece, 1)
                if not flying:
                    return
                (ready, *_), _ = self._ray.wait(list(flying), num_returns=1)
                piece, tries = flying.pop(ready)
                report = self._report(ready, piece)
                if isinstance(report, Crash) and report.is_lost and tries < MAX_RETRIES:
                    send(piece, tries + 1)
                else:
                    yield report
        finally:
            for left in flying:
                self._ray.cancel(left, force=True)

    def _report(self, ready: Any, piece: Piece) -> Done | Crash:
        """What came of a task, once its file is seen here too."""
        runs = len(piece.runs)
        try:
            report = _landed(self._ray, ready, _less(piece.largest, self._job.devices))
        except LostError as error:
            return Crash(runs, str(error), str(error), is_lost=True)
        if isinstance(report, Done) and not self._arrives(report):
            sentence = f"{report.name}, written by a worker, is not to be seen in the folder here"
            return Crash(runs, sentence, sentence, is_lost=True)
        return report

    def _arrives(self, done: Done) -> bool:
        path, until = self._store.chunks / done.name, time.monotonic() + ARRIVAL_S
        while not (path.is_file() and file_hash(path) == done.sha256):
            if time.monotonic() > until:
                return False
            time.sleep(0.5)
        return True

    def ask(self, chunk: Chunk) -> list[Testimony]:
        """What the witnesses say of failing runs, on the cluster."""
        devices = self._job.devices
        return _resilient(
            self._ray, self._ask_there, self._job, chunk, runs=chunk.largest, devices=devices
        )

    def close(self) -> None:
        """Leave the cluster; one that was begun here ends."""
        if self._is_mine:
            self._ray.shutdown()


class LostError(Exception):
    """A task ended with its worker."""


def _less(runs: int, devices: int) -> str:
    """What to do where a launch of so many runs used up a machine's memory.

    How many lanes one has at least only the worker knows. A group that fills the memory has large
    lanes, and so the narrowest blocks.
    """
    smallest = NARROWEST * devices
    half = launch_lanes(runs, block=NARROWEST, devices=devices) // 2
    # Other workers share the machine, so the smallest launch may fit yet.
    less = way_out(half, smallest=smallest) if half >= smallest else "make the model smaller"
    return f"{less}, or give a worker more of its machine (--set exec.devices={2 * devices})"


def _landed(ray: Any, ref: Any, less: str) -> Any:
    """What a task returned; `less` is what to do where the memory was used up.

    Raises:
        LostError: its worker died.
        ClusterError: it could not begin, because a person's own code is not there, say.
        MemoryError: Ray ended its worker, because the machine's memory was used up.
    """
    try:
        value = ray.get(ref)
    except ray.exceptions.OutOfMemoryError as error:
        raise MemoryError(
            f"a worker used up its machine's memory, and Ray ended it; {less}"
        ) from error
    except ray.exceptions.RayTaskError as error:
        first = (str(error.cause).splitlines() or [""])[0]
        raise ClusterError(
            f"a worker cannot begin: {type(error.cause).__name__}: {first}"
        ) from error
    except ray.exceptions.RayError as error:
        first = (str(error).splitlines() or [""])[0]
        sentence = f"a worker died: {type(error).__name__}: {first}"
        if isinstance(error, ray.exceptions.WorkerCrashedError):
            # The system ends a process, without a word, whose memory is used up.
            sentence += f"; most likely its machine's memory was used up: {less}"
        raise LostError(sentence) from error
    if isinstance(value, Failed):
        kinds = {"memory": MemoryError, "devices": DevicesError, "store": StoreError}
        raise kinds[value.kind](value.sentence)
    return value


def _resilient(ray: Any, function: Any, *arguments: Any, devices: int, runs: int = 1) -> Any:
    """What a task returns, begun again where its worker dies; `runs` is how many it launches."""
    less = _less(runs, devices)
    for tries in range(1, MAX_RETRIES + 1):
        try:
            return _landed(ray, function.remote(*arguments), less)
        except LostError as error:
            if tries == MAX_RETRIES:
                raise ClusterError(f"{MAX_RETRIES} times one after another {error}") from error
    raise AssertionError("it has returned or raised")
