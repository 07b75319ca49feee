"""Outputs are read late: the first bad call is named, and its arguments are exact."""

import gc
import itertools
import weakref
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import sampled

from nanlab.blame.watch import arrays, outputs, pending
from nanlab.blame.watch.fault import FaultFound
from nanlab.blame.watch.watch import Watch

N = 200_000  # a large leaf: it is read and copied by itself


def planted(donated, size):
    """A step that divides by its batch; the state has leaves of several types."""

    def step(state, batch):
        scale = 1 / batch["x"].min()
        return jax.tree.map(lambda w: w + scale.astype(w.dtype), state), scale

    state = {
        "w": jnp.zeros((3, size), jnp.float32), "b": jnp.zeros(4, jnp.bfloat16),
        "c": jnp.zeros(2, jnp.complex64), "h": jnp.zeros(5, jnp.float16), "s": jnp.float32(0),
        "n": jnp.int32(0),
    }  # fmt: skip
    return jax.jit(step, donate_argnums=0 if donated else ()), state


def bits(x):
    return np.asarray(x).tobytes()


@pytest.mark.parametrize(
    ("donated", "size", "bad"), sampled(itertools.product([True, False], [5, N], [0, 4]), 3)
)
def test_the_first_bad_call_is_named_and_its_arguments_are_exact(donated, size, bad):
    step, state = planted(donated, size)
    states, buffer = [], np.ones(3, np.float32)
    # The plain run. NumPy's array is a new one in each call: JAX may read it after the call.
    for i in range(5):
        states.append(jax.tree.map(lambda x: np.array(x), state))
        state, _ = step(state, {"x": np.full(3, (i != bad) * (i + 1), np.float32)})
    step, state = planted(donated, size)
    batch = {"x": buffer}
    watch = Watch()
    with watch.watching():
        try:
            for i in range(5):
                # The loader reuses its memory, and the dict.
                batch["x"][...] = (i != bad) * (i + 1)
                state, _ = step(state, batch)
        except FaultFound:
            pass
        watch.finish()
    fault = watch.fault
    assert (fault.call, fault.verdict.origin.primitive) == (bad + 1, "div")
    arguments = fault.arguments()
    assert bits(arguments["batch['x']"]) == bytes(12)
    for name, leaf in states[bad].items():
        own = arguments[f"state['{name}']"]
        assert (own.dtype, bits(own)) == (leaf.dtype, bits(leaf)), name


def test_what_changes_after_the_call_is_not_what_is_judged():
    step = jax.jit(lambda batch: jnp.log(batch["x"]))
    batch = {"x": jnp.float32(-1)}
    watch = Watch()
    with watch.watching():
        try:
            step(batch)
            batch["x"] = jnp.float32(1)
            batch.pop("x")
        except FaultFound:
            pass
        watch.finish()
    assert bits(watch.fault.arguments()["batch['x']"]) == bits(np.float32(-1))
    assert watch.fault.verdict.culprit.operands[0].there == (-1.0,)


@pytest.mark.parametrize("block", ["x64", "precision", "named"])
def test_a_call_in_a_block_of_settings_is_judged_with_them(block):
    def step(x):
        return jnp.log(x - 1e-12 * 3)

    settings = {
        "x64": lambda: jax.enable_x64(True),
        "precision": lambda: jax.default_matmul_precision("float32"),
        "named": lambda: jax.named_scope("outer"),
    }
    watch = Watch()
    with jax.enable_x64(False), watch.watching():
        try:
            with settings[block]():
                jax.jit(step)(np.float64(1e-13) if block == "x64" else -1.0)
        except FaultFound:
            pass
        watch.finish()
    site = watch.fault.verdict.culprit
    assert (site.primitive, site.operands[0].dtype) == (
        "log", "float64" if block == "x64" else "float32",
    )  # fmt: skip


