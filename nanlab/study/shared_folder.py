"""Shards of a study for machines that share nothing but a folder.

The folder holds the resolved grid. The chunks are a function of the grid alone, and a shard is a
range of them, so every chunk is in exactly one shard.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from nanlab.plan.plan import Plan
from nanlab.results.environments import FIRST, check_alike, first_environment
from nanlab.results.errors import ReportError, writing
from nanlab.results.files import remove, sealed, unsealed, write_text
from nanlab.results.manifest import Testimony
from nanlab.results.store import CHUNKS, PLAN, Store, chunk_name, prepared_grid, sealed_grid
from nanlab.study.chunk_runner import ChunkRunner
from nanlab.study.chunks import Chunk, Crash, Done, Piece, chunk_of, cut

MAX_ATTEMPTS = 3
"""Attempts to run a chunk that kills its worker."""


class Unfinished(Exception):
    """Chunks are missing that workers have to run."""


def prepare(folder: Path, resolved: str) -> bool:
    """Write the resolved grid for workers; return whether it is new or has changed."""
    path = folder / CHUNKS / PLAN
    with suppress(ReportError):
        if prepared_grid(folder) == resolved:
            return False
    with writing(path):
        # The next machine to join determines the kind of device again.
        (folder / CHUNKS / FIRST).unlink(missing_ok=True)
        write_text(path, sealed_grid(resolved))
    return True


def pieces_of(plan: Plan, chunk_runs: int | None) -> list[Piece]:
    """Return all chunks of a study, done or not."""
    return cut(plan, np.ones(len(plan), bool), chunk_runs=chunk_runs)


def share(pieces: Sequence[Piece], number: int, of: int) -> Sequence[Piece]:
    """Return the chunks of shard `number` of `of`, as many as any other has, or one more."""
    # Contiguous, as the chunks of a group are, so that a worker compiles few groups; round-robin
    # shards would make every worker compile them all.
    return pieces[len(pieces) * number // of : len(pieces) * (number + 1) // of]


def instructions(folder: Path, plan: Plan, chunk_runs: int | None) -> str:
    """Return how to run the workers of a prepared study."""
    chunks = len(pieces_of(plan, chunk_runs))
    return (
        f"{folder} is prepared: {len(plan):,} runs in {chunks:,} chunks. To run them, start n of\n"
        f"  python -m nanlab.worker {shlex.quote(str(folder))} --shard i/n\n"
        "for i = 0..n-1, on as many machines, then rerun this command to collect the tables"
    )


def crash_path(folder: Path, run_ids: Sequence[str]) -> Path:
    """Return the path of the report that the chunk of these runs crashed."""
    return folder / CHUNKS / f"crash-{chunk_name(run_ids)}.json"


def work(
    plan: Plan,
    pieces: Sequence[Piece],
    done: Bool[np.ndarray, " runs"],
    runner: ChunkRunner,
    store: Store,
) -> Iterator[tuple[Piece, Callable[[], Done | Crash]]]:
    """Yield the missing runs of each unfinished chunk, and a function that runs them."""
    for piece in pieces:
        missing = piece.runs[~done[piece.runs]]
        if not len(missing):
            continue
        chunk = chunk_of(plan, plan.groups[piece.group], missing, piece.largest)
        yield piece._replace(runs=missing), lambda chunk=chunk: _run(chunk, runner, store)


def _run(chunk: Chunk, runner: ChunkRunner, store: Store) -> Done | Crash:
    run_ids = chunk.plan.run_ids.tolist()
    path = crash_path(store.folder, run_ids)
    if (crash := _crash_at(path)) is not None and crash.is_lost:
        # It would kill this worker too, and the chunks after it would never run.
        return crash
    stem = f"begun-{chunk_name(run_ids)}"
    markers = [store.chunks / f"{stem}-{tries + 1}" for tries in range(MAX_ATTEMPTS)]
    if _mark_attempt(markers):
        try:
            report = runner.run(chunk)
        finally:
            discount_attempts()
    else:
        report = _lost(len(run_ids), path)
    with writing(path):
        if isinstance(report, Crash):
            write_text(path, json.dumps(sealed({"run_ids": run_ids, **report._asdict()})))
        else:
            markers.append(path)
    remove(markers)  # one that stays does no harm
    return report


def _lost(runs: int, path: Path) -> Crash:
    """Return the report of a chunk that killed all its workers."""
    sentence = (
        f"its worker died {MAX_ATTEMPTS} times in a row, most likely out of memory. Lower "
        "exec.chunk_runs or check the worker's log. To retry, delete "
        f"{path} or rerun with --force"
    )
    return Crash(runs, sentence, sentence, is_lost=True)


def _crash_at(path: Path) -> Crash | None:
    """Read the report of a crash; None if there is none that can be read: the chunk is repeated."""
    try:
        report = unsealed(path.read_bytes())
        return Crash(report["runs"], report["error"], report["trace"], report["is_lost"])
    except (OSError, ValueError, KeyError):
        return None


_MARKERS = set[Path]()
"""Markers of the attempts that this process has in progress."""


def _mark_attempt(markers: Sequence[Path]) -> bool:
    """Mark an attempt; return False if all attempts are used up."""
    # A marker outlives a process that its chunk kills. It is created exclusively, so that two
    # workers of the same chunk use two markers.
    for marker in markers:
        with writing(marker), suppress(FileExistsError):
            marker.touch(exist_ok=False)
            _MARKERS.add(marker)
            return True
    return False


def discount_attempts() -> None:
    """Remove this process's markers: its chunk did not kill it."""
    for marker in list(_MARKERS):
        with suppress(OSError):  # an attempt too many is counted, which does no harm
            marker.unlink()
        _MARKERS.discard(marker)


