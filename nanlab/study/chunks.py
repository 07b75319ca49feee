"""Plan -> chunks: the runs that are launched together, and what is told of them afterwards.

A chunk is a task that may be done twice: it says all that is asked of its runs, and what comes of
it is a file whose name and bytes depend on nothing else.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nanlab.grid.parameter_types import ParameterValue
from nanlab.plan import plan as plans
from nanlab.plan.plan import Group, Plan

CHUNK_RUNS = 1024
"""About how many runs a chunk has where nobody says, and machines of any kind share a study."""

WORTH_COMPILING = 8
"""A round of a search that would take more launches of a held program is worth a wider one."""


class Piece(NamedTuple):
    """Which runs of a plan make a chunk.

    Attributes:
        group: the number of their group in the plan.
        runs: their places in the plan.
        largest: how many runs the largest chunk of their group has: all of them are launched
            with room for so many, so that a group is compiled once.
    """

    group: int
    runs: np.ndarray
    largest: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Runs of one group, and all that is asked of them; small, and sent to wherever they run.

    Attributes:
        group_id, statics: of their group.
        run_ids: (runs,).
        columns: as a plan has them; of one value where all the runs share it.
        largest: as a Piece has it.
    """

    group_id: str
    statics: Mapping[str, ParameterValue]
    run_ids: np.ndarray
    columns: Mapping[str, np.ndarray]
    largest: int

    @property
    def plan(self) -> Plan:
        """These runs as a plan of one group."""
        count = len(self.run_ids)
        group = Group(group_id=self.group_id, statics=self.statics, runs=np.arange(count))
        columns = {name: np.broadcast_to(held, count) if len(held) == 1 else held
                   for name, held in self.columns.items()}  # fmt: skip
        return Plan(columns=columns, run_ids=self.run_ids, groups=(group,))


def chunk_of(plan: Plan, group: Group, runs: np.ndarray, largest: int | None = None) -> Chunk:
    """Some runs of a group as a chunk."""

    def some(column: np.ndarray) -> np.ndarray:
        return column[runs] if any(column.strides) else column[:1].copy()

    return Chunk(
        group_id=group.group_id,
        statics=group.statics,
        run_ids=plan.run_ids[runs],
        columns={name: some(column) for name, column in plan.columns.items()},
        largest=len(runs) if largest is None else largest,
    )


def cut(
    plan: Plan,
    asked: np.ndarray,
    *,
    chunk_runs: int | None,
    unit: int = 1,
    held: Mapping[str, int] | None = None,
) -> list[Piece]:
    """The runs that are asked for, as chunks, group by group.

    Where several machines share a study, `unit` is left out: the chunks must not depend on who
    runs them.

    Args:
        plan: what is asked.
        asked: (runs,) bool.
        chunk_runs, unit: as `plan.chunks` has them; None for CHUNK_RUNS.
        held: how many lanes a launch of a group has whose program is held; another number would
            be another program, which only a few times as many runs are worth.
    """
    pieces: list[Piece] = []
    for number, group in enumerate(plan.groups):
        runs = group.runs[asked[group.runs]]
        most = chunk_runs or CHUNK_RUNS
        lanes = (held or {}).get(group.group_id)
        if lanes and min(len(runs), most) > WORTH_COMPILING * lanes:
            lanes = None
        parts = plans.chunks(len(runs), chunk_runs=lanes or most, unit=1 if lanes else unit)
        largest = lanes or max((part.stop - part.start for part in parts), default=0)
        pieces += [Piece(number, runs[part], largest) for part in parts]
    return pieces


class Done(NamedTuple):
    """A chunk that is run and kept.

    Attributes:
        runs, failed: how many there are, and how many of them failed.
        name, sha256: of the file that holds their rows, among the store's chunks.
        seconds: what it took.
    """

    runs: int
    failed: int
    name: str
    sha256: str
    seconds: float


class Crash(NamedTuple):
    """A chunk that the software failed; its runs are rows of the tables, and the rest goes on.

    Attributes:
        runs: how many there are.
        error: what was raised, in one line.
        trace: the whole traceback.
        is_lost: whether it was not the chunk that raised, but its worker that died.
    """

    runs: int
    error: str
    trace: str
    is_lost: bool = False


def crash_of(runs: int, error: BaseException) -> Crash:
    """What is told of a chunk that raised this."""
    first = (str(error).splitlines() or [""])[0]
    trace = "".join(traceback.format_exception(error))
    return Crash(runs, f"{type(error).__name__}: {first}", trace)
