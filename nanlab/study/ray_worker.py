"""Job, chunk -> file: what a Ray worker does; everything here runs in its process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from nanlab.backend.config import lab_devices
from nanlab.results.environments import DevicesError, check_alike, sign
from nanlab.results.manifest import Testimony
from nanlab.results.store import StoreError
from nanlab.study.chunk_runner import ChunkRunner, chunk_runner_on, study_environment
from nanlab.study.chunks import Chunk, Crash, Done


class Job(NamedTuple):
    """What all tasks of a study share.

    Attributes:
        folder: of the results, as all machines call it.
        here: the folder where the command was given; a person's own files are named from there.
        own: what the plan calls a person's own code.
        devices: how many a worker uses.
        curves, mixed: as [exec] has them.
        begun: a word that no other start of a study has; programs are held for one alone.
        first: the environment that the study is computed in; None while nobody knows.
    """

    folder: str
    here: str
    own: tuple[str, ...]
    devices: int
    curves: bool
    mixed: bool
    begun: str
    first: dict[str, Any] | None


class Failed(NamedTuple):
    """Why the whole study cannot go on.

    Attributes:
        kind: "memory", "devices" or "store".
        sentence: for a person.
    """

    kind: str
    sentence: str


def environment_there(job: Job) -> dict[str, Any]:
    """What a worker computes with."""
    _enter(job.here)
    return study_environment(lab_devices(job.devices), set(job.own))


def run_there(job: Job, chunk: Chunk) -> Done | Crash | Failed:
    """Run a chunk and keep its rows."""
    try:
        return _bench(job).run(chunk)
    except MemoryError as error:
        return Failed("memory", str(error))
    except DevicesError as error:
        return Failed("devices", str(error))
    except StoreError as error:
        return Failed("store", str(error))


def ask_there(job: Job, chunk: Chunk) -> list[Testimony]:
    """What the witnesses say of failing runs."""
    return _bench(job).ask(chunk)


def _enter(here: str) -> None:
    if os.path.isdir(here):
        os.chdir(here)


_BENCHES: dict[str, ChunkRunner] = {}
"""This process's, by `Job.begun`: what is compiled serves every chunk."""


def _bench(job: Job) -> ChunkRunner:
    assert job.first is not None
    if job.begun not in _BENCHES:
        _enter(job.here)
        bench, store, made = chunk_runner_on(
            Path(job.folder), set(job.own), lab_devices(job.devices), curves=job.curves,
            mixed=job.mixed,
        )  # fmt: skip
        check_alike(job.first, made, mixed=job.mixed)
        if job.mixed:
            sign(store.chunks, made)
        _BENCHES.clear()
        _BENCHES[job.begun] = bench
    return _BENCHES[job.begun]
