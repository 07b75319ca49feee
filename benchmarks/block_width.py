"""How many steps a second blocks of each width run on this machine, on a grid's largest group.

It suggests a width and changes nothing: a run's bits depend on its block's width, so the rule in
nanlab/engine/block_width.py is changed on purpose or not at all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from nanlab.backend.config import lab_devices
from nanlab.backend.finiteness import NAN
from nanlab.backend.jaxpr import Device
from nanlab.engine.block_width import block_for, block_of
from nanlab.engine.lanes import NEVER, LaneProgram, Lanes
from nanlab.engine.memory import available_bytes, launch_need
from nanlab.engine.placement import lanes_of
from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan
from nanlab.problems.build import build_problem
from nanlab.problems.problem import Problem

ROOT = Path(__file__).resolve().parents[1]
FEW_STEPS = 8
WORTH = 1.05
"""A smaller gain is noise."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the widths of blocks on this machine.

    Attributes:
        grid: the grid file whose largest group is timed.
        rounds: how often; medians are shown.
        target_s: about how long one measured launch should take, in seconds.
    """

    grid: Path = ROOT / "sweeps/quickstart.toml"
    rounds: int = 3
    target_s: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The speed of one width.

    Attributes:
        block: lanes in a block.
        compile_s: seconds of its first launches, which compile.
        steps_per_s: steps of single runs in a second, the median of the rounds.
    """

    block: int
    compile_s: float
    steps_per_s: float


def widths(problem: Problem, device: Device) -> list[int]:
    """The widths to try: the one in use, and some around the device's widest.

    A width many times the one in use may not fit the memory.
    """
    widest, used = block_of(device), block_for(problem, device)
    tried = {widest // 8, widest // 4, widest // 2, widest, widest * 2}
    return sorted({used} | {width for width in tried if width <= 16 * used})


def fitting(problem: Problem, devices: Sequence[Device]) -> list[int]:
    """Return the block widths that fit into memory on each device."""
    free, used, found = available_bytes(devices), block_for(problem, devices[0]), list[int]()
    for width in widths(problem, devices[0]):
        lanes = width * len(devices)
        need = launch_need(problem, at_once=lanes)
        if width == used:
            need.check(lanes, free, smallest=lanes)
        if free is None or need.launch(lanes) <= free:
            found.append(width)
    return found


def timed(
    problem: Problem, lanes: Lanes, devices: Sequence[Device], *, rounds: int, target_s: float
) -> list[Timing]:
    """Time the same runs, repeated until they fill a launch, in blocks of each width, by turns.

    No lane stops, however bad it becomes: early ends would be the runs' doing, not the width's.
    """
    tried = fitting(problem, devices)
    n_lanes = tried[-1] * len(devices)
    filled = jax.tree.map(lambda x: np.resize(x, n_lanes), lanes)
    compiled: dict[int, tuple[LaneProgram, float]] = {}
    for block in tried:
        began = time.perf_counter()
        program = LaneProgram(problem, list(devices), block=block)
        launched(program, filled, FEW_STEPS)
        compiled[block] = program, time.perf_counter() - began
    one = min(launched(program, filled, FEW_STEPS) for program, _ in compiled.values())
    steps = int(np.clip(FEW_STEPS * target_s / one, FEW_STEPS, 10_000))
    spent: dict[int, list[float]] = {block: [] for block in tried}
    for _ in range(rounds):
        for block, (program, _) in compiled.items():
            spent[block].append(launched(program, filled, steps))
    return [
        Timing(
            block=block,
            compile_s=compiled[block][1],
            steps_per_s=n_lanes * steps / median(spent[block]),
        )
        for block in tried
    ]


def launched(program: LaneProgram, lanes: Lanes, steps: int) -> float:
    """Seconds for this number of steps of all lanes."""
    longer = lanes._replace(steps=np.full(len(lanes.seed), steps, np.int32))
    state = program.start(longer)
    # A fault of the initial state would end its lane before the first step.
    state = state._replace(stop_step=np.full(len(lanes.seed), NEVER, np.int32))
    jax.block_until_ready(state)
    began = time.perf_counter()
    jax.block_until_ready(program.run(state, longer, stop_at=NAN + 1))
    return time.perf_counter() - began


def suggestion(used: int, timings: Sequence[Timing]) -> str:
    """The fastest width, compared with the one in use."""
    best = max(timings, key=lambda timing: timing.steps_per_s)
    now = next(timing for timing in timings if timing.block == used)
    gain = best.steps_per_s / now.steps_per_s
    if gain < WORTH:
        return f"blocks of {used} lanes are used, and none is faster by {WORTH - 1:.0%}"
    return f"blocks of {used} lanes are used; {best.block} would be {gain:.2f} times as fast here"


def main(options: Options) -> None:
    grid = load_grid(options.grid)
    plan = make_plan(grid)
    devices = lab_devices(grid.exec.devices)
    group = max(plan.groups, key=lambda group: len(group.runs))
    problem = build_problem(group.statics)
    lanes = lanes_of(plan, problem, group.runs)
    try:
        timings = timed(problem, lanes, devices, rounds=options.rounds, target_s=options.target_s)
    except MemoryError as error:
        sys.exit(str(error))
    shown = Table(
        title=f"the largest group of {len(plan.groups):,}, {len(group.runs):,} runs; "
        f"medians of {options.rounds}"
    )
    for heading in ("block", "first launch", "steps of runs per second"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for each in timings:
        shown.add_row(f"{each.block:,}", f"{each.compile_s:.1f} s", f"{each.steps_per_s:,.0f}")
    Console().print(shown)
    print(suggestion(block_for(problem, devices[0]), timings))


if __name__ == "__main__":
    main(tyro.cli(Options))