def test_memory_is_given_back_two_calls_later(monkeypatch):
    step = jax.jit(lambda x: x + 1)
    watch, seen = Watch(), []
    with watch.watching():
        x = jnp.zeros(100_000)
        for _ in range(10):
            seen.append(weakref.ref(x))
            x = step(x)
        x.block_until_ready()
        step(x), step(x)
        gc.collect()
        alive = sum(reference() is not None for reference in seen)
    assert alive <= pending.CALLS + 1
    assert watch.fault is None


def test_a_budget_of_bytes_waits_instead(monkeypatch):
    monkeypatch.setattr(pending, "RETAINED", 1)
    step, state = planted(True, N)
    watch = Watch()
    with watch.watching():
        for _ in range(4):
            state, _ = step(state, {"x": np.ones(3, np.float32)})
            assert len(list(watch._queue)) <= 1
        watch.finish()
    assert (watch.calls, watch.fault, watch.unread) == (4, None, 0)


def test_a_deleted_output_is_not_told_as_finite():
    watch = Watch()
    with watch.watching():
        x = jnp.ones(N)
        y = jax.jit(lambda x: x * jnp.sin(x) / 3)(x)
        y.delete()
        watch.finish()
    assert watch.unread + (watch.calls == 1) >= 1
    assert watch.fault is None


@pytest.mark.parametrize(
    ("dtype", "value", "count"),
    sampled(
        [
            (*kind, count)
            for kind in [
                ("float8_e4m3fn", "nan"),
                ("float16", "inf"),
                ("complex64", "inf"),
                ("bfloat16", "nan"),
            ]
            for count in (1, 20)
        ],
        3,
    ),
)
def test_a_bad_value_among_many_leaves_of_each_type_is_seen(dtype, count, value):
    def step(x):
        leaves = [(x * 0 + i).astype(dtype) for i in range(count)]
        bad = jnp.log(-x) if value == "nan" else jnp.exp(x * 1000)
        return [*leaves[:-1], leaves[-1] + bad.astype(dtype)]

    watch = Watch()
    with watch.watching():
        with suppress(FaultFound):
            jax.jit(step)(jnp.ones(70))
        watch.finish()
    assert watch.fault is not None
    assert watch.fault.verdict.nan_outputs or value == "inf"


def test_large_finite_numbers_whose_sum_overflows_are_finite():
    largest = [jnp.full(40_000, jnp.finfo(t).max, t) for t in (jnp.float16, jnp.float32)]
    watch = Watch()
    with watch.watching():
        jax.jit(lambda x: [y * 1 for y in x] + [y[:9] * 1 for y in x] * 3)(largest)
        watch.finish()
    assert (watch.fault, watch.unread) == (None, 0)


@pytest.mark.parametrize("donated", sampled([True, False], 2))
def test_where_memory_is_not_the_hosts_flags_and_copies_are_made_on_the_device(
    donated, monkeypatch
):
    # As on a GPU, but for the device.
    for module in (arrays, outputs):
        monkeypatch.setattr(module, "devices_read_on_host", lambda sharding: 0)
    step, state = planted(donated, N)
    watch, before = Watch(), None
    with watch.watching(), suppress(FaultFound):
        for i in range(5):
            before = jax.tree.map(lambda x: np.array(x), state) if i == 3 else before
            state, _ = step(state, {"x": np.full(3, (i != 3) * (i + 1), np.float32)})
    watch.finish()
    assert (watch.fault.call, watch.fault.verdict.origin.primitive) == (4, "div")
    arguments = watch.fault.arguments()
    for name, leaf in before.items():
        assert bits(arguments[f"state['{name}']"]) == bits(leaf), name


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
                before = [bits(plain(x)) for x in jax.tree.leaves(state)]
        watch = Watch()
        with watch.watching():
            with suppress(FaultFound):
                list(itertools.islice(training(bad, 60), 60))
            watch.finish()
        fault = watch.fault
        assert (fault.call, fault.verdict.origin.primitive) == (bad + 1, "div")
        seen = {bits(plain(x)) for x in fault.arguments().values()}
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
