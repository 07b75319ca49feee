"""Outcomes along one axis -> crossings, each bisected until its bracket is within the tolerance.

The boundary between training and failing need not be monotone: every change that the coarse pass
sees is a crossing of its own, bisected separately. Nor need it be simple: training was measured to
start and stop twenty times within half a decade. So beyond the answer a few runs are made, at 1, 3,
7, 15, ... tolerances; if one of them still has the wanted outcome, the search resumes from there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nanlab.grid.search import Search
from nanlab.plan.lattice import Lattice, Node

LANES = 64
"""Number of lanes whose cost a round shares: a CPU's block. Independent of the device, so that the
same runs are made on every machine."""

NodeOutcomes = Mapping[Node, str | None]
"""Outcome of each run so far; None where the software failed the run."""


@dataclass(kw_only=True)
class Crossing:
    """Two neighbors between which runs start or stop training.

    Attributes:
        point: index of a point of the other axes.
        number: number along the axis, from 1.
        coarse: ticks between which the coarse pass saw the crossing.
        lower: lower end of the bracket, a tick.
        upper: upper end of the bracket, a tick.
        below: whether runs train below the crossing.
        is_answer: whether it is the value to find, so that runs are made beyond it.
        requested: ticks of the runs requested for it, the coarse pass excluded.
        is_open: whether more runs would narrow it.
    """

    point: int
    number: int
    coarse: tuple[int, int]
    lower: int
    upper: int
    below: bool
    is_answer: bool = False
    requested: list[int] = field(default_factory=list[int])
    is_open: bool = True


def halvings_a_round(crossings: int, left: int) -> int:
    """Return how often a round halves each bracket of a group, whose widest needs `left` halvings.

    With few open crossings, two halvings at once (three runs) fill lanes that are paid for anyway
    and save a round; with many, one run per halving is cheapest.

    Returns:
        1 or 2.
    """

    def blocks(halvings: int) -> int:
        return -(-left // halvings) * -(-crossings * (2**halvings - 1) // LANES)

    return min((1, 2), key=lambda halvings: (blocks(halvings), halvings))


class AxisSearch:
    """The search along one axis, round by round.

    Attributes:
        crossings: all crossings, after the first round.
    """

    def __init__(self, lattice: Lattice, table: Search, groups: Mapping[int, int]) -> None:
        self._lattice, self._table, self._groups = lattice, table, groups
        (self._axis,) = lattice.searched
        self.crossings: list[Crossing] | None = None

    @property
    def wanted(self) -> bool:
        """Whether the value to find trains."""
        return self._table.finds.endswith("trains")

    def answer(
        self, crossings: Sequence[Crossing], known: Sequence[tuple[int, int, bool]]
    ) -> Crossing | tuple[int | None, int | None]:
        """Return the crossing to find at a point, or a bracket that is open at one end."""
        (_, bottom, first), (_, top, last) = known[0], known[-1]
        if self._largest:
            if last == self.wanted:
                return top, None
            found = [crossing for crossing in crossings if crossing.below == self.wanted]
            return found[-1] if found else (None, bottom)
        if first == self.wanted:
            return None, bottom
        found = [crossing for crossing in crossings if crossing.below != self.wanted]
        return found[0] if found else (top, None)

    def trains(self, node: Node, outcomes: NodeOutcomes) -> bool | None:
        """Return whether the run at a node trains; None if unknown."""
        outcome = outcomes.get(node)
        return None if outcome is None else outcome in self._table.trains

    def next(self, outcomes: NodeOutcomes) -> list[Node]:
        """Return the runs of the next round, given the outcomes of all earlier ones."""
        if self.crossings is None:
            self.crossings = list(self._found(outcomes))
        else:
            for crossing in self.crossings:
                if crossing.is_open:
                    self._narrow(crossing, outcomes)
        halvings = self._halvings()
        nodes: list[Node] = []
        for crossing in self.crossings:
            if crossing.is_open:
                ticks = self._new_ticks(crossing, halvings[self._groups[crossing.point]])
                crossing.is_open = bool(ticks)
                crossing.requested += ticks
                nodes += ((crossing.point, (tick,)) for tick in ticks)
        return nodes

    def _halvings(self) -> Mapping[int, int]:
        """Return how often each group's brackets are halved in this round."""
        n_crossings: Counter[int] = Counter()
        widest: Counter[int] = Counter()
        for crossing in self.crossings or ():
            left = (crossing.upper - crossing.lower - 1).bit_length()
            if crossing.is_open and left:
                group = self._groups[crossing.point]
                n_crossings[group] += 1
                widest[group] = max(widest[group], left)
        # Groups with nothing left to halve get 0, and make runs beyond their answers.
        return defaultdict(
            int, {g: halvings_a_round(n_crossings[g], widest[g]) for g in n_crossings}
        )

    def _new_ticks(self, crossing: Crossing, halvings: int) -> list[int]:
        """Return ticks that divide the bracket; once it is at the tolerance, some beyond it.

        A tick whose run the software failed is not requested again.
        """
        width, pieces = crossing.upper - crossing.lower, 2**halvings
        if width > 1:
            inside = {crossing.lower + width * i // pieces for i in range(1, pieces)}
            inside -= {crossing.lower, crossing.upper}
        else:
            inside = set(self._beyond(crossing))
        return sorted(inside.difference(crossing.requested))

    def _beyond(self, crossing: Crossing) -> Iterator[int]:
        """Yield ticks beyond the answer, at growing distances, up to the coarse pass's neighbor."""
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
        """Number of crossings that await runs."""
        return sum(crossing.is_open for crossing in self.crossings or ())

    def known(self, point: int, outcomes: NodeOutcomes) -> list[tuple[int, int, bool]]:
        """Return the coarse pass at a point where it is known: step, tick, whether it trains."""
        steps = enumerate(self._axis.coarse)
        results = [(step, tick, self.trains((point, (tick,)), outcomes)) for step, tick in steps]
        return [(step, tick, trains) for step, tick, trains in results if trains is not None]

    def _found(self, outcomes: NodeOutcomes) -> Iterator[Crossing]:
        for point in range(self._lattice.n_points):
            known = self.known(point, outcomes)
            changes = [(low, high) for low, high in pairwise(known) if low[2] != high[2]]
            found = [
                Crossing(
                    point=point, number=number, coarse=(low[1], high[1]), lower=low[1],
                    upper=high[1], below=low[2],
                    # Points between values that are not neighbors are excluded, or failed.
                    is_open=high[0] == low[0] + 1,
                )
                for number, (low, high) in enumerate(changes, 1)
            ]  # fmt: skip
            answer = self.answer(found, known) if known else None
            for crossing in found:
                crossing.is_answer = crossing is answer
                yield crossing

    def _narrow(self, crossing: Crossing, outcomes: NodeOutcomes) -> None:
        """Move the bracket to the outermost change of its kind among its runs."""
        ticks = sorted({*crossing.coarse, *crossing.requested})
        results = [(tick, self.trains((crossing.point, (tick,)), outcomes)) for tick in ticks]
        known = [(tick, trains) for tick, trains in results if trains is not None]
        changes = [
            (a[0], b[0]) for a, b in pairwise(known) if a[1] == crossing.below and b[1] != a[1]
        ]
        crossing.lower, crossing.upper = changes[-1 if self._largest else 0]
