"""A training in one call, run in chunks: its bits, and its first faulty iteration."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nanlab.recorder.scan_chunks import IterationFault, run_in_chunks

pytestmark = pytest.mark.optimized

W = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
# What the planted fault divides by; zero at one iteration.
AT = 37
HUGE = np.float32(1e30)


def loss(w, x):
    return jnp.mean(jnp.tanh(x @ w) ** 2)


def update(w, number, at):
    x = jnp.sin(number * jnp.arange(8.0).reshape(4, 2))
    value, gradient = jax.value_and_grad(loss)(w, x)
    return w - 0.1 * gradient + HUGE * jnp.where(number == at, HUGE, 0), value


def plain(w, at, length=74):
    w, losses = lax.scan(lambda w, k: update(w, k, at), w * 2, jnp.arange(length))
    return {"w": w, "losses": losses, "mean": losses.mean()}


def without_xs(w, at):
    def body(carry, _):
        w, number = carry
        w, value = update(w, number, at)
        return (w, number + 1), value

    return lax.scan(body, (w, 0), None, 74)


def reverse(w, at):
    return lax.scan(lambda w, k: update(w, k, at), w, jnp.arange(74)[::-1], reverse=True)


def nested(w, at):
    def epoch(w, number):
        w, values = lax.scan(lambda w, k: update(w, k, -1), w, jnp.arange(3))
        return update(w, number, at)[0], values

    return lax.scan(epoch, w, jnp.arange(74))


def vmapped(w, at):
    lanes = jnp.stack([w, 2 * w, 3 * w])
    return jax.vmap(plain, in_axes=(0, 0))(lanes, jnp.array([-1, at, -1]))


def with_keys(w, at):
    def body(carry, number):
        w, key = carry
        key, own = jax.random.split(key)
        w, value = update(w + 0.01 * jax.random.normal(own, w.shape, w.dtype), number, at)
        return (w, key), value

    (w, _), values = lax.scan(body, (w, jax.random.key(0)), jnp.arange(74))
    return w, values


@jax.jit
def in_calls(w, at):
    return jax.jit(jax.checkpoint(plain, static_argnums=2), static_argnums=2)(w, at, 74)


QUICK = [nested]
SLOW = [plain, vmapped, without_xs, reverse, with_keys, in_calls]
TRAININGS = [*QUICK, *(pytest.param(training, marks=pytest.mark.slow) for training in SLOW)]


def bits(tree):
    return [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.__name__)
def test_in_chunks_the_results_are_those_of_the_whole_to_the_bit(training):
    whole = jax.jit(training)(W, -1)
    for every in (20, 7) if training in SLOW else (20,):
        chunked = run_in_chunks(training, every)
        result = chunked(W, -1)
        assert chunked.reason == ""
        assert jax.tree.structure(result) == jax.tree.structure(whole)
        assert bits(result) == bits(whole), every


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.__name__)
def test_the_faulty_iteration_and_the_carry_before_it_are_exact(training):
    with pytest.raises(IterationFault, match=f"Iteration {AT} of 74 is not finite") as raised:
        run_in_chunks(training, 8)(W, AT)
    fault = raised.value
    assert (fault.iteration, fault.length) == (AT, 74)
    states = []
    # The carries of a healthy run, from chunks that hold the iterations before the fault.
    run_in_chunks(training, AT, on_chunk=states.append)(W, -1)
    assert states[0].done == AT
    healthy = [x for x in states[0].carry if jnp.issubdtype(x.dtype, jnp.inexact)]
    assert bits([x for x in fault.carry if jnp.issubdtype(x.dtype, jnp.inexact)]) == bits(healthy)
    site = fault.verdict.culprit or fault.verdict.origin
    assert (site.primitive, str(site.mechanism)) == ("mul", "overflow")
    assert site.iterations[0] == AT
    assert "HUGE * jnp.where" in site.code


def test_an_inf_that_is_there_from_the_start_is_meant():
    def search(best):
        return lax.scan(
            lambda b, k: (jnp.minimum(b, 100 - k * (k > 20)), b),
            best,
            jnp.arange(40, dtype=best.dtype),
        )

    assert float(run_in_chunks(search, 5)(jnp.float32(jnp.inf))[0]) == 61


def test_outputs_that_are_bad_with_a_healthy_carry_are_a_fault_only_if_strict():
    def logs(w):
        return lax.scan(lambda w, k: (w * 0.9, jnp.log(25.5 - k)), w, jnp.arange(40.0))

    whole = jax.jit(logs)(jnp.ones(2))
    assert bits(run_in_chunks(logs)(jnp.ones(2))) == bits(whole)
    with pytest.raises(IterationFault, match="Iteration 26 of 40"):
        run_in_chunks(logs, strict=True)(jnp.ones(2))


def test_a_scan_without_a_carry_is_judged_by_its_outputs():
    with pytest.raises(IterationFault, match="Iteration 3 of 6") as raised:
        run_in_chunks(lambda x: lax.map(lambda x: jnp.sqrt(x), x))(jnp.array([4.0, 3, 2, -1, 1, 1]))
    assert raised.value.verdict.culprit.primitive == "sqrt"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda w: jnp.tanh(w), "no scan at its top level$"),
        (
            lambda w: lax.while_loop(lambda w: w[0] < 9, lambda w: w + 1, w),
            "but a while loop, whose",
        ),
        (lambda w: lax.fori_loop(0, w[0].astype(int), lambda i, w: w + 1, w), "but a while loop"),
    ],
)
def test_what_cannot_be_divided_runs_as_a_whole_and_it_is_said(function, said):
    chunked = run_in_chunks(function)
    with pytest.warns(UserWarning, match="runs as a whole: it has no scan") as warned:
        assert bits(chunked(jnp.ones(2))) == bits(function(jnp.ones(2)))
    assert any(re.search(said, str(w.message)) for w in warned)
    assert chunked.reason


def test_progress_comes_after_each_chunk_and_ctrl_c_ends_it():
    seen = []

    def stop(progress):
        seen.append(progress.done)
        if progress.done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_chunks(plain, 10, on_chunk=stop)(W, -1)
    assert seen == [10, 20]


def test_static_arguments_and_numbers_are_the_users_own():
    train = jax.jit(plain, static_argnames="length")
    chunked = run_in_chunks(train)
    for length in (30, 44):
        assert bits(chunked(W, at=-1, length=length)) == bits(train(W, at=-1, length=length))

    def scaled(w, rate, name):
        return lax.scan(lambda w, _: (w - w / rate if name == "down" else w, None), w, None, 33)[0]

    assert bits(run_in_chunks(scaled)(W, 7.3, "down")) == bits(
        jax.jit(scaled, static_argnums=2)(W, 7.3, "down")
    )
