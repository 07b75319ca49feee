"""Plan -> shards: machines that share nothing but a folder, and know nothing of each other.

The folder holds what is asked. How it is cut into chunks depends on that alone, and every n-th
chunk is a shard's: so two shards never run the same chunk, and none is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanlab.chunks import Chunk, Crash, Done, Piece, chunk_of, cut
from nanlab.chunks_bench import Bench
from nanlab.plan import Plan
from nanlab.store import CHUNKS, Store, name_of, writing
from nanlab.store_devices import FIRST
from nanlab.tables import write_atomically
from nanlab.witnesses import Testimony

PLAN = "grid.resolved.toml"
"""Among the chunks: what is asked, for the workers."""


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


def crash_path(folder: Path, run_ids: Sequence[str]) -> Path:
    """Where it is told that the chunk of these runs crashed."""
    return folder / CHUNKS / f"crash-{name_of(run_ids)}.json"


def work(
    plan: Plan, pieces: Sequence[Piece], done: np.ndarray, bench: Bench, store: Store
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


def _run(chunk: Chunk, bench: Bench, store: Store) -> Done | Crash:
    report = bench.run(chunk)
    run_ids = chunk.run_ids.tolist()
    path = crash_path(store.folder, run_ids)
    with writing(path):
        if isinstance(report, Crash):
            text = json.dumps({"run_ids": run_ids, **report._asdict()})
            write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
        else:
            path.unlink(missing_ok=True)
    return report


class ShardsEngine:
    """Runs nothing: gathers what workers have left in the folder.

    Args:
        bench: of this process, for the witnesses.
        environment: of this process.
        folder: of the results.
    """

    def __init__(self, bench: Bench, environment: dict[str, Any], folder: Path) -> None:
        self._bench, self.environment, self._folder = bench, environment, folder

    def cut(self, plan: Plan, asked: np.ndarray, chunk_runs: int | None) -> list[Piece]:
        """The chunks of which something is missing, with what is missing of them."""
        left = (p._replace(runs=p.runs[asked[p.runs]]) for p in pieces_of(plan, chunk_runs))
        return [piece for piece in left if len(piece.runs)]

    def run(
        self, plan: Plan, pieces: Sequence[Piece], begin: Callable[[Piece], None]
    ) -> Iterator[Crash]:
        """Those of the missing chunks that crashed.

        Raises:
            Unfinished: some are missing otherwise.
        """
        crashes, missing = list[Crash](), list[int]()
        for piece in pieces:
            path = crash_path(self._folder, plan.run_ids[piece.runs].tolist())
            if not path.is_file():
                missing.append(len(piece.runs))
                continue
            told = json.loads(path.read_text(encoding="utf-8"))
            crashes.append(Crash(told["runs"], told["error"], told["trace"]))
        if missing:
            raise Unfinished(len(missing), sum(missing))
        yield from crashes

    def ask(self, chunk: Chunk) -> list[Testimony]:
        """What the witnesses say of failing runs, in this process."""
        return self._bench.ask(chunk)

    def close(self) -> None:
        """Nothing is held but memory."""
