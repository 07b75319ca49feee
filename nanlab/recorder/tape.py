"""Calls -> tape: where each argument came from, and what cannot be computed again.

An argument leaf is an output of an earlier call, or comes from outside: batches, keys, constants.
What comes from outside is stored, by reference or, where it may be overwritten or donated, as a
copy. Every so often a new epoch begins, in which outputs of the epochs before count as outside
too: so the state is copied once an epoch, and an epoch can be replayed without those before it.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from nanlab.recorder.arrays import (
    ARRAY,
    KINDS,
    NUMPY,
    ArrayCodes,
    Pool,
    copies,
    is_inexact,
    to_device,
)
from nanlab.recorder.frameworks import user_call
from nanlab.recorder.plan import CallPlan, Outputs

if TYPE_CHECKING:
    from nanlab.recorder.watched import WatchedFunction

_DEEPEST = 8  # the outputs of this many calls of one function are recognized, where it matters
_PROBES = 3


class LostArgument(RuntimeError):
    """An argument that was stored by reference has been donated by a function not watched."""


class Cell:
    """An array from outside: itself, or a copy made before it was donated."""

    __slots__ = ("original", "value")

    def __init__(self, value: Any) -> None:
        self.value, self.original = value, value


class TapeEntry(NamedTuple):
    """A call on the tape.

    Attributes:
        number: of the call, among the calls of all watched functions.
        step: of the call, among the calls of its function.
        watched: the function.
        plan: where its arguments came from.
        bases: the numbers of the outputs that fed it, as in `CallPlan.bases`.
        stored: what came from outside, and from earlier epochs, by the leaf's index.
        base: number of its first output.
        n_outputs: number of its outputs.
    """

    number: int
    step: int
    watched: WatchedFunction
    plan: CallPlan
    bases: tuple[int, ...]
    stored: dict[int, Any]
    base: int
    n_outputs: int


_entry = partial(tuple.__new__, TapeEntry)  # quicker than the class, which is called at each call


class Check(NamedTuple):
    """The codes of arguments at an epoch's start: of a function, the leaves, what they hold."""

    watched: WatchedFunction
    tree: Any
    places: list[int]
    codes: ArrayCodes


class Epoch:
    """A part of the tape that can be replayed without what came before it."""

    def __init__(self, first: int, base: int) -> None:
        self.first, self.base, self.nbytes = first, base, 0
        self.entries: list[TapeEntry] = []
        self.cells: dict[int, Cell] = {}
        self.checks: list[Check] = []
        self.copies: list[Any] = []
        self.is_clean: bool | None = None  # not known yet


class Taken(NamedTuple):
    """What is on record of a call before it is made."""

    epoch: Epoch
    plan: CallPlan
    bases: tuple[int, ...]
    stored: dict[int, Any]
    owned: list[int]


_taken = partial(tuple.__new__, Taken)


