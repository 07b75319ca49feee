"""Why a results folder cannot be written or read, in a sentence."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class ReportError(Exception):
    """A folder holds no results, or damaged ones; the message is a sentence for the user."""


class StoreError(Exception):
    """The results folder cannot be used; the message is a sentence for the user."""


class FolderError(StoreError):
    """The requested folder cannot be a results folder."""


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn an OSError while writing `path` into a sentence.

    Raises:
        StoreError: the system refused.
    """
    try:
        yield
    except OSError as error:
        # Of a rename, the file that could not be replaced.
        at = path if error.filename2 is None else error.filename2
        raise StoreError(
            f"cannot write {at}: {reason_of(error)}; what is finished is stored, and the same "
            f"command resumes from there. --out names another folder"
        ) from error


def reason_of(error: OSError) -> str:
    """Return the system's reason, as part of a sentence."""
    return (error.strerror or str(error)).lower()
