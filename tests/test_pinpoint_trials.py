"""Programs that users tried, each once diagnosed wrongly, with the verdicts they must get."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import nanlab
from nanlab.blame.diagnosis.op_by_op import OpByOp
from nanlab.blame.misuse import traced_call
from nanlab.blame.program.interpreter import bind_equation
from nanlab.blame.program.program import flatten_closed

F32 = np.float32


def cause_of(verdict):
    site = verdict.culprit or verdict.origin
    return site and (site.primitive, site.mechanism)


def loss_with_an_unused_loop(w):
    unused = lax.fori_loop(0, 5, lambda i, a: a + w.sum(), 0.0)
    return jnp.sqrt(w).sum(), unused


def only_the_gradient_of_a_scan(w):
    return jax.grad(lambda w: lax.scan(lambda c, x: (c + x * w, None), 0.0, jnp.arange(3.0))[0])(w)


def a_dead_scan_in_a_live_one(x):
    def body(carry, _):
        lax.scan(lambda c, _: (c * 2, None), carry, None, length=2)
        return jnp.log(carry - 1), None

    return lax.scan(body, x, None, length=2)[0]


@pytest.mark.parametrize(
    ("function", "x", "right"),
    [
        (only_the_gradient_of_a_scan, F32(2), None),
        (
            lambda x: (lax.while_loop(lambda s: s[0] < 9, lambda s: s + 1, x), jnp.log(x))[1],
            F32([-1]),
            ("log", "domain"),
        ),
        (
            lambda w: jax.grad(loss_with_an_unused_loop, has_aux=True)(w)[0],
            F32([0, 1]),
            ("div", "pole"),
        ),
        (a_dead_scan_in_a_live_one, F32(0), ("log", "domain")),
    ],
    ids=["gradient of a scan", "while", "auxiliary output", "inside a scan"],
)
def test_a_loop_that_nothing_needs_is_left_out(function, x, right):
    assert cause_of(nanlab.pinpoint(function, x)) == right


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda a, b: jnp.log(a) + jnp.sqrt(b), (F32([1, 1, 1, -1]), F32([1, -1, 1, 1]))),
        (
            lambda w: lax.scan(lambda c, _: (c * c, None), w, None, length=9)[0],
            (F32([1, 1e3, 1, 1e30]),),
        ),
    ],
    ids=["another fault", "a later iteration"],
)
def test_a_lane_is_the_sites_own_though_others_go_bad_later(function, arguments):
    verdict = nanlab.pinpoint(jax.vmap(function), *arguments)
    assert (verdict.culprit or verdict.origin).lane == 3


def test_outputs_are_told_by_what_they_hold_and_a_second_fault_is_mentioned():
    verdict = nanlab.pinpoint(lambda x: (1 / x, x / x), F32([0]))
    assert (verdict.output_faults, verdict.nan_outputs) == (
        ("output[0]", "output[1]"),
        ("output[1]",),
    )
    assert "There is a NaN in output[1], and an inf in output[0]." in str(verdict)
    (note,) = verdict.notes
    assert "div, pole, forward" in note


def test_the_numbers_are_headed_by_the_element_that_they_are_of():
    verdict = nanlab.pinpoint(
        jax.vmap(lambda x, ok: jnp.where(ok, jnp.log(x), 0.0)), F32([-5, -1, -7]), np.arange(3) > 1
    )
    assert verdict.culprit.element == (2,)
    assert verdict.culprit.operands[0].there == (-7,)
    assert "at [2]" in str(verdict)


def test_a_complex_number_by_zero_is_a_pole():
    assert cause_of(nanlab.pinpoint(lambda z: 1 / z, np.complex64([0, 1]))) == ("div", "pole")
    assert cause_of(nanlab.pinpoint(lambda z: z / z, np.complex64([0, 1]))) == ("div", "0/0")


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.log(nn.Dense(2)(x) - 10)


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.remat(Inner)(name="inner")(x)


def test_what_is_rematerialized_has_its_own_module():
    model, x = Outer(), np.ones((1, 2), F32)
    params = model.init(jax.random.key(0), x)
    verdict = nanlab.pinpoint(jax.value_and_grad(lambda p: model.apply(p, x).sum()), params)
    assert verdict.culprit.module == "Outer/inner"


def test_a_cure_is_for_the_type_and_the_value_at_hand():
    cast = nanlab.pinpoint(lambda x: x.astype(jnp.bfloat16), F32([3.4e38])).origin
    assert cast.primitive == "convert_element_type"
    assert "bfloat16" not in cast.cure
    one = nanlab.pinpoint(lambda x: jnp.std(x, ddof=1), F32([1])).culprit
    assert one.mechanism in ("constant", "0/0")
    assert "mask" not in one.cure or one.mechanism == "0/0"


def a_long_chain(x):
    for _ in range(40):
        x = jnp.sin(x) * 2.0 + x[0]
    return x, x.sum()


def test_a_program_run_operation_by_operation_stores_no_array_beyond_its_last_use():
    alive = []

    def count(equation, operands):
        alive.append(len(jax.live_arrays()))
        return bind_equation(equation, operands)

    x = jnp.ones(1000)
    call = traced_call(a_long_chain, (x,), {})[0]
    results, _ = OpByOp(flatten_closed(call.closed, call.traced.out_info), count)(x)
    assert np.array_equal(results[0], a_long_chain(x)[0])
    assert len(alive) > 100 and max(alive) - alive[0] < 8
