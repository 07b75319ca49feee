"""Compare the engine with a hand-written `jit(vmap(scan))` of the same training: time and memory.

The sides train in turn in this process; memory is measured in a process per side. The script stops
if the final losses show that the sides did not do the same training.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import median
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from sides import BATCH, CLASSES, DEPTH, FEATURES, Endings, Engine, LossName, Plain, Task, Timed

from nanlab.backend.config import configure_lab
from nanlab.engine.block_width import block_of

PROBED_LR = (1e-3, 1e6)
PROBED_RUNS = 256
FAILING_SHARE = 1 / 3
SLACK = 1e-3
"""The largest relative difference between final losses of the same training."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare the engine with a plain jit(vmap(scan)) of the same training.

    Attributes:
        runs: the number of networks.
        steps: training steps of each network.
        rounds: how often each side is timed, in turn; medians are shown.
        widths: units in each of the three hidden layers; a column per width.
        loss: the training's loss.
    """

    runs: int = 4096
    steps: int = 100
    rounds: int = 5
    widths: Annotated[tuple[int, ...], tyro.conf.arg(metavar="WIDTH ...")] = (16, 64)
    loss: LossName = "softmax_cross_entropy"


def failing_lr(engine: Engine) -> tuple[Timed, np.ndarray]:
    """Return learning rates from the start of PROBED_LR to where FAILING_SHARE of the runs fail.

    These are the engine's first failing runs, so their time includes compiling the forensics.
    """
    lr = np.geomspace(*PROBED_LR, min(PROBED_RUNS, engine.task.runs))
    timed, ended = engine.run(lr)
    share = np.cumsum(ended.failed) / np.arange(1, len(lr) + 1)
    enough = np.flatnonzero(share >= FAILING_SHARE)
    top = lr[enough[0]] if len(enough) else lr[-1]
    return timed, np.geomspace(PROBED_LR[0], top, engine.task.runs)


def steps_to_save(ended: Endings, steps: int, block: int) -> tuple[float, float]:
    """Return the share of steps after a lane's failure, and the share that ending blocks save.

    A block ends when all its lanes have failed; until then it also computes the failed ones.
    """
    taken = np.where(ended.failed, ended.fault_step + 1, steps)
    by_block = np.maximum.reduceat(taken, np.arange(0, len(taken), block))
    return 1 - float(taken.mean()) / steps, 1 - float(by_block.mean()) / steps


@dataclass(kw_only=True)
class Measured:
    """The measurements at one size; lists have an entry per round."""

    engine: list[Timed] = field(default_factory=list[Timed])
    plain: list[Timed] = field(default_factory=list[Timed])
    failing: list[Timed] = field(default_factory=list[Timed])
    failing_plain: list[Timed] = field(default_factory=list[Timed])
    shuffled: list[Timed] = field(default_factory=list[Timed])
    compile_s: tuple[float, float] = (0.0, 0.0)
    forensics_cold_s: float = 0.0
    difference: float = 0.0
    faults: int = 0
    followed: int = 0
    disagreeing: int = 0
    steps_to_save: tuple[float, float] = (0.0, 0.0)
    memory: dict[str, Memory] = field(default_factory=dict[str, "Memory"])


def measure(task: Task, rounds: int) -> Measured:
    """Time both sides in turn: `rounds` times without failures, then with failures."""
    engine, plain, m = Engine(task), Plain(task), Measured()
    m.compile_s = engine.compiling.wall_s, plain.compiling.wall_s
    lr = task.healthy_lr()
    for _ in range(rounds):
        timed, ended = engine.run(lr)
        m.engine.append(timed)
        timed, losses = plain.run(lr)
        m.plain.append(timed)
        m.difference = float(np.max(np.abs(ended.final_loss / losses - 1)))
        if ended.failed.any() or not m.difference < SLACK:
            sys.exit(f"the sides differ: final losses by {m.difference:.1e}, or a lane failed")
    cold, lr = failing_lr(engine)
    order = np.random.default_rng(0).permutation(task.runs)
    for _ in range(rounds):
        timed, ended = engine.run(lr)
        m.failing.append(timed)
        timed, losses = plain.run(lr)
        m.failing_plain.append(timed)
        m.shuffled.append(engine.run(lr[order], engine.seeds[order])[0])
        if ended.blames != ended.failed.sum():
            sys.exit(f"{ended.failed.sum()} runs failed, but {ended.blames} have a blame")
    m.forensics_cold_s = cold.parts_s["_attribute"]
    m.faults = int(ended.failed.sum())
    m.followed = int((ended.failed & (ended.fault_step != ended.nan_step)).sum())
    m.disagreeing = int((ended.bad != ~np.isfinite(losses)).sum())
    m.steps_to_save = steps_to_save(ended, task.steps, engine.worker.program.block)
    return m


class Memory(NamedTuple):
    """The peak resident memory of a process, after its imports and at its end."""

    imported_bytes: int
    peak_bytes: int


def memory(side: str, task: Task) -> Memory:
    """Measure the memory of one side in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(memory_here, side, task).result()


