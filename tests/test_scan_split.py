"""A program split at its longest scan computes the bits of the whole program, in any parts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sampled import sampled

from nanlab.blame.program.program import flatten
from nanlab.blame.program.scan_split import ScanSplit

X = np.linspace(0.1, 1.0, 6, dtype=np.float32).reshape(2, 3)


def sgd(w, data):
    def update(w, batch):
        loss, gradient = jax.value_and_grad(lambda w: jnp.sum(jnp.tanh(batch @ w) ** 2))(w)
        return w - 0.1 * gradient, loss

    w, losses = lax.scan(
        update, w * 2, jnp.tile(data, (5, 1, 1)) * jnp.arange(1.0, 6.0)[:, None, None]
    )
    return {"weights": w, "losses": losses, "data": data, "mean": losses.mean()}


def nested(w, data):
    def epoch(carry, _):
        return lax.scan(lambda c, x: (jnp.sin(c + x @ c), c[0]), carry, data)

    return lax.scan(epoch, w[:, 0] if w.ndim > 1 else w, None, length=7)


def reversed_with_keys(w, data):
    def body(carry, key):
        w, count = carry
        return (w + jax.random.normal(key, w.shape, w.dtype), count + 1), w.sum()

    keys = jax.random.split(jax.random.key(3), 6)
    return lax.scan(body, (w, 0), keys, reverse=True)


@jax.jit
def in_calls(w, data):
    @jax.jit
    def inner(w):
        return jax.checkpoint(lambda w: lax.scan(lambda c, x: (c * jnp.cos(x), c), w, data[0]))(w)

    before = lax.scan(lambda c, _: (c + 1, None), w, None, length=2)[0]
    return inner(before * 0.5), jnp.exp(w)


def unrolled(w, data):
    return lax.scan(lambda c, x: (jnp.tanh(c * x), x), w, data.reshape(-1), unroll=4)


def without_carry(w, data):
    return lax.map(lambda x: jnp.sum(w * x), data.reshape(-1))


def in_lanes(w, data):
    return jax.vmap(sgd, in_axes=(0, None))(jnp.stack([w, -w, w * 3]), data)


PROGRAMS = [
    sgd, nested, reversed_with_keys, in_calls, unrolled, without_carry, in_lanes,
    jax.jacfwd(nested), jax.grad(lambda w, data: in_calls(w, data)[0][0].sum()),
]  # fmt: skip


def run_in_parts(split, arguments, lengths):
    """The flat results, from parts of these lengths."""
    run = jax.jit(split.iterations, static_argnames="count")
    start = jax.jit(split.before)(*map(jnp.asarray, arguments))
    carry, parts, first = start.carry, [], 0
    for count in lengths:
        carry, stacked = run(start, carry, first=first, count=count)
        parts.append(stacked)
        first += count
    return jax.jit(split.after)(start, carry, split.joined(parts))


def bits(leaf):
    leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return (leaf.shape, leaf.dtype, np.asarray(leaf).tobytes())


@pytest.mark.parametrize(("function", "size"), sampled(itertools.product(PROGRAMS, [2, 1, 100]), 7))
def test_the_parts_compute_the_bits_of_the_whole(function, size):
    w = np.linspace(-1, 1, 3, dtype=np.float32)
    split = ScanSplit(flatten(function, w, X))
    lengths = [min(size, split.length - first) for first in range(0, split.length, size)]
    whole = jax.tree.leaves(jax.jit(function)(w, X))
    assert list(map(bits, run_in_parts(split, (w, X), lengths))) == list(map(bits, whole))


def test_any_iteration_runs_again_from_its_carry():
    def program(x):
        return lax.scan(
            lambda c, k: (c * k, c + k), x, jnp.arange(1, 7, dtype=x.dtype), reverse=True
        )

    split = ScanSplit(flatten(program, jnp.float32(1)))
    start = split.before(jnp.float32(1))
    carry, _ = split.iterations(start, start.carry, first=0, count=2)
    assert [float(x) for x in (*carry, *split.slices(start, 2))] == [30, 4]
    (after,), (output,) = split.iterations(start, carry, first=2, count=1)
    assert (float(after), output.tolist()) == (120, [34])


def test_the_scan_is_the_one_that_runs_most_equations():
    def program(x):
        x = lax.scan(lambda c, _: (c + 1, None), x, None, length=50)[0]
        deep = lax.scan(lambda c, _: (jnp.sin(jnp.cos(c) * 2) + 1, None), x, None, length=20)[0]
        return lax.scan(lambda c, _: (c + 1, None), deep, None, length=30)[0]

    assert ScanSplit(flatten(program, jnp.float32(1))).length == 20


@pytest.mark.parametrize(
    "function",
    [
        jnp.sin,
        lambda x: lax.while_loop(lambda x: x < 3, lambda x: x + 1, x),
        lambda x: lax.cond(x > 0, nested, nested, jnp.stack([x, x, x]), X),
    ],
    ids=["straight", "while", "in a branch"],
)
def test_without_a_scan_at_the_top_level_there_is_nothing_to_split(function):
    with pytest.raises(LookupError, match="no scan at the top level"):
        ScanSplit(flatten(function, 1.0))
