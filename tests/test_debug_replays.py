"""Large donated arguments are not copied before each call: calls are run again for a fault."""

import itertools
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nanlab.blame.watch import outputs
from nanlab.blame.watch.fault import FaultFound
from nanlab.blame.watch.watch import Watch

LARGE = 20_000  # too large to be packed: what is donated is computed again, or copied


def one_state(bad, steps):
    def step(state, x):
        return jax.tree.map(lambda w: w + (1 / x.min()).astype(w.dtype), state), state["w"].sum()

    step = jax.jit(step, donate_argnums=0)
    state = {"w": jnp.zeros(LARGE), "i": jnp.zeros(LARGE, jnp.int32), "b": jnp.zeros(3)}
    batch = np.ones(3, np.float32)
    for i in range(steps):
        yield state
        batch = np.full_like(batch, (i != bad) * (i % 7 + 1))
        state, _ = step(state, batch)


def two_states(bad, steps):
    def judge(d, g, x):
        return d + g.mean() * 1e-3 + 1 / x, d.sum()

    def make(g, d):
        return g * 0.9 + d.mean() * 1e-3, g.sum()

    first, second = jax.jit(judge, donate_argnums=0), jax.jit(make, donate_argnums=0)
    d, g = jnp.zeros(LARGE), jnp.ones(LARGE)
    for i in range(steps):
        yield d, g
        d, _ = first(d, g, np.float32((i != bad) * (i + 1)))
        g, _ = second(g, d)


def gradient_and_update(bad, steps):
    gradient = jax.jit(lambda w, x: w * 1e-3 + 1 / x)

    def updated(w, momentum, g):
        return w - g, momentum * 0.9 + g

    update = jax.jit(updated, donate_argnums=(0, 1))
    w, momentum = jnp.zeros(LARGE), jnp.zeros(LARGE)
    for i in range(steps):
        yield w
        w, momentum = update(w, momentum, gradient(w, np.float32((i != bad) * (i + 1))))


def batch_donated_later(bad, steps):
    def stepped(w, x):
        return w + 1 / x[0], w.sum()

    step = jax.jit(stepped, donate_argnums=0)
    eat = jax.jit(lambda x: x * 2, donate_argnums=0)
    w = jnp.zeros(LARGE)
    for i in range(steps):
        x = jnp.full(LARGE, (i != bad) * (i + 1.0))
        yield w, x
        w, _ = step(w, x)
        eat(x)


def compiled_with_key(bad, steps):
    def stepped(state, x):
        w, key = state
        return (w + jax.random.normal(key, w.shape) + 1 / x, jax.random.split(key)[0]), w.sum()

    state = jnp.zeros(LARGE), jax.random.key(1)
    step = jax.jit(stepped, donate_argnums=0).lower(state, np.float32(1)).compile()
    for i in range(steps):
        yield state
        state, _ = step(state, np.float32((i != bad) * (i + 1)))


def calling_back(bad, steps):
    def stepped(w, x):
        jax.debug.callback(lambda _: None, x)
        return w + 1 / x, w.sum()

    step, w = jax.jit(stepped, donate_argnums=0), jnp.zeros(LARGE)
    for i in range(steps):
        yield w
        w, _ = step(w, np.float32((i != bad) * (i + 1)))


@pytest.mark.parametrize(
    "training",
    [
        one_state,
        two_states,
        gradient_and_update,
        batch_donated_later,
        compiled_with_key,
        calling_back,
    ],
)
def test_large_donated_arguments_are_exact_many_calls_after_their_last_copy(training):
    for bad in (3, 21):

        def plain(x):
            return np.asarray(jax.random.key_data(x) if x.dtype.name.startswith("key") else x)

        for i, state in enumerate(training(bad, bad + 1)):
            if i == bad:
                before = [plain(x).tobytes() for x in jax.tree.leaves(state)]
        watch = Watch()
        with watch.watching():
            with suppress(FaultFound):
                list(itertools.islice(training(bad, 60), 60))
            watch.finish()
        fault = watch.fault
        assert (fault.call, fault.verdict.origin.primitive) == (bad + 1, "div")
        seen = {plain(x).tobytes() for x in fault.arguments().values()}
        assert seen.issuperset(before[:1] if training is two_states else before)


def test_a_large_donated_state_is_copied_once_in_16_calls(monkeypatch):
    copies = []
    reader = outputs.OutputReader.copies

    def counted(self, leaves, replays):
        copy, sources = reader(self, leaves, replays)
        copies.append(not sources)
        return copy, sources

    monkeypatch.setattr(outputs.OutputReader, "copies", counted)
    watch = Watch()
    with watch.watching():
        list(one_state(-1, 48))
        watch.finish()
    assert (watch.fault, watch.unread, watch.calls) == (None, 0, 48)
    assert sum(copies) == 3


def test_an_inf_that_is_meant_costs_no_replays(monkeypatch):
    step = jax.jit(lambda s, x: ({"w": s["w"] + x, "m": s["m"] + 0}, x), donate_argnums=0)
    state = {"w": jnp.zeros(LARGE), "m": jnp.full(LARGE, -jnp.inf)}
    watch = Watch()
    with watch.watching():
        for _ in range(30):
            state, _ = step(state, 1.0)
        watch.finish()
    assert (watch.fault, watch.unread) == (None, 0)
    assert not watch._replays.is_on
