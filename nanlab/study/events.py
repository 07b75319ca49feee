"""Study -> whoever is told how it goes."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from nanlab.plan.plan import Group


@runtime_checkable
class StudyCallbacks(Protocol):
    """Who is told how a study goes; called from the thread that runs it."""

    def started(self, total: int, reused: int) -> None:
        """So many runs are asked for, and so many of them are there."""

    def searching(self, number: int, openings: int, runs: int, reused: int) -> None:
        """A round of a search is next, about so many crossings or cells: so many runs more."""

    def entered(self, group: Group, number: int, groups: int) -> None:
        """A group's chunks are next; its programs are compiled first."""

    def advanced(self, runs: int, failed: int) -> None:
        """A chunk is done and kept."""

    def crashed(self, runs: int, error: str) -> None:
        """A chunk raised; its runs are recorded as crashed."""

    def asking(self, blames: int) -> None:
        """The witnesses are asked about so many distinct blames."""

    def unheard(self, error: BaseException) -> None:
        """The witnesses of a group could not be asked; its blames stay without."""
