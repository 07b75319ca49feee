"""[exec] -> where a study's chunks run, and the store that they are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanlab.backend.jaxpr import Device
from nanlab.grid import Grid
from nanlab.plan.plan import Plan
from nanlab.problems.build import user_specs
from nanlab.results.environments import sign
from nanlab.results.store import Store
from nanlab.study.chunk_runner import Executor, chunk_runner_on
from nanlab.study.local import LocalExecutor
from nanlab.study.shared_folder import SharedFolderExecutor


def executor_of(
    grid: Grid, plan: Plan, folder: Path, devices: Sequence[Device], name: str
) -> tuple[Executor, Store]:
    """An engine, and the store that it fills.

    Args:
        grid, plan: what is asked.
        folder: of the results.
        devices: of this process.
        name: one of ENGINES.

    Raises:
        FolderError: the folder cannot be made or written to.
        StoreError: nor can what this machine computes with.
        ClusterError: there is no Ray, or no cluster.
    """
    how, own = grid.exec, user_specs(plan)
    if name == "ray":
        from nanlab.study.ray_cluster import ray_executor

        return ray_executor(folder, own, how)
    bench, store, made = chunk_runner_on(
        folder, own, devices, curves=how.curves, mixed=how.mixed_devices
    )
    if grid.document.refinement is not None:
        # Every round of a search comes back to every group.
        bench.holds = max(bench.holds, len(plan.groups))
    if how.mixed_devices:
        sign(store.chunks, made)
    if name == "files":
        return SharedFolderExecutor(bench, made, folder, mixed=how.mixed_devices), store
    return LocalExecutor(bench, made), store
