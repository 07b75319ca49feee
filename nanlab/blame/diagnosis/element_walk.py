"""Backward through bad values, by element where the arrays are known, otherwise by array."""

from __future__ import annotations

import numpy as np

from nanlab.blame.diagnosis.elements import (
    LARGEST_ELEMENTS,
    Mask,
    bad_elements,
    feeding,
    stays_bad,
)
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation

MAX_STEPS = 3_000
"""Number of equations through which elements are followed; then arrays are."""

Feeds = dict[Point, Mask | None]


class ElementWalk:
    """A walk from bad points to the bad points that fed them.

    Args:
        reading: codes and arrays of one lane.
        worst: NAN to follow NaNs only, INF to follow all values that are not finite.

    Attributes:
        masks: elements of each point that reach where the walk began; None if not known.
    """

    def __init__(self, reading: Reading, worst: int) -> None:
        self._reading, self._worst = reading, worst
        self._program = reading.probe.program
        self._stack: list[Point] = []
        self._steps = 0
        self._bad: Feeds = {}
        self.masks: Feeds = {}

    def reach(self, point: Point, mask: Mask | None) -> None:
        """Go on from these elements of a point; from all bad ones without a mask."""
        bad = self._bad_elements(point)
        reached = bad if bad is None or mask is None else bad & mask
        if point in self.masks:
            before = self.masks[point]
            if before is None or (reached is not None and not (reached & ~before).any()):
                return
            reached = None if reached is None else before | reached
        self.masks[point] = reached
        self._stack.append(point)

    def run(self) -> dict[Point, list[Point]]:
        """Walk to the end; return for each point on the way those that fed it."""
        fed_by: dict[Point, list[Point]] = {}
        while self._stack:
            self._reading.keep_time()
            point = self._stack.pop()
            feeds = [f for f in self._reading.feeds(point) if self._reading.code(f) >= self._worst]
            found = self._elements_of(point, feeds) if feeds else {}
            fed_by[point] = list(found)
            for feed, mask in found.items():
                self.reach(feed, mask)
        return fed_by

    def _bad_elements(self, point: Point) -> Mask | None:
        if point not in self._bad:
            value = self._program.values[point.value]
            array = None
            if not self._program.n_shard_maps(value.frame):
                array = self._reading.array(point)
            is_known = array is not None and array.shape == value.shape
            if not is_known or array is None or array.size > LARGEST_ELEMENTS:
                self._bad[point] = None
            else:
                self._bad[point] = bad_elements(array, self._worst)
        return self._bad[point]

    def _elements_of(self, point: Point, feeds: list[Point]) -> Feeds:
        """Return those of the feeds that reach the point's elements, with their own."""
        mask = self.masks[point]
        everything: Feeds = dict.fromkeys(feeds)
        self._steps += 1
        if mask is None or self._steps > MAX_STEPS:
            return everything
        equation = self._program.computed_by(point.value)
        if equation is None:
            return {feed: self._passed(point, mask, feed) for feed in feeds}
        found = self._of_operands(equation, point, mask, feeds)
        reaching: Feeds = {}
        for feed, elements in found.items():
            bad = self._bad_elements(feed)
            if bad is None or elements is None or (bad & elements).any():
                reaching[feed] = elements
        if reaching or self._begins(equation, point, mask):
            return reaching
        return everything

    def _of_operands(
        self, equation: Equation, point: Point, mask: Mask, feeds: list[Point]
    ) -> Feeds:
        arrays = self._operands(equation, point)
        if arrays is None:
            return dict.fromkeys(feeds)
        found: Feeds = {}
        masks = feeding(equation, arrays, equation.results.index(point.value), mask)
        for value, elements in zip(equation.operands, masks, strict=True):
            feed = Point(value, point.iterations)
            if feed in feeds:
                both = found.get(feed, elements)
                found[feed] = None if both is None or elements is None else both | elements
        return found

    def _operands(self, equation: Equation, point: Point) -> list[np.ndarray] | None:
        arrays = [self._reading.array(Point(v, point.iterations)) for v in equation.operands]
        known = [x for x in arrays if x is not None and x.size <= LARGEST_ELEMENTS]
        return known if len(known) == len(arrays) else None

    def _begins(self, equation: Equation, point: Point, mask: Mask) -> bool:
        """Return whether the elements are bad without the operands' bad elements."""
        arrays = self._operands(equation, point)
        index = equation.results.index(point.value)
        return arrays is not None and stays_bad(equation, arrays, index, mask, self._worst)

    def _passed(self, point: Point, mask: Mask, feed: Point) -> Mask | None:
        """Return the elements that a loop or a branch passes on."""
        shape = self._program.values[feed.value].shape
        if shape == mask.shape:
            return mask
        if shape == mask.shape[1:] and len(feed.iterations) > len(point.iterations):
            return np.asarray(mask[feed.iterations[-1]])
        if shape[1:] == mask.shape and len(feed.iterations) < len(point.iterations):
            whole = np.zeros(shape, bool)
            whole[point.iterations[-1]] = mask
            return whole
        return None
