"""How far from the limit: a sweep's time over that of its matrix products alone.

The products are those of the training's forward and backward pass, of the same shapes, lanes
vmapped in blocks of the width that is fastest for them. The weights move a little after each step,
so that no product can be left out. The device's peak is what one large product of float32 reaches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Annotated, NamedTuple

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

from nanlab.backend.config import configure_lab

BLOCKS = (8, 16, 32, 64, 128, 256)
LARGE = {"cpu": 2048}
"""Rows of the large product's matrices; LARGEST where a device is not named."""
LARGEST = 16384
HEADINGS = ("width", "sweep", "products", "block", "sweep / products", "Gflop/s", "of peak")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare the engine's time with that of the training's matrix products alone.

    Attributes:
        runs: how many networks.
        steps: how many steps each is trained.
        rounds: how often each side is timed; by turns, medians are shown.
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


def by_turns(sides: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """The seconds of each side, in each round."""
    spent: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for run, seconds in zip(sides, spent, strict=True):
            with Timed() as timed:
                run()
            seconds.append(timed.wall_s)
    return spent


class Products(NamedTuple):
    """The matrix products alone, in blocks of some width."""

    block: int
    run: Callable[[], object]


def fastest(programs: dict[int, Callable[[], object]], rounds: int) -> Products:
    """The block's width whose products are the fastest, by turns."""
    medians = [median(each) for each in by_turns(list(programs.values()), rounds)]
    block = min(zip(medians, programs, strict=True))[1]
    return Products(block, programs[block])


def flops(task: Task) -> float:
    """Floating-point operations of the products of all runs."""
    sizes = (FEATURES, *[task.width] * DEPTH, CLASSES)
    pairs = list(pairwise(sizes))
    one = sum(2 * BATCH * a * b for a, b in pairs)
    back = sum(2 * BATCH * a * b for a, b in pairs[1:])
    return float(task.runs * task.steps * (2 * one + back))


def peak(rounds: int) -> float:
    """Floating-point operations a second of one large product, on all devices at once."""
    size = LARGE.get(jax.default_backend(), LARGEST)
    each = jnp.ones((jax.device_count(), size, size), jnp.float32)
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    spec = PartitionSpec("devices")
    square = jax.jit(jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=spec, out_specs=spec))
    jax.block_until_ready(square(each))
    spent = by_turns([lambda: jax.block_until_ready(square(each))], max(rounds, 3))[0]
    return 2.0 * jax.device_count() * size**3 / median(spent)


def main(options: Options) -> None:
    if min(options.runs, options.steps, options.rounds, *options.widths) < 1:
        sys.exit("--runs, --steps, --rounds and --widths must be 1 or more")
    configure_lab()
    most = peak(options.rounds)
    caption = f"{machine()}\none large product: {most / 1e9:,.0f} Gflop/s"
    shown = Table(title=f"{options.runs:,} runs x {options.steps} steps", caption=caption)
    for heading in HEADINGS:
        shown.add_column(heading, justify="right", no_wrap=True)
    for width in options.widths:
        task = Task(
            runs=options.runs, steps=options.steps, width=width, loss="softmax_cross_entropy"
        )
        fits = [b for b in BLOCKS if options.runs % (b * jax.device_count()) == 0]
        if not fits:
            sys.exit(f"--runs must be a multiple of {BLOCKS[0] * jax.device_count()}")
        best = fastest({block: program(task, block) for block in fits}, options.rounds)
        engine, lr = Engine(task), task.healthy_lr()
        sides = (lambda e=engine, r=lr: e.run(r), best.run)
        sweeps, alone = by_turns(sides, options.rounds)
        ratio = median(a / b for a, b in zip(sweeps, alone, strict=True))
        sweep = median(sweeps)
        shown.add_row(
            f"{width}", f"{sweep:.2f} s", f"{median(alone):.2f} s", f"{best.block}",
            f"{ratio:.2f}", f"{flops(task) / sweep / 1e9:.1f}",
            f"{flops(task) / sweep / most:.0%}",
        )  # fmt: skip
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Options))
