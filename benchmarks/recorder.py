"""Measure what the flight recorder costs: time of a step, time of a call, and memory.

The sides run in turn, block by block, in one process: the plain donated step, the watched one, the
plain one again (which says how noisy the machine is), and a loop that reads the loss each step.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.table import Table
from transformer import Options as Model
from transformer import training

import nanlab


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time a training with and without the recorder.

    Attributes:
        rounds: number of blocks of each side; medians and quartiles of the ratios are shown.
        mlp_steps: steps of the small network in a block.
        transformer_steps: steps of the transformer in a block; 0 leaves it and the memory out.
        every: calls between two copies of the state.
        memory: measure the peak memory of one side of the transformer, and print it.
    """

    rounds: int = 15
    mlp_steps: int = 256
    transformer_steps: int = 32
    every: int = 64
    memory: Literal["", "plain", "watched"] = ""


Step = Callable[[Any, Any], tuple[Any, Any]]


def mlp() -> tuple[Step, Any, list[Any]]:
    """Return a step of a network with 20 leaves and Adam, its state, and NumPy batches."""
    sizes, optimizer = (64, 128, 128, 128, 10), optax.adam(1e-3)
    keys = jax.random.split(jax.random.key(0), len(sizes))
    layers = [
        (0.05 * jax.random.normal(k, (a, b)), jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]

    def loss_of(layers: Any, batch: Any) -> jax.Array:
        x, y = batch
        for w, b in layers:
            x = jax.nn.relu(x @ w + b)
        return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        layers, inner = state
        loss, gradients = jax.value_and_grad(loss_of)(layers, batch)
        updates, inner = optimizer.update(gradients, inner, layers)
        return (optax.apply_updates(layers, updates), inner), loss

    rng = np.random.default_rng(0)
    batches = [
        (rng.normal(size=(64, 64)).astype(np.float32), rng.integers(0, 10, 64)) for _ in range(16)
    ]
    return step, (layers, optimizer.init(layers)), batches


def transformer() -> tuple[Step, Any, list[Any]]:
    """Return a step of a transformer of 10.9 million parameters, its state, and batches."""
    plain, (params, inner, tokens) = training(Model())

    def step(state: Any, tokens: Any) -> tuple[Any, Any]:
        params, inner, loss = plain(*state, tokens)
        # The model has a fault at its fourth layer: it is not trained here, only run.
        return state_of(params, inner, state), jnp.nan_to_num(loss)

    def state_of(params: Any, inner: Any, before: Any) -> Any:
        return jax.tree.map(
            lambda new, old: jnp.where(jnp.isfinite(new), new, old), (params, inner), before
        )

    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 512, tokens.shape).astype(np.int32) for _ in range(16)]
    return step, (params, inner), batches


class Side:
    """One way to run a training; `block` runs some steps and returns seconds of CPU and of wall."""

    def __init__(self, step: Any, state: Any, batches: list[Any], *, reads: bool = False) -> None:
        self._step, self._batches, self._reads = step, batches, reads
        self._state, self._t = jax.tree.map(jnp.array, state), 0

    def block(self, steps: int) -> tuple[float, float]:
        """Run some steps."""
        cpu, wall = time.process_time(), time.perf_counter()
        loss = None
        for _ in range(steps):
            batch = self._batches[self._t % len(self._batches)]
            self._state, loss = self._step(self._state, batch)
            self._t += 1
            if self._reads:
                float(loss)
        jax.block_until_ready((self._state, loss))
        return time.process_time() - cpu, time.perf_counter() - wall


def compared(make: Callable[[], Any], steps: int, options: Options) -> list[tuple[str, ...]]:
    """Return rows of (side, ratio of CPU time, ratio of wall time, microseconds a call)."""
    step, state, batches = make()
    plain = jax.jit(step, donate_argnums=0)
    recorder = nanlab.Recorder(every=options.every)
    sides = {
        "plain": Side(plain, state, batches),
        "watched": Side(recorder.watch(jax.jit(step, donate_argnums=0)), state, batches),
        "plain again": Side(jax.jit(step, donate_argnums=0), state, batches),
        "float(loss) each step": Side(plain, state, batches, reads=True),
    }
    for side in sides.values():
        side.block(2 * options.every)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(options.rounds):
        names = list(sides)[turn % len(sides) :] + list(sides)[: turn % len(sides)]
        for name in names:
            times[name].append(sides[name].block(steps))
    rows = []
    for name in list(sides)[1:]:
        ratios = [
            [a[i] / b[i] for a, b in zip(times[name], times["plain"], strict=True)] for i in (0, 1)
        ]
        extra = [
            (a[1] - b[1]) / steps * 1e6 for a, b in zip(times[name], times["plain"], strict=True)
        ]
        rows.append((name, *map(_spread, ratios), f"{median(extra):+.0f}"))
    base = median(wall for _, wall in times["plain"]) / steps * 1e6
    rows.insert(0, ("plain", "1", "1", f"{base:.0f} in all"))
    return rows


def _spread(values: list[float]) -> str:
    low, middle, high = quantiles(values, n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def memory_of(side: str) -> None:
    """Print the peak memory of a process that trains the transformer."""
    step, state, batches = transformer()
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    jitted = jax.jit(step, donate_argnums=0)
    if side == "watched":
        jitted = nanlab.Recorder(every=8).watch(jitted)
    run = Side(jitted, state, batches)
    del state
    run.block(32)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{peak} {size}")


def main() -> None:
    """Run both trainings and print a table."""
    options = tyro.cli(Options)
    if options.memory:
        memory_of(options.memory)
        return
    title = f"{platform.processor() or platform.machine()}, JAX {jax.__version__}"
    table = Table("training", "side", "CPU time", "wall time", "microseconds a call", title=title)
    for name, make, steps in (
        ("MLP", mlp, options.mlp_steps),
        ("transformer", transformer, options.transformer_steps),
    ):
        for row in compared(make, steps, options) if steps else ():
            table.add_row(name, *row)
    Console().print(table)
    if not options.transformer_steps:
        return
    command = [sys.executable, __file__, "--memory"]
    peaks = {}
    for side in ("plain", "watched"):
        done = subprocess.run([*command, side], check=True, capture_output=True, text=True)
        peaks[side], size = map(int, done.stdout.split())
        print(f"{side}: peak memory {peaks[side] / 2**20:.0f} MiB (state {size / 2**20:.0f} MiB)")
    print(f"more: {(peaks['watched'] - peaks['plain']) / size:.2f} states")


if __name__ == "__main__":
    main()
