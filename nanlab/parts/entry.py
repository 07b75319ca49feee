"""The entry of a part in its table: one sentence, and a source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """Description of a part; each table's subclass adds the functions that compute it.

    Attributes:
        doc: description, one sentence.
        source: publication or library.
    """

    doc: str
    source: str
