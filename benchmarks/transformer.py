"""Measure what pinpointing costs on a transformer's training step.

The model has 6 layers and at least 10 million parameters and trains with AdamW; a normalization
without eps in the fourth layer meets a row of zeros. Compile time and run time are measured for the
plain and for the instrumented step.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro
from rich.console import Console
from rich.table import Table

import nanlab
from nanlab.blame.diagnosis.large_programs import coarse_values
from nanlab.blame.probes.codes import Probe
from nanlab.blame.program.program import flatten


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time a transformer's step, plain and instrumented.

    Attributes:
        width: width of the residual stream.
        length: tokens in a sequence.
        batch: sequences in a batch.
        rounds: how often each side runs, in turn; medians are shown.
    """

    width: int = 384
    length: int = 64
    batch: int = 8
    rounds: int = 5


LAYERS, HEADS, WORDS = 6, 6, 512
FAULTY_LAYER = 3


class Block(nn.Module):
    """Attention and a feed-forward layer; a faulty block normalizes without eps."""

    is_faulty: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.SelfAttention(HEADS)(nn.LayerNorm()(x), mask)
        h = nn.LayerNorm()(x)
        if self.is_faulty:
            silenced = h * (jnp.arange(h.shape[1]) > 0)[:, None]
            h = silenced * jax.lax.rsqrt(jnp.var(silenced, axis=-1, keepdims=True))
        h = nn.gelu(nn.Dense(4 * x.shape[-1])(h))
        return x + nn.Dense(x.shape[-1])(h)


class Transformer(nn.Module):
    """A decoder-only language model."""

    width: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(WORDS, self.width)(tokens)
        for layer in range(LAYERS):
            x = Block(layer == FAULTY_LAYER)(x)
        return nn.Dense(WORDS)(nn.LayerNorm()(x))


def training(options: Options) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a training step and its arguments."""
    model, optimizer = Transformer(options.width), optax.adamw(1e-3)
    shape = (options.batch, options.length + 1)
    tokens = jax.random.randint(jax.random.key(0), shape, 0, WORDS)
    params = jax.jit(model.init)(jax.random.key(1), tokens[:, :-1])

    def step(params: Any, state: Any, tokens: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            logits = model.apply(params, tokens[:, :-1])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return losses.mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step, (params, jax.jit(optimizer.init)(params), tokens)


def compiled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, Any]:
    """Return the seconds to trace, lower and compile a function, and the program."""
    began = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return time.perf_counter() - began, program


def seconds(program: Any, arguments: tuple[Any, ...]) -> float:
    """Run a program once; return the seconds."""
    began = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return time.perf_counter() - began


def stopped_by_debug_nans(step: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Return the first line of the error that `jax.debug_nans` raises."""
    with jax.debug_nans(True), contextlib.redirect_stdout(io.StringIO()):
        try:
            jax.block_until_ready(jax.jit(step)(*arguments))
        except FloatingPointError as error:
            return str(error).splitlines()[0]
    return "no error"


def main(options: Options) -> None:
    step, arguments = training(options)
    count = sum(leaf.size for leaf in jax.tree.leaves(arguments[0]))
    plain_compile, plain = compiled(step, arguments)
    program = flatten(step, *arguments)
    probe = Probe(program, only=coarse_values(program))
    probe_compile, probed = compiled(probe, arguments)
    sides = {"plain": plain, "instrumented": probed}
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, program in sides.items():
            taken[side].append(seconds(program, arguments))
    jax.clear_caches()
    began = time.perf_counter()
    verdict = nanlab.pinpoint(step, *arguments)
    pinpoint_s = time.perf_counter() - began
    jax.clear_caches()
    began = time.perf_counter()
    message = stopped_by_debug_nans(step, arguments)
    debug_nans_s = time.perf_counter() - began
    run_s = {side: median(rounds) for side, rounds in taken.items()}
    table = Table(
        title=f"{count / 1e6:.1f} million parameters, {LAYERS} layers, {len(probe.slots)} values",
        caption=f"{os.cpu_count()} cores, JAX {jax.__version__}, {jax.devices()[0].platform}",
    )
    for column in ("", "plain", "instrumented", "ratio", "target"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, a, b, target in (
        ("compile", plain_compile, probe_compile, "2.5"),
        ("run", run_s["plain"], run_s["instrumented"], "1.5"),
    ):
        table.add_row(name, f"{a:.2f} s", f"{b:.2f} s", f"{b / a:.2f}", f"<= {target}")
    console = Console()
    console.print(table)
    console.print(f"nanlab.pinpoint from a cold start: {pinpoint_s:.1f} s", highlight=False)
    console.print(
        f"jax.debug_nans from a cold start: {debug_nans_s:.1f} s, {message!r}", highlight=False
    )
    console.print(verdict)


if __name__ == "__main__":
    main(tyro.cli(Options))
