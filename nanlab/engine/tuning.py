"""One group -> seconds for each width of its blocks: which is the fastest on this machine.

It suggests, and changes nothing: a run's bits depend on its block's width, so the rule of
nanlab/block.py is changed on purpose or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import jax
import numpy as np

from nanlab.backend.finiteness import NAN
from nanlab.backend.jaxpr import Device
from nanlab.engine.block_width import block_for, block_of
from nanlab.engine.lanes import NEVER, LaneProgram, Lanes
from nanlab.engine.memory import available_bytes, launch_need
from nanlab.problems.problem import Problem

ROUNDS = 3
TARGET_S = 0.5
"""About how long one measured launch should take."""
FEW_STEPS = 8
WORTH = 1.05
"""A gain that is smaller is noise."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one width takes.

    Attributes:
        block: lanes in a block.
        compile_s: seconds of its first launches, which compile.
        steps_per_s: steps of single runs in a second, the median of the rounds.
    """

    block: int
    compile_s: float
    steps_per_s: float


def widths(problem: Problem, device: Device) -> list[int]:
    """The widths that are tried: the one that is used, and some about the widest of such a device.

    A width that is many times the one that is used may not fit the memory.
    """
    widest, used = block_of(device), block_for(problem, device)
    tried = {widest // 8, widest // 4, widest // 2, widest, widest * 2}
    return sorted({used} | {width for width in tried if width <= 16 * used})


def _fitting(problem: Problem, devices: Sequence[Device]) -> list[int]:
    """The widths of which a block on each device fits the memory."""
    free, used, fitting = available_bytes(devices), block_for(problem, devices[0]), list[int]()
    for width in widths(problem, devices[0]):
        lanes = width * len(devices)
        need = launch_need(problem, at_once=lanes)
        if width == used:
            need.check(lanes, free, smallest=lanes)
        if free is None or need.launch(lanes) <= free:
            fitting.append(width)
    return fitting


def tune(problem: Problem, lanes: Lanes, devices: Sequence[Device]) -> list[Timing]:
    """Time the same runs in blocks of each width, by turns.

    No lane stops, however bad it becomes: early ends would be the runs' doing and not the width's.

    Args:
        problem: what runs.
        lanes: what is asked of some of its runs; they are repeated until they fill the launch.
        devices: those that share it.

    Returns:
        A timing for each of `widths` whose launch fits the memory, in their order.

    Raises:
        MemoryError: not even the width that is used does.
    """
    tried = _fitting(problem, devices)
    many = tried[-1] * len(devices)
    filled = jax.tree.map(lambda x: np.resize(x, many), lanes)
    compiled: dict[int, tuple[LaneProgram, float]] = {}
    for block in tried:
        began = time.perf_counter()
        program = LaneProgram(problem, list(devices), block=block)
        _launch(program, filled, FEW_STEPS)
        compiled[block] = program, time.perf_counter() - began
    one = min(_launch(program, filled, FEW_STEPS) for program, _ in compiled.values())
    steps = int(np.clip(FEW_STEPS * TARGET_S / one, FEW_STEPS, 10_000))
    spent: dict[int, list[float]] = {block: [] for block in tried}
    for _ in range(ROUNDS):
        for block, (program, _) in compiled.items():
            spent[block].append(_launch(program, filled, steps))
    return [
        Timing(
            block=block, compile_s=compiled[block][1],
            steps_per_s=many * steps / median(spent[block]),
        )
        for block in tried
    ]  # fmt: skip


def _launch(program: LaneProgram, lanes: Lanes, steps: int) -> float:
    """Seconds for so many steps of all lanes."""
    asked = lanes._replace(steps=np.full(len(lanes.seed), steps, np.int32))
    trace = program.start(asked)
    # A fault of the initial state would end its lane before the first step.
    trace = trace._replace(stop_step=np.full(len(lanes.seed), NEVER, np.int32))
    jax.block_until_ready(trace)
    began = time.perf_counter()
    jax.block_until_ready(program.run(trace, asked, stop_at=NAN + 1))
    return time.perf_counter() - began


def suggestion(problem: Problem, device: Device, timings: Sequence[Timing]) -> str:
    """In words: which width is the fastest, and what that means for the one that is used."""
    used = block_for(problem, device)
    best = max(timings, key=lambda timing: timing.steps_per_s)
    now = next(timing for timing in timings if timing.block == used)
    gain = best.steps_per_s / now.steps_per_s
    if gain < WORTH:
        return f"blocks of {used} lanes are used, and none is faster by {WORTH - 1:.0%}"
    return (
        f"blocks of {used} lanes are used; {best.block} would be {gain:.2f} times as fast here. "
        "Nothing is changed: the width decides how numbers are rounded, and is set in "
        "nanlab/block.py for all machines alike"
    )
