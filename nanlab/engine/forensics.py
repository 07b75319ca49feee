"""Failed lanes -> verdicts: the instrumented step of one problem, over many lanes at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

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
    """What the instrumented program showed of one lane's step.

    Attributes:
        blame: the origin and the culprit of what was bad in its outputs.
        loss_code, state_code: what its outputs hold, to compare with what the sweep saw.
    """

    blame: Blame
    loss_code: int
    state_code: int


class Forensics:
    """Pinpoints the failing steps of one problem's lanes.

    Args:
        problem: whose `init` and `step` are instrumented.
        block: lanes in a block.
        devices: they share the blocks.
    """

    def __init__(self, problem: Problem, *, block: int, devices: list[Device]) -> None:
        knobs = {name: jax.ShapeDtypeStruct((), np.float64) for name in problem.knobs}
        seed, step = jax.ShapeDtypeStruct((), np.int64), jax.ShapeDtypeStruct((), np.int32)

        def init(knobs: Any, seed: Array) -> State:
            return problem.init(knobs, init_key(seed))

        def one_step(state: State, knobs: Any, seed: Array, step: Array) -> tuple[State, Array]:
            key = keys.for_step(step_key(seed), step)
            state, metrics = problem.step(state, knobs, key)
            # Other metrics make no fault: leave them out and they are not even computed.
            return state, metrics.loss

        state = jax.eval_shape(init, knobs, seed)
        arguments = (state, knobs, seed, step)
        self._step = BlockProbe(one_step, arguments, block=block, devices=devices)
        self._init = BlockProbe(init, (knobs, seed), block=block, devices=devices)

    def probe(self, *, is_init: bool) -> BlockProbe:
        """The instrumented `init`, of (knobs, seed), or step, of (state, knobs, seed, step)."""
        return self._init if is_init else self._step

    def at_init(self, lanes: Lanes, watched: np.ndarray) -> list[StepReplay]:
        """What made the initial states of these lanes bad."""
        readings, which = self._init.read(lanes.knobs, lanes.seed)
        judge = CauseFinder(self._init.program, phase=Phase.INIT)
        replays = [_replay(judge, reading, watched, has_loss=False) for reading in readings]
        return [replays[i] for i in which]

    def at_step(
        self, state: State, lanes: Lanes, step: np.ndarray, watched: np.ndarray
    ) -> list[StepReplay]:
        """What made the outputs of these lanes' steps bad.

        Args:
            state: the states before the steps, leading axis lanes.
            lanes: the lanes' knobs and seeds.
            step: (lanes,) int32, the number of each lane's step.
            watched: (leaves,) bool, the leaves of the state in which an inf counts.
        """
        readings, which = self._step.read(state, lanes.knobs, lanes.seed, step)
        judge = CauseFinder(self._step.program)
        replays = [_replay(judge, reading, watched, has_loss=True) for reading in readings]
        return [replays[i] for i in which]


def _replay(
    judge: CauseFinder, reading: Reading, watched: np.ndarray, *, has_loss: bool
) -> StepReplay:
    results = reading.probe.program.frames[0].results
    codes = [reading.code(Point(value)) for value in results]
    # The state's leaves come first, then the loss, in which an inf always counts.
    watch = [*watched, True] if has_loss else list(watched)
    counted = [c if w or c == NAN else FINITE for c, w in zip(codes, watch, strict=True)]
    faulty = [v for v, c in zip(results, counted, strict=True) if c != FINITE]
    state_codes = counted[: len(watched)]
    loss_code = counted[-1] if has_loss else FINITE
    blame = judge.blame(reading, faulty)
    return StepReplay(blame, loss_code, max(state_codes, default=FINITE))
