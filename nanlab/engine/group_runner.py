"""Train one group's runs, freeze each at its fault, and attribute every failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float64, Int

from nanlab.backend.finiteness import FINITE, INF, NAN
from nanlab.backend.jaxpr import Device
from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Status
from nanlab.engine.block_width import launch_lanes
from nanlab.engine.curves import Observation, is_log_step, log_steps
from nanlab.engine.forensics import Forensics, StepReplay
from nanlab.engine.lanes import NEVER, LaneProgram, Lanes, LaneState
from nanlab.engine.outcomes import Endings
from nanlab.engine.placement import (
    Frozen,
    carry_at,
    concatenated,
    frozen_subset,
    packed,
    packing_steps,
    slots_of,
    spread,
    summaries,
    take_rows,
)
from nanlab.problems.build import build_problem
from nanlab.problems.problem import State

Rows = Int[np.ndarray, " runs"]


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Why one run failed.

    Attributes:
        origin: what made its fault, at its fault step.
        culprit: what made its first NaN, at its NaN step; None if there was no NaN.
        status: whether the instrumented program failed in the same way.
    """

    origin: Site | None
    culprit: Site | None
    status: Status


@dataclass(frozen=True, kw_only=True)
class ChunkOutcome:
    """Results of a chunk's runs.

    Attributes:
        endings: how each run ended.
        attributions: row of each failed run -> why it failed.
        at_fault: failed runs before their first fault.
        at_nan: failed runs before their first NaN.
        observations: values for the curves.
    """

    endings: Endings
    attributions: dict[int, Attribution]
    at_fault: Frozen
    at_nan: Frozen
    observations: tuple[Observation, ...] = ()


