"""How far from the limit: a sweep's time over that of its matrix products alone.

The products are those of the training's forward and backward pass, of the same shapes, lanes
vmapped in blocks of the width that is fastest for them. The weights move a little after each step,
so that no product can be left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec
from rich.console import Console
from rich.table import Table
from sides import BATCH, CLASSES, DEPTH, FEATURES, Engine, Task, Timed
from throughput import machine

from nanlab._jax import configure_lab

BLOCKS = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare the engine's time with that of the training's matrix products alone.

    Attributes:
        runs: how many networks.
        steps: how many steps each is trained.
        rounds: how often each side is timed; medians are shown.
        widths: units in each of the three hidden layers, a network each.
    """

    runs: int = 1024
    steps: int = 100
    rounds: int = 3
    widths: Annotated[tuple[int, ...], tyro.conf.arg(metavar="WIDTH ...")] = (16, 64, 256)


def products(weights: list[Array], inputs: Array, steps: int) -> list[Array]:
    """The matrix products of some steps of one run's training."""

    def step(_: Array, weights: list[Array]) -> list[Array]:
        seen, h = [], inputs
        for w in weights:
            seen.append(h)
            h = h @ w
        moved: list[Array] = []
        for i in reversed(range(len(weights))):
            moved.append(weights[i] - 1e-6 * (seen[i].T @ h))
            if i:  # no gradient of the data is needed
                h = h @ weights[i].T
        return moved[::-1]

    return lax.fori_loop(0, steps, step, weights)


def program(task: Task, block: int) -> Callable[[], None]:
    """The products of all runs, each device with its share, block by block."""
    sizes = (FEATURES, *[task.width] * DEPTH, CLASSES)
    rng = np.random.default_rng(0)
    weights = [
        jnp.asarray(rng.standard_normal((task.runs, a, b)) / np.sqrt(a), jnp.float32)
        for a, b in pairwise(sizes)
    ]
    inputs = jnp.asarray(rng.standard_normal((task.runs, BATCH, FEATURES)), jnp.float32)

    def here(weights: list[Array], inputs: Array) -> list[Array]:
        split = jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), (weights, inputs))
        return lax.map(lambda b: jax.vmap(lambda w, x: products(w, x, task.steps))(*b), split)

    lanes = PartitionSpec("lanes")
    mesh = Mesh(np.array(jax.devices()), ("lanes",))
    compiled = jax.jit(jax.shard_map(here, mesh=mesh, in_specs=(lanes, lanes), out_specs=lanes))
    jax.block_until_ready(compiled(weights, inputs))
    return lambda: jax.block_until_ready(compiled(weights, inputs))


def seconds(run: Callable[[], None], rounds: int) -> float:
    spent: list[float] = []
    for _ in range(rounds):
        with Timed() as timed:
            run()
        spent.append(timed.wall_s)
    return median(spent)


def flops(task: Task) -> float:
    """Floating-point operations of the products of all runs."""
    sizes = (FEATURES, *[task.width] * DEPTH, CLASSES)
    pairs = list(pairwise(sizes))
    one = sum(2 * BATCH * a * b for a, b in pairs)
    back = sum(2 * BATCH * a * b for a, b in pairs[1:])
    return float(task.runs * task.steps * (2 * one + back))


def main(options: Options) -> None:
    if min(options.runs, options.steps, options.rounds, *options.widths) < 1:
        sys.exit("--runs, --steps, --rounds and --widths must be 1 or more")
    configure_lab()
    shown = Table(title=f"{options.runs:,} runs x {options.steps} steps", caption=machine())
    for heading in ("width", "sweep", "products", "their block", "sweep / products", "Gflop/s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for width in options.widths:
        task = Task(
            runs=options.runs, steps=options.steps, width=width, loss="softmax_cross_entropy"
        )
        fits = [b for b in BLOCKS if options.runs % (b * jax.device_count()) == 0]
        if not fits:
            sys.exit(f"--runs must be a multiple of {BLOCKS[0] * jax.device_count()}")
        tried = {block: seconds(program(task, block), options.rounds) for block in fits}
        best = min(tried, key=lambda block: tried[block])
        engine = Engine(task)
        sweep = seconds(lambda e=engine, t=task: e.run(t.healthy_lr()), options.rounds)
        shown.add_row(
            f"{width}", f"{sweep:.2f} s", f"{tried[best]:.2f} s", f"{best}",
            f"{sweep / tried[best]:.2f}", f"{flops(task) / sweep / 1e9:.1f}",
        )  # fmt: skip
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Options))
