"""Axes -> Product: the points of a grid as masks over its axes; no point is an object here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from nanlab.grid.defaults import with_defaults
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, kind_of

Test = tuple[str, Callable[[ParameterValue], bool]]
"""A parameter's name, and a predicate of its values."""

Mask = Bool[np.ndarray, "*axes"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One dimension of a product: a parameter, or several that move together.

    Attributes:
        values: values of each parameter along the axis; all equally long, and never empty.
    """

    values: Mapping[str, Sequence[ParameterValue]]

    @property
    def size(self) -> int:
        """Number of values."""
        return len(next(iter(self.values.values())))


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """The points of some axes, less those that are excluded; the first axis varies slowest.

    Attributes:
        fixed: value of every parameter that is on no axis.
        axes: dimensions, in order.
        mask: whether each point is included; a dimension has size 1 if the mask does not depend
            on it, so that the mask stays small until it is broadcast.
    """

    fixed: Mapping[str, ParameterValue | None]
    axes: tuple[Axis, ...]
    mask: Mask

    def values(self, name: str) -> Sequence[Any]:
        """Return the values of a parameter: those of its axis, or its one value."""
        on_axis = (axis.values[name] for axis in self.axes if name in axis.values)
        # A user-defined parameter that occurs elsewhere in the grid has no value here.
        return next(on_axis, None) or [self.fixed.get(name)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each axis."""
        return tuple(axis.size for axis in self.axes)

    def indices(self) -> Int[np.ndarray, " points"]:
        """Return the flat indices of the included points in the full product, ascending."""
        return np.flatnonzero(np.broadcast_to(self.mask, self.shape))


def product_of(named: Mapping[str, ParameterValue], axes: Sequence[Axis]) -> Product:
    """Return all points of `axes`, with other parameters as in `named` or at their defaults."""
    on_axes = {name for axis in axes for name in axis.values}
    values = with_defaults(named)
    fixed = {name: value for name, value in values.items() if name not in on_axes}
    return Product(fixed=fixed, axes=tuple(axes), mask=np.ones([1] * len(axes), np.bool_))


def matched(product: Product, tests: Iterable[Test]) -> Mask:
    """Return which points pass all `tests`, as a mask like `Product.mask`.

    A point whose problem does not have the tested parameter does not pass.
    """
    mask = np.ones([1] * len(product.axes), np.bool_)
    for name, test in tests:
        problems = PARAMETERS[name].problems
        mask = mask & _along_axis(product, name, test)
        mask = mask & _along_axis(product, "problem", lambda p, of=problems: kind_of(p) in of)
    return np.asarray(mask)


def _along_axis(product: Product, name: str, test: Callable[[Any], bool]) -> Mask:
    shape = [axis.size if name in axis.values else 1 for axis in product.axes]
    return np.array([test(value) for value in product.values(name)], np.bool_).reshape(shape)


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, bound: _is_number(value) and value > bound,
    "ge": lambda value, bound: _is_number(value) and value >= bound,
    "lt": lambda value, bound: _is_number(value) and value < bound,
    "le": lambda value, bound: _is_number(value) and value <= bound,
    "ne": lambda value, bound: value != bound,
    "in": lambda value, bound: value in bound,
    "not_in": lambda value, bound: value not in bound,
}


def _is_number(value: Any) -> bool:
    # A batch size may be "full", which does not compare with numbers.
    return not isinstance(value, str)


def condition(
    written: ParameterValue | list[ParameterValue] | dict[str, Any],
) -> Callable[[ParameterValue], bool]:
    """Return the predicate of an exclude's condition: equality, membership, or comparisons."""
    if isinstance(written, dict):
        return partial(_holds, comparisons=written)
    return set(written if isinstance(written, list) else [written]).__contains__


def _holds(value: ParameterValue, *, comparisons: dict[str, Any]) -> bool:
    return all(_COMPARE[operator](value, bound) for operator, bound in comparisons.items())
