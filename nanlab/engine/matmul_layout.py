"""Rewrite the matrix products of a block's step into layouts that XLA's CPU backend is fast at.

XLA:CPU hands a small batched product to its fast library (YNN) only if the contracted axis is the
last of the left operand; any other runs in Eigen, lane by lane. The gradient of a layer's weights
contracts the examples, which come first there: 1.1 to 3.2 times as slow as in the other layout
(float32, widths 64 to 8; JAX 0.10.2, 2026-11-26; benchmarks/README.md). So these products are
written as right times left, and one with a matrix that all lanes share as if each lane had its own.
Sums run in another order, and round differently.

Delete this file when XLA:CPU is as fast in both layouts (time `dot_general` over 64 x 64 x 16 x 16
with its examples first and last: 111 and 42 microseconds today). Results then change in their last
bits, as with any other version of XLA.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nanlab.backend import jaxpr as _jax
from nanlab.backend.jaxpr import Jaxpr, JaxprEqn
from nanlab.engine.im2col import MOST_BYTES, convolution, is_worth_it

_Axes = tuple[int, ...]


def laid_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, of any pytrees of arrays, with its products in fast layouts."""

    def run(*arguments: Any) -> Any:
        jaxpr, constants, shapes = _jax.trace(function, *arguments)
        results = _jax.run_jaxpr(jaxpr, constants, jax.tree.leaves(arguments), _bind)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _replacement(eqn: JaxprEqn) -> Callable[..., Array] | None:
    """Return the function to run in an equation's place; None to leave it."""
    if eqn.primitive.name == "conv_general_dilated":
        inputs, filters = (v.aval for v in eqn.invars)
        return convolution if is_worth_it(inputs, filters, eqn.params) else None
    if eqn.primitive.name != "dot_general":
        return None
    (summed, _), (batch, _) = eqn.params["dimension_numbers"]
    if not batch:
        return _shared_product if _shares_a_matrix(eqn) else None
    left: _jax.Aval = eqn.invars[0].aval
    axes = left.ndim
    is_last = tuple(summed) == tuple(range(axes - len(summed), axes))
    # XLA compiles a matrix times a vector to a sum, fused with what precedes it.
    return None if is_last or _has_a_vector(eqn) else _product


def _has_a_vector(eqn: JaxprEqn) -> bool:
    """Return whether one operand has, for each lane, contracted axes only."""
    sides: list[_jax.Aval] = [v.aval for v in eqn.invars]
    return any(
        math.prod(side.shape[axis] for axis in _free(side, summed, batch)) == 1
        for side, summed, batch in zip(sides, *eqn.params["dimension_numbers"], strict=True)
    )


def _shares_a_matrix(eqn: JaxprEqn) -> bool:
    """Return whether it multiplies (lanes, summed, free) by one matrix whose copies are small."""
    summed, _ = eqn.params["dimension_numbers"]
    sides: list[_jax.Aval] = [v.aval for v in eqn.invars]
    if sorted(side.ndim for side in sides) != [2, 3]:
        return False
    lanes = 0 if sides[0].ndim == 3 else 1
    shared: _jax.Aval = sides[1 - lanes]
    copies = sides[lanes].shape[0] * math.prod(shared.shape) * shared.dtype.itemsize
    return tuple(summed[lanes]) == (1,) and copies <= MOST_BYTES


def _is_slow(jaxpr: Jaxpr) -> bool:
    return any(_replacement(eqn) is not None or _has_slow_body(eqn) for eqn in jaxpr.eqns)


def _has_slow_body(eqn: JaxprEqn) -> bool:
    opened = _jax.open_equation(eqn)
    return opened is not None and any(_is_slow(body) for body, _ in opened.bodies)


def _bind(eqn: JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    replacement = _replacement(eqn)
    if replacement is not None:
        return [replacement(*map(jnp.asarray, operands), **eqn.params)]
    opened = _jax.open_equation(eqn)
    if opened is not None and _has_slow_body(eqn):
        (body, constants), *others = opened.bodies

        def run(*arguments: Any) -> list[Any]:
            return _jax.run_jaxpr(body, constants, arguments, _bind)

        if opened.kind == "call":
            return run(*(operands[index] for index in opened.operands[0]))
        if opened.kind in ("scan", "while") and not others:
            return _jax.bind_loop(eqn, run, operands)
    return _jax.bind(eqn, operands)


def _product(
    left: Array, right: Array, *, dimension_numbers: Any, precision: Any,
    preferred_element_type: Any, **_: Any,
) -> Array:  # fmt: skip
    """Compute `lax.dot_general` as right times left, contracting the first's last axis."""
    (left_summed, right_summed), (left_batch, right_batch) = dimension_numbers
    left_free = _free(left, left_summed, left_batch)
    right_free = _free(right, right_summed, right_batch)
    batch = tuple(range(len(left_batch)))
    last = len(batch) + 1
    transposed = lax.dot_general(
        _in_order(right, right_batch, right_free, right_summed),
        _in_order(left, left_batch, left_summed, left_free),
        (((last,), (last - 1,)), (batch, batch)),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    shape = [left.shape[axis] for axis in (*left_batch, *left_free)]
    shape += [right.shape[axis] for axis in right_free]
    return lax.transpose(transposed, (*batch, last, last - 1)).reshape(shape)


def _shared_product(
    left: Array, right: Array, *, dimension_numbers: Any, precision: Any,
    preferred_element_type: Any, **_: Any,
) -> Array:  # fmt: skip
    """Compute `lax.dot_general` with a copy of the shared matrix for each lane."""
    (left_summed, right_summed), _ = dimension_numbers
    is_left = left.ndim == 2
    shared, axes, lanes = (left, left_summed, right) if is_left else (right, right_summed, left)
    if tuple(axes) == (0,):
        shared = lax.transpose(shared, (1, 0))
    # Without a barrier XLA folds the copies into the product.
    copies = lax.optimization_barrier(lax.broadcast(shared, lanes.shape[:1]))
    product = lax.dot_general(
        copies, lanes, (((2,), (1,)), ((0,), (0,))),
        precision=precision, preferred_element_type=preferred_element_type,
    )  # fmt: skip
    return lax.transpose(product, (1, 0, 2) if is_left else (0, 2, 1))


def _free(x: Array | _jax.Aval, summed: _Axes, batch: _Axes) -> _Axes:
    return tuple(axis for axis in range(x.ndim) if axis not in (*summed, *batch))


def _in_order(x: Array, batch: _Axes, first: _Axes, second: _Axes) -> Array:
    """Reshape x to (*batch, first, second), the axes of `first` and of `second` merged."""
    order = (*batch, *first, *second)
    sizes = [math.prod(x.shape[axis] for axis in axes) for axes in (first, second)]
    shape = (*(x.shape[axis] for axis in batch), *sizes)
    if order != tuple(range(x.ndim)):
        # Without a barrier XLA folds the transposition into the product.
        x = lax.optimization_barrier(lax.transpose(x, order))
    return x.reshape(shape)
