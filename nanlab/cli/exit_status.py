"""Exit statuses of the commands."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit status of a command; `meaning` explains it."""

    meaning: str

    def __new__(cls, status: int, meaning: str) -> ExitStatus:
        """Create the member for `status`."""
        member = int.__new__(cls, status)
        member._value_ = status
        member.meaning = meaning
        return member

    DONE = 0, "Done; runs that diverge are results, not errors."
    CRASHED = 1, "A chunk crashed, or the results could not be written."
    WRONG = 2, "The input or a flag is wrong, or needs more memory than there is."
    DIFFERS = 3, "A study does not reproduce."
    STOPPED = 130, "Stopped by Ctrl-C or SIGTERM."


DONE, CRASHED, WRONG, DIFFERS, STOPPED = ExitStatus
