"""Compute grouped convolutions as matrix products over patches (im2col).

Under vmap, a convolution with different filters in each lane becomes one with a group for each
lane, which is slow in XLA's CPU backend: 4 Gflop/s a core, where its matrix products reach 50
(JAX 0.10.2, 2026-11). So each output's patch of the inputs is laid out as a row, and a group's rows
are multiplied by its filters (Chellapilla et al. 2006, https://inria.hal.science/inria-00112631).
Delete this file when XLA:CPU's grouped convolutions reach the speed of its products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Inexact

MOST_BYTES = 16 << 20
"""Limit for a block's patches, or for copies of a shared matrix: more fits no cache."""

MOST_SLICES = 64
"""Limit for the slices of one convolution: programs with more compile slowly."""


class Window(NamedTuple):
    """Geometry of a convolution, axis by axis.

    Attributes:
        inputs: sizes of the padded inputs.
        filters: sizes of the filters.
        outputs: sizes of the outputs.
        strides: distance between neighboring outputs.
        dilation: distance between neighboring filter entries.
    """

    inputs: tuple[int, ...]
    filters: tuple[int, ...]
    outputs: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]


def window_of(inputs: Any, filters: Any, params: dict[str, Any]) -> Window:
    """Return the geometry of a `conv_general_dilated`.

    Args:
        inputs: an array, or its shape and dtype.
        filters: an array, or its shape and dtype.
        params: parameters of the primitive.

    Returns:
        Sizes along the spatial axes.
    """
    numbers = params["dimension_numbers"]
    sizes = [inputs.shape[axis] for axis in numbers.lhs_spec[2:]]
    kernel = tuple(filters.shape[axis] for axis in numbers.rhs_spec[2:])
    padded = tuple(
        max(0, size - 1) * gap + min(size, 1) + low + high
        for size, gap, (low, high) in zip(
            sizes, params["lhs_dilation"], params["padding"], strict=True
        )
    )
    strides, dilation = tuple(params["window_strides"]), tuple(params["rhs_dilation"])
    reach = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilation, strict=True)]
    outputs = tuple(
        max(0, (size - span) // stride + 1)
        for size, span, stride in zip(padded, reach, strides, strict=True)
    )
    return Window(padded, kernel, outputs, strides, dilation)


def is_worth_it(inputs: Any, filters: Any, params: dict[str, Any]) -> bool:
    """Return whether a convolution has groups and its patches fit the limits."""
    groups, numbers = params["feature_group_count"], params["dimension_numbers"]
    if (
        groups < 2
        or params["batch_group_count"] != 1
        or not jnp.issubdtype(inputs.dtype, jnp.inexact)
    ):
        return False
    window = window_of(inputs, filters, params)
    entries, outputs = math.prod(window.filters), math.prod(window.outputs)
    examples, channels = (inputs.shape[axis] for axis in numbers.lhs_spec[:2])
    size = examples * channels * entries * outputs * inputs.dtype.itemsize
    return 0 < min(entries, outputs) <= MOST_SLICES and 0 < size <= MOST_BYTES


def convolution(
    inputs: Inexact[Array, " ..."], filters: Inexact[Array, " ..."], **params: Any
) -> Inexact[Array, " ..."]:
    """Compute `lax.conv_general_dilated` with groups as a product over patches."""
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    window = window_of(inputs, filters, params)
    rows = _patches(_by_group(inputs, numbers.lhs_spec, groups), window, params)
    weights = lax.transpose(filters, (*numbers.rhs_spec[2:], *numbers.rhs_spec[1::-1]))
    weights = weights.reshape(-1, groups, weights.shape[-1] // groups).swapaxes(0, 1)
    results = lax.dot_general(
        rows.reshape(groups, -1, weights.shape[1]),
        lax.optimization_barrier(weights),
        (((2,), (1,)), ((0,), (0,))),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    examples = inputs.shape[numbers.lhs_spec[0]]
    results = results.reshape(groups, examples, *window.outputs, -1)
    # (groups, examples, outputs ..., channels) -> (examples, outputs ..., all channels).
    results = jnp.moveaxis(results, 0, -2).reshape(examples, *window.outputs, -1)
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return lax.transpose(results, tuple(order.index(axis) for axis in range(len(order))))


def _by_group(inputs: Array, spec: Sequence[int], groups: int) -> Array:
    """Return the inputs as (groups, examples, inputs ..., channels)."""
    x = lax.transpose(inputs, (spec[0], *spec[2:], spec[1]))
    return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), -2, 0)


def _patches(x: Array, window: Window, params: dict[str, Any]) -> Array:
    """Return the patches, (groups, examples, outputs ..., filter entries ..., channels)."""
    edges = zip(params["padding"], params["lhs_dilation"], strict=True)
    gaps = [(low, high, gap - 1) for (low, high), gap in edges]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *gaps, (0, 0, 0)])
    spatial = len(gaps)
    shape = (*x.shape[:2], *window.outputs, *window.filters, x.shape[-1])
    # One slice for each filter entry, over all outputs, or for each output, over all entries.
    by_entry = math.prod(window.filters) <= math.prod(window.outputs)
    at, over = (window.filters, window.outputs) if by_entry else (window.outputs, window.filters)
    step, walk = (
        (window.dilation, window.strides) if by_entry else (window.strides, window.dilation)
    )
    slices: list[Array] = []
    for index in product(*(range(size) for size in at)):
        start = [i * gap for i, gap in zip(index, step, strict=True)]
        stop = [s + (size - 1) * gap + 1 for s, size, gap in zip(start, over, walk, strict=True)]
        slices.append(
            lax.slice(
                x,
                (0, 0, *start, 0),
                (*x.shape[:2], *stop, x.shape[-1]),
                (1, 1, *walk, 1),
            )
        )
    stacked = jnp.stack(slices, axis=2 + spatial if by_entry else 2)
    return stacked.reshape(shape)
