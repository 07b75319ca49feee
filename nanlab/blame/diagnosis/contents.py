"""Arrays at an equation -> contents: the numbers that met there, counted and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanlab.backend.finiteness import INF, NAN, as_numbers
from nanlab.blame.program.program import Equation

SHOWN_ELEMENTS = 8
"""How many of the elements that went into one result are shown."""

Index = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What an operand or a result of an equation held.

    Attributes:
        expression: the path of the argument that it is, or how it was computed.
        shape, dtype: of the array.
        min, max: of its finite values; None if it has none, or if they have no order.
        nans, posinfs, neginfs, zeros: how many; of a complex array, elements with such a part.
        first_bad: the index of its first element that is not finite, None if there is none.
        there: of a result, its first bad element; of an operand, the elements that went into
            that one, the telling ones first, at most
            `SHOWN_ELEMENTS`; empty where that is not known.
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


def contents(expression: str, array: np.ndarray, there: np.ndarray | None = None) -> Contents:
    """Count what an array holds.

    Args:
        expression: what to call it.
        array: of any type of JAX's.
        there: the elements to show.
    """
    numbers = as_numbers(array)
    shown = () if there is None else tuple(x.item() for x in _telling(as_numbers(there)))
    is_finite = np.isfinite(numbers)
    has_order = numbers.dtype.kind in "fiu" and bool(is_finite.any())
    finite = numbers[is_finite] if has_order else numbers
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
    )


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
    """The index of the first element that is not finite; None if there is none.

    Args:
        array: of any type.
        worst: NAN if only a NaN counts.
        later: arrays of the same shape that it went into, element by element: one whose elements
            were bad there too goes before others.
    """
    bad = _bad(array, worst)
    if not bad.any():
        return None
    for each in later:
        remaining = bad & _bad(each, INF)
        if not remaining.any():
            break
        bad = remaining
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))


def _bad(array: np.ndarray, worst: int) -> np.ndarray:
    numbers = as_numbers(array)
    if numbers.dtype.kind not in "fc":
        return np.zeros(numbers.shape, bool)
    return np.asarray(np.isnan(numbers) if worst == NAN else ~np.isfinite(numbers))


def _telling(numbers: np.ndarray) -> np.ndarray:
    """At most SHOWN elements: those that are not finite, zeros, then the largest."""
    flat = numbers.reshape(-1)
    if flat.dtype.kind not in "fc" or len(flat) <= 1:
        return flat[:SHOWN_ELEMENTS]
    with np.errstate(all="ignore"):
        rank = np.where(np.isnan(flat), 3, np.where(np.isinf(flat), 2, np.where(flat == 0, 1, 0)))
        order = np.lexsort((-np.abs(np.nan_to_num(flat)), -rank))
    # One of each kind first, so that the inf and the zero that it met are both seen.
    firsts = {int(rank[i]): int(i) for i in order[::-1]}
    chosen = list(dict.fromkeys([*(firsts[r] for r in sorted(firsts, reverse=True)), *order]))
    return flat[chosen[:SHOWN_ELEMENTS]]


def met_at(
    equation: Equation, operands: Sequence[np.ndarray], index: Index
) -> list[np.ndarray | None]:
    """Of each operand, the elements that went into one element of an equation's first result."""
    name, params = equation.primitive, equation.eqn.params
    if name == "dot_general":
        return [*_rows(params["dimension_numbers"], operands, index)]
    if name.startswith("reduce_") and "axes" in params:
        axes = params["axes"]
        kept = iter(index)
        place = tuple(
            slice(None) if axis in axes else next(kept) for axis in range(operands[0].ndim)
        )
        return [np.asarray(operands[0][place]), *[None for _ in operands[1:]]]
    if name.startswith("cum") and "axis" in params:
        axis = params["axis"]
        until = slice(index[axis], None) if params.get("reverse") else slice(0, index[axis] + 1)
        place = tuple(until if a == axis else i for a, i in enumerate(index))
        return [np.asarray(operands[0][place])]
    if name in _ELEMENTWISE:
        return [_broadcast_at(x, index) for x in operands]
    return [None for _ in operands]


def _broadcast_at(x: np.ndarray, index: Index) -> np.ndarray:
    """The element that meets the others at `index`: an axis of size 1 has one for all."""
    if x.ndim != len(index):
        return np.asarray(x)
    place = tuple(0 if size == 1 else i for i, size in zip(index, x.shape, strict=True))
    return np.asarray(x[place])


def is_elementwise(equation: Equation) -> bool:
    """Whether each element of an equation's result comes of those in its place."""
    return equation.primitive in _ELEMENTWISE


def _rows(dimension_numbers: Any, operands: Sequence[np.ndarray], index: Index) -> list[np.ndarray]:
    """The row and the column whose product is one element of a `dot_general`."""
    contracted, batch = dimension_numbers
    left_free = operands[0].ndim - len(contracted[0]) - len(batch[0])
    count = len(batch[0])
    free = (index[count : count + left_free], index[count + left_free :])
    rows: list[np.ndarray] = []
    for side, x in enumerate(operands):
        rest, batched = iter(free[side]), dict(zip(batch[side], index, strict=False))
        place = tuple(
            slice(None) if axis in contracted[side]
            else batched[axis] if axis in batched
            else next(rest)
            for axis in range(x.ndim)
        )  # fmt: skip
        rows.append(np.asarray(x[place]))
    return rows


_ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt",
    "ceil", "clamp", "convert_element_type", "copysign", "cos", "cosh", "digamma", "div", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "igamma", "igammac", "integer_pow",
    "is_finite", "lgamma", "log", "log1p", "logistic", "max", "min", "mul", "neg", "nextafter",
    "polygamma", "pow", "reduce_precision", "regularized_incomplete_beta", "rem", "round", "rsqrt",
    "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "zeta", "complex", "real",
    "imag", "bessel_i0e", "bessel_i1e", "select_n",
}  # fmt: skip
