"""Long scans are searched by iteration: the answer is that of the program recorded whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sampled import sampled

import nanlab
from nanlab.blame.diagnosis import inside_scan

F32 = np.float32
X = F32([0.5, 1])


@pytest.fixture
def short(monkeypatch):
    """Take every scan for a long one."""
    monkeypatch.setattr(inside_scan, "LONG", 20)


def training(w, *, fault=7):
    """Updates, each a scan of batches; the rate explodes before one of them."""

    def update(state, i):
        def batch(w, b):
            loss, g = jax.value_and_grad(lambda w: jnp.mean((w * b - jnp.tanh(b)) ** 2))(w)
            return w - jnp.where(i == fault, F32(1e30), F32(0.1)) * g, loss

        w, seen = state
        w, losses = lax.scan(batch, w, F32([[1, 2], [3, 1]]))
        return (w, seen + 1), losses.mean()

    return lax.scan(update, (w, 0), jnp.arange(12))


def overflow_then_nan(x):
    """An inf in iteration 5 that becomes a NaN in iteration 8."""

    def body(c, i):
        big = jnp.where(i == 5, c * F32(1e38) * F32(1e38), c)
        return jnp.where(i == 8, big - big, big), big.sum()

    return lax.scan(body, x, jnp.arange(20))


def from_a_harmless_inf(x):
    """The best value so far is an inf from the start, and no fault."""

    def body(c, i):
        best, w = c
        w = jnp.where(i == 9, jnp.log(w - 2), w)
        return (jnp.minimum(best, w.sum()), w), None

    return lax.scan(body, (F32(np.inf), x), jnp.arange(15))


def read_from_the_data(x):
    data = jnp.ones((10, 2), F32).at[6, 1].set(jnp.nan)
    return lax.scan(lambda c, d: (jnp.sin(c + d), None), x, data)[0]


def reverse(x):
    ks = jnp.arange(10)
    return lax.scan(lambda c, k: (jnp.where(k == 3, jnp.log(-c), c), c), x, ks, reverse=True)


def before_it(x):
    return lax.scan(lambda c, _: (jnp.sin(c), None), jnp.log(x - 2), None, length=12)[0]


def after_it(x):
    return jnp.log(lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=12)[0] - 2)


def of_its_gradient(x):
    return jax.grad(lambda x: lax.scan(lambda c, k: (c + jnp.sqrt(c * k), None), x.sum(),
                                       jnp.arange(12, dtype=x.dtype))[0] * 0)(x)  # fmt: skip


def nested_twice(x):
    def outer(c, i):
        return lax.scan(lambda c, k: (inner(c, (i == 4) & (k == 3)), None), c, jnp.arange(6))

    def inner(c, is_bad):
        return lax.scan(
            lambda c, j: (jnp.where(is_bad & (j == 2), jnp.log(c - 9), jnp.sin(c)), None),
            c,
            jnp.arange(5),
        )[0]

    return lax.scan(outer, x, jnp.arange(7))[0]


PROGRAMS = [
    training, overflow_then_nan, from_a_harmless_inf, read_from_the_data, reverse, before_it,
    after_it, of_its_gradient, nested_twice, jax.vmap(nested_twice),
    lambda x: (overflow_then_nan(x), training(x)),
    jax.value_and_grad(lambda x: overflow_then_nan(x)[0].sum()),
]  # fmt: skip


def told(verdict):
    sites = (verdict.origin, verdict.culprit)
    return [
        verdict.status,
        verdict.output_faults,
        *(s and (s.primitive, s.mechanism, s.phase, s.line, s.iterations) for s in sites),
    ]


@pytest.mark.parametrize("function", sampled(PROGRAMS, 4, first=1))
def test_the_answer_is_that_of_a_program_recorded_whole(function, monkeypatch):
    whole = nanlab.pinpoint(function, X)
    monkeypatch.setattr(inside_scan, "LONG", 20)
    by_iteration = nanlab.pinpoint(function, X)
    assert told(by_iteration) == told(whole)
    assert whole.fault


def test_a_healthy_program_stays_clean(short):
    assert nanlab.pinpoint(lambda x: training(x, fault=-1), X).status == "clean"


def test_a_checkpoint_with_nan_is_named_as_the_argument(short):
    verdict = nanlab.pinpoint(training, F32([1, np.nan]))
    assert verdict.input_faults == ("w",)
    assert verdict.culprit.mechanism == "input"


def test_the_carry_is_named_and_the_numbers_are_shown(short):
    verdict = nanlab.pinpoint(overflow_then_nan, X)
    assert verdict.origin.iterations == (5,)
    assert verdict.culprit.iterations == (8,)
    assert any("carry" in operand.expression for operand in verdict.origin.operands)
    assert verdict.chain[0].iterations == (5,)


def test_a_whole_training_of_a_thousand_updates_has_its_answer():
    def train(w):
        def update(w, i):
            def step(w, b):
                g = jax.grad(lambda w: jnp.mean(jnp.tanh(w * b) ** 2))(w)
                return w - jnp.where(i == 700, F32(np.inf), F32(0.1)) * g, None

            return lax.scan(step, w, F32(np.linspace(0.1, 1, 32))[:, None])

        return lax.scan(update, w, jnp.arange(1000))

    verdict = nanlab.pinpoint(train, X)
    assert verdict.culprit.iterations[0] == 700
    assert verdict.culprit.phase == "update"


def test_a_search_without_an_end_says_so_and_what_is_known(monkeypatch):
    monkeypatch.setattr("nanlab.blame.pinpoint.SEARCH_SECONDS", 0.0)

    def loop(x):
        return lax.while_loop(
            lambda s: s[0] < 9, lambda s: (s[0] + 1, jnp.where(s[0] == 4, jnp.log(-s[1]), s[1])),
            (0, x),
        )[1]  # fmt: skip

    verdict = nanlab.pinpoint(loop, X)
    assert verdict.fault
    assert (verdict.origin.primitive, verdict.origin.iterations) == ("while", (4,))
    assert "was stopped after" in verdict.notes[-1]


def test_a_scan_that_takes_too_long_is_searched_as_far_as_it_got(short, monkeypatch):
    monkeypatch.setattr(inside_scan, "SEARCH_SECONDS", 0.0)
    verdict = nanlab.pinpoint(training, X)
    assert verdict.fault
    assert verdict.culprit.primitive == "scan"
    assert any("was stopped after" in note for note in verdict.notes)
