"""Compare the engine with the published code on the trainability fractal.

The published notebook (Sohl-Dickstein 2024) calls a jitted, vmapped step from a Python loop, in
batches of up to 50,000 lanes, and stores every loss. Both sides train the network of
`examples/fractal.py` from the same random draws; a pixel has converged if the mean of its last 20
losses is below its first loss.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from sides import Timed
from throughput import machine

from nanlab.backend.config import configure_lab
from nanlab.backend.keys import init_key
from nanlab.engine.block_width import launch_runs
from nanlab.engine.group_runner import GroupRunner
from nanlab.engine.lanes import NEVER, Lanes
from nanlab.plan.plan import chunks

BATCH = 50_000
WINDOW = 20
EXAMPLE = Path(__file__).resolve().parents[1] / "examples/fractal.py"
SPEC = f"{EXAMPLE}:make_problem"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare the engine with a vmapped step in a Python loop on the trainability fractal.

    Attributes:
        pixels: pixels along each side of the map.
        steps: training steps of a pixel; a row per number.
        rounds: how often each side is timed, in turn; medians are shown.
    """

    pixels: int = 64
    steps: Annotated[tuple[int, ...], tyro.conf.arg(metavar="STEPS ...")] = (100, 500)
    rounds: int = 3


def rates(pixels: int) -> dict[str, np.ndarray]:
    """Return both learning rates of each pixel, from 1e-3 to 1e6."""
    axis = np.logspace(-3, 6, pixels)
    hidden, output = np.meshgrid(axis, axis, indexing="ij")
    return {"knobs.lr_hidden": hidden.ravel(), "knobs.lr_output": output.ravel()}


class Sweep:
    """The engine, called chunk by chunk as in a sweep, with monitoring and attribution."""

    def __init__(self, knobs: dict[str, np.ndarray], steps: int) -> None:
        count = len(knobs["knobs.lr_hidden"])
        self._pieces = chunks(count, chunk_runs=launch_runs(jax.devices()))
        largest = max(piece.stop - piece.start for piece in self._pieces)
        self._worker = GroupRunner({"problem": SPEC}, runs=largest)
        zeros = np.zeros(count, np.int64)
        self._lanes = Lanes(knobs, zeros, np.full(count, steps, np.int32))
        # Running once compiles the forensics too.
        self.run()

    def run(self) -> tuple[Timed, np.ndarray]:
        with Timed() as timed:
            done = [
                self._worker.run(jax.tree.map(lambda x, p=piece: x[p], self._lanes))
                for piece in self._pieces
            ]
        fault = np.concatenate([chunk.endings.fault_step for chunk in done])
        first = np.concatenate([chunk.endings.initial_loss for chunk in done])
        last = np.concatenate([chunk.endings.final_loss for chunk in done])
        return timed, (fault == NEVER) & (last < first)


class Loop:
    """A jitted, vmapped step in a Python loop that stores the losses."""

    def __init__(self, knobs: dict[str, np.ndarray], steps: int) -> None:
        sys.path.insert(0, str(EXAMPLE.parent))
        from fractal import make_problem  # examples/fractal.py, not this file

        problem = make_problem()
        key = init_key(jnp.int64(0))
        weights = problem.init({}, key)[0]

        def one(weights: Any, hidden: jax.Array, output: jax.Array) -> tuple[Any, jax.Array]:
            state = (weights, jnp.zeros(WINDOW), jnp.int32(0))
            knobs = {"lr_hidden": hidden, "lr_output": output}
            (weights, _, _), metrics = problem.step(state, knobs, key)
            return weights, metrics.loss

        self._step = jax.jit(jax.vmap(one), donate_argnums=0)
        self._weights, self._knobs, self._steps = weights, knobs, steps
        self._train(2)

    def run(self) -> tuple[Timed, np.ndarray]:
        with Timed() as timed:
            losses = self._train(self._steps)
        with np.errstate(all="ignore"):
            return timed, losses[:, -WINDOW:].mean(axis=1) < losses[:, 0]

    def _train(self, steps: int) -> np.ndarray:
        parts: list[np.ndarray] = []
        count = len(self._knobs["knobs.lr_hidden"])
        for at in range(0, count, BATCH):
            batch = {name: jnp.asarray(v[at : at + BATCH]) for name, v in self._knobs.items()}
            lanes = len(batch["knobs.lr_hidden"])
            weights = jax.tree.map(lambda w, n=lanes: jnp.tile(w, (n, 1, 1)), self._weights)
            losses: list[jax.Array] = []
            for _ in range(steps):
                weights, loss = self._step(weights, *batch.values())
                losses.append(loss)
            parts.append(np.asarray(jnp.stack(losses, axis=1)))
        return np.concatenate(parts)


def main(options: Options) -> None:
    if min(options.pixels, options.rounds) < 1 or min(options.steps) < WINDOW:
        sys.exit(f"--pixels and --rounds must be 1 or more, --steps {WINDOW} or more")
    configure_lab()
    console, knobs = Console(), rates(options.pixels)
    shown = Table(title=f"{options.pixels} x {options.pixels} pixels", caption=machine())
    for heading in ("steps", "engine", "Python loop", "engine / loop", "pixels alike", "converged"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for steps in options.steps:
        sweep, loop = Sweep(knobs, steps), Loop(knobs, steps)
        spent: tuple[list[float], list[float]] = ([], [])
        alike = share = 0.0
        for _ in range(options.rounds):
            (mine, converged), (theirs, also) = sweep.run(), loop.run()
            spent[0].append(mine.wall_s)
            spent[1].append(theirs.wall_s)
            alike, share = float((converged == also).mean()), float(converged.mean())
        a, b = map(median, spent)
        cells = (f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.2f}", f"{alike:.2%}", f"{share:.0%}")
        shown.add_row(f"{steps}", *cells)
    console.print(shown)


if __name__ == "__main__":
    main(tyro.cli(Options))
