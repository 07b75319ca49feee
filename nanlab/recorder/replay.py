"""A part of the tape, run again with the same executables -> the faulty call and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanlab.backend.finiteness import FINITE
from nanlab.recorder.arrays import ArrayCodes, copies, is_array, is_inexact, on_host, same_bits
from nanlab.recorder.plan import flatten
from nanlab.recorder.tape import Cell, Epoch, TapeEntry, value_of


class TapeReplay:
    """Runs calls of the tape again.

    Args:
        epochs: consecutive epochs; those after the first need nothing but what they were fed.

    Attributes:
        entries: the calls, in their order.
        values: outputs that a later call needs, by number.
    """

    def __init__(self, epochs: Iterable[Epoch]) -> None:
        self.entries = [entry for epoch in epochs for entry in epoch.entries]
        self.values: dict[int, Any] = {}
        self._last_use: dict[int, int] = {}
        for index, entry in enumerate(self.entries):
            for source in entry.plan.sources(entry.bases):
                if source is not None:
                    self._last_use[source] = index

    def is_used(self, number: int) -> bool:
        """Return whether a call takes the output of this number."""
        return number in self._last_use

    def retain(self, outputs: Iterable[int]) -> None:
        """Retain these outputs to the end."""
        self._last_use.update(dict.fromkeys(outputs, len(self.entries)))

    def leaves(self, entry: TapeEntry) -> list[Any]:
        """Return the arguments of the next call; donated ones are copies of what is stored."""
        leaves: list[Any] = []
        for place, source in enumerate(entry.plan.sources(entry.bases)):
            if source in self.values:
                leaves.append(self.values[source])
                continue
            stored = entry.stored[place]
            value = value_of(stored, entry, place)
            is_copied = entry.plan.donated[place] and type(stored) is Cell
            leaves.append(copies([value])[0] if is_copied else value)
        return leaves

    def run(self, entry: TapeEntry, leaves: Sequence[Any]) -> list[Any]:
        """Make a call and return its outputs."""
        args, kwargs = entry.plan.tree.unflatten(leaves)
        outputs = flatten(entry.watched.jitted(*args, **kwargs))[0]
        self.advance(entry, outputs)
        return outputs

    def advance(self, entry: TapeEntry, outputs: Sequence[Any]) -> None:
        """Note the outputs of a call, and drop what no later one needs."""
        index = entry.number - self.entries[0].number
        for source in entry.plan.sources(entry.bases):
            if source is not None and self._last_use[source] <= index:
                self.values.pop(source, None)
        for number, x in enumerate(outputs, entry.base):
            if number in self._last_use:
                self.values[number] = x

    def up_to(self, number: int) -> Iterator[tuple[TapeEntry, list[Any]]]:
        """Yield calls and their arguments, which are run when the next one is taken."""
        for entry in self.entries:
            leaves = self.leaves(entry)
            yield entry, leaves
            if entry.number >= number:
                return
            self.run(entry, leaves)


@dataclass(kw_only=True)
class Located:
    """What a replay found.

    Attributes:
        entry: the first faulty call; None if the replay was finite.
        outputs: indices of its outputs that the fault is in.
        compared: number of metrics that were logged and computed again.
        differing: number of these whose bits differ.
        is_rejected: whether there was bad state, which no later call took.
    """

    entry: TapeEntry | None = None
    outputs: Collection[int] = ()
    compared: int = 0
    differing: int = 0
    is_rejected: bool = False


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Which bad outputs are a fault.

    Attributes:
        is_strict: whether any output counts, not only state that is taken.
        fed: numbers of the last outputs that are going to be taken.
        is_over: whether there is no call to come, so that this is not known.
    """

    is_strict: bool
    fed: set[int]
    is_over: bool

    def faulty(
        self, replay: TapeReplay, entry: TapeEntry, worse: list[int], found: Located
    ) -> list[int]:
        """Return which of these bad outputs of a call, by index, are a fault."""
        if self.is_strict:
            return worse
        judged = [i for i in worse if i in entry.watched.judged]
        if not entry.watched.state:
            return judged
        is_unsure = self.is_over and (
            found.is_rejected or any(e.watched.is_choosy for e in replay.entries)
        )
        numbers = [(i, entry.base + i) for i in judged]
        taken = [i for i, n in numbers if replay.is_used(n) or (n in self.fed and not is_unsure)]
        found.is_rejected |= (
            bool(judged) and not taken
        )  # the program has gone on with another state
        return taken


def locate(
    epochs: Sequence[Epoch],
    logged: Mapping[int, Sequence[tuple[int, Any]]],
    criterion: Criterion,
) -> Located:
    """Find the first faulty call.

    A fault is first seen in the state, and made where the first of the bad values that led there
    was: in a gradient, say, that an earlier call returned.

    Args:
        epochs: where to look; the state is good at their beginning.
        logged: number of a call -> (index, value) of the outputs that were read when it was made.
        criterion: what counts.

    Returns:
        The call, and how the replay compares with what was logged.
    """
    replay, found = TapeReplay(epochs), Located()
    bad: dict[int, TapeEntry] = {}  # number of an output -> the call that made it
    for entry in replay.entries:
        outputs = replay.run(entry, replay.leaves(entry))
        for index, value in logged.get(entry.number, ()):
            found.compared += 1
            found.differing += not same_bits(on_host(outputs[index]), value)
        worse = worse_outputs(entry, outputs)
        bad |= {entry.base + index: entry for index in worse}
        faulty = criterion.faulty(replay, entry, worse, found)
        if faulty:
            found.entry, found.outputs = _first(entry, faulty, bad)
            if found.entry is entry and _came_bad(entry):
                found.entry = _since_last(entry, replay.entries, bad)
                found.outputs = [n - found.entry.base for n, e in bad.items() if e is found.entry]
            break
    return found


