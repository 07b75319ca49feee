"""Compare the engine with other ways to train many networks, for the same training.

The sides are the sweep's engine with all its monitoring, a hand-written `jit(vmap(scan))`, a jitted
scan run by run, a jitted step in a Python loop (vmapped and run by run), and PyTorch: eager run by
run and `torch.func.vmap`. Sides that train one run after another are timed on a share of the runs,
and the table extrapolates to all runs.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from sides import Engine, Plain, Task, Timed, plain_start, plain_step, plain_training
from throughput import failing_lr, machine

from nanlab.backend.config import configure_lab

ENGINE, PLAIN, LOOP = "nanlab's engine", "jit(vmap(scan))", "jitted step, Python loop"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare the engine with other ways to train many networks.

    Attributes:
        runs: the number of networks.
        steps: training steps of each network.
        rounds: how often each side is timed, in turn; medians are shown.
        widths: units in each of the three hidden layers; a column per width.
        serial_runs: the number of runs timed on the sides that train one run after another.
    """

    runs: int = 4096
    steps: int = 100
    rounds: int = 3
    widths: Annotated[tuple[int, ...], tyro.conf.arg(metavar="WIDTH ...")] = (16, 64)
    serial_runs: int = 64


class Side(Protocol):
    """A way to train the runs of a task."""

    def run(self, lr: np.ndarray) -> tuple[Timed, Any]:
        """Train a run at each learning rate; return the time and the final losses."""
        ...


class ScanByRun:
    """A jitted `lax.scan` of one run's steps, called run by run."""

    def __init__(self, task: Task) -> None:
        self._train = jax.jit(lambda lr, seed: plain_training(task)(lr, seed)[1][-1])
        self._train(1e-3, 0).block_until_ready()

    def run(self, lr: np.ndarray) -> tuple[Timed, np.ndarray]:
        with Timed() as timed:
            losses = [float(self._train(rate, seed)) for seed, rate in enumerate(lr.tolist())]
        return timed, np.array(losses)


class StepInLoop:
    """A jitted step in a Python loop, run by run, as in most training scripts."""

    def __init__(self, task: Task) -> None:
        self._steps = task.steps
        self._start = jax.jit(lambda lr, seed: plain_start(task)(lr, seed))
        self._step = jax.jit(plain_step(task), donate_argnums=0)
        self._train(1e-3, 0, steps=1)

    def run(self, lr: np.ndarray) -> tuple[Timed, np.ndarray]:
        with Timed() as timed:
            losses = [
                self._train(rate, seed, steps=self._steps) for seed, rate in enumerate(lr.tolist())
            ]
        return timed, np.array(losses)

    def _train(self, lr: float, seed: int, *, steps: int) -> float:
        carry, loss = self._start(lr, seed), jnp.nan
        for t in range(steps):
            carry, loss = self._step(carry, lr, seed, t)
        return float(loss)


class VmappedStepInLoop:
    """A jitted, vmapped step of all runs in a Python loop over the steps."""

    def __init__(self, task: Task) -> None:
        self._steps, self._seeds = task.steps, np.arange(task.runs)
        self._start = jax.jit(jax.vmap(plain_start(task)))
        step = jax.vmap(plain_step(task), in_axes=(0, 0, 0, None))
        self._step = jax.jit(step, donate_argnums=0)
        self._train(task.healthy_lr(), steps=1)

    def run(self, lr: np.ndarray) -> tuple[Timed, np.ndarray]:
        with Timed() as timed:
            losses = self._train(lr, steps=self._steps)
        return timed, losses

    def _train(self, lr: np.ndarray, *, steps: int) -> np.ndarray:
        carry, losses = self._start(lr, self._seeds), np.zeros(0)
        for t in range(steps):
            carry, losses = self._step(carry, lr, self._seeds, t)
        return np.asarray(losses)


