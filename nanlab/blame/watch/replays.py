"""Calls -> what they returned, once more: in place of a copy of donated arrays before each call.

A call that donates a state takes, mostly, what a call before it returned. So its arguments are
known if that call can be run again, from its own arguments: those are copied once in a number of
calls, or are arrays that nobody has donated.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

# Calls between two copies of a state, and bytes of other arguments that are retained for them.
_DEEPEST, _RETAINED = 16, 128 << 20
# Calls whose outputs are recognized as arguments.
_RECENT = 4


@dataclass(eq=False, kw_only=True)
class Replay:
    """A call that can be run again.

    Attributes:
        run: runs it on its arguments and returns the leaves of its outputs.
        arguments: the leaves of its arguments.
        donated: for each whether the call deletes it.
        copies: functions that return the copy of an array that was donated; None without one.
        sources: the call and the index of the output that an argument is, by its identity.
        depth: number of calls before it that have to be run, too.
        retained: bytes that are alive for it and those calls alone, at most.
    """

    run: Callable[[Sequence[Any]], Sequence[Any]]
    arguments: Sequence[Any]
    donated: Sequence[bool]
    copies: list[Callable[[Any], Any]]
    sources: dict[int, tuple[Replay, int]] = field(default_factory=dict[int, Any])
    depth: int = 0
    retained: int = 0

    def argument(self, leaf: Any, done: dict[Replay, Sequence[Any]]) -> Any:
        """Return an argument as it was; None if it is lost.

        Args:
            leaf: the argument.
            done: outputs of the calls that were run again so far.
        """
        if not isinstance(leaf, jax.Array) or not leaf.is_deleted():
            return leaf
        if id(leaf) not in self.sources:
            return next((x for copy in self.copies if (x := copy(leaf)) is not None), None)
        replay, index = self.sources[id(leaf)]
        return replay.outputs(done)[index]

    def outputs(self, done: dict[Replay, Sequence[Any]]) -> Sequence[Any]:
        """Run it again, after the calls that it needs; see `argument`."""
        if self not in done:
            arguments = [self.argument(x, done) for x in self.arguments]
            pairs = zip(arguments, self.donated, strict=False)
            done[self] = self.run([jnp.copy(x) if given else x for x, given in pairs])
        return done[self]


class Replays:
    """The last calls, as far as they can be run again.

    Attributes:
        is_on: whether calls are run again at all; else what is donated is copied before each.
    """

    def __init__(self) -> None:
        self.is_on = True
        # The outputs of a call by their identity.
        self._recent = deque[dict[int, tuple[weakref.ref[Any], Replay, int]]](maxlen=_RECENT)
        # Arguments that a call has not donated, by identity, and the calls that need them.
        self._borrowed: dict[int, tuple[weakref.ref[Any], weakref.WeakSet[Replay]]] = {}

    def _source(self, leaf: Any) -> tuple[Replay, int] | None:
        for outputs in reversed(self._recent):
            found = outputs.get(id(leaf))
            if found is not None and found[0]() is leaf:
                return found[1:]
        return None

    def sources(self, leaves: Sequence[Any]) -> dict[int, tuple[Replay, int]] | None:
        """Return where arrays that are going to be donated come from; None if they are copied."""
        if not self.is_on:
            return None
        found = {id(x): self._source(x) for x in leaves}
        known = {key: source for key, source in found.items() if source is not None}
        depth, retained = _sums(known)
        is_near = depth < _DEEPEST and retained < _RETAINED
        is_alone = self._borrowed.keys().isdisjoint(found)
        return known if is_near and is_alone and len(known) == len(found) else None

    def donated(self, leaves: Sequence[Any], copy: Callable[[Any], Any]) -> None:
        """Remember where the copies of arrays are, for the calls that have them as arguments."""
        for key in self._borrowed.keys() & set(map(id, leaves)) if self._borrowed else ():
            for replay in self._borrowed[key][1]:
                replay.copies.append(copy)

    def add(self, replay: Replay, outputs: Sequence[Any], indices: Sequence[int]) -> None:
        """Remember the outputs of a call that have these indices."""
        replay.depth, replay.retained = _sums(replay.sources)
        for x, given in zip(replay.arguments, replay.donated, strict=False):
            if given:
                continue
            replay.retained += getattr(x, "nbytes", 0)
            if isinstance(x, jax.Array):
                self._borrow(x, replay)
        self._recent.append({id(outputs[i]): (weakref.ref(outputs[i]), replay, i) for i in indices})

    def _borrow(self, leaf: Any, replay: Replay) -> None:
        key = id(leaf)
        if key not in self._borrowed:
            gone = weakref.ref(leaf, lambda _: self._borrowed.pop(key, None))
            self._borrowed[key] = gone, weakref.WeakSet()
        self._borrowed[key][1].add(replay)

    def value(self, leaf: Any) -> Any:
        """Return an array that was donated after a call had returned it; None if it is lost."""
        source = self._source(leaf)
        return None if source is None else source[0].outputs({})[source[1]]


def _sums(sources: Mapping[int, tuple[Replay, int]]) -> tuple[int, int]:
    """Return the number of calls to run for arguments from there, and the bytes retained."""
    calls = {replay for replay, _ in sources.values()}
    return 1 + max((c.depth for c in calls), default=-1), sum(c.retained for c in calls)
