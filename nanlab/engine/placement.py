"""Place runs in the lanes of a launch: spread rows over blocks, pack live lanes, take rows back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int, Int32

from nanlab.backend import jaxpr as _jax
from nanlab.engine.lanes import NEVER, Lanes, LaneState
from nanlab.grid.defaults import knob_values
from nanlab.plan.plan import Plan
from nanlab.problems.problem import Problem, State

PACKED_AFTER = (8, 2)
"""Lanes are packed after these fractions of the longest run: an eighth, and half of its steps. By
the steps at which the runs of this project's studies fail, that saves a tenth of the steps of
blocks of 64 lanes (up to 0.3); four times save a hundredth more (benchmarks/README.md)."""

PACKING_MIN_STEPS = 32
"""Shorter runs are not worth a further launch."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """Lanes at the states before their failing steps, on the host.

    Attributes:
        rows: rows of the runs in the chunk.
        state: states of the lanes.
        step: number of the step that fails; -1 if the initial state does.
    """

    rows: Int[np.ndarray, " lanes"]
    state: State
    step: Int32[np.ndarray, " lanes"]


def slots_of(count: int, *, block: int, devices: int, lanes: int) -> Int[np.ndarray, " count"]:
    """Return the slots of `count` runs in a launch of `lanes`: block by block, devices in turn."""
    index = np.arange(count)
    number, offset = index // block, index % block
    per_device = lanes // devices
    return (number % devices) * per_device + (number // devices) * block + offset


def packing_steps(steps: Int[np.ndarray, " runs"]) -> list[int]:
    """Return the steps after which the live lanes may be packed, ascending."""
    longest = int(steps.max())
    return [longest // part for part in PACKED_AFTER] if longest >= PACKING_MIN_STEPS else []


def packed(
    slots: Int[np.ndarray, " runs"],
    live: Bool[np.ndarray, " runs"],
    *,
    block: int,
    devices: int,
    lanes: int,
) -> Int[np.ndarray, " runs"] | None:
    """Return new slots in which the live lanes fill as few blocks as possible.

    Args:
        slots: slot of each run in the launch.
        live: whether each run has steps left.
        block: lanes in a block.
        devices: number of devices that share the launch.
        lanes: lanes in the launch.

    Returns:
        The new slots; None if no device would have a block less to run.
    """
    is_live = np.zeros(lanes, bool)
    is_live[slots[live]] = True
    running = is_live.reshape(devices, -1, block).any(axis=2).sum(axis=1).max()
    if -(-int(live.sum()) // (block * devices)) >= running:
        return None
    moved = np.empty_like(slots)
    moved[np.argsort(~live, kind="stable")] = slots_of(
        len(slots), block=block, devices=devices, lanes=lanes
    )
    return moved


def lanes_of(plan: Plan, problem: Problem, runs: Int[np.ndarray, " runs"]) -> Lanes:
    """Return the knobs, seeds and lengths of these runs of one group, on the host."""
    columns = plan.columns
    defaults = problem.knobs if isinstance(problem.knobs, Mapping) else {}
    knobs = {n: knob_values(columns.get(n), runs, defaults.get(n)) for n in problem.knobs}
    seed, steps = columns["seed"][runs], columns["steps"][runs]
    return Lanes(knobs, seed.astype(np.int64), steps.astype(np.int32))


def take_rows(tree: Any, rows: Int[np.ndarray, " rows"]) -> Any:
    """Return these rows of every leaf, on the host (typed keys stay JAX arrays)."""

    def take(x: Any) -> Any:
        if _jax.is_key(x):
            return x[rows]
        return np.asarray(x)[rows] if len(rows) else np.zeros((0, *x.shape[1:]), x.dtype)

    # Start all copies from an accelerator at once, and none where no rows are taken.
    for x in jax.tree.leaves(tree) if len(rows) else ():
        if isinstance(x, jax.Array) and not _jax.is_key(x):
            x.copy_to_host_async()
    return jax.tree.map(take, tree)


def spread(tree: Any, slots: Int[np.ndarray, " rows"], total: int) -> Any:
    """Put rows into their slots of a launch; the other lanes are copies without steps."""
    source = np.zeros(total, np.int64)
    source[slots] = np.arange(len(slots))
    lanes = take_rows(tree, source)
    if isinstance(lanes, Lanes):
        steps = np.zeros(total, np.int32)
        steps[slots] = np.asarray(tree.steps)
        lanes = lanes._replace(steps=steps)
    return lanes


def carry_at(state: State, step: Int[np.ndarray, " lanes"]) -> LaneState:
    """Return the carry of lanes at these states and steps, its summaries empty."""
    count = len(step)
    none, zero = np.full(count, np.nan), np.zeros(count, np.int32)
    never, finite = np.full(count, NEVER, np.int32), np.zeros(count, np.int8)
    return LaneState(
        state, step.astype(np.int32), never, finite, finite, none, none, none, none, none, zero
    )  # fmt: skip


def summaries(carry: LaneState, slots: Int[np.ndarray, " rows"]) -> LaneState:
    """Return the carry of the lanes in these slots on the host, without their states."""
    return take_rows(carry._replace(state=None), slots)


def frozen_subset(frozen: Frozen, mask: Bool[np.ndarray, " lanes"]) -> Frozen:
    """Return the frozen lanes where `mask` holds."""
    index = np.flatnonzero(mask)
    state = take_rows(frozen.state, index)
    return Frozen(rows=frozen.rows[index], state=state, step=frozen.step[index])


def concatenated(a: Frozen, b: Frozen) -> Frozen:
    """Return the lanes of both, those of `a` first."""
    state = jax.tree.map(lambda x, y: np.concatenate([x, y]), a.state, b.state)
    return Frozen(
        rows=np.concatenate([a.rows, b.rows]), state=state, step=np.concatenate([a.step, b.step])
    )
