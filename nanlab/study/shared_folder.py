"""Plan -> shards: machines that share nothing but a folder, and know nothing of each other.

The folder holds what is asked. How it is cut into chunks depends on that alone, and a shard is a
stretch of them: so two shards never run the same chunk, and none is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nanlab.plan.plan import Plan
from nanlab.results.environments import FIRST, check_alike, first_environment
from nanlab.results.files import write_atomically
from nanlab.results.manifest import Testimony
from nanlab.results.store import CHUNKS, PLAN, Store, chunk_name, writing
from nanlab.study.chunk_runner import ChunkRunner
from nanlab.study.chunks import Chunk, Crash, Done, Piece, chunk_of, cut

MAX_ATTEMPTS = 3
"""How often a chunk is begun at which its worker dies."""


class Unfinished(Exception):
    """Chunks are missing that other processes have to run.

    Attributes:
        chunks, runs: how many.
    """

    def __init__(self, chunks: int, runs: int) -> None:
        super().__init__(f"{chunks:,} chunks with {runs:,} runs are missing")
        self.chunks, self.runs = chunks, runs


def prepare(folder: Path, resolved: str) -> bool:
    """Leave word of what is asked for the workers; whether that is news.

    Args:
        folder: of the results.
        resolved: what is asked, as TOML.
    """
    path = folder / CHUNKS / PLAN
    if path.is_file() and path.read_text(encoding="utf-8") == resolved:
        return False
    with writing(path):
        # Who comes first decides anew on which kind of device the study is computed.
        (folder / CHUNKS / FIRST).unlink(missing_ok=True)
        write_atomically(path, lambda p: p.write_text(resolved, encoding="utf-8"))
    return True


def pieces_of(plan: Plan, chunk_runs: int | None) -> list[Piece]:
    """All chunks of a study, whatever is done of it already."""
    return cut(plan, np.ones(len(plan), bool), chunk_runs=chunk_runs)


def share(pieces: Sequence[Piece], number: int, of: int) -> Sequence[Piece]:
    """The chunks of a shard, as many as any other's or one more.

    They stand one after another, and so do those of a group: a worker compiles few groups. With
    every n-th chunk for it, each worker would compile them all.

    Args:
        pieces: all chunks of a study.
        number, of: which shard it is, from 0, of how many.
    """
    return pieces[len(pieces) * number // of : len(pieces) * (number + 1) // of]


def crash_path(folder: Path, run_ids: Sequence[str]) -> Path:
    """Where it is told that the chunk of these runs crashed."""
    return folder / CHUNKS / f"crash-{chunk_name(run_ids)}.json"


def work(
    plan: Plan, pieces: Sequence[Piece], done: np.ndarray, bench: ChunkRunner, store: Store
) -> Iterator[tuple[Piece, Callable[[], Done | Crash]]]:
    """A worker's chunks, each with what runs and keeps it.

    Args:
        plan: what is asked.
        pieces: the chunks of this worker's shard.
        done: (runs,) bool, what is kept already.
        bench, store: that run and keep them.
    """
    for piece in pieces:
        missing = piece.runs[~done[piece.runs]]
        if not len(missing):
            continue
        chunk = chunk_of(plan, plan.groups[piece.group], missing, piece.largest)
        yield piece._replace(runs=missing), lambda chunk=chunk: _run(chunk, bench, store)


def _run(chunk: Chunk, bench: ChunkRunner, store: Store) -> Done | Crash:
    run_ids = chunk.run_ids.tolist()
    path = crash_path(store.folder, run_ids)
    if (told := _told(path)) is not None and told.is_lost:
        # It would kill this worker too, and what comes after it would never run.
        return told
    stem = f"begun-{chunk_name(run_ids)}"
    notes = [store.chunks / f"{stem}-{tries + 1}" for tries in range(MAX_ATTEMPTS)]
    if _begins(notes):
        try:
            report = bench.run(chunk)
        finally:
            forget_tries()
    else:
        report = _lost(len(run_ids), path)
    with writing(path):
        if isinstance(report, Crash):
            text = json.dumps({"run_ids": run_ids, **report._asdict()})
            write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
        else:
            path.unlink(missing_ok=True)
        for note in notes:
            note.unlink(missing_ok=True)
    return report


def _lost(runs: int, path: Path) -> Crash:
    """What is told of a chunk that kills whoever runs it."""
    sentence = (
        f"its worker died {MAX_ATTEMPTS} times in a row, most likely out of memory. Lower "
        "exec.chunk_runs or check the worker's log. To run it again, delete "
        f"{path} or start over with --force"
    )
    return Crash(runs, sentence, sentence, is_lost=True)


def _told(path: Path) -> Crash | None:
    """What is told of a chunk that crashed, if it did."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Crash(told["runs"], told["error"], told["trace"], told["is_lost"])


_NOTES = set[Path]()
"""Of the tries that this process has begun and not ended."""


def _begins(notes: Sequence[Path]) -> bool:
    """Leave a note of a try, which stays only if this process dies; False if all are there.

    A note is an empty file, made by who finds none, so it is there as a whole or not at all, and
    of two workers at the same chunk each has its own.
    """
    for note in notes:
        with writing(note), suppress(FileExistsError):
            note.touch(exist_ok=False)
            _NOTES.add(note)
            return True
    return False


def forget_tries() -> None:
    """This process is not killed by its chunk, whatever else ends it: its try does not count."""
    for note in list(_NOTES):
        with suppress(OSError):  # then it counts, and no more comes of it
            note.unlink()
        _NOTES.discard(note)


class SharedFolderExecutor:
    """Runs nothing: gathers what workers have left in the folder.

    Args:
        bench: of this process, for the witnesses.
        environment: of this process.
        folder: of the results.
        mixed: whether other kinds of machines may take part.
    """

    def __init__(
        self, bench: ChunkRunner, environment: dict[str, Any], folder: Path, *, mixed: bool
    ) -> None:
        self._bench, self.environment, self._folder = bench, environment, folder
        self._mixed = mixed

    def cut(self, plan: Plan, asked: np.ndarray, chunk_runs: int | None) -> list[Piece]:
        """The chunks of which something is missing, with what is missing of them."""
        left = (p._replace(runs=p.runs[asked[p.runs]]) for p in pieces_of(plan, chunk_runs))
        return [piece for piece in left if len(piece.runs)]

    def run(
        self, plan: Plan, pieces: Sequence[Piece], begin: Callable[[Piece], None]
    ) -> Iterator[Crash]:
        """Those of the missing chunks that crashed.

        Raises:
            DevicesError: some are missing, and this machine would not see those of the workers.
            Unfinished: some are missing otherwise.
        """
        crashes, missing = list[Crash](), list[int]()
        for piece in pieces:
            told = _told(crash_path(self._folder, plan.run_ids[piece.runs].tolist()))
            if told is None:
                missing.append(len(piece.runs))
            else:
                crashes.append(told)
        if missing:
            # A machine of another kind than the workers' sees none of their chunks.
            first = first_environment(self._folder / CHUNKS)
            if first is not None:
                check_alike(first, self.environment, mixed=self._mixed)
            raise Unfinished(len(missing), sum(missing))
        yield from crashes

    def ask(self, chunk: Chunk) -> list[Testimony]:
        """What the witnesses say of failing runs, in this process."""
        return self._bench.ask(chunk)

    def close(self) -> None:
        """Nothing is held but memory."""
