"""The tasks of a Ray worker; everything here runs in its process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from nanlab.backend.config import lab_devices
from nanlab.results.environments import DevicesError, check_alike, sign
from nanlab.results.errors import StoreError
from nanlab.results.manifest import Testimony
from nanlab.study.chunk_runner import ChunkRunner, chunk_runner_on, study_environment
from nanlab.study.chunks import Chunk, Crash, Done


class Job(NamedTuple):
    """Data that all tasks of a study share.

    Attributes:
        folder: results folder, under a path that all machines share.
        cwd: working directory of the command, which paths of user-defined code are relative to.
        user_code: the plan's references to user-defined code.
        devices: number of devices of a worker.
        curves: whether to save curves.
        mixed: whether several kinds of devices are allowed.
        study_id: random id of this start of the study; a worker caches programs of one study.
        first: environment that the study is computed in; None while unknown.
    """

    folder: str
    cwd: str
    user_code: tuple[str, ...]
    devices: int
    curves: bool
    mixed: bool
    study_id: str
    first: dict[str, Any] | None


class Failed(NamedTuple):
    """Why the whole study cannot continue.

    Attributes:
        kind: "memory", "devices" or "store".
        sentence: error message for the user.
    """

    kind: str
    sentence: str


def environment_there(job: Job) -> dict[str, Any]:
    """Return the environment of a worker."""
    _enter(job.cwd)
    return study_environment(lab_devices(job.devices), set(job.user_code))


def run_there(job: Job, chunk: Chunk) -> Done | Crash | Failed:
    """Run a chunk and save its rows."""
    try:
        return _runner(job).run(chunk)
    except MemoryError as error:
        return Failed("memory", str(error))
    except DevicesError as error:
        return Failed("devices", str(error))
    except StoreError as error:
        return Failed("store", str(error))


def cross_check_there(job: Job, chunk: Chunk) -> list[Testimony]:
    """Return the witnesses' answers about failing runs."""
    return _runner(job).cross_check(chunk)


def _enter(cwd: str) -> None:
    if os.path.isdir(cwd):
        os.chdir(cwd)


_RUNNERS: dict[str, ChunkRunner] = {}
"""The runner of this process, by `Job.study_id`, so that all chunks share compiled programs."""


def _runner(job: Job) -> ChunkRunner:
    assert job.first is not None
    if job.study_id not in _RUNNERS:
        _enter(job.cwd)
        runner, store, environment = chunk_runner_on(
            Path(job.folder), set(job.user_code), lab_devices(job.devices), curves=job.curves,
            mixed=job.mixed,
        )  # fmt: skip
        check_alike(job.first, environment, mixed=job.mixed)
        if job.mixed:
            sign(store.chunks, environment)
        _RUNNERS.clear()
        _RUNNERS[job.study_id] = runner
    return _RUNNERS[job.study_id]
