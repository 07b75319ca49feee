"""Convolutions as products over patches: XLA's own numbers, whatever the window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from nanlab.engine import im2col as patches
from nanlab.engine.matmul_layout import laid_out


@st.composite
def windows(draw):
    """Shapes and parameters of a convolution with groups, its axes in any order."""
    axes = draw(st.integers(1, 2))
    groups = draw(st.integers(2, 3))
    examples, channels, filters = (draw(st.integers(1, 3)) for _ in range(3))

    def each(low, high):
        return [draw(st.integers(low, high)) for _ in range(axes)]

    def arranged(*sizes):
        order = draw(st.permutations(range(len(sizes))))
        spec = tuple(order.index(i) for i in range(len(sizes)))
        return tuple(sizes[i] for i in order), spec

    inputs, lhs_spec = arranged(examples, groups * channels, *each(1, 6))
    kernels, rhs_spec = arranged(groups * filters, channels, *each(1, 3))
    _, out_spec = arranged(*range(axes + 2))
    params = {
        "window_strides": each(1, 2),
        "padding": list(zip(each(-1, 2), each(-1, 2), strict=True)),
        "lhs_dilation": each(1, 2),
        "rhs_dilation": each(1, 2),
        "dimension_numbers": lax.ConvDimensionNumbers(lhs_spec, rhs_spec, out_spec),
        "feature_group_count": groups,
    }
    return inputs, kernels, params


@settings(max_examples=4)
@given(windows())
def test_a_convolution_is_the_one_that_was_asked_for(asked):
    check_convolution(asked)


@pytest.mark.slow
@settings(max_examples=24)
@given(windows())
def test_every_convolution_is_the_one_that_was_asked_for(asked):
    check_convolution(asked)


def check_convolution(asked):
    shape, kernels, params = asked
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-3, 4, shape), "float64")
    w = jnp.asarray(rng.integers(-3, 4, kernels), "float64")
    try:
        expected = lax.conv_general_dilated(x, w, **params)
    except (TypeError, ValueError):  # the padding takes more than there is
        assume(False)
        raise
    assume(expected.size)

    def convolve(x, w):
        return lax.conv_general_dilated(x, w, **params)

    found = laid_out(convolve)(x, w)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(laid_out(convolve))(x, w))
    np.testing.assert_array_equal(found, expected)


def convolve(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def loss(w, x):
    return jnp.sum(jnp.tanh(convolve(jnp.tanh(convolve(x, w[0])), w[1])) ** 2)


def test_gradients_of_lanes_with_their_own_filters_are_those_of_each_lane_alone():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((3, 2, 8, 8, 2)))
    w = tuple(jnp.asarray(rng.standard_normal((3, 3, 3, *ends))) for ends in ((2, 4), (4, 5)))
    gradient = jax.jit(laid_out(jax.vmap(jax.grad(loss))))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(gradient)(w, x))
    for lane, found in enumerate(zip(*gradient(w, x), strict=True)):
        alone = jax.jit(jax.grad(loss))(tuple(each[lane] for each in w), x[lane])
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_convolution_of_many_patches_is_left_as_it_is():
    x = jax.ShapeDtypeStruct((2, 16, 96, 96, 3), jnp.float32)
    w = jax.ShapeDtypeStruct((2, 3, 3, 3, 8), jnp.float32)
    assert patches.MOST_BYTES < 2 * 16 * 96 * 96 * (3 * 3 * 3) * 4
    vmapped = laid_out(jax.vmap(convolve))
    assert "conv_general_dilated" in str(jax.make_jaxpr(vmapped)(x, w))


def test_lanes_that_share_their_filters_keep_their_convolution():
    x = jax.ShapeDtypeStruct((2, 1, 20, 20, 1), jnp.float32)
    w = jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.float32)
    vmapped = laid_out(jax.vmap(convolve, in_axes=(0, None)))
    assert "conv_general_dilated" in str(jax.make_jaxpr(vmapped)(x, w))
