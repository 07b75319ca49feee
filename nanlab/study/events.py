"""Progress callbacks of a study."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from nanlab.plan.plan import Group


@runtime_checkable
class StudyCallbacks(Protocol):
    """Progress callbacks, invoked from the thread that runs the study."""

    def started(self, total: int, reused: int) -> None:
        """Receive the number of runs requested, and of those that are stored already."""

    def searching(self, number: int, openings: int, runs: int, reused: int) -> None:
        """Receive a search's next round: its number, open crossings or cells, and runs."""

    def entered(self, group: Group, number: int, groups: int) -> None:
        """Receive the next group, before its programs are compiled."""

    def advanced(self, runs: int, failed: int) -> None:
        """Receive the number of runs and of failures in a stored chunk."""

    def crashed(self, runs: int, error: str) -> None:
        """Receive an error in a chunk, whose runs are recorded as crashed."""

    def damaged(self, chunk: str) -> None:
        """Receive the name of a damaged chunk, whose runs are repeated."""

    def say(self, sentence: str) -> None:
        """Receive a remark for the user."""

    def cross_checking(self, blames: int) -> None:
        """Receive the number of distinct blames that the witnesses check next."""

    def cross_check_failed(self, error: BaseException) -> None:
        """Receive an error of the witnesses of a group, whose blames stay without."""
