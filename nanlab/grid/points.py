"""Axes -> Product: which points a grid has, as masks over its axes; no point is built here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, kind_of

Test = tuple[str, Callable[[ParameterValue], bool]]
"""A parameter's name, and whether a value of it is matched."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One dimension of a product: a parameter, or several that move together.

    Attributes:
        values: for each parameter its value at each place; all equally long, and never empty.
    """

    values: Mapping[str, Sequence[ParameterValue]]

    @property
    def many(self) -> int:
        """How many places the axis has."""
        return len(next(iter(self.values.values())))


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """The points of some axes, less those that are excluded; the first axis varies slowest.

    Attributes:
        fixed: every parameter that is on no axis.
        axes: the dimensions, in order.
        kept: which points there are.  Has a dimension for each axis, of size 1 where all the
            axis's places are kept alike, so that it stays small until it is looked at.
    """

    fixed: Mapping[str, ParameterValue]
    axes: tuple[Axis, ...]
    kept: Mask

    def values(self, name: str) -> Sequence[Any]:
        """The values of parameter `name`: along its axis if it is on one, else the one it has."""
        on_axis = (axis.values[name] for axis in self.axes if name in axis.values)
        # A person's own parameter that is named elsewhere in the grid has no value here.
        return next(on_axis, None) or [self.fixed.get(name)]

    @property
    def shape(self) -> tuple[int, ...]:
        """How many places each axis has."""
        return tuple(axis.many for axis in self.axes)

    def indices(self) -> NDArray[np.int64]:
        """The places of the kept points in the full product, in order."""
        return np.flatnonzero(np.broadcast_to(self.kept, self.shape))


def product_of(named: Mapping[str, ParameterValue], axes: Sequence[Axis]) -> Product:
    """All points of `axes`; elsewhere parameters are as `named`, or have their defaults."""
    on_axes = {name for axis in axes for name in axis.values}
    defaults = {
        name: cast(ParameterValue, parameter.default) for name, parameter in PARAMETERS.items()
    }
    values = defaults | {**named}
    fixed = {name: value for name, value in values.items() if name not in on_axes}
    return Product(fixed=fixed, axes=tuple(axes), kept=np.ones([1] * len(axes), np.bool_))


def matched(product: Product, tests: Iterable[Test]) -> Mask:
    """Which points match all `tests`, as `Product.kept` says it.

    A test of a parameter does not match a point whose problem does not have that parameter.
    """
    mask = np.ones([1] * len(product.axes), np.bool_)
    for name, test in tests:
        mask = mask & _along_axis(product, name, test)
        having = PARAMETERS[name].problems
        mask = mask & _along_axis(product, "problem", lambda each, of=having: kind_of(each) in of)
    return np.asarray(mask)


def _along_axis(product: Product, name: str, test: Callable[[Any], bool]) -> Mask:
    shape = [axis.many if name in axis.values else 1 for axis in product.axes]
    return np.array([test(value) for value in product.values(name)], np.bool_).reshape(shape)


def without(product: Product, dropped: Mask) -> Product:
    """The product less the points where `dropped` is set."""
    return replace(product, kept=np.asarray(product.kept & ~dropped))


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
    # A batch's size may be "full", which is neither more nor less than a number.
    return not isinstance(value, str)


def condition(
    asked: ParameterValue | list[ParameterValue] | dict[str, Any],
) -> Callable[[ParameterValue], bool]:
    """The test that an exclude's condition is: equality, any of a list, or comparisons."""
    if isinstance(asked, dict):
        return partial(_holds, comparisons=asked)
    return set(asked if isinstance(asked, list) else [asked]).__contains__


def _holds(value: ParameterValue, *, comparisons: dict[str, Any]) -> bool:
    return all(_COMPARE[word](value, bound) for word, bound in comparisons.items())
