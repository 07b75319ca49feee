"""Causes are followed element by element: what is in another row or lane is not behind a fault."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import nanlab

LINES = Path(__file__).read_text().splitlines()


def line_of(mark):
    (number,) = [i for i, line in enumerate(LINES, 1) if line.endswith(f"# <-- {mark}")]
    return number


def naive_softmax(x):
    e = jnp.exp(x)
    return e / e.sum(-1, keepdims=True)


ROWS = np.float32([[-200, -200], [200, 0]])  # 0/0 in the first row, inf/inf in the second


def in_a_loop(x):
    return lax.while_loop(lambda s: s[0] < 1, lambda s: (s[0] + 1, naive_softmax(s[1])), (0, x))[1]


def in_a_scan(x):
    return lax.scan(lambda c, _: (naive_softmax(c), None), x, None, length=1)[0]


def moved(x):
    e = jnp.pad(jnp.exp(x), ((1, 0), (0, 0)))[1:].T
    e = jnp.concatenate([e, e])[:2].reshape(2, 2)[::-1][:, jnp.array([0, 1])]
    return (e / e.sum(0)).T


def transposed_twice(x):
    return naive_softmax(x.T.T)


def scaled(x):
    product = lax.dot_general(jnp.exp(x)[0, 0], x[0] + 1, (((), ()), ((), ())))
    return product / product


def in_a_branch(x):
    return lax.cond(x[0, 0] < 0, naive_softmax, lambda x: x, x)


@pytest.mark.parametrize(
    "function",
    [
        naive_softmax, jax.vmap(naive_softmax), in_a_loop, in_a_scan, moved, transposed_twice,
        in_a_branch, jax.jit(jax.vmap(lambda row: naive_softmax(row[None]))),
        lambda x: jax.checkpoint(naive_softmax)(x),
    ],
)  # fmt: skip
def test_an_inf_of_another_row_is_not_behind_a_zero_over_zero(function):
    verdict = nanlab.pinpoint(function, ROWS)
    assert (verdict.culprit.primitive, verdict.culprit.mechanism) == ("div", "0/0")
    assert verdict.origin == verdict.culprit
    assert "behind it" not in str(verdict)


@pytest.mark.parametrize(
    "function", [naive_softmax, in_a_loop, in_a_scan, transposed_twice, scaled]
)
def test_an_inf_of_the_same_row_is(function):
    verdict = nanlab.pinpoint(function, ROWS[::-1])
    assert (verdict.origin.primitive, verdict.origin.mechanism) == ("exp", "overflow")
    assert (verdict.culprit.primitive, verdict.culprit.mechanism) == ("div", "inf/inf")


def test_a_lanes_origin_is_of_that_lane():
    def f(x):
        return jnp.log(x) - jnp.exp(x)

    x = np.float32([1000, -1, 1])  # an overflow in lane 0, a domain error in lane 1
    verdict = nanlab.pinpoint(jax.vmap(f), x)
    assert (verdict.culprit.primitive, verdict.culprit.lane) == ("log", 1)
    assert verdict.origin == verdict.culprit


def test_the_shown_numbers_are_of_the_element_that_is_explained():
    x = np.float32([[1, np.inf], [0, 0]])
    verdict = nanlab.pinpoint(lambda x: x / x.sum(-1, keepdims=True), x)
    site = verdict.culprit
    assert site.mechanism == "inf/inf"
    assert (site.element, site.operands[0].there) == ((0, 1), (np.inf,))


def exp_of_a_masked_nan(x):
    t = jnp.where(jnp.arange(4) < 3, x, jnp.nan)
    e = jnp.exp(t)
    m = jnp.nanmean(e)
    return jnp.nanmean((e - m) ** 2)  # <-- summed into the mean


def masked_nan(x):
    t = jnp.where(jnp.arange(4) < 3, x, jnp.nan)
    m = jnp.nanmean(t)
    return jnp.nanmean((t - m) ** 2)  # <-- summed into the other mean


def masked_nan_in_a_scan(x):
    def body(c, k):
        t = jnp.where(jnp.arange(4) < 3, x * k, jnp.nan)
        e = jnp.sin(t)
        m = jnp.nanmean(e)
        return c + jnp.nanmean((e - m) ** 2), None  # <-- in a scan

    return lax.scan(body, 0.0, np.float32([1, 2]))[0]


@pytest.mark.parametrize(
    ("function", "mark"),
    [
        (exp_of_a_masked_nan, "summed into the mean"),
        (masked_nan, "summed into the other mean"),
        (masked_nan_in_a_scan, "in a scan"),
    ],
)
def test_a_constant_nan_is_blamed_where_its_element_enters(function, mark):
    verdict = nanlab.pinpoint(jax.grad(function), np.float32([1, 2, 3, 4]))
    site = verdict.culprit
    assert (site.line, site.mechanism) == (line_of(mark), "constant")
    assert any(np.isnan(x) for operand in site.operands for x in operand.there)


@pytest.mark.slow
def test_a_large_program_is_followed_by_element_where_its_arrays_are_fetched():
    def f(x, w):
        for _ in range(12):
            w = jnp.tanh(w @ w * 0.01)
        return naive_softmax(x), w.sum()

    w = np.ones((1024, 1024), np.float32)
    verdict = nanlab.pinpoint(f, ROWS, w)
    assert (verdict.culprit.mechanism, verdict.origin) == ("0/0", verdict.culprit)


@pytest.mark.slow  # test_debug_programs has such a fault in the quick run
def test_a_fault_of_a_fused_multiply_add_is_the_compiled_programs_alone():
    key, other = jax.random.split(jax.random.key(1))
    weights = jax.random.normal(key, (16, 37), jnp.float32)
    observation = jax.random.normal(other, (64, 16), jnp.float32)

    def act(weights, observation):
        logits = np.float32(1e9) * (observation @ weights)
        return jax.nn.softmax(logits / np.float32(0.07), axis=-1)

    by_itself = act(weights, observation)
    compiled = jax.jit(act)(weights, observation)
    verdict = nanlab.pinpoint(act, weights, observation)
    assert bool(jnp.isfinite(by_itself).all())
    if jnp.isfinite(compiled).all():
        pytest.skip("this compiler does not fuse them")
    assert verdict.status == "compiled-only"
    assert "operation by operation, every output is finite" in verdict.notes[-1]


def test_an_ordinary_cancellation_is_reproduced_by_every_program():
    def f(x):
        return jnp.log(x * x - x * x - 1) + (x / np.float32(3) - jnp.max(x / np.float32(3)))

    assert nanlab.pinpoint(f, np.float32([1e8, 3, 7])).status == "reproduced"
