"""Arrays at an equation -> Contents: the numbers involved, counted and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Num

from nanlab.backend.finiteness import FINITE, INF, NAN, as_numbers, code_of
from nanlab.blame.program.program import Equation, Program

SHOWN_ELEMENTS = 8
"""Maximum number of elements shown of those that contributed to one result."""

Index = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Contents of an operand or a result of an equation.

    A complex number counts as NaN, +inf or -inf if one of its parts is.

    Attributes:
        expression: path of the argument, or the expression that computed the array; "" for a
            result.
        shape: shape of the array.
        dtype: type of the array.
        min: smallest finite value; None if there is none, or if values have no order.
        max: largest finite value, or None likewise.
        nans: number of NaNs.
        posinfs: number of +infs.
        neginfs: number of -infs.
        zeros: number of zeros.
        first_bad: index of the first element that is not finite, or None.
        there: of a result, its first bad element; of an operand, the elements that contributed to
            that one, the most informative first, at most `SHOWN_ELEMENTS`; empty if unknown.
        n_there: number of elements from which these were chosen.
        bad_rows: indices in the first axis at which it is not finite, at most `SHOWN_ELEMENTS`.
        n_bad_rows: number of all of them.
    """

    expression: str
    shape: tuple[int, ...]
    dtype: str
    min: float | int | None
    max: float | int | None
    nans: int
    posinfs: int
    neginfs: int
    zeros: int
    first_bad: Index | None
    there: tuple[Any, ...] = ()
    n_there: int = 0
    bad_rows: tuple[int, ...] = ()
    n_bad_rows: int = 0


def contents(expression: str, array: np.ndarray, there: np.ndarray | None = None) -> Contents:
    """Count the NaNs, infs and zeros of an array; `there` are elements to show."""
    numbers = as_numbers(array)
    shown = () if there is None else tuple(x.item() for x in _most_informative(as_numbers(there)))
    is_finite = np.isfinite(numbers)
    has_order = numbers.dtype.kind in "fiu" and bool(is_finite.any())
    finite = numbers[is_finite] if has_order else numbers
    rows = _bad_rows(numbers)
    return Contents(
        expression=expression,
        shape=array.shape,
        dtype=str(array.dtype),
        min=finite.min().item() if has_order else None,
        max=finite.max().item() if has_order else None,
        nans=int(np.isnan(numbers).sum()),
        posinfs=_infs(numbers, 1),
        neginfs=_infs(numbers, -1),
        zeros=int((numbers == 0).sum()),
        first_bad=first_bad(numbers),
        there=shown,
        n_there=0 if there is None else there.size,
        bad_rows=tuple(rows[:SHOWN_ELEMENTS].tolist()),
        n_bad_rows=len(rows),
    )


def _bad_rows(numbers: np.ndarray) -> Int[np.ndarray, " rows"]:
    """Return the indices in the first axis at which an array is not finite."""
    bad = _bad(numbers, INF)
    flat = bad.reshape(bad.shape[0], -1) if bad.ndim and bad.size else np.zeros((0, 1), bool)
    return np.flatnonzero(flat.any(axis=1))


def _infs(numbers: np.ndarray, sign: int) -> int:
    if numbers.dtype.kind not in "fc":
        return 0
    parts = [np.real(numbers), np.imag(numbers)] if numbers.dtype.kind == "c" else [numbers]
    found = np.zeros(numbers.shape, bool)
    for part in parts:
        found |= np.isinf(part) & (part * sign > 0)
    return int(found.sum())


def first_bad(
    array: np.ndarray, worst: int = INF, later: Sequence[np.ndarray] = ()
) -> Index | None:
    """Return the index of the first element that is not finite, or None.

    Args:
        array: an array of any JAX type.
        worst: NAN to look for NaNs only.
        later: arrays computed from it element by element; elements that are bad there too are
            preferred.

    Returns:
        The index.
    """
    bad = _bad(array, worst)
    if not bad.any():
        return None
    for following in later:
        remaining = bad & _bad(following, INF)
        if not remaining.any():
            break
        bad = remaining
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))


def _bad(array: np.ndarray, worst: int) -> Bool[np.ndarray, "*shape"]:
    numbers = as_numbers(array)
    if numbers.dtype.kind not in "fc":
        return np.zeros(numbers.shape, bool)
    return np.asarray(np.isnan(numbers) if worst == NAN else ~np.isfinite(numbers))


