"""Products laid out anew: the same numbers, in every loop, and none left that XLA is slow at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from nanlab.backend.jaxpr import open_equation, split_constants
from nanlab.engine.matmul_layout import laid_out

LANES, EXAMPLES, WIDTH = 4, 6, 5


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


def products(jaxpr):
    """Every product in a jaxpr and in what is inside it: (left side's axes, batch, summed)."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (summed, _), (batch, _) = eqn.params["dimension_numbers"]
            found.append((eqn.invars[0].aval.ndim, tuple(batch), tuple(summed)))
        opened = open_equation(eqn)
        for body, _ in opened.bodies if opened else ():
            found += products(body)
    return found


def slow(function, *arguments):
    jaxpr, _ = split_constants(jax.make_jaxpr(function)(*arguments))
    return [
        (axes, batch, summed)
        for axes, batch, summed in products(jaxpr)
        if batch and summed != tuple(range(axes - len(summed), axes))
    ]


def loss(weights, x):
    for w in weights:
        x = jnp.tanh(x @ w)
    return jnp.sum(x**2)


def by_scan(weights, x):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    return jnp.sum(lax.scan(layer, x, jnp.stack(weights))[0] ** 2)


def jitted(weights, x):
    return jax.jit(loss)(weights, x)


def remembered(weights, x):
    return jax.checkpoint(loss)(weights, x)


def twice(weights, x):
    """A while loop that takes gradient steps."""

    def step(carry):
        count, weights = carry
        grads = jax.grad(loss)(weights, x)
        return count + 1, jax.tree.map(lambda w, g: w - 0.1 * g, weights, grads)

    return lax.while_loop(lambda carry: carry[0] < 2, step, (0, weights))[1]


@pytest.mark.parametrize("function", [loss, by_scan, jitted, remembered])
def test_gradients_are_the_same_numbers_and_no_slow_product_is_left(function):
    x, *weights = arrays((LANES, EXAMPLES, WIDTH), *[(LANES, WIDTH, WIDTH)] * 3)
    gradient = jax.vmap(jax.grad(function))
    assert slow(gradient, weights, x)
    assert not slow(laid_out(gradient), weights, x)
    expected, found = gradient(weights, x), laid_out(gradient)(weights, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_a_loop_of_steps_is_opened():
    x, *weights = arrays((LANES, EXAMPLES, WIDTH), *[(LANES, WIDTH, WIDTH)] * 2)
    steps = jax.vmap(twice)
    assert slow(steps, weights, x)
    assert not slow(laid_out(steps), weights, x)
    expected, found = steps(weights, x), laid_out(steps)(weights, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_lanes_that_share_their_examples_have_products_of_their_own():
    x, *weights = arrays((EXAMPLES, WIDTH), *[(LANES, WIDTH, WIDTH)] * 3)
    gradient = jax.vmap(jax.grad(loss), in_axes=(0, None))
    shared = products(split_constants(jax.make_jaxpr(gradient)(weights, x))[0])
    assert sum(not batch for _, batch, _ in shared) == 2  # forward, and for the first weights
    laid = products(split_constants(jax.make_jaxpr(laid_out(gradient))(weights, x))[0])
    assert all(batch for _, batch, _ in laid)
    expected, found = gradient(weights, x), laid_out(gradient)(weights, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


@pytest.mark.parametrize("left_is_shared", [True, False])
@pytest.mark.parametrize("summed", [0, 1])
def test_a_product_with_a_shared_matrix_is_the_one_that_was_asked_for(summed, left_is_shared):
    matrix, lanes = arrays((5, 5), (LANES, 5, 3))
    sides, axes = (matrix, lanes), ((summed,), (1,))
    if not left_is_shared:
        sides, axes = sides[::-1], axes[::-1]

    def product(*sides):
        return lax.dot_general(*sides, (axes, ((), ())))

    word = {0: "ab", 1: "ba"}[summed], "lac"
    out = "blc" if left_is_shared else "lcb"
    expected = np.einsum(f"{word[0]},{word[1]}->{out}", matrix, lanes)
    np.testing.assert_allclose(laid_out(product)(*sides), expected, rtol=1e-12)
    assert products(split_constants(jax.make_jaxpr(laid_out(product))(*sides))[0])[0][1] == (0,)


def test_a_product_with_a_vector_stays_as_it_was_asked_for():
    x, hidden, output = arrays((LANES, EXAMPLES, WIDTH), (LANES, WIDTH, WIDTH), (LANES, WIDTH, 1))
    gradient = jax.vmap(jax.grad(loss))
    before, after = (slow(f, [hidden, output], x) for f in (gradient, laid_out(gradient)))
    assert len(before) == 2
    assert after == before[:1]  # the output's weights come first
    # XLA makes sums of them: to the bit what the program as it was written makes.
    alone = jax.vmap(jax.grad(lambda output, h: jnp.sum((h @ output) ** 2)))
    found, expected = (jax.jit(f)(output, x) for f in (laid_out(alone), alone))
    np.testing.assert_array_equal(found, expected)


def test_a_matrix_that_is_too_large_to_be_copied_and_a_plain_product_stay():
    def product(x, w):
        return lax.dot_general(x, w, (((1,), (1,)), ((), ())))

    large = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((70_000, 64), (8, 64, 4))]
    plain = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((8, 4, 64), (4, 64))]
    for function, asked in (product, large), (lambda x, w: x @ w.T, plain):
        before, after = (split_constants(jax.make_jaxpr(f)(*asked))[0]
                         for f in (function, laid_out(function)))  # fmt: skip
        assert products(before) == products(after) and not products(after)[0][1]


@st.composite
def contractions(draw):
    """Shapes and dimension numbers of a product, its axes in any order."""
    sizes = st.integers(1, 4)
    batch = draw(st.lists(sizes, min_size=1, max_size=2))
    summed = draw(st.lists(sizes, min_size=1, max_size=2))
    sides = []
    for _ in range(2):
        free = draw(st.lists(sizes, max_size=2))
        named = [("b", i) for i in range(len(batch))] + [("s", i) for i in range(len(summed))]
        order = draw(st.permutations(named + [("f", i) for i in range(len(free))]))
        known = {"b": batch, "s": summed, "f": free}
        shape = tuple(known[kind][i] for kind, i in order)
        where = [
            tuple(order.index((kind, i)) for i in range(len(known[kind]))) for kind in ("s", "b")
        ]
        sides.append((shape, where))
    (left, (left_summed, left_batch)), (right, (right_summed, right_batch)) = sides
    return left, right, ((left_summed, right_summed), (left_batch, right_batch))


@settings(max_examples=6)
@given(contractions(), st.sampled_from(["float32", "int32"]))
def test_a_product_is_the_one_that_was_asked_for(asked, dtype):
    check_product(asked, dtype)


@pytest.mark.slow
@settings(max_examples=40)
@given(contractions(), st.sampled_from(["float32", "int32"]))
def test_every_product_is_the_one_that_was_asked_for(asked, dtype):
    check_product(asked, dtype)


def check_product(asked, dtype):
    left_shape, right_shape, numbers = asked
    rng = np.random.default_rng(0)
    left, right = (
        jnp.asarray(rng.integers(-3, 4, shape), dtype) for shape in (left_shape, right_shape)
    )

    def product(left, right):
        return lax.dot_general(left, right, numbers, preferred_element_type="float32")

    expected, found = product(left, right), laid_out(product)(left, right)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    # NumPy knows nothing of JAX's order of axes.
    letters = iter("abcdefghijklmnop")
    names = {("b", i): next(letters) for i in range(len(numbers[1][0]))}
    names |= {("s", i): next(letters) for i in range(len(numbers[0][0]))}
    sides, free = [], []
    for array, summed, batch in zip((left, right), *numbers, strict=True):
        word = ""
        for axis in range(array.ndim):
            if axis in batch:
                word += names["b", batch.index(axis)]
            elif axis in summed:
                word += names["s", summed.index(axis)]
            else:
                free.append(next(letters))
                word += free[-1]
        sides.append(word)
    out = "".join(names["b", i] for i in range(len(numbers[1][0]))) + "".join(free)
    by_numpy = np.einsum(f"{sides[0]},{sides[1]}->{out}", np.float64(left), np.float64(right))
    np.testing.assert_array_equal(found, by_numpy)