class Tape:
    """The calls of the last epochs.

    Args:
        on_host: whether copies of the state are stored in the host's memory.
    """

    def __init__(self, *, on_host: bool = False) -> None:
        self.functions: list[WatchedFunction] = []
        self.on_host, self.pool = on_host, Pool()
        self.number = self.base = self.version = 0
        self._probes, self._probed_to = _PROBES, -1
        self.epochs: deque[Epoch] = deque([Epoch(0, 0)])
        self.epoch = self.epochs[0]

    def add(self, watched: WatchedFunction) -> WatchedFunction:
        """Put a function on the tape."""
        self.functions.append(watched)
        return watched

    def turn(self, *, is_clean: bool | None = None) -> None:
        """Begin a new epoch; `is_clean` where the state is known to be good."""
        self.epoch = Epoch(self.number, self.base)
        self.epoch.is_clean = is_clean
        self.epochs.append(self.epoch)

    def drop(self, before: int) -> None:
        """Drop epochs that no replay can need: all calls before this one were found good."""
        while len(self.epochs) > 1 and self.epochs[1].is_clean and self.epochs[1].first <= before:
            epoch = self.epochs.popleft()
            epoch.entries.clear()
            self.pool.give_back(epoch.copies)

    def forget(self) -> None:
        """Begin again, as if nothing had been called before."""
        self.turn()
        self.epochs = deque([self.epoch])
        for function in self.functions:
            function.forget()
        self.version += 1

    # A call.

    def before(self, watched: WatchedFunction, leaves: list[Any], tree: Any) -> Taken:
        """Record where the arguments of a call come from, and store what comes from outside."""
        plan, bases = watched.plan_of(tree, leaves, self.version)
        if plan is None or bases is None:
            plan, bases = self._plan(watched, leaves, tree)
        epoch = self.epoch
        places = plan.outside
        is_checked = plan.is_first
        for base in bases:
            if base < epoch.base:
                places, is_checked = [*places, *plan.older(bases, epoch.base)], True
                break
        stored, owned = self._store(leaves, plan, places, epoch)
        if is_checked:
            self._check(watched, plan, leaves, stored, epoch)
        return _taken((epoch, plan, bases, stored, owned))

    def after(self, watched: WatchedFunction, taken: Taken, leaves: list[Any]) -> TapeEntry:
        """Record what the call returned."""
        base, number, step = self.base, self.number, watched.calls
        epoch, plan, bases, stored, _ = taken
        entry = _entry((number, step, watched, plan, bases, stored, base, len(leaves)))
        epoch.entries.append(entry)
        recent = watched.recent
        depth = recent.maxlen
        if len(recent) != depth:
            self.version += 1  # plans that were made before may take its outputs for outside
        if depth != 1 and recent:
            recent[0].loosen()
        recent.appendleft(Outputs(base, leaves))
        if number == self._probed_to:
            self._end_probe()
        watched.calls = step + 1
        self.base = base + len(leaves)
        self.number = number + 1
        return entry

    def _plan(
        self, watched: WatchedFunction, leaves: list[Any], tree: Any
    ) -> tuple[CallPlan, tuple[int, ...]]:
        known = {
            id(x): (function, age, index)
            for function in self.functions
            for age, outputs in reversed(list(enumerate(function.recent)))
            for index, x in enumerate(outputs.leaves)
        }
        feeds: dict[tuple[WatchedFunction, int], list[tuple[int, int]]] = {}
        outside: list[int] = []
        nbytes = 0
        for place, x in enumerate(leaves):
            at = known.get(id(x)) if KINDS[type(x)] == ARRAY else None
            if at is None:
                outside.append(place)
                nbytes += x.nbytes if KINDS[type(x)] == ARRAY else 0
            else:
                feeds.setdefault(at[:2], []).append((place, at[2]))
        if nbytes and watched.calls and self._probes and self._probed_to < self.number:
            self._probe()
        plan = CallPlan(tree, watched.donated(tree, leaves), feeds, outside, nbytes)
        watched.add(plan, self.version)
        plan.is_first = not watched.layouts[tree].is_begun
        bases = plan.bases(leaves)
        assert bases is not None
        return plan, bases

    def _probe(self) -> None:
        """See for some calls whether arguments are outputs of earlier calls than the last one.

        So it is where one function updates several states in turn, as in a GAN.
        """
        self._probes -= 1
        self._probed_to = self.number + 2 * _DEEPEST * len(self.functions)
        self._set_depth(_DEEPEST)

    def _end_probe(self) -> None:
        if any(function.depth_used(self.version) for function in self.functions):
            self._probes = 0
        else:
            self._set_depth(1)

    def _set_depth(self, depth: int) -> None:
        for function in self.functions:
            function.recent = deque(list(function.recent)[:depth], maxlen=depth)
        self.version += 1

    def _store(
        self, leaves: list[Any], plan: CallPlan, places: list[int], epoch: Epoch
    ) -> tuple[dict[int, Any], list[int]]:
        stored: dict[int, Any] = {}
        owned: list[int] = []
        going: list[Cell] = []
        nbytes = plan.nbytes
        for place in places:
            x = leaves[place]
            kind = KINDS[type(x)]
            if kind == NUMPY:
                # The step reads this copy: JAX may read an argument after the loader has gone on.
                stored[place] = x = self.pool.copy(x, epoch.copies)
                nbytes += x.nbytes
                owned.append(place)
            elif kind == ARRAY:
                cell = epoch.cells.get(id(x))
                if cell is None:
                    cell = epoch.cells[id(x)] = Cell(x)
                stored[place] = cell
                if plan.donated[place] and cell.value is x:
                    going.append(cell)
            else:
                stored[place] = x
        epoch.nbytes += nbytes
        if going:
            self._copy(going)
        return stored, owned

    def _copy(self, cells: list[Cell]) -> None:
        """Copy arrays that are about to be donated, for every epoch that has them."""
        cells = list({id(cell): cell for cell in cells}.values())
        made = copies([cell.value for cell in cells], on_host=self.on_host)
        for cell, copy in zip(cells, made, strict=True):
            # The original stays referenced, deleted: so its id is not used again.
            key = id(cell.original)
            for epoch in self.epochs:
                other = epoch.cells.get(key)
                if other is not None and other.value is cell.original:
                    other.value = copy

    def _check(
        self,
        watched: WatchedFunction,
        plan: CallPlan,
        leaves: list[Any],
        stored: dict[int, Any],
        epoch: Epoch,
    ) -> None:
        """Compute, without waiting, what the arguments hold at the beginning of an epoch."""
        places = [place for place in sorted(stored) if is_inexact(leaves[place])]
        check = None
        if places:
            check = Check(watched, plan.tree, places, ArrayCodes([leaves[p] for p in places]))
            epoch.checks.append(check)
        if plan.is_first:
            plan.is_first = False
            layout = watched.layouts[plan.tree]
            layout.start, layout.is_begun = layout.start or check, True
            layout.user_call = user_call(leaves)


def value_of(stored: Any, entry: TapeEntry, place: int) -> Any:
    """Return an argument that was stored.

    Raises:
        LostArgument: it has been donated meanwhile.
    """
    if type(stored) is not Cell:
        return stored
    value = stored.value
    if value.is_deleted():
        raise LostArgument(
            f"argument leaf {place} of call {entry.number} ({entry.watched.name}) was donated "
            "later to a function that is not watched: watch that function too"
        )
    if value.sharding.memory_kind != stored.original.sharding.memory_kind:
        value = to_device(value, stored.original)
    return value