class SharedFolderExecutor:
    """Collects the chunks that workers have stored, and runs none itself.

    Args:
        runner: runner of this process, for the witnesses.
        environment: environment of this process.
        folder: the results folder.
        mixed: whether other kinds of machines may take part.
    """

    def __init__(
        self, runner: ChunkRunner, environment: dict[str, Any], folder: Path, *, mixed: bool
    ) -> None:
        self._runner, self.environment, self._folder = runner, environment, folder
        self._mixed = mixed

    def cut(
        self, plan: Plan, pending: Bool[np.ndarray, " runs"], chunk_runs: int | None
    ) -> list[Piece]:
        """Return the incomplete chunks, each with its missing runs."""
        left = (p._replace(runs=p.runs[pending[p.runs]]) for p in pieces_of(plan, chunk_runs))
        return [piece for piece in left if len(piece.runs)]

    def run(
        self, plan: Plan, pieces: Sequence[Piece], begin: Callable[[Piece], None]
    ) -> Iterator[Crash]:
        """Yield the reports of the missing chunks that crashed.

        Raises:
            DevicesError: chunks are missing because this machine is of another kind.
            Unfinished: chunks are missing because no worker has run them.

        Yields:
            A report of each crash.
        """
        crashes, missing = list[Crash](), list[int]()
        for piece in pieces:
            crash = _crash_at(crash_path(self._folder, plan.run_ids[piece.runs].tolist()))
            if crash is None:
                missing.append(len(piece.runs))
            else:
                crashes.append(crash)
        if missing:
            # The chunks of another kind of machine are not accepted here.
            first = first_environment(self._folder / CHUNKS)
            if first is not None:
                check_alike(first, self.environment, mixed=self._mixed)
            raise Unfinished(f"{len(missing):,} chunks with {sum(missing):,} runs are missing")
        yield from crashes

    def cross_check(self, chunk: Chunk) -> list[Testimony]:
        """Return the witnesses' answers about failing runs, found in this process."""
        return self._runner.cross_check(chunk)

    def close(self) -> None:
        """Do nothing: only memory is in use."""
