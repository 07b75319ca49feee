"""Grid -> lattice: the points of its other axes, and on the searched ones places at the tolerance.

A place is counted in whole numbers, so that two ways to it are one run, and the lattice is the
full grid that the search stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanlab.grid import Grid
from nanlab.grid.points import Axis, Product
from nanlab.grid.search import RefinedAxis, directions_of

Spot = tuple[int, tuple[int, ...]]
"""A point of the other axes, and a place on each searched axis: one run of the full grid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lattice:
    """What a grid asks for at its tolerance, of which few runs are made.

    Attributes:
        grid: a grid with a [search] or a [refine].
        directions: its searched axes.
        others: its other axes, in order.
        kept: bool (points, values of the coarse pass on each direction): what is not excluded.
    """

    grid: Grid
    directions: tuple[RefinedAxis, ...]
    others: tuple[Axis, ...]
    kept: np.ndarray

    @property
    def points(self) -> int:
        """How many points the other axes have, those that are wholly excluded included."""
        return len(self.kept)

    @property
    def full(self) -> int:
        """How many runs the full grid has, if nothing of it is excluded in part."""
        many = int(self.kept.any(axis=tuple(range(1, self.kept.ndim))).sum())
        for direction in self.directions:
            many *= direction.coarse[-1] + 1
        return many

    def coarse(self) -> Iterator[Spot]:
        """The spots of the coarse pass."""
        for point, *steps in zip(*(axis.tolist() for axis in np.nonzero(self.kept)), strict=True):
            yield (
                point,
                tuple(d.coarse[step] for d, step in zip(self.directions, steps, strict=True)),
            )

    def product(self, spots: Sequence[Spot]) -> Product:
        """The points at some spots, in their order, as a product."""
        (main,) = self.grid.products
        values: dict[str, list[Any]] = {}
        points = np.array([point for point, _ in spots])
        places = np.unravel_index(points, self._shape) if self.others else ()
        for axis, along in zip(self.others, places, strict=True):
            for name, column in axis.values.items():
                values[name] = [column[i] for i in along.tolist()]
        for i, direction in enumerate(self.directions):
            values[direction.name] = [direction.number(place[i]) for _, place in spots]
        return Product(fixed=main.fixed, axes=(Axis(values=values),), kept=np.ones([1], np.bool_))

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(axis.many for axis in self.others)


def lattice_of(grid: Grid) -> Lattice:
    """The lattice of a grid that has a [search] or a [refine]."""
    directions = tuple(directions_of(grid.asked.finer, grid.asked.axes))
    (product,) = grid.products
    names = {direction.name for direction in directions}
    others = tuple(axis for axis in product.axes if not names & set(axis.values))
    kept = np.broadcast_to(product.kept, product.shape)
    ours = [
        next(i for i, axis in enumerate(product.axes) if direction.name in axis.values)
        for direction in directions
    ]
    last = np.moveaxis(kept, ours, range(-len(ours), 0))
    flat = last.reshape(-1, *last.shape[len(others) :])
    return Lattice(grid=grid, directions=directions, others=others, kept=flat)
