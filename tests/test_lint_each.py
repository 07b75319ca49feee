"""Each function and idiom of test_lint_soundness.py once, without a search: `nanlab.lint` holds."""

import jax.numpy as jnp
import numpy as np
import pytest
from enclosed import FLOATS, argument, escapes, sample
from jax import lax
from test_lint_soundness import BINARY, ROWS, STEPS, UNARY, check, check_program

from nanlab.linting.abstract import interval

FUNCTIONS = [
    *((name, function, 1) for name, function in UNARY.items()),
    *((name, function, 2) for name, function in BINARY.items()),
    *((name, function, 1) for name, function in ROWS.items()),
]
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_a_function(part):
    for number in range(part, len(FUNCTIONS), PARTS):
        name, function, operands = FUNCTIONS[number]
        dtype = list(FLOATS.values())[number % len(FLOATS)]
        check(function, dtype, number, operands, samples=2, subnormals=name != "atan2")


def test_an_idiom_with_its_gradient():
    names = sorted(STEPS)
    for number in range(0, len(names), 5):
        check_program(
            names[number : number + 5], jnp.float32, number, with_gradient=True, samples=1
        )


def of_integers(x):
    natural = jnp.clip(x, 0, 9).astype(jnp.int32)
    signed = jnp.clip(x, -9, 9).astype(jnp.int32)
    is_large, is_small = x > 0.5, x < 2
    three = jnp.full_like(signed, 3)
    return (
        lax.div(signed, three), lax.rem(signed, three), lax.div(three, signed),
        lax.rem(three, natural), natural & three, natural & signed, signed & signed,
        natural | three, signed | three, natural << 4 | three, signed ^ three, ~signed,
        lax.shift_right_logical(natural, three), lax.shift_right_logical(signed, three),
        lax.shift_right_logical(three, signed), natural << three, signed << three,
        is_large & is_small, is_large | is_small, is_large ^ is_small, ~is_large,
        natural.astype(bool), signed.astype(jnp.int8), signed.astype(jnp.float16),
        lax.bitcast_convert_type(natural, jnp.float32),
        lax.bitcast_convert_type(signed, jnp.float32),
        lax.reduce_or(is_large, (1,)), lax.reduce_and(is_small, (1,)),
        lax.population_count(natural),
    )  # fmt: skip


@pytest.mark.parametrize("ends", [(-20, 20), (1, 8), None])
def test_integers_and_their_bits(ends):
    rng = np.random.default_rng(0)
    shape = (4, 5)
    value = (
        argument(rng, shape, jnp.float32, bad=0.1)
        if ends is None
        else interval(shape, np.dtype("float32"), *ends)
    )
    found = escapes(of_integers, [value], [[sample(rng, value)] for _ in range(4)])
    assert not found, found[:3]
