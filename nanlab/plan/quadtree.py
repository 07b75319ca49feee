"""Outcomes on the plane of two axes -> cells, divided only where the outcome changes.

A cell is divided if not all the runs on its rim are of one kind. A run on the rim that it shares
with a smaller neighbor counts, so the boundary is followed from cell to cell even where the coarse
pass had not seen it; an island that lies inside one cell of the coarse pass stays unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from nanlab.grid.search import Refine
from nanlab.plan.lattice import Lattice, Spot

Place = tuple[int, int]
Outcomes = Mapping[Spot, str | None]
"""What is known: None where the software failed the run."""


@dataclass(frozen=True, kw_only=True, order=True)
class PlaneCell:
    """A rectangle of the plane; runs are made at its corners.

    Attributes:
        point: of the other axes.
        lower, upper: the places of its corners on each axis.
    """

    point: int
    lower: Place
    upper: Place


class PlaneRefinement:
    """The refinement of a plane, round by round.

    Args:
        lattice: of the grid.
        table: what it asks for.
    """

    def __init__(self, lattice: Lattice, table: Refine) -> None:
        self._lattice, self._table = lattice, table
        self._known: dict[Spot, str | bool | None] = {}
        self._open = list(self._coarse())
        self._closed: list[PlaneCell] = []
        self._divided = 0

    @property
    def cells(self) -> list[PlaneCell]:
        """The cells that the plane is divided into so far."""
        return sorted([*self._open, *self._closed])

    @property
    def open(self) -> int:
        """How many cells the last round divided."""
        return self._divided

    def next(self, outcomes: Outcomes) -> list[Spot]:
        """The runs of the next round, after all that were asked for so far."""
        self._known = {spot: self.kind(word) for spot, word in outcomes.items()}
        asked: dict[Spot, None] = {}
        self._divided = 0
        while True:
            cells, self._open, again = self._open, [], False
            for cell in cells:
                if not self._is_mixed(cell):
                    self._open.append(cell)
                    continue
                parts = list(_divide(cell))
                self._divided += 1
                for part in parts:
                    (self._open if _can_divide(part) else self._closed).append(part)
                    new = [spot for spot in _corners(part) if spot not in self._known]
                    asked |= dict.fromkeys(new)
                    # Where its neighbors have made its runs, it can be looked at at once.
                    again = again or not new
            if not again:
                return sorted(asked)

    def kind(self, word: str | None) -> str | bool | None:
        """What of an outcome the refinement tells apart."""
        if word is None or self._table.between == "outcomes":
            return word
        return word in self._table.trains

    def kinds(self, cell: PlaneCell) -> set[str | bool | None]:
        """The kinds of the runs on a cell's rim that are known; None for one that failed."""
        return {self._known[spot] for spot in self._rim(cell)}

    def _coarse(self) -> Iterator[PlaneCell]:
        first, second = self._lattice.directions
        for point, kept in enumerate(self._lattice.kept.tolist()):
            for i, j in product(range(len(first.parts)), range(len(second.parts))):
                if kept[i][j] and kept[i + 1][j] and kept[i][j + 1] and kept[i + 1][j + 1]:
                    lower = first.coarse[i], second.coarse[j]
                    upper = first.coarse[i + 1], second.coarse[j + 1]
                    yield PlaneCell(point=point, lower=lower, upper=upper)

    def _is_mixed(self, cell: PlaneCell) -> bool:
        if not _can_divide(cell) or any(spot not in self._known for spot in _corners(cell)):
            return False
        kinds = self.kinds(cell)
        return len(kinds) > 1 and None not in kinds

    def _rim(self, cell: PlaneCell) -> Iterator[Spot]:
        """Where runs are known on a cell's rim."""
        yield from _corners(cell)
        (a, c), (b, d) = cell.lower, cell.upper
        corners = (a, c), (a, d), (b, d), (b, c)
        for i, corner in enumerate(corners):
            yield from self._between(cell.point, corners[i - 1], corner)

    def _between(self, point: int, first: Place, second: Place) -> Iterator[Spot]:
        # A neighbor's run on the rim is in the middle of it, or in the middle of a half: its cells
        # were divided as this one was.
        middle = (first[0] + second[0]) // 2, (first[1] + second[1]) // 2
        if middle in (first, second) or (point, middle) not in self._known:
            return
        yield point, middle
        yield from self._between(point, first, middle)
        yield from self._between(point, middle, second)


def _corners(cell: PlaneCell) -> Iterator[Spot]:
    for place in product(*zip(cell.lower, cell.upper, strict=True)):
        yield cell.point, place


def _can_divide(cell: PlaneCell) -> bool:
    """Whether there are places between its corners, so that it is wider than the tolerance."""
    return any(b - a > 1 for a, b in zip(cell.lower, cell.upper, strict=True))


def _divide(cell: PlaneCell) -> Iterator[PlaneCell]:
    """Its halves along each axis on which it has places between its corners."""
    pieces = [
        [(low, (low + high) // 2), ((low + high) // 2, high)] if high - low > 1 else [(low, high)]
        for low, high in zip(cell.lower, cell.upper, strict=True)
    ]
    for (a, b), (c, d) in product(*pieces):
        yield PlaneCell(point=cell.point, lower=(a, c), upper=(b, d))
