"""What happens on a fault: the state without the faulty call, or from before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nanlab.recorder.replay import TapeEntry, arguments_of, without
from nanlab.recorder.tape import Epoch, Tape

POLICIES = ("raise", "skip", "rollback")


def repaired_leaves(
    tape: Tape, call: int, is_rollback: bool
) -> tuple[list[tuple[Any, Any]], list[TapeEntry]]:
    """Compute the state again.

    Args:
        tape: the calls up to now.
        call: number of the faulty one.
        is_rollback: whether all calls after it are left out too; calls that need what it returns
            are in any case.

    Returns:
        Pairs of a leaf of the state as it is and as it would be; the calls that were left out.
        The last outputs that the tape knows are from now on those of the repaired state.
    """
    first = max(i for i, epoch in enumerate(tape.epochs) if epoch.first <= call)
    epochs = list(tape.epochs)[first:]
    current = {n: x for function in tape.functions for n, _, x in function.last_outputs()}

    def is_left_out(entry: TapeEntry) -> bool:
        return entry.number == call or (is_rollback and entry.number > call)

    needed = [number for number in current if number >= epochs[0].base]
    repaired = without(epochs, is_left_out, needed)
    pairs = [(current[n], x) for n, x in repaired.values.items() if x is not None]
    for function in tape.functions:
        for outputs in function.recent:
            outputs.replace(repaired.values)
    return pairs, repaired.left_out


def call_at(epochs: Iterable[Epoch], number: int) -> tuple[TapeEntry, list[Any]]:
    """Return a call that is on the tape and the leaves of its arguments.

    Raises:
        LookupError: it is no longer on the tape.
    """
    before = [epoch for epoch in epochs if epoch.first <= number]
    if not before:
        raise LookupError(f"call {number} is not on the tape")
    return arguments_of(before[-1:], number)
