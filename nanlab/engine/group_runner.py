"""Plan's groups -> chunks of results: where lanes and the detective meet, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

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
    fresh,
    frozen_subset,
    joined,
    packed,
    packing_steps,
    slots,
    spread,
    state_on_host,
    taken,
)
from nanlab.problems.build import build_problem
from nanlab.problems.problem import State


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Why one run failed.

    Attributes:
        origin: what made its fault, at its fault step.
        culprit: what made its first NaN, at its NaN step; None if none came.
        status: "reproduced" if the instrumented program showed outputs bad in the same way,
            else "compiled-only".
    """

    origin: Site | None
    culprit: Site | None
    status: str


@dataclass(frozen=True, kw_only=True)
class ChunkOutcome:
    """What came of a chunk's runs: their endings, and who is to blame, by row."""

    endings: Endings
    attributions: dict[int, Attribution]
    at_fault: Frozen
    at_nan: Frozen
    observed: tuple[Observation, ...] = ()


class GroupRunner:
    """Runs chunks of one group: its program and its forensics are compiled once.

    Args:
        statics: the group's static parameters.
        runs: how many runs a launch has to hold; None for a block on each device.
        devices: those to use; None for all.

    Attributes:
        problem: the group's problem.
        program: its compiled lanes.
        lanes: how many runs a launch holds.
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
        """How many lanes a launch has at least: a block on each device."""
        return self.lanes_for(1)

    def lanes_for(self, runs: int) -> int:
        """How many lanes a launch has that holds so many runs."""
        return launch_lanes(runs, block=self.program.block, devices=len(self._devices))

    @cached_property
    def forensics(self) -> Forensics:
        """The instrumented step; compiled when a run has failed."""
        return Forensics(self.problem, block=self.program.block, devices=self._devices)

    @property
    def watched(self) -> np.ndarray:
        """The leaves of the state in which an inf is a fault."""
        assert self.program.watched is not None, "run comes first"
        return self.program.watched

    def run(self, lanes: Lanes, *, curves: bool = False) -> ChunkOutcome:
        """Run a chunk to the end of every run, and attribute every failure.

        Args:
            lanes: what is asked of each run, on the host, at most as many as a launch holds.
            curves: whether to look at the runs at log-spaced steps and before their faults.
        """
        trace, places, observed = self._to_the_end(lanes, curves=curves)
        first = state_on_host(trace, places)
        failed = np.flatnonzero(first.stop_step != NEVER)
        at_fault = Frozen(
            rows=failed, state=taken(trace.state, places[failed]), step=first.stop_step[failed]
        )
        worst = np.maximum(first.loss_code, first.state_code)
        is_nan = worst[failed] == NAN
        last, at_nan = self._follow(lanes, first, at_fault, failed[~is_nan])
        nan_step = np.where(worst == NAN, first.stop_step, NEVER)
        nan_step[at_nan.rows] = at_nan.step
        endings = _endings(first, last, nan_step)
        attributions = self._attribute(lanes, at_fault, at_nan, first, last)
        return ChunkOutcome(
            endings=endings,
            attributions=attributions,
            at_fault=at_fault,
            at_nan=joined(frozen_subset(at_fault, is_nan), at_nan),
            observed=(*observed, *(self._before_faults(lanes, at_fault) if curves else ())),
        )

    def _to_the_end(
        self, lanes: Lanes, *, curves: bool
    ) -> tuple[LaneState, np.ndarray, list[Observation]]:
        """Run all lanes to their ends or faults; on the way, those that go on are packed.

        Returns:
            Their trace, the place in it of each run, and what they showed on the way.
        """
        places = self._slots(len(lanes.seed))
        placed = spread(lanes, places, self.lanes)
        trace, observed = self.program.start(placed), list[Observation]()
        steps = np.asarray(lanes.steps)
        for step in log_steps(steps) if curves else self._packing_steps(steps):
            until = placed._replace(steps=np.minimum(placed.steps, step))
            trace = self.program.run(trace, until, stop_at=INF)
            if curves:
                observed += self._observed(trace, lanes, placed, places, step)
            live = (np.asarray(trace.stop_step)[places] == NEVER) & (steps > step)
            moved = packed(places, live, **self._launch)
            if moved is not None:
                trace = spread(taken(trace, places), moved, self.lanes)
                places, placed = moved, spread(lanes, moved, self.lanes)
        return self.program.run(trace, placed, stop_at=INF), places, observed

    def _packing_steps(self, steps: np.ndarray) -> list[int]:
        return [] if self.lanes == self.smallest else packing_steps(steps)

    def _observed(
        self, trace: LaneState, lanes: Lanes, placed: Lanes, places: np.ndarray, step: int
    ) -> list[Observation]:
        """What the runs that have come to `step`, and go on from there or end there, show."""
        here = np.asarray(trace.step)[places] == step
        here &= np.asarray(trace.stop_step)[places] == NEVER
        # Another run's end is not looked at: what is told of a run depends on no other.
        here &= is_log_step(step) | (np.asarray(lanes.steps) == step)
        rows = np.flatnonzero(here)
        if not len(rows):
            return []
        steps = np.full(self.lanes, step, np.int32)
        seen = self.program.observe(trace.state, placed, steps)
        values = {key: np.asarray(value)[places[rows]] for key, value in seen.items()}
        return [Observation(rows=rows, steps=np.full(len(rows), step), values=values)]

    def _before_faults(self, lanes: Lanes, frozen: Frozen) -> list[Observation]:
        """What the failing steps of frozen lanes show, from the states before them."""
        chosen = frozen_subset(frozen, frozen.step >= 0)
        if not len(chosen.rows):
            return []
        places = self._slots(len(chosen.rows))
        state = spread(chosen.state, places, self.lanes)
        asked = spread(taken(lanes, chosen.rows), places, self.lanes)
        steps = np.zeros(self.lanes, np.int32)
        steps[places] = chosen.step
        seen = self.program.observe(state, asked, steps)
        values = {key: np.asarray(value)[places] for key, value in seen.items()}
        return [Observation(rows=chosen.rows, steps=chosen.step, values=values)]

    def step_once(self, lanes: Lanes, frozen: Frozen) -> tuple[State, np.ndarray]:
        """What the failing steps of frozen lanes make, bit for bit as in the sweep.

        Returns:
            The states and the losses after, in the frozen lanes' order. A lane that is frozen at
            its initial state stays there, and its loss is NaN.
        """
        count = len(frozen.rows)
        places = self._slots(count)
        one_more = taken(lanes, frozen.rows)._replace(steps=(frozen.step + 1).astype(np.int32))
        start = fresh(frozen.state, np.maximum(frozen.step, 0))
        placed = spread(one_more, places, self.lanes)
        # Nothing is worse than a NaN: with this, no lane stops.
        trace = self.program.run(spread(start, places, self.lanes), placed, stop_at=NAN + 1)
        after = state_on_host(trace, places)
        bad = np.where(after.loss_code == NAN, np.nan, np.inf)
        loss = np.where(after.loss_code == FINITE, after.final_loss, bad)
        return taken(trace.state, places), loss

    def _slots(self, count: int) -> np.ndarray:
        return slots(count, **self._launch)

    @property
    def _launch(self) -> dict[str, int]:
        """The layout of a launch."""
        devices = len(self._devices)
        return {"block": self.program.block, "devices": devices, "lanes": self.lanes}

    def _follow(
        self, lanes: Lanes, first: LaneState, at_fault: Frozen, rows: np.ndarray
    ) -> tuple[LaneState, Frozen]:
        """Take the lanes whose fault shows no NaN on from there, to a NaN or to their end.

        Returns:
            The chunk's trace with those lanes brought up to date, and those frozen at a NaN.
        """
        if not len(rows):
            return first, frozen_subset(at_fault, np.zeros(len(at_fault.rows), bool))
        places = self._slots(len(rows))
        picked = taken(lanes, rows)
        state = taken(at_fault.state, np.searchsorted(at_fault.rows, rows))
        start = taken(first._replace(state=None), rows)._replace(
            state=state, stop_step=np.full(len(rows), NEVER, np.int32)
        )
        placed = spread(picked, places, self.lanes)
        trace = self.program.run(spread(start, places, self.lanes), placed, stop_at=NAN)
        after = state_on_host(trace, places)
        stopped = np.flatnonzero(after.stop_step != NEVER)
        at_nan = Frozen(
            rows=rows[stopped],
            state=taken(trace.state, places[stopped]),
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
        """The blame of every failed run: origin at its fault, culprit at its NaN."""
        faults = self._replays(lanes, at_fault)
        nans = dict(zip(at_nan.rows, self._replays(lanes, at_nan), strict=True))
        blames: dict[int, Attribution] = {}
        for row, fault in zip(at_fault.rows.tolist(), faults, strict=True):
            same = _same(fault, first, row)
            culprit = fault.blame.culprit
            if row in nans:
                culprit = nans[row].blame.culprit
                same = same and _same(nans[row], last, row)
            status = Status.REPRODUCED if same else Status.COMPILED_ONLY
            origin = fault.blame.origin
            blames[row] = Attribution(origin=origin, culprit=culprit, status=status)
        return blames

    def _replays(self, lanes: Lanes, frozen: Frozen) -> list[StepReplay]:
        """The instrumented replay of each frozen lane's failing step, in the lanes' order."""
        replays: dict[int, StepReplay] = {}
        for is_init in (True, False):
            chosen = np.flatnonzero((frozen.step < 0) == is_init)
            if not len(chosen):
                continue
            asked = taken(lanes, frozen.rows[chosen])
            if is_init:
                made = self.forensics.at_init(asked, self.watched)
            else:
                state = taken(frozen.state, chosen)
                made = self.forensics.at_step(state, asked, frozen.step[chosen], self.watched)
            replays.update(zip(chosen.tolist(), made, strict=True))
        return [replays[i] for i in range(len(frozen.rows))]


def _same(replay: StepReplay, trace: LaneState, row: int) -> bool:
    """Whether a replay's outputs were bad in the way that the sweep saw."""
    return (replay.loss_code, replay.state_code) == (trace.loss_code[row], trace.state_code[row])


def _endings(first: LaneState, last: LaneState, nan_step: np.ndarray) -> Endings:
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
