"""Outcomes on the plane of two axes -> cells, divided only where the outcome changes.

A cell is divided if the runs on its rim, those shared with smaller neighbors included, are of
different kinds. So the boundary is followed from cell to cell even where the coarse pass did not
see it; an island within one cell of the coarse pass stays unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from nanlab.grid.search import Refine
from nanlab.plan.bisection import NodeOutcomes
from nanlab.plan.lattice import Lattice, Node

Corner = tuple[int, int]
"""A tick on each of the two axes."""


@dataclass(frozen=True, kw_only=True, order=True)
class PlaneCell:
    """A rectangle of the plane, with runs at its corners.

    Attributes:
        point: index of a point of the other axes.
        lower: corner with the lower ticks.
        upper: corner with the upper ticks.
    """

    point: int
    lower: Corner
    upper: Corner


class PlaneRefinement:
    """The refinement of a plane, round by round."""

    def __init__(self, lattice: Lattice, table: Refine) -> None:
        self._lattice, self._table = lattice, table
        self._known: dict[Node, str | bool | None] = {}
        self._open = list(self._coarse())
        self._closed: list[PlaneCell] = []
        self._divided = 0

    @property
    def cells(self) -> list[PlaneCell]:
        """The cells of the plane so far."""
        return sorted([*self._open, *self._closed])

    @property
    def open(self) -> int:
        """Number of cells that the last round divided."""
        return self._divided

    def next(self, outcomes: NodeOutcomes) -> list[Node]:
        """Return the runs of the next round, given the outcomes of all earlier ones."""
        self._known = {node: self.kind(outcome) for node, outcome in outcomes.items()}
        requested: dict[Node, None] = {}
        self._divided = 0
        while True:
            cells, self._open, again = self._open, [], False
            for cell in cells:
                if not self._is_mixed(cell):
                    self._open.append(cell)
                    continue
                self._divided += 1
                for part in _divide(cell):
                    (self._open if _can_divide(part) else self._closed).append(part)
                    new = [node for node in _corners(part) if node not in self._known]
                    requested |= dict.fromkeys(new)
                    # If neighbors have made all of its runs, it can be examined at once.
                    again = again or not new
            if not again:
                return sorted(requested)

    def kind(self, outcome: str | None) -> str | bool | None:
        """Return the part of an outcome that the refinement distinguishes."""
        if outcome is None or self._table.between == "outcomes":
            return outcome
        return outcome in self._table.trains

    def kinds(self, cell: PlaneCell) -> set[str | bool | None]:
        """Return the kinds of the runs on a cell's rim; None for one that the software failed."""
        return {self._known[node] for node in self._rim(cell)}

    def _coarse(self) -> Iterator[PlaneCell]:
        first, second = self._lattice.searched
        for point, mask in enumerate(self._lattice.mask.tolist()):
            for i, j in product(range(len(first.subdivisions)), range(len(second.subdivisions))):
                if mask[i][j] and mask[i + 1][j] and mask[i][j + 1] and mask[i + 1][j + 1]:
                    lower = first.coarse[i], second.coarse[j]
                    upper = first.coarse[i + 1], second.coarse[j + 1]
                    yield PlaneCell(point=point, lower=lower, upper=upper)

    def _is_mixed(self, cell: PlaneCell) -> bool:
        if not _can_divide(cell) or any(node not in self._known for node in _corners(cell)):
            return False
        kinds = self.kinds(cell)
        return len(kinds) > 1 and None not in kinds

    def _rim(self, cell: PlaneCell) -> Iterator[Node]:
        """Yield the nodes on a cell's rim that have been run."""
        yield from _corners(cell)
        (a, c), (b, d) = cell.lower, cell.upper
        corners = (a, c), (a, d), (b, d), (b, c)
        for i, corner in enumerate(corners):
            yield from self._between(cell.point, corners[i - 1], corner)

    def _between(self, point: int, first: Corner, second: Corner) -> Iterator[Node]:
        # Neighbors are halved as this cell is, so their runs are at midpoints, recursively.
        middle = (first[0] + second[0]) // 2, (first[1] + second[1]) // 2
        if middle in (first, second) or (point, middle) not in self._known:
            return
        yield point, middle
        yield from self._between(point, first, middle)
        yield from self._between(point, middle, second)


def _corners(cell: PlaneCell) -> Iterator[Node]:
    for corner in product(*zip(cell.lower, cell.upper, strict=True)):
        yield cell.point, corner


def _can_divide(cell: PlaneCell) -> bool:
    """Return whether a side is wider than the tolerance."""
    return any(b - a > 1 for a, b in zip(cell.lower, cell.upper, strict=True))


def _divide(cell: PlaneCell) -> Iterator[PlaneCell]:
    """Yield the cell's halves along each axis on which it is wider than the tolerance."""
    pieces = [
        [(low, (low + high) // 2), ((low + high) // 2, high)] if high - low > 1 else [(low, high)]
        for low, high in zip(cell.lower, cell.upper, strict=True)
    ]
    for (a, b), (c, d) in product(*pieces):
        yield PlaneCell(point=cell.point, lower=(a, c), upper=(b, d))
