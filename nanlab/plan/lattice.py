"""Grid -> Lattice: the full grid at a search's tolerance, of which few nodes are run.

Positions on a searched axis are integers, its ticks, so that a node that is reached twice is one
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from nanlab.grid import Grid
from nanlab.grid.points import Axis, Product
from nanlab.grid.search import SearchedAxis, searched_axes

Node = tuple[int, tuple[int, ...]]
"""One run of the full grid: the index of a point of the other axes, and a tick on each searched
axis."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lattice:
    """The full grid that a search samples.

    Attributes:
        grid: a grid with a [search] or a [refine].
        searched: its searched axes.
        others: its other axes, in order.
        mask: whether each point of the coarse pass is included; after the points of the other
            axes a dimension for each searched axis.
    """

    grid: Grid
    searched: tuple[SearchedAxis, ...]
    others: tuple[Axis, ...]
    mask: Bool[np.ndarray, " points *coarse"]

    @property
    def n_points(self) -> int:
        """Number of points of the other axes, wholly excluded ones included."""
        return len(self.mask)

    @property
    def n_nodes(self) -> int:
        """Number of runs of the full grid, counting partly excluded points as whole."""
        count = int(self.mask.any(axis=tuple(range(1, self.mask.ndim))).sum())
        for axis in self.searched:
            count *= axis.coarse[-1] + 1
        return count

    def coarse(self) -> Iterator[Node]:
        """Yield the nodes of the coarse pass."""
        for point, *steps in zip(*(axis.tolist() for axis in np.nonzero(self.mask)), strict=True):
            yield (
                point,
                tuple(a.coarse[step] for a, step in zip(self.searched, steps, strict=True)),
            )

    def product(self, nodes: Sequence[Node]) -> Product:
        """Return the points at some nodes, in their order, as a product."""
        (main,) = self.grid.products
        values: dict[str, list[Any]] = {}
        points = np.array([point for point, _ in nodes])
        shape = tuple(axis.size for axis in self.others)
        indices = np.unravel_index(points, shape) if self.others else ()
        for axis, along in zip(self.others, indices, strict=True):
            for name, column in axis.values.items():
                values[name] = [column[i] for i in along.tolist()]
        for i, axis in enumerate(self.searched):
            values[axis.name] = [axis.number(ticks[i]) for _, ticks in nodes]
        return Product(fixed=main.fixed, axes=(Axis(values=values),), mask=np.ones([1], np.bool_))


def lattice_of(grid: Grid) -> Lattice:
    """Return the lattice of a grid that has a [search] or a [refine]."""
    table = grid.document.refinement
    assert table is not None
    searched = tuple(searched_axes(table, grid.document.axes))
    (product,) = grid.products
    names = [axis.name for axis in searched]
    others = tuple(axis for axis in product.axes if not set(names) & set(axis.values))
    mask = np.broadcast_to(product.mask, product.shape)
    dimensions = [
        next(i for i, axis in enumerate(product.axes) if name in axis.values) for name in names
    ]
    last = np.moveaxis(mask, dimensions, range(-len(dimensions), 0))
    flat = last.reshape(-1, *last.shape[len(others) :])
    return Lattice(grid=grid, searched=searched, others=others, mask=flat)
