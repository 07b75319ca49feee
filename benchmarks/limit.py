"""Compare a sweep's time with that of its matrix products alone.

The products are those of the training's forward and backward pass, with the same shapes; lanes are
vmapped in blocks of whichever width is the fastest for the products. The weights change a little
after each step, so that XLA cannot drop a product. The device's peak is the speed of one large
float32 product.
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
"""Rows of the matrices of the large product, by backend."""
LARGEST = 16384
"""The same for other backends."""
HEADINGS = ("width", "sweep", "products", "block", "sweep / products", "Gflop/s", "of peak")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare a sweep's time with that of its matrix products alone.

    Attributes:
        runs: the number of networks.
        steps: training steps of each network.
        rounds: how often each side is timed, in turn; medians are shown.
        widths: units in each of the three hidden layers; a row per width.
    """

    runs: int = 1024
    steps: int = 100
    rounds: int = 3
    widths: Annotated[tuple[int, ...], tyro.conf.arg(metavar="WIDTH ...")] = (16, 64, 256)


def products(weights: list[Array], inputs: Array, steps: int) -> list[Array]:
    """Compute the matrix products of this number of steps of one run's training."""

    def step(_: Array, weights: list[Array]) -> list[Array]:
        seen, h = [], inputs
        for w in weights:
            seen.append(h)
            h = h @ w
        moved: list[Array] = []
        for i in reversed(range(len(weights))):
            moved.append(weights[i] - 1e-6 * (seen[i].T @ h))
            if i:  # the data need no gradient
                h = h @ weights[i].T
        return moved[::-1]

    return lax.fori_loop(0, steps, step, weights)


def program(task: Task, block: int) -> Callable[[], None]:
    """Compile the products of all runs, split over the devices, block by block."""
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
    """Return the seconds of each side, by round."""
    spent: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for run, seconds in zip(sides, spent, strict=True):
            with Timed() as timed:
                run()
            seconds.append(timed.wall_s)
    return spent


class Products(NamedTuple):
    """The matrix products alone, in blocks of one width."""

    block: int
    run: Callable[[], object]


def fastest(programs: dict[int, Callable[[], object]], rounds: int) -> Products:
    """Return the products in the blocks that are the fastest, timed in turn."""
    medians = [median(spent) for spent in by_turns(list(programs.values()), rounds)]
    block = min(zip(medians, programs, strict=True))[1]
    return Products(block, programs[block])


def flops(task: Task) -> float:
    """Return the floating-point operations of the products of all runs."""
    sizes = (FEATURES, *[task.width] * DEPTH, CLASSES)
    pairs = list(pairwise(sizes))
    forward = sum(2 * BATCH * a * b for a, b in pairs)
    inputs_gradient = sum(2 * BATCH * a * b for a, b in pairs[1:])
    return float(task.runs * task.steps * (2 * forward + inputs_gradient))


def peak(rounds: int) -> float:
    """Return the floating-point operations per second of large products, one on each device."""
    size = LARGE.get(jax.default_backend(), LARGEST)
    matrices = jnp.ones((jax.device_count(), size, size), jnp.float32)
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    spec = PartitionSpec("devices")
    square = jax.jit(jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=spec, out_specs=spec))
    jax.block_until_ready(square(matrices))
    spent = by_turns([lambda: jax.block_until_ready(square(matrices))], max(rounds, 3))[0]
    return 2.0 * jax.device_count() * size**3 / median(spent)


def main(options: Options) -> None:
    if min(options.runs, options.steps, options.rounds, *options.widths) < 1:
        sys.exit("--runs, --steps, --rounds and --widths must be 1 or more")
    configure_lab()
    peak_flops = peak(options.rounds)
    caption = f"{machine()}\none large product: {peak_flops / 1e9:,.0f} Gflop/s"
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
            f"{flops(task) / sweep / peak_flops:.0%}",
        )  # fmt: skip
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Options))
