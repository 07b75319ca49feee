"""Runs <-> places in a launch: rows of lanes picked, spread over blocks, and brought back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.engine.lanes import NEVER, Lanes, LaneState
from nanlab.grid.defaults import knob_values
from nanlab.plan.plan import Plan
from nanlab.problems.problem import Problem, State

PACKED_AFTER = (8, 2)
"""Lanes are packed after this part of the longest run's steps: an eighth, and half. Told from the
steps that this project's studies fail at, that saves a tenth of the steps of blocks of 64 lanes
(up to 0.3); four times save a hundredth more (benchmarks/README.md)."""

PACKING_MIN_STEPS = 32
"""Shorter runs are not worth a further launch."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """Lanes at the states before their failing steps, on the host.

    Attributes:
        rows: which runs of the chunk they are.
        state: leading axis lanes.
        step: int32, the number of the step that fails; -1 if the initial state does.
    """

    rows: np.ndarray
    state: State
    step: np.ndarray


def slots(count: int, *, block: int, devices: int, lanes: int) -> np.ndarray:
    """Where `count` lanes go in a launch of `lanes`: block by block, the devices in turn."""
    lane = np.arange(count)
    number, offset = lane // block, lane % block
    per_device = lanes // devices
    return (number % devices) * per_device + (number // devices) * block + offset


def packing_steps(steps: np.ndarray) -> list[int]:
    """After which steps the lanes that are still live may be packed, ascending.

    Args:
        steps: how many each run has, (runs,).
    """
    longest = int(steps.max())
    return [longest // part for part in PACKED_AFTER] if longest >= PACKING_MIN_STEPS else []


def packed(
    places: np.ndarray, live: np.ndarray, *, block: int, devices: int, lanes: int
) -> np.ndarray | None:
    """Other places, in which the live lanes fill as few blocks as they can: the others' end.

    Args:
        places: where each lane is in the launch.
        live: whether each has steps left to take, bool, in the order of `places`.
        block: lanes in a block.
        devices: how many devices share the launch.
        lanes: places in the launch.

    Returns:
        The new places in that order; None where no device would have a block less to run.
    """
    is_live = np.zeros(lanes, bool)
    is_live[places[live]] = True
    running = is_live.reshape(devices, -1, block).any(axis=2).sum(axis=1).max()
    if -(-int(live.sum()) // (block * devices)) >= running:
        return None
    moved = np.empty_like(places)
    moved[np.argsort(~live, kind="stable")] = slots(
        len(places), block=block, devices=devices, lanes=lanes
    )
    return moved


def lanes_of(plan: Plan, problem: Problem, runs: np.ndarray) -> Lanes:
    """What the plan asks of these runs, all of one group, on the host."""
    columns = plan.columns
    defaults = problem.knobs if isinstance(problem.knobs, Mapping) else {}
    knobs = {n: knob_values(columns.get(n), runs, defaults.get(n)) for n in problem.knobs}
    seed, steps = columns["seed"][runs], columns["steps"][runs]
    return Lanes(knobs, seed.astype(np.int64), steps.astype(np.int32))


def taken(tree: Any, rows: np.ndarray) -> Any:
    """Some rows of every leaf, on the host (typed keys stay JAX arrays)."""

    def take(x: Any) -> Any:
        if _jax.is_key(x):
            return x[rows]
        # Nothing is copied from an accelerator for no rows, and what is, all at once.
        return np.asarray(x)[rows] if len(rows) else np.zeros((0, *x.shape[1:]), x.dtype)

    for x in jax.tree.leaves(tree) if len(rows) else ():
        if isinstance(x, jax.Array) and not _jax.is_key(x):
            x.copy_to_host_async()
    return jax.tree.map(take, tree)


def spread(tree: Any, places: np.ndarray, total: int) -> Any:
    """Put rows in their places of a launch; the lanes between are copies that have no steps."""
    source = np.zeros(total, np.int64)
    source[places] = np.arange(len(places))
    lanes = taken(tree, source)
    if isinstance(lanes, Lanes):
        steps = np.zeros(total, np.int32)
        steps[places] = np.asarray(tree.steps)
        lanes = lanes._replace(steps=steps)
    return lanes


def fresh(state: State, step: np.ndarray) -> LaneState:
    """Lanes at these states and steps that have seen nothing yet."""
    count = len(step)
    none, zero = np.full(count, np.nan), np.zeros(count, np.int32)
    never, finite = np.full(count, NEVER, np.int32), np.zeros(count, np.int8)
    return LaneState(
        state, step.astype(np.int32), never, finite, finite, none, none, none, none, none, zero
    )  # fmt: skip


def state_on_host(trace: LaneState, places: np.ndarray) -> LaneState:
    """The summaries of the lanes in `places`, without their states."""
    return taken(trace._replace(state=None), places)


def frozen_subset(frozen: Frozen, chosen: np.ndarray) -> Frozen:
    """The lanes for which `chosen`, a bool array over them, holds."""
    rows = np.flatnonzero(chosen)
    return Frozen(rows=frozen.rows[rows], state=taken(frozen.state, rows), step=frozen.step[rows])


def joined(a: Frozen, b: Frozen) -> Frozen:
    """The lanes of both, those of `a` first."""
    state = jax.tree.map(lambda x, y: np.concatenate([x, y]), a.state, b.state)
    return Frozen(
        rows=np.concatenate([a.rows, b.rows]), state=state, step=np.concatenate([a.step, b.step])
    )
