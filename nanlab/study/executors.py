"""[exec] -> the executor that runs a study's chunks, and the store of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from nanlab.backend.jaxpr import Device
from nanlab.grid import Grid
from nanlab.plan.plan import Plan
from nanlab.problems.build import user_specs
from nanlab.results.environments import sign
from nanlab.results.manifest import Testimony
from nanlab.results.store import Store
from nanlab.study.chunk_runner import chunk_runner_on
from nanlab.study.chunks import Chunk, Crash, Done, Piece
from nanlab.study.local import LocalExecutor
from nanlab.study.shared_folder import SharedFolderExecutor


@runtime_checkable
class Executor(Protocol):
    """Runs chunks somewhere."""

    @property
    def environment(self) -> dict[str, Any]:
        """The environment that computes them, as `study_environment` returns it."""
        ...

    def cut(
        self, plan: Plan, pending: Bool[np.ndarray, " runs"], chunk_runs: int | None
    ) -> list[Piece]:
        """Cut the pending runs into chunks of about `chunk_runs`; None for a suitable size."""
        ...

    def run(
        self, plan: Plan, pieces: Sequence[Piece], begin: Callable[[Piece], None]
    ) -> Iterator[Done | Crash]:
        """Run chunks of a plan, in any order, and save their rows.

        Args:
            plan: the plan.
            pieces: the chunks.
            begin: called with each chunk before it runs.

        Yields:
            A report of each chunk.

        Raises:
            MemoryError: a launch does not fit; the message says what does.
        """
        ...

    def cross_check(self, chunk: Chunk) -> list[Testimony]:
        """Return the witnesses' answers about failing runs, in their order."""
        ...

    def close(self) -> None:
        """Release what runs the chunks."""
        ...


def executor_of(
    grid: Grid, plan: Plan, folder: Path, devices: Sequence[Device], engine: str
) -> tuple[Executor, Store]:
    """Return the executor of a study, and the store that it fills."""
    options, user_code = grid.exec, user_specs(plan)
    if engine == "ray":
        from nanlab.study.ray_cluster import ray_executor

        return ray_executor(folder, user_code, options)
    runner, store, environment = chunk_runner_on(
        folder, user_code, devices, curves=options.curves, mixed=options.mixed_devices
    )
    if grid.document.refinement is not None:
        # Every round of a search returns to every group.
        runner.capacity = max(runner.capacity, len(plan.groups))
    if options.mixed_devices:
        sign(store.chunks, environment)
    if engine == "files":
        mixed = options.mixed_devices
        return SharedFolderExecutor(runner, environment, folder, mixed=mixed), store
    return LocalExecutor(runner, environment), store