class GroupRunner:
    """Runs chunks of one group; its program and its forensics are compiled once.

    Args:
        statics: static parameters of the group.
        runs: number of runs that a launch must hold; None for a block on each device.
        devices: devices to use; None for all.

    Attributes:
        problem: problem of the group.
        program: compiled lanes of the group.
        lanes: number of runs that a launch holds.
    """

    def __init__(
        self,
        statics: Mapping[str, Any],
        *,
        runs: int | None = None,
        devices: Sequence[Device] | None = None,
    ) -> None:
        self._devices = list(devices or jax.devices())
        self.problem = build_problem(statics)
        self.program = LaneProgram(self.problem, self._devices)
        self.lanes = self.lanes_for(runs or 1)

    @property
    def smallest(self) -> int:
        """Number of lanes of the smallest launch: a block on each device."""
        return self.lanes_for(1)

    def lanes_for(self, runs: int) -> int:
        """Return the number of lanes of a launch that holds `runs`."""
        return launch_lanes(runs, block=self.program.block, devices=len(self._devices))

    @cached_property
    def forensics(self) -> Forensics:
        """The instrumented step, built when a run has failed."""
        return Forensics(self.problem, block=self.program.block, devices=self._devices)

    @property
    def watched(self) -> Bool[np.ndarray, " leaves"]:
        """The leaves of the state in which an inf is a fault."""
        assert self.program.watched is not None, "call run first"
        return self.program.watched

    def run(self, lanes: Lanes, *, curves: bool = False) -> ChunkOutcome:
        """Run a chunk to the end of every run, and attribute every failure.

        Args:
            lanes: the runs, on the host, at most as many as a launch holds.
            curves: whether to observe the runs at log-spaced steps and before their faults.

        Returns:
            The results of the runs, by row.
        """
        carry, slots, observations = self._to_the_end(lanes, curves=curves)
        first = summaries(carry, slots)
        failed = np.flatnonzero(first.stop_step != NEVER)
        at_fault = Frozen(
            rows=failed, state=take_rows(carry.state, slots[failed]), step=first.stop_step[failed]
        )
        worst = np.maximum(first.loss_code, first.state_code)
        is_nan = worst[failed] == NAN
        last, at_nan = self._follow(lanes, first, at_fault, failed[~is_nan])
        nan_step = np.where(worst == NAN, first.stop_step, NEVER)
        nan_step[at_nan.rows] = at_nan.step
        endings = _endings(first, last, nan_step)
        attributions = self._attribute(lanes, at_fault, at_nan, first, last)
        if curves:
            observations += self._observe_faults(lanes, at_fault)
        return ChunkOutcome(
            endings=endings,
            attributions=attributions,
            at_fault=at_fault,
            at_nan=concatenated(frozen_subset(at_fault, is_nan), at_nan),
            observations=tuple(observations),
        )

    def _to_the_end(
        self, lanes: Lanes, *, curves: bool
    ) -> tuple[LaneState, Rows, list[Observation]]:
        # Run all lanes to their ends or faults, packing the live ones on the way. Returns the
        # carry, the slot in it of each run, and the observations on the way.
        slots = self._slots(len(lanes.seed))
        launched = spread(lanes, slots, self.lanes)
        carry, observations = self.program.start(launched), list[Observation]()
        steps = np.asarray(lanes.steps)
        for step in log_steps(steps) if curves else self._packing_steps(steps):
            until = launched._replace(steps=np.minimum(launched.steps, step))
            carry = self.program.run(carry, until, stop_at=INF)
            if curves:
                observations += self._observe_step(carry, lanes, launched, slots, step)
            live = (np.asarray(carry.stop_step)[slots] == NEVER) & (steps > step)
            moved = packed(slots, live, **self._launch)
            if moved is not None:
                carry = spread(take_rows(carry, slots), moved, self.lanes)
                slots, launched = moved, spread(lanes, moved, self.lanes)
        return self.program.run(carry, launched, stop_at=INF), slots, observations

    def _packing_steps(self, steps: Rows) -> list[int]:
        return [] if self.lanes == self.smallest else packing_steps(steps)

    def _observe_step(
        self, carry: LaneState, lanes: Lanes, launched: Lanes, slots: Rows, step: int
    ) -> list[Observation]:
        """Observe the runs that have come to `step` and go on from there, or end there."""
        reached = np.asarray(carry.step)[slots] == step
        reached &= np.asarray(carry.stop_step)[slots] == NEVER
        # Skip steps at which only another run ends: a run's curve depends on no other run.
        reached &= is_log_step(step) | (np.asarray(lanes.steps) == step)
        rows = np.flatnonzero(reached)
        if not len(rows):
            return []
        steps = np.full(self.lanes, step, np.int32)
        measured = self.program.observe(carry.state, launched, steps)
        values = {key: np.asarray(value)[slots[rows]] for key, value in measured.items()}
        return [Observation(rows=rows, steps=np.full(len(rows), step), values=values)]

    def _observe_faults(self, lanes: Lanes, at_fault: Frozen) -> list[Observation]:
        """Observe the failing steps of frozen lanes."""
        frozen = frozen_subset(at_fault, at_fault.step >= 0)
        if not len(frozen.rows):
            return []
        slots = self._slots(len(frozen.rows))
        state = spread(frozen.state, slots, self.lanes)
        launched = spread(take_rows(lanes, frozen.rows), slots, self.lanes)
        steps = np.zeros(self.lanes, np.int32)
        steps[slots] = frozen.step
        measured = self.program.observe(state, launched, steps)
        values = {key: np.asarray(value)[slots] for key, value in measured.items()}
        return [Observation(rows=frozen.rows, steps=frozen.step, values=values)]

    def step_once(
        self, lanes: Lanes, frozen: Frozen
    ) -> tuple[State, Float64[np.ndarray, " frozen"]]:
        """Take the failing steps of frozen lanes, bit for bit as in the sweep.

        Args:
            lanes: the runs of the chunk.
            frozen: some of them before their failing steps.

        Returns:
            The states and the losses after those steps. A lane that is frozen at its initial state
            stays there, and its loss is NaN.
        """
        slots = self._slots(len(frozen.rows))
        one_more = take_rows(lanes, frozen.rows)._replace(steps=(frozen.step + 1).astype(np.int32))
        start = carry_at(frozen.state, np.maximum(frozen.step, 0))
        launched = spread(one_more, slots, self.lanes)
        # No code is worse than NaN: no lane stops.
        carry = self.program.run(spread(start, slots, self.lanes), launched, stop_at=NAN + 1)
        after = summaries(carry, slots)
        bad = np.where(after.loss_code == NAN, np.nan, np.inf)
        loss = np.where(after.loss_code == FINITE, after.final_loss, bad)
        return take_rows(carry.state, slots), loss

    def _slots(self, count: int) -> Rows:
        return slots_of(count, **self._launch)

    @property
    def _launch(self) -> dict[str, int]:
        devices = len(self._devices)
        return {"block": self.program.block, "devices": devices, "lanes": self.lanes}

    def _follow(
        self, lanes: Lanes, first: LaneState, at_fault: Frozen, rows: Rows
    ) -> tuple[LaneState, Frozen]:
        # Continue the lanes whose fault shows no NaN to a NaN or to their end. Returns the chunk's
        # summaries with those lanes brought up to date, and those frozen at a NaN.
        if not len(rows):
            return first, frozen_subset(at_fault, np.zeros(len(at_fault.rows), bool))
        slots = self._slots(len(rows))
        state = take_rows(at_fault.state, np.searchsorted(at_fault.rows, rows))
        start = take_rows(first._replace(state=None), rows)._replace(
            state=state, stop_step=np.full(len(rows), NEVER, np.int32)
        )
        launched = spread(take_rows(lanes, rows), slots, self.lanes)
        carry = self.program.run(spread(start, slots, self.lanes), launched, stop_at=NAN)
        after = summaries(carry, slots)
        stopped = np.flatnonzero(after.stop_step != NEVER)
        at_nan = Frozen(
            rows=rows[stopped],
            state=take_rows(carry.state, slots[stopped]),
            step=after.stop_step[stopped],
        )

        def updated(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            merged = old.copy()
            merged[rows] = new
            return merged

        merged = jax.tree.map(updated, first._replace(state=None), after._replace(state=None))
        return merged, at_nan

    def _attribute(
        self, lanes: Lanes, at_fault: Frozen, at_nan: Frozen, first: LaneState, last: LaneState
    ) -> dict[int, Attribution]:
        """Attribute every failed run: its origin at its fault, its culprit at its NaN."""
        faults = self._replays(lanes, at_fault)
        nans = dict(zip(at_nan.rows, self._replays(lanes, at_nan), strict=True))
        blames: dict[int, Attribution] = {}
        for row, fault in zip(at_fault.rows.tolist(), faults, strict=True):
            same = _is_reproduced(fault, first, row)
            culprit = fault.blame.culprit
            if row in nans:
                culprit = nans[row].blame.culprit
                same = same and _is_reproduced(nans[row], last, row)
            status = Status.REPRODUCED if same else Status.COMPILED_ONLY
            origin = fault.blame.origin
            blames[row] = Attribution(origin=origin, culprit=culprit, status=status)
        return blames

    def _replays(self, lanes: Lanes, frozen: Frozen) -> list[StepReplay]:
        """Replay the failing step of each frozen lane, instrumented."""
        replays: dict[int, StepReplay] = {}
        for is_init in (True, False):
            index = np.flatnonzero((frozen.step < 0) == is_init)
            if not len(index):
                continue
            runs = take_rows(lanes, frozen.rows[index])
            if is_init:
                found = self.forensics.at_init(runs, self.watched)
            else:
                state = take_rows(frozen.state, index)
                found = self.forensics.at_step(state, runs, frozen.step[index], self.watched)
            replays.update(zip(index.tolist(), found, strict=True))
        return [replays[i] for i in range(len(frozen.rows))]


def _is_reproduced(replay: StepReplay, carry: LaneState, row: int) -> bool:
    """Return whether a replay's outputs are non-finite in the way that the sweep saw."""
    return (replay.loss_code, replay.state_code) == (carry.loss_code[row], carry.state_code[row])


def _endings(first: LaneState, last: LaneState, nan_step: Rows) -> Endings:
    bad = np.maximum(last.loss_code, last.state_code) != FINITE
    return Endings(
        *(np.asarray(column) for column in (first.stop_step, nan_step, bad)),
        initial_loss=np.asarray(last.initial_loss),
        best_loss=np.asarray(last.best_loss),
        final_loss=np.asarray(last.final_loss),
        final_accuracy=np.asarray(last.accuracy),
        grad_norm_max=np.asarray(last.grad_norm_max),
        nonfinite_gradient_steps=np.asarray(last.nonfinite_gradient_steps),
    )
