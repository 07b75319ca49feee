"""Measure what `nanlab.debug`'s watch adds to a training step, paired in one process.

Blocks of plain and of watched steps take turns; the table shows medians of CPU seconds (of all
cores) and of their ratios, with the quartiles of the ratios. The first call includes tracing and
compiling.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.table import Table
from throughput import machine

from nanlab.blame.watch.watch import Watch

TARGET = 1.3


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what nanlab.debug's watch adds to a training step.

    Attributes:
        blocks: the number of blocks of each side.
        seconds: of plain steps in a block.
        cases: names of the cases; all by default.
    """

    blocks: int = 12
    seconds: float = 0.3
    cases: tuple[str, ...] = ()


def mlp(width: int, layers: int, batch: int, *, donated: bool) -> tuple[Any, tuple[Any, ...]]:
    """Return a step with momentum of a network, and its first arguments: the state, the batch."""
    keys = jax.random.split(jax.random.key(0), layers)
    weights = [(jax.random.normal(k, (width, width)) / width**0.5, jnp.zeros(width)) for k in keys]

    def loss(weights: Any, x: Any) -> Any:
        for w, b in weights:
            x = jnp.tanh(x @ w + b)
        return jnp.mean(x**2)

    def step(state: Any, x: Any) -> Any:
        weights, momentum = state
        value, gradient = jax.value_and_grad(loss)(weights, x)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradient)
        weights = jax.tree.map(lambda w, m: w - 1e-3 * m, weights, momentum)
        return (weights, momentum), value

    state = (weights, jax.tree.map(jnp.zeros_like, weights))
    x = jax.random.normal(jax.random.key(1), (batch, width))
    return jax.jit(step, donate_argnums=0 if donated else ()), (state, x)


def scanned(updates: int) -> tuple[Any, tuple[Any, ...]]:
    """Return a whole training in one call: a scan of updates."""
    step, (state, x) = mlp(32, 3, 32, donated=False)

    @jax.jit
    def train(state: Any, x: Any) -> Any:
        return jax.lax.scan(lambda state, _: step(state, x), state, None, updates)

    return train, (state, x)


CASES: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "8 leaves": lambda: mlp(16, 2, 16, donated=True),
    "20 leaves": lambda: mlp(128, 5, 128, donated=True),
    "20 leaves, not donated": lambda: mlp(128, 5, 128, donated=False),
    "900 leaves": lambda: mlp(32, 225, 256, donated=True),
    "16 leaves, 8 million numbers": lambda: mlp(1024, 4, 128, donated=True),
    "16 leaves, 8 million numbers, not donated": lambda: mlp(1024, 4, 128, donated=False),
    "a scan of 1,000 updates": lambda: scanned(1000),
}


class Side:
    """Steps of one training, plain or watched."""

    def __init__(self, step: Any, arguments: tuple[Any, ...], watch: Watch | None) -> None:
        self._step, self._rest, self._watch = step, arguments[1:], watch
        self._state = jax.tree.map(jnp.copy, arguments[0])

    def block(self, steps: int) -> tuple[float, float]:
        """Return (CPU seconds a step, wall seconds a step)."""
        with self._watch.watching() if self._watch else nullcontext():
            self._run(2)  # the hooks have emptied JAX's fast paths
            gc.collect()
            start, clock = time.process_time(), time.perf_counter()
            self._run(steps)
            return (time.process_time() - start) / steps, (time.perf_counter() - clock) / steps

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            self._state, _value = self._step(self._state, *self._rest)
        jax.block_until_ready(self._state)


def measure(build: Callable[[], tuple[Any, tuple[Any, ...]]], options: Options) -> list[str]:
    """Return a case's row of the table."""
    step, arguments = build()
    sides, first = list[Side](), list[float]()
    for watch in (None, Watch()):
        jax.clear_caches()
        side = Side(step, arguments, watch)
        start = time.process_time()
        side.block(1)
        first.append(time.process_time() - start)
        sides.append(side)
    spent = sides[0].block(2)[0]
    steps = max(2, round(options.seconds / spent))
    pairs = [[side.block(steps) for side in sides] for _ in range(options.blocks)]
    ratios, walls = ([w[i] / p[i] for p, w in pairs] for i in (0, 1))
    plain, watched = (statistics.median(pair[i][0] for pair in pairs) for i in (0, 1))
    low, middle, high = statistics.quantiles(ratios, n=4)
    return [
        f"{1e3 * plain:.3g}", f"{1e3 * watched:.3g}", f"{middle:.2f} ({low:.2f} to {high:.2f})",
        f"{statistics.median(walls):.2f}", f"{first[0]:.2f}", f"{first[1]:.2f}",
    ]  # fmt: skip


def main(options: Options) -> None:
    """Print the table."""
    console = Console()
    table = Table(title=f"nanlab.debug's watch, target {TARGET}", caption=machine())
    for name in ("step", "plain, ms", "watched, ms", "ratio", "wall", "first, s", "watched, s"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for name in options.cases or CASES:
        table.add_row(name, *measure(CASES[name], options))
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