def memory_here(side: str, task: Task) -> Memory:
    """Compile and run one side in this process; return its memory."""
    configure_lab()
    imported = peak_bytes()
    if side == "plain":
        Plain(task).run(task.healthy_lr())
        return Memory(imported, peak_bytes())
    engine = Engine(task)
    engine.run(task.healthy_lr() if side == "engine" else failing_lr(engine)[1])
    return Memory(imported, peak_bytes())


def peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


Row = tuple[str, Callable[[Measured], str], str]


def wall_s(timed: Sequence[Timed]) -> float:
    return median(round_.wall_s for round_ in timed)


def part_s(timed: Sequence[Timed], part: str) -> float:
    return median(round_.parts_s[part] for round_ in timed)


def ratio(a: Sequence[Timed], b: Sequence[Timed]) -> str:
    return f"{wall_s(a) / wall_s(b):.2f}"


def fastest_ratio(m: Measured) -> str:
    """The ratio of the fastest rounds, in which other work on the machine was least in the way."""
    engine, plain = (min(round_.wall_s for round_ in side) for side in (m.engine, m.plain))
    return f"{engine / plain:.2f}"


def cores_ratio(m: Measured) -> str:
    """Return the ratio of the CPU seconds of all cores."""
    engine, plain = ([round_.cores_s for round_ in side] for side in (m.engine, m.plain))
    return f"{median(engine) / median(plain):.2f}"


def peak(side: str) -> Callable[[Measured], str]:
    return lambda m: f"{m.memory[side].peak_bytes / 1e6:.0f} MB"


def peak_ratio(side: str) -> Callable[[Measured], str]:
    return lambda m: f"{m.memory[side].peak_bytes / m.memory['plain'].peak_bytes:.2f}"


def forensics_share(m: Measured) -> str:
    return f"{part_s(m.failing, '_attribute') / wall_s(m.failing):.1%}"