def sides() -> dict[str, tuple[Callable[[Task], Side], bool]]:
    """Return each side's constructor, and whether it trains one run after another."""
    found: dict[str, tuple[Callable[[Task], Side], bool]] = {
        ENGINE: (Engine, False),
        PLAIN: (Plain, False),
        "jit(vmap(step)), Python loop": (VmappedStepInLoop, False),
        "jit(scan), run by run": (ScanByRun, True),
        LOOP: (StepInLoop, True),
    }
    if importlib.util.find_spec("torch") is not None:
        from torch_sides import TorchEager, TorchVmap

        found["PyTorch, torch.func.vmap"] = (TorchVmap, False)
        found["PyTorch eager, run by run"] = (TorchEager, True)
    return found


def measure(task: Task, options: Options) -> dict[str, float]:
    """Return the seconds for all runs by side, without failures and when a third fail."""
    built = {name: (make(task), serial) for name, (make, serial) in sides().items()}
    lr = task.healthy_lr()
    few = lr[:: max(1, len(lr) // options.serial_runs)]
    spent: dict[str, list[float]] = {name: [] for name in built}
    losses: dict[str, np.ndarray] = {}
    for _ in range(options.rounds):
        for name, (side, serial) in built.items():
            rates = few if serial else lr
            timed, ended = side.run(rates)
            spent[name].append(timed.wall_s * len(lr) / len(rates))
            losses[name] = getattr(ended, "final_loss", ended)
    if np.max(np.abs(losses[ENGINE] / losses[PLAIN] - 1)) > 1e-3:
        sys.exit("the sides differ: the engine's final losses are not those of jit(vmap(scan))")
    engine, plain = built[ENGINE][0], built[PLAIN][0]
    assert isinstance(engine, Engine)
    failing = failing_lr(engine)[1]
    both = [(engine.run(failing)[0].wall_s, plain.run(failing)[0].wall_s)
            for _ in range(options.rounds)]  # fmt: skip
    found = {name: median(rounds) for name, rounds in spent.items()}
    found[f"a third fail: {ENGINE}"] = median(a for a, _ in both)
    found[f"a third fail: {PLAIN}"] = median(b for _, b in both)
    return found


def table(measured: dict[Task, dict[str, float]], options: Options, caption: str) -> Table:
    """Return a table with a row per side: seconds, and their multiple of the engine's."""
    title = f"{options.runs:,} runs x {options.steps} steps, seconds (times the engine's)"
    shown = Table(title=title, caption=caption)
    shown.add_column("side", no_wrap=True)
    for task in measured:
        shown.add_column(f"width {task.width}", justify="right", no_wrap=True)
    names = list(next(iter(measured.values())))
    serial = {name for name, (_, one_by_one) in sides().items() if one_by_one}
    for name in names:
        cells = [f"{m[name]:,.2f} ({m[name] / m[ENGINE]:,.2f})" for m in measured.values()]
        shown.add_row(f"{name} *" if name in serial else name, *cells)
    return shown


def main(options: Options) -> None:
    if min(options.runs, options.steps, options.rounds, options.serial_runs, *options.widths) < 1:
        sys.exit("--runs, --steps, --rounds, --serial-runs and --widths must be 1 or more")
    configure_lab()
    console = Console()
    tasks = [
        Task(runs=options.runs, steps=options.steps, width=width, loss="softmax_cross_entropy")
        for width in options.widths
    ]
    before = os.getloadavg()[0]
    measured: dict[Task, dict[str, float]] = {}
    for task in tasks:
        console.print(f"width {task.width}: {options.rounds} rounds of {len(sides())} sides")
        measured[task] = measure(task, options)
    absent = "" if importlib.util.find_spec("torch") else "PyTorch is not installed: left out\n"
    note = f"* timed on {options.serial_runs} runs, times {options.runs / options.serial_runs:g}\n"
    console.print(table(measured, options, f"{note}{absent}{machine()}, load {before:.1f} before"))
    for task, found in measured.items():
        console.print(
            f"width {task.width}: {found[ENGINE] / found[PLAIN]:.2f} of jit(vmap(scan))'s time, "
            f"{found[LOOP] / found[ENGINE]:.0f} times the throughput of the Python loop"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
