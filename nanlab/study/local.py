"""Chunks -> this process's devices: a few groups at once, so that one compiles as another runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Any

import numpy as np

from nanlab.plan.plan import Plan
from nanlab.results.manifest import Testimony
from nanlab.study.chunk_runner import ChunkRunner
from nanlab.study.chunks import Chunk, Crash, Done, Piece, chunk_of

AT_ONCE = 2
"""How many groups are at work at once. Tracing and compiling keep one core busy; with small groups
they are most of the work. A group's chunks follow each other in one thread, so that its program is
compiled once; and a run's bits depend on no other."""

_Told = Piece | Done | Crash | BaseException | None


class LocalExecutor:
    """Runs chunks in this process.

    Args:
        bench: that does the work.
        environment: of this process.
    """

    def __init__(self, bench: ChunkRunner, environment: dict[str, Any]) -> None:
        self._bench, self.environment = bench, environment

    def cut(self, plan: Plan, asked: np.ndarray, chunk_runs: int | None) -> list[Piece]:
        """The runs that are asked for as chunks."""
        return self._bench.cut(plan, asked, chunk_runs)

    def run(
        self, plan: Plan, pieces: Sequence[Piece], begin: Callable[[Piece], None]
    ) -> Iterator[Done | Crash]:
        """Run chunks of a plan; what came of each, as it is done."""
        groups: dict[int, list[Piece]] = {}
        for piece in pieces:
            groups.setdefault(piece.group, []).append(piece)
        told, stop = SimpleQueue[_Told](), Event()
        with ThreadPoolExecutor(AT_ONCE, "nanlab-group") as pool:
            for group in groups.values():
                pool.submit(self._run_group, plan, group, told, stop)
            left = len(groups)
            try:
                while left:
                    each = told.get()
                    if each is None:
                        left -= 1
                    elif isinstance(each, Piece):
                        begin(each)
                    elif isinstance(each, BaseException):
                        raise each
                    else:
                        yield each
            finally:
                # Whoever asked has an error, or wants no more: what has not begun does not begin.
                stop.set()

    def _run_group(
        self, plan: Plan, pieces: Sequence[Piece], told: SimpleQueue[_Told], stop: Event
    ) -> None:
        try:
            for piece in pieces:
                if stop.is_set():
                    break
                told.put(piece)
                chunk = chunk_of(plan, plan.groups[piece.group], piece.runs, piece.largest)
                told.put(self._bench.run(chunk))
        except BaseException as error:
            stop.set()
            told.put(error)
        finally:
            told.put(None)

    def ask(self, chunk: Chunk) -> list[Testimony]:
        """What the witnesses say of failing runs."""
        return self._bench.ask(chunk)

    def close(self) -> None:
        """Nothing is held but memory."""
