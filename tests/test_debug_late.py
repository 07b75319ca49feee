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