def _most_informative(numbers: Num[np.ndarray, "*shape"]) -> Num[np.ndarray, " shown"]:
    """Return up to SHOWN_ELEMENTS elements: non-finite ones, zeros, then the largest."""
    flat = numbers.reshape(-1)
    if flat.dtype.kind not in "fc" or len(flat) <= 1:
        return flat[:SHOWN_ELEMENTS]
    with np.errstate(all="ignore"):
        rank = np.where(np.isnan(flat), 3, np.where(np.isinf(flat), 2, np.where(flat == 0, 1, 0)))
        order = np.lexsort((-np.abs(np.nan_to_num(flat)), -rank))
    # One of each kind first, so that an inf and the zero that it was multiplied by both show.
    firsts = {int(rank[i]): int(i) for i in order[::-1]}
    chosen = list(dict.fromkeys([*(firsts[r] for r in sorted(firsts, reverse=True)), *order]))
    return flat[chosen[:SHOWN_ELEMENTS]]


def contributing_elements(
    equation: Equation, operands: Sequence[np.ndarray], index: Index
) -> list[np.ndarray | None]:
    """Return, for each operand, the elements that determine one element of the first result."""
    name, params = equation.primitive, equation.eqn.params
    if name == "dot_general":
        return [*_rows(params["dimension_numbers"], operands, index)]
    if name.startswith("reduce_") and "axes" in params:
        axes = params["axes"]
        rest = iter(index)
        indices = tuple(slice(None) if a in axes else next(rest) for a in range(operands[0].ndim))
        return [np.asarray(operands[0][indices]), *[None for _ in operands[1:]]]
    if name.startswith("cum") and "axis" in params:
        axis = params["axis"]
        until = slice(index[axis], None) if params.get("reverse") else slice(0, index[axis] + 1)
        indices = tuple(until if a == axis else i for a, i in enumerate(index))
        return [np.asarray(operands[0][indices])]
    if name in _ELEMENTWISE:
        return [_broadcast_at(x, index) for x in operands]
    return [None for _ in operands]


def _broadcast_at(x: np.ndarray, index: Index) -> np.ndarray:
    """Return the element at `index` of an array that may have axes of size 1."""
    if x.ndim != len(index):
        return np.asarray(x)
    return np.asarray(x[tuple(0 if n == 1 else i for i, n in zip(index, x.shape, strict=True))])


def is_elementwise(equation: Equation) -> bool:
    """Return whether each element of the result depends on the elements at its index alone."""
    return equation.primitive in _ELEMENTWISE


def _rows(dimension_numbers: Any, operands: Sequence[np.ndarray], index: Index) -> list[np.ndarray]:
    """Return the row and the column whose product is one element of a `dot_general`."""
    contracted, batch = dimension_numbers
    left_free = operands[0].ndim - len(contracted[0]) - len(batch[0])
    count = len(batch[0])
    free = (index[count : count + left_free], index[count + left_free :])
    rows: list[np.ndarray] = []
    for side, x in enumerate(operands):
        rest, batched = iter(free[side]), dict(zip(batch[side], index, strict=False))
        indices = tuple(
            slice(None) if axis in contracted[side]
            else batched[axis] if axis in batched
            else next(rest)
            for axis in range(x.ndim)
        )  # fmt: skip
        rows.append(np.asarray(x[indices]))
    return rows


def any_bad(arrays: Sequence[np.ndarray]) -> bool:
    """Return whether any array contains an inf or a NaN."""
    return any(code_of(array) != FINITE for array in arrays)


def first_bad_shard(
    program: Program, equation: Equation, operands: list[np.ndarray], results: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inside a `shard_map`, return the operands and results of the first device with a bad one."""
    for _ in range(program.n_shard_maps(equation.frame)):
        bad = [i for i in range(len(results[0])) if any_bad([np.asarray(r[i]) for r in results])]
        device = bad[0] if bad else 0
        results = [np.asarray(r[device]) for r in results]
        values = [program.values[v] for v in equation.operands]
        operands = [
            np.asarray(x[device]) if x.ndim > len(v.shape) else x
            for x, v in zip(operands, values, strict=True)
        ]
    return operands, results


_ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt",
    "ceil", "clamp", "convert_element_type", "copysign", "cos", "cosh", "digamma", "div", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "igamma", "igammac", "integer_pow",
    "is_finite", "lgamma", "log", "log1p", "logistic", "max", "min", "mul", "neg", "nextafter",
    "polygamma", "pow", "reduce_precision", "regularized_incomplete_beta", "rem", "round", "rsqrt",
    "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "zeta", "complex", "real",
    "imag", "bessel_i0e", "bessel_i1e", "select_n",
}  # fmt: skip
