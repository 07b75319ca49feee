"""Measure what the flight recorder costs: a step, a call, a scan in chunks, compiling, memory.

The sides run in turn, block by block, in one process: the plain donated step, the watched one, the
plain one again (which says how noisy the machine is), and a loop that reads the loss each step.
What `nanlab.debug` costs is measured by `debug.py`.
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
        transformer_steps: steps of the transformer in a block; 0 leaves it, compiling and memory
            out.
        updates: iterations of the scan that is run in chunks; 0 leaves it out.
        every: calls between two copies of the state.
        memory: measure the memory of one side of the transformer, and print it.
    """

    rounds: int = 15
    mlp_steps: int = 256
    transformer_steps: int = 32
    updates: int = 1000
    every: int | Literal["auto"] = "auto"
    memory: Literal["", "plain", "watched", "on host"] = ""


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
    for side in sides.values():  # two copies of the state: the second chooses how often
        side.block(min(2 * steps, 160))
    return table_of(sides, steps, options.rounds)


def table_of(sides: dict[str, Any], steps: int, rounds: int) -> list[tuple[str, ...]]:
    """Run blocks of each side in turn; return rows as `compared` does. The first side is plain."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(rounds):
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


class ScanSide:
    """A training in one call."""

    def __init__(self, train: Any, state: Any) -> None:
        self._train, self._state = train, state

    def block(self, calls: int) -> tuple[float, float]:
        """Make some calls."""
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(self._train(self._state))
        return time.process_time() - cpu, time.perf_counter() - wall


def chunked(options: Options) -> list[tuple[str, ...]]:
    """Compare a training of many updates in one call with the same in chunks."""
    step, state, batches = mlp()
    batch = jax.tree.map(jnp.asarray, batches[0])

    def train(state: Any) -> Any:
        return jax.lax.scan(lambda s, _: step(s, batch), state, None, options.updates)

    recorder = nanlab.Recorder(long_scan=min(256, options.updates))
    watched = recorder.watch(jax.jit(train))
    sides = {
        "plain": ScanSide(jax.jit(train), state),
        "watched": ScanSide(watched, state),
        "plain again": ScanSide(jax.jit(train), state),
    }
    for side in sides.values():
        side.block(1)
    if watched.whole:
        print(f"not in chunks: {watched.whole}")
    return table_of(sides, 1, options.rounds)


def compile_times(rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of first calls of the transformer, tracing and compiling included."""
    step, state, batches = transformer()
    times: dict[str, list[float]] = {"plain": [], "watched": []}
    for turn in range(2 * rounds):
        name = ("plain", "watched")[(turn + turn // 2) % 2]
        jax.clear_caches()
        jitted = jax.jit(step, donate_argnums=0)
        jitted = nanlab.Recorder().watch(jitted) if name == "watched" else jitted
        times[name].append(Side(jitted, state, batches).block(1)[0])
    return times


def memory_of(side: str) -> None:
    """Print the memory of a process that trains the transformer, in bytes.

    The peak of the process, the arrays on the device and in the host's memory, and the state.
    """
    step, state, batches = transformer()
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    jitted = jax.jit(step, donate_argnums=0)
    if side != "plain":
        jitted = nanlab.Recorder(every=8, on_host=side == "on host").watch(jitted)
    run = Side(jitted, state, batches)
    del state
    run.block(32)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lying = {True: 0, False: 0}
    for x in jax.live_arrays():
        lying[x.sharding.memory_kind == "pinned_host"] += x.nbytes
    print(f"{peak} {lying[False]} {lying[True]} {size}")


def show_memory() -> None:
    """Print the memory of each side, in states."""
    table = Table("side", "peak of the process", "arrays on the device", "in the host's memory")
    for side in ("plain", "watched", "on host"):
        command = [sys.executable, __file__, "--memory", side]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        *found, size = map(int, done.stdout.split())
        table.add_row(side, *(f"{n / size:.2f} states" for n in found))
        table.title = f"the state is {size / 2**20:.0f} MiB"
    Console().print(table)


def main() -> None:
    """Run the trainings and print tables."""
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
    for row in chunked(options) if options.updates else ():
        table.add_row(f"a scan of {options.updates} updates", *row)
    Console().print(table)
    if not options.transformer_steps:
        return
    for name, times in compile_times(min(options.rounds, 5)).items():
        print(f"first call of the transformer, {name}: {median(times):.2f} s of CPU")
    show_memory()


if __name__ == "__main__":
    main()
