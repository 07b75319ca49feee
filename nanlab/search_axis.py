"""Outcomes along one axis -> crossings, each bisected until its bracket is at the tolerance.

The boundary between what trains and what fails need not be monotone: every change that the coarse
pass sees is a crossing of its own, and is followed on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nanlab.grid.search import Search
from nanlab.search_lattice import Lattice, Spot

LANES = 64
"""A CPU's block: lanes that a round pays for together. Not the device's own, so that the same runs
are made on every machine."""

Outcomes = Mapping[Spot, str | None]
"""What is known: None where the software failed the run."""


@dataclass(kw_only=True)
class Crossing:
    """Two neighbors between which runs begin, or cease, to train.

    Attributes:
        point: of the other axes.
        number: from 1, along the axis.
        coarse: the places between which the coarse pass saw it.
        lower, upper: the places between which it is known to lie.
        below: whether what is below it trains.
        asked: places between them whose runs come next.
        runs: how many runs it took, the coarse pass not counted.
        is_open: whether more runs would help.
    """

    point: int
    number: int
    coarse: tuple[int, int]
    lower: int
    upper: int
    below: bool
    asked: list[int] = field(default_factory=list[int])
    runs: int = 0
    is_open: bool = True


def halvings_a_round(crossings: int, left: int) -> int:
    """How many halvings of its bracket each crossing makes in one round: 1, or 2 with 3 runs.

    Where few crossings are left, two halvings at once fill lanes that are paid for anyway, and
    save a round; where many are, one run for a halving is the least there is.

    Args:
        crossings: how many of one group are open.
        left: halvings that the widest of them needs.
    """

    def blocks(halvings: int) -> int:
        return -(-left // halvings) * -(-crossings * (2**halvings - 1) // LANES)

    return min((1, 2), key=lambda halvings: (blocks(halvings), halvings))


class AxisSearch:
    """The search along one axis, round by round.

    Args:
        lattice: of the grid.
        table: what it asks for.
        groups: the group of each point of the other axes.
    """

    def __init__(self, lattice: Lattice, table: Search, groups: Mapping[int, int]) -> None:
        self._lattice, self._table, self._groups = lattice, table, groups
        (self._direction,) = lattice.directions
        self.crossings: list[Crossing] | None = None

    @property
    def wanted(self) -> bool:
        """Whether the value that is asked for trains."""
        return self._table.finds.endswith("trains")

    def answer(
        self, crossings: Sequence[Crossing], known: Sequence[tuple[int, int, bool]]
    ) -> Crossing | tuple[int | None, int | None]:
        """The crossing at which a point's answer is, or a bracket that is open at one end.

        Args:
            crossings: of the point.
            known: of the point, as `known` has it; not empty.
        """
        (_, bottom, first), (_, top, last) = known[0], known[-1]
        if self._table.finds.startswith("largest"):
            if last == self.wanted:
                return top, None
            found = [each for each in crossings if each.below == self.wanted]
            return found[-1] if found else (None, bottom)
        if first == self.wanted:
            return None, bottom
        found = [each for each in crossings if each.below != self.wanted]
        return found[0] if found else (top, None)

    def trains(self, spot: Spot, outcomes: Outcomes) -> bool | None:
        """Whether the run at a spot trains; None where that is not known."""
        word = outcomes.get(spot)
        return None if word is None else word in self._table.trains

    def next(self, outcomes: Outcomes) -> list[Spot]:
        """The runs of the next round, after all that were asked for so far."""
        if self.crossings is None:
            self.crossings = list(self._seen(outcomes))
        else:
            for crossing in self.crossings:
                if crossing.is_open:
                    self._narrow(crossing, outcomes)
        waiting = [each for each in self.crossings if each.is_open]
        many = Counter(self._groups[each.point] for each in waiting)
        widest: Counter[int] = Counter()
        for each in waiting:
            group = self._groups[each.point]
            widest[group] = max(widest[group], (each.upper - each.lower - 1).bit_length())
        halvings = {group: halvings_a_round(many[group], widest[group]) for group in many}
        spots: list[Spot] = []
        for each in waiting:
            pieces = 2 ** halvings[self._groups[each.point]]
            width = each.upper - each.lower
            inside = {each.lower + width * i // pieces for i in range(1, pieces)}
            each.asked = sorted(inside - {each.lower, each.upper})
            each.runs += len(each.asked)
            spots += ((each.point, (place,)) for place in each.asked)
        return spots

    @property
    def open(self) -> int:
        """How many crossings wait for runs."""
        return sum(each.is_open for each in self.crossings or ())

    def known(self, point: int, outcomes: Outcomes) -> list[tuple[int, int, bool]]:
        """The values of the coarse pass of which it is known: step, place, whether it trains."""
        told: list[tuple[int, int, bool]] = []
        for step, place in enumerate(self._direction.coarse):
            trains = self.trains((point, (place,)), outcomes)
            if trains is not None:
                told.append((step, place, trains))
        return told

    def _seen(self, outcomes: Outcomes) -> Iterator[Crossing]:
        for point in range(self._lattice.points):
            pairs = pairwise(self.known(point, outcomes))
            changes = ((low, high) for low, high in pairs if low[2] != high[2])
            for number, (low, high) in enumerate(changes, 1):
                # Not so if what is between them is excluded.
                are_neighbors = high[0] == low[0] + 1
                yield Crossing(
                    point=point, number=number, coarse=(low[1], high[1]), lower=low[1],
                    upper=high[1], below=low[2], is_open=are_neighbors and high[1] > low[1] + 1,
                )  # fmt: skip

    def _narrow(self, crossing: Crossing, outcomes: Outcomes) -> None:
        """Bring the bracket to the change of its kind among its new runs."""
        places = [crossing.lower, *crossing.asked, crossing.upper]
        told = [(p, self.trains((crossing.point, (p,)), outcomes)) for p in places]
        known = [(place, trains) for place, trains in told if trains is not None]
        changes = [
            (a[0], b[0]) for a, b in pairwise(known) if a[1] == crossing.below and b[1] != a[1]
        ]
        largest = self._table.finds.startswith("largest")
        lower, upper = changes[-1 if largest else 0]
        narrower = upper - lower < crossing.upper - crossing.lower
        crossing.lower, crossing.upper = lower, upper
        # A run that the software failed tells nothing; what it would have told is asked no more.
        crossing.is_open = narrower and upper - lower > 1
