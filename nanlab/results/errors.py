"""OSError -> StoreError: what the system refuses a results folder, as a sentence for a person."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class StoreError(Exception):
    """The results folder cannot be used; the message is a sentence for a person."""


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn the system's errors on the way to writing `path` into sentences.

    Raises:
        StoreError: the system refused.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {reason_of(error)}; what is finished is kept, and the same "
            f"command goes on from there. --out names another folder"
        ) from error


def reason_of(error: OSError) -> str:
    """The system's reason, as part of a sentence."""
    return (error.strerror or str(error)).lower()
