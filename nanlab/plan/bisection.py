"""Outcomes along one axis -> crossings, each bisected until its bracket is at the tolerance.

The boundary between what trains and what fails need not be monotone: every change that the coarse
pass sees is a crossing of its own, and is followed on its own. Nor need it be simple: trainings
that begin and cease twenty times within half a decade were measured. So where the answer is, a few
runs are made beyond it, at 1, 3, 7, 15, ... tolerances; if one of them is still as wanted, the
search goes on from there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nanlab.grid.search import Search
from nanlab.plan.lattice import Lattice, Spot

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
        is_answer: whether the value that is asked for is here, so that it is looked beyond.
        asked: the places of the runs that it took, the coarse pass not counted.
        is_open: whether more runs would help.
    """

    point: int
    number: int
    coarse: tuple[int, int]
    lower: int
    upper: int
    below: bool
    is_answer: bool = False
    asked: list[int] = field(default_factory=list[int])
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
        if self._largest:
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
        halvings = self._halvings()
        spots: list[Spot] = []
        for each in self.crossings:
            if each.is_open:
                new = self._new_places(each, halvings[self._groups[each.point]])
                each.is_open = bool(new)
                each.asked += new
                spots += ((each.point, (place,)) for place in new)
        return spots

    def _halvings(self) -> Mapping[int, int]:
        """How often each group's crossings are halved in this round."""
        many: Counter[int] = Counter()
        widest: Counter[int] = Counter()
        for each in self.crossings or ():
            left = (each.upper - each.lower - 1).bit_length()
            if each.is_open and left:
                group = self._groups[each.point]
                many[group] += 1
                widest[group] = max(widest[group], left)
        # A group of which nothing is left to halve is looked beyond.
        return defaultdict(int, {g: halvings_a_round(many[g], widest[g]) for g in many})

    def _new_places(self, crossing: Crossing, halvings: int) -> list[int]:
        """Places that divide the bracket; once it is at the tolerance, some beyond the answer.

        A run that the software failed tells nothing, and its place is not asked for again.
        """
        width, pieces = crossing.upper - crossing.lower, 2**halvings
        if width > 1:
            inside = {crossing.lower + width * i // pieces for i in range(1, pieces)}
            inside -= {crossing.lower, crossing.upper}
        else:
            inside = set(self._beyond(crossing))
        return sorted(inside.difference(crossing.asked))

    def _beyond(self, crossing: Crossing) -> Iterator[int]:
        """Places beyond the answer, ever further, up to the neighbor of the coarse pass."""
        low, high = crossing.coarse
        offsets = [2**i - 1 for i in range(1, (high - low).bit_length() + 1)]
        for offset in offsets if crossing.is_answer else ():
            if self._largest and crossing.upper + offset < high:
                yield crossing.upper + offset
            if not self._largest and crossing.lower - offset > low:
                yield crossing.lower - offset

    @property
    def _largest(self) -> bool:
        return self._table.finds.startswith("largest")

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
            known = self.known(point, outcomes)
            changes = [(low, high) for low, high in pairwise(known) if low[2] != high[2]]
            found = [
                Crossing(
                    point=point, number=number, coarse=(low[1], high[1]), lower=low[1],
                    upper=high[1], below=low[2],
                    # Between others something is excluded.
                    is_open=high[0] == low[0] + 1,
                )
                for number, (low, high) in enumerate(changes, 1)
            ]  # fmt: skip
            answer = self.answer(found, known) if known else None
            for crossing in found:
                crossing.is_answer = crossing is answer
                yield crossing

    def _narrow(self, crossing: Crossing, outcomes: Outcomes) -> None:
        """Bring the bracket to the change of its kind among its runs that is furthest out."""
        places = sorted({*crossing.coarse, *crossing.asked})
        told = [(p, self.trains((crossing.point, (p,)), outcomes)) for p in places]
        known = [(place, trains) for place, trains in told if trains is not None]
        changes = [
            (a[0], b[0]) for a, b in pairwise(known) if a[1] == crossing.below and b[1] != a[1]
        ]
        crossing.lower, crossing.upper = changes[-1 if self._largest else 0]
