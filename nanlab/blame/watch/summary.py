"""A program without a fault -> the sentence that says what was looked at."""

from __future__ import annotations

from typing import Protocol


class Counts(Protocol):
    """What a watch has counted; its attributes are those of `Watch`."""

    after: int
    calls: int
    operations: int
    unread: int

    @property
    def masked(self) -> int:
        """Number of results of operations that were not finite."""
        ...

    @property
    def watched(self) -> bool:
        """Whether anything was looked at."""
        ...


def summary_text(counts: Counts, subject: str, stopped: str) -> str:
    """Return the sentence.

    Args:
        counts: the watch.
        subject: what was watched, such as "the script".
        stopped: what ended it early, such as " until it was stopped".
    """
    if not (counts.calls or counts.operations):
        return f"{subject} computed nothing with JAX, so nothing was watched."
    if not counts.watched:
        calls = _counted(counts.calls, 0)
        return f"--after {counts.after} left out all of {calls}: nothing was watched."
    seen = _counted(counts.calls - min(counts.after, counts.calls), counts.operations)
    said = f"all was finite in {seen}{stopped}."
    if counts.masked:
        were = "value was" if counts.masked == 1 else "values were"
        said = f"no fault in {seen}{stopped}: {counts.masked} {were} not finite, and what used "
        said += f"{'it' if counts.masked == 1 else 'them'} is finite."
    if counts.unread:
        return f"the outputs of {counts.unread} computations could not be read. Else {said}"
    return said


def _counted(calls: int, operations: int) -> str:
    said = f"{calls} call{'s' * (calls != 1)} of jitted functions" if calls else ""
    if operations:
        count = f"{operations} operation{'s' * (operations != 1)}"
        said = f"{said} and {count} outside of them" if calls else f"{count}, all outside of calls"
    return said
