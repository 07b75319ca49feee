"""A value -> how it came about, as one would write it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nanlab.blame.explain.expressions import Expressions
from nanlab.blame.program.program import flatten

pytestmark = pytest.mark.smoke
X = jax.ShapeDtypeStruct((3,), np.float32)


def written(function):
    """The expression of what a function of x and y returns."""
    program = flatten(function, X, X)
    (result,) = program.frames[0].results
    return Expressions(program, ["x", "y"]).of(result)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x, y: x, "x"),
        (lambda x, y: x - y, "x - y"),
        (lambda x, y: (x + y) * x, "(x + y) * x"),
        (lambda x, y: -(x + y), "-(x + y)"),
        (lambda x, y: lax.integer_pow(x + y, 3), "(x + y) ** 3"),
        (lambda x, y: lax.log(x) / y, "log(x) / y"),
        (lambda x, y: lax.exp(lax.log(lax.sqrt(lax.abs(x)))), "exp(log(sqrt(...)))"),
        (lambda x, y: jnp.sum(x) * 2, "sum(x) * 2.0"),
        (lambda x, y: x.astype(jnp.float16) + y.astype(jnp.float16), "x + y"),
        (lambda x, y: lax.select_n(x > y, x, y), "where(x > y, y, x)"),
        (lambda x, y: lax.clamp(x, y, x), "clamp(x, y, x)"),
        (lambda x, y: jnp.dot(x, y), "dot(x, y)"),
        (lambda x, y: x + np.ones(3, np.float32), "x + (constant float32[3])"),
    ],
)
def test_an_expression_is_written_as_one_would(function, text):
    assert written(function) == text


def test_inside_a_loop_the_carry_says_where_it_began_and_a_scanned_input_is_indexed():
    def loop(x, y):
        return lax.scan(lambda carry, each: (carry * each, None), jnp.sum(x), y)[0]

    program = flatten(loop, X, X)
    (product,) = [site for site in program.equations if site.primitive == "mul"]
    said = Expressions(program, ["x", "y"])
    carry, each = product.operands
    assert said.of(carry) == "carry (first: sum(x))"
    assert said.of(each) == "y[i]"
    assert said.of(product.results[0]) == "carry * y[i]"
