"""Plan -> what a sweep would run: numbers of runs, groups, blocks, chunks, and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

import numpy as np

from nanlab.backend.jaxpr import Device
from nanlab.engine.block_width import block_for, launch_lanes
from nanlab.engine.memory import available_bytes, in_words, launch_need
from nanlab.grid import Grid
from nanlab.plan.plan import Plan
from nanlab.plan.rounds import bounds
from nanlab.problems.build import build_problem
from nanlab.study.chunk_runner import cut_here
from nanlab.study.shared_folder import pieces_of


def dry_run(grid: Grid, plan: Plan, devices: Sequence[Device]) -> Iterator[str]:
    """Yield the lines of `--dry-run`, without running or compiling anything."""
    if grid.exec.engine == "local":
        pieces = cut_here(plan, np.ones(len(plan), np.bool_), grid.exec.chunk_runs, devices)
    else:
        pieces = pieces_of(plan, grid.exec.chunk_runs)
    largest, n_blocks, widths = 0, 0, set[int]()
    for number, group in groupby(pieces, attrgetter("group")):
        problem, sizes = build_problem(plan.groups[number].statics), [len(p.runs) for p in group]
        width = block_for(problem, devices[0])
        need = launch_need(problem, at_once=width * len(devices))
        lanes = launch_lanes(max(sizes), block=width, devices=len(devices))
        largest = max(largest, need.launch(lanes))
        n_blocks += sum(-(-size // width) for size in sizes)
        widths.add(width)
    free = available_bytes(devices)
    least, most = min(widths, default=0), max(widths, default=0)
    lanes = f"{most}" if least == most else f"{least} to {most}"
    yield f"{grid.path}: {grid.title}"
    yield f"  runs    {len(plan):,}"
    yield f"  groups  {len(plan.groups):,} (each is compiled once)"
    yield f"  blocks  {n_blocks:,} of {lanes} lanes, on {len(devices)} devices"
    yield f"  chunks  {len(pieces):,}"
    yield from (f"  {line}" for line in bounds(grid))
    available = "" if free is None else f", {in_words(free)} are free"
    yield f"  memory  about {in_words(largest)} for the largest launch{available}"
