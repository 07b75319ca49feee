"""Arguments of a call -> the outputs of earlier calls that they are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any

import jax

from nanlab.recorder.arrays import ARRAY, KINDS, is_array

if TYPE_CHECKING:
    from nanlab.recorder.watched import WatchedFunction

flatten: Callable[[Any], tuple[list[Any], Any]] = jax.tree_util.default_registry.flatten


class Outputs:
    """What one call returned: its leaves, numbered from `base` on among all outputs.

    Attributes:
        base: number of the first.
        strong: the leaves; [] if none is to be kept alive.
    """

    __slots__ = ("_ids", "_references", "base", "strong")

    def __init__(self, base: int, leaves: list[Any]) -> None:
        self.base, self.strong = base, leaves
        self._ids: frozenset[int] | None = None
        self._references: list[Callable[[], Any]] | None = None

    @property
    def leaves(self) -> list[Any]:
        """The leaves; None for one that nobody has any more."""
        if self._references is None:
            return self.strong
        return [reference() for reference in self._references]

    def has_any(self, ids: set[int]) -> bool:
        """Return whether an array with one of these ids is among the leaves."""
        if ids.isdisjoint(map(id, self.strong) if self._ids is None else self._ids):
            return False
        # The id of a leaf that is gone may be another object's now.
        return any(id(x) in ids and is_array(x) for x in self.leaves)

    def replace(self, values: Mapping[int, Any]) -> None:
        """Put other values in place of leaves, by number; None where there is none any more."""
        is_loose = self._references is not None
        self.strong = [values.get(n, x) for n, x in enumerate(self.leaves, self.base)]
        self._references = self._ids = None
        if is_loose:
            self.loosen()

    def loosen(self) -> None:
        """Keep none of the leaves alive from now on."""
        self._ids = frozenset(map(id, self.strong))
        self._references = [_reference(x) for x in self.strong]
        self.strong = []


def _reference(x: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(x)
    except TypeError:
        return lambda: x


class CallPlan:
    """Which argument leaves are fed by which outputs, and which come from outside.

    Args:
        tree: structure of (args, kwargs).
        donated: for each leaf whether the call may delete it.
        feeds: (function, calls ago) -> pairs of an argument's and an output's index.
        outside: indices of the other leaves.
        nbytes: of what comes from outside in a call.
    """

    def __init__(
        self,
        tree: Any,
        donated: Sequence[bool],
        feeds: dict[tuple[WatchedFunction, int], list[tuple[int, int]]],
        outside: list[int],
        nbytes: int,
    ) -> None:
        self.tree, self.donated, self.outside, self.nbytes = tree, donated, outside, nbytes
        self.pairs, self.version, self.is_first = feeds, -1, False
        self.feeds = [
            (*key, _getter([p for p, _ in pairs]), _getter([j for _, j in pairs]))
            for key, pairs in feeds.items()
        ]
        self._spans: list[tuple[int, int, int, Any]] = []
        self._changed: list[int] = []

    def bases(self, leaves: list[Any]) -> tuple[int, ...] | None:
        """Return the numbers of the outputs that feed these leaves; None if others do."""
        bases: list[int] = []
        try:
            for producer, age, take, output in self.feeds:
                outputs = producer.recent[age]
                known = outputs.strong or outputs.leaves
                if not all(map(is_, take(leaves), output(known))):
                    return None
                bases.append(outputs.base)
        except IndexError:  # the function has been called less, or returned less than it did
            return None
        return tuple(bases)

    def overlooks(self, leaves: list[Any], functions: Sequence[WatchedFunction]) -> bool:
        """Return whether a recent call returned one of the leaves that count as outside."""
        ids: set[int] = set()
        for place in self.outside:
            if KINDS[type(leaves[place])] == ARRAY:
                ids.add(id(leaves[place]))
        if not ids:  # batches of NumPy
            return False
        return any(outputs.has_any(ids) for f in functions for outputs in f.recent)

    def older(self, bases: Sequence[int], base: int) -> list[int]:
        """Return the leaves that were computed before the output number `base`."""
        pairs = zip(bases, self.pairs.values(), strict=True)
        return sorted(place for b, fed in pairs if b < base for place, _ in fed)

    def sources(self, bases: Sequence[int]) -> list[int | None]:
        """Return for each leaf the number of the output that it is; None from outside."""
        sources: list[int | None] = [None] * len(self.donated)
        for base, pairs in zip(bases, self.pairs.values(), strict=True):
            for place, index in pairs:
                sources[place] = base + index
        return sources

    def with_leaves(self, args: Any, kwargs: Any, leaves: list[Any], changed: list[int]) -> Any:
        """Return (args, kwargs) with other leaves at some places; the rest are the same objects."""
        if kwargs:
            return self.tree.unflatten(leaves)
        if self._changed != changed:
            self._spans, self._changed, start = [], changed, 0
            for index, arg in enumerate(args):
                found, tree = flatten(arg)
                if any(start <= place < start + len(found) for place in changed):
                    self._spans.append((index, start, start + len(found), tree))
                start += len(found)
        args = list(args)
        for index, start, end, tree in self._spans:
            args[index] = tree.unflatten(leaves[start:end])
        return args, kwargs


def _getter(places: list[int]) -> Callable[[Any], Any]:
    if len(places) == 1:
        place = places[0]
        return lambda x: (x[place],)
    return itemgetter(*places)
