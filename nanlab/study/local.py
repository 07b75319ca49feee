"""Runs chunks in this process, two groups at a time: one compiles while the other runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Any

import numpy as np
from jaxtyping import Bool

from nanlab.plan.plan import Plan
from nanlab.results.manifest import Testimony
from nanlab.study.chunk_runner import ChunkRunner
from nanlab.study.chunks import Chunk, Crash, Done, Piece, chunk_of

AT_ONCE = 2
"""Groups that run concurrently. Tracing and compiling keep one core busy, and are most of the work
of small groups. One thread runs all chunks of a group, so that its program is compiled once; a
run's bits do not depend on what else runs."""

_Event = Piece | Done | Crash | BaseException | None


class LocalExecutor:
    """Runs chunks in this process.

    Args:
        runner: runs each chunk.
        environment: the environment of this process.
    """

    def __init__(self, runner: ChunkRunner, environment: dict[str, Any]) -> None:
        self._runner, self.environment = runner, environment

    def cut(
        self, plan: Plan, pending: Bool[np.ndarray, " runs"], chunk_runs: int | None
    ) -> list[Piece]:
        """Cut the pending runs into chunks."""
        return self._runner.cut(plan, pending, chunk_runs)

    def run(
        self, plan: Plan, pieces: Sequence[Piece], begin: Callable[[Piece], None]
    ) -> Iterator[Done | Crash]:
        """Run chunks of a plan, and yield a report of each as it is done."""
        groups: dict[int, list[Piece]] = {}
        for piece in pieces:
            groups.setdefault(piece.group, []).append(piece)
        events, stop = SimpleQueue[_Event](), Event()
        with ThreadPoolExecutor(AT_ONCE, "nanlab-group") as pool:
            for group in groups.values():
                pool.submit(self._run_group, plan, group, events, stop)
            left = len(groups)
            try:
                while left:
                    event = events.get()
                    if event is None:
                        left -= 1
                    elif isinstance(event, Piece):
                        begin(event)
                    elif isinstance(event, BaseException):
                        raise event
                    else:
                        yield event
            finally:
                # After an error, or when the caller closes the iterator, start no more chunks.
                stop.set()

    def _run_group(
        self, plan: Plan, pieces: Sequence[Piece], events: SimpleQueue[_Event], stop: Event
    ) -> None:
        try:
            for piece in pieces:
                if stop.is_set():
                    break
                events.put(piece)
                chunk = chunk_of(plan, plan.groups[piece.group], piece.runs, piece.largest)
                events.put(self._runner.run(chunk))
        except BaseException as error:
            stop.set()
            events.put(error)
        finally:
            events.put(None)

    def cross_check(self, chunk: Chunk) -> list[Testimony]:
        """Return the witnesses' answers about failing runs."""
        return self._runner.cross_check(chunk)

    def close(self) -> None:
        """Do nothing: only memory is in use."""
