"""Equation, elements of its result -> elements of its operands that they are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from nanlab.backend import jaxpr as _jax
from nanlab.backend.finiteness import NAN, as_numbers
from nanlab.blame.diagnosis.contents import is_elementwise
from nanlab.blame.program.primitives import DETAILS
from nanlab.blame.program.program import Equation

Mask = Bool[np.ndarray, "*shape"]

LARGEST_ELEMENTS = 2**20
"""Largest array whose elements are followed one by one."""

_MOVING = {
    "gather", "dynamic_slice", "dynamic_update_slice", "scatter", "scatter-add", "scatter_add",
    "slice", "pad", "concatenate", "split", "stack", "unstack", "cumsum", "cumlogsumexp",
    "conv_general_dilated", "reduce_window_sum",
}  # fmt: skip
_ORDINARY = 0.7
"""A number at which common functions are finite, with a derivative that is not zero."""


def bad_elements(array: np.ndarray, worst: int) -> Mask:
    """Return the elements that are NaN (`worst` NAN), or not finite (INF)."""
    numbers = as_numbers(array)
    if numbers.dtype.kind not in "fc":
        return np.zeros(numbers.shape, bool)
    return np.asarray(np.isnan(numbers) if worst == NAN else ~np.isfinite(numbers))


def feeding(
    equation: Equation, operands: Sequence[np.ndarray], result: int, mask: Mask
) -> list[Mask | None]:
    """Return, for each operand, the elements that the masked elements of a result depend on.

    Args:
        equation: the equation.
        operands: its operands; of those that are numbers only the shapes matter.
        result: index of the result.
        mask: elements of that result.

    Returns:
        A mask for each operand; None where it is not known.
    """
    name, params = equation.primitive, equation.eqn.params
    if name == "select_n":
        selector, *cases = operands
        chosen = [_reduced(mask & (selector == i), case.shape) for i, case in enumerate(cases)]
        return [_reduced(mask, selector.shape), *chosen]
    if is_elementwise(equation):
        return [_reduced(mask, x.shape) for x in operands]
    if name == "broadcast_in_dim":
        return [_unbroadcast(mask, params["broadcast_dimensions"], operands[0].shape)]
    if name == "transpose":
        return [mask.transpose(np.argsort(params["permutation"]))]
    if name == "rev":
        return [np.flip(mask, params["dimensions"])]
    if name in ("reshape", "squeeze", "expand_dims", "copy", "stop_gradient"):
        return [mask.reshape(operands[0].shape)]
    if name.startswith("reduce_") and "axes" in params:
        wide = np.expand_dims(mask, params["axes"])
        return [np.broadcast_to(wide, x.shape) if x.ndim else None for x in operands]
    if name == "dot_general":
        return [*_rows(params["dimension_numbers"], operands, mask)]
    return _moved(equation, operands, result, mask) if name in _MOVING else [None for _ in operands]


def stays_bad(
    equation: Equation, operands: Sequence[np.ndarray], result: int, mask: Mask, worst: int
) -> bool:
    """Return whether masked elements of a result are bad although no operand has a bad element."""
    good = [_without(x, bad_elements(x, worst)) for x in operands]
    try:
        again = _jax.bind(equation.eqn, [jnp.asarray(x) for x in good])[result]
    except Exception:
        return False
    return bool(bad_elements(np.asarray(again), worst)[mask].any())


def detail_at(equation: Equation, read: Sequence[np.ndarray], result: np.ndarray) -> int:
    """Return the detail that decides a mechanism, for one element and what it was computed from."""
    name = equation.primitive
    if name == "dot_general":
        left, right = read
        return int(np.any(np.isinf(left) & (right == 0) | (left == 0) & np.isinf(right)))
    if name not in DETAILS:
        return 0
    return int(DETAILS[name](np, equation.eqn.params, read, [result]))


def first_of(mask: Mask) -> tuple[int, ...] | None:
    """Return the first index of a mask that is set."""
    if not mask.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


def _without(array: np.ndarray, bad: Mask) -> np.ndarray:
    if not bad.any():
        return array
    changed = array.copy()
    changed[bad] = _ORDINARY
    return changed


def _reduced(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Return the mask of an operand of this shape, which may be a scalar or have axes of size 1."""
    if mask.shape == shape:
        return mask
    if not shape:
        return np.asarray(mask.any())
    if len(shape) != mask.ndim:
        return np.ones(shape, bool)
    axes = tuple(i for i, n in enumerate(shape) if n == 1)
    return np.asarray(mask.any(axes, keepdims=True))


def _unbroadcast(mask: Mask, axes: Sequence[int], shape: tuple[int, ...]) -> Mask:
    new = tuple(axis for axis in range(mask.ndim) if axis not in axes)
    return _reduced(np.asarray(mask.any(new)), shape)


def _rows(dimension_numbers: Any, operands: Sequence[np.ndarray], mask: Mask) -> list[Mask]:
    """Return the rows and columns that are multiplied for the masked elements."""
    contracted, batch = dimension_numbers
    count = len(batch[0])
    n_left = operands[0].ndim - len(contracted[0]) - count
    free = (range(count, count + n_left), range(count + n_left, mask.ndim))
    masks: list[Mask] = []
    for side, x in enumerate(operands):
        own = np.asarray(mask.any(tuple(free[1 - side])))
        order = (
            *batch[side],
            *(a for a in range(x.ndim) if a not in (*batch[side], *contracted[side])),
        )
        wide = own.reshape((*own.shape, *(1 for _ in contracted[side])))
        masks.append(np.broadcast_to(
            np.transpose(wide, np.argsort((*order, *contracted[side]))), x.shape
        ))  # fmt: skip
    return masks


def _moved(
    equation: Equation, operands: Sequence[np.ndarray], result: int, mask: Mask
) -> list[Mask | None]:
    """Return the elements that are moved or summed into the masked ones, by a derivative."""
    floats = [i for i, x in enumerate(operands) if jnp.issubdtype(x.dtype, jnp.inexact)]

    def moved(*values: Any) -> Any:
        filled: list[Any] = [jnp.asarray(x) for x in operands]
        for i, value in zip(floats, values, strict=True):
            filled[i] = value
        return _jax.bind(equation.eqn, filled)[result]

    try:
        ordinary = [jnp.full(operands[i].shape, _ORDINARY, operands[i].dtype) for i in floats]
        out, pull = jax.vjp(moved, *ordinary)
        found = pull(jnp.asarray(mask, out.dtype))
    except Exception:
        return [None for _ in operands]
    masks: list[Mask | None] = [None for _ in operands]
    for i, cotangent in zip(floats, found, strict=True):
        masks[i] = np.asarray(cotangent) != 0
    return masks
