"""Programs put together by chance, with one fault at a known place, or with none."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import nanlab
from nanlab.blame.vocabulary import Status

F32 = np.float32
SIZE = 3
MIXING = (np.arange(9, dtype=F32).reshape(3, 3) - 4) / 20

# Every step maps a vector of SIZE numbers between -2 and 2 to another such vector. Steps use other
# primitives than faults, so that the culprit is unambiguous.
PLAIN = {
    "sin": jnp.sin,
    "tanh": jnp.tanh,
    "halve": lambda v: v * 0.5,
    "shift": lambda v: v * 0.25 + 0.5,
    "matmul": lambda v: MIXING @ v,
    "centre": lambda v: v - jnp.mean(v),
    "sums": lambda v: jnp.cumsum(v) / SIZE,
    "where": lambda v: jnp.where(v > 0, v, -0.5 * v),
    "reverse": lambda v: v[::-1],
    "largest": lambda v: jnp.clip(v, -1, jnp.max(v)),
    "outer": lambda v: jnp.sin(jnp.einsum("i,j->j", v, v)) - jnp.square(v) / 9,
    "sort": jnp.sort,
    "norm": lambda v: v / jnp.sqrt(1 + jnp.sum(v * v)),
    "guarded log": lambda v: jnp.log(1 + v * v),
}


# Loops add what they carried, so that an inf of the first iteration is there in the last one.
def in_scan(step, v):
    return lax.scan(lambda carry, x: (step(carry) + carry / 4, x), v, np.ones(3, F32))[0]


def in_while(step, v):
    return lax.fori_loop(0, jnp.argmax(v) * 0 + 2, lambda _, c: step(c) + c / 4, v)


def in_cond(step, v):
    return lax.cond(jnp.max(v) < 1e30, step, lambda c: c * 0.5, v)


def in_vmap(step, v):
    return jax.vmap(step)(jnp.stack([v, v * 0.5])).sum(0) / 2


# transformation -> how it wraps a step
WRAPS = {
    "as it is": lambda step, v: step(v),
    "jit": lambda step, v: jax.jit(step)(v),
    "remat": lambda step, v: jax.checkpoint(step)(v),
    "scan": in_scan,
    "while": in_while,
    "cond": in_cond,
    "vmap": in_vmap,
}
wraps = st.sampled_from(sorted(WRAPS))
# A while loop has no gradient.
differentiable = st.sampled_from(sorted(WRAPS.keys() - {"while"}))


def chains(wraps, steps, most):
    return st.lists(st.tuples(wraps, st.sampled_from(sorted(steps))), max_size=most)


def chained(names, v):
    for wrap, step in names:
        v = WRAPS[wrap](PLAIN[step], v)
    return v


# The faults: each line is one primitive that is bad for every vector between -2 and 2.


def log_of_a_negative(v):
    return jnp.log(v - 9)


def zero_by_zero(v):
    low = jnp.floor(jnp.abs(v) / 9)
    return low / low


def root_of_a_negative(v):
    return jnp.sqrt(-3 - v * 0.5)


def overflow(v):
    return jnp.exp(v + 200)


def pole(v):
    low = jnp.floor(jnp.abs(v) / 9)
    return 1 / low


# fault -> primitive, mechanism, whether it makes a NaN, which of its lines
FAULTS = {
    log_of_a_negative: ("log", "domain", True, 1),
    zero_by_zero: ("div", "0/0", True, 2),
    root_of_a_negative: ("sqrt", "domain", True, 1),
    overflow: ("exp", "overflow", False, 1),
    pole: ("div", "pole", False, 2),
}
# What may follow a fault: it hands on an inf and a NaN alike, and makes no NaN of an inf.
AFTER = {
    "halve": lambda v: v * 0.5,
    "shift": lambda v: v + 1,
    "sum": lambda v: v.at[0].set(jnp.sum(v)),
    "reverse": lambda v: v[::-1],
    "largest": lambda v: v + jnp.max(v),
}
faults = st.sampled_from(list(FAULTS))
vectors = st.lists(st.sampled_from([-1.5, -0.5, 0.25, 1.0]), min_size=SIZE, max_size=SIZE)


def first_iteration(wrap):
    return (0,) if wrap in ("scan", "while") else ()


def checked(verdict, fault, wrap):
    """The fault is reported at its line, in the first iteration."""
    primitive, mechanism, is_nan, line = FAULTS[fault]
    assert verdict.status == "reproduced"
    assert (verdict.culprit is not None) == is_nan
    assert verdict.benign == ()
    site = verdict.origin
    assert (site.primitive, site.mechanism) == (primitive, mechanism)
    assert (site.line, site.file) == (fault.__code__.co_firstlineno + line, __file__)
    assert (site.phase, site.iterations) == ("forward", first_iteration(wrap))
    if is_nan:
        assert verdict.culprit == site
    return verdict


def plain(site):
    return site.primitive, site.mechanism, site.line, site.iterations, site.lane


programs = given(
    before=chains(wraps, PLAIN, 3), after=chains(wraps, AFTER, 2), fault=faults, wrap=wraps,
    x=vectors,
)  # fmt: skip


@settings(max_examples=4)
@programs
def test_a_fault_in_a_program_made_by_chance_is_found(before, after, fault, wrap, x):
    check_fault(before, after, fault, wrap, x)


@pytest.mark.slow
@settings(max_examples=16)
@programs
def test_a_fault_in_any_program_made_by_chance_is_found(before, after, fault, wrap, x):
    check_fault(before, after, fault, wrap, x)


def check_fault(before, after, fault, wrap, x):
    def program(v):
        v = WRAPS[wrap](fault, jnp.tanh(chained(before, v)))
        for around, step in after:
            v = WRAPS[around](AFTER[step], v)
        return v

    verdict = checked(nanlab.pinpoint(program, F32(x)), fault, wrap)
    jitted = checked(nanlab.pinpoint(jax.jit(program), F32(x)), fault, wrap)
    assert plain(jitted.origin) == plain(verdict.origin)
    assert [*map(plain, jitted.chain)] == [*map(plain, verdict.chain)]


@pytest.mark.slow
@settings(max_examples=8)
@given(before=chains(differentiable, PLAIN, 3), fault=faults, wrap=differentiable, x=vectors)
def test_a_fault_is_found_under_a_gradient(before, fault, wrap, x):
    def loss(v):
        return jnp.sum(WRAPS[wrap](fault, jnp.tanh(chained(before, v))))

    verdict = nanlab.pinpoint(jax.value_and_grad(loss), F32(x))
    checked(nanlab.pinpoint(lambda v: loss(v), F32(x)), fault, wrap)
    primitive, mechanism, _, line = FAULTS[fault]
    # The gradient may be a NaN where the value is an inf; what began it is the same.
    assert (verdict.origin.primitive, verdict.origin.mechanism) == (primitive, mechanism)
    assert verdict.origin.line == fault.__code__.co_firstlineno + line
    if wrap != "remat":  # which computes it again in the backward pass
        assert verdict.origin.phase == "forward"
    if verdict.origin.phase == "forward":
        assert verdict.origin.iterations == first_iteration(wrap)


@settings(max_examples=8)
@given(names=chains(wraps, PLAIN, 4), x=vectors)
def test_a_program_made_by_chance_without_a_fault_is_silent(names, x):
    function = partial(chained, names)
    for each in (function, jax.jit(function)):
        assert nanlab.pinpoint(each, F32(x)) == nanlab.Verdict(status=Status.CLEAN)


@pytest.mark.slow
@settings(max_examples=8)
@given(names=chains(differentiable, PLAIN, 4), x=vectors)
def test_its_gradient_is_silent_too(names, x):
    def loss(v):
        return jnp.sum(chained(names, v))

    for each in (jax.grad(loss), jax.jit(jax.grad(loss))):
        assert nanlab.pinpoint(each, F32(x)) == nanlab.Verdict(status=Status.CLEAN)
