"""Plan -> chunks: the runs that are launched together, and the reports about them.

A chunk is an idempotent unit of work. It carries the complete specification of its runs, and its
file's name and contents are a function of that specification alone.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from nanlab.plan import plan as plans
from nanlab.plan.plan import Group, Plan

CHUNK_RUNS = 1024
"""Approximate runs of a chunk by default, if machines of any kind share a study."""

WORTH_COMPILING = 8
"""A round of a search that needs more launches of a cached program than this gets a wider one."""


class Piece(NamedTuple):
    """The runs of a plan that form a chunk.

    Attributes:
        group: index of their group in the plan.
        runs: indices of the runs in the plan.
        largest: runs in the largest chunk of the group. All chunks of a group are launched at
            this width, so that it is compiled once.
    """

    group: int
    runs: Int[np.ndarray, " runs"]
    largest: int


class Chunk(NamedTuple):
    """Runs of one group.

    Attributes:
        plan: plan of these runs alone.
        largest: as in `Piece`.
    """

    plan: Plan
    largest: int

    @property
    def group(self) -> Group:
        """The group of the runs."""
        return self.plan.groups[0]


def chunk_of(
    plan: Plan, group: Group, runs: Int[np.ndarray, " runs"], largest: int | None = None
) -> Chunk:
    """Return some runs of a group as a chunk."""
    count = len(runs)

    def rows(column: Shaped[np.ndarray, " _"]) -> Shaped[np.ndarray, " runs"]:
        is_constant = not any(column.strides)  # and stays so, which takes no memory
        return np.broadcast_to(column[:1], count) if is_constant else column[runs]

    columns = {name: rows(column) for name, column in plan.columns.items()}
    alone = replace(group, runs=np.arange(count))
    part = Plan(columns=columns, run_ids=plan.run_ids[runs], groups=(alone,))
    return Chunk(part, count if largest is None else largest)


def cut(
    plan: Plan,
    pending: Bool[np.ndarray, " runs"],
    *,
    chunk_runs: int | None,
    unit: int = 1,
    cached: Mapping[str, int] | None = None,
) -> list[Piece]:
    """Cut the pending runs into chunks, group by group.

    If several machines share a study, leave out `unit`: the chunks must not depend on who runs
    them.

    Args:
        plan: the plan.
        pending: whether each run is to be run.
        chunk_runs: as in `plan.chunks`; None for CHUNK_RUNS.
        unit: as in `plan.chunks`.
        cached: lanes of a launch of each group whose program is cached. Another number would need
            another program, which pays only for several times as many runs.

    Returns:
        The chunks, in the order of the groups and of their runs.
    """
    pieces: list[Piece] = []
    for number, group in enumerate(plan.groups):
        runs = group.runs[pending[group.runs]]
        target = chunk_runs or CHUNK_RUNS
        lanes = (cached or {}).get(group.group_id)
        if lanes and min(len(runs), target) > WORTH_COMPILING * lanes:
            lanes = None
        parts = plans.chunks(len(runs), chunk_runs=lanes or target, unit=1 if lanes else unit)
        largest = lanes or max((part.stop - part.start for part in parts), default=0)
        pieces += [Piece(number, runs[part], largest) for part in parts]
    return pieces


class Done(NamedTuple):
    """Report of a chunk that is stored.

    Attributes:
        runs: number of runs.
        failed: number of failed runs.
        name: name of the chunk's file.
        seconds: duration.
    """

    runs: int
    failed: int
    name: str
    seconds: float


class Crash(NamedTuple):
    """Report of a chunk that crashed; its runs become rows, and the study continues.

    Attributes:
        runs: number of runs.
        error: the exception, in one line.
        trace: the complete traceback.
        is_lost: whether the worker died, rather than the chunk raising an exception.
    """

    runs: int
    error: str
    trace: str
    is_lost: bool = False


def crash_of(runs: int, error: BaseException) -> Crash:
    """Return the report of a chunk that raised this error."""
    first = (str(error).splitlines() or [""])[0]
    trace = "".join(traceback.format_exception(error))
    return Crash(runs, f"{type(error).__name__}: {first}", trace)
