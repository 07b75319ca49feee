"""Replay the failing steps of many lanes at once, instrumented: failed lanes -> blames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int32, Int64

from nanlab.backend import keys
from nanlab.backend.finiteness import FINITE, NAN
from nanlab.backend.jaxpr import Device
from nanlab.backend.keys import init_key, step_key
from nanlab.blame.batched import BlockProbe
from nanlab.blame.diagnosis.attribution import Blame, CauseFinder
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.program.point import Point
from nanlab.blame.vocabulary import Phase
from nanlab.engine.lanes import Lanes
from nanlab.problems.problem import Problem, State


class StepReplay(NamedTuple):
    """Result of one lane's instrumented step.

    Attributes:
        blame: origin and culprit of the non-finite outputs.
        loss_code: finiteness of the loss, to compare with the sweep's.
        state_code: finiteness of the state, to compare with the sweep's.
    """

    blame: Blame
    loss_code: int
    state_code: int


class Forensics:
    """The instrumented `init` and `step` of one problem.

    Args:
        problem: the problem.
        block: lanes in a block.
        devices: devices that share the blocks.
    """

    def __init__(self, problem: Problem, *, block: int, devices: list[Device]) -> None:
        knobs = {name: jax.ShapeDtypeStruct((), np.float64) for name in problem.knobs}
        seed, step = jax.ShapeDtypeStruct((), np.int64), jax.ShapeDtypeStruct((), np.int32)

        def init(knobs: Mapping[str, Array], seed: Int64[Array, ""]) -> State:
            return problem.init(knobs, init_key(seed))

        def one_step(
            state: State, knobs: Mapping[str, Array], seed: Int64[Array, ""], step: Int32[Array, ""]
        ) -> tuple[State, Float[Array, ""]]:
            key = keys.for_step(step_key(seed), step)
            state, metrics = problem.step(state, knobs, key)
            # Other metrics cannot be at fault: XLA removes what only they need.
            return state, metrics.loss

        state = jax.eval_shape(init, knobs, seed)
        arguments = (state, knobs, seed, step)
        self._step = BlockProbe(one_step, arguments, block=block, devices=devices)
        self._init = BlockProbe(init, (knobs, seed), block=block, devices=devices)

    def probe(self, *, is_init: bool) -> BlockProbe:
        """Return the probe of `init(knobs, seed)`, or of `step(state, knobs, seed, step)`."""
        return self._init if is_init else self._step

    def at_init(self, lanes: Lanes, watched: Bool[np.ndarray, " leaves"]) -> list[StepReplay]:
        """Replay the failing `init` of these lanes."""
        readings, index = self._init.read(lanes.knobs, lanes.seed)
        finder = CauseFinder(self._init.program, phase=Phase.INIT)
        replays = [_replay(finder, reading, watched, has_loss=False) for reading in readings]
        return [replays[i] for i in index]

    def at_step(
        self,
        state: State,
        lanes: Lanes,
        step: Int32[np.ndarray, " lanes"],
        watched: Bool[np.ndarray, " leaves"],
    ) -> list[StepReplay]:
        """Replay the failing steps of these lanes.

        Args:
            state: states of the lanes before the steps.
            lanes: knobs and seeds of the lanes.
            step: number of each lane's step.
            watched: leaves of the state in which an inf counts.

        Returns:
            One replay a lane.
        """
        readings, index = self._step.read(state, lanes.knobs, lanes.seed, step)
        finder = CauseFinder(self._step.program)
        replays = [_replay(finder, reading, watched, has_loss=True) for reading in readings]
        return [replays[i] for i in index]


def _replay(
    finder: CauseFinder, reading: Reading, watched: Bool[np.ndarray, " leaves"], *, has_loss: bool
) -> StepReplay:
    results = reading.probe.program.frames[0].results
    codes = [reading.code(Point(value)) for value in results]
    # The state's leaves come first, then the loss, in which an inf always counts.
    counts = [*watched, True] if has_loss else list(watched)
    counted = [c if w or c == NAN else FINITE for c, w in zip(codes, counts, strict=True)]
    faulty = [v for v, c in zip(results, counted, strict=True) if c != FINITE]
    state_codes = counted[: len(watched)]
    loss_code = counted[-1] if has_loss else FINITE
    blame = finder.blame(reading, faulty)
    return StepReplay(blame, loss_code, max(state_codes, default=FINITE))