def _first(
    entry: TapeEntry, outputs: list[int], bad: dict[int, TapeEntry]
) -> tuple[TapeEntry, list[int]]:
    """Return the earliest call that the bad values in this one came from, and its outputs."""
    sources = {s for s in entry.plan.sources(entry.bases) if s is not None and s in bad}
    if not sources:
        return entry, outputs
    earliest = min((bad[s] for s in sources), key=lambda e: e.number)
    return _first(earliest, [s - earliest.base for s in sources if bad[s] is earliest], bad)


def _came_bad(entry: TapeEntry) -> bool:
    """Return whether an argument from outside was bad: code between the calls handed it on."""
    places = [place for place in entry.plan.outside if place in entry.stored]
    values = [value_of(entry.stored[place], entry, place) for place in places]
    arrays = [value for value in values if is_inexact(value)]
    return bool(arrays) and any(ArrayCodes(arrays).read())


def _since_last(
    entry: TapeEntry, entries: Sequence[TapeEntry], bad: dict[int, TapeEntry]
) -> TapeEntry:
    """Return the earliest bad call since the last one of the same function."""
    same = [e.number for e in entries if e.watched is entry.watched and e.number < entry.number]
    last = max(same, default=-1)
    return min((e for e in bad.values() if e.number > last), key=lambda e: e.number, default=entry)


def worse_outputs(entry: TapeEntry, outputs: Sequence[Any]) -> list[int]:
    """Return the outputs that hold an inf or a NaN which they did not hold from the start."""
    places = [i for i, x in enumerate(outputs) if is_inexact(x)]
    if not places:
        return []
    found = ArrayCodes([outputs[i] for i in places]).read()
    pairs = zip(places, found, strict=True)
    return [i for i, code in pairs if code != FINITE and code > entry.watched.allowed(i)]


def arguments_of(
    epochs: Sequence[Epoch],
    number: int,
    observe: Callable[[TapeEntry, list[Any]], None] = lambda entry, leaves: None,
) -> tuple[TapeEntry, list[Any]]:
    """Return a call of the tape and the exact leaves of its arguments.

    Args:
        epochs: where to begin.
        number: of the call.
        observe: called with each call up to that one, and its leaves.

    Raises:
        LookupError: the call is no longer on the tape.
    """
    for entry, leaves in TapeReplay(epochs).up_to(number):
        observe(entry, leaves)
        if entry.number == number:
            return entry, leaves
    raise LookupError(f"call {number} is not on the tape")


class CannotRepair(RuntimeError):
    """The state cannot be computed without the faulty call."""


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """The state as if some calls had never been made.

    Attributes:
        values: number of an output -> what it would be.
        left_out: the calls that were left out.
    """

    values: dict[int, Any]
    left_out: list[TapeEntry]


def without(
    epochs: Sequence[Epoch], is_left_out: Callable[[TapeEntry], bool], needed: Iterable[int]
) -> Repaired:
    """Run the tape again without some calls, and without those that need what they return.

    State passes a call that is left out unchanged. A call that turns out bad is left out too.

    Args:
        epochs: the calls, up to now.
        is_left_out: whether a call is left out.
        needed: numbers of the outputs to return.

    Returns:
        The state, and what was left out.

    Raises:
        CannotRepair: a function that returns state does not take the same.
    """
    replay = TapeReplay(epochs)
    needed = list(needed)
    replay.retain(needed)
    missing: set[int] = set()
    left_out: list[TapeEntry] = []
    for entry in replay.entries:
        sources = entry.plan.sources(entry.bases)
        is_out = is_left_out(entry) or not missing.isdisjoint(s for s in sources if s is not None)
        if not is_out:
            leaves = replay.leaves(entry)
            donated = [p for p, d in enumerate(entry.plan.donated) if d and is_array(leaves[p])]
            saved = dict(zip(donated, copies([leaves[p] for p in donated]), strict=True))
            outputs = replay.run(entry, leaves)
            worse = worse_outputs(entry, outputs)
            is_out = any(index in entry.watched.judged for index in worse)
            before = [saved.get(p, x) for p, x in enumerate(leaves)]
        else:
            before = [_or_none(replay, entry, place, sources) for place in range(len(sources))]
        if is_out:
            left_out.append(entry)
            outputs = _passed_on(entry, before)
            replay.advance(entry, outputs)
            missing |= {entry.base + i for i, x in enumerate(outputs) if x is None}
    return Repaired(values={n: replay.values.get(n) for n in needed}, left_out=left_out)


def _or_none(
    replay: TapeReplay, entry: TapeEntry, place: int, sources: Sequence[int | None]
) -> Any:
    source = sources[place]
    if source in replay.values:
        return replay.values[source]
    return value_of(entry.stored[place], entry, place) if place in entry.stored else None


def _passed_on(entry: TapeEntry, leaves: Sequence[Any]) -> list[Any]:
    """Return what a call that is left out returns: the state that it took, and nothing else."""
    watched = entry.watched
    unknown = [i for i in watched.state if i not in watched.own]
    if unknown:
        raise CannotRepair(
            f"{watched.name} returns state that it does not take itself, so it cannot be left out"
        )
    return [leaves[watched.own[i]] if i in watched.state else None for i in range(entry.n_outputs)]