SECTIONS: dict[str, list[Row]] = {
    "no lane fails": [
        ("engine: compile", lambda m: f"{m.compile_s[0]:.1f} s", ""),
        ("plain: compile", lambda m: f"{m.compile_s[1]:.1f} s", ""),
        ("engine: run", lambda m: f"{wall_s(m.engine):.2f} s", ""),
        ("  of that, initial states", lambda m: f"{part_s(m.engine, 'start'):.2f} s", ""),
        ("plain: run", lambda m: f"{wall_s(m.plain):.2f} s", ""),
        ("engine / plain, run", lambda m: ratio(m.engine, m.plain), "0.70"),
        ("  in the fastest rounds", fastest_ratio, ""),
        ("  CPU seconds of all cores", cores_ratio, ""),
        ("final losses differ by up to", lambda m: f"{m.difference:.0e}", ""),
    ],
    "a third of the lanes fail": [
        ("runs that fail", lambda m: f"{m.faults}", ""),
        ("  followed from inf to NaN", lambda m: f"{m.followed}", ""),
        ("  that end differently by side", lambda m: f"{m.disagreeing}", ""),
        ("engine: run", lambda m: f"{wall_s(m.failing):.2f} s", ""),
        ("  of that, following", lambda m: f"{part_s(m.failing, '_follow'):.2f} s", ""),
        ("  of that, forensics", lambda m: f"{part_s(m.failing, '_attribute'):.2f} s", ""),
        ("plain: run", lambda m: f"{wall_s(m.failing_plain):.2f} s", ""),
        ("engine / plain, run", lambda m: ratio(m.failing, m.failing_plain), ""),
        ("forensics / engine: run", forensics_share, "10%"),
        ("forensics, first time", lambda m: f"{m.forensics_cold_s:.1f} s", ""),
        ("steps after a fault / all steps", lambda m: f"{m.steps_to_save[0]:.0%}", ""),
        ("  saved by ending blocks early", lambda m: f"{m.steps_to_save[1]:.0%}", ""),
        ("engine: run, lanes shuffled", lambda m: f"{wall_s(m.shuffled):.2f} s", ""),
    ],
    "peak memory of the process": [
        ("after imports", lambda m: f"{m.memory['plain'].imported_bytes / 1e6:.0f} MB", ""),
        ("engine", peak("engine"), ""),
        ("engine, a third fail", peak("failing"), ""),
        ("plain", peak("plain"), ""),
        ("engine / plain", peak_ratio("engine"), "1.20"),
        ("engine, a third fail / plain", peak_ratio("failing"), "1.20"),
    ],
}


def table(measured: dict[Task, Measured], caption: str) -> Table:
    """Return a table with a column per size and a row per figure."""
    first = next(iter(measured))
    title = f"{first.runs:,} runs x {first.steps} steps, {first.loss}, batch {BATCH}"
    shown = Table(title=title, caption=caption)
    shown.add_column("median", no_wrap=True)
    for task in measured:
        sizes = (FEATURES, *[task.width] * DEPTH, CLASSES)
        shown.add_column("-".join(map(str, sizes)), justify="right", no_wrap=True)
    shown.add_column("target", justify="right")
    for section, rows in SECTIONS.items():
        shown.add_row(f"[bold]{section}[/bold]")
        for name, cell, target in rows:
            shown.add_row(f"  {name}", *map(cell, measured.values()), target and f"<= {target}")
        shown.add_section()
    return shown


def machine() -> str:
    device = jax.devices()[0]
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {jax.device_count()} {device.platform} "
        f"devices ({device.device_kind}), JAX {jax.__version__}, Python "
        f"{platform.python_version()}, blocks of up to {block_of(device)}"
    )


def main(options: Options) -> None:
    if min(options.runs, options.steps, options.rounds, len(options.widths), *options.widths) < 1:
        sys.exit("--runs, --steps, --rounds and --widths must be 1 or more")
    # Compile without the cache, in the processes that measure memory too.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    jax.config.update("jax_enable_compilation_cache", False)
    console = Console()
    tasks = [
        Task(runs=options.runs, steps=options.steps, width=width, loss=options.loss)
        for width in options.widths
    ]
    # Memory first: a child process inherits its parent's peak, which is still small.
    sides = ("engine", "failing", "plain")
    memories: dict[Task, dict[str, Memory]] = {}
    for task in tasks:
        console.print(f"width {task.width}: memory, {len(sides)} processes")
        memories[task] = {side: memory(side, task) for side in sides}
    configure_lab()
    before = os.getloadavg()[0]
    measured: dict[Task, Measured] = {}
    for task in tasks:
        console.print(f"width {task.width}: times, {options.rounds} rounds")
        measured[task] = measure(task, options.rounds)
        measured[task].memory = memories[task]
    load = f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after (with this benchmark)"
    console.print(table(measured, f"{machine()}\n{load}"))


if __name__ == "__main__":
    main(tyro.cli(Options))
